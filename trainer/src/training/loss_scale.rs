//! Dynamic loss scaling (Micikevicius et al., 2018): what keeps gradients inside the range of 16-bit floats.

use burn::{
    module::{Module, ModuleVisitor, Param},
    optim::GradientsParams,
    tensor::Tensor,
};
use serde::{Deserialize, Serialize};

use super::optimizer::squared_norm;
use crate::model::{ModelError, Network, read};

/// PyTorch's first scale.
const FIRST: f32 = 65_536.0;
/// Below this, gradients overflow that are not scaled at all.
const LEAST: f32 = 1.0;
/// Apex's largest scale.
const MOST: f32 = 16_777_216.0;
/// Steps that must go well before the scale grows, as PyTorch's.
const PATIENCE: u32 = 2000;

/// What losses are multiplied with. It is a power of two, so that nothing is rounded by it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct LossScale {
    scale: f32,
    /// Steps that went well since it last changed.
    good_steps: u32,
}

/// What becomes of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The gradients are finite.
    Take,
    /// The gradients overflowed: the step is skipped, and the next one is scaled less.
    Skip,
    /// The gradients overflowed with the least scale.
    Diverged,
}

impl Default for LossScale {
    fn default() -> Self {
        Self { scale: FIRST, good_steps: 0 }
    }
}

impl LossScale {
    /// What the next loss is to be multiplied with.
    pub(super) fn scale(self) -> f32 {
        self.scale
    }

    /// Divides the gradients by the scale, and changes the scale by whether they are finite.
    ///
    /// # Errors
    /// If the device fails.
    pub(super) fn unscale(&mut self, model: &Network, gradients: &mut GradientsParams) -> Result<Step, ModelError> {
        model.visit(&mut Scale { gradients, factor: self.scale.recip() });
        // It is finite if all of them are: the squares of 16-bit floats are less than 2³².
        let sum = squared_norm(model, gradients).map(read).transpose()?.unwrap_or_default();
        Ok(self.observe(sum.iter().all(|sum| sum.is_finite())))
    }

    fn observe(&mut self, is_finite: bool) -> Step {
        if !is_finite {
            let step = if self.scale > LEAST { Step::Skip } else { Step::Diverged };
            *self = Self { scale: (self.scale / 2.0).max(LEAST), good_steps: 0 };
            return step;
        }
        self.good_steps += 1;
        if self.good_steps == PATIENCE {
            *self = Self { scale: (self.scale * 2.0).min(MOST), good_steps: 0 };
        }
        Step::Take
    }
}

/// Multiplies gradients with a factor.
struct Scale<'a> {
    gradients: &'a mut GradientsParams,
    factor: f32,
}

impl ModuleVisitor for Scale<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.remove::<D>(param.id) {
            self.gradients.register::<D>(param.id, gradient * self.factor);
        }
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
    use crate::model::Architecture;

    #[test]
    fn the_scale_doubles_after_so_many_good_steps_in_sequence() {
        let mut scale = LossScale { scale: 8.0, good_steps: 0 };
        for _ in 1..PATIENCE {
            assert_eq!((scale.observe(true), scale.scale), (Step::Take, 8.0));
        }
        assert_eq!((scale.observe(true), scale.scale), (Step::Take, 16.0));
        for _ in 1..PATIENCE {
            scale.observe(true);
        }
        assert_eq!((scale.observe(false), scale.scale), (Step::Skip, 8.0));
        assert_eq!((scale.observe(true), scale.scale), (Step::Take, 8.0), "an overflow does not end the sequence");
    }

    #[test]
    fn the_scale_stays_within_its_bounds_and_an_overflow_at_the_least_one_is_a_divergence() {
        let mut scale = LossScale { scale: MOST, good_steps: PATIENCE - 1 };
        assert_eq!((scale.observe(true), scale.scale), (Step::Take, MOST));
        let mut scale = LossScale { scale: 2.0, good_steps: 0 };
        assert_eq!((scale.observe(false), scale.scale), (Step::Skip, 1.0));
        assert_eq!((scale.observe(false), scale.scale), (Step::Diverged, 1.0));
    }

    /// Powers of two are exact in all of this.
    #[test]
    fn gradients_are_divided_by_the_scale_and_one_that_is_not_finite_is_noticed() {
        let device = Device::flex().autodiff();
        let model = Model::Mlp(Mlp::default());
        let network = Architecture::new(model, Task::Regression, Loss::MSE, 2, 1).unwrap().init(3, &device);
        for (size, step) in [(1.0, Step::Take), (f32::INFINITY, Step::Skip), (f32::NAN, Step::Skip)] {
            let features = Tensor::<2>::from_floats([[size, 2.0]], &device);
            let output = network.mlp().unwrap().forward(features) * FIRST;
            let mut gradients = GradientsParams::from_grads(output.sum().backward(), &network);
            let mut scale = LossScale::default();
            assert_eq!(scale.unscale(&network, &mut gradients).unwrap(), step);
            let mut found = Found { gradients: &gradients, numbers: Vec::new() };
            network.visit(&mut found);
            if step == Step::Take {
                assert_eq!(found.numbers, [1.0, 2.0, 1.0]);
            }
        }
    }

    struct Found<'a> {
        gradients: &'a GradientsParams,
        numbers: Vec<f32>,
    }

    impl ModuleVisitor for Found<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = self.gradients.get::<D>(param.id).unwrap();
            self.numbers.extend(gradient.try_into_vec_as::<f32>().unwrap());
        }
    }
}
