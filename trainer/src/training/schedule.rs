//! The learning rate of each step, as a pure function.

use std::f64::consts::PI;

use stoker_crds::training::optimize::{Constant, Cosine, Exponential, Schedule, StepDecay};

/// The learning rate of a step, counted from 0, of a run of `total` steps.
///
/// As PyTorch's `StepLR`, `ExponentialLR` and `CosineAnnealingLR`, stepped once per optimizer step. In the k-th of n
/// warm-up steps, counted from 1, it is k/n of `base`.
pub fn learning_rate(schedule: &Schedule, base: f64, step: u64, total: u64) -> f64 {
    match *schedule {
        Schedule::Constant(Constant { warmup_steps }) => base * warm_up(step, warmup_steps),
        Schedule::Step(StepDecay { every, factor }) => base * factor.powf((step / every) as f64),
        Schedule::Exponential(Exponential { factor }) => base * factor.powf(step as f64),
        Schedule::Cosine(Cosine { warmup_steps, .. }) if step < warmup_steps => base * warm_up(step, warmup_steps),
        Schedule::Cosine(Cosine { warmup_steps, minimum }) => {
            let length = total.saturating_sub(warmup_steps).max(1);
            let done = (step - warmup_steps) as f64 / length as f64;
            minimum + (base - minimum) * (1.0 + (PI * done.min(1.0)).cos()) / 2.0
        }
    }
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

    #[test]
    fn a_warm_up_longer_than_the_run_is_cut_off() {
        let schedule = Schedule::Cosine(Cosine { warmup_steps: 10, minimum: 0.0 });
        assert_close(&rates(&schedule, [0, 4], 5), &[0.01, 0.05]);
    }
}
