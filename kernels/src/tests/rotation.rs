use super::{EXACT, FUSED, On, Outcome, Tensor, assert_close, backward, constant, gradient, leaf, list, numbers};
use crate::{composed, rotate};

type Rotate = fn(Tensor<4>, Tensor<2>, Tensor<2>) -> Tensor<4>;

fn outcome(function: Rotate, [batch, heads, length, width]: [usize; 4], on: On) -> Outcome {
    let angles = numbers(2, length * width / 2, 3.0);
    let table = |function: fn(f32) -> f32| {
        let values: Vec<f32> = angles.iter().map(|angle| function(*angle)).collect();
        constant(&values, [length, width / 2], on)
    };
    // As a model has it: heads within positions.
    let x = leaf(&numbers(1, batch * heads * length * width, 1.0), [batch, length, heads, width], on);
    let output = function(x.clone().swap_dims(1, 2), table(f32::cos), table(f32::sin));
    let gradients = backward(&output);
    vec![list(output), gradient(&x, &gradients)]
}

#[test]
fn a_rotation_is_the_composed_one() {
    for shape in [[1, 1, 1, 2], [2, 3, 5, 6], [1, 2, 33, 64]] {
        // Two products and a sum of numbers up to 1: three roundings.
        let [fused, exact] = [outcome(rotate, shape, FUSED), outcome(composed::rotate, shape, EXACT)];
        assert_close(&fused, &exact, 2e-7);
    }
}

#[test]
#[should_panic(expected = "the width 3 is odd")]
fn an_odd_width_is_refused() {
    let table = || constant(&[1.0], [1, 1], FUSED);
    rotate(leaf(&[1.0; 3], [1, 1, 1, 3], FUSED), table(), table());
}
