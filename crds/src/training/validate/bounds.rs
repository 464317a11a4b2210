//! The bounds of single values, read in Rust from the schema by which the API server checks them.
//!
//! Each stands once, at its field: how large a number may be, and how long a text, a list or a map. Of the rules in CEL
//! that of names in a map is read; [`super`] says the others once more.

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::FieldError;
use crate::training::ModelTrainingSpec;

static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<ModelTrainingSpec>().to_value()
});

/// Every value of a spec that is out of its bounds.
pub(super) fn errors(spec: &ModelTrainingSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    match serde_json::to_value(spec) {
        Ok(value) => look("spec", &SCHEMA, &value, &mut errors),
        Err(error) => errors.push(FieldError { field: "spec".into(), message: error.to_string() }),
    }
    errors
}

/// Looks at a value and at all within it.
fn look(path: &str, schema: &Value, value: &Value, errors: &mut Vec<FieldError>) {
    if let Some(message) = problem(schema, value) {
        errors.push(FieldError { field: path.to_owned(), message });
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match schema["properties"].get(name) {
                    Some(schema) => look(&format!("{path}.{name}"), schema, value, errors),
                    None => look(&format!("{path}[{name}]"), &schema["additionalProperties"], value, errors),
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                look(&format!("{path}[{index}]"), &schema["items"], item, errors);
            }
        }
        _ => {}
    }
}

/// What is wrong with a value by itself.
fn problem(schema: &Value, value: &Value) -> Option<String> {
    match value {
        Value::Number(number) => of_number(schema, number.as_f64()?),
        Value::String(text) => of_size(schema, "Length", text.chars().count(), "character"),
        Value::Array(items) => of_size(schema, "Items", items.len(), "item"),
        Value::Object(fields) => of_size(schema, "Properties", fields.len(), "name")
            .or_else(|| fields.keys().find_map(|name| of_name(schema, name))),
        Value::Null | Value::Bool(_) => None,
    }
}

fn of_number(schema: &Value, number: f64) -> Option<String> {
    let (least, most) = (schema["minimum"].as_f64(), schema["maximum"].as_f64());
    let is_above = schema["exclusiveMinimum"] == true;
    let is_below = schema["exclusiveMaximum"] == true;
    let is_low = least.is_some_and(|least| if is_above { number <= least } else { number < least });
    let is_high = most.is_some_and(|most| if is_below { number >= most } else { number > most });
    let above = if is_above { "greater than" } else { "at least" };
    let below = if is_below { "less than" } else { "at most" };
    match (least, most) {
        _ if !is_low && !is_high => None,
        (Some(least), Some(most)) if !is_above && !is_below => Some(format!("must lie between {least} and {most}")),
        (Some(least), Some(most)) => Some(format!("must be {above} {least} and {below} {most}")),
        (Some(least), None) => Some(format!("must be {above} {least}")),
        (None, Some(most)) => Some(format!("must be {below} {most}")),
        (None, None) => None,
    }
}

fn of_size(schema: &Value, kind: &str, size: usize, what: &str) -> Option<String> {
    let bound = |side: &str| schema[format!("{side}{kind}")].as_u64();
    let (least, most, size) = (bound("min").unwrap_or(0), bound("max"), size as u64);
    if size >= least && most.is_none_or(|most| size <= most) {
        return None;
    }
    let counted = |count: u64| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    Some(match most {
        None => format!("must have at least {}", counted(least)),
        Some(most) if most == least => format!("must have {}", counted(most)),
        Some(most) if least == 0 => format!("must have at most {}", counted(most)),
        Some(most) => format!("must have {least} to {}", counted(most)),
    })
}

/// What is wrong with a name in a map, by the first rule that does not hold of [`crate::schema::names_rule`].
fn of_name(schema: &Value, name: &str) -> Option<String> {
    let length = name.chars().count() as f64;
    let holds = |rule: &str| compares(rule.strip_prefix("self.all(name, ")?.strip_suffix(')')?, "name.size()", length);
    let rules = schema["x-kubernetes-validations"].as_array()?;
    let rule = rules.iter().find(|rule| rule["rule"].as_str().and_then(holds) == Some(false))?;
    rule["message"].as_str().map(ToOwned::to_owned)
}

/// Whether a rule holds that does nothing but compare a number, which it calls `subject`; `None` for another one.
fn compares(rule: &str, subject: &str, number: f64) -> Option<bool> {
    let mut parts = rule.split(" && ").map(|part| {
        let (operator, bound) = part.strip_prefix(subject)?.strip_prefix(' ')?.split_once(' ')?;
        let bound: f64 = bound.parse().ok()?;
        match operator {
            "<" => Some(number < bound),
            "<=" => Some(number <= bound),
            ">" => Some(number > bound),
            ">=" => Some(number >= bound),
            _ => None,
        }
    });
    parts.try_fold(true, |all, part| Some(all && part?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn all_within<'a>(schema: &'a Value, found: &mut Vec<&'a Value>) {
        found.push(schema);
        let fields = schema["properties"].as_object().into_iter().flat_map(|fields| fields.values());
        for part in fields.chain([&schema["items"], &schema["additionalProperties"]]).filter(|part| part.is_object()) {
            all_within(part, found);
        }
    }

    /// The API server goes through all rules at each write, of the status too; a bound costs it next to nothing.
    #[test]
    fn no_number_has_a_rule_where_a_bound_will_do() {
        let mut schemas = Vec::new();
        all_within(&SCHEMA, &mut schemas);
        let is_number =
            |schema: &&&Value| ["number", "integer"].iter().any(|kind| schema["type"].to_string().contains(kind));
        let numbers: Vec<&Value> = schemas.iter().filter(is_number).copied().collect();
        assert!(numbers.len() > 50, "{}", numbers.len());
        for number in numbers {
            assert!(number["x-kubernetes-validations"].is_null(), "{number}");
        }
    }

    #[test]
    fn a_number_is_told_its_bounds_and_which_of_them_it_may_reach() {
        let half_open = json!({"minimum": 0.0, "exclusiveMinimum": true, "maximum": 1.0});
        let of_half_open = |number| of_number(&half_open, number);
        assert_eq!([0.5, 1.0].map(of_half_open), [None, None]);
        for number in [-1.0, 0.0, 1.5] {
            assert_eq!(of_half_open(number).as_deref(), Some("must be greater than 0 and at most 1"), "{number}");
        }
        let cases = [
            (json!({"maximum": 1.0, "exclusiveMaximum": true}), 1.0, "must be less than 1"),
            (json!({"minimum": 2}), 1.0, "must be at least 2"),
            (json!({"minimum": 2, "maximum": 3}), 4.0, "must lie between 2 and 3"),
        ];
        for (schema, number, expected) in cases {
            assert_eq!(of_number(&schema, number).as_deref(), Some(expected));
        }
    }

    #[test]
    fn comparisons_are_read_and_other_rules_are_not() {
        let between = |number| compares("name.size() >= 1 && name.size() <= 2", "name.size()", number);
        assert_eq!([0.0, 1.0, 2.0, 3.0].map(between), [Some(false), Some(true), Some(true), Some(false)]);
        for rule in ["name.a > 0.0", "name.size() > name.b", "name.size() > 0.0 || name.size() < 1.0"] {
            assert_eq!(compares(rule, "name.size()", 1.0), None, "{rule}");
        }
    }

    #[test]
    fn what_is_out_of_its_bounds_is_named_with_its_path() {
        let long = "x".repeat(257);
        for (pointer, value, error) in [
            (
                "/train/optimizer",
                json!({"adamW": {"epsilon": 0}}),
                "spec.train.optimizer.adamW.epsilon: must be greater than 0",
            ),
            (
                "/train/optimizer",
                json!({"muon": {"adamW": {"beta2": 1}}}),
                "spec.train.optimizer.muon.adamW.beta2: must be at least 0 and less than 1",
            ),
            (
                "/train/optimizer",
                json!({"sgd": {"momentum": -1}}),
                "spec.train.optimizer.sgd.momentum: must be at least 0 and less than 1",
            ),
            ("/model/mlp", json!({"hidden": [8, 0]}), "spec.model.mlp.hidden[1]: must lie between 1 and 65536"),
            ("/model/mlp", json!({"hidden": vec![1; 65]}), "spec.model.mlp.hidden: must have at most 64 items"),
            ("/data/features", json!([""]), "spec.data.features[0]: must have 1 to 256 characters"),
            ("/data/csv", json!({"delimiter": ";;"}), "spec.data.csv.delimiter: must have 1 character"),
            ("/data/cast", json!({long.as_str(): "Text"}), "spec.data.cast: names must have 1 to 256 characters"),
            (
                "/scheduling",
                json!({"nodeSelector": {"pool": long.as_str()}}),
                "spec.scheduling.nodeSelector[pool]: must have at most 63 characters",
            ),
            (
                "/data/clean/missing",
                json!({"columns": {"a": {"strategy": "Constant", "value": long.as_str()}}}),
                "spec.data.clean.missing.columns[a].value: must have at most 256 characters",
            ),
            ("/retries", json!(101), "spec.retries: must lie between 0 and 100"),
        ] {
            let mut spec = json!({
                "task": "Regression",
                "data": {"source": {"uri": "s3://d/a.csv"}, "target": ["y"], "features": [], "csv": {}, "cast": {},
                    "clean": {"missing": {}}},
                "model": {"mlp": {}}, "train": {"loss": null, "optimizer": {"sgd": {}}}, "scheduling": {}, "retries": 3,
            });
            *spec.pointer_mut(pointer).unwrap() = value;
            let spec: ModelTrainingSpec = serde_json::from_value(spec).unwrap();
            let found: Vec<String> = errors(&spec).iter().map(ToString::to_string).collect();
            assert_eq!(found, [error]);
        }
    }
}
