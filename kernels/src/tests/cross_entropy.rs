use burn::tensor::Int;

use super::{
    EXACT, FUSED, HALVES, On, Outcome, ROUNDING, Tensor, TensorData, assert_close, backward, constant, device,
    gradient, leaf, list, numbers,
};
use crate::{composed, cross_entropy, linear_cross_entropy, reference};

#[derive(Clone, Copy)]
struct Case {
    rows: usize,
    width: usize,
    vocabulary: usize,
    /// Rows of the weight beyond the vocabulary.
    padding: usize,
    /// Size of the numbers of the hidden states.
    scale: f32,
    /// Whether the weight is a view of its transpose.
    is_transposed: bool,
}

const fn case([rows, width]: [usize; 2], [vocabulary, padding]: [usize; 2]) -> Case {
    Case { rows, width, vocabulary, padding, scale: 1.0, is_transposed: false }
}

/// A single row, a vocabulary of one, odd sizes, padding, many rows.
const CASES: [Case; 6] = [
    case([1, 3], [2, 0]),
    case([3, 4], [1, 0]),
    case([5, 7], [17, 0]),
    case([9, 8], [29, 3]),
    case([150, 16], [300, 20]),
    Case { is_transposed: true, ..case([33, 12], [40, 8]) },
];

type Loss = fn(Tensor<2>, Tensor<2>, Tensor<1, Int>, Tensor<1>, usize) -> Tensor<1>;

fn targets(case: Case) -> Vec<i64> {
    (0..case.rows).map(|row| ((row * 7919 + 3) % case.vocabulary) as i64).collect()
}

/// Each fourth row does not count, and the others differently.
fn row_weights(case: Case) -> Vec<f32> {
    (0..case.rows).map(|row| [1.0, 0.5, 2.0, 0.0][row % 4]).collect()
}

fn of(function: Loss, case: Case, targets: &[i64], row_weights: &[f32], on: On) -> Outcome {
    let Case { rows, width, vocabulary, padding, scale, is_transposed } = case;
    let hidden = leaf(&numbers(1, rows * width, scale), [rows, width], on);
    let shape = [vocabulary + padding, width];
    let values = numbers(2, shape[0] * width, 1.0);
    let weight = if is_transposed { leaf(&values, [width, shape[0]], on) } else { leaf(&values, shape, on) };
    let seen = if is_transposed { weight.clone().transpose() } else { weight.clone() };
    let targets = Tensor::<1, Int>::from_data(TensorData::new(targets.to_vec(), [rows]), &on.device());
    let loss = function(hidden.clone(), seen, targets, constant(row_weights, [rows], on), vocabulary);
    // The loss's gradient is not 1, so that the backward has something to scale.
    let gradients = backward(&(loss.clone() * 3.0));
    vec![list(loss), gradient(&hidden, &gradients), gradient(&weight, &gradients)]
}

/// On all cases, with numbers of the hidden states of up to `scale`.
pub(super) fn compare(on: On, scale: f32, tolerance: f64) {
    for case in CASES.map(|case| Case { scale, ..case }) {
        for row_weights in [row_weights(case), vec![1.0; case.rows]] {
            let exact = of(reference::linear_cross_entropy, case, &targets(case), &row_weights, on.exact());
            assert_close(&of(linear_cross_entropy, case, &targets(case), &row_weights, on), &exact, tolerance);
        }
    }
}

#[test]
fn the_loss_and_its_gradients_are_burns() {
    // Logits of up to 5 with an error of 10⁻⁶ at most, which is that of a probability, relative to it. The gradients
    // are sums of such with weights that sum to 1.
    compare(FUSED, 1.0, 2e-6);
    compare(EXACT, 1.0, ROUNDING);
    HALVES.into_iter().for_each(|(on, tolerance)| compare(on, 1.0, tolerance));
}

#[test]
fn large_logits_do_not_overflow() {
    // Logits of up to 1000 · √16 have an error of several roundings, together up to 10⁻³ relative to a probability.
    compare(FUSED, 1000.0, 2e-3);
}

#[test]
fn a_row_that_is_masked_adds_nothing_to_the_loss_whatever_its_target() {
    let case = CASES[4];
    let plain = of(linear_cross_entropy, case, &targets(case), &row_weights(case), FUSED);
    let mut odd = targets(case);
    odd.iter_mut().skip(3).step_by(4).for_each(|target| *target = -100);
    let fused = of(linear_cross_entropy, case, &odd, &row_weights(case), FUSED);
    assert_eq!(fused, plain);
    let masked = fused[1].chunks(case.width).skip(3).step_by(4).flatten();
    assert!(masked.copied().all(|number| number == 0.0));
}

#[test]
fn without_a_row_that_counts_loss_and_gradients_are_zero() {
    let case = CASES[2];
    for list in of(linear_cross_entropy, case, &targets(case), &vec![0.0; case.rows], FUSED) {
        assert!(!list.is_empty() && list.iter().all(|number| *number == 0.0));
    }
}

#[test]
fn a_weight_of_swapped_dimensions_gets_a_gradient_that_lies_as_it_does() {
    let weight = leaf(&numbers(1, 12, 1.0), [3, 4], FUSED);
    let (hidden, counts) = (leaf(&numbers(2, 6, 1.0), [2, 3], FUSED), constant(&[1.0; 2], [2], FUSED));
    let targets = Tensor::<1, Int>::from_data([0, 3], &device());
    let gradients = linear_cross_entropy(hidden, weight.clone().transpose(), targets, counts, 4).backward();
    let gradient = weight.grad(&gradients).expect("the weight is a leaf");
    let gradient = gradient.try_into_primitive::<burn::backend::Flex>().expect("it is on flex");
    assert!(gradient.is_contiguous());
}

#[test]
#[should_panic(expected = "the target of row 1 is 17, not in the vocabulary of 17")]
fn a_target_that_is_no_token_is_refused() {
    let case = CASES[2];
    of(linear_cross_entropy, case, &[0, 17, 0, 0, 0], &[1.0; 5], FUSED);
}

fn of_logits(function: fn(Tensor<2>, Tensor<1, Int>) -> Tensor<1>, case: Case, on: On) -> Outcome {
    let Case { rows, vocabulary, scale, .. } = case;
    let logits = leaf(&numbers(1, rows * vocabulary, scale), [rows, vocabulary], on);
    let targets = Tensor::<1, Int>::from_data(TensorData::new(targets(case), [rows]), &device());
    let loss = function(logits.clone(), targets);
    let gradients = backward(&(loss.clone() * 3.0));
    vec![list(loss), gradient(&logits, &gradients)]
}

#[test]
fn the_loss_of_logits_and_its_gradient_are_the_composed_ones() {
    for case in CASES {
        for scale in [1.0, 1000.0] {
            let case = Case { scale, ..case };
            let fused = of_logits(cross_entropy, case, FUSED);
            // Logits are exact here; a probability has an error of a few roundings.
            assert_close(&fused, &of_logits(composed::cross_entropy, case, EXACT), 1e-6);
        }
    }
}

#[test]
#[should_panic(expected = "the target of row 0 is 2, not one of 2 classes")]
fn a_target_that_is_no_class_is_refused() {
    let targets = Tensor::<1, Int>::from_data([2], &device());
    cross_entropy(leaf(&[0.0; 2], [1, 2], FUSED), targets);
}
