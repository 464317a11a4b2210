//! What DataFusion spills, in files of the scratch folder: they have no names, and share its room with all others.

use std::{
    io::{self, Write},
    os::unix::fs::FileExt,
    pin::Pin,
    sync::Arc,
};

use bytes::Bytes;
use datafusion::{
    error::DataFusionError,
    execution::{SpillFile, SpillWriter, TempFileFactory},
};
use futures::{Stream, stream};

use super::scratch::{Scratch, ScratchFile};

/// Bytes that are read at a time.
const CHUNK: usize = 128 << 10;

/// A file that is spilled to.
struct Spilled(Arc<ScratchFile>);

impl TempFileFactory for Scratch {
    fn create_temp_file(&self, _: &str) -> Result<Arc<dyn SpillFile>, DataFusionError> {
        Ok(Arc::new(Spilled(Arc::new(self.file()?))))
    }
}

impl SpillFile for Spilled {
    fn size(&self) -> Option<u64> {
        Some(self.0.written())
    }

    fn read_stream(
        &self,
    ) -> Result<Pin<Box<dyn Stream<Item = Result<Bytes, DataFusionError>> + Send>>, DataFusionError> {
        Ok(Box::pin(stream::try_unfold((Arc::clone(&self.0), 0), |(file, offset)| async move {
            let reader = Arc::clone(&file);
            let chunk = tokio::task::spawn_blocking(move || read_chunk(&reader, offset)).await;
            let chunk = chunk.map_err(io::Error::from)??;
            let end = offset + chunk.len() as u64;
            Ok::<_, DataFusionError>((!chunk.is_empty()).then_some((chunk, (file, end))))
        })))
    }

    fn open_writer(&self) -> Result<Box<dyn SpillWriter>, DataFusionError> {
        Ok(Box::new(Self(Arc::clone(&self.0))))
    }
}

/// The next bytes from an offset on: none at the end.
fn read_chunk(file: &ScratchFile, offset: u64) -> io::Result<Bytes> {
    let mut chunk = vec![0; CHUNK];
    let read = file.file().read_at(&mut chunk, offset)?;
    chunk.truncate(read);
    Ok(chunk.into())
}

impl Write for Spilled {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.append(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl SpillWriter for Spilled {
    fn finish(&mut self) -> Result<(), DataFusionError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use futures::TryStreamExt;

    use super::*;

    #[tokio::test]
    async fn what_is_spilled_is_read_back_and_shares_the_room_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(folder.path(), 4 * CHUNK as u64);
        let mut other = scratch.file().unwrap();
        other.write_all(&[0; CHUNK]).unwrap();
        let spilled = scratch.create_temp_file("sorting").unwrap();
        let mut writer = spilled.open_writer().unwrap();
        let bytes: Vec<u8> = (0..3 * CHUNK).map(|i| (i % 251) as u8).collect();
        let (first, second) = bytes.split_at(CHUNK + 17);
        writer.write_all(first).unwrap();
        let read: Vec<Bytes> = spilled.read_stream().unwrap().try_collect().await.unwrap();
        assert!(read.concat() == first, "a file that is still written to is read as far as it is");
        writer.write_all(second).unwrap();
        assert_eq!(writer.write_all(&[0]).unwrap_err().kind(), io::ErrorKind::QuotaExceeded);
        let read: Vec<Bytes> = spilled.read_stream().unwrap().try_collect().await.unwrap();
        assert!(read.concat() == bytes && spilled.size() == Some(bytes.len() as u64));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "files have no names");
        drop((spilled, writer));
        other.write_all(&bytes).unwrap();
    }
}
