//! Muon for the matrices of hidden layers.

use burn::{
    optim::{
        AdjustLrFn, LearningRate, Muon as Orthogonalize, MuonConfig, MuonState, Optimizer,
        momentum::{Momentum, MomentumConfig},
    },
    tensor::{Device, Tensor},
};
use stoker_crds::training::optimize::{Muon as Spec, MuonRate};

/// What the norm of a step is at least taken for, and the iterations of Newton and Schulz with their coefficients: those of
/// Jordan et al. (2024), as `torch.optim.Muon`.
const EPSILON: f32 = 1e-7;
const ITERATIONS: usize = 5;
const COEFFICIENTS: (f32, f32, f32) = (3.4445, -4.775, 2.0315);

/// Muon (Jordan et al., 2024) of one matrix, with the meaning of `torch.optim.Muon`.
///
/// burn's own takes a matrix for `[outputs, inputs]`, as PyTorch's lie, which tells with which learning rate; ours lie the
/// other way round. And several linear maps that lie in one matrix are orthogonalized each by itself, as Jordan et al. do
/// with queries, keys and values.
#[derive(Clone)]
pub(in crate::training) struct Muon {
    momentum: Momentum,
    /// From 0, one step of it is the orthogonal matrix, times minus the learning rate for its shape.
    orthogonalize: Orthogonalize,
    weight_decay: f64,
    /// The columns of each linear map.
    outputs: Vec<usize>,
}

impl Muon {
    pub(super) fn new(spec: &Spec, outputs: Vec<usize>) -> Self {
        let adjust = match spec.adjust_learning_rate {
            MuonRate::Original => AdjustLrFn::Original,
            MuonRate::MatchRmsAdamW => AdjustLrFn::MatchRmsAdamW,
        };
        let momentum = MomentumConfig { momentum: spec.momentum, dampening: 0.0, nesterov: spec.nesterov };
        let orthogonalize = MuonConfig::new()
            .with_momentum(MomentumConfig { momentum: 0.0, dampening: 0.0, nesterov: false })
            .with_weight_decay(None)
            .with_epsilon(EPSILON)
            .with_ns_steps(ITERATIONS)
            .with_ns_coefficients(COEFFICIENTS)
            .with_adjust_lr_fn(adjust);
        Self {
            momentum: Momentum::new(&momentum),
            orthogonalize: orthogonalize.build(),
            weight_decay: spec.weight_decay,
            outputs,
        }
    }

    /// The change that a linear map, `[inputs, outputs]`, makes in the direction of a matrix of that shape.
    fn change<const D: usize>(&self, rate: LearningRate, direction: Tensor<D>) -> Tensor<D> {
        let direction = direction.swap_dims(-2, -1);
        let (change, _) = self.orthogonalize.step(rate, direction.zeros_like(), direction, None);
        change.swap_dims(-2, -1)
    }
}

impl Optimizer for Muon {
    type State<const D: usize> = MuonState<D>;

    fn step<const D: usize>(
        &self,
        rate: LearningRate,
        matrix: Tensor<D>,
        gradient: Tensor<D>,
        state: Option<MuonState<D>>,
    ) -> (Tensor<D>, Option<MuonState<D>>) {
        // PyTorch's running mean is this sum times 1 - momentum, which the orthogonal matrix does not depend on.
        let (direction, momentum) = self.momentum.transform(gradient, state.map(|state| state.momentum));
        let directions = direction.split_with_sizes(self.outputs.clone(), -1);
        let changes = directions.into_iter().map(|direction| self.change(rate, direction)).collect();
        let kept = matrix.mul_scalar(1.0 - rate * self.weight_decay);
        (kept + Tensor::cat(changes, -1), Some(MuonState::new(momentum)))
    }

    fn to_device<const D: usize>(state: MuonState<D>, device: &Device) -> MuonState<D> {
        Orthogonalize::to_device(state, device)
    }
}
