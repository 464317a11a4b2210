//! The run itself: prepare → fit → evaluate → publish.

use std::{collections::BTreeMap, sync::Arc};

use stoker_crds::{TrainConfig, artifact::ModelRef, metric::Split, progress::Stage, training::Task};
use tokio_util::sync::CancellationToken;

use super::{
    RunError, Tracker,
    prepared::{Prepared, Reads},
};
use crate::{
    artifact::{Publication, publish_model},
    base::Base,
    data::Scratch,
    model::{choose_device, says_out_of_memory},
    storage::Access,
    training::{self, Evaluation, Fitted, Surroundings},
};

/// All that a run needs of the world around it.
#[derive(Clone)]
pub(super) struct Pipeline {
    pub(super) config: Arc<TrainConfig>,
    /// How the data's URI is opened.
    pub(super) data: Access,
    /// How the URI of a model to start from is opened.
    pub(super) base: Access,
    /// How the storage's URI is opened.
    pub(super) storage: Access,
    /// A folder for prepared data, which may be lost.
    pub(super) scratch: Scratch,
    pub(super) tracker: Arc<Tracker>,
    pub(super) stop: CancellationToken,
}

impl Pipeline {
    /// Runs it all.
    ///
    /// # Errors
    /// If a stage fails, or the run is told to end; its last checkpoint then holds its state.
    pub(super) async fn run(self) -> Result<ModelRef, RunError> {
        let device = choose_device(&self.config.resources)?;
        self.tracker.computes_on(device.clone());
        let root = self.storage.open(&self.config.storage.uri)?;

        let base = self.open_base().await?;
        let prepared = Arc::new(self.prepare(base.as_ref()).await?);
        let started_from = base.as_ref().map(|base| base.source().clone());
        let fitted = Arc::new(self.fit(Arc::clone(&prepared), base, &root, &device).await?);
        let evaluations = self.evaluate(Arc::clone(&prepared), Arc::clone(&fitted)).await?;

        self.tracker.update(|progress| progress.stage = Stage::Publishing);
        let publication = Publication {
            config: &self.config,
            fitted: &fitted,
            base: started_from.as_ref(),
            input: prepared.input_file()?,
            stop_token: prepared.stop_token(self.config.data.text.as_ref()),
            evaluations: &evaluations,
            fingerprint: &prepared.stats().fingerprint,
        };
        Ok(publish_model(&root, publication).await?)
    }

    /// The model that the run starts from, if it names one.
    async fn open_base(&self) -> Result<Option<Base>, RunError> {
        let Some(base) = self.config.model.base() else { return Ok(None) };
        tokio::select! {
            opened = Base::open(base, &self.base) => Ok(Some(opened?)),
            () = self.stop.cancelled() => Err(RunError::Stopped),
        }
    }

    async fn prepare(&self, base: Option<&Base>) -> Result<Prepared, RunError> {
        let reads = Reads::of(&self.config, base)?;
        let on_stats = |stats: &_| self.tracker.update(|progress| Clone::clone_from(&mut progress.data, stats));
        let preparing = Prepared::of(&self.config, reads, &self.data, &self.scratch, &on_stats);
        let prepared = tokio::select! {
            prepared = preparing => prepared?,
            () = self.stop.cancelled() => return Err(RunError::Stopped),
        };
        self.tracker.update(|progress| progress.data = prepared.stats().clone());
        Ok(prepared)
    }

    async fn fit(
        &self,
        prepared: Arc<Prepared>,
        base: Option<Base>,
        root: &crate::storage::Folder,
        device: &burn::tensor::Device,
    ) -> Result<Fitted, RunError> {
        self.tracker.update(|progress| progress.stage = Stage::Training);
        let run = &self.config.run;
        let checkpoints = root.join(&format!("{}/{}/runs/{}/checkpoints", run.namespace, run.training, run.id()));
        let (this, device, handle) = (self.clone(), device.clone(), tokio::runtime::Handle::current());
        on_own_thread(move || {
            let restore_targets = |targets: &mut [f32]| prepared.restore_targets(targets);
            let surroundings = Surroundings {
                device: &device,
                checkpoints: &checkpoints,
                runtime: &handle,
                watch: &*this.tracker,
                stop: &this.stop,
            };
            training::fit(&this.config, prepared.problem(&restore_targets), base, surroundings)
        })
        .await?
        .map_err(RunError::from)
    }

    /// The final metrics of every split that has rows. A language model does not read all of its training split once more, which
    /// may be billions of tokens: its training loss is the one that it had when it was evaluated.
    async fn evaluate(
        &self,
        prepared: Arc<Prepared>,
        fitted: Arc<Fitted>,
    ) -> Result<BTreeMap<Split, Evaluation>, RunError> {
        self.tracker.update(|progress| progress.stage = Stage::Evaluating);
        let known = match self.config.task {
            Task::LanguageModeling => fitted.training_metrics().cloned(),
            Task::Classification | Task::Regression => None,
        };
        let evaluating = on_own_thread(move || {
            let restore = |targets: &mut [f32]| prepared.restore_targets(targets);
            let splits = Split::ALL.into_iter().map(|split| (split, prepared.split(split)));
            let evaluate = |(split, samples)| match &known {
                Some(metrics) if split == Split::Train => {
                    Ok((split, Evaluation { metrics: metrics.clone(), confusion: None }))
                }
                _ => Ok((split, training::evaluate(&fitted.predictor, samples, &restore)?)),
            };
            splits
                .filter(|(_, samples)| !samples.is_empty())
                .map(evaluate)
                .collect::<Result<BTreeMap<_, _>, RunError>>()
        });
        let evaluations = tokio::select! {
            evaluations = evaluating => evaluations??,
            () = self.stop.cancelled() => return Err(RunError::Stopped),
        };
        let metrics = evaluations.iter().map(|(split, evaluation)| (*split, evaluation.metrics.clone())).collect();
        self.tracker.update(|progress| progress.metrics = metrics);
        Ok(evaluations)
    }
}

/// Runs what computes for long on a thread of its own, so that the progress goes on being answered.
async fn on_own_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, RunError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| match error.to_string() {
        text if says_out_of_memory(&text) => RunError::OutOfDeviceMemory(text),
        text => RunError::Panic(text),
    })
}
