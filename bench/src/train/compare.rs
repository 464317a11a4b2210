//! The same training by Stoker and by PyTorch, in turn.

use std::{
    collections::BTreeSet,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use serde::Serialize;
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
    peer::{Mode, Peer, Start, Trained, threads},
};
use crate::{
    output::{Output, Table, number},
    trainer::{self, Steps, Trainer},
};

/// The first steps of a language model, whose mean loss is compared: some tens of steps later, rounding alone has led eager and
/// compiled PyTorch apart.
pub(super) const COMPARED: u32 = 20;
/// A learning rate by which no weight changes, other than those that are 0.
const NO_RATE: f64 = 1e-30;

const HEAD: [&str; 8] = [
    "",
    "Stoker",
    "PyTorch eager",
    "PyTorch compiled",
    "× eager",
    "× the faster one",
    "loss: Stoker, PyTorch",
    "to reach",
];

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

/// What is to be reached.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    /// So many times the speed of PyTorch as it stands.
    Eager(f64),
    /// So many times the speed of the fastest PyTorch, and better so many times.
    Best(f64, f64),
}

/// What one side came to in all repetitions.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Speed {
    /// The median of the repetitions, per second.
    pub(super) median: f64,
    pub(super) slowest: f64,
    pub(super) fastest: f64,
}

impl Speed {
    /// # Errors
    /// If there was no repetition.
    pub(super) fn of(mut speeds: Vec<f64>) -> Result<Self> {
        speeds.sort_by(f64::total_cmp);
        match (speeds.first(), speeds.get(speeds.len() / 2), speeds.last()) {
            (Some(&slowest), Some(&median), Some(&fastest)) => Ok(Self { median, slowest, fastest }),
            _ => Err(Error::Unexpected("nothing was repeated".into())),
        }
    }

    /// With how far the repetitions lie apart.
    pub(super) fn show(&self) -> String {
        format!("{} ±{:.0} %", number(self.median), (self.fastest - self.slowest) / self.median * 50.0)
    }
}

/// What a comparison came to.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Figures {
    pub(super) task: String,
    unit: &'static str,
    pub(super) stoker: Speed,
    eager: Speed,
    eager_threads: usize,
    pub(super) compiled: Speed,
    compiled_threads: usize,
    loss: f64,
    peer_loss: f64,
    losses_agree: bool,
}

impl Figures {
    /// How many times the peer's speed it is: as it stands, and the fastest.
    fn ratios(&self) -> [f64; 2] {
        let eager = self.eager.median;
        [eager, self.compiled.median.max(eager)].map(|peer| self.stoker.median / peer)
    }

    fn row(&self, target: Target) -> [String; 8] {
        let [eager, best] = self.ratios();
        let verdict = |ratio: f64, least: f64| if ratio >= least { "reached" } else { "missed" };
        let target = match target {
            Target::Eager(least) => format!("≥ {least} × eager: {}", verdict(eager, least)),
            Target::Best(least, aim) => {
                format!("≥ {least} × the faster one: {}; aim {aim}: {}", verdict(best, least), verdict(best, aim))
            }
        };
        let sign = if self.losses_agree { "≈" } else { "≠" };
        [
            format!("{}, {}/s", self.task, self.unit),
            self.stoker.show(),
            format!("{}, {}", self.eager.show(), threads(self.eager_threads)),
            format!("{}, {}", self.compiled.show(), threads(self.compiled_threads)),
            format!("{eager:.2}"),
            format!("{best:.2}"),
            format!("{:.4} {sign} {:.4}", self.loss, self.peer_loss),
            target,
        ]
    }
}

/// Compares all tasks and prints the table.
///
/// # Errors
/// If one side fails, or trains on other samples, or reaches another loss than the other.
pub(super) async fn run(tasks: impl IntoIterator<Item = Task>, options: &Options, output: &mut Output) -> Result<()> {
    let (peer, mut all) = (Peer::new(options)?, Vec::new());
    for task in tasks {
        all.push((compare(&task, &peer, options.repetitions).await?, task.target));
    }
    report(all, output)
}

/// Prints the table of comparisons.
///
/// # Errors
/// If the sides of one do not reach the same loss.
pub(super) fn report(all: impl IntoIterator<Item = (Figures, Target)>, output: &mut Output) -> Result<()> {
    let mut table = Table::new(HEAD);
    let mut apart = Vec::new();
    for (figures, target) in all {
        output.record("beside PyTorch", &figures)?;
        table.row(figures.row(target));
        if !figures.losses_agree {
            apart.push(figures.task);
        }
    }
    println!("\n{}", table.markdown());
    match apart.is_empty() {
        true => Ok(()),
        false => Err(Error::Unexpected(format!("both sides do not reach the same loss: {}", apart.join("; ")))),
    }
}

/// Trains it by both in turn.
///
/// # Errors
/// If one side fails, or they train on different samples.
pub(super) async fn compare(task: &Task, peer: &Peer, repetitions: u32) -> Result<Figures> {
    let folder = trainer::temporary()?;
    let prepared = Prepared::new(&task.config, folder.path()).await?;
    let eager = fastest(task, &prepared, false, peer).await?;
    let compiled = fastest(task, &prepared, true, peer).await?;
    let (mut ours, mut theirs): (Vec<Trained>, [Vec<Trained>; 2]) = Default::default();
    for number in 1..=repetitions {
        eprintln!("{}: repetition {number} of {repetitions} …", task.name);
        ours.push(prepared.stoker(task.warm_up).await?);
        for (mode, all) in [eager, compiled].into_iter().zip(&mut theirs) {
            all.push(prepared.peer(task, mode, peer).await?);
        }
    }
    for run in theirs.iter().flatten() {
        same_samples(&ours, run)?;
    }
    let speed =
        |runs: &[Trained]| Speed::of(runs.iter().map(|run| run.steps_per_second * task.units_per_step).collect());
    let [of_eager, of_compiled] = &theirs;
    let (loss, peer_loss) = (mean_loss(&ours), mean_loss(of_eager.iter().chain(of_compiled)));
    Ok(Figures {
        task: task.name.clone(),
        unit: task.unit,
        stoker: speed(&ours)?,
        eager: speed(of_eager)?,
        eager_threads: eager.threads,
        compiled: speed(of_compiled)?,
        compiled_threads: compiled.threads,
        loss,
        peer_loss,
        losses_agree: ((loss - peer_loss) / peer_loss).abs() <= task.tolerance,
    })
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

/// The mode of PyTorch that takes a tenth of the steps in the least time: on one thread, or on all.
async fn fastest(task: &Task, prepared: &Prepared, is_compiled: bool, peer: &Peer) -> Result<Mode> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // On a GPU the threads of the CPU do not matter.
    let most = if peer.on_gpu { 1 } else { cores };
    let mut tried = Vec::new();
    for threads in BTreeSet::from([1, most]) {
        let mode = Mode { is_compiled, threads };
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

    /// One run of the trainer. The loss of a language model is the mean of its first steps.
    async fn stoker(&self, warm_up: u64) -> Result<Trained> {
        // In a storage of its own: a run goes on from the last checkpoint of one before it.
        let storage = trainer::temporary()?;
        let mut config = self.config.clone();
        config.storage.uri = format!("file://{}", storage.path().display());
        let mut trainer = Trainer::start(&config, &[])?;
        let (mut steps, mut last) = (Steps::default(), None);
        let report = trainer
            .watch(|at, progress| {
                if progress.stage <= Stage::Training {
                    steps.note(at, progress.step);
                }
                last = Some(progress);
                ControlFlow::Continue(())
            })
            .await?;
        let last = last.ok_or_else(|| Error::Unexpected("the trainer was not seen to train".into()))?;
        let losses = vec![match self.config.model {
            Model::Transformer(_) => loss_of_first_steps(&last)?,
            _ => train_loss(report.as_ref().and_then(|report| report.metrics.get(&Split::Train)))?,
        }];
        Ok(Trained { steps_per_second: steps.per_second(warm_up, last.total_steps)?, losses, samples: last.data.train })
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
            "the first epoch has fewer than {COMPARED} steps, whose loss is compared: take fewer sequences in a step"
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_speed_is_the_median_and_says_how_far_the_others_are() {
        let speed = Speed::of(vec![110.0, 90.0, 100.0]).unwrap();
        assert_eq!((speed.median, speed.show().as_str()), (100.0, "100 ±10 %"));
        assert!(Speed::of(Vec::new()).is_err());
    }
}
