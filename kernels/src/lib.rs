//! Fused operations for training decoder language models with burn on a CPU.
//!
//! Under autodiff burn composes an activation, a normalization, attention or a loss of elementary operations, and each
//! of them walks through memory once forward and once backward. Here each is one operation with a backward of its own.
//!
//! The functions take and return burn's [`Tensor`](burn::tensor::Tensor)s. Where all float inputs are `f32` on the
//! backend flex, with or without autodiff, the fused operation runs, on all threads of the current rayon pool;
//! everywhere else (CUDA, fusion, other precisions) burn's own operations, as in [`reference`]. So the same model runs
//! on every device.
//!
//! The results are the same to the last bit each time, however many threads there are: the work is cut into pieces by
//! the shapes alone, and partial sums are added in order. They differ from the composed operations by rounding.
//!
//! Wrong shapes panic, as with burn's own operations. Only first derivatives exist, as with burn's autodiff.

mod activation;
mod adam;
mod attention;
mod cross_entropy;
mod dispatch;
mod dropout;
mod linear;
mod math;
mod matrix;
mod norm;
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
