//! Small texts, and that transformers learn them.

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use stoker_crds::{
    TrainConfig,
    metric::LOSS,
    training::{Model, model::Transformer},
};

use super::{Recorder, Run, config};
use crate::{
    data::DataError,
    training::{Batch, Dataset, Fitted, TokenBatch, TrainError, evaluate},
};

/// Tokens of a text.
pub(super) const CONTEXT: usize = 16;
/// How many tokens there are.
pub(super) const VOCABULARY: usize = 11;

/// Texts of `CONTEXT` + 1 tokens.
#[derive(Clone, Debug, Default)]
pub(super) struct Texts(pub(super) Vec<Vec<i32>>);

impl Dataset for Texts {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn batch(&self, indices: &[u32]) -> Result<Batch, DataError> {
        let part = |range: std::ops::Range<usize>| {
            indices.iter().flat_map(|index| self.0[*index as usize][range.clone()].to_vec()).collect::<Vec<i32>>()
        };
        let (tokens, targets) = (part(0..CONTEXT), part(1..CONTEXT + 1));
        let weights = vec![1.0; tokens.len()];
        Ok(Batch::Tokens(TokenBatch { sequences: indices.len(), tokens, targets, weights }))
    }
}

/// Texts in which each token has two that may come next, equally likely: no model can predict them with a smaller loss than
/// ln 2.
pub(super) fn chains(count: usize, seed: u64) -> Texts {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut text = |_| {
        let mut token = rng.random_range(0..VOCABULARY as i32);
        let mut next = || {
            let before = token;
            token = if rng.random_bool(0.5) { 3 * token + 1 } else { 5 * token + 2 } % VOCABULARY as i32;
            before
        };
        (0..=CONTEXT).map(|_| next()).collect()
    };
    Texts((0..count).map(&mut text).collect())
}

/// GPT-2's kind.
pub(super) fn gpt2() -> Value {
    json!({"layers": 2, "width": 32, "heads": 4, "context": CONTEXT})
}

/// Llama's kind.
pub(super) fn llama() -> Value {
    json!({
        "layers": 2, "width": 32, "heads": 4, "keyValueHeads": 2, "context": CONTEXT, "feedForward": 64,
        "positions": "Rotary", "normalization": "RMSNorm", "activation": "SwiGLU", "bias": false, "tiedEmbeddings": false,
    })
}

/// A configuration with these parts of the spec.
pub(super) fn language(transformer: Value, train: Value, checkpoint: Value) -> TrainConfig {
    let mut config = config("LanguageModeling", json!({}), train, checkpoint);
    let spec: Transformer = serde_json::from_value(transformer).unwrap();
    config.model = Model::Transformer(spec.resolve().unwrap());
    config
}

pub(super) fn fit(
    run: &Run,
    config: &TrainConfig,
    train: &Texts,
    validation: &Texts,
    watch: &Recorder,
) -> Result<Fitted, TrainError> {
    run.fit_samples(config, [train, validation], [CONTEXT, VOCABULARY], watch)
}

/// The loss of what was trained, on other texts.
pub(super) fn loss_of(fitted: &Fitted, texts: &Texts) -> f64 {
    evaluate(&fitted.predictor, texts, &|_| {}).unwrap().metrics[LOSS]
}

/// Eight random texts that begin with different tokens, so that every token follows from those before it.
fn one_batch() -> Texts {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut text = |first| {
        let others = (0..CONTEXT).map(|_| rng.random_range(0..VOCABULARY as i32));
        std::iter::once(first).chain(others).collect()
    };
    Texts((0..8).map(&mut text).collect())
}

#[test]
fn one_batch_is_learned_by_heart_with_and_without_activation_checkpointing() {
    let texts = one_batch();
    let mut losses = BTreeMap::new();
    for (name, spec) in [("gpt2", gpt2()), ("llama", llama())] {
        for activation_checkpointing in [false, true] {
            let train = json!({
                "loss": "CrossEntropy", "optimizer": {"adam": {"learningRate": 0.01}}, "batchSize": 8, "steps": 200,
                "activationCheckpointing": activation_checkpointing,
            });
            let config = language(spec.clone(), train, json!({"everySteps": 1_000_000}));
            let fitted = fit(&Run::new(), &config, &texts, &Texts::default(), &Recorder::default()).unwrap();
            losses.insert((name, activation_checkpointing), loss_of(&fitted, &texts));
        }
    }
    // Before the first step it is ln 11 = 2.4.
    assert!(losses.values().all(|loss| *loss < 0.02), "{losses:?}");
}
