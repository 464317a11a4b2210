//! The command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio_util::sync::CancellationToken;
use tracing::Level;
use tracing_subscriber::{filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{
    allocator::keep_freed_memory,
    run::{evaluate, local, train},
    server,
};

/// Trains, evaluates and serves models.
#[derive(Debug, Parser)]
#[command(name = "stoker-trainer", version, propagate_version = true)]
struct Cli {
    /// How much to log: error, warn, info, debug or trace; by target if wanted, as in warn,stoker_trainer=debug.
    #[arg(long, env = "STOKER_LOG", global = true, value_name = "FILTER")]
    log: Option<Targets>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the ModelTraining of a manifest here, without a cluster, and leave the model in a folder.
    Local(local::Options),
    /// Serve a model over the Open Inference Protocol.
    Serve(server::ServeOptions),
    /// Compute the metrics of a model on the rows that its training held out.
    Evaluate(evaluate::Options),
    /// Run a training inside a pod, as the operator asks for it.
    Train(train::Options),
}

/// Runs the program, and says how it ended by the exit code of its reason.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    start_logging(&cli);
    if matches!(cli.command, Command::Local(_) | Command::Train(_)) {
        keep_freed_memory();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start the runtime: {error}"), ExitCode::FAILURE),
    };
    let stop = CancellationToken::new();
    runtime.spawn(cancel_on_signal(stop.clone()));
    let code = runtime.block_on(async {
        match cli.command {
            Command::Local(options) => ended(local::run(options, stop).await),
            Command::Serve(options) => server::serve(options, stop)
                .await
                .map_or_else(|error| fail(&error.to_string(), exit_code(error.reason())), |()| ExitCode::SUCCESS),
            Command::Evaluate(options) => ended(evaluate::run(options).await),
            Command::Train(options) => {
                train::run(options, stop).await.map_or_else(ExitCode::from, |()| ExitCode::SUCCESS)
            }
        }
    });
    // What is done is reported. A thread that waits for a file system which does not answer is not waited for.
    runtime.shutdown_background();
    code
}

fn ended(result: Result<(), crate::run::RunError>) -> ExitCode {
    result.map_or_else(|error| fail(&error.to_string(), error.exit_code().into()), |()| ExitCode::SUCCESS)
}

/// The exit code of a reason.
fn exit_code(reason: stoker_crds::Reason) -> ExitCode {
    reason.exit_code().map_or(ExitCode::FAILURE, ExitCode::from)
}

fn fail(message: &str, code: ExitCode) -> ExitCode {
    eprintln!("stoker-trainer: {message}");
    code
}

/// Logs go to standard error: JSON lines in a pod, readable lines elsewhere.
fn start_logging(cli: &Cli) {
    let is_at_a_terminal = matches!(cli.command, Command::Local(_) | Command::Evaluate(_));
    let default = if is_at_a_terminal { Level::WARN } else { Level::INFO };
    let filter = cli.log.clone().unwrap_or_else(|| Targets::new().with_default(default));
    let registry = tracing_subscriber::registry().with(filter);
    if in_pod() {
        registry.with(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr)).init();
    } else {
        registry.with(fmt::layer().compact().with_writer(std::io::stderr)).init();
    }
}

fn in_pod() -> bool {
    std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

async fn cancel_on_signal(stop: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::warn!("signals cannot be waited for: the process ends without a last checkpoint when it is told to");
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stop.cancel();
    // A second signal ends at once.
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    std::process::exit(130);
}
