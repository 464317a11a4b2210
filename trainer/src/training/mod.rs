//! The step loop: fits a model to rows, says how it goes, and survives being stopped at any step.
//!
//! burn's own learner checkpoints at the end of epochs only, and an interrupt leaves it in the middle of one without a
//! checkpoint; a pod that may be taken away at any time needs the step as its unit. So the loop is here, around burn's
//! modules, gradients and optimizers.

mod backward;
mod checkpoint;
mod checkpoints;
mod dataset;
mod divergence;
mod early_stopping;
mod ema;
mod error;
mod evaluate;
mod figures;
mod fit;
mod gradients;
mod history;
mod loss;
mod loss_scale;
mod memory;
pub mod metrics;
mod optimizer;
mod order;
mod origin;
mod schedule;
mod session;
mod watch;

pub(crate) use self::memory::{Parts, Size};
pub use self::{
    checkpoint::config_digest,
    dataset::{Batch, Dataset, RowBatch, TokenBatch},
    error::TrainError,
    evaluate::evaluate,
    fit::{Fitted, Surroundings, fit},
    memory::MemoryNeed,
    metrics::Evaluation,
    order::epoch_order,
    schedule::learning_rate,
    session::Problem,
    watch::{Event, Silent, Watch},
};

#[cfg(test)]
mod tests;
