use serde_json::{Value, json};
use stoker_crds::training::model::{Preset, Transformer as Spec};

use super::{HuggingFaceError, TransformerConfig, from_hugging_face_config, to_hugging_face_config};

fn preset(preset: Preset) -> TransformerConfig {
    Spec { preset: Some(preset), ..Spec::default() }.resolve().unwrap()
}

/// The fields of the published GPT-2's config.json that say what it computes.
fn gpt2() -> Value {
    json!({
        "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
        "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "layer_norm_epsilon": 1e-5,
        "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024,
        "resid_pdrop": 0.1, "summary_type": "cls_index", "vocab_size": 50257,
    })
}

/// Those of Llama 3.2 1B's.
fn llama() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "head_dim": 64,
        "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 8192, "max_position_embeddings": 131072,
        "mlp_bias": false, "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 16,
        "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-5,
        "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                         "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        "rope_theta": 500000.0, "tie_word_embeddings": true, "torch_dtype": "bfloat16", "vocab_size": 128256,
    })
}

#[test]
fn the_published_models_are_the_presets() {
    let (config, vocabulary) = from_hugging_face_config(&gpt2()).unwrap();
    assert_eq!((config, vocabulary), (TransformerConfig { dropout: 0.1, ..preset(Preset::Gpt2) }, 50257));
    let (config, vocabulary) = from_hugging_face_config(&llama()).unwrap();
    assert_eq!((config, vocabulary), (preset(Preset::Llama32), 128_256));
}

#[test]
fn what_is_written_is_read_back() {
    for name in Preset::ALL {
        for (tied, bias) in [(true, false), (false, true)] {
            let mut config = preset(name);
            config.tied_embeddings = tied;
            config.bias |= bias;
            let written = to_hugging_face_config(&config, 1234).unwrap();
            assert_eq!(from_hugging_face_config(&Value::Object(written)), Ok((config, 1234)), "{name:?}");
        }
    }
}

#[test]
fn the_parameters_of_rotation_are_read_from_where_version_5_writes_them() {
    let mut config = llama();
    let fields = config.as_object_mut().unwrap();
    let mut parameters = fields.remove("rope_scaling").unwrap();
    parameters["rope_theta"] = fields.remove("rope_theta").unwrap();
    fields.insert("rope_parameters".to_owned(), parameters);
    assert_eq!(from_hugging_face_config(&config), from_hugging_face_config(&llama()));
}

#[test]
fn what_cannot_be_computed_is_refused_by_name() {
    let cases = [
        (gpt2(), "activation_function", json!("gelu")),
        (gpt2(), "scale_attn_by_inverse_layer_idx", json!(true)),
        (gpt2(), "scale_attn_weights", json!(false)),
        (gpt2(), "add_cross_attention", json!(true)),
        (gpt2(), "quantization_config", json!({"quant_method": "gptq"})),
        (gpt2(), "n_layer", json!("twelve")),
        (llama(), "hidden_act", json!("gelu")),
        (llama(), "mlp_bias", json!(true)),
        (llama(), "head_dim", json!(128)),
        (llama(), "rope_interleaved", json!(true)),
        (llama(), "partial_rotary_factor", json!(0.5)),
        (llama(), "hidden_size", json!(null)),
    ];
    for (mut config, field, value) in cases {
        config[field] = value;
        let message = from_hugging_face_config(&config).unwrap_err().to_string();
        assert!(message.contains(field), "{field}: {message}");
    }
    let mut config = llama();
    config["rope_scaling"]["rope_type"] = json!("yarn");
    let message = from_hugging_face_config(&config).unwrap_err().to_string();
    assert_eq!(message, "rope_type is \"yarn\": only default or llama3 is supported");
    config["model_type"] = json!("qwen2");
    let message = from_hugging_face_config(&config).unwrap_err().to_string();
    assert_eq!(message, "model_type is \"qwen2\": the types gpt2 and llama are supported");
}

#[test]
fn numbers_that_do_not_fit_each_other_are_refused() {
    let mut config = gpt2();
    config["n_head"] = json!(7);
    assert!(matches!(from_hugging_face_config(&config), Err(HuggingFaceError::Invalid(_))));
}

#[test]
fn a_model_that_transformers_do_not_have_is_not_written() {
    let spec: Spec = serde_json::from_value(json!({"preset": "tiny", "normalization": "RMSNorm"})).unwrap();
    let written = to_hugging_face_config(&spec.resolve().unwrap(), 1000);
    assert_eq!(written, Err(HuggingFaceError::NoCounterpart));
}
