use serde_json::{Value, json};
use stoker_crds::training::model::Transformer as Spec;
use tempfile::TempDir;

use super::*;
use crate::{artifact::commit, model::to_safetensors};

const VOCABULARY: usize = 300;

fn gpt2() -> Value {
    json!({"layers": 1, "width": 16, "heads": 4, "context": 12})
}

fn llama() -> Value {
    json!({
        "layers": 1, "width": 16, "heads": 4, "keyValueHeads": 2, "context": 12, "positions": "Rotary",
        "normalization": "RMSNorm", "activation": "SwiGLU", "bias": false, "tiedEmbeddings": false,
    })
}

/// `config.json` as others write it, and the weights.
fn model(spec: Value) -> (Vec<u8>, Vec<u8>) {
    let spec: Spec = serde_json::from_value(spec).unwrap();
    let architecture = Architecture::language(spec.resolve().unwrap(), VOCABULARY).unwrap();
    let mut config = serde_json::to_value(&architecture).unwrap();
    config.as_object_mut().unwrap().remove("stoker");
    let network = architecture.init(3, &burn::tensor::Device::flex());
    (config.to_string().into_bytes(), to_safetensors(&network).unwrap())
}

/// A bucket `b` with a folder `base`.
struct Bucket(TempDir);

impl Bucket {
    fn new(files: &[(&str, &[u8])]) -> Self {
        let dir = TempDir::new().unwrap();
        std::fs::create_dir_all(dir.path().join("b/base")).unwrap();
        let bucket = Self(dir);
        files.iter().for_each(|(name, content)| bucket.write(name, content));
        bucket
    }

    fn of(spec: Value) -> Self {
        let (config, weights) = model(spec);
        Self::new(&[(CONFIG, &config), (WEIGHTS, &weights)])
    }

    fn write(&self, name: &str, content: &[u8]) {
        std::fs::write(self.0.path().join("b/base").join(name), content).unwrap();
    }

    async fn open(&self, more: Value) -> Result<Base, BaseError> {
        let mut wish = json!({"uri": "s3://b/base/", "format": "HuggingFace"});
        let (Value::Object(all), Value::Object(more)) = (&mut wish, more) else { panic!("objects") };
        all.extend(more);
        Base::open(&serde_json::from_value(wish).unwrap(), &Access::local(self.0.path())).await
    }

    async fn refusal(&self, more: Value) -> (Reason, String) {
        let error = self.open(more).await.expect_err("must be refused");
        (error.reason(), error.to_string())
    }
}

fn weights(base: &Base) -> Vec<u8> {
    to_safetensors(&base.load(0, &burn::tensor::Device::flex()).unwrap()).unwrap()
}

/// A safetensors file whose header says that.
fn safetensors(header: &Value, data: &[u8]) -> Vec<u8> {
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

#[tokio::test]
async fn a_folder_of_gpt2_and_of_llama_is_read() {
    for spec in [gpt2(), llama()] {
        let base = Bucket::of(spec.clone()).open(json!({})).await.unwrap();
        assert!(weights(&base) == model(spec).1);
        assert_eq!((base.context(), base.source().uri.as_str()), (12, "s3://b/base/"));
    }
}

#[tokio::test]
async fn weights_in_several_files_are_those_of_one() {
    let (config, whole) = model(llama());
    let file = ::safetensors::SafeTensors::deserialize(&whole).unwrap();
    let mut map = serde_json::Map::new();
    let mut shards: [Vec<_>; 2] = [Vec::new(), Vec::new()];
    for (index, (name, view)) in file.iter().enumerate() {
        map.insert(name.to_owned(), json!(format!("model-{}.safetensors", index % 2)));
        shards[index % 2].push((name, view));
    }
    let [first, second] = shards.map(|views| ::safetensors::serialize(views, None).unwrap());
    let index = json!({"metadata": {}, "weight_map": map}).to_string();
    let bucket = Bucket::new(&[
        (CONFIG, &config),
        ("model.safetensors.index.json", index.as_bytes()),
        ("model-0.safetensors", &first),
        ("model-1.safetensors", &second),
    ]);
    assert!(weights(&bucket.open(json!({})).await.unwrap()) == whole);

    std::fs::remove_file(bucket.0.path().join("b/base/model-1.safetensors")).unwrap();
    let (reason, message) = bucket.refusal(json!({})).await;
    assert!(reason == Reason::CorruptArtifact && message.contains("'model-1.safetensors' is missing"), "{message}");
    bucket.write("model.safetensors.index.json", br#"{"weight_map": {"a": "../../secret.safetensors"}}"#);
    let (reason, message) = bucket.refusal(json!({})).await;
    assert!(reason == Reason::CorruptArtifact && message.contains("'../../secret.safetensors'"), "{message}");
}

#[tokio::test]
async fn weights_of_another_shape_are_refused_with_the_tensor_and_both_shapes() {
    let (_, weights) = model(gpt2());
    let mut wide = gpt2();
    wide["width"] = json!(32);
    let (config, _) = model(wide);
    let (reason, message) = Bucket::new(&[(CONFIG, &config), (WEIGHTS, &weights)]).refusal(json!({})).await;
    assert_eq!(reason, Reason::CorruptArtifact);
    let parts = ["s3://b/base/", "'transformer.wte.weight'", "[300, 32]", "F32 [300, 16]"];
    assert!(parts.iter().all(|part| message.contains(part)), "{message}");
}

/// What they claim is up to a thousand times the memory of any machine.
#[tokio::test]
async fn a_header_that_lies_about_sizes_is_refused() {
    let (config, _) = model(gpt2());
    let huge = json!({"transformer.wte.weight": {"dtype": "F32", "shape": [300, 1u64 << 50], "data_offsets": [0, 1u64 << 60]}});
    let beyond = json!({"transformer.wte.weight": {"dtype": "F32", "shape": [300, 16], "data_offsets": [0, 19200]}});
    let overflow = json!({"a": {"dtype": "F32", "shape": [u64::MAX, u64::MAX], "data_offsets": [0, 4]}});
    let unlike = json!({"a": {"dtype": "F32", "shape": [1000], "data_offsets": [0, 4]}});
    let mut files: Vec<Vec<u8>> =
        [huge, beyond, overflow, unlike].iter().map(|header| safetensors(header, &[0; 4])).collect();
    files.push([&u64::MAX.to_le_bytes()[..], b"{}"].concat());
    files.push(b"short".to_vec());
    for file in files {
        let (reason, message) = Bucket::new(&[(CONFIG, &config), (WEIGHTS, &file)]).refusal(json!({})).await;
        assert!(reason == Reason::CorruptArtifact && message.contains("no valid safetensors"), "{message}");
    }
}

#[tokio::test]
async fn a_folder_that_is_no_model_says_what_it_lacks() {
    let (config, weights) = model(gpt2());
    for (files, reason, part) in [
        (vec![], Reason::DataNotFound, "holds no config.json"),
        (vec![(CONFIG, config.as_slice())], Reason::DataNotFound, "safe_serialization=True"),
        (vec![(ADAPTER_CONFIG, b"{}".as_slice())], Reason::InvalidConfig, "holds adapters (LoRA) alone"),
        (vec![(CONFIG, b"{".as_slice()), (WEIGHTS, &weights)], Reason::CorruptArtifact, "config.json cannot be read"),
        (
            vec![(CONFIG, br#"{"model_type": "bert"}"#.as_slice()), (WEIGHTS, &weights)],
            Reason::InvalidConfig,
            "the types gpt2 and llama are supported",
        ),
    ] {
        let (found, message) = Bucket::new(&files).refusal(json!({})).await;
        assert!(found == reason && message.contains(part) && message.contains("s3://b/base"), "{found} {message}");
    }
}

#[tokio::test]
async fn the_digest_is_that_of_all_that_was_read() {
    let bucket = Bucket::of(gpt2());
    let first = bucket.open(json!({})).await.unwrap().source().digest.clone();
    assert_eq!(bucket.open(json!({})).await.unwrap().source().digest, first);
    bucket.write("README.md", b"of no matter");
    assert_eq!(bucket.open(json!({})).await.unwrap().source().digest, first);
    bucket.write(TOKENIZER, Tokenizer::bytes().unwrap().to_json());
    assert_ne!(bucket.open(json!({})).await.unwrap().source().digest, first);
}

#[tokio::test]
async fn what_the_model_cannot_be_made_into_is_refused_before_data_are_read() {
    let bucket = Bucket::of(gpt2());
    assert_eq!(bucket.open(json!({"context": 5})).await.unwrap().context(), 5);
    for (wish, part) in [
        (json!({"context": 13}), "spec.model.from.context is 13, and the model that is started from reads 12 tokens"),
        (
            json!({"lora": {"targets": ["q_proj"]}}),
            "no linear layer 'q_proj' in its blocks; it has c_attn, c_proj, c_fc",
        ),
    ] {
        let (reason, message) = bucket.refusal(wish).await;
        assert!(reason == Reason::InvalidConfig && message.contains(part), "{message}");
    }
}

#[tokio::test]
async fn an_artifact_is_verified_and_one_of_adapters_must_say_of_which_model() {
    let (config, weights) = model(llama());
    let tokenizer = Tokenizer::bytes().unwrap().to_json().to_vec();
    let files = |names: [&str; 2]| {
        vec![
            (names[0].to_owned(), config.clone().into()),
            (names[1].to_owned(), weights.clone().into()),
            (TOKENIZER.to_owned(), tokenizer.clone().into()),
        ]
    };
    let bucket = Bucket::new(&[]);
    let access = Access::local(bucket.0.path());
    let digest = commit(&access.open("s3://b/base").unwrap(), None, files([CONFIG, WEIGHTS])).await.unwrap();
    let base = bucket.open(json!({"format": "Artifact", "digest": digest})).await.unwrap();
    assert_eq!(base.source().digest, digest);
    assert!(self::weights(&base) == weights);
    assert_eq!(base.vocabulary(None).unwrap().tokenizer.unwrap().vocabulary_size(), 257);

    let another = format!("sha256:{}", "0".repeat(64));
    let (reason, message) = bucket.refusal(json!({"format": "Artifact", "digest": another})).await;
    assert!(reason == Reason::CorruptArtifact && message.contains("is expected"), "{message}");

    let bucket = Bucket::new(&[]);
    let folder = Access::local(bucket.0.path()).open("s3://b/base").unwrap();
    let mut alone = files([ADAPTER_CONFIG, "adapter_model.safetensors"]);
    alone.push((METRICS.to_owned(), "{}".into()));
    commit(&folder, None, alone).await.unwrap();
    let (reason, message) = bucket.refusal(json!({"format": "Artifact"})).await;
    assert!(reason == Reason::CorruptArtifact && message.contains("metrics.json of s3://b/base"), "{message}");
}

#[tokio::test]
async fn a_tokenizer_that_cannot_be_used_is_of_matter_unless_another_one_is_named() {
    let bucket = Bucket::of(gpt2());
    bucket.write(TOKENIZER, br#"{"model": {"type": "Unigram"}}"#);
    let base = bucket.open(json!({})).await.unwrap();
    let message = base.vocabulary(None).unwrap_err().to_string();
    assert!(message.contains("Unigram") && message.contains("spec.data.text.tokenizer.file"), "{message}");
    let text: Text = serde_json::from_value(json!({"tokenizer": {"bytes": {}}})).unwrap();
    assert!(base.vocabulary(Some(&text)).unwrap().tokenizer.is_none());
}
