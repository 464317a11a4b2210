//! Attention of a sequence to itself, read where one projection has left queries, keys and values.

use burn::{
    backend::{Flex, flex::FlexTensor},
    tensor::Tensor,
};
use rayon::prelude::{IndexedParallelIterator, ParallelIterator, ParallelSliceMut};

use super::{
    Heads, Shape, TILE,
    backward::{self, Places},
    forward, heads_mut,
};
use crate::{
    composed,
    dispatch::{Operation, on_flex, run},
    math::vectorized,
    rotation::{check, turn},
    storage::{contiguous, dims, tensor, zeros},
};

/// [`causal_attention`](crate::causal_attention) of a sequence to itself: `[batch, length, heads · width]`.
///
/// `projected` is `[batch, length, (heads + 2 · key heads) · width]`: for each position the queries of all heads, then the
/// keys and then the values of all key heads, which one linear layer computes at once. With `angles`, their cosines and
/// sines, each `[length, width/2]`, queries and keys are first rotated, as by [`rotate`](crate::rotate).
///
/// On flex nothing is split or put together: the numbers are read where they lie, and their gradient is written as it is
/// to lie; a projection that nobody else holds is rotated in place.
///
/// # Panics
/// If the shapes do not fit.
pub fn causal_self_attention(
    projected: Tensor<3>,
    [heads, key_heads]: [usize; 2],
    angles: Option<[Tensor<2>; 2]>,
) -> Tensor<3> {
    let shape = Shape::of_projection(projected.dims(), [heads, key_heads]);
    if let Some(angles) = &angles {
        check(shape.queries, shape.width, angles.each_ref().map(Tensor::dims));
    }
    let constants = match angles.clone() {
        // Constants: no gradient flows to them.
        Some(angles) => {
            on_flex(angles.map(|table| table.inner().into_dispatch())).map(|tables| Some(tables.map(contiguous)))
        }
        None => Ok(None),
    };
    let composed = |projected| composed::causal_self_attention(projected, [heads, key_heads], angles);
    let Ok(angles) = constants else { return composed(projected) };
    match run(CausalSelfAttention { shape, angles }, [projected.into_dispatch()]) {
        Ok(output) => Tensor::from_dispatch(output),
        Err([projected]) => composed(Tensor::from_dispatch(projected)),
    }
}

#[derive(Clone, Debug)]
struct CausalSelfAttention {
    shape: Shape,
    /// Cosines and sines.
    angles: Option<[FlexTensor; 2]>,
}

/// What the backward needs of the forward.
#[derive(Clone, Debug)]
struct Saved {
    /// Rotated.
    projected: FlexTensor,
    output: FlexTensor,
    /// Per query the logarithm of the sum of e^score: `[batch, queries, heads]`.
    log_sums: Vec<f32>,
}

impl Operation<Flex, 1> for CausalSelfAttention {
    type Saved = Saved;

    fn forward(&self, [projected]: [FlexTensor; 1], _: [bool; 1]) -> (FlexTensor, Saved) {
        let shape = self.shape;
        let mut projected = contiguous(projected);
        if let Some(angles) = &self.angles {
            turn_rows(projected.storage_mut(), shape, angles, 1.0);
        }
        let (output, log_sums) = forward::run(shape, inputs(&projected, shape));
        let output = tensor(output, [shape.batch, shape.queries, shape.heads * shape.width]);
        (output.clone(), Saved { projected, output, log_sums })
    }

    fn backward(self, saved: Saved, gradient: FlexTensor, _: [bool; 1]) -> [Option<FlexTensor>; 1] {
        let Self { shape, angles } = self;
        let gradient = contiguous(gradient);
        let [_, _, output_row] = dims(&gradient);
        let output = |tensor| Heads::within(tensor, shape, output_row, 0);
        let context = backward::Context {
            shape,
            inputs: inputs(&saved.projected, shape),
            output: output(saved.output.storage()),
            log_sums: &saved.log_sums,
            gradient: output(gradient.storage()),
        };
        let mut values = zeros(shape.batch * shape.queries * row(shape));
        context.write(places(&mut values, shape));
        if let Some(angles) = &angles {
            // The transpose of a rotation turns back.
            turn_rows(&mut values, shape, angles, -1.0);
        }
        [Some(tensor(values, [shape.batch, shape.queries, row(shape)]))]
    }
}

/// The numbers of a position.
fn row(shape: Shape) -> usize {
    (shape.heads + 2 * shape.key_heads) * shape.width
}

/// Query, key and value.
fn inputs(projected: &FlexTensor, shape: Shape) -> [Heads<'_>; 3] {
    let starts = [0, shape.heads, shape.heads + shape.key_heads];
    starts.map(|head| Heads::within(projected.storage(), shape, row(shape), head * shape.width))
}

/// The places of the gradients in that of the projection.
fn places(values: &mut [f32], shape: Shape) -> Places<'_> {
    let Shape { heads, key_heads, queries, width, .. } = shape;
    let mut places = Places::default();
    let all = heads + 2 * key_heads;
    for (index, head) in heads_mut(values, queries, [all, width]).into_iter().enumerate() {
        let part = match index % all {
            index if index < heads => &mut places.query,
            index if index < heads + key_heads => &mut places.key,
            _ => &mut places.value,
        };
        part.push(head);
    }
    places
}

/// Rotates the queries and keys of all positions of all batches.
fn turn_rows(values: &mut [f32], shape: Shape, angles: &[FlexTensor; 2], direction: f32) {
    let rows = values.par_chunks_mut(row(shape).max(1)).with_min_len(TILE);
    rows.enumerate().for_each(|(index, row)| turn_heads(row, shape, angles, index % shape.queries, direction));
}

/// Rotates the queries and keys of a position.
fn turn_heads(row: &mut [f32], shape: Shape, [cos, sin]: &[FlexTensor; 2], position: usize, direction: f32) {
    let half = shape.width / 2;
    let angles = [cos, sin].map(|table| &table.storage::<f32>()[position * half..][..half]);
    let turned = &mut row[..(shape.heads + shape.key_heads) * shape.width];
    vectorized(
        #[inline(always)]
        || turned.chunks_mut(shape.width).for_each(|head| turn(head, angles, direction)),
    );
}

impl<'a> Heads<'a> {
    /// Heads that lie next to each other in rows of `row` numbers, from `start` on: `[batch, length, row]`.
    fn within(values: &'a [f32], shape: Shape, row: usize, start: usize) -> Self {
        let strides = [shape.queries * row, shape.width, row, 1];
        Self { values: values.get(start..).unwrap_or_default(), strides, width: shape.width }
    }
}
