//! What the tests of this module start from.

use std::sync::Arc;

use jiff::Timestamp;
use stoker_crds::{
    ModelDeployment, ModelTraining, Reason,
    deployment::status::ServedModel,
    training::status::{ModelTrainingStatus, ModelVersion},
};

use super::{
    explain::Explanation,
    status::Observed,
    validate::{Validated, validate},
};
use crate::{
    pods::{PodView, Problem, State},
    workloads::WorkloadView,
};

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + second).unwrap()
}

/// `digits` in the namespace `team`, serving the latest version of the training `digits` on two pods.
pub(super) fn deployment() -> ModelDeployment {
    serde_saphyr::from_str(
        "
        apiVersion: stoker.dev/v1alpha1
        kind: ModelDeployment
        metadata: {name: digits, namespace: team, uid: 6f5b1c1e-0000-4000-8000-000000000001, generation: 3}
        spec:
          model: {training: {name: digits}}
          replicas: 2
        ",
    )
    .unwrap()
}

pub(super) fn digest(version: u32) -> String {
    format!("sha256:{version:064x}")
}

/// The training `digits`, which has published that many versions.
pub(super) fn training(versions: u32) -> ModelTraining {
    let mut training = crate::training::fixtures::training();
    let version = |version| ModelVersion {
        version,
        uri: format!("s3://models/team/digits/models/{version}"),
        digest: digest(version),
        published_at: at(0).to_string(),
        metrics: [("accuracy".to_owned(), 0.972_222_222_222_222_2)].into(),
        storage: None,
    };
    let versions: Vec<ModelVersion> = (1..=versions).rev().map(version).collect();
    training.status =
        Some(ModelTrainingStatus { model: versions.first().cloned(), versions, ..ModelTrainingStatus::default() });
    training
}

/// The deployment, validated, serving version 1.
pub(super) fn validated(change: impl FnOnce(&mut ModelDeployment)) -> Validated {
    let mut deployment = deployment();
    change(&mut deployment);
    validate(&deployment, Some(&training(1)), None, true).unwrap()
}

pub(super) fn model(version: u32) -> ServedModel {
    ServedModel {
        training: Some("digits".into()),
        version: Some(version),
        digest: digest(version),
        uri: format!("s3://models/team/digits/models/{version}"),
        metrics: [("accuracy".to_owned(), 0.972_222_222_222_222_2)].into(),
    }
}

/// The Deployment `digits-<name>` of a version, with that many pods asked for, there, and ready.
pub(super) fn workload(name: &str, version: u32, [replicas, pods, ready]: [u32; 3]) -> Arc<WorkloadView> {
    Arc::new(WorkloadView {
        name: format!("digits-{name}"),
        created_at: at(i64::from(version)),
        model_digest: digest(version),
        model_version: Some(version),
        replicas,
        pods,
        ready,
        ..WorkloadView::default()
    })
}

/// A pod of the revision `<name>` that is not ready, created at second 0 and scheduled at second 1.
pub(super) fn pod(name: &str, problem: Option<Problem>) -> Arc<PodView> {
    Arc::new(PodView {
        training: None,
        name: format!("digits-{name}-xyz"),
        uid: format!("uid-of-{name}"),
        created_at: at(0),
        run: None,
        revision: Some(name.into()),
        scheduled_at: Some(at(1)),
        ip: None,
        ending: None,
        ended_at: None,
        is_ready: false,
        readiness_changed_at: at(0),
        restarts: 0,
        running_since: None,
        state: State::Waiting,
        problem,
        last_words: None,
    })
}

pub(super) fn problem(reason: Reason, since: Option<Timestamp>) -> Option<Problem> {
    Some(Problem { reason, message: format!("{reason} happened"), exit_code: None, since, needs_log: false })
}

/// What is seen of a deployment that wants version 1, of the revision `a`, at second 100.
pub(super) fn observed<'a>(
    deployment: &'a ModelDeployment,
    model: Option<&'a ServedModel>,
    workloads: &'a [Arc<WorkloadView>],
    pods: &'a [Arc<PodView>],
) -> Observed<'a> {
    Observed {
        deployment,
        model,
        revision: model.map(|_| "digits-a".to_owned()),
        workloads,
        pods,
        metrics: None,
        error: None,
        explanation: Explanation::default(),
        now: at(100),
    }
}
