use burn::{
    backend::Flex,
    optim::{AdamConfig, AdamWConfig, AdaptiveMomentumState, Optimizer, decay::WeightDecayConfig},
};

use super::{FUSED, On, Tensor, assert_close, constant, list, numbers};
use crate::{Adam, AdamW};

const ADAM: Adam = Adam { beta_1: 0.9, beta_2: 0.99, epsilon: 1e-8, penalty: 0.1 };
const ADAMW: AdamW = AdamW { beta_1: 0.9, beta_2: 0.99, epsilon: 1e-8, weight_decay: 0.1 };
const RATE: f64 = 0.01;

fn composed_adam(penalty: Option<f32>) -> burn::optim::Adam {
    let config = AdamConfig::new().with_beta_1(ADAM.beta_1).with_beta_2(ADAM.beta_2).with_epsilon(ADAM.epsilon);
    config.with_weight_decay(penalty.map(WeightDecayConfig::new)).build()
}

fn composed_adamw() -> burn::optim::AdamW {
    let config = AdamWConfig::new().with_beta_1(ADAMW.beta_1).with_beta_2(ADAMW.beta_2);
    config.with_epsilon(ADAMW.epsilon).with_weight_decay(ADAMW.weight_decay).build()
}

fn tensor(seed: u64, shape: [usize; 2], on: On) -> Tensor<2> {
    constant(&numbers(seed, shape[0] * shape[1], 1.0), shape, on).inner()
}

/// The same by columns: a parameter whose gradient came from a product lies so.
fn transposed(seed: u64, [rows, columns]: [usize; 2], on: On) -> Tensor<2> {
    tensor(seed, [columns, rows], on).transpose()
}

/// How many numbers: one, none that a width of vectors divides, several blocks, and vectors of any width.
const SHAPES: [[usize; 2]; 4] = [[1, 1], [3, 5], [7, 4999], [8, 64]];
/// Whose steps they are: all this crate's (`true`), or burn's among them.
pub(super) const OURS: [bool; 4] = [true; 4];
pub(super) const TURNS: [[bool; 4]; 3] = [OURS, [false, true, true, false], [true, false, false, true]];
/// On a GPU: of four steps a moment is rounded by, and of one a change of a hundredth of the parameter.
#[cfg(feature = "gpu")]
pub(super) const TOLERANCE: f64 = 1e-6;

/// A parameter and its state after some steps; `is_ours` says for each which optimizer takes it.
fn train<O, B>(ours: &O, burns: &B, shape: [usize; 2], is_ours: &[bool], on: On) -> (Tensor<2>, O::State<2>)
where
    O: Optimizer,
    B: Optimizer<State<2> = O::State<2>>,
{
    let start = (transposed(1, shape, on), None);
    let (parameter, state) = is_ours.iter().enumerate().fold(start, |(parameter, state), (step, is_ours)| {
        let gradient = tensor(step as u64 + 2, shape, on);
        if *is_ours {
            ours.step(RATE, parameter, gradient, state)
        } else {
            burns.step(RATE, parameter, gradient, state)
        }
    });
    (parameter, state.expect("a step gives a state"))
}

/// Steps on a place, and what they are compared with: burn's alone, elsewhere or in the same place.
pub(super) struct Comparison<'a> {
    pub(super) on: On,
    pub(super) turns: &'a [[bool; 4]],
    pub(super) burns_on: On,
    pub(super) tolerance: f64,
}

impl Comparison<'_> {
    /// Compares parameter and moments after each of the turns, of both optimizers.
    pub(super) fn run(&self) {
        self.of(&ADAM, &composed_adam(Some(ADAM.penalty)), |state| state.momentum);
        self.of(&Adam { penalty: 0.0, ..ADAM }, &composed_adam(None), |state| state.momentum);
        self.of(&ADAMW, &composed_adamw(), |state| state.momentum);
    }

    fn of<O, B>(&self, ours: &O, burns: &B, momentum: fn(O::State<2>) -> AdaptiveMomentumState<2>)
    where
        O: Optimizer,
        B: Optimizer<State<2> = O::State<2>>,
    {
        for shape in SHAPES {
            let outcome = |is_ours: [bool; 4], on| {
                let (parameter, state) = train(ours, burns, shape, &is_ours, on);
                let AdaptiveMomentumState { time, moment_1, moment_2, .. } = momentum(state);
                assert_eq!(time, is_ours.len());
                [parameter, moment_1, moment_2].map(list).to_vec()
            };
            let expected = outcome([false; 4], self.burns_on);
            for is_ours in self.turns {
                assert_close(&outcome(*is_ours, self.on), &expected, self.tolerance);
            }
        }
    }
}

/// What somebody else holds of a step must be the same after the next.
pub(super) fn assert_what_is_held_stays(on: On) {
    let (held, state) = ADAMW.step(RATE, tensor(1, [4, 4], on), tensor(2, [4, 4], on), None);
    let moments = state.clone().map(|state| [state.momentum.moment_1, state.momentum.moment_2]);
    let numbers = |moments: &Option<[Tensor<2>; 2]>| moments.clone().expect("a step gives a state").map(list);
    let before = (list(held.clone()), numbers(&moments));
    let (parameter, _) = ADAMW.step(RATE, held.clone(), tensor(3, [4, 4], on), state);
    assert_ne!(list(parameter), before.0);
    assert_eq!((list(held), numbers(&moments)), before);
}

#[test]
fn a_step_is_burns_to_the_last_bit_and_either_goes_on_from_the_others_state() {
    Comparison { on: FUSED, turns: &TURNS, burns_on: FUSED, tolerance: 0.0 }.run();
}

#[test]
fn parameter_and_moments_stay_as_they_are_if_somebody_else_holds_them() {
    assert_what_is_held_stays(FUSED);
}

#[test]
#[should_panic(expected = "the gradient is not of the parameter's shape")]
fn a_gradient_of_another_shape_is_refused() {
    ADAMW.step(RATE, tensor(1, [2, 3], FUSED), tensor(2, [3, 2], FUSED), None);
}

#[test]
fn a_parameter_is_updated_in_place_if_nobody_else_holds_it() {
    let place = |tensor: &Tensor<2>| {
        let tensor = tensor.clone().try_into_primitive::<Flex>().expect("it is on flex");
        tensor.storage::<f32>().as_ptr()
    };
    let parameter = tensor(1, [4, 4], FUSED);
    let before = place(&parameter);
    let (parameter, _) = ADAMW.step(RATE, parameter, tensor(2, [4, 4], FUSED), None);
    assert_eq!(place(&parameter), before);
}
