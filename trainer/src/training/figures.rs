//! How fast a training is, and what it waits for.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use burn::tensor::Device;
use stoker_crds::{progress::Throughput, training::optimize::Precision};

use crate::model::{Adapted, Architecture, device_info, peak_flops};

/// Over how long figures are taken.
const WINDOW: Duration = Duration::from_secs(5);
/// How often a mark is set.
const MARK: Duration = Duration::from_millis(100);

/// What a sample is, and what the device can do.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Work {
    /// Tokens of a sample, of a language model.
    tokens: Option<u32>,
    /// Floating-point operations that a step needs for a sample.
    flops: f64,
    /// Those that the device can do in a second, if that is known.
    peak: Option<f64>,
}

impl Work {
    /// That of a training on a device, of which adapters alone may be learned.
    pub(super) fn new(
        architecture: &Architecture,
        adapted: Option<Adapted>,
        device: &Device,
        precision: Precision,
    ) -> Self {
        let tokens = architecture.tokens().ok().map(|language| language.transformer().context);
        let peak = peak_flops(&device_info(device).name).and_then(|peak| match precision {
            Precision::F32 => Some(peak.f32),
            Precision::F16 => Some(peak.f16),
            Precision::BF16 | Precision::Mixed => peak.bf16,
        });
        Self { tokens, flops: architecture.step_flops(adapted), peak }
    }
}

/// Figures over the last seconds, of all that the training does: evaluations are part of the time.
#[derive(Debug)]
pub(super) struct Figures {
    work: Work,
    done: Done,
    marks: VecDeque<(Instant, Done)>,
    latest: Throughput,
    steps_per_second: f64,
}

/// What was done since the start.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    steps: u64,
    samples: u64,
    waiting: Duration,
    stalled: Duration,
}

impl Figures {
    pub(super) fn start(work: Work, now: Instant) -> Self {
        let done = Done::default();
        Self { work, done, marks: [(now, done)].into(), latest: Throughput::default(), steps_per_second: 0.0 }
    }

    /// Counts time that was spent on waiting for a batch.
    pub(super) fn waited(&mut self, time: Duration) {
        self.done.waiting += time;
    }

    /// Counts time in which the steps stood still for a checkpoint.
    pub(super) fn stalled(&mut self, time: Duration) {
        self.done.stalled += time;
    }

    /// Counts a step of so many samples that was done now.
    pub(super) fn stepped(&mut self, samples: usize, now: Instant) {
        self.done.steps += 1;
        self.done.samples += samples as u64;
        if self.marks.back().is_none_or(|(last, _)| now - *last >= MARK) {
            self.marks.push_back((now, self.done));
            while self.marks.get(1).is_some_and(|(mark, _)| now - *mark >= WINDOW) {
                self.marks.pop_front();
            }
            if let Some((start, before)) = self.marks.front().copied() {
                self.look(before, (now - start).as_secs_f64());
            }
        }
    }

    fn look(&mut self, before: Done, seconds: f64) {
        let (Work { tokens, flops, peak }, done) = (self.work, self.done);
        let share = |now: Duration, before: Duration| Some((now - before).as_secs_f64() / seconds);
        let samples = (done.samples - before.samples) as f64 / seconds;
        self.steps_per_second = (done.steps - before.steps) as f64 / seconds;
        self.latest = Throughput {
            samples_per_second: Some(samples),
            tokens_per_second: tokens.map(|tokens| samples * f64::from(tokens)),
            tflops: Some(samples * flops / 1e12),
            mfu: peak.map(|peak| samples * flops / peak),
            data_wait: share(done.waiting, before.waiting),
            checkpoint_stall: share(done.stalled, before.stalled),
        };
    }

    /// The figures now; empty before they can be told.
    pub(super) fn throughput(&self) -> Throughput {
        self.latest
    }

    /// Seconds until so many more steps are done.
    pub(super) fn eta_seconds(&self, steps: u64) -> Option<f64> {
        Some(steps as f64 / self.steps_per_second).filter(|eta| eta.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORK: Work = Work { tokens: Some(128), flops: 1e9, peak: Some(1e12) };

    #[test]
    fn figures_are_those_of_the_last_seconds() {
        let start = Instant::now();
        let mut figures = Figures::start(WORK, start);
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        figures.stepped(10, at(0.05));
        assert_eq!((figures.throughput(), figures.eta_seconds(5)), (Throughput::default(), None), "too early to tell");
        for tenth in 1..=100 {
            figures.stepped(1000, at(f64::from(tenth) / 10.0));
        }
        for tenth in 101..=200 {
            figures.waited(Duration::from_millis(20));
            figures.stalled(Duration::from_millis(1));
            figures.stepped(10, at(f64::from(tenth) / 10.0));
        }
        // A step of 10 samples each 0.1 s: what was faster is more than 5 s ago.
        let expected = Throughput {
            samples_per_second: Some(100.0),
            tokens_per_second: Some(12_800.0),
            tflops: Some(0.1),
            mfu: Some(0.1),
            data_wait: Some(0.2),
            checkpoint_stall: Some(0.01),
        };
        let numbers = |throughput: Throughput| serde_json::to_value(throughput).unwrap();
        for (name, expected) in numbers(expected).as_object().unwrap() {
            let actual = numbers(figures.throughput())[name].as_f64().unwrap();
            assert!((actual / expected.as_f64().unwrap() - 1.0).abs() < 1e-6, "{name}: {actual} is not {expected}");
        }
        assert!((figures.eta_seconds(50).unwrap() - 5.0).abs() < 1e-6);
    }

    #[test]
    fn a_device_whose_peak_is_not_known_has_no_utilization() {
        let start = Instant::now();
        let mut figures = Figures::start(Work { tokens: None, peak: None, ..WORK }, start);
        figures.stepped(10, start + Duration::from_secs(1));
        let throughput = figures.throughput();
        assert_eq!((throughput.samples_per_second, throughput.tflops), (Some(10.0), Some(0.01)));
        assert_eq!((throughput.tokens_per_second, throughput.mfu), (None, None));
    }
}
