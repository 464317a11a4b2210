//! Adam and AdamW in one pass over parameter, gradient and moments.

mod flex;
#[cfg(feature = "gpu")]
mod gpu;

use burn::{
    backend::{DispatchAutodiffContext, DispatchTensor, TensorMetadata},
    optim::{
        AdamConfig, AdamState, AdamWConfig, AdamWState, AdaptiveMomentumState, LearningRate, Optimizer,
        decay::WeightDecayConfig,
    },
    tensor::{DType, Device, Tensor},
};

use self::flex::{AdamUpdate, AdamWUpdate};
use crate::dispatch::{Compiled, backend, context};

/// burn's [`Adam`](burn::optim::Adam) without AMSGrad, in one pass on flex and on a GPU.
///
/// A drop-in with the same state, which either can go on from. On flex the update is burn's to the last bit; a GPU computes
/// it in `f32` whatever the precision. Parameter and moments that nobody else holds are updated in place.
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

/// burn's [`AdamW`](burn::optim::AdamW) without AMSGrad and cautious weight decay, in one pass: as [`Adam`].
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
        match step.in_one_pass(self, rate) {
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
        match step.in_one_pass(self, rate) {
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

/// How a parameter is updated on each backend, in the step `time`, which is counted from 1.
trait Rule {
    type OnFlex: flex::Update;

    fn on_flex(&self, rate: LearningRate, time: usize) -> Self::OnFlex;

    #[cfg(feature = "gpu")]
    fn on_gpu(&self, rate: LearningRate, time: usize) -> gpu::Update;
}

impl Rule for Adam {
    type OnFlex = AdamUpdate;

    fn on_flex(&self, rate: LearningRate, time: usize) -> AdamUpdate {
        AdamUpdate::new(self, rate, time)
    }

    #[cfg(feature = "gpu")]
    fn on_gpu(&self, rate: LearningRate, time: usize) -> gpu::Update {
        gpu::Update::new([self.beta_1, self.beta_2], self.epsilon, rate, time).with_penalty(self.penalty)
    }
}

impl Rule for AdamW {
    type OnFlex = AdamWUpdate;

    fn on_flex(&self, rate: LearningRate, time: usize) -> AdamWUpdate {
        AdamWUpdate::new(self, rate, time)
    }

    #[cfg(feature = "gpu")]
    fn on_gpu(&self, rate: LearningRate, time: usize) -> gpu::Update {
        gpu::Update::new([self.beta_1, self.beta_2], self.epsilon, rate, time).with_kept(kept(self.weight_decay, rate))
    }
}

/// 1 − βᵗ, by which a moment that began with zero is too small after `time` steps.
fn correction(beta: f32, time: usize) -> f32 {
    1.0 - beta.powi(i32::try_from(time).unwrap_or(i32::MAX))
}

/// What a step of AdamW keeps of a parameter.
fn kept(weight_decay: f32, rate: LearningRate) -> f32 {
    (1.0 - rate * f64::from(weight_decay)) as f32
}

/// What one step of a parameter is computed from.
struct Step<const D: usize> {
    parameter: Tensor<D>,
    gradient: Tensor<D>,
    momentum: Option<AdaptiveMomentumState<D>>,
}

impl<const D: usize> Step<D> {
    /// The parameter and its moments after the step; gives everything back where none of this crate's updates takes it, or
    /// the moments are those of a burn optimizer with AMSGrad, whose maximum is to be kept.
    #[expect(clippy::result_large_err, reason = "it is moved once, and what it holds is larger")]
    fn in_one_pass(self, rule: &impl Rule, rate: LearningRate) -> Result<(Tensor<D>, AdaptiveMomentumState<D>), Self> {
        if self.momentum.as_ref().is_some_and(|momentum| momentum.max_moment_2.is_some()) {
            return Err(self);
        }
        let Self { parameter, gradient, momentum } = self;
        let AdaptiveMomentumState { time, moment_1, moment_2, .. } =
            momentum.unwrap_or_else(|| AdaptiveMomentumState::new(0, gradient.zeros_like(), gradient.zeros_like()));
        let shape = parameter.dims();
        for (name, other) in [("gradient", &gradient), ("first moment", &moment_1), ("second moment", &moment_2)] {
            assert_eq!(other.dims(), shape, "Adam: the {name} is not of the parameter's shape");
        }
        let tensors = [parameter, gradient, moment_1, moment_2].map(Tensor::into_dispatch);
        let updated = match place(&tensors) {
            Some((Compiled::Flex, DType::F32)) => flex::updated(&rule.on_flex(rate, time + 1), tensors),
            #[cfg(feature = "gpu")]
            Some((Compiled::Cube, DType::F32 | DType::F16 | DType::BF16)) => {
                gpu::updated(rule.on_gpu(rate, time + 1), tensors)
            }
            _ => {
                let [parameter, gradient, moment_1, moment_2] = tensors.map(Tensor::from_dispatch);
                let momentum = AdaptiveMomentumState::new(time, moment_1, moment_2);
                return Err(Self { parameter, gradient, momentum: (time > 0).then_some(momentum) });
            }
        };
        let [parameter, moment_1, moment_2] = updated.map(Tensor::from_dispatch);
        Ok((parameter, AdaptiveMomentumState::new(time + 1, moment_1, moment_2)))
    }
}

/// The backend and the precision that all of the tensors are of, if none is differentiated.
fn place(tensors: &[DispatchTensor; 4]) -> Option<(Compiled, DType)> {
    let precision = tensors[0].dtype();
    let is_one = tensors.iter().all(|tensor| tensor.dtype() == precision);
    let is_plain = context(tensors) == Some(DispatchAutodiffContext::Disabled);
    backend(tensors).filter(|_| is_one && is_plain).map(|backend| (backend, precision))
}
