//! The optimizers: burn's rules with PyTorch's meaning, the global gradient norm, and a state that can be saved.
//!
//! The state is kept by the parameters' order, not by burn's parameter ids, which are new in every process; burn's own
//! `ModuleOptimizer` also restores on the default device, which a CUDA build takes for a GPU whether there is one or not.

use std::collections::BTreeMap;

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    optim::{
        Adam, AdamConfig, DynOptimizer, DynState, Optimizer as Rule, Sgd, SgdConfig, StateSink, StateSource,
        decay::WeightDecayConfig, momentum::MomentumConfig,
    },
    tensor::{Device, Gradients, Tensor, TensorData},
};
use burn_fused_ops::AdamW;
use safetensors::SafeTensors;
use stoker_crds::training::optimize::Optimizer as Spec;

use crate::model::{HostTensor, HostTensors, ModelError, Network, check, values};

/// What PyTorch's `clip_grad_norm_` adds to the norm that it divides by.
const CLIP_EPSILON: f64 = 1e-6;

/// An optimizer with its state.
#[derive(Clone)]
pub(super) struct Optimizer {
    rule: AnyRule,
    /// One per parameter, in the order of the module.
    states: Vec<Option<DynState>>,
}

#[derive(Clone)]
enum AnyRule {
    Sgd(Sgd),
    Adam(Adam),
    AdamW(AdamW),
}

/// The learning rate before any schedule.
pub(super) fn base_rate(spec: &Spec) -> f64 {
    match spec {
        Spec::Sgd(sgd) => sgd.learning_rate,
        Spec::Adam(adam) => adam.learning_rate,
        Spec::AdamW(adam) => adam.learning_rate,
    }
}

/// How many numbers an optimizer keeps for each weight.
pub(super) fn states_per_weight(spec: &Spec) -> u32 {
    match spec {
        Spec::Sgd(sgd) => u32::from(sgd.momentum > 0.0),
        Spec::Adam(_) | Spec::AdamW(_) => 2,
    }
}

impl Optimizer {
    /// An optimizer that has taken no step.
    pub(super) fn new(spec: &Spec) -> Self {
        let l2 = |penalty: f64| (penalty > 0.0).then(|| WeightDecayConfig::new(penalty as f32));
        let rule = match spec {
            Spec::Sgd(sgd) => {
                let momentum = MomentumConfig::new().with_momentum(sgd.momentum).with_nesterov(sgd.nesterov);
                // burn's default dampens by 0.1, PyTorch's not at all.
                let momentum = (sgd.momentum > 0.0).then(|| momentum.with_dampening(0.0));
                AnyRule::Sgd(SgdConfig::new().with_weight_decay(l2(sgd.weight_decay)).with_momentum(momentum).build())
            }
            Spec::Adam(adam) => AnyRule::Adam(
                AdamConfig::new()
                    .with_beta_1(adam.beta1 as f32)
                    .with_beta_2(adam.beta2 as f32)
                    .with_epsilon(adam.epsilon as f32)
                    .with_weight_decay(l2(adam.weight_decay))
                    .build(),
            ),
            Spec::AdamW(adam) => AnyRule::AdamW(AdamW {
                beta_1: adam.beta1 as f32,
                beta_2: adam.beta2 as f32,
                epsilon: adam.epsilon as f32,
                weight_decay: adam.weight_decay as f32,
            }),
        };
        Self { rule, states: Vec::new() }
    }

    /// The model after one step against the gradients, whose global norm is first scaled down to `clip`, if given.
    pub(super) fn step(&mut self, model: Network, mut gradients: Gradients, rate: f64, clip: Option<f64>) -> Network {
        let scale = clip.and_then(|norm| clip_scale(&model, &mut gradients, norm));
        let Self { rule, states } = self;
        match rule {
            AnyRule::Sgd(rule) => update(rule, states, model, gradients, rate, scale),
            AnyRule::Adam(rule) => update(rule, states, model, gradients, rate, scale),
            AnyRule::AdamW(rule) => update(rule, states, model, gradients, rate, scale),
        }
    }

    fn dyn_rule(&self) -> &dyn DynOptimizer {
        match &self.rule {
            AnyRule::Sgd(rule) => rule,
            AnyRule::Adam(rule) => rule,
            AnyRule::AdamW(rule) => rule,
        }
    }

    /// The state as named tensors (`<parameter>.<name>`, parameters counted from 0) and counters.
    pub(super) fn to_parts(&self) -> (HostTensors, BTreeMap<String, u64>) {
        let mut sink = StateSink::default();
        for (index, state) in self.states.iter().enumerate() {
            if let Some(state) = state {
                self.dyn_rule().state_flatten(&index.to_string(), state, &mut sink);
            }
        }
        let tensors = sink.tensors.into_iter().map(|(name, data)| (name, HostTensor(data))).collect();
        let counter = |(name, scalar)| Some((name, u64::try_from(scalar).ok()?));
        (tensors, sink.scalars.into_iter().filter_map(counter).collect())
    }

    /// Takes over a state that [`Self::to_parts`] gave, for the parameters of a model.
    ///
    /// # Errors
    /// If a tensor does not have the shape of its parameter, or is missing.
    pub(super) fn restore(
        &mut self,
        model: &Network,
        tensors: &SafeTensors<'_>,
        counters: &BTreeMap<String, u64>,
        device: &Device,
    ) -> Result<(), ModelError> {
        let mut shapes = Shapes(Vec::new());
        model.visit(&mut shapes);
        let mut source =
            StateSource::new(counters.iter().map(|(name, count)| (name.clone(), (*count).into())).collect());
        for (name, view) in tensors.iter() {
            let shape = name.split_once('.').and_then(|(index, _)| shapes.0.get(index.parse::<usize>().ok()?));
            check(tensors, name, shape.map(Vec::as_slice).unwrap_or_default())?;
            source.insert_tensor(name.to_owned(), TensorData::new(values(&view), view.shape()));
        }
        let states = shapes.0.iter().enumerate().map(|(index, shape)| {
            let state = self.dyn_rule().state_unflatten(shape.len(), &index.to_string(), &mut source, device);
            state.map(Some).ok_or_else(|| ModelError::Mismatch {
                tensor: index.to_string(),
                expected: format!("the optimizer's state for shape {shape:?}"),
                found: "incomplete".into(),
            })
        });
        self.states = states.collect::<Result<_, _>>()?;
        Ok(())
    }
}

/// What the gradients are to be multiplied with: `[1]`, at most 1, as PyTorch's `clip_grad_norm_`.
///
/// burn clips each tensor by its own norm, which turns the direction of the step; this keeps it.
fn clip_scale(model: &Network, gradients: &mut Gradients, norm: f64) -> Option<Tensor<1>> {
    let mut squares = SquaredNorms { gradients, sums: Vec::new() };
    model.visit(&mut squares);
    let total = squares.sums.into_iter().reduce(|sum, square| sum + square)?.sqrt();
    Some((total + CLIP_EPSILON).recip().mul_scalar(norm).clamp_max(1.0))
}

struct SquaredNorms<'a> {
    gradients: &'a Gradients,
    sums: Vec<Tensor<1>>,
}

impl ModuleVisitor for SquaredNorms<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.sums.extend(param.val().grad(self.gradients).map(|gradient| gradient.square().sum()));
    }
}

struct Shapes(Vec<Vec<usize>>);

impl ModuleVisitor for Shapes {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.push(param.val().dims().to_vec());
    }
}

fn update<R: Rule>(
    rule: &R,
    states: &mut Vec<Option<DynState>>,
    model: Network,
    gradients: Gradients,
    rate: f64,
    scale: Option<Tensor<1>>,
) -> Network {
    model.map(&mut Update { rule, states, gradients, rate, scale, index: 0 })
}

struct Update<'a, R> {
    rule: &'a R,
    states: &'a mut Vec<Option<DynState>>,
    gradients: Gradients,
    rate: f64,
    scale: Option<Tensor<1>>,
    index: usize,
}

impl<R: Rule> ModuleMapper for Update<'_, R> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let index = self.index;
        self.index += 1;
        if self.states.len() <= index {
            self.states.push(None);
        }
        let (id, value, mapper) = param.consume();
        let Some(gradient) = value.grad_remove(&mut self.gradients) else {
            return Param::from_mapped_value(id, value, mapper);
        };
        let gradient = match &self.scale {
            Some(scale) => gradient * scale.clone().reshape([1; D]),
            None => gradient,
        };
        let state = self.states[index].take().map(DynState::downcast::<R::State<D>>);
        let (value, state) = self.rule.step(self.rate, value.inner(), gradient, state);
        self.states[index] = state.map(|state| DynState::create(state, D));
        Param::from_mapped_value(id, Tensor::from_inner(value).require_grad(), mapper)
    }
}
