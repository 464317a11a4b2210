//! From a configuration and rows to a model.

use std::{sync::PoisonError, time::Instant};

use burn::tensor::Device;
use rayon::ThreadPoolBuilder;
use stoker_crds::{
    TrainConfig,
    artifact::CheckpointRef,
    metric::{Metrics, Split},
    progress::{HistoryPoint, Sample},
    training::{Train, optimize::Precision},
};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::{
    Dataset, Evaluation, TrainError,
    checkpoint::{State, config_digest},
    checkpoints::Checkpoints,
    evaluate::evaluate,
    memory::MemoryNeed,
    origin::Origin,
    session::{Plan, Problem, Session},
    watch::{Event, Watch},
};
use crate::{
    artifact::digest,
    base::Base,
    model::{GENERATOR, Predictor, device_info, first_not_finite, learned_weights},
    storage::Folder,
};

/// A trained model, and how it came to be.
#[derive(Clone, Debug)]
pub struct Fitted {
    /// The model: of the best evaluation, if early stopping restores it, else of the last step.
    pub predictor: Predictor,
    /// Epochs that were done.
    pub epoch: u32,
    /// Epochs that were planned.
    pub total_epochs: u32,
    /// Optimizer steps that were done.
    pub step: u64,
    /// Optimizer steps that were planned; more than were done if the training was stopped early.
    pub total_steps: u64,
    /// The step that the model is of, if early stopping restored it.
    pub best_step: Option<u64>,
    /// How the metrics went, thinned.
    pub history: Vec<HistoryPoint>,
    /// What a language model wrote last.
    pub samples: Vec<Sample>,
    /// The last checkpoint in storage.
    pub checkpoint: Option<CheckpointRef>,
    /// The step of the last checkpoint whose loss was seen to be good.
    pub good_checkpoint: Option<u64>,
    /// The memory that the training was estimated to take.
    pub need: MemoryNeed,
}

impl Fitted {
    /// The final metrics of a split; `restore` brings the targets of a regression back to their own units.
    ///
    /// # Errors
    /// If samples cannot be read, the device fails or its memory is full, or a metric is not finite.
    pub fn evaluate(
        &self,
        split: Split,
        samples: &dyn Dataset,
        restore: &dyn Fn(&mut [f32]),
    ) -> Result<Evaluation, TrainError> {
        self.need.explain(|| evaluate(&self.predictor, samples, restore)).map_err(|error| match error {
            TrainError::NotFinite(name) => TrainError::Diverged {
                what: format!("the {} metric '{name}' became infinite or NaN", split.name()),
                step: self.best_step.unwrap_or(self.step),
                checkpoint: self.good_checkpoint,
            },
            error => error,
        })
    }

    /// The metrics of the training split, seen while it was trained: by the evaluation that the model is of, or the last one.
    pub fn training_metrics(&self) -> Option<&Metrics> {
        let of_best = |step| self.history.iter().find(|point| point.step == step);
        self.best_step.map_or(self.history.last(), of_best)?.metrics.get(&Split::Train)
    }
}

/// Where a training runs.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// What computes it.
    pub device: &'a Device,
    /// The precision in which the device does so: that of the configuration, or the one that stands in for it there.
    pub precision: Precision,
    /// The folder of this run's checkpoints.
    pub checkpoints: &'a Folder,
    /// A multi-threaded runtime, to none of whose threads the caller belongs.
    pub runtime: &'a Handle,
    /// Is told how it goes.
    pub watch: &'a dyn Watch,
    /// Ends it, when cancelled, after a checkpoint.
    pub stop: &'a CancellationToken,
}

/// Trains a model, from the last good checkpoint on if there is one, else from `base` on where the configuration names one.
///
/// It blocks, so it is to be called from a thread of its own. When it is told to stop, it writes a checkpoint and ends with
/// [`TrainError::Preempted`].
///
/// # Errors
/// If it is told to stop, the configuration does not fit the data or the memory, a number is no longer finite, the loss grows and
/// does not come down again, or the data, the storage or the device fails. A checkpoint that cannot be written because the
/// storage is away for a while is a [`Event::Warning`].
pub fn fit(
    config: &TrainConfig,
    problem: Problem<'_>,
    base: Option<Base>,
    Surroundings { device, precision, checkpoints, runtime, watch, stop }: Surroundings<'_>,
) -> Result<Fitted, TrainError> {
    if problem.train.is_empty() {
        return Err(TrainError::Empty("training"));
    }
    let _generator = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    let plan = Plan::new(config, problem.train.len())?;
    let origin = Origin::new(config, &problem, base)?;
    // Of the configuration as it is written, so that a run may go on on another kind of device.
    let inputs = inputs_digest(config, &problem, &origin);
    if let Some(warning) = stands_in(precision, config.train.precision, device) {
        watch.on(Event::Warning(&warning));
    }
    let config = &TrainConfig { train: Train { precision, ..config.train.clone() }, ..config.clone() };
    let need = MemoryNeed::new(config, origin.architecture(), origin.adapted(), device);
    need.check(watch)?;
    if let Some(warning) = need.warning() {
        watch.on(Event::Warning(&warning));
    }
    let device = device.clone().autodiff();

    let mut checkpoints = Checkpoints::new(checkpoints, config.run.id(), &config.checkpoint, runtime, watch);
    let snapshot = need.explain(|| match checkpoints.restore(&inputs, &origin, config, &device)? {
        Some(snapshot) => Ok(snapshot),
        None => Session::start(config, inputs, &origin, &device),
    })?;
    watch.on(Event::Started {
        epoch: snapshot.state.epoch,
        total_epochs: plan.total_epochs,
        step: snapshot.state.step,
        total_steps: plan.total_steps,
        resumed_from: checkpoints.last(),
        history: snapshot.state.history.points(),
        samples: &snapshot.state.samples,
    });

    let mut session = Session::new(config, problem, plan, origin, device, watch, snapshot)?;
    // On one of the threads that compute, each operation starts on the others sooner than from outside. They are a pool of
    // their own, since the steps never leave theirs, and a checkpoint is written on the threads of the global one.
    let pool = ThreadPoolBuilder::new().thread_name(|index| format!("train-{index}")).build();
    let pool = pool.map_err(|error| TrainError::Internal(format!("threads cannot be started: {error}")))?;
    let trained = pool.install(|| need.explain(|| train(&mut session, &mut checkpoints, stop)));
    trained.map_err(|error| with_checkpoint(error, session.state(), &checkpoints))?;

    let need = need.after_the_last_step();
    let (predictor, state, best_step, not_finite) = need.explain(|| {
        let (predictor, state, best_step) = session.into_result();
        let not_finite = first_not_finite(&learned_weights(predictor.model())?).map(str::to_owned);
        Ok((predictor, state, best_step, not_finite))
    })?;
    if let Some(name) = not_finite {
        let what = format!("a weight of {name} became NaN or infinite");
        let error = TrainError::Diverged { what, step: state.step, checkpoint: None };
        return Err(with_checkpoint(error, &state, &checkpoints));
    }
    Ok(Fitted {
        predictor,
        epoch: state.epoch,
        total_epochs: plan.total_epochs,
        step: state.step,
        total_steps: plan.total_steps,
        best_step,
        history: state.history.points().to_vec(),
        checkpoint: checkpoints.last().cloned(),
        good_checkpoint: checkpoints.last_before(state.good_before()),
        samples: state.samples,
        need,
    })
}

/// What a person should know where a device does not compute in the precision that is asked for.
fn stands_in(used: Precision, asked: Precision, device: &Device) -> Option<String> {
    (used != asked).then(|| {
        format!(
            "{} has no numbers of train.precision {asked:?}: the training computes in {used:?} instead, with weights and \
             optimizer state as for {asked:?}; set train.precision to {used:?} to have the same on every device",
            device_info(device).name
        )
    })
}

/// Takes all steps, with the evaluations after some of them, and checkpoints between them.
fn train(
    session: &mut Session<'_>,
    checkpoints: &mut Checkpoints<'_>,
    stop: &CancellationToken,
) -> Result<(), TrainError> {
    while !session.is_done() {
        if !session.advance(stop)? {
            checkpoints.finish(session.snapshot()?)?;
            return Err(TrainError::Preempted { step: session.state().step, checkpoint: checkpoints.last().cloned() });
        }
        checkpoints.poll()?;
        let (state, now) = (session.state(), Instant::now());
        // What an evaluation finds is a part of it.
        if state.due.is_none() && checkpoints.is_due(state.step, now) {
            // The steps before are waited for first, so that what is counted is the checkpoint's alone.
            session.settle()?;
            let begun = Instant::now();
            checkpoints.begin(session.snapshot()?, now);
            session.stalled(begun.elapsed());
        }
    }
    // A pod that is lost while it evaluates or publishes does not train again; what one step's checkpoint left to be evaluated is
    // evaluated again.
    checkpoints.finish(session.snapshot()?)
}

/// A divergence with the last good checkpoint.
fn with_checkpoint(error: TrainError, state: &State, checkpoints: &Checkpoints<'_>) -> TrainError {
    match error {
        TrainError::Diverged { what, step, .. } => {
            let checkpoint = checkpoints.last_before(state.good_before().min(step));
            TrainError::Diverged { what, step, checkpoint }
        }
        error => error,
    }
}

/// Digest of what decides about every step: configuration, data, what makes tokens of it, and the model that is started from.
fn inputs_digest(config: &TrainConfig, problem: &Problem<'_>, origin: &Origin) -> String {
    let sizes = (problem.train.len(), problem.validation.len(), problem.inputs, problem.targets);
    let base = origin.base().map(|base| format!(" {}", base.source().digest)).unwrap_or_default();
    // The fingerprint is of the data alone, and not of a tokenizer's file beside it.
    let tokenizer = problem.tokenizer.map(|tokenizer| format!(" {}", digest(tokenizer.to_json()))).unwrap_or_default();
    digest(format!("{} {} {sizes:?}{base}{tokenizer}", config_digest(config), problem.fingerprint).as_bytes())
}
