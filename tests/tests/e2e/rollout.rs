//! From a finished training to the next version of the served model.

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::api::ListParams;
use serde_json::json;
use stoker_crds::{ModelDeployment, ModelTraining, deployment::status::Phase, report::Reason};
use stoker_e2e::Namespace;

use crate::{
    lines,
    load::Load,
    setup::test,
    steps::{available, deploy, patch, serve, succeeded, train, training_when, wait},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_rolls_out_under_load_without_one_failed_request() {
    test("rollout", async |namespace: Namespace| {
        train(&namespace, "lines", &json!({})).await;
        succeeded(&namespace, "lines").await;
        deploy(&namespace, "lines", &json!({"replicas": 2})).await;
        let served = serve(&namespace, "lines").await;
        let load = Load::start(&served.model);
        load.goes_on(100).await;

        patch::<ModelTraining>(&namespace, "lines", json!({"spec": {"train": {"seed": 1}}})).await;
        let second =
            |status: &stoker_crds::ModelTrainingStatus| status.model.as_ref().is_some_and(|model| model.version == 2);
        let training = training_when(&namespace, "lines", "to publish version 2", second).await;
        let deployment = available(&namespace, "lines", 2).await;
        load.goes_on(100).await;
        let (answered, failures) = load.stop().await;
        assert!(
            failures.is_empty(),
            "{} of {answered} requests failed: {:?}",
            failures.len(),
            &failures[..failures.len().min(5)]
        );

        let status = deployment.status.unwrap();
        assert_eq!(status.model.unwrap().digest, training.status.unwrap().model.unwrap().digest);
        let revisions: Vec<_> = status.revisions.iter().map(|revision| (revision.version, revision.traffic)).collect();
        assert_eq!(revisions, [(Some(2), 100)]);
        let left = namespace.api::<Deployment>().list(&ListParams::default()).await.unwrap();
        assert_eq!(left.items.len(), 1, "the old revision's Deployment is left");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_version_stays_when_a_new_one_is_published() {
    test("pinned", async |namespace: Namespace| {
        train(&namespace, "lines", &json!({})).await;
        succeeded(&namespace, "lines").await;
        deploy(&namespace, "lines", &json!({"model": {"training": {"version": 1}}})).await;

        patch::<ModelTraining>(&namespace, "lines", json!({"spec": {"train": {"seed": 1}}})).await;
        let status = succeeded(&namespace, "lines").await;
        let versions: Vec<u32> = status.versions.iter().map(|version| version.version).collect();
        assert_eq!(versions, [2, 1]);
        available(&namespace, "lines", 1).await;

        patch::<ModelDeployment>(&namespace, "lines", json!({"spec": {"model": {"training": {"version": 2}}}})).await;
        available(&namespace, "lines", 2).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_waits_for_the_first_version_of_its_training() {
    test("early", async |namespace: Namespace| {
        namespace.apply(&lines::deployment("lines", "lines", &json!({}))).await.unwrap();
        let pending = wait("the deployment to say that it has no model")
            .until(&namespace.api(), "lines", |deployment: &ModelDeployment| {
                deployment.status.as_ref().is_some_and(|status| status.error.is_some())
            })
            .await
            .unwrap();
        let status = pending.status.unwrap();
        assert_eq!(status.phase, Some(Phase::Pending));
        let error = status.error.unwrap();
        assert_eq!(error.reason, Reason::ModelNotFound);
        assert!(error.message.contains("lines"), "{}", error.message);
        train(&namespace, "lines", &json!({})).await;
        assert_eq!(available(&namespace, "lines", 1).await.status.unwrap().error, None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_is_served_by_its_address_and_no_other_than_the_one_of_its_digest() {
    test("artifact", async |namespace: Namespace| {
        train(&namespace, "lines", &json!({})).await;
        let model = succeeded(&namespace, "lines").await.model.unwrap();
        let artifact = |digest: &str| {
            json!({"model": {"training": null, "artifact": {"uri": model.uri, "digest": digest, "secretName": "s3"}}})
        };
        let right = lines::deployment("right", "lines", &artifact(&model.digest));
        namespace.apply(&right).await.unwrap();
        let wrong = lines::deployment("wrong", "lines", &artifact(&format!("sha256:{}", "0".repeat(64))));
        namespace.apply(&wrong).await.unwrap();

        let is_available = |deployment: &ModelDeployment| {
            deployment.status.as_ref().is_some_and(|status| status.phase == Some(Phase::Available))
        };
        wait("the artifact to be served").until(&namespace.api(), "right", is_available).await.unwrap();
        let refused = wait("the wrong artifact to be refused")
            .until(&namespace.api(), "wrong", |deployment: &ModelDeployment| {
                deployment.status.as_ref().is_some_and(|status| status.error.is_some())
            })
            .await
            .unwrap();
        let error = refused.status.unwrap().error.unwrap();
        assert_eq!(error.reason, Reason::CorruptArtifact);
        assert!(error.message.contains(&model.uri), "{}", error.message);
        let pods = namespace.api::<Pod>().list(&ListParams::default().labels("stoker.dev/deployment=wrong")).await;
        assert!(!pods.unwrap().items.is_empty());
    })
    .await;
}
