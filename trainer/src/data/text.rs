//! The text of a CSV or JSON-lines file: read as a stream, uncompressed, and taken apart into batches.

use async_compression::tokio::bufread::{BzDecoder, GzipDecoder, XzDecoder, ZstdDecoder};
use datafusion::{
    arrow::{csv, error::ArrowError, json, record_batch::RecordBatch},
    error::DataFusionError,
};
use futures::{StreamExt, stream, stream::BoxStream};
use object_store::{GetResultPayload, ObjectStoreExt};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};
use tokio_util::io::StreamReader;

use super::source::SourceFile;

/// Bytes that are read from a file or uncompressed at a time.
const BUFFER: usize = 128 << 10;

/// The uncompressed text of a file.
pub(crate) type Text = Box<dyn AsyncBufRead + Send + Unpin>;

/// Opens a file. Its extension says how it is compressed.
///
/// Read to the end of its last member: tools that compress on several threads, or append, write more than one. A file
/// that ends within a member is an error.
pub(crate) async fn open(file: &SourceFile) -> Result<Text, DataFusionError> {
    let bytes: Text = match file.folder.store.get(&file.folder.path).await?.payload {
        GetResultPayload::File(file, _) => Box::new(BufReader::with_capacity(BUFFER, tokio::fs::File::from_std(file))),
        GetResultPayload::Stream(bytes) => Box::new(StreamReader::new(bytes.fuse())),
    };
    macro_rules! uncompressed {
        ($decoder:ident) => {{
            let mut decoder = $decoder::new(bytes);
            decoder.multiple_members(true);
            Box::new(BufReader::with_capacity(BUFFER, decoder))
        }};
    }
    let text: Text = match file.uri().rsplit('.').next() {
        Some("gz") => uncompressed!(GzipDecoder),
        Some("bz2") => uncompressed!(BzDecoder),
        Some("xz") => uncompressed!(XzDecoder),
        Some("zst") => uncompressed!(ZstdDecoder),
        _ => bytes,
    };
    Ok(text)
}

/// What takes a text apart, piece by piece.
pub(super) enum Decoder {
    Csv(Box<csv::reader::Decoder>),
    Json(json::reader::Decoder),
}

impl Decoder {
    /// Takes in what it can: nothing more once a batch is full, or the text is at its end.
    fn decode(&mut self, piece: &[u8]) -> Result<usize, ArrowError> {
        match self {
            Self::Csv(decoder) => decoder.decode(piece),
            Self::Json(decoder) => decoder.decode(piece),
        }
    }

    fn flush(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        match self {
            Self::Csv(decoder) => decoder.flush(),
            Self::Json(decoder) => decoder.flush(),
        }
    }
}

/// The rows of a text. No more of it than a batch is held in memory.
pub(super) fn batches(text: Text, decoder: Decoder) -> BoxStream<'static, Result<RecordBatch, DataFusionError>> {
    let batches = stream::try_unfold((text, decoder), |(mut text, mut decoder)| async move {
        loop {
            let taken = decoder.decode(text.fill_buf().await?)?;
            text.consume(taken);
            if taken == 0 {
                break;
            }
        }
        Ok::<_, DataFusionError>(decoder.flush()?.map(|batch| (batch, (text, decoder))))
    });
    batches.boxed()
}
