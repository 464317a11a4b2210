//! Where a run stands: written by its stages, read by the endpoint, the terminal and the report.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

use burn::tensor::Device;
use stoker_crds::{
    Progress,
    metric::{LOSS, Split},
    progress::{DataStats, Stage, Throughput},
};

use crate::{
    model::device_info,
    training::{Event, Size, Watch},
};

/// How many warnings are kept; the first ones say the most.
const MAX_WARNINGS: usize = 10;

/// The state of a run, shared between its threads.
#[derive(Debug)]
pub struct Tracker {
    progress: Mutex<Progress>,
    device: OnceLock<Device>,
}

impl Tracker {
    /// A run that has not begun.
    pub fn new(run: String) -> Self {
        let progress = Progress {
            run,
            stage: Stage::Preparing,
            data: DataStats::default(),
            epoch: 0,
            total_epochs: 0,
            step: 0,
            total_steps: 0,
            throughput: Throughput::default(),
            eta_seconds: None,
            estimate: None,
            metrics: BTreeMap::new(),
            history: Vec::new(),
            samples: Vec::new(),
            checkpoint: None,
            resumed_from: None,
            warnings: Vec::new(),
            device: None,
            peak_memory_bytes: 0,
        };
        Self { progress: Mutex::new(progress), device: OnceLock::new() }
    }

    /// Says what the run computes on: from then on, its memory and how busy it is are told too.
    pub fn computes_on(&self, device: Device) {
        self.device.get_or_init(|| device);
    }

    /// The state now.
    pub fn progress(&self) -> Progress {
        let mut progress = self.lock().clone();
        progress.peak_memory_bytes = peak_memory_bytes();
        progress.device = self.device.get().map(device_info);
        progress
    }

    /// Changes the state.
    pub fn update(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        // Each change leaves a whole state behind, so a panic elsewhere does not make it worse.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch for Tracker {
    fn on(&self, event: Event<'_>) {
        self.update(|progress| match event {
            Event::Estimated(estimate) => {
                let (parameters, memory) = (estimate.parameters, Size(estimate.memory_bytes()).to_string());
                if progress.estimate.as_ref() != Some(estimate) {
                    tracing::info!(parameters, memory, "the model's size, and about what its training takes");
                }
                progress.estimate = Some(*estimate);
            }
            Event::Started { epoch, total_epochs, step, total_steps, resumed_from, history, samples } => {
                progress.epoch = epoch;
                progress.total_epochs = total_epochs;
                progress.step = step;
                progress.total_steps = total_steps;
                progress.resumed_from = resumed_from.map(|checkpoint| checkpoint.step);
                progress.checkpoint = resumed_from.cloned();
                progress.history = history.to_vec();
                progress.samples = samples.to_vec();
            }
            Event::Stepped { epoch, step, loss, throughput, eta_seconds } => {
                progress.epoch = epoch;
                progress.step = step;
                progress.throughput = throughput;
                progress.eta_seconds = eta_seconds;
                if let Some(loss) = loss {
                    progress.metrics.entry(Split::Train).or_default().insert(LOSS.into(), loss);
                }
            }
            Event::Evaluated { point, history, samples } => {
                progress.epoch = point.epoch;
                progress.metrics = point.metrics.clone();
                progress.history = history.to_vec();
                progress.samples = samples.to_vec();
            }
            Event::Checkpointed(checkpoint) => progress.checkpoint = Some(checkpoint.clone()),
            Event::Warning(warning) => {
                tracing::warn!("{warning}");
                if progress.warnings.len() < MAX_WARNINGS && !progress.warnings.iter().any(|known| known == warning) {
                    progress.warnings.push(warning.to_owned());
                }
            }
        });
    }
}

/// The most memory that this process has held, in bytes; 0 where the system does not say.
fn peak_memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use stoker_crds::progress::HistoryPoint;

    use super::*;

    fn stepped(loss: Option<f64>) -> Event<'static> {
        Event::Stepped { epoch: 0, step: 1, loss, throughput: Throughput::default(), eta_seconds: None }
    }

    #[test]
    fn the_training_loss_is_told_before_an_epoch_ends_and_leaves_the_validations_alone() {
        let tracker = Tracker::new("1-a".into());
        let loss = |split| tracker.progress().metrics.get(&split).and_then(|metrics| metrics.get(LOSS).copied());
        tracker.on(stepped(None));
        assert_eq!(loss(Split::Train), None);
        tracker.on(stepped(Some(0.5)));
        assert_eq!(loss(Split::Train), Some(0.5));
        let metrics =
            [(Split::Train, 0.4), (Split::Validation, 0.6)].map(|(split, loss)| (split, [(LOSS.into(), loss)].into()));
        let point = HistoryPoint { epoch: 1, step: 2, metrics: metrics.into() };
        tracker.on(Event::Evaluated { point: &point, history: &[], samples: &[] });
        tracker.on(stepped(Some(0.3)));
        assert_eq!((loss(Split::Train), loss(Split::Validation)), (Some(0.3), Some(0.6)));
    }

    #[test]
    fn the_same_warning_is_kept_once() {
        let tracker = Tracker::new("1-a".into());
        for _ in 0..20 {
            tracker.on(Event::Warning("the checkpoint of step 7 is broken"));
        }
        assert_eq!(tracker.progress().warnings.len(), 1);
    }
}
