//! Each operation against its formula, computed beside it in 64-bit floats, and its gradients against burn's own.

use std::f64::consts::PI;

use burn::tensor::{Device, FloatDType, Gradients, Int, Tensor, TensorData};

use super::{
    causal_attention,
    cross_entropy::{CHUNK_LOGITS, CHUNK_ROWS, by_chunks, chunk_rows},
    gelu_tanh, layer_norm, linear_cross_entropy, rms_norm, swiglu,
};
use crate::reference;

/// Numbers from -1 to 1.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    crate::tests::numbers(seed, count, 1.0)
}

fn tensor<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(numbers(shape.iter().product(), seed), shape), device)
}

fn read<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.try_into_vec_as().expect("it is there")
}

/// A handful of operations on numbers around 1 in 32-bit floats, each exact to 6e-8, and sums of a few dozen of them.
fn assert_close(actual: &[f32], expected: &[f64]) {
    assert_eq!(actual.len(), expected.len());
    for (index, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        let error = (f64::from(*actual) - expected).abs();
        assert!(error < 3e-6 * expected.abs().max(1.0), "number {index}: {actual} is not {expected}");
    }
}

fn wide(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().map(|number| f64::from(*number)).collect()
}

#[test]
fn gelu_is_the_one_of_gpt2() {
    let x = [-6.0, -1.5, -0.1, 0.0, 0.7, 2.0, 6.0f32];
    let expected = x.map(|x| {
        let x = f64::from(x);
        x / 2.0 * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
    });
    assert_close(&read(gelu_tanh(Tensor::<1>::from_floats(x, &Device::flex()))), &expected);
}

#[test]
fn swiglu_is_the_gate_times_its_sigmoid_times_the_other() {
    let (gate, up) = (numbers(6, 1), numbers(6, 2));
    let expected: Vec<f64> =
        wide(&gate).iter().zip(wide(&up)).map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up).collect();
    let device = Device::flex();
    assert_close(&read(swiglu(tensor([2, 3], 1, &device), tensor([2, 3], 2, &device))), &expected);
}

#[test]
fn layer_norm_brings_rows_to_mean_0_and_variance_1_before_gain_and_bias() {
    let (rows, gain, bias) = (wide(&numbers(15, 1)), wide(&numbers(5, 2)), wide(&numbers(5, 3)));
    let mut expected = Vec::new();
    for row in rows.chunks(5) {
        let mean = row.iter().sum::<f64>() / 5.0;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 5.0;
        expected.extend((0..5).map(|i| (row[i] - mean) / (variance + 1e-5).sqrt() * gain[i] + bias[i]));
    }
    let device = Device::flex();
    let (x, gain, bias) = (tensor([1, 3, 5], 1, &device), tensor([5], 2, &device), tensor([5], 3, &device));
    assert_close(&read(layer_norm(x, gain, Some(bias), 1e-5)), &expected);
}

#[test]
fn rms_norm_brings_rows_to_a_mean_square_of_1_before_the_gain() {
    let (rows, gain) = (wide(&numbers(15, 1)), wide(&numbers(5, 2)));
    let mut expected = Vec::new();
    for row in rows.chunks(5) {
        let square = row.iter().map(|x| x * x).sum::<f64>() / 5.0;
        expected.extend((0..5).map(|i| row[i] / (square + 1e-5).sqrt() * gain[i]));
    }
    let device = Device::flex();
    assert_close(&read(rms_norm(tensor([1, 3, 5], 1, &device), tensor([5], 2, &device), 1e-5)), &expected);
}

/// Attention of one batch, of as many heads of queries as of keys, `[heads, length, size]` each.
fn attention_by_hand([heads, length, size]: [usize; 3], query: &[f64], key: &[f64], value: &[f64]) -> Vec<f64> {
    let row = |of: &[f64], head: usize, at: usize| of[(head * length + at) * size..][..size].to_vec();
    let mut result = Vec::new();
    for head in 0..heads {
        for at in 0..length {
            let query = row(query, head, at);
            let score = |other: usize| {
                let product: f64 = query.iter().zip(row(key, head, other)).map(|(q, k)| q * k).sum();
                (product / (size as f64).sqrt()).exp()
            };
            let scores: Vec<f64> = (0..=at).map(score).collect();
            let total: f64 = scores.iter().sum();
            result.extend((0..size).map(|i| {
                scores.iter().enumerate().map(|(other, score)| score / total * row(value, head, other)[i]).sum::<f64>()
            }));
        }
    }
    result
}

#[test]
fn attention_is_the_softmax_over_earlier_keys_times_their_values() {
    let device = Device::flex();
    let shape = [1, 3, 4, 2];
    let [query, key, value] = [1, 2, 3].map(|seed| tensor(shape, seed, &device));
    let [q, k, v] = [1, 2, 3].map(|seed| wide(&numbers(24, seed)));
    assert_close(&read(causal_attention(query, key, value)), &attention_by_hand([3, 4, 2], &q, &k, &v));
}

#[test]
fn heads_that_share_keys_and_values_are_as_heads_with_copies_of_them() {
    let device = Device::flex();
    let query = tensor([2, 4, 5, 3], 1, &device);
    let [key, value] = [2, 3].map(|seed| tensor([2, 2, 5, 3], seed, &device));
    let shared = read(causal_attention(query.clone(), key.clone(), value.clone()));
    // Heads 0 and 1 read the first group, 2 and 3 the second.
    let copied = |x: Tensor<4>| x.reshape([2, 2, 1, 5, 3]).repeat_dim(2, 2).reshape([2, 4, 5, 3]);
    assert_close(&shared, &wide(&read(causal_attention(query, copied(key), copied(value)))));
}

#[test]
fn attention_of_a_group_has_the_gradients_of_copies() {
    let device = Device::flex().autodiff();
    let gradients = |copies: bool| {
        let [query, key, value] =
            [[1, 4, 3, 2], [1, 2, 3, 2], [1, 2, 3, 2]].map(|shape| tensor(shape, 5, &device).require_grad());
        let copied = |x: &Tensor<4>| x.clone().reshape([1, 2, 1, 3, 2]).repeat_dim(2, 2).reshape([1, 4, 3, 2]);
        let mixed = if copies {
            causal_attention(query.clone(), copied(&key), copied(&value))
        } else {
            causal_attention(query.clone(), key.clone(), value.clone())
        };
        let found = (mixed * tensor([1, 4, 3, 2], 6, &device)).sum().backward();
        [query, key, value].map(|x| read(x.grad(&found).expect("it is there")))
    };
    for (shared, copied) in gradients(false).iter().zip(gradients(true)) {
        assert_close(shared, &wide(&copied));
    }
}

/// 5 rows of width 3 that predict one of 4 tokens.
struct Prediction {
    hidden: Tensor<2>,
    head: Tensor<2>,
    targets: Tensor<1, Int>,
    weights: Tensor<1>,
}

const TARGETS: [i32; 5] = [3, 0, 1, 1, 2];
const WEIGHTS: [f32; 5] = [1.0, 0.5, 0.0, 2.0, 0.25];

fn prediction(padding: usize, device: &Device) -> Prediction {
    let head = tensor([4, 3], 2, device);
    // Rows of padding that would be predicted if they were tokens.
    let head = if padding == 0 { head } else { Tensor::cat(vec![head, Tensor::full([padding, 3], 50.0, device)], 0) };
    let learned = |x: Tensor<2>| if device.is_autodiff() { x.detach().require_grad() } else { x };
    Prediction {
        hidden: learned(tensor([5, 3], 1, device)),
        head: learned(head),
        targets: Tensor::from_ints(TARGETS, device),
        weights: Tensor::from_floats(WEIGHTS, device),
    }
}

impl Prediction {
    fn loss(&self, chunk: usize) -> Tensor<1> {
        let Self { hidden, head, targets, weights } = self;
        by_chunks(hidden.clone(), head.clone(), targets.clone(), weights.clone(), 4, chunk)
    }

    fn composed_loss(&self) -> Tensor<1> {
        let Self { hidden, head, targets, weights } = self;
        reference::linear_cross_entropy(hidden.clone(), head.clone(), targets.clone(), weights.clone(), 4)
    }

    fn gradients(&self, found: &Gradients) -> [Vec<f32>; 2] {
        [&self.hidden, &self.head].map(|x| read(x.grad(found).expect("it is there")))
    }
}

#[test]
fn the_loss_is_the_weighted_mean_of_minus_the_log_softmax() {
    let (hidden, head) = (wide(&numbers(15, 1)), wide(&numbers(12, 2)));
    let mut sum = 0.0;
    for (row, (target, weight)) in hidden.chunks(3).zip(TARGETS.iter().zip(WEIGHTS)) {
        let logits: Vec<f64> = head.chunks(3).map(|token| token.iter().zip(row).map(|(a, b)| a * b).sum()).collect();
        let total: f64 = logits.iter().map(|logit| logit.exp()).sum();
        sum += f64::from(weight) * (total.ln() - logits[*target as usize]);
    }
    let expected = sum / f64::from(WEIGHTS.iter().sum::<f32>());
    for device in [Device::flex(), Device::flex().autodiff()] {
        let Prediction { hidden, head, targets, weights } = prediction(0, &device);
        assert_close(&read(linear_cross_entropy(hidden, head, targets, weights, 4)), &[expected]);
    }
}

#[test]
fn loss_and_gradients_are_those_of_the_composed_operations_in_chunks_of_any_size() {
    let prediction = prediction(0, &Device::flex().autodiff());
    let composed = prediction.composed_loss();
    let expected = prediction.gradients(&composed.backward());
    for chunk in [1, 2, 5, 100] {
        let loss = prediction.loss(chunk);
        for (actual, expected) in prediction.gradients(&loss.backward()).iter().zip(&expected) {
            assert_close(actual, &wide(expected));
        }
        assert_close(&read(loss), &wide(&read(composed.clone())));
    }
}

#[test]
fn a_chunk_has_no_more_logits_and_rows_than_it_may_and_one_row_at_least() {
    assert_eq!(chunk_rows(16), CHUNK_ROWS);
    assert_eq!(chunk_rows(50_304), CHUNK_LOGITS / 50_304);
    assert_eq!(chunk_rows(2 * CHUNK_LOGITS), 1);
}

#[test]
fn the_gradient_of_a_multiple_of_the_loss_is_the_multiple_of_the_gradient() {
    let prediction = prediction(0, &Device::flex().autodiff());
    let expected = prediction.gradients(&(prediction.composed_loss() * 3.0).backward());
    for (actual, expected) in prediction.gradients(&(prediction.loss(2) * 3.0).backward()).iter().zip(&expected) {
        assert_close(actual, &wide(expected));
    }
}

/// Of half a million rows each one's part of a gradient is about 6e-7, of which 16-bit floats hold a digit at most; scaled up
/// by 65536 they hold 3.
#[test]
fn the_gradients_of_many_rows_do_not_vanish_in_sixteen_bits() {
    const TIMES: usize = 100_000;
    let device = Device::flex().autodiff();
    let few = Prediction { weights: Tensor::ones([5], &device), ..prediction(0, &device) };
    let [hidden, head] = few.gradients(&few.loss(5).backward());
    let half = |x: Tensor<2>| x.detach().cast(FloatDType::F16).detach().set_require_grad(true);
    let many = Prediction {
        hidden: half(few.hidden.clone().repeat_dim(0, TIMES)),
        head: half(few.head.clone()),
        targets: few.targets.clone().repeat_dim(0, TIMES),
        weights: Tensor::ones([5 * TIMES], &device),
    };
    let found = (many.loss(CHUNK_ROWS) * 65_536.0).backward();
    let first = many.hidden.grad(&found).expect("it is there").narrow(0, 0, 5);
    let close = |actual: Vec<f32>, expected: Vec<f32>, scale: f32| {
        let largest = expected.iter().fold(0.0, |largest: f32, x| largest.max(x.abs()));
        for (actual, expected) in actual.iter().zip(expected) {
            assert!((actual / scale - expected).abs() < 0.01 * largest, "{actual} is not {expected} times {scale}");
        }
    };
    close(read(first), hidden, 65_536.0 / TIMES as f32);
    close(read(many.head.grad(&found).expect("it is there")), head, 65_536.0);
}

#[test]
fn padding_adds_nothing_to_the_loss_and_gets_no_gradient() {
    let device = Device::flex().autodiff();
    let (plain, padded) = (prediction(0, &device), prediction(3, &device));
    let (expected, actual) = (plain.loss(2), padded.loss(2));
    let [_, expected_head] = plain.gradients(&expected.backward());
    let [_, head] = padded.gradients(&actual.backward());
    assert_close(&read(actual), &wide(&read(expected)));
    assert_close(&head[..12], &wide(&expected_head));
    assert_eq!(head[12..], [0.0; 9]);
}

#[test]
fn a_row_that_is_masked_adds_nothing_to_the_loss() {
    let device = Device::flex();
    let mut one = prediction(0, &device);
    let expected = read(one.loss(5));
    // Row 2 has the weight 0.
    one.targets = Tensor::from_ints([3, 0, 3, 1, 2], &device);
    assert_eq!(read(one.loss(5)), expected);
    one.weights = Tensor::zeros([5], &device);
    assert_eq!(read(one.loss(5)), [0.0]);
}

#[test]
fn the_loss_stays_finite_for_extreme_logits() {
    let device = Device::flex().autodiff();
    let hidden = Tensor::<2>::from_floats([[1e4]], &device).require_grad();
    let head = Tensor::<2>::from_floats([[1.0], [-1.0]], &device).require_grad();
    let loss = linear_cross_entropy(
        hidden.clone(),
        head,
        Tensor::from_ints([1], &device),
        Tensor::from_floats([1.0], &device),
        2,
    );
    let gradient = read(hidden.grad(&loss.backward()).expect("it is there"));
    assert_eq!((read(loss), gradient), (vec![2e4], vec![2.0]));
}
