//! The whole way from files to rows, on small files.

mod cleaning;
mod fitting;
mod reading;
mod refusals;
mod splitting;

use std::fs;

use datafusion::arrow::{compute::concat_batches, record_batch::RecordBatch};
use serde_json::{Value, json};
use stoker_crds::training::{Data, Task, data::Format};
use tempfile::TempDir;

use super::{
    DataError, Prepared, Rows, Scratch,
    pipeline::{Pipeline, Splits},
    session::Limits,
};
use crate::storage::Access;

/// A bucket `b` in a folder.
pub(crate) struct Bucket(TempDir);

impl Bucket {
    pub(crate) fn new(files: &[(&str, &str)]) -> Self {
        let bucket = Self(tempfile::tempdir().unwrap());
        for (name, content) in files {
            bucket.write(name, content.as_bytes());
        }
        bucket
    }

    pub(crate) fn write(&self, name: &str, content: &[u8]) {
        let path = self.0.path().join("b").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(crate) fn access(&self) -> Access {
        Access::local(self.0.path())
    }

    pub(crate) fn scratch(&self) -> Scratch {
        Scratch::unlimited(self.0.path().join("scratch"))
    }

    async fn split(&self, data: &Data<Format>, task: Task) -> Result<Splits, DataError> {
        Pipeline::new(data, task, &self.access(), &self.scratch(), LIMITS).split().await
    }

    async fn prepare(&self, data: &Data<Format>, task: Task) -> Result<Prepared, DataError> {
        self.prepare_within(data, task, LIMITS).await
    }

    async fn prepare_within(&self, data: &Data<Format>, task: Task, limits: Limits) -> Result<Prepared, DataError> {
        let (access, scratch) = (self.access(), self.scratch());
        let pipeline = Pipeline::new(data, task, &access, &scratch, limits);
        pipeline.convert(pipeline.split().await?).await
    }

    async fn refusal(&self, data: &Data<Format>, task: Task) -> DataError {
        self.prepare(data, task).await.expect_err("must be refused")
    }
}

pub(crate) const LIMITS: Limits = Limits { partitions: 2, memory: 256 << 20, rows_in_memory: 1 << 20 };

/// A configuration with target `y`: all rows train, and what `change` says besides.
fn data(uri: &str, change: Value) -> Data<Format> {
    let mut data = json!({
        "source": {"uri": uri},
        "format": Format::of_uri(uri).unwrap_or(Format::Csv),
        "target": ["y"],
        "split": {"train": 1.0, "validation": 0.0, "test": 0.0},
    });
    let (Value::Object(all), Value::Object(change)) = (&mut data, change) else { panic!("objects") };
    all.extend(change);
    serde_json::from_value(data).unwrap()
}

/// All rows: features and targets of each.
fn all(rows: &Rows) -> Vec<(Vec<f32>, Vec<f32>)> {
    (0..rows.len() as u32)
        .map(|row| {
            let (mut features, mut targets) = (Vec::new(), Vec::new());
            rows.gather(&[row], &mut features, &mut targets).unwrap();
            (features, targets)
        })
        .collect()
}

/// The same, sorted.
fn sorted(rows: &Rows) -> Vec<(Vec<f32>, Vec<f32>)> {
    let mut rows = all(rows);
    rows.sort_by(|a, b| a.partial_cmp(b).unwrap());
    rows
}

fn dropped(prepared: &Prepared) -> Vec<(&str, u64)> {
    prepared.stats.rows_dropped.iter().map(|(rule, rows)| (rule.as_str(), *rows)).collect()
}

fn raw(split: &super::staging::Staged) -> RecordBatch {
    let batches = split.read().unwrap().collect::<Result<Vec<_>, _>>().unwrap();
    concat_batches(&split.schema, &batches).unwrap()
}

/// `x,y` lines with `rows` different rows.
fn lines(rows: usize) -> String {
    let rows = (0..rows).map(|row| format!("{row},{}\n", row % 7));
    std::iter::once("x,y\n".to_owned()).chain(rows).collect()
}
