//! The peer's side: programs in Python, each of which answers with a line of JSON.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use stoker_e2e::{Error, Result, checkout, command};
use tempfile::TempDir;

use super::Options;
use crate::{output::Output, trainer};

const FOLDER: &str = "bench/peer";

/// How PyTorch computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Mode {
    /// By `torch.compile`, or step by step.
    pub(super) is_compiled: bool,
    /// Of the CPU, where it computes there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) threads: Option<usize>,
}

impl Mode {
    /// So many threads, after what they are of.
    pub(super) fn on_threads(self) -> String {
        match self.threads {
            None => String::new(),
            Some(1) => ", 1 thread".into(),
            Some(count) => format!(", {count} threads"),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.is_compiled { "compiled" } else { "eager" };
        write!(f, "{how}{}", self.on_threads())
    }
}

/// What a training of PyTorch answers.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Trained {
    pub(super) steps_per_second: f64,
    /// Of each step, or one: their mean, or that of the trained model.
    pub(super) losses: Vec<f64>,
    /// Rows, or sequences, that it was trained on.
    pub(super) samples: u64,
}

/// What both sides have in common: files, for the peer's programs.
pub(super) struct Start {
    /// The first weights.
    pub(super) weights: PathBuf,
    /// The sequences of each epoch in the order in which the trainer takes them: their indices as 32-bit numbers, of the
    /// machine's byte order. Rows are not in the same places on both sides.
    pub(super) order: Option<PathBuf>,
}

/// The Python that runs the programs.
pub(super) struct Peer {
    python: PathBuf,
    pub(super) on_gpu: bool,
    /// What `torch.compile` has made, for the next time in the same benchmark: of a run that was ended halfway, parts might
    /// be missing.
    compiled: TempDir,
}

impl Peer {
    /// Tells the versions of what the Python has.
    ///
    /// # Errors
    /// If a package of bench/peer/requirements.txt is missing, or there is no room for temporary files.
    pub(super) async fn start(options: &Options, output: &mut Output) -> Result<Self> {
        let peer = Self { python: options.peer.clone(), on_gpu: options.gpu, compiled: trainer::temporary()? };
        let versions: BTreeMap<String, String> = answer(peer.program("versions.py")).await?;
        output.record("peers", &versions)?;
        let all: Vec<_> = versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        println!("\nBeside {}", all.join(", "));
        Ok(peer)
    }

    /// Trains by PyTorch what a file configures.
    ///
    /// # Errors
    /// If PyTorch is not there, or the training fails.
    pub(super) async fn train(
        &self,
        script: &str,
        config: &Path,
        start: &Start,
        mode: Mode,
        warm_up: u64,
    ) -> Result<Trained> {
        let mut python = self.program(script);
        python.arg(config).arg("--weights").arg(&start.weights);
        python.args(start.order.iter().flat_map(|order| ["--order".as_ref(), order.as_os_str()]));
        python.args(["--warm-up", &warm_up.to_string()]);
        python.args(mode.threads.iter().map(|count| format!("--threads={count}")));
        python.args(mode.is_compiled.then_some("--compile"));
        python.args(self.on_gpu.then_some("--device=cuda"));
        answer(python).await
    }

    /// One of the programs.
    pub(super) fn program(&self, script: &str) -> Command {
        let mut python = Command::new(&self.python);
        python.arg(checkout::path(FOLDER).join(script));
        python.env("TORCHINDUCTOR_CACHE_DIR", self.compiled.path());
        python
    }
}

/// What it says in its last line.
pub(super) async fn answer<T: DeserializeOwned>(python: Command) -> Result<T> {
    let shown = format!("{python:?}");
    let said = command::output_of(python).await?;
    let line = said.lines().next_back().unwrap_or_default();
    serde_json::from_str(line).map_err(|error| Error::Command { command: shown, output: format!("{error} in {line}") })
}
