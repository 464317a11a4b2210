//! Tokenizers: text to tokens and back.

mod begin;
mod bytes;
mod check;
mod fit;
mod lacking;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, error::Error, fmt, sync::Arc};

use serde_json::{Value, json};
use stoker_crds::Reason;
use tokenizers::{AddedToken, ModelWrapper, PostProcessorWrapper};

pub(super) use self::fit::fit;
use self::lacking::Lacking;

/// The token that ends a text, of the tokenizers that are made here.
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// The tokens that end a text in tokenizers that others made; the first that there is.
const ENDS_OF_TEXT: [&str; 5] = [END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>"];
/// The most bytes of a `tokenizer.json`.
pub const MAX_JSON: usize = 64 << 20;

type BoxError = Box<dyn Error + Send + Sync>;

/// Why a tokenizer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The file is too large to be read.
    #[error("the tokenizer is {0} bytes large; at most {MAX_JSON} bytes are read")]
    TooLarge(u64),
    /// The file is no tokenizer, or one that cannot be used.
    #[error("the tokenizer cannot be used: {0}")]
    Refused(String),
    /// A text cannot be encoded, tokens cannot be decoded, or a tokenizer cannot be fitted.
    #[error("the tokenizer failed to {what}: {source}")]
    Failed {
        /// What it was to do.
        what: &'static str,
        /// What the library says.
        source: BoxError,
    },
}

impl TokenizerError {
    /// The reason that a run which ends by this error reports.
    pub fn reason(&self) -> Reason {
        match self {
            Self::TooLarge(_) | Self::Refused(_) => Reason::InvalidConfig,
            Self::Failed { .. } => Reason::Internal,
        }
    }

    fn failed(what: &'static str) -> impl FnOnce(BoxError) -> Self {
        move |source| Self::Failed { what, source }
    }
}

/// Makes tokens of text, and text of tokens.
///
/// A text never becomes a special token, whatever it says: `<|endoftext|>` in a text is as many tokens as other words are.
#[derive(Clone)]
pub struct Tokenizer {
    kind: Kind,
    vocabulary_size: usize,
    end_of_text: u32,
    special: BTreeMap<String, u32>,
    begin_of_text: Arc<[u32]>,
    lacking: Arc<Lacking>,
    json: Arc<[u8]>,
}

#[derive(Clone)]
enum Kind {
    /// Each byte is the token of its own number.
    Bytes,
    Pairs(Arc<tokenizers::Tokenizer>),
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("vocabulary_size", &self.vocabulary_size).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// The tokenizer whose tokens are the bytes of UTF-8, by their values, and the end of a text, 256.
    ///
    /// # Errors
    /// If it cannot be written as JSON.
    pub fn bytes() -> Result<Self, TokenizerError> {
        let json =
            serde_json::to_vec(&bytes::json()).map_err(|error| TokenizerError::failed("be written")(error.into()))?;
        Ok(Self {
            kind: Kind::Bytes,
            vocabulary_size: bytes::VOCABULARY,
            end_of_text: bytes::END_OF_TEXT,
            special: [(END_OF_TEXT.to_owned(), bytes::END_OF_TEXT)].into(),
            begin_of_text: Arc::default(),
            lacking: Arc::default(),
            json: json.into(),
        })
    }

    /// Reads a `tokenizer.json` of Hugging Face. It need not be trusted: what it says is checked before it is used.
    ///
    /// What would cut or fill a text is left out: its truncation and padding. Of its post-processor stays which tokens it puts
    /// before a text ([`Self::begin_of_text`]). The end of a text is the token of a name that is usual for it, else the special
    /// token that the model's configuration names (`end_of_text`); a tokenizer without any gets one.
    ///
    /// # Errors
    /// If it is too large, says what is not true, or has no byte-pair encoding of all texts.
    pub fn from_json(json: &[u8], end_of_text: Option<u32>) -> Result<Self, TokenizerError> {
        if json.len() > MAX_JSON {
            return Err(TokenizerError::TooLarge(json.len() as u64));
        }
        if bytes::is_json(json) {
            return Self::bytes();
        }
        let checked = check::check(json)?;
        let refused = |error: BoxError| TokenizerError::Refused(error.to_string());
        let mut pairs = tokenizers::Tokenizer::from_bytes(json).map_err(refused)?;
        // A file that does not name the type is what the library can read it as.
        if !matches!(pairs.get_model(), ModelWrapper::BPE(_)) {
            return Err(TokenizerError::Refused("its model has no type, and is none of type BPE".into()));
        }
        pairs.with_truncation(None).map_err(refused)?;
        pairs.with_padding(None);
        let post_processor = post_processor(&pairs, &checked.begin)?;
        pairs.with_post_processor(post_processor);
        for (token, id) in &checked.added {
            if pairs.token_to_id(token) != Some(*id) {
                return Err(TokenizerError::Refused(format!(
                    "its added token '{token}' has the number {id}, which does not follow on the others"
                )));
            }
        }
        Self::with_end_of_text(pairs, checked, end_of_text)
    }

    fn with_end_of_text(
        mut pairs: tokenizers::Tokenizer,
        checked: check::Checked,
        named: Option<u32>,
    ) -> Result<Self, TokenizerError> {
        let check::Checked { mut special, mut vocabulary_size, begin, lacking, .. } = checked;
        let usual = ENDS_OF_TEXT.iter().find_map(|token| special.get(*token).copied());
        let named = named.filter(|named| special.values().any(|id| id == named));
        let end_of_text = match usual.or(named) {
            Some(id) => id,
            None => {
                let added = pairs.add_special_tokens([AddedToken::from(END_OF_TEXT, true)]);
                added.map_err(TokenizerError::failed("take the end of a text"))?;
                let id = pairs.token_to_id(END_OF_TEXT).ok_or_else(|| {
                    TokenizerError::Refused(format!("it has no token for the end of a text, such as {END_OF_TEXT}"))
                })?;
                special.insert(END_OF_TEXT.to_owned(), id);
                vocabulary_size = vocabulary_size.max(id as usize + 1);
                id
            }
        };
        pairs.set_encode_special_tokens(true);
        let json = pairs.to_string(false).map_err(TokenizerError::failed("be written"))?.into_bytes().into();
        let kind = Kind::Pairs(Arc::new(pairs));
        let (begin_of_text, lacking) = (begin.into(), lacking.into());
        Ok(Self { kind, vocabulary_size, end_of_text, special, begin_of_text, lacking, json })
    }

    /// The tokens of a text.
    ///
    /// # Errors
    /// If the tokenizer has no tokens for it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        Ok(match &self.kind {
            Kind::Bytes => bytes::encode(text),
            Kind::Pairs(pairs) => {
                pairs.encode_fast(text, false).map_err(TokenizerError::failed("encode a text"))?.get_ids().to_vec()
            }
        })
    }

    /// The tokens of several texts, each as [`Self::encode`] gives them, on all processors.
    ///
    /// # Errors
    /// If the tokenizer has no tokens for one of them.
    pub fn encode_all(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>, TokenizerError> {
        let Kind::Pairs(pairs) = &self.kind else {
            return Ok(texts.iter().map(|text| bytes::encode(text)).collect());
        };
        let encodings = pairs.encode_batch_fast(texts.to_vec(), false);
        let encodings = encodings.map_err(TokenizerError::failed("encode texts"))?;
        Ok(encodings.iter().map(|encoding| encoding.get_ids().to_vec()).collect())
    }

    /// The text of tokens. Special tokens have none, and bytes that are no UTF-8 become `�`.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, TokenizerError> {
        match &self.kind {
            Kind::Bytes => Ok(bytes::decode(tokens)),
            Kind::Pairs(pairs) => pairs.decode(tokens, true).map_err(TokenizerError::failed("decode tokens")),
        }
    }

    /// The largest token and one: as many as a model has embeddings.
    pub fn vocabulary_size(&self) -> usize {
        self.vocabulary_size
    }

    /// The tokens that stand before each text, as others have trained models with this tokenizer: often none.
    pub fn begin_of_text(&self) -> &[u32] {
        &self.begin_of_text
    }

    /// The bytes that no token is for.
    pub fn lacking(&self) -> &Lacking {
        &self.lacking
    }

    /// The token that ends a text.
    pub fn end_of_text(&self) -> u32 {
        self.end_of_text
    }

    /// The special token that is written so, if there is one.
    pub fn special(&self, token: &str) -> Option<u32> {
        self.special.get(token).copied()
    }

    /// The tokenizer as a `tokenizer.json` of Hugging Face.
    pub fn to_json(&self) -> &[u8] {
        &self.json
    }
}

/// Puts the tokens that begin a text before it, where the library is asked for them; `None` if there are none.
fn post_processor(
    pairs: &tokenizers::Tokenizer,
    begin: &[u32],
) -> Result<Option<PostProcessorWrapper>, TokenizerError> {
    if begin.is_empty() {
        return Ok(None);
    }
    let named = |id: &u32| {
        let unknown =
            || TokenizerError::Refused(format!("its post-processor puts {id} before a text, which is no token"));
        Ok((pairs.id_to_token(*id).ok_or_else(unknown)?, *id))
    };
    let tokens = begin.iter().map(named).collect::<Result<Vec<_>, TokenizerError>>()?;
    let read = serde_json::from_value(begin::post_processor(&tokens));
    read.map(Some).map_err(|error| TokenizerError::failed("be written")(error.into()))
}

/// A `tokenizer.json` around a byte-pair encoding of bytes whose last token is the end of a text.
fn byte_level_json(model: &Value, end_of_text: u32, splits_words: bool) -> Value {
    let byte_level = |splits_words: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": splits_words});
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [{
            "id": end_of_text, "content": END_OF_TEXT, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        }],
        "normalizer": null,
        "pre_tokenizer": byte_level(splits_words),
        "post_processor": null,
        "decoder": byte_level(true),
        "model": model,
    })
}
