//! Operations with a backward of their own, for training decoder language models with burn.
//!
//! Under autodiff burn composes an activation, a normalization, attention or a loss of elementary operations: each of them
//! walks through memory once forward and once backward, and keeps what its own backward needs. Here each is one operation.
//!
//! The functions take and return burn's [`Tensor`](burn::tensor::Tensor)s. Where all float inputs are `f32` on the
//! backend flex, with or without autodiff, a fused operation runs, on all threads of the current rayon pool. Everywhere
//! else (CUDA, Vulkan, other precisions) it is composed of burn's own operations, of which burn's fusion makes kernels, and
//! has a backward of its own where that keeps less: see [`composed`]. So the same model runs on every device.
//!
//! [`Adam`] and [`AdamW`] have a kernel of their own on a GPU too.
//!
//! The results are the same to the last bit each time, however many threads there are: the work is cut into pieces by
//! the shapes alone, and partial sums are added in order. They differ from the composed operations by rounding.
//!
//! Wrong shapes panic, as with burn's own operations. Only first derivatives exist, as with burn's autodiff.

mod activation;
mod adam;
mod attention;
pub mod composed;
mod cross_entropy;
mod dispatch;
mod dropout;
mod linear;
mod math;
mod matrix;
mod norm;
#[doc(hidden)] // what the tests and the example measure by
pub mod reference;
mod rotation;
mod squares;
mod storage;
#[cfg(test)]
mod tests;

pub use activation::{gelu, gelu_tanh, swiglu};
pub use adam::{Adam, AdamW};
pub use attention::{causal_attention, causal_self_attention};
pub use cross_entropy::{cross_entropy, linear_cross_entropy};
pub use dispatch::is_fused;
pub use dropout::dropout;
pub use linear::linear;
pub use norm::{layer_norm, rms_norm};
pub use rotation::rotate;
pub use squares::sum_of_squares;
