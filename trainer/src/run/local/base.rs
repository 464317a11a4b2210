//! What a run without a cluster starts from.

use std::path::Path;

use object_store::ObjectStoreExt;
use stoker_crds::{
    ModelTrainingSpec as Spec,
    artifact::METRICS,
    deployment::Version,
    training::{
        model::{BaseSource, BaseTraining, BaseVersion, FineTune},
        storage::BASE_ENV_PREFIX,
    },
};

use crate::{
    artifact::ModelMetrics,
    run::RunError,
    storage::{Access, Folder},
};

/// How the URI of a model to start from is opened: `file:///…` is a path of this machine, buckets are folders where the data's
/// are, and what a training here has published lies in the storage's folder.
pub(super) fn access(spec: &Spec, data: Access, storage: &Path) -> Access {
    let uri = match spec.model.base().and_then(FineTune::source) {
        Some(BaseSource::Training(_)) => return Access::local(storage),
        Some(BaseSource::Artifact(artifact)) => &artifact.uri,
        Some(BaseSource::HuggingFace(folder)) => &folder.uri,
        None => return data,
    };
    if uri.starts_with("file://") { Access::from_env(BASE_ENV_PREFIX) } else { data }
}

/// The version that `spec.model.from.training` names, among those that lie in a storage's folder.
///
/// # Errors
/// If there is no such version, or the folder cannot be read.
pub(super) async fn published(spec: &Spec, root: &Folder, namespace: &str) -> Result<Option<BaseVersion>, RunError> {
    let source = spec.model.base().and_then(FineTune::source);
    let Some(BaseSource::Training(BaseTraining { name, version })) = source else { return Ok(None) };
    let models = root.join(&format!("{namespace}/{name}/models"));
    let listed = models.store.list_with_delimiter(Some(&models.path)).await.map_err(|error| models.error(error))?;
    let mut found: Option<BaseVersion> = None;
    for folder in listed.common_prefixes {
        let Some(digest) = folder.filename() else { continue };
        let number = number(&models.join(digest)).await?;
        let is_wanted = match version {
            Version::Latest => found.as_ref().is_none_or(|found| found.version < number),
            Version::Number(wanted) => number == *wanted,
        };
        if is_wanted {
            found = Some(BaseVersion {
                training: name.clone(),
                version: number,
                uri: models.join(digest).uri,
                digest: format!("sha256:{digest}"),
                secret_name: None,
                persistent_volume_claim: None,
            });
        }
    }
    match found {
        Some(found) => Ok(Some(found)),
        None => Err(RunError::NoVersion { training: name.clone(), uri: models.uri }),
    }
}

/// The number of the run that published a model; 0 where its metrics don't say.
async fn number(model: &Folder) -> Result<u32, RunError> {
    let file = model.join(METRICS);
    let content = async { file.store.get(&file.path).await?.bytes().await };
    let content = content.await.map_err(|error| file.error(error))?;
    let metrics: Option<ModelMetrics> = serde_json::from_slice(&content).ok();
    Ok(metrics.and_then(|metrics| metrics.lineage.run.split('-').next()?.parse().ok()).unwrap_or_default())
}
