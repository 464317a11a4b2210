//! `stoker-demo`: raw data in, a served model out, on the cluster of the kubeconfig.

mod progress;
mod stage;
mod tour;

use std::process::ExitCode;

use clap::Parser;
use stoker_e2e::cluster;

/// Installs Stoker and an S3 server, trains and serves the examples, and asks the served models about rows that training
/// never saw.
///
/// It works on the cluster of the kubeconfig, and can be run again at any time. The images come from
/// STOKER_OPERATOR_IMAGE and STOKER_TRAINER_IMAGE, and the S3 server's from STOKER_S3_IMAGE.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Remove what the demo installed. The definitions of the two kinds stay, as with any uninstall.
    #[arg(long)]
    remove: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(std::io::stderr).init();
    let options = Options::parse();
    let result = match cluster::connect().await {
        Ok(client) if options.remove => stage::remove(&client).await,
        Ok(client) => tour::run(&client).await,
        Err(error) => Err(error),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nstoker-demo: {error}");
            ExitCode::FAILURE
        }
    }
}
