//! `stoker-operator`.

use std::process::ExitCode;

fn main() -> ExitCode {
    stoker_operator::cli::main()
}
