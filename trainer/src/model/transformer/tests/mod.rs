//! Small transformers of each family, computed on the CPU.

mod hugging_face;
mod lora;
mod recompute;
mod weights;

use burn::{
    module::{ModuleMapper, ModuleVisitor},
    tensor::{TensorData, activation},
};
use serde_json::{Value, json};
use stoker_crds::training::model::{Export, Lora, Transformer as Spec};

use super::*;
use crate::model::{GENERATOR, Network, to_safetensors, weights::serialize};

/// Not a multiple of 64.
const VOCABULARY: usize = 70;
const LENGTH: usize = 8;

/// GPT-2's kind.
fn gpt2() -> Value {
    json!({"layers": 2, "width": 16, "heads": 4, "context": 12})
}

/// Llama's kind, with groups of 2 heads and a matrix of its own for predictions.
fn llama() -> Value {
    json!({
        "layers": 2, "width": 16, "heads": 4, "keyValueHeads": 2, "context": 12, "feedForward": 24,
        "positions": "Rotary", "normalization": "RMSNorm", "activation": "SwiGLU", "bias": false, "tiedEmbeddings": false,
    })
}

/// None of both.
fn mixed() -> Value {
    json!({"layers": 1, "width": 16, "heads": 4, "keyValueHeads": 1, "context": 12, "activation": "SwiGLU"})
}

fn config(spec: Value) -> TransformerConfig {
    serde_json::from_value::<Spec>(spec).unwrap().resolve().unwrap()
}

fn transformer(spec: Value, seed: u64, device: &Device) -> Transformer {
    Transformer::init(&config(spec), VOCABULARY, seed, device)
}

/// Two texts.
fn tokens() -> Vec<i32> {
    (0..2 * LENGTH as i32).map(|i| (i * 37 + 5) % VOCABULARY as i32).collect()
}

fn matrix(values: Vec<i32>, device: &Device) -> Tensor<2, Int> {
    let rows = values.len() / LENGTH;
    Tensor::from_data(TensorData::new(values, [rows, LENGTH]), device)
}

fn read<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.try_into_vec_as().unwrap()
}

/// The loss of predicting the next token, where the last one has none.
fn loss(model: &Transformer, device: &Device) -> Tensor<1> {
    let mut targets = tokens();
    targets.rotate_left(1);
    let weights = (0..2 * LENGTH).map(|i| if i % LENGTH == LENGTH - 1 { 0.0f32 } else { 1.0 }).collect::<Vec<_>>();
    let weights = Tensor::from_data(TensorData::new(weights, [2, LENGTH]), device);
    model.loss(matrix(tokens(), device), matrix(targets, device), weights)
}

/// Adapters of three columns and rows, which count twice.
fn lora(targets: &[&str]) -> Lora {
    let targets = targets.iter().map(|target| (*target).to_owned()).collect();
    Lora { rank: 3, alpha: 6.0, targets, export: Export::Merged }
}

/// The same adapters with other numbers, none of which is 0.
fn other_adapters(model: &Transformer) -> Vec<u8> {
    let mut tensors = model.adapters_to_host().unwrap();
    for (index, (_, tensor)) in tensors.iter_mut().enumerate() {
        let shape = tensor.0.shape().clone();
        let values = (0..shape.num_elements()).map(|i| ((i * 7 + index * 13) % 11) as f32 / 20.0 + 0.01).collect();
        tensor.0 = TensorData::new(values, shape);
    }
    serialize(&tensors).unwrap()
}

#[test]
fn a_later_token_changes_no_earlier_output() {
    let device = Device::flex();
    for spec in [gpt2(), llama(), mixed()] {
        let model = transformer(spec.clone(), 1, &device);
        let outputs = |tokens: Vec<i32>| read(model.forward(matrix(tokens, &device)).narrow(0, 0, 1));
        let mut changed = tokens();
        changed[5] = (changed[5] + 1) % VOCABULARY as i32;
        let (before, after) = (outputs(tokens()), outputs(changed));
        assert_eq!(before[..5 * 16], after[..5 * 16], "{spec}");
        for position in 5..LENGTH {
            let row = position * 16..(position + 1) * 16;
            assert_ne!(before[row.clone()], after[row], "{spec}: position {position} does not see the change");
        }
    }
}

#[test]
fn the_order_of_tokens_matters() {
    let device = Device::flex();
    for spec in [gpt2(), llama()] {
        let model = transformer(spec.clone(), 1, &device);
        let last = |tokens: Vec<i32>| read(model.forward(matrix(tokens, &device)).narrow(1, LENGTH - 1, 1));
        let exchanged = last(vec![2, 1, 3, 4, 5, 6, 7, 8]);
        let difference =
            last(vec![1, 2, 3, 4, 5, 6, 7, 8]).iter().zip(&exchanged).map(|(a, b)| (a - b).abs()).sum::<f32>();
        // Rounding alone would come to 16 times 1e-6.
        assert!(difference > 2e-4, "{spec}: {difference}");
    }
}

/// A dozen operations in 32-bit floats on numbers around 1.
#[test]
fn the_loss_is_minus_the_log_softmax_of_the_logits() {
    let device = Device::flex();
    for spec in [gpt2(), llama()] {
        let model = transformer(spec, 1, &device);
        let logits = model.logits(model.forward(matrix(tokens(), &device)));
        assert_eq!(logits.dims(), [2, LENGTH, VOCABULARY]);
        let logs = read(activation::log_softmax(logits, 2));
        let mut expected = 0.0;
        for row in (0..2 * LENGTH).filter(|row| row % LENGTH != LENGTH - 1) {
            expected -= f64::from(logs[row * VOCABULARY + tokens()[row + 1] as usize]);
        }
        expected /= (2 * LENGTH - 2) as f64;
        let actual = f64::from(loss(&model, &device).into_scalar::<f32>());
        assert!((actual - expected).abs() < 1e-5, "{actual} is not {expected}");
    }
}

/// Sets the padding of all matrices with as many rows as the padded vocabulary.
struct FillPadding;

impl ModuleMapper for FillPadding {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| {
            if tensor.dims()[0] != padded(VOCABULARY) {
                return tensor;
            }
            let [rows, width] = [padded(VOCABULARY) - VOCABULARY, tensor.dims()[D - 1]];
            let large = Tensor::<2>::full([rows, width], 100.0, &tensor.device()).reshape(shape::<D>(rows, width));
            Tensor::cat(vec![tensor.narrow(0, 0, VOCABULARY), large], 0)
        })
    }
}

fn shape<const D: usize>(rows: usize, width: usize) -> [usize; D] {
    std::array::from_fn(|dimension| if dimension == 0 { rows } else { width })
}

#[test]
fn padding_is_never_predicted() {
    let device = Device::flex();
    for spec in [gpt2(), llama()] {
        let model = transformer(spec, 1, &device);
        let filled = model.clone().map(&mut FillPadding);
        assert_eq!(read(loss(&model, &device)), read(loss(&filled, &device)));
        let logits = |model: &Transformer| read(model.logits(model.forward(matrix(tokens(), &device))));
        assert_eq!(logits(&model), logits(&filled));
        assert_eq!(weights_of(&model), weights_of(&filled), "padding is written to the file");
    }
}

fn weights_of(model: &Transformer) -> Vec<u8> {
    to_safetensors(&Network::Transformer(model.clone())).unwrap()
}

#[test]
fn a_seed_decides_the_weights_whatever_is_drawn_first() {
    let device = Device::flex();
    let backwards = transformer(gpt2(), 7, &device);
    backwards.norm.forward(Tensor::zeros([1, 1, 16], &device));
    backwards.blocks[1].forward(Tensor::zeros([1, 1, 16], &device), None);
    let expected = weights_of(&transformer(gpt2(), 7, &device));
    assert_eq!(weights_of(&backwards), expected);
    assert_ne!(weights_of(&transformer(gpt2(), 8, &device)), expected);
}

#[test]
fn first_weights_have_the_deviation_of_gpt2_and_no_two_parameters_are_alike() {
    let model = transformer(json!({"layers": 2, "width": 64, "heads": 4}), 1, &Device::flex());
    let bytes = weights_of(&model);
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let values = |name: &str| crate::model::values(&file.tensor(name).unwrap());
    let deviation = |numbers: &[f32]| (numbers.iter().map(|x| x * x).sum::<f32>() / numbers.len() as f32).sqrt();
    for (name, expected) in [
        ("transformer.wte.weight", 0.02),
        ("transformer.wpe.weight", 0.02),
        ("transformer.h.0.attn.c_attn.weight", 0.02),
        ("transformer.h.1.mlp.c_fc.weight", 0.02),
        // Two blocks have 4 layers whose output is added.
        ("transformer.h.0.attn.c_proj.weight", 0.01),
        ("transformer.h.1.mlp.c_proj.weight", 0.01),
    ] {
        let (actual, count) = (deviation(&values(name)), values(name).len() as f32);
        // Of n numbers the deviation is off by 1/√2n of it; 5 times that is a chance of one in a million.
        assert!((actual / expected - 1.0).abs() < 5.0 / (2.0 * count).sqrt(), "{name}: {actual}");
    }
    assert_ne!(values("transformer.h.0.mlp.c_fc.weight"), values("transformer.h.1.mlp.c_fc.weight"));
    assert!(values("transformer.h.0.ln_1.weight").iter().all(|gain| *gain == 1.0));
    assert!(values("transformer.h.0.attn.c_attn.bias").iter().all(|bias| *bias == 0.0));
}

struct Reached<'a> {
    gradients: &'a burn::tensor::Gradients,
    parameters: usize,
    missed: Vec<Vec<usize>>,
}

impl ModuleVisitor for Reached<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.parameters += 1;
        let sum = param.val().grad(self.gradients).map_or(0.0, |gradient| gradient.abs().sum().into_scalar::<f32>());
        if sum == 0.0 || !sum.is_finite() {
            self.missed.push(param.val().dims().to_vec());
        }
    }
}

#[test]
fn a_gradient_reaches_every_parameter() {
    let device = Device::flex().autodiff();
    for (spec, parameters) in [(gpt2(), 2 + 2 * 12 + 2), (llama(), 1 + 2 * 7 + 2), (mixed(), 2 + 14 + 2)] {
        let model = transformer(spec.clone(), 1, &device);
        let gradients = loss(&model, &device).backward();
        let mut reached = Reached { gradients: &gradients, parameters: 0, missed: Vec::new() };
        model.visit(&mut reached);
        assert_eq!(reached.parameters, parameters, "{spec}");
        assert!(reached.missed.is_empty(), "{spec}: no gradient for parameters of the shapes {:?}", reached.missed);
    }
}

#[test]
fn dropout_drops_in_training_alone() {
    let _generator = GENERATOR.lock();
    let device = Device::flex().autodiff();
    let model = transformer(json!({"layers": 1, "width": 16, "heads": 4, "dropout": 0.5}), 1, &device);
    let run = |model: &Transformer, device: &Device| read(model.forward(matrix(tokens(), device)));
    assert_ne!(run(&model, &device), run(&model, &device), "two steps drop the same");
    let (valid, plain) = (model.valid(), Device::flex());
    assert_eq!(run(&valid, &plain), run(&valid, &plain));
}

#[test]
fn a_network_says_what_it_reads() {
    let network = Network::Transformer(transformer(gpt2(), 1, &Device::flex()));
    assert!(network.transformer().is_ok());
    assert!(network.mlp().unwrap_err().to_string().contains("language model"));
}
