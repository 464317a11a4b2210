//! The fitted transforms: the only way from raw columns to numbers, for training and for serving alike.

use std::{borrow::Cow, collections::HashMap};

use datafusion::arrow::{
    array::{Array, ArrayRef, AsArray, Float64Array, StringArray},
    compute::cast,
    datatypes::DataType,
    record_batch::RecordBatch,
};
use serde::{Deserialize, Serialize};

use super::convert;
pub use super::encoding::{Categories, Encoding, Fill, Kind, Scaling};

/// The fitted transforms of a model: from raw columns to the numbers that the model sees, and from its predictions back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Preprocessor {
    inputs: Vec<InputColumn>,
    output: Output,
}

/// A feature: how it is read, and how it becomes numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InputColumn {
    /// The column's name.
    pub name: String,
    /// What its values are.
    pub kind: Kind,
    /// What a missing value is taken for; without it, a row with a missing value is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fill: Option<Fill>,
    /// How it becomes numbers.
    pub encoding: Encoding,
}

/// What a model predicts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Output {
    /// One of several classes.
    Classes {
        /// The target column.
        column: String,
        /// What its values are.
        kind: Kind,
        /// The classes of the training split, numbers sorted by size and others by their bytes; a class's index is its
        /// position.
        labels: Vec<String>,
    },
    /// One number per target column.
    Numbers {
        /// The target columns.
        columns: Vec<String>,
        /// How each is scaled.
        scalings: Vec<Scaling>,
    },
}

/// Why rows cannot be transformed. Rows are counted from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransformError {
    /// A column is not there.
    #[error("column '{column}' is missing")]
    MissingColumn {
        /// Its name.
        column: String,
    },
    /// A column is of another type.
    #[error("column '{column}' is of type {found}, and {needed} is needed")]
    WrongType {
        /// Its name.
        column: String,
        /// Its type.
        found: String,
        /// The type that is needed.
        needed: &'static str,
    },
    /// A value is missing (null, empty or NaN), and nothing fills it.
    #[error("column '{column}' has no value in row {row}, and none was set to fill it")]
    MissingValue {
        /// The column.
        column: String,
        /// The row.
        row: usize,
    },
    /// A value is infinite, or becomes too large by its transform.
    #[error("column '{column}' has no finite value in row {row}")]
    NotFinite {
        /// The column.
        column: String,
        /// The row.
        row: usize,
    },
    /// A target is none of the classes.
    #[error("column '{column}' has the class '{label}' in row {row}, which the training split has not")]
    UnknownClass {
        /// The column.
        column: String,
        /// The row.
        row: usize,
        /// The class.
        label: String,
    },
}

impl Preprocessor {
    pub(super) fn new(inputs: Vec<InputColumn>, output: Output) -> Self {
        Self { inputs, output }
    }

    /// The features, in the order of the configuration.
    pub fn inputs(&self) -> &[InputColumn] {
        &self.inputs
    }

    /// How many numbers the model sees per row.
    pub fn input_width(&self) -> usize {
        self.inputs.iter().map(|input| input.encoding.width()).sum()
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

    /// How many numbers [`Self::targets`] gives per row.
    pub fn target_width(&self) -> usize {
        match &self.output {
            Output::Classes { .. } => 1,
            Output::Numbers { columns, .. } => columns.len(),
        }
    }

    /// What the model sees, `[rows, input_width]`, row-major. Columns are taken by name; others are ignored. Columns of
    /// numbers may be of any width.
    ///
    /// # Errors
    /// If a column is missing or of another type, or a value is infinite, or missing where nothing fills it.
    pub fn transform(&self, batch: &RecordBatch) -> Result<Vec<f32>, TransformError> {
        let width = self.input_width();
        let mut numbers = vec![0.0; batch.num_rows() * width];
        let mut offset = 0;
        for input in &self.inputs {
            let mut rows = Rows { numbers: &mut numbers, width, offset };
            input.encode(column(batch, &input.name)?, &mut rows)?;
            offset += input.encoding.width();
        }
        Ok(numbers)
    }

    /// What the model is to predict: `[rows, 1]` class indices, or `[rows, targets]` scaled numbers, row-major.
    ///
    /// # Errors
    /// If a target is missing or of another type, or its class is not known.
    pub fn targets(&self, batch: &RecordBatch) -> Result<Vec<f32>, TransformError> {
        match &self.output {
            Output::Classes { column: name, kind, labels } => {
                let indices: HashMap<&str, f32> =
                    labels.iter().zip(0_u16..).map(|(l, i)| (l.as_str(), f32::from(i))).collect();
                let texts = labels_of(name, *kind, column(batch, name)?)?;
                let index = |(row, label): (usize, Option<&str>)| {
                    let column = name.clone();
                    let label = label.ok_or(TransformError::MissingValue { column, row })?;
                    let unknown =
                        || TransformError::UnknownClass { column: name.clone(), row, label: label.to_owned() };
                    indices.get(label).copied().ok_or_else(unknown)
                };
                (1..).zip(texts.iter()).map(index).collect()
            }
            Output::Numbers { columns, scalings } => {
                let mut targets = vec![0.0; batch.num_rows() * columns.len()];
                for (offset, (name, scaling)) in columns.iter().zip(scalings).enumerate() {
                    let mut rows = Rows { numbers: &mut targets, width: columns.len(), offset };
                    rows.scaled(name, scaling, None, &numbers(name, column(batch, name)?)?)?;
                }
                Ok(targets)
            }
        }
    }

    /// Brings predictions of a regression, `[rows, targets]` row-major, back to the targets' own units.
    pub fn restore_targets(&self, predictions: &mut [f32]) {
        if let Output::Numbers { scalings, .. } = &self.output {
            for row in predictions.chunks_mut(scalings.len().max(1)) {
                for (prediction, scaling) in row.iter_mut().zip(scalings) {
                    *prediction = scaling.restore(f64::from(*prediction)) as f32;
                }
            }
        }
    }
}

impl InputColumn {
    fn encode(&self, array: &ArrayRef, rows: &mut Rows<'_>) -> Result<(), TransformError> {
        let name = &self.name;
        match (&self.encoding, self.kind) {
            (Encoding::Scaled(scaling), _) => {
                let fill = match self.fill {
                    Some(Fill::Number(fill)) => Some(fill),
                    _ => None,
                };
                rows.scaled(name, scaling, fill, &numbers(name, array)?)
            }
            (Encoding::OneHot(categories), kind) => self.positions(categories, kind, array, |row, position| {
                if let Some(position) = position {
                    rows.set(row, position, 1.0);
                }
            }),
            (Encoding::Ordinal(categories), kind) => self.positions(categories, kind, array, |row, position| {
                rows.set(row, 0, position.map_or(-1.0, |position| position as f32));
            }),
        }
    }

    /// Calls `set` with each row, from 0, and its category.
    fn positions(
        &self,
        categories: &Categories,
        kind: Kind,
        array: &ArrayRef,
        mut set: impl FnMut(usize, Option<usize>),
    ) -> Result<(), TransformError> {
        let name = &self.name;
        let missing = |row: usize| TransformError::MissingValue { column: name.clone(), row: row + 1 };
        if kind == Kind::Number {
            let fill = if let Some(Fill::Number(fill)) = self.fill { Some(fill) } else { None };
            for (row, number) in numbers(name, array)?.iter().enumerate() {
                set(row, categories.of_number(number.or(fill).ok_or_else(|| missing(row))?));
            }
            return Ok(());
        }
        let fill = match &self.fill {
            Some(Fill::Text(text)) => Some(text.as_str()),
            Some(Fill::Boolean(value)) => Some(boolean_label(*value)),
            _ => None,
        };
        for (row, text) in labels_of(name, kind, array)?.iter().enumerate() {
            set(row, categories.of_text(text.or(fill).ok_or_else(|| missing(row))?));
        }
        Ok(())
    }
}

/// The place of one column among the numbers of all rows.
struct Rows<'a> {
    numbers: &'a mut [f32],
    width: usize,
    offset: usize,
}

impl Rows<'_> {
    fn set(&mut self, row: usize, position: usize, number: f32) {
        self.numbers[row * self.width + self.offset + position] = number;
    }

    fn scaled(
        &mut self,
        name: &str,
        scaling: &Scaling,
        fill: Option<f64>,
        values: &Float64Array,
    ) -> Result<(), TransformError> {
        for (row, value) in values.iter().enumerate() {
            let column = || name.to_owned();
            let value =
                value.or(fill).ok_or_else(|| TransformError::MissingValue { column: column(), row: row + 1 })?;
            let number = scaling.apply(value) as f32;
            if !number.is_finite() {
                return Err(TransformError::NotFinite { column: column(), row: row + 1 });
            }
            self.set(row, 0, number);
        }
        Ok(())
    }
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef, TransformError> {
    batch.column_by_name(name).ok_or_else(|| TransformError::MissingColumn { column: name.to_owned() })
}

fn numbers(name: &str, array: &ArrayRef) -> Result<Float64Array, TransformError> {
    convert::plain_numbers(array).ok_or_else(|| wrong_type(name, array, "a number"))
}

/// Values as they are written: of a class, of a category.
pub(super) fn labels_of<'a>(
    name: &str,
    kind: Kind,
    array: &'a ArrayRef,
) -> Result<Cow<'a, StringArray>, TransformError> {
    let labels: StringArray = match (kind, array.data_type()) {
        (Kind::Text, DataType::Utf8) if !array.as_string::<i32>().iter().any(|text| text == Some("")) => {
            return Ok(Cow::Borrowed(array.as_string()));
        }
        (Kind::Text, DataType::Utf8) => {
            array.as_string::<i32>().iter().map(|text| text.filter(|text| !text.is_empty())).collect()
        }
        (Kind::Text, DataType::LargeUtf8 | DataType::Utf8View) => {
            let texts = cast(array, &DataType::Utf8).map_err(|_| wrong_type(name, array, "text"))?;
            texts.as_string::<i32>().iter().map(|text| text.filter(|text| !text.is_empty())).collect()
        }
        (Kind::Boolean, DataType::Boolean) => array.as_boolean().iter().map(|value| value.map(boolean_label)).collect(),
        (Kind::Number, _) => numbers(name, array)?.iter().map(|value| value.map(|number| number.to_string())).collect(),
        (Kind::Text, _) => return Err(wrong_type(name, array, "text")),
        (Kind::Boolean, _) => return Err(wrong_type(name, array, "a boolean")),
    };
    Ok(Cow::Owned(labels))
}

fn boolean_label(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

fn wrong_type(column: &str, array: &ArrayRef, needed: &'static str) -> TransformError {
    TransformError::WrongType { column: column.to_owned(), found: array.data_type().to_string(), needed }
}
