//! The tokens that stand before each text, such as the beginning of a text (`<s>`) of the models of Llama's kind.

use serde_json::{Map, Value, json};

/// The tokens that a post-processor of a `tokenizer.json` puts before a single text; `None` if it does not say which.
pub(super) fn tokens(post_processor: &Value) -> Option<Vec<u32>> {
    let part = |name: &str| &post_processor[name];
    match part("type").as_str() {
        // What a later one puts before a text stands before what an earlier one does.
        Some("Sequence") => {
            let parts = part("processors").as_array()?.iter().rev().map(tokens);
            Some(parts.collect::<Option<Vec<_>>>()?.concat())
        }
        Some("TemplateProcessing") => {
            let pieces = part("single").as_array()?.iter().map_while(|piece| piece["SpecialToken"]["id"].as_str());
            let ids = pieces.map(|name| part("special_tokens")[name]["ids"].as_array());
            ids.collect::<Option<Vec<_>>>()?.into_iter().flatten().map(number).collect()
        }
        Some("BertProcessing" | "RobertaProcessing") => Some(vec![number(&part("cls")[1])?]),
        _ => Some(Vec::new()),
    }
}

fn number(value: &Value) -> Option<u32> {
    value.as_u64()?.try_into().ok()
}

/// A post-processor that puts these tokens before a text, each with its name.
pub(super) fn post_processor(tokens: &[(String, u32)]) -> Value {
    let text = |name: &str, number: u32| json!({"Sequence": {"id": name, "type_id": number}});
    let begin = || tokens.iter().map(|(name, _)| json!({"SpecialToken": {"id": name, "type_id": 0}}));
    let single: Vec<Value> = begin().chain([text("A", 0)]).collect();
    let pair: Vec<Value> = begin().chain([text("A", 0), text("B", 1)]).collect();
    let described = |(name, id): &(String, u32)| (name.clone(), json!({"id": name, "ids": [id], "tokens": [name]}));
    let special: Map<String, Value> = tokens.iter().map(described).collect();
    json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special})
}
