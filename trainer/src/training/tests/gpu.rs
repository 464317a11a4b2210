//! The GPU's code path, beside the CPU's: another backend, other kernels, burn's own operations in place of the fused ones.

use std::sync::LazyLock;

use burn::tensor::Tensor;
use burn_fused_ops::is_fused;
use stoker_crds::{
    metric::LOSS,
    training::{Model, Resources, Task, model::Transformer},
};

use super::*;
use crate::{model::choose_device, training::TokenBatch};

static GPU: LazyLock<Device> = LazyLock::new(|| choose_device(&Resources { gpus: 1, ..Resources::default() }).unwrap());

/// Not a multiple of 64.
const VOCABULARY: i32 = 70;
const CONTEXT: i32 = 12;

/// Sequences of tokens that follow on each other by a rule, from so many beginnings on.
struct Counting(std::ops::Range<i32>);

impl Dataset for Counting {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn batch(&self, indices: &[u32]) -> Result<Batch, DataError> {
        let token = |index: &u32, position: i32| ((self.0.start + *index as i32) * 11 + position * 3) % VOCABULARY;
        let gather = |first: i32| {
            indices
                .iter()
                .flat_map(|index| (first..first + CONTEXT).map(move |at| token(index, at)))
                .collect::<Vec<_>>()
        };
        let weights = vec![1.0; indices.len() * CONTEXT as usize];
        let batch = TokenBatch { sequences: indices.len(), tokens: gather(0), targets: gather(1), weights };
        Ok(Batch::Tokens(batch))
    }
}

/// The losses of all epochs, of both splits.
fn losses(watch: &Recorder) -> Vec<f64> {
    let seen = watch.seen();
    [Split::Train, Split::Validation].iter().flat_map(|split| seen.values(*split, LOSS)).collect()
}

fn assert_close(gpu: &[f64], cpu: &[f64], tolerance: f64, what: &str) {
    assert_eq!(gpu.len(), cpu.len(), "{what}");
    for (gpu, cpu) in gpu.iter().zip(cpu) {
        assert!((gpu - cpu).abs() < tolerance, "{what}: {gpu} is not {cpu}");
    }
}

/// The losses of a training, on either device.
fn on_both(train: impl Fn(&Run, &Recorder)) -> [Vec<f64>; 2] {
    [GPU.clone(), Device::flex()].map(|device| {
        let watch = Recorder::default();
        train(&Run::on(device), &watch);
        losses(&watch)
    })
}

#[test]
fn an_mlp_learns_on_a_gpu_as_on_the_cpu() {
    for (task, loss, optimizer) in [
        ("Classification", "CrossEntropy", json!({"adamW": {"learningRate": 0.01}})),
        ("Regression", "Huber", json!({"sgd": {"learningRate": 0.1, "momentum": 0.9, "nesterov": true}})),
    ] {
        let config = config(
            task,
            json!({"hidden": [32, 16], "activation": "GELU"}),
            json!({
                "loss": loss, "optimizer": optimizer, "schedule": {"cosine": {"warmupSteps": 2}},
                "batchSize": 32, "epochs": 4, "gradientClip": {"norm": 1.0},
            }),
            json!({"everySteps": 1_000_000}),
        );
        let rows = if task == "Classification" { blobs } else { surface };
        let [gpu, cpu] = on_both(|run, watch| {
            run.fit_watched(&config, &rows(80, 1), &rows(30, 2), watch).unwrap();
        });
        assert_close(&gpu, &cpu, 1e-5, task);
        assert!(cpu[3] < cpu[0] * 0.95, "it does not learn: {cpu:?}");
    }
}

/// A transformer of these fields, trained for four epochs.
fn transformer(spec: Value) -> TrainConfig {
    let mut config = config(
        "LanguageModeling",
        json!({}),
        json!({
            "loss": "CrossEntropy", "optimizer": {"adamW": {"learningRate": 0.01}}, "batchSize": 4, "epochs": 4,
            "gradientClip": {"norm": 1.0},
        }),
        json!({"everySteps": 1_000_000}),
    );
    config.task = Task::LanguageModeling;
    config.model = Model::Transformer(serde_json::from_value::<Transformer>(spec).unwrap().resolve().unwrap());
    config
}

#[test]
fn a_transformer_learns_on_a_gpu_as_on_the_cpu_without_the_cpus_fused_operations() {
    let tensor = Tensor::<1>::zeros([1], &GPU.clone().autodiff());
    assert!(!is_fused(&tensor) && !is_fused(&tensor.inner()));
    let gpt2 = json!({"layers": 2, "width": 32, "heads": 4, "context": CONTEXT});
    let llama = json!({
        "layers": 2, "width": 32, "heads": 4, "keyValueHeads": 2, "context": CONTEXT, "feedForward": 48,
        "positions": "Rotary", "normalization": "RMSNorm", "activation": "SwiGLU", "bias": false, "tiedEmbeddings": false,
    });
    for spec in [gpt2, llama] {
        let config = transformer(spec.clone());
        let [gpu, cpu] = on_both(|run, watch| {
            let shape = [CONTEXT as usize, VOCABULARY as usize];
            run.fit_samples(&config, [&Counting(0..10), &Counting(10..13)], shape, watch).unwrap();
        });
        assert_close(&gpu, &cpu, 1e-4, &spec.to_string());
        assert!(cpu[3] < cpu[0] * 0.95, "it does not learn: {cpu:?}");
    }
}

#[test]
fn a_run_that_is_stopped_on_a_gpu_goes_on_there_with_the_same_dropout() {
    let config = config(
        "Classification",
        json!({"hidden": [16], "dropout": 0.25}),
        json!({
            "loss": "CrossEntropy", "optimizer": {"adamW": {"learningRate": 0.01}}, "batchSize": 16, "epochs": 4,
            "earlyStopping": {"metric": "validation/loss", "patience": 3},
        }),
        json!({"everySteps": 1_000_000}),
    );
    let (train, validation) = (blobs(70, 1), blobs(30, 2));
    let whole = Recorder::default();
    let expected = Run::on(GPU.clone()).fit_watched(&config, &train, &validation, &whole).unwrap();

    let (run, mut points) = (Run::on(GPU.clone()), Vec::new());
    for step in [3, 10] {
        let watch = Recorder::stopping_at(step);
        let stopped = run.fit_watched(&config, &train, &validation, &watch).unwrap_err();
        assert!(matches!(stopped, TrainError::Preempted { step: at, .. } if at == step), "{stopped}");
        points.extend(watch.seen().points);
    }
    let last = Recorder::default();
    let fitted = run.fit_watched(&config, &train, &validation, &last).unwrap();
    assert_eq!((last.seen().resumed_from, last.seen().steps), (Some(10), (11..=20).collect()));
    points.extend(last.seen().points);
    assert_eq!(points, whole.seen().points);
    assert!(weights(&fitted) == weights(&expected), "the weights differ");
}
