//! `spec.data.text`: the documents that a language model learns from, and the tokens that they become.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::storage::OBJECT_URI;

/// The column of the documents where `column` and `messages` are not set.
pub const DEFAULT_COLUMN: &str = "text";
/// The fewest tokens that a byte-pair encoding may have: the 256 bytes, and the end of a text.
pub const MIN_VOCABULARY: u32 = 257;
/// The most tokens that a vocabulary may have.
pub const MAX_VOCABULARY: u32 = 1_048_576;

/// The documents that a language model learns from, and the tokens that they become.
///
/// The steps, in this order: drop documents without a word; drop those that fail a predicate of `clean.require`; drop
/// those that are too short or too long; drop duplicates; drop near duplicates; split; fit the tokenizer on the training
/// split alone; encode, with the end of a text after each document, one document after another.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!(has(self.column) && has(self.messages))",
    "message": "set column or messages, not both",
}]))]
pub struct Text {
    /// The column of jsonLines or parquet that holds the documents. The default is `text`, unless `messages` is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub column: Option<String>,
    /// The column that holds conversations, instead of `column`: lists of messages, each a `role` and its `content`. The
    /// model learns what the role `assistant` says, and reads the rest.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub messages: Option<String>,
    /// How text becomes tokens. The default is `bytes`, and with `model.from` the tokenizer of the model that is started from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<Tokenizer>,
    /// How files of the format text become documents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub documents: Option<Documents>,
    /// How long documents may be; others are dropped and counted. Any length if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<DocumentLength>,
    /// Drops documents that are much like another one. Not done if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub near_duplicates: Option<NearDuplicates>,
}

impl Text {
    /// The column that is read: of documents, or of conversations.
    pub fn column(&self) -> &str {
        self.messages.as_deref().or(self.column.as_deref()).unwrap_or(DEFAULT_COLUMN)
    }

    /// How files of the format text become documents.
    pub fn documents(&self) -> Documents {
        self.documents.unwrap_or_default()
    }
}

/// How text becomes tokens: exactly one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = crate::schema::one_of)]
pub enum Tokenizer {
    /// Each byte of the text in UTF-8 is a token: 257 in all, with the end of a text. Nothing is fitted.
    Bytes(Bytes),
    /// A byte-pair encoding of bytes, fitted on the training split: of one larger than 256 MiB, on that much of it.
    Bpe(Bpe),
    /// A byte-pair encoding that was fitted before, as a `tokenizer.json` of Hugging Face.
    File(TokenizerFile),
}

/// Each byte of a text is a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = crate::schema::empty_object)]
pub struct Bytes {}

/// A byte-pair encoding that is fitted on the training split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Bpe {
    /// How many tokens there are, with the 256 bytes and the end of a text; fewer where the training split has no more
    /// pairs that come twice.
    #[schemars(range(min = MIN_VOCABULARY, max = MAX_VOCABULARY))]
    pub vocabulary_size: u32,
}

impl Default for Bpe {
    fn default() -> Self {
        Self { vocabulary_size: 4096 }
    }
}

/// A tokenizer that was fitted before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!self.uri.startsWith('file://') || self.uri.startsWith('file:///data/')",
    "message": "a file:// URI lies on the volume of data.source, under file:///data/",
}]))]
pub struct TokenizerFile {
    /// `s3://bucket/path/tokenizer.json`, `gs://…`, `az://…`, or `file:///data/…` on the volume of `source`. It is read
    /// with the credentials of `source`.
    #[schemars(length(max = 1024), regex(pattern = OBJECT_URI))]
    pub uri: String,
}

/// How files of the format text become documents: each is cut where a document may end, once it is long enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Documents {
    /// Where a document may end. Where it would grow past 4 MiB, it ends at a line or a character before.
    pub end_at: DocumentEnd,
    /// How many characters a document has at least, but for a file that has fewer. What is left at the end of a file
    /// belongs to the document before.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub min_length: u32,
}

impl Default for Documents {
    fn default() -> Self {
        Self { end_at: DocumentEnd::BlankLine, min_length: 4096 }
    }
}

/// Where a document may end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum DocumentEnd {
    /// At a blank line: between paragraphs.
    #[default]
    BlankLine,
    /// At the end of a line.
    Line,
    /// At the end of the file alone.
    File,
}

/// How long documents may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!(has(self.min) && has(self.max)) || self.min <= self.max",
    "message": "min must not be greater than max",
}]))]
pub struct DocumentLength {
    /// The fewest characters of a document.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub min: Option<u32>,
    /// The most characters of a document.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub max: Option<u32>,
}

/// Which documents are much like another one.
///
/// Candidates are found by MinHash (Broder, 1997) and banding, and are then compared exactly. Less than one pair in a thousand
/// is overlooked; more among many documents of one template, each of which is compared with a few of the others alone.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NearDuplicates {
    /// Of all runs of 9 characters in two documents, in lower case, the share that both have. At this share and above, one
    /// of them stays and the others are dropped and counted.
    #[schemars(range(min = 0.5, max = 1.0))]
    pub similarity: f64,
}

impl Default for NearDuplicates {
    fn default() -> Self {
        Self { similarity: 0.8 }
    }
}
