//! Causal attention of several heads.

mod backward;
mod forward;
mod projected;

use std::ops::Range;

use self::backward::Places;
pub use self::projected::causal_self_attention;
use crate::{
    composed,
    dispatch::{Operation, run},
    math::LANES,
    matrix::{Matrix, MatrixMut},
    storage::{dims, readable, strided, swapped, tensor, with_rows, zeros},
};
use burn::{
    backend::{Flex, flex::FlexTensor},
    tensor::Tensor,
};

/// Queries whose scores are computed at a time. Half a tile per query is computed in vain, above the diagonal; fewer
/// queries make slower products.
const TILE: usize = 64;

/// `softmax(query · keyᵀ / √width + causal mask) · value` per head.
///
/// `query` is `[batch, heads, queries, width]`, `key` `[batch, key heads, keys, width]`, `value`
/// `[batch, key heads, keys, value width]`; the result is `[batch, heads, queries, value width]`. Each key head serves
/// as many consecutive heads as `heads / key heads` says (grouped-query attention). With as many keys as queries a
/// query sees the keys up to its own position; with more (a cache), the last query sees them all.
///
/// On flex the inputs are read where they lie, so `[batch, length, heads, width]` with dimensions 1 and 2 swapped costs
/// no copy; the output and all gradients lie in memory so, and swapping back and reshaping to `[batch, length, …]` are
/// free too. Of the scores a tile per thread stands in memory: the backward computes them again from the logarithm of
/// each query's sum.
///
/// # Panics
/// If the shapes do not fit, or there are fewer keys than queries.
pub fn causal_attention(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>) -> Tensor<4> {
    let shape = Shape::new(query.dims(), key.dims(), value.dims());
    match run(CausalAttention(shape), [query.into_dispatch(), key.into_dispatch(), value.into_dispatch()]) {
        Ok(output) => Tensor::from_dispatch(output),
        Err(inputs) => {
            let [query, key, value] = inputs.map(Tensor::<4>::from_dispatch);
            composed::causal_attention(query, key, value)
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct CausalAttention(Shape);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) batch: usize,
    pub(crate) heads: usize,
    pub(crate) key_heads: usize,
    pub(crate) queries: usize,
    pub(crate) keys: usize,
    pub(crate) width: usize,
    value_width: usize,
}

/// What the backward needs of the forward.
#[derive(Clone, Debug)]
struct Saved {
    /// Query, key and value.
    inputs: [FlexTensor; 3],
    output: FlexTensor,
    /// Per query the logarithm of the sum of e^score: `[batch, queries, heads]`.
    log_sums: Vec<f32>,
}

impl Operation<Flex, 3> for CausalAttention {
    type Saved = Saved;

    fn forward(&self, inputs: [FlexTensor; 3], _: [bool; 3]) -> (FlexTensor, Saved) {
        let Self(shape) = *self;
        let inputs = inputs.map(readable);
        let (output, log_sums) = forward::run(shape, inputs.each_ref().map(Heads::new));
        let output = tensor(output, [shape.batch, shape.queries, shape.heads, shape.value_width]);
        let output = swapped(output, 1, 2);
        (output.clone(), Saved { inputs, output, log_sums })
    }

    fn backward(self, saved: Saved, gradient: FlexTensor, _: [bool; 3]) -> [Option<FlexTensor>; 3] {
        let Self(shape) = self;
        let gradient = with_rows(gradient);
        let context = backward::Context {
            shape,
            inputs: saved.inputs.each_ref().map(Heads::new),
            output: Heads::new(&saved.output),
            log_sums: &saved.log_sums,
            gradient: Heads::new(&gradient),
        };
        let Shape { batch, heads, key_heads, queries, keys, width, value_width } = shape;
        let mut query = zeros(batch * queries * heads * width);
        let mut key = zeros(batch * keys * key_heads * width);
        let mut value = zeros(batch * keys * key_heads * value_width);
        context.write(Places {
            query: heads_mut(&mut query, queries, [heads, width]),
            key: heads_mut(&mut key, keys, [key_heads, width]),
            value: heads_mut(&mut value, keys, [key_heads, value_width]),
        });
        let gradient = |values, shape| Some(swapped(tensor(values, shape), 1, 2));
        [
            gradient(query, [batch, queries, heads, width]),
            gradient(key, [batch, keys, key_heads, width]),
            gradient(value, [batch, keys, key_heads, value_width]),
        ]
    }
}

impl Shape {
    /// # Panics
    /// If the shapes do not fit.
    pub(crate) fn new(query: [usize; 4], key: [usize; 4], value: [usize; 4]) -> Self {
        let [batch, heads, queries, width] = query;
        let [_, key_heads, keys, _] = key;
        let [.., value_width] = value;
        let fits = key == [batch, key_heads, keys, width] && value == [batch, key_heads, keys, value_width];
        assert!(fits, "causal_attention: query {query:?}, key {key:?} and value {value:?} do not fit");
        let grouped = key_heads > 0 && heads.is_multiple_of(key_heads);
        assert!(grouped, "causal_attention: {heads} heads cannot share {key_heads} key heads evenly");
        assert!(queries <= keys, "causal_attention: {queries} queries, but only {keys} keys");
        Self { batch, heads, key_heads, queries, keys, width, value_width }
    }

    /// That of a sequence's attention to itself, `[batch, length, (heads + 2 · key heads) · width]`.
    ///
    /// # Panics
    /// If that many heads do not divide the numbers of a position.
    pub(crate) fn of_projection([batch, length, row]: [usize; 3], [heads, key_heads]: [usize; 2]) -> Self {
        let all = heads + 2 * key_heads;
        let fits = all > 0 && row.is_multiple_of(all);
        assert!(fits, "causal_self_attention: {all} heads do not divide {row} numbers evenly");
        let side = |heads| [batch, heads, length, row / all];
        Self::new(side(heads), side(key_heads), side(key_heads))
    }

    /// Heads per key head.
    pub(crate) fn group(self) -> usize {
        self.heads / self.key_heads
    }

    /// How many keys a query sees.
    pub(crate) fn visible(self, query: usize) -> usize {
        self.keys - self.queries + query + 1
    }

    fn scale(self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }

    /// The queries of each tile.
    fn tiles(self) -> impl DoubleEndedIterator<Item = Range<usize>> {
        parts(self.queries, TILE)
    }
}

/// So many of so many at a time.
pub(crate) fn parts(count: usize, size: usize) -> impl DoubleEndedIterator<Item = Range<usize>> {
    (0..count).step_by(size).map(move |first| first..count.min(first + size))
}

/// So many keys and, of those that follow in a row of so many, as many as fill up whole vectors.
#[inline(always)]
fn whole(visible: usize, row: usize) -> usize {
    visible.next_multiple_of(LANES).min(row)
}

/// A tensor `[batch, heads, rows, width]`, wherever its numbers lie.
#[derive(Clone, Copy)]
struct Heads<'a> {
    values: &'a [f32],
    strides: [usize; 4],
    width: usize,
}

impl<'a> Heads<'a> {
    /// Of a [`readable`] tensor.
    fn new(tensor: &'a FlexTensor) -> Self {
        let ((values, strides), [.., width]) = (strided(tensor), dims::<4>(tensor));
        Self { values, strides, width }
    }

    /// Some rows of a head.
    fn matrix(self, batch: usize, head: usize, rows: Range<usize>) -> Matrix<'a> {
        let [_, _, row, column] = self.strides;
        Matrix::new(&self.values[self.start(batch, head, rows.start)..], [rows.len(), self.width], [row, column])
    }

    /// A row, of a tensor whose rows lie together.
    #[inline(always)]
    fn row(self, batch: usize, head: usize, row: usize) -> &'a [f32] {
        &self.values[self.start(batch, head, row)..][..self.width]
    }

    #[inline(always)]
    fn start(self, batch: usize, head: usize, row: usize) -> usize {
        batch * self.strides[0] + head * self.strides[1] + row * self.strides[2]
    }
}

/// The heads of each batch, `[rows, width]`: of `[batch, rows, heads, width]` in memory.
fn heads_mut(values: &mut [f32], rows: usize, [heads, width]: [usize; 2]) -> Vec<MatrixMut<'_>> {
    let batches = values.chunks_mut((rows * heads * width).max(1));
    batches.flat_map(|batch| MatrixMut::rows(batch, [rows, heads * width]).into_columns(width)).collect()
}
