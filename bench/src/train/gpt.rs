//! Language models of GPT-2's kind.

use std::{fs, path::Path};

use serde::Serialize;
use serde_json::{Value, json};
use stoker_crds::{ModelTrainingSpec, TrainConfig};
use stoker_e2e::{Error, Result};

use super::{
    Options,
    compare::{self, COMPARED, Target, Task},
    peer::Peer,
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

/// The language models of 0.8 and 10 million parameters, byte by byte on the text of the examples.
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
    let text = examples::folder()?.join(TEXT);
    let wanted = sizes.iter().filter(|size| size.name.contains(&options.only));
    let tasks = wanted.map(|size| Ok(task(size, "bytes", config(size, &text, json!({"bytes": {}}), "F32")?)));
    compare::run(tasks.collect::<Result<Vec<_>>>()?, options, output).await
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
        // Sums of thousands of 32-bit floats in another order, and what follows from it in the steps after. A weight decay that
        // also took biases and gains was off by 1e-4.
        tolerance: 3e-5,
        target: GPT,
    }
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
    let mut config = config(&size, text, tokenizer, "Mixed")?;
    config.resources.gpus = 1;
    // Numbers of 16 bits are off by up to 1/512 of themselves.
    Ok(Task { tolerance: 0.02, ..task(&size, "tokens", config) })
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
fn config(size: &Size, text: &Path, tokenizer: Value, precision: &str) -> Result<TrainConfig> {
    let mut model = size.model.clone();
    model["context"] = size.context.into();
    let spec = json!({
        "task": "LanguageModeling",
        "data": {
            "source": {"uri": format!("file://{}", text.display())},
            "clean": {"duplicates": "Keep"},
            "text": {"tokenizer": tokenizer, "documents": {"endAt": "File"}},
            "split": {"train": 1.0, "validation": 0.0, "test": 0.0},
        },
        "model": {"transformer": model},
        "train": {
            "optimizer": {"adamW": {"learningRate": 1e-3, "weightDecay": 0.1}},
            "batchSize": size.batch,
            "steps": size.steps,
            "precision": precision,
            // There is no validation split: this only tells the loss of the steps until then.
            "evaluation": {"everySteps": COMPARED},
        },
        "storage": {"uri": "file:///unset"},
        "resources": {"memory": "8Gi"},
    });
    let spec: ModelTrainingSpec =
        serde_json::from_value(spec).map_err(|error| Error::Unexpected(format!("the benchmark's spec: {error}")))?;
    trainer::configuration("gpt", &spec)
}
