//! `stoker-operator`.

use std::process::ExitCode;

use clap::Parser;
use stoker_operator::{
    cli::{self, Cli},
    error::with_causes,
};

// One thread is enough: the operator waits for the API server most of the time.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match cli::run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", with_causes(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}
