//! `stoker-trainer train`, run and watched as in a pod.

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use serde::{Serialize, de::DeserializeOwned};
use stoker_crds::{ModelTrainingSpec, Progress, RunReport, TrainConfig, config::RunIdentity, progress::PROGRESS_PATH};
use stoker_e2e::{Error, Result, command};
use tempfile::TempDir;

use crate::process::{Process, free_address};

/// How often the trainer is asked where it stands.
const POLL: Duration = Duration::from_millis(20);
/// The longest that a run may take.
const LIMIT: Duration = Duration::from_secs(1200);

/// The configuration that the operator would write for the first run of a spec.
///
/// # Errors
/// If the spec is not complete.
pub(crate) fn configuration(name: &str, spec: &ModelTrainingSpec) -> Result<TrainConfig> {
    let run = RunIdentity { namespace: "bench".into(), training: name.into(), uid: "bench".into(), number: 1 };
    TrainConfig::resolve(spec, run, None, None).map_err(|error| Error::Unexpected(error.to_string()))
}

/// A run of the trainer; it is ended when this is dropped.
pub(crate) struct Trainer {
    process: Process,
    url: String,
    report: PathBuf,
    /// Where it logs.
    pub(crate) log: PathBuf,
    /// Holds configuration, prepared data, report and log.
    _folder: TempDir,
}

impl Trainer {
    /// Starts a run. Its log is JSON lines.
    ///
    /// # Errors
    /// If the trainer is not built, or the disk is full.
    pub(crate) fn start(config: &TrainConfig, environment: &[(&str, String)]) -> Result<Self> {
        let folder = temporary()?;
        let file = |name: &str| folder.path().join(name);
        let (report, log, address) = (file("report.json"), file("log"), free_address()?);
        write(&file("config.json"), config)?;
        make_folder(&file("scratch"))?;
        let mut trainer = Command::new(command::own_binary("stoker-trainer")?);
        trainer.arg("train").arg("--config").arg(file("config.json")).arg("--scratch").arg(file("scratch"));
        trainer.arg("--termination-message-path").arg(&report).arg("--listen").arg(address.to_string());
        // By this the trainer knows that it is in a pod, and logs as there.
        trainer.env("KUBERNETES_SERVICE_HOST", "none").envs(environment.iter().map(|(name, value)| (name, value)));
        let process = Process::start(trainer, &log)?;
        Ok(Self { process, url: format!("http://{address}{PROGRESS_PATH}"), report, log, _folder: folder })
    }

    /// Asks it where it stands, at short intervals, until it ends: then the answer is its report. If `see` breaks off, it is
    /// ended before, and there is none.
    ///
    /// # Errors
    /// If the run fails, or takes too long.
    pub(crate) async fn watch(
        &mut self,
        mut see: impl FnMut(Instant, Progress) -> ControlFlow<()>,
    ) -> Result<Option<RunReport>> {
        let http = reqwest::Client::new();
        let deadline = Instant::now() + LIMIT;
        loop {
            match self.process.ended()? {
                Some(status) if status.success() => return read(&self.report).map(Some),
                Some(status) => return Err(self.process.failure(&status.to_string())),
                None if Instant::now() > deadline => {
                    return Err(self.process.failure(&format!("it did not end within {} s", LIMIT.as_secs())));
                }
                None => {}
            }
            // Before it listens, and once it has ended, there is no answer.
            let asked = Instant::now();
            if let Ok(answer) = http.get(&self.url).send().await
                && let Ok(progress) = answer.json().await
                && see(asked, progress).is_break()
            {
                return Ok(None);
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// The steps that a trainer was seen to have done, and when.
#[derive(Debug, Default)]
pub(crate) struct Steps(Vec<(Instant, u64)>);

impl Steps {
    /// Notes how many steps are done; of the same number only the first moment counts.
    pub(crate) fn note(&mut self, at: Instant, step: u64) {
        if step > 0 && self.0.last().is_none_or(|(_, last)| *last < step) {
            self.0.push((at, step));
        }
    }

    /// The first and the last moment, of those after the first `warm_up` steps.
    pub(crate) fn span(&self, warm_up: u64) -> Option<[(Instant, u64); 2]> {
        let mut counted = self.0.iter().copied().filter(|(_, step)| *step >= warm_up);
        let first = counted.next()?;
        Some([first, counted.next_back()?])
    }

    /// Steps per second after the first `warm_up` ones.
    ///
    /// # Errors
    /// If less than half of the other steps were seen.
    pub(crate) fn per_second(&self, warm_up: u64, total: u64) -> Result<f64> {
        let seen = self.span(warm_up).filter(|[(_, first), (_, last)]| (last - first) * 2 >= total - warm_up);
        let [(began, first), (ended, last)] =
            seen.ok_or_else(|| Error::Unexpected("less than half of the step loop was seen".into()))?;
        Ok((last - first) as f64 / (ended - began).as_secs_f64())
    }

    /// How many steps were done by then, between two that were seen as a part of one.
    pub(crate) fn by(&self, at: Instant) -> f64 {
        let after = self.0.partition_point(|(seen, _)| *seen <= at);
        match (after.checked_sub(1).and_then(|before| self.0.get(before)), self.0.get(after)) {
            (Some((began, first)), Some((ended, last))) => {
                let share = (at - *began).as_secs_f64() / (*ended - *began).as_secs_f64();
                *first as f64 + share * (last - first) as f64
            }
            (Some((_, step)), None) | (None, Some((_, step))) => *step as f64,
            (None, None) => 0.0,
        }
    }
}

/// A folder that vanishes with what is returned.
pub(crate) fn temporary() -> Result<TempDir> {
    tempfile::tempdir().map_err(|source| Error::File { path: std::env::temp_dir(), source })
}

/// Makes a folder, and those that it is in.
pub(crate) fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|source| Error::File { path: path.to_owned(), source })
}

/// Writes a file of JSON.
pub(crate) fn write(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_vec(value).map_err(|error| Error::Unexpected(error.to_string()))?;
    fs::write(path, text).map_err(|source| Error::File { path: path.to_owned(), source })
}

/// Reads a file of text.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|source| Error::File { path: path.to_owned(), source })
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
    serde_json::from_slice(&text).map_err(|error| Error::Unexpected(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(seen: &[(f64, u64)]) -> (Instant, Steps) {
        let (start, mut steps) = (Instant::now(), Steps::default());
        seen.iter().for_each(|(seconds, step)| steps.note(start + Duration::from_secs_f64(*seconds), *step));
        (start, steps)
    }

    #[test]
    fn a_pace_is_that_between_the_first_moments_of_two_steps() {
        let (_, steps) = steps(&[(0.5, 0), (1.0, 1), (1.5, 1), (2.0, 2), (4.0, 12), (5.0, 12)]);
        assert_eq!(steps.per_second(2, 12).unwrap(), 5.0);
        assert!(steps.per_second(2, 40).is_err());
    }

    #[test]
    fn between_two_moments_steps_are_done_evenly() {
        let (start, steps) = steps(&[(1.0, 10), (3.0, 20)]);
        let by = |seconds| steps.by(start + Duration::from_secs_f64(seconds));
        assert_eq!([by(0.0), by(1.0), by(1.5), by(9.0)], [10.0, 10.0, 12.5, 20.0]);
    }
}
