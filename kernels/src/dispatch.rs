//! From burn's tensors to an operation on a backend and back, with its backward in autodiff's graph.
//!
//! burn's macro `#[backend_extension]` would need an implementation for every backend that is compiled in, and for
//! fusion and cube ones the code of theirs; so the tensors are taken apart here by the public types that it uses too.

use std::{fmt::Debug, marker::PhantomData};

use burn::{
    backend::{
        Autodiff, AutodiffBackend, Backend, BackendTensor, DispatchAutodiffContext, DispatchKindConversion,
        DispatchTensor, DispatchTensorKind, Flex, GradientCheckpointingStrategy, TensorMetadata,
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

/// An operation on `N` tensors of a backend, with a backward of its own.
pub(crate) trait Operation<B: Backend, const N: usize>: Clone + Debug + Send + 'static {
    /// What its backward needs.
    type Saved: Clone + Debug + Send + 'static;

    /// The output, and what to save for the gradients that will be asked for, whatever the strategy for checkpoints.
    fn forward(&self, inputs: [FloatTensor<B>; N], needed: [bool; N]) -> (FloatTensor<B>, Self::Saved);

    /// The gradients with respect to the inputs, from that of the output. One that is not needed may be left out.
    fn backward(self, saved: Self::Saved, gradient: FloatTensor<B>, needed: [bool; N]) -> [Option<FloatTensor<B>>; N];
}

/// Runs an operation on flex, or gives the inputs back where it cannot run: not all of them are tensors of `f32` on flex.
pub(crate) fn run<O: Operation<Flex, N>, const N: usize>(
    operation: O,
    inputs: [DispatchTensor; N],
) -> Result<DispatchTensor, [DispatchTensor; N]> {
    match context(&inputs) {
        Some(context) if are_fused(&inputs) => Ok(on_backend::<Flex, O, N>(operation, inputs, context)),
        _ => Err(inputs),
    }
}

/// Whether the functions of this crate run their fused operations on such a tensor: one of `f32` on flex.
///
/// Its numbers are at hand, and what is saved for a backward is what the fused operations save.
pub fn is_fused<const D: usize>(tensor: &Tensor<D>) -> bool {
    are_fused(&[tensor.clone().into_dispatch()])
}

fn are_fused(tensors: &[DispatchTensor]) -> bool {
    backend(tensors) == Some(Compiled::Flex) && tensors.iter().all(|tensor| tensor.dtype() == DType::F32)
}

/// The tensors without autodiff, if all are of `f32` on flex.
pub(crate) fn on_flex<const N: usize>(inputs: [DispatchTensor; N]) -> Result<[FlexTensor; N], [DispatchTensor; N]> {
    match context(&inputs) {
        Some(DispatchAutodiffContext::Disabled) if are_fused(&inputs) => Ok(inputs.map(unwrapped::<Flex>)),
        _ => Err(inputs),
    }
}

/// Whether and how an operation on these is differentiated; `None` if their strategies differ, which burn's own operations
/// refuse.
pub(crate) fn context(inputs: &[DispatchTensor]) -> Option<DispatchAutodiffContext> {
    inputs.iter().try_fold(DispatchAutodiffContext::Disabled, |context, input| match [context, input.autodiff] {
        [same, DispatchAutodiffContext::Disabled] | [DispatchAutodiffContext::Disabled, same] => Some(same),
        [a, b] => (a == b).then_some(a),
    })
}

/// A backend that this crate is compiled for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compiled {
    Flex,
    #[cfg(feature = "gpu")]
    Cube,
}

/// The backend that all of the tensors are of.
pub(crate) fn backend(tensors: &[DispatchTensor]) -> Option<Compiled> {
    let mut backends = tensors.iter().map(|tensor| compiled(&tensor.kind));
    let first = backends.next()?;
    if backends.all(|other| other == first) { first } else { None }
}

fn compiled(kind: &DispatchTensorKind) -> Option<Compiled> {
    match kind {
        DispatchTensorKind::Autodiff(inner) => compiled(inner),
        DispatchTensorKind::Flex(_) => Some(Compiled::Flex),
        #[cfg(feature = "gpu")]
        DispatchTensorKind::Cube(_) => Some(Compiled::Cube),
        #[allow(unreachable_patterns, reason = "there are others where other backends are compiled in")]
        _ => None,
    }
}

/// Runs an operation on tensors that are all of that backend, and differentiated as [`context`] says.
pub(crate) fn on_backend<B: Backend, O: Operation<B, N>, const N: usize>(
    operation: O,
    inputs: [DispatchTensor; N],
    context: DispatchAutodiffContext,
) -> DispatchTensor
where
    DispatchTensor: DispatchKindConversion<B>
        + DispatchKindConversion<Autodiff<B, NoCheckpointing>>
        + DispatchKindConversion<Autodiff<B, BalancedCheckpointing>>,
{
    match context {
        DispatchAutodiffContext::Disabled => {
            let (output, _) = operation.forward(inputs.map(unwrapped::<B>), [false; N]);
            wrapped::<B>(output)
        }
        DispatchAutodiffContext::Enabled(GradientCheckpointingStrategy::Disabled) => {
            differentiable::<B, O, NoCheckpointing, N>(operation, inputs)
        }
        DispatchAutodiffContext::Enabled(GradientCheckpointingStrategy::Balanced) => {
            differentiable::<B, O, BalancedCheckpointing, N>(operation, inputs)
        }
    }
}

/// A backend's tensor as burn hands it round.
pub(crate) fn wrapped<B: Backend>(tensor: FloatTensor<B>) -> DispatchTensor
where
    DispatchTensor: DispatchKindConversion<B>,
{
    <DispatchTensor as DispatchKindConversion<B>>::from_backend(BackendTensor::Float(tensor))
}

/// A tensor that was found on a backend.
pub(crate) fn unwrapped<B: Backend>(tensor: DispatchTensor) -> FloatTensor<B>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    match <DispatchTensor as DispatchKindConversion<B>>::try_into_backend(tensor) {
        Ok(tensor) => tensor.float(),
        Err(error) => unreachable!("the tensor was found on the backend: {error}"),
    }
}

/// The tensor in autodiff's hands; a constant, if it was not.
fn tracked<B: Backend, C: CheckpointStrategy>(tensor: DispatchTensor) -> FloatTensor<Autodiff<B, C>>
where
    DispatchTensor: DispatchKindConversion<B> + DispatchKindConversion<Autodiff<B, C>>,
{
    match tensor.autodiff {
        DispatchAutodiffContext::Disabled => <Autodiff<B, C> as AutodiffBackend>::from_inner(unwrapped::<B>(tensor)),
        DispatchAutodiffContext::Enabled(_) => unwrapped::<Autodiff<B, C>>(tensor),
    }
}

fn differentiable<B: Backend, O: Operation<B, N>, C: CheckpointStrategy, const N: usize>(
    operation: O,
    inputs: [DispatchTensor; N],
) -> DispatchTensor
where
    DispatchTensor: DispatchKindConversion<B> + DispatchKindConversion<Autodiff<B, C>>,
{
    let inputs = inputs.map(tracked::<B, C>);
    let nodes = inputs.each_ref().map(|input| input.node());
    let needed = inputs.each_ref().map(|input| input.is_tracked());
    let step = <Step<O> as Backward<B, N>>::prepare::<C>(Step(PhantomData), nodes).compute_bound();
    let (output, saved) = operation.forward(inputs.map(|input| input.into_primitive()), needed);
    let output = match step.stateful() {
        OpsKind::Tracked(step) => step.finish((operation, saved), output),
        OpsKind::UnTracked(step) => step.finish(output),
    };
    wrapped::<Autodiff<B, C>>(output)
}

/// The backward of an operation, as a step of autodiff's graph.
struct Step<O>(PhantomData<O>);

impl<O> Debug for Step<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Step")
    }
}

impl<B: Backend, O: Operation<B, N>, const N: usize> Backward<B, N> for Step<O> {
    type State = (O, O::Saved);

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (operation, saved) = ops.state;
        let gradient = grads.consume::<B>(&ops.node);
        let needed = ops.parents.each_ref().map(Option::is_some);
        let gradients = operation.backward(saved, gradient, needed);
        for (parent, gradient) in ops.parents.into_iter().zip(gradients) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                grads.register::<B>(parent.id, gradient);
            }
        }
    }
}
