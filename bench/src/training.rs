//! Rows per second of a small multi-layer perceptron: `examples/cells.yaml`, as a pod would run it.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use serde::Serialize;
use stoker_crds::{
    ModelTraining, Progress, RunReport, TrainConfig,
    config::RunIdentity,
    metric::{R2, Split},
    progress::{PROGRESS_PATH, Stage},
};
use stoker_e2e::{Error, Result, command};

use crate::{
    examples,
    output::{Output, Table, count, number},
    process::{Process, free_address},
};

/// How often the trainer is asked where it stands.
const POLL: Duration = Duration::from_millis(20);
/// The longest that a run may take.
const LIMIT: Duration = Duration::from_secs(600);

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

/// Trains it that often, and prints each run and the best.
///
/// # Errors
/// If a run fails.
pub(crate) async fn run(runs: u32, output: &mut Output) -> Result<()> {
    println!("\nTraining: the 10→20→10 perceptron of examples/cells.yaml (Adam, MSE, batches of 64) on the CPU\n");
    let mut table = Table::new(["", "rows/s", "steps/s", "training s", "data to model s", "peak MiB", "test R²"]);
    let mut best: Option<Run> = None;
    for number in 1..=runs {
        let run = train(number).await?;
        table.row(row(&format!("run {number}"), &run));
        output.record("training", &run)?;
        if best.as_ref().is_none_or(|best| best.rows_per_second < run.rows_per_second) {
            best = Some(run);
        }
    }
    if let Some(best) = best {
        table.row(row(&format!("best, {} epochs of {} rows", count(best.epochs), best.rows), &best));
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
    let folder = tempfile::tempdir().map_err(|source| Error::File { path: std::env::temp_dir(), source })?;
    let (config, report) = (folder.path().join("config.json"), folder.path().join("report.json"));
    write(&config, &configuration(folder.path())?)?;
    let scratch = folder.path().join("scratch");
    std::fs::create_dir(&scratch).map_err(|source| Error::File { path: scratch.clone(), source })?;

    let address = free_address()?;
    let mut trainer = Command::new(command::own_binary("stoker-trainer")?);
    trainer.arg("train").arg("--config").arg(&config).arg("--scratch").arg(&scratch);
    trainer.arg("--termination-message-path").arg(&report).arg("--listen").arg(address.to_string());
    let started = Instant::now();
    let process = Process::start(trainer, &folder.path().join("log"))?;
    let watched = watch(process, &format!("http://{address}{PROGRESS_PATH}")).await?;
    let total_seconds = started.elapsed().as_secs_f64();
    let report: RunReport = read(&report)?;
    watched.run(number, total_seconds, &report)
}

/// The configuration that the operator would write for the example, with folders in place of buckets.
fn configuration(folder: &Path) -> Result<TrainConfig> {
    let mut training: ModelTraining = examples::resource("cells.yaml")?;
    let spec = &mut training.spec;
    spec.data.source.uri = spec.data.source.uri.replace("s3://", &format!("file://{}/", examples::folder()?.display()));
    if let Some(storage) = &mut spec.storage {
        storage.uri = format!("file://{}/storage", folder.display());
        storage.secret_name = None;
    }
    let run = RunIdentity { namespace: "bench".into(), training: "cells".into(), uid: "bench".into(), number: 1 };
    TrainConfig::resolve(spec, run, None, None).map_err(|error| Error::Unexpected(error.to_string()))
}

/// What was seen of the step loop: its first and last moment that the trainer told of.
struct Watched {
    first: (Instant, Progress),
    last: (Instant, Progress),
}

impl Watched {
    fn run(&self, number: u32, total_seconds: f64, report: &RunReport) -> Result<Run> {
        let ((began, first), (ended, last)) = (&self.first, &self.last);
        let seconds = (*ended - *began).as_secs_f64();
        let share = (last.step - first.step) as f64 / last.total_steps as f64;
        if share < 0.5 {
            return Err(Error::Unexpected(format!("only {:.0} % of the step loop was seen", share * 100.0)));
        }
        let rows = last.data.train;
        let missing = || Error::Unexpected("the run's report has no R² of the test split".into());
        Ok(Run {
            number,
            rows,
            epochs: last.total_epochs,
            steps: last.total_steps,
            rows_per_second: rows as f64 * f64::from(last.total_epochs) * share / seconds,
            training_seconds: seconds / share,
            total_seconds,
            peak_memory_mib: report.peak_memory_bytes as f64 / f64::from(1 << 20),
            test_r2: *report.metrics.get(&Split::Test).and_then(|metrics| metrics.get(R2)).ok_or_else(missing)?,
        })
    }
}

/// Asks the trainer where it stands until it ends.
async fn watch(mut process: Process, url: &str) -> Result<Watched> {
    let http = reqwest::Client::new();
    let deadline = Instant::now() + LIMIT;
    let (mut first, mut last) = (None, None);
    let status = loop {
        if let Some(status) = process.ended()? {
            break status;
        }
        // Before it listens, and once it has ended, there is no answer.
        if let Ok(answer) = http.get(url).send().await
            && let Ok(progress) = answer.json::<Progress>().await
            && progress.stage == Stage::Training
            && progress.step > 0
        {
            let seen = (Instant::now(), progress);
            first.get_or_insert_with(|| seen.clone());
            last = Some(seen);
        }
        if Instant::now() > deadline {
            return Err(process.failure(&format!("it did not end within {} s", LIMIT.as_secs())));
        }
        tokio::time::sleep(POLL).await;
    };
    match (status.success(), first.zip(last)) {
        (true, Some((first, last))) => Ok(Watched { first, last }),
        (true, None) => Err(process.failure("it ended before it was seen to train")),
        (false, _) => Err(process.failure(&status.to_string())),
    }
}

fn write(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_vec(value).map_err(|error| Error::Unexpected(error.to_string()))?;
    std::fs::write(path, text).map_err(|source| Error::File { path: path.to_owned(), source })
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
    serde_json::from_slice(&text).map_err(|error| Error::Unexpected(format!("{}: {error}", path.display())))
}
