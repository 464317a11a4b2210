//! The steps that tests are made of.

use std::{collections::BTreeMap, time::Duration};

use futures::{AsyncBufReadExt as _, TryStreamExt as _};
use k8s_openapi::{
    ByteString,
    api::{
        batch::v1::Job,
        core::v1::{Pod, Secret},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Resource,
    api::{DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams},
    core::NamespaceResourceScope,
};
use serde_json::{Value, json};
use stoker_crds::{
    ModelDeployment, ModelTraining, ModelTrainingStatus, Reason,
    deployment::status::Phase as DeploymentPhase,
    serving::INFERENCE_PORT,
    training::status::{Phase, StatusError},
};
use stoker_e2e::{
    Namespace,
    endpoint::Endpoint,
    inference::Model,
    manifest::FIELD_MANAGER,
    wait::{Kind, Wait, status_yaml},
};

use crate::lines;

/// How long a step may take on a machine that has much else to do.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);

/// Waits for something up to [`LIMIT`].
pub(crate) fn wait(what: impl Into<String>) -> Wait {
    Wait::new(what, LIMIT)
}

/// Applies a training of [`lines`].
pub(crate) async fn train(namespace: &Namespace, name: &str, spec: &Value) {
    namespace.apply(&lines::training(name, spec)).await.unwrap();
}

/// The training once `holds` of its status and its current spec.
pub(crate) async fn training_when(
    namespace: &Namespace,
    name: &str,
    what: &str,
    holds: impl Fn(&ModelTrainingStatus) -> bool,
) -> ModelTraining {
    wait(format!("ModelTraining {name} {what}"))
        .until(&namespace.api::<ModelTraining>(), name, |training| current(training).is_some_and(&holds))
        .await
        .unwrap()
}

/// The status, if it is about the current spec.
fn current(training: &ModelTraining) -> Option<&ModelTrainingStatus> {
    let status = training.status.as_ref()?;
    (status.observed_generation == training.metadata.generation).then_some(status)
}

/// The training's status once the run is over, which must be a success.
pub(crate) async fn succeeded(namespace: &Namespace, name: &str) -> ModelTrainingStatus {
    let status = finished(namespace, name).await;
    assert_eq!(status.phase, Some(Phase::Succeeded));
    status
}

/// What is wrong with a run once it is over, which must be a failure.
pub(crate) async fn failed(namespace: &Namespace, name: &str) -> (ModelTrainingStatus, StatusError) {
    let status = finished(namespace, name).await;
    assert_eq!(status.phase, Some(Phase::Failed));
    let error = status.error.clone().expect("a failed training says why");
    (status, error)
}

async fn finished(namespace: &Namespace, name: &str) -> ModelTrainingStatus {
    let is_finished = |status: &ModelTrainingStatus| status.phase.is_some_and(Phase::is_finished);
    let training = training_when(namespace, name, "to be finished", is_finished).await;
    eprintln!("{}", status_yaml(&training));
    training.status.unwrap()
}

/// What is wrong with a training that still has a chance.
pub(crate) async fn error_of(namespace: &Namespace, name: &str, reason: Reason) -> StatusError {
    let shows = |status: &ModelTrainingStatus| status.error.as_ref().is_some_and(|error| error.reason == reason);
    let training = training_when(namespace, name, &format!("to show {reason}"), shows).await;
    training.status.unwrap().error.unwrap()
}

/// Applies a deployment of a training, of the same name, and waits until it serves.
pub(crate) async fn deploy(namespace: &Namespace, name: &str, spec: &Value) -> ModelDeployment {
    namespace.apply(&lines::deployment(name, name, spec)).await.unwrap();
    available(namespace, name, 1).await
}

/// The deployment once all its replicas serve that version.
pub(crate) async fn available(namespace: &Namespace, name: &str, version: u32) -> ModelDeployment {
    wait(format!("ModelDeployment {name} to serve version {version}"))
        .until(&namespace.api(), name, |deployment: &ModelDeployment| {
            deployment.status.as_ref().is_some_and(|status| {
                status.observed_generation == deployment.metadata.generation
                    && status.phase == Some(DeploymentPhase::Available)
                    && status.model.as_ref().and_then(|model| model.version) == Some(version)
                    && status.ready_replicas == deployment.spec.replicas
                    && status.replicas == deployment.spec.replicas
            })
        })
        .await
        .unwrap()
}

/// A deployed model and the way to it.
pub(crate) struct Served {
    pub(crate) model: Model,
    pub(crate) endpoint: Endpoint,
}

/// The model behind the Service of a deployment.
pub(crate) async fn serve(namespace: &Namespace, deployment: &str) -> Served {
    let endpoint = wait(format!("the Service {deployment} to answer"))
        .until_ok(async || {
            let endpoint = Endpoint::of(&namespace.client, &namespace.name, deployment, INFERENCE_PORT).await;
            let endpoint = endpoint.map_err(|error| error.to_string())?;
            let ready = reqwest::get(format!("{}/v2/health/ready", endpoint.url())).await;
            ready.and_then(reqwest::Response::error_for_status).map_err(|error| error.to_string())?;
            Ok(endpoint)
        })
        .await
        .unwrap();
    Served { model: Model::new(&endpoint.url(), deployment).unwrap(), endpoint }
}

/// Changes some fields of an object, as `kubectl patch --type merge` does.
pub(crate) async fn patch<K: Kind + Resource<Scope = NamespaceResourceScope>>(
    namespace: &Namespace,
    name: &str,
    change: Value,
) -> K {
    try_patch(namespace, name, change).await.unwrap()
}

/// The same, where a refusal is expected.
pub(crate) async fn try_patch<K: Kind + Resource<Scope = NamespaceResourceScope>>(
    namespace: &Namespace,
    name: &str,
    change: Value,
) -> kube::Result<K> {
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    namespace.api::<K>().patch(name, &params, &Patch::Merge(change)).await
}

/// The labels of what belongs to a training.
pub(crate) fn labels_of(training: &str) -> String {
    format!("stoker.dev/training={training}")
}

/// The name of the training's running pod.
pub(crate) async fn running_pod(namespace: &Namespace, training: &str) -> String {
    wait(format!("a running pod of ModelTraining {training}"))
        .until_any(&namespace.api(), &labels_of(training), |pods: &BTreeMap<String, Pod>| {
            let runs = |pod: &Pod| {
                pod.metadata.deletion_timestamp.is_none()
                    && pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"))
            };
            pods.iter().find(|(_, pod)| runs(pod)).map(|(name, _)| name.clone())
        })
        .await
        .unwrap()
}

/// Waits until a pod's log holds a text.
pub(crate) async fn logged(namespace: &Namespace, pod: &str, text: &str) {
    let follow = LogParams { follow: true, ..LogParams::default() };
    let mut lines = namespace.api::<Pod>().log_stream(pod, &follow).await.unwrap().lines();
    let found = async {
        while let Some(line) = lines.try_next().await.unwrap() {
            if line.contains(text) {
                return;
            }
        }
        panic!("pod {pod} ended before it logged '{text}'");
    };
    tokio::time::timeout(LIMIT, found).await.unwrap_or_else(|_| panic!("pod {pod} did not log '{text}'"));
}

/// Waits until nothing of a kind with these labels is left.
pub(crate) async fn none_left<K: Kind + Resource<Scope = NamespaceResourceScope>>(namespace: &Namespace, labels: &str) {
    wait(format!("all {} with '{labels}' to be gone", K::plural(&())))
        .until_any(&namespace.api::<K>(), labels, |left: &BTreeMap<String, K>| left.is_empty().then_some(()))
        .await
        .unwrap();
}

/// Ends a pod without a warning, as a node does that breaks down.
pub(crate) async fn kill(namespace: &Namespace, pod: &str) {
    namespace.api::<Pod>().delete(pod, &DeleteParams::default().grace_period(0)).await.unwrap();
}

/// Deletes the training's Jobs and waits until they are gone.
pub(crate) async fn delete_jobs(namespace: &Namespace, training: &str) {
    let list = ListParams::default().labels(&labels_of(training));
    let jobs = namespace.api::<Job>();
    for job in jobs.list(&list).await.unwrap() {
        jobs.delete(job.metadata.name.as_deref().unwrap(), &DeleteParams::foreground()).await.unwrap();
    }
    none_left::<Job>(namespace, &labels_of(training)).await;
}

/// Creates a Secret.
pub(crate) async fn secret(namespace: &Namespace, name: &str, entries: &[(&str, String)]) {
    let data = entries.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.clone().into_bytes()))).collect();
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    let secret = Secret { metadata, data: Some(data), ..Secret::default() };
    namespace.api().create(&PostParams::default(), &secret).await.unwrap();
}

/// A spec with more in it.
pub(crate) fn with(mut spec: Value, more: Value) -> Value {
    stoker_e2e::manifest::merge(&mut spec, &more);
    spec
}

/// Holds the run back, or lets it go on.
pub(crate) fn suspend(suspend: bool) -> Value {
    json!({"spec": {"suspend": suspend}})
}
