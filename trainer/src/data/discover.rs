//! Which columns the files have, and of which type their values are.
//!
//! Parquet says it; of CSV and JSON lines, the first rows do: [`SAMPLED_FILES`] files, of each the first batch or the
//! lines of its first mebibyte. A value further down that does not fit what they say is an error that names it, never a
//! silent null; in a column of texts, any value is its text.

use std::{collections::HashMap, sync::Arc};

use datafusion::arrow::{
    array::AsArray,
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Map, Value};
use stoker_crds::training::data::{ColumnType, Format};

use super::{DataError, convert, scan::Scanner, source::SourceFile};

/// How many files are looked into for the types of their values.
const SAMPLED_FILES: usize = 32;
/// How many files are opened at a time.
const CONCURRENCY: usize = 8;

/// What a column was found to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// No value yet.
    Nothing,
    Values(ColumnType),
    /// Lists, structs, bytes: nothing that can be used.
    Unusable(String),
    /// Different things, the second in another file.
    Mixed {
        first: ColumnType,
        second: ColumnType,
        file: String,
    },
}

/// The columns of all files, in the order in which they come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Discovery {
    pub(super) columns: Vec<(String, Found)>,
    index: HashMap<String, usize>,
    /// Of columns that are no numbers, a value and where it stands.
    examples: HashMap<String, String>,
    /// The columns of each file; of JSON lines none, since each row may have its own.
    pub(crate) schemas: Vec<SchemaRef>,
}

/// Looks into all files.
pub(crate) async fn discover(scanner: &Scanner, files: &[SourceFile]) -> Result<Discovery, DataError> {
    let looked = stream::iter(files.iter().enumerate())
        .map(|(index, file)| look_into(scanner, file, index < SAMPLED_FILES))
        .buffered(CONCURRENCY);
    let looked: Vec<_> = looked.try_collect().await?;
    let mut discovery = Discovery::default();
    for (file, (schema, found)) in files.iter().zip(looked) {
        discovery.schemas.extend(schema);
        for Looked { name, found, example } in found {
            if let Some((row, value)) = example {
                let example = || format!("'{value}' in {}, row {row}", file.uri());
                discovery.examples.entry(name.clone()).or_insert_with(example);
            }
            discovery.add(name, found, file.uri());
        }
    }
    Ok(discovery)
}

/// A column of one file.
struct Looked {
    name: String,
    found: Found,
    /// The first value that is no number, and its row, from 1.
    example: Option<(usize, String)>,
}

impl Looked {
    fn new(name: &str, found: Found) -> Self {
        Self { name: name.to_owned(), found, example: None }
    }
}

async fn look_into(
    scanner: &Scanner,
    file: &SourceFile,
    is_sampled: bool,
) -> Result<(Option<SchemaRef>, Vec<Looked>), DataError> {
    Ok(match scanner.format {
        Format::Csv => {
            let schema = scanner.csv_schema(file).await?;
            let found = if is_sampled {
                csv_sample(scanner, file, &schema).await?
            } else {
                schema.fields().iter().map(|field| Looked::new(field.name(), Found::Nothing)).collect()
            };
            (Some(schema), found)
        }
        Format::JsonLines if is_sampled => (None, json_sample(file, &scanner.head(file).await?)?),
        Format::JsonLines => (None, Vec::new()),
        Format::Text => {
            return Err(DataError::InvalidConfig(
                "files of the format text have no columns, and can only be read by the task LanguageModeling: set spec.data.format to how they are written, or spec.task".into(),
            ));
        }
        Format::Parquet => {
            let schema = scanner.parquet_schema(file).await?;
            let found = schema.fields().iter().map(|field| Looked::new(field.name(), of_arrow(field.data_type())));
            (Some(Arc::clone(&schema)), found.collect())
        }
    })
}

impl Discovery {
    /// Columns of texts alone.
    pub(crate) fn of_texts<const N: usize>(names: [&str; N]) -> Self {
        let mut discovery = Self::default();
        for name in names {
            discovery.add(name.to_owned(), Found::Values(ColumnType::Text), "");
        }
        discovery
    }

    fn add(&mut self, name: String, found: Found, file: &str) {
        match self.index.get(&name) {
            Some(&index) => {
                let known = &mut self.columns[index].1;
                *known = merge(known.clone(), found, file);
            }
            None => {
                self.index.insert(name.clone(), self.columns.len());
                self.columns.push((name, found));
            }
        }
    }

    /// A value of a column that is no number, and where it stands, if one was seen.
    pub(super) fn example(&self, name: &str) -> Option<&str> {
        self.examples.get(name).map(String::as_str)
    }

    /// What a column holds, if there is such a column.
    pub(crate) fn found(&self, name: &str) -> Option<&Found> {
        self.index.get(name).map(|&index| &self.columns[index].1)
    }

    /// The schema by which JSON lines are read. What `cast` names is read as text, of which every value can then be
    /// taken as what is meant, or named if it is not.
    pub(crate) fn json_schema(&self, cast: impl Fn(&str) -> Option<ColumnType>) -> SchemaRef {
        let field = |(name, found): &(String, Found)| {
            let read_as = match (found, cast(name)) {
                (Found::Unusable(_), _) => return None,
                // Numbers stand for booleans and times, and booleans for numbers; their texts do not.
                (Found::Values(found @ (ColumnType::Number | ColumnType::Boolean)), Some(cast))
                    if cast != *found && cast != ColumnType::Text =>
                {
                    *found
                }
                (_, Some(_)) | (Found::Mixed { .. } | Found::Values(ColumnType::Timestamp), None) => ColumnType::Text,
                (Found::Values(found), None) => *found,
                (Found::Nothing, None) => ColumnType::Number,
            };
            Some(Field::new(name, convert::arrow_type(read_as), true))
        };
        Arc::new(Schema::new(self.columns.iter().filter_map(field).collect::<Vec<_>>()))
    }
}

fn merge(known: Found, found: Found, file: &str) -> Found {
    match (known, found) {
        (known, Found::Nothing) => known,
        (Found::Nothing, found) => found,
        (Found::Values(first), Found::Values(second)) if first != second => {
            Found::Mixed { first, second, file: file.to_owned() }
        }
        (Found::Values(_), Found::Unusable(unusable)) => Found::Unusable(unusable),
        (known, _) => known,
    }
}

fn of_arrow(data_type: &DataType) -> Found {
    match data_type {
        DataType::Null => Found::Nothing,
        DataType::Boolean => Found::Values(ColumnType::Boolean),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Found::Values(ColumnType::Text),
        DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => Found::Values(ColumnType::Timestamp),
        DataType::Dictionary(_, value) => of_arrow(value),
        number if number.is_numeric() => Found::Values(ColumnType::Number),
        other => Found::Unusable(other.to_string()),
    }
}

async fn csv_sample(scanner: &Scanner, file: &SourceFile, schema: &SchemaRef) -> Result<Vec<Looked>, DataError> {
    let failed = |error| DataError::reading(file, 0, error);
    let projection = (0..schema.fields().len()).collect();
    let mut rows = scanner.rows(file, schema, projection).await.map_err(failed)?;
    let batch = rows.try_next().await.map_err(failed)?;
    let looked = |(index, field): (usize, &Arc<Field>)| {
        let Some(batch) = &batch else { return Looked::new(field.name(), Found::Nothing) };
        let texts = batch.column(index).as_string::<i32>();
        let is_number = |text: &str| text.trim().is_empty() || convert::parse_number(text.trim()).is_some();
        let mut rows = (1..).zip(texts.iter());
        let example = rows.find_map(|(row, text)| Some((row, excerpt(text.filter(|text| !is_number(text))?))));
        Looked { name: field.name().clone(), found: of_texts(texts.iter().flatten()), example }
    };
    Ok(schema.fields().iter().enumerate().map(looked).collect())
}

fn excerpt(text: &str) -> String {
    text.chars().take(64).collect()
}

/// What texts stand for, if it is the same for all: numbers before booleans before points in time.
fn of_texts<'a>(texts: impl Iterator<Item = &'a str> + Clone) -> Found {
    let texts = texts.map(str::trim).filter(|text| !text.is_empty());
    if texts.clone().next().is_none() {
        return Found::Nothing;
    }
    let all = |is: fn(&str) -> bool| texts.clone().all(is);
    Found::Values(if all(|text| convert::parse_number(text).is_some()) {
        ColumnType::Number
    } else if all(|text| convert::parse_boolean(text).is_some()) {
        ColumnType::Boolean
    } else if all(|text| convert::parse_timestamp(text).is_some()) {
        ColumnType::Timestamp
    } else {
        ColumnType::Text
    })
}

fn json_sample(file: &SourceFile, head: &[u8]) -> Result<Vec<Looked>, DataError> {
    let mut columns: Vec<(String, Vec<(usize, Value)>)> = Vec::new();
    let mut index = HashMap::new();
    for (line, text) in (1..).zip(head.split(|byte| *byte == b'\n')).filter(|(_, line)| !line.trim_ascii().is_empty()) {
        let row: Map<String, Value> = serde_json::from_slice(text).map_err(|error| {
            let uri = file.uri();
            DataError::Unparsable(format!("{uri}, line {line}, is no JSON object ({error}): each line must be one"))
        })?;
        for (name, value) in row {
            let at = *index.entry(name).or_insert_with_key(|name| {
                columns.push((name.clone(), Vec::new()));
                columns.len() - 1
            });
            columns[at].1.push((line, value));
        }
    }
    let looked = |(name, values): (String, Vec<(usize, Value)>)| {
        let example = values.iter().find_map(|(line, value)| Some((*line, excerpt(value.as_str()?))));
        Looked { name, found: of_json(values.iter().map(|(_, value)| value), file.uri()), example }
    };
    Ok(columns.into_iter().map(looked).collect())
}

fn of_json<'a>(mut values: impl Iterator<Item = &'a Value> + Clone, file: &str) -> Found {
    let of_value = |value: &Value| match value {
        Value::Null => Found::Nothing,
        Value::Number(_) => Found::Values(ColumnType::Number),
        Value::Bool(_) => Found::Values(ColumnType::Boolean),
        Value::String(_) => Found::Values(ColumnType::Text),
        Value::Array(_) => Found::Unusable("list".into()),
        Value::Object(_) => Found::Unusable("object".into()),
    };
    let found = values.clone().map(of_value).fold(Found::Nothing, |known, found| merge(known, found, file));
    let is_time = |value: &Value| value.as_str().is_none_or(|text| convert::parse_timestamp(text).is_some());
    match found {
        Found::Values(ColumnType::Text) if values.all(is_time) => Found::Values(ColumnType::Timestamp),
        found => found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_numbers_booleans_times_or_text() {
        for (texts, expected) in [
            (&["1", " 2.5", "", "-3e4", "NaN"][..], ColumnType::Number),
            (&["true", "False", ""], ColumnType::Boolean),
            (&["2024-01-31", "2024-01-31T10:00:00Z"], ColumnType::Timestamp),
            (&["1", "true"], ColumnType::Text),
            (&["1", "n/a"], ColumnType::Text),
        ] {
            assert_eq!(of_texts(texts.iter().copied()), Found::Values(expected), "{texts:?}");
        }
        assert_eq!(of_texts(["", " "].into_iter()), Found::Nothing);
    }

    #[test]
    fn a_column_of_two_types_remembers_both() {
        let mut discovery = Discovery::default();
        for (found, file) in [
            (Found::Nothing, "a"),
            (Found::Values(ColumnType::Number), "b"),
            (Found::Nothing, "c"),
            (Found::Values(ColumnType::Text), "d"),
            (Found::Values(ColumnType::Number), "e"),
        ] {
            discovery.add("x".into(), found, file);
        }
        let mixed = Found::Mixed { first: ColumnType::Number, second: ColumnType::Text, file: "d".into() };
        assert_eq!(discovery.columns, [("x".to_owned(), mixed)]);
    }

    #[test]
    fn json_values_say_their_type() {
        let found = |json: &str| of_json(serde_json::from_str::<Vec<Value>>(json).unwrap().iter(), "f");
        assert_eq!(found("[1, null, 2.5]"), Found::Values(ColumnType::Number));
        assert_eq!(found("[true]"), Found::Values(ColumnType::Boolean));
        assert_eq!(found(r#"["2024-01-31", null]"#), Found::Values(ColumnType::Timestamp));
        assert_eq!(found(r#"["x", "2024-01-31"]"#), Found::Values(ColumnType::Text));
        assert_eq!(found("[null]"), Found::Nothing);
        assert_eq!(found("[[1]]"), Found::Unusable("list".into()));
        assert!(matches!(found(r#"[1, "x"]"#), Found::Mixed { .. }));
    }
}
