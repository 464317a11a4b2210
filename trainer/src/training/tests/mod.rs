//! Whole trainings on small data.

mod divergence;
mod evaluation;
mod fine_tuning;
#[cfg(feature = "gpu")]
mod gpu;
mod language;
mod learning;
mod optimizers;
mod precision;
mod resume;
mod storage_failures;
mod transformers;

use std::sync::{LazyLock, Mutex};

use burn::tensor::Device;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use stoker_crds::{
    TrainConfig,
    artifact::CheckpointRef,
    metric::{Metrics, Split},
    progress::{Estimate, HistoryPoint, Sample},
    training::optimize::Precision,
};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use super::{Batch, Dataset, Event, Fitted, Problem, RowBatch, Surroundings, TrainError, Watch, fit};
use crate::{
    artifact,
    data::DataError,
    model::{precision::on_device, to_safetensors},
    storage::{Access, Folder},
};

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap());

/// Rows in memory.
#[derive(Clone, Debug, Default)]
struct Table {
    features: Vec<Vec<f32>>,
    targets: Vec<Vec<f32>>,
}

impl Dataset for Table {
    fn len(&self) -> usize {
        self.features.len()
    }

    fn batch(&self, indices: &[u32]) -> Result<Batch, DataError> {
        let gather = |rows: &[Vec<f32>]| indices.iter().flat_map(|index| rows[*index as usize].clone()).collect();
        let (features, targets) = (gather(&self.features), gather(&self.targets));
        Ok(Batch::Rows(RowBatch { rows: indices.len(), features, targets }))
    }
}

/// `rows` rows of three clouds of points in the plane, and which cloud each is of.
fn blobs(rows: usize, seed: u64) -> Table {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut table = Table::default();
    for row in 0..rows {
        let [x, y] = [[0.0, 2.0], [-2.0, -1.0], [2.0, -1.0]][row % 3];
        let mut noise = || (0..4).map(|_| rng.random_range(-0.5..0.5f32)).sum::<f32>();
        table.features.push(vec![x + noise(), y + noise()]);
        table.targets.push(vec![(row % 3) as f32]);
    }
    table
}

/// `rows` rows of two inputs and a smooth function of them.
fn surface(rows: usize, seed: u64) -> Table {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut table = Table::default();
    for _ in 0..rows {
        let (x, y) = (rng.random_range(-1.0..1.0f32), rng.random_range(-1.0..1.0f32));
        table.features.push(vec![x, y]);
        table.targets.push(vec![x * y + 0.5 * x]);
    }
    table
}

/// A configuration with these parts of the spec; all else is of no matter here.
pub(super) fn config(task: &str, model: Value, train: Value, checkpoint: Value) -> TrainConfig {
    serde_json::from_value(json!({
        "run": {"namespace": "default", "training": "test", "uid": "8a6e0804", "number": 1},
        "task": task,
        "data": {"source": {"uri": "s3://bucket/data.csv"}, "format": "csv", "target": ["y"]},
        "model": {"mlp": model},
        "train": train,
        "checkpoint": checkpoint,
        "storage": {"uri": "s3://bucket"},
        "resources": {},
    }))
    .unwrap()
}

/// A run's checkpoints in a folder of its own, and what computes it.
struct Run {
    folder: Folder,
    device: Device,
    /// Which stands in for another one, as on a device that does not compute in that.
    stands_in: Option<Precision>,
    _dir: Option<TempDir>,
}

impl Run {
    fn new() -> Self {
        Self::on(Device::flex())
    }

    fn on(device: Device) -> Self {
        let dir = TempDir::new().unwrap();
        let folder = Access::local(dir.path()).open("s3://bucket/checkpoints").unwrap();
        Self { folder, device, stands_in: None, _dir: Some(dir) }
    }

    fn in_folder(folder: Folder) -> Self {
        Self { folder, device: Device::flex(), stands_in: None, _dir: None }
    }

    fn fit(&self, config: &TrainConfig, train: &Table, validation: &Table) -> Result<Fitted, TrainError> {
        self.fit_watched(config, train, validation, &Recorder::default())
    }

    fn fit_watched(
        &self,
        config: &TrainConfig,
        train: &Table,
        validation: &Table,
        watch: &Recorder,
    ) -> Result<Fitted, TrainError> {
        let highest = train.targets.iter().map(|targets| targets[0] as usize).max().unwrap_or(0);
        let targets = match config.task {
            stoker_crds::training::Task::Classification | stoker_crds::training::Task::LanguageModeling => highest + 1,
            stoker_crds::training::Task::Regression => train.targets.first().map_or(1, Vec::len),
        };
        let inputs = train.features.first().map_or(1, Vec::len);
        self.fit_samples(config, [train, validation], [inputs, targets], watch)
    }

    /// With samples of any kind, for training and validation, and so many inputs and targets.
    fn fit_samples(
        &self,
        config: &TrainConfig,
        [train, validation]: [&dyn Dataset; 2],
        [inputs, targets]: [usize; 2],
        watch: &Recorder,
    ) -> Result<Fitted, TrainError> {
        let problem = Problem {
            train,
            validation,
            inputs,
            targets,
            restore_targets: &|_| {},
            tokenizer: None,
            fingerprint: "sha256:of-the-data",
        };
        self.fit_problem(config, problem, watch)
    }

    fn fit_problem(&self, config: &TrainConfig, problem: Problem<'_>, watch: &Recorder) -> Result<Fitted, TrainError> {
        let surroundings = Surroundings {
            device: &self.device,
            precision: self.precision(config)?,
            checkpoints: &self.folder,
            runtime: RUNTIME.handle(),
            watch,
            stop: &watch.stop,
        };
        fit(config, problem, None, surroundings)
    }

    fn precision(&self, config: &TrainConfig) -> Result<Precision, TrainError> {
        Ok(self.stands_in.map_or_else(|| on_device(config.train.precision, &self.device), Ok)?)
    }

    /// Checks that no weight of a checkpoint is infinite or NaN.
    fn assert_finite_checkpoints(&self) {
        for step in self.steps() {
            let opened = RUNTIME.block_on(artifact::open(&self.folder.join(&step.to_string()), None));
            // The last one may still be on its way: without a manifest it does not exist.
            let Ok(checkpoint) = opened else {
                assert!(matches!(opened, Err(artifact::ArtifactError::NotFound { .. })));
                continue;
            };
            let file = safetensors::SafeTensors::deserialize(checkpoint.file("model.safetensors").unwrap()).unwrap();
            for (name, view) in file.iter() {
                assert!(crate::model::values(&view).iter().all(|value| value.is_finite()), "{step}: {name}");
            }
        }
    }

    /// The steps of the checkpoints in storage.
    fn steps(&self) -> Vec<u64> {
        let listed = RUNTIME.block_on(self.folder.store.list_with_delimiter(Some(&self.folder.path))).unwrap();
        let mut steps: Vec<u64> =
            listed.common_prefixes.iter().map(|path| path.filename().unwrap().parse().unwrap()).collect();
        steps.sort_unstable();
        steps
    }
}

fn weights(fitted: &Fitted) -> Vec<u8> {
    to_safetensors(fitted.predictor.model()).unwrap()
}

/// Keeps what it is told, and may stop the training.
#[derive(Default)]
struct Recorder {
    stop: CancellationToken,
    stop_at: Option<u64>,
    seen: Mutex<Seen>,
    on_step: Option<Box<dyn Fn(u64) + Send + Sync>>,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    resumed_from: Option<u64>,
    total_steps: u64,
    steps: Vec<u64>,
    /// The training loss that was told at each of those steps.
    losses: Vec<Option<f64>>,
    estimate: Option<Estimate>,
    samples: Vec<Sample>,
    points: Vec<HistoryPoint>,
    checkpoints: Vec<CheckpointRef>,
    warnings: Vec<String>,
}

impl Recorder {
    /// Stops after that many steps.
    fn stopping_at(step: u64) -> Self {
        Self { stop_at: Some(step), ..Self::default() }
    }

    fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }
}

impl Seen {
    fn values(&self, split: Split, metric: &str) -> Vec<f64> {
        self.points.iter().filter_map(|point| value(&point.metrics.get(&split)?.clone(), metric)).collect()
    }
}

fn value(metrics: &Metrics, name: &str) -> Option<f64> {
    metrics.get(name).copied()
}

impl Watch for Recorder {
    fn on(&self, event: Event<'_>) {
        let mut seen = self.seen.lock().unwrap();
        match event {
            Event::Started { total_steps, resumed_from, .. } => {
                seen.total_steps = total_steps;
                seen.resumed_from = resumed_from.map(|checkpoint| checkpoint.step);
            }
            Event::Estimated(estimate) => seen.estimate = Some(*estimate),
            Event::Stepped { step, loss, .. } => {
                seen.steps.push(step);
                seen.losses.push(loss);
                drop(seen);
                if self.stop_at == Some(step) {
                    self.stop.cancel();
                }
                if let Some(on_step) = &self.on_step {
                    on_step(step);
                }
            }
            Event::Evaluated { point, samples, .. } => {
                seen.points.push(point.clone());
                seen.samples = samples.to_vec();
            }
            Event::Checkpointed(checkpoint) => seen.checkpoints.push(checkpoint.clone()),
            Event::Warning(warning) => seen.warnings.push(warning.to_owned()),
        }
    }
}
