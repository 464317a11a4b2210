//! Language models of GPT-2's kind.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use stoker_crds::{ModelTrainingSpec, TrainConfig};
use stoker_e2e::{Error, Result};

use super::{
    Options,
    compare::{self, COMPARED, Task},
    figures::Target,
};
use crate::{examples, output::Output, trainer};

const TEXT: &str = "datasets/opticks/opticks.txt";
/// What is to be reached.
pub(super) const GPT: Target = Target::Best(1.0, 1.2);

/// A model, and how much it is trained.
pub(super) struct Size {
    pub(super) name: &'static str,
    pub(super) model: Value,
    pub(super) context: u32,
    /// Sequences in a step.
    pub(super) batch: u32,
    pub(super) steps: u32,
    pub(super) warm_up: u32,
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
    let text = text()?;
    let wanted = sizes.iter().filter(|size| size.name.contains(&options.only));
    let tasks = wanted.map(|size| Ok(task(size, "bytes", config(size, &text, json!({"bytes": {}}), "F32")?)));
    compare::run(tasks.collect::<Result<Vec<_>>>()?, options, output).await
}

/// The file that is trained on.
///
/// # Errors
/// If it is not started in a checkout.
pub(super) fn text() -> Result<PathBuf> {
    Ok(examples::folder()?.join(TEXT))
}

/// What is trained by both.
pub(super) fn task(size: &Size, tokens: &str, config: TrainConfig) -> Task {
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

/// A training on files, each of which is one document: so both sides have the same tokens.
///
/// # Errors
/// If the spec is not complete.
pub(super) fn config(size: &Size, text: &Path, tokenizer: Value, precision: &str) -> Result<TrainConfig> {
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
