//! Activation checkpointing (Chen et al., 2016): the gradients of a transformer of which only the inputs of the blocks are
//! kept.
//!
//! burn's own gradient checkpointing computes cheap operations again, one by one, and keeps what goes into all others. Here
//! the graph is cut at the blocks, and each piece is built when its gradients are due: a piece's output times the gradient
//! that has arrived there, summed up, has the same gradients as the loss.

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{FloatDType, Gradients, Int, Tensor},
};

use super::{Block, Transformer, loss};
use crate::model::precision::{cast, scaled};

/// How [`Transformer::loss_by_blocks`] computes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recompute {
    /// What is computed in.
    pub(crate) dtype: FloatDType,
    /// What the loss is multiplied with before the backward pass, if it is.
    pub(crate) scale: Option<f32>,
    /// Decides which units are dropped out.
    pub(crate) seed: u64,
}

impl Transformer {
    /// [`Self::loss`], `[1]`, without a graph, and its gradients with respect to the parameters, times a scale.
    ///
    /// The arguments are those of [`Self::loss`], on a device with autodiff. In memory are, at a time, what goes into each
    /// block and the activations of one of them. Each block is computed twice, and drops out the same units both times.
    pub(crate) fn loss_by_blocks(
        &self,
        tokens: Tensor<2, Int>,
        targets: Tensor<2, Int>,
        weights: Tensor<2>,
        how: Recompute,
    ) -> (Tensor<1>, Gradients) {
        let angles = self.angles(&tokens);
        let seed = |piece: usize| {
            // To seed a GPU is to wait for it.
            if self.drops_out() {
                tokens.device().seed(how.seed.wrapping_add(piece as u64));
            }
        };
        let compute = |index: usize, block: Block, x: Tensor<3>| {
            seed(index + 1);
            cast(block, how.dtype).forward(x, angles.as_ref())
        };
        let embed = |is_learned: bool| {
            seed(0);
            let value = |param: &Param<Tensor<2>>| {
                let value = param.val();
                let value = if is_learned { value } else { value.set_require_grad(false) };
                value.cast(how.dtype)
            };
            self.embed_with(value(&self.tokens), self.positions.as_ref().map(value), tokens.clone())
        };

        let mut inputs = Vec::with_capacity(self.blocks.len());
        let mut x = embed(false);
        for (index, block) in self.blocks.iter().enumerate() {
            inputs.push(x.clone());
            x = compute(index, block.clone().no_grad(), x);
        }

        let end = x.detach().require_grad();
        let hidden = cast(self.norm.clone(), how.dtype).forward(end.clone());
        let head = cast(self.head().clone(), how.dtype);
        let value = loss(hidden, head.val(), targets, weights, self.vocabulary);
        let mut gradients = scaled(value.clone(), how.scale).backward();
        let mut arrived = end.grad_remove(&mut gradients);

        for (index, (block, x)) in self.blocks.iter().zip(inputs).enumerate().rev() {
            let x = x.detach().require_grad();
            let output = compute(index, block.clone(), x.clone());
            if let Some(mut found) = backward(output, arrived.take()) {
                block.visit(&mut Move { from: &mut found, to: &mut gradients });
                arrived = x.grad_remove(&mut found);
            }
        }
        if let Some(mut found) = backward(embed(true), arrived) {
            let mut to = Move { from: &mut found, to: &mut gradients };
            self.tokens.visit(&mut to);
            self.positions.visit(&mut to);
        }
        (value.inner(), gradients)
    }
}

/// The gradients of a loss, from the one with respect to a piece's output; `None` if nothing in the piece is learned.
fn backward(output: Tensor<3>, gradient: Option<Tensor<3>>) -> Option<Gradients> {
    let gradient = gradient.filter(|_| output.is_tracked())?;
    Some((output * Tensor::from_inner(gradient)).sum().backward())
}

/// Moves the gradients of a module's parameters, and adds them to those that are there: the matrix of tied embeddings has
/// two.
struct Move<'a> {
    from: &'a mut Gradients,
    to: &'a mut Gradients,
}

impl ModuleVisitor for Move<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let parameter = param.val();
        let Some(gradient) = parameter.grad_remove(self.from) else { return };
        let sum = match parameter.grad_remove(self.to) {
            Some(before) => before + gradient,
            None => gradient,
        };
        parameter.grad_replace(self.to, sum);
    }
}
