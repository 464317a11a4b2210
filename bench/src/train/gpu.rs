//! GPT-2 on a GPU, with as many sequences in a step as both sides have memory for.

use std::{fs, path::PathBuf};

use serde::Serialize;
use serde_json::json;
use stoker_crds::training::Task as Kind;
use stoker_e2e::{Error, Result};
use stoker_trainer::model::{Architecture, peak_flops};
use tempfile::TempDir;

use super::{
    Options,
    compare::{self, COMPARED, Task},
    figures::{self, Figures},
    gpt::{GPT, Size, config, task, text},
    peer::Peer,
    vocabulary::{self, BYTES_PER_TOKEN, TOKENS},
};
use crate::{
    output::{Output, number},
    trainer,
};

/// The sequences in a step that are tried first.
const FIRST: u32 = 32;
const CONTEXT: u32 = 1024;
/// Few steps, of which the first are as the others, to see whether there is memory for them.
const REHEARSAL: Steps = Steps { all: 6, warm_up: 3 };
/// The trainer looks at a loss, and so waits for the GPU, each [`COMPARED`] steps: between the first and the last time is timed.
const MEASURED: Steps = Steps { all: 3 * COMPARED, warm_up: COMPARED };

#[derive(Clone, Copy)]
struct Steps {
    all: u32,
    warm_up: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Utilization<'a> {
    gpu: &'a str,
    batch: u32,
    peak_tflops: f64,
    /// Shares of the GPU's peak.
    stoker: f64,
    peer: f64,
}

/// GPT-2 of 124 million parameters in mixed precision beside compiled PyTorch.
///
/// # Errors
/// If one side fails for another reason than memory, or they differ.
pub(super) async fn run(options: &Options, output: &mut Output) -> Result<()> {
    let (peer, data) = (Peer::start(options, output).await?, Data::new()?);
    let mut batch = match options.gpu_batch {
        Some(batch) => batch,
        None => {
            let tried = async |batch| compare::rehearse(&data.gpt2(batch, REHEARSAL)?, &peer).await;
            largest_batch(FIRST, tried).await?
        }
    };
    // More steps may take more memory than few.
    let (task, figures) = loop {
        let task = data.gpt2(batch, MEASURED)?;
        match compare::compare(&task, &peer, options.repetitions).await {
            Err(error) if options.gpu_batch.is_none() && batch > 1 && is_out_of_memory(&error) => batch = half(batch),
            figures => break (task, figures?),
        }
    };
    let agreed = figures::report([(&figures, GPT)], output);
    report_utilization(&figures, batch, flops_per_token(&task)?, options.gpu_peak, output)?;
    agreed
}

/// Prints the share of the GPU's peak that both sides reach.
fn report_utilization(
    figures: &Figures,
    batch: u32,
    flops_per_token: f64,
    peak_tflops: Option<f64>,
    output: &mut Output,
) -> Result<()> {
    let gpu = figures.device.as_str();
    let known = || Some(peak_flops(gpu)?.bf16? / 1e12);
    let Some(peak_tflops) = peak_tflops.or_else(known) else {
        println!("Computed on {gpu}, whose peak is not known: name it by --gpu-peak to see the utilization.");
        return Ok(());
    };
    let share = |tokens_per_second: f64| tokens_per_second * flops_per_token / (peak_tflops * 1e12);
    let (stoker, peer) = (share(figures.stoker.median), share(figures.fastest_peer()));
    println!(
        "Model FLOPs utilization, of the {} TFLOP/s in bfloat16 of {gpu}: Stoker {} %, PyTorch compiled with flash attention {} %",
        number(peak_tflops),
        number(stoker * 100.0),
        number(peer * 100.0)
    );
    output.record("model FLOPs utilization", &Utilization { gpu, batch, peak_tflops, stoker, peer })
}

/// The floating-point operations of a token, counted as `/v1/progress` does.
fn flops_per_token(task: &Task) -> Result<f64> {
    let config = &task.config;
    let architecture = Architecture::new(config.model.clone(), Kind::LanguageModeling, config.train.loss, 0, TOKENS);
    let architecture = architecture.map_err(|error| Error::Unexpected(format!("the benchmark's model: {error}")))?;
    Ok(architecture.step_flops(None) / f64::from(CONTEXT))
}

/// What is trained on: copies of the text of the examples, in a folder that vanishes with this.
struct Data {
    folder: TempDir,
    tokenizer: PathBuf,
    text: PathBuf,
}

impl Data {
    fn new() -> Result<Self> {
        let folder = trainer::temporary()?;
        let tokenizer = folder.path().join("tokenizer.json");
        trainer::write(&tokenizer, &vocabulary::tokenizer())?;
        Ok(Self { folder, tokenizer, text: text()? })
    }

    /// So many steps on so many sequences each, which are those of less than an epoch: its last step may have fewer.
    fn gpt2(&self, batch: u32, steps: Steps) -> Result<Task> {
        let Steps { all, warm_up } = steps;
        let copies = self.copies(u64::from(batch) * u64::from(all))?;
        let model = json!({"preset": "gpt2"});
        let size = Size { name: "GPT-2 124M", model, context: CONTEXT, batch, steps: all, warm_up };
        let tokenizer = json!({"file": {"uri": format!("file://{}", self.tokenizer.display())}});
        let mut config = config(&size, &copies, tokenizer, "Mixed")?;
        config.resources.gpus = 1;
        // Numbers of 16 bits are off by up to 1/512 of themselves.
        Ok(Task { tolerance: 0.02, ..task(&size, "tokens", config) })
    }

    /// Files that hold more than so many sequences.
    fn copies(&self, sequences: u64) -> Result<PathBuf> {
        let folder = self.folder.path().join(sequences.to_string());
        trainer::make_folder(&folder)?;
        let (mut bytes, mut copies) = (0, 0);
        while bytes <= sequences * u64::from(CONTEXT) * BYTES_PER_TOKEN {
            let copy = folder.join(format!("{copies}.txt"));
            bytes += fs::copy(&self.text, &copy).map_err(|source| Error::File { path: copy, source })?;
            copies += 1;
        }
        Ok(folder.join("*.txt"))
    }
}

/// The largest batch that can be tried without an error: `first`, doubled or halved some times.
///
/// # Errors
/// If one fails for another reason than memory before any went well, or not even one sequence fits.
async fn largest_batch(first: u32, tried: impl AsyncFn(u32) -> Result<()>) -> Result<u32> {
    let mut batch = first;
    loop {
        match tried(batch).await {
            Ok(()) => break,
            Err(error) if batch > 1 && is_out_of_memory(&error) => batch = half(batch),
            Err(error) => return Err(error),
        }
    }
    // Where the first was too large, twice as large as this was, too.
    while batch >= first {
        match tried(2 * batch).await {
            Ok(()) => batch *= 2,
            Err(error) => {
                let why = if is_out_of_memory(&error) { "the GPU's memory is full".into() } else { error.to_string() };
                eprintln!("{} sequences a step are too many, and {batch} are taken: {why}", 2 * batch);
                break;
            }
        }
    }
    Ok(batch)
}

fn half(batch: u32) -> u32 {
    eprintln!("{batch} sequences a step do not fit into the GPU's memory: trying with half as many");
    batch / 2
}

/// What Stoker's reason and PyTorch's exceptions are called.
fn is_out_of_memory(error: &Error) -> bool {
    let text = error.to_string();
    ["OutOfDeviceMemory", "out of memory", "OutOfMemory", "CUBLAS_STATUS_ALLOC_FAILED"]
        .iter()
        .any(|what| text.contains(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Error {
        Error::Unexpected("torch.OutOfMemoryError: CUDA out of memory.".into())
    }

    #[tokio::test]
    async fn the_largest_batch_is_the_last_before_one_that_does_not_fit() {
        for (most, largest) in [(1000, 512), (64, 64), (32, 32), (31, 16), (1, 1)] {
            let tried = async |batch| if batch <= most { Ok(()) } else { Err(full()) };
            assert_eq!(largest_batch(FIRST, tried).await.unwrap(), largest, "{most}");
        }
        assert!(largest_batch(FIRST, async |_| Err(full())).await.is_err());
    }

    #[tokio::test]
    async fn what_fails_for_another_reason_ends_the_search_only_where_nothing_was_found() {
        let broken = || Error::Unexpected("libcuda.so is missing".into());
        assert!(largest_batch(FIRST, async |_| Err(broken())).await.is_err());
        let tried = async |batch| if batch == FIRST { Ok(()) } else { Err(broken()) };
        assert_eq!(largest_batch(FIRST, tried).await.unwrap(), FIRST);
    }

    /// 124,439,808 parameters, 12 layers of width 768.
    #[test]
    fn the_model_is_gpt_2_on_more_text_than_is_trained_on() {
        let data = Data::new().unwrap();
        let task = data.gpt2(64, MEASURED).unwrap();
        let attention = 12.0 * 12.0 * 768.0 * f64::from(CONTEXT);
        assert_eq!(flops_per_token(&task).unwrap(), 6.0 * 124_439_808.0 + attention);
        assert_eq!((task.config.resources.gpus, task.config.train.batch_size), (1, 64));

        let copies = data.folder.path().join((64 * 60).to_string()).read_dir().unwrap();
        let bytes: u64 = copies.map(|copy| copy.unwrap().metadata().unwrap().len()).sum();
        assert!(bytes > 64 * 60 * 1024 * 2, "{bytes}");
    }
}
