//! Trainings that start from a model: small random ones, as others would have written them for transformers.

use std::collections::BTreeMap;

use safetensors::SafeTensors;
use stoker_crds::{
    Reason,
    artifact::{CONFIG, ModelRef},
    metric::LOSS,
};

use super::*;
use crate::{
    artifact::{self, Publication, publish_model},
    base::{Base, BaseError},
    model::{Architecture, Network, Predictor, learned_weights, read},
    training::{TokenBatch, evaluate},
};

const VOCABULARY: usize = 40;
const CONTEXT: usize = 8;

/// Sequences in which each token follows on the one before in the same way, which a model can learn.
struct Counting(usize);

impl Dataset for Counting {
    fn len(&self) -> usize {
        self.0
    }

    fn batch(&self, indices: &[u32]) -> Result<Batch, DataError> {
        let token = |sequence: u32, position: usize| ((sequence as usize * 5 + position * 3) % VOCABULARY) as i32;
        let all = |first: usize| {
            indices.iter().flat_map(|index| (0..CONTEXT).map(move |position| token(*index, position + first))).collect()
        };
        let weights = vec![1.0; indices.len() * CONTEXT];
        Ok(Batch::Tokens(TokenBatch { sequences: indices.len(), tokens: all(0), targets: all(1), weights }))
    }
}

fn gpt2() -> Value {
    json!({"layers": 2, "width": 16, "heads": 4, "context": 12})
}

fn llama() -> Value {
    json!({
        "layers": 2, "width": 16, "heads": 4, "keyValueHeads": 2, "context": 12, "feedForward": 24, "positions": "Rotary",
        "normalization": "RMSNorm", "activation": "SwiGLU", "bias": false, "tiedEmbeddings": false,
    })
}

fn architecture(spec: &Value) -> Architecture {
    let spec: stoker_crds::training::model::Transformer = serde_json::from_value(spec.clone()).unwrap();
    Architecture::language(spec.resolve().unwrap(), VOCABULARY).unwrap()
}

/// A folder as transformers would leave it, and a configuration that starts from it.
pub(super) struct Started {
    dir: TempDir,
    config: TrainConfig,
    base: Predictor,
}

impl Started {
    pub(super) fn new(spec: &Value, seed: u64, from: Value, train: Value) -> Self {
        let dir = TempDir::new().unwrap();
        let architecture = architecture(spec);
        let network = architecture.init(seed, &Device::flex());
        let mut description = serde_json::to_value(&architecture).unwrap();
        description.as_object_mut().unwrap().remove("stoker");
        let folder = dir.path().join("b/base");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(CONFIG), description.to_string()).unwrap();
        std::fs::write(folder.join("model.safetensors"), to_safetensors(&network).unwrap()).unwrap();

        let mut model = json!({"uri": "s3://b/base/", "format": "HuggingFace", "context": CONTEXT});
        let (Value::Object(all), Value::Object(from)) = (&mut model, from) else { panic!("objects") };
        all.extend(from);
        let config = serde_json::from_value(json!({
            "run": {"namespace": "default", "training": "test", "uid": "8a6e0804", "number": 1},
            "task": "LanguageModeling",
            "data": {"source": {"uri": "s3://b/data.txt"}, "format": "text"},
            "model": {"from": model},
            "train": train,
            "checkpoint": {"everySteps": 1_000_000},
            "storage": {"uri": "s3://b"},
            "resources": {},
        }))
        .unwrap();
        let mut short = spec.clone();
        short["context"] = json!(CONTEXT);
        let base = Predictor::new(self::architecture(&short), network, &Device::flex());
        Self { dir, config, base }
    }

    fn open(&self) -> Base {
        self.try_open().unwrap()
    }

    fn try_open(&self) -> Result<Base, BaseError> {
        let stoker_crds::training::Model::From(wish) = &self.config.model else { panic!("a model to start from") };
        RUNTIME.block_on(Base::open(wish, &Access::local(self.dir.path())))
    }

    /// Starts from an artifact from here on.
    fn start_from(&mut self, uri: &str, from: &Value) {
        let mut model = json!({"uri": uri, "format": "Artifact", "context": CONTEXT});
        model.as_object_mut().unwrap().extend(from.as_object().unwrap().clone());
        self.config.model = serde_json::from_value(json!({ "from": model })).unwrap();
    }

    fn publish(&self, fitted: &Fitted) -> ModelRef {
        let base = self.open();
        let publication = Publication {
            config: &self.config,
            fitted,
            base: Some(base.source()),
            input: ("tokenizer.json", "{}".into()),
            stop_token: None,
            evaluations: &BTreeMap::new(),
            fingerprint: "sha256:of-the-data",
        };
        let root = Access::local(self.dir.path()).open("s3://b/models").unwrap();
        RUNTIME.block_on(publish_model(&root, publication)).unwrap()
    }

    pub(super) fn fit(&self, run: &Run, watch: &Recorder) -> Result<Fitted, TrainError> {
        let problem = Problem {
            train: &Counting(24),
            validation: &Counting(8),
            inputs: CONTEXT,
            targets: VOCABULARY,
            restore_targets: &|_| {},
            tokenizer: None,
            fingerprint: "sha256:of-the-data",
        };
        let surroundings = Surroundings {
            device: &run.device,
            precision: run.precision(&self.config)?,
            checkpoints: &run.folder,
            runtime: RUNTIME.handle(),
            watch,
            stop: &watch.stop,
        };
        fit(&self.config, problem, Some(self.open()), surroundings)
    }

    /// The base's loss on what is trained on.
    fn base_loss(&self) -> f64 {
        evaluate(&self.base, &Counting(24), &|_| {}).unwrap().metrics[LOSS]
    }
}

/// One step an epoch, so that the first epoch's loss is that of the first step.
fn whole_batches(rate: f64, epochs: u32) -> Value {
    json!({
        "loss": "CrossEntropy", "optimizer": {"adamW": {"learningRate": rate, "weightDecay": 0}}, "batchSize": 24,
        "epochs": epochs,
    })
}

#[test]
fn the_first_steps_loss_is_the_bases_and_the_last_ones_is_lower() {
    for spec in [gpt2(), llama()] {
        // Adapters leave a random matrix that predicts tokens as it is, whose small numbers bound what they can reach.
        let cases = [(json!({}), 0.01, 0.8), (json!({"lora": {"rank": 4, "alpha": 8}}), 0.05, 0.97)];
        for (from, rate, share) in cases {
            let started = Started::new(&spec, 3, from.clone(), whole_batches(rate, 60));
            let watch = Recorder::default();
            let fitted = started.fit(&Run::new(), &watch).unwrap();
            let losses = watch.seen().values(Split::Train, LOSS);
            // The same sums in another order.
            assert!((losses[0] - started.base_loss()).abs() < 1e-5, "{spec} {from}: {} is not the base's", losses[0]);
            let after = evaluate(&fitted.predictor, &Counting(24), &|_| {}).unwrap().metrics[LOSS];
            assert!(after < share * losses[0], "{spec} {from}: {} became {after}", losses[0]);
        }
    }
}

/// Dropout, a schedule, clipping and early stopping, whose best model is one to be found again too.
fn stateful() -> Value {
    json!({
        "loss": "CrossEntropy", "optimizer": {"adamW": {"learningRate": 0.02}}, "schedule": {"cosine": {"warmupSteps": 3}},
        "batchSize": 5, "epochs": 4, "gradientClip": {"norm": 0.5},
        "earlyStopping": {"metric": "validation/loss", "patience": 3},
    })
}

#[test]
fn a_stopped_run_with_adapters_goes_on_to_the_same_bytes_and_its_checkpoints_hold_these_alone() {
    for spec in [gpt2(), llama()] {
        let from = json!({"dropout": 0.2, "lora": {"rank": 4, "alpha": 8}});
        let started = Started::new(&spec, 3, from, stateful());
        let expected = started.fit(&Run::new(), &Recorder::default()).unwrap();
        let run = Run::new();
        for step in [1, 5, 8, 13] {
            let error = started.fit(&run, &Recorder::stopping_at(step)).unwrap_err();
            assert!(matches!(error, TrainError::Preempted { step: stopped, .. } if stopped == step), "{error}");
        }
        let last = Recorder::default();
        let fitted = started.fit(&run, &last).unwrap();
        assert_eq!(last.seen().resumed_from, Some(13));
        assert!(weights(&fitted) == weights(&expected), "{spec}: the weights differ");
        assert_eq!(fitted.best_step, expected.best_step);

        let newest = run.steps().last().copied().unwrap().to_string();
        let checkpoint = RUNTIME.block_on(artifact::open(&run.folder.join(&newest), None)).unwrap();
        let names = |file: &str| -> Vec<String> {
            let file = SafeTensors::deserialize(checkpoint.file(file).unwrap()).unwrap();
            file.names().into_iter().map(str::to_owned).collect()
        };
        for file in ["model.safetensors", "best.safetensors"] {
            assert!(names(file).iter().all(|name| name.contains(".lora_")), "{spec}: {:?}", names(file));
        }
        // Adam keeps two means of each.
        assert_eq!(names("optimizer.safetensors").len(), 2 * names("model.safetensors").len(), "{spec}");
    }
}

/// In 16 bits, by parts, without activations in memory, and with an average, which are all kept beside adapters.
#[test]
fn adapters_go_with_precisions_micro_batches_averages_and_activation_checkpointing() {
    for (precision, checkpointing) in [("BF16", false), ("Mixed", true), ("F32", true)] {
        let mut train = stateful();
        train["precision"] = json!(precision);
        train["activationCheckpointing"] = json!(checkpointing);
        (train["microBatchSize"], train["ema"]) = (json!(2), json!({"decay": 0.9}));
        let from = json!({"dropout": 0.2, "lora": {"rank": 4, "alpha": 8}});
        let started = Started::new(&llama(), 3, from, train);
        let expected = started.fit(&Run::new(), &Recorder::default()).unwrap();
        let run = Run::new();
        started.fit(&run, &Recorder::stopping_at(7)).unwrap_err();
        let fitted = started.fit(&run, &Recorder::default()).unwrap();
        assert!(weights(&fitted) == weights(&expected), "{precision}: the weights differ");
        assert!(learned_weights(fitted.predictor.model()).unwrap().iter().all(|(name, _)| name.contains(".lora_")));
    }
}

/// The same operations on the same numbers, of which only the order of sums may differ: each gradient is off by 1e-6 of the
/// largest one at most. What gradient descent makes of that adds up over the steps and stays far below the tolerance.
#[test]
fn with_activation_checkpointing_a_model_is_trained_on_with_the_same_losses() {
    for (spec, from) in [gpt2(), llama()]
        .iter()
        .flat_map(|spec| [json!({}), json!({"lora": {"rank": 4, "alpha": 64}})].map(|from| (spec, from)))
    {
        let losses = [false, true].map(|checkpointing| {
            let mut train = whole_batches(0.0, 20);
            train["optimizer"] = json!({"sgd": {"learningRate": 0.5}});
            train["activationCheckpointing"] = json!(checkpointing);
            let watch = Recorder::default();
            Started::new(spec, 3, from.clone(), train).fit(&Run::new(), &watch).unwrap();
            watch.seen().values(Split::Train, LOSS)
        });
        let [kept, computed_again] = &losses;
        assert!(kept[19] < kept[0] - 0.001, "{spec} {from}: nothing is learned: {kept:?}");
        for (kept, again) in kept.iter().zip(computed_again) {
            assert!((kept - again).abs() < 1e-5, "{spec} {from}: {losses:?}");
        }
    }
}

#[test]
fn a_stopped_run_of_all_weights_goes_on_to_the_same_bytes() {
    let started = Started::new(&gpt2(), 3, json!({"dropout": 0.2}), stateful());
    let expected = started.fit(&Run::new(), &Recorder::default()).unwrap();
    let run = Run::new();
    started.fit(&run, &Recorder::stopping_at(7)).unwrap_err();
    assert!(weights(&started.fit(&run, &Recorder::default()).unwrap()) == weights(&expected));
}

#[test]
fn with_adapters_what_they_are_added_to_stays_as_it_was() {
    let from = json!({"lora": {"rank": 4, "alpha": 8, "targets": ["q_proj", "v_proj"]}});
    let started = Started::new(&llama(), 3, from, whole_batches(0.05, 5));
    let fitted = started.fit(&Run::new(), &Recorder::default()).unwrap();
    let (before, after) = (to_safetensors(started.base.model()).unwrap(), weights(&fitted));
    let (before, after) = (SafeTensors::deserialize(&before).unwrap(), SafeTensors::deserialize(&after).unwrap());
    for (name, view) in before.iter() {
        let is_target = name.ends_with("q_proj.weight") || name.ends_with("v_proj.weight");
        assert_eq!(view.data() != after.tensor(name).unwrap().data(), is_target, "{name}");
    }
}

#[test]
fn adapters_alone_are_started_from_as_if_they_had_been_added_to_their_model() {
    for spec in [gpt2(), llama()] {
        let lora = json!({"lora": {"rank": 4, "alpha": 8, "export": "Adapter"}});
        let mut started = Started::new(&spec, 3, lora.clone(), whole_batches(0.05, 5));
        let mut last = started.base.model().clone();
        // The second time they are adapters of adapters.
        for what in ["of a folder", "of adapters"] {
            let fitted = started.fit(&Run::new(), &Recorder::default()).unwrap();
            let published = started.publish(&fitted);
            started.start_from(&published.uri, &lora);
            let base = started.open();
            assert_eq!((base.source().digest.as_str(), base.context()), (published.digest.as_str(), CONTEXT));
            let network = base.load(0, &Device::flex()).unwrap();
            assert!(to_safetensors(&network).unwrap() == weights(&fitted), "{spec}: those {what} are others");
            assert!(weights(&fitted) != to_safetensors(&last).unwrap(), "{spec}: nothing was learned {what}");
            last = network;
        }
    }
}

#[test]
fn adapters_of_a_model_that_is_gone_or_another_one_by_now_are_refused() {
    let lora = json!({"lora": {"rank": 4, "alpha": 8, "export": "Adapter"}});
    let mut started = Started::new(&gpt2(), 3, lora.clone(), whole_batches(0.05, 1));
    let published = started.publish(&started.fit(&Run::new(), &Recorder::default()).unwrap());
    started.start_from(&published.uri, &lora);
    let refusal = |started: &Started| {
        let error = started.try_open().unwrap_err();
        (error.reason(), error.to_string())
    };
    let file = started.dir.path().join("b/base/model.safetensors");
    let other = architecture(&gpt2()).init(4, &Device::flex());
    std::fs::write(&file, to_safetensors(&other).unwrap()).unwrap();
    let (reason, message) = refusal(&started);
    assert!(reason == Reason::CorruptArtifact && message.contains("s3://b/base/ is not what it was"), "{message}");
    assert!(message.contains(&published.uri) && message.contains("lora.export Merged"), "{message}");
    std::fs::remove_file(file).unwrap();
    let (reason, message) = refusal(&started);
    assert!(reason == Reason::DataNotFound && message.contains("s3://b/base/ holds no model.safetensors"), "{message}");
}

#[test]
fn a_checkpoint_that_started_from_another_model_is_not_taken() {
    let from = || json!({"lora": {"rank": 4, "alpha": 8}});
    let (one, other) = (Started::new(&gpt2(), 3, from(), stateful()), Started::new(&gpt2(), 4, from(), stateful()));
    assert_ne!(one.open().source().digest, other.open().source().digest);
    let run = Run::new();
    one.fit(&run, &Recorder::stopping_at(7)).unwrap_err();
    let watch = Recorder::default();
    let fitted = other.fit(&run, &watch).unwrap();
    assert_eq!((watch.seen().resumed_from, watch.seen().warnings.len()), (None, 1));
    assert!(weights(&fitted) == weights(&other.fit(&Run::new(), &Recorder::default()).unwrap()));
}

/// Of learned positions the first are kept, and of rotary ones there is nothing to keep.
#[test]
fn a_shorter_context_computes_the_same_as_far_as_it_reaches() {
    for spec in [gpt2(), llama()] {
        let started = Started::new(&spec, 3, json!({}), whole_batches(0.01, 1));
        let network = started.open().load(0, &Device::flex()).unwrap();
        assert_eq!(network.transformer().unwrap().config().context as usize, CONTEXT);
        let logits = |network: &Network| {
            let tokens: Vec<i32> = (0..CONTEXT as i32).collect();
            let tokens = burn::tensor::TensorData::new(tokens, [1, CONTEXT]);
            let transformer = network.transformer().unwrap();
            let hidden = transformer.forward(burn::tensor::Tensor::from_data(tokens, &Device::flex()));
            read(transformer.logits(hidden)).unwrap()
        };
        assert_eq!(logits(&network), logits(started.base.model()), "{spec}");
    }
}
