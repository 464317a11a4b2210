//! The update of parameters of `f32` on flex.

use burn::backend::{DispatchTensor, Flex};
use rayon::prelude::{IndexedParallelIterator, ParallelIterator, ParallelSlice, ParallelSliceMut};

use super::{Adam, AdamW, correction, kept};
use crate::{
    dispatch::{unwrapped, wrapped},
    math::vectorized,
    storage::{BLOCK, contiguous},
};

/// How one number of a parameter, its two moments and its gradient change.
pub(super) trait Update: Sync {
    /// Must be `#[inline(always)]`, as for [`vectorized`].
    fn apply(&self, parameter: &mut f32, moments: (&mut f32, &mut f32), gradient: f32);
}

/// The new parameter and moments, of the parameter, its gradient and its moments.
pub(super) fn updated(update: &impl Update, tensors: [DispatchTensor; 4]) -> [DispatchTensor; 3] {
    let [mut parameter, gradient, mut moment_1, mut moment_2] =
        tensors.map(|tensor| contiguous(unwrapped::<Flex>(tensor)));
    let [values, means, squares] =
        [&mut parameter, &mut moment_1, &mut moment_2].map(|tensor| tensor.storage_mut::<f32>());
    run(update, values, [means, squares], gradient.storage());
    [parameter, moment_1, moment_2].map(wrapped::<Flex>)
}

fn run(update: &impl Update, parameter: &mut [f32], [moment_1, moment_2]: [&mut [f32]; 2], gradient: &[f32]) {
    let moments = moment_1.par_chunks_mut(BLOCK).zip(moment_2.par_chunks_mut(BLOCK));
    let blocks = parameter.par_chunks_mut(BLOCK).zip(moments).zip(gradient.par_chunks(BLOCK));
    blocks.for_each(|((parameter, (moment_1, moment_2)), gradient)| {
        vectorized(
            #[inline(always)]
            || {
                let moments = moment_1.iter_mut().zip(moment_2);
                for ((parameter, moments), gradient) in parameter.iter_mut().zip(moments).zip(gradient) {
                    update.apply(parameter, moments, *gradient);
                }
            },
        );
    });
}

/// The means of gradients and squares, as they decay.
struct Decay {
    beta_1: f32,
    beta_2: f32,
}

impl Decay {
    /// In burn's order of operations, for the same bits.
    #[inline(always)]
    fn apply(&self, (moment_1, moment_2): (&mut f32, &mut f32), gradient: f32) -> (f32, f32) {
        *moment_1 = *moment_1 * self.beta_1 + gradient * (1.0 - self.beta_1);
        *moment_2 = *moment_2 * self.beta_2 + gradient * gradient * (1.0 - self.beta_2);
        (*moment_1, *moment_2)
    }

    fn corrections(&self, time: usize) -> [f32; 2] {
        [self.beta_1, self.beta_2].map(|beta| correction(beta, time))
    }
}

/// The factors of one step of Adam, rounded where burn's are.
pub(super) struct AdamUpdate {
    decay: Decay,
    penalty: f32,
    factor: f32,
    epsilon: f32,
    rate: f32,
}

impl AdamUpdate {
    pub(super) fn new(rule: &Adam, rate: f64, time: usize) -> Self {
        let decay = Decay { beta_1: rule.beta_1, beta_2: rule.beta_2 };
        let [correction_1, correction_2] = decay.corrections(time);
        let root = correction_2.sqrt();
        Self {
            decay,
            penalty: rule.penalty,
            factor: root / correction_1,
            epsilon: rule.epsilon * root,
            rate: rate as f32,
        }
    }
}

impl Update for AdamUpdate {
    #[inline(always)]
    fn apply(&self, parameter: &mut f32, moments: (&mut f32, &mut f32), gradient: f32) {
        let gradient = *parameter * self.penalty + gradient;
        let (moment_1, moment_2) = self.decay.apply(moments, gradient);
        *parameter -= moment_1 * self.factor / (moment_2.sqrt() + self.epsilon) * self.rate;
    }
}

/// The factors of one step of AdamW, rounded where burn's are.
pub(super) struct AdamWUpdate {
    decay: Decay,
    corrections: [f32; 2],
    epsilon: f32,
    kept: f32,
    rate: f32,
}

impl AdamWUpdate {
    pub(super) fn new(rule: &AdamW, rate: f64, time: usize) -> Self {
        let decay = Decay { beta_1: rule.beta_1, beta_2: rule.beta_2 };
        let corrections = decay.corrections(time);
        Self { decay, corrections, epsilon: rule.epsilon, kept: kept(rule.weight_decay, rate), rate: rate as f32 }
    }
}

impl Update for AdamWUpdate {
    #[inline(always)]
    fn apply(&self, parameter: &mut f32, moments: (&mut f32, &mut f32), gradient: f32) {
        let [correction_1, correction_2] = self.corrections;
        let (moment_1, moment_2) = self.decay.apply(moments, gradient);
        let delta = moment_1 / correction_1 / ((moment_2 / correction_2).sqrt() + self.epsilon);
        *parameter = *parameter * self.kept - delta * self.rate;
    }
}
