//! Dropout, without a mask in memory.

use burn::{
    backend::{Flex, flex::FlexTensor},
    tensor::{Device, Distribution, Tensor},
};
use rayon::prelude::{IndexedParallelIterator, ParallelIterator, ParallelSliceMut};

use crate::{
    composed,
    dispatch::{Operation, is_fused, run},
    math::vectorized,
    storage::{BLOCK, contiguous},
};

/// Sets each number to 0 with a probability, at random, and divides the others by the probability that they stay.
///
/// On flex one number is drawn of the device's generator for all of `x`, and what becomes of each element is a hash of it
/// and of the element's index; the backward takes the hash again. So the same seed of the device gives the same output.
///
/// # Panics
/// If the probability is not in [0, 1).
pub fn dropout<const D: usize>(x: Tensor<D>, probability: f64) -> Tensor<D> {
    assert!((0.0..1.0).contains(&probability), "dropout: the probability {probability} is not in [0, 1)");
    if !is_fused(&x) {
        return composed::dropout(x, probability);
    }
    match run(Dropout::new(probability, draw(&x.device())), [x.into_dispatch()]) {
        Ok(output) => Tensor::from_dispatch(output),
        Err([x]) => composed::dropout(Tensor::from_dispatch(x), probability),
    }
}

/// A number of the generator of the CPU, of all 64 bits.
fn draw(device: &Device) -> u64 {
    let device = device.clone().without_autodiff();
    let parts = Tensor::<1>::random([3], Distribution::Uniform(0.0, 1.0), &device).into_data();
    // Each has 24 bits.
    parts.iter::<f32>().fold(0, |bits, part| bits.rotate_left(21) ^ (part * 16_777_216.0) as u64)
}

#[derive(Clone, Copy, Debug)]
struct Dropout {
    seed: u64,
    /// Hashes below it drop an element.
    threshold: u32,
    scale: f32,
}

impl Dropout {
    fn new(probability: f64, seed: u64) -> Self {
        let threshold = (probability * f64::from(u32::MAX)).round() as u32;
        Self { seed, threshold, scale: (1.0 / (1.0 - probability)) as f32 }
    }

    fn apply(self, x: FlexTensor) -> FlexTensor {
        let mut x = contiguous(x);
        x.storage_mut::<f32>().par_chunks_mut(BLOCK).enumerate().for_each(|(block, values)| {
            let bits = mixed(self.seed.wrapping_add(block as u64));
            let (low, high) = (bits as u32, (bits >> 32) as u32);
            vectorized(
                #[inline(always)]
                || {
                    for (index, value) in (0..).zip(values) {
                        let is_kept = hash(hash(low ^ index) ^ high) >= self.threshold;
                        *value = if is_kept { *value * self.scale } else { 0.0 };
                    }
                },
            );
        });
        x
    }
}

impl Operation<Flex, 1> for Dropout {
    type Saved = ();

    fn forward(&self, [x]: [FlexTensor; 1], _: [bool; 1]) -> (FlexTensor, ()) {
        (self.apply(x), ())
    }

    fn backward(self, (): (), gradient: FlexTensor, _: [bool; 1]) -> [Option<FlexTensor>; 1] {
        [Some(self.apply(gradient))]
    }
}

/// S. Vigna's SplitMix64, of a counter.
fn mixed(counter: u64) -> u64 {
    let state = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

/// A bijection of 32 bits each of which depends on all: C. Wellons's "lowbias32".
#[inline(always)]
fn hash(bits: u32) -> u32 {
    let bits = (bits ^ (bits >> 16)).wrapping_mul(0x7feb_352d);
    let bits = (bits ^ (bits >> 15)).wrapping_mul(0x846c_a68b);
    bits ^ (bits >> 16)
}
