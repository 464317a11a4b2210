//! `spec.data`: the source, the columns, and what is done with them before training.

use std::{collections::BTreeMap, fmt};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{storage::Location, text::Text};
use crate::schema::names_rule;

/// The longest name of a column, in characters.
const MAX_COLUMN: u32 = 256;

/// Where the data lies, which columns are used, and how they are cleaned, converted and split.
///
/// The steps, in this order: drop duplicates; drop rows that fail a predicate; drop rows with missing values where the
/// strategy says so; split; fit all statistics on the training split alone; drop outliers of the training split; fill
/// missing values; convert to numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "Data")]
pub struct Data<F = Option<Format>> {
    /// Where the files lie.
    pub source: Location,
    /// How the files are written. The default follows from the extension of `source.uri`, such as `.csv`, `.jsonl` or
    /// `.csv.gz`; where the extension does not say it, it has to be set.
    pub format: F,
    /// How CSV files are written.
    #[serde(default)]
    pub csv: Csv,
    /// Columns that the model sees: names, or globs like `pixel_*`. The default is every column but the target.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), inner(length(min = 1, max = MAX_COLUMN)))]
    pub features: Vec<String>,
    /// Columns that the model predicts: one, or several for multi-output regression. LanguageModeling takes none: it
    /// predicts the text itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = MAX_COLUMN)))]
    pub target: Vec<String>,
    /// The documents of LanguageModeling, and the tokens that they become. Of the other fields, `source`, `format`, `cast`,
    /// `clean.duplicates`, `clean.require` and the shares and the seed of `split` hold for documents too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<Text>,
    /// Types to read columns as, where the inferred one is not meant: a ZIP code is text.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 1024, "x-kubernetes-validations" = [names_rule(MAX_COLUMN)]))]
    pub cast: BTreeMap<String, ColumnType>,
    /// Which rows are dropped, and how missing values are filled.
    #[serde(default)]
    pub clean: Clean,
    /// How columns become numbers.
    #[serde(default)]
    pub transform: Transform,
    /// How the rows are split into training, validation and test.
    #[serde(default)]
    pub split: SplitSpec,
}

/// How files are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Format {
    /// Comma-separated values.
    Csv,
    /// One JSON object per line.
    JsonLines,
    /// Apache Parquet.
    Parquet,
    /// Plain text in UTF-8: documents for LanguageModeling, with the columns `text` and `file` for `clean.require`.
    Text,
}

impl Format {
    /// The format that a URI's extension says: `.csv`, `.jsonl`, `.ndjson`, `.json`, `.parquet`, `.txt`, `.text`, `.md`,
    /// with or without the ending of a compression.
    pub fn of_uri(uri: &str) -> Option<Self> {
        let mut parts = uri.rsplit('.');
        let last = parts.next()?;
        let extension = if matches!(last, "gz" | "bz2" | "xz" | "zst") { parts.next()? } else { last };
        match extension {
            "csv" => Some(Self::Csv),
            "jsonl" | "ndjson" | "json" => Some(Self::JsonLines),
            "parquet" => Some(Self::Parquet),
            "txt" | "text" | "md" => Some(Self::Text),
            _ => None,
        }
    }
}

/// How a CSV file is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Csv {
    /// The character between two values.
    #[schemars(length(min = 1, max = 1))]
    pub delimiter: String,
    /// Whether the first line holds the columns' names; without it they are `column_1`, `column_2`, …
    pub header: bool,
}

impl Default for Csv {
    fn default() -> Self {
        Self { delimiter: ",".into(), header: true }
    }
}

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ColumnType {
    /// A number.
    Number,
    /// Text: a category.
    Text,
    /// True or false: a category.
    Boolean,
    /// A point in time, as a number of seconds since 1970.
    Timestamp,
}

/// Which rows are dropped, and how missing values are filled.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Clean {
    /// What happens to rows that are equal in every used column.
    pub duplicates: Duplicates,
    /// What happens to missing values (empty, null, NaN) in features. A row without its target is always dropped.
    pub missing: Missing,
    /// SQL predicates, such as `age BETWEEN 0 AND 120`: rows that fail one are dropped. A missing value fails none unless
    /// the predicate asks for it (`age IS NOT NULL`); `missing` says what happens to it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 1024)))]
    pub require: Vec<String>,
    /// Which rows of the training split are too far off to learn from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outliers: Option<Outliers>,
}

/// What happens to rows that are equal in every used column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Duplicates {
    /// They stay.
    #[default]
    Keep,
    /// One of them stays, the others are dropped.
    Drop,
}

/// What happens to missing values in features.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "(self.strategy == 'Constant') == has(self.value)",
    "message": "the strategy Constant needs a value, and only it takes one",
}]))]
pub struct Missing {
    /// What is done in every column that `columns` does not name.
    pub strategy: MissingStrategy,
    /// The value of the strategy `Constant`: a whole number, or text such as `"0.5"` or `"unknown"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Scalar>,
    /// What is done in single columns instead.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 1024, "x-kubernetes-validations" = [names_rule(MAX_COLUMN)]))]
    pub columns: BTreeMap<String, MissingColumn>,
}

/// What happens to missing values of one column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "(self.strategy == 'Constant') == has(self.value)",
    "message": "the strategy Constant needs a value, and only it takes one",
}]))]
pub struct MissingColumn {
    /// What is done.
    pub strategy: MissingStrategy,
    /// The value of the strategy `Constant`: a whole number, or text such as `"0.5"` or `"unknown"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Scalar>,
}

/// How a missing value is treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MissingStrategy {
    /// The row is dropped and counted. A server refuses such a row.
    #[default]
    Drop,
    /// The mean of the training split. Numbers only.
    Mean,
    /// The median of the training split. Numbers only.
    Median,
    /// The most frequent value of the training split.
    MostFrequent,
    /// The given value.
    Constant,
}

/// A value of a column: a whole number, or text. Fractions and booleans are written as text: `"0.5"`, `"true"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(transform = crate::schema::int_or_string, extend("maxLength" = 256))]
pub enum Scalar {
    /// A boolean.
    Boolean(bool),
    /// A number.
    Number(f64),
    /// Text.
    Text(String),
}

impl Scalar {
    /// Whether the API server takes it as it is written: a whole number, or text.
    pub(in crate::training) fn is_whole_or_text(&self) -> bool {
        match self {
            Self::Boolean(_) => false,
            Self::Number(number) => number.fract() == 0.0,
            Self::Text(_) => true,
        }
    }
}

/// As it stands in a file.
impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean(value) => write!(f, "{value}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// Which rows of the training split are outliers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Outliers {
    /// A row of the training split is dropped if a numeric feature lies more than this many standard deviations from
    /// its mean. Validation and test keep such rows, since a server meets them too.
    #[schemars(range(min = 0.0), extend("exclusiveMinimum" = true))]
    pub z_score: f64,
}

/// How columns become numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Transform {
    /// What is done with numeric features.
    pub numeric: NumericTransform,
    /// What is done with text and boolean features.
    pub categorical: CategoricalTransform,
    /// What is done with single features instead.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 1024, "x-kubernetes-validations" = [names_rule(MAX_COLUMN)]))]
    pub columns: BTreeMap<String, ColumnTransform>,
    /// What is done with the targets of a regression. Predictions, and metrics other than the loss, are in the targets'
    /// own units all the same.
    pub target: TargetTransform,
}

/// What is done with numeric features.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NumericTransform {
    /// Mean 0 and standard deviation 1 over the training split.
    #[default]
    Standardize,
    /// From 0 to 1 over the training split.
    MinMax,
    /// Left as they are.
    None,
}

/// What is done with text and boolean features.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CategoricalTransform {
    /// One number per category of the training split, 1 for the row's own. A category not seen in training is all 0.
    #[default]
    OneHot,
    /// The position of the category among the sorted ones of the training split; -1 for one not seen in training.
    Ordinal,
}

/// What is done with one feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ColumnTransform {
    /// Mean 0 and standard deviation 1 over the training split.
    Standardize,
    /// From 0 to 1 over the training split.
    MinMax,
    /// Left as it is.
    None,
    /// One number per category of the training split.
    OneHot,
    /// The position of the category among the sorted ones of the training split.
    Ordinal,
}

/// What is done with the targets of a regression.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TargetTransform {
    /// Left as they are.
    #[default]
    None,
    /// Mean 0 and standard deviation 1 over the training split.
    Standardize,
    /// From 0 to 1 over the training split.
    MinMax,
}

/// How the rows are split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "double(self.train) + double(self.validation) + double(self.test) > 0.999999 && double(self.train) + double(self.validation) + double(self.test) < 1.000001",
        "message": "train, validation and test must add up to 1",
    },
    {
        "rule": "!(self.stratify && has(self.time))",
        "message": "a split by time cannot be stratified: remove stratify or time",
    },
]))]
pub struct SplitSpec {
    /// Share of the training split.
    #[schemars(range(min = 0.0, max = 1.0), extend("exclusiveMinimum" = true))]
    pub train: f64,
    /// Share of the validation split.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub validation: f64,
    /// Share of the test split.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub test: f64,
    /// Decides which row goes where: the same seed splits the same rows the same way.
    #[schemars(range(min = 0))]
    pub seed: i64,
    /// Keeps the shares of the classes equal in all splits. Classification only.
    pub stratify: bool,
    /// Splits by this column instead of by chance: the oldest rows train, the newest test.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_COLUMN))]
    pub time: Option<String>,
}

impl Default for SplitSpec {
    fn default() -> Self {
        Self { train: 0.8, validation: 0.1, test: 0.1, seed: 42, stratify: false, time: None }
    }
}
