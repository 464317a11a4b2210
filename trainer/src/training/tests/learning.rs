//! That models learn, by the clock and the metrics that are promised.

use std::sync::Mutex;

use serde_json::json;
use stoker_crds::{
    Reason,
    metric::{ACCURACY, LOSS, MSE, Split},
};

use super::{Recorder, Run, Table, blobs, config, surface, weights};
use crate::{
    artifact,
    training::{TrainError, evaluate},
};

const NEVER: u64 = 1_000_000;

#[test]
fn one_batch_is_learned_by_heart() {
    for activation in ["Sigmoid", "Tanh", "ReLU", "GELU", "LeakyReLU"] {
        let config = config(
            "Regression",
            json!({"hidden": [32], "activation": activation}),
            json!({"loss": "MSE", "optimizer": {"adam": {"learningRate": 0.02}}, "batchSize": 8, "steps": 3000}),
            json!({"everySteps": NEVER}),
        );
        let rows = surface(8, 1);
        let fitted = Run::new().fit(&config, &rows, &Table::default()).unwrap();
        let metrics = evaluate(&fitted.predictor, &rows, &|_| {}).unwrap().metrics;
        // The targets' variance is about 0.2: all of it but a five-thousandth is explained.
        assert!(metrics[MSE] < 4e-5, "{activation}: {metrics:?}");
        assert!((metrics[MSE] - metrics[LOSS]).abs() < 1e-6, "{metrics:?}");
    }
}

#[test]
fn clouds_of_points_are_told_apart() {
    let config = config(
        "Classification",
        json!({"hidden": [16], "dropout": 0.1}),
        json!({
            "loss": "CrossEntropy", "optimizer": {"adamW": {"learningRate": 0.01}}, "schedule": {"cosine": {"warmupSteps": 20}},
            "batchSize": 32, "epochs": 20, "gradientClip": {"norm": 1.0},
        }),
        json!({}),
    );
    let watch = Recorder::default();
    Run::new().fit_watched(&config, &blobs(600, 1), &blobs(150, 2), &watch).unwrap();
    let accuracies = watch.seen().values(Split::Validation, ACCURACY);
    assert_eq!(accuracies.len(), 20);
    // The clouds are 3 to 4 apart with a standard deviation of 0.58: hardly any point lies nearer to another one.
    assert!(accuracies[19] >= 0.98, "{accuracies:?}");
}

#[test]
fn exclusive_or_is_learned_with_one_output() {
    let features = [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]];
    let rows = Table {
        features: features.map(Vec::from).into(),
        targets: [0.0, 1.0, 1.0, 0.0].map(|class| vec![class]).into(),
    };
    let config = config(
        "Classification",
        json!({"hidden": [8], "activation": "Tanh"}),
        json!({"loss": "BinaryCrossEntropy", "optimizer": {"sgd": {"learningRate": 0.5, "momentum": 0.9}}, "batchSize": 4, "epochs": 500}),
        json!({"everySteps": NEVER}),
    );
    let fitted = Run::new().fit(&config, &rows, &Table::default()).unwrap();
    let evaluation = evaluate(&fitted.predictor, &rows, &|_| {}).unwrap();
    assert_eq!(evaluation.confusion, Some(vec![vec![2, 0], vec![0, 2]]));
    let probabilities = fitted.predictor.predict(&[0.0, 1.0]).unwrap();
    assert_eq!(probabilities.len(), 2);
    assert!((probabilities[0] + probabilities[1] - 1.0).abs() < 1e-6, "{probabilities:?}");
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_one_others() {
    let bytes = |seed: i64| {
        let config = config(
            "Regression",
            json!({"hidden": [8, 8], "dropout": 0.3}),
            json!({"loss": "Huber", "batchSize": 16, "epochs": 3, "seed": seed}),
            json!({}),
        );
        weights(&Run::new().fit(&config, &surface(100, 1), &Table::default()).unwrap())
    };
    assert_eq!(bytes(1), bytes(1));
    assert_ne!(bytes(1), bytes(2));
}

#[test]
fn one_row_alone_is_predicted_as_in_a_batch() {
    let config =
        config("Classification", json!({"hidden": [64, 32]}), json!({"loss": "CrossEntropy", "epochs": 2}), json!({}));
    let rows = blobs(300, 1);
    let fitted = Run::new().fit(&config, &rows, &Table::default()).unwrap();
    let batch = fitted.predictor.predict(&rows.features.concat()).unwrap();
    for (row, features) in rows.features.iter().enumerate() {
        let alone = fitted.predictor.predict(features).unwrap();
        for (alone, batch) in alone.iter().zip(&batch[row * 3..]) {
            // Sums of up to 64 products in another order, in f32.
            assert!((alone - batch).abs() < 1e-6, "row {row}: {alone} and {batch}");
        }
    }
    assert!(fitted.predictor.predict(&[1.0]).is_err());
    assert!(fitted.predictor.predict(&[]).unwrap().is_empty());
}

#[test]
fn every_row_counts_once_an_epoch_and_the_last_batch_is_what_is_left() {
    let config = config(
        "Regression",
        json!({}),
        json!({"loss": "MSE", "batchSize": 16, "epochs": 3}),
        json!({"everySteps": NEVER}),
    );
    let watch = Recorder::default();
    let fitted = Run::new().fit_watched(&config, &surface(40, 1), &Table::default(), &watch).unwrap();
    assert_eq!((fitted.step, fitted.total_steps, fitted.epoch, fitted.total_epochs), (9, 9, 3, 3));
    let seen = watch.seen();
    assert_eq!((seen.total_steps, seen.steps), (9, (1..=9).collect()));
    assert_eq!(seen.points.iter().map(|point| (point.epoch, point.step)).collect::<Vec<_>>(), [(1, 3), (2, 6), (3, 9)]);
}

#[test]
fn the_loss_of_an_epoch_is_the_mean_over_its_rows() {
    // A learning rate that changes nothing: the loss of each batch is that of the initial weights.
    let config = config(
        "Regression",
        json!({"hidden": [4]}),
        json!({"loss": "MAE", "optimizer": {"sgd": {"learningRate": 1e-30}}, "batchSize": 16, "epochs": 1}),
        json!({}),
    );
    let (rows, watch) = (surface(40, 1), Recorder::default());
    let fitted = Run::new().fit_watched(&config, &rows, &rows, &watch).unwrap();
    let exact = evaluate(&fitted.predictor, &rows, &|_| {}).unwrap().metrics[LOSS];
    let seen = watch.seen();
    for split in [Split::Train, Split::Validation] {
        let loss = seen.values(split, LOSS)[0];
        // Means of f32 numbers below 1, in other groups.
        assert!((loss - exact).abs() < 1e-6, "{split:?}: {loss} is not {exact}");
    }
}

#[test]
fn a_run_of_so_many_steps_ends_within_an_epoch() {
    let config = config("Regression", json!({}), json!({"loss": "MSE", "batchSize": 16, "steps": 7}), json!({}));
    let watch = Recorder::default();
    let fitted = Run::new().fit_watched(&config, &surface(40, 1), &surface(10, 2), &watch).unwrap();
    assert_eq!((fitted.step, fitted.total_steps, fitted.epoch, fitted.total_epochs), (7, 7, 3, 3));
    assert_eq!(watch.seen().points.iter().map(|point| point.step).collect::<Vec<_>>(), [3, 6, 7]);
}

#[test]
fn early_stopping_ends_the_run_and_restores_the_best_model() {
    // Targets without any relation to the inputs: the validation loss soon grows.
    let mut noise = surface(64, 1);
    noise.targets.rotate_left(7);
    let (validation, watch) = (surface(64, 2), Recorder::default());
    let config = config(
        "Regression",
        json!({"hidden": [64]}),
        json!({
            "loss": "MSE", "optimizer": {"adam": {"learningRate": 0.05}}, "batchSize": 64, "epochs": 10_000,
            "earlyStopping": {"patience": 5},
        }),
        json!({}),
    );
    let fitted = Run::new().fit_watched(&config, &noise, &validation, &watch).unwrap();
    let losses = watch.seen().values(Split::Validation, LOSS);
    let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(losses.len() < 10_000, "it did not stop");
    // One step an epoch.
    assert_eq!(fitted.best_step, Some(losses.len() as u64 - 5));
    assert_eq!(losses[losses.len() - 6], best);
    let restored = evaluate(&fitted.predictor, &validation, &|_| {}).unwrap().metrics[LOSS];
    assert_eq!(restored, best);
}

#[test]
fn validation_metrics_are_in_the_targets_own_units() {
    let config = config("Regression", json!({}), json!({"loss": "MSE", "epochs": 1}), json!({}));
    let rows = surface(40, 1);
    let fitted = Run::new().fit(&config, &rows, &Table::default()).unwrap();
    let scaled = |targets: &mut [f32]| targets.iter_mut().for_each(|target| *target = *target * 8.0 + 3.0);
    let plain = evaluate(&fitted.predictor, &rows, &|_| {}).unwrap().metrics;
    let own = evaluate(&fitted.predictor, &rows, &scaled).unwrap().metrics;
    assert_eq!(own[LOSS], plain[LOSS]);
    assert!((own[MSE] / plain[MSE] - 64.0).abs() < 1e-3, "{own:?} {plain:?}");
    assert!((own["r2"] - plain["r2"]).abs() < 1e-4, "{own:?} {plain:?}");
}

#[test]
fn a_training_that_diverges_says_where_and_leaves_no_checkpoint_that_is_not_finite() {
    for optimizer in [json!({"sgd": {"learningRate": 1e3}}), json!({"adam": {"learningRate": 1e38}})] {
        let config = config(
            "Regression",
            json!({"hidden": [8]}),
            json!({"loss": "MSE", "optimizer": optimizer, "batchSize": 8, "epochs": 50}),
            json!({"everySteps": 1, "keepLast": 100}),
        );
        let run = Run::new();
        let error = run.fit(&config, &surface(64, 1), &surface(8, 2)).unwrap_err();
        let TrainError::Diverged { step, checkpoint, .. } = &error else { panic!("{error}") };
        assert_eq!(error.reason(), Reason::Diverged);
        assert!(*step > 0 && checkpoint.is_none_or(|checkpoint| checkpoint < *step), "{error}");
        assert!(error.to_string().contains(&format!("at step {step}: lower")), "{error}");
        run.assert_finite_checkpoints();
    }
}

#[test]
fn what_cannot_be_trained_is_refused_with_the_way_out() {
    let classification = |loss: &str, extra: serde_json::Value| {
        let mut train = json!({"loss": loss, "epochs": 1});
        train.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        config("Classification", json!({}), train, json!({}))
    };
    let run = Run::new();
    let refused = |config, train: &Table, validation: &Table| {
        let error = run.fit(&config, train, validation).unwrap_err();
        (error.reason(), error.to_string())
    };

    let (reason, message) = refused(classification("BinaryCrossEntropy", json!({})), &blobs(9, 1), &Table::default());
    assert_eq!(reason, Reason::InvalidConfig);
    assert!(message.contains("exactly 2 classes, and the training split has 3: use CrossEntropy"), "{message}");

    let one = Table { targets: vec![vec![0.0]; 9], ..blobs(9, 1) };
    let (reason, message) = refused(classification("CrossEntropy", json!({})), &one, &Table::default());
    assert_eq!(reason, Reason::InvalidConfig);
    assert!(message.contains("fewer than 2 classes"), "{message}");

    let undefined = json!({"earlyStopping": {"metric": "validation/r2", "patience": 1}});
    let (reason, message) = refused(classification("CrossEntropy", undefined), &blobs(9, 1), &blobs(9, 2));
    assert_eq!(reason, Reason::InvalidConfig);
    assert!(message.contains("validation/r2 is not defined") && message.contains("accuracy"), "{message}");

    let (reason, _) = refused(classification("CrossEntropy", json!({})), &Table::default(), &Table::default());
    assert_eq!(reason, Reason::EmptyData);
}

#[test]
fn the_learning_rate_follows_the_schedule() {
    // One weight, gradient 1 whatever it is: each step is the learning rate.
    let rows = Table { features: vec![vec![0.0]; 2], targets: vec![vec![-1e6]; 2] };
    let config = config(
        "Regression",
        json!({}),
        json!({
            "loss": "MAE", "optimizer": {"sgd": {"learningRate": 0.5}}, "schedule": {"step": {"every": 2, "factor": 0.5}},
            "batchSize": 1, "epochs": 2,
        }),
        json!({"everySteps": 1, "keepLast": 10}),
    );
    let run = Run::new();
    let biases = Mutex::new(Vec::new());
    run.fit(&config, &rows, &Table::default()).unwrap();
    for step in run.steps() {
        let checkpoint = super::RUNTIME.block_on(artifact::open(&run.folder.join(&step.to_string()), None)).unwrap();
        let file = safetensors::SafeTensors::deserialize(checkpoint.file("model.safetensors").unwrap()).unwrap();
        biases.lock().unwrap().push((step, crate::model::values(&file.tensor("layers.0.bias").unwrap())[0]));
    }
    let biases = biases.into_inner().unwrap();
    let (last, before): (Vec<_>, Vec<_>) = biases.windows(2).map(|pair| (pair[1], pair[0])).unzip();
    assert!(!last.is_empty(), "a checkpoint of each step is asked for");
    for ((step, bias), (before_step, before)) in last.into_iter().zip(before) {
        let expected: f32 = (before_step..step).map(|step| [0.5, 0.5, 0.25, 0.25][step as usize]).sum();
        assert!((before - bias - expected).abs() < 1e-6, "step {step}: {before} to {bias}");
    }
}
