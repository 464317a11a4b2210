//! The Helm release through its life. These tests take Stoker away from others, so they run alone.

use k8s_openapi::{
    api::batch::v1::Job, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{Api, api::ListParams};
use serde_json::json;
use stoker_crds::{ModelDeployment, ModelTraining, ModelTrainingStatus, Reason};
use stoker_e2e::{
    Namespace, command,
    release::{self, Images},
};

use crate::{
    lines,
    setup::{SETTINGS, test_alone},
    steps::{available, deploy, error_of, running_pod, serve, succeeded, train, training_when, wait},
};

async fn definitions(namespace: &Namespace) -> Vec<Option<String>> {
    let definitions: Api<CustomResourceDefinition> = Api::all(namespace.client.clone());
    let mut uids = Vec::new();
    for name in ["modeltrainings.stoker.dev", "modeldeployments.stoker.dev"] {
        uids.push(definitions.get(name).await.expect("the definition stays").metadata.uid);
    }
    uids
}

#[tokio::test(flavor = "multi_thread")]
async fn helm_upgrade_and_uninstall_keep_the_definitions_and_the_users_resources() {
    test_alone("helm", async |namespace: Namespace| {
        train(&namespace, "lines", &json!({})).await;
        let before = succeeded(&namespace, "lines").await;
        deploy(&namespace, "lines", &json!({})).await;
        let uids = definitions(&namespace).await;
        let images = Images::from_env();

        // An upgrade mid-run: the run goes on.
        train(&namespace, "running", &lines::long()).await;
        let pod = running_pod(&namespace, "running").await;
        release::install(&images, &["replicas=1", "log.level=debug"]).await.unwrap();
        release::test().await.unwrap();
        assert_eq!(succeeded(&namespace, "running").await.restarts, 0);
        assert_eq!(running_or_done(&namespace, "running").await, pod);
        assert_eq!(definitions(&namespace).await, uids);

        // Without Stoker, what it made stays and serves.
        release::uninstall().await.unwrap();
        assert_eq!(definitions(&namespace).await, uids);
        namespace.api::<ModelTraining>().get("lines").await.expect("the training stays");
        namespace.api::<ModelDeployment>().get("lines").await.expect("the deployment stays");
        let served = serve(&namespace, "lines").await;
        assert!(served.model.get("/v2/models/lines").await.unwrap().status.is_success());

        // Back again, it finds everything as it was, and works.
        release::install(&images, &SETTINGS).await.unwrap();
        assert_eq!(definitions(&namespace).await, uids);
        available(&namespace, "lines", 1).await;
        let after = succeeded(&namespace, "lines").await;
        assert_eq!((after.run, &after.model), (before.run, &before.model));
        train(&namespace, "later", &json!({})).await;
        succeeded(&namespace, "later").await;
    })
    .await;
}

/// The only pod of a training.
async fn running_or_done(namespace: &Namespace, training: &str) -> String {
    training_when(namespace, training, "to name its pod", |status| status.pod.is_some())
        .await
        .status
        .unwrap()
        .pod
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_does_not_exist_is_named_and_replaced_by_the_next_upgrade() {
    test_alone("image", async |namespace: Namespace| {
        let images = Images::from_env();
        let wrong = Images { trainer: "registry.invalid/stoker-trainer:none".to_owned(), ..images.clone() };
        release::install(&wrong, &SETTINGS).await.unwrap();
        train(&namespace, "lines", &json!({})).await;
        let error = error_of(&namespace, "lines", Reason::ImageUnavailable).await;
        assert!(error.message.contains("registry.invalid/stoker-trainer:none"), "{}", error.message);

        release::install(&images, &SETTINGS).await.unwrap();
        let status = succeeded(&namespace, "lines").await;
        assert_eq!(status.error, None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_list_of_namespaces_it_works_in_these_alone_and_needs_no_rights_elsewhere() {
    test_alone("listed", async |namespace: Namespace| {
        let other = Namespace::create(&namespace.client, "unlisted").await.unwrap();
        let images = Images::from_env();
        release::install(&images, &["replicas=1", &format!("namespaces={{{}}}", namespace.name)]).await.unwrap();
        other.apply(&lines::training("ignored", &json!({}))).await.unwrap();
        train(&namespace, "lines", &json!({})).await;
        succeeded(&namespace, "lines").await;
        deploy(&namespace, "lines", &json!({})).await;
        let is_as_born = |training: &ModelTraining| training.status == Some(ModelTrainingStatus::initial());
        let ignored = other.api::<ModelTraining>().get("ignored").await.unwrap();
        assert!(is_as_born(&ignored), "the operator works in a namespace that is not listed: {ignored:?}");
        let jobs = other.api::<Job>().list(&ListParams::default()).await.unwrap().items;
        assert!(jobs.is_empty(), "the operator works in a namespace that is not listed: {jobs:?}");
        let account = format!("--as=system:serviceaccount:{}:{}", release::NAMESPACE, release::NAME);
        for (name, may) in [(&namespace.name, true), (&other.name, false)] {
            // It answers "no" by its exit code.
            let create = ["auth", "can-i", "create", "jobs.batch", "--namespace", name, &account];
            assert_eq!(command::run("kubectl", &create).await.is_ok(), may, "{name}");
        }

        // A run that waited for its namespace to be listed.
        release::install(&images, &SETTINGS).await.unwrap();
        wait("the other namespace's training to be seen")
            .until(&other.api::<ModelTraining>(), "ignored", |training| !is_as_born(training))
            .await
            .unwrap();
        other.delete().await.unwrap();
    })
    .await;
}
