//! What a server is told on its command line.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use stoker_crds::{
    Duration,
    deployment::{Batching, Limits},
    serving::{INFERENCE_PORT, MANAGEMENT_PORT},
};

/// What is served, where, and at what cost. Every flag can be given as an environment variable too.
#[derive(Clone, Debug, clap::Args)]
pub struct ServeOptions {
    /// The folder of the model artifact: s3://bucket/path, gs://…, az://…, file:///… or a local path.
    #[arg(long, env = "STOKER_MODEL", value_name = "URI")]
    pub model: String,
    /// Refuse any model whose manifest has another digest.
    #[arg(long, env = "STOKER_MODEL_DIGEST", value_name = "sha256:HEX")]
    pub digest: Option<String>,
    /// The name under which the model is served: /v2/models/NAME.
    #[arg(long, env = "STOKER_MODEL_NAME", default_value = "model")]
    pub name: String,
    /// The version under which the model is served: /v2/models/NAME/versions/VERSION.
    #[arg(long, env = "STOKER_MODEL_VERSION", default_value = "1", value_name = "VERSION")]
    pub model_version: String,
    /// GPUs to compute on: 0, which is the CPU, or 1.
    #[arg(long, env = "STOKER_GPUS", default_value_t = 0, value_name = "COUNT",
          value_parser = clap::value_parser!(u32).range(0..=1))]
    pub gpus: u32,

    /// Where inference is served.
    #[arg(long, env = "STOKER_LISTEN", default_value_t = everywhere(INFERENCE_PORT), value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// Where probes, metrics and statistics are served; never to be opened to the outside.
    #[arg(long, env = "STOKER_MANAGEMENT_LISTEN", default_value_t = everywhere(MANAGEMENT_PORT), value_name = "ADDRESS")]
    pub management_listen: SocketAddr,
    /// A folder of API keys, one per file. Without it, everybody who reaches the server may ask.
    #[arg(long, env = "STOKER_API_KEYS_DIR", value_name = "DIR")]
    pub api_keys_dir: Option<PathBuf>,

    /// The most rows that are computed at once.
    #[arg(long, env = "STOKER_MAX_BATCH_SIZE", default_value_t = Batching::default().max_size, value_name = "ROWS",
          value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub max_batch_size: u32,
    /// How long a request waits for others that are expected, at most.
    #[arg(long, env = "STOKER_MAX_BATCH_DELAY", default_value_t = Batching::default().max_delay, value_name = "DURATION")]
    pub max_batch_delay: Duration,

    /// The longest body of a request, in bytes.
    #[arg(long, env = "STOKER_MAX_BODY_BYTES", default_value_t = Limits::default().max_body_bytes, value_name = "BYTES")]
    pub max_body_bytes: u64,
    /// How long a request may take before it is answered with 504.
    #[arg(long, env = "STOKER_TIMEOUT", default_value_t = Limits::default().timeout, value_name = "DURATION")]
    pub timeout: Duration,
    /// How many rows may wait before further requests are answered with 503; fewer, where rows are so wide that so many
    /// would fill the memory.
    #[arg(long, env = "STOKER_MAX_QUEUE", default_value_t = Limits::default().max_queue, value_name = "ROWS",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub max_queue: u32,
    /// How long a connection may be idle, a request's headers may take, and an answer may lie unread.
    #[arg(long, env = "STOKER_IDLE_TIMEOUT", default_value_t = Duration::from_secs(60), value_name = "DURATION")]
    pub idle_timeout: Duration,

    /// After SIGTERM, how long requests go on being taken while load balancers learn that this server leaves.
    #[arg(long, env = "STOKER_DRAIN_DELAY", default_value_t = Duration::from_secs(5), value_name = "DURATION")]
    pub drain_delay: Duration,
    /// After that, how long running requests may take to end.
    #[arg(long, env = "STOKER_DRAIN_TIMEOUT", default_value_t = Duration::from_secs(20), value_name = "DURATION")]
    pub drain_timeout: Duration,

    /// The file that takes the error of a failed start, for `kubectl describe` and the operator.
    #[arg(long, env = "STOKER_TERMINATION_MESSAGE_PATH", value_name = "FILE")]
    pub termination_message_path: Option<PathBuf>,
}

const fn everywhere(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)
}
