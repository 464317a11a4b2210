//! Attention by tiles, whose scores are computed again in the backward.

use std::ops::Range;

use burn::{
    backend::DispatchTensor,
    tensor::{Int, Tensor, TensorData, s},
};

use super::{Composed, rotate, run, wide};
use crate::attention::{Shape, parts};

/// How many scores of attention stand in memory at a time: 256 MiB in `f32`, and a few times as much for what becomes of
/// them.
pub const TILE_SCORES: usize = 64 << 20;

/// The queries of a tile, if as many fit: of more, more scores are of later keys and computed in vain; of fewer, the products
/// are small, and the gradients of the keys are added to more often.
const ROWS: usize = 512;

/// Of a multiple of them a smaller tile is: GPUs like products of such sizes.
const EVEN: usize = 64;

/// [`causal_attention`](crate::causal_attention).
pub fn causal_attention(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>) -> Tensor<4> {
    causal_attention_by(TILE_SCORES, query, key, value)
}

/// [`causal_attention`] with so many scores at a time.
pub(crate) fn causal_attention_by(scores: usize, query: Tensor<4>, key: Tensor<4>, value: Tensor<4>) -> Tensor<4> {
    let shape = Shape::new(query.dims(), key.dims(), value.dims());
    let operation = CausalAttention(Tiles::new(shape, scores));
    Tensor::from_dispatch(run(operation, [query, key, value].map(Tensor::into_dispatch)))
}

/// [`causal_self_attention`](crate::causal_self_attention).
pub fn causal_self_attention(projected: Tensor<3>, heads: [usize; 2], angles: Option<[Tensor<2>; 2]>) -> Tensor<3> {
    causal_self_attention_by(TILE_SCORES, projected, heads, angles)
}

/// [`causal_self_attention`] with so many scores at a time.
pub(crate) fn causal_self_attention_by(
    scores: usize,
    projected: Tensor<3>,
    heads: [usize; 2],
    angles: Option<[Tensor<2>; 2]>,
) -> Tensor<3> {
    let tiles = Tiles::new(Shape::of_projection(projected.dims(), heads), scores);
    // Constants: no gradient flows to them.
    let angles = angles.map(|tables| tables.map(Tensor::inner));
    Tensor::from_dispatch(run(CausalSelfAttention { tiles, angles }, [projected.into_dispatch()]))
}

/// Some sequences' queries of all heads at a time.
#[derive(Clone, Copy, Debug)]
struct Tiles {
    shape: Shape,
    /// Sequences of a tile.
    sequences: usize,
    /// Queries of each.
    rows: usize,
}

/// Query, key and value.
type Inputs = [Tensor<4>; 3];

impl Tiles {
    fn new(shape: Shape, scores: usize) -> Self {
        let Shape { batch, heads, queries, keys, .. } = shape;
        let fitting = (scores / (heads * keys).max(1)).max(1);
        let rows = match queries.clamp(1, ROWS) {
            rows if rows <= fitting => rows,
            _ if fitting < EVEN => fitting,
            _ => fitting - fitting % EVEN,
        };
        let sequences = (fitting / rows).clamp(1, batch.max(1));
        Self { shape, sequences, rows }
    }

    /// The sequences that are taken at a time.
    fn sequences(self) -> impl Iterator<Item = Range<usize>> {
        parts(self.shape.batch, self.sequences)
    }

    /// Which key each query stands at, and each key, `[1, 1, 1, keys]`: the last query stands at the last key.
    fn positions(self, like: &Tensor<4>) -> Tensor<4, Int> {
        let keys = self.shape.keys;
        let positions: Vec<i32> = (0..keys as i32).collect();
        Tensor::from_data(TensorData::new(positions, [1, 1, 1, keys]), &like.device())
    }

    fn scale(self) -> f64 {
        1.0 / (self.shape.width as f64).sqrt()
    }

    /// The output, and per query the logarithm of the sum of e^score, `[batch, heads, queries, 1]`.
    fn forward(self, inputs: Inputs, positions: &Tensor<4, Int>) -> [Tensor<4>; 2] {
        let outputs = self.sequences().map(|range| {
            let inputs = inputs.each_ref().map(|x| of_sequences(x, &range));
            Sequences { tiles: self, positions }.forward(inputs)
        });
        join(outputs, 0)
    }

    /// The gradients of the inputs, each of its input's precision.
    fn backward(self, saved: &Saved, gradient: &Tensor<4>) -> Inputs {
        let gradients = self.sequences().map(|range| {
            let inputs = saved.inputs.each_ref().map(|x| of_sequences(x, &range));
            let [log_sums, gradient] = [&saved.log_sums, gradient].map(|x| of_sequences(x, &range));
            Sequences { tiles: self, positions: &saved.positions }.backward(inputs, &log_sums, &gradient)
        });
        join(gradients, 0)
    }
}

/// What the backward needs of the forward.
#[derive(Clone, Debug)]
struct Saved {
    inputs: Inputs,
    log_sums: Tensor<4>,
    positions: Tensor<4, Int>,
}

/// Some sequences, whose queries are taken some at a time.
#[derive(Clone, Copy)]
struct Sequences<'a> {
    tiles: Tiles,
    positions: &'a Tensor<4, Int>,
}

impl Sequences<'_> {
    fn forward(self, [query, key, value]: Inputs) -> [Tensor<4>; 2] {
        let query = query * self.tiles.scale();
        let outputs = parts(self.tiles.shape.queries, self.tiles.rows).map(|tile| {
            let scores = self.scores(&query, &key, &tile);
            let largest = scores.clone().max_dim(3);
            let exponentials = (scores - largest.clone()).exp();
            let sums = exponentials.clone().sum_dim(3);
            let shares = self.by_key_head((exponentials / sums.clone()).cast(query.dtype()));
            let output = shares.matmul(value.clone().narrow(2, 0, self.visible(&tile)));
            [self.by_head(output), sums.log() + largest]
        });
        join(outputs, 2)
    }

    /// With the shares P = e^(score - log sum), the gradient of the value is Pᵀ · gradient, that of the shares gradient ·
    /// valueᵀ, and that of the scores P times it less its mean under P. The mean is taken of the very numbers that it is
    /// taken off: of the only key that a query sees nothing may be left.
    fn backward(self, [query, key, value]: Inputs, log_sums: &Tensor<4>, gradient: &Tensor<4>) -> Inputs {
        let (tiles, dtypes) = (self.tiles, [&query, &key, &value].map(Tensor::dtype));
        let query = query * tiles.scale();
        let mut of_query = Vec::new();
        let (mut of_key, mut of_value) = (None, None);
        // The last tile sees all keys: its gradients of them are whole, and those of the others are added.
        for tile in parts(tiles.shape.queries, tiles.rows).rev() {
            let visible = self.visible(&tile);
            let shares = (self.scores(&query, &key, &tile) - of_rows(log_sums, &tile)).exp();
            let gradient = self.by_key_head(of_rows(gradient, &tile));
            let of_shares = gradient.clone().matmul(value.clone().narrow(2, 0, visible).swap_dims(2, 3));
            let of_shares = wide(self.by_head(of_shares));
            let mean = (shares.clone() * of_shares.clone()).sum_dim(3);
            let of_scores = self.by_key_head((shares.clone() * (of_shares - mean)).cast(query.dtype()));
            let shares = self.by_key_head(shares.cast(query.dtype()));
            let rows = self.by_key_head(of_rows(&query, &tile));
            of_value = Some(added(of_value, shares.swap_dims(2, 3).matmul(gradient)));
            of_key = Some(added(of_key, of_scores.clone().swap_dims(2, 3).matmul(rows)));
            of_query.push([self.by_head(of_scores.matmul(key.clone().narrow(2, 0, visible)))]);
        }
        let [of_query] = join(of_query.into_iter().rev(), 2);
        let of_key = of_key.unwrap_or_else(|| key.zeros_like());
        let of_value = of_value.unwrap_or_else(|| value.zeros_like());
        let [query, key, value] = dtypes;
        [(of_query * tiles.scale()).cast(query), of_key.cast(key), of_value.cast(value)]
    }

    /// Those of a tile of scaled queries, `[sequences, heads, rows, visible keys]`, -∞ for a later key: exactly 0 after softmax.
    /// Each query sees a key, so no row is without a number.
    fn scores(self, query: &Tensor<4>, key: &Tensor<4>, tile: &Range<usize>) -> Tensor<4> {
        let (rows, visible) = (tile.len(), self.visible(tile));
        let key = key.clone().narrow(2, 0, visible).swap_dims(2, 3);
        let scores = wide(self.by_head(self.by_key_head(of_rows(query, tile)).matmul(key)));
        if rows == 1 {
            return scores;
        }
        let of_query = self.positions.clone().narrow(3, visible - rows, rows).swap_dims(2, 3);
        let later = self.positions.clone().narrow(3, 0, visible).greater(of_query);
        scores.mask_fill(later, f32::NEG_INFINITY)
    }

    /// How many keys the last query of a tile sees: what the others do not see of them is masked.
    fn visible(self, tile: &Range<usize>) -> usize {
        self.tiles.shape.visible(tile.end - 1)
    }

    /// The heads that share keys are one after another, so their rows are one matrix, and no key is repeated:
    /// `[sequences, heads, rows, …]` as `[sequences, key heads, group · rows, …]`.
    fn by_key_head(self, x: Tensor<4>) -> Tensor<4> {
        let ([sequences, _, rows, columns], shape) = (x.dims(), self.tiles.shape);
        x.reshape([sequences, shape.key_heads, shape.group() * rows, columns])
    }

    /// And back.
    fn by_head(self, x: Tensor<4>) -> Tensor<4> {
        let ([sequences, _, rows, columns], shape) = (x.dims(), self.tiles.shape);
        x.reshape([sequences, shape.heads, rows / shape.group(), columns])
    }
}

fn of_sequences(x: &Tensor<4>, range: &Range<usize>) -> Tensor<4> {
    x.clone().narrow(0, range.start, range.len())
}

/// The queries of a tile: some rows of each head.
fn of_rows(x: &Tensor<4>, tile: &Range<usize>) -> Tensor<4> {
    x.clone().narrow(2, tile.start, tile.len())
}

/// The tensors of all parts put together, along a dimension.
fn join<const N: usize>(parts: impl Iterator<Item = [Tensor<4>; N]>, dimension: usize) -> [Tensor<4>; N] {
    let mut lists: [Vec<Tensor<4>>; N] = std::array::from_fn(|_| Vec::new());
    for part in parts {
        lists.iter_mut().zip(part).for_each(|(list, tensor)| list.push(tensor));
    }
    lists.map(|mut list| if list.len() == 1 { list.remove(0) } else { Tensor::cat(list, dimension) })
}

/// A sum for each key, and what comes to it for the first of them.
fn added(sum: Option<Tensor<4>>, part: Tensor<4>) -> Tensor<4> {
    let Some(sum) = sum else { return part };
    let (sum, [_, _, visible, _]) = (wide(sum), part.dims());
    let first = sum.clone().narrow(2, 0, visible) + wide(part);
    sum.slice_assign(s![.., .., 0..visible, ..], first)
}

#[derive(Clone, Copy, Debug)]
struct CausalAttention(Tiles);

impl Composed<3> for CausalAttention {
    type Saved = Saved;

    fn forward(&self, inputs: [DispatchTensor; 3], _: [bool; 3]) -> (DispatchTensor, Saved) {
        let inputs = inputs.map(Tensor::<4>::from_dispatch);
        let positions = self.0.positions(&inputs[0]);
        let [output, log_sums] = self.0.forward(inputs.clone(), &positions);
        (output.into_dispatch(), Saved { inputs, log_sums, positions })
    }

    fn backward(self, saved: Saved, gradient: DispatchTensor, _: [bool; 3]) -> [Option<DispatchTensor>; 3] {
        let gradients = self.0.backward(&saved, &Tensor::from_dispatch(gradient));
        gradients.map(|gradient| Some(gradient.into_dispatch()))
    }
}

#[derive(Clone, Debug)]
struct CausalSelfAttention {
    tiles: Tiles,
    /// Cosines and sines.
    angles: Option<[Tensor<2>; 2]>,
}

impl Composed<1> for CausalSelfAttention {
    /// The projection, the logarithms and the positions.
    type Saved = (Tensor<3>, Tensor<4>, Tensor<4, Int>);

    fn forward(&self, [projected]: [DispatchTensor; 1], _: [bool; 1]) -> (DispatchTensor, Self::Saved) {
        let projected = Tensor::<3>::from_dispatch(projected);
        let inputs = self.split(projected.clone());
        let positions = self.tiles.positions(&inputs[0]);
        let [output, log_sums] = self.tiles.forward(inputs, &positions);
        (merged(output).into_dispatch(), (projected, log_sums, positions))
    }

    fn backward(
        self,
        (projected, log_sums, positions): Self::Saved,
        gradient: DispatchTensor,
        _: [bool; 1],
    ) -> [Option<DispatchTensor>; 1] {
        let gradient = heads_of(Tensor::from_dispatch(gradient), self.tiles.shape.heads);
        let saved = Saved { inputs: self.split(projected), log_sums, positions };
        let [query, key, value] = self.tiles.backward(&saved, &gradient);
        // The transpose of a rotation turns back.
        let [query, key] = [query, key].map(|x| match &self.angles {
            Some([cos, sin]) => rotate(x, cos.clone(), sin.clone() * -1.0),
            None => x,
        });
        [Some(merged(Tensor::cat(vec![query, key, value], 1)).into_dispatch())]
    }
}

impl CausalSelfAttention {
    /// Query, key and value of a projection, rotated.
    fn split(&self, projected: Tensor<3>) -> Inputs {
        let Shape { heads, key_heads, .. } = self.tiles.shape;
        let all = heads_of(projected, heads + 2 * key_heads);
        let part = |first, count| all.clone().narrow(1, first, count);
        let turned = |x| match &self.angles {
            Some([cos, sin]) => rotate(x, cos.clone(), sin.clone()),
            None => x,
        };
        [turned(part(0, heads)), turned(part(heads, key_heads)), part(heads + key_heads, key_heads)]
    }
}

/// `[batch, length, heads · width]` as `[batch, heads, length, width]`.
fn heads_of(x: Tensor<3>, heads: usize) -> Tensor<4> {
    let [batch, length, row] = x.dims();
    x.reshape([batch, length, heads, row / heads]).swap_dims(1, 2)
}

/// And back.
fn merged(x: Tensor<4>) -> Tensor<3> {
    let [batch, heads, length, width] = x.dims();
    x.swap_dims(1, 2).reshape([batch, length, heads * width])
}
