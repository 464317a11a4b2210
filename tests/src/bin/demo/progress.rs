//! How a training goes, on one line that moves; on plain lines where the output is no terminal.

use std::{
    io::{IsTerminal, stderr},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kube::{Api, Client};
use stoker_crds::{
    ModelTraining, ModelTrainingStatus,
    training::status::{Phase, TrainingSummary},
};
use stoker_e2e::{
    Error, Result,
    wait::{Wait, status_yaml},
};

use crate::stage::{NAMESPACE, note};

/// How long a training of the examples may take, the start of its pod included.
const LIMIT: Duration = Duration::from_secs(1800);

/// Shows a training until it has succeeded.
///
/// # Errors
/// If it fails, or takes too long.
pub(crate) async fn show(client: &Client, name: &str) -> Result<()> {
    let trainings: Api<ModelTraining> = Api::namespaced(client.clone(), NAMESPACE);
    let mut line = Line::new(name);
    let ended = Wait::new(format!("ModelTraining {name} to be finished"), LIMIT)
        .until_any(&trainings, "", |trainings| {
            let training = trainings.get(name)?;
            let status = current(training)?;
            line.show(status);
            status.phase?.is_finished().then(|| training.clone())
        })
        .await?;
    line.end();
    match ended.status.as_ref().and_then(|status| status.phase) {
        Some(Phase::Succeeded) => Ok(()),
        _ => Err(Error::Unexpected(format!("ModelTraining {name} has failed:\n{}", status_yaml(&ended)))),
    }
}

/// The status, if it is about the current spec, or that which the training was born with.
pub(crate) fn current(training: &ModelTraining) -> Option<&ModelTrainingStatus> {
    let is_current = |observed: Option<i64>| observed.is_none() || observed == training.metadata.generation;
    training.status.as_ref().filter(|status| is_current(status.observed_generation))
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
        }
        self.last = text;
    }

    /// Leaves the last state behind as a line that stays.
    fn end(&self) {
        self.bar.finish_and_clear();
        if self.is_terminal {
            note(&format!("{:8} {}", self.bar.prefix(), self.last));
        }
    }
}

/// Phase, percent, epoch, loss, metric, speed and the time that is left.
fn describe(status: &ModelTrainingStatus) -> String {
    let phase = status.phase.map_or_else(|| "Pending".to_owned(), |phase| format!("{phase:?}"));
    let TrainingSummary { progress, epoch, loss, metric, eta } = status.summary.clone().unwrap_or_default();
    let parts = [
        Some(phase),
        progress,
        epoch.map(|epoch| format!("epoch {epoch}")),
        loss.map(|loss| format!("loss {loss}")),
        metric,
        pace(status),
        eta.map(|eta| format!("{eta} left")),
        status.error.as_ref().map(|error| error.reason.to_string()),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("  ")
}

/// Tokens or rows per second.
fn pace(status: &ModelTrainingStatus) -> Option<String> {
    let throughput = status.progress.as_ref()?.throughput;
    let tokens = throughput.tokens_per_second.map(|tokens| format!("{tokens:.0} tokens/s"));
    tokens.or_else(|| Some(format!("{:.0} rows/s", throughput.samples_per_second?)))
}
