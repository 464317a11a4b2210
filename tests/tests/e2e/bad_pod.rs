//! Runs whose pod is not given what it needs: memory, disk, a node, leave to be created.

use k8s_openapi::api::core::v1::{Node, ResourceQuota};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use stoker_crds::{ModelTraining, report::Reason};
use stoker_e2e::{Namespace, storage::DATASETS};

use crate::{
    lines,
    setup::{shared_storage, test},
    steps::{error_of, failed, patch, succeeded, train, with},
};

/// A data set of some megabytes.
async fn large(namespace: &Namespace) -> Value {
    let key = format!("{}/large.csv", namespace.name);
    shared_storage(&namespace.client).put(DATASETS, &key, lines::csv(200_000)).await.unwrap();
    json!({"data": {"source": {"uri": format!("s3://{DATASETS}/{key}")}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_outgrows_its_memory_says_so_after_its_retries() {
    test("memory", async |namespace: Namespace| {
        train(&namespace, "greedy", &wide(2700)).await;
        let (status, error) = failed(&namespace, "greedy").await;
        assert_eq!((error.reason, error.exit_code), (Reason::OutOfMemory, Some(137)));
        assert!(error.message.contains("resources.memory"), "{}", error.message);
        assert_eq!(status.restarts, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_weights_alone_are_more_than_its_memory_is_refused_with_the_numbers() {
    test("weights", async |namespace: Namespace| {
        train(&namespace, "huge", &wide(8192)).await;
        let (status, error) = failed(&namespace, "huge").await;
        assert_eq!((error.reason, error.exit_code), (Reason::OutOfMemory, Some(10)));
        assert!(error.message.contains("resources.memory"), "{}", error.message);
        assert!(status.estimate.is_some_and(|estimate| estimate.parameters > 8192 * 8192));
        assert_eq!(status.restarts, 0);
    })
    .await;
}

/// A perceptron of two layers of so many units, in 128 MiB. With AdamW a parameter takes 16 bytes: 2700 units are 117 MB of
/// parameters, which are tried, and with the program itself too much; 8192 units are 1 GB.
fn wide(units: u32) -> Value {
    json!({"model": {"mlp": {"hidden": [units, units]}}, "resources": {"memory": "128Mi"}, "retries": 1})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_fills_its_scratch_volume_says_so() {
    test("disk", async |namespace: Namespace| {
        let spec = with(large(&namespace).await, json!({"resources": {"scratch": "1Mi"}}));
        train(&namespace, "full", &spec).await;
        let (_, error) = failed(&namespace, "full").await;
        assert_eq!((error.reason, error.exit_code), (Reason::DiskFull, Some(16)));
        assert!(error.message.contains("spec.resources.scratch"), "{}", error.message);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_the_quota_refuses_is_created_when_the_quota_is_lifted() {
    test("quota", async |namespace: Namespace| {
        let quota = json!({
            "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}},
        });
        namespace.apply(&serde_json::from_value(quota).unwrap()).await.unwrap();
        train(&namespace, "refused", &json!({})).await;
        let error = error_of(&namespace, "refused", Reason::PodRefused).await;
        assert!(error.message.contains("exceeded quota: none"), "{}", error.message);

        namespace.api::<ResourceQuota>().delete("none", &DeleteParams::default()).await.unwrap();
        assert_eq!(succeeded(&namespace, "refused").await.error, None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_wants_a_gpu_says_that_no_node_has_one_and_then_that_the_pod_finds_none() {
    test("gpu", async |namespace: Namespace| {
        let nodes: Api<Node> = Api::all(namespace.client.clone());
        let node = nodes.list(&ListParams::default()).await.unwrap().items.remove(0).name_any();
        // An interrupted test may have left them there.
        advertise_gpus(&nodes, &node, None).await;
        train(&namespace, "gpu", &json!({"resources": {"gpus": 1}})).await;
        let error = error_of(&namespace, "gpu", Reason::Unschedulable).await;
        assert!(error.message.contains("nvidia.com/gpu"), "{}", error.message);

        advertise_gpus(&nodes, &node, Some("1")).await;
        let (status, error) = failed(&namespace, "gpu").await;
        advertise_gpus(&nodes, &node, None).await;
        assert_eq!((error.reason, error.exit_code, status.restarts), (Reason::DeviceNotFound, Some(15), 0));
    })
    .await;
}

/// Says on a node's behalf that it has so many GPUs, which no device plugin contradicts.
async fn advertise_gpus(nodes: &Api<Node>, node: &str, count: Option<&str>) {
    let gpus = json!({"nvidia.com/gpu": count});
    let status = json!({"status": {"capacity": gpus, "allocatable": gpus}});
    nodes.patch_status(node, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_for_which_no_node_has_the_labels_waits_for_a_change() {
    test("selector", async |namespace: Namespace| {
        train(&namespace, "picky", &json!({"scheduling": {"nodeSelector": {"no-such-label": "x"}}})).await;
        error_of(&namespace, "picky", Reason::Unschedulable).await;
        patch::<ModelTraining>(&namespace, "picky", json!({"spec": {"scheduling": {"nodeSelector": null}}})).await;
        assert_eq!(succeeded(&namespace, "picky").await.error, None);
    })
    .await;
}
