//! Ending a training whose metric no longer gets better.

use serde::{Deserialize, Serialize};
use stoker_crds::{
    metric::{self, Metrics},
    training::optimize::EarlyStopping,
};

/// The best value so far, and how long ago it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BestSoFar {
    /// The value's bits: read back, it is the same number to the last one.
    best: Option<u64>,
    /// Optimizer steps that were done then.
    pub(super) step: u64,
    /// Evaluations since.
    waited: u32,
}

/// What the value of an evaluation means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is the best so far.
    Better,
    /// It is not, and there is patience left.
    Wait,
    /// It is not, and there is no patience left.
    Stop,
}

impl BestSoFar {
    /// Takes the value of an evaluation after so many steps.
    pub(super) fn observe(&mut self, rule: &EarlyStopping, step: u64, value: f64) -> Verdict {
        let is_better = |best: f64| {
            if higher_is_better(metric_name(rule)) {
                value > best + rule.min_delta
            } else {
                value < best - rule.min_delta
            }
        };
        if self.best.map(f64::from_bits).is_none_or(is_better) {
            *self = Self { best: Some(value.to_bits()), step, waited: 0 };
            return Verdict::Better;
        }
        self.waited += 1;
        if self.waited >= rule.patience { Verdict::Stop } else { Verdict::Wait }
    }
}

/// The name of the watched metric, without its split.
pub(super) fn metric_name(rule: &EarlyStopping) -> &str {
    rule.metric.trim_start_matches("validation/")
}

/// The value of the watched metric.
pub(super) fn watched(rule: &EarlyStopping, validation: &Metrics) -> Option<f64> {
    validation.get(metric_name(rule)).copied()
}

fn higher_is_better(name: &str) -> bool {
    [metric::ACCURACY, metric::PRECISION, metric::RECALL, metric::F1, metric::ROC_AUC, metric::R2].contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(metric: &str, min_delta: f64, values: &[f64]) -> (Vec<Verdict>, u64) {
        let rule = EarlyStopping { metric: format!("validation/{metric}"), patience: 2, min_delta, restore_best: true };
        let mut best = BestSoFar::default();
        let verdicts = (1..).zip(values).map(|(step, value)| best.observe(&rule, step, *value)).collect();
        (verdicts, best.step)
    }

    #[test]
    fn a_loss_that_no_longer_falls_ends_the_training_when_the_patience_is_over() {
        use Verdict::{Better, Stop, Wait};
        let (verdicts, best) = verdicts("loss", 0.0, &[1.0, 0.5, 0.5, 0.4, 0.6, 0.4]);
        assert_eq!(verdicts, [Better, Better, Wait, Better, Wait, Stop]);
        assert_eq!(best, 4);
    }

    #[test]
    fn an_accuracy_is_better_when_it_is_higher() {
        use Verdict::{Better, Stop, Wait};
        assert_eq!(verdicts("accuracy", 0.0, &[0.5, 0.6, 0.6, 0.1]).0, [Better, Better, Wait, Stop]);
    }

    #[test]
    fn a_gain_within_min_delta_is_none() {
        use Verdict::{Better, Stop, Wait};
        assert_eq!(verdicts("loss", 0.1, &[1.0, 0.95, 0.91]).0, [Better, Wait, Stop]);
        assert_eq!(verdicts("r2", 0.1, &[0.5, 0.55, 0.7]).0, [Better, Wait, Better]);
    }
}
