//! What a person needs to see when a test has failed: resources, pods, events and logs.

use std::fmt::Write as _;

use k8s_openapi::api::{
    core::v1::{ContainerStatus, Pod},
    events::v1::Event,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, LogParams},
    core::NamespaceResourceScope,
};
use stoker_crds::{ModelDeployment, ModelTraining};

use crate::{
    release,
    wait::{Kind, status_yaml},
};

const LOG_LINES: i64 = 60;

/// Everything about a namespace, and the operator's last words.
pub async fn namespace(client: &Client, namespace: &str) -> String {
    let mut report = format!("\n===== namespace {namespace} =====\n");
    resources::<ModelTraining>(client, namespace, "ModelTraining", &mut report).await;
    resources::<ModelDeployment>(client, namespace, "ModelDeployment", &mut report).await;
    events(client, namespace, &mut report).await;
    pods(client, namespace, "", &mut report).await;
    report.push_str("===== operator =====\n");
    pods(client, release::NAMESPACE, release::OPERATOR_PODS, &mut report).await;
    report
}

async fn list<K: Kind + kube::Resource<Scope = NamespaceResourceScope>>(
    client: &Client,
    namespace: &str,
    labels: &str,
    report: &mut String,
) -> Vec<K> {
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    match api.list(&ListParams::default().labels(labels)).await {
        Ok(found) => found.items,
        Err(error) => {
            writeln!(report, "cannot list {}: {error}", K::plural(&())).ok();
            Vec::new()
        }
    }
}

async fn resources<K: Kind + kube::Resource<Scope = NamespaceResourceScope>>(
    client: &Client,
    namespace: &str,
    kind: &str,
    report: &mut String,
) {
    for resource in list::<K>(client, namespace, "", report).await {
        writeln!(report, "--- {kind}\n{}", status_yaml(&resource)).ok();
    }
}

async fn events(client: &Client, namespace: &str, report: &mut String) {
    report.push_str("--- events\n");
    for event in list::<Event>(client, namespace, "", report).await {
        let about = event.regarding.unwrap_or_default();
        writeln!(
            report,
            "{} {} {}/{}: {}",
            event.type_.unwrap_or_default(),
            event.reason.unwrap_or_default(),
            about.kind.unwrap_or_default(),
            about.name.unwrap_or_default(),
            event.note.unwrap_or_default(),
        )
        .ok();
    }
}

async fn pods(client: &Client, namespace: &str, labels: &str, report: &mut String) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    for pod in list::<Pod>(client, namespace, labels, report).await {
        let status = pod.status.clone().unwrap_or_default();
        let phase = status.phase.unwrap_or_default();
        writeln!(report, "--- pod {}: {phase} {}", pod.name_any(), status.message.unwrap_or_default()).ok();
        let containers = status.init_container_statuses.into_iter().chain(status.container_statuses).flatten();
        for container in containers {
            container_state(&pods, &pod.name_any(), &container, report).await;
        }
    }
}

async fn container_state(pods: &Api<Pod>, pod: &str, container: &ContainerStatus, report: &mut String) {
    for (when, state, previous) in [("before", &container.last_state, true), ("now", &container.state, false)] {
        let Some(state) = state else { continue };
        let words = if let Some(ended) = &state.terminated {
            let reason = ended.reason.as_deref().unwrap_or_default();
            format!("ended with {} {reason}: {}", ended.exit_code, ended.message.as_deref().unwrap_or_default())
        } else if let Some(waiting) = &state.waiting {
            let reason = waiting.reason.as_deref().unwrap_or_default();
            format!("waits: {reason} {}", waiting.message.as_deref().unwrap_or_default())
        } else if state.running.is_some() {
            "runs".to_owned()
        } else {
            continue;
        };
        writeln!(report, "container {} {when}: {words}", container.name).ok();
        if state.waiting.is_some() {
            continue;
        }
        let params = LogParams {
            container: Some(container.name.clone()),
            previous,
            tail_lines: Some(LOG_LINES),
            ..LogParams::default()
        };
        match pods.logs(pod, &params).await {
            Ok(log) => report.extend(log.lines().map(|line| format!("    {line}\n"))),
            Err(error) => report.push_str(&format!("    no log: {error}\n")),
        }
    }
}
