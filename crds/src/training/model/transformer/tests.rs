use serde_json::{Value, json};

use super::{super::ModelConfig, InvalidTransformer, PositionEncoding, Preset, Rotary, Transformer, TransformerConfig};

fn resolve(spec: Value) -> Result<TransformerConfig, InvalidTransformer> {
    serde_json::from_value::<Transformer>(spec).unwrap().resolve()
}

fn problem(spec: Value) -> String {
    resolve(spec).unwrap_err().to_string()
}

#[test]
fn every_preset_resolves_and_is_written_under_its_published_name() {
    let names = ["tiny", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "llama-3.2-1b", "smollm2-135m"];
    for (preset, name) in Preset::ALL.into_iter().zip(names) {
        assert_eq!(serde_json::to_value(preset).unwrap(), name);
        assert!(resolve(json!({"preset": name})).is_ok(), "{name}");
    }
}

#[test]
fn a_resolved_llama_holds_every_field() {
    let config = resolve(json!({"preset": "llama-3.2-1b", "context": 2048})).unwrap();
    assert_eq!(
        serde_json::to_value(config).unwrap(),
        json!({
            "layers": 16, "width": 2048, "heads": 32, "keyValueHeads": 8, "context": 2048, "feedForward": 8192,
            "positions": {"rotary": {"theta": 500_000.0, "scaling": {
                "factor": 32.0, "lowFrequencyFactor": 1.0, "highFrequencyFactor": 4.0, "originalContext": 8192,
            }}},
            "normalization": "RMSNorm", "normEpsilon": 1e-5, "activation": "SwiGLU", "bias": false,
            "tiedEmbeddings": true, "dropout": 0.0,
        })
    );
}

#[test]
fn what_is_not_set_follows_from_what_is() {
    let config = resolve(json!({"preset": "gpt2", "width": 512, "heads": 8})).unwrap();
    assert_eq!((config.key_value_heads, config.feed_forward, config.layers), (8, 2048, 12));
    let config = resolve(json!({"width": 384, "activation": "SwiGLU", "positions": "Rotary"})).unwrap();
    assert_eq!(config.feed_forward, 1024);
    assert_eq!(config.positions, PositionEncoding::Rotary(Rotary { theta: 10_000.0, scaling: None }));
}

#[test]
fn a_resolved_transformer_is_read_back_as_it_was_written() {
    for preset in Preset::ALL {
        let transformer = Transformer { preset: Some(preset), ..Transformer::default() };
        let resolved = ModelConfig::Transformer(transformer.resolve().unwrap());
        let text = serde_json::to_string(&resolved).unwrap();
        assert_eq!(serde_json::from_str::<ModelConfig>(&text).unwrap(), resolved);
    }
}

#[test]
fn fields_that_do_not_fit_each_other_are_named() {
    let cases = [
        (json!({"width": 100, "heads": 7}), "width must be a multiple of heads, and 100 is none of 7"),
        (json!({"heads": 6, "keyValueHeads": 4}), "heads must be a multiple of keyValueHeads, and 6 is none of 4"),
        (json!({"heads": 6, "keyValueHeads": 12}), "heads must be a multiple of keyValueHeads"),
        (json!({"width": 6, "heads": 2, "positions": "Rotary"}), "must be even for the positions Rotary, and is 3"),
        (json!({"ropeTheta": 500_000.0}), "ropeTheta and ropeScaling are for the positions Rotary"),
        (
            json!({"preset": "llama-3.2-1b", "positions": "Learned", "ropeScaling": {"factor": 2.0, "originalContext": 8}}),
            "are for the positions Rotary",
        ),
        (
            json!({"positions": "Rotary", "ropeScaling": {"factor": 2.0, "lowFrequencyFactor": 4.0, "originalContext": 8}}),
            "lowFrequencyFactor must be less than highFrequencyFactor",
        ),
    ];
    for (spec, expected) in cases {
        let problem = problem(spec.clone());
        assert!(problem.contains(expected), "{spec}: {problem}");
    }
}

#[test]
fn numbers_out_of_bounds_are_named_and_none_overflows() {
    for (field, value) in [
        ("layers", json!(0)),
        ("layers", json!(257)),
        ("width", json!(u32::MAX)),
        ("heads", json!(0)),
        ("keyValueHeads", json!(0)),
        ("context", json!(0)),
        ("feedForward", json!(u32::MAX)),
        ("normEpsilon", json!(0.0)),
        ("dropout", json!(1.0)),
        ("dropout", json!(-0.1)),
    ] {
        let problem = problem(json!({field: value}));
        assert!(problem.contains(field), "{field}: {value}: {problem}");
    }
    let problem = problem(json!({"positions": "Rotary", "ropeTheta": 0.5}));
    assert!(problem.contains("ropeTheta must lie between"), "{problem}");
}
