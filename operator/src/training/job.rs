//! The Job of a run.

use jiff::Timestamp;
use stoker_crds::ModelTraining;

use crate::{labels, lean::Job};

/// The little that a reconcile needs of a Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobView {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The UID of the training that it belongs to.
    pub training: String,
    /// The run that it belongs to.
    pub run: u32,
    /// Digest of the run that it was made from.
    pub digest: String,
    /// The image that it was made with.
    pub image: Option<String>,
    /// Since when it may have a pod: it was created, or is held back no longer.
    pub begun_at: Timestamp,
    /// Whether it is held back.
    pub is_suspended: bool,
    /// Whether it was told to go.
    pub is_deleting: bool,
    /// How often it tries again.
    pub retries: Option<i32>,
    /// How long it may take, in seconds.
    pub deadline_seconds: Option<i64>,
    /// Whether and how it has ended.
    pub end: Option<End>,
}

/// How a Job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Its pod succeeded.
    Complete,
    /// It will not be tried again.
    Failed {
        /// Such as `BackoffLimitExceeded`.
        reason: String,
        /// What Kubernetes says of it.
        message: String,
    },
}

impl JobView {
    /// Whether it is a Job of that training, and not of a deleted one of the same name.
    pub fn is_of(&self, training: &ModelTraining) -> bool {
        training.metadata.uid.as_ref() == Some(&self.training)
    }
}

impl From<Job> for JobView {
    fn from(job: Job) -> Self {
        let (meta, spec) = (job.metadata, job.spec.unwrap_or_default());
        let status = job.status.unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        let annotation = |key: &str| meta.annotations.as_ref().and_then(|annotations| annotations.get(key).cloned());
        let (digest, image) = (annotation(labels::DIGEST_ANNOTATION), annotation(labels::IMAGE_ANNOTATION));
        let label = |key: &str| meta.labels.as_ref().and_then(|labels| labels.get(key));
        let run = label(labels::RUN).and_then(|run| run.parse().ok());
        let end =
            conditions.into_iter().filter(|condition| condition.status == "True").find_map(|condition| match condition
                .type_
                .as_str()
            {
                "Complete" => Some(End::Complete),
                "Failed" => Some(End::Failed {
                    reason: condition.reason.unwrap_or_default(),
                    message: condition.message.unwrap_or_default(),
                }),
                _ => None,
            });
        Self {
            training: label(labels::UID).cloned().unwrap_or_default(),
            run: run.unwrap_or(0),
            digest: digest.unwrap_or_default(),
            image,
            // Kubernetes sets the start anew when a Job is held back no longer.
            begun_at: status.start_time.or(meta.creation_timestamp).map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            is_suspended: spec.suspend.unwrap_or(false),
            is_deleting: meta.deletion_timestamp.is_some(),
            retries: spec.backoff_limit,
            deadline_seconds: spec.active_deadline_seconds,
            end,
            uid: meta.uid.unwrap_or_default(),
            name: meta.name.unwrap_or_default(),
        }
    }
}
