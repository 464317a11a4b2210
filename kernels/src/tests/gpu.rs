//! The composed operations on a GPU, where burn's fusion makes kernels of them, and the kernel that updates parameters.
//!
//! Its exponentials, error functions and divisions are off by a few units in the last place, and an exponential by some more
//! of a large argument, so that the tolerances of the fused ones are taken times 10. On an NVIDIA GPU products of matrices may
//! be of the 11 bits of TF32: each factor is off by up to 1/2048.

use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::tensor::{DType, DeviceType};

use super::{
    Device, HALVES, On, Tensor, activation,
    adam::{self, Comparison},
    attention, cross_entropy, leaf, norm, numbers,
};
use crate::{causal_attention, causal_self_attention, composed, gelu, gelu_tanh, reference};

const PRODUCTS: f64 = if cfg!(feature = "cuda") { 5e-3 } else { 3e-5 };

const GPU: On = On::Gpu(DType::F32);

pub(super) fn device() -> Device {
    #[cfg(feature = "cuda")]
    let api = DeviceType::Cuda;
    #[cfg(not(feature = "cuda"))]
    let api = DeviceType::Wgpu;
    let first = Device::enumerate(api).into_vec().into_iter().next();
    first.expect("a driver shows a GPU").autodiff()
}

/// The half precisions that the GPU has, and their tolerances as on flex.
fn halves() -> impl Iterator<Item = (On, f64)> {
    let device = device();
    HALVES.into_iter().map(|(on, tolerance)| (On::Gpu(on.dtype()), tolerance)).filter(move |(on, _)| {
        let is_there = device.supports_dtype(on.dtype());
        println!("{:?} on this GPU: {is_there}", on.dtype());
        is_there
    })
}

/// Held while a test uses the GPU: the memory in use is that of the whole process.
fn alone() -> MutexGuard<'static, ()> {
    static GPU: Mutex<()> = Mutex::new(());
    GPU.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn activations_are_burns() {
    let _alone = alone();
    activation::compare([gelu, reference::gelu], GPU, 4e-6);
    activation::compare([gelu_tanh, reference::gelu_tanh], GPU, 5e-6);
    activation::compare_swiglu(GPU, 6e-6);
}

#[test]
fn normalizations_are_burns() {
    let _alone = alone();
    norm::compare_layer_norm(GPU, 10.0 * norm::TOLERANCE);
    norm::compare_rms_norm(GPU, 10.0 * norm::TOLERANCE);
}

#[test]
fn attention_is_burns_by_tiles_of_any_size() {
    let _alone = alone();
    attention::compare(causal_attention, GPU, 1.0, PRODUCTS);
    let tiled: attention::Attention = |query, key, value| composed::causal_attention_by(4000, query, key, value);
    attention::compare(tiled, GPU, 1.0, PRODUCTS);
}

#[test]
fn attention_of_one_projection_is_burns() {
    let _alone = alone();
    attention::compare_projected(causal_self_attention, GPU, PRODUCTS);
}

#[test]
fn the_loss_of_a_language_model_is_burns() {
    let _alone = alone();
    cross_entropy::compare(GPU, 1.0, PRODUCTS);
}

/// Each of them at once, so that a GPU that has both computes in both.
#[test]
fn in_half_precision_all_are_burns() {
    let _alone = alone();
    for (on, tolerance) in halves() {
        activation::compare([gelu, reference::gelu], on, tolerance);
        activation::compare([gelu_tanh, reference::gelu_tanh], on, tolerance);
        activation::compare_swiglu(on, tolerance);
        norm::compare_layer_norm(on, tolerance);
        norm::compare_rms_norm(on, tolerance);
        attention::compare(causal_attention, on, 1.0, tolerance);
        attention::compare_projected(causal_self_attention, on, tolerance);
        cross_entropy::compare(on, 1.0, tolerance);
    }
}

#[test]
fn a_step_of_adam_is_burns_and_either_goes_on_from_the_others_state() {
    let _alone = alone();
    Comparison { on: GPU, turns: &adam::TURNS, burns_on: GPU.exact(), tolerance: adam::TOLERANCE }.run();
    adam::assert_what_is_held_stays(GPU);
}

/// burn's own is not a number in `f16` where a gradient's square is zero there.
#[test]
fn steps_of_adam_in_half_precision_round_nothing_but_what_they_keep() {
    let _alone = alone();
    for (on, _) in halves() {
        // Parameter and moments are kept four times, rounded by this of a number.
        let rounding = if on.dtype() == DType::BF16 { 1.0 / 256.0 } else { 1.0 / 2048.0 };
        Comparison { on, turns: &[adam::OURS], burns_on: on.exact(), tolerance: 4.0 * rounding }.run();
    }
}

/// The bytes on the GPU after the forward of an operation on three tensors of 256 KiB, which its backward waits for.
fn kept(operation: impl Fn([Tensor<4>; 3]) -> Tensor<4>) -> u64 {
    let device = device();
    let used = || {
        device.sync().expect("the GPU works");
        device.memory_pool_usage().expect("it knows its memory").bytes_in_use
    };
    let inputs = [1, 2, 3].map(|seed| leaf(&numbers(seed, 65_536, 1.0), [1, 8, 512, 16], GPU));
    let before = used();
    let output = operation(inputs.clone());
    let kept = used() - before;
    // What is dropped is given back when the device is waited for.
    drop(output);
    used();
    kept
}

#[test]
fn attention_keeps_no_scores_and_an_activation_no_more_than_its_input_for_the_backward() {
    let _alone = alone();
    // 8 heads have 8 · 512² scores, 8 MiB; the output is 256 KiB, the sums 16.
    let ours = kept(|[query, key, value]| causal_attention(query, key, value));
    let burns = kept(|[query, key, value]| reference::causal_attention(query, key, value));
    println!("attention keeps {ours} bytes, burn's {burns}");
    assert!(ours < 1 << 20 && burns > 8 << 20, "{ours}, {burns}");
    // The output, and what is between for burn's.
    let ours = kept(|[x, ..]| gelu(x));
    let burns = kept(|[x, ..]| reference::gelu(x));
    println!("GELU keeps {ours} bytes, burn's {burns}");
    assert!(ours < 300 << 10 && burns > 500 << 10, "{ours}, {burns}");
}
