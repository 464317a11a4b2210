//! The rules between fields, in Rust: for `stoker-trainer local`, which has no API server to ask, and for an operator
//! whose cluster still has an older schema.
//!
//! The API server enforces the same by CEL (`crd`); a test applies the same wrong manifests to both.

use super::{
    ModelTrainingSpec, Task,
    data::{Format, Missing, MissingStrategy, Transform},
    evaluation::{MAX_PROMPT_CHARACTERS, MAX_PROMPTS},
    model::{self, Model},
    optimize::{EARLY_STOPPING_METRICS, Optimizer, Schedule, Train},
    storage::SCHEMES,
    text::{DocumentLength, MAX_VOCABULARY, MIN_VOCABULARY, Text, Tokenizer},
};

const FORMATS: &str =
    "LanguageModeling reads text, jsonLines or parquet; Regression and Classification read csv, jsonLines or parquet";

/// A field that cannot be as it is written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct FieldError {
    /// The path of the field, like `spec.data.split`.
    pub field: &'static str,
    /// What is wrong and how it should be.
    pub message: String,
}

impl ModelTrainingSpec {
    /// All fields that cannot be as they are written.
    ///
    /// # Errors
    /// If there is at least one.
    pub fn validate(&self) -> Result<(), Vec<FieldError>> {
        let mut check = Check(Vec::new());
        self.check_data(&mut check);
        self.check_model(&mut check);
        self.check_train(&mut check);
        self.check_evaluation(&mut check);
        if let Some(storage) = &self.storage {
            check.uri("spec.storage.uri", &storage.uri);
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
        check.uri("spec.data.source.uri", &data.source.uri);
        check.that(
            self.format().is_some(),
            "spec.data.format",
            "the URI's extension does not say how the files are written: set csv, jsonLines, parquet or text",
        );
        check.that(data.csv.delimiter.len() == 1, "spec.data.csv.delimiter", "must be one ASCII character");
        check.that(
            self.task != Task::Classification || data.target.len() <= 1,
            "spec.data.target",
            "Classification takes one target; several are for Regression",
        );
        match self.task {
            Task::Regression | Task::Classification => self.check_table(check),
            Task::LanguageModeling => self.check_text(check),
        }
        let missing = &data.clean.missing;
        let strategies = std::iter::once((missing.strategy, missing.value.is_some()))
            .chain(missing.columns.values().map(|column| (column.strategy, column.value.is_some())));
        for (strategy, has_value) in strategies {
            check.that(
                (strategy == MissingStrategy::Constant) == has_value,
                "spec.data.clean.missing",
                "the strategy Constant needs a value, and only it takes one",
            );
        }
        if let Some(outliers) = &data.clean.outliers {
            check.that(outliers.z_score > 0.0, "spec.data.clean.outliers.zScore", "must be greater than 0");
        }
        self.check_split(check);
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
            if let Some(tokenizer) = &text.tokenizer {
                check_tokenizer(tokenizer, check);
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
        let fractions = [split.train, split.validation, split.test];
        check.that(
            split.train > 0.0 && fractions.iter().all(|share| (0.0..=1.0).contains(share)),
            "spec.data.split",
            "shares lie between 0 and 1, and train is greater than 0",
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
            train.evaluation.as_ref().is_none_or(|evaluation| evaluation.every_steps > 0),
            "spec.train.evaluation.everySteps",
            "must be greater than 0",
        );
        let Some(samples) = &train.samples else { return };
        check.that(
            self.task == Task::LanguageModeling,
            "spec.train.samples",
            "is for LanguageModeling: remove it, or set spec.task to LanguageModeling",
        );
        let fits = |prompt: &String| (1..=MAX_PROMPT_CHARACTERS).contains(&prompt.chars().count());
        check.that(
            (1..=MAX_PROMPTS).contains(&samples.prompts.len()) && samples.prompts.iter().all(fits),
            "spec.train.samples.prompts",
            &format!("takes 1 to {MAX_PROMPTS} prompts of 1 to {MAX_PROMPT_CHARACTERS} characters"),
        );
        check.that(
            (0.0..=10.0).contains(&samples.temperature),
            "spec.train.samples.temperature",
            "must lie between 0 and 10",
        );
        check.that(
            (1..=1000).contains(&samples.max_tokens),
            "spec.train.samples.maxTokens",
            "must lie between 1 and 1000",
        );
        check.that(samples.top_k != Some(0), "spec.train.samples.topK", "must be greater than 0");
    }

    fn check_model(&self, check: &mut Check) {
        match &self.model {
            Model::Mlp(mlp) => {
                let positive = mlp.hidden.iter().all(|width| *width > 0);
                check.that(positive, "spec.model.mlp.hidden", "widths must be greater than 0");
                let dropout = (0.0..1.0).contains(&mlp.dropout);
                check.that(dropout, "spec.model.mlp.dropout", "must be at least 0 and less than 1");
            }
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
                    check.uri("spec.model.from.artifact.uri", &artifact.uri);
                }
                if let Some(folder) = &from.hugging_face {
                    check.uri("spec.model.from.huggingFace.uri", &folder.uri);
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
            train.epochs != Some(0) && train.steps != Some(0),
            "spec.train",
            "epochs and steps must be greater than 0",
        );
        check.that(train.batch_size > 0, "spec.train.batchSize", "must be greater than 0");
        check.that(
            train.micro_batch_size != Some(0) && train.micro_batch_size() <= train.batch_size,
            "spec.train.microBatchSize",
            "must be greater than 0, and not greater than batchSize: it is the part of a batch that is computed at once",
        );
        check.that(train.seed >= 0 && self.data.split.seed >= 0, "spec.train.seed", "seeds must not be negative");
        check.that(
            !train.activation_checkpointing || !matches!(self.model, Model::Mlp(_)),
            "spec.train.activationCheckpointing",
            "is for transformers: remove it",
        );
        if let Some(clip) = &train.gradient_clip {
            check.that(clip.norm > 0.0, "spec.train.gradientClip.norm", "must be greater than 0");
        }
        if let Some(ema) = &train.ema {
            check.that((0.0..1.0).contains(&ema.decay), "spec.train.ema.decay", "must be at least 0 and less than 1");
        }
        check_optimizer(&train.optimizer, check);
        check_schedule(train, check);
        let checkpoint = &self.checkpoint;
        check.that(
            !(checkpoint.every.is_some() && checkpoint.every_steps.is_some()),
            "spec.checkpoint",
            "set every or everySteps, not both",
        );
        check.that(
            checkpoint.every.is_none_or(|d| !d.0.is_zero()) && checkpoint.every_steps != Some(0),
            "spec.checkpoint",
            "must be longer than 0",
        );
        check.that(checkpoint.keep_last > 0, "spec.checkpoint.keepLast", "must be greater than 0");
    }
}

fn check_optimizer(optimizer: &Optimizer, check: &mut Check) {
    let rates = match optimizer {
        Optimizer::Muon(muon) => vec![muon.learning_rate, muon.adam_w.learning_rate],
        optimizer => vec![optimizer.learning_rate()],
    };
    check.that(rates.iter().all(|rate| *rate > 0.0), "spec.train.optimizer", "learningRate must be greater than 0");
    if let Optimizer::Adafactor(adafactor) = optimizer {
        check.that(
            (-1.0..0.0).contains(&adafactor.beta2_decay),
            "spec.train.optimizer.adafactor.beta2Decay",
            "must be at least -1 and less than 0",
        );
        check.that(
            (0.001..=1000.0).contains(&adafactor.clip_threshold),
            "spec.train.optimizer.adafactor.clipThreshold",
            "must lie between 0.001 and 1000",
        );
        check.that(
            (0.0..=1000.0).contains(&adafactor.weight_decay),
            "spec.train.optimizer.adafactor.weightDecay",
            "must lie between 0 and 1000",
        );
    }
}

fn check_schedule(train: &Train, check: &mut Check) {
    let schedule = &train.schedule;
    let factor = match schedule {
        Schedule::Step(step) => step.factor,
        Schedule::Exponential(exponential) => exponential.factor,
        Schedule::Constant(_) | Schedule::Cosine(_) | Schedule::Linear(_) | Schedule::Wsd(_) => 1.0,
    };
    check.that(factor > 0.0 && factor <= 1.0, "spec.train.schedule", "factor must be greater than 0 and at most 1");
    check.that(
        schedule.minimum().is_none_or(|minimum| (0.0..=train.optimizer.learning_rate()).contains(&minimum)),
        "spec.train.schedule",
        "minimum is the learning rate at the end: it must not be negative, nor greater than the optimizer's learningRate",
    );
    if let Schedule::Wsd(wsd) = schedule {
        check.that(wsd.decay_steps != Some(0), "spec.train.schedule.wsd.decaySteps", "must be greater than 0");
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
    check.that(text.documents().min_length > 0, "spec.data.text.documents.minLength", "must be greater than 0");
    if let Some(DocumentLength { min: Some(min), max: Some(max) }) = text.length {
        check.that(min <= max, "spec.data.text.length", "min must not be greater than max");
    }
    let similarity = text.near_duplicates.map_or(1.0, |near| near.similarity);
    check.that(
        (0.5..=1.0).contains(&similarity),
        "spec.data.text.nearDuplicates.similarity",
        "must lie between 0.5 and 1",
    );
}

fn check_tokenizer(tokenizer: &Tokenizer, check: &mut Check) {
    match tokenizer {
        Tokenizer::Bytes(_) => {}
        Tokenizer::Bpe(bpe) => check.that(
            (MIN_VOCABULARY..=MAX_VOCABULARY).contains(&bpe.vocabulary_size),
            "spec.data.text.tokenizer.bpe.vocabularySize",
            &format!("must lie between {MIN_VOCABULARY} and {MAX_VOCABULARY}"),
        ),
        Tokenizer::File(file) => check.uri("spec.data.text.tokenizer.file.uri", &file.uri),
    }
}

struct Check(Vec<FieldError>);

impl Check {
    fn that(&mut self, holds: bool, field: &'static str, message: &str) {
        if !holds {
            self.0.push(FieldError { field, message: message.to_owned() });
        }
    }

    fn uri(&mut self, field: &'static str, uri: &str) {
        let known = SCHEMES.iter().any(|scheme| uri.starts_with(scheme));
        self.that(known, field, "must start with s3://, gs://, az:// or file:///");
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
