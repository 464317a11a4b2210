//! Where a run stands: written by its stages, read by the endpoint, the terminal and the report.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use stoker_crds::{
    Progress,
    progress::{HistoryPoint, MAX_HISTORY, Stage},
};

/// Over how long the pace is averaged.
const PACE_WINDOW: Duration = Duration::from_secs(5);
/// How many warnings are kept; the first ones say the most.
const MAX_WARNINGS: usize = 10;

/// The state of a run, shared between its threads.
#[derive(Debug)]
pub struct Tracker(Mutex<State>);

#[derive(Debug)]
struct State {
    progress: Progress,
    samples: u64,
    pace: VecDeque<(Instant, u64)>,
}

impl Tracker {
    /// A run that has not begun.
    pub fn new(run: String) -> Self {
        let progress = Progress {
            run,
            stage: Stage::Preparing,
            data: stoker_crds::progress::DataStats::default(),
            epoch: 0,
            total_epochs: 0,
            step: 0,
            total_steps: 0,
            samples_per_second: 0.0,
            eta_seconds: None,
            metrics: std::collections::BTreeMap::new(),
            history: Vec::new(),
            checkpoint: None,
            resumed_from: None,
            warnings: Vec::new(),
            device: None,
            peak_memory_bytes: 0,
        };
        Self(Mutex::new(State { progress, samples: 0, pace: VecDeque::new() }))
    }

    /// The state now.
    pub fn progress(&self) -> Progress {
        let mut progress = self.lock().progress.clone();
        progress.peak_memory_bytes = peak_memory_bytes();
        progress
    }

    /// Changes the state.
    pub fn update(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.lock().progress);
    }

    /// A step over so many rows is done.
    pub fn step_done(&self, step: u64, rows: usize) {
        let mut state = self.lock();
        state.progress.step = step;
        state.samples += rows as u64;
        let (now, samples) = (Instant::now(), state.samples);
        // A point each tenth of a second is enough for an average over seconds.
        if state.pace.back().is_none_or(|(at, _)| now - *at > Duration::from_millis(100)) {
            state.pace.push_back((now, samples));
            while state.pace.front().is_some_and(|(at, _)| now - *at > PACE_WINDOW) && state.pace.len() > 2 {
                state.pace.pop_front();
            }
            state.measure_pace(rows);
        }
    }

    /// A point of the history; the history is thinned evenly so that it stays bounded.
    pub fn epoch_done(&self, point: HistoryPoint) {
        let mut state = self.lock();
        state.progress.epoch = point.epoch;
        state.progress.metrics = point.metrics.clone();
        state.progress.history.push(point);
        if state.progress.history.len() > MAX_HISTORY {
            let mut index = 0;
            state.progress.history.retain(|_| {
                index += 1;
                index % 2 == 0
            });
        }
    }

    /// Something that a person should know although the run goes on.
    pub fn warn(&self, warning: String) {
        tracing::warn!("{warning}");
        let warnings = &mut self.lock().progress.warnings;
        if warnings.len() < MAX_WARNINGS && !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change leaves a whole state behind, so a panic elsewhere does not make it worse.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn measure_pace(&mut self, rows_per_step: usize) {
        let (Some((start, first)), Some((end, last))) = (self.pace.front(), self.pace.back()) else { return };
        let seconds = (*end - *start).as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        let progress = &mut self.progress;
        progress.samples_per_second = (last - first) as f64 / seconds;
        let rows_left = progress.total_steps.saturating_sub(progress.step) as f64 * rows_per_step as f64;
        progress.eta_seconds = Some(rows_left / progress.samples_per_second).filter(|eta| eta.is_finite());
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
    use super::*;

    #[test]
    fn the_history_stays_bounded_and_keeps_its_last_point() {
        let tracker = Tracker::new("1-a".into());
        for epoch in 1..=1000 {
            tracker.epoch_done(HistoryPoint { epoch, step: u64::from(epoch), metrics: Default::default() });
        }
        let history = tracker.progress().history;
        assert!(history.len() <= MAX_HISTORY, "{} points", history.len());
        assert!(history.is_sorted_by_key(|point| point.epoch));
        assert!(history.last().unwrap().epoch > 950);
    }

    #[test]
    fn the_same_warning_is_kept_once() {
        let tracker = Tracker::new("1-a".into());
        for _ in 0..20 {
            tracker.warn("the checkpoint of step 7 is broken".into());
        }
        assert_eq!(tracker.progress().warnings.len(), 1);
    }
}
