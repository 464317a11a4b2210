//! The scratch folder: files without names, of a bounded size in all.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::DataError;

/// The room to work in: a folder for temporary files, how much may lie in it, and the memory beside it.
///
/// The bound of the folder is the trainer's own: a node does not see how much is in files that have no name, and would end
/// the pod without a word if it did.
#[derive(Clone, Debug)]
pub struct Scratch {
    folder: Arc<Path>,
    limit: u64,
    memory: u64,
    used: Arc<AtomicU64>,
}

impl Scratch {
    /// The folder, with room for so many bytes.
    pub fn new(folder: impl Into<Arc<Path>>, limit: u64) -> Self {
        Self { folder: folder.into(), limit, memory: u64::MAX, used: Arc::default() }
    }

    /// The folder, with as much room as its disk has.
    pub fn unlimited(folder: impl Into<Arc<Path>>) -> Self {
        Self::new(folder, u64::MAX)
    }

    /// The same with so many bytes of memory for the whole process, if the machine has that much.
    #[must_use]
    pub fn with_memory(self, bytes: u64) -> Self {
        Self { memory: bytes, ..self }
    }

    /// The bytes of memory for the whole process.
    pub(crate) fn memory(&self) -> u64 {
        self.memory
    }

    /// Where it lies.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes the folder.
    pub(crate) fn create(&self) -> Result<(), DataError> {
        fs::create_dir_all(&self.folder).map_err(|error| DataError::scratch(self, error))
    }

    /// A new file without a name.
    pub(crate) fn file(&self) -> io::Result<ScratchFile> {
        Ok(ScratchFile {
            file: tempfile::tempfile_in(&self.folder)?,
            scratch: self.clone(),
            written: AtomicU64::new(0),
        })
    }

    /// Takes room for so many bytes more.
    fn take(&self, bytes: u64) -> io::Result<()> {
        let fits = |used: u64| used.checked_add(bytes).filter(|used| *used <= self.limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).map(drop).map_err(|_| {
            io::Error::new(io::ErrorKind::QuotaExceeded, format!("more than its {} bytes are needed", self.limit))
        })
    }
}

/// A file of the scratch folder. It vanishes, and gives its room back, when it is dropped.
#[derive(Debug)]
pub(crate) struct ScratchFile {
    file: File,
    scratch: Scratch,
    written: AtomicU64,
}

impl ScratchFile {
    /// The file, to be read from.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// The folder that it lies in.
    pub(crate) fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// How many bytes were written to it.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Writes at its end.
    pub(crate) fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let more = bytes.len() as u64;
        self.scratch.take(more)?;
        self.written.fetch_add(more, Ordering::Relaxed);
        (&self.file).write_all(bytes)
    }
}

impl Write for ScratchFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.append(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for ScratchFile {
    fn drop(&mut self) {
        self.scratch.used.fetch_sub(self.written(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_share_the_room_and_give_it_back() {
        let folder = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(folder.path(), 10);
        let (mut first, mut second) = (scratch.file().unwrap(), scratch.file().unwrap());
        first.write_all(&[0; 6]).unwrap();
        assert_eq!(second.write_all(&[0; 5]).unwrap_err().kind(), io::ErrorKind::QuotaExceeded);
        second.write_all(&[0; 4]).unwrap();
        drop(first);
        second.write_all(&[0; 6]).unwrap();
    }
}
