//! Attention by tiles of queries, whose scores are computed again in the backward.

use std::ops::Range;

use burn::{
    backend::DispatchTensor,
    tensor::{Bool, Tensor, s},
};

use super::{Composed, rotate, run, wide};

/// How many scores of attention stand in memory at a time: 256 MiB in `f32`, and a few times as much for what becomes of
/// them.
pub const TILE_SCORES: usize = 64 << 20;

/// Of as many queries, or of a multiple of them, a tile is, so that the products are of sizes that GPUs like.
const EVEN: usize = 64;

/// [`causal_attention`](crate::causal_attention).
pub fn causal_attention(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>) -> Tensor<4> {
    causal_attention_by(TILE_SCORES, query, key, value)
}

/// [`causal_attention`] with so many scores at a time.
pub(crate) fn causal_attention_by(scores: usize, query: Tensor<4>, key: Tensor<4>, value: Tensor<4>) -> Tensor<4> {
    let operation = CausalAttention(Tiles::new(query.dims(), key.dims(), scores));
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
    [heads, key_heads]: [usize; 2],
    angles: Option<[Tensor<2>; 2]>,
) -> Tensor<3> {
    let [batch, length, row] = projected.dims();
    let width = row / (heads + 2 * key_heads);
    let tiles = Tiles::new([batch, heads, length, width], [batch, key_heads, length, width], scores);
    // Constants: no gradient flows to them.
    let angles = angles.map(|tables| tables.map(Tensor::inner));
    Tensor::from_dispatch(run(CausalSelfAttention { tiles, angles }, [projected.into_dispatch()]))
}

/// The queries of all heads, some at a time.
#[derive(Clone, Copy, Debug)]
struct Tiles {
    heads: usize,
    key_heads: usize,
    queries: usize,
    keys: usize,
    /// Of a query or a key.
    width: usize,
    /// Queries of a tile.
    length: usize,
}

/// Query, key and value.
type Inputs = [Tensor<4>; 3];

impl Tiles {
    fn new([batch, heads, queries, width]: [usize; 4], [_, key_heads, keys, _]: [usize; 4], scores: usize) -> Self {
        let most = (scores / (batch * heads * keys).max(1)).clamp(1, queries.max(1));
        let even = if most < EVEN { 1 } else { EVEN };
        let count = queries.div_ceil(most - most % even).max(1);
        let length = queries.div_ceil(count).next_multiple_of(even).max(1);
        Self { heads, key_heads, queries, keys, width, length }
    }

    fn ranges(self) -> impl DoubleEndedIterator<Item = Range<usize>> {
        (0..self.queries).step_by(self.length).map(move |first| first..self.queries.min(first + self.length))
    }

    /// How many keys the last query of a tile sees: what the others do not see of them is masked.
    fn visible(self, tile: &Range<usize>) -> usize {
        self.keys - self.queries + tile.end
    }

    fn scale(self) -> f64 {
        1.0 / (self.width as f64).sqrt()
    }

    /// The heads that share keys are one after another, so their rows are one matrix, and no key is repeated:
    /// `[batch, heads, rows, …]` as `[batch, key heads, group · rows, …]`.
    fn by_key_head(self, x: Tensor<4>) -> Tensor<4> {
        let [batch, _, rows, columns] = x.dims();
        x.reshape([batch, self.key_heads, self.heads / self.key_heads * rows, columns])
    }

    /// And back.
    fn by_head(self, x: Tensor<4>) -> Tensor<4> {
        let [batch, _, rows, columns] = x.dims();
        x.reshape([batch, self.heads, rows * self.key_heads / self.heads, columns])
    }

    /// Those of a tile of scaled queries, `[batch, heads, rows, visible keys]`, -∞ for a later key: exactly 0 after softmax.
    /// Each query sees a key, so no row is without a number.
    fn scores(self, query: &Tensor<4>, key: &Tensor<4>, tile: &Range<usize>) -> Tensor<4> {
        let (rows, visible) = (tile.len(), self.visible(tile));
        let key = key.clone().narrow(2, 0, visible).swap_dims(2, 3);
        let scores = wide(self.by_head(self.by_key_head(rows_of(query, tile)).matmul(key)));
        if rows == 1 {
            return scores;
        }
        let later = Tensor::<2, Bool>::tril_mask([rows, visible], (visible - rows) as i64, &scores.device());
        scores.mask_fill(later.unsqueeze::<4>(), f32::NEG_INFINITY)
    }

    /// The output, and per query the logarithm of the sum of e^score, `[batch, heads, queries, 1]`.
    fn forward(self, [query, key, value]: Inputs) -> (Tensor<4>, Tensor<4>) {
        let query = query * self.scale();
        let (mut outputs, mut log_sums) = (Vec::new(), Vec::new());
        for tile in self.ranges() {
            let scores = self.scores(&query, &key, &tile);
            let largest = scores.clone().max_dim(3);
            let exponentials = (scores - largest.clone()).exp();
            let sums = exponentials.clone().sum_dim(3);
            let shares = (exponentials / sums.clone()).cast(query.dtype());
            let value = value.clone().narrow(2, 0, self.visible(&tile));
            outputs.push(self.by_head(self.by_key_head(shares).matmul(value)));
            log_sums.push(sums.log() + largest);
        }
        (joined(outputs), joined(log_sums))
    }

    /// The gradients of the inputs.
    ///
    /// With the shares P = e^(score - log sum), that of the value is Pᵀ · gradient, that of the shares gradient · valueᵀ, and
    /// that of the scores P times it less its mean under P, which is the sum of gradient · output.
    fn backward(self, [query, key, value]: Inputs, [output, log_sums]: [Tensor<4>; 2], gradient: Tensor<4>) -> Inputs {
        let dtype = query.dtype();
        let query = query * self.scale();
        let means = (wide(gradient.clone()) * wide(output)).sum_dim(3);
        let mut of_query = Vec::new();
        let (mut of_key, mut of_value) = (None, None);
        // The last tile sees all keys: its gradients of them are whole, and those of the others are added.
        for tile in self.ranges().rev() {
            let visible = self.visible(&tile);
            let shares = (self.scores(&query, &key, &tile) - rows_of(&log_sums, &tile)).exp();
            let gradient = self.by_key_head(rows_of(&gradient, &tile));
            let of_shares = gradient.clone().matmul(value.clone().narrow(2, 0, visible).swap_dims(2, 3));
            let of_shares = wide(self.by_head(of_shares)) - rows_of(&means, &tile);
            let of_scores = self.by_key_head((shares.clone() * of_shares).cast(dtype));
            let shares = self.by_key_head(shares.cast(dtype));
            let rows = self.by_key_head(rows_of(&query, &tile));
            of_value = Some(added(of_value, wide(shares.swap_dims(2, 3).matmul(gradient))));
            of_key = Some(added(of_key, wide(of_scores.clone().swap_dims(2, 3).matmul(rows))));
            of_query.push(self.by_head(of_scores.matmul(key.clone().narrow(2, 0, visible))));
        }
        of_query.reverse();
        let narrow = |sum: Option<Tensor<4>>, of: Tensor<4>| sum.map_or(of.zeros_like(), |sum| sum.cast(dtype));
        [joined(of_query) * self.scale(), narrow(of_key, key), narrow(of_value, value)]
    }
}

/// The queries of a tile: some rows of each head.
fn rows_of(x: &Tensor<4>, tile: &Range<usize>) -> Tensor<4> {
    x.clone().narrow(2, tile.start, tile.len())
}

/// The rows of all tiles.
fn joined(mut tiles: Vec<Tensor<4>>) -> Tensor<4> {
    if tiles.len() == 1 { tiles.remove(0) } else { Tensor::cat(tiles, 2) }
}

/// A sum for each key, and what comes to it for the first of them.
fn added(sum: Option<Tensor<4>>, part: Tensor<4>) -> Tensor<4> {
    let Some(sum) = sum else { return part };
    let [_, _, visible, _] = part.dims();
    let first = sum.clone().narrow(2, 0, visible) + part;
    sum.slice_assign(s![.., .., 0..visible, ..], first)
}

#[derive(Clone, Copy, Debug)]
struct CausalAttention(Tiles);

/// What the backward needs of the forward.
#[derive(Clone, Debug)]
struct Saved {
    inputs: Inputs,
    output: Tensor<4>,
    log_sums: Tensor<4>,
}

impl Composed<3> for CausalAttention {
    type Saved = Saved;

    fn forward(&self, inputs: [DispatchTensor; 3]) -> (DispatchTensor, Saved) {
        let inputs = inputs.map(Tensor::<4>::from_dispatch);
        let (output, log_sums) = self.0.forward(inputs.clone());
        (output.clone().into_dispatch(), Saved { inputs, output, log_sums })
    }

    fn backward(self, saved: Saved, gradient: DispatchTensor, _: [bool; 3]) -> [Option<DispatchTensor>; 3] {
        let Saved { inputs, output, log_sums } = saved;
        let gradients = self.0.backward(inputs, [output, log_sums], Tensor::from_dispatch(gradient));
        gradients.map(|gradient| Some(gradient.into_dispatch()))
    }
}

#[derive(Clone, Debug)]
struct CausalSelfAttention {
    tiles: Tiles,
    /// Cosines and sines.
    angles: Option<[Tensor<2>; 2]>,
}

/// What the backward needs of the forward.
#[derive(Clone, Debug)]
struct SavedProjection {
    projected: Tensor<3>,
    output: Tensor<3>,
    log_sums: Tensor<4>,
}

impl Composed<1> for CausalSelfAttention {
    type Saved = SavedProjection;

    fn forward(&self, [projected]: [DispatchTensor; 1]) -> (DispatchTensor, SavedProjection) {
        let projected = Tensor::<3>::from_dispatch(projected);
        let (output, log_sums) = self.tiles.forward(self.split(projected.clone()));
        let output = merged(output);
        (output.clone().into_dispatch(), SavedProjection { projected, output, log_sums })
    }

    fn backward(self, saved: SavedProjection, gradient: DispatchTensor, _: [bool; 1]) -> [Option<DispatchTensor>; 1] {
        let SavedProjection { projected, output, log_sums } = saved;
        let [output, gradient] = [output, Tensor::from_dispatch(gradient)].map(|x| heads_of(x, self.tiles.heads));
        let inputs = self.split(projected);
        let [query, key, value] = self.tiles.backward(inputs, [output, log_sums], gradient);
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
        let Tiles { heads, key_heads, .. } = self.tiles;
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
