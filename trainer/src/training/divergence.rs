//! Whether a training is lost although all its numbers are finite.
//!
//! A healthy loss is noisy, has spikes, begins anywhere and may rise for a while, so a training counts as lost only when there
//! is no way to see it otherwise. For a tenth of its steps (but at least 100, and at most 1000) all of this has to hold:
//!
//! - nine of ten steps have a loss that is worse than that of a model which knows nothing, worse than the first step's, and
//!   [`WORSE`] times worse than the best: so neither a few bad batches nor a rise from a good loss to a bearable one counts;
//! - the mean loss has no new low of that time: what recovers is left alone, however bad it still is.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::checkpoint::RunningLoss;

/// Times the best loss that a loss is of a training that may be lost.
const WORSE: f64 = 5.0;
/// Times the best loss that a loss is of a training of which an older checkpoint is better kept.
const RISEN: f64 = 2.0;
/// Blocks of steps without a new low after which a training is lost.
const PATIENCE: u32 = 10;

/// What losses are compared with, and how long a training is waited for. It follows from configuration and data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rule {
    /// The loss of a model that knows nothing.
    baseline: f64,
    /// Steps whose losses are averaged before they are compared.
    block: u32,
}

impl Rule {
    /// For a training of so many steps.
    pub(super) fn new(baseline: f64, total_steps: u64) -> Self {
        let patience = (total_steps / 10).clamp(100, 1000) as u32;
        Self { baseline, block: patience / PATIENCE }
    }
}

/// How the loss went so far: what is needed to tell whether the training is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Trend {
    /// The first step's loss.
    first: Option<f64>,
    /// The least mean of a block, and the last step of that block.
    best: Option<(f64, u64)>,
    /// The losses of the current block.
    block: RunningLoss,
    /// Steps of the current block.
    steps: u32,
    /// Those of them whose loss is of a training that may be lost.
    worse: u32,
    /// The first step of the time in which the loss was no more near its best.
    risen_since: Option<u64>,
    /// The least mean of the blocks, up to now, that may be of a lost training.
    lowest: Option<f64>,
    /// Blocks since that one.
    waited: u32,
}

/// A training that will not recover.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Lost {
    /// The mean loss of the last steps.
    loss: f64,
    /// The least mean loss of as many steps, and the last of them; `None` if it was never less than that of an untrained model.
    best: Option<(f64, u64)>,
    /// The loss that it began with, or that of a model that knows nothing: the larger one.
    untrained: f64,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { loss, best, untrained } = *self;
        write!(f, "the loss grew to {} and did not come down again (", Figure(loss))?;
        if let Some((best, step)) = best {
            write!(f, "at best, about step {step}, it was {}; ", Figure(best))?;
        }
        write!(f, "an untrained model has {})", Figure(untrained))
    }
}

/// A number of any size in a few digits.
struct Figure(f64);

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if (1e-3..1e6).contains(&self.0) { write!(f, "{:.4}", self.0) } else { write!(f, "{:.3e}", self.0) }
    }
}

impl Trend {
    /// The first step whose loss is of the current rise, if the loss is not near its best.
    pub(super) fn risen_since(&self) -> Option<u64> {
        self.risen_since
    }

    /// Takes note of a step whose loss is no number.
    pub(super) fn end(&mut self, step: u64) {
        self.risen_since.get_or_insert(step);
    }

    /// Takes a step's mean loss, which is finite, over so many rows or tokens.
    ///
    /// # Errors
    /// If the training is lost.
    pub(super) fn observe(&mut self, rule: Rule, step: u64, loss: f32, counted: usize) -> Result<(), Lost> {
        let untrained = rule.baseline.max(*self.first.get_or_insert(loss.into()));
        // Without a scale of its own a loss is neither large nor small.
        if untrained <= 0.0 {
            return Ok(());
        }
        let best = self.best.map_or(untrained, |(best, _)| best);
        self.worse += u32::from(f64::from(loss) > untrained.max(WORSE * best));
        if f64::from(loss) > RISEN * best {
            self.risen_since.get_or_insert(step);
        }
        self.block.add(loss, counted);
        self.steps += 1;
        if self.steps < rule.block { Ok(()) } else { self.end_block(step, untrained, best) }
    }

    fn end_block(&mut self, step: u64, untrained: f64, best: f64) -> Result<(), Lost> {
        let is_worse = 10 * self.worse >= 9 * self.steps;
        (self.steps, self.worse) = (0, 0);
        let Some(mean) = std::mem::take(&mut self.block).mean() else { return Ok(()) };
        if mean < best {
            self.best = Some((mean, step));
        }
        if mean <= RISEN * best {
            self.risen_since = None;
        }
        let is_new_low = self.lowest.is_none_or(|lowest| mean < lowest);
        (self.lowest, self.waited) = match (is_worse, is_new_low) {
            (false, _) => (None, 0),
            (true, true) => (Some(mean), 0),
            (true, false) => (self.lowest, self.waited + 1),
        };
        if self.waited < PATIENCE {
            return Ok(());
        }
        Err(Lost { loss: mean, best: self.best, untrained })
    }
}

#[cfg(test)]
mod tests;
