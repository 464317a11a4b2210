//! The operator itself: it may end at any time, and nothing is lost.

use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::{Api, Client, api::DeleteParams};
use serde_json::json;
use stoker_e2e::{Namespace, command, release};

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

/// The Lease in the hands of a pod.
async fn held(client: &Client) -> Lease {
    let is_held = |lease: &Lease| holder(lease).is_some();
    wait("an operator to lead").until(&leases(client), release::NAME, is_held).await.unwrap()
}

/// The pod that leads.
async fn leader(client: &Client) -> String {
    holder(&held(client).await).unwrap()
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
async fn an_operator_that_is_told_to_end_hands_over_before_its_lease_has_run_out_and_the_next_one_works() {
    test("operator-stop", async |namespace: Namespace| {
        let _turn = LEADER.lock().await;
        let mut last = held(&namespace.client).await;
        let first = holder(&last).unwrap();
        end(&namespace.client, &first, &DeleteParams::default()).await;
        let taken = wait(format!("another operator to lead than {first}"))
            .until_any(&leases(&namespace.client), "", |leases| {
                let lease = leases.get(release::NAME)?;
                let is_renewed = holder(lease)? == first;
                if is_renewed {
                    last = lease.clone();
                }
                (!is_renewed).then(|| lease.clone())
            })
            .await
            .unwrap();

        // Others take a Lease that is not given up no sooner than it has run out.
        let (last, taken) = (last.spec.unwrap(), taken.spec.unwrap());
        let after = taken.acquire_time.unwrap().0.duration_since(last.renew_time.unwrap().0).as_secs_f64();
        let runs_out = f64::from(last.lease_duration_seconds.unwrap());
        assert!(after < runs_out, "taken {after} s after it was renewed last: it runs out after {runs_out} s");

        train(&namespace, "lines", &json!({})).await;
        succeeded(&namespace, "lines").await;
    })
    .await;
}

/// Whether a series of that name and labels has a value above 0.
fn tells(metrics: &str, series: &str) -> bool {
    let mut values = metrics.lines().filter_map(|line| line.strip_prefix(series)?.trim().parse::<f64>().ok());
    values.any(|value| value > 0.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_tells_prometheus_of_its_work_and_what_became_of_a_training_and_of_a_deployment_that_fails() {
    test("operator-metrics", async |namespace: Namespace| {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "taken"}, "spec": {"ports": [{"port": 80}]},
        });
        namespace.apply(&serde_json::from_value(service).unwrap()).await.unwrap();
        train(&namespace, "lines", &json!({})).await;
        succeeded(&namespace, "lines").await;
        namespace.apply(&lines::deployment("taken", "lines", &json!({}))).await.unwrap();

        let expected = [
            r#"stoker_reconciles_total{kind="ModelTraining"}"#,
            r#"stoker_reconciles_total{kind="ModelDeployment"}"#,
            // No other test has such an error.
            r#"stoker_reconcile_errors_total{kind="ModelDeployment",class="invalid",reason="NameConflict"}"#,
            r#"stoker_reconcile_duration_seconds_count{kind="ModelTraining"}"#,
            r#"stoker_reconcile_duration_seconds_sum{kind="ModelDeployment"}"#,
            r#"stoker_reconcile_duration_seconds_bucket{le="+Inf",kind="ModelDeployment"}"#,
            r#"stoker_resources{kind="ModelTraining",phase="Succeeded"}"#,
            r#"stoker_resources{kind="ModelDeployment",phase="Failed"}"#,
        ];
        wait("the leader's metrics to tell of both")
            .until_ok(async || {
                // By its pod: behind the Service is the replica that waits, too. A next leader meets the same error.
                let pod = leader(&namespace.client).await;
                let path = format!("/api/v1/namespaces/{}/pods/{pod}:8080/proxy/metrics", release::NAMESPACE);
                let metrics = command::run("kubectl", &["get", "--raw", &path]).await.map_err(|e| e.to_string())?;
                let missing: Vec<_> = expected.iter().filter(|series| !tells(&metrics, series)).collect();
                if missing.is_empty() { Ok(()) } else { Err(format!("no {missing:?} in\n{metrics}")) }
            })
            .await
            .unwrap();
    })
    .await;
}
