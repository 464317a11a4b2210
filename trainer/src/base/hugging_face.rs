//! A folder as Hugging Face's transformers save a model.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use bytes::Bytes;
use object_store::ObjectStoreExt;
use serde::Deserialize;
use stoker_crds::artifact::{ADAPTER_CONFIG, CONFIG, TOKENIZER, WEIGHTS, is_flat_name};

use super::{BaseError, Files};
use crate::{
    artifact::{digest, sha256},
    machine::Memory,
    model::{ModelError, WeightBytes},
    storage::{Folder, StorageError},
    text::MAX_JSON,
};

/// The index of weights that lie in several files.
const INDEX: &str = "model.safetensors.index.json";
/// The most bytes of a `config.json`, and of an index.
const MAX_DESCRIPTION: u64 = 64 << 20;

#[derive(Deserialize)]
struct Index {
    /// Which file holds a tensor.
    weight_map: BTreeMap<String, String>,
}

/// Reads the files of a folder. How large each is, is looked at before it is read.
pub(super) async fn read(folder: &Folder) -> Result<Files, BaseError> {
    let left = Memory::read().total().unwrap_or(u64::MAX);
    let mut reader = Reader { folder, left, digests: String::new() };
    let missing = |file, fix| BaseError::Missing { uri: folder.uri.clone(), file, fix };
    let Some(config) = reader.file(CONFIG, MAX_DESCRIPTION).await? else {
        // Of adapters there is a folder of their own, which is no model.
        return Err(match reader.file(ADAPTER_CONFIG, MAX_DESCRIPTION).await? {
            Some(_) => BaseError::Adapter { uri: folder.uri.clone() },
            None => missing(CONFIG, "correct the URI, or upload what save_pretrained wrote"),
        });
    };
    let weights = match reader.file(WEIGHTS, u64::MAX).await? {
        Some(weights) => WeightBytes::Single(weights),
        None => reader.shards().await?.ok_or_else(|| {
            missing(WEIGHTS, "only safetensors are read; save the model with safe_serialization=True, and upload it")
        })?,
    };
    let tokenizer = reader.file(TOKENIZER, MAX_JSON as u64).await?;
    Ok(Files { digest: digest(reader.digests.as_bytes()), config, weights, tokenizer })
}

struct Reader<'a> {
    folder: &'a Folder,
    /// How many bytes the memory can still take.
    left: u64,
    /// A line for each file that was read.
    digests: String,
}

impl Reader<'_> {
    /// The content of a file; `None` if there is none.
    async fn file(&mut self, name: &str, most: u64) -> Result<Option<Bytes>, BaseError> {
        let file = self.folder.join(name);
        let got = match file.store.get(&file.path).await.map_err(|error| file.error(error)) {
            Err(StorageError::NotFound { .. }) => return Ok(None),
            got => got?,
        };
        let size = got.meta.size;
        if size > most {
            return Err(BaseError::TooLarge { uri: file.uri, size, most });
        }
        let left = self.left;
        self.left = left.checked_sub(size).ok_or(BaseError::Memory { uri: file.uri.clone(), size, left })?;
        let bytes = got.bytes().await.map_err(|error| file.error(error))?;
        let _ = writeln!(self.digests, "{name} {}", sha256(&bytes));
        Ok(Some(bytes))
    }

    /// Weights in several files; `None` if there is no index.
    async fn shards(&mut self) -> Result<Option<WeightBytes>, BaseError> {
        let uri = self.folder.uri.clone();
        let Some(index) = self.file(INDEX, MAX_DESCRIPTION).await? else { return Ok(None) };
        let refused = |source: ModelError| BaseError::Model { uri: uri.clone(), source: source.into() };
        let Index { weight_map } = serde_json::from_slice(&index).map_err(ModelError::Index).map_err(refused)?;
        let mut shards = Vec::new();
        for file in weight_map.into_values().collect::<BTreeSet<_>>() {
            if !is_flat_name(&file) {
                return Err(BaseError::Name { uri, file });
            }
            // One that is missing is named when the index is compared with what is there.
            if let Some(bytes) = self.file(&file, u64::MAX).await? {
                shards.push((file, bytes));
            }
        }
        Ok(Some(WeightBytes::Sharded { index, shards }))
    }
}
