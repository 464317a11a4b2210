use super::{DType, Outcome, Tensor, assert_close, backward, gradient, leaf, list, numbers};
use crate::{layer_norm, reference, rms_norm};

const EPSILON: f64 = 1e-5;

/// A single number, a single row, odd widths, several blocks of rows.
const SHAPES: [[usize; 3]; 5] = [[1, 1, 1], [1, 1, 7], [2, 3, 33], [2, 35, 48], [1, 5, 300]];

/// The errors: of the mean, of numbers of up to 4, about 10⁻⁶ of the deviation, which is about 0.6; of the rest a few
/// roundings; the sums over rows or width add up to 300 such terms of both signs, relative to a sum of that size.
const TOLERANCE: f64 = 3e-6;

/// Numbers between 2 and 4, so that the mean matters.
fn x(shape: [usize; 3], dtype: DType) -> Tensor<3> {
    let values: Vec<f32> = numbers(1, shape.iter().product(), 1.0).into_iter().map(|value| value + 3.0).collect();
    leaf(&values, shape, dtype)
}

type LayerNorm = fn(Tensor<3>, Tensor<1>, Option<Tensor<1>>, f64) -> Tensor<3>;

fn of_layer_norm(function: LayerNorm, shape: [usize; 3], has_bias: bool, dtype: DType) -> Outcome {
    let [.., width] = shape;
    let (x, gain) = (x(shape, dtype), leaf(&numbers(2, width, 1.0), [width], dtype));
    let bias = has_bias.then(|| leaf(&numbers(3, width, 1.0), [width], dtype));
    let output = function(x.clone(), gain.clone(), bias.clone(), EPSILON);
    let gradients = backward(&output);
    let mut outcome = vec![list(output), gradient(&x, &gradients), gradient(&gain, &gradients)];
    outcome.extend(bias.map(|bias| gradient(&bias, &gradients)));
    outcome
}

#[test]
fn layer_norm_is_the_composed_one_with_and_without_a_bias() {
    for shape in SHAPES {
        for has_bias in [true, false] {
            let fused = of_layer_norm(layer_norm, shape, has_bias, DType::F32);
            let exact = of_layer_norm(reference::layer_norm, shape, has_bias, DType::F64);
            assert_close(&fused, &exact, TOLERANCE);
        }
    }
}

#[test]
fn rms_norm_is_the_composed_one() {
    let outcome = |function: fn(Tensor<3>, Tensor<1>, f64) -> Tensor<3>, shape: [usize; 3], dtype| {
        let (x, gain) = (x(shape, dtype), leaf(&numbers(2, shape[2], 1.0), [shape[2]], dtype));
        let output = function(x.clone(), gain.clone(), EPSILON);
        let gradients = backward(&output);
        vec![list(output), gradient(&x, &gradients), gradient(&gain, &gradients)]
    };
    for shape in SHAPES {
        let [fused, exact] = [outcome(rms_norm, shape, DType::F32), outcome(reference::rms_norm, shape, DType::F64)];
        assert_close(&fused, &exact, TOLERANCE);
    }
}

#[test]
fn a_row_of_equal_numbers_becomes_the_bias() {
    let x = leaf(&[2.0; 8], [1, 1, 8], DType::F32);
    let (gain, bias) = (leaf(&[3.0; 8], [8], DType::F32), leaf(&numbers(1, 8, 1.0), [8], DType::F32));
    assert_eq!(list(layer_norm(x, gain, Some(bias.clone()), EPSILON)), list(bias));
}

#[test]
#[should_panic(expected = "the gain has 3 numbers, the last dimension of x 4")]
fn a_gain_of_another_width_is_refused() {
    rms_norm(leaf(&[1.0; 4], [1, 4], DType::F32), leaf(&[1.0; 3], [3], DType::F32), EPSILON);
}
