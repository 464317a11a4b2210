//! Mean squared and absolute errors and R².

use stoker_crds::metric::{self, Metrics};

use super::Evaluation;

/// The metrics of a regression: `[rows, targets]` predictions and truths, row-major, in the targets' own units.
pub fn regression(predictions: &[f32], truth: &[f32], targets: usize) -> Evaluation {
    let mut rows = Regression::new(targets);
    rows.add(predictions, truth);
    rows.finish()
}

/// Adds up the errors of a regression, chunk by chunk.
#[derive(Clone, Debug)]
pub struct Regression {
    targets: Vec<Target>,
}

/// One target's sums. The spread of its truths is kept as Welford's, which does not cancel for a large mean.
#[derive(Clone, Copy, Debug, Default)]
struct Target {
    rows: f64,
    squared: f64,
    absolute: f64,
    mean: f64,
    spread: f64,
}

impl Regression {
    /// No rows yet.
    pub fn new(targets: usize) -> Self {
        Self { targets: vec![Target::default(); targets] }
    }

    /// Adds rows: `[rows, targets]` predictions and truths, row-major, in the targets' own units.
    pub fn add(&mut self, predictions: &[f32], truth: &[f32]) {
        let width = self.targets.len();
        for (predictions, truth) in predictions.chunks_exact(width).zip(truth.chunks_exact(width)) {
            for (target, (prediction, truth)) in self.targets.iter_mut().zip(predictions.iter().zip(truth)) {
                target.add(f64::from(*prediction), f64::from(*truth));
            }
        }
    }

    /// The metrics of all rows, averaged uniformly over the targets; none if there is no row.
    pub fn finish(self) -> Evaluation {
        let count = self.targets.len() as f64;
        let average = |value: &dyn Fn(&Target) -> f64| self.targets.iter().map(value).sum::<f64>() / count;
        let Some(first) = self.targets.first().filter(|target| target.rows > 0.0) else { return Evaluation::default() };
        let mse = average(&|target| target.squared / target.rows);
        let mut metrics = Metrics::from([
            (metric::MSE.to_owned(), mse),
            (metric::RMSE.to_owned(), mse.sqrt()),
            (metric::MAE.to_owned(), average(&|target| target.absolute / target.rows)),
        ]);
        if first.rows > 1.0 {
            metrics.insert(metric::R2.into(), average(&Target::r2));
        }
        Evaluation { metrics, confusion: None }
    }
}

impl Target {
    fn add(&mut self, prediction: f64, truth: f64) {
        let error = prediction - truth;
        self.rows += 1.0;
        self.squared += error * error;
        self.absolute += error.abs();
        let delta = truth - self.mean;
        self.mean += delta / self.rows;
        self.spread += delta * (truth - self.mean);
    }

    /// 1 minus the squared error over the truths' squared deviations from their mean. Where all truths are equal, as
    /// scikit-learn: 1 for predictions without error, else 0.
    fn r2(&self) -> f64 {
        match (self.spread > 0.0, self.squared > 0.0) {
            (true, _) => 1.0 - self.squared / self.spread,
            (false, false) => 1.0,
            (false, true) => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sums of a few numbers that are exact in f32, in f64.
    #[track_caller]
    fn assert_metric(evaluation: &Evaluation, name: &str, expected: f64) {
        let actual = evaluation.metrics[name];
        assert!((actual - expected).abs() < 1e-12, "{name} is {actual}, not {expected}");
    }

    /// scikit-learn's example: y_true = [3, -0.5, 2, 7], y_pred = [2.5, 0.0, 2, 8]: MSE 0.375, MAE 0.5, R² 0.9486….
    #[test]
    fn one_target_is_scikit_learns() {
        let evaluation = regression(&[2.5, 0.0, 2.0, 8.0], &[3.0, -0.5, 2.0, 7.0], 1);
        assert_metric(&evaluation, "mse", 0.375);
        assert_metric(&evaluation, "rmse", 0.375f64.sqrt());
        assert_metric(&evaluation, "mae", 0.5);
        assert_metric(&evaluation, "r2", 1.0 - 1.5 / 29.1875);
        assert_eq!(evaluation.confusion, None);
    }

    /// scikit-learn's example: y_true = [[0.5, 1], [-1, 1], [7, -6]], y_pred = [[0, 2], [-1, 2], [8, -5]]: MSE 0.708…,
    /// MAE 0.75, R² (uniform average) 0.9368….
    #[test]
    fn several_targets_are_averaged_uniformly() {
        let evaluation = regression(&[0.0, 2.0, -1.0, 2.0, 8.0, -5.0], &[0.5, 1.0, -1.0, 1.0, 7.0, -6.0], 2);
        assert_metric(&evaluation, "mse", (1.25 / 3.0 + 1.0) / 2.0);
        assert_metric(&evaluation, "mae", 0.75);
        let spread = [0.25 + 1.0 + 49.0 - 6.5 * 6.5 / 3.0, 1.0 + 1.0 + 36.0 - 16.0 / 3.0];
        assert_metric(&evaluation, "r2", 1.0 - (1.25 / spread[0] + 3.0 / spread[1]) / 2.0);
        assert!((evaluation.metrics["r2"] - 0.936_800_526_7).abs() < 1e-10);
    }

    #[test]
    #[expect(clippy::excessive_precision, reason = "each of these numbers is exact in f32, if not its shortest name")]
    fn a_large_mean_does_not_drown_the_spread() {
        // Exact in f32: multiples of 2^-3 up to 2^20. The mean square alone would lose the spread in f64's last digits.
        let truth = [1_048_575.0, 1_048_575.125, 1_048_575.25];
        let evaluation = regression(&[1_048_575.125; 3], &truth, 1);
        assert_metric(&evaluation, "r2", 0.0);
        assert_metric(&evaluation, "mse", 0.03125 / 3.0);
    }

    #[test]
    fn r2_of_equal_truths_is_one_or_zero_and_of_one_row_absent() {
        assert_metric(&regression(&[2.0, 2.0], &[2.0, 2.0], 1), "r2", 1.0);
        assert_metric(&regression(&[2.0, 3.0], &[2.0, 2.0], 1), "r2", 0.0);
        assert!(!regression(&[2.0], &[2.0], 1).metrics.contains_key("r2"));
    }

    #[test]
    fn no_rows_have_no_metrics() {
        assert_eq!(regression(&[], &[], 1), Evaluation::default());
    }
}
