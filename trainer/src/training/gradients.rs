//! The loss of a batch and its gradients, computed by some samples at a time.

use burn::{
    module::{Module, ModuleVisitor, Param},
    optim::{GradientsAccumulator, GradientsParams},
    tensor::{Device, FloatDType, Tensor},
};

use super::{backward::Backward, dataset::Batch};
use crate::model::{Architecture, ModelError, Network};

/// The mean loss of a batch, `[1]`, and its gradients, by parameter, times the scale of `backward`, if it has one; those of a
/// parameter that is not learned are left out.
///
/// At most `at_once` samples are computed at a time. Each of these micro batches counts by what its mean is a mean of, its
/// rows or its tokens that are to be predicted, so that loss and gradients are those of the whole batch, but for rounding.
/// Besides the sum of the gradients there are never more than those of one micro batch.
///
/// # Errors
/// If the model does not read what the batch holds.
pub(super) fn loss_and_gradients(
    model: &Network,
    architecture: &Architecture,
    batch: Batch,
    at_once: usize,
    backward: Backward,
    device: &Device,
) -> Result<(Tensor<1>, GradientsParams), ModelError> {
    if batch.len() <= at_once {
        let (loss, found) = backward.run(model, architecture, batch, device)?;
        return Ok((loss, GradientsParams::from_grads(found, model)));
    }
    let total = batch.counted().max(1) as f64;
    let mut gradients = GradientsAccumulator::new();
    let mut losses = Vec::new();
    for (index, micro_batch) in batch.split(at_once).into_iter().enumerate() {
        let share = micro_batch.counted() as f64 / total;
        let (loss, found) = backward.of_part(index, share).run(model, architecture, micro_batch, device)?;
        let mut found = GradientsParams::from_grads(found, model);
        model.visit(&mut Widen(&mut found));
        gradients.accumulate(model, found);
        losses.push(loss * share);
    }
    Ok((Tensor::cat(losses, 0).sum(), gradients.grads()))
}

/// Makes gradients 32-bit floats, of which a sum of many is exact enough.
struct Widen<'a>(&'a mut GradientsParams);

impl ModuleVisitor for Widen<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.0.remove::<D>(param.id) {
            self.0.register::<D>(param.id, gradient.cast(FloatDType::F32));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use stoker_crds::training::{
        Task,
        model::{Model, Transformer as Spec},
        optimize::{Loss, Precision},
    };

    use super::*;
    use crate::training::dataset::{RowBatch, TokenBatch};

    struct Collect<'a>(&'a GradientsParams, Vec<Vec<f32>>);

    impl ModuleVisitor for Collect<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.1.push(self.0.get::<D>(param.id).unwrap().try_into_vec_as().unwrap());
        }
    }

    fn computed(model: &Network, architecture: &Architecture, batch: &Batch, at_once: usize) -> (f32, Vec<Vec<f32>>) {
        let device = Device::flex().autodiff();
        let backward = Backward { precision: Precision::F32, activation_checkpointing: false, scale: None, seed: 0 };
        let (loss, gradients) =
            loss_and_gradients(model, architecture, batch.clone(), at_once, backward, &device).unwrap();
        let mut collect = Collect(&gradients, Vec::new());
        model.visit(&mut collect);
        (loss.into_scalar(), collect.1)
    }

    /// The largest difference to the gradients of the whole batch, as a share of the largest of all.
    fn difference(expected: &[Vec<f32>], actual: &[Vec<f32>]) -> f32 {
        let largest = expected.iter().flatten().fold(0f32, |most, x| most.max(x.abs()));
        assert!(largest > 0.0);
        let pairs = expected.iter().flatten().zip(actual.iter().flatten());
        pairs.fold(0f32, |most, (expected, actual)| most.max((expected - actual).abs())) / largest
    }

    /// Sums of at most a few hundred products of 32-bit floats in other groups: each rounds to 6e-8 of itself, and the
    /// errors of some hundred add up to some 1e-6 at most.
    const ROUNDING: f32 = 5e-6;

    fn assert_independent_of_parts(architecture: &Architecture, batch: &Batch, samples: usize) {
        let model = architecture.init(3, &Device::flex().autodiff());
        let (loss, gradients) = computed(&model, architecture, batch, samples);
        for at_once in 1..samples {
            let (parts_loss, parts) = computed(&model, architecture, batch, at_once);
            assert!((parts_loss - loss).abs() < ROUNDING * loss, "{at_once} at once: {parts_loss} is not {loss}");
            let difference = difference(&gradients, &parts);
            assert!(difference < ROUNDING, "{at_once} at once: {difference}");
        }
    }

    /// Five rows in parts of 2 leave one of 1.
    #[test]
    fn rows_give_the_same_gradients_by_parts() {
        let model = Model::Mlp(serde_json::from_value(json!({"hidden": [6], "activation": "Tanh"})).unwrap());
        let number = |i: usize| ((i * 29) % 17) as f32 / 8.0 - 1.0;
        for (task, loss, targets) in [
            (Task::Regression, Loss::MSE, (0..10).map(|i| number(i + 3)).collect::<Vec<_>>()),
            (Task::Classification, Loss::CrossEntropy, vec![0.0, 1.0, 1.0, 0.0, 1.0]),
        ] {
            let architecture = Architecture::new(model.clone(), task, loss, 3, 2).unwrap();
            let batch = RowBatch { rows: 5, features: (0..15).map(number).collect(), targets };
            assert_independent_of_parts(&architecture, &Batch::Rows(batch), 5);
        }
    }

    /// Sequences of which 8, 1, 0 and 5 tokens count, as in conversations.
    fn uneven() -> (Architecture, Batch) {
        let spec = json!({"layers": 1, "width": 16, "heads": 2, "context": 8, "tiedEmbeddings": true});
        let config = serde_json::from_value::<Spec>(spec).unwrap().resolve().unwrap();
        let token = |i: usize| ((i * 37 + 5) % 70) as i32;
        let weights = [8, 1, 0, 5].into_iter().flat_map(|counted| (0..8).map(move |i| f32::from(i < counted)));
        let batch = TokenBatch {
            sequences: 4,
            tokens: (0..32).map(token).collect(),
            targets: (1..33).map(token).collect(),
            weights: weights.collect(),
        };
        (Architecture::language(config, 70).unwrap(), Batch::Tokens(batch))
    }

    #[test]
    fn sequences_give_the_same_gradients_by_parts_however_many_of_their_tokens_count() {
        let (architecture, batch) = uneven();
        assert_independent_of_parts(&architecture, &batch, 4);
    }

    #[test]
    fn a_mean_of_the_parts_means_would_be_another_gradient() {
        let (architecture, batch) = uneven();
        let model = architecture.init(3, &Device::flex().autodiff());
        let (_, expected) = computed(&model, &architecture, &batch, 4);
        let parts: Vec<_> = batch.split(2).iter().map(|part| computed(&model, &architecture, part, 2).1).collect();
        let mean = |(left, right): (&Vec<f32>, &Vec<f32>)| left.iter().zip(right).map(|(l, r)| (l + r) / 2.0).collect();
        let means: Vec<Vec<f32>> = parts[0].iter().zip(&parts[1]).map(mean).collect();
        assert!(difference(&expected, &means) > 1000.0 * ROUNDING);
    }
}
