//! The DataFusion session: bounded in memory, spilling to the scratch folder.

use std::sync::Arc;

use datafusion::{
    execution::{disk_manager::DiskManagerBuilder, runtime_env::RuntimeEnvBuilder},
    prelude::{SessionConfig, SessionContext},
};

use super::{DataError, memory::HalvedPool, scratch::Scratch};
use crate::machine::Memory;

/// The least memory for sorting and for duplicates, in bytes.
pub(crate) const MIN_MEMORY: u64 = 64 << 20;
/// The memory where the machine does not say how much there is, in bytes.
const DEFAULT_MEMORY: u64 = 1 << 30;

/// The most rows of a batch.
const MAX_BATCH_ROWS: usize = 8192;
/// About how many values a batch holds, so that rows with many columns come in batches of fewer rows.
const BATCH_VALUES: usize = 1 << 18;
/// How long a row may well be, in bytes. Where there is little memory, batches of such rows are small against it.
const ROW_BYTES: usize = 8 << 10;
/// The most documents of a batch.
const MAX_BATCH_DOCUMENTS: usize = 256;
/// How long a document may well be, in bytes.
const DOCUMENT_BYTES: usize = 64 << 10;

/// How much of the machine the preparation takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Threads of a plan, and files that are read at a time.
    pub(crate) partitions: usize,
    /// Memory for sorting and for duplicates; what does not fit is spilled.
    pub(crate) memory: u64,
    /// Bytes of prepared rows that a split may hold in memory.
    pub(crate) rows_in_memory: usize,
}

impl Limits {
    /// Half the memory that the run, the container and the machine have, the least of them, and all processors.
    pub(crate) fn within(scratch: &Scratch) -> Self {
        let memory = Memory::read().available().unwrap_or(DEFAULT_MEMORY).min(scratch.memory());
        Self {
            partitions: std::thread::available_parallelism().map_or(1, usize::from),
            memory: (memory / 2).max(MIN_MEMORY),
            rows_in_memory: super::rows::MAX_IN_MEMORY,
        }
    }

    pub(crate) fn memory(self) -> usize {
        usize::try_from(self.memory).unwrap_or(usize::MAX)
    }

    /// The rows of a batch of so many columns. A partition works in up to four steps at a time that spill, each of which
    /// must hold a batch and its copy in its share of half the memory.
    fn batch_rows(self, columns: usize) -> usize {
        let by_memory = self.memory() / 8 / self.partitions.max(1) / ROW_BYTES;
        (BATCH_VALUES / columns.max(1)).min(by_memory).clamp(64, MAX_BATCH_ROWS)
    }

    /// The documents of a batch, by the same rule.
    pub(crate) fn batch_documents(self) -> usize {
        (self.memory() / 8 / self.partitions.max(1) / DOCUMENT_BYTES).clamp(16, MAX_BATCH_DOCUMENTS)
    }
}

/// A session whose temporary files lie in `scratch`. SQL takes column names as they are written.
pub(crate) fn session(scratch: &Scratch, limits: Limits) -> Result<SessionContext, DataError> {
    scratch.create()?;
    let disk = DiskManagerBuilder::default().with_temp_file_factory(Arc::new(scratch.clone()));
    let runtime = RuntimeEnvBuilder::new()
        .with_disk_manager_builder(disk)
        .with_memory_pool(Arc::new(HalvedPool::new(limits.memory())))
        .build_arc()
        .map_err(|error| DataError::working(scratch, error))?;
    let config = SessionConfig::new()
        .with_target_partitions(limits.partitions)
        // One sort for all partitions: it sorts its batches side by side, and merges once. Sorts of each partition would
        // merge what they spilled with all the memory they get, and leave none to the merge of what they give.
        .with_repartition_sorts(false)
        .set_bool("datafusion.sql_parser.enable_ident_normalization", false)
        .set_bool("datafusion.execution.parquet.schema_force_view_types", false);
    Ok(SessionContext::new_with_config_rt(config, runtime))
}

/// The same session for rows of so many columns.
pub(super) fn for_columns(context: &SessionContext, limits: Limits, columns: usize) -> SessionContext {
    let config = context.copied_config().with_batch_size(limits.batch_rows(columns));
    SessionContext::new_with_config_rt(config, context.runtime_env())
}

/// The same session for rows that are documents.
pub(crate) fn for_documents(context: &SessionContext, limits: Limits) -> SessionContext {
    let config = context.copied_config().with_batch_size(limits.batch_documents());
    SessionContext::new_with_config_rt(config, context.runtime_env())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_smaller_where_columns_are_many_or_memory_is_little() {
        let rows = |memory, columns| Limits { partitions: 2, memory, rows_in_memory: 0 }.batch_rows(columns);
        assert_eq!(rows(4 << 30, 1), MAX_BATCH_ROWS);
        assert_eq!(rows(4 << 30, 1 << 10), 256);
        assert_eq!(rows(MIN_MEMORY, 1), 512);
    }
}
