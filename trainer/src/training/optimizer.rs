//! The optimizers: a rule for each parameter, the global gradient norm, and a state that can be saved.
//!
//! The state is kept by the parameters' order, not by burn's parameter ids, which are new in every process; burn's own
//! `ModuleOptimizer` also restores on the default device, which a CUDA build takes for a GPU whether there is one or not.

mod muon;
mod rule;

use std::collections::BTreeMap;

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    optim::{DynState, GradientsParams, StateSink, StateSource},
    tensor::{Device, FloatDType, Tensor, TensorData},
};
use burn_fused_ops::{is_fused, sum_of_squares};
use safetensors::SafeTensors;
use stoker_crds::training::optimize::{Optimizer as Spec, WeightDecayOn};

pub(super) use self::rule::Rule;
use crate::model::{HostTensor, HostTensors, ModelError, Network, check, values};

/// What PyTorch's `clip_grad_norm_` adds to the norm that it divides by.
const CLIP_EPSILON: f64 = 1e-6;

/// An optimizer with its state.
#[derive(Clone)]
pub(super) struct Optimizer {
    /// In the order of the module.
    parameters: Vec<Parameter>,
}

/// How one parameter follows its gradient.
#[derive(Clone)]
struct Parameter {
    shape: Vec<usize>,
    rule: Rule,
    /// Of one that is not learned there is none.
    state: Option<DynState>,
}

/// How many numbers an optimizer keeps for each weight; of matrices, where it keeps more for other weights.
pub(super) fn states_per_weight(spec: &Spec) -> u32 {
    match spec {
        Spec::Sgd(sgd) => u32::from(sgd.momentum > 0.0),
        Spec::Adam(_) | Spec::AdamW(_) => 2,
        Spec::Lion(_) | Spec::Muon(_) => 1,
        Spec::Adafactor(_) => 0,
    }
}

impl Optimizer {
    /// An optimizer for a model that has taken no step.
    pub(super) fn new(spec: &Spec, decay_on: WeightDecayOn, model: &Network) -> Self {
        let parameters = model.parameters().into_iter().map(|parameter| {
            let rule = Rule::new(spec, decay_on, &parameter.role);
            Parameter { shape: parameter.shape, rule, state: None }
        });
        Self { parameters: parameters.collect() }
    }

    /// Takes one step against the gradients, whose global norm is first scaled down to `clip`, if given. Weights that nobody
    /// else holds are changed where they lie.
    ///
    /// A parameter without a gradient stays as it is.
    pub(super) fn step(&mut self, model: &mut Network, gradients: GradientsParams, rate: f64, clip: Option<f64>) {
        let scale = clip.and_then(|norm| clip_scale(model, &gradients, norm));
        let before = std::mem::take(model);
        *model = before.map(&mut Update { parameters: self.parameters.iter_mut(), gradients, rate, scale });
    }

    /// The state as named tensors (`<parameter>.<name>`, parameters counted from 0) and counters.
    pub(super) fn to_parts(&self) -> (HostTensors, BTreeMap<String, u64>) {
        let mut sink = StateSink::default();
        for (index, Parameter { rule, state, .. }) in self.parameters.iter().enumerate() {
            if let Some(state) = state {
                rule.as_dyn().state_flatten(&index.to_string(), state, &mut sink);
            }
        }
        let tensors = sink.tensors.into_iter().map(|(name, data)| (name, HostTensor(data))).collect();
        let counter = |(name, scalar)| Some((name, u64::try_from(scalar).ok()?));
        (tensors, sink.scalars.into_iter().filter_map(counter).collect())
    }

    /// Takes over a state that [`Self::to_parts`] gave, for the parameters of a model.
    ///
    /// # Errors
    /// If a tensor does not have the shape that fits its parameter, or that of a learned parameter is missing.
    pub(super) fn restore(
        &mut self,
        model: &Network,
        tensors: &SafeTensors<'_>,
        counters: &BTreeMap<String, u64>,
        device: &Device,
    ) -> Result<(), ModelError> {
        let mut source =
            StateSource::new(counters.iter().map(|(name, count)| (name.clone(), (*count).into())).collect());
        for (name, view) in tensors.iter() {
            check(tensors, name, &self.state_shape(name).unwrap_or_default())?;
            source.insert_tensor(name.to_owned(), TensorData::new(values(&view), view.shape()));
        }
        let mut learned = Learned(Vec::new());
        model.visit(&mut learned);
        for (index, (parameter, is_learned)) in self.parameters.iter_mut().zip(learned.0).enumerate() {
            if is_learned {
                parameter.state = Some(parameter.restored(index, &mut source, device)?);
            }
        }
        Ok(())
    }

    /// The shape of a tensor of the state.
    fn state_shape(&self, name: &str) -> Option<Vec<usize>> {
        let (index, name) = name.split_once('.')?;
        let Parameter { shape, rule, .. } = self.parameters.get(index.parse::<usize>().ok()?)?;
        Some(rule.state_shape(name, shape))
    }
}

impl Parameter {
    fn restored(&self, index: usize, source: &mut StateSource, device: &Device) -> Result<DynState, ModelError> {
        let Self { shape, rule, .. } = self;
        let state = rule.as_dyn().state_unflatten(shape.len(), &index.to_string(), source, device);
        state.ok_or_else(|| ModelError::Mismatch {
            tensor: index.to_string(),
            expected: format!("the optimizer's state for shape {shape:?}"),
            found: "incomplete".into(),
        })
    }
}

/// What the gradients are to be multiplied with: `[1]`, at most 1, as PyTorch's `clip_grad_norm_`; `None` if it is known to be
/// 1.
///
/// burn clips each tensor by its own norm, which turns the direction of the step; this keeps it.
fn clip_scale(model: &Network, gradients: &GradientsParams, norm: f64) -> Option<Tensor<1>> {
    let total = squared_norm(model, gradients)?.sqrt();
    let scale = (total + CLIP_EPSILON).recip().mul_scalar(norm).clamp_max(1.0);
    // To look at a number of a GPU is to wait for it.
    let is_one = is_fused(&scale) && scale.clone().into_scalar::<f32>() == 1.0;
    (!is_one).then_some(scale)
}

/// The sum of the squares of all gradients, `[1]`; `None` if there is none.
pub(super) fn squared_norm(model: &Network, gradients: &GradientsParams) -> Option<Tensor<1>> {
    let mut squares = SquaredNorms { gradients, sums: Vec::new() };
    model.visit(&mut squares);
    squares.sums.into_iter().reduce(|sum, square| sum + square)
}

struct SquaredNorms<'a> {
    gradients: &'a GradientsParams,
    sums: Vec<Tensor<1>>,
}

impl ModuleVisitor for SquaredNorms<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.sums.extend(self.gradients.get::<D>(param.id).map(|gradient| sum_of_squares(wide(gradient))));
    }
}

/// In 32-bit floats, in which all of a step is computed: 16 bits have too few digits for running means.
fn wide<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    tensor.cast(FloatDType::F32)
}

/// Whether each parameter is learned.
struct Learned(Vec<bool>);

impl ModuleVisitor for Learned {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.push(param.base().is_require_grad());
    }
}

struct Update<'a> {
    parameters: std::slice::IterMut<'a, Parameter>,
    gradients: GradientsParams,
    rate: f64,
    scale: Option<Tensor<1>>,
}

impl ModuleMapper for Update<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(parameter) = self.parameters.next() else { return param };
        let Some(gradient) = self.gradients.remove::<D>(param.id) else { return param };
        let (id, value, mapper) = param.consume();
        let gradient = match &self.scale {
            Some(scale) => wide(gradient) * scale.clone().reshape([1; D]),
            None => wide(gradient),
        };
        let dtype = value.dtype();
        let (value, state) = parameter.rule.step(self.rate, wide(value.inner()), gradient, parameter.state.take());
        parameter.state = state;
        Param::from_mapped_value(id, Tensor::from_inner(value.cast(dtype)).require_grad(), mapper)
    }
}
