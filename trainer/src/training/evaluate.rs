//! The metrics of a model on a split.

use stoker_crds::{
    metric::{LOSS, PERPLEXITY},
    training::Task,
};

use super::{
    Dataset, TrainError,
    dataset::Batch,
    loss::{batch_loss, mean_loss},
    metrics::{Classification, Evaluation, Regression},
};
use crate::model::{Architecture, ModelError, Predictor, RowModel, read};

/// Tokens that are computed at a time.
const CHUNK_TOKENS: usize = 4096;
/// Rows that are computed at a time.
const CHUNK_ROWS: usize = 4096;
/// Features that are computed at a time, if rows are wide.
const CHUNK_FEATURES: usize = 4 << 20;

/// The metrics of a model on all samples of a split; none if it has none.
///
/// The loss is the mean over the samples of what was trained on; the other metrics of a regression are in the targets' own
/// units, to which `restore` brings them back.
///
/// # Errors
/// If samples cannot be read, the device fails, or a metric is not finite.
pub fn evaluate(
    predictor: &Predictor,
    samples: &dyn Dataset,
    restore: &dyn Fn(&mut [f32]),
) -> Result<Evaluation, TrainError> {
    evaluate_while(predictor, samples, restore, &|| true).map(Option::unwrap_or_default)
}

/// [`evaluate`], for as long as `goes_on` says so: `None` if it says otherwise before all samples are seen.
///
/// # Errors
/// As [`evaluate`].
pub(super) fn evaluate_while(
    predictor: &Predictor,
    samples: &dyn Dataset,
    restore: &dyn Fn(&mut [f32]),
    goes_on: &dyn Fn() -> bool,
) -> Result<Option<Evaluation>, TrainError> {
    let evaluation = match predictor.architecture() {
        Architecture::Rows(architecture) => evaluate_rows(predictor, architecture, samples, restore, goes_on)?,
        Architecture::Language(architecture) => {
            evaluate_tokens(predictor, architecture.transformer().context as usize, samples, goes_on)?
        }
    };
    match evaluation.iter().flat_map(|evaluation| &evaluation.metrics).find(|(_, value)| !value.is_finite()) {
        Some((name, _)) => Err(TrainError::NotFinite(name.clone())),
        None => Ok(evaluation),
    }
}

fn evaluate_rows(
    predictor: &Predictor,
    architecture: &RowModel,
    rows: &dyn Dataset,
    restore: &dyn Fn(&mut [f32]),
    goes_on: &dyn Fn() -> bool,
) -> Result<Option<Evaluation>, TrainError> {
    let model = predictor.to_evaluate();
    let mut counts = Counts::new(architecture.task, architecture.prediction_width());
    let mut loss = RunningMean::default();
    let chunk = CHUNK_ROWS.min(CHUNK_FEATURES / architecture.input_width.max(1)).max(1);
    for indices in chunks(rows, chunk)? {
        if !goes_on() {
            return Ok(None);
        }
        let Batch::Rows(batch) = rows.batch(&indices)? else { return Err(ModelError::ReadsRows.into()) };
        let truth = batch.targets.clone();
        let (features, targets) = batch.into_tensors(predictor.device());
        let outputs = model.mlp()?.forward(features);
        loss.add(&read(mean_loss(architecture.loss, outputs.clone(), targets))?, indices.len());
        counts.add(read(architecture.predictions(outputs))?, truth, restore);
    }
    let mut evaluation = counts.finish();
    evaluation.metrics.extend(loss.mean().map(|loss| (LOSS.into(), loss)));
    Ok(Some(evaluation))
}

/// The loss is the mean over all tokens that are to be predicted, and the perplexity e to the power of it.
fn evaluate_tokens(
    predictor: &Predictor,
    context: usize,
    sequences: &dyn Dataset,
    goes_on: &dyn Fn() -> bool,
) -> Result<Option<Evaluation>, TrainError> {
    let (model, architecture, device) = (predictor.to_evaluate(), predictor.architecture(), predictor.device());
    let mut loss = RunningMean::default();
    for indices in chunks(sequences, (CHUNK_TOKENS / context.max(1)).max(1))? {
        if !goes_on() {
            return Ok(None);
        }
        let batch = sequences.batch(&indices)?;
        let counted = batch.counted();
        loss.add(&read(batch_loss(&model, architecture, batch, device)?)?, counted);
    }
    let metrics = loss.mean().into_iter().flat_map(|loss| [(LOSS.into(), loss), (PERPLEXITY.into(), loss.exp())]);
    Ok(Some(Evaluation { metrics: metrics.collect(), confusion: None }))
}

/// The indices of all samples, so many at a time.
fn chunks(samples: &dyn Dataset, size: usize) -> Result<impl Iterator<Item = Vec<u32>> + use<>, TrainError> {
    let total = u32::try_from(samples.len()).map_err(|_| TrainError::too_many_rows(samples.len()))?;
    let starts = (0..total).step_by(size);
    Ok(starts.map(move |start| (start..total.min(start.saturating_add(size as u32))).collect()))
}

#[derive(Default)]
struct RunningMean {
    sum: f64,
    count: usize,
}

impl RunningMean {
    /// Adds a mean, `[1]`, of so many.
    fn add(&mut self, mean: &[f32], count: usize) {
        self.sum += mean.iter().map(|mean| f64::from(*mean)).sum::<f64>() * count as f64;
        self.count += count;
    }

    /// The mean of all; `None` of none.
    fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

enum Counts {
    Classification(Classification),
    Regression(Regression),
}

impl Counts {
    fn new(task: Task, width: usize) -> Self {
        match task {
            Task::Classification | Task::LanguageModeling => Self::Classification(Classification::new(width)),
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
