//! Training beside the peer: PyTorch for models, Polars and pandas for data, and a plain upload for checkpoints, in one run.

mod checkpoint;
mod compare;
mod csv;
mod figures;
mod gpt;
mod gpu;
mod mlp;
mod peer;
mod preparation;
mod s3;
mod vocabulary;

use std::path::PathBuf;

use stoker_e2e::Result;

use crate::output::Output;

/// How the comparison is made.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// The Python that has the packages of bench/peer/requirements.txt.
    #[arg(long, env = "STOKER_PEER", default_value = "python3", value_name = "FILE")]
    peer: PathBuf,
    /// The folder for large files that are kept for the next time.
    #[arg(long, env = "STOKER_BENCH_CACHE", default_value_os_t = std::env::temp_dir(), value_name = "DIR")]
    cache: PathBuf,
    /// How often both sides of a comparison run, in turn; the median counts.
    #[arg(long, default_value_t = 3, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=20))]
    repetitions: u32,
    /// Measure only the models in whose name this is.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    only: String,
    /// Compare GPT-2 124M on a CUDA GPU, in place of the small models on the CPU.
    #[arg(long)]
    gpu: bool,
    /// Sequences per step on the GPU [default: the largest power of two that both sides have memory for].
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=4096))]
    gpu_batch: Option<u32>,
    /// What the GPU computes at most in bfloat16, in TFLOP/s: by it the utilization is told [default: that of its data sheet,
    /// where the trainer knows it].
    #[arg(long, value_name = "TFLOPS", value_parser = positive)]
    gpu_peak: Option<f64>,
}

fn positive(text: &str) -> std::result::Result<f64, String> {
    let number = text.parse().map_err(|error| format!("{error}"))?;
    if f64::is_finite(number) && number > 0.0 { Ok(number) } else { Err("it must be more than 0".into()) }
}

/// The perceptrons of the examples.
///
/// # Errors
/// If one side fails.
pub(crate) async fn perceptrons(options: &Options, output: &mut Output) -> Result<()> {
    let tasks = mlp::tasks()?.into_iter().filter(|task| task.name.contains(&options.only));
    compare::run(tasks, options, output).await
}

/// Language models.
///
/// # Errors
/// If one side fails.
pub(crate) async fn language_models(options: &Options, output: &mut Output) -> Result<()> {
    if options.gpu { gpu::run(options, output).await } else { gpt::on_cpu(options, output).await }
}

pub(crate) use self::{checkpoint::run as checkpoints, preparation::run as preparation};
