use super::{
    EXACT, FUSED, HALVES, On, Outcome, ROUNDING, Tensor, assert_close, backward, gradient, leaf, list, numbers,
};
use crate::{layer_norm, reference, rms_norm};

const EPSILON: f64 = 1e-5;

/// A single number, a single row, odd widths, several blocks of rows.
const SHAPES: [[usize; 3]; 5] = [[1, 1, 1], [1, 1, 7], [2, 3, 33], [2, 35, 48], [1, 5, 300]];

/// The errors: of the mean, of numbers of up to 4, about 10⁻⁶ of the deviation, which is about 0.6; of the rest a few
/// roundings; the sums over rows or width add up to 300 such terms of both signs, relative to a sum of that size.
pub(super) const TOLERANCE: f64 = 3e-6;

/// Numbers between 2 and 4, so that the mean matters.
fn x(shape: [usize; 3], on: On) -> Tensor<3> {
    let values: Vec<f32> = numbers(1, shape.iter().product(), 1.0).into_iter().map(|value| value + 3.0).collect();
    leaf(&values, shape, on)
}

type LayerNorm = fn(Tensor<3>, Tensor<1>, Option<Tensor<1>>, f64) -> Tensor<3>;

fn of_layer_norm(function: LayerNorm, shape: [usize; 3], has_bias: bool, on: On) -> Outcome {
    let [.., width] = shape;
    let (x, gain) = (x(shape, on), leaf(&numbers(2, width, 1.0), [width], on));
    let bias = has_bias.then(|| leaf(&numbers(3, width, 1.0), [width], on));
    let output = function(x.clone(), gain.clone(), bias.clone(), EPSILON);
    let gradients = backward(&output);
    let mut outcome = vec![list(output), gradient(&x, &gradients), gradient(&gain, &gradients)];
    outcome.extend(bias.map(|bias| gradient(&bias, &gradients)));
    outcome
}

pub(super) fn compare_layer_norm(on: On, tolerance: f64) {
    for shape in SHAPES {
        for has_bias in [true, false] {
            let actual = of_layer_norm(layer_norm, shape, has_bias, on);
            let exact = of_layer_norm(reference::layer_norm, shape, has_bias, on.exact());
            assert_close(&actual, &exact, tolerance);
        }
    }
}

pub(super) fn compare_rms_norm(on: On, tolerance: f64) {
    let outcome = |function: fn(Tensor<3>, Tensor<1>, f64) -> Tensor<3>, shape: [usize; 3], on| {
        let (x, gain) = (x(shape, on), leaf(&numbers(2, shape[2], 1.0), [shape[2]], on));
        let output = function(x.clone(), gain.clone(), EPSILON);
        let gradients = backward(&output);
        vec![list(output), gradient(&x, &gradients), gradient(&gain, &gradients)]
    };
    for shape in SHAPES {
        assert_close(&outcome(rms_norm, shape, on), &outcome(reference::rms_norm, shape, on.exact()), tolerance);
    }
}

#[test]
fn layer_norm_is_burns_with_and_without_a_bias() {
    compare_layer_norm(FUSED, TOLERANCE);
    compare_layer_norm(EXACT, ROUNDING);
    HALVES.into_iter().for_each(|(on, tolerance)| compare_layer_norm(on, tolerance));
}

#[test]
fn rms_norm_is_burns() {
    compare_rms_norm(FUSED, TOLERANCE);
    compare_rms_norm(EXACT, ROUNDING);
    HALVES.into_iter().for_each(|(on, tolerance)| compare_rms_norm(on, tolerance));
}

#[test]
fn a_row_of_equal_numbers_becomes_the_bias() {
    let x = leaf(&[2.0; 8], [1, 1, 8], FUSED);
    let (gain, bias) = (leaf(&[3.0; 8], [8], FUSED), leaf(&numbers(1, 8, 1.0), [8], FUSED));
    assert_eq!(list(layer_norm(x, gain, Some(bias.clone()), EPSILON)), list(bias));
}

#[test]
#[should_panic(expected = "the gain has 3 numbers, the last dimension of x 4")]
fn a_gain_of_another_width_is_refused() {
    rms_norm(leaf(&[1.0; 4], [1, 4], FUSED), leaf(&[1.0; 3], [3], FUSED), EPSILON);
}
