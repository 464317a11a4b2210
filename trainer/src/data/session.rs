//! The DataFusion session: bounded in memory, spilling to the scratch folder.

use std::{fs, sync::Arc};

use datafusion::{
    execution::{
        disk_manager::{DiskManagerBuilder, DiskManagerMode},
        memory_pool::FairSpillPool,
        runtime_env::RuntimeEnvBuilder,
    },
    prelude::{SessionConfig, SessionContext},
};

use super::{DataError, scratch::Scratch};

/// The least memory for sorting and for duplicates, in bytes.
pub(super) const MIN_MEMORY: u64 = 64 << 20;
/// Where the container's limit stands, in the second and the first version of control groups.
const LIMITS: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
/// The memory where the machine does not say how much there is, in bytes.
const DEFAULT_MEMORY: u64 = 1 << 30;

/// The most memory that a partition keeps free to merge what it spilled, in bytes.
const MAX_MERGE_MEMORY: usize = 10 << 20;

/// The most rows of a batch.
const MAX_BATCH_ROWS: usize = 8192;
/// About how many values a batch holds, so that rows with many columns come in batches of fewer rows.
const BATCH_VALUES: usize = 1 << 18;

/// How much of the machine the preparation takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Threads of a plan, and files that are read at a time.
    pub(super) partitions: usize,
    /// Memory for sorting and for duplicates; what does not fit is spilled.
    pub(super) memory: u64,
    /// Bytes of prepared rows that a split may hold in memory.
    pub(super) rows_in_memory: usize,
}

impl Limits {
    /// Half the memory that the container or the machine has, and all its processors.
    pub(super) fn of_machine() -> Self {
        let read = |path: &str| fs::read_to_string(path).ok();
        let memory = memory(LIMITS.iter().find_map(|path| read(path)).as_deref(), read("/proc/meminfo").as_deref());
        Self {
            partitions: std::thread::available_parallelism().map_or(1, usize::from),
            memory: (memory / 2).max(MIN_MEMORY),
            rows_in_memory: super::rows::MAX_IN_MEMORY,
        }
    }
}

/// The smaller of the container's limit and what the machine has available.
fn memory(cgroup: Option<&str>, meminfo: Option<&str>) -> u64 {
    let limit = cgroup.and_then(|text| text.trim().parse().ok());
    let available = meminfo.and_then(|text| text.lines().find_map(|line| line.strip_prefix("MemAvailable:")));
    let available = available.and_then(|text| text.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    let available = available.map(|kilobytes| kilobytes.saturating_mul(1024));
    limit.into_iter().chain(available).min().unwrap_or(DEFAULT_MEMORY)
}

/// A session whose temporary files lie in `scratch`. SQL takes column names as they are written.
pub(super) fn session(scratch: &Scratch, limits: Limits) -> Result<SessionContext, DataError> {
    scratch.create()?;
    let disk = DiskManagerBuilder::default()
        .with_mode(DiskManagerMode::Directories(vec![scratch.folder().to_owned()]))
        .with_max_temp_directory_size(scratch.limit());
    let memory = usize::try_from(limits.memory).unwrap_or(usize::MAX);
    // Each partition keeps so much free to merge what it spilled.
    let merge_memory = (memory / limits.partitions.max(1) / 8).min(MAX_MERGE_MEMORY);
    let runtime = RuntimeEnvBuilder::new()
        .with_disk_manager_builder(disk)
        .with_memory_pool(Arc::new(FairSpillPool::new(memory)))
        .build_arc()
        .map_err(|error| DataError::working(scratch, error))?;
    let config = SessionConfig::new()
        .with_target_partitions(limits.partitions)
        .with_sort_spill_reservation_bytes(merge_memory)
        .set_bool("datafusion.sql_parser.enable_ident_normalization", false)
        .set_bool("datafusion.execution.parquet.schema_force_view_types", false);
    Ok(SessionContext::new_with_config_rt(config, runtime))
}

/// The same session for rows of so many columns.
pub(super) fn for_columns(context: &SessionContext, columns: usize) -> SessionContext {
    let rows = (BATCH_VALUES / columns.max(1)).clamp(64, MAX_BATCH_ROWS);
    SessionContext::new_with_config_rt(context.copied_config().with_batch_size(rows), context.runtime_env())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_by_the_container_and_by_the_machine() {
        let meminfo = Some("MemTotal:       32768 kB\nMemAvailable:   2048 kB\n");
        assert_eq!(memory(Some("max\n"), meminfo), 2 << 20);
        assert_eq!(memory(Some("1048576\n"), meminfo), 1 << 20);
        assert_eq!(memory(None, None), DEFAULT_MEMORY);
    }
}
