//! What the derived JSON schemas need besides, to be Kubernetes schemas whose refusals a person can act on.

use schemars::Schema;
use serde_json::{Map, Value, json};

/// Rewrites an externally tagged enum (`oneOf` single-property objects) into one object with an optional property per
/// variant and a rule that says in words that exactly one must be set.
///
/// The API server's own message for a failed `oneOf` names neither the field nor the choices.
pub(crate) fn one_of(schema: &mut Schema) {
    let variants = match schema.remove("oneOf") {
        Some(Value::Array(variants)) => variants,
        _ => return,
    };
    let properties: Map<String, Value> = variants
        .iter()
        .filter_map(|variant| variant.get("properties")?.as_object())
        .flat_map(|properties| properties.clone())
        .collect();
    let names: Vec<&str> = properties.keys().map(String::as_str).collect();
    let set = names.iter().map(|name| format!("has(self.{name})")).collect::<Vec<_>>().join(", ");
    let rule = json!({
        "rule": format!("[{set}].filter(x, x).size() == 1"),
        "message": format!("set exactly one of: {}", names.join(", ")),
    });
    schema.insert("type".into(), json!("object"));
    schema.insert("properties".into(), Value::Object(properties));
    schema.insert("x-kubernetes-validations".into(), json!([rule]));
}

/// A value that may be a number or a string. A structural schema has no way to say that of fractions, and CEL does not see
/// fields without a type, so a fraction is written as a string.
pub(crate) fn int_or_string(schema: &mut Schema) {
    schema.remove("anyOf");
    schema.insert("x-kubernetes-int-or-string".into(), json!(true));
}
