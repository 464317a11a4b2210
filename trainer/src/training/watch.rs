//! What a training says while it goes on.

use stoker_crds::{artifact::CheckpointRef, progress::HistoryPoint};

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
    },
    /// An optimizer step is done.
    Stepped {
        /// Epochs that are done.
        epoch: u32,
        /// Optimizer steps that are done.
        step: u64,
        /// Training rows per second over the last seconds; 0 before it can be told.
        samples_per_second: f64,
    },
    /// An epoch is done.
    EpochDone {
        /// Its metrics.
        point: &'a HistoryPoint,
        /// How the metrics went, thinned.
        history: &'a [HistoryPoint],
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
