//! Every optimizer, with micro batches and averaged weights: it learns, and a run that is stopped goes on as one that was not.

use serde_json::{Value, json};
use stoker_crds::{
    TrainConfig,
    metric::{LOSS, PERPLEXITY, Split},
    training::{Model, model::Transformer as Spec},
};

use crate::{
    data::DataError,
    training::{
        Batch, Dataset, Fitted, TokenBatch, TrainError, evaluate,
        tests::{self, Recorder, Run, weights},
    },
};

const CONTEXT: usize = 8;
const VOCABULARY: usize = 11;

/// So many sequences of tokens that count up from where each begins; of every third one only the last three count.
struct Counting(usize);

impl Dataset for Counting {
    fn len(&self) -> usize {
        self.0
    }

    fn batch(&self, indices: &[u32]) -> Result<Batch, DataError> {
        let token = |index: u32, i: usize| ((index as usize * 5 + i) % VOCABULARY) as i32;
        let all = |first: usize| {
            indices.iter().flat_map(|index| (first..first + CONTEXT).map(|i| token(*index, i))).collect()
        };
        let weight = |index: u32, i: usize| f32::from(!index.is_multiple_of(3) || i >= CONTEXT - 3);
        let weights = indices.iter().flat_map(|index| (0..CONTEXT).map(|i| weight(*index, i))).collect();
        Ok(Batch::Tokens(TokenBatch { sequences: indices.len(), tokens: all(0), targets: all(1), weights }))
    }
}

/// A transformer of GPT-2's kind, or, if `llama`, of Llama's.
fn model(llama: bool, dropout: f64) -> Value {
    if llama {
        json!({
            "layers": 1, "width": 16, "heads": 4, "keyValueHeads": 2, "context": CONTEXT, "feedForward": 24,
            "positions": "Rotary", "normalization": "RMSNorm", "activation": "SwiGLU", "bias": false,
            "tiedEmbeddings": false, "dropout": dropout,
        })
    } else {
        json!({"layers": 1, "width": 16, "heads": 2, "context": CONTEXT, "dropout": dropout})
    }
}

fn config(model: Value, train: Value) -> TrainConfig {
    let mut config = tests::config("LanguageModeling", json!({}), train, json!({"everySteps": 1_000_000}));
    config.model = Model::Transformer(serde_json::from_value::<Spec>(model).unwrap().resolve().unwrap());
    config
}

fn learn(run: &Run, config: &TrainConfig, watch: &Recorder) -> Result<Fitted, TrainError> {
    run.fit_samples(config, [&Counting(22), &Counting(5)], [CONTEXT, VOCABULARY], watch)
}

#[test]
fn a_stopped_language_model_goes_on_to_the_same_bytes() {
    let adam = json!({"adam": {"learningRate": 0.01, "weightDecay": 0.01}});
    for (llama, optimizer) in [
        (false, json!({"adamW": {"learningRate": 0.01}})),
        (true, json!({"lion": {"learningRate": 0.001, "weightDecay": 0.1}})),
        (true, json!({"adafactor": {"weightDecay": 0.01}})),
        (true, json!({"muon": {"learningRate": 0.02, "adamW": {"learningRate": 0.01}}})),
        (false, json!({"muon": {"learningRate": 0.02, "nesterov": false}})),
        (false, adam),
    ] {
        let config = config(
            model(llama, 0.2),
            json!({
                "loss": "CrossEntropy", "optimizer": optimizer, "schedule": {"wsd": {"warmupSteps": 3, "decaySteps": 6}},
                "batchSize": 6, "microBatchSize": 4, "epochs": 4, "gradientClip": {"norm": 0.5}, "ema": {"decay": 0.8},
                "earlyStopping": {"metric": "validation/perplexity", "patience": 3},
            }),
        );
        let whole = Recorder::default();
        let expected = learn(&Run::new(), &config, &whole).unwrap();

        // 4 steps an epoch, the last one of 4 sequences: at the start, in an epoch, at its end, before its last batch.
        let (run, mut points) = (Run::new(), Vec::new());
        for step in [1, 2, 4, 7] {
            let watch = Recorder::stopping_at(step);
            let error = learn(&run, &config, &watch).unwrap_err();
            assert!(matches!(error, TrainError::Preempted { step: stopped, .. } if stopped == step), "{error}");
            points.extend(watch.seen().points);
        }
        let last = Recorder::default();
        let fitted = learn(&run, &config, &last).unwrap();
        points.extend(last.seen().points);

        assert_eq!(last.seen().resumed_from, Some(7));
        assert!(weights(&fitted) == weights(&expected), "{optimizer}: the weights differ");
        assert_eq!(points, whole.seen().points, "{optimizer}");
    }
}

#[test]
fn every_optimizer_learns_to_count_by_heart() {
    for optimizer in [
        json!({"sgd": {"learningRate": 0.3, "momentum": 0.9}}),
        json!({"adam": {"learningRate": 0.01}}),
        json!({"adamW": {"learningRate": 0.01}}),
        json!({"lion": {"learningRate": 0.003, "weightDecay": 0.1}}),
        json!({"adafactor": {"learningRate": 0.1}}),
        json!({"muon": {"learningRate": 0.02, "adamW": {"learningRate": 0.01}}}),
    ] {
        for llama in [false, true] {
            let config = config(
                model(llama, 0.0),
                json!({
                    "loss": "CrossEntropy", "optimizer": optimizer, "schedule": {"linear": {"warmupSteps": 10}},
                    "batchSize": 11, "microBatchSize": 5, "epochs": 150, "gradientClip": {"norm": 1.0},
                }),
            );
            let fitted = learn(&Run::new(), &config, &Recorder::default()).unwrap();
            let metrics = evaluate(&fitted.predictor, &Counting(11), &|_| {}).unwrap().metrics;
            // Each token follows from the one before it: all but nothing is left to guess.
            assert!(metrics[PERPLEXITY] < 1.2, "{optimizer}, llama: {llama}: {metrics:?}");
        }
    }
}

#[test]
fn averaged_weights_are_validated_and_published_and_the_training_goes_on_with_the_others() {
    let train = |ema: Value| {
        json!({
            "loss": "CrossEntropy", "optimizer": {"adamW": {"learningRate": 0.05}}, "batchSize": 22, "epochs": 6, "ema": ema,
        })
    };
    let watch = [Recorder::default(), Recorder::default()];
    let plain = learn(&Run::new(), &config(model(false, 0.0), train(Value::Null)), &watch[0]).unwrap();
    let averaged = learn(&Run::new(), &config(model(false, 0.0), train(json!({}))), &watch[1]).unwrap();

    let [before, after] = watch.map(|watch| watch.seen());
    assert_eq!(before.values(Split::Train, LOSS), after.values(Split::Train, LOSS));
    let losses = after.values(Split::Validation, LOSS);
    assert_ne!(before.values(Split::Validation, LOSS), losses);
    let published = evaluate(&averaged.predictor, &Counting(5), &|_| {}).unwrap().metrics[LOSS];
    assert_eq!(Some(&published), losses.last());
    assert_ne!(weights(&plain), weights(&averaged));
}
