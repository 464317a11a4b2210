//! A linear layer.

use burn::{
    backend::{Flex, flex::FlexTensor},
    tensor::Tensor,
};
use rayon::prelude::{IndexedParallelIterator, ParallelIterator, ParallelSlice, ParallelSliceMut};

use crate::{
    composed,
    dispatch::{Operation, run},
    math::vectorized,
    matrix::{Matrix, product},
    storage::{contiguous, dims, tensor},
};

/// Rows that a thread sums up at a time, for the gradient of the bias.
const ROWS: usize = 64;

/// `x · weight + bias`.
///
/// `x` is `[…, inputs]`, `weight` `[inputs, outputs]`, the bias `[outputs]`; the result is `[…, outputs]`.
///
/// # Panics
/// If the shapes do not fit.
pub fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    let ([inputs, outputs], width) = (weight.dims(), x.dims()[D - 1]);
    assert_eq!(inputs, width, "linear: the weight has {inputs} rows, the last dimension of x {width}");
    let Some(bias) = bias else {
        return match run(Linear, [x.into_dispatch(), weight.into_dispatch()]) {
            Ok(output) => Tensor::from_dispatch(output),
            Err([x, weight]) => composed::linear(Tensor::from_dispatch(x), Tensor::from_dispatch(weight), None),
        };
    };
    let [length] = bias.dims();
    assert_eq!(length, outputs, "linear: the bias has {length} numbers, the weight {outputs} columns");
    match run(Linear, [x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch()]) {
        Ok(output) => Tensor::from_dispatch(output),
        Err([x, weight, bias]) => {
            let bias = Some(Tensor::from_dispatch(bias));
            composed::linear(Tensor::from_dispatch(x), Tensor::from_dispatch(weight), bias)
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Linear;

/// Input and weight, each if the gradient of the other is needed.
type Saved = [Option<FlexTensor>; 2];

impl Operation<Flex, 2> for Linear {
    type Saved = Saved;

    fn forward(&self, [x, weight]: [FlexTensor; 2], needed: [bool; 2]) -> (FlexTensor, Saved) {
        apply(x, weight, None, needed)
    }

    fn backward(self, saved: Saved, gradient: FlexTensor, _: [bool; 2]) -> [Option<FlexTensor>; 2] {
        gradients(saved, &contiguous(gradient))
    }
}

impl Operation<Flex, 3> for Linear {
    type Saved = Saved;

    fn forward(&self, [x, weight, bias]: [FlexTensor; 3], [of_x, of_weight, _]: [bool; 3]) -> (FlexTensor, Saved) {
        apply(x, weight, Some(contiguous(bias)), [of_x, of_weight])
    }

    fn backward(self, saved: Saved, gradient: FlexTensor, [.., of_bias]: [bool; 3]) -> [Option<FlexTensor>; 3] {
        let gradient = contiguous(gradient);
        let [x, weight] = gradients(saved, &gradient);
        [x, weight, of_bias.then(|| column_sums(&gradient))]
    }
}

fn apply(x: FlexTensor, weight: FlexTensor, bias: Option<FlexTensor>, needed: [bool; 2]) -> (FlexTensor, Saved) {
    let (x, weight) = (contiguous(x), contiguous(weight));
    let shape = dims(&weight);
    let [inputs, outputs] = shape;
    let rows = rows(&x);
    let left = Matrix::rows(x.storage(), [rows, inputs]);
    let right = Matrix::rows(weight.storage(), shape);
    let values = product(left, right, bias.as_ref().map(FlexTensor::storage));
    let output = tensor(values, with_width(&x, outputs));
    let [of_x, of_weight] = needed;
    (output, [of_weight.then_some(x), of_x.then_some(weight)])
}

/// The gradients of x, `gradient · weightᵀ`, and of the weight, `xᵀ · gradient`.
fn gradients([x, weight]: Saved, gradient: &FlexTensor) -> [Option<FlexTensor>; 2] {
    let rows = rows(gradient);
    let outputs = width(gradient);
    let left = Matrix::rows(gradient.storage(), [rows, outputs]);
    let of_x = weight.map(|weight| {
        let [inputs, _] = dims(&weight);
        let right = Matrix::rows(weight.storage(), [inputs, outputs]).transposed();
        tensor(product(left, right, None), with_width(gradient, inputs))
    });
    let of_weight = x.map(|x| {
        let inputs = width(&x);
        let transposed = Matrix::rows(x.storage(), [rows, inputs]).transposed();
        tensor(product(transposed, left, None), [inputs, outputs])
    });
    [of_x, of_weight]
}

/// The sums over all dimensions but the last, in an order that the shape alone decides.
fn column_sums(gradient: &FlexTensor) -> FlexTensor {
    let width = width(gradient);
    let mut sums = vec![0.0; rows(gradient).div_ceil(ROWS) * width];
    let blocks = gradient.storage::<f32>().par_chunks((ROWS * width).max(1));
    sums.par_chunks_mut(width.max(1)).zip(blocks).for_each(|(sums, block)| {
        vectorized(
            #[inline(always)]
            || block.chunks(width).for_each(|row| add(sums, row)),
        );
    });
    let mut total = vec![0.0; width];
    sums.chunks(width.max(1)).for_each(|sums| add(&mut total, sums));
    tensor(total, [width])
}

#[inline(always)]
fn add(sums: &mut [f32], terms: &[f32]) {
    sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
}

/// The size of the last dimension.
fn width(tensor: &FlexTensor) -> usize {
    tensor.layout().shape().last().copied().unwrap_or(1)
}

/// How many rows of the last dimension there are.
fn rows(tensor: &FlexTensor) -> usize {
    let shape = tensor.layout().shape();
    shape[..shape.num_dims().saturating_sub(1)].iter().product()
}

/// The shape of a tensor with another last dimension.
fn with_width(tensor: &FlexTensor, width: usize) -> Vec<usize> {
    let mut shape = tensor.layout().shape().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = width;
    }
    shape
}
