//! Bytes that a tokenizer has no tokens for.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use super::bytes;

/// Bytes that no text in UTF-8 has.
const NO_TEXT: [std::ops::RangeInclusive<u8>; 2] = [0xC0..=0xC1, 0xF5..=0xFF];

/// How a vocabulary writes a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// As a character that stands for it.
    ByteLevel,
    /// As `<0x0A>`, where the character is no token itself.
    Fallback,
}

/// The bytes that a vocabulary lacks. The library drops such a byte, or its whole character, without a word.
///
/// Published vocabularies lack bytes that were not in the text they were fitted on: control characters, and first bytes of
/// characters that hardly anybody writes.
#[derive(Clone, Debug, Default)]
pub struct Lacking {
    bytes: Vec<u8>,
    /// Characters that are tokens although they have such a byte.
    known: HashSet<char>,
}

impl Lacking {
    /// # Errors
    /// If the vocabulary lacks a byte that texts are made of: a visible character of ASCII, or white space.
    pub(super) fn of(vocab: &HashMap<String, u32>, spelling: Spelling) -> Result<Self, String> {
        let token = |byte: u8, character: char| match spelling {
            Spelling::ByteLevel => character.to_string(),
            Spelling::Fallback => format!("<0x{byte:02X}>"),
        };
        let lacks = |(byte, character): &(u8, char)| {
            !NO_TEXT.iter().any(|range| range.contains(byte)) && !vocab.contains_key(&token(*byte, *character))
        };
        let bytes: Vec<u8> = (0..=u8::MAX).zip(bytes::characters()).filter(lacks).map(|(byte, _)| byte).collect();
        let is_needed = |byte: &&u8| matches!(byte, b' '..=b'~' | b'\t' | b'\n' | b'\r');
        if let Some(byte) = bytes.iter().find(is_needed) {
            return Err(format!("it has no token for the byte 0x{byte:02X}, and would drop characters"));
        }
        let mut lacking = Self { bytes, known: HashSet::new() };
        if spelling == Spelling::Fallback && !lacking.bytes.is_empty() {
            let characters = vocab.keys().filter_map(|token| single(token));
            lacking.known = characters.filter(|character| lacking.has_byte_of(*character)).collect();
        }
        Ok(lacking)
    }

    /// How many characters of a text are lost, in whole or in part.
    pub(in crate::text) fn count(&self, text: &str) -> usize {
        if self.bytes.is_empty() {
            return 0;
        }
        text.chars().filter(|character| self.has_byte_of(*character) && !self.known.contains(character)).count()
    }

    fn has_byte_of(&self, character: char) -> bool {
        character.encode_utf8(&mut [0; 4]).bytes().any(|byte| self.bytes.contains(&byte))
    }
}

impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: Vec<String> = self.bytes.iter().map(|byte| format!("0x{byte:02X}")).collect();
        f.write_str(&bytes.join(", "))
    }
}

/// The character of a token that is only one.
fn single(token: &str) -> Option<char> {
    let mut characters = token.chars();
    characters.next().filter(|_| characters.as_str().is_empty())
}
