//! Documents in a nameless file of the scratch folder, each its length and its text.

use std::{
    io::{self, Read},
    os::unix::fs::FileExt,
    sync::Arc,
};

use crate::data::{
    DataError, Scratch,
    scratch::ScratchFile,
    staging::{self, FileReader},
};

const BUFFER: usize = 1 << 20;
const LENGTH: usize = size_of::<u32>();

/// Documents that were written to a file, to be read any number of times.
#[derive(Clone, Debug)]
pub(super) struct Documents {
    file: Arc<ScratchFile>,
    pub(super) count: u64,
}

impl Documents {
    /// The documents, in the order in which they were written.
    pub(super) fn read(&self) -> Reading {
        Reading {
            scratch: self.file.scratch().clone(),
            reader: staging::reader(Arc::clone(&self.file)),
            left: self.count,
        }
    }
}

/// Documents, one after another.
pub(super) struct Reading {
    scratch: Scratch,
    reader: io::BufReader<FileReader>,
    left: u64,
}

impl Reading {
    fn next_document(&mut self) -> io::Result<String> {
        let mut length = [0; LENGTH];
        self.reader.read_exact(&mut length)?;
        let mut text = vec![0; u32::from_le_bytes(length) as usize];
        self.reader.read_exact(&mut text)?;
        String::from_utf8(text).map_err(io::Error::other)
    }
}

impl Iterator for Reading {
    type Item = Result<String, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        Some(self.next_document().map_err(|error| DataError::scratch(&self.scratch, error)))
    }
}

/// Writes [`Documents`], and reads those that it has written.
pub(super) struct DocumentsWriter {
    file: ScratchFile,
    /// What is not in the file yet.
    buffer: Vec<u8>,
    count: u64,
}

impl DocumentsWriter {
    pub(super) fn new(scratch: &Scratch) -> Result<Self, DataError> {
        let file = scratch.file().map_err(|error| DataError::scratch(scratch, error))?;
        Ok(Self { file, buffer: Vec::with_capacity(BUFFER), count: 0 })
    }

    /// Appends a document, and says where it stands.
    pub(super) fn push(&mut self, text: &str) -> Result<u64, DataError> {
        let at = self.file.written() + self.buffer.len() as u64;
        let length = u32::try_from(text.len()).map_err(|_| {
            DataError::InvalidConfig(format!(
                "a document of {} bytes is too long: set spec.data.text.length.max, or divide it",
                text.len()
            ))
        })?;
        self.buffer.extend_from_slice(&length.to_le_bytes());
        self.buffer.extend_from_slice(text.as_bytes());
        self.count += 1;
        if self.buffer.len() >= BUFFER {
            self.flush()?;
        }
        Ok(at)
    }

    /// The document that stands at a place.
    pub(super) fn get(&self, at: u64) -> Result<String, DataError> {
        let mut length = [0; LENGTH];
        self.copy(at, &mut length)?;
        let mut text = vec![0; u32::from_le_bytes(length) as usize];
        self.copy(at + LENGTH as u64, &mut text)?;
        String::from_utf8(text).map_err(DataError::internal)
    }

    /// Copies bytes, which are in the file or in the buffer: a document is written at once.
    fn copy(&self, at: u64, bytes: &mut [u8]) -> Result<(), DataError> {
        let Some(start) = at.checked_sub(self.file.written()) else {
            return self.file.file().read_exact_at(bytes, at).map_err(|error| self.failed(error));
        };
        let buffered = usize::try_from(start).ok().and_then(|start| self.buffer.get(start..)?.get(..bytes.len()));
        let buffered = buffered.ok_or_else(|| DataError::internal(format!("there is no document at {at}")))?;
        bytes.copy_from_slice(buffered);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), DataError> {
        self.file.append(&self.buffer).map_err(|error| self.failed(error))?;
        self.buffer.clear();
        Ok(())
    }

    fn failed(&self, error: io::Error) -> DataError {
        DataError::scratch(self.file.scratch(), error)
    }

    pub(super) fn finish(mut self) -> Result<Documents, DataError> {
        self.flush()?;
        Ok(Documents { file: Arc::new(self.file), count: self.count })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_read_in_order_and_each_at_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = DocumentsWriter::new(&Scratch::unlimited(folder.path())).unwrap();
        // The third does not fit the buffer; the last stays in it.
        let texts = ["a".to_owned(), String::new(), "ä".repeat(BUFFER), "b".to_owned()];
        let places: Vec<u64> = texts.iter().map(|text| writer.push(text).unwrap()).collect();
        for (text, at) in texts.iter().zip(&places) {
            assert!(writer.get(*at).unwrap() == *text);
        }
        let documents = writer.finish().unwrap();
        for _ in 0..2 {
            assert!(documents.read().map(Result::unwrap).eq(texts.iter().cloned()));
        }
    }
}
