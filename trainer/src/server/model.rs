//! The model that is served, from its artifact to its answers.

use std::{iter::successors, panic::resume_unwind, path::Path, sync::Arc};

use axum::body::Bytes;
use stoker_crds::{
    artifact::{CONFIG, PREPROCESSOR, WEIGHTS},
    training::{Resources, storage::STORAGE_ENV_PREFIX},
};
use tokio::sync::Semaphore;

use super::{
    ServeError, ServeOptions,
    api_error::ApiError,
    batcher::{Batcher, Policy},
    incident::Incident,
    metrics::Metrics,
    protocol::{Inference, InvalidRequest, ModelVersion, Signature, model_metadata},
};
use crate::{
    artifact,
    data::Preprocessor,
    model::{Architecture, ModelError, Predictor, choose_device},
    storage::Access,
};

/// Bodies and answers that are longer, in bytes, are worked on beside the threads that serve connections, so that
/// these go on answering others.
const MAX_INLINE_BYTES: usize = 64 << 10;
/// About what a number takes in an answer, in bytes.
const BYTES_PER_NUMBER: usize = 12;
/// The most features, or predictions, that one request may come to. Rows alone bound no memory: a text of a few bytes
/// becomes as many numbers as its column has categories.
const MAX_REQUEST_NUMBERS: usize = 4 << 20;
/// The same for all requests that wait.
const MAX_QUEUED_NUMBERS: usize = 16 << 20;

/// A model that answers requests.
#[derive(Debug)]
pub(super) struct ServedModel {
    name: String,
    version: String,
    digest: String,
    signature: Signature,
    metadata: Bytes,
    preprocessor: Preprocessor,
    batcher: Batcher,
    most_rows: usize,
    /// As many long bodies are worked on at once as there are CPUs: more would only fill the memory.
    workers: Semaphore,
}

impl ServedModel {
    /// Fetches and verifies the artifact, loads it, and computes predictions that nobody asked for.
    ///
    /// # Errors
    /// If any of it fails.
    pub(super) async fn load(options: &ServeOptions, metrics: &Metrics) -> Result<Self, ServeError> {
        let resources = Resources { gpus: options.gpus, ..Resources::default() };
        let device = choose_device(&resources)?;
        let folder = Access::from_env(STORAGE_ENV_PREFIX).open(&artifact_uri(&options.model))?;
        let artifact = artifact::open(&folder, options.digest.as_deref()).await?;
        let (config, weights) = (artifact.file(CONFIG)?.clone(), artifact.file(WEIGHTS)?.clone());
        // A language model is refused before its weights are read.
        Architecture::parse(&config)?.rows()?;
        // Health is answered meanwhile, however large the weights are.
        let predictor = tokio::task::spawn_blocking(move || Predictor::load(&config, &weights, &device)).await;
        let predictor = predictor.unwrap_or_else(|panicked| resume_unwind(panicked.into_panic()))?;
        let preprocessor: Preprocessor =
            serde_json::from_slice(artifact.file(PREPROCESSOR)?).map_err(ServeError::Preprocessor)?;
        let (architecture, _) = predictor.rows()?;
        let (width, outputs) = (preprocessor.input_width(), preprocessor.output_width());
        if (architecture.input_width, architecture.prediction_width()) != (width, outputs) || width == 0 || outputs == 0
        {
            return Err(ServeError::Mismatch);
        }
        let predict = move |features: &[f32]| predictor.predict(features);
        let model = Self::new(options, metrics, artifact.digest, preprocessor, predict)?;
        // A GPU measures for each power of two of rows which kernel is the fastest, when it first computes that many.
        let most_rows = if options.gpus > 0 { model.most_rows.min(options.max_batch_size as usize) } else { 1 };
        model.warm_up(most_rows).await?;
        Ok(model)
    }

    /// A model whose transforms and computation fit each other.
    ///
    /// # Errors
    /// If the system refuses a thread for the computation.
    pub(super) fn new(
        options: &ServeOptions,
        metrics: &Metrics,
        digest: String,
        preprocessor: Preprocessor,
        predict: impl Fn(&[f32]) -> Result<Vec<f32>, ModelError> + Send + 'static,
    ) -> Result<Self, ServeError> {
        let width = preprocessor.input_width().max(preprocessor.output_width());
        let policy = Policy {
            max_size: options.max_batch_size as usize,
            max_delay: options.max_batch_delay.0,
            max_queue: rows_within(options.max_queue, MAX_QUEUED_NUMBERS, width),
        };
        let batcher = Batcher::start(policy, preprocessor.input_width(), metrics.clone(), predict);
        let batcher = batcher.map_err(ServeError::Thread)?;
        let signature = Signature::of(&preprocessor);
        let (name, version) = (options.name.clone(), options.model_version.clone());
        let metadata = model_metadata(ModelVersion { name: &name, version: &version }, &signature).into();
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            name,
            version,
            digest,
            signature,
            metadata,
            preprocessor,
            batcher,
            most_rows: rows_within(options.max_queue, MAX_REQUEST_NUMBERS, width),
            workers: Semaphore::new(cpus),
        })
    }

    /// The first computation is slower than all others; no client is to wait for it.
    async fn warm_up(&self, most_rows: usize) -> Result<(), ServeError> {
        for rows in successors(Some(1), |rows| (*rows < most_rows).then(|| (rows * 2).min(most_rows))) {
            let features = vec![0.0; rows * self.preprocessor.input_width()];
            self.batcher.predict(features).await.map_err(|_| ServeError::WarmUp)?;
        }
        Ok(())
    }

    /// `sha256:…` of the artifact.
    pub(super) fn digest(&self) -> &str {
        &self.digest
    }

    /// The protocol's metadata of the model, as JSON.
    pub(super) fn metadata(&self) -> &Bytes {
        &self.metadata
    }

    /// Whether the model answered when it was last asked.
    pub(super) fn computes(&self) -> bool {
        self.batcher.computes()
    }

    /// The answer to the body of an inference request, as JSON.
    ///
    /// # Errors
    /// If the request is not one for this model, too many others wait, or the computation fails.
    pub(super) async fn infer(self: &Arc<Self>, body: Bytes) -> Result<Bytes, ApiError> {
        let size = body.len();
        let (inference, features) = self.work(size, move |model| model.decode(&body)).await??;
        let predictions = self.batcher.predict(features).await?;
        let size = predictions.len() * BYTES_PER_NUMBER;
        Ok(self.work(size, move |model| model.encode(&inference, predictions)).await??)
    }

    fn decode(&self, body: &[u8]) -> Result<(Answered, Vec<f32>), InvalidRequest> {
        let Inference { id, rows, outputs } = self.signature.decode(body, self.most_rows)?;
        let features = self.preprocessor.transform(&rows)?;
        Ok((Answered { id, outputs }, features))
    }

    fn encode(&self, answered: &Answered, mut predictions: Vec<f32>) -> Result<Bytes, InvalidRequest> {
        self.preprocessor.restore_targets(&mut predictions);
        let model = ModelVersion { name: &self.name, version: &self.version };
        self.signature.encode(model, answered.id.as_deref(), &answered.outputs, &predictions).map(Bytes::from)
    }

    /// Does short work here and long work on a thread for it.
    async fn work<T: Send + 'static>(
        self: &Arc<Self>,
        bytes: usize,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        if bytes <= MAX_INLINE_BYTES {
            return Ok(work(self));
        }
        let _permit = self.workers.acquire().await;
        let model = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || work(&model)).await;
        done.map_err(|error| ApiError::Internal(Incident::log(error)))
    }
}

/// As many rows of so many numbers as are wanted, if they do not come to more numbers than that; one row always.
fn rows_within(wanted: u32, numbers: usize, width: usize) -> usize {
    (numbers / width.max(1)).clamp(1, wanted.max(1) as usize)
}

/// What of a request its answer repeats.
#[derive(Debug)]
struct Answered {
    id: Option<String>,
    outputs: Vec<usize>,
}

/// The URI of a model: a path of the local file system may be written as it is.
pub(crate) fn artifact_uri(model: &str) -> String {
    let absolute = || std::path::absolute(Path::new(model)).ok();
    match absolute() {
        Some(path) if !model.contains("://") => format!("file://{}", path.display()),
        _ => model.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::rows_within;

    #[test]
    fn the_wider_rows_are_the_fewer_are_taken_and_one_always_is() {
        for (wanted, width, rows) in [(4096, 64, 4096), (4096, 2048, 2048), (4096, 50_000, 83), (4096, 9_000_000, 1)] {
            assert_eq!(rows_within(wanted, 4 << 20, width), rows, "{wanted} rows of {width} numbers");
        }
    }
}
