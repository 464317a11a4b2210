//! What a serving pod tells the operator.

use serde::{Deserialize, Serialize};

/// The port of the Open Inference Protocol.
pub const INFERENCE_PORT: u16 = 8080;
/// The port of [`STATS_PATH`], `/metrics` and the probes' own paths; never behind API keys.
pub const MANAGEMENT_PORT: u16 = 8081;
/// The path of [`ServerStats`], as JSON.
pub const STATS_PATH: &str = "/v1/stats";
/// The folder at which the Secret of API keys is mounted: each file holds one key.
pub const API_KEYS_DIR: &str = "/etc/stoker/api-keys";

/// Upper bounds of the latency histogram's buckets, in seconds; one more bucket takes what is slower.
pub const LATENCY_BOUNDS: [f64; 14] =
    [0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// Counters of a serving pod since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServerStats {
    /// `sha256:…` of the model that is served.
    pub digest: String,
    /// Inference requests answered, with whatever status.
    pub requests: u64,
    /// Of those, the ones answered with a 5xx status.
    pub errors: u64,
    /// Requests that are being worked on or wait in the queue.
    pub in_flight: u64,
    /// How many requests took up to each of [`LATENCY_BOUNDS`], and how many longer (not cumulative).
    pub latency_buckets: Vec<u64>,
}
