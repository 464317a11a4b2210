//! The same training by Stoker and by PyTorch, in turn.

use std::{
    collections::BTreeSet,
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::Instant,
};

use stoker_crds::{
    Progress, RunReport, TrainConfig,
    artifact::WEIGHTS,
    metric::{LOSS, Metrics, Split},
    progress::Stage,
    training::{Model, optimize::Optimizer},
};
use stoker_e2e::{Error, Result};
use stoker_trainer::training::epoch_order;

use super::{
    Options,
    figures::{self, Figures, OfPeer, Speed, Target},
    peer::{Mode, Peer, Start, Trained},
};
use crate::{
    output::Output,
    trainer::{self, Steps, Trainer},
};

/// The first steps of a language model, whose mean loss is compared: some tens of steps later, rounding alone has led eager and
/// compiled PyTorch apart.
pub(super) const COMPARED: u32 = 20;
/// A learning rate by which no weight changes, other than those that are 0.
const NO_RATE: f64 = 1e-30;
/// How PyTorch computes on a GPU, where the threads of the CPU do not matter.
const ON_GPU: Mode = Mode { is_compiled: true, threads: None };

/// What is trained by both.
pub(super) struct Task {
    pub(super) name: String,
    pub(super) config: TrainConfig,
    /// The peer's program.
    pub(super) script: &'static str,
    /// Steps before those that are timed.
    pub(super) warm_up: u64,
    /// What a speed is in.
    pub(super) unit: &'static str,
    /// How many of them a step has.
    pub(super) units_per_step: f64,
    /// How far the losses may differ, of the peer's.
    pub(super) tolerance: f64,
    pub(super) target: Target,
}

/// Compares all tasks and prints the table.
///
/// # Errors
/// If one side fails, or trains on other samples, or reaches another loss than the other.
pub(super) async fn run(tasks: impl IntoIterator<Item = Task>, options: &Options, output: &mut Output) -> Result<()> {
    let (peer, mut all) = (Peer::start(options, output).await?, Vec::new());
    for task in tasks {
        all.push((compare(&task, &peer, options.repetitions).await?, task.target));
    }
    figures::report(all.iter().map(|(figures, target)| (figures, *target)), output)
}

/// Trains it by both in turn.
///
/// # Errors
/// If one side fails, or they train on different samples.
pub(super) async fn compare(task: &Task, peer: &Peer, repetitions: u32) -> Result<Figures> {
    let folder = trainer::temporary()?;
    let prepared = Prepared::new(&task.config, folder.path()).await?;
    let modes = modes(task, &prepared, peer).await?;
    let mut theirs: Vec<(Mode, Vec<Trained>)> = modes.into_iter().map(|mode| (mode, Vec::new())).collect();
    let (mut ours, mut device) = (Vec::new(), None);
    for number in 1..=repetitions {
        eprintln!("{}: repetition {number} of {repetitions} …", task.name);
        let (trained, computed_on) = prepared.stoker(task.warm_up).await?;
        ours.push(trained);
        device = computed_on;
        for (mode, all) in &mut theirs {
            all.push(prepared.peer(task, *mode, peer).await?);
        }
    }
    for run in theirs.iter().flat_map(|(_, runs)| runs) {
        same_samples(&ours, run)?;
    }
    let speed =
        |runs: &[Trained]| Speed::of(runs.iter().map(|run| run.steps_per_second * task.units_per_step).collect());
    let (loss, peer_loss) = (mean_loss(&ours), mean_loss(theirs.iter().flat_map(|(_, runs)| runs)));
    let peers = theirs.iter().map(|(mode, runs)| Ok(OfPeer { mode: *mode, speed: speed(runs)? }));
    Ok(Figures {
        task: task.name.clone(),
        unit: task.unit,
        device: device.unwrap_or_else(|| "unknown".into()),
        stoker: speed(&ours)?,
        peers: peers.collect::<Result<_>>()?,
        loss,
        peer_loss,
        losses_agree: ((loss - peer_loss) / peer_loss).abs() <= task.tolerance,
    })
}

/// Lets both sides take the steps of a task, which are too few to be measured.
///
/// # Errors
/// If one side fails.
pub(super) async fn rehearse(task: &Task, peer: &Peer) -> Result<()> {
    let folder = trainer::temporary()?;
    let prepared = Prepared::new(&task.config, folder.path()).await?;
    prepared.train(|_, _| ()).await?;
    prepared.peer(task, ON_GPU, peer).await.map(drop)
}

fn same_samples(ours: &[Trained], peer: &Trained) -> Result<()> {
    match ours.iter().find(|run| run.samples != peer.samples) {
        None => Ok(()),
        Some(run) => Err(Error::Unexpected(format!(
            "Stoker trains on {} samples and the peer on {}: what the peer reads is not what Stoker reads",
            run.samples, peer.samples
        ))),
    }
}

fn mean_loss<'a>(runs: impl IntoIterator<Item = &'a Trained>) -> f64 {
    let losses: Vec<f64> =
        runs.into_iter().flat_map(|run| run.losses.iter().take(COMPARED as usize)).copied().collect();
    losses.iter().sum::<f64>() / losses.len() as f64
}

/// The modes of PyTorch that are measured: as it stands, and compiled. On a GPU that is the latter: the former takes more memory,
/// and would decide how many samples a step has.
async fn modes(task: &Task, prepared: &Prepared, peer: &Peer) -> Result<Vec<Mode>> {
    if peer.on_gpu {
        return Ok(vec![ON_GPU]);
    }
    let [eager, compiled] = [false, true].map(|is_compiled| fastest(task, prepared, is_compiled, peer));
    Ok(vec![eager.await?, compiled.await?])
}

/// The mode of PyTorch that takes a tenth of the steps in the least time: on one thread, or on all.
async fn fastest(task: &Task, prepared: &Prepared, is_compiled: bool, peer: &Peer) -> Result<Mode> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut tried = Vec::new();
    for threads in BTreeSet::from([1, cores]) {
        let mode = Mode { is_compiled, threads: Some(threads) };
        eprintln!("{}: PyTorch {mode} …", task.name);
        let few = prepared.shortened(task)?;
        let trained = peer.train(task.script, &few, &prepared.start, mode, task.warm_up.min(3)).await?;
        tried.push((trained, mode));
    }
    let best = tried.into_iter().max_by(|(a, _), (b, _)| a.steps_per_second.total_cmp(&b.steps_per_second));
    best.map(|(_, mode)| mode).ok_or_else(|| Error::Unexpected("PyTorch was not tried".into()))
}

/// A training that can begin: its configuration and first weights as files.
struct Prepared {
    config: TrainConfig,
    file: PathBuf,
    start: Start,
}

impl Prepared {
    /// Takes the first weights, which both sides start from, out of a model that Stoker has trained without learning. A
    /// language model leaves the plateau of letters without context sooner or later by the order of the sequences alone:
    /// both take them in the same.
    async fn new(config: &TrainConfig, folder: &Path) -> Result<Self> {
        let mut config = config.clone();
        config.storage.uri = format!("file://{}/storage", folder.display());
        // Until the run is over, so that nothing but steps is timed.
        config.checkpoint.every_steps = Some(1_000_000_000);
        config.checkpoint.every = None;
        let file = folder.join("config.json");
        trainer::write(&file, &config)?;
        let order = match &config.model {
            Model::Transformer(_) => Some(write_order(&config, folder).await?),
            _ => None,
        };
        Ok(Self { start: Start { weights: first_weights(&config).await?, order }, config, file })
    }

    /// A file of the same training with few steps.
    fn shortened(&self, task: &Task) -> Result<PathBuf> {
        let (mut config, path) = (self.config.clone(), self.file.with_file_name("short.json"));
        let train = &mut config.train;
        train.epochs = train.epochs.map(|epochs| (epochs / 10).max(1));
        train.steps = train.steps.map(|steps| (steps / 10).max(4) + task.warm_up.min(3));
        trainer::write(&path, &config).map(|()| path)
    }

    async fn peer(&self, task: &Task, mode: Mode, peer: &Peer) -> Result<Trained> {
        peer.train(task.script, &self.file, &self.start, mode, task.warm_up).await
    }

    /// One run of the trainer, and the name of what it has computed on. The loss of a language model is the mean of its first
    /// steps.
    async fn stoker(&self, warm_up: u64) -> Result<(Trained, Option<String>)> {
        let (mut steps, mut last) = (Steps::default(), None);
        let report = self
            .train(|at, progress| {
                if progress.stage <= Stage::Training {
                    steps.note(at, self.surely_done(&progress));
                }
                last = Some(progress);
            })
            .await?;
        let last = last.ok_or_else(|| Error::Unexpected("the trainer was not seen to train".into()))?;
        let losses = vec![match self.config.model {
            Model::Transformer(_) => loss_of_first_steps(&last)?,
            _ => train_loss(report.as_ref().and_then(|report| report.metrics.get(&Split::Train)))?,
        }];
        let steps_per_second = steps.per_second(warm_up, last.total_steps)?;
        Ok((Trained { steps_per_second, losses, samples: last.data.train }, last.device.map(|device| device.name)))
    }

    /// Runs the trainer in a storage of its own: a run goes on from the last checkpoint of one before it.
    async fn train(&self, mut see: impl FnMut(Instant, Progress)) -> Result<Option<RunReport>> {
        let storage = trainer::temporary()?;
        let mut config = self.config.clone();
        config.storage.uri = format!("file://{}", storage.path().display());
        let see = |at, progress| {
            see(at, progress);
            ControlFlow::Continue(())
        };
        Trainer::start(&config, &[])?.watch(see).await
    }

    /// The steps that the device has done. A GPU lags behind those that the trainer tells of, except where a loss was looked at.
    fn surely_done(&self, progress: &Progress) -> u64 {
        match self.config.resources.gpus {
            0 => progress.step,
            _ => progress.history.last().map_or(0, |point| point.step),
        }
    }
}

fn train_loss(metrics: Option<&Metrics>) -> Result<f64> {
    let loss = metrics.and_then(|metrics| metrics.get(LOSS));
    loss.copied().ok_or_else(|| Error::Unexpected("the run has no loss of the training split".into()))
}

/// The mean loss of the steps that are compared.
fn loss_of_first_steps(progress: &Progress) -> Result<f64> {
    match progress.history.first() {
        Some(point) if point.step == u64::from(COMPARED) => train_loss(point.metrics.get(&Split::Train)),
        _ => Err(Error::Unexpected(format!(
            "the first epoch has fewer than {COMPARED} steps, whose loss is compared: the benchmark's data are too few"
        ))),
    }
}

/// Writes the order of the sequences in each epoch.
async fn write_order(config: &TrainConfig, folder: &Path) -> Result<PathBuf> {
    let mut samples = 0;
    Trainer::start(config, &[])?
        .watch(|_, progress| {
            samples = progress.data.train;
            if progress.stage < Stage::Training { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })
        .await?;
    let samples = u32::try_from(samples).ok().filter(|count| *count > 0);
    let samples = samples.ok_or_else(|| Error::Unexpected("the trainer was not seen to have sequences".into()))?;
    let train = &config.train;
    let steps_per_epoch = u64::from(samples.div_ceil(train.batch_size));
    let epochs = train.steps.map_or(u64::from(train.epochs.unwrap_or(1)), |steps| steps.div_ceil(steps_per_epoch));
    let order = (0..).take(epochs as usize).flat_map(|epoch| epoch_order(samples, train.seed.unsigned_abs(), epoch));
    let (path, bytes) = (folder.join("order"), order.flat_map(u32::to_ne_bytes).collect::<Vec<_>>());
    std::fs::write(&path, bytes).map_err(|source| Error::File { path: path.clone(), source })?;
    Ok(path)
}

/// The weights of a model that was trained for a step that changes nothing.
async fn first_weights(config: &TrainConfig) -> Result<PathBuf> {
    let mut config = config.clone();
    config.run.training = "first-weights".into();
    (config.train.epochs, config.train.steps) = (None, Some(1));
    match &mut config.train.optimizer {
        Optimizer::Adam(adam) => adam.learning_rate = NO_RATE,
        Optimizer::AdamW(adam) => adam.learning_rate = NO_RATE,
        other => return Err(Error::Unexpected(format!("the peer has no {other:?}"))),
    }
    let report = Trainer::start(&config, &[])?.watch(|_, _| ControlFlow::Continue(())).await?;
    let model = report.and_then(|report: RunReport| report.model);
    let model = model.ok_or_else(|| Error::Unexpected("the trainer published no model".into()))?;
    Ok(Path::new(model.uri.trim_start_matches("file://")).join(WEIGHTS))
}
