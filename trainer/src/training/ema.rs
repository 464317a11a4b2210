//! The exponential moving average of the weights.

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{FloatDType, Tensor},
};
use stoker_crds::training::optimize::Ema;

use crate::model::{Network, precision::convert};

/// An average before the first step: the weights themselves, without gradients, in 32-bit floats, of which it moves by small
/// parts.
pub(super) fn start(model: &Network) -> Network {
    convert(model.valid(), FloatDType::F32)
}

/// The average after a step, counted from 1, that led to the weights of `model`.
pub(super) fn update(average: Network, model: &Network, spec: &Ema, step: u64) -> Network {
    let mut weights = Weights(Vec::new());
    model.visit(&mut weights);
    average.map(&mut Blend { weights: weights.0.into_iter(), share: 1.0 - decay(spec, step) })
}

/// What the average keeps of itself in a step, counted from 1: min(decay, (1 + step)/(10 + step)), as TensorFlow's
/// `ExponentialMovingAverage`.
fn decay(spec: &Ema, step: u64) -> f64 {
    spec.decay.min((1 + step) as f64 / (10 + step) as f64)
}

/// All weights, each as a vector; `None` of one that is not learned.
struct Weights(Vec<Option<Tensor<1>>>);

impl ModuleVisitor for Weights {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let weights = param.base();
        self.0.push(weights.is_require_grad().then(|| weights.inner().cast(FloatDType::F32).flatten(0, -1)));
    }
}

struct Blend {
    weights: std::vec::IntoIter<Option<Tensor<1>>>,
    /// Of the new weights.
    share: f64,
}

impl ModuleMapper for Blend {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(weights) = self.weights.next().flatten() else { return param };
        param.map(|average| {
            let change = weights.reshape(average.dims()) - average.clone();
            average + change * self.share
        })
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use stoker_crds::training::{
        Task,
        model::{Mlp, Model},
        optimize::Loss,
    };

    use super::*;
    use crate::model::{Architecture, learned_weights};

    fn model(seed: u64) -> Network {
        let spec = Model::Mlp(Mlp::default());
        Architecture::new(spec, Task::Regression, Loss::MSE, 3, 2).unwrap().init(seed, &Device::flex().autodiff())
    }

    fn numbers(model: &Network) -> Vec<f32> {
        learned_weights(model)
            .unwrap()
            .iter()
            .flat_map(|(_, tensor)| tensor.0.iter::<f32>().collect::<Vec<_>>())
            .collect()
    }

    #[test]
    fn each_step_moves_the_average_by_a_share_of_its_distance_to_the_weights() {
        let average = update(start(&model(1)), &model(2), &Ema { decay: 0.999 }, 1);
        let pairs = numbers(&model(1)).into_iter().zip(numbers(&model(2)));
        for (actual, (old, new)) in numbers(&average).into_iter().zip(pairs) {
            let expected = old * 2.0 / 11.0 + new * 9.0 / 11.0;
            // A few roundings of numbers below 1.
            assert!((actual - expected).abs() < 3e-7, "{actual} is not {expected}");
        }
    }

    #[test]
    fn what_is_not_learned_is_not_averaged() {
        let average = update(start(&model(1)), &model(2).freeze(), &Ema { decay: 0.5 }, 1);
        assert_eq!(numbers(&average), numbers(&model(1)));
    }

    #[test]
    fn the_first_weights_are_soon_forgotten() {
        let spec = Ema { decay: 0.99 };
        assert_eq!([1, 8, 890, 891, 10_000].map(|step| decay(&spec, step)), [2.0 / 11.0, 0.5, 0.99, 0.99, 0.99]);
        assert_eq!(decay(&Ema { decay: 0.1 }, 1), 0.1);
    }
}
