//! What a model takes and what it gives, by name.

use std::{collections::HashMap, fmt, sync::Arc};

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde::{Deserialize, Serialize};

use crate::data::{Kind, Output, Preprocessor};

/// The name of the output that holds the most probable class of each row.
pub(super) const LABEL: &str = "label";
/// The name of the output that holds the probability of each class.
pub(super) const PROBABILITIES: &str = "probabilities";

/// `$tensor_element_type` of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(in crate::server) enum Datatype {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Fp32,
    Fp64,
    Bytes,
}

impl Datatype {
    /// The datatype that metadata gives for a column.
    pub(super) const fn of(kind: Kind) -> Self {
        match kind {
            Kind::Number => Self::Fp64,
            Kind::Text => Self::Bytes,
            Kind::Boolean => Self::Bool,
        }
    }

    /// The kind of column that it can be sent for.
    pub(super) const fn kind(self) -> Kind {
        match self {
            Self::Bool => Kind::Boolean,
            Self::Bytes => Kind::Text,
            _ => Kind::Number,
        }
    }

    /// Whether its values are whole numbers.
    pub(super) const fn is_integer(self) -> bool {
        !matches!(self, Self::Bool | Self::Fp16 | Self::Fp32 | Self::Fp64 | Self::Bytes)
    }
}

impl fmt::Display for Datatype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The protocol's name.
        self.serialize(f)
    }
}

/// A raw feature column.
#[derive(Clone, Debug)]
pub(super) struct Input {
    pub(super) name: String,
    pub(super) kind: Kind,
}

/// What the numbers of a prediction are.
#[derive(Clone, Debug)]
pub(super) enum Prediction {
    /// The probability of each of these classes.
    Classes(Vec<String>),
    /// These target columns.
    Numbers(Vec<String>),
}

/// What a model takes and what it gives.
#[derive(Debug)]
pub(in crate::server) struct Signature {
    pub(super) inputs: Vec<Input>,
    /// Position in `inputs` by name.
    pub(super) positions: HashMap<String, usize>,
    /// The columns of a batch of requests, in the order of `inputs`.
    pub(super) schema: SchemaRef,
    pub(super) prediction: Prediction,
    /// Names of the outputs, in the order in which they are given.
    pub(super) outputs: Vec<String>,
}

impl Signature {
    /// The signature of a model with these transforms.
    pub(in crate::server) fn of(preprocessor: &Preprocessor) -> Self {
        let inputs = preprocessor.inputs().iter().map(|input| Input { name: input.name.clone(), kind: input.kind });
        let prediction = match preprocessor.output() {
            Output::Classes { labels, .. } => Prediction::Classes(labels.clone()),
            Output::Numbers { columns, .. } => Prediction::Numbers(columns.clone()),
        };
        Self::new(inputs.collect(), prediction)
    }

    pub(super) fn new(inputs: Vec<Input>, prediction: Prediction) -> Self {
        let fields: Vec<_> = inputs.iter().map(|input| Field::new(&input.name, arrow_type(input.kind), true)).collect();
        let outputs = match &prediction {
            Prediction::Classes(_) => vec![LABEL.to_owned(), PROBABILITIES.to_owned()],
            Prediction::Numbers(columns) => columns.clone(),
        };
        Self {
            positions: inputs.iter().enumerate().map(|(i, input)| (input.name.clone(), i)).collect(),
            schema: Arc::new(Schema::new(fields)),
            inputs,
            prediction,
            outputs,
        }
    }

    /// Numbers per row of a prediction.
    pub(super) fn output_width(&self) -> usize {
        match &self.prediction {
            Prediction::Classes(labels) => labels.len(),
            Prediction::Numbers(columns) => columns.len(),
        }
    }
}

pub(super) fn arrow_type(kind: Kind) -> DataType {
    match kind {
        Kind::Number => DataType::Float64,
        Kind::Text => DataType::Utf8,
        Kind::Boolean => DataType::Boolean,
    }
}
