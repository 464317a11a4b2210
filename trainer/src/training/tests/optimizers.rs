//! The optimizers against PyTorch's formulas, computed beside them in f64.

mod matrices;

use burn::{
    optim::GradientsParams,
    tensor::{Device, Tensor},
};
use serde_json::{Value, json};
use stoker_crds::training::{
    Task,
    model::{Mlp as MlpSpec, Model},
    optimize::{Loss, Optimizer as Spec, WeightDecayOn},
};

use crate::{
    model::{Architecture, Network, to_safetensors, values},
    training::{loss::mean_loss, optimizer::Optimizer},
};

/// The row that the error is taken on: y = w₀x₀ + w₁x₁ + b against the target.
const FEATURES: [f64; 2] = [1.5, -0.5];
const TARGET: f64 = 0.7;
const RATE: f64 = 0.1;
const STEPS: i32 = 10;

fn start(device: &Device) -> (Network, [f64; 3]) {
    let model = Model::Mlp(MlpSpec::default());
    let architecture = Architecture::new(model, Task::Regression, Loss::MSE, 2, 1).unwrap();
    let mlp = architecture.init(3, device);
    let parameters = parameters(&mlp);
    (mlp, parameters)
}

/// w₀, w₁ and b.
fn parameters(mlp: &Network) -> [f64; 3] {
    let bytes = to_safetensors(mlp).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let weight = values(&file.tensor("layers.0.weight").unwrap());
    let bias = values(&file.tensor("layers.0.bias").unwrap());
    [weight[0], weight[1], bias[0]].map(f64::from)
}

/// The gradient of the squared error.
fn gradient([w0, w1, b]: [f64; 3]) -> [f64; 3] {
    let error = w0 * FEATURES[0] + w1 * FEATURES[1] + b - TARGET;
    [2.0 * error * FEATURES[0], 2.0 * error * FEATURES[1], 2.0 * error]
}

/// Takes steps with burn and with `rule` (step from 1, parameters, gradients → parameters), which must agree.
fn assert_follows(spec: &Value, clip: Option<f64>, rule: impl FnMut(i32, [f64; 3], [f64; 3]) -> [f64; 3]) {
    assert_follows_with(spec, WeightDecayOn::All, clip, rule);
}

fn assert_follows_with(
    spec: &Value,
    decay_on: WeightDecayOn,
    clip: Option<f64>,
    mut rule: impl FnMut(i32, [f64; 3], [f64; 3]) -> [f64; 3],
) {
    let spec: Spec = serde_json::from_value(spec.clone()).unwrap();
    let device = Device::flex().autodiff();
    let (mut mlp, mut expected) = start(&device);
    let mut optimizer = Optimizer::new(&spec, decay_on, &mlp);
    let features = Tensor::<2>::from_floats([FEATURES.map(|x| x as f32)], &device);
    let target = Tensor::<2>::from_floats([[TARGET as f32]], &device);
    for step in 1..=STEPS {
        let loss = mean_loss(Loss::MSE, mlp.mlp().unwrap().forward(features.clone()), target.clone());
        let gradients = GradientsParams::from_grads(loss.backward(), &mlp);
        optimizer.step(&mut mlp, gradients, RATE, clip);
        expected = rule(step, expected, gradient(expected));
        for (actual, expected) in parameters(&mlp).into_iter().zip(expected) {
            // Ten steps of a dozen f32 operations, 6e-8 each, on numbers around 1. burn keeps 1 - β₂ in f32, which is
            // 1.3e-5 off for β₂ = 0.999, and of which the bias correction takes back all but a little.
            assert!((actual - expected).abs() < 5e-6, "{spec:?}, step {step}: {actual} is not {expected}");
        }
    }
}

fn zip(left: [f64; 3], right: [f64; 3], f: impl Fn(f64, f64) -> f64) -> [f64; 3] {
    std::array::from_fn(|index| f(left[index], right[index]))
}

#[test]
fn sgd_goes_down_the_gradient() {
    assert_follows(&json!({"sgd": {}}), None, |_, w, g| zip(w, g, |w, g| w - RATE * g));
}

#[test]
fn sgd_adds_its_weight_decay_to_the_gradient() {
    assert_follows(&json!({"sgd": {"weightDecay": 0.1}}), None, |_, w, g| zip(w, g, |w, g| w - RATE * (g + 0.1 * w)));
}

/// v ← μv + g; w ← w - γv. The first v is g.
#[test]
fn sgd_with_momentum_is_not_dampened() {
    let mut velocity = [0.0; 3];
    assert_follows(&json!({"sgd": {"momentum": 0.9}}), None, |_, w, g| {
        velocity = zip(velocity, g, |v, g| 0.9 * v + g);
        zip(w, velocity, |w, v| w - RATE * v)
    });
}

/// v ← μv + g; w ← w - γ(g + μv).
#[test]
fn nesterovs_momentum_looks_ahead() {
    let mut velocity = [0.0; 3];
    assert_follows(&json!({"sgd": {"momentum": 0.9, "nesterov": true}}), None, |_, w, g| {
        velocity = zip(velocity, g, |v, g| 0.9 * v + g);
        zip(w, zip(g, velocity, |g, v| g + 0.9 * v), |w, d| w - RATE * d)
    });
}

struct Moments {
    first: [f64; 3],
    second: [f64; 3],
}

impl Moments {
    /// m̂ / (√v̂ + ε).
    fn direction(&mut self, step: i32, g: [f64; 3], beta1: f64, beta2: f64, epsilon: f64) -> [f64; 3] {
        self.first = zip(self.first, g, |m, g| beta1 * m + (1.0 - beta1) * g);
        self.second = zip(self.second, g, |v, g| beta2 * v + (1.0 - beta2) * g * g);
        let (correction1, correction2) = (1.0 - beta1.powi(step), 1.0 - beta2.powi(step));
        zip(self.first, self.second, |m, v| (m / correction1) / ((v / correction2).sqrt() + epsilon))
    }
}

#[test]
fn adam_adds_its_weight_decay_to_the_gradient_and_epsilon_to_the_corrected_root() {
    // An epsilon large enough to show where it is added.
    let spec = json!({"adam": {"beta1": 0.8, "beta2": 0.99, "epsilon": 0.01, "weightDecay": 0.1}});
    let mut moments = Moments { first: [0.0; 3], second: [0.0; 3] };
    assert_follows(&spec, None, |step, w, g| {
        let direction = moments.direction(step, zip(w, g, |w, g| g + 0.1 * w), 0.8, 0.99, 0.01);
        zip(w, direction, |w, d| w - RATE * d)
    });
}

#[test]
fn adam_w_decays_the_weights_apart_from_the_gradient() {
    let spec = json!({"adamW": {"epsilon": 0.01, "weightDecay": 0.1}});
    let mut moments = Moments { first: [0.0; 3], second: [0.0; 3] };
    assert_follows(&spec, None, |step, w, g| {
        let direction = moments.direction(step, g, 0.9, 0.999, 0.01);
        zip(w, direction, |w, d| w * (1.0 - RATE * 0.1) - RATE * d)
    });
}

/// c = β₁m + (1 - β₁)g; w ← w(1 - γλ) - γ·sign(c); m ← β₂m + (1 - β₂)g.
#[test]
fn lion_steps_along_the_sign_of_its_mean_and_decays_the_weights_apart_from_it() {
    let mut mean = [0.0; 3];
    assert_follows(&json!({"lion": {"beta1": 0.8, "beta2": 0.95, "weightDecay": 0.1}}), None, |_, w, g| {
        let direction = zip(mean, g, |m, g| (0.8 * m + 0.2 * g).signum());
        mean = zip(mean, g, |m, g| 0.95 * m + 0.05 * g);
        zip(w, direction, |w, d| w * (1.0 - RATE * 0.1) - RATE * d)
    });
}

/// Of two weights and a bias, the last.
#[test]
fn biases_do_not_decay_where_matrices_alone_do() {
    const DECAYS: [f64; 3] = [0.1, 0.1, 0.0];
    let follows = |spec: Value, rule: &mut dyn FnMut(i32, [f64; 3], [f64; 3]) -> [f64; 3]| {
        assert_follows_with(&spec, WeightDecayOn::Matrices, None, rule);
    };
    follows(json!({"sgd": {"weightDecay": 0.1}}), &mut |_, w, g| {
        zip(w, zip(g, zip(w, DECAYS, |w, decay| decay * w), |g, d| g + d), |w, g| w - RATE * g)
    });
    let mut moments = Moments { first: [0.0; 3], second: [0.0; 3] };
    follows(json!({"adam": {"epsilon": 0.01, "weightDecay": 0.1}}), &mut |step, w, g| {
        let gradient = zip(g, zip(w, DECAYS, |w, decay| decay * w), |g, d| g + d);
        zip(w, moments.direction(step, gradient, 0.9, 0.999, 0.01), |w, d| w - RATE * d)
    });
    let mut moments = Moments { first: [0.0; 3], second: [0.0; 3] };
    follows(json!({"adamW": {"epsilon": 0.01, "weightDecay": 0.1}}), &mut |step, w, g| {
        let kept = zip(w, DECAYS, |w, decay| w * (1.0 - RATE * decay));
        zip(kept, moments.direction(step, g, 0.9, 0.999, 0.01), |w, d| w - RATE * d)
    });
    let mut mean = [0.0; 3];
    follows(json!({"lion": {"weightDecay": 0.1}}), &mut |_, w, g| {
        let direction = zip(mean, g, |m, g| (0.9 * m + 0.1 * g).signum());
        mean = zip(mean, g, |m, g| 0.99 * m + 0.01 * g);
        zip(zip(w, DECAYS, |w, decay| w * (1.0 - RATE * decay)), direction, |w, d| w - RATE * d)
    });
}

#[test]
fn the_norm_of_all_gradients_together_is_clipped() {
    for norm in [0.01, 0.5, 1e6] {
        assert_follows(&json!({"sgd": {}}), Some(norm), |_, w, g| {
            let total = g.iter().map(|g| g * g).sum::<f64>().sqrt();
            zip(w, g, |w, g| w - RATE * g * (norm / (total + 1e-6)).min(1.0))
        });
    }
}
