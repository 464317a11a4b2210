//! From a configuration and rows to a model.

use std::{sync::PoisonError, time::Instant};

use burn::tensor::Device;
use rayon::ThreadPoolBuilder;
use stoker_crds::{
    TrainConfig,
    artifact::CheckpointRef,
    metric::{Metrics, Split},
    progress::{HistoryPoint, Sample},
};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::{
    TrainError,
    checkpoint::{State, config_digest},
    checkpoints::Checkpoints,
    memory::MemoryNeed,
    origin::Origin,
    session::{Plan, Problem, Session},
    watch::{Event, Watch},
};
use crate::{
    artifact::digest,
    base::Base,
    model::{GENERATOR, Predictor, first_not_finite, learned_weights, precision::check_device},
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
}

impl Fitted {
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
    Surroundings { device, checkpoints, runtime, watch, stop }: Surroundings<'_>,
) -> Result<Fitted, TrainError> {
    if problem.train.is_empty() {
        return Err(TrainError::Empty("training"));
    }
    let _generator = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    let plan = Plan::new(config, problem.train.len())?;
    let origin = Origin::new(config, &problem, base)?;
    let need = MemoryNeed::new(config, origin.architecture(), origin.adapted(), device);
    watch.on(Event::Estimated(&need.estimate));
    need.check()?;
    if let Some(warning) = need.warning() {
        watch.on(Event::Warning(&warning));
    }
    check_device(config.train.precision, device)?;
    let device = device.clone().autodiff();

    let mut checkpoints = Checkpoints::new(checkpoints, config.run.id(), &config.checkpoint, runtime, watch);
    let inputs = inputs_digest(config, &problem, &origin);
    let snapshot = need.explain(|| match checkpoints.restore(&inputs, &origin, config, &device)? {
        Some(snapshot) => Ok(snapshot),
        None => Session::start(config, inputs, &origin, &device),
    })?;
    // From here on the files of what was started from only take room.
    let architecture = origin.into_architecture();
    watch.on(Event::Started {
        epoch: snapshot.state.epoch,
        total_epochs: plan.total_epochs,
        step: snapshot.state.step,
        total_steps: plan.total_steps,
        resumed_from: checkpoints.last(),
        history: snapshot.state.history.points(),
        samples: &snapshot.state.samples,
    });

    let mut session = Session::new(config, problem, plan, architecture, device, watch, snapshot)?;
    // On one of the threads that compute, each operation starts on the others sooner than from outside. They are a pool of
    // their own, since the steps never leave theirs, and a checkpoint is written on the threads of the global one.
    let pool = ThreadPoolBuilder::new().thread_name(|index| format!("train-{index}")).build();
    let pool = pool.map_err(|error| TrainError::Internal(format!("threads cannot be started: {error}")))?;
    let trained = pool.install(|| need.explain(|| train(&mut session, &mut checkpoints, stop)));
    trained.map_err(|error| with_checkpoint(error, session.state(), &checkpoints))?;

    let (predictor, state, best_step) = session.into_result();
    if let Some(name) = first_not_finite(&learned_weights(predictor.model())?) {
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
        samples: state.samples,
        checkpoint: checkpoints.last().cloned(),
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

/// Digest of what decides about every step: configuration, data, and the model that is started from.
fn inputs_digest(config: &TrainConfig, problem: &Problem<'_>, origin: &Origin) -> String {
    let sizes = (problem.train.len(), problem.validation.len(), problem.inputs, problem.targets);
    let base = origin.base().map(|base| format!(" {}", base.source().digest)).unwrap_or_default();
    digest(format!("{} {} {sizes:?}{base}", config_digest(config), problem.fingerprint).as_bytes())
}
