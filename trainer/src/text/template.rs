//! How a conversation stands in a text: by the special tokens that a tokenizer has for it.

use super::{Tokenizer, TokenizerError};

/// The tokens around the messages of a conversation.
///
/// A message is `start`, its role and what follows on a role, its content, and `end`.
#[derive(Debug)]
pub(super) struct Template {
    /// Before the first message.
    pub(super) begin: Vec<u32>,
    /// Before a role.
    pub(super) start: Vec<u32>,
    /// Between a role and the content.
    pub(super) after_role: Vec<u32>,
    /// After the content: no content can hold it.
    pub(super) end: u32,
    /// Between two messages.
    pub(super) between: Vec<u32>,
}

/// Whose special tokens a tokenizer has.
enum Kind {
    /// `<|im_start|>role⏎content<|im_end|>⏎`, as of Qwen and SmolLM.
    ChatMl { start: u32, end: u32 },
    /// `<|begin_of_text|>`, and `<|start_header_id|>role<|end_header_id|>⏎⏎content<|eot_id|>` of each message.
    Llama3 { begin: Option<u32>, start: u32, after_role: u32, end: u32 },
    /// `role⏎content` and the end of a text, of any other.
    Plain { end: u32 },
}

impl Kind {
    fn of(tokenizer: &Tokenizer) -> Self {
        let special = |name| tokenizer.special(name);
        let llama = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"].map(special);
        match (special("<|im_start|>"), special("<|im_end|>"), llama) {
            (Some(start), Some(end), _) => Self::ChatMl { start, end },
            (_, _, [Some(start), Some(after_role), Some(end)]) => {
                Self::Llama3 { begin: special("<|begin_of_text|>"), start, after_role, end }
            }
            _ => Self::Plain { end: tokenizer.end_of_text() },
        }
    }
}

impl Template {
    /// The one that models with this tokenizer know.
    ///
    /// # Errors
    /// If the tokenizer cannot encode a line break.
    pub(super) fn of(tokenizer: &Tokenizer) -> Result<Self, TokenizerError> {
        let line = |breaks| tokenizer.encode(breaks);
        let (begin, between) = (Vec::new(), Vec::new());
        Ok(match Kind::of(tokenizer) {
            Kind::ChatMl { start, end } => {
                Self { begin, start: vec![start], after_role: line("\n")?, end, between: line("\n")? }
            }
            Kind::Llama3 { begin, start, after_role, end } => Self {
                begin: begin.into_iter().collect(),
                start: vec![start],
                after_role: [vec![after_role], line("\n\n")?].concat(),
                end,
                between,
            },
            // The others know texts only as they begin.
            Kind::Plain { end } => Self {
                begin: tokenizer.begin_of_text().to_vec(),
                start: Vec::new(),
                after_role: line("\n")?,
                end,
                between,
            },
        })
    }
}

/// The token that ends a message: a model that answers is done when it comes.
pub(super) fn end_of_message(tokenizer: &Tokenizer) -> u32 {
    match Kind::of(tokenizer) {
        Kind::ChatMl { end, .. } | Kind::Llama3 { end, .. } | Kind::Plain { end } => end,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::text::chat::{self, Message};

    /// A tokenizer of bytes with more special tokens, from number 257 on.
    fn with(names: &[&str]) -> Tokenizer {
        let mut json: Value = serde_json::from_slice(Tokenizer::bytes().unwrap().to_json()).unwrap();
        let added = json["added_tokens"].as_array_mut().unwrap();
        for (name, id) in names.iter().zip(257..) {
            let mut token = added[0].clone();
            (token["content"], token["id"]) = (json!(name), json!(id));
            added.push(token);
        }
        Tokenizer::from_json(&serde_json::to_vec(&json).unwrap(), None).unwrap()
    }

    #[test]
    fn a_conversation_is_written_with_the_special_tokens_that_the_tokenizer_has() {
        let chat_ml = with(&["<|im_start|>", "<|im_end|>"]);
        let llama = with(&["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]);
        let message = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
        let dialog = vec![message("user", "hi"), message("assistant", "<|eot_id|>")];
        // Numbers from 257 on are special tokens; the rest are bytes.
        let of = |parts: &[&[u8]], specials: &[u32]| -> Vec<u32> {
            let mut specials = specials.iter();
            let bytes = |part: &&[u8]| part.iter().map(|byte| u32::from(*byte)).collect::<Vec<_>>();
            parts.iter().flat_map(|part| specials.next().copied().into_iter().chain(bytes(part))).collect()
        };
        for (tokenizer, parts, specials, end) in [
            (&chat_ml, &[&b"user\nhi"[..], b"\n", b"assistant\n<|eot_id|>", b"\n"][..], &[257, 258, 257, 258][..], 258),
            (
                &llama,
                &[&b""[..], b"user", b"\n\nhi", b"", b"assistant", b"\n\n<|eot_id|>", b""][..],
                &[257, 258, 259, 260, 258, 259, 260][..],
                260,
            ),
        ] {
            let conversation = chat::encode(tokenizer, std::slice::from_ref(&dialog)).unwrap().remove(0);
            assert_eq!(conversation.tokens, of(parts, specials));
            let learned: Vec<u32> = std::iter::zip(&conversation.tokens, &conversation.counts)
                .filter_map(|(token, counts)| counts.then_some(*token))
                .collect();
            assert_eq!(learned, [b"<|eot_id|>".map(u32::from).as_slice(), &[end]].concat());
            assert_eq!(end_of_message(tokenizer), end);
        }
    }

    #[test]
    fn the_beginning_of_a_text_comes_once_or_where_the_template_has_none_not_at_all() {
        let llama = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"];
        for (names, expected) in [(&["<s>"][..], 1), (&llama, 1), (&["<s>", "<|im_start|>", "<|im_end|>"], 0)] {
            let mut json: Value = serde_json::from_slice(with(names).to_json()).unwrap();
            json["post_processor"] = json!({"type": "BertProcessing", "sep": [names[0], 257], "cls": [names[0], 257]});
            let tokenizer = Tokenizer::from_json(&serde_json::to_vec(&json).unwrap(), None).unwrap();
            assert_eq!(tokenizer.begin_of_text(), [257]);
            let dialog = ["user", "assistant"].map(|role| Message { role: role.into(), content: "hi".into() });
            let tokens = chat::encode(&tokenizer, &[dialog.to_vec()]).unwrap().remove(0).tokens;
            assert_eq!(tokens.iter().filter(|token| **token == 257).count(), expected, "{names:?}");
            assert_eq!(tokens.first() == Some(&257), expected == 1, "{names:?}");
        }
    }
}
