//! The operator itself: it may end at any time, and nothing is lost.

use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::{Api, Client, api::DeleteParams};
use serde_json::json;
use stoker_e2e::{Namespace, release};

use crate::{
    lines,
    setup::test,
    steps::{running_pod, succeeded, train, training_when, wait},
};

/// Two tests that end leaders must not end each other's successors.
static LEADER: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn leases(client: &Client) -> Api<Lease> {
    Api::namespaced(client.clone(), release::NAMESPACE)
}

fn holder(lease: &Lease) -> Option<String> {
    lease.spec.as_ref()?.holder_identity.clone().filter(|holder| !holder.is_empty())
}

/// The pod that leads.
async fn leader(client: &Client) -> String {
    let lease =
        wait("an operator to lead").until(&leases(client), release::NAME, |lease| holder(lease).is_some()).await;
    holder(&lease.unwrap()).unwrap()
}

/// The pod that leads after another one did.
async fn successor(client: &Client, ended: &str) -> String {
    let lease = wait(format!("another operator to lead than {ended}"))
        .until(&leases(client), release::NAME, |lease| holder(lease).is_some_and(|holder| holder != ended))
        .await;
    holder(&lease.unwrap()).unwrap()
}

async fn end(client: &Client, pod: &str, how: &DeleteParams) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), release::NAMESPACE);
    pods.delete(pod, how).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_operator_is_followed_by_another_and_the_run_goes_on() {
    test("operator-kill", async |namespace: Namespace| {
        let _turn = LEADER.lock().await;
        train(&namespace, "lines", &lines::long()).await;
        let trains = |status: &stoker_crds::ModelTrainingStatus| status.checkpoint.is_some();
        training_when(&namespace, "lines", "to have a checkpoint", trains).await;
        let pod = running_pod(&namespace, "lines").await;

        let first = leader(&namespace.client).await;
        end(&namespace.client, &first, &DeleteParams::default().grace_period(0)).await;
        successor(&namespace.client, &first).await;

        let status = succeeded(&namespace, "lines").await;
        assert_eq!((status.run, status.restarts), (1, 0));
        namespace.api::<Pod>().get(&pod).await.expect("the run's only pod is the one from before");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_is_told_to_end_hands_over_and_the_next_one_works() {
    test("operator-stop", async |namespace: Namespace| {
        let _turn = LEADER.lock().await;
        let first = leader(&namespace.client).await;
        end(&namespace.client, &first, &DeleteParams::default()).await;
        successor(&namespace.client, &first).await;
        train(&namespace, "lines", &json!({})).await;
        succeeded(&namespace, "lines").await;
    })
    .await;
}
