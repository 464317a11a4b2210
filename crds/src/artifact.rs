//! What lies in object storage, and how it is named.
//!
//! `<root>/<namespace>/<training>/runs/<run>/checkpoints/<step>/…`, `<root>/<namespace>/<training>/runs/<run>/prepared/…`
//! and `<root>/<namespace>/<training>/models/<digest>/…`.
//! Only what a `manifest.json` lists exists; it is written last, with a conditional put.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The name of the file that commits an artifact.
pub const MANIFEST: &str = "manifest.json";
/// Architecture and signature of a model.
pub const CONFIG: &str = "config.json";
/// Weights of a model.
pub const WEIGHTS: &str = "model.safetensors";
/// What the adapters of a model are, in place of [`CONFIG`] where they alone are published; as Hugging Face's `peft` reads it.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
/// The adapters of a model, in place of [`WEIGHTS`] where they alone are published.
pub const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";
/// The fitted transforms of a model.
pub const PREPROCESSOR: &str = "preprocessor.json";
/// The tokenizer of a language model, as Hugging Face's `tokenizers` read it.
pub const TOKENIZER: &str = "tokenizer.json";
/// Final metrics and lineage of a model.
pub const METRICS: &str = "metrics.json";
/// The longest file name that a manifest may hold.
pub const MAX_NAME: usize = 128;
/// The most files that a manifest may list.
pub const MAX_FILES: usize = 1024;

/// The list of an artifact's files: flat names, sizes, digests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// Version of this format.
    pub format: u32,
    /// Who wrote a checkpoint: the run's id. `None` for a model, which is named by its content alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// The files, sorted by name.
    pub files: Vec<ManifestFile>,
}

/// One file of a [`Manifest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ManifestFile {
    /// A flat name: letters, digits, `.`, `_` and `-`, not starting with a dot.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256, 64 lowercase hexadecimal digits.
    pub sha256: String,
}

/// Why a manifest is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The format is of another version.
    #[error("manifest format {0} is not known to this version, which reads format {FORMAT}")]
    Format(u32),
    /// Too many files.
    #[error("the manifest lists {0} files; at most {MAX_FILES} are allowed")]
    TooManyFiles(usize),
    /// A name that could leave the artifact's folder, or is not portable.
    #[error("the manifest lists '{0}', which is no flat file name")]
    Name(String),
    /// A name that stands twice.
    #[error("the manifest lists '{0}' more than once")]
    Duplicate(String),
    /// A digest that is none.
    #[error("the manifest's SHA-256 of '{0}' is not 64 hexadecimal digits")]
    Digest(String),
}

/// The manifest format that is written.
pub const FORMAT: u32 = 1;

impl Manifest {
    /// Checks everything that can be checked without the files.
    ///
    /// # Errors
    /// If the format is unknown, or a name or digest could not have been written by Stoker.
    pub fn validate(&self) -> Result<(), ManifestError> {
        if self.format != FORMAT {
            return Err(ManifestError::Format(self.format));
        }
        if self.files.len() > MAX_FILES {
            return Err(ManifestError::TooManyFiles(self.files.len()));
        }
        let mut names = std::collections::BTreeSet::new();
        for file in &self.files {
            if !is_flat_name(&file.name) {
                return Err(ManifestError::Name(file.name.clone()));
            }
            if !names.insert(&file.name) {
                return Err(ManifestError::Duplicate(file.name.clone()));
            }
            let is_hex = file.sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            if file.sha256.len() != 64 || !is_hex {
                return Err(ManifestError::Digest(file.name.clone()));
            }
        }
        Ok(())
    }

    /// The file of that name.
    pub fn file(&self, name: &str) -> Option<&ManifestFile> {
        self.files.iter().find(|file| file.name == name)
    }
}

/// Whether a name stays in its folder on every file system and object store.
pub fn is_flat_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    !name.is_empty() && name.len() <= MAX_NAME && !name.starts_with('.') && name.bytes().all(allowed)
}

/// The last checkpoint of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointRef {
    /// Optimizer steps that it holds.
    pub step: u64,
    /// When it was committed, RFC 3339.
    pub time: String,
    /// The folder that holds it.
    pub uri: String,
    /// `sha256:…` of its manifest.
    pub digest: String,
}

/// A published model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelRef {
    /// The folder that holds it.
    pub uri: String,
    /// `sha256:…` of its manifest.
    pub digest: String,
    /// When it was published, RFC 3339.
    pub published_at: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(name: &str) -> Manifest {
        let file = ManifestFile { name: name.into(), size: 1, sha256: "0".repeat(64) };
        Manifest { format: FORMAT, run: None, files: vec![file] }
    }

    #[test]
    fn only_flat_names_pass() {
        assert_eq!(manifest("model.safetensors").validate(), Ok(()));
        for name in ["", ".", "..", ".hidden", "a/b", "../a", "a\\b", "a\0b", "/a", "a b", "ä", &"a".repeat(129)] {
            assert_eq!(manifest(name).validate(), Err(ManifestError::Name(name.into())), "{name:?}");
        }
    }

    #[test]
    fn a_name_listed_twice_is_refused() {
        let mut twice = manifest("a");
        twice.files.push(twice.files[0].clone());
        assert_eq!(twice.validate(), Err(ManifestError::Duplicate("a".into())));
    }
}
