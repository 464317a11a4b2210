//! Files of the scratch folder, mapped into memory to be read.
#![expect(unsafe_code, reason = "to map a file is unsafe: see `Mapped::new` for why it is sound here")]

use std::io;

use memmap2::Mmap;

use crate::data::scratch::ScratchFile;

/// A file's bytes, which the system reads as they are looked at and forgets when it needs the memory.
#[derive(Debug)]
pub(super) struct Mapped {
    /// `None` of a file without bytes, which cannot be mapped.
    bytes: Option<Mmap>,
    // Unmapped before: fields are dropped in their order.
    _file: ScratchFile,
}

impl Mapped {
    /// Maps a file that is written to the end.
    pub(super) fn new(file: ScratchFile) -> io::Result<Self> {
        if file.written() == 0 {
            return Ok(Self { bytes: None, _file: file });
        }
        // SAFETY: the bytes of a mapping must not change, and the file must not become shorter, while it is looked at.
        // The file has no name, so no other program can open it. In this one it was given away by value: the one handle to
        // it is now a private field that nothing here writes to, and it outlives the mapping. All its bytes were written,
        // so each has its place on the disk, and a full disk cannot fail a look at it.
        let bytes = unsafe { Mmap::map(file.file()) }?;
        Ok(Self { bytes: Some(bytes), _file: file })
    }

    /// The file's bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.as_deref().unwrap_or_default()
    }
}
