//! From raw files to rows of numbers.
//!
//! The steps, each a module: [`source`] lists the files, [`discover`] finds their columns, [`columns`] resolves what the
//! configuration asks of them; [`read`] reads them as one table, [`clean`] applies the [`rules`] and orders the rows,
//! [`split`] and [`classes`] divide them; [`fit`] fits the [`Preprocessor`] on the training split, which then converts
//! all three. The rows are ordered by a hash of their content, so that files' names and order and the number of threads
//! change nothing.

mod classes;
pub(crate) mod clean;
pub(crate) mod columns;
pub(crate) mod convert;
pub(crate) mod discover;
mod encoding;
mod error;
mod fit;
mod glob;
mod memory;
pub(crate) mod partition;
pub(crate) mod pipeline;
mod preprocessor;
pub(crate) mod read;
mod rows;
pub(crate) mod rules;
pub(crate) mod scan;
pub(crate) mod scratch;
pub(crate) mod session;
pub(crate) mod source;
mod spill;
pub(crate) mod split;
pub(crate) mod staging;
pub(crate) mod tally;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod text;

use std::time::Duration;

use datafusion::arrow::record_batch::RecordBatch;
use stoker_crds::{
    progress::DataStats,
    training::{Data, Task, data::Format},
};

pub use self::{
    error::DataError,
    preprocessor::{Categories, Encoding, Fill, InputColumn, Kind, Output, Preprocessor, Scaling, TransformError},
    rows::Rows,
    scratch::Scratch,
};
use self::{pipeline::Pipeline, session::Limits};
use crate::storage::Access;

/// How often the counts are told while rows are read.
const STATS_INTERVAL: Duration = Duration::from_millis(250);

/// Data that is ready to be trained on.
#[derive(Debug)]
pub struct Prepared {
    /// The transforms, fitted on the training split alone.
    pub preprocessor: Preprocessor,
    /// What was read, dropped and kept.
    pub stats: DataStats,
    /// What the model is fitted on.
    pub train: Rows,
    /// What decides on early stopping.
    pub validation: Rows,
    /// What is looked at once, at the end.
    pub test: Rows,
}

/// Reads, cleans, splits and converts data. `on_stats` is told the counts as they grow.
///
/// The same data and configuration give the same rows in the same order, whatever the files' order and the number of
/// threads. Temporary files in `scratch` have no names, and vanish with what is returned.
///
/// # Errors
/// If the data cannot be read or trained on.
pub async fn prepare(
    data: &Data<Format>,
    task: Task,
    access: &Access,
    scratch: &Scratch,
    on_stats: &(dyn Fn(&DataStats) + Send + Sync),
) -> Result<Prepared, DataError> {
    let pipeline = Pipeline::new(data, task, access, scratch, Limits::within(scratch));
    let work = async { pipeline.convert(pipeline.split().await?).await };
    watched(work, || on_stats(&pipeline.stats())).await
}

/// Does work, and tells how far it is now and then, and at its end.
pub(crate) async fn watched<T>(work: impl Future<Output = T>, tell: impl Fn()) -> T {
    tokio::pin!(work);
    let mut interval = tokio::time::interval(STATS_INTERVAL);
    let done = loop {
        tokio::select! {
            done = &mut work => break done,
            _ = interval.tick() => tell(),
        }
    };
    tell();
    done
}

/// The raw rows of the test split, feature and target columns: the same rows that [`prepare`] puts into `test`, in the
/// same order. Points in time are numbers, in seconds since 1970.
///
/// # Errors
/// If the data cannot be read.
pub async fn held_out(
    data: &Data<Format>,
    task: Task,
    access: &Access,
    scratch: &Scratch,
) -> Result<Vec<RecordBatch>, DataError> {
    let splits = Pipeline::new(data, task, access, scratch, Limits::within(scratch)).split().await?;
    splits.test.read()?.collect()
}
