//! Any column as one of the few types that the pipeline works with.
//!
//! After [`convert`] a missing value is null and nothing else: empty text and NaN are null too, -0 is 0, and no number is
//! infinite. Rows that are equal are then equal bit by bit.

use std::sync::Arc;

use datafusion::arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, StringArray, TimestampMicrosecondArray},
    compute::{cast, kernels::cast_utils::string_to_timestamp_nanos},
    datatypes::{DataType, Float64Type, TimeUnit, TimestampMicrosecondType},
    error::ArrowError,
};
use stoker_crds::training::data::ColumnType;

/// Why a column cannot be converted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConvertError {
    /// A value is not of the type.
    #[error("'{value}' is not {}", describe(*to))]
    Value {
        /// Its row in the batch, from 0.
        row: usize,
        value: String,
        to: ColumnType,
    },
    /// No value of that type can be.
    #[error("values of type {from} cannot be taken as {}", describe(*to))]
    Type { from: DataType, to: ColumnType },
    #[error(transparent)]
    Arrow(#[from] ArrowError),
}

/// A type in words: `a number`.
pub(crate) fn describe(kind: ColumnType) -> &'static str {
    match kind {
        ColumnType::Number => "a finite number",
        ColumnType::Text => "text",
        ColumnType::Boolean => "true or false",
        ColumnType::Timestamp => "a point in time",
    }
}

/// The Arrow type that stands for a column's type.
pub(super) fn arrow_type(kind: ColumnType) -> DataType {
    match kind {
        ColumnType::Number => DataType::Float64,
        ColumnType::Text => DataType::Utf8,
        ColumnType::Boolean => DataType::Boolean,
        ColumnType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
    }
}

/// A column as a type, of the same length.
pub(crate) fn convert(array: &ArrayRef, to: ColumnType) -> Result<ArrayRef, ConvertError> {
    let array = &plain(array)?;
    Ok(match to {
        ColumnType::Number => Arc::new(numbers(array)?),
        ColumnType::Text => Arc::new(texts(array)?),
        ColumnType::Boolean => Arc::new(booleans(array)?),
        ColumnType::Timestamp => Arc::new(timestamps(array)?),
    })
}

/// Strings of every encoding as `Utf8`, and what is encoded by a dictionary as its values.
fn plain(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    match array.data_type() {
        DataType::Dictionary(_, value) => plain(&cast(array, value)?),
        DataType::LargeUtf8 | DataType::Utf8View => cast(array, &DataType::Utf8),
        _ => Ok(Arc::clone(array)),
    }
}

/// Numbers of every width; `None` for other types. Missing values and NaN are null, -0 is 0.
pub(super) fn plain_numbers(array: &ArrayRef) -> Option<Float64Array> {
    let is_number = array.data_type().is_numeric() || array.data_type().is_null();
    let array = is_number.then(|| cast(array, &DataType::Float64).ok())??;
    Some(array.as_primitive::<Float64Type>().iter().map(|value| value.and_then(present)).collect())
}

/// A number, unless it is NaN, and 0 instead of -0.
pub(super) fn present(value: f64) -> Option<f64> {
    (!value.is_nan()).then_some(value + 0.0)
}

fn numbers(array: &ArrayRef) -> Result<Float64Array, ConvertError> {
    let to = ColumnType::Number;
    let numbers = match array.data_type() {
        DataType::Utf8 => {
            parse(array.as_string(), to, parse_number)?.into_iter().map(|v| v.and_then(present)).collect()
        }
        DataType::Boolean => array.as_boolean().iter().map(|value| value.map(f64::from)).collect(),
        DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => seconds(&timestamps(array)?),
        from => plain_numbers(array).ok_or_else(|| ConvertError::Type { from: from.clone(), to })?,
    };
    match numbers.iter().position(|value| value.is_some_and(f64::is_infinite)) {
        Some(row) => Err(ConvertError::Value { row, value: numbers.value(row).to_string(), to }),
        None => Ok(numbers),
    }
}

/// Points in time as seconds since 1970.
pub(super) fn seconds(timestamps: &TimestampMicrosecondArray) -> Float64Array {
    timestamps.iter().map(|value| value.map(in_seconds)).collect()
}

/// Microseconds as seconds.
pub(super) fn in_seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}

fn texts(array: &ArrayRef) -> Result<StringArray, ConvertError> {
    let to = ColumnType::Text;
    Ok(match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().iter().map(|value| value.filter(|text| !text.is_empty())).collect(),
        DataType::Boolean => array.as_boolean().iter().map(|v| v.map(|v| if v { "true" } else { "false" })).collect(),
        DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => {
            cast(array, &DataType::Utf8)?.as_string().clone()
        }
        from => {
            let numbers = plain_numbers(array).ok_or_else(|| ConvertError::Type { from: from.clone(), to })?;
            numbers.iter().map(|value| value.map(|number| number.to_string())).collect()
        }
    })
}

fn booleans(array: &ArrayRef) -> Result<BooleanArray, ConvertError> {
    let to = ColumnType::Boolean;
    Ok(match array.data_type() {
        DataType::Utf8 => parse(array.as_string(), to, parse_boolean)?.into_iter().collect(),
        DataType::Boolean => array.as_boolean().clone(),
        from => {
            let numbers = plain_numbers(array).ok_or_else(|| ConvertError::Type { from: from.clone(), to })?;
            if let Some(row) = numbers.iter().position(|value| value.is_some_and(|v| v != 0.0 && v != 1.0)) {
                return Err(ConvertError::Value { row, value: numbers.value(row).to_string(), to });
            }
            numbers.iter().map(|value| value.map(|number| number == 1.0)).collect()
        }
    })
}

fn timestamps(array: &ArrayRef) -> Result<TimestampMicrosecondArray, ConvertError> {
    let to = ColumnType::Timestamp;
    Ok(match array.data_type() {
        DataType::Utf8 => parse(array.as_string(), to, parse_timestamp)?.into_iter().collect(),
        DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => {
            cast(array, &arrow_type(to))?.as_primitive::<TimestampMicrosecondType>().clone()
        }
        from => {
            let numbers = plain_numbers(array).ok_or_else(|| ConvertError::Type { from: from.clone(), to })?;
            numbers.iter().map(|value| value.map(|seconds| (seconds * 1e6).round() as i64)).collect()
        }
    })
}

fn parse<T>(
    texts: &StringArray,
    to: ColumnType,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Vec<Option<T>>, ConvertError> {
    let bad = |row, text: &str| ConvertError::Value { row, value: text.chars().take(64).collect(), to };
    let parse = |(row, text): (usize, Option<&str>)| match text.map(str::trim).filter(|text| !text.is_empty()) {
        Some(text) => parse(text).map(Some).ok_or_else(|| bad(row, text)),
        None => Ok(None),
    };
    texts.iter().enumerate().map(parse).collect()
}

/// A number as Rust and most languages write it. `NaN` is one too, and missing.
pub(super) fn parse_number(text: &str) -> Option<f64> {
    text.parse().ok()
}

/// `true` or `false` in any case.
pub(super) fn parse_boolean(text: &str) -> Option<bool> {
    if text.eq_ignore_ascii_case("true") { Some(true) } else { text.eq_ignore_ascii_case("false").then_some(false) }
}

/// Microseconds since 1970 of an ISO 8601 date or date and time; UTC where it names no offset.
pub(super) fn parse_timestamp(text: &str) -> Option<i64> {
    string_to_timestamp_nanos(text).ok().map(|nanos| nanos.div_euclid(1000))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::{
        array::{Date32Array, Decimal128Array, DictionaryArray, Int8Array, ListArray, UInt64Array},
        datatypes::Int32Type,
    };

    use super::*;

    fn converted(array: impl Array + 'static, to: ColumnType) -> Result<ArrayRef, ConvertError> {
        convert(&(Arc::new(array) as ArrayRef), to)
    }

    #[test]
    fn numbers_come_from_every_type_that_holds_some() {
        let expected = Float64Array::from(vec![Some(1.0), None]);
        let decimal = Decimal128Array::from(vec![Some(100), None]).with_precision_and_scale(5, 2).unwrap();
        let dictionary: DictionaryArray<Int32Type> = [Some("1"), None].into_iter().collect();
        for array in [
            Arc::new(Int8Array::from(vec![Some(1), None])) as ArrayRef,
            Arc::new(UInt64Array::from(vec![Some(1), None])),
            Arc::new(Float64Array::from(vec![1.0, f64::NAN])),
            Arc::new(BooleanArray::from(vec![Some(true), None])),
            Arc::new(StringArray::from(vec![" 1.0 ", ""])),
            Arc::new(StringArray::from(vec!["+1e0", "NaN"])),
            Arc::new(decimal),
            Arc::new(dictionary),
        ] {
            assert_eq!(convert(&array, ColumnType::Number).unwrap().as_primitive(), &expected, "{}", array.data_type());
        }
        let zeros = converted(Float64Array::from(vec![-0.0]), ColumnType::Number).unwrap();
        assert!(zeros.as_primitive::<Float64Type>().value(0).is_sign_positive());
    }

    #[test]
    fn a_value_of_another_type_is_named_with_its_row() {
        for (text, to) in [
            ("abc", ColumnType::Number),
            ("inf", ColumnType::Number),
            ("1,5", ColumnType::Number),
            ("2", ColumnType::Boolean),
            ("yesterday", ColumnType::Timestamp),
        ] {
            let error = converted(StringArray::from(vec!["", text]), to).unwrap_err();
            assert!(matches!(&error, ConvertError::Value { row: 1, value, .. } if value == text), "{error}");
        }
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([Some([Some(1)])]);
        assert!(matches!(converted(lists, ColumnType::Number), Err(ConvertError::Type { .. })));
    }

    #[test]
    fn texts_come_from_numbers_as_they_are_written() {
        let texts = converted(Float64Array::from(vec![Some(3.0), Some(0.5), None]), ColumnType::Text).unwrap();
        assert_eq!(texts.as_string::<i32>(), &StringArray::from(vec![Some("3"), Some("0.5"), None]));
        let texts = converted(StringArray::from(vec!["01", ""]), ColumnType::Text).unwrap();
        assert_eq!(texts.as_string::<i32>(), &StringArray::from(vec![Some("01"), None]));
    }

    #[test]
    fn points_in_time_become_seconds() {
        for array in [
            Arc::new(StringArray::from(vec!["1970-01-02"])) as ArrayRef,
            Arc::new(StringArray::from(vec!["1970-01-02T01:00:00+01:00"])),
            Arc::new(Date32Array::from(vec![1])),
            Arc::new(Float64Array::from(vec![86400.0])),
        ] {
            let timestamps = convert(&array, ColumnType::Timestamp).unwrap();
            assert_eq!(seconds(timestamps.as_primitive()).value(0), 86400.0, "{}", array.data_type());
        }
    }
}
