//! Normalizations over the last dimension.

use burn::{
    backend::{Flex, flex::FlexTensor},
    tensor::Tensor,
};
use rayon::prelude::{IndexedParallelIterator, ParallelIterator, ParallelSlice, ParallelSliceMut};

use crate::{
    composed,
    dispatch::{Operation, run},
    math::{sum, sum_pairs, vectorized},
    matrix::written,
    storage::{contiguous, dims, tensor},
};

/// Rows that a thread takes at a time. The gradients of gain and bias are summed over these first.
const ROWS: usize = 32;

/// LayerNorm over the last dimension: `(x − mean) / √(variance + epsilon) · gain + bias`, with the variance of the
/// population.
///
/// `x` is `[…, width]`, gain and bias are `[width]`.
///
/// # Panics
/// If the widths differ.
pub fn layer_norm<const D: usize>(x: Tensor<D>, gain: Tensor<1>, bias: Option<Tensor<1>>, epsilon: f64) -> Tensor<D> {
    check("gain", &x, &gain);
    let norm = Norm { centred: true, epsilon: epsilon as f32 };
    let Some(bias) = bias else {
        return match run(norm, [x.into_dispatch(), gain.into_dispatch()]) {
            Ok(output) => Tensor::from_dispatch(output),
            Err([x, gain]) => {
                composed::layer_norm(Tensor::from_dispatch(x), Tensor::from_dispatch(gain), None, epsilon)
            }
        };
    };
    check("bias", &x, &bias);
    match run(norm, [x.into_dispatch(), gain.into_dispatch(), bias.into_dispatch()]) {
        Ok(output) => Tensor::from_dispatch(output),
        Err([x, gain, bias]) => composed::layer_norm(
            Tensor::from_dispatch(x),
            Tensor::from_dispatch(gain),
            Some(Tensor::from_dispatch(bias)),
            epsilon,
        ),
    }
}

/// RMSNorm over the last dimension: `x / √(mean of x² + epsilon) · gain`.
///
/// `x` is `[…, width]`, the gain is `[width]`.
///
/// # Panics
/// If the widths differ.
pub fn rms_norm<const D: usize>(x: Tensor<D>, gain: Tensor<1>, epsilon: f64) -> Tensor<D> {
    check("gain", &x, &gain);
    let norm = Norm { centred: false, epsilon: epsilon as f32 };
    match run(norm, [x.into_dispatch(), gain.into_dispatch()]) {
        Ok(output) => Tensor::from_dispatch(output),
        Err([x, gain]) => composed::rms_norm(Tensor::from_dispatch(x), Tensor::from_dispatch(gain), epsilon),
    }
}

fn check<const D: usize>(name: &str, x: &Tensor<D>, parameter: &Tensor<1>) {
    let ([length], width) = (parameter.dims(), x.dims()[D - 1]);
    assert_eq!(length, width, "normalization: the {name} has {length} numbers, the last dimension of x {width}");
}

/// LayerNorm, or RMSNorm, which is the same about 0 instead of the mean.
#[derive(Clone, Copy, Debug)]
struct Norm {
    centred: bool,
    epsilon: f32,
}

/// What a row was shifted and multiplied by.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    mean: f32,
    scale: f32,
}

/// What the backward needs of the forward.
#[derive(Clone, Debug)]
struct Saved {
    x: FlexTensor,
    gain: FlexTensor,
    rows: Vec<Row>,
}

/// The gradients of gain and bias, added up over some rows.
struct Parameters<'a> {
    gain: &'a mut [f32],
    bias: &'a mut [f32],
}

impl Operation<Flex, 2> for Norm {
    type Saved = Saved;

    fn forward(&self, [x, gain]: [FlexTensor; 2], _: [bool; 2]) -> (FlexTensor, Saved) {
        self.apply(x, gain, None)
    }

    fn backward(self, saved: Saved, gradient: FlexTensor, _: [bool; 2]) -> [Option<FlexTensor>; 2] {
        let [x, gain, _] = self.gradients(&saved, gradient);
        [Some(x), Some(gain)]
    }
}

impl Operation<Flex, 3> for Norm {
    type Saved = Saved;

    fn forward(&self, [x, gain, bias]: [FlexTensor; 3], _: [bool; 3]) -> (FlexTensor, Saved) {
        self.apply(x, gain, Some(bias))
    }

    fn backward(self, saved: Saved, gradient: FlexTensor, _: [bool; 3]) -> [Option<FlexTensor>; 3] {
        self.gradients(&saved, gradient).map(Some)
    }
}

impl Norm {
    fn apply(self, x: FlexTensor, gain: FlexTensor, bias: Option<FlexTensor>) -> (FlexTensor, Saved) {
        let [width] = dims(&gain);
        let (x, gain) = (contiguous(x), contiguous(gain));
        let bias = bias.map_or_else(|| tensor(vec![0.0; width], [width]), contiguous);
        let (x_values, gain_values, bias) = (x.storage::<f32>(), gain.storage::<f32>(), bias.storage::<f32>());
        let mut rows = vec![Row::default(); x_values.len() / width.max(1)];
        let block = ROWS * width.max(1);
        let blocks = x_values.par_chunks(block).zip(rows.par_chunks_mut(ROWS));
        let output = written(x_values.len(), block, blocks, |(x, rows), output| {
            let output = output.write_copy_of_slice(x);
            vectorized(
                #[inline(always)]
                || {
                    for (values, row) in output.chunks_mut(width).zip(rows) {
                        *row = self.row(values);
                        row.apply(values, gain_values, bias);
                    }
                },
            );
            output
        });
        (tensor(output, x.layout().shape().clone()), Saved { x, gain, rows })
    }

    /// The gradients of x, gain and bias.
    fn gradients(self, saved: &Saved, gradient: FlexTensor) -> [FlexTensor; 3] {
        let [width] = dims(&saved.gain);
        let mut gradient = contiguous(gradient);
        let (x, gain, rows) = (saved.x.storage::<f32>(), saved.gain.storage::<f32>(), &saved.rows);
        let block = ROWS * width.max(1);
        let mut partial = vec![0.0; rows.len().div_ceil(ROWS) * 2 * width];
        let gradients = gradient.storage_mut::<f32>().par_chunks_mut(block);
        let blocks = gradients.zip(x.par_chunks(block)).zip(rows.par_chunks(ROWS));
        blocks.zip(partial.par_chunks_mut((2 * width).max(1))).for_each(|(((gradient, x), rows), partial)| {
            vectorized(
                #[inline(always)]
                || {
                    let (gain_sum, bias_sum) = partial.split_at_mut(width);
                    let mut sums = Parameters { gain: gain_sum, bias: bias_sum };
                    for ((gradient, x), row) in gradient.chunks_mut(width).zip(x.chunks(width)).zip(rows) {
                        self.row_gradient(*row, x, gain, gradient, &mut sums);
                    }
                },
            );
        });
        let [gain, bias] = totals(&partial, width);
        [gradient, gain, bias]
    }

    #[inline(always)]
    fn row(self, x: &[f32]) -> Row {
        let count = x.len() as f32;
        let mean = if self.centred { sum(x, |value| value) / count } else { 0.0 };
        let variance = sum(x, |value| (value - mean) * (value - mean)) / count;
        Row { mean, scale: 1.0 / (variance + self.epsilon).sqrt() }
    }

    /// Turns a row's gradient of the output into that of x.
    ///
    /// With n = (x − mean) · scale and h = gradient · gain: `scale · (h − mean of h − n · mean of h·n)`.
    #[inline(always)]
    fn row_gradient(self, row: Row, x: &[f32], gain: &[f32], gradient: &mut [f32], sums: &mut Parameters<'_>) {
        let count = x.len() as f32;
        for ((total, gradient), x) in sums.gain.iter_mut().zip(&*gradient).zip(x) {
            *total += gradient * row.normalized(*x);
        }
        for (total, gradient) in sums.bias.iter_mut().zip(&*gradient) {
            *total += gradient;
        }
        for (gradient, gain) in gradient.iter_mut().zip(gain) {
            *gradient *= gain;
        }
        let mean = if self.centred { sum(gradient, |value| value) / count } else { 0.0 };
        // Not from the sums of h·x and h: they would cancel where x is far from 0.
        let along = sum_pairs(gradient, x, |gradient, x| gradient * row.normalized(x)) / count;
        for (gradient, x) in gradient.iter_mut().zip(x) {
            *gradient = row.scale * (*gradient - mean - row.normalized(*x) * along);
        }
    }
}

impl Row {
    #[inline(always)]
    fn normalized(self, x: f32) -> f32 {
        (x - self.mean) * self.scale
    }

    #[inline(always)]
    fn apply(self, values: &mut [f32], gain: &[f32], bias: &[f32]) {
        for ((value, gain), bias) in values.iter_mut().zip(gain).zip(bias) {
            *value = self.normalized(*value) * gain + bias;
        }
    }
}

/// The gradients of gain and bias, from those of the blocks of rows.
fn totals(partial: &[f32], width: usize) -> [FlexTensor; 2] {
    let mut totals = vec![0.0; 2 * width];
    for partial in partial.chunks((2 * width).max(1)) {
        for (total, partial) in totals.iter_mut().zip(partial) {
            *total += partial;
        }
    }
    let (gain, bias) = totals.split_at(width);
    [gain, bias].map(|values| tensor(values.to_vec(), [width]))
}
