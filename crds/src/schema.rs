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

/// A value that may be a number or a string; the structural schema has no other way to say so than to keep it as it is.
pub(crate) fn any_scalar(schema: &mut Schema) {
    schema.remove("anyOf");
    schema.insert("x-kubernetes-preserve-unknown-fields".into(), json!(true));
    schema.insert(
        "x-kubernetes-validations".into(),
        json!([{
            "rule": "type(self) in [string, int, double, bool]",
            "message": "write a number, a string or a boolean",
        }]),
    );
}
