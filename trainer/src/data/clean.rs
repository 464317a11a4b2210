//! Cleaning: reads all files once, drops what the rules say, and leaves the kept rows in their order in a file.

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::UInt32Array, compute::take_record_batch, datatypes::SchemaRef, error::ArrowError,
        record_batch::RecordBatch,
    },
    catalog::streaming::StreamingTable,
    error::DataFusionError,
    execution::SendableRecordBatchStream,
    logical_expr::{Partitioning, ident},
    physical_plan::ExecutionPlanProperties,
    prelude::{DataFrame, SessionContext},
};
use futures::TryStreamExt;

use super::{
    DataError,
    partition::Partition,
    read::Reader,
    rules::{ORDER, Rules},
    scratch::Scratch,
    staging::{Staged, StagedWriter},
    tally::Tally,
};

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
    let rows = apply_rules(context, rows, rules, cleaning.drop_duplicates, tally).await?;
    let order = cleaning.time.iter().map(String::as_str).chain([ORDER]);
    sorted(rows, order).await
}

/// The rows in the order of columns, ascending.
pub(crate) async fn sorted<'a>(
    rows: DataFrame,
    order: impl Iterator<Item = &'a str>,
) -> Result<SendableRecordBatchStream, DataFusionError> {
    rows.sort(order.map(|name| ident(name).sort(true, false)).collect())?.execute_stream().await
}

async fn apply_rules(
    context: &SessionContext,
    rows: DataFrame,
    rules: Rules,
    are_slices: bool,
    tally: &Arc<Tally>,
) -> Result<DataFrame, DataFusionError> {
    let (schema, tally) = (Arc::clone(&rules.schema), Arc::clone(tally));
    changed(context, rows, schema, move |batch| {
        tally.count_distinct(batch.num_rows());
        let batch = if are_slices { copied(&batch)? } else { batch };
        let kept = rules.apply(batch).map_err(|error| tally.fail(error))?;
        tally.count_dropped(kept.require, kept.missing);
        Ok(kept.batch)
    })
    .await
}

/// What a function makes of the rows, batch by batch, on all threads.
pub(crate) async fn changed(
    context: &SessionContext,
    rows: DataFrame,
    schema: SchemaRef,
    change: impl Fn(RecordBatch) -> Result<RecordBatch, DataFusionError> + Send + Sync + 'static,
) -> Result<DataFrame, DataFusionError> {
    let plan = rows.create_physical_plan().await?;
    let change = Arc::new(change);
    let partition = |partition| {
        let (plan, change) = (Arc::clone(&plan), Arc::clone(&change));
        Partition::opened_by(Arc::clone(&schema), move |task| {
            let change = Arc::clone(&change);
            Ok(plan.execute(partition, task)?.and_then(move |batch| std::future::ready(change(batch))))
        })
    };
    let partitions = (0..plan.output_partitioning().partition_count()).map(partition).collect();
    context.read_table(Arc::new(StreamingTable::try_new(schema, partitions)?))
}

/// A batch of its own. What drops duplicates gives slices of one large batch, each of which the sort would count whole.
fn copied(slice: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    take_record_batch(slice, &UInt32Array::from_iter_values(0..slice.num_rows() as u32))
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
