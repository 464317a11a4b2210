//! Reading all files as one table: the used columns by name, in one type each.

use std::sync::Arc;

use datafusion::{
    arrow::{array::ArrayRef, datatypes::SchemaRef, record_batch::RecordBatch},
    error::DataFusionError,
    physical_plan::streaming::PartitionStream,
};
use futures::{Stream, StreamExt};
use stoker_crds::training::data::{ColumnType, Format};

use super::{
    DataError,
    columns::Columns,
    convert::{self, ConvertError},
    discover::Discovery,
    partition::Partition,
    scan::Scanner,
    source::SourceFile,
    tally::Tally,
};

/// A column that is used.
struct Used {
    name: String,
    kind: ColumnType,
    /// Whether the configuration says its type.
    is_cast: bool,
}

/// All files of a source, and the columns that are used of them.
pub(super) struct Reader {
    scanner: Scanner,
    files: Vec<(SourceFile, SchemaRef)>,
    columns: Vec<Used>,
    pub(super) schema: SchemaRef,
    max_partitions: usize,
}

impl Reader {
    /// # Errors
    /// If a CSV or Parquet file lacks a column that is used.
    pub(super) fn new(
        scanner: Scanner,
        files: Vec<SourceFile>,
        found: &Discovery,
        columns: &Columns,
        cast: impl Fn(&str) -> Option<ColumnType>,
        max_partitions: usize,
    ) -> Result<Self, DataError> {
        let schemas = match scanner.format {
            Format::JsonLines => vec![found.json_schema(&cast); files.len()],
            Format::Csv | Format::Parquet | Format::Text => found.schemas.clone(),
        };
        let files: Vec<_> = files.into_iter().zip(schemas).collect();
        for (name, _) in columns.all() {
            if let Some((file, _)) = files.iter().find(|(_, schema)| schema.index_of(name).is_err()) {
                return Err(DataError::UnknownColumn(format!(
                    "{} has no column '{name}', which other files of the source have: add it there, or leave it out of spec.data",
                    file.uri()
                )));
            }
        }
        let schema = columns.schema();
        let columns = columns
            .all()
            .map(|(name, kind)| Used { name: name.clone(), kind, is_cast: cast(name).is_some() })
            .collect();
        Ok(Self { scanner, files, columns, schema, max_partitions })
    }

    /// How many files are read at a time.
    pub(super) fn partitions(&self) -> usize {
        self.files.len().min(self.max_partitions).max(1)
    }

    /// Every so-many-th file, one after another.
    pub(super) fn partition(self: &Arc<Self>, partition: usize, tally: &Arc<Tally>) -> Arc<dyn PartitionStream> {
        let (reader, tally) = (Arc::clone(self), Arc::clone(tally));
        let indices = (partition..self.files.len()).step_by(self.partitions());
        Partition::of_files(Arc::clone(&self.schema), indices, move |index| {
            Arc::clone(&reader).read(index, Arc::clone(&tally))
        })
    }

    async fn read(
        self: Arc<Self>,
        index: usize,
        tally: Arc<Tally>,
    ) -> Result<impl Stream<Item = Result<RecordBatch, DataFusionError>> + use<>, DataFusionError> {
        let (file, schema) = &self.files[index];
        let projection = self.columns.iter().map(|column| schema.index_of(&column.name)).collect::<Result<_, _>>()?;
        let rows = self.scanner.rows(file, schema, projection).await;
        let rows = rows.map_err(|error| tally.fail(DataError::reading(file, 0, error)))?;
        let reader = Arc::clone(&self);
        let mut read = 0;
        Ok(rows.map(move |batch| {
            let file = &reader.files[index].0;
            let batch = batch.map_err(|error| DataError::reading(file, read, error));
            let batch =
                batch.and_then(|batch| reader.convert(&batch, file, read)).map_err(|error| tally.fail(error))?;
            read += batch.num_rows() as u64;
            tally.count_read(batch.num_rows());
            Ok(batch)
        }))
    }

    fn convert(&self, batch: &RecordBatch, file: &SourceFile, read: u64) -> Result<RecordBatch, DataError> {
        let column = |used: &Used| -> Result<ArrayRef, DataError> {
            let array = batch.column_by_name(&used.name);
            let array = array.ok_or_else(|| DataError::internal(format!("'{}' was not read", used.name)))?;
            let Used { name, kind, is_cast } = used;
            convert::convert(array, *kind).map_err(|error| unfit((name, *kind, *is_cast), file, read, error))
        };
        let columns = self.columns.iter().map(column).collect::<Result<_, _>>()?;
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

/// A value that does not fit its column, which has a name, a type, and may have been said to be of it. So many rows of
/// the file were read before the value's batch.
pub(crate) fn unfit(
    (name, kind, is_cast): (&str, ColumnType, bool),
    file: &SourceFile,
    read: u64,
    error: ConvertError,
) -> DataError {
    let uri = file.uri();
    match error {
        ConvertError::Value { row, value, to } => {
            let message = format!(
                "{uri}, row {}: column '{name}' holds '{value}', which is not {}; correct it, or set spec.data.cast.{name}: Text if the column is no {kind:?}",
                read + row as u64 + 1,
                convert::describe(to)
            );
            if is_cast { DataError::WrongType(message) } else { DataError::Unparsable(message) }
        }
        error @ ConvertError::Type { .. } => {
            DataError::WrongType(format!("column '{name}' of {uri}: {error}; correct spec.data.cast.{name}"))
        }
        ConvertError::Arrow(error) => DataError::internal(error),
    }
}
