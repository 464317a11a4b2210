//! The same models computed by Hugging Face's transformers, and the same adapters by its peft: `scripts/test-hugging-face` runs
//! these tests between the two halves of `trainer/tests/hugging_face.py`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use burn::tensor::FloatDType;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use stoker_crds::{
    artifact::TOKENIZER,
    training::{Data, data::Format},
};

use super::*;
use crate::{
    artifact::model_files,
    base::BaseRef,
    data::Scratch,
    model::{Architecture, Predictor, precision::convert},
    storage::Access,
    text::{Tokenizer, prepare},
};

/// Names the folder that both sides read and write.
const MODELS: &str = "STOKER_HUGGING_FACE_MODELS";
/// Become the same tokens on both sides: words that the tokenizer was fitted on and others, blanks of all kinds, and
/// characters of one to four bytes.
const TEXTS: [&str; 5] =
    ["", "Hello, world", "the  other\n\tone's 12345 ", "déjà vu: ä€😀", "\u{0}\r\n\u{a0}\u{3000}x"];

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
#[tokio::test]
#[ignore = "writes models for transformers: scripts/test-hugging-face runs this and compares them there"]
async fn models_and_adapters_are_published_for_transformers_and_peft() {
    let root = models();
    let changed = |change: Value| {
        let (mut spec, Value::Object(change)) = (llama(), change) else { panic!("an object") };
        spec.as_object_mut().unwrap().extend(change);
        spec
    };
    let scaling = json!({"factor": 8.0, "originalContext": 16});
    let (bytes, pairs) = (Tokenizer::bytes().unwrap(), fitted_tokenizer(&root).await);
    for (name, spec, tokenizer) in [
        ("gpt2", gpt2(), &bytes),
        ("llama", llama(), &pairs),
        ("llama-tied", changed(json!({"tiedEmbeddings": true})), &pairs),
        ("llama-scaled", changed(json!({"context": 64, "bias": true, "ropeScaling": scaling})), &pairs),
        ("llama-scaled-short", changed(json!({"ropeScaling": scaling})), &pairs),
    ] {
        let architecture = Architecture::language(config(spec), tokenizer.vocabulary_size()).unwrap();
        let network = architecture.init(11, &Device::flex()).map(&mut Learned(ChaCha8Rng::seed_from_u64(12)));
        let publish = |kind: &str, name: &str, network: &Network, base: Option<&Path>| {
            let folder = root.join(kind).join(name);
            publish(&folder, &architecture, network, tokenizer, base);
            folder
        };
        let whole = publish("ours", name, &network, None);
        // Both sides compute with the rounded weights, in 32 bits: so the logits are as close as of the exact ones.
        let brain = convert(network.clone(), FloatDType::BF16);
        publish("ours", &format!("{name}-bf16"), &brain, None);

        // The same with adapters: merged, and the adapters alone, to be added to the model above.
        let adapted = network.transformer().unwrap().clone().adapted(&light(), 2);
        let adapters = other_adapters(&adapted);
        let adapted = Network::Transformer(adapted.with_adapters(&adapters).unwrap());
        publish("ours", &format!("{name}-merged"), &adapted, None);
        publish("adapters", name, &adapted, Some(&whole));
    }
}

/// Adapters that change weights by less than these are: of larger ones one kind of number outweighs all others, which then are
/// rounded away on both sides.
fn light() -> Lora {
    Lora { alpha: 1.0, ..lora(&[]) }
}

/// Makes of first weights such as training leaves: gains and biases that are 1 and 0 would hide that they are exchanged, and
/// with small matrices attention would look at all tokens alike.
struct Learned(ChaCha8Rng);

impl ModuleMapper for Learned {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| {
            if D > 1 {
                return tensor * 15.0;
            }
            let values: Vec<f32> = (0..tensor.shape().num_elements()).map(|_| self.0.random_range(-0.5..1.5)).collect();
            Tensor::from_data(TensorData::new(values, tensor.shape()), &tensor.device())
        })
    }
}

/// A byte-pair encoding that is fitted on a few words.
async fn fitted_tokenizer(root: &Path) -> Tokenizer {
    let words: String =
        (0..2000).map(|i| format!("{} {}ä\n", i % 37, ["Hello, world", "the other one"][i % 2])).collect();
    fs::create_dir_all(root.join("data")).unwrap();
    fs::write(root.join("data/words.txt"), words).unwrap();
    let data: Data<Format> = serde_json::from_value(json!({
        "source": {"uri": "s3://data/words.txt"}, "format": "text",
        "text": {"tokenizer": {"bpe": {"vocabularySize": 290}}},
        "split": {"train": 1.0, "validation": 0.0, "test": 0.0},
    }))
    .unwrap();
    let corpus = prepare(&data, 8, None, &Access::local(root), &Scratch::unlimited(root), None, &|_| {}).await;
    corpus.unwrap().tokenizer
}

/// Writes the files of a model that a training publishes: all of it, or the adapters alone, of the model in another folder.
fn publish(folder: &Path, architecture: &Architecture, network: &Network, tokenizer: &Tokenizer, base: Option<&Path>) {
    let predictor = Predictor::new(architecture.clone(), network.clone(), &Device::flex());
    let lora = light();
    let base = base.map(|base| BaseRef { uri: base.display().to_string(), digest: String::new() });
    let adapters = base.as_ref().map(|base| (&lora, base));
    fs::create_dir_all(folder).unwrap();
    for (name, content) in model_files(&predictor, adapters, Some(tokenizer.end_of_text())).unwrap() {
        fs::write(folder.join(name), content).unwrap();
    }
    fs::write(folder.join(TOKENIZER), tokenizer.to_json()).unwrap();
    write_logits(folder, network);
    let encoded = TEXTS.map(|text| (text, tokenizer.encode(text).unwrap()));
    fs::write(folder.join("encoded.json"), serde_json::to_vec(&encoded).unwrap()).unwrap();
}

fn write_logits(folder: &Path, network: &Network) {
    let tokens: Vec<Vec<i32>> = tokens().chunks(LENGTH).map(<[i32]>::to_vec).collect();
    let network = convert(network.clone(), FloatDType::F32);
    let computed = Computed { logits: logits(network.transformer().unwrap(), &tokens), tokens };
    fs::write(folder.join("logits.json"), serde_json::to_vec(&computed).unwrap()).unwrap();
}
