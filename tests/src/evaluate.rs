//! How well a served model does on the rows that its training held out, asked over HTTP.

use std::{path::Path, process::Command};

use serde::Deserialize;
use stoker_crds::metric::Metrics;

use crate::{Error, Result, command};

/// What came of asking.
#[derive(Clone, Debug, Deserialize)]
pub struct Evaluation {
    /// How many rows were asked about.
    pub rows: usize,
    /// The metrics of the answers.
    pub metrics: Metrics,
}

/// Has `stoker-trainer evaluate` send the held-out rows of a manifest's training to the server at `url`.
///
/// # Errors
/// If the trainer is not built, or the server does not answer as it should.
pub async fn evaluate(manifest: &Path, url: &str) -> Result<Evaluation> {
    let mut trainer = Command::new(command::own_binary("stoker-trainer")?);
    trainer.args(["evaluate", "--json", "--url", url, "--file"]).arg(manifest);
    let output = command::output_of(trainer).await?;
    let unexpected = |error| Error::Unexpected(format!("`stoker-trainer evaluate` printed {output:?}: {error}"));
    serde_json::from_str(&output).map_err(unexpected)
}
