//! The two `CustomResourceDefinition`s, generated from the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, ValidationRule,
};
use kube::CustomResourceExt;
use serde_json::Value;

use crate::{
    ModelDeploymentStatus, ModelTrainingStatus, deployment,
    deployment::ModelDeployment,
    training,
    training::{
        ModelTraining, Task, model,
        optimize::{EARLY_STOPPING_METRICS, EarlyStopping},
        validate::{NAME_IS_CARRIED, name_message},
    },
};

/// Both definitions as `kubectl apply` takes them: what only Rust knows is left out.
///
/// # Errors
/// If a definition cannot be written as JSON.
pub fn manifests() -> Result<[Value; 2], serde_json::Error> {
    let mut manifests = [serde_json::to_value(model_training()?)?, serde_json::to_value(model_deployment()?)?];
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

/// The definition of [`ModelTraining`], with the rules that look at a whole resource.
fn model_training() -> Result<CustomResourceDefinition, serde_json::Error> {
    let mut crd = ModelTraining::crd();
    set_default(&mut crd, "status", serde_json::to_value(ModelTrainingStatus::initial())?);
    add_rules(
        &mut crd,
        &[],
        &[
            name_rule(training::MAX_NAME, NAME_IS_CARRIED),
            rule(
                FROZEN_WHILE_RUNNING,
                "a run is in progress: wait until it has ended, or set suspend: true first, before changing task, data, model, train or storage",
            ),
        ],
    );
    add_rules(
        &mut crd,
        &["spec"],
        &[
            rule(
                &format!(
                    "!has(self.train.loss) || {}",
                    named(
                        "self.train.loss",
                        "loss",
                        "(loss in ['MSE', 'MAE', 'Huber']) == (self.task == 'Regression') && (loss != 'BinaryCrossEntropy' || self.task == 'Classification')"
                    )
                ),
                "train.loss does not fit the task: MSE, MAE and Huber are for Regression, CrossEntropy and BinaryCrossEntropy for Classification, CrossEntropy for LanguageModeling",
            ),
            rule(
                "self.task == 'LanguageModeling' || (has(self.data.target) && self.data.target.size() > 0)",
                "data.target: name at least one column to predict",
            ),
            rule(
                "self.task != 'Classification' || !has(self.data.target) || self.data.target.size() <= 1",
                "data.target: Classification takes one target; several are for Regression",
            ),
            rule(
                "!self.data.split.stratify || self.task == 'Classification'",
                "data.split.stratify: only Classification can be stratified",
            ),
            rule(
                "!has(self.train.activationCheckpointing) || !self.train.activationCheckpointing || !has(self.model.mlp)",
                "train.activationCheckpointing is for transformers: remove it",
            ),
            rule(
                "!has(self.train.earlyStopping) || double(self.data.split.validation) > 0.0",
                "train.earlyStopping needs a validation split: set data.split.validation",
            ),
            rule(
                "!has(self.train.evaluation) || has(self.train.samples) || double(self.data.split.validation) > 0.0",
                "train.evaluation needs a validation split: set data.split.validation",
            ),
            rule(
                "self.task == 'LanguageModeling' || !has(self.train.samples)",
                "train.samples is for LanguageModeling: remove it, or set task to LanguageModeling",
            ),
        ],
    );
    add_rules(&mut crd, &["spec"], &text_rules());
    add_rules(&mut crd, &["spec"], &[model_rule(), early_stopping_rule()]);
    add_rules(&mut crd, &["spec", "data"], &data_rules());
    add_rules(&mut crd, &["spec", "train"], &[schedule_rule()]);
    Ok(crd)
}

/// Which model a task takes.
fn model_rule() -> ValidationRule {
    rule("has(self.model.mlp) == (self.task != 'LanguageModeling')", &format!("model: {}", model::FOR_TASK))
}

/// Early stopping watches a metric of the task.
fn early_stopping_rule() -> ValidationRule {
    let [regression, classification, language] =
        [Task::Regression, Task::Classification, Task::LanguageModeling].map(|task| {
            EarlyStopping::metrics(task)
                .iter()
                .map(|name| format!("'validation/{name}'"))
                .collect::<Vec<_>>()
                .join(", ")
        });
    let of_task = format!(
        "self.task == 'Regression' ? metric in [{regression}] : self.task == 'Classification' ? metric in [{classification}] : metric in [{language}]"
    );
    rule(
        &format!("!has(self.train.earlyStopping) || {}", named("self.train.earlyStopping.metric", "metric", &of_task)),
        &format!("train.earlyStopping.metric {EARLY_STOPPING_METRICS}"),
    )
}

/// A schedule falls.
fn schedule_rule() -> ValidationRule {
    let of_the_one_set = |parent: &str, names: &[&str], field: &str| {
        names.iter().fold("0.0".to_owned(), |other, name| {
            format!("(has({parent}.{name}) ? double({parent}.{name}.{field}) : {other})")
        })
    };
    let minimum = of_the_one_set("schedule", &["wsd", "linear", "cosine"], "minimum");
    let optimizers = ["muon", "adafactor", "lion", "sgd", "adam", "adamW"];
    let rate = of_the_one_set("optimizer", &optimizers, "learningRate");
    let falls = named("self.optimizer", "optimizer", &format!("{minimum} <= {rate}"));
    rule(
        &named("self.schedule", "schedule", &format!("{minimum} == 0.0 || {falls}")),
        "train.schedule: minimum is the learning rate at the end: it must not be greater than the optimizer's learningRate",
    )
}

/// A condition of a value that has a name in it, so that the path to it is walked once: in CEL `all` of one is the only way.
fn named(value: &str, name: &str, condition: &str) -> String {
    format!("[{value}].all({name}, {condition})")
}

/// Whether the URI of `data`, which CEL has as `name`, ends with one of these extensions, compressed or not.
fn has_extension(name: &str, extensions: &str) -> String {
    format!("{name}.source.uri.matches('\\\\.({extensions})(\\\\.(gz|bz2|xz|zst))?$')")
}

/// Whether the files of `data` are of a format that is set, or that their URI's extension tells.
fn is_format(name: &str, format: &str, extensions: &str) -> String {
    format!("(has({name}.format) ? {name}.format == '{format}' : {})", has_extension(name, extensions))
}

/// The extensions of plain text.
const TEXT: &str = "txt|text|md";

/// What LanguageModeling asks of `data`, and what only it takes.
fn text_rules() -> [ValidationRule; 4] {
    let (is_text, is_csv) = (is_format("self.data", "text", TEXT), is_format("self.data", "csv", "csv"));
    [
        rule(
            "self.task != 'LanguageModeling' || !has(self.data.target) || self.data.target.size() == 0",
            "data.target: LanguageModeling predicts the text itself: remove target",
        ),
        rule(
            "self.task == 'LanguageModeling' || !has(self.data.text)",
            "data.text is for LanguageModeling: remove it, or set task to LanguageModeling",
        ),
        rule(
            &format!("self.task == 'LanguageModeling' ? !{is_csv} : !{is_text}"),
            "data.format: LanguageModeling reads text, jsonLines or parquet; Regression and Classification read csv, jsonLines or parquet",
        ),
        rule(
            "self.task != 'LanguageModeling' || !(has(self.data.features) || has(self.data.split.time) || has(self.data.clean.outliers) || has(self.data.clean.missing.columns) || self.data.clean.missing.strategy != 'Drop' || has(self.data.transform.columns))",
            "data: features, clean.missing, clean.outliers, transform and split.time are for tables: LanguageModeling takes none of them",
        ),
    ]
}

/// What the fields of `data` ask of each other.
///
/// A rule stands as deep as it can: the API server goes through all of them at each write, of the status too, and each step on
/// a path costs it the more the more fields there are beside it.
fn data_rules() -> [ValidationRule; 4] {
    let is_text = is_format("self", "text", TEXT);
    [
        rule(
            &format!("has(self.format) || {}", has_extension("self", &format!("csv|jsonl|ndjson|json|parquet|{TEXT}"))),
            "data.format: the URI's extension does not say how the files are written: set csv, jsonLines, parquet or text",
        ),
        rule(
            &format!("!has(self.text) || !(has(self.text.column) || has(self.text.messages)) || !{is_text}"),
            "data.text: files of the format text have no columns: remove column and messages, or read jsonLines or parquet",
        ),
        rule(
            &format!("!has(self.text) || !has(self.text.documents) || {is_text}"),
            "data.text.documents cuts files of the format text: remove it, since each row of jsonLines and parquet is a document",
        ),
        rule(
            "!has(self.text) || !has(self.text.tokenizer) || !has(self.text.tokenizer.file) || !self.text.tokenizer.file.uri.startsWith('file://') || has(self.source.persistentVolumeClaim)",
            "data.text.tokenizer.file: a file:// URI lies on the volume of data.source: set data.source.persistentVolumeClaim, or take another URI",
        ),
    ]
}

/// The definition of [`ModelDeployment`], with the rules that look at a whole resource.
fn model_deployment() -> Result<CustomResourceDefinition, serde_json::Error> {
    let mut crd = ModelDeployment::crd();
    set_default(&mut crd, "status", serde_json::to_value(ModelDeploymentStatus::initial())?);
    add_rules(&mut crd, &[], &[name_rule(deployment::MAX_NAME, "its Deployments and pods carry it with a suffix")]);
    Ok(crd)
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
        &format!("metadata.name: {}", name_message(longest, why)),
    )
}

/// Adds rules to a property of the schema, or to its root, where the path is empty.
fn add_rules(crd: &mut CustomResourceDefinition, path: &[&str], rules: &[ValidationRule]) {
    for schema in properties_at(crd, path) {
        schema.x_kubernetes_validations.get_or_insert_default().extend_from_slice(rules);
    }
}

/// Sets what a property of the resource is that nobody has written yet.
fn set_default(crd: &mut CustomResourceDefinition, property: &str, value: Value) {
    for schema in properties_at(crd, &[property]) {
        schema.default = Some(JSON(value.clone()));
    }
}

/// The schema of a property in all versions, or of the whole resource, where the path is empty.
fn properties_at<'a>(crd: &'a mut CustomResourceDefinition, path: &[&str]) -> Vec<&'a mut JSONSchemaProps> {
    let schemas =
        crd.spec.versions.iter_mut().filter_map(|version| version.schema.as_mut()?.open_api_v3_schema.as_mut());
    schemas
        .filter_map(|root| path.iter().try_fold(root, |schema, name| schema.properties.as_mut()?.get_mut(*name)))
        .collect()
}
