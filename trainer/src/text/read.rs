//! Reading all files as one table: the documents, and the columns that predicates look at.

use std::{collections::BTreeSet, sync::Arc};

use datafusion::{
    arrow::{
        array::{ArrayRef, StringArray},
        datatypes::{Field, Schema, SchemaRef},
        record_batch::RecordBatch,
    },
    error::DataFusionError,
    physical_plan::streaming::PartitionStream,
};
use futures::{StreamExt, stream::BoxStream};
use stoker_crds::training::{
    Data,
    data::{ColumnType, Format},
    text::{DEFAULT_COLUMN, Text},
};

use super::{
    chat::{self, ASSISTANT, NoConversations, Shape, Unanswered},
    clean::Counts,
    files,
};
use crate::data::{
    DataError,
    columns::{self, unknown_column},
    convert::convert,
    discover::{Discovery, Found, discover},
    partition::Partition,
    read::unfit,
    scan::Scanner,
    source::SourceFile,
};

/// The column of the file's URI, in files of the format text.
const FILE: &str = "file";

type Batches = BoxStream<'static, Result<RecordBatch, DataFusionError>>;

/// All files of a source, and what is read of them.
pub(super) struct Reader {
    scanner: Scanner,
    format: Format,
    text: Text,
    pub(super) shape: Shape,
    /// Each with the schema by which it is read; of the format text that is empty.
    files: Vec<(SourceFile, SchemaRef)>,
    /// The column of the documents, then those that predicates look at. Each with whether the configuration says its type.
    columns: Vec<(String, ColumnType, bool)>,
    pub(super) schema: SchemaRef,
    max_partitions: usize,
    /// The documents of a batch, of the format text.
    batch_size: usize,
}

/// The columns of the files.
pub(super) async fn columns_of(
    scanner: &Scanner,
    files: &[SourceFile],
    format: Format,
) -> Result<Discovery, DataError> {
    match format {
        Format::Text => Ok(Discovery::of_texts([DEFAULT_COLUMN, FILE])),
        Format::Csv | Format::JsonLines | Format::Parquet => discover(scanner, files).await,
    }
}

impl Reader {
    /// # Errors
    /// If the column of the documents is not there or of another type, or a file lacks a column that is used.
    pub(super) fn new(
        scanner: Scanner,
        files: Vec<SourceFile>,
        data: &Data<Format>,
        text: &Text,
        found: &Discovery,
        in_predicates: &BTreeSet<String>,
        (max_partitions, batch_size): (usize, usize),
    ) -> Result<Self, DataError> {
        let shape = Shape::of(text);
        let document = text.column();
        check(document, shape, found)?;
        let typed = columns::usable(data, found);
        let others = typed.into_iter().filter(|(name, _)| *name != document && in_predicates.contains(*name));
        let others = others.map(|(name, kind)| (name.clone(), kind, data.cast.contains_key(name)));
        let columns: Vec<_> = std::iter::once((document.to_owned(), ColumnType::Text, false)).chain(others).collect();
        let schemas = schemas(data, found, document, shape, files.len());
        let files: Vec<_> = files.into_iter().zip(schemas).collect();
        for (name, ..) in columns.iter().filter(|_| data.format != Format::Text) {
            if let Some((file, _)) = files.iter().find(|(_, schema)| schema.index_of(name).is_err()) {
                return Err(DataError::UnknownColumn(format!(
                    "{} has no column '{name}', which other files of the source have: add it there, or leave the file out of spec.data.source.uri",
                    file.uri()
                )));
            }
        }
        let schema = Arc::new(columns::schema(columns.iter().map(|(name, kind, _)| (name, *kind))));
        let (format, text) = (data.format, text.clone());
        Ok(Self { scanner, format, text, shape, files, columns, schema, max_partitions, batch_size })
    }

    /// Every file once, several at a time.
    pub(super) fn partitions(self: &Arc<Self>, counts: &Arc<Counts>) -> Vec<Arc<dyn PartitionStream>> {
        let partitions = self.files.len().min(self.max_partitions).max(1);
        let partition = |partition: usize| {
            let (reader, counts) = (Arc::clone(self), Arc::clone(counts));
            let indices = (partition..self.files.len()).step_by(partitions);
            Partition::of_files(Arc::clone(&self.schema), indices, move |index| {
                Arc::clone(&reader).read(index, Arc::clone(&counts))
            })
        };
        (0..partitions).map(partition).collect()
    }

    async fn read(self: Arc<Self>, index: usize, counts: Arc<Counts>) -> Result<Batches, DataFusionError> {
        if self.format == Format::Text {
            self.read_text(index, counts).await
        } else {
            self.read_rows(index, counts).await
        }
    }

    async fn read_text(self: Arc<Self>, index: usize, counts: Arc<Counts>) -> Result<Batches, DataFusionError> {
        let file = self.files[index].0.clone();
        let uri = file.uri().to_owned();
        let documents = files::documents(file, self.text.documents(), self.batch_size).await;
        let documents = documents.map_err(|error| counts.tally.fail(error))?;
        let batch = move |documents: Result<Vec<String>, DataError>| -> Result<RecordBatch, DataFusionError> {
            let documents = documents.map_err(|error| counts.tally.fail(error))?;
            counts.tally.count_read(documents.len());
            let column = |(name, ..): &(String, ColumnType, bool)| -> ArrayRef {
                match name.as_str() {
                    FILE => Arc::new(StringArray::from_iter_values(documents.iter().map(|_| &uri))),
                    _ => Arc::new(StringArray::from_iter_values(&documents)),
                }
            };
            Ok(RecordBatch::try_new(Arc::clone(&self.schema), self.columns.iter().map(column).collect())?)
        };
        Ok(documents.map(batch).boxed())
    }

    async fn read_rows(self: Arc<Self>, index: usize, counts: Arc<Counts>) -> Result<Batches, DataFusionError> {
        let (file, schema) = &self.files[index];
        let projection = self.columns.iter().map(|(name, ..)| schema.index_of(name)).collect::<Result<_, _>>()?;
        let rows = self.scanner.rows(file, schema, projection).await;
        let rows = rows.map_err(|error| counts.tally.fail(DataError::reading(file, 0, error)))?;
        let reader = Arc::clone(&self);
        let mut read = 0;
        let batch = move |batch: Result<RecordBatch, DataFusionError>| -> Result<RecordBatch, DataFusionError> {
            let file = &reader.files[index].0;
            let batch = batch.map_err(|error| DataError::reading(file, read, error));
            let batch = batch.and_then(|batch| reader.convert(&batch, file, read, &counts.unanswered));
            let batch = batch.map_err(|error| counts.tally.fail(error))?;
            read += batch.num_rows() as u64;
            counts.tally.count_read(batch.num_rows());
            Ok(batch)
        };
        Ok(rows.map(batch).boxed())
    }

    fn convert(
        &self,
        batch: &RecordBatch,
        file: &SourceFile,
        read: u64,
        unanswered: &Unanswered,
    ) -> Result<RecordBatch, DataError> {
        let column =
            |(at, (name, kind, is_cast)): (usize, &(String, ColumnType, bool))| -> Result<ArrayRef, DataError> {
                let array = batch.column_by_name(name);
                let array = array.ok_or_else(|| DataError::internal(format!("'{name}' was not read")))?;
                if at == 0 && self.shape == Shape::Conversation {
                    let conversations = chat::conversations(array, unanswered);
                    return Ok(
                        Arc::new(conversations.map_err(|error| no_conversations(name, file, read, error))?) as ArrayRef
                    );
                }
                convert(array, *kind).map_err(|error| unfit((name, *kind, *is_cast), file, read, error))
            };
        let columns = self.columns.iter().enumerate().map(column).collect::<Result<_, DataError>>()?;
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

/// Whether there is a column for the documents, and it can hold such.
fn check(document: &str, shape: Shape, found: &Discovery) -> Result<(), DataError> {
    let field = match shape {
        Shape::Plain => "spec.data.text.column",
        Shape::Conversation => "spec.data.text.messages",
    };
    match (found.found(document), shape) {
        (None, _) => Err(unknown_column(field, document, found)),
        (Some(Found::Unusable(kind)), Shape::Plain) => Err(DataError::WrongType(format!(
            "column '{document}' holds values of type {kind}, not text: name another in {field}, or this one in spec.data.text.messages if it holds conversations"
        ))),
        (Some(Found::Values(_) | Found::Mixed { .. }), Shape::Conversation) => Err(DataError::WrongType(format!(
            "column '{document}' holds no lists of messages: name another in {field}, or this one in spec.data.text.column if it holds text"
        ))),
        (Some(_), _) => Ok(()),
    }
}

/// The schema by which each file is read.
fn schemas(data: &Data<Format>, found: &Discovery, document: &str, shape: Shape, files: usize) -> Vec<SchemaRef> {
    let same = |schema| std::iter::repeat_n(Arc::new(schema), files).collect();
    match data.format {
        Format::Csv | Format::Parquet => found.schemas.clone(),
        Format::Text => same(Schema::empty()),
        Format::JsonLines => {
            let cast =
                |name: &str| if name == document { Some(ColumnType::Text) } else { data.cast.get(name).copied() };
            let schema = found.json_schema(cast);
            let fields =
                schema.fields().iter().filter(|field| shape == Shape::Plain || field.name() != document).cloned();
            let messages = Arc::new(Field::new(document, chat::arrow_type(), true));
            let messages = (shape == Shape::Conversation).then_some(messages);
            same(Schema::new(fields.chain(messages).collect::<Vec<_>>()))
        }
    }
}

fn no_conversations(name: &str, file: &SourceFile, read: u64, error: NoConversations) -> DataError {
    let uri = file.uri();
    match error {
        NoConversations::Role { row } => DataError::Unparsable(format!(
            "{uri}, row {}: column '{name}' {error}; a message is an object of the texts role and content, and the role of an answer is {ASSISTANT}: rename fields that are called otherwise, such as from and value, correct the row, or name another column in spec.data.text.messages",
            read + row as u64 + 1
        )),
        NoConversations::Type(_) => DataError::WrongType(format!(
            "column '{name}' of {uri} {error}: rename its fields, or name another column in spec.data.text.messages"
        )),
        error => DataError::internal(error),
    }
}
