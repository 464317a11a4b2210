//! The sum of squares, of which a norm is the root.

use burn::tensor::Tensor;
use rayon::prelude::{ParallelIterator, ParallelSlice};

use crate::{
    dispatch::on_flex,
    math::{sum, vectorized},
    storage::{BLOCK, contiguous, tensor},
};

/// The sum of the squares of all numbers, `[1]`, without a gradient.
///
/// On flex by blocks, whose sums are added up in double precision.
pub fn sum_of_squares<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    match on_flex([x.inner().into_dispatch()]) {
        Ok([x]) => {
            let x = contiguous(x);
            let block_sum = |block: &[f32]| {
                vectorized(
                    #[inline(always)]
                    || f64::from(sum(block, |value| value * value)),
                )
            };
            let sums: Vec<f64> = x.storage::<f32>().par_chunks(BLOCK).map(block_sum).collect();
            let total = sums.iter().sum::<f64>() as f32;
            Tensor::from_primitive::<burn::backend::Flex>(tensor(vec![total], [1]))
        }
        Err([x]) => Tensor::<D>::from_dispatch(x).square().sum(),
    }
}
