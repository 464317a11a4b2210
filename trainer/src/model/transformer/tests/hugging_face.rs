//! The same models computed by Hugging Face's transformers, and the same adapters by its peft: `scripts/test-hugging-face` runs
//! these tests between the two halves of `trainer/tests/hugging_face.py`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::*;
use crate::model::{Architecture, to_peft};

/// Names the folder that both sides read and write.
const MODELS: &str = "STOKER_HUGGING_FACE_MODELS";

fn models() -> PathBuf {
    let folder = std::env::var_os(MODELS);
    folder.map(PathBuf::from).unwrap_or_else(|| panic!("{MODELS} names no folder: run scripts/test-hugging-face"))
}

/// Texts and the logits after each of their tokens, `[text][token][vocabulary]`: the content of `logits.json`.
#[derive(Serialize, Deserialize)]
struct Computed {
    tokens: Vec<Vec<i32>>,
    logits: Vec<Vec<Vec<f32>>>,
}

fn logits(model: &Transformer, texts: &[Vec<i32>]) -> Vec<Vec<Vec<f32>>> {
    let texts = texts.iter().map(|text| {
        let tokens = Tensor::from_data(TensorData::new(text.clone(), [1, text.len()]), &Device::flex());
        let logits = read(model.logits(model.forward(tokens)));
        logits.chunks(model.vocabulary()).map(<[f32]>::to_vec).collect()
    });
    texts.collect()
}

/// Loads a folder as `save_pretrained` leaves it, with its weights in one file or several.
fn load(folder: &Path) -> Network {
    let architecture = Architecture::parse(&fs::read(folder.join("config.json")).unwrap()).unwrap();
    if let Ok(weights) = fs::read(folder.join("model.safetensors")) {
        return architecture.load(&weights, &Device::flex()).unwrap();
    }
    let is_shard = |name: &str| name.ends_with(".safetensors");
    let files: Vec<(String, Vec<u8>)> = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|name| is_shard(name))
        .map(|name| (name.clone(), fs::read(folder.join(&name)).unwrap()))
        .collect();
    let shards: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    let index = fs::read(folder.join("model.safetensors.index.json")).unwrap();
    architecture.load_shards(&index, &shards, &Device::flex()).unwrap()
}

/// A few hundred products in 32-bit floats per layer, added in another order, are off by less than 1e-5 of the largest.
fn assert_alike(what: &str, actual: &[Vec<Vec<f32>>], expected: &[Vec<Vec<f32>>]) {
    let flat = |texts: &[Vec<Vec<f32>>]| texts.iter().flatten().flatten().copied().collect::<Vec<f32>>();
    let (actual, expected) = (flat(actual), flat(expected));
    assert_eq!(actual.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0, |largest: f32, x| largest.max(x.abs()));
    assert!(actual.iter().all(|logit| logit.is_finite()), "{what}");
    let error = actual.iter().zip(&expected).fold(0.0, |worst: f32, (a, b)| worst.max((a - b).abs()));
    println!("{what}: logits up to {largest:.4}, off by {error:.2e}");
    assert!(error <= 1e-4 * largest, "{what}: off by {error}, with logits up to {largest}");
}

#[test]
#[ignore = "needs models of transformers: scripts/test-hugging-face makes them and runs this"]
fn models_of_transformers_compute_the_same_here() {
    let folders: Vec<PathBuf> =
        fs::read_dir(models().join("theirs")).unwrap().map(|folder| folder.unwrap().path()).collect();
    assert!(!folders.is_empty(), "there is nothing to compare");
    for folder in folders {
        let expected: Computed = serde_json::from_slice(&fs::read(folder.join("logits.json")).unwrap()).unwrap();
        let network = load(&folder);
        let actual = logits(network.transformer().unwrap(), &expected.tokens);
        assert_alike(&folder.file_name().unwrap().to_string_lossy(), &actual, &expected.logits);
    }
}

/// With what they compute here, which is compared there.
#[test]
#[ignore = "writes models for transformers: scripts/test-hugging-face runs this and compares them there"]
fn models_and_adapters_are_written_for_transformers_and_peft() {
    let root = models();
    let mut tied = llama();
    tied["tiedEmbeddings"] = json!(true);
    let mut scaled = llama();
    scaled["context"] = json!(64);
    scaled["bias"] = json!(true);
    scaled["ropeScaling"] = json!({"factor": 8.0, "originalContext": 16});
    for (name, spec) in [("gpt2", gpt2()), ("llama", llama()), ("llama-tied", tied), ("llama-scaled", scaled)] {
        let folder = root.join("ours").join(name);
        let architecture = Architecture::language(config(spec), VOCABULARY).unwrap();
        let network = architecture.init(11, &Device::flex());
        write_model(&folder, &architecture, &network);

        // The same with adapters: merged, and the adapters alone, to be added to the model above.
        let adapted = network.transformer().unwrap().clone().adapted(&lora(&[]), 2);
        let adapters = other_adapters(&adapted);
        let adapted = Network::Transformer(adapted.with_adapters(&adapters).unwrap());
        write_model(&root.join("ours").join(format!("{name}-merged")), &architecture, &adapted);
        write_adapters(&root.join("adapters").join(name), &folder, &adapted);
    }
}

fn write_model(folder: &Path, architecture: &Architecture, network: &Network) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("config.json"), serde_json::to_vec_pretty(architecture).unwrap()).unwrap();
    fs::write(folder.join("model.safetensors"), to_safetensors(network).unwrap()).unwrap();
    write_logits(folder, network);
}

/// The adapters alone, of the model in another folder.
fn write_adapters(folder: &Path, base: &Path, adapted: &Network) {
    fs::create_dir_all(folder).unwrap();
    let (config, adapters) = to_peft(adapted, &lora(&[]), &base.display().to_string()).unwrap();
    fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
    fs::write(folder.join("adapter_model.safetensors"), adapters).unwrap();
    write_logits(folder, adapted);
}

fn write_logits(folder: &Path, network: &Network) {
    let tokens: Vec<Vec<i32>> = tokens().chunks(LENGTH).map(<[i32]>::to_vec).collect();
    let computed = Computed { logits: logits(network.transformer().unwrap(), &tokens), tokens };
    fs::write(folder.join("logits.json"), serde_json::to_vec(&computed).unwrap()).unwrap();
}
