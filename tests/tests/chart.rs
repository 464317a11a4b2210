//! The Helm chart, rendered without a cluster.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Output};

use serde_json::{Map, Value, json};
use stoker_e2e::{checkout, release::CHART};

/// Values without which others say nothing; they are on unless it is their turn.
const GATES: [&str; 2] = ["/networkPolicy/enabled", "/serviceAccount/create"];

fn yaml(file: &str) -> Value {
    let text = std::fs::read_to_string(checkout::path(CHART).join(file)).expect(file);
    serde_saphyr::from_str(&text).expect(file)
}

fn helm_template(values: &Value) -> Output {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), values.to_string()).unwrap();
    let mut helm = Command::new("helm");
    helm.args(["template", "stoker"]).arg(checkout::path(CHART));
    helm.args(["--namespace", "stoker-system", "--values"]).arg(file.path());
    helm.output().expect("helm is on the PATH: tests/cluster/build helm makes it")
}

/// The objects that the chart makes of some values, or why it refuses them.
fn render(values: &Value) -> Result<Vec<Value>, String> {
    let Output { status, stdout, stderr } = helm_template(values);
    if !status.success() {
        return Err(String::from_utf8_lossy(&stderr).into_owned());
    }
    let text = String::from_utf8(stdout).unwrap();
    let documents = text.split("\n---\n").filter(|document| document.contains("kind:"));
    Ok(documents.map(|document| serde_saphyr::from_str(document).expect(document)).collect())
}

/// The paths of everything that can be set: what is not an object, or an object that is empty by default.
fn leaves(values: &Map<String, Value>, path: &str) -> Vec<String> {
    let below = |(key, value): (&String, &Value)| {
        let path = format!("{path}/{key}");
        match value.as_object().filter(|object| !object.is_empty()) {
            Some(object) => leaves(object, &path),
            None => vec![path],
        }
    };
    values.iter().flat_map(below).collect()
}

fn set(values: &mut Value, path: &str, value: Value) {
    *values.pointer_mut(path).unwrap_or_else(|| panic!("{path} is not in all-values.yaml")) = value;
}

#[test]
fn every_value_is_set_once_and_makes_a_difference() {
    let (defaults, all) = (yaml("values.yaml"), yaml("tests/all-values.yaml"));
    for path in leaves(defaults.as_object().unwrap(), "") {
        let mut with = all.clone();
        GATES.iter().filter(|gate| **gate != path).for_each(|gate| set(&mut with, gate, json!(true)));
        let mut without = with.clone();
        set(&mut without, &path, defaults.pointer(&path).unwrap().clone());
        let with = render(&with).unwrap_or_else(|refusal| panic!("{path}: {refusal}"));
        assert_ne!(Ok(with), render(&without), "{path} changes nothing");
    }
}

#[test]
fn a_value_that_does_not_exist_is_refused_by_name() {
    let defaults = yaml("values.yaml");
    let of_objects = leaves(defaults.as_object().unwrap(), "").into_iter().filter_map(|path| {
        let parent = path.rsplit_once('/')?.0;
        defaults.pointer(parent)?.is_object().then(|| parent.to_owned())
    });
    for parent in of_objects.collect::<std::collections::BTreeSet<_>>() {
        let mut values = json!({});
        let mut at = &mut values;
        for key in parent.split('/').skip(1) {
            at = at.as_object_mut().unwrap().entry(key).or_insert(json!({}));
        }
        at.as_object_mut().unwrap().insert("misspelt".into(), json!("x"));
        let open = ["/resources/requests", "/resources/limits"].contains(&parent.as_str());
        let refusal = render(&values).expect_err(&parent);
        assert!(open || refusal.contains("misspelt"), "{parent}: {refusal}");
    }
}

/// Helm writes `1.0` as `1`, which is the same number.
fn with_plain_numbers(value: &Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64()),
        Value::Array(items) => items.iter().map(with_plain_numbers).collect(),
        Value::Object(object) => object.iter().map(|(key, value)| (key.clone(), with_plain_numbers(value))).collect(),
        other => other.clone(),
    }
}

#[test]
fn the_definitions_are_there_and_helm_never_deletes_them() {
    let objects = render(&json!({})).unwrap();
    let definitions: Vec<&Value> =
        objects.iter().filter(|object| object["kind"] == "CustomResourceDefinition").collect();
    assert_eq!(definitions.len(), 2);
    for definition in definitions {
        let plural = definition["spec"]["names"]["plural"].as_str().unwrap();
        let generated = yaml(&format!("files/crds/{plural}.yaml"));
        assert_eq!(with_plain_numbers(&definition["spec"]), with_plain_numbers(&generated["spec"]), "{plural}");
        assert_eq!(definition["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    }
}

#[test]
fn a_list_of_namespaces_gives_no_rights_elsewhere() {
    let objects = render(&json!({"namespaces": ["a", "b"], "aggregateRoles": false})).unwrap();
    let kinds = |kind: &str| objects.iter().filter(|object| object["kind"] == kind).collect::<Vec<_>>();
    assert!(kinds("ClusterRole").is_empty() && kinds("ClusterRoleBinding").is_empty());
    let namespaces: Vec<_> = kinds("RoleBinding").iter().map(|role| role["metadata"]["namespace"].clone()).collect();
    // The last one is for the leader's Lease.
    assert_eq!(namespaces, [json!("a"), json!("b"), json!("stoker-system")]);
}

#[test]
fn helm_test_asks_the_operator() {
    let objects = render(&json!({})).unwrap();
    let is_test = |object: &&Value| object["metadata"]["annotations"]["helm.sh/hook"] == "test";
    let test = objects.iter().find(is_test).expect("the chart has a test");
    let url = "--url=http://stoker.stoker-system.svc:8080/readyz";
    assert_eq!(test["spec"]["containers"][0]["args"], json!(["check", url]));
}
