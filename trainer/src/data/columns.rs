//! Which columns are used for what, resolved from the configuration against what the files have.

use std::collections::BTreeSet;

use datafusion::{
    arrow::datatypes::{Field, Schema, SchemaRef},
    common::utils::datafusion_strsim::levenshtein,
};
use stoker_crds::training::{
    Data, Task,
    data::{CategoricalTransform, ColumnTransform, ColumnType, Format, MissingStrategy, NumericTransform, Scalar},
};

use super::{
    DataError, convert,
    discover::{Discovery, Found},
    glob,
    preprocessor::{Fill, Kind},
};

/// The most columns that a message lists.
const MAX_LISTED: usize = 20;

/// A column that is used.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: ColumnType,
}

/// A feature and what is done with it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Feature {
    pub(super) name: String,
    pub(super) kind: ColumnType,
    pub(super) missing: MissingRule,
    pub(super) transform: ColumnTransform,
}

/// What is done with missing values of a feature.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum MissingRule {
    Drop,
    Mean,
    Median,
    MostFrequent,
    Constant(Fill),
}

/// The columns that are read: features, then targets, then those that only the split or a predicate needs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Columns {
    pub(super) features: Vec<Feature>,
    pub(super) targets: Vec<Column>,
    pub(super) others: Vec<Column>,
}

impl Columns {
    /// Resolves and checks everything that can be checked before a row is read. `in_predicates` names the columns that
    /// predicates use.
    pub(super) fn resolve(
        data: &Data<Format>,
        task: Task,
        found: &Discovery,
        in_predicates: &BTreeSet<String>,
    ) -> Result<Self, DataError> {
        let typed = Typed { data, found };
        typed.known("spec.data.cast", data.cast.keys())?;
        let targets = data.target.iter().map(|name| typed.target(name, task)).collect::<Result<Vec<_>, _>>()?;
        let names = feature_names(data, found)?;
        for (field, named) in [
            ("spec.data.clean.missing.columns", data.clean.missing.columns.keys().collect::<Vec<_>>()),
            ("spec.data.transform.columns", data.transform.columns.keys().collect()),
        ] {
            typed.known(field, named.iter().copied())?;
            if let Some(name) = named.into_iter().find(|name| !names.contains(name)) {
                return Err(DataError::InvalidConfig(format!(
                    "{field} names '{name}', which is no feature: add it to spec.data.features, or remove it there"
                )));
            }
        }
        let features = names.iter().map(|name| typed.feature(name)).collect::<Result<Vec<_>, _>>()?;
        let is_read = |name: &String| names.contains(name) || data.target.contains(name);
        let others = data.split.time.iter().chain(in_predicates).collect::<BTreeSet<_>>();
        let others = others.into_iter().filter(|name| !is_read(name));
        let others = others.map(|name| typed.column("spec.data.split.time", name)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { features, targets, others })
    }

    /// All columns in the order in which they are read.
    pub(super) fn all(&self) -> impl Iterator<Item = (&String, ColumnType)> {
        let features = self.features.iter().map(|feature| (&feature.name, feature.kind));
        features.chain(self.targets.iter().chain(&self.others).map(|column| (&column.name, column.kind)))
    }

    /// The schema of what is read.
    pub(super) fn schema(&self) -> SchemaRef {
        std::sync::Arc::new(schema(self.all()))
    }
}

/// The Arrow schema of typed columns.
pub(crate) fn schema<'a>(columns: impl Iterator<Item = (&'a String, ColumnType)>) -> Schema {
    Schema::new(columns.map(|(name, kind)| Field::new(name, convert::arrow_type(kind), true)).collect::<Vec<_>>())
}

/// The type of every column that can be used, for the predicates to be read against.
pub(crate) fn usable<'a>(data: &Data<Format>, found: &'a Discovery) -> Vec<(&'a String, ColumnType)> {
    let typed = Typed { data, found };
    let names = found.columns.iter().map(|(name, _)| name);
    names.filter_map(|name| Some((name, typed.column("", name).ok()?.kind))).collect()
}

/// An unknown column, with what is near it.
pub(crate) fn unknown_column(field: &str, name: &str, found: &Discovery) -> DataError {
    let names: Vec<&str> = found.columns.iter().map(|(name, _)| name.as_str()).collect();
    let near = names.iter().filter(|known| {
        known.eq_ignore_ascii_case(name) || levenshtein(known, name) <= name.chars().count().div_ceil(4)
    });
    let near: Vec<String> = near.take(3).map(|name| format!("'{name}'")).collect();
    let hint = if near.is_empty() { String::new() } else { format!(" Did you mean {}?", near.join(" or ")) };
    DataError::UnknownColumn(format!(
        "{field} names '{name}', which is no column of the data.{hint} {}",
        listed(&names)
    ))
}

fn listed(names: &[&str]) -> String {
    let shown = names.iter().take(MAX_LISTED).copied().collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(MAX_LISTED) {
        None | Some(0) => format!("The columns are: {shown}."),
        Some(more) => format!("The columns are: {shown} and {more} more."),
    }
}

/// The features' names, in the order of the configuration; those of a glob in the order of the data.
fn feature_names(data: &Data<Format>, found: &Discovery) -> Result<Vec<String>, DataError> {
    let is_target = |name: &String| data.target.contains(name);
    let known = || found.columns.iter().map(|(name, _)| name);
    let mut names: Vec<String> = Vec::new();
    let everything = ["*".to_owned()];
    for wanted in if data.features.is_empty() { &everything[..] } else { &data.features } {
        let matching: Vec<&String> = if found.found(wanted).is_some() {
            if is_target(wanted) {
                return Err(DataError::InvalidConfig(format!(
                    "'{wanted}' is in spec.data.features and in spec.data.target: a model that sees what it is to predict learns nothing; remove it from one of them"
                )));
            }
            vec![wanted]
        } else {
            known().filter(|name| glob::is_pattern(wanted) && glob::name_matches(wanted, name)).collect()
        };
        if matching.is_empty() {
            return Err(unknown_column("spec.data.features", wanted, found));
        }
        for name in matching {
            if !is_target(name) && !names.contains(name) {
                names.push(name.clone());
            }
        }
    }
    if names.is_empty() {
        return Err(DataError::UnknownColumn(
            "the data has no column besides the target: there is nothing to learn from".into(),
        ));
    }
    Ok(names)
}

/// What a constant is in a column of a type: as text it is read as a file's values are. `None` where it is nothing there.
fn constant(value: &Scalar, kind: ColumnType) -> Option<Fill> {
    let number = |number: f64| convert::present(number).filter(|number| number.is_finite()).map(Fill::Number);
    match (kind, value) {
        (ColumnType::Text, value) => Some(Fill::Text(value.to_string())),
        (ColumnType::Number | ColumnType::Timestamp, Scalar::Number(value)) => number(*value),
        (ColumnType::Number, Scalar::Text(text)) => number(convert::parse_number(text.trim())?),
        (ColumnType::Timestamp, Scalar::Text(text)) => {
            let text = text.trim();
            let seconds = convert::parse_timestamp(text).map(convert::in_seconds);
            number(seconds.or_else(|| convert::parse_number(text))?)
        }
        (ColumnType::Boolean, Scalar::Text(text)) => convert::parse_boolean(text.trim()).map(Fill::Boolean),
        (ColumnType::Boolean, Scalar::Boolean(value)) => Some(Fill::Boolean(*value)),
        (ColumnType::Number | ColumnType::Timestamp, Scalar::Boolean(_)) | (ColumnType::Boolean, Scalar::Number(_)) => {
            None
        }
    }
}

struct Typed<'a> {
    data: &'a Data<Format>,
    found: &'a Discovery,
}

impl Typed<'_> {
    fn known<'a>(&self, field: &str, mut names: impl Iterator<Item = &'a String>) -> Result<(), DataError> {
        match names.find(|name| self.found.found(name).is_none()) {
            Some(name) => Err(unknown_column(field, name, self.found)),
            None => Ok(()),
        }
    }

    fn column(&self, field: &str, name: &str) -> Result<Column, DataError> {
        let found = self.found.found(name).ok_or_else(|| unknown_column(field, name, self.found))?;
        let kind = match (self.data.cast.get(name), found) {
            (_, Found::Unusable(unusable)) => {
                return Err(DataError::WrongType(format!(
                    "column '{name}' holds values of type {unusable}, which cannot be used: name other columns in spec.data.features"
                )));
            }
            (Some(cast), _) => *cast,
            (None, Found::Values(kind)) => *kind,
            (None, Found::Nothing) => ColumnType::Number,
            (None, Found::Mixed { first, second, file }) => {
                return Err(DataError::WrongType(format!(
                    "column '{name}' holds {} in the first files and {} in {file}: say by spec.data.cast what is meant",
                    convert::describe(*first),
                    convert::describe(*second)
                )));
            }
        };
        Ok(Column { name: name.to_owned(), kind })
    }

    fn target(&self, name: &str, task: Task) -> Result<Column, DataError> {
        let target = self.column("spec.data.target", name)?;
        if task == Task::Regression && target.kind != ColumnType::Number {
            let example = self.found.example(name).map_or_else(String::new, |example| format!(" (such as {example})"));
            return Err(DataError::WrongType(format!(
                "the target '{name}' of the regression holds {}{example}, not numbers: set spec.task to Classification, name another target, or drop such rows in the source",
                convert::describe(target.kind)
            )));
        }
        Ok(target)
    }

    fn feature(&self, name: &str) -> Result<Feature, DataError> {
        let Column { name, kind } = self.column("spec.data.features", name)?;
        let feature =
            Feature { missing: self.missing(&name, kind)?, transform: self.transform(&name, kind)?, name, kind };
        Ok(feature)
    }

    fn missing(&self, name: &str, kind: ColumnType) -> Result<MissingRule, DataError> {
        let missing = &self.data.clean.missing;
        let (strategy, value) = match missing.columns.get(name) {
            Some(column) => (column.strategy, &column.value),
            None => (missing.strategy, &missing.value),
        };
        let is_number = Kind::from(kind) == Kind::Number;
        let wrong = |what: &str| {
            DataError::WrongType(format!(
                "spec.data.clean.missing: {what} cannot fill column '{name}', which holds {}: set spec.data.clean.missing.columns for it",
                convert::describe(kind)
            ))
        };
        Ok(match strategy {
            MissingStrategy::Drop => MissingRule::Drop,
            MissingStrategy::Mean if is_number => MissingRule::Mean,
            MissingStrategy::Median if is_number => MissingRule::Median,
            MissingStrategy::Mean | MissingStrategy::Median => {
                return Err(wrong(&format!("the strategy {strategy:?}")));
            }
            MissingStrategy::MostFrequent => MissingRule::MostFrequent,
            MissingStrategy::Constant => {
                let fill = value.as_ref().and_then(|value| constant(value, kind));
                let written = value.as_ref().map(ToString::to_string).unwrap_or_default();
                MissingRule::Constant(fill.ok_or_else(|| wrong(&format!("the constant '{written}'")))?)
            }
        })
    }

    fn transform(&self, name: &str, kind: ColumnType) -> Result<ColumnTransform, DataError> {
        let transform = &self.data.transform;
        let is_number = Kind::from(kind) == Kind::Number;
        Ok(match transform.columns.get(name) {
            Some(numeric @ (ColumnTransform::Standardize | ColumnTransform::MinMax | ColumnTransform::None)) => {
                if !is_number {
                    return Err(DataError::WrongType(format!(
                        "spec.data.transform.columns: {numeric:?} is for numbers, and column '{name}' holds {}: take OneHot or Ordinal, or set spec.data.cast.{name} to Number",
                        convert::describe(kind)
                    )));
                }
                *numeric
            }
            Some(categorical) => *categorical,
            None if is_number => match transform.numeric {
                NumericTransform::Standardize => ColumnTransform::Standardize,
                NumericTransform::MinMax => ColumnTransform::MinMax,
                NumericTransform::None => ColumnTransform::None,
            },
            None => match transform.categorical {
                CategoricalTransform::OneHot => ColumnTransform::OneHot,
                CategoricalTransform::Ordinal => ColumnTransform::Ordinal,
            },
        })
    }
}
