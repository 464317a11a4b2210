//! Programs that run beside the benchmark and end with it.

use std::{
    fs::{self, File},
    io,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use stoker_e2e::{Error, Result};

/// The last bytes of a log that an error shows.
const LOG_TAIL: usize = 2000;

/// A program that runs; it is ended when this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts a program. What it writes goes to the file `log`.
    ///
    /// # Errors
    /// If it is not there, or the log cannot be written.
    pub(crate) fn start(mut command: Command, log: &Path) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let file = |source| Error::File { path: log.to_owned(), source };
        let written = File::create(log).map_err(file)?;
        let copy = written.try_clone().map_err(file)?;
        let started = command.stdin(Stdio::null()).stdout(written).stderr(copy).spawn();
        let child = started.map_err(|error| Error::Command { command: name.clone(), output: error.to_string() })?;
        Ok(Self { child, name, log: log.to_owned() })
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// If the system does not say.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let waited: io::Result<_> = self.child.try_wait();
        waited.map_err(|error| Error::Command { command: self.name.clone(), output: error.to_string() })
    }

    /// What to say when it has not done what it was started for.
    pub(crate) fn failure(&self, what: &str) -> Error {
        let log = fs::read(&self.log).unwrap_or_default();
        let tail = String::from_utf8_lossy(&log[log.len().saturating_sub(LOG_TAIL)..]).into_owned();
        Error::Command { command: self.name.clone(), output: format!("{what}\n{tail}") }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// An address on loopback at which nothing listens.
///
/// # Errors
/// If there is no free port.
pub(crate) fn free_address() -> Result<SocketAddr> {
    let bound = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    bound.map_err(|error| Error::Unexpected(format!("no port of 127.0.0.1 is free: {error}")))
}
