//! What the API server refuses, in Rust: for `stoker-trainer local`, which has no API server to ask, and for an operator
//! whose cluster still has an older schema.
//!
//! The bounds of single values are read from the schema itself (`bounds`). The rules between fields stand here once more; the
//! API server checks them by CEL (`crd`), and a test applies the same wrong manifests to both.

mod bounds;

use super::{
    MAX_NAME, ModelTrainingSpec, Task,
    data::{Format, Missing, MissingStrategy, Scalar, Transform},
    model::{self, Model},
    optimize::EARLY_STOPPING_METRICS,
    storage::{SOURCE_PLACE, STORAGE_PLACE, is_in_place, uri_problem},
    text::{DocumentLength, Text, Tokenizer},
};

const FORMATS: &str =
    "LanguageModeling reads text, jsonLines or parquet; Regression and Classification read csv, jsonLines or parquet";

/// A field that cannot be as it is written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct FieldError {
    /// The path of the field, like `spec.data.split`.
    pub field: String,
    /// What is wrong and how it should be.
    pub message: String,
}

/// Why names of ModelTrainings are short.
pub(crate) const NAME_IS_CARRIED: &str = "its Jobs and pods carry it with a suffix";

/// What is said of a name that an object of either kind cannot have.
pub(crate) fn name_message(longest: usize, why: &str) -> String {
    format!("at most {longest} lowercase letters, digits and '-', starting with a letter ({why})")
}

/// Checks the name of a ModelTraining.
///
/// # Errors
/// If no ModelTraining can have it.
pub fn check_name(name: &str) -> Result<(), FieldError> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let fits = name.len() <= MAX_NAME
        && name.bytes().all(is_plain)
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && !name.ends_with('-');
    if fits {
        return Ok(());
    }
    Err(FieldError { field: "metadata.name".into(), message: name_message(MAX_NAME, NAME_IS_CARRIED) })
}

impl ModelTrainingSpec {
    /// All fields that cannot be as they are written.
    ///
    /// # Errors
    /// If there is at least one.
    pub fn validate(&self) -> Result<(), Vec<FieldError>> {
        let mut check = Check(bounds::errors(self));
        self.check_data(&mut check);
        self.check_model(&mut check);
        self.check_train(&mut check);
        self.check_evaluation(&mut check);
        if let Some(storage) = &self.storage {
            check.uri("spec.storage.uri", &storage.uri, false);
            let is_in_place = is_in_place(&storage.uri, storage.persistent_volume_claim.as_ref());
            check.that(is_in_place, "spec.storage", STORAGE_PLACE);
        }
        for (field, problem) in self.resources.problems() {
            check.that(false, field, problem);
        }
        check.that(
            self.resources.cache.is_none() || self.resources.gpus > 0,
            "spec.resources.cache",
            "is for the kernels of a GPU: set spec.resources.gpus to 1, or remove cache",
        );
        check.that(self.deadline.is_none_or(|d| !d.0.is_zero()), "spec.deadline", "must be longer than 0s");
        if check.0.is_empty() { Ok(()) } else { Err(check.0) }
    }

    fn check_data(&self, check: &mut Check) {
        let data = &self.data;
        check.uri("spec.data.source.uri", &data.source.uri, true);
        let is_in_place = is_in_place(&data.source.uri, data.source.persistent_volume_claim.as_ref());
        check.that(is_in_place, "spec.data.source", SOURCE_PLACE);
        check.that(
            self.format().is_some(),
            "spec.data.format",
            "the URI's extension does not say how the files are written: set csv, jsonLines, parquet or text",
        );
        check.that(data.csv.delimiter.is_ascii(), "spec.data.csv.delimiter", "must be one ASCII character");
        check.that(
            self.task != Task::Classification || data.target.len() <= 1,
            "spec.data.target",
            "Classification takes one target; several are for Regression",
        );
        match self.task {
            Task::Regression | Task::Classification => self.check_table(check),
            Task::LanguageModeling => self.check_text(check),
        }
        self.check_missing(check);
        self.check_split(check);
    }

    fn check_missing(&self, check: &mut Check) {
        let missing = &self.data.clean.missing;
        let of_columns = missing.columns.values().map(|column| (column.strategy, column.value.as_ref()));
        for (strategy, value) in std::iter::once((missing.strategy, missing.value.as_ref())).chain(of_columns) {
            check.that(
                (strategy == MissingStrategy::Constant) == value.is_some(),
                "spec.data.clean.missing",
                "the strategy Constant needs a value, and only it takes one",
            );
            check.that(
                value.is_none_or(Scalar::is_whole_or_text),
                "spec.data.clean.missing",
                "the value of the strategy Constant is a whole number or text: write fractions and booleans as text, such as \"0.5\" or \"true\"",
            );
        }
    }

    fn check_table(&self, check: &mut Check) {
        let data = &self.data;
        check.that(!data.target.is_empty(), "spec.data.target", "name at least one column to predict");
        check.that(
            data.text.is_none(),
            "spec.data.text",
            "is for LanguageModeling: remove it, or set spec.task to LanguageModeling",
        );
        check.that(self.format() != Some(Format::Text), "spec.data.format", FORMATS);
    }

    fn check_text(&self, check: &mut Check) {
        let data = &self.data;
        check.that(
            data.target.is_empty(),
            "spec.data.target",
            "LanguageModeling predicts the text itself: remove target",
        );
        check.that(self.format() != Some(Format::Csv), "spec.data.format", FORMATS);
        let is_table = !data.features.is_empty()
            || data.split.time.is_some()
            || data.clean.outliers.is_some()
            || data.clean.missing != Missing::default()
            || data.transform != Transform::default();
        check.that(
            !is_table,
            "spec.data",
            "features, clean.missing, clean.outliers, transform and split.time are for tables: LanguageModeling takes none of them",
        );
        if let Some(text) = &data.text {
            check_documents(text, self.format() == Some(Format::Text), check);
            if let Some(Tokenizer::File(file)) = &text.tokenizer {
                check.uri("spec.data.text.tokenizer.file.uri", &file.uri, true);
            }
        }
    }

    /// The format that is set, or that the URI's extension says.
    fn format(&self) -> Option<Format> {
        self.data.format.or_else(|| Format::of_uri(&self.data.source.uri))
    }

    fn check_split(&self, check: &mut Check) {
        let split = &self.data.split;
        check.that(
            (split.train + split.validation + split.test - 1.0).abs() < 1e-6,
            "spec.data.split",
            "train, validation and test must add up to 1",
        );
        check.that(
            !(split.stratify && split.time.is_some()),
            "spec.data.split",
            "a split by time cannot be stratified: remove stratify or time",
        );
        check.that(
            !split.stratify || self.task == Task::Classification,
            "spec.data.split.stratify",
            "only Classification can be stratified",
        );
    }

    fn check_evaluation(&self, check: &mut Check) {
        let (train, has_validation) = (&self.train, self.data.split.validation > 0.0);
        check.that(
            train.early_stopping.is_none() || has_validation,
            "spec.train.earlyStopping",
            "needs a validation split: set spec.data.split.validation",
        );
        check.that(
            train.early_stopping.as_ref().is_none_or(|rule| rule.fits(self.task)),
            "spec.train.earlyStopping.metric",
            EARLY_STOPPING_METRICS,
        );
        check.that(
            train.evaluation.is_none() || train.samples.is_some() || has_validation,
            "spec.train.evaluation",
            "needs a validation split: set spec.data.split.validation",
        );
        check.that(
            train.samples.is_none() || self.task == Task::LanguageModeling,
            "spec.train.samples",
            "is for LanguageModeling: remove it, or set spec.task to LanguageModeling",
        );
    }

    fn check_model(&self, check: &mut Check) {
        match &self.model {
            Model::Mlp(_) => {}
            // Of a number that is out of its bounds it would say the same once more.
            Model::Transformer(_) if check.has("spec.model.transformer") => {}
            Model::Transformer(transformer) => {
                for problem in transformer.resolve().err().into_iter().flat_map(|invalid| invalid.0) {
                    check.that(false, "spec.model.transformer", &problem);
                }
            }
            Model::From(from) => {
                for (field, problem) in from.problems() {
                    check.that(false, field, problem);
                }
                if let Some(artifact) = &from.artifact {
                    check.uri("spec.model.from.artifact.uri", &artifact.uri, true);
                }
                if let Some(folder) = &from.hugging_face {
                    check.uri("spec.model.from.huggingFace.uri", &folder.uri, false);
                }
            }
        }
        check.that(
            matches!(self.model, Model::Mlp(_)) == (self.task != Task::LanguageModeling),
            "spec.model",
            model::FOR_TASK,
        );
    }

    fn check_train(&self, check: &mut Check) {
        let train = &self.train;
        if let Some(loss) = train.loss {
            check.that(
                loss.fits(self.task),
                "spec.train.loss",
                "does not fit the task: MSE, MAE and Huber are for Regression, CrossEntropy and BinaryCrossEntropy for Classification, CrossEntropy for LanguageModeling",
            );
        }
        check.that(!(train.epochs.is_some() && train.steps.is_some()), "spec.train", "set epochs or steps, not both");
        check.that(
            train.micro_batch_size() <= train.batch_size,
            "spec.train.microBatchSize",
            "must not be greater than batchSize: it is the part of a batch that is computed at once",
        );
        check.that(
            !train.activation_checkpointing || !matches!(self.model, Model::Mlp(_)),
            "spec.train.activationCheckpointing",
            "is for transformers: remove it",
        );
        let minimum = train.schedule.minimum().unwrap_or(0.0);
        check.that(
            minimum <= train.optimizer.learning_rate(),
            "spec.train.schedule",
            "minimum is the learning rate at the end: it must not be greater than the optimizer's learningRate",
        );
        let checkpoint = &self.checkpoint;
        check.that(
            !(checkpoint.every.is_some() && checkpoint.every_steps.is_some()),
            "spec.checkpoint",
            "set every or everySteps, not both",
        );
        check.that(
            checkpoint.every.is_none_or(|every| !every.0.is_zero()),
            "spec.checkpoint.every",
            "must be longer than 0s",
        );
    }
}

fn check_documents(text: &Text, is_text: bool, check: &mut Check) {
    check.that(text.column.is_none() || text.messages.is_none(), "spec.data.text", "set column or messages, not both");
    check.that(
        !is_text || (text.column.is_none() && text.messages.is_none()),
        "spec.data.text",
        "files of the format text have no columns: remove column and messages, or read jsonLines or parquet",
    );
    check.that(
        is_text || text.documents.is_none(),
        "spec.data.text.documents",
        "cuts files of the format text: remove it, since each row of jsonLines and parquet is a document",
    );
    if let Some(DocumentLength { min: Some(min), max: Some(max) }) = text.length {
        check.that(min <= max, "spec.data.text.length", "min must not be greater than max");
    }
}

struct Check(Vec<FieldError>);

impl Check {
    fn that(&mut self, holds: bool, field: &str, message: &str) {
        if !holds {
            self.0.push(FieldError { field: field.to_owned(), message: message.to_owned() });
        }
    }

    fn uri(&mut self, field: &str, uri: &str, needs_path: bool) {
        if let Some(problem) = uri_problem(uri, needs_path) {
            self.that(false, field, problem);
        }
    }

    /// Whether something is wrong with a field or within it.
    fn has(&self, field: &str) -> bool {
        self.0.iter().any(|error| error.field.starts_with(field))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// What is said against a language model of that kind, trained so.
    fn problems(model: Value, train: Value) -> Vec<FieldError> {
        let spec: ModelTrainingSpec = serde_json::from_value(json!({
            "task": "LanguageModeling", "data": {"source": {"uri": "s3://datasets/letters.txt"}}, "model": model, "train": train,
        }))
        .unwrap();
        spec.validate().err().unwrap_or_default()
    }

    #[test]
    fn activation_checkpointing_is_for_new_transformers_and_for_those_that_are_started_from() {
        for model in [json!({"transformer": {}}), json!({"from": {"training": {"name": "stories"}, "lora": {}}})] {
            assert_eq!(problems(model, json!({"activationCheckpointing": true})), []);
        }
    }
}
