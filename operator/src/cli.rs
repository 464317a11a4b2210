//! The command line.

use std::{error::Error, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};
use tokio::runtime::Builder;

use crate::{check, error::with_causes, generate, operator, rbac, settings::Settings, telemetry};

/// The Kubernetes operator for ModelTraining and ModelDeployment.
#[derive(Debug, Parser)]
#[command(name = "stoker-operator", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the operator.
    Run(Box<Settings>),
    /// Asks an address whether it is well; for `helm test`.
    Check {
        /// Such as http://stoker.stoker-system.svc:8080/readyz
        #[arg(long)]
        url: String,
    },
    /// Prints both CustomResourceDefinitions.
    Crds,
    /// Prints the rules of the operator's Role, each with its reason.
    Rbac,
    /// Writes the files of the repository that are generated from the code, or checks that they are up to date.
    Generate {
        /// Only check.
        #[arg(long)]
        check: bool,
        /// The root of the repository.
        #[arg(long, default_value = ".")]
        root: PathBuf,
    },
}

/// How long the thread rests when it has nothing to do, before it waits for more. Under load everything that comes meanwhile is
/// looked at together, which takes fewer wake-ups, each with cold caches; what comes after a rest is looked at at once.
const REST: Duration = Duration::from_millis(5);

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // One thread is enough: the operator waits for the API server most of the time.
    let runtime = Builder::new_current_thread().enable_all().on_thread_park(|| std::thread::sleep(REST)).build();
    let result = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(run(cli)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", with_causes(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<(), Box<dyn Error>> {
    match cli.command {
        Command::Run(settings) => {
            let telemetry = telemetry::start(&settings.log)?;
            let result = operator::run(*settings).await;
            telemetry.stop().await;
            result?;
        }
        Command::Check { url } => check::check(&url).await?,
        Command::Crds => print!("{}", generate::crds()?),
        Command::Rbac => print!("{}", rbac::manifest()),
        Command::Generate { check: true, root } => generate::check(&root)?,
        Command::Generate { check: false, root } => generate::write(&root)?,
    }
    Ok(())
}
