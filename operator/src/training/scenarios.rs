//! Whole reconciles against a mocked API server, where any request that is not expected fails the test.

use std::{sync::Arc, time::Duration};

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::runtime::{controller::Action, watcher::Event};
use serde_json::{Value, json};
use stoker_crds::{ModelTraining, ModelTrainingStatus, Reason, deployment::Version, training::status::Phase};

use super::{
    build::{Objects, build},
    dereference::Observed,
    fixtures,
    job::{End, JobView},
    reconcile,
    run::Run,
    status,
    validate::validate,
};
use crate::{
    error::Error,
    labels::Owner,
    pods::{PodView, State},
    settings::Settings,
    testing::{ApiServer, Seen, Step},
};

const POLICY: &str = "/apis/networking.k8s.io/v1/namespaces/team/networkpolicies/stoker-trainers";
const CONFIG_MAPS: &str = "/api/v1/namespaces/team/configmaps";
const JOBS: &str = "/apis/batch/v1/namespaces/team/jobs";
const CORE_EVENTS: &str = "/api/v1/namespaces/team/events";
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/team/events";
const STATUS: &str = "/apis/stoker.dev/v1alpha1/namespaces/team/modeltrainings/digits/status";

/// The status that was written.
fn written(requests: &[Seen]) -> ModelTrainingStatus {
    let last = requests.iter().rev().find(|request| request.path == STATUS).unwrap();
    serde_json::from_value(last.body["status"].clone()).unwrap()
}

/// What the first run of the training needs.
fn objects() -> Objects {
    let (training, settings) = (fixtures::training(), fixtures::settings());
    let run = validate(&training, &Run::of(&training).unwrap(), None, &settings).unwrap();
    build(&run, &settings).unwrap()
}

/// The API server's answer to the write of a status.
fn status_written() -> Step {
    Step::written("PATCH", STATUS, serde_json::to_value(fixtures::training()).unwrap())
}

#[tokio::test]
async fn the_first_reconcile_makes_the_run_and_says_so() {
    let server = ApiServer::expecting([
        Step::echo("PATCH", POLICY),
        Step::echo("POST", CONFIG_MAPS),
        Step::echo("POST", JOBS),
        status_written(),
    ]);
    let (context, _writers) = server.context();
    reconcile(Arc::new(fixtures::training()), Arc::new(context)).await.unwrap();
    let requests = server.requests().await;
    let config: Value = serde_json::from_str(requests[1].body["data"]["config.json"].as_str().unwrap()).unwrap();
    assert_eq!(config["run"]["number"], 1);
    assert_eq!(requests[2].body["metadata"]["name"], "digits-1");
    insta::assert_yaml_snapshot!("first_status", written(&requests));
}

/// The training as the API server shows it before its status was written for the first time.
fn born() -> ModelTraining {
    let mut born = ModelTraining { status: Some(ModelTrainingStatus::initial()), ..fixtures::training() };
    born.metadata.creation_timestamp = Some(Time(fixtures::now()));
    born
}

#[tokio::test]
async fn a_training_that_only_waits_for_its_pod_as_it_was_born_costs_two_requests() {
    let server =
        ApiServer::expecting([Step::echo("PATCH", POLICY), Step::echo("POST", CONFIG_MAPS), Step::echo("POST", JOBS)]);
    let (context, _writers) = server.context();
    reconcile(Arc::new(born()), Arc::new(context)).await.unwrap();
    server.requests().await;
}

#[tokio::test]
async fn a_training_that_waits_for_longer_is_looked_at_again_to_say_so() {
    let server = ApiServer::expecting([Step::echo("PATCH", POLICY)]);
    let (context, _writers) = server.context();
    let owner = Owner::training("team", "digits");
    context.jobs.insert(owner.clone(), "digits-1".into(), fixtures::job(None, 0));
    let pod = fixtures::pod("digits-1-aaaaa", State::Waiting, 0);
    let pod = PodView { training: born().metadata.uid, running_since: None, ..pod };
    context.pods.insert(owner, pod.name.clone(), pod);
    let action = reconcile(Arc::new(born()), Arc::new(context)).await.unwrap();
    assert_eq!(action, Action::requeue(Duration::from_secs(60)));
    server.requests().await;
}

#[tokio::test]
async fn the_second_training_of_a_namespace_costs_three_requests() {
    let server = ApiServer::expecting([
        Step::echo("PATCH", POLICY),
        Step::echo("POST", CONFIG_MAPS),
        Step::echo("POST", JOBS),
        status_written(),
        Step::echo("POST", CONFIG_MAPS),
        Step::echo("POST", JOBS),
        Step::written("PATCH", STATUS.replace("digits", "wine"), serde_json::to_value(fixtures::training()).unwrap()),
    ]);
    let (context, _writers) = server.context();
    let context = Arc::new(context);
    reconcile(Arc::new(fixtures::training()), context.clone()).await.unwrap();
    let mut other = fixtures::training();
    other.metadata.name = Some("wine".into());
    other.metadata.uid = Some("22222222-0000-4000-8000-000000000000".into());
    reconcile(Arc::new(other), context).await.unwrap();
    assert_eq!(server.requests().await.len(), 7);
}

#[tokio::test]
async fn a_run_whose_pod_has_not_started_is_started_with_the_image_of_an_upgrade() {
    let owner = Owner::training("team", "digits");
    let deleted = |path: String| Step::echo("DELETE", path);
    let server = ApiServer::expecting([
        Step::echo("PATCH", POLICY),
        deleted(format!("{JOBS}/digits-1")),
        deleted(format!("{CONFIG_MAPS}/digits-1")),
        status_written(),
    ]);
    let (context, _writers) = server.context();
    let before = JobView { image: Some("stoker-trainer:before".into()), ..fixtures::job(None, 1) };
    context.jobs.insert(owner, "digits-1".into(), before);
    reconcile(Arc::new(fixtures::training()), Arc::new(context)).await.unwrap();
    server.requests().await;
}

#[tokio::test]
async fn a_configuration_that_is_left_of_another_spec_is_replaced() {
    let mut left = serde_json::to_value(objects().config_map).unwrap();
    left["data"]["config.json"] = "{}".into();
    let server = ApiServer::expecting([
        Step::echo("PATCH", POLICY),
        Step::refuse("POST", CONFIG_MAPS, 409, "AlreadyExists", "configmaps \"digits-1\" already exists"),
        Step::get(format!("{CONFIG_MAPS}/digits-1"), left),
        Step::echo("DELETE", format!("{CONFIG_MAPS}/digits-1")),
        Step::echo("POST", CONFIG_MAPS),
        Step::echo("POST", JOBS),
        status_written(),
    ]);
    let (context, _writers) = server.context();
    reconcile(Arc::new(fixtures::training()), Arc::new(context)).await.unwrap();
    server.requests().await;
}

#[tokio::test]
async fn a_configuration_that_was_deleted_is_made_again_for_a_pod_that_waits_for_it() {
    let missing = json!({"apiVersion": "v1", "kind": "EventList", "items": [{
        "metadata": {"name": "digits-1-aaaaa.1", "namespace": "team"},
        "involvedObject": {"kind": "Pod", "name": "digits-1-aaaaa"},
        "type": "Warning", "reason": "FailedMount",
        "message": "MountVolume.SetUp failed for volume \"config\" : configmap \"digits-1\" not found",
    }]});
    let server = ApiServer::expecting([
        Step::get(CORE_EVENTS, missing),
        Step::echo("PATCH", POLICY),
        Step::echo("POST", CONFIG_MAPS),
        status_written(),
        Step::echo("POST", EVENTS),
    ]);
    let (context, _writers) = server.context();
    let owner = Owner::training("team", "digits");
    context.jobs.insert(owner.clone(), "digits-1".into(), fixtures::job(None, 60));
    let pod = fixtures::pod("digits-1-aaaaa", State::Waiting, 60);
    let (training, scheduled_at) = (fixtures::training().metadata.uid, Some(pod.created_at));
    let pod = PodView { training, scheduled_at, running_since: None, ..pod };
    context.pods.insert(owner, pod.name.clone(), pod);
    reconcile(Arc::new(fixtures::training()), Arc::new(context)).await.unwrap();
    let error = written(&server.requests().await).error.unwrap();
    assert_eq!((error.reason, error.pod.as_deref()), (Reason::PodFailed, Some("digits-1-aaaaa")));
}

#[tokio::test]
async fn a_pod_that_is_refused_after_one_that_failed_is_explained_by_the_jobs_events() {
    let refused = json!({"apiVersion": "v1", "kind": "EventList", "items": [{
        "metadata": {"name": "digits-1.1", "namespace": "team"},
        "involvedObject": {"kind": "Job", "name": "digits-1"},
        "type": "Warning", "reason": "FailedCreate",
        "message": "pods \"digits-1-bbbbb\" is forbidden: exceeded quota: gpus",
    }]});
    let server = ApiServer::expecting([
        Step::get(CORE_EVENTS, refused),
        Step::echo("PATCH", POLICY),
        status_written(),
        Step::echo("POST", EVENTS),
    ]);
    let (context, _writers) = server.context();
    let owner = Owner::training("team", "digits");
    context.jobs.insert(owner.clone(), "digits-1".into(), fixtures::job(None, 60));
    let failed = PodView {
        training: fixtures::training().metadata.uid,
        ended_at: Some(fixtures::now() - SignedDuration::from_secs(20)),
        ..fixtures::failed_pod("digits-1-aaaaa", Reason::OutOfMemory, 137, 50)
    };
    context.pods.insert(owner, failed.name.clone(), failed);
    reconcile(Arc::new(fixtures::training()), Arc::new(context)).await.unwrap();
    let error = written(&server.requests().await).error.unwrap();
    assert_eq!(error.reason, Reason::PodRefused);
    assert!(error.message.contains("exceeded quota"), "{}", error.message);
}

#[tokio::test]
async fn a_run_whose_report_was_lost_with_its_pod_ends_once_more() {
    let server = ApiServer::expecting([
        Step::echo("PATCH", POLICY),
        Step::echo("DELETE", format!("{JOBS}/digits-1")),
        Step::echo("DELETE", format!("{CONFIG_MAPS}/digits-1")),
        status_written(),
    ]);
    let (context, _writers) = server.context();
    let complete = fixtures::job(Some(End::Complete), 60);
    context.jobs.insert(Owner::training("team", "digits"), "digits-1".into(), complete);
    reconcile(Arc::new(fixtures::training()), Arc::new(context)).await.unwrap();
    assert_eq!(written(&server.requests().await).phase, Some(Phase::Pending));
}

#[tokio::test]
async fn what_a_deleted_training_of_the_same_name_left_is_not_taken_for_its_own() {
    let server = ApiServer::expecting([Step::echo("PATCH", POLICY), status_written()]);
    let (context, _writers) = server.context();
    let other = JobView { training: "another".into(), ..fixtures::job(Some(End::Complete), 60) };
    context.jobs.insert(Owner::training("team", "digits"), "digits-1".into(), other);
    reconcile(Arc::new(fixtures::training()), Arc::new(context)).await.unwrap();
    let status = written(&server.requests().await);
    assert_eq!((status.phase, status.model), (Some(Phase::Pending), None));
    assert!(status.conditions[0].message.contains("deleted ModelTraining"), "{}", status.conditions[0].message);
}

#[tokio::test]
async fn a_version_is_listed_with_the_storage_that_it_was_written_to_be_it_the_operators() {
    let server = ApiServer::expecting([Step::echo("PATCH", POLICY), status_written(), Step::echo("POST", EVENTS)]);
    let (mut context, _writers) = server.context();
    let mut training = fixtures::training();
    let default_storage = training.spec.storage.take();
    context.settings = Arc::new(Settings { default_storage, ..fixtures::settings() });
    let owner = Owner::training("team", "digits");
    context.jobs.insert(owner.clone(), "digits-1".into(), fixtures::job(Some(End::Complete), 60));
    let pod = PodView { training: training.metadata.uid.clone(), ..fixtures::succeeded_pod() };
    context.pods.insert(owner, pod.name.clone(), pod);
    reconcile(Arc::new(training), Arc::new(context)).await.unwrap();
    let status = written(&server.requests().await);
    let storage = status.model.unwrap().storage.unwrap();
    assert_eq!((storage.uri.as_str(), storage.secret_name.as_deref()), ("s3://models", Some("s3")));
    assert_eq!(status.versions[0].storage, Some(storage));
}

#[tokio::test]
async fn a_finished_run_is_never_run_again_though_its_job_is_gone() {
    let mut training = fixtures::training();
    training.status = Some(finished(&training));
    let server = ApiServer::expecting([]);
    let (context, _writers) = server.context();
    reconcile(Arc::new(training), Arc::new(context)).await.unwrap();
    assert!(server.requests().await.is_empty());
}

#[tokio::test]
async fn a_changed_spec_of_a_finished_training_starts_the_next_run() {
    let mut training = fixtures::training();
    training.status = Some(finished(&training));
    training.spec.train.batch_size = 128;
    training.metadata.generation = Some(2);
    let server = ApiServer::expecting([
        Step::echo("PATCH", POLICY),
        Step::echo("POST", CONFIG_MAPS),
        Step::echo("POST", JOBS),
        status_written(),
    ]);
    let (context, _writers) = server.context();
    let action = reconcile(Arc::new(training), Arc::new(context)).await.unwrap();
    assert_eq!(
        action,
        Action::requeue(Duration::ZERO),
        "what happened while the run still counted as finished is not missed"
    );
    let requests = server.requests().await;
    assert_eq!(requests[2].body["metadata"]["name"], "digits-2");
    let status = written(&requests);
    assert_eq!((status.run, status.phase, status.observed_generation), (2, Some(Phase::Pending), Some(2)));
    assert_eq!(status.finished_at, None);
}

#[tokio::test]
async fn a_spec_that_cannot_be_run_is_said_in_status() {
    let mut training = fixtures::training();
    training.spec.storage = None;
    let server = ApiServer::expecting([status_written(), Step::echo("POST", EVENTS)]);
    let (context, _writers) = server.context();
    let error = reconcile(Arc::new(training), Arc::new(context)).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { reason: Reason::InvalidConfig, .. }), "{error:?}");
    insta::assert_yaml_snapshot!("invalid_status", written(&server.requests().await));
}

/// Reconciles a training that starts from `base` once, after `status`.
async fn look(base: Option<ModelTraining>, status: Option<ModelTrainingStatus>, steps: Vec<Step>) -> Vec<Seen> {
    let server = ApiServer::expecting(steps);
    let (context, mut writers) = server.context();
    base.into_iter().for_each(|base| writers.trainings.apply_watcher_event(&Event::Apply(base)));
    let training = ModelTraining { status, ..fixtures::fine_tuning(Version::Latest) };
    reconcile(Arc::new(training), Arc::new(context)).await.unwrap();
    server.requests().await
}

#[tokio::test]
async fn a_run_waits_for_the_model_that_it_starts_from_and_starts_when_it_is_published() {
    let mut status = None;
    for (base, steps, part) in [
        (None, vec![status_written(), Step::echo("POST", EVENTS)], "there is no ModelTraining 'stories'"),
        (Some(fixtures::base(&[])), vec![status_written()], "has not published a model yet"),
    ] {
        let waiting = written(&look(base, status, steps).await);
        let error = waiting.error.as_ref().unwrap();
        assert!(error.reason == Reason::ModelNotFound && error.message.contains(part), "{}", error.message);
        let ready = waiting.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
        assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "ModelNotFound"));
        assert_eq!((waiting.phase, &waiting.base), (Some(Phase::Pending), &None));
        status = Some(waiting);
    }

    let steps =
        vec![Step::echo("PATCH", POLICY), Step::echo("POST", CONFIG_MAPS), Step::echo("POST", JOBS), status_written()];
    let requests = look(Some(fixtures::base(&[1, 2])), status, steps).await;
    let healed = written(&requests);
    assert_eq!((healed.phase, &healed.error), (Some(Phase::Pending), &None));
    let base = healed.base.unwrap();
    assert_eq!((base.version, base.uri.as_str()), (2, "s3://bases/team/stories/models/2"));

    let config: Value = serde_json::from_str(requests[1].body["data"]["config.json"].as_str().unwrap()).unwrap();
    let from = &config["model"]["from"];
    assert_eq!((from["uri"].as_str(), from["digest"].as_str()), (Some(base.uri.as_str()), Some(base.digest.as_str())));
    let credentials = requests[2].body["spec"]["template"]["spec"]["containers"][0]["envFrom"].to_string();
    assert!(credentials.contains(r#""prefix":"BASE_""#) && credentials.contains("base-s3"), "{credentials}");
}

#[tokio::test]
async fn a_refusal_of_the_api_server_is_said_in_status() {
    let server = ApiServer::expecting([
        Step::echo("PATCH", POLICY),
        Step::echo("POST", CONFIG_MAPS),
        Step::refuse("POST", JOBS, 403, "Forbidden", "jobs \"digits-1\" is forbidden: exceeded quota: jobs"),
        status_written(),
        Step::echo("POST", EVENTS),
    ]);
    let (context, _writers) = server.context();
    reconcile(Arc::new(fixtures::training()), Arc::new(context)).await.unwrap_err();
    let error = written(&server.requests().await).error.unwrap();
    assert_eq!(error.reason, Reason::PodRefused);
    assert!(error.message.contains("exceeded quota"), "{}", error.message);
}

#[tokio::test]
async fn an_object_of_somebody_else_is_left_alone() {
    let foreign =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "digits-1", "namespace": "team"}});
    let server = ApiServer::expecting([
        Step::echo("PATCH", POLICY),
        Step::refuse("POST", CONFIG_MAPS, 409, "AlreadyExists", "configmaps \"digits-1\" already exists"),
        Step::get(format!("{CONFIG_MAPS}/digits-1"), foreign),
        status_written(),
        Step::echo("POST", EVENTS),
    ]);
    let (context, _writers) = server.context();
    reconcile(Arc::new(fixtures::training()), Arc::new(context)).await.unwrap_err();
    assert_eq!(written(&server.requests().await).error.unwrap().reason, Reason::NameConflict);
}

#[tokio::test]
async fn a_replica_that_does_not_lead_writes_nothing() {
    let server = ApiServer::expecting([]);
    let (context, _writers) = server.context();
    context.fence.close();
    let error = reconcile(Arc::new(fixtures::training()), Arc::new(context)).await.unwrap_err();
    assert!(matches!(error, Error::NotLeader), "{error:?}");
    server.requests().await;
}

/// The status of a training that has succeeded.
fn finished(training: &ModelTraining) -> ModelTrainingStatus {
    let run = Run { is_finished: false, ..Run::of(training).unwrap() };
    let observed = Observed { pods: vec![Arc::new(fixtures::succeeded_pod())], ..Observed::default() };
    let facts = status::Facts {
        generation: training.metadata.generation,
        suspend: false,
        run: &run,
        base: None,
        storage: None,
        observed: &observed,
        applied: None,
        now: fixtures::now(),
    };
    let status = status::next(&ModelTrainingStatus::default(), &facts);
    assert_eq!(status.phase, Some(Phase::Succeeded));
    status
}
