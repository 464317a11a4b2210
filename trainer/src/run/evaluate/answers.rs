//! What a model answered about rows whose truth is known, and how good that is.

use datafusion::arrow::{
    array::{Array, AsArray, RecordBatch, StringArray},
    compute::cast,
    datatypes::{DataType, Float64Type},
    error::ArrowError,
};
use stoker_crds::metric::Metrics;

use crate::{run::RunError, training::metrics};

/// A model's answers, row by row.
#[derive(Debug)]
pub(super) enum Answers {
    /// `[rows, labels]` probabilities, row-major.
    Classes { column: String, labels: Vec<String>, probabilities: Vec<f32> },
    /// `[rows, columns]` predictions in the targets' own units, row-major.
    Numbers { columns: Vec<String>, values: Vec<f32> },
}

impl Answers {
    /// The metrics of the answers for rows that hold the truth in their target columns.
    pub(super) fn score(&self, rows: &[RecordBatch]) -> Result<Metrics, RunError> {
        let evaluation = match self {
            Self::Classes { column, labels, probabilities } => {
                let mut truth = Vec::new();
                for batch in rows {
                    truth.extend(classes(batch, column, labels)?);
                }
                metrics::classification(probabilities, &truth, labels.len())
            }
            Self::Numbers { columns, values } => {
                let mut truth = Vec::new();
                for batch in rows {
                    truth.extend(numbers(batch, columns)?);
                }
                metrics::regression(values, &truth, columns.len())
            }
        };
        Ok(evaluation.metrics)
    }
}

/// The position among the labels of each row's class.
fn classes(batch: &RecordBatch, column: &str, labels: &[String]) -> Result<Vec<u32>, RunError> {
    let texts = typed(batch, column, &DataType::Utf8)?;
    let texts: &StringArray = texts.as_string();
    let position = |text: &str| {
        let number: Option<f64> = text.parse().ok();
        let same = |label: &String| label == text || (number.is_some() && label.parse().ok() == number);
        labels.iter().position(same).and_then(|position| u32::try_from(position).ok())
    };
    texts
        .iter()
        .map(|text| {
            let text = text.unwrap_or_default();
            position(text).ok_or_else(|| {
                RunError::Server(format!(
                    "'{text}' in column '{column}' is no class of the model; was it trained on other data?"
                ))
            })
        })
        .collect()
}

/// `[rows, columns]` values, row-major.
fn numbers(batch: &RecordBatch, columns: &[String]) -> Result<Vec<f32>, RunError> {
    let arrays =
        columns.iter().map(|column| typed(batch, column, &DataType::Float64)).collect::<Result<Vec<_>, _>>()?;
    let value = |row, array: &dyn Array| array.as_primitive::<Float64Type>().value(row) as f32;
    Ok((0..batch.num_rows()).flat_map(|row| arrays.iter().map(move |array| value(row, array.as_ref()))).collect())
}

/// A column as values of one type.
pub(super) fn typed(
    batch: &RecordBatch,
    column: &str,
    data_type: &DataType,
) -> Result<datafusion::arrow::array::ArrayRef, RunError> {
    let array = batch.column_by_name(column).ok_or_else(|| {
        RunError::Server(format!("the data has no column '{column}', which the model takes or gives"))
    })?;
    cast(array, data_type).map_err(|error: ArrowError| {
        RunError::Server(format!("column '{column}' is not of the type that the model takes or gives: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{ArrayRef, Float64Array, Int64Array};

    use super::*;

    fn batch(column: &str, values: ArrayRef) -> RecordBatch {
        RecordBatch::try_from_iter([(column, values)]).unwrap()
    }

    #[test]
    fn the_class_of_a_number_is_found_however_it_is_written() {
        let labels = ["0".to_owned(), "1".to_owned(), "2".to_owned()];
        let whole = batch("digit", Arc::new(Int64Array::from(vec![2, 0])));
        assert_eq!(classes(&whole, "digit", &labels).unwrap(), [2, 0]);
        let fraction = batch("digit", Arc::new(Float64Array::from(vec![2.0, 0.0])));
        assert_eq!(classes(&fraction, "digit", &labels).unwrap(), [2, 0]);
    }

    #[test]
    fn a_class_that_the_model_does_not_know_is_named() {
        let rows = batch("origin", Arc::new(StringArray::from(vec!["Mars"])));
        let error = classes(&rows, "origin", &["Europe".to_owned(), "Japan".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("'Mars'") && error.contains("'origin'"), "{error}");
    }

    #[test]
    fn answers_are_scored_against_the_target_column() {
        let rows = [batch("x", Arc::new(Int64Array::from(vec![0, 1, 1, 1])))];
        let labels = vec!["0".to_owned(), "1".to_owned()];
        let probabilities = vec![0.9, 0.1, 0.2, 0.8, 0.6, 0.4, 0.1, 0.9];
        let answers = Answers::Classes { column: "x".into(), labels, probabilities };
        assert_eq!(answers.score(&rows).unwrap()["accuracy"], 0.75);
    }
}
