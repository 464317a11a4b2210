//! Fitting a byte-pair encoding.

use tokenizers::{
    OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Trainer,
    models::bpe::{BPE, BpeTrainer},
    pre_tokenizers::byte_level::ByteLevel,
};

use super::{Tokenizer, TokenizerError, byte_level_json};
use crate::data::DataError;

/// How much text a byte-pair encoding is fitted on, in bytes. The documents come in an order that looks like chance, so the
/// first are a fair sample; more would cost memory and change little. The library counts pairs in 31 bits, which this many
/// bytes do not outgrow.
const MAX_SAMPLE: usize = 256 << 20;
/// How often a pair must come to be merged.
const MIN_FREQUENCY: u64 = 2;

/// Fits a byte-pair encoding of so many tokens, the bytes and the end of a text among them, on the first of some texts.
/// The same texts give the same encoding.
///
/// # Errors
/// If a text cannot be read, or the library fails.
pub(in crate::text) fn fit(
    texts: impl Iterator<Item = Result<String, DataError>> + Send,
    vocabulary_size: u32,
) -> Result<Tokenizer, DataError> {
    let failed = TokenizerError::failed;
    let mut trainer = BpeTrainer::builder()
        .show_progress(false)
        .min_frequency(MIN_FREQUENCY)
        .vocab_size(vocabulary_size as usize - 1)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let (mut left, mut failure) = (MAX_SAMPLE, None);
    let sample = texts.map_while(|text| {
        let text = text.map_err(|error| failure = Some(error)).ok()?;
        left = left.checked_sub(text.len())?;
        Some(text)
    });
    trainer.feed(sample, words).map_err(failed("be fitted"))?;
    if let Some(failure) = failure {
        return Err(failure);
    }
    let mut model = BPE::default();
    trainer.train(&mut model).map_err(failed("be fitted"))?;
    let model = serde_json::to_value(&model).map_err(|error| failed("be written")(error.into()))?;
    let end_of_text = model["vocab"].as_object().map_or(0, |vocab| vocab.len() as u32);
    let json = serde_json::to_vec(&byte_level_json(&model, end_of_text, true));
    Ok(Tokenizer::from_json(&json.map_err(|error| failed("be written")(error.into()))?, None)?)
}

/// The words of a text, in characters that stand for bytes. No pair is merged across two words.
fn words(text: &str) -> tokenizers::Result<Vec<String>> {
    let mut text = PreTokenizedString::from(text);
    ByteLevel::new(false, true, true).pre_tokenize(&mut text)?;
    let words = text.get_splits(OffsetReferential::Original, OffsetType::Byte);
    Ok(words.into_iter().map(|(word, ..)| word.to_owned()).collect())
}
