use burn::{
    backend::Flex,
    optim::{AdamConfig, AdamWConfig, AdaptiveMomentumState, Optimizer, decay::WeightDecayConfig},
};

use super::{FUSED, Tensor, constant, list, numbers};
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

fn tensor(seed: u64, shape: [usize; 2]) -> Tensor<2> {
    constant(&numbers(seed, shape[0] * shape[1], 1.0), shape, FUSED).inner()
}

/// A parameter and its state after some steps; `is_fused` says for each which optimizer takes it.
fn train<F, C>(fused: &F, composed: &C, shape: [usize; 2], is_fused: &[bool]) -> (Tensor<2>, F::State<2>)
where
    F: Optimizer,
    C: Optimizer<State<2> = F::State<2>>,
{
    let start = (tensor(1, shape), None);
    let (parameter, state) = is_fused.iter().enumerate().fold(start, |(parameter, state), (step, is_fused)| {
        let gradient = tensor(step as u64 + 2, shape);
        if *is_fused {
            fused.step(RATE, parameter, gradient, state)
        } else {
            composed.step(RATE, parameter, gradient, state)
        }
    });
    (parameter, state.expect("a step gives a state"))
}

fn compare<F, C>(fused: &F, composed: &C, momentum: fn(F::State<2>) -> AdaptiveMomentumState<2>)
where
    F: Optimizer,
    C: Optimizer<State<2> = F::State<2>>,
{
    for shape in [[1, 1], [3, 5], [7, 4999]] {
        let (expected, state) = train(fused, composed, shape, &[false; 4]);
        let state = momentum(state);
        for is_fused in [[true; 4], [false, true, true, false], [true, false, false, true]] {
            let (parameter, fused) = train(fused, composed, shape, &is_fused);
            let fused = momentum(fused);
            assert_eq!(list(parameter), list(expected.clone()));
            assert_eq!(fused.time, state.time);
            assert_eq!(list(fused.moment_1), list(state.moment_1.clone()));
            assert_eq!(list(fused.moment_2), list(state.moment_2.clone()));
        }
    }
}

#[test]
fn a_step_is_burns_to_the_last_bit_and_either_goes_on_from_the_others_state() {
    compare(&ADAM, &composed_adam(Some(ADAM.penalty)), |state| state.momentum);
    compare(&Adam { penalty: 0.0, ..ADAM }, &composed_adam(None), |state| state.momentum);
    compare(&ADAMW, &composed_adamw(), |state| state.momentum);
}

#[test]
fn a_parameter_is_updated_in_place_if_nobody_else_holds_it() {
    let place = |tensor: &Tensor<2>| {
        let tensor = tensor.clone().try_into_primitive::<Flex>().expect("it is on flex");
        tensor.storage::<f32>().as_ptr()
    };
    let parameter = tensor(1, [4, 4]);
    let before = place(&parameter);
    let (parameter, _) = ADAMW.step(RATE, parameter, tensor(2, [4, 4]), None);
    assert_eq!(place(&parameter), before);

    let (held, numbers) = (parameter.clone(), list(parameter.clone()));
    let (parameter, _) = ADAMW.step(RATE, parameter, tensor(3, [4, 4]), None);
    assert_ne!(place(&parameter), before);
    assert_eq!(list(held), numbers);
}
