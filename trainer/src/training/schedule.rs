//! The learning rate of each step, as a pure function.

use std::f64::consts::PI;

use stoker_crds::training::optimize::{
    Constant, Cosine, DecayShape, Exponential, Linear, Schedule, StepDecay, WarmupStableDecay,
};

/// Which part of a run's steps `wsd` decays in, if it is not said: the tenth that Hu et al. (2024) found to be enough.
const DEFAULT_DECAY: u64 = 10;

/// The learning rate of a step, counted from 0, of a run of `total` steps.
///
/// As PyTorch's `StepLR`, `ExponentialLR` and `CosineAnnealingLR`, stepped once per optimizer step. In the k-th of n
/// warm-up steps, counted from 1, it is k/n of `base`. What falls to a minimum would reach it in the step after the last.
pub fn learning_rate(schedule: &Schedule, base: f64, step: u64, total: u64) -> f64 {
    match *schedule {
        Schedule::Constant(Constant { warmup_steps }) => base * warm_up(step, warmup_steps),
        Schedule::Step(StepDecay { every, factor }) => base * factor.powf((step / every) as f64),
        Schedule::Exponential(Exponential { factor }) => base * factor.powf(step as f64),
        Schedule::Cosine(Cosine { warmup_steps, .. })
        | Schedule::Linear(Linear { warmup_steps, .. })
        | Schedule::Wsd(WarmupStableDecay { warmup_steps, .. })
            if step < warmup_steps =>
        {
            base * warm_up(step, warmup_steps)
        }
        Schedule::Cosine(Cosine { warmup_steps, minimum }) => {
            minimum + (base - minimum) * (1.0 + (PI * done(step, warmup_steps, total)).cos()) / 2.0
        }
        Schedule::Linear(Linear { warmup_steps, minimum }) => {
            minimum + (base - minimum) * (1.0 - done(step, warmup_steps, total))
        }
        Schedule::Wsd(WarmupStableDecay { warmup_steps, decay_steps, decay, minimum }) => {
            let decay_steps = decay_steps.unwrap_or(total.div_ceil(DEFAULT_DECAY));
            let done = done(step, total.saturating_sub(decay_steps).max(warmup_steps), total);
            let left = match decay {
                DecayShape::Linear => 1.0 - done,
                DecayShape::OneMinusSqrt => 1.0 - done.sqrt(),
            };
            minimum + (base - minimum) * left
        }
    }
}

/// The share of the steps from `start` to `total` that are done; 0 before it.
fn done(step: u64, start: u64, total: u64) -> f64 {
    let length = total.saturating_sub(start).max(1);
    (step.saturating_sub(start) as f64 / length as f64).min(1.0)
}

/// The share of the learning rate during warm-up.
fn warm_up(step: u64, steps: u64) -> f64 {
    if step < steps { (step + 1) as f64 / steps as f64 } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(schedule: &Schedule, steps: impl IntoIterator<Item = u64>, total: u64) -> Vec<f64> {
        steps.into_iter().map(|step| learning_rate(schedule, 0.1, step, total)).collect()
    }

    /// Formulas of the same numbers in another order differ by rounding alone.
    fn assert_close(actual: &[f64], expected: &[f64]) {
        assert_eq!(actual.len(), expected.len());
        for (actual, expected) in actual.iter().zip(expected) {
            assert!((actual - expected).abs() < 1e-15, "{actual} is not {expected}");
        }
    }

    #[test]
    fn constant_grows_to_its_value_and_stays() {
        let schedule = Schedule::Constant(Constant { warmup_steps: 4 });
        assert_close(&rates(&schedule, 0..6, 6), &[0.025, 0.05, 0.075, 0.1, 0.1, 0.1]);
        assert_close(&rates(&Schedule::default(), [0, 9], 10), &[0.1, 0.1]);
    }

    #[test]
    fn step_is_multiplied_every_so_many_steps() {
        let schedule = Schedule::Step(StepDecay { every: 3, factor: 0.5 });
        assert_close(&rates(&schedule, [0, 2, 3, 5, 6], 7), &[0.1, 0.1, 0.05, 0.05, 0.025]);
    }

    #[test]
    fn exponential_is_multiplied_at_every_step() {
        let schedule = Schedule::Exponential(Exponential { factor: 0.9 });
        assert_close(&rates(&schedule, 0..3, 3), &[0.1, 0.09, 0.081]);
    }

    /// torch.optim.lr_scheduler.CosineAnnealingLR(lr=0.1, T_max=4, eta_min=0.02): 0.1, 0.0883, 0.06, 0.0317, 0.02.
    #[test]
    fn cosine_falls_from_the_end_of_the_warm_up_to_its_minimum() {
        let schedule = Schedule::Cosine(Cosine { warmup_steps: 2, minimum: 0.02 });
        let quarter = 0.04 * std::f64::consts::FRAC_1_SQRT_2;
        let expected = [0.05, 0.1, 0.1, 0.06 + quarter, 0.06, 0.06 - quarter, 0.02, 0.02];
        assert_close(&rates(&schedule, [0, 1, 2, 3, 4, 5, 6, 100], 6), &expected);
    }

    /// As `get_linear_schedule_with_warmup` of Hugging Face's transformers, whose minimum is 0.
    #[test]
    fn linear_falls_along_a_line_from_the_end_of_the_warm_up_to_its_minimum() {
        let schedule = Schedule::Linear(Linear { warmup_steps: 2, minimum: 0.02 });
        let expected = [0.05, 0.1, 0.1, 0.08, 0.06, 0.04, 0.02, 0.02];
        assert_close(&rates(&schedule, [0, 1, 2, 3, 4, 5, 6, 100], 6), &expected);
    }

    #[test]
    fn wsd_stays_until_the_last_steps_and_falls_there() {
        let wsd = |decay| WarmupStableDecay { warmup_steps: 2, decay_steps: Some(4), decay, minimum: 0.02 };
        let (before, steps) = ([0.05, 0.1, 0.1, 0.1, 0.1], [0, 1, 2, 5, 6, 7, 8, 9, 10, 100]);
        let falling = [0.08, 0.06, 0.04, 0.02, 0.02];
        assert_close(&rates(&Schedule::Wsd(wsd(DecayShape::Linear)), steps, 10), &[before, falling].concat());
        let root = |share: f64| 0.02 + 0.08 * (1.0 - share.sqrt());
        let falling = [root(0.25), root(0.5), root(0.75), 0.02, 0.02];
        assert_close(&rates(&Schedule::Wsd(wsd(DecayShape::OneMinusSqrt)), steps, 10), &[before, falling].concat());
    }

    #[test]
    fn wsd_falls_over_a_tenth_of_the_run_by_default_and_never_in_its_warm_up() {
        let schedule = Schedule::Wsd(WarmupStableDecay::default());
        assert_close(&rates(&schedule, [0, 89, 90, 95, 100], 100), &[0.1, 0.1, 0.1, 0.05, 0.0]);
        let long = WarmupStableDecay { warmup_steps: 4, decay_steps: Some(10), ..WarmupStableDecay::default() };
        assert_close(&rates(&Schedule::Wsd(long), 0..6, 6), &[0.025, 0.05, 0.075, 0.1, 0.1, 0.05]);
    }

    #[test]
    fn a_warm_up_longer_than_the_run_is_cut_off() {
        let schedule = Schedule::Cosine(Cosine { warmup_steps: 10, minimum: 0.0 });
        assert_close(&rates(&schedule, [0, 4], 5), &[0.01, 0.05]);
    }
}
