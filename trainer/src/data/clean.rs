//! Cleaning: reads all files once, drops what the rules say, and leaves the kept rows in their order in a file.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use datafusion::{
    arrow::{datatypes::SchemaRef, record_batch::RecordBatch},
    catalog::streaming::StreamingTable,
    error::DataFusionError,
    execution::{SendableRecordBatchStream, TaskContext},
    logical_expr::{Partitioning, ident},
    physical_plan::{ExecutionPlanProperties, stream::RecordBatchStreamAdapter, streaming::PartitionStream},
    prelude::{DataFrame, SessionContext},
};
use futures::{Stream, TryStreamExt};

use super::{
    DataError,
    read::Reader,
    rules::{ORDER, Rules},
    scratch::Scratch,
    staging::{Staged, StagedWriter},
};

/// What was counted so far, and the first failure.
#[derive(Debug, Default)]
pub(super) struct Tally {
    read: AtomicU64,
    distinct: AtomicU64,
    require: AtomicU64,
    missing: AtomicU64,
    /// DataFusion wraps and shares errors on their way through a plan; this one stays as it was.
    failure: Mutex<Option<DataError>>,
}

/// Rows, as far as they were counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) read: u64,
    pub(super) duplicates: u64,
    pub(super) require: u64,
    pub(super) missing: u64,
}

impl Tally {
    pub(super) fn counts(&self) -> Counts {
        let [read, distinct, require, missing] =
            [&self.read, &self.distinct, &self.require, &self.missing].map(|counter| counter.load(Ordering::Relaxed));
        Counts { read, duplicates: read.saturating_sub(distinct), require, missing }
    }

    pub(super) fn count_read(&self, rows: usize) {
        self.read.fetch_add(rows as u64, Ordering::Relaxed);
    }

    /// Keeps an error, and gives one that ends the plan.
    pub(super) fn fail(&self, error: DataError) -> DataFusionError {
        let text = error.to_string();
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        DataFusionError::Execution(text)
    }

    /// The kept error, or what the plan's own one means.
    fn failure(&self, scratch: &Scratch, error: DataFusionError) -> DataError {
        let kept = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        kept.unwrap_or_else(|| DataError::working(scratch, error))
    }
}

/// What cleaning does, besides the rules.
#[derive(Debug)]
pub(super) struct Cleaning {
    pub(super) drop_duplicates: bool,
    /// Rows are ordered by this column first.
    pub(super) time: Option<String>,
    /// How many of the columns, from the first, are kept.
    pub(super) columns: usize,
}

/// Reads and cleans: the kept rows in their order, or `None` if there is none.
pub(super) async fn clean(
    context: &SessionContext,
    reader: Arc<Reader>,
    rules: Rules,
    cleaning: &Cleaning,
    tally: &Arc<Tally>,
    scratch: &Scratch,
) -> Result<Option<Staged>, DataError> {
    let failed = |error| tally.failure(scratch, error);
    let rows = cleaned(context, reader, rules, cleaning, tally).await.map_err(failed)?;
    stage(rows, cleaning.columns, tally, scratch).await
}

/// The plan: read → distinct → rules → sort.
async fn cleaned(
    context: &SessionContext,
    reader: Arc<Reader>,
    rules: Rules,
    cleaning: &Cleaning,
    tally: &Arc<Tally>,
) -> Result<SendableRecordBatchStream, DataFusionError> {
    let partitions = context.state().config().target_partitions();
    let mut rows = context.read_table(Arc::new(StreamingTable::try_new(
        Arc::clone(&reader.schema),
        (0..reader.partitions()).map(|partition| reader.partition(partition, tally)).collect(),
    )?))?;
    rows = match cleaning.drop_duplicates {
        true => rows.distinct()?,
        false => rows.repartition(Partitioning::RoundRobinBatch(partitions))?,
    };
    let rows = apply_rules(context, rows, rules, tally).await?;
    let order = cleaning.time.iter().map(String::as_str).chain([ORDER]);
    rows.sort(order.map(|name| ident(name).sort(true, false)).collect())?.execute_stream().await
}

async fn apply_rules(
    context: &SessionContext,
    rows: DataFrame,
    rules: Rules,
    tally: &Arc<Tally>,
) -> Result<DataFrame, DataFusionError> {
    let schema = Arc::clone(&rules.schema);
    let rules = Arc::new(rules);
    let plan = rows.create_physical_plan().await?;
    let partition = |partition| {
        let (plan, rules, tally) = (Arc::clone(&plan), Arc::clone(&rules), Arc::clone(tally));
        Stage::partition(Arc::clone(&schema), move |task| {
            let (rules, tally) = (Arc::clone(&rules), Arc::clone(&tally));
            let apply = move |batch: RecordBatch| {
                tally.distinct.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
                let kept = rules.apply(batch).map_err(|error| tally.fail(error))?;
                tally.require.fetch_add(kept.require, Ordering::Relaxed);
                tally.missing.fetch_add(kept.missing, Ordering::Relaxed);
                Ok(kept.batch)
            };
            Ok(plan.execute(partition, task)?.and_then(move |batch| std::future::ready(apply(batch))))
        })
    };
    let partitions = (0..plan.output_partitioning().partition_count()).map(partition).collect();
    context.read_table(Arc::new(StreamingTable::try_new(schema, partitions)?))
}

async fn stage(
    mut rows: SendableRecordBatchStream,
    columns: usize,
    tally: &Tally,
    scratch: &Scratch,
) -> Result<Option<Staged>, DataError> {
    let kept: Vec<usize> = (0..columns).collect();
    let mut writer = None;
    while let Some(batch) = rows.try_next().await.map_err(|error| tally.failure(scratch, error))? {
        let batch = batch.project(&kept)?;
        let writer = match &mut writer {
            Some(writer) => writer,
            none => none.insert(StagedWriter::new(scratch, batch.schema())?),
        };
        writer.write(&batch)?;
    }
    writer.map(StagedWriter::finish).transpose()
}

type Open = dyn Fn(Arc<TaskContext>) -> Result<SendableRecordBatchStream, DataFusionError> + Send + Sync;

/// One partition of a table: a stream that a function opens.
pub(super) struct Stage {
    schema: SchemaRef,
    open: Box<Open>,
}

impl Stage {
    pub(super) fn partition<S>(
        schema: SchemaRef,
        open: impl Fn(Arc<TaskContext>) -> Result<S, DataFusionError> + Send + Sync + 'static,
    ) -> Arc<dyn PartitionStream>
    where
        S: Stream<Item = Result<RecordBatch, DataFusionError>> + Send + 'static,
    {
        let of = Arc::clone(&schema);
        let open = move |task| {
            let stream = open(task)?;
            Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&of), stream)) as SendableRecordBatchStream)
        };
        Arc::new(Self { schema, open: Box::new(open) })
    }
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl PartitionStream for Stage {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, task: Arc<TaskContext>) -> SendableRecordBatchStream {
        (self.open)(task).unwrap_or_else(|error| {
            let failed = futures::stream::once(std::future::ready(Err(error)));
            Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), failed))
        })
    }
}
