//! Prepared text in storage, so that a run that goes on elsewhere need not prepare it again.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use stoker_crds::{artifact::TOKENIZER, metric::Split, progress::DataStats};

use super::{
    Corpus, Tokenizer,
    sequences::{Layout, Sequences},
};
use crate::{
    artifact::{ArtifactError, Committed, Writer, read_manifest, remove, stream_file},
    data::{DataError, Scratch, scratch::ScratchFile},
    storage::Folder,
};

/// The [`Description`].
const CORPUS: &str = "corpus.json";
/// Bytes that are handed to the storage at a time.
const PIECE: usize = 1 << 20;

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

/// Why what was kept cannot be taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeptError {
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error("{uri}: {detail}")]
    Unfit { uri: String, detail: String },
}

/// Writes a corpus to a folder, in place of another that is there.
///
/// # Errors
/// If the storage fails. Then nothing is there that could be taken.
pub async fn keep(corpus: &Corpus, folder: &Folder) -> Result<(), ArtifactError> {
    if corpus.is_kept {
        return Ok(());
    }
    remove(folder).await?;
    let mut writer = Writer::begin(folder, None).await?;
    for (split, sequences) in Split::ALL.into_iter().zip(corpus.splits()) {
        let (tokens, counts) = sequences.bytes();
        writer.write(&tokens_of(split), pieces(tokens)).await?;
        if let Some(counts) = counts {
            writer.write(&counts_of(split), pieces(counts)).await?;
        }
    }
    writer.write(TOKENIZER, pieces(corpus.tokenizer.to_json())).await?;
    let description = Description {
        key: corpus.key.clone(),
        stats: corpus.stats.clone(),
        warning: corpus.warning.clone(),
        end_of_text: corpus.tokenizer.end_of_text(),
        splits: corpus.splits().map(|sequences| sequences.layout().clone()),
    };
    writer.write(CORPUS, pieces(&serde_json::to_vec(&description)?)).await?;
    writer.commit().await.map(drop)
}

fn pieces(bytes: &[u8]) -> impl Iterator<Item = Result<Bytes, ArtifactError>> {
    bytes.chunks(PIECE).map(|piece| Ok(Bytes::copy_from_slice(piece)))
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
    let tokenizer = Tokenizer::from_json(&kept.read(TOKENIZER).await?, Some(description.end_of_text));
    let tokenizer = tokenizer.map_err(|error| kept.unfit(error.to_string()))?;
    let Description { key, stats, warning, splits: [train, validation, test], .. } = description;
    Ok(Some(Corpus {
        key,
        is_kept: true,
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
    async fn read(&self, name: &str) -> Result<Vec<u8>, KeptError> {
        let mut bytes = Vec::new();
        self.stream(name, |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })
        .await?;
        Ok(bytes)
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

    /// A file of the scratch folder with the same bytes.
    async fn copy(&self, name: &str, scratch: &Scratch) -> Result<ScratchFile, KeptError> {
        let failed = |error| DataError::scratch(scratch, error);
        let file = scratch.file().map_err(failed)?;
        self.stream(name, |piece| Ok(file.append(piece).map_err(failed)?)).await?;
        Ok(file)
    }

    async fn stream(&self, name: &str, to: impl FnMut(&[u8]) -> Result<(), KeptError>) -> Result<(), KeptError> {
        let file = self.kept.manifest.file(name).ok_or_else(|| self.unfit(format!("it has no file '{name}'")))?;
        stream_file(self.folder, file, to).await
    }

    fn unfit(&self, detail: String) -> KeptError {
        KeptError::Unfit { uri: self.folder.uri.clone(), detail }
    }
}
