//! A tokenizer with as many tokens as GPT-2's: the bytes, 50,000 pairs of bytes, and the end of a text.

use serde_json::{Map, Value, json};

/// As many pairs as GPT-2's tokenizer merges.
const MERGES: usize = 50_000;
/// How many tokens there are.
pub(super) const TOKENS: usize = 256 + MERGES + 1;
/// The most bytes of a token.
pub(super) const BYTES_PER_TOKEN: u64 = 2;
const END_OF_TEXT: &str = "<|endoftext|>";

/// The tokenizer as a `tokenizer.json` of Hugging Face. The pairs are those of small bytes, which English is written in.
pub(super) fn tokenizer() -> Value {
    let characters = characters();
    let mut tokens: Vec<String> = characters.iter().map(char::to_string).collect();
    let mut merges = Vec::with_capacity(MERGES);
    // Byte by byte, all pairs with bytes up to it.
    let pairs = (0..characters.len()).flat_map(|last| {
        let first = (0..last).flat_map(move |other| [(other, last), (last, other)]);
        first.chain([(last, last)])
    });
    for (first, second) in pairs.take(MERGES) {
        let (first, second) = (characters[first], characters[second]);
        merges.push(format!("{first} {second}"));
        tokens.push(format!("{first}{second}"));
    }
    let end = tokens.len();
    let vocabulary: Map<String, Value> = tokens.into_iter().zip((0..).map(Value::from)).collect();
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [{
            "id": end, "content": END_OF_TEXT, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        }],
        "normalizer": null,
        "pre_tokenizer": bytes,
        "post_processor": null,
        "decoder": bytes,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": merges,
        },
    })
}

/// The character by which GPT-2's tokenizer writes each byte: its own where that can be seen, else one of those from U+0100.
fn characters() -> Vec<char> {
    let is_visible = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut others = '\u{100}'..;
    (0..=u8::MAX).filter_map(|byte| if is_visible(byte) { Some(char::from(byte)) } else { others.next() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_tokens_as_gpt_2_has() {
        let tokenizer = tokenizer();
        assert_eq!(tokenizer["model"]["vocab"].as_object().map(Map::len), Some(50_256));
        assert_eq!(tokenizer["added_tokens"][0]["id"], 50_256);
        assert_eq!(TOKENS, 50_257);
        assert_eq!(tokenizer["model"]["vocab"]["Ġ"], 32);
    }
}
