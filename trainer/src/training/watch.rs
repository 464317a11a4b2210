//! What a training says while it goes on.

use stoker_crds::{
    artifact::CheckpointRef,
    progress::{Estimate, HistoryPoint, Sample, Throughput},
};

/// Is told how a training goes.
///
/// It is called from the training's thread at every step, so it should be quick.
pub trait Watch: Send + Sync {
    /// Something happened.
    fn on(&self, event: Event<'_>);
}

/// What happened.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// The model's size, and what its training is estimated to take: before there is one.
    Estimated(&'a Estimate),
    /// The training begins, or goes on where a checkpoint was written.
    Started {
        /// Epochs that are done.
        epoch: u32,
        /// Epochs that it is to take.
        total_epochs: u32,
        /// Optimizer steps that are done.
        step: u64,
        /// Optimizer steps that it is to take.
        total_steps: u64,
        /// The checkpoint that it goes on from.
        resumed_from: Option<&'a CheckpointRef>,
        /// How the metrics went up to there.
        history: &'a [HistoryPoint],
        /// What the language model wrote last.
        samples: &'a [Sample],
    },
    /// An optimizer step is done.
    Stepped {
        /// Epochs that are done.
        epoch: u32,
        /// Optimizer steps that are done.
        step: u64,
        /// The mean training loss over the steps of the epoch so far, of those whose loss was looked at.
        loss: Option<f64>,
        /// How fast it is; empty before it can be told.
        throughput: Throughput,
        /// Seconds until all steps are done at that pace.
        eta_seconds: Option<f64>,
    },
    /// The model was evaluated.
    Evaluated {
        /// Its metrics.
        point: &'a HistoryPoint,
        /// How the metrics went, thinned.
        history: &'a [HistoryPoint],
        /// What the language model wrote last.
        samples: &'a [Sample],
    },
    /// A checkpoint is safely in storage.
    Checkpointed(&'a CheckpointRef),
    /// Something that a person should know although the training goes on.
    Warning(&'a str),
}

/// Listens to nothing.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Watch for Silent {
    fn on(&self, _: Event<'_>) {}
}
