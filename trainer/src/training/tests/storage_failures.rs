//! Checkpoints on a storage that fails.

use std::sync::{
    Arc, Condvar, Mutex,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use bytes::Bytes;
use serde_json::json;
use stoker_crds::{Reason, TrainConfig, artifact::MANIFEST};

use super::{RUNTIME, Recorder, Run, Table, config, surface, weights};
use crate::artifact::{
    self,
    faulty::{Fault, Faulty, Operation},
};

fn small(steps: u64, every: u64) -> TrainConfig {
    config(
        "Regression",
        json!({"hidden": [4]}),
        json!({"loss": "MSE", "batchSize": 4, "steps": steps}),
        json!({"everySteps": every, "keepLast": 2}),
    )
}

#[test]
fn the_steps_go_on_while_a_checkpoint_is_being_written() {
    // The first write waits until the training is 20 steps further.
    let gate = Arc::new((Mutex::new(0), Condvar::new()));
    let writer = Arc::clone(&gate);
    let run = Run::in_folder(Faulty::folder(move |operation, _| {
        if operation == Operation::Put {
            drop(writer.1.wait_while(writer.0.lock().unwrap(), |step| *step < 25).unwrap());
        }
        None
    }));
    let on_step = move |step| {
        *gate.0.lock().unwrap() = step;
        gate.1.notify_all();
    };
    let watch = Recorder { on_step: Some(Box::new(on_step)), ..Recorder::default() };
    run.fit_watched(&small(50, 5), &surface(16, 1), &Table::default(), &watch).unwrap();
    let written: Vec<u64> = watch.seen().checkpoints.iter().map(|checkpoint| checkpoint.step).collect();
    assert_eq!((written[0], written.last()), (5, Some(&50)));
    assert!(written[1] >= 25, "those that were due in between are passed over: {written:?}");
}

#[test]
fn a_storage_that_is_away_for_a_while_costs_checkpoints_and_not_the_run() {
    // It comes back at step 30, once a write has failed.
    let is_away = Arc::new(AtomicBool::new(true));
    let failed = Arc::new((Mutex::new(false), Condvar::new()));
    let (away, writer) = (Arc::clone(&is_away), Arc::clone(&failed));
    let run = Run::in_folder(Faulty::folder(move |operation, _| {
        let fails = operation == Operation::Put && away.load(SeqCst);
        if fails {
            *writer.0.lock().unwrap() = true;
            writer.1.notify_all();
        }
        fails.then_some(Fault::Lost)
    }));
    let on_step = move |step| {
        if step == 30 {
            drop(failed.1.wait_while(failed.0.lock().unwrap(), |failed| !*failed).unwrap());
            is_away.store(false, SeqCst);
        }
    };
    let watch = Recorder { on_step: Some(Box::new(on_step)), ..Recorder::default() };
    let fitted = run.fit_watched(&small(60, 1), &surface(16, 1), &Table::default(), &watch).unwrap();
    let seen = watch.seen();
    assert!(seen.warnings.iter().any(|warning| warning.contains("was not written")), "{:?}", seen.warnings);
    assert_eq!(fitted.checkpoint.as_ref().unwrap().step, 60);
    let undisturbed = Run::new().fit(&small(60, 1), &surface(16, 1), &Table::default()).unwrap();
    assert_eq!(weights(&fitted), weights(&undisturbed));
}

#[test]
fn credentials_that_never_worked_end_the_run() {
    let run = Run::in_folder(Faulty::folder(|operation, _| (operation == Operation::Put).then_some(Fault::Denied)));
    let error = run.fit(&small(1000, 1), &surface(16, 1), &Table::default()).unwrap_err();
    assert_eq!(error.reason(), Reason::AccessDenied);
}

#[test]
fn a_storage_that_cannot_be_asked_for_checkpoints_does_not_mean_that_there_are_none() {
    for failing in [Operation::List, Operation::Get] {
        let is_away = Arc::new(AtomicBool::new(false));
        let away = Arc::clone(&is_away);
        let run = Run::in_folder(Faulty::folder(move |operation, _| {
            (operation == failing && away.load(SeqCst)).then_some(Fault::Lost)
        }));
        run.fit(&small(10, 5), &surface(16, 1), &Table::default()).unwrap();
        is_away.store(true, SeqCst);
        let watch = Recorder::default();
        let error = run.fit_watched(&small(10, 5), &surface(16, 1), &Table::default(), &watch).unwrap_err();
        assert_eq!(error.reason(), Reason::StorageUnavailable);
        assert!(watch.seen().steps.is_empty());
        is_away.store(false, SeqCst);
        assert_eq!(run.steps().last(), Some(&10), "nothing is deleted");
    }
}

#[test]
fn old_checkpoints_stay_until_a_newer_one_is_committed() {
    let is_away = Arc::new(AtomicBool::new(false));
    let away = Arc::clone(&is_away);
    let run = Run::in_folder(Faulty::folder(move |operation, path| {
        (operation == Operation::Put && path.ends_with(MANIFEST) && away.load(SeqCst)).then_some(Fault::Lost)
    }));
    let config = small(40, 1_000_000);
    for step in [10, 20] {
        run.fit_watched(&config, &surface(16, 1), &Table::default(), &Recorder::stopping_at(step)).unwrap_err();
    }
    is_away.store(true, SeqCst);
    let watch = Recorder::default();
    run.fit_watched(&config, &surface(16, 1), &Table::default(), &watch).unwrap();
    assert!(watch.seen().warnings[0].contains("step 40 was not written"), "{:?}", watch.seen().warnings);
    for step in ["10", "20"] {
        RUNTIME.block_on(artifact::open(&run.folder.join(step), None)).unwrap();
    }
}

#[test]
fn a_checkpoint_that_another_pod_of_the_run_wrote_is_a_warning_and_that_of_another_run_an_error() {
    let config = small(10, 10);
    for (writer, goes_on) in [(config.run.id(), true), ("2-ffffffff".to_owned(), false)] {
        let run = Run::in_folder(Faulty::folder(|_, _| None));
        let folder = run.folder.join("10");
        let on_step = move |step| {
            if step == 1 {
                let files = vec![("state.json".to_owned(), Bytes::from_static(b"of the other pod"))];
                RUNTIME.block_on(artifact::commit(&folder, Some(&writer), files)).unwrap();
            }
        };
        let watch = Recorder { on_step: Some(Box::new(on_step)), ..Recorder::default() };
        let fitted = run.fit_watched(&config, &surface(16, 1), &Table::default(), &watch);
        assert_eq!(fitted.is_ok(), goes_on);
        let warnings = watch.seen().warnings;
        assert_eq!(warnings.iter().any(|warning| warning.contains("another pod of this run")), goes_on, "{warnings:?}");
        RUNTIME.block_on(artifact::open(&run.folder.join("10"), None)).unwrap();
    }
}
