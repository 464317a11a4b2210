//! The gradients: a task per batch and key head, for all heads that it serves.

use std::ops::Range;

use rayon::prelude::{IndexedParallelIterator, IntoParallelRefMutIterator, ParallelIterator, ParallelSliceMut};

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

/// The places of the gradients: of each head of each batch one, `[rows, width]`.
#[derive(Default)]
pub(super) struct Places<'a> {
    pub(super) query: Vec<MatrixMut<'a>>,
    pub(super) key: Vec<MatrixMut<'a>>,
    pub(super) value: Vec<MatrixMut<'a>>,
}

/// The places of the gradients of a key head.
struct KeyGradients<'a, 'b> {
    key: &'b mut MatrixMut<'a>,
    value: &'b mut MatrixMut<'a>,
    /// What is there: nothing before the first tile, which sees all keys.
    before: Before<'static>,
}

/// Memory for a tile: the probabilities, and their gradients.
#[derive(Default)]
struct Scratch {
    probabilities: Vec<f32>,
    gradients: Vec<f32>,
}

impl Context<'_> {
    /// Writes them. Where one of the inputs has no numbers, and so no places, the others get no gradient.
    pub(super) fn write(self, mut places: Places<'_>) {
        let key_heads = self.shape.key_heads;
        let keys = places.key.par_iter_mut().zip(&mut places.value);
        let heads = places.query.par_chunks_mut(self.shape.group().max(1)).zip(keys).enumerate();
        heads.for_each_init(Scratch::default, |scratch, (index, (query, (key, value)))| {
            let key = KeyGradients { key, value, before: Before::Overwritten };
            self.key_head([index / key_heads, index % key_heads], query, key, scratch);
        });
    }

    /// For one key head, and the heads that it serves.
    fn key_head(
        self,
        [batch, key_head]: [usize; 2],
        query: &mut [MatrixMut<'_>],
        mut key: KeyGradients<'_, '_>,
        scratch: &mut Scratch,
    ) {
        let keys = self.shape.keys;
        scratch.probabilities.resize(TILE * keys, 0.0);
        scratch.gradients.resize(TILE * keys, 0.0);
        for (index, query) in query.iter_mut().enumerate() {
            let head = key_head * self.shape.group() + index;
            for queries in self.shape.tiles().rev() {
                let (visible, query) = (self.shape.visible(queries.end - 1), query.some_rows(&queries));
                self.tile(&Tile { batch, head, queries, visible }, query, &mut key, scratch);
                key.before = Before::Added;
            }
        }
    }

    /// Writes the gradient of the tile's queries, and adds to those of the keys and values that they see.
    fn tile(
        self,
        tile: &Tile,
        query_gradient: MatrixMut<'_>,
        key_gradients: &mut KeyGradients<'_, '_>,
        scratch: &mut Scratch,
    ) {
        let Tile { batch, head, visible, .. } = *tile;
        let KeyGradients { key: of_key, value: of_value, before } = key_gradients;
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
        query_gradient.product(Before::Overwritten, scale, score_gradients, key, Threads::One);
        let of_value = of_value.some_rows(&(0..visible));
        of_value.product(*before, 1.0, probabilities, gradient, Threads::One);
        let of_key = of_key.some_rows(&(0..visible));
        of_key.product(*before, scale, score_gradients.transposed(), query, Threads::One);
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
