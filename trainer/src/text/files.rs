//! Plain text: cut into documents, as a stream.

use std::{collections::VecDeque, mem, ops::Range};

use futures::{Stream, stream};
use stoker_crds::training::text::{DocumentEnd, Documents};
use tokio::io::AsyncBufReadExt;

use crate::data::{DataError, source::SourceFile, text};

/// The most bytes of a document.
const LONGEST: usize = 4 << 20;
/// The most bytes of the documents that are given at a time.
const AT_A_TIME: usize = 16 << 20;
const BYTE_ORDER_MARK: &[u8] = "\u{FEFF}".as_bytes();

/// The documents of a file, at most `count` at a time.
pub(super) async fn documents(
    file: SourceFile,
    rules: Documents,
    count: usize,
) -> Result<impl Stream<Item = Result<Vec<String>, DataError>> + Send, DataError> {
    let text = text::open(&file).await.map_err(|error| DataError::reading(&file, 0, error))?;
    let start = (text, Some(Cutter::new(rules)), VecDeque::new());
    Ok(stream::try_unfold(start, move |(mut text, mut cutter, mut ready)| {
        let file = file.clone();
        async move {
            while let Some(cutting) = &mut cutter
                && !is_enough(&ready, count)
            {
                let piece = text.fill_buf().await.map_err(|error| DataError::reading(&file, 0, error.into()))?;
                let read = piece.len();
                let cut = if read == 0 {
                    cutter.take().map(Cutter::end).unwrap_or_default()
                } else {
                    cutting.push(piece);
                    mem::take(&mut cutting.cut)
                };
                text.consume(read);
                for document in cut {
                    ready.extend(document.text().map_err(|at| no_text(&file, at))?);
                }
            }
            let documents = first(&mut ready, count);
            Ok::<_, DataError>((!documents.is_empty()).then_some((documents, (text, cutter, ready))))
        }
    }))
}

fn is_enough(ready: &VecDeque<String>, count: usize) -> bool {
    ready.len() >= count || ready.iter().map(String::len).sum::<usize>() >= AT_A_TIME
}

/// Takes as many documents as may be given at a time, at least one if there is one.
fn first(ready: &mut VecDeque<String>, count: usize) -> Vec<String> {
    let (mut documents, mut bytes) = (Vec::new(), 0);
    while documents.len() < count
        && let Some(document) =
            ready.pop_front_if(|document| documents.is_empty() || bytes + document.len() <= AT_A_TIME)
    {
        bytes += document.len();
        documents.push(document);
    }
    documents
}

fn no_text(file: &SourceFile, at: u64) -> DataError {
    DataError::Unparsable(format!(
        "{} is no text in UTF-8: its byte {at}, counted from 0, cannot stand there; convert it to UTF-8, or correct spec.data.source.uri",
        file.uri()
    ))
}

/// The bytes of a document, and where they start in the file.
#[derive(Debug, Default)]
struct Piece {
    start: u64,
    bytes: Vec<u8>,
}

impl Piece {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// The document without the lines around it that are blank; `None` if all are. Otherwise where it is no UTF-8.
    fn text(mut self) -> Result<Option<String>, u64> {
        if self.start == 0 && self.bytes.starts_with(BYTE_ORDER_MARK) {
            self.bytes.drain(..BYTE_ORDER_MARK.len());
            self.start += BYTE_ORDER_MARK.len() as u64;
        }
        let text = str::from_utf8(&self.bytes).map_err(|error| self.start + error.valid_up_to() as u64)?;
        let text = text.trim_end();
        let indented = text.trim_start();
        let blank = text.len() - indented.len();
        let line = text[..blank].rfind('\n').map_or(0, |at| at + 1);
        Ok((!indented.is_empty()).then(|| text[line..].to_owned()))
    }
}

/// Cuts a text that comes in pieces.
#[derive(Debug)]
struct Cutter {
    rules: Documents,
    current: Piece,
    /// Where in it the current line starts.
    line: usize,
    /// The characters before the current line.
    characters: usize,
    /// The document before, to which the end of the file may belong.
    before: Option<Piece>,
    /// Documents that are done.
    cut: Vec<Piece>,
}

impl Cutter {
    fn new(rules: Documents) -> Self {
        Self { rules, current: Piece::default(), line: 0, characters: 0, before: None, cut: Vec::new() }
    }

    fn push(&mut self, piece: &[u8]) {
        for line in piece.split_inclusive(|byte| *byte == b'\n') {
            self.current.bytes.extend_from_slice(line);
            while self.current.bytes.len() > LONGEST {
                self.cut_long();
            }
            if line.ends_with(b"\n") {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        let line = &self.current.bytes[self.line..];
        self.characters += characters(line);
        let may_end = match self.rules.end_at {
            DocumentEnd::BlankLine => line.trim_ascii().is_empty(),
            DocumentEnd::Line => true,
            DocumentEnd::File => false,
        };
        self.line = self.current.bytes.len();
        if may_end && self.characters >= self.rules.min_length as usize {
            self.cut_at(self.line);
        }
    }

    /// Cuts what is too long before the current line, or before a character where the line is most of it.
    fn cut_long(&mut self) {
        let is_start = |at: &usize| self.current.bytes.get(*at).is_some_and(|byte| is_first(*byte));
        let before_character = || (LONGEST - 3..=LONGEST).rev().find(is_start).unwrap_or(LONGEST);
        let at = if (LONGEST / 2..=LONGEST).contains(&self.line) { self.line } else { before_character() };
        self.cut_at(at);
    }

    fn cut_at(&mut self, at: usize) {
        let rest = self.current.bytes.split_off(at);
        let start = self.current.end();
        let done = mem::replace(&mut self.current, Piece { start, bytes: rest });
        self.line = self.line.saturating_sub(at);
        self.characters = characters(&self.current.bytes[..self.line]);
        self.cut.extend(self.before.replace(done));
    }

    /// The last documents. What is left is one, or the end of the one before where it is too short.
    fn end(mut self) -> Vec<Piece> {
        let is_short = characters(&self.current.bytes) < self.rules.min_length as usize;
        if let Some(before) = &mut self.before
            && is_short
            && before.bytes.len() + self.current.bytes.len() <= LONGEST
        {
            before.bytes.append(&mut self.current.bytes);
        }
        self.cut.extend(self.before);
        self.cut.push(self.current);
        self.cut
    }
}

/// How many characters start in some bytes.
fn characters(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| is_first(**byte)).count()
}

/// Whether a byte is the first of a character in UTF-8.
fn is_first(byte: u8) -> bool {
    const FOLLOWING: Range<u8> = 0x80..0xC0;
    !FOLLOWING.contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &[u8], end_at: DocumentEnd, min_length: u32, piece: usize) -> Result<Vec<String>, u64> {
        let mut cutter = Cutter::new(Documents { end_at, min_length });
        text.chunks(piece).for_each(|piece| cutter.push(piece));
        let cut: Vec<Option<String>> = cutter.end().into_iter().map(Piece::text).collect::<Result<_, _>>()?;
        Ok(cut.into_iter().flatten().collect())
    }

    #[test]
    fn a_document_ends_at_the_first_place_where_it_may_once_it_is_long_enough() {
        let text = "\n one\ntwo\n\nthree\n\r\nfour\n \n\nfive";
        for (end_at, min_length, expected) in [
            (DocumentEnd::BlankLine, 1, &[" one\ntwo", "three", "four", "five"][..]),
            (DocumentEnd::BlankLine, 12, &[" one\ntwo\n\nthree", "four\n \n\nfive"]),
            (DocumentEnd::BlankLine, 16, &[" one\ntwo\n\nthree\n\r\nfour\n \n\nfive"]),
            (DocumentEnd::Line, 1, &[" one", "two", "three", "four", "five"]),
            (DocumentEnd::Line, 8, &[" one\ntwo", "three", "four\n \n\nfive"]),
            (DocumentEnd::File, 1, &[" one\ntwo\n\nthree\n\r\nfour\n \n\nfive"]),
        ] {
            for piece in [1, 3, 100] {
                assert_eq!(
                    cut(text.as_bytes(), end_at, min_length, piece).unwrap(),
                    expected,
                    "{end_at:?} {min_length}"
                );
            }
        }
    }

    #[test]
    fn characters_are_counted_and_not_bytes() {
        assert_eq!(cut("äöü\nß\n".as_bytes(), DocumentEnd::Line, 5, 2).unwrap(), ["äöü\nß"]);
        assert_eq!(cut("äöüx\nß\n".as_bytes(), DocumentEnd::Line, 5, 2).unwrap(), ["äöüx\nß"]);
        assert_eq!(cut("äöüx\näöüx\n".as_bytes(), DocumentEnd::Line, 5, 2).unwrap(), ["äöüx", "äöüx"]);
    }

    #[test]
    fn a_document_without_an_end_is_cut_before_it_is_too_long_and_loses_nothing() {
        let lines = format!("{}\n", "ä".repeat(999)).repeat(5000);
        let line = "ä".repeat(LONGEST);
        for text in [&lines, &line] {
            let documents = cut(text.as_bytes(), DocumentEnd::File, 1, 1 << 16).unwrap();
            assert!(documents.len() > 1 && documents.iter().all(|document| document.len() <= LONGEST));
            let letters = |text: &str| text.chars().filter(|c| *c == 'ä').count();
            assert_eq!(documents.iter().map(|document| letters(document)).sum::<usize>(), letters(text));
        }
        assert!(cut(lines.as_bytes(), DocumentEnd::File, 1, 1 << 16).unwrap().iter().all(|d| d.len() % 1999 == 1998));
    }

    #[test]
    fn what_is_no_text_is_found_where_it_stands_and_a_byte_order_mark_is_none_of_it() {
        assert_eq!(cut(b"\xEF\xBB\xBFa", DocumentEnd::Line, 1, 1).unwrap(), ["a"]);
        assert_eq!(cut(b"\xEF\xBB\xBFab\n\xFFc", DocumentEnd::Line, 1, 1), Err(6));
        assert_eq!(cut("ab\nä".as_bytes().split_last().unwrap().1, DocumentEnd::Line, 1, 1), Err(3));
    }

    #[test]
    fn documents_are_given_a_few_at_a_time_and_a_large_one_alone() {
        let large = "x".repeat(AT_A_TIME);
        let mut ready: VecDeque<String> = ["a", "b", "c", large.as_str(), "d"].map(str::to_owned).into();
        let given: Vec<usize> =
            std::iter::from_fn(|| Some(first(&mut ready, 2).len()).filter(|len| *len > 0)).collect();
        assert_eq!(given, [2, 1, 1, 1]);
    }
}
