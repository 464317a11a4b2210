//! API keys from a mounted Secret.

use std::{
    fs, io,
    io::Read,
    path::{Path, PathBuf},
    sync::RwLock,
    time::Duration,
};

use axum::http::{HeaderMap, header::AUTHORIZATION};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use tokio_util::sync::CancellationToken;

/// How often the folder is read again.
const RELOAD_EVERY: Duration = Duration::from_secs(2);
/// The longest key that is taken, in bytes.
const MAX_KEY_BYTES: u64 = 4096;

/// The keys that are accepted: those in a folder, one per file, read again and again so that a rotated Secret needs no
/// restart.
#[derive(Debug)]
pub(super) struct ApiKeys {
    folder: PathBuf,
    /// SHA-256 of each key. Digests are of one length, so that comparing them does not tell a key's.
    digests: RwLock<Vec<[u8; 32]>>,
}

/// Why there are no keys to compare with.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the API keys in {}: {source}; mount the Secret of API keys there", folder.display())]
pub struct ApiKeysError {
    folder: PathBuf,
    source: io::Error,
}

impl ApiKeys {
    /// Reads the keys.
    ///
    /// # Errors
    /// If the folder or a file cannot be read.
    pub(super) fn read(folder: &Path) -> Result<Self, ApiKeysError> {
        let keys = Self { folder: folder.to_owned(), digests: RwLock::default() };
        let digests = keys.digests_in_folder()?;
        if digests.is_empty() {
            tracing::warn!(folder = %folder.display(), "there is no API key: every request is refused");
        }
        keys.replace(digests);
        Ok(keys)
    }

    /// Whether a request shows one of the keys, as `Authorization: Bearer …` or `X-API-Key: …`.
    pub(super) fn accept(&self, headers: &HeaderMap) -> bool {
        let bearer = headers.get(AUTHORIZATION).and_then(|value| {
            let (scheme, key) = value.as_bytes().split_at_checked(7)?;
            scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)
        });
        let shown = bearer.or_else(|| headers.get("x-api-key").map(|value| value.as_bytes()));
        let Some(shown) = shown.map(|key| sha256(key.trim_ascii())) else { return false };
        // All are compared, and none early: the time tells nothing about the keys.
        let digests = self.digests.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let found = digests.iter().fold(Choice::from(0), |found, digest| found | digest.ct_eq(&shown));
        found.into()
    }

    /// Reads the folder again and again, until cancelled.
    pub(super) async fn keep_fresh(&self, stop: CancellationToken) {
        let mut interval = tokio::time::interval(RELOAD_EVERY);
        let mut is_failing = false;
        while stop.run_until_cancelled(interval.tick()).await.is_some() {
            // A handful of small files in memory (tmpfs): not worth a thread of its own.
            match self.digests_in_folder() {
                Ok(digests) => {
                    self.replace(digests);
                    is_failing = false;
                }
                Err(error) if !is_failing => {
                    tracing::warn!("{error}; the keys read before stay in force");
                    is_failing = true;
                }
                Err(_) => {}
            }
        }
    }

    fn replace(&self, digests: Vec<[u8; 32]>) {
        *self.digests.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = digests;
    }

    fn digests_in_folder(&self) -> Result<Vec<[u8; 32]>, ApiKeysError> {
        self.keys_in_folder().map_err(|source| ApiKeysError { folder: self.folder.clone(), source })
    }

    fn keys_in_folder(&self) -> io::Result<Vec<[u8; 32]>> {
        let mut digests = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            // Kubernetes keeps the versions of a mounted Secret in `..data` and `..<time>`, and links its files there.
            if entry.file_name().as_encoded_bytes().starts_with(b"..") || !fs::metadata(entry.path())?.is_file() {
                continue;
            }
            let mut key = Vec::new();
            fs::File::open(entry.path())?.take(MAX_KEY_BYTES + 1).read_to_end(&mut key)?;
            let key = key.trim_ascii();
            if key.is_empty() || key.len() as u64 > MAX_KEY_BYTES {
                tracing::debug!(file = %entry.path().display(), "not taken as an API key: empty or too long");
                continue;
            }
            digests.push(sha256(key));
        }
        Ok(digests)
    }
}

fn sha256(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())])
    }

    /// A Secret as the kubelet mounts it: files are links into `..data`, which is a link to the current version.
    fn mount(folder: &Path, version: &str, keys: &[(&str, &str)]) {
        let current = folder.join(format!("..{version}"));
        fs::create_dir(&current).unwrap();
        for (name, key) in keys {
            fs::write(current.join(name), key).unwrap();
            let link = folder.join(name);
            if !link.is_symlink() {
                symlink(Path::new("..data").join(name), link).unwrap();
            }
        }
        symlink(format!("..{version}"), folder.join("..data_tmp")).unwrap();
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    }

    #[test]
    fn a_key_of_the_secret_is_accepted_in_both_headers_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        mount(folder.path(), "1", &[("alice", "secret-a\n"), ("bob", "secret-b"), ("empty", "")]);
        let keys = ApiKeys::read(folder.path()).unwrap();
        assert!(keys.accept(&headers("authorization", "Bearer secret-a")));
        assert!(keys.accept(&headers("authorization", "bearer secret-b")));
        assert!(keys.accept(&headers("x-api-key", "secret-b")));
        for (name, value) in [
            ("authorization", "Bearer secret-c"),
            ("authorization", "Bearer "),
            ("authorization", "Basic secret-a"),
            ("authorization", ""),
            ("x-api-key", ""),
            ("x-api-key", "secret-"),
            ("x-api-key", "secret-a1"),
            ("host", "secret-a"),
        ] {
            assert!(!keys.accept(&headers(name, value)), "{name}: {value}");
        }
    }

    #[test]
    fn a_rotated_secret_replaces_the_keys() {
        let folder = tempfile::tempdir().unwrap();
        mount(folder.path(), "1", &[("alice", "old")]);
        let keys = ApiKeys::read(folder.path()).unwrap();
        mount(folder.path(), "2", &[("alice", "new")]);
        keys.replace(keys.digests_in_folder().unwrap());
        assert!(keys.accept(&headers("x-api-key", "new")));
        assert!(!keys.accept(&headers("x-api-key", "old")));
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error = ApiKeys::read(Path::new("/nowhere/keys")).unwrap_err().to_string();
        assert!(error.contains("/nowhere/keys"), "{error}");
    }

    #[test]
    fn without_keys_nobody_is_accepted() {
        let folder = tempfile::tempdir().unwrap();
        let keys = ApiKeys::read(folder.path()).unwrap();
        assert!(!keys.accept(&headers("x-api-key", "")));
    }
}
