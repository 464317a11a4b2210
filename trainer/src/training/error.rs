//! Why a training ended without a model.

use stoker_crds::{Reason, artifact::CheckpointRef};

use super::memory::{MemoryNeed, Size};
use crate::{artifact::ArtifactError, data::DataError, model::ModelError, text::TokenizerError};

/// Why a training ended without a model.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The configuration cannot be trained.
    #[error("{0}")]
    InvalidConfig(String),
    /// The model cannot be built or computed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The prepared rows cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The checkpoints cannot be read.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// A sample cannot be written.
    #[error("train.samples: {0}")]
    Tokenizer(#[from] TokenizerError),
    /// There is less memory than the training surely takes; nothing was computed.
    #[error("the training does not fit the memory: {0}")]
    TooLarge(Box<MemoryNeed>),
    /// The host of a GPU has less memory than the training surely takes of it; nothing was computed.
    #[error(
        "a checkpoint of {parameters} parameters, or the model that is published, takes {} of the memory of the GPU's pod, \
         which has {}: set resources.memory to more", Size(*needed), Size(*total)
    )]
    HostTooSmall {
        /// Numbers that the model has.
        parameters: u64,
        /// Bytes that it takes.
        needed: u64,
        /// Bytes that there are.
        total: u64,
    },
    /// The device ran out of memory.
    #[error("the device ran out of memory: {0}")]
    OutOfDeviceMemory(Box<MemoryNeed>),
    /// There is nothing to learn from, or to evaluate on.
    #[error("the {0} split has no rows: check data.split and data.clean")]
    Empty(&'static str),
    /// A number is no longer finite, or the loss grew and did not come down again.
    #[error(
        "{what} at step {step}: lower train.optimizer's learningRate, let train.schedule warm up for more steps, set \
         train.gradientClip.norm, or look for extreme values in the data; {}", last_good_checkpoint(*checkpoint)
    )]
    Diverged {
        /// Which number became what.
        what: String,
        /// The step after which it was.
        step: u64,
        /// The step of the last checkpoint from before the loss began to grow.
        checkpoint: Option<u64>,
    },
    /// A metric is not finite although all weights are.
    #[error(
        "the metric '{0}' is not a finite number: the model's outputs overflow; look for extreme values in the data, or \
         standardize it (data.transform)"
    )]
    NotFinite(String),
    /// The training was told to stop.
    #[error("the training was told to stop at step {step}; {}", preempted_checkpoint(checkpoint.as_ref()))]
    Preempted {
        /// Optimizer steps that were done.
        step: u64,
        /// The last checkpoint in storage.
        checkpoint: Option<CheckpointRef>,
    },
    /// A thread of the training could not be started, or ended without a result.
    #[error("the training ended unexpectedly: {0}; this is a defect of Stoker, please report it")]
    Internal(String),
}

impl TrainError {
    pub(super) fn too_many_rows(rows: usize) -> Self {
        Self::InvalidConfig(format!("a split has {rows} rows; at most {} can be trained on: take a sample", u32::MAX))
    }

    /// The reason that is reported.
    pub fn reason(&self) -> Reason {
        match self {
            Self::InvalidConfig(_) => Reason::InvalidConfig,
            Self::Model(error) => error.reason(),
            Self::Data(error) => error.reason(),
            Self::Artifact(error) => error.reason(),
            Self::Tokenizer(error) => error.reason(),
            Self::TooLarge(need) => need.reason(),
            Self::HostTooSmall { .. } => Reason::OutOfMemory,
            Self::OutOfDeviceMemory(_) => Reason::OutOfDeviceMemory,
            Self::Empty(_) => Reason::EmptyData,
            Self::Diverged { .. } | Self::NotFinite(_) => Reason::Diverged,
            Self::Preempted { .. } => Reason::Preempted,
            Self::Internal(_) => Reason::Internal,
        }
    }
}

fn last_good_checkpoint(step: Option<u64>) -> String {
    step.map_or("there is no good checkpoint".into(), |step| format!("the last good checkpoint is of step {step}"))
}

fn preempted_checkpoint(checkpoint: Option<&CheckpointRef>) -> String {
    match checkpoint {
        Some(CheckpointRef { step, uri, .. }) => format!("it will go on from the checkpoint of step {step} in {uri}"),
        None => "there is no checkpoint, so it will begin anew".into(),
    }
}
