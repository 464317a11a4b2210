//! The operations of the models, on every device and in every precision: fused where there is a kernel, else composed of
//! burn's own. The layers above know nothing of how they are computed.

use burn::{
    module::Param,
    nn::{Dropout, Linear},
    tensor::{Device, FloatDType, Int, Tensor, module},
};
use burn_fused_ops::is_fused;
pub(super) use burn_fused_ops::{
    causal_self_attention,
    composed::{CHUNK_LOGITS, TILE_SCORES},
    gelu, gelu_tanh, layer_norm, linear_cross_entropy, rms_norm, swiglu,
};

/// Whether the operations on a device are fused ones.
pub(super) fn are_fused(device: &Device) -> bool {
    is_fused(&Tensor::<1>::zeros([1], device))
}

/// The rows of `table`, `[rows, width]`, that `indices`, `[batch, length]`, name: `[batch, length, width]`.
///
/// A row's gradient is the sum over all places that name it, which is taken in 32-bit floats.
pub(crate) fn embedding(table: Tensor<2>, indices: Tensor<2, Int>) -> Tensor<3> {
    let dtype = table.dtype();
    module::embedding(table.cast(FloatDType::F32), indices).cast(dtype)
}

/// `[…, inputs]` → `[…, outputs]`: x · weight + bias.
pub(crate) fn linear<const D: usize>(layer: &Linear, x: Tensor<D>) -> Tensor<D> {
    burn_fused_ops::linear(x, layer.weight.val(), layer.bias.as_ref().map(Param::val))
}

/// Units set to 0 at random, on a device with autodiff alone, and the others divided by the probability that they stay.
pub(crate) fn dropout<const D: usize>(layer: &Dropout, x: Tensor<D>) -> Tensor<D> {
    let is_active = layer.prob > 0.0 && layer.training.is_enabled() && x.is_autodiff();
    if is_active { burn_fused_ops::dropout(x, layer.prob) } else { x }
}
