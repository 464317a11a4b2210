//! Deleting a resource deletes all that was made for it.

use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    batch::v1::Job,
    core::v1::{ConfigMap, Pod, Service},
    discovery::v1::EndpointSlice,
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Resource,
    api::{DeleteParams, ListParams},
    core::NamespaceResourceScope,
};
use serde_json::json;
use stoker_crds::{ModelDeployment, ModelTraining};
use stoker_e2e::{Namespace, wait::Kind};

use crate::{
    lines,
    setup::test,
    steps::{deploy, none_left, running_pod, succeeded, train},
};

const MANAGED: &str = "app.kubernetes.io/managed-by=stoker";

async fn there_are<K: Kind + Resource<Scope = NamespaceResourceScope>>(namespace: &Namespace) {
    let found = namespace.api::<K>().list(&ListParams::default().labels(MANAGED)).await.unwrap();
    assert!(!found.items.is_empty(), "Stoker made no {}", K::plural(&()));
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_training_mid_run_deletes_its_jobs_pods_and_configuration() {
    test("delete-training", async |namespace: Namespace| {
        train(&namespace, "lines", &lines::endless()).await;
        running_pod(&namespace, "lines").await;
        there_are::<Job>(&namespace).await;
        there_are::<ConfigMap>(&namespace).await;

        namespace.api::<ModelTraining>().delete("lines", &DeleteParams::default()).await.unwrap();
        none_left::<ModelTraining>(&namespace, "").await;
        none_left::<Job>(&namespace, "").await;
        none_left::<Pod>(&namespace, "").await;
        none_left::<ConfigMap>(&namespace, MANAGED).await;
        none_left::<NetworkPolicy>(&namespace, "").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_deployment_deletes_all_that_serves_it_and_not_its_model() {
    test("delete-deployment", async |namespace: Namespace| {
        train(&namespace, "lines", &json!({})).await;
        succeeded(&namespace, "lines").await;
        deploy(&namespace, "lines", &json!({"replicas": 2})).await;
        there_are::<Deployment>(&namespace).await;
        there_are::<Service>(&namespace).await;
        there_are::<PodDisruptionBudget>(&namespace).await;
        there_are::<NetworkPolicy>(&namespace).await;

        namespace.api::<ModelDeployment>().delete("lines", &DeleteParams::default()).await.unwrap();
        none_left::<ModelDeployment>(&namespace, "").await;
        none_left::<Deployment>(&namespace, "").await;
        none_left::<ReplicaSet>(&namespace, "").await;
        none_left::<Pod>(&namespace, "stoker.dev/deployment").await;
        none_left::<Service>(&namespace, "").await;
        none_left::<EndpointSlice>(&namespace, "").await;
        none_left::<PodDisruptionBudget>(&namespace, "").await;
        none_left::<NetworkPolicy>(&namespace, "stoker.dev/deployment").await;
        namespace.api::<ModelTraining>().get("lines").await.expect("the training stays");
    })
    .await;
}
