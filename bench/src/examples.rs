//! The examples, from which what is measured is taken.

use std::path::{Path, PathBuf};

use kube::{Resource, core::TypeMeta};
use serde::de::DeserializeOwned;
use stoker_crds::ModelTrainingSpec;
use stoker_e2e::{Error, Result, checkout, manifest};

const FOLDER: &str = "examples";

/// The folder of the examples, from the root on and without detours.
///
/// # Errors
/// If it is not started in a checkout.
pub(crate) fn folder() -> Result<PathBuf> {
    checkout::path(FOLDER).canonicalize().map_err(|source| Error::File { path: FOLDER.into(), source })
}

/// The first resource of a kind in an example.
///
/// # Errors
/// If the file does not hold one.
pub(crate) fn resource<K: Resource<DynamicType = ()> + DeserializeOwned>(file: &str) -> Result<K> {
    let path = folder()?.join(file);
    let is_wanted = |types: &TypeMeta| types.kind == K::kind(&());
    let objects = manifest::read(&path)?;
    let found = objects.into_iter().find(|object| object.types.as_ref().is_some_and(is_wanted));
    let parsed = serde_json::to_value(found).and_then(serde_json::from_value);
    parsed.map_err(|error| Error::Manifest { file: path.display().to_string(), message: error.to_string() })
}

/// Lets a training read its data from the folder of the examples, and write to another one, in place of buckets.
///
/// # Errors
/// If it is not started in a checkout.
pub(crate) fn lay_out(spec: &mut ModelTrainingSpec, storage: &Path) -> Result<()> {
    spec.data.source.uri = spec.data.source.uri.replace("s3://", &format!("file://{}/", folder()?.display()));
    if let Some(place) = &mut spec.storage {
        place.uri = format!("file://{}/storage", storage.display());
        place.secret_name = None;
    }
    Ok(())
}
