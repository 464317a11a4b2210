//! A training between its first and its last step.

mod evaluation;

use std::time::{Duration, Instant};

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use stoker_crds::{
    TrainConfig,
    training::optimize::{Length, Precision},
};
use tokio_util::sync::CancellationToken;

use super::{
    Batch, Dataset, TrainError,
    backward::Backward,
    checkpoint::{RunningLoss, Snapshot, State},
    divergence::{Rule, Trend},
    early_stopping::BestSoFar,
    ema,
    figures::{Figures, Work},
    gradients::loss_and_gradients,
    history::History,
    loss::baseline,
    loss_scale::{LossScale, Step},
    optimizer::Optimizer,
    order::{Stream, derive_seed, epoch_order},
    origin::Origin,
    schedule::learning_rate,
    watch::{Event, Watch},
};
use crate::{
    model::{
        Architecture, Network, Predictor,
        precision::{computed, convert, stored},
        read,
    },
    text::Tokenizer,
};

/// The most losses that are left on the device before they are looked at: to read one waits until the device has done all steps
/// before it.
const PENDING_LOSSES: usize = 32;
/// The longest time for which they are left there: of slow steps a person sees each loss soon.
const PENDING_TIME: Duration = Duration::from_secs(2);

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
    pub restore_targets: &'a (dyn Fn(&mut [f32]) + Sync),
    /// Makes text of the tokens of a language model.
    pub tokenizer: Option<&'a Tokenizer>,
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
    /// When the training counts as lost.
    rule: Rule,
    now: Snapshot,
    order: Vec<u32>,
    /// Steps, their losses, and of how many rows or tokens each is the mean.
    pending: Vec<(u64, Tensor<1>, usize)>,
    settled: Instant,
    figures: Figures,
}

impl<'a> Session<'a> {
    /// A training at a snapshot.
    ///
    /// # Errors
    /// If rows cannot be read.
    pub(super) fn new(
        config: &'a TrainConfig,
        problem: Problem<'a>,
        plan: Plan,
        origin: Origin,
        device: Device,
        watch: &'a dyn Watch,
        mut now: Snapshot,
    ) -> Result<Self, TrainError> {
        let rule = Rule::new(baseline(config.train.loss, problem.train, problem.targets)?, plan.total_steps);
        let order = epoch_order(plan.rows, seed(config), now.state.epoch);
        let (precision, adapted) = (config.train.precision, origin.adapted());
        // A checkpoint may be of a device that computed in other floats.
        now.state.loss_scale = (precision == Precision::F16).then(|| now.state.loss_scale.unwrap_or_default());
        // From here on the files of what was started from only take room.
        let architecture = origin.into_architecture();
        let (work, settled) = (Work::new(&architecture, adapted, &device, precision), Instant::now());
        let (pending, figures) = (Vec::new(), Figures::start(work, settled));
        Ok(Self { config, problem, plan, architecture, device, watch, rule, now, order, pending, settled, figures })
    }

    /// A training before its first step.
    ///
    /// # Errors
    /// If the model that it starts from cannot be brought to the device.
    pub(super) fn start(
        config: &TrainConfig,
        inputs: String,
        origin: &Origin,
        device: &Device,
    ) -> Result<Snapshot, TrainError> {
        let state = State {
            inputs,
            epoch: 0,
            step: 0,
            position: 0,
            loss: RunningLoss::default(),
            due: None,
            trend: Trend::default(),
            loss_scale: None,
            best: BestSoFar::default(),
            stopped: false,
            history: History::default(),
            samples: Vec::new(),
        };
        let train = &config.train;
        let model = origin.first(derive_seed(seed(config), Stream::Weights, 0), device)?;
        let model = convert(model, stored(train.precision));
        let optimizer = Optimizer::new(&train.optimizer, train.weight_decay_on(config.task), &model);
        let average = train.ema.is_some().then(|| ema::start(&model));
        Ok(Snapshot { state, model, optimizer, average, best: None })
    }

    pub(super) fn state(&self) -> &State {
        &self.now.state
    }

    pub(super) fn is_done(&self) -> bool {
        let State { stopped, step, due, .. } = &self.now.state;
        due.is_none() && (*stopped || *step >= self.plan.total_steps)
    }

    /// All that the next step depends on.
    ///
    /// # Errors
    /// If a loss up to here is not finite, or the training is lost.
    pub(super) fn snapshot(&mut self) -> Result<Snapshot, TrainError> {
        self.settle()?;
        Ok(self.now.clone())
    }

    /// Counts time in which the steps stood still for a checkpoint.
    pub(super) fn stalled(&mut self, time: Duration) {
        self.figures.stalled(time);
    }

    /// Takes one optimizer step, or evaluates the model if that is due: after the last step of an epoch, and when it is time to.
    /// Answers whether it did, and was not told to stop before; an evaluation that was is due still.
    ///
    /// # Errors
    /// If rows cannot be read, the device fails, a number is no longer finite, or the training is lost.
    pub(super) fn advance(&mut self, stop: &CancellationToken) -> Result<bool, TrainError> {
        match self.now.state.due {
            _ if stop.is_cancelled() => Ok(false),
            Some(train_loss) => self.evaluate(train_loss, stop),
            None => self.step().map(|()| true),
        }
    }

    fn step(&mut self) -> Result<(), TrainError> {
        let Plan { rows, batch: size, total_steps, .. } = self.plan;
        let end = rows.min(self.now.state.position.saturating_add(size));
        let indices = &self.order[self.now.state.position as usize..end as usize];
        let done = indices.len();
        let asked = Instant::now();
        let batch = self.problem.train.batch(indices)?;
        self.figures.waited(asked.elapsed());
        self.learn(batch)?;

        let state = &mut self.now.state;
        (state.step, state.position) = (state.step + 1, end);
        let is_epochs_last = end == rows || state.step == total_steps;
        if self.pending.len() >= PENDING_LOSSES || self.settled.elapsed() >= PENDING_TIME {
            self.settle()?;
        }
        self.figures.stepped(done, Instant::now());
        self.tell();
        if is_epochs_last {
            self.settle()?;
            self.now.state.due = Some(self.end_epoch());
        } else if self.is_time_to_evaluate() {
            self.settle()?;
            self.now.state.due = Some(self.now.state.loss);
        }
        Ok(())
    }

    /// Changes the model by the gradients of a batch.
    fn learn(&mut self, batch: Batch) -> Result<(), TrainError> {
        let Snapshot { state, model, optimizer, average, .. } = &mut self.now;
        let train = &self.config.train;
        let (counted, at_once) = (batch.counted(), train.micro_batch_size() as usize);
        let scale = state.loss_scale.map(LossScale::scale);
        let backward = Backward::new(self.config, scale, derive_seed(seed(self.config), Stream::Dropout, state.step));
        let (loss, mut gradients) =
            loss_and_gradients(model, &self.architecture, batch, at_once, backward, &self.device)?;
        let step = match &mut state.loss_scale {
            Some(scale) => scale.unscale(model, &mut gradients)?,
            None => Step::Take,
        };
        match step {
            Step::Take => {
                let (base, total) = (train.optimizer.learning_rate(), self.plan.total_steps);
                let rate = learning_rate(&train.schedule, base, state.step, total);
                let clip = train.gradient_clip.as_ref().map(|clip| clip.norm);
                optimizer.step(model, gradients, rate, clip);
                if let Some(spec) = &train.ema {
                    *average = average.take().map(|average| ema::update(average, model, spec, state.step + 1));
                }
                self.pending.push((state.step + 1, loss, counted));
            }
            // The rows are gone through, and count for nothing.
            Step::Skip => {}
            Step::Diverged => {
                let what = "the gradients overflowed 16-bit floats without being scaled up".to_owned();
                return Err(TrainError::Diverged { what, step: state.step + 1, checkpoint: None });
            }
        }
        Ok(())
    }

    fn tell(&self) {
        let State { epoch, step, loss, .. } = &self.now.state;
        self.watch.on(Event::Stepped {
            epoch: *epoch,
            step: *step,
            loss: loss.mean(),
            throughput: self.figures.throughput(),
            eta_seconds: self.figures.eta_seconds(self.plan.total_steps.saturating_sub(*step)),
        });
    }

    /// Reads the losses that are still on the device: one wait for many steps.
    ///
    /// # Errors
    /// If one of them is not finite, or the training is lost.
    pub(super) fn settle(&mut self) -> Result<(), TrainError> {
        self.settled = Instant::now();
        if self.pending.is_empty() {
            return Ok(());
        }
        let pending = std::mem::take(&mut self.pending);
        let losses = read(Tensor::cat(pending.iter().map(|(_, loss, _)| loss.clone()).collect(), 0))?;
        let State { loss: mean, trend, .. } = &mut self.now.state;
        for (loss, (step, _, counted)) in losses.into_iter().zip(pending) {
            let diverged = |what| TrainError::Diverged { what, step, checkpoint: None };
            if !loss.is_finite() {
                trend.end(step);
                return Err(diverged(format!("the loss became {loss}")));
            }
            mean.add(loss, counted);
            trend.observe(self.rule, step, loss, counted).map_err(|lost| diverged(lost.to_string()))?;
        }
        Ok(())
    }

    /// Begins the next epoch, and answers the losses of the one that is over.
    fn end_epoch(&mut self) -> RunningLoss {
        let state = &mut self.now.state;
        let loss = std::mem::take(&mut state.loss);
        state.epoch += 1;
        state.position = 0;
        self.order = epoch_order(self.plan.rows, seed(self.config), state.epoch);
        loss
    }

    /// A model without dropout and gradients.
    pub(super) fn predictor(&self, model: Network) -> Predictor {
        let precision = self.config.train.precision;
        let model = convert(model.valid(), stored(precision));
        Predictor::new(self.architecture.clone(), model, &self.device).evaluated_in(computed(precision))
    }

    /// The model of the best evaluation, if it is to be restored, else the last one; of averaged weights, if they are averaged.
    /// And the step that it is of.
    pub(super) fn into_result(self) -> (Predictor, State, Option<u64>) {
        let best_step = self.now.best.is_some().then_some(self.now.state.best.step);
        let predictor = self.predictor(self.now.best.as_ref().unwrap_or(self.now.learned()).clone());
        (predictor, self.now.state, best_step)
    }
}

/// The seed of the spec, which is not negative.
fn seed(config: &TrainConfig) -> u64 {
    config.train.seed.unsigned_abs()
}
