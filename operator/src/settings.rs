//! What the operator was started with.

use std::{net::SocketAddr, time::Duration};

use stoker_crds::training::Storage;
use tracing_subscriber::filter::Targets;

/// What an administrator decides, by flags or environment variables.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// Namespaces to work in, separated by commas; the whole cluster if none is named.
    #[arg(long, env = "STOKER_NAMESPACES", value_delimiter = ',')]
    pub namespaces: Vec<String>,
    /// The namespace that the operator itself runs in: its Lease lies there, and only its pods may ask trainers and servers.
    #[arg(long, env = "POD_NAMESPACE", default_value = "stoker-system")]
    pub operator_namespace: String,
    /// What is logged: error, warn, info, debug or trace; by target if wanted, as in `info,kube=debug`.
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    pub log: Targets,
    /// Where probes and metrics are served.
    #[arg(long, env = "STOKER_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// The name of the operator's pod: the holder of the Lease, and the source of events.
    #[arg(long, env = "POD_NAME", default_value_t = default_identity())]
    pub identity: String,
    /// The image of trainer and serving pods that compute on the CPU.
    #[arg(long, env = "STOKER_TRAINER_IMAGE", default_value = concat!("ghcr.io/stoker-dev/stoker-trainer:", env!("CARGO_PKG_VERSION")))]
    pub trainer_image: String,
    /// The image of trainer and serving pods that ask for GPUs.
    #[arg(long, env = "STOKER_TRAINER_GPU_IMAGE", default_value = concat!("ghcr.io/stoker-dev/stoker-trainer:", env!("CARGO_PKG_VERSION"), "-cuda"))]
    pub trainer_gpu_image: String,
    /// When nodes pull the images: Always, IfNotPresent or Never.
    #[arg(long, env = "STOKER_IMAGE_PULL_POLICY", default_value = "IfNotPresent")]
    pub image_pull_policy: String,
    /// Secrets with which nodes pull the images; they must exist in the namespaces of the trainings.
    #[arg(long, env = "STOKER_IMAGE_PULL_SECRETS", value_delimiter = ',')]
    pub image_pull_secrets: Vec<String>,
    /// `spec.storage` of the trainings that set none, as JSON: {"uri": "s3://models", "secretName": "s3"}.
    #[arg(long, env = "STOKER_DEFAULT_STORAGE", value_parser = parse_storage)]
    pub default_storage: Option<Storage>,
    /// Whether file:// URIs on mounted volumes are taken.
    #[arg(long, env = "STOKER_ALLOW_FILE_STORAGE", default_value_t = true, action = clap::ArgAction::Set)]
    pub allow_file_storage: bool,
    /// How many resources of a kind are worked on at the same time.
    #[arg(long, env = "STOKER_CONCURRENCY", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub concurrency: u16,
    /// How often a running pod is asked for its progress or figures, in milliseconds.
    #[arg(long = "poll-interval-ms", env = "STOKER_POLL_INTERVAL_MS", default_value = "2000", value_parser = parse_milliseconds)]
    pub poll_interval: Duration,
    /// How many pods are asked per second, at most; with more pods, each is asked more seldom.
    #[arg(long, env = "STOKER_MAX_POLLS_PER_SECOND", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub max_polls_per_second: u32,
}

impl Settings {
    /// The image of pods with so many GPUs.
    pub fn image(&self, gpus: u32) -> &str {
        if gpus > 0 { &self.trainer_gpu_image } else { &self.trainer_image }
    }
}

fn parse_storage(text: &str) -> Result<Storage, String> {
    serde_json::from_str(text).map_err(|error| format!("{error}; write it like {{\"uri\": \"s3://models\"}}"))
}

fn parse_milliseconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(milliseconds @ 1..) => Ok(Duration::from_millis(milliseconds)),
        _ => Err("must be a number of milliseconds from 1".into()),
    }
}

/// The host's name, which in a pod is the pod's.
fn default_identity() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map_or_else(|_| "stoker".into(), |name| name.trim().to_owned())
}
