//! The GPU's code path, beside the CPU's: another backend, other kernels, burn's own operations in place of the fused ones.

use std::sync::LazyLock;

use burn::tensor::Tensor;
use burn_fused_ops::is_fused;
use stoker_crds::{metric::LOSS, training::Resources};

use super::{
    transformers::{chains, fit, gpt2, language, llama},
    *,
};
use crate::model::choose_device;

static GPU: LazyLock<Device> = LazyLock::new(|| choose_device(&Resources { gpus: 1, ..Resources::default() }).unwrap());

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

#[test]
fn a_transformer_learns_on_a_gpu_as_on_the_cpu_without_the_cpus_fused_operations() {
    let tensor = Tensor::<1>::zeros([1], &GPU.clone().autodiff());
    assert!(!is_fused(&tensor) && !is_fused(&tensor.inner()));
    let (texts, others) = (chains(10, 1), chains(3, 2));
    for spec in [gpt2(), llama()] {
        let train = json!({
            "loss": "CrossEntropy", "optimizer": {"adamW": {"learningRate": 0.01}}, "batchSize": 4, "epochs": 4,
            "gradientClip": {"norm": 1.0},
        });
        let config = language(spec.clone(), train, json!({"everySteps": 1_000_000}));
        let [gpu, cpu] = on_both(|run, watch| {
            fit(run, &config, &texts, &others, watch).unwrap();
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
