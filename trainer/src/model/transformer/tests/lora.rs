//! Adapters on small transformers.

use super::*;
use crate::model::{Architecture, ModelError, first_not_finite, learned_weights, to_peft, with_adapters};
use safetensors::SafeTensors;

fn logits(model: &Transformer) -> Vec<f32> {
    read(model.logits(model.forward(matrix(tokens(), &Device::flex()))))
}

/// The names and shapes of the adapters.
fn names(model: &Transformer) -> Vec<(String, Vec<usize>)> {
    let tensors = model.adapters_to_host().unwrap();
    tensors.iter().map(|(name, tensor)| (name.clone(), tensor.0.shape().as_slice().to_vec())).collect()
}

#[test]
fn an_adapted_model_computes_the_very_same_before_its_first_step() {
    for spec in [gpt2(), llama(), mixed()] {
        let model = transformer(spec.clone(), 1, &Device::flex());
        let before = logits(&model);
        assert_eq!(logits(&model.adapted(&lora(&[]), 2)), before, "{spec}");
    }
}

#[test]
fn the_names_and_shapes_of_adapters_are_those_of_peft() {
    let device = Device::flex();
    let adapted = |spec: Value, targets: &[&str]| transformer(spec, 1, &device).adapted(&lora(targets), 2);
    let list = |expected: &[(&str, [usize; 2])]| {
        expected
            .iter()
            .map(|(name, shape)| (format!("base_model.model.{name}.weight"), shape.to_vec()))
            .collect::<Vec<_>>()
    };
    let gpt2_names = names(&adapted(gpt2(), &["c_attn"]));
    assert_eq!(
        gpt2_names,
        list(&[
            ("transformer.h.0.attn.c_attn.lora_A", [3, 16]),
            ("transformer.h.0.attn.c_attn.lora_B", [48, 3]),
            ("transformer.h.1.attn.c_attn.lora_A", [3, 16]),
            ("transformer.h.1.attn.c_attn.lora_B", [48, 3]),
        ])
    );
    let llama_names = names(&adapted(llama(), &["q_proj", "self_attn.v_proj", "down_proj"]));
    assert_eq!(
        llama_names[..6],
        list(&[
            ("model.layers.0.self_attn.q_proj.lora_A", [3, 16]),
            ("model.layers.0.self_attn.q_proj.lora_B", [16, 3]),
            ("model.layers.0.self_attn.v_proj.lora_A", [3, 16]),
            ("model.layers.0.self_attn.v_proj.lora_B", [8, 3]),
            ("model.layers.0.mlp.down_proj.lora_A", [3, 24]),
            ("model.layers.0.mlp.down_proj.lora_B", [16, 3]),
        ])
    );
    // Two factors for each linear layer of both blocks.
    assert_eq!(names(&adapted(gpt2(), &[])).len(), 2 * 2 * 4);
    assert_eq!(names(&adapted(llama(), &[])).len(), 2 * 2 * 7);
    assert_eq!(names(&adapted(gpt2(), &["c_proj"])).len(), 2 * 2 * 2);
}

#[test]
fn what_peft_is_told_is_what_was_asked_for() {
    let network = |spec: Value| Network::Transformer(transformer(spec, 1, &Device::flex()).adapted(&lora(&[]), 2));
    let (config, adapters) = to_peft(&network(gpt2()), &lora(&[]), "s3://models/gpt2/").unwrap();
    assert_eq!(config["target_modules"], json!(["c_attn", "c_proj", "c_fc"]));
    assert_eq!((&config["r"], &config["lora_alpha"], &config["fan_in_fan_out"]), (&json!(3), &json!(6), &json!(true)));
    assert_eq!(
        (&config["peft_type"], &config["base_model_name_or_path"]),
        (&json!("LORA"), &json!("s3://models/gpt2/"))
    );
    let (_, metadata) = SafeTensors::read_metadata(&adapters).unwrap();
    assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
    let (config, _) = to_peft(&network(llama()), &lora(&["q_proj"]), "b").unwrap();
    assert_eq!((&config["target_modules"], &config["fan_in_fan_out"]), (&json!(["q_proj"]), &json!(false)));
}

#[test]
fn a_layer_that_the_model_does_not_have_is_refused_with_those_that_it_has() {
    let error = |spec: Value, target: &str| Transformer::check_targets(&config(spec), &lora(&[target])).unwrap_err();
    let message = error(gpt2(), "q_proj").to_string();
    assert!(message.contains("'q_proj'") && message.ends_with("it has c_attn, c_proj, c_fc"), "{message}");
    for target in ["proj", "wte", "lm_head", "attn", ""] {
        assert!(matches!(error(gpt2(), target), ModelError::LoraTarget { .. }), "{target}");
    }
    assert!(Transformer::check_targets(&config(gpt2()), &lora(&["attn.c_proj", "c_fc"])).is_ok());
}

#[test]
fn the_size_of_adapters_is_that_of_the_real_ones() {
    for (spec, targets) in [(gpt2(), vec![]), (llama(), vec![]), (llama(), vec!["q_proj", "down_proj"])] {
        let adapters =
            transformer(spec.clone(), 1, &Device::flex()).adapted(&lora(&targets), 2).adapters_to_host().unwrap();
        let numbers: usize = adapters.iter().map(|(_, tensor)| tensor.0.shape().num_elements()).sum();
        let size = Transformer::size_of_adapters(&config(spec.clone()), &lora(&targets));
        assert_eq!(size.parameters, numbers as u64, "{spec} {targets:?}");
    }
    let size = Transformer::size_of_adapters(&config(llama()), &lora(&["q_proj", "down_proj"]));
    assert_eq!(size.weights, 2 * (16 * 16 + 24 * 16));
}

struct Learned<'a> {
    gradients: &'a burn::tensor::Gradients,
    shapes: Vec<Vec<usize>>,
}

impl ModuleVisitor for Learned<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.val().grad(self.gradients).is_some() {
            self.shapes.push(param.val().dims().to_vec());
        }
    }
}

#[test]
fn a_gradient_reaches_the_adapters_and_nothing_else() {
    let device = Device::flex().autodiff();
    for spec in [gpt2(), llama()] {
        let model = transformer(spec.clone(), 1, &device).adapted(&lora(&[]), 2);
        let gradients = loss(&model, &device).backward();
        let mut learned = Learned { gradients: &gradients, shapes: Vec::new() };
        model.visit(&mut learned);
        assert_eq!(learned.shapes.len(), names(&model).len(), "{spec}");
        assert!(learned.shapes.iter().all(|shape| shape.contains(&3)), "{spec}: {:?}", learned.shapes);
    }
}

#[test]
fn adapters_are_read_back_as_they_were_written() {
    for spec in [gpt2(), llama(), mixed()] {
        let model = transformer(spec.clone(), 1, &Device::flex()).adapted(&lora(&[]), 2);
        let before = logits(&model);
        let file = other_adapters(&model);
        let other = model.with_adapters(&file).unwrap();
        assert!(serialize(&other.adapters_to_host().unwrap()).unwrap() == file, "{spec}");
        assert_ne!(logits(&other), before, "{spec}");
    }
}

#[test]
fn adapters_that_do_not_fit_are_refused_by_name_and_shape() {
    let device = Device::flex();
    let adapted = |targets: &[&str]| transformer(llama(), 1, &device).adapted(&lora(targets), 2);
    let file = |targets: &[&str]| serialize(&adapted(targets).adapters_to_host().unwrap()).unwrap();
    let problem = |model: Transformer, file: &[u8]| model.with_adapters(file).unwrap_err().to_string();
    let message = problem(adapted(&["q_proj", "k_proj"]), &file(&["q_proj"]));
    assert!(message.contains("k_proj.lora_A.weight' should be F32, F16 or BF16 [3, 16] and is missing"), "{message}");
    let message = problem(adapted(&["q_proj"]), &file(&["q_proj", "k_proj"]));
    assert!(message.contains("k_proj.lora_A.weight' should be absent"), "{message}");
    let wide = transformer(llama(), 1, &device).adapted(&Lora { rank: 5, ..lora(&["q_proj"]) }, 2);
    let message = problem(wide, &file(&["q_proj"]));
    assert!(message.contains("[5, 16] and is F32 [3, 16]"), "{message}");
}

/// The weights are the same products and sums; only matrices of the vocabulary are padded anew.
#[test]
fn merged_weights_compute_what_base_and_adapters_do() {
    let device = Device::flex();
    for spec in [gpt2(), llama(), mixed()] {
        let model = transformer(spec.clone(), 1, &device).adapted(&lora(&[]), 2);
        let file = other_adapters(&model);
        let network = with_adapters(Network::Transformer(model), &file).unwrap();
        let bytes = to_safetensors(&network).unwrap();
        let merged = Architecture::language(config(spec.clone()), VOCABULARY).unwrap().load(&bytes, &device).unwrap();
        let (merged, adapted) = (logits(merged.transformer().unwrap()), logits(network.transformer().unwrap()));
        let largest = adapted.iter().fold(0.0, |largest: f32, x| largest.max(x.abs()));
        let error = merged.iter().zip(&adapted).fold(0.0, |worst: f32, (a, b)| worst.max((a - b).abs()));
        // Rounding of the layers in between: a few hundred products in 32-bit floats.
        assert!(error <= 1e-5 * largest, "{spec}: off by {error}, with logits up to {largest}");
    }
}

#[test]
fn what_is_learned_of_an_adapted_model_is_its_adapters_and_of_another_all_of_it() {
    let model = transformer(gpt2(), 1, &Device::flex());
    let all = learned_weights(&Network::Transformer(model.clone())).unwrap();
    assert!(all.iter().any(|(name, _)| name == "transformer.wte.weight"));
    let adapters = learned_weights(&Network::Transformer(model.adapted(&lora(&["c_fc"]), 2))).unwrap();
    assert!(adapters.len() == 4 && adapters.iter().all(|(name, _)| name.contains("mlp.c_fc.lora_")));
    assert_eq!(first_not_finite(&adapters), None);
}

/// A product of A and B whose numbers are counted: of input i and output o it is 2·Σ A[i,k]·B[k,o].
#[test]
fn an_adapter_adds_its_product_to_its_own_columns_alone() {
    let device = Device::flex();
    let base = weights_of(&transformer(llama(), 1, &device));
    let adapted = transformer(llama(), 1, &device).adapted(&lora(&["v_proj"]), 2);
    let file = other_adapters(&adapted);
    let merged = weights_of(&adapted.with_adapters(&file).unwrap());
    let (before, after, adapters) = (
        SafeTensors::deserialize(&base).unwrap(),
        SafeTensors::deserialize(&merged).unwrap(),
        SafeTensors::deserialize(&file).unwrap(),
    );
    let values = |file: &SafeTensors<'_>, name: &str| crate::model::values(&file.tensor(name).unwrap());
    for (name, view) in before.iter().filter(|(name, _)| !name.ends_with("v_proj.weight")) {
        assert_eq!(view.data(), after.tensor(name).unwrap().data(), "{name}");
    }
    let name = "model.layers.1.self_attn.v_proj";
    let factor = |factor: &str| values(&adapters, &format!("base_model.model.{name}.lora_{factor}.weight"));
    let (a, b) = (factor("A"), factor("B"));
    let (old, new) = (values(&before, &format!("{name}.weight")), values(&after, &format!("{name}.weight")));
    for (output, input) in (0..8).flat_map(|output| (0..16).map(move |input| (output, input))) {
        let product: f32 = (0..3).map(|k| a[k * 16 + input] * b[output * 3 + k]).sum();
        let added = new[output * 16 + input] - old[output * 16 + input];
        // Numbers around 1, of which the last digit is 1e-7.
        assert!((added - 2.0 * product).abs() < 1e-6, "output {output}, input {input}: {added}");
    }
}
