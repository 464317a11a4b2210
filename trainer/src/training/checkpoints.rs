//! The checkpoints of a run in storage: written in the background, and found again.

use std::{collections::BTreeSet, panic::resume_unwind, time::Instant};

use burn::tensor::Device;
use jiff::Timestamp;
use stoker_crds::{
    Reason, TrainConfig,
    artifact::CheckpointRef,
    training::optimize::{Checkpoint, Interval},
};
use tokio::{
    runtime::Handle,
    task::{JoinError, JoinHandle},
};

use super::{
    TrainError,
    checkpoint::{EncodeError, Snapshot},
    origin::Origin,
    watch::{Event, Watch},
};
use crate::{
    artifact::{self, Artifact, ArtifactError, Writer},
    storage::Folder,
};

/// Writes the checkpoints of a run without stopping its steps: at most one at a time, in the background.
pub(super) struct Checkpoints<'a> {
    store: Store,
    interval: Interval,
    runtime: &'a Handle,
    watch: &'a dyn Watch,
    writing: Option<JoinHandle<Written>>,
    begun: Instant,
    last: Option<CheckpointRef>,
    /// The steps of those in storage.
    kept: BTreeSet<u64>,
}

/// Where the checkpoints lie, owned, for the background.
#[derive(Clone)]
struct Store {
    folder: Folder,
    run: String,
    keep_last: usize,
    /// Steps whose checkpoints are broken, half written or of other inputs: in the way, but kept until there is a new one.
    stale: BTreeSet<u64>,
}

/// What became of writing one.
struct Written {
    step: u64,
    /// The checkpoint, and which ones are in storage now that older ones were deleted.
    result: Result<(CheckpointRef, Result<BTreeSet<u64>, ArtifactError>), EncodeError>,
}

impl<'a> Checkpoints<'a> {
    pub(super) fn new(
        folder: &Folder,
        run: String,
        spec: &Checkpoint,
        runtime: &'a Handle,
        watch: &'a dyn Watch,
    ) -> Self {
        let keep_last = spec.keep_last as usize;
        let store = Store { folder: folder.clone(), run, keep_last, stale: BTreeSet::new() };
        let (writing, begun, last, kept) = (None, Instant::now(), None, BTreeSet::new());
        Self { store, interval: spec.interval(), runtime, watch, writing, begun, last, kept }
    }

    /// The last one that is in storage.
    pub(super) fn last(&self) -> Option<&CheckpointRef> {
        self.last.as_ref()
    }

    /// The step of the last one in storage that is of fewer steps than these.
    pub(super) fn last_before(&self, step: u64) -> Option<u64> {
        self.kept.range(..step).next_back().copied()
    }

    /// Whether one is to be begun now that `step` steps are done; not of steps that the last one is of.
    pub(super) fn is_due(&self, step: u64, now: Instant) -> bool {
        self.writing.is_none()
            && self.last_step() != Some(step)
            && match self.interval {
                Interval::Steps(every) => step.is_multiple_of(every),
                Interval::Time(every) => now - self.begun >= every,
            }
    }

    /// Begins to write one, in the background.
    pub(super) fn begin(&mut self, snapshot: Snapshot, now: Instant) {
        let (store, runtime) = (self.store.clone(), self.runtime.clone());
        self.begun = now;
        self.writing = Some(self.runtime.spawn_blocking(move || runtime.block_on(store.write(snapshot))));
    }

    /// Looks whether the one in the background is done.
    ///
    /// # Errors
    /// If the training has diverged, the device's memory is full, or the storage fails in a way that waiting does not help.
    pub(super) fn poll(&mut self) -> Result<(), TrainError> {
        match &self.writing {
            Some(writing) if writing.is_finished() => self.wait(),
            _ => Ok(()),
        }
    }

    /// Waits for the one in the background.
    ///
    /// # Errors
    /// As [`Self::poll`].
    pub(super) fn wait(&mut self) -> Result<(), TrainError> {
        let Some(writing) = self.writing.take() else { return Ok(()) };
        let written = match self.runtime.block_on(writing).map_err(JoinError::try_into_panic) {
            Ok(written) => written,
            // As in the steps: it may say that the device's memory is full.
            Err(Ok(panic)) => resume_unwind(panic),
            Err(Err(error)) => return Err(TrainError::Internal(format!("writing a checkpoint: {error}"))),
        };
        match written.result {
            Ok((checkpoint, pruned)) => {
                self.watch.on(Event::Checkpointed(&checkpoint));
                self.last = Some(checkpoint);
                match pruned {
                    Ok(kept) => {
                        self.kept = kept;
                        self.store.stale.clear();
                    }
                    Err(error) => {
                        self.kept.insert(written.step);
                        self.watch.on(Event::Warning(&format!("older checkpoints could not be deleted: {error}")));
                    }
                }
            }
            Err(EncodeError::NotFinite(what)) => {
                let what = format!("{what} became NaN or infinite");
                return Err(TrainError::Diverged { what, step: written.step, checkpoint: None });
            }
            // By a pod that was given up and still runs, behind a network partition: of the same run and step, it is as good.
            Err(EncodeError::Artifact(ArtifactError::Conflict { run, .. }))
                if run.as_ref() == Some(&self.store.run) =>
            {
                self.watch.on(Event::Warning(&format!(
                    "the checkpoint of step {} was written by another pod of this run; the training goes on",
                    written.step
                )));
            }
            // The next one would need as much.
            Err(EncodeError::Artifact(error)) if error.reason() == Reason::OutOfDeviceMemory => {
                return Err(error.into());
            }
            // Wrong credentials or a missing bucket end the run while little is lost; once a checkpoint has been
            // written, they may well come back before the next one.
            Err(EncodeError::Artifact(error)) if self.last.is_none() && !error.reason().is_retryable() => {
                return Err(error.into());
            }
            Err(EncodeError::Artifact(error)) => {
                self.store.stale.insert(written.step);
                self.watch.on(Event::Warning(&format!(
                    "the checkpoint of step {} was not written: {error}; the training goes on and tries again at the next \
                     one",
                    written.step
                )));
            }
        }
        Ok(())
    }

    /// Writes one and waits for it, unless that step's is already there.
    ///
    /// # Errors
    /// As [`Self::poll`].
    pub(super) fn finish(&mut self, snapshot: Snapshot) -> Result<(), TrainError> {
        self.wait()?;
        if self.last_step() != Some(snapshot.state.step) {
            self.begin(snapshot, Instant::now());
            self.wait()?;
        }
        Ok(())
    }

    fn last_step(&self) -> Option<u64> {
        self.last.as_ref().map(|checkpoint| checkpoint.step)
    }

    /// The newest checkpoint that is whole and of these inputs. Newer ones that are not are named in a warning, and give
    /// way to the next one that is written.
    ///
    /// # Errors
    /// If the storage or the device fails: that says nothing about the checkpoints.
    pub(super) fn restore(
        &mut self,
        inputs: &str,
        origin: &Origin,
        config: &TrainConfig,
        device: &Device,
    ) -> Result<Option<Snapshot>, TrainError> {
        let steps = self.runtime.block_on(self.store.steps())?;
        for step in steps.iter().rev().copied() {
            let folder = self.store.at(step);
            let found = self.runtime.block_on(artifact::open(&folder, None));
            let problem = match found.and_then(|found| self.decode(found, inputs, origin, config, device)) {
                Ok(Ok((snapshot, artifact))) if snapshot.state.step == step => {
                    self.last = Some(reference(step, &folder, artifact.digest, artifact.committed_at));
                    self.kept = steps.range(..=step).copied().collect();
                    return Ok(Some(snapshot));
                }
                Ok(Ok(_)) => Some("it holds another step".to_owned()),
                Ok(Err(problem)) => Some(problem.to_owned()),
                // One that the last pod had no time to commit.
                Err(ArtifactError::NotFound { .. }) => None,
                Err(error) if is_at_fault(&error) => Some(error.to_string()),
                Err(error) => return Err(error.into()),
            };
            if let Some(problem) = problem {
                self.watch.on(Event::Warning(&format!(
                    "the checkpoint of step {step} is skipped for the one before it: {problem}"
                )));
            }
            self.store.stale.insert(step);
        }
        Ok(None)
    }

    fn decode(
        &self,
        artifact: Artifact,
        inputs: &str,
        origin: &Origin,
        config: &TrainConfig,
        device: &Device,
    ) -> Result<Result<(Snapshot, Artifact), &'static str>, ArtifactError> {
        if artifact.run.as_ref() != Some(&self.store.run) {
            return Ok(Err("it is of another run"));
        }
        let snapshot = Snapshot::decode(&artifact, inputs, origin, config, device)?;
        Ok(snapshot
            .map(|snapshot| (snapshot, artifact))
            .ok_or("it is of another configuration, of other data or of another tokenizer"))
    }
}

impl Store {
    fn at(&self, step: u64) -> Folder {
        self.folder.join(&step.to_string())
    }

    /// The steps of which there is a checkpoint, or a part of one.
    async fn steps(&self) -> Result<BTreeSet<u64>, ArtifactError> {
        let listed = self.folder.store.list_with_delimiter(Some(&self.folder.path)).await;
        let folders = listed.map_err(|error| self.folder.error(error))?.common_prefixes;
        Ok(folders.iter().filter_map(|path| path.filename()?.parse().ok()).collect())
    }

    async fn write(self, snapshot: Snapshot) -> Written {
        let (step, good_before) = (snapshot.state.step, snapshot.state.good_before());
        match self.commit(snapshot).await {
            Ok(checkpoint) => Written { step, result: Ok((checkpoint, self.prune(step, good_before).await)) },
            Err(error) => Written { step, result: Err(error) },
        }
    }

    async fn commit(&self, snapshot: Snapshot) -> Result<CheckpointRef, EncodeError> {
        let step = snapshot.state.step;
        let folder = self.at(step);
        if self.stale.contains(&step) {
            artifact::remove(&folder).await?;
        }
        let begun = Instant::now();
        let mut writer = Writer::begin(&folder, Some(&self.run)).await?;
        snapshot.write(&mut writer).await?;
        let bytes = writer.bytes();
        let digest = writer.commit().await?;
        tracing::info!(step, bytes, seconds = begun.elapsed().as_secs_f64(), "a checkpoint is written");
        Ok(reference(step, &folder, digest, Timestamp::now()))
    }

    /// Deletes those that are stale, and of the others all but the newest ones and the newest good one. Answers which are left.
    async fn prune(&self, newest: u64, good_before: u64) -> Result<BTreeSet<u64>, ArtifactError> {
        let (stale, others): (BTreeSet<u64>, BTreeSet<u64>) =
            self.steps().await?.into_iter().partition(|step| *step != newest && self.stale.contains(step));
        let last = others.iter().rev().take(self.keep_last);
        let kept: BTreeSet<u64> = last.chain(others.range(..good_before).next_back()).copied().collect();
        for step in stale.iter().chain(others.difference(&kept)) {
            artifact::remove(&self.at(*step)).await?;
        }
        Ok(kept)
    }
}

/// Whether what cannot be restored is the checkpoint's fault.
fn is_at_fault(error: &ArtifactError) -> bool {
    match error {
        ArtifactError::Json(_) => true,
        ArtifactError::Model(error) => error.reason() == Reason::CorruptArtifact,
        error => error.is_broken(),
    }
}

fn reference(step: u64, folder: &Folder, digest: String, time: Timestamp) -> CheckpointRef {
    CheckpointRef { step, time: time.to_string(), uri: folder.uri.clone(), digest }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use burn::tensor::ExecutionError;
    use tokio::runtime::Runtime;

    use super::*;
    use crate::{model::ModelError, storage::Access, training::Silent};

    fn full() -> ArtifactError {
        ModelError::Execution(ExecutionError::WithContext { reason: "out of device memory".into() }).into()
    }

    #[test]
    fn a_device_whose_memory_is_full_ends_the_training_although_there_are_checkpoints() {
        let (runtime, dir) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
        let folder = Access::local(dir.path()).open("s3://bucket/checkpoints").unwrap();
        let mut checkpoints =
            Checkpoints::new(&folder, "1-a".into(), &Checkpoint::default(), runtime.handle(), &Silent);
        checkpoints.last = Some(reference(1, &folder, "sha256:a".into(), Timestamp::now()));
        checkpoints.writing = Some(runtime.spawn_blocking(|| Written { step: 2, result: Err(full().into()) }));
        assert_eq!(checkpoints.wait().unwrap_err().reason(), Reason::OutOfDeviceMemory);

        checkpoints.writing = Some(runtime.spawn_blocking(|| panic!("out of device memory")));
        let panic = catch_unwind(AssertUnwindSafe(|| checkpoints.wait())).unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"out of device memory"));
    }

    #[test]
    fn a_device_that_fails_does_not_make_a_checkpoint_a_broken_one() {
        assert!(!is_at_fault(&full()));
        let (tensor, expected, found) = ("output.bias".into(), "F32 [3]".into(), "nothing".into());
        assert!(is_at_fault(&ModelError::Mismatch { tensor, expected, found }.into()));
        assert!(is_at_fault(&ArtifactError::NotFound { uri: "s3://models/a".into() }));
    }
}
