//! A language model that is trained on: with all its weights, or with adapters.

use burn::tensor::Device;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use stoker_crds::training::model::{BaseModel, Export, Lora};

use super::{
    Adapted, Architecture, LanguageModel, ModelError, Network, Transformer, to_hugging_face_config,
    weights::{HostTensors, WeightFiles, serialize_for_torch, to_host, to_safetensors},
};

/// The most columns of A that are read of adapters, as `spec.model.from.lora.rank` has.
const MAX_RANK: u32 = 1024;

/// The weights of a model as they were read.
#[derive(Clone, Debug)]
pub enum WeightBytes {
    /// One safetensors file.
    Single(Bytes),
    /// Several, by name, and the index that says which of them holds what.
    Sharded {
        /// `model.safetensors.index.json`.
        index: Bytes,
        /// The files.
        shards: Vec<(String, Bytes)>,
    },
}

impl WeightBytes {
    fn with_files<T>(
        &self,
        use_files: impl FnOnce(&WeightFiles<'_>) -> Result<T, ModelError>,
    ) -> Result<T, ModelError> {
        match self {
            Self::Single(bytes) => use_files(&WeightFiles::single(bytes)?),
            Self::Sharded { index, shards } => {
                let shards: Vec<(&str, &[u8])> =
                    shards.iter().map(|(name, bytes)| (name.as_str(), bytes.as_ref())).collect();
                use_files(&WeightFiles::sharded(index, &shards)?)
            }
        }
    }
}

/// A language model to start from, whose files fit each other and what is to be made of it. Nothing is on a device yet.
#[derive(Clone, Debug)]
pub struct StartingModel {
    language: LanguageModel,
    /// How many tokens the model in the files reads at once.
    stored_context: u32,
    weights: WeightBytes,
    lora: Option<Lora>,
}

impl StartingModel {
    /// The model of a `config.json` and its weights, as `wish` would have it.
    ///
    /// # Errors
    /// If a file is not valid, the weights are not those of the architecture, or the model has no such context or layers:
    /// before memory is asked for.
    pub fn new(config: &[u8], weights: WeightBytes, wish: &BaseModel) -> Result<Self, ModelError> {
        let architecture = Architecture::parse(config)?;
        let stored = architecture.tokens()?;
        let (mut transformer, vocabulary) = (stored.transformer().clone(), stored.vocabulary());
        let stored_context = transformer.context;
        transformer.context = wish.context.unwrap_or(stored_context);
        if transformer.context > stored_context {
            return Err(ModelError::Context { most: stored_context, asked: transformer.context });
        }
        transformer.dropout = wish.dropout.unwrap_or(transformer.dropout);
        let architecture = Architecture::language(transformer, vocabulary as usize)?;
        let language = architecture.tokens()?.clone();
        let transformer = language.transformer();
        weights.with_files(|files| Transformer::check(transformer, stored_context, vocabulary as usize, files))?;
        if let Some(lora) = &wish.lora {
            Transformer::check_targets(transformer, lora)?;
            if lora.export == Export::Adapter {
                to_hugging_face_config(transformer, vocabulary).map_err(|error| ModelError::Adapter(error.into()))?;
            }
        }
        Ok(Self { language, stored_context, weights, lora: wish.lora.clone() })
    }

    /// What is trained.
    pub fn language(&self) -> &LanguageModel {
        &self.language
    }

    /// The model on a device; with adapters, which the seed decides, if it is to have some.
    ///
    /// # Errors
    /// If the device fails.
    pub fn load(&self, seed: u64, device: &Device) -> Result<Network, ModelError> {
        let Self { language, stored_context, weights, lora } = self;
        let (config, vocabulary) = (language.transformer(), language.vocabulary() as usize);
        let transformer =
            weights.with_files(|files| Transformer::load(config, *stored_context, vocabulary, files, device))?;
        Ok(Network::Transformer(match lora {
            Some(lora) => transformer.adapted(lora, seed),
            None => transformer,
        }))
    }

    /// The adapters that alone are trained, if not all weights are.
    pub fn lora(&self) -> Option<&Lora> {
        self.lora.as_ref()
    }

    /// How large these adapters are.
    pub fn adapted(&self) -> Option<Adapted> {
        self.lora.as_ref().map(|lora| Transformer::size_of_adapters(self.language.transformer(), lora))
    }
}

/// What is learned of a model, on the host: its adapters if it has some, else all its weights.
pub(crate) fn learned_weights(model: &Network) -> Result<HostTensors, ModelError> {
    if let Network::Transformer(transformer) = model {
        let adapters = transformer.adapters_to_host()?;
        if !adapters.is_empty() {
            return Ok(adapters);
        }
    }
    to_host(model)
}

/// An adapted model with other adapters: those that [`learned_weights`] gave, as a file.
pub(crate) fn with_adapters(model: Network, file: &[u8]) -> Result<Network, ModelError> {
    match model {
        Network::Mlp(_) => Err(ModelError::ReadsRows),
        Network::Transformer(transformer) => transformer.with_adapters(file).map(Network::Transformer),
    }
}

/// The adapters of a model as `peft` reads them: the content of `adapter_config.json` and `adapter_model.safetensors`.
pub(crate) fn to_peft(model: &Network, lora: &Lora, base: &str) -> Result<(Value, Vec<u8>), ModelError> {
    let transformer = model.transformer()?;
    let targets = if lora.targets.is_empty() {
        Transformer::adaptable_layers(transformer.config())
    } else {
        lora.targets.clone()
    };
    // Where it is a whole number, `peft` has it as one.
    let alpha = if lora.alpha.fract() == 0.0 { json!(lora.alpha as u64) } else { json!(lora.alpha) };
    let config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "target_modules": targets,
        "fan_in_fan_out": transformer.has_layers_by_input(),
        "bias": "none",
        "inference_mode": true,
    });
    Ok((config, serialize_for_torch(&transformer.adapters_to_host()?)?))
}

/// What [`to_peft`] says of adapters.
#[derive(Deserialize)]
struct Adapters {
    r: u32,
    lora_alpha: f64,
    target_modules: Vec<String>,
}

/// The weights of a model with the adapters added that [`to_peft`] gave, as a safetensors file of 32-bit floats.
///
/// # Errors
/// If a file is not valid, or the adapters are not those of layers of the model.
pub(crate) fn merged(
    config: &[u8],
    weights: &WeightBytes,
    description: &[u8],
    adapters: &[u8],
) -> Result<Vec<u8>, ModelError> {
    let Adapters { r: rank, lora_alpha: alpha, target_modules: targets } =
        serde_json::from_slice(description).map_err(ModelError::AdapterConfig)?;
    if !(1..=MAX_RANK).contains(&rank) {
        let problem = format!("r must lie between 1 and {MAX_RANK}, and is {rank}");
        return Err(ModelError::AdapterConfig(serde::de::Error::custom(problem)));
    }
    let architecture = Architecture::parse(config)?;
    let language = architecture.tokens()?;
    let (transformer, vocabulary) = (language.transformer(), language.vocabulary() as usize);
    let model = weights
        .with_files(|files| Transformer::load(transformer, transformer.context, vocabulary, files, &Device::flex()))?;
    // What is drawn is replaced.
    let adapted = model.adapted(&Lora { rank, alpha, targets, export: Export::Merged }, 0);
    to_safetensors(&Network::Transformer(adapted.with_adapters(adapters)?))
}
