//! Where a run stands: written by its stages, read by the endpoint, the terminal and the report.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

use burn::tensor::Device;
use stoker_crds::{
    Progress,
    progress::{DataStats, Stage},
};

use crate::{
    model::device_info,
    training::{Event, Watch},
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
            samples_per_second: 0.0,
            eta_seconds: None,
            metrics: BTreeMap::new(),
            history: Vec::new(),
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
            Event::Started { epoch, total_epochs, step, total_steps, resumed_from, history } => {
                progress.epoch = epoch;
                progress.total_epochs = total_epochs;
                progress.step = step;
                progress.total_steps = total_steps;
                progress.resumed_from = resumed_from.map(|checkpoint| checkpoint.step);
                progress.checkpoint = resumed_from.cloned();
                progress.history = history.to_vec();
            }
            Event::Stepped { epoch, step, samples_per_second } => {
                progress.epoch = epoch;
                progress.step = step;
                progress.samples_per_second = samples_per_second;
                progress.eta_seconds = eta_seconds(progress);
            }
            Event::EpochDone { point, history } => {
                progress.epoch = point.epoch;
                progress.metrics = point.metrics.clone();
                progress.history = history.to_vec();
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

/// Seconds until all rows of all epochs are gone through at the pace of now.
fn eta_seconds(progress: &Progress) -> Option<f64> {
    let share_left = progress.total_steps.saturating_sub(progress.step) as f64 / progress.total_steps as f64;
    let rows_left = progress.data.train as f64 * f64::from(progress.total_epochs) * share_left;
    Some(rows_left / progress.samples_per_second).filter(|eta| eta.is_finite())
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
    use super::*;

    fn started(tracker: &Tracker) {
        tracker.update(|progress| progress.data.train = 1000);
        tracker.on(Event::Started {
            epoch: 0,
            total_epochs: 10,
            step: 0,
            total_steps: 100,
            resumed_from: None,
            history: &[],
        });
    }

    #[test]
    fn the_time_left_follows_from_the_rows_left_and_the_pace() {
        let tracker = Tracker::new("1-a".into());
        started(&tracker);
        tracker.on(Event::Stepped { epoch: 2, step: 25, samples_per_second: 500.0 });
        // Three quarters of 10 × 1,000 rows at 500 rows a second.
        assert_eq!(tracker.progress().eta_seconds, Some(15.0));
    }

    #[test]
    fn there_is_no_time_left_before_there_is_a_pace() {
        let tracker = Tracker::new("1-a".into());
        started(&tracker);
        tracker.on(Event::Stepped { epoch: 0, step: 1, samples_per_second: 0.0 });
        assert_eq!(tracker.progress().eta_seconds, None);
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
