//! The same models computed by Hugging Face's transformers: `trainer/tests/hugging_face.py` says how.

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};

use super::*;
use crate::model::{Architecture, to_peft};

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
    let error = actual.iter().zip(&expected).fold(0.0, |worst: f32, (a, b)| worst.max((a - b).abs()));
    println!("{what}: logits up to {largest}, off by {error} at most");
    assert!(error <= 1e-4 * largest, "{what}: off by {error}, with logits up to {largest}");
}

#[test]
fn models_of_transformers_compute_the_same_here() {
    let root = std::env::var("STOKER_PEER_MODELS").unwrap();
    let root = Path::new(&root);
    for folder in fs::read_dir(root.join("theirs")).unwrap() {
        let folder = folder.unwrap().path();
        let expected: Computed = serde_json::from_slice(&fs::read(folder.join("logits.json")).unwrap()).unwrap();
        let network = load(&folder);
        let actual = logits(network.transformer().unwrap(), &expected.tokens);
        assert_alike(&folder.display().to_string(), &actual, &expected.logits);
    }
    let mut tied = llama();
    tied["tiedEmbeddings"] = json!(true);
    let mut scaled = llama();
    scaled["context"] = json!(64);
    scaled["bias"] = json!(true);
    scaled["ropeScaling"] = json!({"factor": 8.0, "originalContext": 16});
    for (name, spec) in [("gpt2", gpt2()), ("llama", llama()), ("llama-tied", tied), ("llama-scaled", scaled)] {
        let folder = root.join("ours").join(name);
        fs::create_dir_all(&folder).unwrap();
        let architecture = Architecture::language(config(spec), VOCABULARY).unwrap();
        let network = architecture.init(11, &Device::flex());
        write_model(&folder, &architecture, &network);
        write_logits(&folder, &network);

        // The same with adapters: merged, and the adapters alone, to be added to the model above.
        let adapted = network.transformer().unwrap().clone().adapted(&lora(&[]), 2);
        let adapters = other_adapters(&adapted);
        let adapted = Network::Transformer(adapted.with_adapters(&adapters).unwrap());
        let merged = root.join("ours").join(format!("{name}-merged"));
        fs::create_dir_all(&merged).unwrap();
        write_model(&merged, &architecture, &adapted);
        write_logits(&merged, &adapted);
        let alone = root.join("adapters").join(name);
        fs::create_dir_all(&alone).unwrap();
        let (config, adapters) = to_peft(&adapted, &lora(&[]), &folder.display().to_string()).unwrap();
        fs::write(alone.join("adapter_config.json"), config.to_string()).unwrap();
        fs::write(alone.join("adapter_model.safetensors"), adapters).unwrap();
        write_logits(&alone, &adapted);
    }
}

fn write_model(folder: &Path, architecture: &Architecture, network: &Network) {
    fs::write(folder.join("config.json"), serde_json::to_vec_pretty(architecture).unwrap()).unwrap();
    fs::write(folder.join("model.safetensors"), to_safetensors(network).unwrap()).unwrap();
}

fn write_logits(folder: &Path, network: &Network) {
    let tokens: Vec<Vec<i32>> = tokens().chunks(LENGTH).map(<[i32]>::to_vec).collect();
    let computed = Computed { logits: logits(network.transformer().unwrap(), &tokens), tokens };
    fs::write(folder.join("logits.json"), serde_json::to_vec(&computed).unwrap()).unwrap();
}
