//! How one parameter follows its gradient: burn's rules with PyTorch's meaning.

use burn::{
    optim::{
        Adafactor, AdafactorConfig, DynOptimizer, DynState, LearningRate, Lion, LionConfig, Optimizer as Step, Sgd,
        SgdConfig, decay::WeightDecayConfig, momentum::MomentumConfig,
    },
    tensor::Tensor,
};
use burn_fused_ops::{Adam, AdamW};
use stoker_crds::training::optimize::{self as spec, Optimizer as Spec, WeightDecayOn};

use super::muon::Muon;
use crate::model::Role;

/// What Adafactor adds to squared gradients, and the least root mean square of weights that its steps are relative to:
/// ε₁ and ε₂ of Shazeer and Stern (2018).
const ADAFACTOR_EPSILONS: (f32, f32) = (1e-30, 1e-3);

/// How one parameter follows its gradient.
#[derive(Clone)]
pub(in crate::training) enum Rule {
    Sgd(Sgd),
    Adam(Adam),
    AdamW {
        rule: AdamW,
        /// Its learning rate, for a learning rate of 1 of the optimizer.
        rate: f64,
    },
    Lion(Lion),
    Adafactor(Adafactor),
    Muon(Muon),
}

impl Rule {
    /// The rule of an optimizer for a parameter of that role.
    pub(in crate::training) fn new(spec: &Spec, decay_on: WeightDecayOn, role: &Role) -> Self {
        let decays = decay_on == WeightDecayOn::All || *role != Role::Vector;
        let decay = |weight_decay: f64| if decays { weight_decay } else { 0.0 };
        let l2 = |penalty: f64| (decay(penalty) > 0.0).then(|| WeightDecayConfig::new(penalty as f32));
        let adam_w = |adam: &spec::AdamW| AdamW {
            beta_1: adam.beta1 as f32,
            beta_2: adam.beta2 as f32,
            epsilon: adam.epsilon as f32,
            weight_decay: decay(adam.weight_decay) as f32,
        };
        match spec {
            Spec::Sgd(sgd) => {
                let momentum = MomentumConfig::new().with_momentum(sgd.momentum).with_nesterov(sgd.nesterov);
                // burn's default dampens by 0.1, PyTorch's not at all.
                let momentum = (sgd.momentum > 0.0).then(|| momentum.with_dampening(0.0));
                Self::Sgd(SgdConfig::new().with_weight_decay(l2(sgd.weight_decay)).with_momentum(momentum).build())
            }
            Spec::Adam(adam) => Self::Adam(Adam {
                beta_1: adam.beta1 as f32,
                beta_2: adam.beta2 as f32,
                epsilon: adam.epsilon as f32,
                penalty: decay(adam.weight_decay) as f32,
            }),
            Spec::AdamW(adam) => Self::AdamW { rule: adam_w(adam), rate: 1.0 },
            Spec::Lion(lion) => Self::Lion(
                LionConfig::new()
                    .with_beta_1(lion.beta1 as f32)
                    .with_beta_2(lion.beta2 as f32)
                    .with_weight_decay(decay(lion.weight_decay) as f32)
                    .build(),
            ),
            Spec::Adafactor(adafactor) => Self::Adafactor(
                AdafactorConfig::new()
                    .with_epsilon_1(ADAFACTOR_EPSILONS.0)
                    .with_epsilon_2(ADAFACTOR_EPSILONS.1)
                    .with_clip_threshold(adafactor.clip_threshold as f32)
                    .with_decay_rate(adafactor.beta2_decay)
                    .with_relative_step(true)
                    .with_scale_parameter(true)
                    .with_weight_decay(decay(adafactor.weight_decay) as f32)
                    .build(),
            ),
            Spec::Muon(muon) => match role {
                Role::Hidden { outputs } => Self::Muon(Muon::new(muon, outputs.clone())),
                Role::Embedding | Role::Head | Role::Vector => {
                    Self::AdamW { rule: adam_w(&muon.adam_w), rate: muon.adam_w.learning_rate / muon.learning_rate }
                }
            },
        }
    }

    /// A parameter and its state after one step against its gradient.
    pub(in crate::training) fn step<const D: usize>(
        &self,
        rate: LearningRate,
        value: Tensor<D>,
        gradient: Tensor<D>,
        state: Option<DynState>,
    ) -> (Tensor<D>, Option<DynState>) {
        match self {
            Self::Sgd(rule) => step(rule, rate, value, gradient, state),
            Self::Adam(rule) => step(rule, rate, value, gradient, state),
            Self::AdamW { rule, rate: share } => step(rule, rate * share, value, gradient, state),
            Self::Lion(rule) => step(rule, rate, value, gradient, state),
            Self::Adafactor(rule) => step(rule, rate, value, gradient, state),
            Self::Muon(rule) => step(rule, rate, value, gradient, state),
        }
    }

    pub(super) fn as_dyn(&self) -> &dyn DynOptimizer {
        match self {
            Self::Sgd(rule) => rule,
            Self::Adam(rule) => rule,
            Self::AdamW { rule, .. } => rule,
            Self::Lion(rule) => rule,
            Self::Adafactor(rule) => rule,
            Self::Muon(rule) => rule,
        }
    }

    /// The shape of a tensor of the state of a parameter of that shape.
    pub(super) fn state_shape(&self, name: &str, parameter: &[usize]) -> Vec<usize> {
        match (self, name, parameter) {
            // Of a matrix Adafactor keeps a mean for each row and one for each column.
            (Self::Adafactor(_), "second_moment", [rest @ .., rows, _]) => [rest, &[*rows, 1]].concat(),
            (Self::Adafactor(_), "column_second_moment", [rest @ .., _, columns]) => [rest, &[1, *columns]].concat(),
            _ => parameter.to_vec(),
        }
    }
}

fn step<R: Step, const D: usize>(
    rule: &R,
    rate: LearningRate,
    value: Tensor<D>,
    gradient: Tensor<D>,
    state: Option<DynState>,
) -> (Tensor<D>, Option<DynState>) {
    let state = state.map(DynState::downcast::<R::State<D>>);
    let (value, state) = rule.step(rate, value, gradient, state);
    (value, state.map(|state| DynState::create(state, D)))
}
