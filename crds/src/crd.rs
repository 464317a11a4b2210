//! The two `CustomResourceDefinition`s, generated from the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, ValidationRule,
};
use kube::CustomResourceExt;
use serde_json::Value;

use crate::{deployment, deployment::ModelDeployment, training, training::ModelTraining};

/// Both definitions, with the rules that look at a whole resource.
pub fn all() -> [CustomResourceDefinition; 2] {
    [model_training(), model_deployment()]
}

/// Both definitions as `kubectl apply` takes them: what only Rust knows is left out.
///
/// # Errors
/// If a definition cannot be written as JSON.
pub fn manifests() -> Result<[Value; 2], serde_json::Error> {
    let [training, deployment] = all().map(serde_json::to_value);
    let mut manifests = [training?, deployment?];
    manifests.iter_mut().for_each(plain);
    Ok(manifests)
}

/// Drops `nullable` (a null is then pruned, and the default holds), nulls inside defaults, and Rust's integer formats.
fn plain(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, value| !(key == "nullable" || (key == "format" && value.is_string()) || value.is_null()));
            map.values_mut().for_each(plain);
        }
        Value::Array(items) => items.iter_mut().for_each(plain),
        _ => {}
    }
}

/// The definition of [`ModelTraining`].
pub fn model_training() -> CustomResourceDefinition {
    let mut crd = ModelTraining::crd();
    add_rules(
        &mut crd,
        None,
        &[
            name_rule(training::MAX_NAME, "its Jobs and pods carry it with a suffix"),
            rule(
                FROZEN_WHILE_RUNNING,
                "a run is in progress: wait until it has ended, or set suspend: true first, before changing task, data, model, train or storage",
            ),
        ],
    );
    add_rules(
        &mut crd,
        Some("spec"),
        &[
            rule(
                "!has(self.train.loss) || (self.task == 'Classification' ? self.train.loss in ['CrossEntropy', 'BinaryCrossEntropy'] : self.train.loss in ['MSE', 'MAE', 'Huber'])",
                "train.loss does not fit the task: MSE, MAE and Huber are for Regression, CrossEntropy and BinaryCrossEntropy for Classification",
            ),
            rule(
                "self.task == 'Regression' || self.data.target.size() == 1",
                "data.target: Classification takes one target; several are for Regression",
            ),
            rule(
                "!self.data.split.stratify || self.task == 'Classification'",
                "data.split.stratify: only Classification can be stratified",
            ),
            rule(
                "has(self.data.format) || self.data.source.uri.matches('\\\\.(csv|jsonl|ndjson|json|parquet)(\\\\.(gz|bz2|xz|zst))?$')",
                "data.format: the URI's extension does not say how the files are written: set csv, jsonLines or parquet",
            ),
            rule(
                "!has(self.train.earlyStopping) || double(self.data.split.validation) > 0.0",
                "train.earlyStopping needs a validation split: set data.split.validation",
            ),
        ],
    );
    crd
}

/// The definition of [`ModelDeployment`].
pub fn model_deployment() -> CustomResourceDefinition {
    let mut crd = ModelDeployment::crd();
    add_rules(&mut crd, None, &[name_rule(deployment::MAX_NAME, "its Deployments and pods carry it with a suffix")]);
    crd
}

/// While a pod works on a run, what the run is made of stays as it is: nobody loses a run by an edit.
const FROZEN_WHILE_RUNNING: &str = "!has(oldSelf.status) || !has(oldSelf.status.phase) \
    || !(oldSelf.status.phase in ['Preparing', 'Training', 'Evaluating', 'Publishing']) \
    || (has(self.spec.suspend) && self.spec.suspend) \
    || (self.spec.task == oldSelf.spec.task && self.spec.data == oldSelf.spec.data \
    && self.spec.model == oldSelf.spec.model && self.spec.train == oldSelf.spec.train \
    && has(self.spec.storage) == has(oldSelf.spec.storage) \
    && (!has(self.spec.storage) || self.spec.storage == oldSelf.spec.storage))";

fn rule(rule: &str, message: &str) -> ValidationRule {
    ValidationRule { rule: rule.into(), message: Some(message.into()), ..ValidationRule::default() }
}

fn name_rule(longest: usize, why: &str) -> ValidationRule {
    rule(
        &format!(
            "self.metadata.name.size() <= {longest} && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')"
        ),
        &format!("metadata.name: at most {longest} lowercase letters, digits and '-', starting with a letter ({why})"),
    )
}

/// Adds rules to the root of the schema, or to one of its properties.
fn add_rules(crd: &mut CustomResourceDefinition, property: Option<&str>, rules: &[ValidationRule]) {
    let schemas =
        crd.spec.versions.iter_mut().filter_map(|version| version.schema.as_mut()?.open_api_v3_schema.as_mut());
    for root in schemas {
        let target: Option<&mut JSONSchemaProps> = match property {
            None => Some(root),
            Some(name) => root.properties.as_mut().and_then(|properties| properties.get_mut(name)),
        };
        if let Some(schema) = target {
            schema.x_kubernetes_validations.get_or_insert_default().extend_from_slice(rules);
        }
    }
}
