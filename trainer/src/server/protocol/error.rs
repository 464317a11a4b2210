//! Why a request cannot be answered, for the person who sent it.

use std::fmt;

use super::{signature::Datatype, values::JsonType};

/// Why a request is refused: each message names the input and the row (from 1), and what is expected.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(in crate::server) enum InvalidRequest {
    #[error("the body is no inference request of the Open Inference Protocol: {0}")]
    Json(String),
    #[error("unknown input '{name}'; the model takes {expected}")]
    UnknownInput { name: Shortened, expected: Names },
    #[error("input '{0}' is given twice")]
    DuplicateInput(Shortened),
    #[error("missing inputs: {0}")]
    MissingInputs(Names),
    #[error("input '{input}' has datatype {found}; send {expected}")]
    Datatype { input: String, found: Datatype, expected: Datatype },
    #[error("input '{input}' has shape {shape}; each input is one column: send [rows] or [rows, 1]")]
    Shape { input: String, shape: Shortened },
    #[error("input '{input}' has shape {shape}, and its data holds {values} values")]
    Length { input: String, shape: Shortened, values: usize },
    #[error("input '{input}', row {}: data of shape {shape} holds one value per row", .row + 1)]
    Nesting { input: String, row: usize, shape: Shortened },
    #[error("input '{input}' has {rows} rows, and '{other}' has {other_rows}; all inputs need as many")]
    Rows { input: String, rows: usize, other: String, other_rows: usize },
    #[error("input '{input}', row {}: found {found}, where datatype {datatype} needs {needed}", .row + 1)]
    Value { input: String, row: usize, found: JsonType, datatype: Datatype, needed: JsonType },
    #[error("input '{input}', row {}: not a whole number, as datatype {datatype} needs; send FP64", .row + 1)]
    Fraction { input: String, row: usize, datatype: Datatype },
    #[error("the inputs have no rows; send at least one")]
    NoRows,
    #[error("the request has {rows} rows; at most {most} are taken at once: send it in parts")]
    TooManyRows { rows: usize, most: usize },
    #[error("unknown output '{name}'; the model gives {expected}")]
    UnknownOutput { name: Shortened, expected: Names },
    #[error("output '{0}' is asked for twice")]
    DuplicateOutput(Shortened),
    #[error("{0}")]
    Transform(#[from] crate::data::TransformError),
    #[error(
        "row {}: the prediction is no finite number; the row's inputs lie too far from what the model was trained on", .row + 1
    )]
    Overflow { row: usize },
}

/// Text of a client, of which messages repeat only the beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::server) struct Shortened(String);

impl Shortened {
    /// The most characters that are repeated.
    const MOST: usize = 100;

    pub(super) fn new(text: &str) -> Self {
        match text.char_indices().nth(Self::MOST) {
            Some((end, _)) => Self(format!("{}…", &text[..end])),
            None => Self(text.to_owned()),
        }
    }

    pub(super) fn shape(shape: &[u64]) -> Self {
        let shown: Vec<_> = shape.iter().take(16).map(u64::to_string).collect();
        Self(format!("[{}{}]", shown.join(", "), if shape.len() > shown.len() { ", …" } else { "" }))
    }
}

impl fmt::Display for Shortened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names of a model's inputs or outputs, of which a message lists the first ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::server) struct Names {
    first: Vec<String>,
    more: usize,
}

impl Names {
    /// The most names that are listed.
    const MOST: usize = 16;

    pub(super) fn new<'n>(names: impl ExactSizeIterator<Item = &'n str>) -> Self {
        let more = names.len().saturating_sub(Self::MOST);
        Self { first: names.take(Self::MOST).map(str::to_owned).collect(), more }
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, name) in self.first.iter().enumerate() {
            write!(f, "{}'{name}'", if i == 0 { "" } else { ", " })?;
        }
        if self.more > 0 {
            write!(f, " and {} more, which GET of the model lists", self.more)?;
        }
        Ok(())
    }
}
