//! Adapters (LoRA) that Stoker published alone: added to the model that they are of, they are a model to start from.

use futures::{FutureExt, future::BoxFuture};
use stoker_crds::artifact::{ADAPTER_CONFIG, ADAPTER_WEIGHTS, METRICS, TOKENIZER};

use super::{BaseError, BaseRef, Files, hugging_face, of_artifact, on_own_thread};
use crate::{
    artifact::{Artifact, ArtifactError, ModelMetrics},
    model::{ModelError, WeightBytes, merged},
    storage::Access,
};

/// The files of the whole model. What the adapters are of is read as they are: with the same credentials, and from the same
/// volume; it may be adapters in turn.
pub(super) async fn read(uri: &str, adapters: &Artifact, access: &Access) -> Result<Files, BaseError> {
    let refused = |source: ModelError| BaseError::Model { uri: uri.to_owned(), source: source.into() };
    let metrics: ModelMetrics = serde_json::from_slice(adapters.file(METRICS)?)
        .map_err(|source| BaseError::Lineage { uri: uri.to_owned(), source })?;
    let base = metrics.lineage.base.ok_or_else(|| BaseError::Adapter { uri: uri.to_owned() })?;
    let unread =
        |source| BaseError::OfAdapters { uri: uri.to_owned(), base: base.uri.clone(), source: Box::new(source) };
    let Files { config, weights, .. } = of(&base, access).await.map_err(unread)?;

    let (description, learned) = (adapters.file(ADAPTER_CONFIG)?.clone(), adapters.file(ADAPTER_WEIGHTS)?.clone());
    let model = config.clone();
    let weights = on_own_thread(move || merged(&model, &weights, &description, &learned)).await.map_err(refused)?;
    Ok(Files {
        digest: adapters.digest.clone(),
        config,
        weights: WeightBytes::Single(weights.into()),
        tokenizer: adapters.file(TOKENIZER).ok().cloned(),
    })
}

/// The files of a model that was started from, as it was then.
fn of<'a>(base: &'a BaseRef, access: &'a Access) -> BoxFuture<'a, Result<Files, BaseError>> {
    async move {
        let folder = access.open(&base.uri)?;
        match of_artifact(&folder, Some(&base.digest), access).await {
            Err(BaseError::Artifact(ArtifactError::NotFound { .. })) => {}
            files => return files,
        }
        let files = hugging_face::read(&folder).await?;
        if files.digest == base.digest { Ok(files) } else { Err(BaseError::Changed { uri: base.uri.clone() }) }
    }
    .boxed()
}
