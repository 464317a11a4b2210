//! Batches in a nameless file of the scratch folder: nothing is left behind, however the process ends.

use std::{
    io::{self, BufReader, BufWriter, Read},
    os::unix::fs::FileExt,
    sync::Arc,
};

use datafusion::arrow::{
    datatypes::SchemaRef,
    error::ArrowError,
    ipc::{reader::StreamReader, writer::StreamWriter},
    record_batch::RecordBatch,
};

use super::{
    DataError,
    scratch::{Scratch, ScratchFile},
};

const BUFFER: usize = 1 << 20;

/// Batches that were written to a file, to be read any number of times.
#[derive(Clone, Debug)]
pub(super) struct Staged {
    file: Arc<ScratchFile>,
    pub(super) schema: SchemaRef,
    pub(super) rows: u64,
}

impl Staged {
    /// The batches, in the order in which they were written.
    pub(super) fn read(
        &self,
    ) -> Result<impl Iterator<Item = Result<RecordBatch, DataError>> + Send + use<>, DataError> {
        let scratch = self.file.scratch().clone();
        let reader = reader(Arc::clone(&self.file));
        let batches = StreamReader::try_new(reader, None).map_err(|error| DataError::scratch(&scratch, error))?;
        Ok(batches.map(move |batch| batch.map_err(|error| DataError::scratch(&scratch, error))))
    }

    /// The folder that the file lies in.
    pub(super) fn scratch(&self) -> &Scratch {
        self.file.scratch()
    }
}

/// Writes [`Staged`] batches.
pub(super) struct StagedWriter {
    batches: StreamWriter<BufWriter<ScratchFile>>,
    scratch: Scratch,
    schema: SchemaRef,
    rows: u64,
}

impl StagedWriter {
    pub(super) fn new(scratch: &Scratch, schema: SchemaRef) -> Result<Self, DataError> {
        let failed = |error: ArrowError| DataError::scratch(scratch, error);
        let file = scratch.file().map_err(|error| failed(error.into()))?;
        let batches = StreamWriter::try_new(BufWriter::with_capacity(BUFFER, file), &schema).map_err(failed)?;
        Ok(Self { batches, scratch: scratch.clone(), schema, rows: 0 })
    }

    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<(), DataError> {
        self.rows += batch.num_rows() as u64;
        self.batches.write(batch).map_err(|error| DataError::scratch(&self.scratch, error))
    }

    pub(super) fn finish(self) -> Result<Staged, DataError> {
        let Self { batches, scratch, schema, rows } = self;
        let failed = |error: ArrowError| DataError::scratch(&scratch, error);
        let file =
            batches.into_inner().map_err(failed)?.into_inner().map_err(|error| failed(error.into_error().into()))?;
        Ok(Staged { file: Arc::new(file), schema, rows })
    }
}

/// Reads a file from its start, with a position of its own.
pub(crate) fn reader(file: Arc<ScratchFile>) -> BufReader<FileReader> {
    BufReader::with_capacity(BUFFER, FileReader { file, offset: 0 })
}

/// Reads a file from its start, without a position that readers would share.
pub(crate) struct FileReader {
    file: Arc<ScratchFile>,
    offset: u64,
}

impl Read for FileReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.file().read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}
