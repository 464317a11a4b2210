//! The classes of a classification, and the division of the rows into splits.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use datafusion::arrow::{
    array::{BooleanArray, StringArray},
    compute::filter_record_batch,
    record_batch::RecordBatch,
};
use stoker_crds::metric::Split;

use super::{
    DataError,
    columns::Columns,
    encoding::{self, Kind},
    fit::MAX_CATEGORIES,
    preprocessor::labels_of,
    scratch::Scratch,
    split::Assigner,
    staging::{Staged, StagedWriter},
};

/// The target column of a classification.
#[derive(Clone, Debug)]
pub(super) struct Target {
    index: usize,
    name: String,
    kind: Kind,
}

impl Target {
    pub(super) fn of(columns: &Columns) -> Self {
        let target = &columns.targets[0];
        Self { index: columns.features.len(), name: target.name.clone(), kind: target.kind.into() }
    }

    fn labels_in<'a>(&self, batch: &'a RecordBatch) -> Result<Cow<'a, StringArray>, DataError> {
        Ok(labels_of(&self.name, self.kind, batch.column(self.index))?)
    }

    /// The rows of each class.
    pub(super) fn count(&self, rows: &Staged) -> Result<BTreeMap<String, u64>, DataError> {
        let mut counts = BTreeMap::new();
        for batch in rows.read()? {
            for label in self.labels_in(&batch?)?.iter().flatten() {
                match counts.get_mut(label) {
                    Some(rows) => *rows += 1,
                    None => {
                        counts.insert(label.to_owned(), 1);
                    }
                }
            }
            if counts.len() > MAX_CATEGORIES {
                return Err(DataError::WrongType(format!(
                    "the target '{}' has more than {MAX_CATEGORIES} classes: set spec.task to Regression, or name another target",
                    self.name
                )));
            }
        }
        Ok(counts)
    }

    /// The classes of the training split, sorted.
    ///
    /// # Errors
    /// If there are less than two, or another split has one that the training split has not.
    pub(super) fn labels(&self, [train, validation, test]: &[Staged; 3]) -> Result<Vec<String>, DataError> {
        let trained = self.count(train)?;
        for (split, rows) in [(Split::Validation, validation), (Split::Test, test)] {
            if let Some((class, rows)) = self.count(rows)?.into_iter().find(|(class, _)| !trained.contains_key(class)) {
                return Err(DataError::Empty(format!(
                    "the class '{class}' of '{}' is in {rows} rows of the {} split and in none of the training split: set spec.data.split.stratify, or drop the class by spec.data.clean.require",
                    self.name,
                    split.name()
                )));
            }
        }
        let mut labels: Vec<String> = trained.into_keys().collect();
        encoding::sort(self.kind, &mut labels);
        if let [] | [_] = &labels[..] {
            return Err(DataError::Empty(format!(
                "the target '{}' has no class but '{}' in the training split: there is nothing to tell apart",
                self.name,
                labels.concat()
            )));
        }
        Ok(labels)
    }
}

/// Gives each row to its split, in order. The groups of the assigner are the classes of `target`, or one without a name.
pub(super) fn divide(
    rows: &Staged,
    target: Option<&Target>,
    assigner: &mut Assigner,
    scratch: &Scratch,
) -> Result<[Staged; 3], DataError> {
    let writer = || StagedWriter::new(scratch, Arc::clone(&rows.schema));
    let mut writers = [writer()?, writer()?, writer()?];
    for batch in rows.read()? {
        let batch = batch?;
        let splits: Option<Vec<Split>> = match target {
            Some(target) => target.labels_in(&batch)?.iter().map(|label| assigner.next(label?)).collect(),
            None => (0..batch.num_rows()).map(|_| assigner.next("")).collect(),
        };
        let splits = splits.ok_or_else(|| DataError::internal("a row came that was not counted"))?;
        for (writer, split) in writers.iter_mut().zip(Split::ALL) {
            let is_in: BooleanArray = splits.iter().map(|of| Some(*of == split)).collect();
            writer.write(&filter_record_batch(&batch, &is_in)?)?;
        }
    }
    let [train, validation, test] = writers;
    Ok([train.finish()?, validation.finish()?, test.finish()?])
}
