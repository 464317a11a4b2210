//! Flex's tensors as slices, and blocks of them over threads.

use burn::{
    backend::flex::FlexTensor,
    tensor::{Shape, TensorData},
};
use rayon::prelude::{IndexedParallelIterator, ParallelIterator, ParallelSlice, ParallelSliceMut};

use crate::{math::vectorized, matrix::written};

/// Elements that a thread takes at a time: 64 KiB, so that a block stays in the nearest caches.
pub(crate) const BLOCK: usize = 16 * 1024;
/// Elements that are gone through twice: two such blocks fit into the nearest cache.
const NEAR: usize = 2 * 1024;

/// The same numbers in row-major order, filling their storage; without a copy if they do already.
///
/// It takes the tensor, so that the result is the only holder of its storage where the argument was.
pub(crate) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    tensor.to_contiguous()
}

/// The tensor as [`strided`] can read it: without a copy, unless a dimension is flipped.
pub(crate) fn readable(tensor: FlexTensor) -> FlexTensor {
    if tensor.layout().strides().iter().any(|stride| *stride < 0) { contiguous(tensor) } else { tensor }
}

/// [`readable`], and the numbers of the last dimension next to each other.
pub(crate) fn with_rows(tensor: FlexTensor) -> FlexTensor {
    let is_dense = tensor.layout().strides().last() == Some(&1);
    if is_dense { readable(tensor) } else { contiguous(tensor) }
}

/// The storage from the first element on, and the strides, of a [`readable`] tensor of known rank.
pub(crate) fn strided<const D: usize>(tensor: &FlexTensor) -> (&[f32], [usize; D]) {
    let layout = tensor.layout();
    let values = tensor.storage::<f32>().get(layout.start_offset()..).unwrap_or_default();
    (values, std::array::from_fn(|dimension| layout.strides()[dimension].unsigned_abs()))
}

/// So many zeros, written on all threads.
pub(crate) fn zeros(count: usize) -> Vec<f32> {
    static ZEROS: [f32; BLOCK] = [0.0; BLOCK];
    if count <= BLOCK {
        return vec![0.0; count];
    }
    written(count, BLOCK, rayon::iter::repeat_n((), count.div_ceil(BLOCK)), |(), place| {
        place.write_copy_of_slice(&ZEROS[..place.len()])
    })
}

/// A tensor of numbers in row-major order.
pub(crate) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// The dimensions of a tensor of known rank.
pub(crate) fn dims<const D: usize>(tensor: &FlexTensor) -> [usize; D] {
    tensor.layout().shape().dims()
}

/// A view with two dimensions swapped.
pub(crate) fn swapped(tensor: FlexTensor, a: usize, b: usize) -> FlexTensor {
    let layout = tensor.layout().transpose(a, b);
    tensor.with_layout(layout)
}

/// Two functions of each number of a [`contiguous`] tensor; the second is written over it, unless others hold it too.
///
/// The function must be `#[inline(always)]`, as for [`vectorized`].
pub(crate) fn map_twice(mut x: FlexTensor, function: impl Fn(f32) -> (f32, f32) + Sync) -> (FlexTensor, FlexTensor) {
    let x_values = x.storage_mut::<f32>();
    let values = written(x_values.len(), NEAR, x_values.par_chunks_mut(NEAR), |x, out| {
        let out = out.write_copy_of_slice(x);
        vectorized(
            #[inline(always)]
            || out.iter_mut().zip(x).for_each(|(out, x)| (*out, *x) = function(*out)),
        );
        out
    });
    (tensor(values, x.layout().shape().clone()), x)
}

/// A function of each two numbers of two [`contiguous`] tensors, as [`map_twice`].
pub(crate) fn map_pairs(a: &FlexTensor, b: &FlexTensor, function: impl Fn(f32, f32) -> f32 + Sync) -> FlexTensor {
    let (a_values, b_values) = (a.storage::<f32>(), b.storage::<f32>());
    let pairs = a_values.par_chunks(NEAR).zip(b_values.par_chunks(NEAR));
    let values = written(a_values.len(), NEAR, pairs, |(a, b), out| {
        let out = out.write_copy_of_slice(a);
        vectorized(
            #[inline(always)]
            || out.iter_mut().zip(b).for_each(|(out, b)| *out = function(*out, *b)),
        );
        out
    });
    tensor(values, a.layout().shape().clone())
}

/// [`map_pairs`] with a [`contiguous`] second tensor, written over the first.
pub(crate) fn combine(first: FlexTensor, second: &FlexTensor, function: impl Fn(f32, f32) -> f32 + Sync) -> FlexTensor {
    let mut first = contiguous(first);
    let blocks = first.storage_mut::<f32>().par_chunks_mut(BLOCK).zip(second.storage::<f32>().par_chunks(BLOCK));
    blocks.for_each(|(first, second)| {
        vectorized(
            #[inline(always)]
            || first.iter_mut().zip(second).for_each(|(first, second)| *first = function(*first, *second)),
        );
    });
    first
}

/// Multiplies all numbers of a storage, in whatever order they lie.
pub(crate) fn scaled(mut tensor: FlexTensor, factor: f32) -> FlexTensor {
    if factor != 1.0 {
        tensor.storage_mut::<f32>().par_chunks_mut(BLOCK).for_each(|block| {
            vectorized(
                #[inline(always)]
                || block.iter_mut().for_each(|value| *value *= factor),
            );
        });
    }
    tensor
}
