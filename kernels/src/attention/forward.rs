//! The output: a task per tile of queries and batch, for all heads, whose numbers lie together in memory.

use rayon::prelude::{IntoParallelIterator, ParallelIterator};

use super::{Heads, Shape, TILE, whole};
use crate::{
    math::{exponentials, update, vectorized},
    matrix::{Before, Matrix, MatrixMut, Threads},
    storage::zeros,
};

/// Some queries of a batch, and the places of their results.
struct Tile<'a> {
    batch: usize,
    /// The first query.
    first: usize,
    /// `[queries, heads, value width]`.
    output: &'a mut [f32],
    /// `[queries, heads]`.
    log_sums: &'a mut [f32],
}

/// The output, `[batch, queries, heads, value width]`, and the logarithms of the sums, `[batch, queries, heads]`.
pub(super) fn run(shape: Shape, inputs: [Heads<'_>; 3]) -> (Vec<f32>, Vec<f32>) {
    let mut output = zeros(shape.batch * shape.queries * shape.heads * shape.value_width);
    let mut log_sums = vec![0.0; shape.batch * shape.queries * shape.heads];
    let tiles = tiles(shape, &mut output, &mut log_sums);
    tiles.into_par_iter().for_each_init(Vec::new, |scores, tile| {
        scores.resize(TILE * shape.keys, 0.0);
        tile.run(shape, inputs, scores);
    });
    (output, log_sums)
}

fn tiles<'a>(shape: Shape, output: &'a mut [f32], log_sums: &'a mut [f32]) -> Vec<Tile<'a>> {
    if output.is_empty() {
        return Vec::new();
    }
    let heads = shape.heads;
    let row = heads * shape.value_width;
    let batches = output.chunks_mut(shape.queries * row).zip(log_sums.chunks_mut(shape.queries * heads));
    let tiles = batches.enumerate().flat_map(|(batch, (output, log_sums))| {
        let tiles = output.chunks_mut(TILE * row).zip(log_sums.chunks_mut(TILE * heads));
        let numbered = tiles.enumerate();
        numbered.map(move |(index, (output, log_sums))| Tile { batch, first: index * TILE, output, log_sums })
    });
    tiles.collect()
}

impl Tile<'_> {
    fn run(self, shape: Shape, [query, key, value]: [Heads<'_>; 3], scores: &mut [f32]) {
        let Self { batch, first, output, log_sums } = self;
        let rows = log_sums.len() / shape.heads;
        let visible = shape.visible(first + rows - 1);
        let scores = &mut scores[..rows * visible];
        for head in 0..shape.heads {
            let key_head = head / shape.group();
            let query = query.matrix(batch, head, first..first + rows);
            let keys = key.matrix(batch, key_head, 0..visible).transposed();
            let place = MatrixMut::rows(scores, [rows, visible]);
            place.product(Before::Overwritten, shape.scale(), query, keys, Threads::One);
            let log_sums = log_sums[head..].iter_mut().step_by(shape.heads);
            vectorized(
                #[inline(always)]
                || {
                    for ((index, scores), log_sum) in scores.chunks_mut(visible).enumerate().zip(log_sums) {
                        *log_sum = softmax(scores, shape.visible(first + index));
                    }
                },
            );
            let width = shape.value_width;
            let place = &mut output[head * width..];
            let place = MatrixMut::new(place, [rows, width], [shape.heads * width, 1]);
            let probabilities = Matrix::rows(scores, [rows, visible]);
            let values = value.matrix(batch, key_head, 0..visible);
            place.product(Before::Overwritten, 1.0, probabilities, values, Threads::One);
        }
    }
}

/// Turns the scores of the keys that a query sees into probabilities, the others into 0; gives the logarithm of the
/// sum of e^score.
#[inline(always)]
fn softmax(scores: &mut [f32], visible: usize) -> f32 {
    let whole = whole(visible, scores.len());
    // e^−∞ is 0.
    scores[visible..whole].fill(f32::NEG_INFINITY);
    scores[whole..].fill(0.0);
    let (maximum, sum) = exponentials(&mut scores[..whole]);
    let factor = 1.0 / sum;
    update(&mut scores[..whole], |value| value * factor);
    maximum + sum.ln()
}
