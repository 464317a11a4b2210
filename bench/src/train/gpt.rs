//! Language models of GPT-2's kind.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Serialize;
use serde_json::{Value, json};
use stoker_crds::{ModelTrainingSpec, TrainConfig};
use stoker_e2e::{Error, Result};

use super::{
    Options,
    compare::{self, Prepared, Target, Task},
    peer::{Mode, Peer},
    vocabulary,
};
use crate::{
    examples,
    output::{Output, number},
    trainer,
};

const TEXT: &str = "datasets/opticks/opticks.txt";
/// How many copies of the text there are for a GPU, which is through with one sooner than it is warm.
const COPIES: usize = 20;
/// GPT-2's parameters, those of positions left out, which are only looked up.
const GPT2_PARAMETERS: f64 = 123.7e6;
/// Steps of the check, each on the same sequences.
const CHECKED: u32 = 6;
/// How far a step's loss may be off, of the loss: sums of thousands of 32-bit floats, in another order, and what follows
/// from it in the steps after. A weight decay that also took biases and gains was off by 1e-4.
const CHECK_TOLERANCE: f64 = 3e-5;

/// What is to be reached.
const GPT: Target = Target::Best(1.0, 1.2);

struct Size {
    name: &'static str,
    model: Value,
    context: u32,
    batch: u32,
    steps: u32,
    warm_up: u32,
}

/// The language models of 0.8 and 10 million parameters, byte by byte on the text of the examples: first a check that both
/// sides compute the same, step by step, then their speed.
///
/// # Errors
/// If one side fails, or they differ.
pub(super) async fn on_cpu(options: &Options, output: &mut Output) -> Result<()> {
    let sizes = [
        Size {
            name: "GPT of 0.8M parameters",
            model: json!({"layers": 4, "width": 128, "heads": 4}),
            context: 128,
            batch: 16,
            steps: 110,
            warm_up: 10,
        },
        Size {
            name: "GPT of 10M parameters",
            model: json!({"layers": 6, "width": 384, "heads": 6}),
            context: 256,
            batch: 8,
            steps: 23,
            warm_up: 3,
        },
    ];
    let (text, peer) = (examples::folder()?.join(TEXT), Peer::new(options)?);
    let mut tasks = Vec::new();
    for size in sizes.into_iter().filter(|size| size.name.contains(&options.only)) {
        check(&size, &text, &peer, output).await?;
        let config = config(&size, &text, json!({"bytes": {}}), json!({"steps": size.steps}))?;
        tasks.push(task(&size, "bytes", config));
    }
    compare::run(tasks, options, output).await
}

fn task(size: &Size, tokens: &str, config: TrainConfig) -> Task {
    let Size { name, context, batch, warm_up, .. } = *size;
    Task {
        name: format!("{name}, {batch}×{context} {tokens}"),
        config,
        script: "gpt.py",
        warm_up: warm_up.into(),
        unit: "tokens",
        units_per_step: f64::from(batch) * f64::from(context),
        tolerance: 0.02,
        target: GPT,
    }
}

/// Bytes that are one document, and not a single sequence more than a batch.
fn one_batch(size: &Size, text: &Path, folder: &Path) -> Result<PathBuf> {
    let read = fs::read(text).map_err(|source| Error::File { path: text.to_owned(), source })?;
    let letters = read.iter().map(|byte| if byte.is_ascii_graphic() { *byte } else { b' ' });
    // With the token that ends a document, one more than the sequences take, as they need it. No space at the ends.
    let inner = letters.take((size.batch * size.context) as usize - 2);
    let bytes: Vec<u8> = std::iter::once(b'x').chain(inner).chain([b'x']).collect();
    let path = folder.join("batch.txt");
    fs::write(&path, bytes).map_err(|source| Error::File { path: path.clone(), source })?;
    Ok(path)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Check<'a> {
    model: &'a str,
    losses: &'a [f64],
    peer_losses: &'a [f64],
    largest_difference: f64,
}

/// From the same weights, with the same sequences in each step, so that their order does not matter.
async fn check(size: &Size, text: &Path, peer: &Peer, output: &mut Output) -> Result<()> {
    let folder = trainer::temporary()?;
    let batch = one_batch(size, text, folder.path())?;
    let config = config(size, &batch, json!({"bytes": {}}), json!({"epochs": CHECKED}))?;
    let task = Task { warm_up: 0, ..task(size, "bytes", config.clone()) };
    let prepared = Prepared::new(&config, folder.path()).await?;
    let ours = prepared.stoker(0).await?.losses;
    let theirs = prepared.peer(&task, Mode { is_compiled: false, threads: 1 }, peer).await?.losses;
    let apart = ours.iter().zip(&theirs).map(|(our, peer)| ((our - peer) / peer).abs()).fold(0.0, f64::max);
    let check = Check { model: size.name, losses: &ours, peer_losses: &theirs, largest_difference: apart };
    output.record("same steps", &check)?;
    println!(
        "{}: from the same weights on the same batch, the losses of {CHECKED} steps of Stoker and of PyTorch differ by at \
         most {apart:.1e} of the loss",
        size.name
    );
    if ours.len() == theirs.len() && apart <= CHECK_TOLERANCE {
        return Ok(());
    }
    Err(Error::Unexpected(format!("they differ by more than {CHECK_TOLERANCE}: {ours:?} and {theirs:?}")))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Utilization {
    batch: u32,
    peak_tflops: f64,
    /// Shares of the GPU's peak.
    stoker: f64,
    peer: f64,
}

/// GPT-2 of 124 million parameters in mixed precision on a GPU, with as many sequences in a step as both sides have memory
/// for.
///
/// # Errors
/// If one side fails for another reason than memory, or they differ.
pub(super) async fn on_gpu(options: &Options, output: &mut Output) -> Result<()> {
    let folder = trainer::temporary()?;
    let tokenizer = folder.path().join("tokenizer.json");
    trainer::write(&tokenizer, &vocabulary::tokenizer())?;
    let text = examples::folder()?.join(TEXT);
    for number in 1..=COPIES {
        let copy = folder.path().join(format!("{number}.txt"));
        fs::copy(&text, &copy).map_err(|source| Error::File { path: copy, source })?;
    }
    let copies = folder.path().join("*.txt");

    let (mut batch, peer) = (options.gpu_batch, Peer::new(options)?);
    let figures = loop {
        match compare::compare(&gpt2(batch, &copies, &tokenizer)?, &peer, options.repetitions).await {
            Err(error) if batch > 1 && is_out_of_memory(&error) => {
                eprintln!("{batch} sequences do not fit into the GPU's memory: trying with half as many");
                batch /= 2;
            }
            other => break other?,
        }
    };
    let operations = operations_per_token(GPT2_PARAMETERS, 12.0, 768.0, 1024.0);
    let share = |tokens_per_second: f64| tokens_per_second * operations / (options.gpu_peak * 1e12);
    let (stoker, peer) = (share(figures.stoker.median), share(figures.compiled.median));
    let utilization = Utilization { batch, peak_tflops: options.gpu_peak, stoker, peer };
    output.record("model FLOPs utilization", &utilization)?;
    compare::report([(figures, GPT)], output)?;
    println!(
        "Of {} TFLOP/s, with {batch} sequences a step: Stoker {} %, PyTorch compiled with flash attention {} %",
        number(options.gpu_peak),
        number(stoker * 100.0),
        number(peer * 100.0)
    );
    Ok(())
}

fn gpt2(batch: u32, text: &Path, tokenizer: &Path) -> Result<Task> {
    let size =
        Size { name: "GPT-2 124M", model: json!({"preset": "gpt2"}), context: 1024, batch, steps: 60, warm_up: 10 };
    let tokenizer = json!({"file": {"uri": format!("file://{}", tokenizer.display())}});
    let train = json!({"steps": size.steps, "precision": "Mixed"});
    let mut config = config(&size, text, tokenizer, train)?;
    config.resources.gpus = 1;
    Ok(task(&size, "tokens", config))
}

/// What Stoker's reason and PyTorch's exception are called.
fn is_out_of_memory(error: &Error) -> bool {
    let text = error.to_string();
    ["OutOfDeviceMemory", "out of memory", "OutOfMemory"].iter().any(|what| text.contains(what))
}

/// Floating-point operations that a token takes in forward and backward (Chowdhery et al., PaLM, 2022, appendix B).
fn operations_per_token(parameters: f64, layers: f64, width: f64, context: f64) -> f64 {
    6.0 * parameters + 12.0 * layers * width * context
}

/// A training on files, each of which is one document: so both sides have the same tokens.
fn config(size: &Size, text: &Path, tokenizer: Value, train: Value) -> Result<TrainConfig> {
    let mut model = size.model.clone();
    model["context"] = size.context.into();
    let mut all = json!({"optimizer": {"adamW": {"learningRate": 1e-3, "weightDecay": 0.1}}, "batchSize": size.batch});
    if let (Value::Object(all), Value::Object(train)) = (&mut all, train) {
        all.extend(train);
    }
    let spec = json!({
        "task": "LanguageModeling",
        "data": {
            "source": {"uri": format!("file://{}", text.display())},
            "clean": {"duplicates": "Keep"},
            "text": {"tokenizer": tokenizer, "documents": {"endAt": "File"}},
            "split": {"train": 1.0, "validation": 0.0, "test": 0.0},
        },
        "model": {"transformer": model},
        "train": all,
        "storage": {"uri": "file:///unset"},
        "resources": {"memory": "8Gi"},
    });
    let spec: ModelTrainingSpec =
        serde_json::from_value(spec).map_err(|error| Error::Unexpected(format!("the benchmark's spec: {error}")))?;
    trainer::configuration("gpt", &spec)
}
