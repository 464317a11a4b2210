//! A training between its first and its last step.

use std::time::Instant;

use burn::tensor::{Device, Tensor};
use stoker_crds::{
    TrainConfig,
    metric::{LOSS, Metrics, Split},
    progress::HistoryPoint,
    training::optimize::Length,
};

use super::{
    Dataset, TrainError,
    checkpoint::{RunningLoss, Snapshot, State},
    early_stopping::{BestSoFar, Verdict, watched},
    evaluate::evaluate,
    history::History,
    loss::batch_loss,
    optimizer::{Optimizer, base_rate},
    order::{Stream, derive_seed, epoch_order},
    pace::Pace,
    schedule::learning_rate,
    watch::{Event, Watch},
};
use crate::model::{Architecture, Network, Predictor, read};

/// Losses that are left on the device before they are looked at.
const PENDING_LOSSES: usize = 32;

/// What is to be learned.
#[derive(Clone, Copy)]
pub struct Problem<'a> {
    /// What the model is fitted on.
    pub train: &'a dyn Dataset,
    /// What decides on early stopping.
    pub validation: &'a dyn Dataset,
    /// Numbers per row, or tokens per sequence, that go in.
    pub inputs: usize,
    /// Classes, targets of a regression, or tokens of the vocabulary.
    pub targets: usize,
    /// Brings the targets of a regression back to their own units.
    pub restore_targets: &'a dyn Fn(&mut [f32]),
    /// `sha256:…` of the data.
    pub fingerprint: &'a str,
}

/// How long a training takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) rows: u32,
    pub(super) batch: u32,
    pub(super) total_steps: u64,
    pub(super) total_epochs: u32,
}

impl Plan {
    /// Known before the first step; the last batch of an epoch holds what is left.
    pub(super) fn new(config: &TrainConfig, rows: usize) -> Result<Self, TrainError> {
        let batch = config.train.batch_size.max(1);
        let rows = u32::try_from(rows).map_err(|_| TrainError::too_many_rows(rows))?;
        let steps_per_epoch = u64::from(rows.div_ceil(batch)).max(1);
        let (total_steps, total_epochs) = match config.train.length() {
            Length::Epochs(epochs) => (u64::from(epochs) * steps_per_epoch, epochs),
            Length::Steps(steps) => (steps, u32::try_from(steps.div_ceil(steps_per_epoch)).unwrap_or(u32::MAX)),
        };
        Ok(Self { rows, batch, total_steps, total_epochs })
    }
}

/// A training between two steps.
pub(super) struct Session<'a> {
    config: &'a TrainConfig,
    problem: Problem<'a>,
    plan: Plan,
    architecture: Architecture,
    /// With autodiff.
    device: Device,
    watch: &'a dyn Watch,
    now: Snapshot,
    order: Vec<u32>,
    pending: Vec<(Tensor<1>, usize)>,
    pace: Pace,
}

impl<'a> Session<'a> {
    /// A training at a snapshot.
    pub(super) fn new(
        config: &'a TrainConfig,
        problem: Problem<'a>,
        plan: Plan,
        architecture: Architecture,
        device: Device,
        watch: &'a dyn Watch,
        now: Snapshot,
    ) -> Self {
        let order = epoch_order(plan.rows, seed(config), now.state.epoch);
        let pace = Pace::start(Instant::now());
        Self { config, problem, plan, architecture, device, watch, now, order, pending: Vec::new(), pace }
    }

    /// A training before its first step.
    pub(super) fn start(
        config: &TrainConfig,
        inputs: String,
        architecture: &Architecture,
        device: &Device,
    ) -> Snapshot {
        let state = State {
            inputs,
            epoch: 0,
            step: 0,
            position: 0,
            loss: RunningLoss::default(),
            best: BestSoFar::default(),
            stopped: false,
            history: History::default(),
        };
        let model = architecture.init(derive_seed(seed(config), Stream::Weights, 0), device);
        Snapshot { state, model, optimizer: Optimizer::new(&config.train.optimizer), best: None }
    }

    pub(super) fn state(&self) -> &State {
        &self.now.state
    }

    pub(super) fn is_done(&self) -> bool {
        self.now.state.stopped || self.now.state.step >= self.plan.total_steps
    }

    /// All that the next step depends on.
    ///
    /// # Errors
    /// If a loss up to here is not finite.
    pub(super) fn snapshot(&mut self) -> Result<Snapshot, TrainError> {
        self.settle()?;
        Ok(self.now.clone())
    }

    /// Takes one optimizer step, and ends the epoch if it was its last.
    ///
    /// # Errors
    /// If rows cannot be read, the device fails, or a number is no longer finite.
    pub(super) fn step(&mut self) -> Result<(), TrainError> {
        let Plan { rows, batch: size, total_steps, .. } = self.plan;
        let Snapshot { state, model, optimizer, .. } = &mut self.now;
        let train = &self.config.train;
        let end = rows.min(state.position.saturating_add(size));
        let indices = &self.order[state.position as usize..end as usize];

        // The generator's state cannot be saved; a seed of its own for each step makes it part of the position.
        self.device.seed(derive_seed(seed(self.config), Stream::Dropout, state.step));
        let batch = self.problem.train.batch(indices)?;
        let counted = batch.counted();
        let loss = batch_loss(model, &self.architecture, batch, &self.device)?;
        let gradients = loss.backward();
        let rate = learning_rate(&train.schedule, base_rate(&train.optimizer), state.step, total_steps);
        let clip = train.gradient_clip.as_ref().map(|clip| clip.norm);
        *model = optimizer.step(model.clone(), gradients, rate, clip);

        self.pending.push((loss.inner(), counted));
        let done = indices.len();
        (state.step, state.position) = (state.step + 1, end);
        let (step, epoch) = (state.step, state.epoch);
        if self.pending.len() >= PENDING_LOSSES {
            self.settle()?;
        }
        if end == rows || step == total_steps {
            self.end_epoch()?;
        }
        let samples_per_second = self.pace.count(done, Instant::now());
        let epoch = if end == rows || step == total_steps { epoch + 1 } else { epoch };
        self.watch.on(Event::Stepped { epoch, step, samples_per_second });
        Ok(())
    }

    /// Reads the losses that are still on the device: one wait for many steps.
    fn settle(&mut self) -> Result<(), TrainError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let (tensors, counted): (Vec<_>, Vec<_>) = self.pending.drain(..).unzip();
        let losses = read(Tensor::cat(tensors, 0))?;
        let first = self.now.state.step - losses.len() as u64 + 1;
        for (step, (loss, counted)) in (first..).zip(losses.iter().zip(counted)) {
            if !loss.is_finite() {
                return Err(TrainError::Diverged { what: format!("the loss became {loss}"), step, checkpoint: None });
            }
            self.now.state.loss.add(*loss, counted);
        }
        Ok(())
    }

    fn end_epoch(&mut self) -> Result<(), TrainError> {
        self.settle()?;
        let mut metrics = [(Split::Train, Metrics::from([(LOSS.into(), self.now.state.loss.mean())]))].into();
        self.now.state.epoch += 1;
        self.now.state.position = 0;
        self.now.state.loss = RunningLoss::default();
        if !self.problem.validation.is_empty() {
            self.validate(&mut metrics)?;
        }
        let Snapshot { state, .. } = &mut self.now;
        let point = HistoryPoint { epoch: state.epoch, step: state.step, metrics };
        state.history.push(point.clone());
        self.order = epoch_order(self.plan.rows, seed(self.config), state.epoch);
        self.watch.on(Event::EpochDone { point: &point, history: state.history.points() });
        Ok(())
    }

    fn validate(&mut self, metrics: &mut std::collections::BTreeMap<Split, Metrics>) -> Result<(), TrainError> {
        let predictor = self.predictor(self.now.model.clone());
        let validation = evaluate(&predictor, self.problem.validation, self.problem.restore_targets)
            .map_err(|error| self.at_this_step(error))?
            .metrics;
        if let Some(rule) = &self.config.train.early_stopping {
            let value = watched(rule, &validation).ok_or_else(|| {
                TrainError::InvalidConfig(format!(
                    "train.earlyStopping: the metric {} is not defined for the validation split (a roc_auc needs rows \
                     of several classes, an r2 two rows, and regression and classification have metrics of their own); \
                     the split has: {}",
                    rule.metric,
                    validation.keys().cloned().collect::<Vec<_>>().join(", ")
                ))
            })?;
            let state = &mut self.now.state;
            match state.best.observe(rule, state.epoch, value) {
                Verdict::Better if rule.restore_best => self.now.best = Some(predictor.model().clone()),
                Verdict::Stop => state.stopped = true,
                Verdict::Better | Verdict::Wait => {}
            }
        }
        metrics.insert(Split::Validation, validation);
        Ok(())
    }

    fn at_this_step(&self, error: TrainError) -> TrainError {
        match error {
            TrainError::NotFinite(name) => TrainError::Diverged {
                what: format!("the validation metric '{name}' became infinite or NaN"),
                step: self.now.state.step,
                checkpoint: None,
            },
            error => error,
        }
    }

    /// A model without dropout and gradients.
    pub(super) fn predictor(&self, model: Network) -> Predictor {
        Predictor::new(self.architecture.clone(), model, &self.device)
    }

    /// The model of the best epoch, if it is to be restored, else the last one; and its epoch.
    pub(super) fn into_result(self) -> (Predictor, State, Option<u32>) {
        let best_epoch = self.now.best.is_some().then_some(self.now.state.best.epoch);
        let predictor = self.predictor(self.now.best.clone().unwrap_or_else(|| self.now.model.clone()));
        (predictor, self.now.state, best_epoch)
    }
}

/// The seed of the spec, which is not negative.
fn seed(config: &TrainConfig) -> u64 {
    config.train.seed.unsigned_abs()
}
