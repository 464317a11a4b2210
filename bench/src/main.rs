//! `stoker-bench`: how fast Stoker trains and serves on this machine, beside its peers too, and what its operator costs a
//! cluster.

mod examples;
mod load;
mod machine;
mod operator;
mod output;
mod process;
mod serving;
mod train;
mod trainer;
mod training;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, ValueEnum, value_parser};
use stoker_e2e::Result;

use self::{machine::Machine, output::Output};

/// Measures Stoker, prints tables, and adds the figures to a file of JSON lines.
///
/// The programs that are measured are those beside this one. The part `operator` works on the cluster of the kubeconfig,
/// which has to be the one-node cluster `bench`; docs/benchmarks.md says what is measured, and how.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// What is measured.
    #[arg(value_enum, required = true)]
    parts: Vec<Part>,
    /// The file that the figures are added to, as JSON lines.
    #[arg(long, value_name = "FILE", default_value = "stoker-bench.jsonl")]
    output: PathBuf,
    /// How often the training runs; the best run counts.
    #[arg(long, default_value_t = 5, value_name = "COUNT", value_parser = value_parser!(u32).range(1..=50))]
    runs: u32,
    /// How long a server is asked at each number of connections, in seconds.
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u64).range(1..=300))]
    seconds: u64,
    /// How many objects are made at a time.
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1000], value_parser = value_parser!(u32).range(1..=5000))]
    objects: Vec<u32>,
    #[command(flatten)]
    train: train::Options,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Rows per second of a small multi-layer perceptron.
    Training,
    /// Requests per second, and how long they take, over loopback.
    Serving,
    /// Objects per second, CPU, memory and API requests of the operator, with pods faked by kwok.
    Operator,
    /// Small multi-layer perceptrons beside PyTorch.
    Mlp,
    /// Language models beside PyTorch.
    Gpt,
    /// Rows per second from a CSV to numbers, beside Polars and pandas.
    Preparation,
    /// What checkpoints cost the steps, and their way to storage beside a plain upload.
    Checkpoint,
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(std::io::stderr).init();
    match run(&Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nstoker-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<()> {
    let mut output = Output::append_to(&options.output)?;
    let machine = Machine::this()?;
    println!("{machine}");
    output.record("machine", &machine)?;
    for part in &options.parts {
        match part {
            Part::Training => training::run(options.runs, &mut output).await?,
            Part::Serving => serving::run(options.seconds, &mut output).await?,
            Part::Operator => operator::run(&options.objects, &mut output).await?,
            Part::Mlp => train::perceptrons(&options.train, &mut output).await?,
            Part::Gpt => train::language_models(&options.train, &mut output).await?,
            Part::Preparation => train::preparation(&options.train, &mut output).await?,
            Part::Checkpoint => train::checkpoints(&mut output).await?,
        }
    }
    println!("\nThe figures are in {} too.", options.output.display());
    Ok(())
}
