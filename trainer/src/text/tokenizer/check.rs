//! Whether a `tokenizer.json` that somebody wrote can be used: before the library sees it, which trusts it.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Deserialize;
use serde_json::Value;
use stoker_crds::training::text::MAX_VOCABULARY;

use super::{TokenizerError, bytes};

/// The most pairs that a tokenizer may merge.
const MAX_MERGES: usize = 4 * MAX_VOCABULARY as usize;
/// The most bytes of all that is not the vocabulary, as JSON.
const MAX_RULES: usize = 256 << 10;
/// Bytes that no text in UTF-8 has.
const NO_TEXT: [std::ops::RangeInclusive<usize>; 2] = [0xC0..=0xC1, 0xF5..=0xFF];

/// What was checked.
#[derive(Debug)]
pub(super) struct Checked {
    /// The largest token and one.
    pub(super) vocabulary_size: usize,
    /// Tokens beside the encoding's own.
    pub(super) added: Vec<(String, u32)>,
    /// The special ones of them.
    pub(super) special: BTreeMap<String, u32>,
}

#[derive(Deserialize)]
struct Kind {
    model: ModelKind,
}

#[derive(Deserialize)]
struct ModelKind {
    #[serde(rename = "type")]
    name: String,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<Added>,
    model: Model,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    decoder: Option<Value>,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Model {
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
    dropout: Option<f64>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
}

/// Two tokens that become one.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    /// With a space between them, as older files have it.
    Line(String),
}

impl Merge {
    fn pair(&self) -> Option<(&str, &str)> {
        match self {
            Self::Pair(first, second) => Some((first, second)),
            Self::Line(line) => line.split_once(' '),
        }
    }
}

/// Checks a file that is not larger than can be read.
pub(super) fn check(json: &[u8]) -> Result<Checked, TokenizerError> {
    let refused = |error: serde_json::Error| TokenizerError::Refused(format!("it is no tokenizer.json ({error})"));
    let Kind { model: ModelKind { name } } = serde_json::from_slice(json).map_err(refused)?;
    if name != "BPE" {
        return Err(TokenizerError::Refused(format!(
            "its model is {name}; take one of type BPE, or let one be fitted by spec.data.text.tokenizer.bpe"
        )));
    }
    let file: File = serde_json::from_slice(json).map_err(refused)?;
    check_file(file).map_err(TokenizerError::Refused)
}

fn check_file(file: File) -> Result<Checked, String> {
    check_model(&file.model)?;
    let parts = [&file.normalizer, &file.pre_tokenizer, &file.decoder];
    let rules: usize = parts.into_iter().flatten().map(|part| part.to_string().len()).sum();
    if rules > MAX_RULES {
        return Err(format!(
            "its normalizer, pre-tokenizer and decoder are {rules} bytes large; at most {MAX_RULES} are read"
        ));
    }
    if parts.into_iter().flatten().any(|part| has_type(part, "Precompiled")) {
        return Err("its normalizer holds a compiled table (Precompiled), which cannot be checked".into());
    }
    let is_byte_level = parts[..2].iter().copied().flatten().any(|part| has_type(part, "ByteLevel"));
    check_coverage(&file.model, is_byte_level)?;
    check_added(file)
}

fn check_model(model: &Model) -> Result<(), String> {
    let Model { vocab, merges, .. } = model;
    if vocab.is_empty() || vocab.len() > MAX_VOCABULARY as usize {
        return Err(format!("it has {} tokens; 1 to {MAX_VOCABULARY} are allowed", vocab.len()));
    }
    if merges.len() > MAX_MERGES {
        return Err(format!("it merges {} pairs; at most {MAX_MERGES} are allowed", merges.len()));
    }
    let is_token = |(first, second): &(&str, &str)| {
        [*first, *second, &format!("{first}{second}")].iter().all(|token| vocab.contains_key(*token))
    };
    if let Some(wrong) = merges.iter().position(|merge| !merge.pair().as_ref().is_some_and(is_token)) {
        return Err(format!("its merge number {wrong}, counted from 0, is not of two tokens that make a third"));
    }
    let mut ids = HashSet::new();
    for (token, id) in vocab {
        if *id >= MAX_VOCABULARY {
            return Err(format!("its token '{token}' has the number {id}; they must be less than {MAX_VOCABULARY}"));
        }
        if !ids.insert(id) {
            return Err(format!("its token '{token}' has the number {id}, which another token has too"));
        }
    }
    if model.dropout.is_some_and(|dropout| dropout != 0.0) {
        return Err("it drops merges by chance: set dropout to null".into());
    }
    if model.continuing_subword_prefix.as_ref().is_some_and(|prefix| !prefix.is_empty()) {
        return Err("it has a prefix of continued words, which a tokenizer of bytes has no use for".into());
    }
    Ok(())
}

/// A tokenizer that has no token for a character drops it without a word, unless it has one for what it does not know.
fn check_coverage(model: &Model, is_byte_level: bool) -> Result<(), String> {
    let has = |token: &str| model.vocab.contains_key(token);
    if model.unk_token.as_deref().is_some_and(has) {
        return Ok(());
    }
    let is_byte = |byte: &usize| !NO_TEXT.iter().any(|range| range.contains(byte));
    let lacks = if is_byte_level {
        bytes::characters()
            .enumerate()
            .filter(|(byte, _)| is_byte(byte))
            .find(|(_, c)| !has(c.encode_utf8(&mut [0; 4])))
    } else if model.byte_fallback {
        (0..=0xFF).filter(is_byte).map(|byte| (byte, ' ')).find(|(byte, _)| !has(&format!("<0x{byte:02X}>")))
    } else {
        return Err("it has neither tokens for all bytes (ByteLevel, byte_fallback) nor one for what it does not know (unk_token), and would drop characters".into());
    };
    match lacks {
        None => Ok(()),
        Some((byte, _)) => Err(format!("it has no token for the byte 0x{byte:02X}, and would drop characters")),
    }
}

fn check_added(file: File) -> Result<Checked, String> {
    let File { added_tokens, model, .. } = file;
    let taken: HashSet<u32> = model.vocab.values().copied().collect();
    let mut largest = taken.iter().copied().max().unwrap_or_default();
    let (mut added, mut special, mut ids) = (Vec::new(), BTreeMap::new(), HashSet::new());
    for Added { id, content, special: is_special } in added_tokens {
        if content.is_empty() || id >= MAX_VOCABULARY {
            return Err(format!(
                "its added token '{content}' has the number {id}; tokens have characters, and numbers below {MAX_VOCABULARY}"
            ));
        }
        let is_own = match model.vocab.get(&content) {
            Some(of_model) => *of_model == id,
            None => !taken.contains(&id),
        };
        if !is_own || !ids.insert(id) {
            return Err(format!("its added token '{content}' has the number {id}, which is that of another token"));
        }
        largest = largest.max(id);
        if is_special {
            special.insert(content.clone(), id);
        }
        added.push((content, id));
    }
    Ok(Checked { vocabulary_size: largest as usize + 1, added, special })
}

/// Whether a part, or a part of it, is of a type.
fn has_type(part: &Value, name: &str) -> bool {
    match part {
        Value::Object(fields) => {
            fields.get("type").and_then(Value::as_str) == Some(name) || fields.values().any(|part| has_type(part, name))
        }
        Value::Array(parts) => parts.iter().any(|part| has_type(part, name)),
        _ => false,
    }
}
