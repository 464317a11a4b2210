//! Running `helm`, `kubectl` and Stoker's own binaries, as a user does.

use std::{
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use crate::{Error, Result};

/// Runs a program and returns what it wrote to its standard output.
///
/// # Errors
/// If it is not on the PATH, or ends with an error; the error holds all that it wrote.
pub async fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments);
    output_of(command).await
}

/// Runs a prepared command and returns what it wrote to its standard output.
///
/// # Errors
/// If it is not on the PATH, or ends with an error; the error holds all that it wrote.
pub async fn output_of(mut command: Command) -> Result<String> {
    let shown = show(&command);
    let failed = |output: String| Error::Command { command: shown.clone(), output };
    command.stdin(Stdio::null());
    let Output { status, stdout, stderr } = tokio::task::spawn_blocking(move || command.output())
        .await
        .map_err(|error| failed(error.to_string()))?
        .map_err(|error| failed(error.to_string()))?;
    let stdout = String::from_utf8_lossy(&stdout).into_owned();
    if status.success() {
        return Ok(stdout);
    }
    Err(failed(format!("{status}\n{stdout}{}", String::from_utf8_lossy(&stderr))))
}

fn show(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// One of the workspace's own binaries: it lies where this program lies, or one folder up from a test.
///
/// # Errors
/// If it has not been built.
pub fn own_binary(name: &str) -> Result<PathBuf> {
    let missing = || Error::Command {
        command: name.to_owned(),
        output: format!("it is not built: run `cargo build --release --bin {name}`"),
    };
    let this = std::env::current_exe().map_err(|_| missing())?;
    this.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.is_file()).ok_or_else(missing)
}
