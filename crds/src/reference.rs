//! The reference of both kinds in Markdown, from their generated schemas.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use crate::crd;

/// The most values of an enum that stand in the column of types; its description has them all.
const MAX_VALUES: usize = 8;

/// The content of `docs/reference.md`.
///
/// # Errors
/// If a definition cannot be written as JSON.
pub fn markdown() -> Result<String, serde_json::Error> {
    let mut text = String::from(
        "# Reference\n\nGenerated from the types in `crds/src` by `make generate`. \
         `kubectl explain modeltraining.spec.data.clean` says the same in a cluster.\n",
    );
    for manifest in crd::manifests()? {
        let kind = manifest.pointer("/spec/names/kind").and_then(Value::as_str).unwrap_or_default();
        let short = manifest.pointer("/spec/names/shortNames/0").and_then(Value::as_str).unwrap_or_default();
        let root = &manifest["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        section(&mut text, &format!("{kind} (`{short}`)"), root);
        for part in ["spec", "status"] {
            let schema = &root["properties"][part];
            let _ = writeln!(text, "\n### `{part}`\n\n{}\n", description(schema));
            let _ = writeln!(text, "| field | type | default | what |\n|---|---|---|---|");
            fields(&mut text, "", schema);
        }
    }
    Ok(text)
}

fn section(text: &mut String, title: &str, schema: &Value) {
    let _ = writeln!(text, "\n## {title}\n\n{}", description(schema));
}

/// A row per field, then those of the fields within it.
fn fields(text: &mut String, prefix: &str, schema: &Value) {
    let none = Map::new();
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in schema["properties"].as_object().unwrap_or(&none) {
        let path = format!("{prefix}{name}");
        let default = match &field["default"] {
            Value::Null if required.contains(&name.as_str()) => "required".to_owned(),
            Value::Null | Value::Object(_) => String::new(),
            value => format!("`{value}`"),
        };
        let what = description(field).replace("\n - ", "<br>").replace('\n', " ").replace('|', "\\|");
        let _ = writeln!(text, "| `{path}` | {} | {default} | {what} |", type_name(field));
        within(text, &path, field);
    }
}

fn within(text: &mut String, path: &str, field: &Value) {
    // A condition is the same in every kind of Kubernetes.
    if path == "conditions" {
        return;
    }
    fields(text, &format!("{path}."), field);
    fields(text, &format!("{path}[]."), &field["items"]);
    fields(text, &format!("{path}.<name>."), &field["additionalProperties"]);
}

fn type_name(field: &Value) -> String {
    if let Some(values) = field["enum"].as_array().filter(|values| values.len() <= MAX_VALUES) {
        return values.iter().filter_map(Value::as_str).map(|value| format!("`{value}`")).collect::<Vec<_>>().join(" ");
    }
    match field["type"].as_str() {
        Some("array") => format!("list of {}", type_name(&field["items"])),
        Some("object") if field["additionalProperties"].is_object() => {
            format!("map to {}", type_name(&field["additionalProperties"]))
        }
        Some(name) => name.to_owned(),
        None if field["x-kubernetes-int-or-string"] == true => "integer or string".into(),
        None => "any".into(),
    }
}

fn description(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    #[test]
    fn every_field_of_both_kinds_is_described() {
        let text = super::markdown().unwrap();
        for field in [
            "`data.clean.missing.columns.<name>.strategy`",
            "`train.optimizer.adamW.beta1`",
            "`server.batching.maxDelay`",
        ] {
            assert!(text.contains(field), "{field} is missing");
        }
        let bare: Vec<&str> = text.lines().filter(|line| line.starts_with("| `") && line.ends_with("|  |")).collect();
        assert!(bare.is_empty(), "fields without a description:\n{}", bare.join("\n"));
    }

    fn row(field: &str) -> String {
        let start = format!("| `{field}` |");
        super::markdown().unwrap().lines().find(|line| line.starts_with(&start)).unwrap().to_owned()
    }

    #[test]
    fn an_optional_enum_keeps_the_default_that_its_own_description_tells_of() {
        for (field, default) in [
            ("data.format", "The default follows from the extension"),
            (
                "train.loss",
                "The default is `MSE` for Regression and `CrossEntropy` for Classification and LanguageModeling.",
            ),
        ] {
            assert!(row(field).contains(default), "{}", row(field));
        }
    }

    #[test]
    fn a_choice_of_several_objects_says_what_each_of_them_is() {
        for (field, meaning) in [
            ("train.optimizer.adam", "`weightDecay` is added to the gradient"),
            ("train.schedule.constant", "The learning rate stays the same"),
        ] {
            assert!(row(field).contains(meaning), "{}", row(field));
        }
    }

    /// Values of enums that the field's description does not name.
    fn unexplained(path: &str, field: &Value) -> Vec<String> {
        let values = [field, &field["items"], &field["additionalProperties"]]
            .into_iter()
            .filter_map(|schema| schema["enum"].as_array())
            .flatten()
            .filter_map(Value::as_str)
            .filter(|value| !field["description"].as_str().unwrap_or_default().contains(&format!("`{value}`")))
            .map(|value| format!("{path}: {value}"));
        let fields = field["properties"].as_object().into_iter().flatten();
        let parts = fields
            .map(|(name, field)| (format!("{path}.{name}"), field))
            .chain([(format!("{path}[]"), &field["items"]), (format!("{path}.<name>"), &field["additionalProperties"])])
            .filter(|(_, schema)| schema.is_object());
        values.chain(parts.flat_map(|(path, field)| unexplained(&path, field))).collect()
    }

    #[test]
    fn every_value_of_an_enum_is_explained_where_kubectl_explain_shows_it() {
        for manifest in crate::crd::manifests().unwrap() {
            let unexplained = unexplained("", &manifest["spec"]["versions"][0]["schema"]["openAPIV3Schema"]);
            assert!(unexplained.is_empty(), "{}", unexplained.join("\n"));
        }
        assert!(row("data.format").contains("<br>`csv`: Comma-separated values.<br>"), "{}", row("data.format"));
    }
}
