//! How a run ended: the closed list of reasons, their exit codes, and the report a trainer pod leaves behind.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    artifact::{CheckpointRef, ModelRef},
    metric::{Metrics, Split},
    progress::{DataStats, DeviceInfo, Estimate},
};

/// The largest termination message that Kubernetes keeps, in bytes.
pub const MAX_REPORT_BYTES: usize = 4096;

/// Why something failed: the closed list that `status.error.reason` is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub enum Reason {
    /// The configuration cannot be run as written.
    InvalidConfig,
    /// A named column is not in the data.
    UnknownColumn,
    /// A column's values are not of the type that its use needs.
    WrongType,
    /// A file cannot be parsed.
    UnparsableData,
    /// No row is left after cleaning, or a split is empty.
    EmptyData,
    /// No file matches the source's URI.
    DataNotFound,
    /// The storage refused the credentials, or there are none: no Secret is named, or it lacks the keys.
    AccessDenied,
    /// The bucket or container does not exist.
    BucketNotFound,
    /// The storage did not answer, or answered with a passing error, for longer than the retries last.
    StorageUnavailable,
    /// The loss or a weight became NaN or infinite, or the loss grew and did not come down again.
    Diverged,
    /// A model or checkpoint does not match its manifest's sizes and digests.
    CorruptArtifact,
    /// The spec asks for a GPU and the pod finds none.
    DeviceNotFound,
    /// The scratch volume is full.
    DiskFull,
    /// The device's memory does not suffice.
    OutOfDeviceMemory,
    /// The run was told to end before it was done; its last checkpoint holds its state.
    Preempted,
    /// A defect of Stoker.
    Internal,
    /// The memory does not suffice: the kernel ended the pod for using more than its limit, or what a run needs does not fit.
    OutOfMemory,
    /// The node evicted the pod.
    Evicted,
    /// The run took longer than `deadline`.
    DeadlineExceeded,
    /// A pod ended without a report, by a signal or with an unknown exit code.
    PodFailed,
    /// A Secret that the spec names does not exist in the namespace of the resource.
    SecretNotFound,
    /// A service account that the spec names does not exist.
    ServiceAccountNotFound,
    /// The image cannot be pulled.
    ImageUnavailable,
    /// No node can take the pod.
    Unschedulable,
    /// The cluster's policy (quota, admission) refused to create the pod.
    PodRefused,
    /// The ModelTraining does not exist or has no such published version yet.
    ModelNotFound,
    /// An object of the name that is needed exists and belongs to somebody else.
    NameConflict,
    /// The serving pods do not become ready.
    NotReady,
    /// The Kubernetes API did not accept a request of the operator.
    KubernetesApi,
}

impl Reason {
    /// Every reason, in the order of the documentation.
    pub const ALL: [Self; 29] = [
        Self::InvalidConfig,
        Self::UnknownColumn,
        Self::WrongType,
        Self::UnparsableData,
        Self::EmptyData,
        Self::DataNotFound,
        Self::AccessDenied,
        Self::BucketNotFound,
        Self::StorageUnavailable,
        Self::Diverged,
        Self::CorruptArtifact,
        Self::DeviceNotFound,
        Self::DiskFull,
        Self::OutOfDeviceMemory,
        Self::Preempted,
        Self::Internal,
        Self::OutOfMemory,
        Self::Evicted,
        Self::DeadlineExceeded,
        Self::PodFailed,
        Self::SecretNotFound,
        Self::ServiceAccountNotFound,
        Self::ImageUnavailable,
        Self::Unschedulable,
        Self::PodRefused,
        Self::ModelNotFound,
        Self::NameConflict,
        Self::NotReady,
        Self::KubernetesApi,
    ];

    /// The exit code with which the trainer ends for this reason; `None` where only Kubernetes reports it.
    ///
    /// 10–19 ([`FINAL_EXIT_CODES`]) say that another try would end the same way; 20–29 and 70 that one may help.
    pub const fn exit_code(self) -> Option<u8> {
        match self {
            Self::InvalidConfig => Some(10),
            Self::UnknownColumn | Self::WrongType | Self::UnparsableData | Self::EmptyData | Self::DataNotFound => {
                Some(11)
            }
            Self::AccessDenied | Self::BucketNotFound => Some(12),
            Self::Diverged => Some(13),
            Self::CorruptArtifact => Some(14),
            Self::DeviceNotFound => Some(15),
            Self::DiskFull => Some(16),
            Self::StorageUnavailable => Some(20),
            Self::Preempted => Some(PREEMPTED_EXIT_CODE),
            Self::OutOfDeviceMemory => Some(22),
            Self::Internal => Some(70),
            _ => None,
        }
    }

    /// Whether another try, with nothing changed, can end better.
    pub const fn is_retryable(self) -> bool {
        match self.exit_code() {
            Some(code) => !(*FINAL_EXIT_CODES.start() <= code && code <= *FINAL_EXIT_CODES.end()),
            None => matches!(self, Self::OutOfMemory | Self::Evicted | Self::PodFailed | Self::KubernetesApi),
        }
    }
}

/// Exit codes after which a run is not tried again.
pub const FINAL_EXIT_CODES: std::ops::RangeInclusive<u8> = 10..=19;

/// Exit code of a run that was told to end and left its checkpoint; it does not count as a failure.
pub const PREEMPTED_EXIT_CODE: u8 = 21;

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The variant's name is the wire name.
        std::fmt::Debug::fmt(self, f)
    }
}

/// What went wrong, for a person: what happened, where, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunError {
    /// From the closed list.
    pub reason: Reason,
    /// One or two sentences that name the column, file, row or bucket, and the way out.
    pub message: String,
}

/// The termination message of a trainer pod: at most [`MAX_REPORT_BYTES`] of JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunReport {
    /// Name of the run: [`crate::config::RunIdentity::id`].
    pub run: String,
    /// What the data came to, if it was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataStats>,
    /// How large the model is and what its training takes, if it came so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate: Option<Estimate>,
    /// Final metrics per split.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<Split, Metrics>,
    /// Epochs that were done.
    pub epoch: u32,
    /// Epochs that were planned.
    #[serde(default)]
    pub total_epochs: u32,
    /// Optimizer steps that were done.
    pub step: u64,
    /// Optimizer steps that the run was to take.
    pub total_steps: u64,
    /// The published model, if the run succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelRef>,
    /// The last checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointRef>,
    /// What it ran on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceInfo>,
    /// Device-seconds of GPUs that this pod held.
    #[serde(default)]
    pub gpu_seconds: f64,
    /// Most memory that the process held, in bytes.
    #[serde(default)]
    pub peak_memory_bytes: u64,
    /// What went wrong; `None` for success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<RunError>,
}

impl RunReport {
    /// The report as JSON of at most [`MAX_REPORT_BYTES`].
    ///
    /// A report that would be longer loses first the metrics that the summary does not need, then the end of its error
    /// message: the outcome itself always fits.
    ///
    /// # Errors
    /// If a metric is not a finite number.
    pub fn to_termination_message(&self) -> Result<String, serde_json::Error> {
        let text = serde_json::to_string(self)?;
        if text.len() <= MAX_REPORT_BYTES {
            return Ok(text);
        }
        let mut short = self.clone();
        short.metrics.remove(&Split::Train);
        short.metrics.values_mut().for_each(|metrics| metrics.retain(|name, _| !name.contains('_')));
        let text = serde_json::to_string(&short)?;
        if text.len() <= MAX_REPORT_BYTES {
            return Ok(text);
        }
        if let Some(error) = &mut short.error {
            error.message = error.message.chars().take(256).chain("…".chars()).collect();
        }
        if let Some(data) = &mut short.data {
            data.rows_dropped.clear();
        }
        serde_json::to_string(&short)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_always_fits_the_termination_message() {
        let mut report = RunReport {
            run: "1-0123abcd".into(),
            data: None,
            estimate: None,
            metrics: BTreeMap::new(),
            epoch: 1,
            total_epochs: 1,
            step: 1,
            total_steps: 1,
            model: None,
            checkpoint: None,
            device: None,
            gpu_seconds: 0.0,
            peak_memory_bytes: 0,
            error: Some(RunError { reason: Reason::UnparsableData, message: "\u{1F525}".repeat(3000) }),
        };
        for split in Split::ALL {
            report.metrics.insert(split, (0..100).map(|i| (format!("metric_{i}"), f64::from(i) / 7.0)).collect());
        }
        let text = report.to_termination_message().unwrap();
        assert!(text.len() <= MAX_REPORT_BYTES, "{} bytes", text.len());
        let read: RunReport = serde_json::from_str(&text).unwrap();
        assert_eq!(read.error.unwrap().reason, Reason::UnparsableData);
    }

    #[test]
    fn each_reason_is_listed_once_and_final_ones_are_not_retried() {
        let mut seen = std::collections::BTreeSet::new();
        assert!(Reason::ALL.iter().all(|reason| seen.insert(*reason)));
        assert!(!Reason::UnknownColumn.is_retryable());
        assert!(Reason::StorageUnavailable.is_retryable() && Reason::Preempted.is_retryable());
    }
}
