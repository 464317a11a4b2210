//! What the tests start from.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;
use stoker_crds::{ModelTraining, ModelTrainingSpec, Progress, Reason, RunReport, deployment::Version};

use super::{
    job::{End, JobView},
    run::Run,
};
use crate::{
    pods::{PodView, Problem, State},
    settings::Settings,
};

/// A ModelTraining as the API server holds it, not reconciled yet.
pub(crate) fn training() -> ModelTraining {
    let spec: ModelTrainingSpec = serde_json::from_value(json!({
        "task": "Classification",
        "data": {"source": {"uri": "s3://datasets/digits/*.csv"}, "format": null, "target": ["digit"]},
        "model": {"mlp": {"hidden": [64, 32]}},
        "train": {"loss": null, "epochs": 50},
        "storage": {"uri": "s3://models", "secretName": "s3"},
    }))
    .unwrap();
    let metadata = ObjectMeta {
        name: Some("digits".into()),
        namespace: Some("team".into()),
        uid: Some("0a1b2c3d-0000-4000-8000-000000000000".into()),
        generation: Some(1),
        resource_version: Some("10".into()),
        ..ObjectMeta::default()
    };
    ModelTraining { metadata, spec, status: None }
}

/// A ModelTraining that starts from what `stories` publishes, not reconciled yet.
pub(crate) fn fine_tuning(version: Version) -> ModelTraining {
    let mut training = training();
    training.spec = serde_json::from_value(json!({
        "task": "LanguageModeling",
        "data": {"source": {"uri": "s3://datasets/letters/*.txt"}, "format": null},
        "model": {"from": {"training": {"name": "stories", "version": version}, "lora": {"rank": 4}}},
        "storage": {"uri": "s3://models", "secretName": "s3"},
    }))
    .unwrap();
    training
}

/// The ModelTraining `stories` of a language model, with these versions.
pub(crate) fn base(versions: &[u32]) -> ModelTraining {
    let version = |number: &u32| {
        json!({
            "version": number, "uri": format!("s3://bases/team/stories/models/{number}"),
            "digest": format!("sha256:{number:064}"), "publishedAt": "2027-01-15T08:00:00Z",
        })
    };
    let mut base = training();
    (base.metadata.name, base.metadata.uid) = (Some("stories".into()), Some("uid-of-stories".into()));
    base.spec = serde_json::from_value(json!({
        "task": "LanguageModeling",
        "data": {"source": {"uri": "s3://datasets/stories/*.txt"}, "format": null},
        "model": {"transformer": {"preset": "tiny"}},
        "storage": {"uri": "s3://bases", "secretName": "base-s3"},
    }))
    .unwrap();
    let versions: Vec<_> = versions.iter().rev().map(version).collect();
    base.status = Some(serde_json::from_value(json!({"model": versions.first(), "versions": versions})).unwrap());
    base
}

/// The settings of an operator that was installed with nothing but defaults.
pub(crate) fn settings() -> Settings {
    use clap::Parser;
    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        settings: Settings,
    }
    Arguments::parse_from(["stoker-operator", "--trainer-image=stoker-trainer:test", "--identity=operator-0"]).settings
}

/// The time in tests.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

/// A pod of run 1, created so many seconds ago.
pub(crate) fn pod(name: &str, state: State, age: i64) -> PodView {
    let created_at = now() - SignedDuration::from_secs(age);
    PodView {
        name: name.into(),
        uid: format!("uid-of-{name}"),
        run: Some(1),
        created_at,
        running_since: Some(created_at),
        ended_at: state.has_ended().then_some(now()),
        state,
        ..PodView::default()
    }
}

/// A pod of run 1 that has failed like this.
pub(crate) fn failed_pod(name: &str, reason: Reason, exit_code: i32, age: i64) -> PodView {
    let message = format!("{reason} happened");
    let problem = Problem { reason, message, exit_code: Some(exit_code), since: None, needs_log: false };
    PodView { problem: Some(problem), ..pod(name, State::Failed, age) }
}

/// A pod of run 1 that has published a model.
pub(crate) fn succeeded_pod() -> PodView {
    PodView { last_words: Some(as_text(&report())), ..pod("digits-1-aaaaa", State::Succeeded, 60) }
}

/// As a container leaves it behind.
pub(crate) fn as_text(report: &RunReport) -> Box<str> {
    serde_json::to_string(report).unwrap().into()
}

/// The report of a run that has published a model.
pub(crate) fn report() -> RunReport {
    serde_json::from_value(json!({
        "run": "1-0a1b2c3d",
        "data": {"rowsRead": 1797, "rowsDropped": {"require": 3}, "train": 1435, "validation": 179, "test": 180, "fingerprint": "sha256:00"},
        "metrics": {"validation": {"loss": 0.1134, "accuracy": 0.966}, "test": {"loss": 0.121, "accuracy": 0.9722}},
        "epoch": 50, "totalEpochs": 50, "step": 1150, "totalSteps": 1150,
        "model": {"uri": "s3://models/team/digits/models/sha256-11", "digest": "sha256:11", "publishedAt": "2027-01-15T08:00:00Z"},
        "checkpoint": {"step": 1100, "time": "2027-01-15T07:59:50Z", "uri": "s3://models/team/digits/runs/1/checkpoints/1100", "digest": "sha256:22"},
        "device": {"name": "CPU"}, "gpuSeconds": 0.0, "peakMemoryBytes": 314_572_800,
    }))
    .unwrap()
}

/// What a trainer in the middle of its run answers.
pub(crate) fn progress() -> Progress {
    serde_json::from_value(json!({
        "run": "1-0a1b2c3d", "stage": "Training",
        "data": {"rowsRead": 1797, "rowsDropped": {}, "train": 1437, "validation": 180, "test": 180},
        "epoch": 21, "totalEpochs": 50, "step": 483, "totalSteps": 1150,
        "samplesPerSecond": 90_123.4, "tokensPerSecond": 5_767_897.6, "tflops": 0.002_034_1, "mfu": 0.312_34,
        "dataWait": 0.012_34, "checkpointStall": 0.0, "etaSeconds": 12.3,
        "estimate": {"parameters": 6_570, "weightsBytes": 26_280, "gradientsBytes": 26_280, "optimizerBytes": 52_560,
            "activationsBytes": 50_000, "copiesBytes": 90_000},
        "metrics": {"train": {"loss": 0.0813}, "validation": {"loss": 0.1134, "accuracy": 0.966}},
        "history": [{"epoch": 20, "step": 460, "metrics": {"train": {"loss": 0.09}}}],
        "checkpoint": {"step": 460, "time": "2027-01-15T07:59:50Z", "uri": "s3://models/team/digits/runs/1/checkpoints/460", "digest": "sha256:22"},
        "resumedFrom": null, "warnings": [], "device": {"name": "CPU", "memoryBytes": 2_684_354_560u64},
        "peakMemoryBytes": 314_572_800,
    }))
    .unwrap()
}

/// The Job of run 1, created so many seconds ago.
pub(crate) fn job(end: Option<End>, age: i64) -> JobView {
    JobView {
        name: "digits-1".into(),
        uid: "uid-of-job".into(),
        training: training().metadata.uid.unwrap(),
        run: 1,
        digest: Run::of(&training()).unwrap().digest.to_string(),
        image: Some(settings().trainer_image),
        begun_at: now() - SignedDuration::from_secs(age),
        is_suspended: false,
        is_deleting: false,
        retries: Some(3),
        deadline_seconds: None,
        end,
    }
}
