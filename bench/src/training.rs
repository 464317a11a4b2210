//! Rows per second of a small multi-layer perceptron: `examples/cells.yaml`, as a pod would run it.

use std::{ops::ControlFlow, time::Instant};

use serde::Serialize;
use stoker_crds::{
    ModelTraining, Progress, RunReport,
    metric::{R2, Split},
    progress::Stage,
};
use stoker_e2e::{Error, Result};

use crate::{
    examples,
    output::{Output, Table, count, number},
    trainer::{self, Steps, Trainer},
};

/// One run, from the raw data to the published model.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Run {
    number: u32,
    /// Rows of the training split.
    rows: u64,
    epochs: u32,
    steps: u64,
    /// Rows that the step loop went through per second, its validation and checkpoints included.
    rows_per_second: f64,
    /// From the first step to the last.
    training_seconds: f64,
    /// From the start of the process to its end.
    total_seconds: f64,
    peak_memory_mib: f64,
    /// R² on the test split: that something was learned.
    test_r2: f64,
}

/// Trains it that often, and prints the best run and the worst.
///
/// # Errors
/// If a run fails.
pub(crate) async fn run(runs: u32, output: &mut Output) -> Result<()> {
    println!("\nTraining: the 10→20→10 perceptron of examples/cells.yaml (Adam, MSE, batches of 64) on the CPU\n");
    let mut table = Table::new(["", "rows/s", "steps/s", "training s", "data to model s", "peak MiB", "test R²"]);
    let mut all = Vec::new();
    for number in 1..=runs {
        let run = train(number).await?;
        output.record("training", &run)?;
        all.push(run);
    }
    all.sort_by(|a, b| b.rows_per_second.total_cmp(&a.rows_per_second));
    if let [best, others @ ..] = all.as_slice() {
        table.row(row(&format!("best of {runs}, {} epochs of {} rows", count(best.epochs), best.rows), best));
        others.last().into_iter().for_each(|worst| table.row(row(&format!("worst of {runs}"), worst)));
    }
    print!("{table}");
    Ok(())
}

fn row(name: &str, run: &Run) -> [String; 7] {
    [
        name.to_owned(),
        number(run.rows_per_second),
        number(run.rows_per_second / run.rows as f64 * run.steps as f64 / f64::from(run.epochs)),
        number(run.training_seconds),
        number(run.total_seconds),
        number(run.peak_memory_mib),
        format!("{:.3}", run.test_r2),
    ]
}

async fn train(number: u32) -> Result<Run> {
    let folder = trainer::temporary()?;
    let mut training: ModelTraining = examples::resource("cells.yaml")?;
    examples::lay_out(&mut training.spec, folder.path())?;
    let started = Instant::now();
    let mut trainer = Trainer::start(&trainer::configuration("cells", &training.spec)?, &[])?;
    let (mut steps, mut last) = (Steps::default(), None);
    let report = trainer
        .watch(|at, progress| {
            if progress.stage == Stage::Training {
                steps.note(at, progress.step);
                last = Some(progress);
            }
            ControlFlow::Continue(())
        })
        .await?;
    let total_seconds = started.elapsed().as_secs_f64();
    match (last, report) {
        (Some(last), Some(report)) => figures(number, &steps, &last, total_seconds, &report),
        _ => Err(Error::Unexpected("the trainer ended before it was seen to train".into())),
    }
}

fn figures(number: u32, steps: &Steps, last: &Progress, total_seconds: f64, report: &RunReport) -> Result<Run> {
    let per_second = steps.per_second(0, last.total_steps)?;
    let rows_per_step = last.data.train as f64 * f64::from(last.total_epochs) / last.total_steps as f64;
    let missing = || Error::Unexpected("the run's report has no R² of the test split".into());
    Ok(Run {
        number,
        rows: last.data.train,
        epochs: last.total_epochs,
        steps: last.total_steps,
        rows_per_second: rows_per_step * per_second,
        training_seconds: last.total_steps as f64 / per_second,
        total_seconds,
        peak_memory_mib: report.peak_memory_bytes as f64 / f64::from(1 << 20),
        test_r2: *report.metrics.get(&Split::Test).and_then(|metrics| metrics.get(R2)).ok_or_else(missing)?,
    })
}
