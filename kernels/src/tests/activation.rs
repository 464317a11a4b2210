use super::{
    EXACT, FUSED, HALVES, On, Outcome, ROUNDING, Tensor, assert_close, backward, gradient, leaf, list, numbers,
};
use crate::{composed, gelu, gelu_tanh, reference, swiglu};

/// Odd lengths, a single number, several blocks; numbers around 0, over the bend, and far out.
const CASES: [([usize; 2], f32); 5] =
    [([1, 1], 1.0), ([3, 7], 1.0), ([5, 1001], 6.0), ([2, 129], 100.0), ([3, 16_411], 3.0)];

fn of_one(function: impl Fn(Tensor<2>) -> Tensor<2>, (shape, scale): ([usize; 2], f32), on: On) -> Outcome {
    let x = leaf(&numbers(1, shape[0] * shape[1], scale), shape, on);
    let output = function(x.clone());
    let gradients = backward(&output);
    vec![list(output), gradient(&x, &gradients)]
}

pub(super) fn compare([ours, burns]: [fn(Tensor<2>) -> Tensor<2>; 2], on: On, tolerance: f64) {
    for case in CASES {
        assert_close(&of_one(ours, case, on), &of_one(burns, case, on.exact()), tolerance);
    }
}

#[test]
fn gelu_is_burns() {
    // The approximation of Φ is within 2·10⁻⁷; for the gradient, that of x·φ(x) comes to it.
    compare([gelu, reference::gelu], FUSED, 4e-7);
    compare([gelu, reference::gelu], EXACT, ROUNDING);
    HALVES.into_iter().for_each(|(on, tolerance)| compare([gelu, reference::gelu], on, tolerance));
}

#[test]
fn gelu_with_tanh_is_burns() {
    // σ is within a few roundings, of an argument of up to 90 with one of 5·10⁻⁶ where σ is next to 0 or 1: there
    // σ's slope times it is below 10⁻⁷.
    compare([gelu_tanh, reference::gelu_tanh], FUSED, 5e-7);
    compare([gelu_tanh, reference::gelu_tanh], EXACT, ROUNDING);
    HALVES.into_iter().for_each(|(on, tolerance)| compare([gelu_tanh, reference::gelu_tanh], on, tolerance));
}

#[test]
fn gelu_of_huge_numbers_is_the_number_or_zero() {
    let x = leaf(&[3e38, -3e38, 88.0, -88.0, 0.0], [5], FUSED);
    for function in [gelu, gelu_tanh, composed::gelu, composed::gelu_tanh] {
        let output = function(x.clone());
        let gradients = output.clone().sum().backward();
        assert_eq!(list(output), [f64::from(3e38f32), 0.0, 88.0, 0.0, 0.0]);
        assert_eq!(gradient(&x, &gradients), [1.0, 0.0, 1.0, 0.0, 0.5]);
    }
}

#[test]
fn not_a_number_stays_one() {
    for function in [gelu, gelu_tanh] {
        assert!(list(function(leaf(&[f32::NAN], [1], FUSED)))[0].is_nan());
    }
}

pub(super) fn compare_swiglu(on: On, tolerance: f64) {
    let outcome = |function: fn(Tensor<2>, Tensor<2>) -> Tensor<2>, (shape, scale): ([usize; 2], f32), on| {
        let count = shape[0] * shape[1];
        let gate = leaf(&numbers(1, count, scale), shape, on);
        let up = leaf(&numbers(2, count, 1.0), shape, on);
        let output = function(gate.clone(), up.clone());
        let gradients = backward(&output);
        vec![list(output), gradient(&gate, &gradients), gradient(&up, &gradients)]
    };
    for case in CASES {
        assert_close(&outcome(swiglu, case, on), &outcome(reference::swiglu, case, on.exact()), tolerance);
    }
}

#[test]
fn swiglu_is_burns() {
    // σ within 4·10⁻⁷ of itself, and a few roundings.
    compare_swiglu(FUSED, 6e-7);
    compare_swiglu(EXACT, ROUNDING);
    HALVES.into_iter().for_each(|(on, tolerance)| compare_swiglu(on, tolerance));
}

#[test]
fn an_input_of_swapped_dimensions_is_taken_in_its_own_order() {
    let x = leaf(&numbers(1, 6, 1.0), [2, 3], FUSED);
    let gradients = backward(&gelu(x.clone().swap_dims(0, 1)).swap_dims(0, 1));
    let straight = backward(&gelu(x.clone()));
    assert_eq!(gradient(&x, &gradients), gradient(&x, &straight));
}
