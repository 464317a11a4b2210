//! Which files a source's URI names, and the fingerprint of what is in them.

use std::sync::Arc;

use futures::TryStreamExt;
use object_store::{ObjectMeta, ObjectStoreExt};
use sha2::{Digest, Sha256};
use stoker_crds::training::data::Format;

use super::{DataError, glob};
use crate::storage::{Access, Folder, StorageError};

/// The largest file on a mounted volume whose content goes into the fingerprint; of a larger one, its time of change
/// does.
const MAX_CONTENT: u64 = 64 << 20;

/// A file to be read.
#[derive(Clone, Debug)]
pub(crate) struct SourceFile {
    pub(crate) folder: Folder,
    pub(super) meta: ObjectMeta,
    /// The path below the part of the source's URI that holds no glob.
    name: String,
}

impl SourceFile {
    /// The URI, for messages.
    pub(crate) fn uri(&self) -> &str {
        &self.folder.uri
    }
}

/// The files that a URI names, sorted by name: one file, a glob, or a folder (with a `/` at its end), whose files of the
/// format's extension are taken, but not those whose names start with `.` or `_`.
///
/// They can be read only as long as they are what was listed: what is trained on is what the fingerprint is of.
///
/// # Errors
/// If there is none, or all are empty.
pub(crate) async fn list(access: &Access, uri: &str, format: Format) -> Result<Vec<SourceFile>, DataError> {
    let mut files = match split_pattern(uri) {
        None => vec![one(access, uri).await?],
        Some((base, pattern)) => matching(access, base, pattern, format).await?,
    };
    if files.is_empty() {
        return Err(DataError::NotFound(format!(
            "no file matches {uri}: correct spec.data.source.uri, or upload the data"
        )));
    }
    files.retain(|file| file.meta.size > 0);
    if files.is_empty() {
        return Err(DataError::NotFound(format!("{uri} is empty: upload the data, or correct spec.data.source.uri")));
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some(store) = files.first().map(|first| first.folder.pinned(files.iter().map(|file| file.meta.clone()))) {
        files.iter_mut().for_each(|file| file.folder.store = Arc::clone(&store));
    }
    Ok(files)
}

/// The folder above the first segment with a glob, and the pattern below it.
fn split_pattern(uri: &str) -> Option<(&str, &str)> {
    let Some(glob) = uri.find('*') else { return uri.strip_suffix('/').map(|base| (base, "")) };
    uri[..glob].rsplit_once('/').map(|(base, _)| (base, &uri[base.len() + 1..]))
}

async fn one(access: &Access, uri: &str) -> Result<SourceFile, DataError> {
    let folder = access.open(uri)?;
    let meta = match folder.store.head(&folder.path).await.map_err(|error| folder.error(error)) {
        Err(StorageError::NotFound { .. }) => {
            // The answer to HEAD has no body that would tell a missing bucket from a missing file; that of a listing has.
            folder.store.list(Some(&folder.path)).try_next().await.map_err(|error| folder.error(error))?;
            return Err(DataError::NotFound(format!(
                "{uri} does not exist: correct spec.data.source.uri, or upload the data (a folder's files are named by a glob such as {}/*.csv)",
                uri.trim_end_matches('/')
            )));
        }
        meta => meta?,
    };
    let name = meta.location.filename().unwrap_or_default().to_owned();
    Ok(SourceFile { folder, meta, name })
}

async fn matching(access: &Access, base: &str, pattern: &str, format: Format) -> Result<Vec<SourceFile>, DataError> {
    let folder = access.open(base)?;
    let prefix = (!folder.path.as_ref().is_empty()).then_some(&folder.path);
    let mut found = folder.store.list(prefix);
    let mut files = Vec::new();
    while let Some(meta) = found.try_next().await.map_err(|error| folder.error(error))? {
        let Some(parts) = meta.location.prefix_match(&folder.path) else { continue };
        let name = parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/");
        let is_named = if pattern.is_empty() {
            !name.split('/').any(|part| part.starts_with(['.', '_'])) && Format::of_uri(&name) == Some(format)
        } else {
            glob::path_matches(pattern, &name)
        };
        if is_named {
            let file = folder.at(meta.location.clone(), format!("{}/{name}", base.trim_end_matches('/')));
            files.push(SourceFile { folder: file, meta, name });
        }
    }
    Ok(files)
}

/// `sha256:…` over the files' names, sizes and versions. The version is the content's SHA-256 on a mounted volume (the
/// time of change of files over 64 MiB), and the ETag in object storage, which the content decides for files that
/// were written in one piece.
pub(crate) async fn fingerprint(files: &[SourceFile]) -> Result<String, DataError> {
    let mut digest = Sha256::new();
    for SourceFile { folder, meta, name } in files {
        let version = if folder.is_local() && meta.size <= MAX_CONTENT {
            let content = async { folder.store.get(&meta.location).await?.bytes().await };
            hex(&Sha256::digest(content.await.map_err(|error| folder.error(error))?))
        } else {
            meta.e_tag.clone().filter(|_| !folder.is_local()).unwrap_or_else(|| meta.last_modified.to_rfc3339())
        };
        for field in [name.as_str(), &meta.size.to_string(), &version] {
            digest.update((field.len() as u64).to_le_bytes());
            digest.update(field);
        }
    }
    Ok(format!("sha256:{}", hex(&digest.finalize())))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn write(dir: &std::path::Path, files: &[&str]) {
        for file in files {
            let path = dir.join("b").join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file.rsplit('/').next().unwrap()).unwrap();
        }
    }

    async fn names(dir: &std::path::Path, uri: &str) -> Result<Vec<String>, DataError> {
        let files = list(&Access::local(dir), uri, Format::Csv).await?;
        Ok(files.iter().map(|file| file.uri().to_owned()).collect())
    }

    #[tokio::test]
    async fn a_uri_names_one_file_a_glob_or_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &["x/2.csv", "x/1.csv", "x/y/3.csv", "x/_tmp/4.csv", "x/n.txt", "z/5.csv"]);
        for (uri, expected) in [
            ("s3://b/x/1.csv", &["s3://b/x/1.csv"][..]),
            ("s3://b/x/*.csv", &["s3://b/x/1.csv", "s3://b/x/2.csv"]),
            ("s3://b/*/5.csv", &["s3://b/z/5.csv"]),
            ("s3://b/x/**/3*", &["s3://b/x/y/3.csv"]),
            ("s3://b/x/", &["s3://b/x/1.csv", "s3://b/x/2.csv", "s3://b/x/y/3.csv"]),
        ] {
            assert_eq!(names(dir.path(), uri).await.unwrap(), expected, "{uri}");
        }
    }

    #[tokio::test]
    async fn no_file_and_an_empty_file_are_not_found_by_their_uri() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &["x/1.csv"]);
        fs::write(dir.path().join("b/x/empty.csv"), "").unwrap();
        for uri in ["s3://b/x/9.csv", "s3://b/x/9*.csv", "s3://no/x/*.csv", "s3://b/x/empty.csv", "s3://b/x"] {
            let error = names(dir.path(), uri).await.unwrap_err();
            assert_eq!(error.reason(), stoker_crds::Reason::DataNotFound, "{uri}");
            assert!(error.to_string().contains(uri), "{error}");
        }
    }

    #[tokio::test]
    async fn a_file_that_changes_after_it_was_listed_is_an_error_that_names_it_and_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &["x/1.csv", "x/2.csv"]);
        let files = list(&Access::local(dir.path()), "s3://b/x/*.csv", Format::Csv).await.unwrap();
        fs::write(dir.path().join("b/x/2.csv"), "of another length").unwrap();
        let read = async |file: &SourceFile| file.folder.store.get(&file.meta.location).await;
        assert!(read(&files[0]).await.is_ok());
        let error = files[1].folder.error(read(&files[1]).await.unwrap_err());
        assert_eq!(error.reason(), stoker_crds::Reason::StorageUnavailable);
        assert!(error.to_string().starts_with("s3://b/x/2.csv was changed"), "{error}");
    }

    #[tokio::test]
    async fn the_fingerprint_follows_names_and_content_and_nothing_else() {
        let fingerprint_of = async |files: &[(&str, &str)]| {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir_all(dir.path().join("b")).unwrap();
            for (name, content) in files {
                fs::write(dir.path().join("b").join(name), content).unwrap();
            }
            fingerprint(&list(&Access::local(dir.path()), "s3://b/*.csv", Format::Csv).await.unwrap()).await.unwrap()
        };
        let first = fingerprint_of(&[("1.csv", "a"), ("2.csv", "b")]).await;
        assert_eq!(first, fingerprint_of(&[("2.csv", "b"), ("1.csv", "a")]).await);
        assert_ne!(first, fingerprint_of(&[("1.csv", "b"), ("2.csv", "a")]).await);
        assert_ne!(first, fingerprint_of(&[("1.csv", "a"), ("3.csv", "b")]).await);
        assert_eq!(first.len(), "sha256:".len() + 64);
    }
}
