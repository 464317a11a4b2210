//! The tokenizer whose tokens are bytes.

use serde_json::{Map, Value, json};

use super::byte_level_json;

/// The end of a text: the first number that is no byte.
pub(super) const END_OF_TEXT: u32 = 256;
/// The bytes and the end of a text.
pub(super) const VOCABULARY: usize = 257;
/// What it is at most as JSON, in bytes, however it is spaced.
const MAX_JSON: usize = 64 << 10;

pub(super) fn encode(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

pub(super) fn decode(tokens: &[u32]) -> String {
    let bytes: Vec<u8> = tokens.iter().filter_map(|token| u8::try_from(*token).ok()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// As a byte-pair encoding without pairs.
pub(super) fn json() -> Value {
    let vocab: Map<String, Value> = (0..).zip(characters()).map(|(id, c)| (c.to_string(), json!(id))).collect();
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
        "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": [],
    });
    byte_level_json(&model, END_OF_TEXT, false)
}

/// Whether it is what [`json`] gives.
pub(super) fn is_json(text: &[u8]) -> bool {
    text.len() <= MAX_JSON && serde_json::from_slice::<Value>(text).is_ok_and(|value| value == json())
}

/// The characters that stand for bytes in a byte-level vocabulary, as GPT-2 has them: a byte that is a visible character of
/// Latin-1 is that character, and the others follow on the last of Latin-1.
pub(super) fn characters() -> impl Iterator<Item = char> {
    let mut others = '\u{100}'..;
    (0..=u8::MAX).filter_map(move |byte| match byte {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => Some(char::from(byte)),
        _ => others.next(),
    })
}
