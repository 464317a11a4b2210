//! Rows per second from a CSV to numbers, beside Polars and pandas; and the memory that it takes while the file grows.

use std::{fs, ops::ControlFlow, path::Path, time::Instant};

use serde::{Deserialize, Serialize};
use serde_json::json;
use stoker_crds::{ModelTrainingSpec, progress::Stage};
use stoker_e2e::{Error, Result};

use super::{
    Options, csv,
    figures::Speed,
    peer::{self, Peer},
};
use crate::{
    output::{Output, Table, number},
    trainer::{self, Trainer},
};

/// The file that all prepare, and the one that only Stoker does, in bytes.
const SIZES: [u64; 2] = [1_000_000_000, 4_000_000_000];
/// The memory that the run is given.
const MEMORY: &str = "1Gi";
/// The memory that it may take, in MiB: 1 GB.
const MOST_MEMORY: f64 = 1e9 / (1 << 20) as f64;

/// One preparation.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Prepared {
    seconds: f64,
    /// Of all splits.
    rows: u64,
    peak_mib: f64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Figures {
    by: &'static str,
    bytes: u64,
    rows_read: u64,
    rows_kept: u64,
    rows_per_second: Speed,
    peak_mib: f64,
}

impl Figures {
    fn new(by: &'static str, bytes: u64, rows_read: u64, all: &[Prepared]) -> Result<Self> {
        let rows_per_second = Speed::of(all.iter().map(|one| rows_read as f64 / one.seconds).collect())?;
        let peak_mib = all.iter().map(|one| one.peak_mib).fold(0.0, f64::max);
        let rows_kept = all.first().map_or(0, |one| one.rows);
        Ok(Self { by, bytes, rows_read, rows_kept, rows_per_second, peak_mib })
    }

    fn row(&self, goal: String) -> [String; 6] {
        let Self { by, bytes, rows_read, rows_kept, rows_per_second, peak_mib } = self;
        [
            format!("{by}, {} GB", bytes / 1_000_000_000),
            rows_per_second.show(),
            number(*rows_read as f64),
            number(*rows_kept as f64),
            number(*peak_mib),
            goal,
        ]
    }
}

/// Prepares a file of 1 GB by all, and one of 4 GB by Stoker alone, and prints the table.
///
/// # Errors
/// If one fails, or they do not keep the same rows.
pub(crate) async fn run(options: &Options, output: &mut Output) -> Result<()> {
    let mut table = Table::new(["", "rows/s", "rows read", "rows kept", "peak MiB", "to reach"]);
    let [small, large] = SIZES;
    let (peer, path) = (Peer::start(options, output).await?, csv::file(&options.cache, small)?);
    let (mut stoker, mut polars, mut pandas, mut rows_read) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for number in 1..=options.repetitions {
        eprintln!("1 GB of rows: repetition {number} of {} …", options.repetitions);
        let (prepared, read) = by_stoker(&path).await?;
        stoker.push(prepared);
        rows_read = read;
        polars.push(by_peer(&peer, "polars", &path).await?);
        if number == 1 {
            pandas.push(by_peer(&peer, "pandas", &path).await?);
        }
    }
    let all = [("Stoker", &stoker), ("Polars", &polars), ("pandas", &pandas)];
    let [stoker, polars, pandas] = all.map(|(by, runs)| Figures::new(by, small, rows_read, runs));
    let (stoker, polars, pandas) = (stoker?, polars?, pandas?);
    eprintln!("4 GB of rows …");
    let (prepared, read) = by_stoker(&csv::file(&options.cache, large)?).await?;
    let grown = Figures::new("Stoker", large, read, &[prepared])?;

    let ratio = |peer: &Figures| stoker.rows_per_second.median / peer.rows_per_second.median;
    let beside = format!("{:.2} × Polars, {:.2} × pandas", ratio(&polars), ratio(&pandas));
    let verdict = if grown.peak_mib < MOST_MEMORY { "reached" } else { "missed" };
    for (figures, goal) in [
        (&stoker, beside),
        (&polars, String::new()),
        (&pandas, String::new()),
        (&grown, format!("< {MOST_MEMORY:.0} MiB: {verdict}")),
    ] {
        output.record("preparation", figures)?;
        table.row(figures.row(goal));
    }
    println!("\n{}", table.markdown());
    let kept = [&stoker, &polars, &pandas].map(|figures| figures.rows_kept);
    match kept.iter().all(|rows| *rows == stoker.rows_kept) {
        true => Ok(()),
        false => Err(Error::Unexpected(format!("Stoker, Polars and pandas keep different rows: {kept:?}"))),
    }
}

async fn by_peer(peer: &Peer, library: &str, path: &Path) -> Result<Prepared> {
    warm(path)?;
    let mut python = peer.program("prepare.py");
    python.arg(library).arg(path);
    peer::answer(python).await
}

/// From the start of the process to its first step, and how many rows it has read.
async fn by_stoker(path: &Path) -> Result<(Prepared, u64)> {
    warm(path)?;
    let spec = json!({
        "task": "Regression",
        "data": csv::data(path),
        "model": {"mlp": {"hidden": [8]}},
        "train": {"epochs": 1, "batchSize": 1024},
        "storage": {"uri": "file:///unset"},
        "resources": {"memory": MEMORY, "scratch": "100Gi"},
    });
    let spec: ModelTrainingSpec =
        serde_json::from_value(spec).map_err(|error| Error::Unexpected(format!("the benchmark's spec: {error}")))?;
    let folder = trainer::temporary()?;
    let mut config = trainer::configuration("rows", &spec)?;
    config.storage.uri = format!("file://{}", folder.path().display());
    let started = Instant::now();
    let mut prepared = None;
    Trainer::start(&config, &[])?
        .watch(|at, progress| {
            if progress.stage == Stage::Preparing {
                return ControlFlow::Continue(());
            }
            let data = progress.data;
            let peak_mib = progress.peak_memory_bytes as f64 / f64::from(1 << 20);
            let rows = data.train + data.validation + data.test;
            prepared = Some((Prepared { seconds: (at - started).as_secs_f64(), rows, peak_mib }, data.rows_read));
            ControlFlow::Break(())
        })
        .await?;
    prepared.ok_or_else(|| Error::Unexpected("the trainer was not seen after its preparation".into()))
}

/// Reads a file, so that all find it in the system's cache.
fn warm(path: &Path) -> Result<()> {
    let copied = fs::File::open(path).and_then(|mut file| std::io::copy(&mut file, &mut std::io::sink()));
    copied.map(drop).map_err(|source| Error::File { path: path.to_owned(), source })
}
