//! Fitting the transforms on the training split.

use std::{collections::BTreeMap, sync::Arc};

use datafusion::{
    arrow::{
        array::{AsArray, BooleanArray},
        compute::{and, filter_record_batch},
        datatypes::Float64Type,
        record_batch::RecordBatch,
    },
    catalog::streaming::StreamingTable,
    error::DataFusionError,
    functions_aggregate::expr_fn::count,
    logical_expr::ident,
    prelude::{DataFrame, SessionContext},
};
use futures::{TryStreamExt, stream};
use stoker_crds::training::data::{ColumnTransform, TargetTransform};

use super::{
    DataError,
    columns::{Columns, Feature, MissingRule},
    encoding::{Categories, Encoding, Fill, Kind, Scaling},
    partition::Partition,
    preprocessor::{InputColumn, Output, Preprocessor, labels_of},
    scratch::Scratch,
    staging::{Staged, StagedWriter},
};

/// The most categories that a column, and classes that a target may have.
pub(super) const MAX_CATEGORIES: usize = 1000;

/// Mean, spread and range of a column's present values.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Moments {
    count: u64,
    mean: f64,
    /// Sum of the squared distances from the mean.
    squares: f64,
    minimum: f64,
    maximum: f64,
}

impl Moments {
    /// Welford's method, which loses no digits where the mean is large against the spread.
    fn add(&mut self, value: f64) {
        if self.count == 0 {
            (self.minimum, self.maximum) = (value, value);
        }
        self.count += 1;
        let distance = value - self.mean;
        self.mean += distance / self.count as f64;
        self.squares += distance * (value - self.mean);
        self.minimum = self.minimum.min(value);
        self.maximum = self.maximum.max(value);
    }

    /// Of the population.
    fn standard_deviation(&self) -> f64 {
        (self.squares / self.count.max(1) as f64).sqrt()
    }
}

/// The moments of columns of numbers.
fn moments(train: &Staged, columns: &[usize]) -> Result<Vec<Moments>, DataError> {
    let mut moments = vec![Moments::default(); columns.len()];
    for batch in train.read()? {
        let batch = batch?;
        for (moments, column) in moments.iter_mut().zip(columns) {
            batch.column(*column).as_primitive::<Float64Type>().iter().flatten().for_each(|value| moments.add(value));
        }
    }
    Ok(moments)
}

/// The rows of the training split none of whose numeric features lies further than `z_score` standard deviations from
/// its mean.
pub(super) fn without_outliers(
    train: &Staged,
    columns: &Columns,
    z_score: f64,
    scratch: &Scratch,
) -> Result<Staged, DataError> {
    let numeric: Vec<usize> =
        (0..).zip(&columns.features).filter(|(_, f)| is_scaled(f)).map(|(index, _)| index).collect();
    let moments = moments(train, &numeric)?;
    let mut kept = StagedWriter::new(scratch, Arc::clone(&train.schema))?;
    for batch in train.read()? {
        let batch = batch?;
        let is_near = |(column, moments): (&usize, &Moments)| -> BooleanArray {
            let limit = z_score * moments.standard_deviation();
            let values = batch.column(*column).as_primitive::<Float64Type>().iter();
            values
                .map(|value| Some(value.is_none_or(|value| limit == 0.0 || (value - moments.mean).abs() <= limit)))
                .collect()
        };
        let near =
            numeric.iter().zip(&moments).map(is_near).map(Ok).reduce(|all, next| and(&all?, &next?)).transpose()?;
        kept.write(&match near {
            Some(near) => filter_record_batch(&batch, &near)?,
            None => batch,
        })?;
    }
    kept.finish()
}

fn is_scaled(feature: &Feature) -> bool {
    let is_number = Kind::from(feature.kind) == Kind::Number;
    is_number && !matches!(feature.transform, ColumnTransform::OneHot | ColumnTransform::Ordinal)
}

/// What the model predicts, before it is fitted.
#[derive(Clone, Debug)]
pub(super) enum Targets {
    /// The classes of the training split, sorted.
    Classes {
        labels: Vec<String>,
    },
    Numbers(TargetTransform),
}

/// Fits the transforms.
pub(super) async fn fit(
    context: &SessionContext,
    train: &Staged,
    columns: &Columns,
    targets: Targets,
) -> Result<Preprocessor, DataError> {
    let numbers: Vec<usize> = train
        .schema
        .fields()
        .iter()
        .enumerate()
        .filter(|(_, field)| field.data_type().is_numeric())
        .map(|(index, _)| index)
        .collect();
    let found = moments(train, &numbers)?;
    let moments: BTreeMap<usize, Moments> = numbers.into_iter().zip(found).collect();
    let counts = categories(train, columns)?;
    let mut inputs = Vec::new();
    for ((index, feature), counts) in columns.features.iter().enumerate().zip(counts) {
        let fill = fill(context, train, feature, moments.get(&index), counts.as_ref()).await?;
        let encoding = match (feature.transform, counts) {
            (ColumnTransform::OneHot, Some(counts)) => Encoding::OneHot(counts.categories(feature, fill.as_ref())),
            (ColumnTransform::Ordinal, Some(counts)) => Encoding::Ordinal(counts.categories(feature, fill.as_ref())),
            (transform, _) => Encoding::Scaled(scaling(transform, moments.get(&index))),
        };
        inputs.push(InputColumn { name: feature.name.clone(), kind: feature.kind.into(), fill, encoding });
    }
    let first_target = columns.features.len();
    let output = match targets {
        Targets::Classes { labels } => {
            let target = &columns.targets[0];
            Output::Classes { column: target.name.clone(), kind: target.kind.into(), labels }
        }
        Targets::Numbers(transform) => {
            let transform = match transform {
                TargetTransform::None => ColumnTransform::None,
                TargetTransform::Standardize => ColumnTransform::Standardize,
                TargetTransform::MinMax => ColumnTransform::MinMax,
            };
            let scaling = |index| scaling(transform, moments.get(&(first_target + index)));
            let columns: Vec<String> = columns.targets.iter().map(|target| target.name.clone()).collect();
            Output::Numbers { scalings: (0..columns.len()).map(scaling).collect(), columns }
        }
    };
    Ok(Preprocessor::new(inputs, output))
}

fn scaling(transform: ColumnTransform, moments: Option<&Moments>) -> Scaling {
    match (transform, moments) {
        (ColumnTransform::Standardize, Some(moments)) => {
            Scaling::Standardize { mean: moments.mean, standard_deviation: moments.standard_deviation() }
        }
        (ColumnTransform::MinMax, Some(moments)) => {
            Scaling::MinMax { minimum: moments.minimum, maximum: moments.maximum }
        }
        _ => Scaling::None,
    }
}

/// How often each category of a column is in the training split.
#[derive(Debug, Default)]
struct CategoryCounts {
    rows: BTreeMap<String, u64>,
    has_missing: bool,
}

impl CategoryCounts {
    fn add(&mut self, batch: &RecordBatch, index: usize, feature: &Feature) -> Result<(), DataError> {
        let labels = labels_of(&feature.name, feature.kind.into(), batch.column(index))?;
        for label in labels.iter() {
            match label {
                None => self.has_missing = true,
                Some(label) => match self.rows.get_mut(label) {
                    Some(rows) => *rows += 1,
                    None => {
                        self.rows.insert(label.to_owned(), 1);
                    }
                },
            }
        }
        if self.rows.len() > MAX_CATEGORIES {
            return Err(DataError::WrongType(format!(
                "column '{}' has more than {MAX_CATEGORIES} different values, too many for categories: leave it out of spec.data.features, or set spec.data.cast.{} to Number if it holds numbers",
                feature.name, feature.name
            )));
        }
        Ok(())
    }

    /// The most frequent; of several the first.
    fn most_frequent(&self) -> Option<&String> {
        self.rows.iter().max_by(|(a, rows_a), (b, rows_b)| rows_a.cmp(rows_b).then(b.cmp(a))).map(|(label, _)| label)
    }

    /// What fills a missing value is a category too where one is missing.
    fn categories(self, feature: &Feature, fill: Option<&Fill>) -> Categories {
        let fill = fill.filter(|_| self.has_missing).map(|fill| match fill {
            Fill::Number(number) => number.to_string(),
            Fill::Text(text) => text.clone(),
            Fill::Boolean(value) => value.to_string(),
        });
        let mut rows = self.rows;
        rows.extend(fill.map(|fill| (fill, 0)));
        Categories::new(feature.kind.into(), rows.into_keys())
    }
}

/// The categories of the features that have some.
fn categories(train: &Staged, columns: &Columns) -> Result<Vec<Option<CategoryCounts>>, DataError> {
    let counts = |feature: &Feature| (!is_scaled(feature)).then(CategoryCounts::default);
    let mut counts: Vec<_> = columns.features.iter().map(counts).collect();
    for batch in train.read()? {
        let batch = batch?;
        for ((index, feature), counts) in columns.features.iter().enumerate().zip(&mut counts) {
            if let Some(counts) = counts {
                counts.add(&batch, index, feature)?;
            }
        }
    }
    Ok(counts)
}

async fn fill(
    context: &SessionContext,
    train: &Staged,
    feature: &Feature,
    moments: Option<&Moments>,
    counts: Option<&CategoryCounts>,
) -> Result<Option<Fill>, DataError> {
    let none = || {
        DataError::Empty(format!(
            "column '{}' has no value in the training split to fill the others by: leave it out of spec.data.features, or set a Constant in spec.data.clean.missing.columns",
            feature.name
        ))
    };
    let present = moments.filter(|moments| moments.count > 0);
    Ok(Some(match &feature.missing {
        MissingRule::Drop => return Ok(None),
        MissingRule::Constant(fill) => fill.clone(),
        MissingRule::Mean => Fill::Number(present.ok_or_else(none)?.mean),
        MissingRule::Median => {
            Fill::Number(median(context, train, &feature.name, present.ok_or_else(none)?.count).await?)
        }
        MissingRule::MostFrequent => match (Kind::from(feature.kind), counts) {
            (Kind::Number, _) => {
                present.ok_or_else(none)?;
                Fill::Number(most_frequent(context, train, &feature.name).await?)
            }
            (Kind::Text, Some(counts)) => Fill::Text(counts.most_frequent().ok_or_else(none)?.clone()),
            (_, counts) => Fill::Boolean(counts.and_then(CategoryCounts::most_frequent).ok_or_else(none)? == "true"),
        },
    }))
}

/// The training split as a table. Queries on it spill to the scratch folder.
fn table(context: &SessionContext, train: &Staged) -> Result<DataFrame, DataFusionError> {
    let (staged, schema) = (train.clone(), Arc::clone(&train.schema));
    let open = move |_| {
        let batches = staged.read().map_err(|error| DataFusionError::External(error.into()))?;
        Ok(stream::iter(batches.map(|batch| batch.map_err(|error| DataFusionError::External(error.into())))))
    };
    let partition = Partition::opened_by(Arc::clone(&schema), open);
    context.read_table(Arc::new(StreamingTable::try_new(schema, vec![partition])?))
}

/// The middle of the present values, or the mean of the two middle ones.
async fn median(context: &SessionContext, train: &Staged, name: &str, count: u64) -> Result<f64, DataError> {
    let query = async {
        let present = table(context, train)?.select(vec![ident(name)])?.filter(ident(name).is_not_null())?;
        present.sort(vec![ident(name).sort(true, false)])?.execute_stream().await
    };
    let failed = |error| DataError::working(train.scratch(), error);
    let mut sorted = query.await.map_err(failed)?;
    let middle = [(count - 1) / 2, count / 2];
    let (mut passed, mut sum) = (0, 0.0);
    while let Some(batch) = sorted.try_next().await.map_err(failed)? {
        let values = batch.column(0).as_primitive::<Float64Type>();
        let rows = values.len() as u64;
        sum += middle
            .iter()
            .filter(|row| (passed..passed + rows).contains(row))
            .map(|row| values.value((row - passed) as usize) / 2.0)
            .sum::<f64>();
        passed += rows;
    }
    Ok(sum)
}

/// The most frequent number; of several the smallest.
async fn most_frequent(context: &SessionContext, train: &Staged, name: &str) -> Result<f64, DataError> {
    let rows = "__stoker_rows";
    let query = async {
        let present = table(context, train)?.select(vec![ident(name)])?.filter(ident(name).is_not_null())?;
        let counted = present.aggregate(vec![ident(name)], vec![count(ident(name)).alias(rows)])?;
        let first =
            counted.sort(vec![ident(rows).sort(false, false), ident(name).sort(true, false)])?.limit(0, Some(1))?;
        first.collect().await
    };
    let found = query.await.map_err(|error| DataError::working(train.scratch(), error))?;
    let value = found
        .iter()
        .find(|batch| batch.num_rows() > 0)
        .map(|batch| batch.column(0).as_primitive::<Float64Type>().value(0));
    value.ok_or_else(|| DataError::internal(format!("no value of '{name}' was found again")))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::{
        array::Float64Array,
        datatypes::{DataType, Field, Schema},
    };
    use stoker_crds::Reason;

    use super::*;
    use crate::data::session::{self, Limits};

    /// A column `x` of so many batches of 10,000 numbers.
    fn numbers(scratch: &Scratch, batches: u32) -> Staged {
        let schema = Arc::new(Schema::new(vec![Field::new("x", DataType::Float64, true)]));
        let mut writer = StagedWriter::new(scratch, Arc::clone(&schema)).unwrap();
        for batch in 0..batches {
            let numbers = Float64Array::from_iter_values((0..10_000).map(|row| f64::from(batch * 10_000 + row)));
            writer.write(&RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(numbers)]).unwrap()).unwrap();
        }
        writer.finish().unwrap()
    }

    #[tokio::test]
    async fn a_fill_that_finds_too_little_memory_or_disk_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let train = numbers(&Scratch::unlimited(folder.path()), 200);
        for (memory, disk, reason) in
            [(1 << 20, u64::MAX, Reason::InvalidConfig), (24 << 20, 1 << 20, Reason::DiskFull)]
        {
            let limits = Limits { partitions: 1, memory, rows_in_memory: 0 };
            let context = session::session(&Scratch::new(folder.path(), disk), limits).unwrap();
            let error = median(&context, &train, "x", 2_000_000).await.unwrap_err();
            assert_eq!(error.reason(), reason, "{error}");
        }
        let context =
            session::session(train.scratch(), Limits { partitions: 1, memory: 24 << 20, rows_in_memory: 0 }).unwrap();
        assert_eq!(median(&context, &train, "x", 2_000_000).await.unwrap(), 999_999.5);
    }
}
