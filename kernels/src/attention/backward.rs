//! The gradients: a task per batch and key head, for all heads that it serves.

use std::ops::Range;

use rayon::prelude::{IndexedParallelIterator, ParallelIterator, ParallelSliceMut};

use super::{Heads, Shape, TILE, whole};
use crate::{
    math::{exp, sum_pairs, update_pairs, vectorized},
    matrix::{Before, Matrix, MatrixMut, Threads},
};

/// What the gradients are computed from.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) shape: Shape,
    /// Query, key and value.
    pub(super) inputs: [Heads<'a>; 3],
    /// Its rows lie together, as those of the gradient.
    pub(super) output: Heads<'a>,
    /// `[batch, queries, heads]`.
    pub(super) log_sums: &'a [f32],
    /// Of the output.
    pub(super) gradient: Heads<'a>,
}

/// A tile of queries of a head.
struct Tile {
    batch: usize,
    head: usize,
    queries: Range<usize>,
    /// The keys that its last query sees.
    visible: usize,
}

/// The gradients of a key head, `[keys, width]` and `[keys, value width]`.
struct KeyGradients<'a> {
    key: &'a mut [f32],
    value: &'a mut [f32],
}

/// Memory for a tile: the probabilities, and their gradients.
#[derive(Default)]
struct Scratch {
    probabilities: Vec<f32>,
    gradients: Vec<f32>,
}

impl Context<'_> {
    /// Of query, key and value, each as `[batch, heads, rows, width]`.
    pub(super) fn gradients(self) -> [Vec<f32>; 3] {
        let Shape { batch, heads, key_heads, queries, keys, width, value_width } = self.shape;
        let mut query = vec![0.0; batch * heads * queries * width];
        let mut key = vec![0.0; batch * key_heads * keys * width];
        let mut value = vec![0.0; batch * key_heads * keys * value_width];
        // Where one has no numbers, so has the output, or the others get no gradient.
        if !query.is_empty() && !value.is_empty() {
            let queries = query.par_chunks_mut(self.shape.group() * queries * width);
            let keys = key.par_chunks_mut(keys * width).zip(value.par_chunks_mut(keys * value_width));
            queries.zip(keys).enumerate().for_each_init(Scratch::default, |scratch, (index, (query, (key, value)))| {
                self.key_head([index / key_heads, index % key_heads], query, KeyGradients { key, value }, scratch);
            });
        }
        [query, key, value]
    }

    /// For one key head; `query` is `[heads of the group, queries, width]`.
    fn key_head(
        self,
        [batch, key_head]: [usize; 2],
        query: &mut [f32],
        mut key: KeyGradients<'_>,
        scratch: &mut Scratch,
    ) {
        let Shape { queries, keys, width, .. } = self.shape;
        scratch.probabilities.resize(TILE * keys, 0.0);
        scratch.gradients.resize(TILE * keys, 0.0);
        for (index, query) in query.chunks_mut(queries * width).enumerate() {
            let head = key_head * self.shape.group() + index;
            for (queries, query) in self.shape.tiles().zip(query.chunks_mut(TILE * width)) {
                let visible = self.shape.visible(queries.end - 1);
                self.tile(&Tile { batch, head, queries, visible }, query, &mut key, scratch);
            }
        }
    }

    /// Writes the gradient of the tile's queries, and adds to those of the keys and values that they see.
    fn tile(
        self,
        tile: &Tile,
        query_gradient: &mut [f32],
        key_gradients: &mut KeyGradients<'_>,
        scratch: &mut Scratch,
    ) {
        let Tile { batch, head, visible, .. } = *tile;
        let Shape { width, value_width, .. } = self.shape;
        let key_head = head / self.shape.group();
        let (rows, scale) = (tile.queries.len(), self.shape.scale());
        let [query, key, value] = self.inputs;
        let query = query.matrix(batch, head, tile.queries.clone());
        let key = key.matrix(batch, key_head, 0..visible);
        let value = value.matrix(batch, key_head, 0..visible);
        let gradient = self.gradient.matrix(batch, head, tile.queries.clone());
        let shape = [rows, visible];
        let probabilities = &mut scratch.probabilities[..rows * visible];
        let score_gradients = &mut scratch.gradients[..rows * visible];
        let place = MatrixMut::rows(probabilities, shape);
        place.product(Before::Overwritten, scale, query, key.transposed(), Threads::One);
        let place = MatrixMut::rows(score_gradients, shape);
        place.product(Before::Overwritten, 1.0, gradient, value.transposed(), Threads::One);
        self.through_softmax(tile, probabilities, score_gradients);

        let probabilities = Matrix::rows(probabilities, shape).transposed();
        let score_gradients = Matrix::rows(score_gradients, shape);
        let place = MatrixMut::rows(key_gradients.value, [visible, value_width]);
        place.product(Before::Added, 1.0, probabilities, gradient, Threads::One);
        let place = MatrixMut::rows(query_gradient, [rows, width]);
        place.product(Before::Overwritten, scale, score_gradients, key, Threads::One);
        let place = MatrixMut::rows(key_gradients.key, [visible, width]);
        place.product(Before::Added, scale, score_gradients.transposed(), query, Threads::One);
    }

    /// Turns scores into probabilities p, and the gradients g of the probabilities into those of the scores:
    /// p · (g − Σ p·g), where Σ p·g is the scalar product of output and gradient of the output.
    fn through_softmax(self, tile: &Tile, scores: &mut [f32], gradients: &mut [f32]) {
        let Tile { batch, head, visible, .. } = *tile;
        let Shape { heads, queries, .. } = self.shape;
        vectorized(
            #[inline(always)]
            || {
                let rows = scores.chunks_mut(visible).zip(gradients.chunks_mut(visible));
                for (query, (scores, gradients)) in tile.queries.clone().zip(rows) {
                    let log_sum = self.log_sums[(batch * queries + query) * heads + head];
                    let (output, gradient) =
                        (self.output.row(batch, head, query), self.gradient.row(batch, head, query));
                    let mean = sum_pairs(output, gradient, |a, b| a * b);
                    let seen = self.shape.visible(query);
                    let whole = whole(seen, visible);
                    // e^−∞ is 0.
                    scores[seen..whole].fill(f32::NEG_INFINITY);
                    scores[whole..].fill(0.0);
                    gradients[seen..].fill(0.0);
                    update_pairs(&mut scores[..whole], &mut gradients[..whole], |score, gradient| {
                        let probability = exp(score - log_sum);
                        (probability, probability * (gradient - mean))
                    });
                }
            },
        );
    }
}
