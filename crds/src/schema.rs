//! What the derived JSON schemas need besides, to be Kubernetes schemas whose refusals a person can act on.

use schemars::{Schema, transform::transform_subschemas};
use serde_json::{Map, Value, json};

/// Rewrites an externally tagged enum (`oneOf` single-property objects) into one object with an optional property per
/// variant, described as the variant is, and a rule that says in words that exactly one must be set.
///
/// The API server's own message for a failed `oneOf` names neither the field nor the choices.
pub(crate) fn one_of(schema: &mut Schema) {
    let variants = match schema.remove("oneOf") {
        Some(Value::Array(variants)) => variants,
        _ => return,
    };
    let properties: Map<String, Value> = variants.iter().flat_map(described_properties).collect();
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

/// The one property of a variant, with the variant's description.
fn described_properties(variant: &Value) -> Map<String, Value> {
    let mut properties = variant["properties"].as_object().cloned().unwrap_or_default();
    if let Some(description) = variant.get("description") {
        for property in properties.values_mut().filter_map(Value::as_object_mut) {
            property.insert("description".into(), description.clone());
        }
    }
    properties
}

/// Adds the meaning of each value of an enum to the description of every field that takes one, in the form of
/// Kubernetes' own fields: a structural schema has descriptions of fields alone.
pub(crate) fn explain_values(schema: &mut Schema) {
    // Of an optional enum Kubernetes' form would keep the enum's description, and drop the field's with its default.
    if let Some(values) = schema.pointer("/anyOf/0/oneOf").cloned() {
        schema.remove("anyOf");
        schema.insert("oneOf".into(), values);
    }
    let taken = ["/oneOf", "/items/oneOf", "/additionalProperties/oneOf"];
    if let Some(values) = taken.iter().find_map(|path| meanings(schema.pointer(path)?)) {
        let description = schema.get("description").and_then(Value::as_str).unwrap_or_default();
        let explained = format!("{description}\n\nPossible enum values:\n{values}");
        schema.insert("description".into(), explained.into());
    }
    transform_subschemas(&mut explain_values, schema);
}

/// A line for each value of an enum.
fn meanings(values: &Value) -> Option<String> {
    let line = |value: &Value| {
        let (name, meaning) = (value.get("const")?.as_str()?, value.get("description")?.as_str()?);
        Some(format!(" - `{name}`: {}", meaning.replace('\n', " ")))
    };
    Some(values.as_array()?.iter().map(line).collect::<Option<Vec<_>>>()?.join("\n"))
}

/// An object without a property. Kubernetes takes no `additionalProperties: false`, which kube drops of objects with
/// properties alone.
pub(crate) fn empty_object(schema: &mut Schema) {
    schema.remove("additionalProperties");
}

/// The rule of a map whose keys are names: a structural schema bounds values alone.
pub(crate) fn names_rule(longest: u32) -> Value {
    json!({
        "rule": format!("self.all(name, name.size() >= 1 && name.size() <= {longest})"),
        "message": format!("names must have 1 to {longest} characters"),
    })
}

/// A value that may be a number or a string. A structural schema has no way to say that of fractions, and CEL does not see
/// fields without a type, so a fraction is written as a string.
pub(crate) fn int_or_string(schema: &mut Schema) {
    schema.remove("anyOf");
    schema.insert("x-kubernetes-int-or-string".into(), json!(true));
}

#[cfg(all(test, feature = "kinds"))]
mod tests {
    #[test]
    fn no_definition_forbids_additional_properties_which_kubernetes_would_refuse() {
        for manifest in crate::crd::manifests().unwrap() {
            assert!(!manifest.to_string().contains(r#""additionalProperties":false"#));
        }
    }
}
