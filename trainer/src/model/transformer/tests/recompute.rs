//! The gradients of activation checkpointing against those of one graph.

use burn::tensor::{FloatDType, Gradients};

use super::*;

/// All gradients, in the order of the module.
struct All<'a> {
    gradients: &'a Gradients,
    numbers: Vec<Vec<f32>>,
}

impl ModuleVisitor for All<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let gradient = param.val().grad(self.gradients);
        self.numbers.push(gradient.map(read).unwrap_or_default());
    }
}

fn all(model: &Transformer, gradients: &Gradients) -> Vec<Vec<f32>> {
    let mut all = All { gradients, numbers: Vec::new() };
    model.visit(&mut all);
    all.numbers
}

/// Tokens, the ones that come next, and weights.
fn batch(device: &Device) -> (Tensor<2, Int>, Tensor<2, Int>, Tensor<2>) {
    let mut targets = tokens();
    targets.rotate_left(1);
    (matrix(tokens(), device), matrix(targets, device), Tensor::ones([2, LENGTH], device))
}

fn by_blocks(model: &Transformer, dtype: FloatDType, scale: Option<f32>, device: &Device) -> (f32, Vec<Vec<f32>>) {
    let (tokens, targets, weights) = batch(device);
    let (loss, gradients) = model.loss_by_blocks(tokens, targets, weights, Recompute { dtype, scale, seed: 1 });
    (loss.into_scalar(), all(model, &gradients))
}

fn in_one_graph(model: &Transformer, device: &Device) -> (f32, Vec<Vec<f32>>) {
    let (tokens, targets, weights) = batch(device);
    let loss = model.loss(tokens, targets, weights);
    let gradients = loss.backward();
    (loss.into_scalar(), all(model, &gradients))
}

fn assert_close(actual: &[Vec<f32>], expected: &[Vec<f32>], tolerance: f32, what: &Value) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    for (parameter, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        assert_eq!(actual.len(), expected.len(), "{what}: parameter {parameter}");
        let largest = expected.iter().fold(0.0, |largest: f32, x| largest.max(x.abs()));
        for (actual, expected) in actual.iter().zip(expected) {
            let error = (actual - expected).abs();
            assert!(error <= tolerance * largest, "{what}: parameter {parameter}: {actual} is not {expected}");
        }
    }
}

/// The same operations on the same numbers; only where gradients of two branches are added may the order differ, which is
/// off by 6e-8 of the larger one.
#[test]
fn the_gradients_are_those_of_one_graph() {
    let device = Device::flex().autodiff();
    let with = |mut spec: Value, tied: bool| {
        spec["tiedEmbeddings"] = json!(tied);
        spec
    };
    for spec in [with(gpt2(), true), with(gpt2(), false), with(llama(), true), with(llama(), false), mixed()] {
        let model = transformer(spec.clone(), 1, &device);
        let (loss, gradients) = by_blocks(&model, FloatDType::F32, None, &device);
        let (expected_loss, expected) = in_one_graph(&model, &device);
        assert_eq!(loss, expected_loss, "{spec}");
        assert_close(&gradients, &expected, 1e-6, &spec);
        let (loss, scaled) = by_blocks(&model, FloatDType::F32, Some(1024.0), &device);
        assert_eq!(loss, expected_loss, "{spec}: the loss is scaled");
        let expected: Vec<Vec<f32>> = expected.iter().map(|x| x.iter().map(|x| x * 1024.0).collect()).collect();
        assert_close(&scaled, &expected, 1e-6, &spec);
    }
}

/// bf16 has 8 bits: each of a few dozen operations is off by 1/512 at most, in both directions, so that their sum is off by a
/// few percent of the largest number. In one graph the same operations are done in bf16, but for the order of sums.
#[test]
fn gradients_of_16_bits_arrive_in_32_and_are_about_the_same() {
    let device = Device::flex().autodiff();
    for spec in [gpt2(), llama()] {
        let model = transformer(spec.clone(), 1, &device);
        let (expected_loss, expected) = in_one_graph(&model, &device);
        for (dtype, tolerance) in [(FloatDType::BF16, 0.1), (FloatDType::F16, 0.02)] {
            let (loss, gradients) = by_blocks(&model, dtype, None, &device);
            assert!((loss / expected_loss - 1.0).abs() < tolerance / 10.0, "{spec} {dtype:?}: {loss}");
            assert_close(&gradients, &expected, tolerance, &spec);
        }
    }
}

#[test]
fn a_model_of_which_only_the_last_layers_are_learned_gets_their_gradients_alone() {
    let device = Device::flex().autodiff();
    let whole = transformer(llama(), 1, &device);
    let (_, expected) = in_one_graph(&whole, &device);
    let mut model = whole;
    model.tokens = model.tokens.no_grad();
    model.blocks = model.blocks.no_grad();
    let (_, gradients) = by_blocks(&model, FloatDType::F32, None, &device);
    let learned = expected.len() - 2;
    assert!(gradients[..learned].iter().all(Vec::is_empty));
    assert_close(&gradients[learned..], &expected[learned..], 1e-6, &llama());
}
