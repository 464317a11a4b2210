//! Rotary position embedding.

use burn::{
    backend::{Flex, flex::FlexTensor},
    tensor::Tensor,
};
use rayon::prelude::{IndexedParallelIterator, ParallelIterator, ParallelSliceMut};

use crate::{
    composed,
    dispatch::{Operation, run},
    math::vectorized,
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
    let [_, _, length, width] = x.dims();
    check(length, width, [cos.dims(), sin.dims()]);
    match run(Rotation, [x.into_dispatch(), cos.into_dispatch(), sin.into_dispatch()]) {
        Ok(output) => Tensor::from_dispatch(output),
        Err([x, cos, sin]) => {
            composed::rotate(Tensor::from_dispatch(x), Tensor::from_dispatch(cos), Tensor::from_dispatch(sin))
        }
    }
}

/// Panics if angles of these shapes are not those of positions and a width.
pub(crate) fn check(length: usize, width: usize, angles: [[usize; 2]; 2]) {
    assert!(width.is_multiple_of(2), "rotate: the width {width} is odd");
    assert_eq!(angles, [[length, width / 2]; 2], "rotate: the shapes of cos and sin");
}

#[derive(Clone, Copy, Debug)]
struct Rotation;

impl Operation<Flex, 3> for Rotation {
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
                    output.copy_from_slice(&values[start + head * head_stride..][..width]);
                    turn(output, angles, direction);
                }
            },
        );
    });
    swapped(tensor(output, [batch, length, heads, width]), 1, 2)
}

/// Rotates a head in place, forward or, for the direction −1, back.
#[inline(always)]
pub(crate) fn turn(head: &mut [f32], [cos, sin]: [&[f32]; 2], direction: f32) {
    let (left, right) = head.split_at_mut(cos.len());
    let angles = cos.iter().zip(sin);
    for ((left, right), (cos, sin)) in left.iter_mut().zip(right).zip(angles) {
        let sin = direction * sin;
        (*left, *right) = (*left * cos - *right * sin, *right * cos + *left * sin);
    }
}
