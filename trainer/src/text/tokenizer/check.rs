//! Whether a `tokenizer.json` that somebody wrote can be used: before the library sees it, which trusts it.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Deserialize;
use serde_json::Value;
use stoker_crds::training::text::MAX_VOCABULARY;

use super::{
    TokenizerError, begin,
    lacking::{Lacking, Spelling},
};

/// The most pairs that a tokenizer may merge.
const MAX_MERGES: usize = 4 * MAX_VOCABULARY as usize;
/// The most bytes of all that is not the vocabulary, as JSON.
const MAX_RULES: usize = 256 << 10;

/// What was checked.
#[derive(Debug)]
pub(super) struct Checked {
    /// The largest token and one.
    pub(super) vocabulary_size: usize,
    /// Tokens beside the encoding's own.
    pub(super) added: Vec<(String, u32)>,
    /// The special ones of them.
    pub(super) special: BTreeMap<String, u32>,
    /// Those that stand before each text.
    pub(super) begin: Vec<u32>,
    /// The bytes that no token is for.
    pub(super) lacking: Lacking,
}

#[derive(Deserialize)]
struct Kind {
    model: ModelKind,
}

#[derive(Deserialize)]
struct ModelKind {
    /// Older files have none.
    #[serde(rename = "type")]
    name: Option<String>,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<Added>,
    model: Model,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
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
    if let Some(name) = name.filter(|name| name != "BPE") {
        return Err(TokenizerError::Refused(format!(
            "its model is {name}; take one of type BPE, or let one be fitted by spec.data.text.tokenizer.bpe"
        )));
    }
    let file: File = serde_json::from_slice(json).map_err(refused)?;
    check_file(file).map_err(TokenizerError::Refused)
}

fn check_file(file: File) -> Result<Checked, String> {
    check_model(&file.model)?;
    let parts = [&file.normalizer, &file.pre_tokenizer, &file.post_processor, &file.decoder];
    let rules: usize = parts.into_iter().flatten().map(|part| part.to_string().len()).sum();
    if rules > MAX_RULES {
        return Err(format!(
            "its normalizer, pre-tokenizer, post-processor and decoder are {rules} bytes large; at most {MAX_RULES} are read"
        ));
    }
    if parts.into_iter().flatten().any(|part| has_type(part, "Precompiled")) {
        return Err("its normalizer holds a compiled table (Precompiled), which cannot be checked".into());
    }
    let is_byte_level = parts[..2].iter().copied().flatten().any(|part| has_type(part, "ByteLevel"));
    let lacking = lacking(&file.model, is_byte_level)?;
    check_added(file, lacking)
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
fn lacking(model: &Model, is_byte_level: bool) -> Result<Lacking, String> {
    if model.unk_token.as_ref().is_some_and(|token| model.vocab.contains_key(token)) {
        return Ok(Lacking::default());
    }
    match (is_byte_level, model.byte_fallback) {
        (true, _) => Lacking::of(&model.vocab, Spelling::ByteLevel),
        (false, true) => Lacking::of(&model.vocab, Spelling::Fallback),
        (false, false) => Err("it has neither tokens for bytes (ByteLevel, byte_fallback) nor one for what it does not know (unk_token), and would drop characters".into()),
    }
}

fn check_added(file: File, lacking: Lacking) -> Result<Checked, String> {
    let File { added_tokens, model, post_processor, .. } = file;
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
    let begin = post_processor.map_or(Some(Vec::new()), |post_processor| begin::tokens(&post_processor));
    let begin = begin.ok_or("its post-processor does not say which tokens it puts before a text")?;
    Ok(Checked { vocabulary_size: largest as usize + 1, added, special, begin, lacking })
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
