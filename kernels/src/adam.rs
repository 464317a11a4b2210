//! Adam and AdamW in one pass over parameter, gradient and moments.

use burn::{
    backend::Flex,
    optim::{
        AdamConfig, AdamState, AdamWConfig, AdamWState, AdaptiveMomentumState, LearningRate, Optimizer,
        decay::WeightDecayConfig,
    },
    tensor::{Device, Tensor},
};
use rayon::prelude::{IndexedParallelIterator, ParallelIterator, ParallelSlice, ParallelSliceMut};

use crate::{
    dispatch::on_flex,
    math::vectorized,
    storage::{BLOCK, contiguous},
};

/// burn's [`Adam`](burn::optim::Adam) without AMSGrad, on flex in one pass.
///
/// A drop-in: the same update to the last bit, and the same state, which either can go on from. Parameter and moments
/// that nobody else holds are updated in place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// Decay of the mean of the gradients.
    pub beta_1: f32,
    /// Decay of the mean of the squared gradients.
    pub beta_2: f32,
    /// Added to the divisor.
    pub epsilon: f32,
    /// The share of the parameter that is added to its gradient (an L2 penalty).
    pub penalty: f32,
}

/// burn's [`AdamW`](burn::optim::AdamW) without AMSGrad and cautious weight decay, on flex in one pass: as [`Adam`].
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

impl Optimizer for Adam {
    type State<const D: usize> = AdamState<D>;

    fn step<const D: usize>(
        &self,
        rate: LearningRate,
        parameter: Tensor<D>,
        gradient: Tensor<D>,
        state: Option<AdamState<D>>,
    ) -> (Tensor<D>, Option<AdamState<D>>) {
        let step = Step { parameter, gradient, momentum: state.map(|state| state.momentum) };
        match step.fused(|time| AdamUpdate::new(self, rate, time)) {
            Ok((parameter, momentum)) => (parameter, Some(AdamState::new(momentum))),
            Err(Step { parameter, gradient, momentum }) => {
                let config = AdamConfig::new().with_beta_1(self.beta_1).with_beta_2(self.beta_2);
                let penalty = (self.penalty != 0.0).then(|| WeightDecayConfig::new(self.penalty));
                let rule = config.with_epsilon(self.epsilon).with_weight_decay(penalty).build();
                rule.step(rate, parameter, gradient, momentum.map(AdamState::new))
            }
        }
    }

    fn to_device<const D: usize>(state: AdamState<D>, device: &Device) -> AdamState<D> {
        <burn::optim::Adam as Optimizer>::to_device(state, device)
    }
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
        let step = Step { parameter, gradient, momentum: state.map(|state| state.momentum) };
        match step.fused(|time| AdamWUpdate::new(self, rate, time)) {
            Ok((parameter, momentum)) => (parameter, Some(AdamWState::new(momentum))),
            Err(Step { parameter, gradient, momentum }) => {
                let config = AdamWConfig::new().with_beta_1(self.beta_1).with_beta_2(self.beta_2);
                let rule = config.with_epsilon(self.epsilon).with_weight_decay(self.weight_decay).build();
                rule.step(rate, parameter, gradient, momentum.map(AdamWState::new))
            }
        }
    }

    fn to_device<const D: usize>(state: AdamWState<D>, device: &Device) -> AdamWState<D> {
        <burn::optim::AdamW as Optimizer>::to_device(state, device)
    }
}

/// What one step of a parameter is computed from.
struct Step<const D: usize> {
    parameter: Tensor<D>,
    gradient: Tensor<D>,
    momentum: Option<AdaptiveMomentumState<D>>,
}

/// How one number of a parameter, its two moments and its gradient change.
trait Update: Sync {
    /// Must be `#[inline(always)]`, as for [`vectorized`].
    fn apply(&self, parameter: &mut f32, moments: (&mut f32, &mut f32), gradient: f32);
}

impl<const D: usize> Step<D> {
    /// The parameter and its moments after the step, which `update` makes of the number of steps up to it; gives
    /// everything back where that cannot be: not all are tensors of `f32` on flex, or the moments are those of a burn
    /// optimizer with AMSGrad, whose maximum is to be kept.
    #[expect(clippy::result_large_err, reason = "it is moved once, and what it holds is larger")]
    fn fused<U: Update>(self, update: impl FnOnce(usize) -> U) -> Result<(Tensor<D>, AdaptiveMomentumState<D>), Self> {
        if self.momentum.as_ref().is_some_and(|momentum| momentum.max_moment_2.is_some()) {
            return Err(self);
        }
        let Self { parameter, gradient, momentum } = self;
        let AdaptiveMomentumState { time, moment_1, moment_2, .. } =
            momentum.unwrap_or_else(|| AdaptiveMomentumState::new(0, gradient.zeros_like(), gradient.zeros_like()));
        match on_flex([parameter, gradient, moment_1, moment_2].map(Tensor::into_dispatch)) {
            Ok(tensors) => {
                let [mut parameter, gradient, mut moment_1, mut moment_2] = tensors.map(contiguous);
                let [values, means, squares] =
                    [&mut parameter, &mut moment_1, &mut moment_2].map(|tensor| tensor.storage_mut::<f32>());
                run(&update(time + 1), values, [means, squares], gradient.storage());
                let [parameter, moment_1, moment_2] =
                    [parameter, moment_1, moment_2].map(Tensor::<D>::from_primitive::<Flex>);
                Ok((parameter, AdaptiveMomentumState::new(time + 1, moment_1, moment_2)))
            }
            Err(tensors) => {
                let [parameter, gradient, moment_1, moment_2] = tensors.map(Tensor::<D>::from_dispatch);
                let momentum = AdaptiveMomentumState::new(time, moment_1, moment_2);
                Err(Self { parameter, gradient, momentum: (time > 0).then_some(momentum) })
            }
        }
    }
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

    /// 1 − β₁ᵗ and 1 − β₂ᵗ.
    fn corrections(&self, time: usize) -> [f32; 2] {
        let steps = i32::try_from(time).unwrap_or(i32::MAX);
        [self.beta_1, self.beta_2].map(|beta| 1.0 - beta.powi(steps))
    }
}

/// The factors of one step of Adam, rounded where burn's are.
struct AdamUpdate {
    decay: Decay,
    penalty: f32,
    factor: f32,
    epsilon: f32,
    rate: f32,
}

impl AdamUpdate {
    fn new(rule: &Adam, rate: f64, time: usize) -> Self {
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
struct AdamWUpdate {
    decay: Decay,
    corrections: [f32; 2],
    epsilon: f32,
    kept: f32,
    rate: f32,
}

impl AdamWUpdate {
    fn new(rule: &AdamW, rate: f64, time: usize) -> Self {
        let decay = Decay { beta_1: rule.beta_1, beta_2: rule.beta_2 };
        let corrections = decay.corrections(time);
        let kept = (1.0 - rate * f64::from(rule.weight_decay)) as f32;
        Self { decay, corrections, epsilon: rule.epsilon, kept, rate: rate as f32 }
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
