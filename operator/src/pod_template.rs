//! The pods of trainings and deployments: restricted by Pod Security, without a token of the Kubernetes API.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvFromSource, EnvVar,
        LocalObjectReference, PersistentVolumeClaimVolumeSource, PodSecurityContext, PodSpec, PodTemplateSpec, Probe,
        ResourceRequirements, SeccompProfile, SecretEnvSource, SecretVolumeSource, SecurityContext, Toleration, Volume,
        VolumeMount,
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};
use stoker_crds::{
    config::TERMINATION_MESSAGE_PATH,
    training::{Cache, Resources, Scheduling, pod::DEFAULT_CACHE, storage::CLOUD_IDENTITY_ENV},
};

use crate::settings::Settings;

/// The user and group that the images run as.
const NONROOT: i64 = 65532;
/// Where the GPU image keeps compiled kernels (images/cubecl.toml).
const KERNEL_CACHE: &str = "/cache";
/// The label by which Azure gives a pod the identity of its service account.
const AZURE_IDENTITY: &str = "azure.workload.identity/use";
/// The extended resource of a GPU.
const GPU: &str = "nvidia.com/gpu";

/// What a pod of Stoker is made of.
#[derive(Clone, Debug)]
pub struct PodPlan<'a> {
    /// Name of its one container.
    pub container: &'static str,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Arguments of the trainer image's program.
    pub args: Vec<String>,
    /// Environment variables.
    pub env: Vec<(&'static str, String)>,
    /// Secrets whose entries become environment variables, each with the prefix of their names.
    pub credentials: Vec<(&'static str, &'a str)>,
    /// What it gets: requests and limits alike.
    pub resources: &'a Resources,
    /// Where it may run.
    pub scheduling: &'a Scheduling,
    /// The service account that it runs as.
    pub service_account: Option<&'a str>,
    /// Its ports, by name.
    pub ports: Vec<(&'static str, u16)>,
    /// Its volumes.
    pub volumes: Vec<Mount<'a>>,
    /// When its container counts as started, alive and ready.
    pub probes: Probes,
    /// `Never` in a Job, `Always` in a Deployment.
    pub restart_policy: &'static str,
    /// How long it may take to end, in seconds.
    pub grace_period_seconds: i64,
}

/// A volume, and where it is mounted.
#[derive(Clone, Debug)]
pub struct Mount<'a> {
    /// Name of the volume.
    pub name: &'static str,
    /// Where it is mounted.
    pub path: &'static str,
    /// What it holds.
    pub source: Source<'a>,
}

/// What a volume holds.
#[derive(Clone, Debug)]
pub enum Source<'a> {
    /// A ConfigMap of that name.
    ConfigMap(&'a str),
    /// A Secret of that name.
    Secret(&'a str),
    /// A PersistentVolumeClaim.
    Claim {
        /// Its name.
        name: &'a str,
        /// Whether the pod only reads it.
        read_only: bool,
    },
    /// An empty folder of at most that size, gone with the pod.
    Scratch(&'a str),
}

/// When a container counts as started, alive and ready.
#[derive(Clone, Debug, Default)]
pub struct Probes {
    /// Started.
    pub startup: Option<Probe>,
    /// Alive.
    pub liveness: Option<Probe>,
    /// Ready.
    pub readiness: Option<Probe>,
}

impl PodPlan<'_> {
    /// The pod.
    pub fn build(mut self, settings: &Settings) -> PodTemplateSpec {
        if self.resources.gpus > 0 {
            let source = kernel_cache(self.resources.cache.as_ref());
            self.volumes.push(Mount { name: "kernels", path: KERNEL_CACHE, source });
        }
        if self.service_account.is_some() {
            self.labels.insert(AZURE_IDENTITY.into(), "true".into());
        }
        let spec = PodSpec {
            containers: vec![self.container(settings)],
            volumes: Some(self.volumes.iter().map(Mount::volume).collect()),
            restart_policy: Some(self.restart_policy.into()),
            termination_grace_period_seconds: Some(self.grace_period_seconds),
            service_account_name: self.service_account.map(Into::into),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            security_context: Some(pod_security()),
            image_pull_secrets: pull_secrets(settings),
            node_selector: none_if_empty(self.scheduling.node_selector.clone()),
            tolerations: tolerations(self.scheduling),
            priority_class_name: self.scheduling.priority_class_name.clone(),
            ..PodSpec::default()
        };
        let metadata = ObjectMeta {
            labels: Some(self.labels),
            annotations: none_if_empty(self.annotations),
            ..ObjectMeta::default()
        };
        PodTemplateSpec { metadata: Some(metadata), spec: Some(spec) }
    }

    fn container(&self, settings: &Settings) -> Container {
        let env = self.env.iter().map(|(name, value)| EnvVar {
            name: (*name).into(),
            value: Some(value.clone()),
            ..EnvVar::default()
        });
        // Google has no other sign of it.
        let identity = self.service_account.map(|_| EnvVar {
            name: CLOUD_IDENTITY_ENV.into(),
            value: Some("true".into()),
            ..EnvVar::default()
        });
        let credentials = self.credentials.iter().map(|(prefix, secret)| EnvFromSource {
            prefix: Some((*prefix).into()),
            secret_ref: Some(SecretEnvSource { name: (*secret).into(), optional: Some(false) }),
            ..EnvFromSource::default()
        });
        let ports = self.ports.iter().map(|(name, port)| ContainerPort {
            name: Some((*name).into()),
            container_port: i32::from(*port),
            protocol: Some("TCP".into()),
            ..ContainerPort::default()
        });
        Container {
            name: self.container.into(),
            image: Some(settings.image(self.resources.gpus).into()),
            image_pull_policy: Some(settings.image_pull_policy.clone()),
            args: Some(self.args.clone()),
            env: Some(env.chain(identity).collect()),
            env_from: Some(credentials.collect()),
            ports: Some(ports.collect()),
            resources: Some(resources(self.resources)),
            volume_mounts: Some(self.volumes.iter().map(Mount::mount).collect()),
            security_context: Some(container_security()),
            startup_probe: self.probes.startup.clone(),
            liveness_probe: self.probes.liveness.clone(),
            readiness_probe: self.probes.readiness.clone(),
            termination_message_path: Some(TERMINATION_MESSAGE_PATH.into()),
            termination_message_policy: Some("File".into()),
            ..Container::default()
        }
    }
}

impl Mount<'_> {
    fn volume(&self) -> Volume {
        let mut volume = Volume { name: self.name.into(), ..Volume::default() };
        match &self.source {
            Source::ConfigMap(name) => {
                volume.config_map = Some(ConfigMapVolumeSource { name: (*name).into(), ..Default::default() });
            }
            Source::Secret(name) => {
                volume.secret = Some(SecretVolumeSource { secret_name: Some((*name).into()), ..Default::default() });
            }
            Source::Claim { name, read_only } => {
                volume.persistent_volume_claim =
                    Some(PersistentVolumeClaimVolumeSource { claim_name: (*name).into(), read_only: Some(*read_only) });
            }
            Source::Scratch(size) => {
                volume.empty_dir =
                    Some(EmptyDirVolumeSource { size_limit: Some(Quantity((*size).into())), medium: None });
            }
        }
        volume
    }

    fn mount(&self) -> VolumeMount {
        let read_only = match self.source {
            Source::ConfigMap(_) | Source::Secret(_) => true,
            Source::Claim { read_only, .. } => read_only,
            Source::Scratch(_) => false,
        };
        VolumeMount {
            name: self.name.into(),
            mount_path: self.path.into(),
            read_only: Some(read_only),
            ..VolumeMount::default()
        }
    }
}

fn kernel_cache(cache: Option<&Cache>) -> Source<'_> {
    match cache {
        None => Source::Scratch(DEFAULT_CACHE),
        Some(Cache::Size(size)) => Source::Scratch(size),
        Some(Cache::PersistentVolumeClaim(name)) => Source::Claim { name, read_only: false },
    }
}

fn resources(resources: &Resources) -> ResourceRequirements {
    let mut amounts = BTreeMap::from([
        ("cpu".to_owned(), Quantity(resources.cpu.clone())),
        ("memory".to_owned(), Quantity(resources.memory.clone())),
    ]);
    if resources.gpus > 0 {
        amounts.insert(GPU.to_owned(), Quantity(resources.gpus.to_string()));
    }
    ResourceRequirements { requests: Some(amounts.clone()), limits: Some(amounts), claims: None }
}

/// Pod Security Standard `restricted`.
fn pod_security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(NONROOT),
        run_as_group: Some(NONROOT),
        fs_group: Some(NONROOT),
        fs_group_change_policy: Some("OnRootMismatch".into()),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
        ..PodSecurityContext::default()
    }
}

fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
        ..SecurityContext::default()
    }
}

fn pull_secrets(settings: &Settings) -> Option<Vec<LocalObjectReference>> {
    let secrets = settings.image_pull_secrets.iter().map(|name| LocalObjectReference { name: name.clone() });
    Some(secrets.collect::<Vec<_>>()).filter(|secrets| !secrets.is_empty())
}

fn tolerations(scheduling: &Scheduling) -> Option<Vec<Toleration>> {
    let tolerations = scheduling.tolerations.iter().map(|toleration| Toleration {
        key: toleration.key.clone(),
        operator: toleration.operator.clone(),
        value: toleration.value.clone(),
        effect: toleration.effect.clone(),
        ..Toleration::default()
    });
    Some(tolerations.collect::<Vec<_>>()).filter(|tolerations| !tolerations.is_empty())
}

fn none_if_empty(map: BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    if map.is_empty() { None } else { Some(map) }
}
