//! Which run a ModelTraining asks for: the current one, or the next.

use kube::ResourceExt;
use stoker_crds::{ModelTraining, ModelTrainingSpec, training::status::Phase};

use crate::{digest, error::Result, labels::RESTART_ANNOTATION};

/// The run that a spec asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its number, from 1.
    pub number: u32,
    /// What it is made of.
    pub digest: RunDigest,
    /// Whether status does not know it yet.
    pub is_new: bool,
    /// Whether it is the run that status knows, perhaps in another pod: what it began with, it goes on with.
    pub goes_on: bool,
    /// Whether it has ended: then nothing starts it again, whatever became of its Job.
    pub is_finished: bool,
}

/// Digests of what a run is made of, `<learns>.<pod>` in status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunDigest {
    /// Of what decides what is learned: another one is another run.
    learns: String,
    /// Of how its pod runs: another one is the same run in another pod, and another try of a run that failed.
    pod: String,
}

impl std::fmt::Display for RunDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.learns, self.pod)
    }
}

impl RunDigest {
    fn parse(text: &str) -> Option<Self> {
        let (learns, pod) = text.split_once('.')?;
        Some(Self { learns: learns.into(), pod: pod.into() })
    }
}

impl Run {
    /// The run that a ModelTraining asks for, in the light of the last one in its status.
    ///
    /// # Errors
    /// If the spec cannot be written as JSON.
    pub fn of(training: &ModelTraining) -> Result<Self> {
        let digest = digest_of(&training.spec, training.annotations().get(RESTART_ANNOTATION), &training.name_any())?;
        let status = training.status.as_ref();
        let last = status.and_then(|status| {
            let started = RunDigest::parse(status.config_digest.as_deref()?)?;
            Some((status, started, status.phase?))
        });
        Ok(match last {
            None => Self { number: 1, digest, is_new: true, goes_on: false, is_finished: false },
            Some((status, started, phase)) => {
                let goes_on = started.learns == digest.learns;
                let is_new = !goes_on || phase == Phase::Failed && started.pod != digest.pod;
                // What is learned stays: the failed run goes on from its checkpoints in another pod. And a run that never had
                // a pod has left nothing anywhere: its number is still free.
                let step = u32::from(!goes_on && status.pod.is_some());
                let is_finished = !is_new && phase.is_finished();
                Self { number: status.run.saturating_add(step), digest, is_new, goes_on, is_finished }
            }
        })
    }

    /// The name of its Job and ConfigMap.
    pub fn name(&self, training: &str) -> String {
        name(training, self.number)
    }
}

/// The name of the Job and the ConfigMap of a run.
pub fn name(training: &str, number: u32) -> String {
    format!("{training}-{number}")
}

fn digest_of(spec: &ModelTrainingSpec, restart: Option<&String>, name: &str) -> Result<RunDigest> {
    let ModelTrainingSpec {
        task,
        data,
        model,
        train,
        storage,
        checkpoint,
        resources,
        scheduling,
        retries,
        deadline,
        suspend: _,
        ttl_after_finished: _,
    } = spec;
    let short = |digest: String| digest.chars().take(16).collect();
    let learns = digest::of(&(task, data, model, train, storage, restart), name)?;
    let pod = digest::of(&(checkpoint, resources, scheduling, retries, deadline), name)?;
    Ok(RunDigest { learns: short(learns), pod: short(pod) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::fixtures;

    fn after(phase: Phase, change: impl Fn(&mut ModelTraining)) -> Run {
        let mut training = fixtures::training();
        let digest = Run::of(&training).unwrap().digest.to_string();
        training.status = Some(stoker_crds::ModelTrainingStatus {
            run: 3,
            config_digest: Some(digest),
            phase: Some(phase),
            pod: Some("digits-3-abcde".into()),
            ..Default::default()
        });
        change(&mut training);
        Run::of(&training).unwrap()
    }

    #[test]
    fn a_finished_run_is_sticky_until_what_is_learned_changes() {
        let same = after(Phase::Succeeded, |training| {
            training.spec.ttl_after_finished = Some(stoker_crds::Duration::from_secs(1));
            training.spec.resources.memory = "64Gi".into();
            training.spec.suspend = true;
        });
        assert!(same.is_finished && !same.is_new && same.number == 3);
        let next = after(Phase::Succeeded, |training| training.spec.train.seed += 1);
        assert!(!next.is_finished && next.is_new && next.number == 4);
    }

    #[test]
    fn the_restart_annotation_starts_the_next_run() {
        let next = after(Phase::Succeeded, |training| {
            training.annotations_mut().insert(RESTART_ANNOTATION.into(), "again".into());
        });
        assert_eq!((next.number, next.is_new), (4, true));
    }

    #[test]
    fn a_run_that_never_had_a_pod_keeps_its_number() {
        let next = after(Phase::Pending, |training| {
            training.spec.train.seed += 1;
            training.status.as_mut().unwrap().pod = None;
        });
        assert_eq!((next.number, next.is_new), (3, true));
    }

    #[test]
    fn a_failed_run_goes_on_in_another_pod_under_its_own_number() {
        let raise = |training: &mut ModelTraining| training.spec.resources.memory = "64Gi".into();
        let next = after(Phase::Failed, raise);
        assert_eq!((next.number, next.is_new, next.is_finished), (3, true, false));
        assert_eq!(after(Phase::Pending, raise).number, 3);
        assert!(after(Phase::Failed, |_| ()).is_finished);
    }

    /// Were these to change, an upgrade of the operator would train every finished ModelTraining once more. A new field
    /// of the spec is left out of its JSON while it has its default (`skip_serializing_if`).
    #[test]
    fn digests_are_the_same_in_every_version() {
        let run = Run::of(&fixtures::training()).unwrap();
        assert_eq!(run.digest.to_string(), "47d40891a0703507.8adeddd99d51c415");
    }
}
