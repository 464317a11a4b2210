//! That a training whose loss grows ends, and what it leaves.

use serde_json::json;
use stoker_crds::{Reason, TrainConfig, metric::Split};

use super::{RUNTIME, Recorder, Run, Table, config, surface};
use crate::{artifact, training::TrainError};

/// A learning rate that rises until nothing is left of what was learned at first. All numbers stay finite: each step of Adam
/// changes a weight by the learning rate at most.
fn rising_rate() -> TrainConfig {
    config(
        "Regression",
        json!({"hidden": [16], "activation": "Tanh"}),
        json!({
            "loss": "MSE", "optimizer": {"adam": {"learningRate": 10}}, "schedule": {"linear": {"warmupSteps": 1000}},
            "batchSize": 8, "steps": 1000,
        }),
        json!({"everySteps": 1_000_000, "keepLast": 1}),
    )
}

fn stop_at(run: &Run, config: &TrainConfig, step: u64) {
    let error = run.fit_watched(config, &surface(64, 1), &Table::default(), &Recorder::stopping_at(step)).unwrap_err();
    assert!(matches!(error, TrainError::Preempted { .. }), "{error}");
}

#[test]
fn a_loss_that_grows_ends_the_training_at_the_same_step_whether_or_not_it_was_stopped() {
    let (config, train) = (rising_rate(), surface(64, 1));
    let whole = Recorder::default();
    let expected = Run::new().fit_watched(&config, &train, &Table::default(), &whole).unwrap_err();
    let TrainError::Diverged { what: expected, step: expected_step, checkpoint: None } = expected else {
        panic!("{expected}")
    };
    let run = Run::new();
    for step in [30, 120, 161] {
        stop_at(&run, &config, step);
    }
    let error = run.fit(&config, &train, &Table::default()).unwrap_err();
    assert_eq!(error.reason(), Reason::Diverged);
    let message = error.to_string();
    let TrainError::Diverged { what, step, .. } = error else { panic!("{error}") };
    assert_eq!((what, step), (expected, expected_step));
    // A tenth of 1000 steps of patience, and a learning rate that was bearable for some 50.
    assert!((150..800).contains(&step), "{message}, after {:?}", whole.seen().losses);
    for part in ["the loss grew to", "at best, about step", "learningRate", "warm up", "train.gradientClip.norm"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn checkpoints_of_a_growing_loss_do_not_push_out_the_last_good_one() {
    let (config, run) = (rising_rate(), Run::new());
    for (step, kept) in [(30, vec![30]), (120, vec![30, 120]), (161, vec![30, 161])] {
        stop_at(&run, &config, step);
        assert_eq!(run.steps(), kept);
    }
    let error = run.fit(&config, &surface(64, 1), &Table::default()).unwrap_err();
    assert!(matches!(error, TrainError::Diverged { checkpoint: Some(30), .. }), "{error}");
    assert!(error.to_string().ends_with("the last good checkpoint is of step 30"), "{error}");
    RUNTIME.block_on(artifact::open(&run.folder.join("30"), None)).unwrap();
}

#[test]
fn a_final_metric_that_is_not_finite_says_after_which_step_and_which_checkpoint_is_good() {
    let mut config = rising_rate();
    config.train.optimizer = serde_json::from_value(json!({"adam": {"learningRate": 0.01}})).unwrap();
    (config.train.batch_size, config.train.steps) = (64, Some(20));
    let run = Run::new();
    stop_at(&run, &config, 10);
    let fitted = run.fit(&config, &surface(64, 1), &Table::default()).unwrap();
    // The square of their distance is not among 32-bit floats.
    let mut far = surface(8, 2);
    far.targets.iter_mut().for_each(|targets| targets[0] = 1e30);
    let error = fitted.evaluate(Split::Test, &far, &|_| {}).unwrap_err();
    assert_eq!(error.reason(), Reason::Diverged);
    let TrainError::Diverged { what, step, checkpoint } = error else { panic!("{error}") };
    assert!(what.starts_with("the test metric 'loss'"), "{what}");
    assert_eq!((step, checkpoint), (20, Some(10)));
}

#[test]
fn the_last_checkpoint_after_which_the_loss_was_seen_to_be_good_is_kept_beside_the_newest_one() {
    let mut config = rising_rate();
    config.train.optimizer = serde_json::from_value(json!({"adam": {"learningRate": 0.01}})).unwrap();
    config.train.batch_size = 64;
    let run = Run::new();
    for (step, kept) in [(10, vec![10]), (20, vec![10, 20]), (30, vec![20, 30])] {
        stop_at(&run, &config, step);
        assert_eq!(run.steps(), kept);
    }
}
