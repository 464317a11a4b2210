use burn::{
    backend::Flex,
    optim::{AdamWConfig, AdamWState, Optimizer},
};

use super::{DType, Tensor, constant, list, numbers};
use crate::AdamW;

const RULE: AdamW = AdamW { beta_1: 0.9, beta_2: 0.99, epsilon: 1e-8, weight_decay: 0.1 };
const RATE: f64 = 0.01;

fn composed() -> burn::optim::AdamW {
    let config = AdamWConfig::new().with_beta_1(RULE.beta_1).with_beta_2(RULE.beta_2);
    config.with_epsilon(RULE.epsilon).with_weight_decay(RULE.weight_decay).build()
}

fn tensor(seed: u64, shape: [usize; 2]) -> Tensor<2> {
    constant(&numbers(seed, shape[0] * shape[1], 1.0), shape, DType::F32).inner()
}

/// A parameter and its state after some steps; `is_fused` says for each which optimizer takes it.
fn train(shape: [usize; 2], is_fused: &[bool]) -> (Tensor<2>, AdamWState<2>) {
    let start = (tensor(1, shape), None);
    let (parameter, state) = is_fused.iter().enumerate().fold(start, |(parameter, state), (step, is_fused)| {
        let gradient = tensor(step as u64 + 2, shape);
        if *is_fused {
            RULE.step(RATE, parameter, gradient, state)
        } else {
            composed().step(RATE, parameter, gradient, state)
        }
    });
    (parameter, state.expect("a step gives a state"))
}

#[test]
fn a_step_is_burns_to_the_last_bit_and_either_goes_on_from_the_others_state() {
    for shape in [[1, 1], [3, 5], [7, 4999]] {
        let (expected, state) = train(shape, &[false; 4]);
        for is_fused in [[true; 4], [false, true, true, false], [true, false, false, true]] {
            let (parameter, fused) = train(shape, &is_fused);
            assert_eq!(list(parameter), list(expected.clone()));
            assert_eq!(fused.momentum.time, state.momentum.time);
            assert_eq!(list(fused.momentum.moment_1), list(state.momentum.moment_1.clone()));
            assert_eq!(list(fused.momentum.moment_2), list(state.momentum.moment_2.clone()));
        }
    }
}

#[test]
fn a_parameter_is_updated_in_place_if_nobody_else_holds_it() {
    let place = |tensor: &Tensor<2>| {
        let tensor = tensor.clone().try_into_primitive::<Flex>().expect("it is on flex");
        tensor.storage::<f32>().as_ptr()
    };
    let parameter = tensor(1, [4, 4]);
    let before = place(&parameter);
    let (parameter, _) = RULE.step(RATE, parameter, tensor(2, [4, 4]), None);
    assert_eq!(place(&parameter), before);

    let (held, numbers) = (parameter.clone(), list(parameter.clone()));
    let (parameter, _) = RULE.step(RATE, parameter, tensor(3, [4, 4]), None);
    assert_ne!(place(&parameter), before);
    assert_eq!(list(held), numbers);
}
