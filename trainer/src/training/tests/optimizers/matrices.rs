//! What the optimizers do with matrices, against formulas of whole matrices in f64.

use burn::tensor::{Device, Tensor, TensorData};
use serde_json::{Value, json};
use stoker_crds::training::optimize::{Optimizer as Spec, WeightDecayOn};

use crate::{model::Role, training::optimizer::Rule};

/// By rows.
type Matrix = Vec<Vec<f64>>;

const ROWS: usize = 2;
const COLUMNS: usize = 5;
const STEPS: i32 = 5;

fn matrix(seed: usize) -> Matrix {
    let number = |i: usize| ((seed * 31 + i * 17) as f64 * 0.7).sin();
    (0..ROWS).map(|row| (0..COLUMNS).map(|column| number(row * COLUMNS + column)).collect()).collect()
}

fn map(matrix: &Matrix, f: impl Fn(usize, usize, f64) -> f64) -> Matrix {
    let row = |(i, row): (usize, &Vec<f64>)| row.iter().enumerate().map(|(j, x)| f(i, j, *x)).collect::<Vec<f64>>();
    matrix.iter().enumerate().map(row).collect()
}

fn mean(numbers: impl Iterator<Item = f64> + Clone) -> f64 {
    numbers.clone().sum::<f64>() / numbers.count() as f64
}

fn rms(matrix: &Matrix) -> f64 {
    mean(matrix.iter().flatten().map(|x| x * x)).sqrt()
}

fn tensor(matrix: &Matrix) -> Tensor<2> {
    let values: Vec<f32> = matrix.iter().flatten().map(|x| *x as f32).collect();
    Tensor::from_data(TensorData::new(values, [matrix.len(), matrix[0].len()]), &Device::flex())
}

fn rule_of(spec: Value, role: &Role) -> Rule {
    Rule::new(&serde_json::from_value::<Spec>(spec).unwrap(), WeightDecayOn::All, role)
}

fn hidden(outputs: &[usize]) -> Role {
    Role::Hidden { outputs: outputs.to_vec() }
}

/// Takes steps with a rule and with `formula` (step from 1, weights, gradient → weights), which must agree.
fn assert_follows(rule: &Rule, rate: f64, tolerance: f64, mut formula: impl FnMut(i32, &Matrix, &Matrix) -> Matrix) {
    let mut expected = matrix(0);
    let (mut weights, mut state) = (tensor(&expected), None);
    for step in 1..=STEPS {
        let gradient = matrix(step as usize);
        (weights, state) = rule.step(rate, weights, tensor(&gradient), state);
        expected = formula(step, &expected, &gradient);
        let actual: Vec<f32> = weights.clone().try_into_vec_as().unwrap();
        for (actual, expected) in actual.into_iter().zip(expected.iter().flatten()) {
            assert!((f64::from(actual) - expected).abs() < tolerance, "step {step}: {actual} is not {expected}");
        }
    }
}

/// Shazeer and Stern (2018), algorithms 4 and 6, as `torch.optim.Adafactor`: with t the step and b = t^-0.8,
/// R ← (1 - b)R + b·(means of g² over rows' elements), C alike over columns', V = RC/mean(R), U = g/√V divided by
/// max(1, rms(U)/d), and w ← w(1 - γλ) - max(0.001, rms(w))·min(γ, 1/√t)·U.
#[test]
fn adafactor_keeps_the_means_of_rows_and_columns() {
    const RATE: f64 = 0.6;
    let spec = json!({"adafactor": {"clipThreshold": 0.9, "weightDecay": 0.1}});
    let (mut rows, mut columns) = (vec![0.0; ROWS], vec![0.0; COLUMNS]);
    // Five steps of two dozen operations in 32-bit floats, 6e-8 each, on numbers around 1.
    assert_follows(&rule_of(spec, &hidden(&[COLUMNS])), RATE, 1e-5, |step, weights, gradient| {
        let share = f64::from(step).powf(-0.8);
        for (i, row) in rows.iter_mut().enumerate() {
            *row = (1.0 - share) * *row + share * mean(gradient[i].iter().map(|g| g * g));
        }
        for (j, column) in columns.iter_mut().enumerate() {
            *column = (1.0 - share) * *column + share * mean(gradient.iter().map(|row| row[j] * row[j]));
        }
        let all = mean(rows.iter().copied());
        let update = map(gradient, |i, j, g| g / (rows[i] * columns[j] / all).sqrt());
        let clip = (rms(&update) / 0.9).max(1.0);
        let size = rms(weights).max(0.001) * RATE.min(1.0 / f64::from(step).sqrt());
        map(weights, |i, j, w| w * (1.0 - RATE * 0.1) - size * update[i][j] / clip)
    });
}

fn product(left: &Matrix, right: &Matrix) -> Matrix {
    let cell = |row: &Vec<f64>, j: usize| row.iter().zip(right).map(|(x, other)| x * other[j]).sum::<f64>();
    left.iter().map(|row| (0..right[0].len()).map(|j| cell(row, j)).collect()).collect()
}

fn transposed(matrix: &Matrix) -> Matrix {
    (0..matrix[0].len()).map(|j| matrix.iter().map(|row| row[j]).collect()).collect()
}

/// Five iterations of Newton and Schulz, as `torch.optim.Muon`: X ← aX + (bA + cA²)X with A = XXᵀ, from X/‖X‖.
fn orthogonal(matrix: &Matrix) -> Matrix {
    if matrix.len() > matrix[0].len() {
        return transposed(&orthogonal(&transposed(matrix)));
    }
    let norm = matrix.iter().flatten().map(|x| x * x).sum::<f64>().sqrt();
    (0..5).fold(map(matrix, |_, _, x| x / norm), |x, _| {
        let gram = product(&x, &transposed(&x));
        let square = product(&gram, &gram);
        let change = product(&map(&gram, |i, j, a| -4.775 * a + 2.0315 * square[i][j]), &x);
        map(&x, |i, j, x| 3.4445 * x + change[i][j])
    })
}

/// The maps to 3 and to 2 outputs that lie in a matrix, `[outputs, inputs]` as PyTorch has them.
fn maps(matrix: &Matrix) -> [Matrix; 2] {
    let all = transposed(matrix);
    [all[..3].to_vec(), all[3..].to_vec()]
}

/// `torch.optim.Muon` on two `nn.Linear`: m ← μm + (1 - μ)g, U = orthogonal((1 - μ)g + μm),
/// w ← w(1 - γλ) - γ·√max(1, outputs/inputs)·U.
#[test]
fn muon_makes_the_step_of_each_linear_map_orthogonal_and_larger_for_more_outputs_than_inputs() {
    const RATE: f64 = 0.1;
    for (adjust, factors) in
        [("Original", [1.5f64.sqrt(), 1.0]), ("MatchRmsAdamW", [0.2 * 3f64.sqrt(), 0.2 * 2f64.sqrt()])]
    {
        let spec = json!({"muon": {"momentum": 0.8, "weightDecay": 0.3, "adjustLearningRate": adjust}});
        let mut means = map(&matrix(0), |_, _, _| 0.0);
        // The iterations multiply small singular values, and the roundings of 6e-8 in them, by up to 3.4445⁵ = 485; five
        // steps of a tenth of that, and as much for the roundings of the iterations themselves.
        assert_follows(&rule_of(spec, &hidden(&[3, 2])), RATE, 3e-5, |_, weights, gradient| {
            means = map(&means, |i, j, m| 0.8 * m + 0.2 * gradient[i][j]);
            let direction = map(gradient, |i, j, g| 0.2 * g + 0.8 * means[i][j]);
            let [first, second] = maps(&direction).map(|map| orthogonal(&map));
            let scaled = |step: &Matrix, factor: f64| map(step, |_, _, x| x * factor);
            let step = transposed(&[scaled(&first, factors[0]), scaled(&second, factors[1])].concat());
            map(weights, |i, j, w| w * (1.0 - RATE * 0.3) - RATE * step[i][j])
        });
    }
}

#[test]
fn muon_leaves_all_that_is_no_matrix_of_a_hidden_layer_to_adam_w_at_a_rate_in_proportion() {
    let adam_w = json!({"learningRate": 0.01, "beta2": 0.95, "weightDecay": 0.1});
    let muon = json!({"muon": {"learningRate": 0.02, "adamW": adam_w}});
    for role in [Role::Embedding, Role::Head, Role::Vector] {
        let (muon, adam_w) = (rule_of(muon.clone(), &role), rule_of(json!({"adamW": adam_w}), &role));
        let (actual, _) = muon.step(0.1, tensor(&matrix(0)), tensor(&matrix(1)), None);
        let (expected, _) = adam_w.step(0.05, tensor(&matrix(0)), tensor(&matrix(1)), None);
        assert_eq!(actual.to_data(), expected.to_data(), "{role:?}");
    }
}
