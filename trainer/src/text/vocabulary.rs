//! The tokens of a model that has read text before.

use super::Tokenizer;
use crate::data::DataError;

/// The tokens of a model that has read text before: what it is to read now must be of the same.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    /// The model's tensor that has a row for each token that it tells apart.
    pub tensor: String,
    /// Its rows and columns.
    pub shape: [usize; 2],
    /// The model's own tokenizer, if it came with one.
    pub tokenizer: Option<Tokenizer>,
}

impl Vocabulary {
    /// The model's own tokenizer.
    ///
    /// # Errors
    /// If it came without one.
    pub(super) fn own(&self) -> Result<Tokenizer, DataError> {
        let missing = || {
            DataError::InvalidConfig(
                "the model that is started from came without a tokenizer.json: name its tokenizer in \
                 spec.data.text.tokenizer"
                    .into(),
            )
        };
        let own = self.tokenizer.clone().ok_or_else(missing)?;
        self.check(own, "the tokenizer.json of the model that is started from")
    }

    /// Another tokenizer in place of the model's own.
    ///
    /// # Errors
    /// If it has another number of tokens, or more than the model tells apart.
    pub(super) fn other(&self, other: Tokenizer) -> Result<Tokenizer, DataError> {
        let what = "spec.data.text.tokenizer";
        match &self.tokenizer {
            Some(own) if own.vocabulary_size() != other.vocabulary_size() => Err(DataError::InvalidConfig(format!(
                "{what} has {} tokens, and the own tokenizer of the model that is started from, whose tensor '{}' is {:?}, \
                 has {}: remove it, so that the model's own is taken, or name one of the same tokens",
                other.vocabulary_size(),
                self.tensor,
                self.shape,
                own.vocabulary_size()
            ))),
            _ => self.check(other, what),
        }
    }

    /// Some models tell more tokens apart than their tokenizers have, so that matrices have a size that multiplies fast.
    fn check(&self, tokenizer: Tokenizer, what: &str) -> Result<Tokenizer, DataError> {
        let (tokens, [rows, columns]) = (tokenizer.vocabulary_size(), self.shape);
        if tokens > rows {
            return Err(DataError::InvalidConfig(format!(
                "{what} has {tokens} tokens, for which the tensor '{}' of the model that is started from should be \
                 [{tokens}, {columns}] and is [{rows}, {columns}]: name a tokenizer of at most {rows} tokens in \
                 spec.data.text.tokenizer",
                self.tensor
            )));
        }
        Ok(tokenizer)
    }
}
