//! From raw files to rows of numbers.

mod error;
mod preprocessor;
mod rows;

use std::path::Path;

use datafusion::arrow::record_batch::RecordBatch;
use stoker_crds::{
    progress::DataStats,
    training::{Data, Task, data::Format},
};

pub use self::{
    error::DataError,
    preprocessor::{InputColumn, Kind, Output, Preprocessor, TransformError},
    rows::Rows,
};
use crate::storage::Access;

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

/// Reads, cleans, splits and converts data.
///
/// # Errors
/// If the data cannot be read or trained on.
pub async fn prepare(
    data: &Data<Format>,
    task: Task,
    access: &Access,
    scratch: &Path,
    on_stats: &(dyn Fn(&DataStats) + Send + Sync),
) -> Result<Prepared, DataError> {
    on_stats(&DataStats::default());
    todo!("{data:?} {task:?} {access:?} {scratch:?}")
}

/// The raw rows of the test split, feature and target columns: the same rows that [`prepare`] puts into `test`.
///
/// # Errors
/// If the data cannot be read.
pub async fn held_out(
    data: &Data<Format>,
    task: Task,
    access: &Access,
    scratch: &Path,
) -> Result<Vec<RecordBatch>, DataError> {
    todo!("{data:?} {task:?} {access:?} {scratch:?}")
}
