//! The life of a run: interruptions, limits, and what comes after it.

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{
    ResourceExt as _,
    api::{EvictParams, ListParams},
};
use serde_json::{Value, json};
use stoker_crds::{
    ModelTraining, ModelTrainingStatus,
    artifact::{MANIFEST, Manifest, WEIGHTS},
    report::Reason,
    training::status::Phase,
};
use stoker_e2e::Namespace;

use crate::{
    lines,
    setup::{shared_storage, test},
    steps::{
        delete_jobs, failed, kill, labels_of, none_left, patch, running_pod, succeeded, suspend, train, training_when,
        try_patch, wait, with,
    },
};

/// The SHA-256 of a run's published weights.
async fn weights(namespace: &Namespace, status: &ModelTrainingStatus) -> String {
    let model = status.model.as_ref().expect("a model is published");
    let storage = shared_storage(&namespace.client);
    let manifest = storage.get(&format!("{}/{MANIFEST}", model.uri)).await.unwrap();
    let manifest: Manifest = serde_json::from_slice(&manifest).unwrap();
    manifest.file(WEIGHTS).expect("a model has weights").sha256.clone()
}

async fn has_checkpoint(namespace: &Namespace, name: &str) -> u64 {
    let training = training_when(namespace, name, "to have a checkpoint", |status| status.checkpoint.is_some());
    training.await.status.unwrap().checkpoint.unwrap().step
}

async fn has_resumed(namespace: &Namespace, name: &str) -> u64 {
    let resumed = |status: &ModelTrainingStatus| status.progress.as_ref()?.resumed_from;
    let training = training_when(namespace, name, "to have resumed", |status| resumed(status).is_some());
    resumed(&training.await.status.unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_pod_is_killed_resumes_and_ends_with_the_same_weights() {
    test("kill", async |namespace: Namespace| {
        train(&namespace, "killed", &lines::long()).await;
        let checkpoint = has_checkpoint(&namespace, "killed").await;
        let pod = running_pod(&namespace, "killed").await;
        kill(&namespace, &pod).await;
        assert!(has_resumed(&namespace, "killed").await >= checkpoint);
        let killed = succeeded(&namespace, "killed").await;
        assert_eq!(killed.restarts, 1);

        train(&namespace, "undisturbed", &lines::long()).await;
        let undisturbed = succeeded(&namespace, "undisturbed").await;
        assert_eq!(undisturbed.restarts, 0);
        assert_eq!(killed.metrics, undisturbed.metrics);
        assert_eq!(weights(&namespace, &killed).await, weights(&namespace, &undisturbed).await);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_pod_is_evicted_saves_its_last_step_and_goes_on_from_there() {
    test("evict", async |namespace: Namespace| {
        let spec = with(lines::long(), json!({"checkpoint": {"everySteps": 1_000_000}, "retries": 0}));
        train(&namespace, "evicted", &spec).await;
        let training =
            |status: &ModelTrainingStatus| status.progress.as_ref().is_some_and(|progress| progress.step > 0);
        training_when(&namespace, "evicted", "to have taken steps", training).await;
        let pod = running_pod(&namespace, "evicted").await;
        namespace.api::<Pod>().evict(&pod, &EvictParams::default()).await.unwrap();
        assert!(has_resumed(&namespace, "evicted").await > 0);
        // An eviction is no failure: no retry is used up.
        assert_eq!(succeeded(&namespace, "evicted").await.restarts, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_run_gives_its_pod_up_and_resumes_later() {
    test("suspend", async |namespace: Namespace| {
        train(&namespace, "paused", &lines::long()).await;
        has_checkpoint(&namespace, "paused").await;
        patch::<ModelTraining>(&namespace, "paused", suspend(true)).await;
        let is_suspended = |status: &ModelTrainingStatus| status.phase == Some(Phase::Suspended);
        training_when(&namespace, "paused", "to be suspended", is_suspended).await;
        none_left::<Pod>(&namespace, &labels_of("paused")).await;

        patch::<ModelTraining>(&namespace, "paused", suspend(false)).await;
        assert!(has_resumed(&namespace, "paused").await > 0);
        let paused = succeeded(&namespace, "paused").await;
        assert_eq!(paused.run, 1);
        assert_eq!(paused.progress.unwrap().step, 30_000);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_training_that_is_born_suspended_waits() {
    test("born-suspended", async |namespace: Namespace| {
        train(&namespace, "waiting", &json!({"suspend": true})).await;
        let is_suspended = |status: &ModelTrainingStatus| status.phase == Some(Phase::Suspended);
        training_when(&namespace, "waiting", "to be suspended", is_suspended).await;
        assert!(pods_of(&namespace, "waiting").await.is_empty());
        patch::<ModelTraining>(&namespace, "waiting", suspend(false)).await;
        succeeded(&namespace, "waiting").await;
    })
    .await;
}

async fn pods_of(namespace: &Namespace, training: &str) -> Vec<String> {
    let list = ListParams::default().labels(&labels_of(training));
    namespace.api::<Pod>().list(&list).await.unwrap().iter().map(Pod::name_any).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_outlasts_its_deadline_fails() {
    test("deadline", async |namespace: Namespace| {
        train(&namespace, "late", &with(lines::endless(), json!({"deadline": "5s"}))).await;
        let (_, error) = failed(&namespace, "late").await;
        assert_eq!(error.reason, Reason::DeadlineExceeded);
        assert!(error.message.contains("spec.deadline"), "{}", error.message);
        none_left::<Pod>(&namespace, &labels_of("late")).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_training_is_deleted_after_its_time_unless_it_is_deployed() {
    test("ttl", async |namespace: Namespace| {
        let soon = json!({"ttlAfterFinished": "1s"});
        train(&namespace, "deployed", &json!({})).await;
        succeeded(&namespace, "deployed").await;
        let deployment = namespace.apply(&lines::deployment("user", "deployed", &json!({}))).await.unwrap();
        patch::<ModelTraining>(&namespace, "deployed", json!({ "spec": soon })).await;

        train(&namespace, "idle", &soon).await;
        wait("the idle training to be deleted").until_gone(&namespace.api::<ModelTraining>(), "idle").await.unwrap();
        namespace.api::<ModelTraining>().get("deployed").await.expect("a deployed training is kept");

        stoker_e2e::manifest::delete(&namespace.client, &namespace.name, &deployment).await.unwrap();
        wait("the training to be deleted that is deployed no longer")
            .until_gone(&namespace.api::<ModelTraining>(), "deployed")
            .await
            .unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_run_stays_finished_when_its_job_is_deleted() {
    test("sticky", async |namespace: Namespace| {
        train(&namespace, "done", &json!({})).await;
        let before = succeeded(&namespace, "done").await;
        delete_jobs(&namespace, "done").await;

        // A change that starts no run shows that the operator has looked again since.
        patch::<ModelTraining>(&namespace, "done", json!({"spec": {"retries": 7}})).await;
        let looked = |status: &ModelTrainingStatus| status.phase.is_some();
        let after = training_when(&namespace, "done", "to be looked at again", looked).await.status.unwrap();
        assert_eq!(after.phase, Some(Phase::Succeeded));
        assert_eq!((after.run, &after.finished_at, &after.model), (1, &before.finished_at, &before.model));
        let jobs = namespace.api::<Job>().list(&ListParams::default()).await.unwrap();
        assert!(jobs.items.is_empty(), "{jobs:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_run_is_made_of_cannot_be_changed_while_it_runs() {
    test("frozen", async |namespace: Namespace| {
        train(&namespace, "running", &lines::endless()).await;
        let runs = |status: &ModelTrainingStatus| status.phase == Some(Phase::Training);
        training_when(&namespace, "running", "to train", runs).await;

        let seed = json!({"spec": {"train": {"seed": 1}}});
        let refusal = try_patch::<ModelTraining>(&namespace, "running", seed.clone()).await.unwrap_err().to_string();
        assert!(
            refusal.contains("a run is in progress: wait until it has ended, or set suspend: true first"),
            "{refusal}"
        );
        // What the run is not made of can be changed at any time.
        patch::<ModelTraining>(&namespace, "running", json!({"spec": {"retries": 1}})).await;

        // Held back, it can be changed, and starts anew as the next run.
        patch::<ModelTraining>(&namespace, "running", with(suspend(true), seed)).await;
        patch::<ModelTraining>(&namespace, "running", json!({"spec": {"train": {"steps": 100}}})).await;
        patch::<ModelTraining>(&namespace, "running", suspend(false)).await;
        assert_eq!(succeeded(&namespace, "running").await.run, 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_spec_gives_the_same_weights_and_another_seed_gives_others() {
    test("seeds", async |namespace: Namespace| {
        let specs: [(&str, Value); 3] =
            [("first", json!({})), ("second", json!({})), ("other", json!({"train": {"seed": 1}}))];
        for (name, spec) in &specs {
            train(&namespace, name, spec).await;
        }
        let mut digests = Vec::new();
        for (name, _) in &specs {
            let status = succeeded(&namespace, name).await;
            digests.push(weights(&namespace, &status).await);
        }
        assert_eq!(digests[0], digests[1]);
        assert_ne!(digests[0], digests[2]);
    })
    .await;
}
