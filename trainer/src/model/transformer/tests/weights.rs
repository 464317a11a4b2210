//! Weights in Hugging Face's layout.

use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use super::*;
use crate::model::{Architecture, ModelError};

fn architecture(spec: Value) -> Architecture {
    Architecture::language(config(spec), VOCABULARY).unwrap()
}

fn names(bytes: &[u8]) -> Vec<(String, Vec<usize>)> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let mut names: Vec<_> = file.iter().map(|(name, view)| (name.to_owned(), view.shape().to_vec())).collect();
    names.sort();
    names
}

fn listed(names: &[(&str, &[usize])]) -> Vec<(String, Vec<usize>)> {
    let mut names: Vec<_> = names.iter().map(|(name, shape)| ((*name).to_owned(), shape.to_vec())).collect();
    names.sort();
    names
}

/// As `GPT2LMHeadModel.save_pretrained` names them.
#[test]
fn the_names_and_shapes_of_gpt2_are_those_of_transformers() {
    let mut spec = gpt2();
    spec["layers"] = json!(1);
    let bytes = weights_of(&transformer(spec, 1, &Device::flex()));
    let expected: [(&str, &[usize]); 16] = [
        ("transformer.wte.weight", &[70, 16]),
        ("transformer.wpe.weight", &[12, 16]),
        ("transformer.h.0.ln_1.weight", &[16]),
        ("transformer.h.0.ln_1.bias", &[16]),
        ("transformer.h.0.attn.c_attn.weight", &[16, 48]),
        ("transformer.h.0.attn.c_attn.bias", &[48]),
        ("transformer.h.0.attn.c_proj.weight", &[16, 16]),
        ("transformer.h.0.attn.c_proj.bias", &[16]),
        ("transformer.h.0.ln_2.weight", &[16]),
        ("transformer.h.0.ln_2.bias", &[16]),
        ("transformer.h.0.mlp.c_fc.weight", &[16, 64]),
        ("transformer.h.0.mlp.c_fc.bias", &[64]),
        ("transformer.h.0.mlp.c_proj.weight", &[64, 16]),
        ("transformer.h.0.mlp.c_proj.bias", &[16]),
        ("transformer.ln_f.weight", &[16]),
        ("transformer.ln_f.bias", &[16]),
    ];
    assert_eq!(names(&bytes), listed(&expected));
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
}

/// As `LlamaForCausalLM.save_pretrained` names them.
#[test]
fn the_names_and_shapes_of_llama_are_those_of_transformers() {
    let mut spec = llama();
    spec["layers"] = json!(1);
    let bytes = weights_of(&transformer(spec, 1, &Device::flex()));
    let expected: [(&str, &[usize]); 12] = [
        ("model.embed_tokens.weight", &[70, 16]),
        ("model.layers.0.input_layernorm.weight", &[16]),
        ("model.layers.0.self_attn.q_proj.weight", &[16, 16]),
        ("model.layers.0.self_attn.k_proj.weight", &[8, 16]),
        ("model.layers.0.self_attn.v_proj.weight", &[8, 16]),
        ("model.layers.0.self_attn.o_proj.weight", &[16, 16]),
        ("model.layers.0.post_attention_layernorm.weight", &[16]),
        ("model.layers.0.mlp.gate_proj.weight", &[24, 16]),
        ("model.layers.0.mlp.up_proj.weight", &[24, 16]),
        ("model.layers.0.mlp.down_proj.weight", &[16, 24]),
        ("model.norm.weight", &[16]),
        ("lm_head.weight", &[70, 16]),
    ];
    assert_eq!(names(&bytes), listed(&expected));
}

#[test]
fn weights_are_read_back_as_they_were_written() {
    let device = Device::flex();
    let mut biased = llama();
    biased["bias"] = json!(true);
    for spec in [gpt2(), llama(), biased, mixed()] {
        let model = transformer(spec.clone(), 3, &device);
        let bytes = weights_of(&model);
        let loaded = architecture(spec.clone()).load(&bytes, &device).unwrap();
        assert_eq!(to_safetensors(&loaded).unwrap(), bytes, "{spec}");
        let run = |model: &Transformer| read(model.logits(model.forward(matrix(tokens(), &device))));
        assert_eq!(run(loaded.transformer().unwrap()), run(&model), "{spec}");
    }
}

/// In a file that counts its numbers, the queries' weights of input i and output o, and so on, are where they should be.
#[test]
fn a_layer_of_llama_is_transposed_and_one_of_gpt2_is_not() {
    let device = Device::flex();
    let counted = |spec: Value| {
        let bytes = weights_of(&transformer(spec, 1, &device));
        rewrite(&bytes, |_, shape| (0..shape.iter().product::<usize>()).map(|i| i as f32).collect())
    };
    let weight = |spec: Value, file: &[u8]| {
        let loaded = architecture(spec).load(file, &device).unwrap();
        let mut first = FirstInput(Vec::new());
        loaded.visit(&mut first);
        first.0
    };
    // Input 2, outputs 0 and 1 of the queries, 0 and 1 of the keys.
    let gpt2_weight = weight(gpt2(), &counted(gpt2()));
    assert_eq!([0, 1, 16, 17].map(|output| gpt2_weight[2 * 48 + output]), [96.0, 97.0, 112.0, 113.0]);
    let llama_weight = weight(llama(), &counted(llama()));
    assert_eq!([0, 1, 16, 17].map(|output| llama_weight[2 * 32 + output]), [2.0, 18.0, 2.0, 18.0]);
}

/// The first matrix that is as wide as queries, keys and values together.
struct FirstInput(Vec<f32>);

impl ModuleVisitor for FirstInput {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.0.is_empty() && D == 2 && matches!(param.val().dims()[..], [16, 48 | 32]) {
            self.0 = read(param.val());
        }
    }
}

/// The same file with other numbers.
fn rewrite(bytes: &[u8], values: impl Fn(&str, &[usize]) -> Vec<f32>) -> Vec<u8> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = file
        .iter()
        .map(|(name, view)| {
            let data = values(name, view.shape()).iter().flat_map(|x| x.to_le_bytes()).collect();
            (name.to_owned(), view.shape().to_vec(), data)
        })
        .collect();
    serialize(&tensors)
}

fn serialize(tensors: &[(String, Vec<usize>, Vec<u8>)]) -> Vec<u8> {
    let views = tensors
        .iter()
        .map(|(name, shape, data)| (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), data).unwrap()));
    safetensors::serialize(views, None).unwrap()
}

/// The same file with changed names, and tensors without and besides.
fn edit(bytes: &[u8], rename: impl Fn(&str) -> Option<String>, more: &[(&str, &[usize], &[u8])]) -> Vec<u8> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let kept =
        file.iter().filter_map(|(name, view)| Some((rename(name)?, view.shape().to_vec(), view.data().to_vec())));
    let more = more.iter().map(|(name, shape, data)| ((*name).to_owned(), shape.to_vec(), data.to_vec()));
    serialize(&kept.chain(more).collect::<Vec<_>>())
}

fn same(name: &str) -> Option<String> {
    Some(name.to_owned())
}

#[test]
fn the_prefix_of_the_whole_model_may_be_missing() {
    let device = Device::flex();
    for (spec, prefix) in [(gpt2(), "transformer."), (llama(), "model.")] {
        let bytes = weights_of(&transformer(spec.clone(), 3, &device));
        let bare = edit(&bytes, |name| Some(name.strip_prefix(prefix).unwrap_or(name).to_owned()), &[]);
        let loaded = architecture(spec).load(&bare, &device).unwrap();
        assert_eq!(to_safetensors(&loaded).unwrap(), bytes);
    }
}

#[test]
fn constants_and_a_copy_of_the_tied_matrix_are_no_surplus() {
    let device = Device::flex();
    let bytes = weights_of(&transformer(gpt2(), 3, &device));
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tokens = file.tensor("transformer.wte.weight").unwrap().data().to_vec();
    let load = |head: &[u8]| {
        let more: [(&str, &[usize], &[u8]); 2] =
            [("lm_head.weight", &[70, 16], head), ("transformer.h.0.attn.bias", &[1], &[0; 4])];
        architecture(gpt2()).load(&edit(&bytes, same, &more), &device)
    };
    assert_eq!(to_safetensors(&load(&tokens).unwrap()).unwrap(), bytes);
    let error = load(&vec![0; tokens.len()]).unwrap_err().to_string();
    assert!(error.contains("tensor 'lm_head.weight' should be absent"), "{error}");
}

#[test]
fn weights_that_do_not_fit_are_refused_by_name_and_shape() {
    let device = Device::flex();
    let bytes = weights_of(&transformer(llama(), 3, &device));
    let problem = |bytes: &[u8]| architecture(llama()).load(bytes, &device).unwrap_err().to_string();
    let name = "model.layers.1.self_attn.k_proj.weight";
    let without = edit(&bytes, |other| (other != name).then(|| other.to_owned()), &[]);
    assert!(problem(&without).ends_with("k_proj.weight' should be F32, F16 or BF16 [8, 16] and is missing"));
    let wrong: [(&str, &[usize], &[u8]); 1] = [(name, &[16, 8], &[0; 512])];
    let message = problem(&edit(&bytes, |other| (other != name).then(|| other.to_owned()), &wrong));
    assert!(message.ends_with("should be F32, F16 or BF16 [8, 16] and is F32 [16, 8]"), "{message}");
    let more: [(&str, &[usize], &[u8]); 1] = [("model.layers.2.input_layernorm.weight", &[16], &[0; 64])];
    let message = problem(&edit(&bytes, same, &more));
    assert!(message.contains("model.layers.2.input_layernorm.weight' should be absent"), "{message}");
    assert!(matches!(architecture(gpt2()).load(&bytes, &device), Err(ModelError::Mismatch { .. })));
}

#[test]
fn weights_in_several_files_are_those_of_one() {
    let device = Device::flex();
    let bytes = weights_of(&transformer(llama(), 3, &device));
    let is_first = |name: &str| name.contains("layers.0");
    let first = edit(&bytes, |name| is_first(name).then(|| name.to_owned()), &[]);
    let second = edit(&bytes, |name| (!is_first(name)).then(|| name.to_owned()), &[]);
    let places: serde_json::Map<String, Value> = names(&bytes)
        .into_iter()
        .map(|(name, _)| {
            let file = if is_first(&name) { "1.safetensors" } else { "2.safetensors" };
            (name, json!(file))
        })
        .collect();
    let index = json!({"metadata": {}, "weight_map": places}).to_string();
    let shards = [("1.safetensors", first.as_slice()), ("2.safetensors", second.as_slice())];
    let loaded = architecture(llama()).load_shards(index.as_bytes(), &shards, &device).unwrap();
    assert_eq!(to_safetensors(&loaded).unwrap(), bytes);
}
