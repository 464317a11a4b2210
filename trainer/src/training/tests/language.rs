//! Trainings of small language models.

mod optimizers;

use serde_json::{Value, json};
use stoker_crds::{
    Reason, TrainConfig,
    metric::{LOSS, PERPLEXITY, Split},
    training::model::Transformer as Spec,
};

use super::{Recorder, Run, weights};
use crate::{
    data::DataError,
    text::Tokenizer,
    training::{Batch, Dataset, Fitted, Problem, TokenBatch, TrainError},
};

const CONTEXT: usize = 16;

/// The bytes of a text, one after another, in sequences of the context.
struct Bytes(Vec<i32>);

impl Bytes {
    fn new(text: &str) -> Self {
        Self(text.bytes().map(i32::from).collect())
    }
}

impl Dataset for Bytes {
    fn len(&self) -> usize {
        self.0.len().saturating_sub(1) / CONTEXT
    }

    fn batch(&self, indices: &[u32]) -> Result<Batch, DataError> {
        let read = |shift: usize| {
            let starts = indices.iter().map(|index| *index as usize * CONTEXT + shift);
            starts.flat_map(|start| self.0[start..start + CONTEXT].to_vec()).collect::<Vec<_>>()
        };
        let (tokens, targets) = (read(0), read(1));
        let weights = vec![1.0; tokens.len()];
        Ok(Batch::Tokens(TokenBatch { sequences: indices.len(), tokens, targets, weights }))
    }
}

fn config(train: Value, checkpoint: Value) -> TrainConfig {
    let spec: Spec =
        serde_json::from_value(json!({"layers": 1, "width": 16, "heads": 2, "context": CONTEXT, "dropout": 0.1}))
            .unwrap();
    serde_json::from_value(json!({
        "run": {"namespace": "default", "training": "test", "uid": "8a6e0804", "number": 1},
        "task": "LanguageModeling",
        "data": {"source": {"uri": "s3://bucket/data.txt"}, "format": "text"},
        "model": {"transformer": spec.resolve().unwrap()},
        "train": train,
        "checkpoint": checkpoint,
        "storage": {"uri": "s3://bucket"},
        "resources": {},
    }))
    .unwrap()
}

/// 20 sequences to learn from, and 4 to validate with.
fn fit(run: &Run, config: &TrainConfig, watch: &Recorder) -> Result<Fitted, TrainError> {
    fit_tokens_of(&Tokenizer::bytes().unwrap(), run, config, watch)
}

/// The same for tokens that another tokenizer of as many calls its own.
fn fit_tokens_of(
    tokenizer: &Tokenizer,
    run: &Run,
    config: &TrainConfig,
    watch: &Recorder,
) -> Result<Fitted, TrainError> {
    let text = "she sells sea shells by the sea shore. ".repeat(10);
    let (train, validation) = (Bytes::new(&text[..20 * CONTEXT + 1]), Bytes::new(&text[..4 * CONTEXT + 1]));
    let problem = Problem {
        train: &train,
        validation: &validation,
        inputs: CONTEXT,
        targets: tokenizer.vocabulary_size(),
        restore_targets: &|_| {},
        tokenizer: Some(tokenizer),
        fingerprint: "sha256:of-the-data",
    };
    run.fit_problem(config, problem, watch)
}

#[test]
fn a_stopped_run_goes_on_to_the_same_bytes_evaluations_and_texts() {
    let config = config(
        json!({
            "loss": "CrossEntropy", "batchSize": 4, "epochs": 2, "evaluation": {"everySteps": 3},
            "samples": {"prompts": ["she ", "sea"], "maxTokens": 12, "topK": 20},
        }),
        json!({"everySteps": 1_000_000}),
    );
    let whole = Recorder::default();
    let expected = fit(&Run::new(), &config, &whole).unwrap();
    let whole = whole.seen();
    let steps: Vec<u64> = whole.points.iter().map(|point| point.step).collect();
    assert_eq!(steps, [3, 5, 6, 9, 10]);
    for point in &whole.points {
        let metrics = &point.metrics[&Split::Validation];
        assert!((metrics[PERPLEXITY] - metrics[LOSS].exp()).abs() < 1e-9, "{metrics:?}");
    }
    // Of the 5 evaluations with 2 texts each, the last 8.
    let samples: Vec<_> = whole.samples.iter().map(|sample| (sample.step, sample.prompt.as_str())).collect();
    let last = [5, 6, 9, 10].map(|step| [(step, "she "), (step, "sea")]);
    assert_eq!(samples, last.concat());
    assert!(whole.samples.iter().all(|sample| sample.text.chars().count() <= 12), "{:?}", whole.samples);
    assert_ne!(whole.samples[4].text, whole.samples[6].text, "each step draws anew");

    let (run, mut points) = (Run::new(), Vec::new());
    for step in [1, 3, 4, 5, 9] {
        let watch = Recorder::stopping_at(step);
        let error = fit(&run, &config, &watch).unwrap_err();
        assert_eq!(error.reason(), Reason::Preempted, "{error}");
        points.extend(watch.seen().points);
    }
    let last = Recorder::default();
    let fitted = fit(&run, &config, &last).unwrap();
    points.extend(last.seen().points);
    assert!(weights(&fitted) == weights(&expected), "the weights differ");
    assert_eq!((points, last.seen().samples), (whole.points, whole.samples));
}

/// The tokenizer of bytes, with the numbers of two of them swapped.
fn swapped() -> Tokenizer {
    let mut json: Value = serde_json::from_slice(Tokenizer::bytes().unwrap().to_json()).unwrap();
    let vocabulary = &mut json["model"]["vocab"];
    (vocabulary["a"], vocabulary["b"]) = (json!(b'b'), json!(b'a'));
    Tokenizer::from_json(&serde_json::to_vec(&json).unwrap(), None).unwrap()
}

#[test]
fn a_checkpoint_of_the_tokens_of_another_tokenizer_is_not_taken() {
    let (bytes, other) = (Tokenizer::bytes().unwrap(), swapped());
    assert_eq!(other.vocabulary_size(), bytes.vocabulary_size());
    let config = config(json!({"loss": "CrossEntropy", "batchSize": 4, "epochs": 2}), json!({"everySteps": 1_000_000}));
    let run = Run::new();
    fit(&run, &config, &Recorder::stopping_at(3)).unwrap_err();
    let watch = Recorder::stopping_at(4);
    fit_tokens_of(&other, &run, &config, &watch).unwrap_err();
    let seen = watch.seen();
    assert_eq!((seen.resumed_from, seen.warnings.len()), (None, 1));
    assert!(seen.warnings[0].contains("another tokenizer"), "{:?}", seen.warnings);
}

#[test]
fn texts_and_evaluations_change_no_weight() {
    let plain = config(json!({"loss": "CrossEntropy", "batchSize": 4, "epochs": 1}), json!({}));
    let mut telling = plain.clone();
    telling.train.evaluation = serde_json::from_value(json!({"everySteps": 1})).unwrap();
    telling.train.samples = serde_json::from_value(json!({"prompts": ["a"], "maxTokens": 5})).unwrap();
    let of = |config| weights(&fit(&Run::new(), config, &Recorder::default()).unwrap());
    assert!(of(&plain) == of(&telling), "the weights differ");
}

#[test]
fn a_language_model_that_diverges_says_where_and_keeps_its_last_good_checkpoint() {
    let config = config(
        json!({
            "loss": "CrossEntropy", "batchSize": 4, "epochs": 20, "optimizer": {"sgd": {"learningRate": 1e30}},
        }),
        json!({"everySteps": 1, "keepLast": 100}),
    );
    let run = Run::new();
    let error = fit(&run, &config, &Recorder::default()).unwrap_err();
    let TrainError::Diverged { step, checkpoint, .. } = &error else { panic!("{error}") };
    assert_eq!(error.reason(), Reason::Diverged);
    assert!(*step > 0 && checkpoint.is_none_or(|checkpoint| checkpoint < *step), "{error}");
    run.assert_finite_checkpoints();
}
