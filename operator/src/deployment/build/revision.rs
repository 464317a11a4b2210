//! The Deployment of one revision, and its pods.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec},
        core::v1::{HTTPGetAction, Probe},
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use stoker_crds::{
    Duration,
    config::TERMINATION_MESSAGE_PATH,
    serving::{API_KEYS_DIR, INFERENCE_PORT, MANAGEMENT_PORT},
    training::storage::{STORAGE_ENV_PREFIX, STORAGE_MOUNT},
};

use super::{metadata, selector};
use crate::{
    Result,
    deployment::{
        DEADLINE,
        validate::{Access, Validated},
    },
    digest,
    labels::{MODEL_DIGEST_ANNOTATION, MODEL_VERSION_ANNOTATION, Owner, REVISION, SERVER},
    pod_template::{Mount, PodPlan, Probes, Source},
    settings::Settings,
};

/// Hexadecimal digits of a revision's name.
const DIGITS: usize = 8;
/// After SIGTERM, how long a server goes on taking requests while all nodes learn that it leaves.
const DRAIN_DELAY: Duration = Duration::from_secs(5);
/// The longest that a leaving server waits for its last requests, whatever they may take.
const LONGEST_DRAIN: Duration = Duration::from_secs(300);
/// What a leaving server gets beyond that, to end by itself.
const MARGIN: Duration = Duration::from_secs(5);

/// The Deployment `<name>-<digits>` of the wanted revision, without a number of replicas.
///
/// The digits are of everything in the pod: another model, other settings, another image are another revision, which
/// then is rolled out beside the one that serves. The pods of a revision never change.
pub(super) fn workload(deployment: &Validated, settings: &Settings) -> Result<Deployment> {
    let mut template = pod(deployment).build(settings);
    let revision: String = digest::of(&template, &deployment.name)?.chars().take(DIGITS).collect();
    let mut labels = selector(&deployment.name);
    labels.insert(REVISION.into(), revision.clone());
    if let Some(of_pods) = template.metadata.as_mut().and_then(|metadata| metadata.labels.as_mut()) {
        of_pods.insert(REVISION.into(), revision.clone());
    }
    let mut metadata = metadata(deployment, &format!("{}-{revision}", deployment.name));
    metadata.labels.get_or_insert_default().insert(REVISION.into(), revision);
    metadata.annotations = Some(annotations(deployment));
    Ok(Deployment {
        metadata,
        spec: Some(DeploymentSpec {
            selector: LabelSelector { match_labels: Some(labels), ..LabelSelector::default() },
            template,
            progress_deadline_seconds: i32::try_from(DEADLINE.as_secs()).ok(),
            ..DeploymentSpec::default()
        }),
        status: None,
    })
}

fn annotations(deployment: &Validated) -> BTreeMap<String, String> {
    let digest = (MODEL_DIGEST_ANNOTATION.to_owned(), deployment.model.digest.clone());
    let version = deployment.model.version.map(|version| (MODEL_VERSION_ANNOTATION.to_owned(), version.to_string()));
    std::iter::once(digest).chain(version).collect()
}

fn pod(deployment: &Validated) -> PodPlan<'_> {
    let drain = deployment.server.limits.timeout.min(LONGEST_DRAIN);
    let grace = (DRAIN_DELAY.0 + drain.0 + MARGIN.0).as_secs();
    let mut volumes = Vec::new();
    if let Some(secret) = &deployment.api_keys {
        volumes.push(Mount { name: "api-keys", path: API_KEYS_DIR, source: Source::Secret(secret) });
    }
    let (mut credentials, mut identity) = (Vec::new(), None);
    match &deployment.access {
        Access::Volume(claim) => {
            let source = Source::Claim { name: claim, read_only: true };
            volumes.push(Mount { name: "storage", path: STORAGE_MOUNT, source });
        }
        Access::Objects { secret, service_account } => {
            credentials.extend(secret.as_deref().map(|secret| (STORAGE_ENV_PREFIX, secret)));
            identity = service_account.as_deref();
        }
    }
    PodPlan {
        container: SERVER,
        labels: Owner::deployment(&deployment.namespace, &deployment.name).labels(),
        annotations: BTreeMap::new(),
        args: args(deployment, drain),
        env: Vec::new(),
        credentials,
        resources: &deployment.resources,
        scheduling: &deployment.scheduling,
        service_account: identity,
        ports: vec![("http", INFERENCE_PORT), ("management", MANAGEMENT_PORT)],
        volumes,
        probes: probes(),
        restart_policy: "Always",
        grace_period_seconds: i64::try_from(grace).unwrap_or(i64::MAX),
    }
}

fn args(deployment: &Validated, drain: Duration) -> Vec<String> {
    let Validated { name, model, server, api_keys, .. } = deployment;
    let flags = [
        ("model", Some(model.uri.clone())),
        ("digest", Some(model.digest.clone())),
        ("name", Some(name.clone())),
        ("model-version", model.version.map(|version| version.to_string())),
        ("gpus", Some(server.resources.gpus.to_string())),
        ("api-keys-dir", api_keys.as_ref().map(|_| API_KEYS_DIR.to_owned())),
        ("max-batch-size", Some(server.batching.max_size.to_string())),
        ("max-batch-delay", Some(server.batching.max_delay.to_string())),
        ("max-body-bytes", Some(server.limits.max_body_bytes.to_string())),
        ("timeout", Some(server.limits.timeout.to_string())),
        ("max-queue", Some(server.limits.max_queue.to_string())),
        ("drain-delay", Some(DRAIN_DELAY.to_string())),
        ("drain-timeout", Some(drain.to_string())),
        ("termination-message-path", Some(TERMINATION_MESSAGE_PATH.to_owned())),
    ];
    let flags = flags.into_iter().filter_map(|(flag, value)| Some(format!("--{flag}={}", value?)));
    std::iter::once("serve".to_owned()).chain(flags).collect()
}

/// A server starts in milliseconds and then fetches its model, for as long as that takes: it is alive and not ready.
fn probes() -> Probes {
    let probe = |path: &str, period_seconds, failure_threshold| Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::String("management".into()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(2),
        failure_threshold: Some(failure_threshold),
        ..Probe::default()
    };
    Probes {
        startup: Some(probe("/healthz", 1, 60)),
        liveness: Some(probe("/healthz", 10, 3)),
        readiness: Some(probe("/readyz", 1, 3)),
    }
}
