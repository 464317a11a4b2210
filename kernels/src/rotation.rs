//! Rotary position embedding.

use burn::{backend::flex::FlexTensor, tensor::Tensor};
use rayon::prelude::{IndexedParallelIterator, ParallelIterator, ParallelSliceMut};

use crate::{
    dispatch::{Fused, run},
    math::vectorized,
    reference,
    storage::{contiguous, dims, strided, swapped, tensor, with_rows},
};

/// Rows that a thread takes at least.
const ROWS: usize = 16;

/// Rotates the pairs (x₀, x_width/2), (x₁, x_width/2+1), … of each head by the angles of its position.
///
/// `x` is `[batch, heads, length, width]`, `cos` and `sin` of the angles are `[length, width/2]`; they are constants: no
/// gradient flows to them. On flex the result and the gradient lie in memory as `[batch, length, heads, width]`, as
/// [`causal_attention`](crate::causal_attention)'s do.
///
/// # Panics
/// If the shapes do not fit.
pub fn rotate(x: Tensor<4>, cos: Tensor<2>, sin: Tensor<2>) -> Tensor<4> {
    let ([_, _, length, width], angles) = (x.dims(), [cos.dims(), sin.dims()]);
    assert!(width.is_multiple_of(2), "rotate: the width {width} is odd");
    assert_eq!(angles, [[length, width / 2]; 2], "rotate: the shapes of cos and sin");
    match run(Rotation, [x.into_dispatch(), cos.into_dispatch(), sin.into_dispatch()]) {
        Ok(output) => Tensor::from_dispatch(output),
        Err([x, cos, sin]) => {
            reference::rotate(Tensor::from_dispatch(x), Tensor::from_dispatch(cos), Tensor::from_dispatch(sin))
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Rotation;

impl Fused<3> for Rotation {
    /// Cosines and sines.
    type Saved = [FlexTensor; 2];

    fn forward(&self, [x, cos, sin]: [FlexTensor; 3], _: [bool; 3]) -> (FlexTensor, [FlexTensor; 2]) {
        let angles = [contiguous(cos), contiguous(sin)];
        (turned(x, &angles, 1.0), angles)
    }

    fn backward(self, angles: [FlexTensor; 2], gradient: FlexTensor, _: [bool; 3]) -> [Option<FlexTensor>; 3] {
        // The transpose of a rotation turns back.
        [Some(turned(gradient, &angles, -1.0)), None, None]
    }
}

/// Each head of `x` turned, forward or, for the direction −1, back.
fn turned(x: FlexTensor, [cos, sin]: &[FlexTensor; 2], direction: f32) -> FlexTensor {
    let x = with_rows(x);
    let [batch, heads, length, width] = dims(&x);
    let (values, [batch_stride, head_stride, row_stride, _]) = strided::<4>(&x);
    let (cos, sin) = (cos.storage::<f32>(), sin.storage::<f32>());
    let half = width / 2;
    let mut output = vec![0.0; batch * length * heads * width];
    output.par_chunks_mut((heads * width).max(1)).with_min_len(ROWS).enumerate().for_each(|(index, output)| {
        let position = index % length;
        let start = index / length * batch_stride + position * row_stride;
        let angles = [cos, sin].map(|table| &table[position * half..][..half]);
        vectorized(
            #[inline(always)]
            || {
                for (head, output) in output.chunks_mut(width).enumerate() {
                    turn(&values[start + head * head_stride..][..width], angles, direction, output);
                }
            },
        );
    });
    swapped(tensor(output, [batch, length, heads, width]), 1, 2)
}

#[inline(always)]
fn turn(x: &[f32], [cos, sin]: [&[f32]; 2], direction: f32, output: &mut [f32]) {
    let (left, right) = x.split_at(cos.len());
    let (left_output, right_output) = output.split_at_mut(cos.len());
    let outputs = left_output.iter_mut().zip(right_output);
    let angles = cos.iter().zip(sin);
    for (((left_output, right_output), (left, right)), (cos, sin)) in outputs.zip(left.iter().zip(right)).zip(angles) {
        let sin = direction * sin;
        *left_output = left * cos - right * sin;
        *right_output = right * cos + left * sin;
    }
}
