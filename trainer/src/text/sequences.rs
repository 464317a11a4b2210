//! Tokens in files of the scratch folder, one after another, read as sequences of the model's context.

use std::io::{self, BufWriter, Write};

use serde::{Deserialize, Serialize};

use super::map::Mapped;
use crate::data::{DataError, Scratch, scratch::ScratchFile};

const BUFFER: usize = 1 << 20;

/// The bytes of a token in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Width {
    Two,
    Four,
}

impl Width {
    fn of(vocabulary_size: usize) -> Self {
        if vocabulary_size <= 1 << u16::BITS { Self::Two } else { Self::Four }
    }

    fn bytes(self) -> usize {
        match self {
            Self::Two => size_of::<u16>(),
            Self::Four => size_of::<u32>(),
        }
    }
}

/// The sequences of one split: its tokens without a gap, in parts of the model's context.
///
/// A sequence has one token more than the context, the first of the next sequence: what follows on each token is to be
/// predicted. What is left after the last whole sequence is in none.
#[derive(Debug)]
pub struct Sequences {
    layout: Layout,
    tokens: Mapped,
    /// Of each token a bit, the lowest first: whether it is to be learned. All are where there are no bits.
    counts: Option<Mapped>,
}

/// How the bytes of [`Sequences`] are to be read.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Layout {
    context: usize,
    width: Width,
    /// Whether each token comes with whether it is to be learned.
    pub(super) is_counted: bool,
    /// Tokens.
    total: u64,
    /// Whole sequences.
    len: u32,
    /// Whether a prediction counts.
    learns: bool,
}

impl Sequences {
    /// Those that such bytes are; `None` if the bytes are not as many as the layout says.
    ///
    /// # Errors
    /// If a file cannot be mapped.
    pub(super) fn of(layout: Layout, tokens: ScratchFile, counts: Option<ScratchFile>) -> io::Result<Option<Self>> {
        let Layout { context, width, is_counted, total, len, .. } = layout;
        let fits = tokens.written() == total.saturating_mul(width.bytes() as u64)
            && counts.as_ref().map(ScratchFile::written) == is_counted.then(|| total.div_ceil(u8::BITS.into()))
            && (len == 0 || u64::from(len).saturating_mul(context as u64) < total);
        if !fits {
            return Ok(None);
        }
        let counts = counts.map(Mapped::new).transpose()?;
        Ok(Some(Self { layout, tokens: Mapped::new(tokens)?, counts }))
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The bytes of the tokens, and of which are to be learned.
    pub(super) fn bytes(&self) -> (&[u8], Option<&[u8]>) {
        (self.tokens.bytes(), self.counts.as_ref().map(Mapped::bytes))
    }

    /// How many whole sequences there are.
    pub fn len(&self) -> usize {
        self.layout.len as usize
    }

    /// Whether there is no whole sequence.
    pub fn is_empty(&self) -> bool {
        self.layout.len == 0
    }

    /// Whether a token of a whole sequence is to be learned.
    pub(super) fn learns(&self) -> bool {
        self.layout.learns
    }

    /// How many tokens there are, with those after the last whole sequence.
    pub fn tokens(&self) -> u64 {
        self.layout.total
    }

    /// The length of a sequence, without the token that follows on it.
    pub fn context(&self) -> usize {
        self.layout.context
    }

    /// Reads a sequence: its `context + 1` tokens, and for each of its `context` predictions, that of the token after it,
    /// a weight: 1 where it counts, 0 where not.
    ///
    /// # Errors
    /// If there is no such sequence, or the places for it have another length.
    pub fn read(&self, index: u32, tokens: &mut [u32], weights: &mut [f32]) -> Result<(), DataError> {
        let Layout { context, width, len, .. } = self.layout;
        if index >= len || tokens.len() != context + 1 || weights.len() != context {
            return Err(DataError::internal(format!(
                "sequence {index} of {len} was asked for, in {} tokens and {} weights for a context of {context}",
                tokens.len(),
                weights.len()
            )));
        }
        let start = index as usize * context;
        let bytes = &self.tokens.bytes()[start * width.bytes()..][..tokens.len() * width.bytes()];
        match width {
            Width::Two => fill(tokens, bytes.as_chunks().0.iter().map(|bytes| u16::from_le_bytes(*bytes).into())),
            Width::Four => fill(tokens, bytes.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes))),
        }
        match &self.counts {
            None => weights.fill(1.0),
            Some(counts) => {
                let bits = counts.bytes();
                let counts = |token: usize| (bits[token / 8] >> (token % 8)) & 1;
                fill(weights, (start + 1..).map(|token| f32::from(counts(token))));
            }
        }
        Ok(())
    }
}

fn fill<T>(places: &mut [T], values: impl Iterator<Item = T>) {
    for (place, value) in places.iter_mut().zip(values) {
        *place = value;
    }
}

/// Writes [`Sequences`].
pub(super) struct SequencesWriter {
    context: usize,
    width: Width,
    scratch: Scratch,
    tokens: BufWriter<ScratchFile>,
    counts: Option<Bits>,
    /// The place of the first token that is predicted and to be learned.
    first_learned: Option<u64>,
    total: u64,
}

/// Bits in a file, the lowest of a byte first.
struct Bits {
    file: BufWriter<ScratchFile>,
    /// The bits of the last byte, and how many they are.
    last: (u8, u32),
}

impl Bits {
    fn push(&mut self, bit: bool) -> std::io::Result<()> {
        let (byte, used) = &mut self.last;
        *byte |= u8::from(bit) << *used;
        *used += 1;
        if *used == u8::BITS {
            self.file.write_all(&[*byte])?;
            self.last = (0, 0);
        }
        Ok(())
    }

    fn finish(mut self) -> std::io::Result<ScratchFile> {
        if self.last.1 > 0 {
            self.file.write_all(&[self.last.0])?;
        }
        self.file.into_inner().map_err(std::io::IntoInnerError::into_error)
    }
}

impl SequencesWriter {
    /// Writes sequences of tokens below `vocabulary_size`. Where `is_counted`, each token comes with whether it is to be
    /// learned.
    pub(super) fn new(
        scratch: &Scratch,
        context: usize,
        vocabulary_size: usize,
        is_counted: bool,
    ) -> Result<Self, DataError> {
        let file = || {
            let file = scratch.file().map_err(|error| DataError::scratch(scratch, error))?;
            Ok::<_, DataError>(BufWriter::with_capacity(BUFFER, file))
        };
        let counts = is_counted.then(|| Ok::<_, DataError>(Bits { file: file()?, last: (0, 0) })).transpose()?;
        let (width, scratch, tokens) = (Width::of(vocabulary_size), scratch.clone(), file()?);
        // The first of all tokens is not predicted.
        let first_learned = (!is_counted).then_some(1);
        Ok(Self { context, width, scratch, tokens, counts, first_learned, total: 0 })
    }

    /// Appends tokens. `counts` says of each whether it is to be learned.
    pub(super) fn push(&mut self, tokens: &[u32], counts: impl Iterator<Item = bool>) -> Result<(), DataError> {
        let failed = |error| DataError::scratch(&self.scratch, error);
        let start = self.total;
        self.total += tokens.len() as u64;
        for token in tokens {
            match self.width {
                Width::Two => {
                    let token = u16::try_from(*token).map_err(DataError::internal)?;
                    self.tokens.write_all(&token.to_le_bytes()).map_err(failed)?;
                }
                Width::Four => self.tokens.write_all(&token.to_le_bytes()).map_err(failed)?,
            }
        }
        if let Some(bits) = &mut self.counts {
            for (place, counts) in (start..self.total).zip(counts) {
                bits.push(counts).map_err(failed)?;
                if counts && place > 0 {
                    self.first_learned.get_or_insert(place);
                }
            }
        }
        Ok(())
    }

    /// How many tokens were written.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn finish(self) -> Result<Sequences, DataError> {
        let Self { context, width, scratch, tokens, counts, first_learned, total } = self;
        let failed = |error| DataError::scratch(&scratch, error);
        let file = tokens.into_inner().map_err(|error| failed(error.into_error()))?;
        let counts = counts.map(Bits::finish).transpose().map_err(failed)?;
        let len = total.saturating_sub(1) / context as u64;
        let len = u32::try_from(len).map_err(|_| {
            DataError::InvalidConfig(format!(
                "{len} sequences in one split are more than can be numbered: raise the model's context, or bring less data"
            ))
        })?;
        let learns = first_learned.is_some_and(|place| place <= u64::from(len) * context as u64);
        let layout = Layout { context, width, is_counted: counts.is_some(), total, len, learns };
        let sequences = Sequences::of(layout, file, counts).map_err(failed)?;
        sequences.ok_or_else(|| DataError::internal("the tokens are not as many as were written"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(context: usize, vocabulary_size: usize, pieces: &[&[u32]], counts: Option<fn(u32) -> bool>) -> Sequences {
        let folder = tempfile::tempdir().unwrap();
        let scratch = Scratch::unlimited(folder.path());
        let mut writer = SequencesWriter::new(&scratch, context, vocabulary_size, counts.is_some()).unwrap();
        for piece in pieces {
            writer.push(piece, piece.iter().map(|token| counts.is_none_or(|counts| counts(*token)))).unwrap();
        }
        writer.finish().unwrap()
    }

    fn read(sequences: &Sequences, index: u32) -> (Vec<u32>, Vec<f32>) {
        let (mut tokens, mut weights) = (vec![0; sequences.context() + 1], vec![-1.0; sequences.context()]);
        sequences.read(index, &mut tokens, &mut weights).unwrap();
        (tokens, weights)
    }

    #[test]
    fn sequences_overlap_by_one_token_and_lose_only_the_tail() {
        for vocabulary_size in [65_536, 65_537] {
            let largest = vocabulary_size as u32 - 1;
            let sequences = write(3, vocabulary_size, &[&[0, 1], &[], &[2, 3, 4, 5, largest, 7, 8]], None);
            assert_eq!((sequences.len(), sequences.tokens()), (2, 9));
            assert_eq!(read(&sequences, 0), (vec![0, 1, 2, 3], vec![1.0; 3]));
            assert_eq!(read(&sequences, 1), (vec![3, 4, 5, largest], vec![1.0; 3]));
        }
    }

    #[test]
    fn a_sequence_needs_the_token_that_follows_on_it() {
        for (tokens, expected) in [(&[][..], 0), (&[1], 0), (&[1, 2, 3], 0), (&[1, 2, 3, 4], 1), (&[1; 7], 2)] {
            let sequences = write(3, 10, &[tokens], None);
            assert_eq!((sequences.len(), sequences.is_empty()), (expected, expected == 0), "{tokens:?}");
        }
    }

    #[test]
    fn a_weight_is_that_of_the_token_to_be_predicted() {
        let tokens: Vec<u32> = (0..100).collect();
        let sequences = write(7, 100, &[&tokens[..9], &tokens[9..]], Some(|token| token % 3 == 0));
        for index in 0..sequences.len() as u32 {
            let (tokens, weights) = read(&sequences, index);
            let expected: Vec<f32> = tokens[1..].iter().map(|token| f32::from(u8::from(token % 3 == 0))).collect();
            assert_eq!(weights, expected);
        }
    }

    #[test]
    fn only_a_token_that_a_whole_sequence_predicts_is_learned() {
        // Of nine tokens, two sequences of three predict those at the places 1 to 6.
        let tokens: Vec<u32> = (0..9).collect();
        let learns = |counts| write(3, 100, &[&tokens[..4], &tokens[4..]], counts).learns();
        assert!(learns(None));
        assert!(learns(Some(|token| token == 1)) && learns(Some(|token| token == 6)));
        assert!(!learns(Some(|token| token == 0 || token > 6)) && !learns(Some(|_| false)));
        assert!(!write(3, 100, &[&[1; 3]], None).learns(), "there is no whole sequence");
    }

    #[test]
    fn a_sequence_that_is_not_there_is_an_error() {
        let sequences = write(3, 10, &[&[1; 8]], None);
        assert!(sequences.read(2, &mut [0; 4], &mut [0.0; 3]).is_err());
        assert!(sequences.read(1, &mut [0; 3], &mut [0.0; 3]).is_err());
        assert!(sequences.read(1, &mut [0; 4], &mut [0.0; 4]).is_err());
    }
}
