//! The fitted transforms: the only way from raw columns to numbers, for training and for serving alike.

use datafusion::arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};

/// The fitted transforms of a model: from raw columns to the numbers that the model sees, and from its predictions back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Preprocessor {
    inputs: Vec<InputColumn>,
    output: Output,
}

/// A feature as it is read, before any transform.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InputColumn {
    /// The column's name.
    pub name: String,
    /// What its values are.
    pub kind: Kind,
}

/// What the values of a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// Numbers.
    Number,
    /// Text.
    Text,
    /// True or false.
    Boolean,
}

/// What a model predicts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Output {
    /// One of several classes.
    Classes {
        /// The target column.
        column: String,
        /// The classes, sorted; a class's index is its position.
        labels: Vec<String>,
    },
    /// One number per target column.
    Numbers {
        /// The target columns.
        columns: Vec<String>,
    },
}

/// Why a row cannot be transformed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransformError {
    /// A column is not there.
    #[error("column '{column}' is missing")]
    MissingColumn {
        /// Its name.
        column: String,
    },
}

impl Preprocessor {
    /// The features, in the order of the configuration.
    pub fn inputs(&self) -> &[InputColumn] {
        &self.inputs
    }

    /// How many numbers the model sees per row.
    pub fn input_width(&self) -> usize {
        todo!()
    }

    /// What the model predicts.
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// How many classes, or how many target columns there are.
    pub fn output_width(&self) -> usize {
        match &self.output {
            Output::Classes { labels, .. } => labels.len(),
            Output::Numbers { columns, .. } => columns.len(),
        }
    }

    /// What the model sees, `[rows, input_width]`, row-major. Columns are taken by name; others are ignored.
    ///
    /// # Errors
    /// If a column is missing or of another type, or a value is infinite, or missing where nothing fills it.
    pub fn transform(&self, batch: &RecordBatch) -> Result<Vec<f32>, TransformError> {
        todo!("{}", batch.num_rows())
    }

    /// What the model is to predict: `[rows, 1]` class indices, or `[rows, targets]` transformed numbers, row-major.
    ///
    /// # Errors
    /// If a target is missing or of another type, or its class is not known.
    pub fn targets(&self, batch: &RecordBatch) -> Result<Vec<f32>, TransformError> {
        todo!("{}", batch.num_rows())
    }

    /// Brings predictions of a regression, `[rows, targets]` row-major, back to the targets' own units.
    pub fn restore_targets(&self, predictions: &mut [f32]) {
        todo!("{}", predictions.len())
    }
}
