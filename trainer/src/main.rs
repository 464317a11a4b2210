//! The trainer's process: see [`stoker_trainer::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    stoker_trainer::cli::main()
}
