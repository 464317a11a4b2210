//! Trainings in other precisions than 32-bit floats.

use std::sync::PoisonError;

use burn::{
    optim::GradientsParams,
    tensor::{Device, FloatDType},
};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use stoker_crds::{
    Reason, TrainConfig,
    metric::{LOSS, MSE, Split},
    training::optimize::{Optimizer as Spec, Precision, Sgd, WeightDecayOn},
};

use super::{
    RUNTIME, Recorder, Run, Table, config, surface,
    transformers::{CONTEXT, Texts, VOCABULARY, chains, fit, gpt2, language, llama, loss_of},
    weights,
};
use crate::{
    artifact,
    model::{Architecture, GENERATOR, Network, Predictor},
    training::{Dataset, TrainError, backward::Backward, evaluate, optimizer::Optimizer},
};

const NEVER: u64 = 1_000_000;

fn training(transformer: Value, precision: &str, more: Value) -> TrainConfig {
    let mut train = json!({
        "loss": "CrossEntropy", "optimizer": {"adamW": {"learningRate": 0.01}}, "batchSize": 16, "epochs": 8,
        "schedule": {"cosine": {"warmupSteps": 5}}, "gradientClip": {"norm": 1.0}, "precision": precision,
    });
    train.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    language(transformer, train, json!({"everySteps": NEVER}))
}

/// A logit of 16 bits is off by up to 1/512 (bf16) or 1/4096 (f16) of it, and logits here are less than 8: a loss is off by
/// 0.016 at most for a token, in either direction, and by far less in the mean of 512. The rest is left for a training that goes
/// another way once a number is rounded differently. It is 2 % of what is learned: the loss falls from ln 11 = 2.4 to ln 2.
#[test]
fn every_precision_converges_as_32_bit_floats_do() {
    let (texts, others) = (chains(256, 1), chains(32, 2));
    for spec in [gpt2(), llama()] {
        let loss = |precision: &str| {
            let watch = Recorder::default();
            let config = training(spec.clone(), precision, json!({}));
            let fitted = fit(&Run::new(), &config, &texts, &others, &watch).unwrap();
            let validated = watch.seen().values(Split::Validation, LOSS);
            let loss = loss_of(&fitted, &others);
            assert_eq!(validated.last(), Some(&loss), "{precision}: the last validation is not that of the model");
            loss
        };
        let expected = loss("F32");
        assert!(expected < 0.85, "{spec}: F32 itself does not converge: {expected}");
        for precision in ["BF16", "Mixed", "F16"] {
            let actual = loss(precision);
            assert!((actual - expected).abs() < 0.03, "{spec}: {precision} ends at {actual}, F32 at {expected}");
        }
    }
}

#[test]
fn a_stopped_run_goes_on_to_the_same_bytes_in_every_precision() {
    let (texts, others) = (chains(70, 1), chains(16, 2));
    for (precision, checkpointing) in [("BF16", false), ("Mixed", false), ("Mixed", true), ("F16", true)] {
        let mut spec = gpt2();
        spec["dropout"] = json!(0.1);
        let more = json!({
            "epochs": 3, "activationCheckpointing": checkpointing,
            "earlyStopping": {"metric": "validation/perplexity", "patience": 3},
        });
        let config = training(spec, precision, more);
        let expected = fit(&Run::new(), &config, &texts, &others, &Recorder::default()).unwrap();
        let run = Run::new();
        // 5 steps an epoch.
        for step in [1, 5, 8] {
            let error = fit(&run, &config, &texts, &others, &Recorder::stopping_at(step)).unwrap_err();
            assert!(matches!(&error, TrainError::Preempted { step: stopped, .. } if *stopped == step), "{error}");
        }
        let fitted = fit(&run, &config, &texts, &others, &Recorder::default()).unwrap();
        assert!(weights(&fitted) == weights(&expected), "{precision}, {checkpointing}: the weights differ");
        assert_eq!(fitted.history, expected.history);
    }
}

/// A pod may land on another kind of GPU each time. Without a scale the loss of the steps in `F16` would not be scaled, and with
/// one those of `Mixed` would be.
#[test]
fn a_mixed_run_goes_on_in_f16_where_there_is_no_bf16_and_back() {
    let (texts, others) = (chains(70, 1), chains(16, 2));
    let config = training(gpt2(), "Mixed", json!({"epochs": 3}));
    let mut run = Run::new();
    // 5 steps an epoch.
    for (stands_in, step, is_scaled) in [(None, 3, false), (Some(Precision::F16), 6, true), (None, 9, false)] {
        run.stands_in = stands_in;
        let watch = Recorder::stopping_at(step);
        let error = fit(&run, &config, &texts, &others, &watch).unwrap_err();
        assert!(matches!(&error, TrainError::Preempted { step: stopped, .. } if *stopped == step), "{error}");
        assert_eq!(watch.seen().resumed_from, Some(step - 3).filter(|step| *step > 0));
        let warned: Vec<bool> =
            watch.seen().warnings.iter().map(|warning| warning.contains("in F16 instead")).collect();
        assert_eq!(warned, if is_scaled { vec![true] } else { vec![] }, "{:?}", watch.seen().warnings);
        let checkpoint = RUNTIME.block_on(artifact::open(&run.folder.join(&step.to_string()), None)).unwrap();
        let state: Value = serde_json::from_slice(checkpoint.file("state.json").unwrap()).unwrap();
        assert_eq!(state["state"]["lossScale"].is_object(), is_scaled, "step {step}");
    }
    let fitted = fit(&run, &config, &texts, &others, &Recorder::default()).unwrap();
    assert_eq!((fitted.step, fitted.predictor.model().dtype()), (15, FloatDType::F32));
}

/// The types of all tensors of a file.
fn types(file: &[u8]) -> Vec<Dtype> {
    let file = SafeTensors::deserialize(file).unwrap();
    let mut types: Vec<_> = file.tensors().into_iter().map(|(_, view)| view.dtype()).collect();
    types.dedup();
    types
}

#[test]
fn weights_are_saved_and_published_in_the_precision_that_they_are_kept_in_and_read_back() {
    let (texts, others) = (chains(32, 1), chains(16, 2));
    for (precision, kept, tolerance) in
        [("F32", Dtype::F32, 0.0), ("BF16", Dtype::BF16, 0.01), ("Mixed", Dtype::F32, 0.01), ("F16", Dtype::F32, 0.01)]
    {
        let early_stopping = json!({"epochs": 1, "earlyStopping": {"patience": 1}});
        let run = Run::new();
        let config = training(gpt2(), precision, early_stopping);
        let fitted = fit(&run, &config, &texts, &others, &Recorder::default()).unwrap();
        let checkpoint = RUNTIME.block_on(artifact::open(&run.folder.join("2"), None)).unwrap();
        for (file, expected) in
            [("model.safetensors", kept), ("best.safetensors", kept), ("optimizer.safetensors", Dtype::F32)]
        {
            assert_eq!(types(checkpoint.file(file).unwrap()), [expected], "{precision}: {file}");
        }
        let published = weights(&fitted);
        assert_eq!(types(&published), [kept], "{precision}");

        // A published model is computed in 32-bit floats, the training's in its own precision.
        let architecture = fitted.predictor.architecture();
        let config = architecture.to_config(fitted.predictor.model().dtype(), None).unwrap();
        let loaded = Predictor::load(&config, &published, &Device::flex()).unwrap();
        assert_eq!(loaded.model().dtype(), FloatDType::F32);
        let [trained, loaded] =
            [&fitted.predictor, &loaded].map(|predictor| evaluate(predictor, &others, &|_| {}).unwrap().metrics[LOSS]);
        assert!((trained - loaded).abs() <= tolerance, "{precision}: {trained} is not {loaded}");
    }
}

/// Targets so large that their gradients, times the first scale, are beyond 16-bit floats.
fn large_targets() -> (TrainConfig, Table) {
    let mut table = surface(64, 1);
    table.targets.iter_mut().for_each(|targets| targets[0] *= 100.0);
    let train = json!({
        "loss": "MSE", "optimizer": {"adam": {"learningRate": 0.05}}, "batchSize": 16, "epochs": 150, "precision": "F16",
    });
    (config("Regression", json!({"hidden": [16]}), train, json!({"everySteps": NEVER})), table)
}

#[test]
fn steps_whose_gradients_overflow_are_skipped_until_the_scale_fits() {
    let (config, table) = large_targets();
    let watch = Recorder::stopping_at(1);
    let run = Run::new();
    let error = run.fit_watched(&config, &table, &Table::default(), &watch).unwrap_err();
    assert!(matches!(error, TrainError::Preempted { .. }), "{error}");
    let first = RUNTIME.block_on(artifact::open(&run.folder.join("1"), None)).unwrap();
    let untrained = Architecture::new(config.model.clone(), config.task, config.train.loss, 2, 1).unwrap();
    let state: Value = serde_json::from_slice(first.file("state.json").unwrap()).unwrap();
    assert_eq!(state["state"]["lossScale"], json!({"scale": 32_768.0, "goodSteps": 0}));
    assert!(untrained.load(first.file("model.safetensors").unwrap(), &Device::flex()).is_ok());
    assert!(SafeTensors::deserialize(first.file("optimizer.safetensors").unwrap()).unwrap().is_empty());

    let whole = Run::new().fit(&config, &table, &Table::default()).unwrap();
    assert_eq!((whole.step, whole.epoch), (600, 150), "a step that is skipped is a step of the plan");
    let mse = evaluate(&whole.predictor, &table, &|_| {}).unwrap().metrics[MSE];
    // The targets' variance is about 2000.
    assert!(mse < 200.0, "it does not learn: {mse}");

    for step in [2, 4, 7] {
        let error = run.fit_watched(&config, &table, &Table::default(), &Recorder::stopping_at(step)).unwrap_err();
        assert!(matches!(error, TrainError::Preempted { .. }), "{error}");
    }
    let resumed = run.fit(&config, &table, &Table::default()).unwrap();
    assert!(weights(&resumed) == weights(&whole), "the weights differ");
}

#[test]
fn a_training_whose_gradients_overflow_with_any_scale_diverges() {
    let (config, mut table) = large_targets();
    // Beyond the range of 16-bit floats.
    table.features.iter_mut().for_each(|features| features[0] = 1e6);
    let error = Run::new().fit(&config, &table, &Table::default()).unwrap_err();
    let TrainError::Diverged { step, .. } = &error else { panic!("{error}") };
    // 65536 is halved 16 times.
    assert_eq!((*step, error.reason()), (17, Reason::Diverged));
    assert!(error.to_string().contains("overflowed 16-bit floats"), "{error}");
}

#[test]
fn tables_are_learned_in_every_precision() {
    let table = surface(64, 1);
    for precision in ["F32", "BF16", "Mixed", "F16"] {
        let train = json!({
            "loss": "MSE", "optimizer": {"adam": {"learningRate": 0.01}}, "batchSize": 16, "epochs": 200,
            "precision": precision,
        });
        let config = config("Regression", json!({"hidden": [32]}), train, json!({"everySteps": NEVER}));
        let fitted = Run::new().fit(&config, &table, &Table::default()).unwrap();
        let mse = evaluate(&fitted.predictor, &table, &|_| {}).unwrap().metrics[MSE];
        // The targets' variance is about 0.2; a number of bf16 around 1 is off by up to 0.004, whose square is 2e-5.
        assert!(mse < 2e-3, "{precision}: {mse}");
    }
}

/// A small step along gradients lowers the loss by their square times the step, if they are those of the function that the
/// loss is of: with other units dropped out in the second pass they are not. The second derivative, and the rounding of the
/// loss, are a few percent here.
#[test]
fn blocks_that_are_computed_again_drop_the_same_units() {
    let _generator = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    let mut spec = gpt2();
    spec["dropout"] = json!(0.5);
    let config = training(spec, "F32", json!({"activationCheckpointing": true}));
    let device = Device::flex().autodiff();
    let (task, loss) = (config.task, config.train.loss);
    let architecture = Architecture::new(config.model.clone(), task, loss, CONTEXT, VOCABULARY).unwrap();
    let mut model = architecture.init(1, &device);
    let texts: Texts = chains(8, 1);
    let backward = Backward::new(&config, None, 7);
    let run = |model: &Network| {
        let batch = texts.batch(&[0, 1, 2, 3, 4, 5, 6, 7]).unwrap();
        backward.run(model, &architecture, batch, &device).unwrap()
    };
    let rate = 1e-2;
    let (before, gradients) = run(&model);
    let gradients = GradientsParams::from_grads(gradients, &model);
    let mut optimizer = Optimizer::new(&Spec::Sgd(Sgd::default()), WeightDecayOn::All, &model);
    let square = crate::training::optimizer::squared_norm(&model, &gradients).unwrap().into_scalar::<f32>();
    optimizer.step(&mut model, gradients, rate, None);
    let (after, _) = run(&model);
    let fallen = before.into_scalar::<f32>() - after.into_scalar::<f32>();
    let expected = rate as f32 * square;
    assert!((fallen / expected - 1.0).abs() < 0.05, "the loss fell by {fallen}, not by {expected}");
}
