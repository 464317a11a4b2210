//! What a training tells of itself before it ends.

use serde_json::{Value, json};
use stoker_crds::{
    Reason, TrainConfig,
    metric::{LOSS, Split},
    training::Model,
};

use super::{Recorder, Run, Table, config, surface};
use crate::training::TrainError;

/// A learning rate that changes nothing.
fn standing_still(train: Value) -> TrainConfig {
    let mut all = json!({"loss": "MAE", "optimizer": {"sgd": {"learningRate": 1e-30}}});
    all.as_object_mut().unwrap().extend(train.as_object().unwrap().clone());
    config("Regression", json!({"hidden": [4]}), all, json!({"everySteps": 1_000_000}))
}

#[test]
fn the_training_loss_is_told_long_before_the_epoch_ends() {
    // Of equal rows each batch has the same loss.
    let row = surface(1, 1);
    let rows = Table { features: vec![row.features[0].clone(); 100], targets: vec![row.targets[0].clone(); 100] };
    let config = standing_still(json!({"batchSize": 1, "epochs": 1}));
    let watch = Recorder::default();
    Run::new().fit_watched(&config, &rows, &Table::default(), &watch).unwrap();
    let seen = watch.seen();
    let at_the_end = seen.values(Split::Train, LOSS)[0];
    assert_eq!(seen.losses.len(), 100);
    for loss in &seen.losses[31..] {
        assert!((loss.unwrap() - at_the_end).abs() < 1e-9, "{loss:?} is not {at_the_end}");
    }
}

#[test]
fn the_model_is_evaluated_each_so_many_steps_and_at_the_end_of_each_epoch() {
    let config = standing_still(json!({"batchSize": 8, "epochs": 3, "evaluation": {"everySteps": 2}}));
    let watch = Recorder::default();
    let fitted = Run::new().fit_watched(&config, &surface(40, 1), &surface(16, 2), &watch).unwrap();
    let seen = watch.seen();
    let points: Vec<_> = seen.points.iter().map(|point| (point.epoch, point.step)).collect();
    assert_eq!(points, [(0, 2), (0, 4), (1, 5), (1, 6), (1, 8), (2, 10), (2, 12), (2, 14), (3, 15)]);
    assert_eq!(seen.values(Split::Validation, LOSS).len(), 9);
    assert_eq!(fitted.history, seen.points);
}

#[test]
fn the_patience_of_early_stopping_counts_evaluations() {
    let config = standing_still(json!({
        "batchSize": 8, "epochs": 3, "evaluation": {"everySteps": 1}, "earlyStopping": {"patience": 2},
    }));
    let fitted = Run::new().fit(&config, &surface(40, 1), &surface(16, 2)).unwrap();
    assert_eq!((fitted.step, fitted.epoch, fitted.best_step), (3, 0, Some(1)));
}

#[test]
fn a_model_that_no_memory_holds_is_refused_before_there_is_one() {
    let mut config = standing_still(json!({"loss": "CrossEntropy"}));
    let spec: stoker_crds::training::model::Transformer =
        serde_json::from_value(json!({"layers": 256, "width": 65536, "heads": 256})).unwrap();
    (config.task, config.model) =
        (stoker_crds::training::Task::LanguageModeling, Model::Transformer(spec.resolve().unwrap()));
    let (run, watch) = (Run::new(), Recorder::default());
    let error = run.fit_watched(&config, &surface(4, 1), &Table::default(), &watch).unwrap_err();
    assert!(matches!(error, TrainError::TooLarge(_)), "{error}");
    assert_eq!(error.reason(), Reason::OutOfMemory);
    assert!(error.to_string().contains("no batch fits, so set train.activationCheckpointing to true"), "{error}");
    assert_eq!(crate::run::RunError::from(error).exit_code(), 10);
    // 256 blocks of 12 · 65536² weights.
    assert!(watch.seen().estimate.unwrap().parameters > 13_000_000_000_000);
    assert!(run.steps().is_empty());
}
