use super::{EXACT, FUSED, On, Outcome, Tensor, assert_close, backward, gradient, leaf, list, numbers};
use crate::{composed, linear};

type Linear = fn(Tensor<3>, Tensor<2>, Option<Tensor<1>>) -> Tensor<3>;

/// Batch, length, inputs and outputs: a single number, odd sizes, more than a block of rows, wide enough for threads.
const CASES: [[usize; 4]; 5] = [[1, 1, 1, 1], [2, 3, 5, 7], [2, 70, 9, 1], [1, 1, 300, 40], [4, 100, 64, 96]];

fn outcome(function: Linear, [batch, length, inputs, outputs]: [usize; 4], has_bias: bool, on: On) -> Outcome {
    let x = leaf(&numbers(1, batch * length * inputs, 1.0), [batch, length, inputs], on);
    let weight = leaf(&numbers(2, inputs * outputs, 1.0), [inputs, outputs], on);
    let bias = has_bias.then(|| leaf(&numbers(3, outputs, 1.0), [outputs], on));
    let output = function(x.clone(), weight.clone(), bias.clone());
    let gradients = backward(&output);
    let mut outcome = vec![list(output), gradient(&x, &gradients), gradient(&weight, &gradients)];
    outcome.extend(bias.map(|bias| gradient(&bias, &gradients)));
    outcome
}

#[test]
fn a_linear_layer_is_the_composed_one_with_and_without_a_bias() {
    for case in CASES {
        for has_bias in [true, false] {
            let fused = outcome(linear, case, has_bias, FUSED);
            let exact = outcome(composed::linear, case, has_bias, EXACT);
            // Sums of up to 400 products of numbers up to 1, of both signs: they stay below 30, and so many roundings of
            // such sums add up, as a random walk, to 20 · 6e-8 of it.
            assert_close(&fused, &exact, 2e-6);
        }
    }
}

#[test]
fn views_are_read_as_what_they_are() {
    let x = leaf(&numbers(1, 12, 1.0), [4, 3], FUSED);
    let weight = leaf(&numbers(2, 20, 1.0), [5, 4], FUSED);
    let output = linear(x.clone().transpose(), weight.clone().transpose(), None);
    let gradients = backward(&output);
    let copied =
        |tensor: &Tensor<2>| leaf(&numbers_of(tensor.clone().transpose()), [tensor.dims()[1], tensor.dims()[0]], FUSED);
    let [plain_x, plain_weight] = [copied(&x), copied(&weight)];
    let plain = linear(plain_x.clone(), plain_weight.clone(), None);
    assert_eq!(list(output), list(plain.clone()));
    let plain_gradients = backward(&plain);
    for (view, plain) in [(&x, &plain_x), (&weight, &plain_weight)] {
        let of_view = view.grad(&gradients).expect("it is a leaf").transpose();
        assert_eq!(list(of_view), gradient(plain, &plain_gradients));
    }
}

fn numbers_of(tensor: Tensor<2>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

#[test]
#[should_panic(expected = "the weight has 3 rows, the last dimension of x 4")]
fn a_weight_of_another_width_is_refused() {
    linear(leaf(&[1.0; 4], [1, 4], FUSED), leaf(&[1.0; 6], [3, 2], FUSED), None);
}

#[test]
#[should_panic(expected = "the bias has 3 numbers, the weight 2 columns")]
fn a_bias_of_another_width_is_refused() {
    let bias = leaf(&[1.0; 3], [3], FUSED);
    linear(leaf(&[1.0; 4], [1, 4], FUSED), leaf(&[1.0; 8], [4, 2], FUSED), Some(bias));
}
