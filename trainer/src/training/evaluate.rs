//! The metrics of a model on a split.

use stoker_crds::{metric::LOSS, training::Task};

use super::{
    Dataset, TrainError,
    dataset::Batch,
    loss::mean_loss,
    metrics::{Classification, Evaluation, Regression},
};
use crate::{
    data::{Preprocessor, Rows},
    model::{Predictor, read},
};

/// Rows that are computed at a time.
const CHUNK_ROWS: usize = 4096;
/// Features that are computed at a time, if rows are wide.
const CHUNK_FEATURES: usize = 4 << 20;

/// The metrics of a model on all rows of a split; none if it has no rows.
///
/// The loss is the mean over the rows of what was trained on; the other metrics of a regression are in the targets' own
/// units.
///
/// # Errors
/// If rows cannot be read, the device fails, or a metric is not finite.
pub fn evaluate(predictor: &Predictor, rows: &Rows, preprocessor: &Preprocessor) -> Result<Evaluation, TrainError> {
    evaluate_rows(predictor, rows, &|targets| preprocessor.restore_targets(targets))
}

/// [`evaluate`] of any rows; `restore` brings targets back to their own units.
pub(super) fn evaluate_rows(
    predictor: &Predictor,
    rows: &dyn Dataset,
    restore: &dyn Fn(&mut [f32]),
) -> Result<Evaluation, TrainError> {
    let architecture = predictor.architecture();
    let mut counts = Counts::new(architecture.task, architecture.prediction_width());
    let mut loss = 0.0;
    let total = u32::try_from(rows.len()).map_err(|_| TrainError::too_many_rows(rows.len()))?;
    let chunk = CHUNK_ROWS.min(CHUNK_FEATURES / architecture.input_width.max(1)).max(1);
    for start in (0..total).step_by(chunk) {
        let indices: Vec<u32> = (start..total.min(start.saturating_add(chunk as u32))).collect();
        let batch = Batch::gather(rows, &indices)?;
        let truth = batch.targets.clone();
        let (features, targets) = batch.into_tensors(predictor.device());
        let outputs = predictor.model().forward(features);
        let mean = read(mean_loss(architecture.loss, outputs.clone(), targets))?;
        loss += mean.iter().map(|mean| f64::from(*mean)).sum::<f64>() * indices.len() as f64;
        counts.add(read(predictor.predictions(outputs))?, truth, restore);
    }
    let mut evaluation = counts.finish();
    if total > 0 {
        evaluation.metrics.insert(LOSS.into(), loss / f64::from(total));
    }
    match evaluation.metrics.iter().find(|(_, value)| !value.is_finite()) {
        Some((name, _)) => Err(TrainError::NotFinite(name.clone())),
        None => Ok(evaluation),
    }
}

enum Counts {
    Classification(Classification),
    Regression(Regression),
}

impl Counts {
    fn new(task: Task, width: usize) -> Self {
        match task {
            Task::Classification => Self::Classification(Classification::new(width)),
            Task::Regression => Self::Regression(Regression::new(width)),
        }
    }

    fn add(&mut self, mut predictions: Vec<f32>, mut truth: Vec<f32>, restore: &dyn Fn(&mut [f32])) {
        match self {
            Self::Classification(counts) => {
                counts.add(&predictions, &truth.iter().map(|class| *class as u32).collect::<Vec<_>>());
            }
            Self::Regression(counts) => {
                restore(&mut predictions);
                restore(&mut truth);
                counts.add(&predictions, &truth);
            }
        }
    }

    fn finish(self) -> Evaluation {
        match self {
            Self::Classification(counts) => counts.finish(),
            Self::Regression(counts) => counts.finish(),
        }
    }
}
