//! Cross-entropy, alone and fused with a language model's projection onto the vocabulary.

use burn::{
    backend::{Flex, flex::FlexTensor},
    tensor::{Int, Tensor},
};
use rayon::prelude::{IndexedParallelIterator, IntoParallelRefIterator, ParallelIterator, ParallelSliceMut};

use crate::{
    composed,
    dispatch::{Operation, run},
    math::{exponentials, vectorized},
    matrix::{Before, Matrix, MatrixMut, Threads, product},
    storage::{BLOCK, contiguous, dims, readable, scaled, strided, swapped, tensor, zeros},
};

/// Logits that stand in memory at once: 16 MiB of them.
const LOGITS: usize = 4 << 20;
/// But never those of fewer rows: the gradient of the weight is read and written once per chunk of rows.
const FEWEST_ROWS: usize = 64;

/// The mean cross-entropy of `softmax(hidden · weightᵀ)` against the targets, weighted by row: `[1]`.
///
/// `hidden` is `[rows, width]`, `weight` `[at least vocabulary, width]` (of a `Linear`, whose weight is the other way
/// round, take the transpose: it is a view); its rows from `vocabulary` on are padding, and not predicted. `targets` is
/// `[rows]`. `row_weights` is `[rows]`: not negative, and 0 leaves a row out, whatever its target; if all are 0, so is
/// the loss. They are constants: no gradient flows to them.
///
/// On flex the logits are computed a chunk of rows at a time, and never stand in memory for all rows of a large
/// vocabulary. Under autodiff each chunk gives its part of the gradients at once, so nothing is computed twice.
///
/// # Panics
/// If the shapes do not fit, and on flex if the target of a row that counts is out of the vocabulary; elsewhere such a
/// target is taken for the nearest that is in it.
pub fn linear_cross_entropy(
    hidden: Tensor<2>,
    weight: Tensor<2>,
    targets: Tensor<1, Int>,
    row_weights: Tensor<1>,
    vocabulary: usize,
) -> Tensor<1> {
    let ([rows, width], [weight_rows, weight_width]) = (hidden.dims(), weight.dims());
    assert!(
        vocabulary <= weight_rows,
        "linear_cross_entropy: a vocabulary of {vocabulary}, {weight_rows} rows of weight"
    );
    assert_eq!(width, weight_width, "linear_cross_entropy: the widths of hidden and weight");
    let ([targets_rows], [weights_rows]) = (targets.dims(), row_weights.dims());
    assert_eq!([targets_rows, weights_rows], [rows; 2], "linear_cross_entropy: the rows of targets and row weights");
    apply(hidden, weight, LinearCrossEntropy { targets, row_weights, vocabulary, logits: LOGITS })
}

fn apply(hidden: Tensor<2>, weight: Tensor<2>, operation: LinearCrossEntropy) -> Tensor<1> {
    let LinearCrossEntropy { targets, row_weights, vocabulary, .. } = operation.clone();
    match run(operation, [hidden.into_dispatch(), weight.into_dispatch()]) {
        Ok(loss) => Tensor::from_dispatch(loss),
        Err([hidden, weight]) => composed::linear_cross_entropy(
            Tensor::from_dispatch(hidden),
            Tensor::from_dispatch(weight),
            targets,
            row_weights,
            vocabulary,
        ),
    }
}

/// The mean cross-entropy of `softmax(logits)` against the targets: `[1]`.
///
/// `logits` is `[rows, classes]`, `targets` `[rows]`.
///
/// # Panics
/// If the shapes do not fit, and on flex if a target is not one of the classes.
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let ([rows, _], [targets_rows]) = (logits.dims(), targets.dims());
    assert_eq!(rows, targets_rows, "cross_entropy: the rows of logits and targets");
    match run(CrossEntropy { targets: targets.clone() }, [logits.into_dispatch()]) {
        Ok(loss) => Tensor::from_dispatch(loss),
        Err([logits]) => composed::cross_entropy(Tensor::from_dispatch(logits), targets),
    }
}

#[derive(Clone, Debug)]
struct CrossEntropy {
    targets: Tensor<1, Int>,
}

impl Operation<Flex, 1> for CrossEntropy {
    /// The gradient for a gradient of 1 of the loss, if it is needed.
    type Saved = Option<FlexTensor>;

    fn forward(&self, [logits]: [FlexTensor; 1], [needed]: [bool; 1]) -> (FlexTensor, Self::Saved) {
        let [count, classes] = dims(&logits);
        let share = 1.0 / count as f32;
        let targets = self.targets.to_data();
        let rows = targets.iter::<i64>().enumerate().map(|(index, target)| {
            let is_class = usize::try_from(target).is_ok_and(|target| target < classes);
            assert!(is_class, "cross_entropy: the target of row {index} is {target}, not one of {classes} classes");
            Row { index, target: target as usize, share }
        });
        let rows: Vec<Row> = rows.collect();
        let mut gradient = contiguous(logits);
        let loss = losses(&rows, gradient.storage_mut(), classes, needed);
        (tensor(vec![loss as f32], [1]), needed.then_some(gradient))
    }

    fn backward(self, saved: Self::Saved, gradient: FlexTensor, _: [bool; 1]) -> [Option<FlexTensor>; 1] {
        let factor = contiguous(gradient).storage::<f32>()[0];
        [saved.map(|gradient| scaled(gradient, factor))]
    }
}

#[derive(Clone, Debug)]
struct LinearCrossEntropy {
    targets: Tensor<1, Int>,
    row_weights: Tensor<1>,
    vocabulary: usize,
    /// Logits that may stand in memory at once.
    logits: usize,
}

/// A row that counts.
#[derive(Clone, Copy)]
struct Row {
    index: usize,
    target: usize,
    /// Its part of the mean.
    share: f32,
}

/// The gradients with respect to hidden and weight, for a gradient of 1 of the loss; those that are needed.
type Gradients = [Option<FlexTensor>; 2];

impl Operation<Flex, 2> for LinearCrossEntropy {
    type Saved = Gradients;

    fn forward(&self, [hidden, weight]: [FlexTensor; 2], needed: [bool; 2]) -> (FlexTensor, Gradients) {
        let [all, _] = dims(&hidden);
        let rows = self.rows();
        let hidden = gathered(contiguous(hidden), &rows);
        let (loss, [hidden, weight]) = self.pass(&rows, &hidden, &readable(weight), needed);
        let hidden = hidden.map(|gradient| scattered(gradient, &rows, all));
        (tensor(vec![loss as f32], [1]), [hidden, weight])
    }

    fn backward(self, saved: Gradients, gradient: FlexTensor, _: [bool; 2]) -> Gradients {
        let factor = contiguous(gradient).storage::<f32>()[0];
        saved.map(|gradient| Some(scaled(gradient?, factor)))
    }
}

impl LinearCrossEntropy {
    /// The rows that count.
    fn rows(&self) -> Vec<Row> {
        let vocabulary = self.vocabulary;
        let weights: Vec<f32> = self.row_weights.to_data().iter::<f32>().collect();
        let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        let targets = self.targets.to_data();
        let rows = targets.iter::<i64>().zip(weights).enumerate().filter(|(_, (_, weight))| *weight != 0.0);
        let rows = rows.map(|(index, (target, weight))| {
            assert!(
                usize::try_from(target).is_ok_and(|target| target < vocabulary),
                "linear_cross_entropy: the target of row {index} is {target}, not in the vocabulary of {vocabulary}; \
                 give rows without a target the weight 0"
            );
            Row { index, target: target as usize, share: (f64::from(weight) / total) as f32 }
        });
        rows.collect()
    }
}

impl Row {
    /// Turns the row's logits into their part of the gradient, if it is asked for, and gives the part of the loss.
    fn loss(self, logits: &mut [f32], differentiate: bool) -> f64 {
        vectorized(
            #[inline(always)]
            || {
                let target = logits[self.target];
                let (maximum, sum) = exponentials(logits);
                if differentiate {
                    let factor = self.share / sum;
                    logits.iter_mut().for_each(|logit| *logit *= factor);
                    logits[self.target] -= self.share;
                }
                f64::from(self.share) * (f64::from(maximum - target) + f64::from(sum).ln())
            },
        )
    }
}

impl LinearCrossEntropy {
    /// The loss and the gradients of `hidden`, which holds the rows that count alone, and of `weight`.
    fn pass(&self, rows: &[Row], hidden: &FlexTensor, weight: &FlexTensor, needed: [bool; 2]) -> (f64, Gradients) {
        let ([count, width], [weight_rows, _], vocabulary) = (dims(hidden), dims(weight), self.vocabulary);
        let (values, strides) = strided(weight);
        let weight = Matrix::new(values, [vocabulary, width], strides);
        let chunk = chunk_rows(vocabulary, self.logits);
        let mut hidden_gradient = needed[0].then(|| zeros(count * width));
        let mut weight_gradient = needed[1].then(|| WeightGradient::new([weight_rows, width], strides));
        let mut loss = 0.0;
        for (index, rows) in rows.chunks(chunk).enumerate() {
            let place = index * chunk * width..(index * chunk + rows.len()) * width;
            let hidden = Matrix::rows(&hidden.storage::<f32>()[place.clone()], [rows.len(), width]);
            let mut logits = product(hidden, weight.transposed(), None);
            loss += losses(rows, &mut logits, vocabulary, needed != [false; 2]);
            let gradient = Matrix::rows(&logits, [rows.len(), vocabulary]);
            if let Some(values) = &mut hidden_gradient {
                let place = MatrixMut::rows(&mut values[place], [rows.len(), width]);
                place.product(Before::Overwritten, 1.0, gradient, weight, Threads::All);
            }
            if let Some(total) = &mut weight_gradient {
                total.matrix(vocabulary).product(Before::Added, 1.0, gradient.transposed(), hidden, Threads::All);
            }
        }
        let hidden_gradient = hidden_gradient.map(|values| tensor(values, [count, width]));
        (loss, [hidden_gradient, weight_gradient.map(WeightGradient::into_tensor)])
    }
}

/// The part of the loss of a chunk's rows.
fn losses(rows: &[Row], logits: &mut [f32], vocabulary: usize, differentiate: bool) -> f64 {
    let at_once = (BLOCK / vocabulary.max(1)).max(1);
    let rows = logits.par_chunks_mut(vocabulary.max(1)).zip(rows.par_iter()).with_min_len(at_once);
    let losses: Vec<f64> = rows.map(|(logits, row)| row.loss(logits, differentiate)).collect();
    losses.into_iter().sum()
}

/// The rows of a chunk.
fn chunk_rows(vocabulary: usize, budget: usize) -> usize {
    (budget / vocabulary.max(1)).max(FEWEST_ROWS)
}

/// The weight's gradient, which lies in memory as the weight does, so that an optimizer goes through both alike.
struct WeightGradient {
    values: Vec<f32>,
    shape: [usize; 2],
    by_columns: bool,
}

impl WeightGradient {
    fn new(shape: [usize; 2], weight_strides: [usize; 2]) -> Self {
        let [rows, columns] = shape;
        Self { values: zeros(rows * columns), shape, by_columns: weight_strides[0] < weight_strides[1] }
    }

    /// The first rows.
    fn matrix(&mut self, count: usize) -> MatrixMut<'_> {
        let [rows, columns] = self.shape;
        MatrixMut::new(&mut self.values, [count, columns], if self.by_columns { [1, rows] } else { [columns, 1] })
    }

    fn into_tensor(self) -> FlexTensor {
        let [rows, columns] = self.shape;
        if self.by_columns {
            swapped(tensor(self.values, [columns, rows]), 0, 1)
        } else {
            tensor(self.values, self.shape)
        }
    }
}

/// The rows that count, one after the other.
fn gathered(hidden: FlexTensor, rows: &[Row]) -> FlexTensor {
    let [all, width] = dims(&hidden);
    if rows.len() == all {
        return hidden;
    }
    let values = hidden.storage::<f32>();
    let gathered = rows.iter().flat_map(|row| &values[row.index * width..][..width]).copied().collect();
    tensor(gathered, [rows.len(), width])
}

/// The opposite: 0 in the rows that don't count.
fn scattered(gradient: FlexTensor, rows: &[Row], all: usize) -> FlexTensor {
    let [count, width] = dims(&gradient);
    if count == all {
        return gradient;
    }
    let mut values = vec![0.0; all * width];
    let gradients = gradient.storage::<f32>().chunks(width.max(1));
    for (row, gradient) in rows.iter().zip(gradients) {
        values[row.index * width..][..width].copy_from_slice(gradient);
    }
    tensor(values, [all, width])
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    #[test]
    fn a_chunk_of_logits_stays_within_its_budget_but_for_the_fewest_rows() {
        assert_eq!(chunk_rows(256, LOGITS) * 256, LOGITS);
        assert_eq!(chunk_rows(50_257, LOGITS), LOGITS / 50_257);
        assert_eq!(chunk_rows(10_000_000, LOGITS), FEWEST_ROWS);
    }

    #[test]
    fn chunks_sum_up_to_what_all_rows_give_at_once() {
        const ROWS: usize = 2 * FEWEST_ROWS + 5;
        let device = Device::flex().autodiff();
        let value = |index: usize| ((index * 29) % 17) as f32 / 17.0 - 0.5;
        let values = |count: usize| (0..count).map(value).collect::<Vec<f32>>();
        let tensor = |shape: [usize; 2]| {
            let data = TensorData::new(values(shape[0] * shape[1]), shape);
            Tensor::<2>::from_data(data, &device).require_grad()
        };
        let outcome = |logits| {
            let (hidden, weight) = (tensor([ROWS, 6]), tensor([11, 6]));
            let targets = (0..ROWS).map(|row| (row % 11) as i32).collect::<Vec<_>>();
            let operation = LinearCrossEntropy {
                targets: Tensor::from_data(TensorData::new(targets, [ROWS]), &device),
                row_weights: Tensor::ones([ROWS], &device),
                vocabulary: 11,
                logits,
            };
            let gradients = apply(hidden.clone(), weight.clone(), operation).backward();
            [hidden, weight].map(|tensor| tensor.grad(&gradients).expect("it is a leaf").into_data())
        };
        for (chunks, at_once) in outcome(1).iter().zip(&outcome(LOGITS)) {
            for (chunks, at_once) in chunks.iter::<f32>().zip(at_once.iter::<f32>()) {
                // Sums of shares of 1/133 in another order: roundings of numbers of up to 0.1.
                assert!((chunks - at_once).abs() < 1e-7, "{chunks}, not {at_once}");
            }
        }
    }
}
