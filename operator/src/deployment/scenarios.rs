//! Whole reconciles against a mocked API server, where any request that is not expected fails the test.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{ResourceExt, runtime::watcher::Event};
use serde::Serialize;
use serde_json::json;
use stoker_crds::{
    ModelDeployment, ModelDeploymentStatus, Reason,
    deployment::status::{Phase, Revision},
};

use super::{
    build::{Objects, build},
    fixtures::{at, deployment, model, training, validated},
    reconcile,
};
use crate::{
    Context, Error,
    labels::Owner,
    lean,
    testing::{ApiServer, Seen, Step, read_back},
    training::fixtures::settings,
    watches::Writers,
    workloads::{ChildView, WorkloadView},
};

const POLICIES: &str = "/apis/networking.k8s.io/v1/namespaces/team/networkpolicies";
const SERVICES: &str = "/api/v1/namespaces/team/services";
const BUDGETS: &str = "/apis/policy/v1/namespaces/team/poddisruptionbudgets";
const WORKLOADS: &str = "/apis/apps/v1/namespaces/team/deployments";
const STATUS: &str = "/apis/stoker.dev/v1alpha1/namespaces/team/modeldeployments/digits/status";

/// `digits` with that many replicas and that status.
fn digits(replicas: u32, status: Option<ModelDeploymentStatus>) -> ModelDeployment {
    let mut deployment = deployment();
    deployment.spec.replicas = replicas;
    deployment.status = status;
    deployment
}

fn owner() -> Owner {
    Owner::deployment("team", "digits")
}

/// The API server's answer to the write of a status.
fn status_written() -> Step {
    Step::written("PATCH", STATUS, serde_json::to_value(deployment()).unwrap())
}

/// The status that was written last.
fn written(requests: &[Seen]) -> ModelDeploymentStatus {
    let last = requests.last().unwrap();
    assert_eq!(last.path, STATUS);
    serde_json::from_value(last.body["status"].clone()).unwrap()
}

/// The API server's answer to a change of a Deployment's number of pods.
fn scaled(name: &str, replicas: u32) -> Step {
    let after = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": "team", "generation": 2},
        "spec": {"replicas": replicas, "selector": {}, "template": {}},
        "status": {"replicas": 2, "readyReplicas": 2},
    });
    Step::written("PATCH", format!("{WORKLOADS}/{name}"), after)
}

fn deleted(path: String) -> Step {
    Step::written("DELETE", path, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
}

fn event() -> Step {
    Step::echo("POST", "/apis/events.k8s.io/v1/namespaces/team/events")
}

/// What a test runs in: a context of a server, that knows the training `digits` with so many versions.
fn context(server: &ApiServer, versions: u32) -> (Arc<Context>, Writers) {
    let (context, mut writers) = server.context();
    writers.trainings.apply_watcher_event(&Event::Apply(training(versions)));
    (Arc::new(context), writers)
}

/// Everything that a version of `digits` needs on so many pods.
fn objects(version: u32, replicas: u32) -> Objects {
    let mut wanted = validated(|deployment| deployment.spec.replicas = replicas);
    wanted.model = model(version);
    build(&wanted, &settings()).unwrap()
}

/// A Deployment as the watch shows it.
fn as_seen(workload: &impl Serialize) -> WorkloadView {
    read_back::<lean::Deployment>(workload).into()
}

/// Lets the watches show everything that version 1 needs, with that many pods asked for, there, and ready.
fn show(context: &Context, [replicas, pods, ready]: [u32; 3]) -> String {
    let Objects { service, policy, budget, workload } = objects(1, replicas);
    let children = &context.children;
    children.services.insert(owner(), "digits".into(), ChildView::of(&service));
    children.policies.insert(owner(), "digits".into(), ChildView::of(&policy));
    if let Some(budget) = budget {
        children.budgets.insert(owner(), "digits".into(), ChildView::of(&budget));
    }
    show_workload(context, as_seen(&workload), [replicas, pods, ready])
}

/// Lets the watch show a Deployment, and returns its name.
fn show_workload(context: &Context, view: WorkloadView, [replicas, pods, ready]: [u32; 3]) -> String {
    let name = view.name.clone();
    context.workloads.insert(
        owner(),
        name.clone(),
        WorkloadView { replicas, pods, ready, has_served: ready > 0, ..view },
    );
    name
}

/// The status that a first reconcile writes of what the watches show.
async fn status_of(shown: [u32; 3]) -> ModelDeploymentStatus {
    let server = ApiServer::expecting([status_written()]);
    let (context, _writers) = context(&server, 1);
    show(&context, shown);
    reconcile(Arc::new(digits(shown[0], None)), context).await.unwrap();
    written(&server.requests().await)
}

#[tokio::test]
async fn one_replica_is_served_at_the_cost_of_four_requests() {
    let server = ApiServer::expecting([
        Step::echo("POST", POLICIES),
        Step::echo("POST", SERVICES),
        Step::echo("POST", WORKLOADS),
        status_written(),
    ]);
    let (context, _writers) = context(&server, 1);
    let revision = objects(1, 1).revision();
    reconcile(Arc::new(digits(1, None)), context).await.unwrap();
    let requests = server.requests().await;
    assert_eq!(requests[2].body["metadata"]["name"], revision);
    assert_eq!(requests[2].body["spec"]["replicas"], 1);
    // A revision's name is of everything in the pod, this build's version included.
    insta::assert_yaml_snapshot!("first_status", written(&requests), { ".revisions[].name" => "[revision]" });
}

#[tokio::test]
async fn the_pods_being_ready_costs_one_request_more_and_rest_costs_none() {
    let first = status_of([1, 0, 0]).await;
    assert_eq!(first.phase, Some(Phase::Progressing));

    let server = ApiServer::expecting([status_written()]);
    let (context, _writers) = context(&server, 1);
    show(&context, [1, 1, 1]);
    reconcile(Arc::new(digits(1, Some(first))), context).await.unwrap();
    let available = written(&server.requests().await);
    assert_eq!(available.phase, Some(Phase::Available));

    let server = ApiServer::expecting([]);
    let (context, _writers) = self::context(&server, 1);
    show(&context, [1, 1, 1]);
    reconcile(Arc::new(digits(1, Some(available))), context).await.unwrap();
    server.requests().await;
}

#[tokio::test]
async fn a_service_of_somebody_else_is_left_alone_and_nothing_is_deployed() {
    let foreign = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "digits", "namespace": "team"}});
    let server = ApiServer::expecting([
        Step::echo("POST", POLICIES),
        Step::refuse("POST", SERVICES, 409, "AlreadyExists", "services \"digits\" already exists"),
        Step::get(format!("{SERVICES}/digits"), foreign),
        status_written(),
        event(),
    ]);
    let (context, _writers) = context(&server, 1);
    let error = reconcile(Arc::new(digits(1, None)), context).await.unwrap_err();
    assert!(matches!(error, Error::NameConflict { .. }), "{error:?}");
    let requests = server.requests().await;
    let status = written(&requests[..4]);
    assert_eq!((status.phase, status.error.unwrap().reason), (Some(Phase::Failed), Reason::NameConflict));
    assert_eq!(requests[4].body["reason"], "NameConflict");
}

#[tokio::test]
async fn a_new_version_gets_one_pod_beside_the_ones_that_serve() {
    let before = status_of([2, 2, 2]).await;
    let server = ApiServer::expecting([Step::echo("POST", WORKLOADS), status_written()]);
    let (context, _writers) = context(&server, 2);
    let old = show(&context, [2, 2, 2]);
    reconcile(Arc::new(digits(2, Some(before))), context).await.unwrap();
    let requests = server.requests().await;
    let new = &requests[0].body;
    assert_eq!(
        (&new["spec"]["replicas"], new["metadata"]["annotations"]["stoker.dev/model-version"].as_str()),
        (&json!(1), Some("2"))
    );
    let status = written(&requests);
    assert_eq!((status.phase, status.summary.unwrap().version.as_deref()), (Some(Phase::Progressing), Some("1→2")));
    assert_eq!(status.revisions[1].name, old);
}

#[tokio::test]
async fn other_credentials_of_the_training_get_one_pod_beside_the_ones_that_serve() {
    let server = ApiServer::expecting([Step::echo("POST", WORKLOADS), status_written()]);
    let (context, mut writers) = context(&server, 1);
    let old = show(&context, [2, 2, 2]);
    let mut training = training(1);
    training.spec.storage.as_mut().unwrap().secret_name = Some("other".into());
    writers.trainings.apply_watcher_event(&Event::Apply(training));
    reconcile(Arc::new(digits(2, None)), context).await.unwrap();
    let requests = server.requests().await;
    assert_eq!(requests[0].body["spec"]["replicas"], 1);
    let served: Vec<_> =
        written(&requests).revisions.into_iter().map(|of| (of.name == old, of.ready_replicas)).collect();
    assert_eq!(served, [(false, 0), (true, 2)]);
}

#[tokio::test]
async fn a_ready_pod_of_the_new_version_takes_the_place_of_an_old_one() {
    let old = objects(1, 2).revision();
    let server = ApiServer::expecting([scaled(&old, 1), status_written()]);
    let (context, _writers) = context(&server, 2);
    show(&context, [2, 2, 2]);
    show_workload(&context, as_seen(&objects(2, 2).workload), [1, 1, 1]);
    reconcile(Arc::new(digits(2, None)), context).await.unwrap();
    let requests = server.requests().await;
    assert_eq!(requests[0].body, json!({"spec": {"replicas": 1}}));
    let traffic: Vec<_> = written(&requests).revisions.iter().map(|revision| revision.traffic).collect();
    assert_eq!(traffic, [33, 67]);
}

#[tokio::test]
async fn the_last_old_deployment_goes_and_the_roll_is_told() {
    let old = objects(1, 1).revision();
    let mut rolling = status_of([1, 1, 1]).await;
    rolling.phase = Some(Phase::Progressing);
    rolling.revisions.push(Revision::default());
    let server = ApiServer::expecting([deleted(format!("{WORKLOADS}/{old}")), status_written(), event()]);
    let (context, _writers) = context(&server, 2);
    show(&context, [0, 0, 0]);
    show_workload(&context, as_seen(&objects(2, 1).workload), [1, 1, 1]);
    reconcile(Arc::new(digits(1, Some(rolling))), context).await.unwrap();
    let requests = server.requests().await;
    assert_eq!(written(&requests[..2]).phase, Some(Phase::Available));
    assert_eq!(requests[2].body["reason"], "RolledOut");
}

#[tokio::test]
async fn what_was_deleted_is_made_again_and_what_was_changed_is_put_right() {
    let status = status_of([2, 2, 2]).await;
    let server =
        ApiServer::expecting([Step::echo("PATCH", format!("{POLICIES}/digits")), Step::echo("POST", SERVICES)]);
    let (context, _writers) = context(&server, 1);
    show(&context, [2, 2, 2]);
    context.children.services.remove(&owner(), "digits");
    let [ours, theirs] = [7, 8].map(|version| ChildView { version, ..ChildView::of(&objects(1, 2).policy) });
    context.memories.with(&deployment().uid().unwrap(), |memory| memory.wrote("NetworkPolicy digits".into(), &ours));
    context.children.policies.insert(owner(), "digits".into(), theirs);
    reconcile(Arc::new(digits(2, Some(status))), context).await.unwrap();
    server.requests().await;
}

#[tokio::test]
async fn a_watch_that_does_not_show_our_last_write_yet_is_waited_for() {
    let server = ApiServer::expecting([status_written()]);
    let (context, _writers) = context(&server, 1);
    // It has been scaled to 3, and the watch still shows 2.
    let name = show(&context, [2, 2, 2]);
    let scaled = ChildView { digest: String::new(), version: 2 };
    context.memories.with(&deployment().uid().unwrap(), |memory| memory.wrote(format!("Deployment {name}"), &scaled));
    reconcile(Arc::new(digits(3, None)), context).await.unwrap();
    assert_eq!(written(&server.requests().await).phase, Some(Phase::Progressing));
}

#[tokio::test]
async fn a_missing_training_is_said() {
    let server = ApiServer::expecting([status_written()]);
    let (context, _writers) = context(&server, 0);
    reconcile(Arc::new(digits(1, None)), context).await.unwrap();
    insta::assert_yaml_snapshot!("pending_status", written(&server.requests().await));
}

#[tokio::test]
async fn what_serves_is_scaled_though_its_training_is_gone() {
    let name = objects(1, 2).revision();
    let server = ApiServer::expecting([scaled(&name, 3), status_written(), event()]);
    let (context, _writers) = context(&server, 0);
    show(&context, [2, 2, 2]);
    reconcile(Arc::new(digits(3, None)), context).await.unwrap();
    let requests = server.requests().await;
    assert_eq!(requests[0].body, json!({"spec": {"replicas": 3}}));
    assert_eq!(written(&requests[..2]).phase, Some(Phase::Degraded));
}

#[tokio::test]
async fn scaled_to_one_replica_it_needs_no_budget() {
    let name = objects(1, 2).revision();
    let server = ApiServer::expecting([deleted(format!("{BUDGETS}/digits")), scaled(&name, 1), status_written()]);
    let (context, _writers) = context(&server, 1);
    show(&context, [2, 2, 2]);
    reconcile(Arc::new(digits(1, None)), context).await.unwrap();
    server.requests().await;
}

#[tokio::test]
async fn a_deployment_that_is_being_deleted_is_left_alone() {
    let server = ApiServer::expecting([]);
    let (context, _writers) = context(&server, 1);
    let mut deleted = digits(1, None);
    deleted.metadata.deletion_timestamp = Some(Time(at(0)));
    reconcile(Arc::new(deleted), context).await.unwrap();
    server.requests().await;
}
