//! AdamW in one pass over parameter, gradient and moments.

use burn::{
    backend::{Flex, flex::FlexTensor},
    optim::{AdamWConfig, AdamWState, AdaptiveMomentumState, LearningRate, Optimizer},
    tensor::{Device, Tensor},
};
use rayon::prelude::{IndexedParallelIterator, ParallelIterator, ParallelSlice, ParallelSliceMut};

use crate::{dispatch::on_flex, math::vectorized, storage::contiguous};

/// Elements that a thread takes at a time: 64 KiB of each of the four tensors.
const BLOCK: usize = 16 * 1024;

/// burn's [`AdamW`](burn::optim::AdamW) without AMSGrad and cautious weight decay, on flex in one pass.
///
/// A drop-in: the same update to the last bit, and the same state, which either can go on from. Parameter and moments
/// that nobody else holds are updated in place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay of the mean of the gradients.
    pub beta_1: f32,
    /// Decay of the mean of the squared gradients.
    pub beta_2: f32,
    /// Added to the divisor.
    pub epsilon: f32,
    /// What a parameter loses of itself per step, times the learning rate.
    pub weight_decay: f32,
}

impl Optimizer for AdamW {
    type State<const D: usize> = AdamWState<D>;

    fn step<const D: usize>(
        &self,
        rate: LearningRate,
        parameter: Tensor<D>,
        gradient: Tensor<D>,
        state: Option<AdamWState<D>>,
    ) -> (Tensor<D>, Option<AdamWState<D>>) {
        let momentum = match state {
            Some(state) if state.momentum.max_moment_2.is_some() => {
                // Of a burn optimizer with AMSGrad: its maximum is to be kept, so it goes on there.
                return self.composed(rate, parameter, gradient, Some(state));
            }
            Some(state) => state.momentum,
            None => AdaptiveMomentumState::new(0, gradient.zeros_like(), gradient.zeros_like()),
        };
        let AdaptiveMomentumState { time, moment_1, moment_2, .. } = momentum;
        match on_flex([parameter, gradient, moment_1, moment_2].map(Tensor::into_dispatch)) {
            Ok(tensors) => {
                let time = time + 1;
                let [parameter, moment_1, moment_2] =
                    self.fused(rate, time, tensors).map(Tensor::<D>::from_primitive::<Flex>);
                (parameter, Some(AdamWState::new(AdaptiveMomentumState::new(time, moment_1, moment_2))))
            }
            Err(tensors) => {
                let [parameter, gradient, moment_1, moment_2] = tensors.map(Tensor::<D>::from_dispatch);
                let state = AdamWState::new(AdaptiveMomentumState::new(time, moment_1, moment_2));
                self.composed(rate, parameter, gradient, (time > 0).then_some(state))
            }
        }
    }

    fn to_device<const D: usize>(state: AdamWState<D>, device: &Device) -> AdamWState<D> {
        <burn::optim::AdamW as Optimizer>::to_device(state, device)
    }
}

impl AdamW {
    fn fused(&self, rate: f64, time: usize, tensors: [FlexTensor; 4]) -> [FlexTensor; 3] {
        let [mut parameter, gradient, mut moment_1, mut moment_2] = tensors.map(contiguous);
        let update = Update::new(self, rate, time);
        let moments = moment_1.storage_mut::<f32>().par_chunks_mut(BLOCK);
        let moments = moments.zip(moment_2.storage_mut::<f32>().par_chunks_mut(BLOCK));
        let parameters = parameter.storage_mut::<f32>().par_chunks_mut(BLOCK);
        let blocks = parameters.zip(moments).zip(gradient.storage::<f32>().par_chunks(BLOCK));
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
        [parameter, moment_1, moment_2]
    }

    fn composed<const D: usize>(
        &self,
        rate: LearningRate,
        parameter: Tensor<D>,
        gradient: Tensor<D>,
        state: Option<AdamWState<D>>,
    ) -> (Tensor<D>, Option<AdamWState<D>>) {
        let config = AdamWConfig::new().with_beta_1(self.beta_1).with_beta_2(self.beta_2);
        let rule = config.with_epsilon(self.epsilon).with_weight_decay(self.weight_decay).build();
        rule.step(rate, parameter, gradient, state)
    }
}

/// The factors of one step, rounded where burn's are.
struct Update {
    beta_1: f32,
    beta_2: f32,
    correction_1: f32,
    correction_2: f32,
    epsilon: f32,
    kept: f32,
    rate: f32,
}

impl Update {
    fn new(rule: &AdamW, rate: f64, time: usize) -> Self {
        let steps = i32::try_from(time).unwrap_or(i32::MAX);
        Self {
            beta_1: rule.beta_1,
            beta_2: rule.beta_2,
            correction_1: 1.0 - rule.beta_1.powi(steps),
            correction_2: 1.0 - rule.beta_2.powi(steps),
            epsilon: rule.epsilon,
            kept: (1.0 - rate * f64::from(rule.weight_decay)) as f32,
            rate: rate as f32,
        }
    }

    /// In burn's order of operations, for the same bits.
    #[inline(always)]
    fn apply(&self, parameter: &mut f32, (moment_1, moment_2): (&mut f32, &mut f32), gradient: f32) {
        *moment_1 = *moment_1 * self.beta_1 + gradient * (1.0 - self.beta_1);
        *moment_2 = *moment_2 * self.beta_2 + gradient * gradient * (1.0 - self.beta_2);
        let delta = *moment_1 / self.correction_1 / ((*moment_2 / self.correction_2).sqrt() + self.epsilon);
        *parameter = *parameter * self.kept - delta * self.rate;
    }
}
