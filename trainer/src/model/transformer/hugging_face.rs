//! The `config.json` of Hugging Face's transformers, of GPT-2 and of Llama, to and from our own description.

#[cfg(test)]
mod tests;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use stoker_crds::training::model::{
    InvalidTransformer, Normalization, PositionEncoding, RopeScaling, Rotary, TransformerActivation, TransformerConfig,
};

use super::layout::Family;

/// Why a description cannot be translated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HuggingFaceError {
    /// Transformers have no such model.
    #[error(
        "Hugging Face's transformers have no such model: they have GPT-2's (positions Learned, LayerNorm, GELU, with bias, \
         keyValueHeads equal to heads) and Llama's (positions Rotary, RMSNorm, SwiGLU)"
    )]
    NoCounterpart,
    /// A model of another kind.
    #[error("model_type is {0}: the types gpt2 and llama are supported")]
    ModelType(Value),
    /// A field that is needed.
    #[error("{0} is missing or of another type: it is no complete configuration of a {1}")]
    Field(&'static str, &'static str),
    /// A field whose value is not supported.
    #[error("{field} is {found}: only {supported} is supported")]
    Unsupported {
        /// The field.
        field: &'static str,
        /// Its value.
        found: Value,
        /// What it can be.
        supported: String,
    },
    /// Numbers that do not fit each other.
    #[error(transparent)]
    Invalid(#[from] InvalidTransformer),
}

/// The fields of a `config.json` with which Hugging Face's transformers load a model of these tokens.
///
/// The ids of the tokens that begin and end a text are null: only the tokenizer knows them.
///
/// # Errors
/// If transformers have no such model.
pub fn to_hugging_face_config(
    config: &TransformerConfig,
    vocabulary: u32,
) -> Result<Map<String, Value>, HuggingFaceError> {
    let mut fields = match (Family::of(config), &config.positions) {
        (Family::Gpt2, _) => to_gpt2(config),
        (Family::Llama, PositionEncoding::Rotary(rotary)) => to_llama(config, rotary),
        (Family::Llama | Family::Other, _) => return Err(HuggingFaceError::NoCounterpart),
    };
    fields.extend(object(json!({
        "vocab_size": vocabulary,
        "tie_word_embeddings": config.tied_embeddings,
        "bos_token_id": null,
        "eos_token_id": null,
        "torch_dtype": "float32",
    })));
    Ok(fields)
}

/// The token that ends a text by what a `config.json` says; the first, if it names several.
pub fn end_of_text(config: &[u8]) -> Option<u32> {
    #[derive(Deserialize)]
    struct Named {
        eos_token_id: OneOrMore,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMore {
        One(u32),
        More(Vec<u32>),
    }
    match serde_json::from_slice::<Named>(config).ok()?.eos_token_id {
        OneOrMore::One(token) => Some(token),
        OneOrMore::More(tokens) => tokens.first().copied(),
    }
}

fn to_gpt2(config: &TransformerConfig) -> Map<String, Value> {
    object(json!({
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_layer": config.layers,
        "n_embd": config.width,
        "n_head": config.heads,
        "n_positions": config.context,
        "n_inner": config.feed_forward,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": config.norm_epsilon,
        "embd_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        "attn_pdrop": 0.0,
        "scale_attn_weights": true,
        "scale_attn_by_inverse_layer_idx": false,
    }))
}

fn to_llama(config: &TransformerConfig, rotary: &Rotary) -> Map<String, Value> {
    let scaling = rotary.scaling.map(|scaling| {
        json!({
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_frequency_factor,
            "high_freq_factor": scaling.high_frequency_factor,
            "original_max_position_embeddings": scaling.original_context,
        })
    });
    object(json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": config.layers,
        "hidden_size": config.width,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.key_value_heads,
        "head_dim": config.head_size(),
        "max_position_embeddings": config.context,
        "intermediate_size": config.feed_forward,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": rotary.theta,
        "rope_scaling": scaling,
        "attention_bias": config.bias,
        "mlp_bias": config.bias,
        "attention_dropout": 0.0,
    }))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// The transformer that a `config.json` of Hugging Face's transformers describes, and how many tokens it has.
///
/// Transformers set shares of attention to 0 at random too, which this does not; the dropout is that of the layers' outputs.
///
/// # Errors
/// If it describes what this cannot compute: the error names the field.
pub fn from_hugging_face_config(config: &Value) -> Result<(TransformerConfig, u32), HuggingFaceError> {
    let fields = |model| Fields { fields: config, model };
    let (transformer, vocabulary) = match config.get("model_type").and_then(Value::as_str) {
        Some("gpt2") => from_gpt2(fields("GPT-2"))?,
        Some("llama") => from_llama(fields("Llama"))?,
        _ => return Err(HuggingFaceError::ModelType(config.get("model_type").cloned().unwrap_or_default())),
    };
    transformer.validate()?;
    Ok((transformer, vocabulary))
}

fn from_gpt2(fields: Fields<'_>) -> Result<(TransformerConfig, u32), HuggingFaceError> {
    fields.refuse_quantized()?;
    fields.only("activation_function", &["gelu_new", "gelu_pytorch_tanh"].map(Value::from))?;
    fields.only("scale_attn_weights", &[true.into()])?;
    fields.only("scale_attn_by_inverse_layer_idx", &[false.into()])?;
    fields.only("add_cross_attention", &[false.into()])?;
    let (width, heads) = (fields.number("n_embd")?, fields.number("n_head")?);
    let transformer = TransformerConfig {
        layers: fields.number("n_layer")?,
        width,
        heads,
        key_value_heads: heads,
        context: fields.number("n_positions")?,
        feed_forward: fields.number_or("n_inner", width.saturating_mul(4))?,
        positions: PositionEncoding::Learned,
        normalization: Normalization::LayerNorm,
        norm_epsilon: fields.float_or("layer_norm_epsilon", 1e-5)?,
        activation: TransformerActivation::GELU,
        bias: true,
        tied_embeddings: fields.flag_or("tie_word_embeddings", true)?,
        dropout: fields.float_or("resid_pdrop", 0.1)?,
    };
    Ok((transformer, fields.number("vocab_size")?))
}

fn from_llama(fields: Fields<'_>) -> Result<(TransformerConfig, u32), HuggingFaceError> {
    fields.refuse_quantized()?;
    fields.only("hidden_act", &["silu".into()])?;
    fields.only("rope_interleaved", &[false.into()])?;
    fields.only("partial_rotary_factor", &[1.into(), 1.0.into()])?;
    let bias = fields.flag_or("attention_bias", false)?;
    fields.only("mlp_bias", &[bias.into()]).map_err(|error| match error {
        HuggingFaceError::Unsupported { field, found, .. } => {
            HuggingFaceError::Unsupported { field, found, supported: format!("attention_bias, which is {bias}") }
        }
        error => error,
    })?;
    let (width, heads) = (fields.number("hidden_size")?, fields.number("num_attention_heads")?);
    if let Some(size) = width.checked_div(heads) {
        fields.only("head_dim", &[size.into()])?;
    }
    let transformer = TransformerConfig {
        layers: fields.number("num_hidden_layers")?,
        width,
        heads,
        key_value_heads: fields.number_or("num_key_value_heads", heads)?,
        context: fields.number("max_position_embeddings")?,
        feed_forward: fields.number("intermediate_size")?,
        positions: PositionEncoding::Rotary(rotary(fields)?),
        normalization: Normalization::RMSNorm,
        norm_epsilon: fields.float_or("rms_norm_eps", 1e-6)?,
        activation: TransformerActivation::SwiGLU,
        bias,
        tied_embeddings: fields.flag_or("tie_word_embeddings", false)?,
        dropout: 0.0,
    };
    Ok((transformer, fields.number("vocab_size")?))
}

/// From `rope_theta` and `rope_scaling`, or from `rope_parameters`, which holds both since version 5 of transformers.
fn rotary(fields: Fields<'_>) -> Result<Rotary, HuggingFaceError> {
    let given = |name| fields.fields.get(name).filter(|value| !value.is_null());
    let Some(parameters) = given("rope_parameters").or_else(|| given("rope_scaling")) else {
        return Ok(Rotary { theta: fields.float_or("rope_theta", 10_000.0)?, scaling: None });
    };
    let inner = Fields { fields: parameters, model: fields.model };
    let theta = inner.float_or("rope_theta", fields.float_or("rope_theta", 10_000.0)?)?;
    // Older files have the type under the name `type`.
    let kind = parameters.get("rope_type").or_else(|| parameters.get("type")).and_then(Value::as_str);
    let scaling = match kind {
        None | Some("default") => None,
        Some("llama3") => Some(RopeScaling {
            factor: inner.float("factor")?,
            low_frequency_factor: inner.float("low_freq_factor")?,
            high_frequency_factor: inner.float("high_freq_factor")?,
            original_context: inner.number("original_max_position_embeddings")?,
        }),
        Some(other) => {
            return Err(HuggingFaceError::Unsupported {
                field: "rope_type",
                found: other.into(),
                supported: "default or llama3".to_owned(),
            });
        }
    };
    Ok(Rotary { theta, scaling })
}

/// The fields of an object. One that is null counts as not there.
#[derive(Clone, Copy)]
struct Fields<'a> {
    fields: &'a Value,
    /// For messages.
    model: &'static str,
}

impl Fields<'_> {
    /// Quantized weights would have to be computed before they are used.
    fn refuse_quantized(self) -> Result<(), HuggingFaceError> {
        self.only("quantization_config", &[Value::Null])
    }

    /// A field is not there, or one of these values.
    fn only(self, field: &'static str, supported: &[Value]) -> Result<(), HuggingFaceError> {
        match self.fields.get(field) {
            None | Some(Value::Null) => Ok(()),
            Some(value) if supported.contains(value) => Ok(()),
            Some(value) => Err(HuggingFaceError::Unsupported {
                field,
                found: value.clone(),
                supported: supported.iter().map(Value::to_string).collect::<Vec<_>>().join(" or "),
            }),
        }
    }

    fn number(self, field: &'static str) -> Result<u32, HuggingFaceError> {
        self.read(field, |value| u32::try_from(value.as_u64()?).ok())?.ok_or(HuggingFaceError::Field(field, self.model))
    }

    fn number_or(self, field: &'static str, default: u32) -> Result<u32, HuggingFaceError> {
        Ok(self.read(field, |value| u32::try_from(value.as_u64()?).ok())?.unwrap_or(default))
    }

    fn float(self, field: &'static str) -> Result<f64, HuggingFaceError> {
        self.read(field, Value::as_f64)?.ok_or(HuggingFaceError::Field(field, self.model))
    }

    fn float_or(self, field: &'static str, default: f64) -> Result<f64, HuggingFaceError> {
        Ok(self.read(field, Value::as_f64)?.unwrap_or(default))
    }

    fn flag_or(self, field: &'static str, default: bool) -> Result<bool, HuggingFaceError> {
        Ok(self.read(field, Value::as_bool)?.unwrap_or(default))
    }

    /// A field's value; `None` if it is not there.
    fn read<T>(self, field: &'static str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>, HuggingFaceError> {
        match self.fields.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => read(value).map(Some).ok_or(HuggingFaceError::Field(field, self.model)),
        }
    }
}
