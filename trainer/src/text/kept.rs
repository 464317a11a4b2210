//! Prepared text in storage, so that a run that goes on elsewhere need not prepare it again.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use stoker_crds::{artifact::TOKENIZER, metric::Split, progress::DataStats};
use tokio_util::sync::CancellationToken;

use super::{
    Corpus, Tokenizer,
    sequences::{Layout, Sequences},
};
use crate::{
    artifact::{ArtifactError, Committed, Writer, read_file, read_manifest, remove, stream_file},
    data::{DataError, Scratch, scratch::ScratchFile},
    storage::Folder,
};

/// The [`Description`].
const CORPUS: &str = "corpus.json";
/// Bytes that are handed to the storage at a time.
const PIECE: usize = 1 << 20;
/// The most bytes of a file: no storage takes more than 10,000 parts of one, which are 8 MiB each here.
const FILE: usize = 64 << 30;

/// All of a [`Corpus`] but its tokenizer and its tokens.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Description {
    /// What it was prepared of, and how.
    key: String,
    stats: DataStats,
    warning: Option<String>,
    end_of_text: u32,
    /// In the order of [`Split::ALL`].
    splits: [Layout; 3],
}

/// Why a corpus cannot be kept, or what was kept cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// It cannot be written or read.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The scratch folder fails.
    #[error(transparent)]
    Data(#[from] DataError),
    /// What was kept is no corpus.
    #[error("{uri}: {detail}")]
    Unfit {
        /// The folder.
        uri: String,
        /// What is wrong with it.
        detail: String,
    },
    /// It was told to write no more.
    #[error("it was halted")]
    Halted,
}

impl KeptError {
    /// Whether it is what was kept that is at fault.
    pub(super) fn is_broken(&self) -> bool {
        match self {
            Self::Artifact(error) => error.is_broken() || matches!(error, ArtifactError::Json(_)),
            Self::Unfit { .. } => true,
            Self::Data(_) | Self::Halted => false,
        }
    }
}

/// Writes a corpus to a folder, in place of another that is there; not one that was taken from there.
///
/// # Errors
/// If it is halted, or the storage fails. Then nothing is there that could be taken.
pub async fn keep(corpus: &Corpus, folder: &Folder, halt: &CancellationToken) -> Result<(), KeptError> {
    if corpus.is_taken {
        return Ok(());
    }
    remove(folder).await?;
    let mut writer = Writer::begin(folder, None).await?;
    for (split, sequences) in Split::ALL.into_iter().zip(corpus.splits()) {
        let (tokens, counts) = sequences.bytes();
        let files = files_of(tokens_of(split), tokens).chain(files_of(counts_of(split), counts.unwrap_or_default()));
        for (name, bytes) in files {
            writer.write(&name, pieces(bytes, halt)).await?;
        }
    }
    writer.write(TOKENIZER, pieces(corpus.tokenizer.to_json(), halt)).await?;
    let description = Description {
        key: corpus.key.clone(),
        stats: corpus.stats.clone(),
        warning: corpus.warning.clone(),
        end_of_text: corpus.tokenizer.end_of_text(),
        splits: corpus.splits().map(|sequences| sequences.layout().clone()),
    };
    let description = serde_json::to_vec(&description).map_err(ArtifactError::from)?;
    writer.write(CORPUS, pieces(&description, halt)).await?;
    Ok(writer.commit().await.map(drop)?)
}

/// The pieces of a file, until it is halted.
fn pieces(bytes: &[u8], halt: &CancellationToken) -> impl Iterator<Item = Result<Bytes, KeptError>> {
    bytes.chunks(PIECE).map(|piece| match halt.is_cancelled() {
        true => Err(KeptError::Halted),
        false => Ok(Bytes::copy_from_slice(piece)),
    })
}

/// Bytes as files of a storage, none of no bytes.
fn files_of(name: String, bytes: &[u8]) -> impl Iterator<Item = (String, &[u8])> {
    bytes.chunks(FILE).enumerate().map(move |(number, bytes)| (numbered(&name, number), bytes))
}

fn numbered(name: &str, number: usize) -> String {
    format!("{name}-{number}")
}

fn tokens_of(split: Split) -> String {
    format!("{}.tokens", split.name())
}

fn counts_of(split: Split) -> String {
    format!("{}.counts", split.name())
}

/// The corpus of that key that was kept in a folder; `None` if there is none, or one of another.
///
/// # Errors
/// If it is damaged, or cannot be read.
pub(super) async fn take(folder: &Folder, key: &str, scratch: &Scratch) -> Result<Option<Corpus>, KeptError> {
    let kept = match read_manifest(folder, None).await {
        Ok(manifest) => Files { folder, kept: manifest },
        Err(ArtifactError::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let description: Description = serde_json::from_slice(&kept.read(CORPUS).await?).map_err(ArtifactError::from)?;
    if description.key != key {
        return Ok(None);
    }
    tracing::info!(uri = folder.uri, "the text was prepared before, and is fetched");
    let tokenizer = Tokenizer::from_json(&kept.read(TOKENIZER).await?, Some(description.end_of_text));
    let tokenizer = tokenizer.map_err(|error| kept.unfit(error.to_string()))?;
    let Description { key, stats, warning, splits: [train, validation, test], .. } = description;
    Ok(Some(Corpus {
        key,
        is_taken: true,
        tokenizer,
        stats,
        warning,
        train: kept.sequences(Split::Train, train, scratch).await?,
        validation: kept.sequences(Split::Validation, validation, scratch).await?,
        test: kept.sequences(Split::Test, test, scratch).await?,
    }))
}

/// The files of a corpus in storage.
struct Files<'a> {
    folder: &'a Folder,
    kept: Committed,
}

impl Files<'_> {
    async fn read(&self, name: &str) -> Result<Bytes, KeptError> {
        let file = self.kept.manifest.file(name).ok_or_else(|| self.unfit(format!("it has no file '{name}'")))?;
        Ok(read_file(self.folder, file).await?)
    }

    async fn sequences(&self, split: Split, layout: Layout, scratch: &Scratch) -> Result<Sequences, KeptError> {
        let tokens = self.copy(&tokens_of(split), scratch).await?;
        let counts = match layout.is_counted {
            true => Some(self.copy(&counts_of(split), scratch).await?),
            false => None,
        };
        let sequences = Sequences::of(layout, tokens, counts).map_err(|error| DataError::scratch(scratch, error))?;
        sequences
            .ok_or_else(|| self.unfit(format!("the tokens of the {} split are not as many as it says", split.name())))
    }

    /// One file of the scratch folder with the bytes of [`files_of`] that name.
    async fn copy(&self, name: &str, scratch: &Scratch) -> Result<ScratchFile, KeptError> {
        let failed = |error| DataError::scratch(scratch, error);
        let copy = scratch.file().map_err(failed)?;
        let files = (0..).map_while(|number| self.kept.manifest.file(&numbered(name, number)));
        for file in files {
            stream_file(self.folder, file, |piece| Ok::<_, KeptError>(copy.append(piece).map_err(failed)?)).await?;
        }
        Ok(copy)
    }

    fn unfit(&self, detail: String) -> KeptError {
        KeptError::Unfit { uri: self.folder.uri.clone(), detail }
    }
}
