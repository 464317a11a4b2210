//! How a training goes, on one line that moves; on plain lines where the output is no terminal.

use std::{
    io::{IsTerminal, stderr},
    time::Duration,
};

use futures::TryStreamExt as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kube::{Api, Client, ResourceExt as _, runtime::watcher};
use stoker_crds::{
    ModelTraining, ModelTrainingStatus,
    training::status::{Phase, TrainingSummary},
};
use stoker_e2e::{Error, Result, wait::status_yaml};
use tokio::time::timeout;

use crate::stage::{NAMESPACE, note};

/// The longest time in which nothing at all may happen to a training.
const SILENCE: Duration = Duration::from_secs(600);

/// Shows a training until it has succeeded.
///
/// # Errors
/// If it fails, or nothing happens to it for too long.
pub(crate) async fn show(client: &Client, name: &str) -> Result<ModelTraining> {
    let trainings: Api<ModelTraining> = Api::namespaced(client.clone(), NAMESPACE);
    let mut states = std::pin::pin!(watcher::watch_object(trainings, name));
    let mut line = Line::new(name);
    loop {
        let state = timeout(SILENCE, states.try_next())
            .await
            .map_err(|_| {
                Error::Unexpected(format!("nothing has happened to ModelTraining {name} for {} s", SILENCE.as_secs()))
            })?
            .map_err(|source| Error::Watch { what: format!("ModelTraining {name}"), source: Box::new(source) })?
            .flatten();
        let Some(training) = state else { continue };
        let Some(status) = current(&training) else { continue };
        line.show(status);
        match status.phase {
            Some(Phase::Succeeded) => {
                line.end(status);
                return Ok(training);
            }
            Some(Phase::Failed) => {
                line.end(status);
                return Err(Error::Unexpected(format!(
                    "ModelTraining {} has failed:\n{}",
                    training.name_any(),
                    status_yaml(&training)
                )));
            }
            _ => {}
        }
    }
}

/// The status, if it is about the current spec.
fn current(training: &ModelTraining) -> Option<&ModelTrainingStatus> {
    training.status.as_ref().filter(|status| status.observed_generation == training.metadata.generation)
}

/// The one line.
struct Line {
    bar: ProgressBar,
    is_terminal: bool,
    last: String,
}

impl Line {
    fn new(name: &str) -> Self {
        let is_terminal = stderr().is_terminal();
        let bar = ProgressBar::with_draw_target(Some(100), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("  {spinner:.green} {prefix:8} {bar:30.green/dim} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸─"));
        bar.set_prefix(name.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        Self { bar, is_terminal, last: String::new() }
    }

    fn show(&mut self, status: &ModelTrainingStatus) {
        let text = describe(status);
        if let Some(progress) = &status.progress {
            self.bar.set_position(u64::from(progress.percent));
        }
        self.bar.set_message(text.clone());
        if !self.is_terminal && text != self.last {
            note(&format!("{:8} {text}", self.bar.prefix()));
            self.last = text;
        }
    }

    fn end(&self, status: &ModelTrainingStatus) {
        self.bar.finish_and_clear();
        if self.is_terminal {
            note(&format!("{:8} {}", self.bar.prefix(), describe(status)));
        }
    }
}

/// Phase, percent, epoch, loss, metric and the time that is left.
fn describe(status: &ModelTrainingStatus) -> String {
    let phase = status.phase.map_or_else(|| "Pending".to_owned(), |phase| format!("{phase:?}"));
    let TrainingSummary { progress, epoch, loss, metric, eta } = status.summary.clone().unwrap_or_default();
    let parts = [
        Some(phase),
        progress,
        epoch.map(|epoch| format!("epoch {epoch}")),
        loss.map(|loss| format!("loss {loss}")),
        metric,
        eta.map(|eta| format!("{eta} left")),
        status.error.as_ref().map(|error| error.reason.to_string()),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("  ")
}
