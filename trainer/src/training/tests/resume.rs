//! A run that is stopped and goes on ends as one that was not.

use object_store::{ObjectStoreExt, PutPayload};
use serde_json::{Value, json};
use stoker_crds::{Reason, TrainConfig, artifact::MANIFEST};
use tokio_util::sync::CancellationToken;

use super::{RUNTIME, Recorder, Run, Table, blobs, config, surface, weights};
use crate::{
    artifact,
    data::DataError,
    training::{Batch, Dataset, TrainError},
};

/// All that has a state: dropout, a schedule, clipping, early stopping, and the optimizer's own.
fn stateful(optimizer: Value) -> TrainConfig {
    config(
        "Classification",
        json!({"hidden": [8, 8], "activation": "GELU", "dropout": 0.25}),
        json!({
            "loss": "CrossEntropy", "optimizer": optimizer, "schedule": {"cosine": {"warmupSteps": 5, "minimum": 1e-4}},
            "batchSize": 16, "epochs": 4, "gradientClip": {"norm": 0.5},
            "earlyStopping": {"metric": "validation/f1", "patience": 3},
        }),
        json!({"everySteps": 1_000_000}),
    )
}

fn stop_at(run: &Run, config: &TrainConfig, train: &Table, validation: &Table, step: u64) -> Recorder {
    let watch = Recorder::stopping_at(step);
    let error = run.fit_watched(config, train, validation, &watch).unwrap_err();
    let TrainError::Preempted { step: stopped, checkpoint } = &error else { panic!("{error}") };
    assert_eq!((*stopped, checkpoint.as_ref().unwrap().step), (step, step));
    assert_eq!(error.reason(), Reason::Preempted);
    watch
}

#[test]
fn a_stopped_run_goes_on_to_the_same_bytes() {
    let (train, validation) = (blobs(70, 1), blobs(30, 2));
    for optimizer in [
        json!({"sgd": {"learningRate": 0.1}}),
        json!({"sgd": {"learningRate": 0.1, "momentum": 0.9, "nesterov": true, "weightDecay": 0.01}}),
        json!({"adam": {"learningRate": 0.01, "weightDecay": 0.01}}),
        json!({"adamW": {"learningRate": 0.01}}),
        json!({"lion": {"learningRate": 0.001, "weightDecay": 0.1}}),
        json!({"adafactor": {"learningRate": 0.1}}),
        json!({"muon": {"learningRate": 0.02}}),
    ] {
        let config = stateful(optimizer.clone());
        let whole = Recorder::default();
        let expected = Run::new().fit_watched(&config, &train, &validation, &whole).unwrap();

        // 5 steps an epoch, the last one of 6 rows: at the start, in an epoch, at its end, before its last batch.
        let (run, mut resumed_from, mut points) = (Run::new(), None, Vec::new());
        for step in [1, 3, 5, 9, 12] {
            let seen = stop_at(&run, &config, &train, &validation, step).seen();
            assert_eq!(seen.resumed_from, resumed_from);
            points.extend(seen.points);
            resumed_from = Some(step);
        }
        let last = Recorder::default();
        let fitted = run.fit_watched(&config, &train, &validation, &last).unwrap();
        points.extend(last.seen().points);

        assert!(weights(&fitted) == weights(&expected), "{optimizer}: the weights differ");
        assert_eq!(points, whole.seen().points, "{optimizer}");
        assert_eq!(fitted.best_step, expected.best_step);
        assert_eq!(last.seen().steps, (13..=20).collect::<Vec<_>>());
    }
}

/// Rows that tell the training to stop as soon as they are read.
struct Stopping<'a> {
    rows: &'a Table,
    stop: CancellationToken,
}

impl Dataset for Stopping<'_> {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn batch(&self, indices: &[u32]) -> Result<Batch, DataError> {
        self.stop.cancel();
        self.rows.batch(indices)
    }
}

/// More rows than are evaluated at a time, so that there is a place to stop at.
#[test]
fn a_run_that_is_told_to_stop_while_it_evaluates_does_so_and_evaluates_when_it_goes_on() {
    let (config, train, validation) = (stateful(json!({"adam": {}})), blobs(70, 1), blobs(5000, 2));
    let whole = Recorder::default();
    let expected = Run::new().fit_watched(&config, &train, &validation, &whole).unwrap();

    let (run, mut points) = (Run::new(), Vec::new());
    for _ in 0..2 {
        // The second time nothing is trained: the evaluation comes first, and is told to stop again.
        let watch = Recorder::default();
        let stopping = Stopping { rows: &validation, stop: watch.stop.clone() };
        let error = run.fit_samples(&config, [&train, &stopping], [2, 3], &watch).unwrap_err();
        assert!(matches!(error, TrainError::Preempted { step: 5, checkpoint: Some(_) }), "{error}");
        points.extend(watch.seen().points);
    }
    assert!(points.is_empty() && run.steps() == [5]);
    let last = Recorder::default();
    let fitted = run.fit_watched(&config, &train, &validation, &last).unwrap();
    assert!(weights(&fitted) == weights(&expected), "the weights differ");
    assert_eq!((last.seen().resumed_from, last.seen().steps), (Some(5), (6..=20).collect()));
    assert_eq!(last.seen().points, whole.seen().points);
}

#[test]
fn a_finished_run_is_not_trained_again() {
    let (config, train, run) = (stateful(json!({"adam": {}})), blobs(70, 1), Run::new());
    let first = run.fit(&config, &train, &blobs(30, 2)).unwrap();
    let watch = Recorder::default();
    let second = run.fit_watched(&config, &train, &blobs(30, 2), &watch).unwrap();
    assert!(watch.seen().steps.is_empty());
    assert_eq!(weights(&first), weights(&second));
    assert_eq!((first.step, first.best_step), (second.step, second.best_step));
}

#[test]
fn a_run_that_early_stopping_ended_stays_ended() {
    let mut config = stateful(json!({"sgd": {"learningRate": 1e-30}}));
    config.train.early_stopping.as_mut().unwrap().patience = 1;
    let (train, run) = (blobs(70, 1), Run::new());
    let first = run.fit(&config, &train, &blobs(30, 2)).unwrap();
    assert_eq!((first.epoch, first.best_step, first.step), (2, Some(5), 10));
    let watch = Recorder::default();
    let second = run.fit_watched(&config, &train, &blobs(30, 2), &watch).unwrap();
    assert!(watch.seen().steps.is_empty());
    assert_eq!(weights(&first), weights(&second));
}

/// A run with checkpoints of the steps 3, 6 and 9, and the weights it is to end with.
fn run_with_checkpoints() -> (Run, TrainConfig, Table, Vec<u8>) {
    let (config, train) = (stateful(json!({"adamW": {"learningRate": 0.01}})), blobs(70, 1));
    let expected = weights(&Run::new().fit(&config, &train, &blobs(30, 2)).unwrap());
    let run = Run::new();
    for step in [3, 6, 9] {
        stop_at(&run, &config, &train, &blobs(30, 2), step);
    }
    assert_eq!(run.steps(), [3, 6, 9]);
    (run, config, train, expected)
}

fn overwrite(run: &Run, file: &str, bytes: &[u8]) {
    let file = run.folder.join(file);
    RUNTIME.block_on(file.store.put(&file.path, PutPayload::from(bytes.to_vec()))).unwrap();
}

#[test]
fn a_broken_checkpoint_is_skipped_for_the_one_before_it_and_that_is_said() {
    let (run, config, train, expected) = run_with_checkpoints();
    overwrite(&run, "9/model.safetensors", b"cut off");
    overwrite(&run, &format!("6/{MANIFEST}"), b"{}");
    let watch = Recorder::default();
    let fitted = run.fit_watched(&config, &train, &blobs(30, 2), &watch).unwrap();
    let seen = watch.seen();
    assert_eq!(seen.resumed_from, Some(3));
    assert!(weights(&fitted) == expected, "the weights differ");
    assert_eq!(seen.warnings.len(), 2, "{:?}", seen.warnings);
    assert!(
        seen.warnings[0].contains("step 9 is skipped") && seen.warnings[0].contains("'model.safetensors' is 7 bytes")
    );
    assert!(seen.warnings[1].contains("step 6 is skipped"), "{:?}", seen.warnings);
}

#[test]
fn a_checkpoint_that_was_not_committed_does_not_exist() {
    let (run, config, train, expected) = run_with_checkpoints();
    let manifest = run.folder.join(&format!("9/{MANIFEST}"));
    RUNTIME.block_on(manifest.store.delete(&manifest.path)).unwrap();
    let watch = Recorder::default();
    let fitted = run.fit_watched(&config, &train, &blobs(30, 2), &watch).unwrap();
    assert_eq!((watch.seen().resumed_from, watch.seen().warnings), (Some(6), vec![]));
    assert!(weights(&fitted) == expected, "the weights differ");
}

#[test]
fn a_checkpoint_of_another_run_configuration_or_data_is_not_taken() {
    type Change = fn(&mut TrainConfig, &mut Table);
    let changes: [(&str, Change); 3] = [
        ("another run", |config, _| config.run.number = 2),
        ("another configuration", |config, _| config.train.batch_size = 8),
        ("other data", |_, train| *train = blobs(71, 1)),
    ];
    for (problem, change) in changes {
        let (run, mut config, mut train, _) = run_with_checkpoints();
        change(&mut config, &mut train);
        let watch = Recorder::default();
        let fitted = run.fit_watched(&config, &train, &blobs(30, 2), &watch).unwrap();
        let seen = watch.seen();
        assert_eq!(seen.resumed_from, None, "{problem}");
        assert_eq!(seen.warnings.len(), 3, "{:?}", seen.warnings);
        assert!(seen.warnings.iter().all(|warning| warning.contains(problem)), "{:?}", seen.warnings);
        let anew = Run::new().fit(&config, &train, &blobs(30, 2)).unwrap();
        assert_eq!(weights(&fitted), weights(&anew));
    }
}

#[test]
fn what_does_not_change_the_weights_does_not_keep_a_run_from_going_on() {
    let (run, mut config, train, expected) = run_with_checkpoints();
    config.resources.memory = "8Gi".into();
    config.checkpoint.keep_last = 1;
    let watch = Recorder::default();
    let fitted = run.fit_watched(&config, &train, &blobs(30, 2), &watch).unwrap();
    assert_eq!(watch.seen().resumed_from, Some(9));
    assert!(weights(&fitted) == expected, "the weights differ");
}

#[test]
fn the_newest_checkpoints_are_kept_and_each_one_can_be_gone_on_from() {
    let mut config = config(
        "Regression",
        json!({"hidden": [4]}),
        json!({"loss": "MSE", "batchSize": 40, "steps": 200}),
        json!({"everySteps": 10, "keepLast": 2}),
    );
    let (train, run) = (surface(40, 1), Run::new());
    let watch = Recorder::default();
    let whole = run.fit_watched(&config, &train, &Table::default(), &watch).unwrap();
    let written: Vec<u64> = watch.seen().checkpoints.iter().map(|checkpoint| checkpoint.step).collect();
    // One at a time: some are passed over while one is still being written, but never the last one.
    assert!(written.iter().all(|step| step % 10 == 0) && written.last() == Some(&200), "{written:?}");
    assert_eq!(run.steps(), written[written.len().saturating_sub(2)..]);
    for checkpoint in &watch.seen().checkpoints[written.len().saturating_sub(2)..] {
        let folder = run.folder.join(&checkpoint.step.to_string());
        assert_eq!(folder.uri, checkpoint.uri);
        RUNTIME.block_on(artifact::open(&folder, Some(&checkpoint.digest))).unwrap();
    }

    RUNTIME.block_on(artifact::remove(&run.folder.join("200"))).unwrap();
    config.checkpoint.keep_last = 5;
    let again = run.fit(&config, &train, &Table::default()).unwrap();
    assert_eq!(weights(&again), weights(&whole));
}
