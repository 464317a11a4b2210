//! Cross-entropy without all logits in memory.

use std::ops::Range;

use burn::{
    backend::DispatchTensor,
    tensor::{DType, IndexingUpdateOp, Int, Tensor, TensorData, activation, kind::Basic},
};

use super::{Composed, run, wide};

/// How many logits [`linear_cross_entropy`] holds at a time: 64 MiB in `f32`, and a few times as much for what becomes of
/// them.
pub const CHUNK_LOGITS: usize = 16 << 20;

/// How many rows it takes at a time at most: their sums stay in the range of 16-bit floats.
pub(super) const CHUNK_ROWS: usize = 8192;

/// [`cross_entropy`](crate::cross_entropy).
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    -activation::log_softmax(logits, 1).gather(1, targets.unsqueeze_dim(1)).mean()
}

/// [`linear_cross_entropy`](crate::linear_cross_entropy).
///
/// A target that is out of the vocabulary counts as the nearest that is in it.
pub fn linear_cross_entropy(
    hidden: Tensor<2>,
    weight: Tensor<2>,
    targets: Tensor<1, Int>,
    row_weights: Tensor<1>,
    vocabulary: usize,
) -> Tensor<1> {
    let chunk = chunk_rows(weight.dims()[0]);
    let targets = targets.clamp(0, vocabulary.saturating_sub(1) as i64);
    by_chunks(hidden, weight, targets, row_weights, vocabulary, chunk)
}

/// The rows of a chunk, of a weight of so many rows.
pub(super) fn chunk_rows(tokens: usize) -> usize {
    (CHUNK_LOGITS / tokens.max(1)).clamp(1, CHUNK_ROWS)
}

/// [`linear_cross_entropy`] by so many rows at a time.
pub(super) fn by_chunks(
    hidden: Tensor<2>,
    head: Tensor<2>,
    targets: Tensor<1, Int>,
    weights: Tensor<1>,
    vocabulary: usize,
    chunk: usize,
) -> Tensor<1> {
    // Constants: no gradient flows to them.
    let (targets, weights) = (targets.inner(), wide(weights.inner()));
    let operation = LinearCrossEntropy { targets, weights, vocabulary, chunk };
    Tensor::from_dispatch(run(operation, [hidden.into_dispatch(), head.into_dispatch()]))
}

#[derive(Clone, Debug)]
struct LinearCrossEntropy {
    targets: Tensor<1, Int>,
    weights: Tensor<1>,
    vocabulary: usize,
    /// Rows at a time.
    chunk: usize,
}

/// Of the losses' weighted sum, not their mean; those that are needed.
#[derive(Clone, Debug)]
struct Gradients {
    hidden: Option<Tensor<2>>,
    head: Option<Tensor<2>>,
    /// What brings the sum to the mean.
    share: Tensor<1>,
    /// The precision of the head, whose gradient is a wide sum.
    head_dtype: DType,
}

/// Logits that the backward pass is to find again would all stand in memory until then. So the gradients are computed in the
/// forward, from the logits of a chunk while they are there: softmax minus the target, times the weight. They are divided by
/// the sum of all weights only in the backward pass, in 32-bit floats and after the loss's own gradient is there: of many rows
/// they would vanish in 16 bits, however far the loss is scaled up.
impl Composed<2> for LinearCrossEntropy {
    type Saved = Gradients;

    fn forward(&self, inputs: [DispatchTensor; 2], needed: [bool; 2]) -> (DispatchTensor, Gradients) {
        let Self { targets, weights, vocabulary, chunk } = self;
        let [hidden, head] = inputs.map(Tensor::<2>::from_dispatch);
        let share = weights.clone().sum().clamp_min(f32::MIN_POSITIVE).recip();
        let padding = padding_mask(&head, *vocabulary);

        let mut loss = share.zeros_like();
        let mut of_hidden = Vec::new();
        let mut of_head: Option<Tensor<2>> = None;
        let rows = hidden.dims()[0];
        for start in (0..rows).step_by(*chunk) {
            let range = start..rows.min(start + chunk);
            let some = hidden.clone().slice([range.clone()]);
            let logits = wide(some.clone().matmul(head.clone().transpose()));
            let logits = match &padding {
                Some(padding) => logits + padding.clone(),
                None => logits,
            };
            let part = Rows { targets: column(targets, &range), weights: column(weights, &range) };
            let (part_loss, exponentials, sums) = part.loss(logits);
            loss = loss + part_loss;
            if needed == [false; 2] {
                continue;
            }
            let delta = part.delta(exponentials, sums).cast(head.dtype());
            if needed[0] {
                of_hidden.push(delta.clone().matmul(head.clone()));
            }
            if needed[1] {
                let gradient = wide(delta.transpose().matmul(some));
                of_head = Some(match of_head {
                    Some(sum) => sum + gradient,
                    None => gradient,
                });
            }
        }
        let of_hidden = (!of_hidden.is_empty()).then(|| Tensor::cat(of_hidden, 0));
        let gradients = Gradients { hidden: of_hidden, head: of_head, share: share.clone(), head_dtype: head.dtype() };
        ((loss * share).into_dispatch(), gradients)
    }

    fn backward(self, gradients: Gradients, gradient: DispatchTensor, _: [bool; 2]) -> [Option<DispatchTensor>; 2] {
        let Gradients { hidden, head, share, head_dtype } = gradients;
        let factor = (Tensor::<1>::from_dispatch(gradient) * share).unsqueeze::<2>();
        let scaled = |x: Tensor<2>, dtype| (wide(x) * factor.clone()).cast(dtype).into_dispatch();
        let hidden_dtype = hidden.as_ref().map_or(head_dtype, Tensor::dtype);
        [hidden.map(|x| scaled(x, hidden_dtype)), head.map(|x| scaled(x, head_dtype))]
    }
}

/// 0 for the tokens of the vocabulary and -∞ for the padding, `[1, padded vocabulary]`; `None` if there is none.
fn padding_mask(head: &Tensor<2>, vocabulary: usize) -> Option<Tensor<2>> {
    let padded = head.dims()[0];
    (padded > vocabulary).then(|| {
        let mask = (0..padded).map(|token| if token < vocabulary { 0.0 } else { f32::NEG_INFINITY });
        let data = TensorData::new(mask.collect::<Vec<f32>>(), [1, padded]);
        wide(Tensor::<2>::from_data(data, &head.device()).cast(head.dtype()))
    })
}

/// A part of a vector, `[rows, 1]`.
fn column<K: Basic>(vector: &Tensor<1, K>, range: &Range<usize>) -> Tensor<2, K> {
    vector.clone().slice([range.clone()]).unsqueeze_dim(1)
}

/// Some rows: which tokens come, and what each counts, both `[rows, 1]`.
struct Rows {
    targets: Tensor<2, Int>,
    weights: Tensor<2>,
}

impl Rows {
    /// The weighted losses, summed up, `[1]`; and, for the gradient, e^(logit - largest logit), `[rows, tokens]`, with its
    /// sums, `[rows, 1]`.
    fn loss(&self, logits: Tensor<2>) -> (Tensor<1>, Tensor<2>, Tensor<2>) {
        let shifted = logits.clone() - logits.max_dim(1);
        let chosen = shifted.clone().gather(1, self.targets.clone());
        let exponentials = shifted.exp();
        let sums = exponentials.clone().sum_dim(1);
        let loss = ((sums.clone().log() - chosen) * self.weights.clone()).sum();
        (loss, exponentials, sums)
    }

    /// The gradient of the weighted losses with respect to the logits, `[rows, tokens]`.
    fn delta(self, exponentials: Tensor<2>, sums: Tensor<2>) -> Tensor<2> {
        let Self { targets, weights } = self;
        let shares = exponentials * (weights.clone() / sums);
        shares.scatter(1, targets, -weights, IndexingUpdateOp::Add)
    }
}
