//! From burn's tensors to an operation on flex and back, with its backward in autodiff's graph.
//!
//! burn's macro `#[backend_extension]` would need an implementation for every backend that is compiled in, and for
//! fusion and cube ones the code of theirs; so the tensors are taken apart here by the public types that it uses too.

use std::{fmt::Debug, marker::PhantomData};

use burn::{
    backend::{
        Autodiff, AutodiffBackend, BackendTensor, DispatchAutodiffContext, DispatchKindConversion, DispatchTensor,
        DispatchTensorKind, Flex, GradientCheckpointingStrategy, TensorMetadata,
        autodiff::{
            checkpoint::{
                base::Checkpointer,
                strategy::{BalancedCheckpointing, CheckpointStrategy, NoCheckpointing},
            },
            grads::Gradients,
            ops::{Backward, Ops, OpsKind},
        },
        flex::FlexTensor,
        tensor::FloatTensor,
    },
    tensor::{DType, Tensor},
};

/// An operation on `N` tensors of `f32` on flex, with a backward of its own.
pub(crate) trait Fused<const N: usize>: Clone + Debug + Send + 'static {
    /// What its backward needs.
    type Saved: Clone + Debug + Send + 'static;

    /// The output, and what to save for the gradients that will be asked for, whatever the strategy for checkpoints:
    /// nothing here is cheap to compute again.
    fn forward(&self, inputs: [FlexTensor; N], needed: [bool; N]) -> (FlexTensor, Self::Saved);

    /// The gradients with respect to the inputs, from that of the output. One that is not needed may be left out.
    fn backward(self, saved: Self::Saved, gradient: FlexTensor, needed: [bool; N]) -> [Option<FlexTensor>; N];
}

/// Runs the operation, or gives the inputs back where it cannot run: not all of them are tensors of `f32` on flex.
pub(crate) fn run<O: Fused<N>, const N: usize>(
    operation: O,
    inputs: [DispatchTensor; N],
) -> Result<DispatchTensor, [DispatchTensor; N]> {
    match context(&inputs) {
        None => Err(inputs),
        Some(DispatchAutodiffContext::Disabled) => {
            let (output, _) = operation.forward(inputs.map(plain), [false; N]);
            Ok(<DispatchTensor as DispatchKindConversion<Flex>>::from_backend(BackendTensor::Float(output)))
        }
        Some(DispatchAutodiffContext::Enabled(strategy)) => Ok(match strategy {
            GradientCheckpointingStrategy::Disabled => differentiable::<O, NoCheckpointing, N>(operation, inputs),
            GradientCheckpointingStrategy::Balanced => differentiable::<O, BalancedCheckpointing, N>(operation, inputs),
        }),
    }
}

/// Whether the functions of this crate run their fused operations on such a tensor: one of `f32` on flex.
///
/// Its numbers are at hand, and what is saved for a backward is what the fused operations save.
pub fn is_fused<const D: usize>(tensor: &Tensor<D>) -> bool {
    context(&[tensor.clone().into_dispatch()]).is_some()
}

/// The tensors without autodiff, if all are of `f32` on flex.
pub(crate) fn on_flex<const N: usize>(inputs: [DispatchTensor; N]) -> Result<[FlexTensor; N], [DispatchTensor; N]> {
    match context(&inputs) {
        Some(DispatchAutodiffContext::Disabled) => Ok(inputs.map(plain)),
        _ => Err(inputs),
    }
}

/// Whether and how an operation on these is differentiated; `None` if not all are of `f32` on flex, or their strategies
/// differ, which burn's own operations refuse.
fn context(inputs: &[DispatchTensor]) -> Option<DispatchAutodiffContext> {
    inputs.iter().try_fold(DispatchAutodiffContext::Disabled, |context, input| {
        if !is_on_flex(&input.kind) {
            return None;
        }
        match [context, input.autodiff] {
            [same, DispatchAutodiffContext::Disabled] | [DispatchAutodiffContext::Disabled, same] => Some(same),
            [a, b] => (a == b).then_some(a),
        }
    })
}

fn is_on_flex(kind: &DispatchTensorKind) -> bool {
    match kind {
        DispatchTensorKind::Flex(BackendTensor::Float(_) | BackendTensor::Autodiff(_)) => kind.dtype() == DType::F32,
        DispatchTensorKind::Autodiff(inner) => is_on_flex(inner),
        _ => false,
    }
}

/// A tensor that [`context`] has found on flex.
fn on_flex_kind(kind: DispatchTensorKind) -> BackendTensor<Flex> {
    match kind {
        DispatchTensorKind::Flex(tensor) => tensor,
        DispatchTensorKind::Autodiff(inner) => on_flex_kind(*inner),
        #[allow(unreachable_patterns, reason = "there are others where other backends are compiled in")]
        _ => unreachable!("the tensor was found on flex"),
    }
}

fn plain(tensor: DispatchTensor) -> FlexTensor {
    on_flex_kind(tensor.kind).float()
}

/// The tensor in autodiff's hands; a constant, if it was not.
fn tracked<C: CheckpointStrategy>(tensor: DispatchTensor) -> FloatTensor<Autodiff<Flex, C>> {
    match on_flex_kind(tensor.kind) {
        BackendTensor::Autodiff(tensor) => tensor,
        constant => <Autodiff<Flex, C> as AutodiffBackend>::from_inner(constant.float()),
    }
}

fn differentiable<O: Fused<N>, C: CheckpointStrategy, const N: usize>(
    operation: O,
    inputs: [DispatchTensor; N],
) -> DispatchTensor
where
    DispatchTensor: DispatchKindConversion<Autodiff<Flex, C>>,
{
    let inputs = inputs.map(tracked::<C>);
    let nodes = inputs.each_ref().map(|input| input.node());
    let needed = inputs.each_ref().map(|input| input.is_tracked());
    let step = <Step<O> as Backward<Flex, N>>::prepare::<C>(Step(PhantomData), nodes).compute_bound();
    let (output, saved) = operation.forward(inputs.map(|input| input.into_primitive()), needed);
    let output = match step.stateful() {
        OpsKind::Tracked(step) => step.finish((operation, saved), output),
        OpsKind::UnTracked(step) => step.finish(output),
    };
    <DispatchTensor as DispatchKindConversion<Autodiff<Flex, C>>>::from_backend(BackendTensor::Float(output))
}

/// The backward of an operation, as a step of autodiff's graph.
struct Step<O>(PhantomData<O>);

impl<O> Debug for Step<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Step")
    }
}

impl<O: Fused<N>, const N: usize> Backward<Flex, N> for Step<O> {
    type State = (O, O::Saved);

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (operation, saved) = ops.state;
        let gradient = grads.consume::<Flex>(&ops.node);
        let needed = ops.parents.each_ref().map(Option::is_some);
        let gradients = operation.backward(saved, gradient, needed);
        for (parent, gradient) in ops.parents.into_iter().zip(gradients) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                grads.register::<Flex>(parent.id, gradient);
            }
        }
    }
}
