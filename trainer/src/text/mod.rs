//! From raw files to sequences of tokens, for language models.
//!
//! The steps, each a module: [`read`] reads files as one table of documents, plain text by way of [`files`], conversations
//! by way of [`chat`]; [`clean`] drops documents, [`near`] finds those that are much alike; [`documents`] holds what is
//! left, in an order by content that files' names and order and the number of threads don't change; a [`tokenizer`] is
//! fitted on the training split, and [`sequences`] hold the tokens. What is common with tables is in [`crate::data`].

mod answer;
pub mod chat;
mod clean;
mod documents;
mod files;
mod kept;
mod map;
mod near;
mod pipeline;
mod read;
mod sequences;
mod template;
#[cfg(test)]
mod tests;
mod tokenizer;
mod vocabulary;

use stoker_crds::{
    progress::DataStats,
    training::{Data, data::Format},
};

use self::pipeline::Pipeline;
pub use self::{
    answer::{prompt_tokens, stop_token},
    kept::{KeptError, keep},
    sequences::Sequences,
    tokenizer::{END_OF_TEXT, MAX_JSON, Tokenizer, TokenizerError},
    vocabulary::Vocabulary,
};
use crate::{
    data::{DataError, Scratch, session::Limits, watched},
    storage::{Access, Folder},
};

/// Text that is ready to be trained on.
#[derive(Debug)]
pub struct Corpus {
    /// Digest of the data, the configuration and the version that it was prepared of and by: what was kept of another is not
    /// taken.
    pub key: String,
    /// Whether it was kept before, and taken from there.
    pub is_taken: bool,
    /// The tokenizer, fitted on the training split alone.
    pub tokenizer: Tokenizer,
    /// What was read, dropped and kept.
    pub stats: DataStats,
    /// What a person should know of it.
    pub warning: Option<String>,
    /// What the model is fitted on.
    pub train: Sequences,
    /// What decides on early stopping.
    pub validation: Sequences,
    /// What is looked at once, at the end.
    pub test: Sequences,
}

impl Corpus {
    /// In the order of [`Split::ALL`](stoker_crds::metric::Split::ALL).
    fn splits(&self) -> [&Sequences; 3] {
        [&self.train, &self.validation, &self.test]
    }
}

/// Reads, cleans, splits and encodes text, in sequences of a context's length, and in the tokens of a model that has read
/// text before, if one is to read this. `on_stats` is told the counts as they grow. What came of the same before and was
/// [kept](keep) in the folder `kept` is taken from there.
///
/// The same data and configuration give the same tokenizer and the same sequences, whatever the files' order and the number
/// of threads. Temporary files in `scratch` have no names, and vanish with what is returned.
///
/// # Errors
/// If the data cannot be read or trained on.
pub async fn prepare(
    data: &Data<Format>,
    context: usize,
    vocabulary: Option<Vocabulary>,
    access: &Access,
    scratch: &Scratch,
    kept: Option<&Folder>,
    on_stats: &(dyn Fn(&DataStats) + Send + Sync),
) -> Result<Corpus, DataError> {
    let limits = Limits::within(scratch);
    let pipeline = Pipeline::new(data, context, access, scratch, limits).with_vocabulary(vocabulary).with_kept(kept);
    watched(pipeline.run(), || on_stats(&pipeline.stats())).await
}
