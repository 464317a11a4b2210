//! Reading one file: its columns, and its rows as a stream of batches.

use std::{collections::BTreeSet, io::Cursor, sync::Arc};

use datafusion::{
    arrow::{
        csv::{self, reader::Format as CsvHeader},
        datatypes::{DataType, Field, Schema, SchemaRef},
        json,
        record_batch::RecordBatch,
    },
    datasource::{
        file_format::{FileFormat, parquet::ParquetFormat},
        listing::PartitionedFile,
        object_store::ObjectStoreUrl,
        physical_plan::FileScanConfigBuilder,
        table_schema::TableSchema,
    },
    error::DataFusionError,
    prelude::SessionContext,
};
use futures::{StreamExt, stream::BoxStream};
use stoker_crds::training::data::{Csv, Format};
use tokio::io::AsyncBufReadExt;

use super::{
    DataError,
    source::SourceFile,
    text::{self, Decoder},
};

/// Bytes from the start of a text file that hold its header or the sample of its lines; more if no line ends in them.
const HEAD: usize = 1 << 20;

/// How the files of a source are read.
#[derive(Clone)]
pub(crate) struct Scanner {
    context: SessionContext,
    store: ObjectStoreUrl,
    pub(super) format: Format,
    csv: Csv,
}

impl Scanner {
    /// A reader of files that all lie in the store of the first one.
    pub(crate) fn new(
        context: &SessionContext,
        files: &[SourceFile],
        format: Format,
        csv: &Csv,
    ) -> Result<Self, DataError> {
        let store = ObjectStoreUrl::parse("source://files").map_err(DataError::internal)?;
        if let Some(file) = files.first() {
            context.runtime_env().register_object_store(store.as_ref(), Arc::clone(&file.folder.store));
        }
        Ok(Self { context: context.clone(), store, format, csv: csv.clone() })
    }

    /// The same within another session.
    pub(crate) fn within(self, context: &SessionContext) -> Self {
        Self { context: context.clone(), ..self }
    }

    fn delimiter(&self) -> u8 {
        self.csv.delimiter.bytes().next().unwrap_or(b',')
    }

    /// The columns of a CSV file, in their order; all are text at first.
    pub(super) async fn csv_schema(&self, file: &SourceFile) -> Result<SchemaRef, DataError> {
        let head = self.head(file).await?;
        let header = CsvHeader::default().with_header(self.csv.header).with_delimiter(self.delimiter());
        let (schema, _) = header
            .infer_schema(Cursor::new(head), Some(0))
            .map_err(|error| DataError::reading(file, 0, error.into()))?;
        let fields: Vec<_> =
            schema.fields().iter().map(|field| Field::new(field.name(), DataType::Utf8, true)).collect();
        let mut names = BTreeSet::new();
        match fields.iter().find(|field| !names.insert(field.name())) {
            Some(field) => Err(DataError::Unparsable(format!(
                "{} has more than one column '{}': rename them, so that each name stands once",
                file.uri(),
                field.name()
            ))),
            None => Ok(Arc::new(Schema::new(fields))),
        }
    }

    /// The columns of a Parquet file, in their order.
    pub(super) async fn parquet_schema(&self, file: &SourceFile) -> Result<SchemaRef, DataError> {
        let (state, store) = (self.context.state(), &file.folder.store);
        let schema = ParquetFormat::default().infer_schema(&state, store, std::slice::from_ref(&file.meta)).await;
        schema.map_err(|error| DataError::reading(file, 0, error))
    }

    /// The uncompressed start of a text file: whole lines, at least one.
    pub(super) async fn head(&self, file: &SourceFile) -> Result<Vec<u8>, DataError> {
        let failed = |error| DataError::reading(file, 0, error);
        let mut text = text::open(file).await.map_err(failed)?;
        let mut head = Vec::new();
        loop {
            let piece = text.fill_buf().await.map_err(|error| failed(error.into()))?;
            let read = piece.len();
            head.extend_from_slice(piece);
            text.consume(read);
            if read == 0 {
                return Ok(head);
            }
            if head.len() >= HEAD
                && let Some(end) = head.iter().rposition(|byte| *byte == b'\n')
            {
                head.truncate(end + 1);
                return Ok(head);
            }
        }
    }

    /// The rows of a file, its columns as `schema` says, of which only those of `projection` are read.
    pub(crate) async fn rows(
        &self,
        file: &SourceFile,
        schema: &SchemaRef,
        projection: Vec<usize>,
    ) -> Result<BoxStream<'static, Result<RecordBatch, DataFusionError>>, DataFusionError> {
        let batch_size = self.context.copied_config().batch_size();
        let decoder = match self.format {
            Format::Parquet => return self.parquet_rows(file, schema, projection).await,
            Format::Csv => Decoder::Csv(Box::new(
                csv::ReaderBuilder::new(Arc::clone(schema))
                    .with_header(self.csv.header)
                    .with_delimiter(self.delimiter())
                    .with_batch_size(batch_size)
                    .with_projection(projection)
                    .build_decoder(),
            )),
            // Of a column that is read as text, numbers and booleans are the text that stands there.
            Format::JsonLines => Decoder::Json(
                json::ReaderBuilder::new(Arc::new(schema.project(&projection)?))
                    .with_coerce_primitive(true)
                    .with_batch_size(batch_size)
                    .build_decoder()?,
            ),
            Format::Text => return Err(DataFusionError::Plan("files of the format text have no columns".into())),
        };
        Ok(text::batches(text::open(file).await?, decoder))
    }

    async fn parquet_rows(
        &self,
        file: &SourceFile,
        schema: &SchemaRef,
        projection: Vec<usize>,
    ) -> Result<BoxStream<'static, Result<RecordBatch, DataFusionError>>, DataFusionError> {
        let (context, format) = (&self.context, ParquetFormat::default());
        let source = format.file_source(TableSchema::from(Arc::clone(schema)));
        let config = FileScanConfigBuilder::new(self.store.clone(), source)
            .with_file(PartitionedFile::new_from_meta(file.meta.clone()))
            .with_projection_indices(Some(projection))?
            .build();
        let plan = format.create_physical_plan(&context.state(), config).await?;
        Ok(plan.execute(0, context.task_ctx())?.boxed())
    }
}
