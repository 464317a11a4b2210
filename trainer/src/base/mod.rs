//! The model that a training starts from: an artifact of Stoker, or a folder of Hugging Face's transformers.

mod adapters;
mod hugging_face;
#[cfg(test)]
mod tests;

use burn::tensor::Device;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use stoker_crds::{
    Reason,
    artifact::{ADAPTER_CONFIG, CONFIG, METRICS, TOKENIZER, WEIGHTS},
    training::{
        Text,
        model::{BaseFormat, BaseModel, Lora},
    },
};

use crate::{
    artifact::{self, ArtifactError},
    model::{Adapted, Architecture, ModelError, Network, StartingModel, WeightBytes, end_of_text},
    storage::{Access, Folder, StorageError},
    text::{Tokenizer, TokenizerError, Vocabulary},
};

/// A model that a training starts from: read, verified, and found to be what is wanted. It is on the host still.
#[derive(Clone, Debug)]
pub struct Base {
    source: BaseRef,
    model: StartingModel,
    /// Its `tokenizer.json`, if it has one.
    tokenizer: Option<Bytes>,
    /// The token that ends a text by its `config.json`.
    end_of_text: Option<u32>,
}

/// Which model a training started from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseRef {
    /// The folder that holds it.
    pub uri: String,
    /// `sha256:…` of an artifact's manifest, or of the names and digests of the files of a folder that has none.
    pub digest: String,
}

/// Why a model cannot be started from.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The artifact cannot be read, or is not the one that is wanted.
    #[error("spec.model.from: {0}")]
    Artifact(#[from] ArtifactError),
    /// A folder lacks a file.
    #[error("spec.model.from.huggingFace: {uri} holds no {file}: {fix}")]
    Missing {
        /// The folder.
        uri: String,
        /// The file.
        file: &'static str,
        /// What to do about it.
        fix: &'static str,
    },
    /// A folder's index names a file that cannot lie in it.
    #[error("spec.model.from.huggingFace: the index of {uri} names the file '{file}', which is no flat file name")]
    Name {
        /// The folder.
        uri: String,
        /// The file.
        file: String,
    },
    /// A file is longer than what is read.
    #[error("spec.model.from.huggingFace: {uri} is {size} bytes large; at most {most} bytes are read")]
    TooLarge {
        /// The file.
        uri: String,
        /// Its bytes.
        size: u64,
        /// The most bytes that are read.
        most: u64,
    },
    /// A file does not fit the memory.
    #[error(
        "spec.model.from.huggingFace: {uri} is {size} bytes large and is read into memory, of which {left} bytes are left: set \
         resources.memory to more"
    )]
    Memory {
        /// The file.
        uri: String,
        /// Its bytes.
        size: u64,
        /// The bytes that those before it leave of the memory.
        left: u64,
    },
    /// It holds adapters alone, and nothing says of which model.
    #[error(
        "spec.model.from: {uri} holds adapters (LoRA) alone, and nothing that says of which model: add them to their model \
         (merge_and_unload of peft), and start from that"
    )]
    Adapter {
        /// The folder.
        uri: String,
    },
    /// It holds adapters of a model that cannot be read.
    #[error(
        "spec.model.from: {uri} holds adapters (LoRA) of {base}, which is read with the same credentials and from the same \
         volume: {source}. Bring it where these reach, or train the adapters with lora.export Merged and start from that"
    )]
    OfAdapters {
        /// The folder of the adapters.
        uri: String,
        /// The folder of the model.
        base: String,
        /// Why it cannot be read.
        source: Box<BaseError>,
    },
    /// The model that adapters are of is another one by now.
    #[error("{uri} is not what it was when the adapters were trained: restore it from a backup")]
    Changed {
        /// The folder of the model.
        uri: String,
    },
    /// The metrics of adapters cannot be read.
    #[error("spec.model.from: the {METRICS} of {uri} cannot be read: {source}; publish the adapters again")]
    Lineage {
        /// The folder.
        uri: String,
        /// What is wrong with them.
        source: serde_json::Error,
    },
    /// The files are not those of a model that can be trained on as is wanted.
    #[error("spec.model.from: {uri}: {source}")]
    Model {
        /// The folder.
        uri: String,
        /// What does not fit.
        source: Box<ModelError>,
    },
    /// The tokenizer cannot be used.
    #[error(
        "spec.model.from: the {TOKENIZER} of {uri}: {source}; name one that can be used in spec.data.text.tokenizer.file"
    )]
    Tokenizer {
        /// The folder.
        uri: String,
        /// What is wrong with it.
        source: TokenizerError,
    },
}

impl BaseError {
    /// The reason that is reported.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Storage(error) => error.reason(),
            Self::Artifact(error) => error.reason(),
            Self::Missing { .. } => Reason::DataNotFound,
            Self::Memory { .. } => Reason::OutOfMemory,
            Self::Name { .. } | Self::TooLarge { .. } | Self::Changed { .. } | Self::Lineage { .. } => {
                Reason::CorruptArtifact
            }
            Self::Adapter { .. } => Reason::InvalidConfig,
            Self::OfAdapters { source, .. } => source.reason(),
            Self::Model { source, .. } => source.reason(),
            Self::Tokenizer { source, .. } => source.reason(),
        }
    }
}

impl Base {
    /// Reads a model to start from, and sees whether all of it fits: names, types and shapes of the weights are compared with
    /// its `config.json` before anything is asked for by what a file claims.
    ///
    /// # Errors
    /// If it is not there, damaged, not the one that is wanted, or no model that can be trained on as is wanted.
    pub async fn open(wish: &BaseModel, access: &Access) -> Result<Self, BaseError> {
        let folder = access.open(&wish.uri)?;
        let files = match wish.format {
            BaseFormat::Artifact => of_artifact(&folder, wish.digest.as_deref(), access).await?,
            BaseFormat::HuggingFace => hugging_face::read(&folder).await?,
        };
        let Files { digest, config, weights, tokenizer } = files;
        let uri = wish.uri.clone();
        let end_of_text = end_of_text(&config);
        // To compare a large index of tensors takes a moment, in which the progress goes on being answered.
        let wanted = wish.clone();
        let model = on_own_thread(move || StartingModel::new(&config, weights, &wanted)).await;
        let model = model.map_err(|source| BaseError::Model { uri: uri.clone(), source: source.into() })?;
        Ok(Self { source: BaseRef { uri, digest }, model, tokenizer, end_of_text })
    }

    /// Which model it is.
    pub fn source(&self) -> &BaseRef {
        &self.source
    }

    /// What is trained.
    pub fn architecture(&self) -> Architecture {
        Architecture::Language(self.model.language().clone())
    }

    /// The adapters that alone are trained, if not all weights are.
    pub fn lora(&self) -> Option<&Lora> {
        self.model.lora()
    }

    /// How large these adapters are.
    pub fn adapted(&self) -> Option<Adapted> {
        self.model.adapted()
    }

    /// How many tokens it reads at once in this training.
    pub fn context(&self) -> usize {
        self.model.language().transformer().context as usize
    }

    /// The tokens that it tells apart. A tokenizer of its own that cannot be used is of no matter where another one is
    /// named.
    ///
    /// # Errors
    /// If its tokenizer is needed and cannot be used.
    pub fn vocabulary(&self, text: Option<&Text>) -> Result<Vocabulary, BaseError> {
        let (tensor, shape) = self.model.language().token_matrix();
        let is_other_named = text.is_some_and(|text| text.tokenizer.is_some());
        let tokenizer =
            match self.tokenizer.as_ref().map(|json| Tokenizer::from_json(json, self.end_of_text)).transpose() {
                Ok(tokenizer) => tokenizer,
                Err(_) if is_other_named => None,
                Err(source) => return Err(BaseError::Tokenizer { uri: self.source.uri.clone(), source }),
            };
        Ok(Vocabulary { tensor, shape, tokenizer })
    }

    /// The model on a device; with adapters, which the seed decides, if it is to have some.
    ///
    /// # Errors
    /// If the device fails.
    pub fn load(&self, seed: u64, device: &Device) -> Result<Network, ModelError> {
        self.model.load(seed, device)
    }
}

/// The files of a model.
struct Files {
    digest: String,
    config: Bytes,
    weights: WeightBytes,
    tokenizer: Option<Bytes>,
}

/// Runs what computes for long beside what answers.
async fn on_own_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
}

async fn of_artifact(folder: &Folder, digest: Option<&str>, access: &Access) -> Result<Files, BaseError> {
    let artifact = artifact::open(folder, digest).await?;
    if artifact.file(ADAPTER_CONFIG).is_ok() {
        return adapters::read(&folder.uri, &artifact, access).await;
    }
    Ok(Files {
        digest: artifact.digest.clone(),
        config: artifact.file(CONFIG)?.clone(),
        weights: WeightBytes::Single(artifact.file(WEIGHTS)?.clone()),
        tokenizer: artifact.file(TOKENIZER).ok().cloned(),
    })
}
