//! What a model is made of: the content of `config.json`.

use burn::tensor::{Device, FloatDType, Tensor, activation};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value, json};
use stoker_crds::training::{
    Model, Task,
    model::{Mlp as MlpSpec, ModelConfig, TransformerConfig},
    optimize::Loss,
    text::MAX_VOCABULARY,
};

use super::{
    Mlp, ModelError, Network, Transformer, from_hugging_face_config, to_hugging_face_config, weights::WeightFiles,
};

/// All that is needed, besides the weights, to compute a model: the content of `config.json`.
///
/// Of a language model it is what Hugging Face's transformers read, where they have such a model, and our own fields under
/// the key `stoker`. One that others wrote for transformers has no such key, and is read too.
#[derive(Clone, Debug, PartialEq)]
pub enum Architecture {
    /// Predicts numbers or a class from a row of numbers.
    Rows(RowModel),
    /// Predicts the next token from the tokens before it.
    Language(LanguageModel),
}

/// A model that predicts numbers or a class from a row of numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RowModel {
    /// The layers.
    pub model: RowLayers,
    /// What it predicts.
    pub task: Task,
    /// What it was trained to make small; says how outputs become probabilities.
    pub loss: Loss,
    /// Numbers per row that go in.
    pub input_width: usize,
    /// Numbers per row that come out: one per target or class, one for [`Loss::BinaryCrossEntropy`].
    pub output_width: usize,
}

/// The layers of a [`RowModel`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RowLayers {
    /// A multi-layer perceptron.
    Mlp(MlpSpec),
}

/// A model that predicts the next token from the tokens before it.
#[derive(Clone, Debug, PartialEq)]
pub struct LanguageModel {
    transformer: TransformerConfig,
    vocabulary: u32,
}

/// The key of our own fields in a language model's `config.json`.
const OURS: &str = "stoker";

/// The value of that key.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Ours {
    vocabulary: u32,
    transformer: TransformerConfig,
}

impl Architecture {
    /// The architecture for data of that many inputs and targets (or classes, or tokens).
    ///
    /// # Errors
    /// If the model does not fit the task, or the loss the number of classes, there is no such transformer, or the model is one
    /// to start from, which only its own files describe.
    pub fn new(model: ModelConfig, task: Task, loss: Loss, inputs: usize, targets: usize) -> Result<Self, ModelError> {
        let spec = match (model, task) {
            (Model::Transformer(config), Task::LanguageModeling) => return Self::language(config, targets),
            (Model::Mlp(spec), Task::Regression | Task::Classification) => spec,
            (Model::From(_), Task::LanguageModeling) => return Err(ModelError::NoBase),
            (Model::Transformer(_) | Model::From(_), _) | (Model::Mlp(_), Task::LanguageModeling) => {
                return Err(ModelError::Task);
            }
        };
        let output_width = match (task, loss) {
            (Task::Classification, Loss::BinaryCrossEntropy) if targets != 2 => {
                return Err(ModelError::NotBinary(targets));
            }
            (Task::Classification, _) if targets < 2 => return Err(ModelError::OneClass),
            (Task::Classification, Loss::BinaryCrossEntropy) => 1,
            _ => targets,
        };
        Ok(Self::Rows(RowModel { model: RowLayers::Mlp(spec), task, loss, input_width: inputs, output_width }))
    }

    /// The architecture of a transformer that predicts one of so many tokens.
    ///
    /// # Errors
    /// If there is no such transformer.
    pub fn language(transformer: TransformerConfig, vocabulary: usize) -> Result<Self, ModelError> {
        transformer.validate()?;
        let fits = u32::try_from(vocabulary).ok().filter(|vocabulary| (1..=MAX_VOCABULARY).contains(vocabulary));
        let vocabulary = fits.ok_or(ModelError::Vocabulary { most: MAX_VOCABULARY, found: vocabulary })?;
        Ok(Self::Language(LanguageModel { transformer, vocabulary }))
    }

    /// The content of a `config.json`.
    ///
    /// # Errors
    /// If it is not valid, or describes a model that cannot be computed here.
    pub fn parse(config: &[u8]) -> Result<Self, ModelError> {
        let config: Value = serde_json::from_slice(config).map_err(ModelError::Config)?;
        if let Some(ours) = config.get(OURS) {
            let Ours { vocabulary, transformer } = Ours::deserialize(ours).map_err(ModelError::Config)?;
            return Self::language(transformer, vocabulary as usize);
        }
        if config.get("model_type").is_some() {
            let (transformer, vocabulary) = from_hugging_face_config(&config)?;
            return Self::language(transformer, vocabulary as usize);
        }
        let rows = RowModel::deserialize(config).map_err(ModelError::Config)?;
        if rows.task == Task::LanguageModeling { Err(ModelError::Task) } else { Ok(Self::Rows(rows)) }
    }

    /// The content of the `config.json` beside weights of a type, of a model that ends what it writes with a token.
    ///
    /// # Errors
    /// If it cannot be written as JSON.
    pub fn to_config(&self, weights: FloatDType, end_of_text: Option<u32>) -> Result<Vec<u8>, serde_json::Error> {
        match self {
            Self::Rows(rows) => serde_json::to_vec_pretty(rows),
            Self::Language(language) => {
                let mut config = language.to_config();
                let weights = if weights == FloatDType::BF16 { "bfloat16" } else { "float32" };
                for (name, value) in [("torch_dtype", Value::from(weights)), ("eos_token_id", end_of_text.into())] {
                    // A model that transformers do not have has neither.
                    if let Some(field) = config.get_mut(name) {
                        *field = value;
                    }
                }
                serde_json::to_vec_pretty(&config)
            }
        }
    }

    /// What it predicts.
    pub fn task(&self) -> Task {
        match self {
            Self::Rows(rows) => rows.task,
            Self::Language(_) => Task::LanguageModeling,
        }
    }

    /// The architecture, if the model reads rows of numbers.
    ///
    /// # Errors
    /// If it reads tokens.
    pub fn rows(&self) -> Result<&RowModel, ModelError> {
        match self {
            Self::Rows(rows) => Ok(rows),
            Self::Language(_) => Err(ModelError::ReadsTokens),
        }
    }

    /// The architecture, if the model reads tokens.
    ///
    /// # Errors
    /// If it reads rows of numbers.
    pub fn tokens(&self) -> Result<&LanguageModel, ModelError> {
        match self {
            Self::Rows(_) => Err(ModelError::ReadsRows),
            Self::Language(language) => Ok(language),
        }
    }

    /// A model with random weights, decided by the seed.
    pub fn init(&self, seed: u64, device: &Device) -> Network {
        match self {
            Self::Rows(RowModel { model: RowLayers::Mlp(spec), input_width, output_width, .. }) => {
                Network::Mlp(Mlp::init(spec, *input_width, *output_width, seed, device))
            }
            Self::Language(LanguageModel { transformer, vocabulary }) => {
                Network::Transformer(Transformer::init(transformer, *vocabulary as usize, seed, device))
            }
        }
    }

    /// The model with the weights of a safetensors file.
    ///
    /// # Errors
    /// If the file is not valid, or a tensor is missing, is one too many, or has another type or shape. All is compared
    /// before memory is asked for, which is then at most twice as much as the file is long.
    pub fn load(&self, weights: &[u8], device: &Device) -> Result<Network, ModelError> {
        self.load_files(&WeightFiles::single(weights)?, device)
    }

    /// The model with the weights of several safetensors files, given by name, and their `model.safetensors.index.json`.
    ///
    /// # Errors
    /// As [`Self::load`], and if a file does not hold what the index says.
    pub fn load_shards(&self, index: &[u8], shards: &[(&str, &[u8])], device: &Device) -> Result<Network, ModelError> {
        self.load_files(&WeightFiles::sharded(index, shards)?, device)
    }

    fn load_files(&self, files: &WeightFiles<'_>, device: &Device) -> Result<Network, ModelError> {
        match self {
            Self::Rows(RowModel { model: RowLayers::Mlp(spec), input_width, output_width, .. }) => {
                Mlp::load(spec, [*input_width, *output_width], files, device).map(Network::Mlp)
            }
            Self::Language(LanguageModel { transformer, vocabulary }) => {
                let context = transformer.context;
                Transformer::load(transformer, context, *vocabulary as usize, files, device).map(Network::Transformer)
            }
        }
    }
}

impl RowModel {
    /// Numbers per row of a prediction: one per class (two for [`Loss::BinaryCrossEntropy`]) or target.
    pub fn prediction_width(&self) -> usize {
        if self.loss == Loss::BinaryCrossEntropy { 2 } else { self.output_width }
    }

    /// Raw outputs `[rows, output_width]` to predictions `[rows, prediction_width]`.
    pub(crate) fn predictions(&self, outputs: Tensor<2>) -> Tensor<2> {
        match (self.task, self.loss) {
            (Task::Regression, _) => outputs,
            (_, Loss::BinaryCrossEntropy) => {
                // 1 - σ(x) = σ(-x), without the cancellation.
                Tensor::cat(vec![activation::sigmoid(-outputs.clone()), activation::sigmoid(outputs)], 1)
            }
            _ => activation::softmax(outputs, 1),
        }
    }
}

impl LanguageModel {
    /// The layers.
    pub fn transformer(&self) -> &TransformerConfig {
        &self.transformer
    }

    /// How many tokens there are.
    pub fn vocabulary(&self) -> u32 {
        self.vocabulary
    }

    /// The content of `config.json`.
    fn to_config(&self) -> Value {
        let Self { transformer, vocabulary } = self;
        // Of a model that transformers do not have, there are our own fields alone.
        let mut config = to_hugging_face_config(transformer, *vocabulary).unwrap_or_else(|_| Map::new());
        config.insert(OURS.to_owned(), json!({"vocabulary": vocabulary, "transformer": transformer}));
        Value::Object(config)
    }
}

impl Serialize for Architecture {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Rows(rows) => rows.serialize(serializer),
            Self::Language(language) => language.to_config().serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use stoker_crds::training::model::{Preset, Transformer as Spec};

    use super::{super::end_of_text, *};

    fn language(preset: Preset, vocabulary: usize) -> Architecture {
        let config = Spec { preset: Some(preset), ..Spec::default() }.resolve().unwrap();
        Architecture::language(config, vocabulary).unwrap()
    }

    /// As it was written before there were language models.
    #[test]
    fn a_config_of_rows_is_written_as_ever() {
        let text = r#"{"model":{"mlp":{"hidden":[64,32],"activation":"ReLU","dropout":0.1}},"task":"Classification","loss":"CrossEntropy","inputWidth":64,"outputWidth":10}"#;
        let architecture = Architecture::parse(text.as_bytes()).unwrap();
        assert_eq!(architecture.rows().unwrap().output_width, 10);
        assert_eq!(serde_json::to_string(&architecture).unwrap(), text);
    }

    #[test]
    fn a_config_of_a_language_model_is_read_back_as_it_was_written() {
        for preset in Preset::ALL {
            let architecture = language(preset, 1000);
            for (weights, name) in [(FloatDType::F32, "float32"), (FloatDType::BF16, "bfloat16")] {
                let bytes = architecture.to_config(weights, Some(999)).unwrap();
                assert_eq!(Architecture::parse(&bytes).unwrap(), architecture, "{preset:?}");
                assert_eq!(end_of_text(&bytes), Some(999), "{preset:?}");
                assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap()["torch_dtype"], name, "{preset:?}");
            }
        }
    }

    #[test]
    fn a_config_that_others_wrote_for_transformers_is_read() {
        let architecture = language(Preset::Llama32, 1000);
        let mut config = serde_json::to_value(&architecture).unwrap();
        config.as_object_mut().unwrap().remove(OURS).unwrap();
        assert_eq!(Architecture::parse(config.to_string().as_bytes()).unwrap(), architecture);
    }

    #[test]
    fn a_transformer_that_transformers_do_not_have_is_written_without_their_fields() {
        let spec: Spec = serde_json::from_value(json!({"preset": "tiny", "positions": "Rotary"})).unwrap();
        let architecture = Architecture::language(spec.resolve().unwrap(), 1000).unwrap();
        let config = serde_json::to_value(&architecture).unwrap();
        assert_eq!(config.as_object().unwrap().keys().collect::<Vec<_>>(), [OURS]);
        assert_eq!(Architecture::parse(config.to_string().as_bytes()).unwrap(), architecture);
    }

    #[test]
    fn a_config_of_a_transformer_that_cannot_be_is_refused_before_there_is_one() {
        let mut config = serde_json::to_value(language(Preset::Tiny, 1000)).unwrap();
        config[OURS]["transformer"]["heads"] = json!(0);
        let error = Architecture::parse(config.to_string().as_bytes()).unwrap_err().to_string();
        assert!(error.contains("heads must lie between 1 and 1024"), "{error}");
        config[OURS]["transformer"]["heads"] = json!(4);
        config[OURS]["vocabulary"] = json!(u32::MAX);
        let error = Architecture::parse(config.to_string().as_bytes()).unwrap_err().to_string();
        assert!(error.contains("1 to 1048576 tokens"), "{error}");
    }

    #[test]
    fn a_model_and_a_task_that_do_not_fit_each_other_are_refused() {
        let mlp = || Model::Mlp(MlpSpec::default());
        let transformer = || Model::Transformer(Spec::default().resolve().unwrap());
        let new = |model, task| Architecture::new(model, task, Loss::CrossEntropy, 2, 300);
        assert!(matches!(new(mlp(), Task::LanguageModeling), Err(ModelError::Task)));
        assert!(matches!(new(transformer(), Task::Classification), Err(ModelError::Task)));
        assert_eq!(new(transformer(), Task::LanguageModeling).unwrap().tokens().unwrap().vocabulary(), 300);
        assert_eq!(new(mlp(), Task::Classification).unwrap().task(), Task::Classification);
    }
}
