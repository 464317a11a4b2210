//! The run itself: prepare → fit → evaluate → publish.

use std::{collections::BTreeMap, sync::Arc};

use burn::tensor::Device;
use stoker_crds::{
    TrainConfig,
    artifact::ModelRef,
    metric::Split,
    progress::Stage,
    training::{Model, Task, optimize::Precision, text},
};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::{
    RunError, Tracker,
    keeping::Keeping,
    prepared::{Prepared, Reads},
};
use crate::{
    artifact::{Publication, publish_model},
    base::{Base, BaseRef},
    data::Scratch,
    model::{Architecture, choose_device, precision},
    storage::{Access, Folder},
    training::{self, Evaluation, Event, Fitted, MemoryNeed, Surroundings, TrainError, Watch},
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
        let precision = precision::on_device(self.config.train.precision, &device)?;
        let root = self.storage.open(&self.config.storage.uri)?;

        let base = self.open_base().await?;
        self.check_memory(base.as_ref(), &device)?;
        let run = &self.config.run;
        let folder = root.join(&format!("{}/{}/runs/{}", run.namespace, run.training, run.id()));
        let kept = folder.join("prepared");
        let prepared = Arc::new(self.prepare(base.as_ref(), &kept).await?);
        let keeping = Keeping::begin(&prepared, kept, &self.tracker, &self.stop);
        let ended = self.learn(prepared, base, &folder, root, (device, precision)).await;
        match (&ended, keeping) {
            (_, None) => {}
            (Ok(_), Some(keeping)) => keeping.forget().await,
            (Err(error), Some(keeping)) if error.is_tried_again() => keeping.finish().await,
            (Err(_), Some(keeping)) => keeping.give_up().await,
        }
        ended
    }

    /// What follows on the preparation.
    async fn learn(
        &self,
        prepared: Arc<Prepared>,
        base: Option<Base>,
        folder: &Folder,
        root: Folder,
        computed: (Device, Precision),
    ) -> Result<ModelRef, RunError> {
        let started_from = base.as_ref().map(|base| base.source().clone());
        let fitted = Arc::new(self.fit(Arc::clone(&prepared), base, folder, computed).await?);
        let evaluations = self.evaluate(Arc::clone(&prepared), Arc::clone(&fitted)).await?;
        self.publish(prepared, fitted, started_from, evaluations, root).await
    }

    /// The model that the run starts from, if it names one.
    async fn open_base(&self) -> Result<Option<Base>, RunError> {
        let Some(base) = self.config.model.base() else { return Ok(None) };
        tokio::select! {
            opened = Base::open(base, &self.base) => Ok(Some(opened?)),
            () = self.stop.cancelled() => Err(RunError::Stopped),
        }
    }

    /// Refuses what surely does not fit the memory before hours of preparation, where the model does not depend on the data.
    fn check_memory(&self, base: Option<&Base>, device: &Device) -> Result<(), RunError> {
        let config = &self.config;
        let tokenizer = config.data.text.as_ref().and_then(|texts| texts.tokenizer.as_ref());
        let architecture = match (&config.model, base, tokenizer) {
            (_, Some(base), _) => base.architecture(),
            (Model::Transformer(transformer), None, None | Some(text::Tokenizer::Bytes(_))) => {
                Architecture::language(transformer.clone(), text::MIN_VOCABULARY as usize)?
            }
            _ => return Ok(()),
        };
        let need = MemoryNeed::new(config, &architecture, base.and_then(Base::adapted), device);
        Ok(need.check(&*self.tracker)?)
    }

    async fn prepare(&self, base: Option<&Base>, kept: &Folder) -> Result<Prepared, RunError> {
        let reads = Reads::of(&self.config, base)?;
        let on_stats = |stats: &_| self.tracker.update(|progress| Clone::clone_from(&mut progress.data, stats));
        let preparing = Prepared::of(&self.config, reads, &self.data, &self.scratch, Some(kept), &on_stats);
        let prepared = tokio::select! {
            prepared = preparing => prepared?,
            () = self.stop.cancelled() => return Err(RunError::Stopped),
        };
        self.tracker.update(|progress| progress.data = prepared.stats().clone());
        if let Some(warning) = prepared.warning() {
            self.tracker.on(Event::Warning(warning));
        }
        Ok(prepared)
    }

    async fn fit(
        &self,
        prepared: Arc<Prepared>,
        base: Option<Base>,
        folder: &Folder,
        (device, precision): (Device, Precision),
    ) -> Result<Fitted, RunError> {
        self.tracker.update(|progress| progress.stage = Stage::Training);
        let checkpoints = folder.join("checkpoints");
        let (this, handle) = (self.clone(), Handle::current());
        on_own_thread(move || {
            let restore_targets = |targets: &mut [f32]| prepared.restore_targets(targets);
            let surroundings = Surroundings {
                device: &device,
                precision,
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
                _ => Ok((split, fitted.evaluate(split, samples, &restore)?)),
            };
            splits
                .filter(|(_, samples)| !samples.is_empty())
                .map(evaluate)
                .collect::<Result<BTreeMap<_, _>, TrainError>>()
        });
        let evaluations = tokio::select! {
            evaluations = evaluating => evaluations??,
            () = self.stop.cancelled() => return Err(RunError::Stopped),
        };
        let metrics = evaluations.iter().map(|(split, evaluation)| (*split, evaluation.metrics.clone())).collect();
        self.tracker.update(|progress| progress.metrics = metrics);
        Ok(evaluations)
    }

    async fn publish(
        &self,
        prepared: Arc<Prepared>,
        fitted: Arc<Fitted>,
        base: Option<BaseRef>,
        evaluations: BTreeMap<Split, Evaluation>,
        root: Folder,
    ) -> Result<ModelRef, RunError> {
        self.tracker.update(|progress| progress.stage = Stage::Publishing);
        let (config, handle) = (Arc::clone(&self.config), Handle::current());
        let publish = move || {
            let publication = Publication {
                config: &config,
                fitted: &fitted,
                base: base.as_ref(),
                input: prepared.input_file()?,
                stop_token: prepared.stop_token(config.data.text.as_ref()),
                evaluations: &evaluations,
                fingerprint: &prepared.stats().fingerprint,
            };
            // The weights are fetched from the device, and adapters added to them there.
            fitted.need.explain(|| Ok(handle.block_on(publish_model(&root, publication))?))
        };
        Ok(on_own_thread(publish).await??)
    }
}

/// Runs what computes for long on a thread of its own, so that the progress goes on being answered.
async fn on_own_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, RunError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| RunError::Panic(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, pin::pin, time::Duration};

    use futures::TryStreamExt;
    use serde_json::{Value, json};
    use stoker_crds::{Reason, training::model::Transformer};

    use super::*;
    use crate::artifact::read_manifest;

    /// A run on a text of bytes, in a folder of buckets.
    fn pipeline(dir: &Path, transformer: Value, tokenizer: Value, epochs: u32) -> Pipeline {
        let transformer: Transformer = serde_json::from_value(transformer).unwrap();
        let text = json!({"documents": {"endAt": "Line", "minLength": 1}, "tokenizer": tokenizer});
        let config = json!({
            "run": {"namespace": "default", "training": "test", "uid": "8a6e0804", "number": 1},
            "task": "LanguageModeling",
            "data": {"source": {"uri": "s3://bucket/lines.txt"}, "format": "text", "text": text},
            "model": {"transformer": transformer.resolve().unwrap()},
            "train": {"loss": "CrossEntropy", "epochs": epochs},
            "checkpoint": {},
            "storage": {"uri": "s3://bucket"},
            "resources": {},
        });
        let access = || Access::local(dir);
        Pipeline {
            config: Arc::new(serde_json::from_value(config).unwrap()),
            data: access(),
            base: access(),
            storage: access(),
            scratch: Scratch::unlimited(dir),
            tracker: Arc::new(Tracker::new("1-a".into())),
            stop: CancellationToken::new(),
        }
    }

    /// There is no data: who reads it says so.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_model_that_no_memory_holds_is_refused_before_the_data_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let large = json!({"layers": 256, "width": 65536, "heads": 256});
        let error = pipeline(dir.path(), large.clone(), json!({"bytes": {}}), 1).run().await.unwrap_err();
        assert!(matches!(error, RunError::Train(TrainError::TooLarge(_))), "{error}");
        // How large the vocabulary is follows from the data.
        let error = pipeline(dir.path(), large, json!({"bpe": {}}), 1).run().await.unwrap_err();
        assert!(matches!(error, RunError::Data(_)), "{error}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn text_is_prepared_once_for_a_run_and_what_was_prepared_is_deleted_with_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let lines: String = (0..200).map(|line| format!("line {line}\n")).collect();
        fs::create_dir_all(dir.path().join("bucket")).unwrap();
        fs::write(dir.path().join("bucket/lines.txt"), lines).unwrap();
        let pod = |epochs| {
            let small = json!({"layers": 1, "width": 8, "heads": 1, "context": 16});
            pipeline(dir.path(), small, json!({"bpe": {"vocabularySize": 260}}), epochs)
        };
        let kept = Access::local(dir.path()).open("s3://bucket/default/test/runs/1-8a6e0804/prepared").unwrap();
        let is_taken = async |pod: &Pipeline| match pod.prepare(None, &kept).await.unwrap() {
            Prepared::Text(corpus) => corpus.is_taken,
            Prepared::Table(_) => panic!("it is text"),
        };

        let first = pod(u32::MAX);
        assert!(!is_taken(&first).await);
        let (stop, mut running) = (first.stop.clone(), pin!(first.run()));
        let kept_by_then = async {
            while read_manifest(&kept, None).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            ended = &mut running => panic!("{ended:?}"),
            () = kept_by_then => stop.cancel(),
        }
        let error = running.await.unwrap_err();
        assert_eq!(error.reason(), Reason::Preempted, "{error}");

        assert!(is_taken(&pod(1)).await);
        pod(1).run().await.unwrap();
        let left: Vec<_> = kept.store.list(Some(&kept.path)).try_collect().await.unwrap();
        assert!(left.is_empty(), "{left:?}");
    }
}
