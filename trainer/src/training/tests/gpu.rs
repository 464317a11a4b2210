//! The GPU's code path, beside the CPU's: another backend, other kernels, burn's own operations in place of the fused ones.

use std::sync::LazyLock;

use burn::tensor::Tensor;
use burn_fused_ops::is_fused;
use safetensors::SafeTensors;
use stoker_crds::{Reason, metric::LOSS, training::Resources};

use super::{
    fine_tuning::Started,
    transformers::{chains, fit, gpt2, language, llama},
    *,
};
use crate::model::{choose_device, precision::on_device};

static GPU: LazyLock<Device> = LazyLock::new(|| choose_device(&Resources { gpus: 1, ..Resources::default() }).unwrap());

/// How far losses of a few steps may be apart that differ by rounding alone: sums that are taken in another order, and exponentials
/// and logarithms that are off by some units in the last place, are 1e-6 of a loss, and the steps after it carry that on, since
/// Adam's are as large for a small gradient. On an NVIDIA GPU matrices may be multiplied with the 11 bits of TF32: each factor is
/// off by up to 1/2048, and a loss by less, as the mean of many.
const TOLERANCE: f64 = if cfg!(feature = "cuda") { 1e-2 } else { 1e-4 };

/// The losses of all epochs, of both splits.
fn losses(seen: &Seen) -> Vec<f64> {
    [Split::Train, Split::Validation].iter().flat_map(|split| seen.values(*split, LOSS)).collect()
}

/// The largest difference of two lists of as many numbers.
fn distance<T: Copy + Into<f64>>(left: &[T], right: &[T]) -> f64 {
    assert_eq!(left.len(), right.len());
    let apart = |(left, right): (&T, &T)| ((*left).into() - (*right).into()).abs();
    let distances: Vec<f64> = left.iter().zip(right).map(apart).collect();
    assert!(distances.iter().all(|distance| distance.is_finite()));
    distances.into_iter().fold(0.0, f64::max)
}

fn assert_close(gpu: &[f64], cpu: &[f64], what: &str) {
    let apart = distance(gpu, cpu);
    println!("{what}: losses from {} to {}, {apart:.1e} apart", cpu[0], cpu[cpu.len() / 2 - 1]);
    assert!(apart < TOLERANCE, "{what}: {gpu:?} is not {cpu:?}");
}

/// The losses of a training, on either device.
fn on_both(train: impl Fn(&Run, &Recorder)) -> [Vec<f64>; 2] {
    [GPU.clone(), Device::flex()].map(|device| {
        let watch = Recorder::default();
        train(&Run::on(device), &watch);
        losses(&watch.seen())
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
        let [gpu, cpu] =
            on_both(|run, watch| drop(run.fit_watched(&config, &rows(80, 1), &rows(30, 2), watch).unwrap()));
        assert_close(&gpu, &cpu, task);
        assert!(cpu[3] < cpu[0] * 0.95, "it does not learn: {cpu:?}");
    }
}

#[test]
fn a_transformer_learns_on_a_gpu_as_on_the_cpu_without_the_cpus_fused_operations() {
    let tensor = Tensor::<1>::zeros([1], &GPU.clone().autodiff());
    assert!(!is_fused(&tensor) && !is_fused(&tensor.inner()));
    let (texts, others) = (chains(10, 1), chains(3, 2));
    for (spec, optimizer) in
        [(gpt2(), json!({"adamW": {"learningRate": 0.01}})), (llama(), json!({"muon": {"learningRate": 0.01}}))]
    {
        let train = json!({
            "loss": "CrossEntropy", "optimizer": optimizer, "batchSize": 4, "epochs": 4, "gradientClip": {"norm": 1.0},
        });
        let config = language(spec.clone(), train, json!({"everySteps": 1_000_000}));
        let [gpu, cpu] = on_both(|run, watch| drop(fit(run, &config, &texts, &others, watch).unwrap()));
        assert_close(&gpu, &cpu, &spec.to_string());
        assert!(cpu[3] < cpu[0] * 0.95, "it does not learn: {cpu:?}");
    }
}

/// By steps as large as the gradients: half of the adapters begin at 0, and what Adam makes of their first gradients, some of which
/// are nothing but rounding, is as large as of any.
#[test]
fn adapters_learn_on_a_gpu_as_on_the_cpu() {
    let train = json!({
        "loss": "CrossEntropy", "optimizer": {"sgd": {"learningRate": 0.5, "momentum": 0.9}}, "batchSize": 8, "epochs": 4,
    });
    let started = Started::new(&llama(), 3, json!({"lora": {"rank": 4, "alpha": 8}}), train);
    let [gpu, cpu] = on_both(|run, watch| drop(started.fit(run, watch).unwrap()));
    assert_close(&gpu, &cpu, "adapters");
    assert!(cpu[3] < cpu[0], "they do not learn: {cpu:?}");
}

/// What takes less memory: blocks that are computed twice, micro batches whose gradients are summed up. And averaged weights.
#[test]
fn activation_checkpointing_micro_batches_and_averages_learn_on_a_gpu_as_on_the_cpu() {
    let (texts, others) = (chains(10, 1), chains(3, 2));
    let train = json!({
        "loss": "CrossEntropy", "optimizer": {"adam": {"learningRate": 0.01}}, "batchSize": 5, "microBatchSize": 3,
        "epochs": 4, "activationCheckpointing": true, "ema": {"decay": 0.5},
    });
    let config = language(llama(), train, json!({"everySteps": 1_000_000}));
    let [gpu, cpu] = on_both(|run, watch| drop(fit(run, &config, &texts, &others, watch).unwrap()));
    assert_close(&gpu, &cpu, "with less memory");
    assert!(cpu[3] < cpu[0] * 0.95, "it does not learn: {cpu:?}");
}

/// Numbers of 16 bits are off by up to 1/512 of them, in other places on each device: `precision.rs` has the argument for 0.03.
/// Where `F16` stands in for bf16, it does on both.
#[test]
fn a_gpu_learns_in_16_bits_as_the_cpu_does_or_says_that_it_cannot() {
    let (texts, others) = (chains(10, 1), chains(3, 2));
    for precision in ["Mixed", "F16"] {
        let train = json!({
            "loss": "CrossEntropy", "optimizer": {"adamW": {"learningRate": 0.01}}, "batchSize": 4, "epochs": 4,
            "precision": precision,
        });
        let mut config = language(gpt2(), train, json!({"everySteps": 1_000_000}));
        match on_device(config.train.precision, &GPU) {
            Ok(precision) => {
                config.train.precision = precision;
                let [gpu, cpu] = on_both(|run, watch| drop(fit(run, &config, &texts, &others, watch).unwrap()));
                let apart = distance(&gpu, &cpu);
                println!("{precision:?}: losses {apart:.1e} apart");
                assert!(apart < 0.03, "{precision:?}: {gpu:?} is not {cpu:?}");
            }
            Err(error) => {
                println!("{error}");
                assert!(
                    error.reason() == Reason::InvalidConfig && error.to_string().contains("train.precision"),
                    "{error}"
                );
            }
        }
    }
}

/// A GPU's generator draws other numbers than the CPU's; of the first weights and the order of the rows both make the same.
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
    let whole = |device: Device| {
        let watch = Recorder::default();
        let fitted = Run::on(device).fit_watched(&config, &train, &validation, &watch).unwrap();
        (losses(&watch.seen()), numbers(&fitted))
    };
    let (expected, expected_weights) = whole(GPU.clone());

    let (run, mut seen) = (Run::on(GPU.clone()), Seen::default());
    for step in [3, 10] {
        let watch = Recorder::stopping_at(step);
        let stopped = run.fit_watched(&config, &train, &validation, &watch).unwrap_err();
        assert!(matches!(stopped, TrainError::Preempted { step: at, .. } if at == step), "{stopped}");
        seen.points.extend(watch.seen().points);
    }
    let last = Recorder::default();
    let fitted = run.fit_watched(&config, &train, &validation, &last).unwrap();
    assert_eq!((last.seen().resumed_from, last.seen().steps), (Some(10), (11..=20).collect()));
    seen.points.extend(last.seen().points);
    let (resumed, weights) = (losses(&seen), numbers(&fitted));
    assert_close(&resumed, &expected, "interrupted");
    assert!(distance(&weights, &expected_weights) < TOLERANCE, "the weights differ");

    let (others, other_weights) = whole(Device::flex());
    let (apart, weights_apart) = (distance(&others, &expected), distance(&other_weights, &expected_weights));
    println!("with another dropout: losses {apart:.1e} apart, weights {weights_apart:.1e}");
    assert!(apart > 2.0 * TOLERANCE && weights_apart > 2.0 * TOLERANCE, "another dropout is not told from this one");
}

/// All weights.
fn numbers(fitted: &Fitted) -> Vec<f32> {
    let file = weights(fitted);
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let mut tensors: Vec<_> = tensors.iter().collect();
    tensors.sort_by_key(|(name, _)| *name);
    tensors.iter().flat_map(|(_, view)| crate::model::values(view)).collect()
}
