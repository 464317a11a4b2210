//! Runs whose storage refuses them, is not there, or goes away.

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Pod, Secret, Service},
};
use kube::api::ListParams;
use object_store::ObjectStoreExt as _;
use serde_json::json;
use stoker_crds::{
    ModelTraining, ModelTrainingStatus,
    artifact::{MANIFEST, Manifest},
    report::Reason,
    training::status::Phase,
};
use stoker_e2e::{
    Namespace, command,
    storage::{self, DATASETS, Storage},
};

use crate::{
    lines,
    setup::{shared_storage, test},
    steps::{
        error_of, failed, labels_of, logged, none_left, patch, running_pod, secret, succeeded, suspend, train,
        training_when, wait, with,
    },
};

const MINIO: &str = "app.kubernetes.io/name=minio";

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_secret_is_named_and_the_run_starts_when_it_is_there() {
    test("no-secret", async |namespace: Namespace| {
        train(&namespace, "waiting", &json!({"storage": {"secretName": "later"}})).await;
        let error = error_of(&namespace, "waiting", Reason::SecretNotFound).await;
        assert!(error.message.contains("later"), "{}", error.message);

        let environment = Storage::environment(&shared_storage(&namespace.client).url());
        secret(&namespace, "later", &environment).await;
        let status = succeeded(&namespace, "waiting").await;
        assert_eq!((status.restarts, status.error), (0, None));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_refused_once_and_with_right_ones_an_annotation_runs_the_training_again() {
    test("denied", async |namespace: Namespace| {
        let mut environment = Storage::environment(&shared_storage(&namespace.client).url());
        let right = std::mem::replace(&mut environment[1].1, "guessed".to_owned());
        secret(&namespace, "wrong", &environment).await;
        train(&namespace, "denied", &json!({"storage": {"secretName": "wrong"}})).await;
        let (status, error) = failed(&namespace, "denied").await;
        assert_eq!((error.reason, error.exit_code, status.restarts), (Reason::AccessDenied, Some(12), 0));
        assert!(error.message.contains("s3://datasets"), "{}", error.message);
        assert!(!error.message.contains("guessed"), "a secret is in the message: {}", error.message);

        patch::<Secret>(&namespace, "wrong", json!({"stringData": {"AWS_SECRET_ACCESS_KEY": right}})).await;
        let name = namespace.name.as_str();
        let again = ["annotate", "--overwrite", "mt", "denied", "stoker.dev/restart=mended", "--namespace", name];
        command::run("kubectl", &again).await.unwrap();
        training_when(&namespace, "denied", "to run again", |status| status.run == 2).await;
        let status = succeeded(&namespace, "denied").await;
        assert_eq!((status.run, status.restarts, status.error), (2, 0, None));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_does_not_exist_is_named() {
    test("no-bucket", async |namespace: Namespace| {
        train(&namespace, "source", &json!({"data": {"source": {"uri": "s3://no-such-bucket/lines.csv"}}})).await;
        train(&namespace, "target", &json!({"storage": {"uri": "s3://no-such-bucket/models"}})).await;
        for name in ["source", "target"] {
            let (status, error) = failed(&namespace, name).await;
            assert_eq!((error.reason, error.exit_code, status.restarts), (Reason::BucketNotFound, Some(12), 0));
            assert!(error.message.contains("no-such-bucket"), "{}", error.message);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_that_stays_away_fails_the_run_as_one_that_may_be_tried_again() {
    test("gone", async |namespace: Namespace| {
        let environment = Storage::environment("http://nobody.invalid.svc:9000");
        secret(&namespace, "nowhere", &environment).await;
        train(&namespace, "lost", &json!({"storage": {"secretName": "nowhere"}, "retries": 0})).await;
        let (_, error) = failed(&namespace, "lost").await;
        assert_eq!((error.reason, error.exit_code), (Reason::StorageUnavailable, Some(20)));
        assert!(error.message.contains("s3://datasets"), "{}", error.message);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_that_is_down_at_the_start_only_delays_the_run() {
    test("down-at-start", async |namespace: Namespace| {
        let storage = own_storage(&namespace).await;
        stop(&namespace).await;
        train(&namespace, "patient", &json!({})).await;
        has_retried(&namespace, "patient").await;
        start(&namespace, &storage).await;
        assert_eq!(succeeded(&namespace, "patient").await.restarts, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_that_goes_down_for_a_while_costs_a_run_nothing() {
    test("down", async |namespace: Namespace| {
        let storage = own_storage(&namespace).await;
        train(&namespace, "steady", &with(lines::long(), json!({"train": {"steps": 60_000}}))).await;
        let has_checkpoint = |status: &ModelTrainingStatus| status.checkpoint.is_some();
        training_when(&namespace, "steady", "to have a checkpoint", has_checkpoint).await;
        stop(&namespace).await;
        has_retried(&namespace, "steady").await;
        start(&namespace, &storage).await;
        assert_eq!(succeeded(&namespace, "steady").await.restarts, 0);
    })
    .await;
}

/// Waits until the run has asked its storage in vain for the 15th time in a row: that takes most of a minute.
async fn has_retried(namespace: &Namespace, name: &str) {
    let pod = running_pod(namespace, name).await;
    logged(namespace, &pod, "retry 15 of").await;
}

/// A storage that only this test uses, and can take away.
async fn own_storage(namespace: &Namespace) -> Storage {
    let storage = Storage::install(&namespace.client, &namespace.name).await.unwrap();
    storage.share_with(&namespace.name).await.unwrap();
    lines::upload(&storage).await.unwrap();
    storage
}

/// Takes the server away, with all that it holds. Nobody finds its Service any more.
async fn stop(namespace: &Namespace) {
    patch::<Service>(namespace, storage::NAME, json!({"spec": {"selector": {"app.kubernetes.io/name": "nobody"}}}))
        .await;
    patch::<Deployment>(namespace, storage::NAME, json!({"spec": {"replicas": 0}})).await;
    none_left::<Pod>(namespace, MINIO).await;
}

/// Starts an empty server, fills it, and only then lets its Service find it: nobody sees it without its data.
async fn start(namespace: &Namespace, storage: &Storage) {
    patch::<Deployment>(namespace, storage::NAME, json!({"spec": {"replicas": 1}})).await;
    let pod = wait("the object storage's pod to be ready")
        .until_any(&namespace.api::<Pod>(), MINIO, |pods| pods.values().find(|pod| is_ready(pod)).cloned())
        .await
        .unwrap();
    let address = format!("http://{}:{}", pod.status.unwrap().pod_ip.unwrap(), storage::PORT);
    let bucket = Storage::bucket(&address, DATASETS).unwrap();
    bucket.put(&lines::KEY.into(), lines::csv(lines::ROWS).into()).await.unwrap();
    patch::<Service>(namespace, storage::NAME, json!({"spec": {"selector": {"app.kubernetes.io/name": "minio"}}}))
        .await;
    storage.wait_until_ready().await.unwrap();
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_is_damaged_is_passed_over_for_the_one_before_it() {
    test("damaged", async |namespace: Namespace| {
        let storage = shared_storage(&namespace.client);
        train(&namespace, "resumed", &lines::long()).await;
        let two =
            |status: &ModelTrainingStatus| status.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.step >= 2000);
        training_when(&namespace, "resumed", "to have two checkpoints", two).await;
        patch::<ModelTraining>(&namespace, "resumed", suspend(true)).await;
        none_left::<Pod>(&namespace, &labels_of("resumed")).await;

        let paused = |status: &ModelTrainingStatus| status.phase == Some(Phase::Suspended);
        let training = training_when(&namespace, "resumed", "to be suspended", paused).await;
        let last = training.status.unwrap().checkpoint.unwrap();
        damage(&storage, &last.uri).await;

        patch::<ModelTraining>(&namespace, "resumed", suspend(false)).await;
        let resumed = |status: &ModelTrainingStatus| status.progress.as_ref()?.resumed_from;
        let training =
            training_when(&namespace, "resumed", "to have resumed", |status| resumed(status).is_some()).await;
        let status = training.status.unwrap();
        assert!(resumed(&status).unwrap() < last.step);
        assert!(
            status.warnings.iter().any(|warning| warning.contains(&last.step.to_string())),
            "{:?}",
            status.warnings
        );
        succeeded(&namespace, "resumed").await;
    })
    .await;
}

/// Overwrites the largest file of an artifact with as many zeros.
async fn damage(storage: &Storage, uri: &str) {
    let manifest = storage.get(&format!("{uri}/{MANIFEST}")).await.unwrap();
    let manifest: Manifest = serde_json::from_slice(&manifest).unwrap();
    let largest = manifest.files.iter().max_by_key(|file| file.size).unwrap();
    let (bucket, key) = uri.strip_prefix("s3://").unwrap().split_once('/').unwrap();
    let zeros = vec![0_u8; usize::try_from(largest.size).unwrap()];
    storage.put(bucket, &format!("{key}/{}", largest.name), zeros).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_pod_and_no_config_map_holds_the_credentials() {
    test("secrecy", async |namespace: Namespace| {
        let environment = Storage::environment(&shared_storage(&namespace.client).url());
        train(&namespace, "lines", &json!({})).await;
        succeeded(&namespace, "lines").await;
        let maps = namespace.api::<ConfigMap>().list(&ListParams::default()).await.unwrap();
        let pods = namespace.api::<Pod>().list(&ListParams::default().labels(&labels_of("lines"))).await.unwrap();
        assert_eq!(pods.items.len(), 1, "the run's pod is kept, with its log");
        let text = serde_json::to_string(&(maps.items, pods.items)).unwrap();
        let [_, (name, secret), ..] = &environment;
        assert!(!text.contains(secret.as_str()), "{name} is in plain sight");
    })
    .await;
}
