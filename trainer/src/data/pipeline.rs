//! The steps in their order, from the configuration to the three splits and to the fitted transforms.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use datafusion::prelude::SessionContext;
use stoker_crds::{
    progress::DataStats,
    training::{
        Data, Task,
        data::{Duplicates, Format},
    },
};

use super::{
    DataError, Prepared,
    classes::{self, Target},
    clean::{self, Cleaning},
    columns::Columns,
    discover::discover,
    fit::{self, Targets},
    preprocessor::Preprocessor,
    read::Reader,
    rows::{Rows, RowsWriter},
    rules::{Predicate, Rules},
    scan::Scanner,
    scratch::Scratch,
    session::{self, Limits},
    source,
    split::{self, Assigner},
    staging::Staged,
    tally::{Counts, Tally},
};
use crate::storage::Access;

/// One preparation: what it works on, and how far it is.
pub(super) struct Pipeline<'a> {
    pub(super) data: &'a Data<Format>,
    pub(super) task: Task,
    pub(super) access: &'a Access,
    pub(super) scratch: &'a Scratch,
    pub(super) limits: Limits,
    progress: Progress,
}

/// What was counted so far.
#[derive(Default)]
struct Progress {
    tally: Arc<Tally>,
    stats: Mutex<DataStats>,
}

/// The cleaned rows of the three splits: features and targets, raw.
pub(super) struct Splits {
    context: SessionContext,
    columns: Columns,
    pub(super) train: Staged,
    pub(super) validation: Staged,
    pub(super) test: Staged,
}

impl<'a> Pipeline<'a> {
    pub(super) fn new(
        data: &'a Data<Format>,
        task: Task,
        access: &'a Access,
        scratch: &'a Scratch,
        limits: Limits,
    ) -> Self {
        Self { data, task, access, scratch, limits, progress: Progress::default() }
    }

    /// What was counted so far.
    pub(super) fn stats(&self) -> DataStats {
        let mut stats = self.progress.stats.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Counts { read, duplicates: _, require, missing } = self.progress.tally.counts();
        stats.rows_read = read;
        let mut dropped = |rule: &str, rows| stats.rows_dropped.insert(rule.to_owned(), rows);
        dropped("missing", missing);
        if !self.data.clean.require.is_empty() {
            dropped("require", require);
        }
        stats
    }

    fn update(&self, change: impl FnOnce(&mut DataStats)) {
        change(&mut self.progress.stats.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn drops_duplicates(&self) -> bool {
        self.data.clean.duplicates == Duplicates::Drop
    }

    /// Reads, cleans and splits.
    pub(super) async fn split(&self) -> Result<Splits, DataError> {
        let Self { data, limits, .. } = *self;
        let context = session::session(self.scratch, limits)?;
        let files = source::list(self.access, &data.source.uri, data.format).await?;
        let fingerprint = source::fingerprint(&files).await?;
        self.update(|stats| stats.fingerprint = fingerprint);

        let scanner = Scanner::new(&context, &files, data.format, &data.csv)?;
        let found = discover(&scanner, &files).await?;
        let predicates = Predicate::parse(&context, data, &found)?;
        let in_predicates: BTreeSet<String> = predicates.iter().flat_map(Predicate::columns).collect();
        let columns = Columns::resolve(data, self.task, &found, &in_predicates)?;
        let context = session::for_columns(&context, limits, columns.all().count());
        let rules = Rules::new(&context, predicates, &columns, data)?;
        let cast = |name: &str| data.cast.get(name).copied();
        let reader = Arc::new(Reader::new(scanner.within(&context), files, &found, &columns, cast, limits.partitions)?);

        let cleaned = self.clean(&context, reader, rules, &columns).await?;
        let [train, validation, test] = self.divide(cleaned, &columns).await?;
        self.update(|stats| (stats.train, stats.validation, stats.test) = (train.rows, validation.rows, test.rows));
        Ok(Splits { context, columns, train, validation, test })
    }

    async fn clean(
        &self,
        context: &SessionContext,
        reader: Arc<Reader>,
        rules: Rules,
        columns: &Columns,
    ) -> Result<Staged, DataError> {
        let cleaning = Cleaning {
            drop_duplicates: self.drops_duplicates(),
            time: self.data.split.time.clone(),
            columns: columns.features.len() + columns.targets.len(),
        };
        let cleaned = clean::clean(context, reader, rules, &cleaning, &self.progress.tally, self.scratch).await?;
        if self.drops_duplicates() {
            // What is distinct comes out once all is read: before, every row would count as a duplicate.
            let Counts { duplicates, .. } = self.progress.tally.counts();
            self.update(|stats| {
                stats.rows_dropped.insert("duplicates".to_owned(), duplicates);
            });
        }
        cleaned.filter(|cleaned| cleaned.rows > 0).ok_or_else(|| {
            let stats = self.stats();
            let dropped: Vec<String> = stats.rows_dropped.iter().map(|(rule, rows)| format!("{rule} {rows}")).collect();
            DataError::Empty(format!(
                "no row of {} is left to train on: {} were read, and dropped by rule: {}; loosen spec.data.clean, or correct the data",
                self.data.source.uri,
                stats.rows_read,
                dropped.join(", ")
            ))
        })
    }

    async fn divide(&self, cleaned: Staged, columns: &Columns) -> Result<[Staged; 3], DataError> {
        let (spec, scratch) = (self.data.split.clone(), self.scratch.clone());
        let target = (self.task == Task::Classification && spec.stratify).then(|| Target::of(columns));
        blocking(move || {
            let groups = match &target {
                Some(target) => target.count(&cleaned)?,
                None => [(String::new(), cleaned.rows)].into(),
            };
            let quotas = split::quotas(&groups.values().copied().collect::<Vec<_>>(), &spec);
            split::check(&quotas, &spec)?;
            let mut assigner = Assigner::new(groups.into_keys(), quotas);
            classes::divide(&cleaned, target.as_ref(), &mut assigner, &scratch)
        })
        .await
    }

    /// Fits the transforms on the training split, and converts all splits.
    pub(super) async fn convert(&self, splits: Splits) -> Result<Prepared, DataError> {
        let Splits { context, columns, mut train, validation, test } = splits;
        if let Some(outliers) = &self.data.clean.outliers {
            let before = train.rows;
            train = self.without_outliers(train, &columns, outliers.z_score).await?;
            self.update(|stats| {
                stats.rows_dropped.insert("outliers".to_owned(), before - train.rows);
                stats.train = train.rows;
            });
            if train.rows == 0 {
                return Err(DataError::Empty(format!(
                    "all {before} rows of the training split are outliers: raise spec.data.clean.outliers.zScore"
                )));
            }
        }
        let targets = match self.task {
            Task::Regression => Targets::Numbers(self.data.transform.target),
            Task::Classification => {
                let (target, splits) = (Target::of(&columns), [train.clone(), validation.clone(), test.clone()]);
                Targets::Classes { labels: blocking(move || target.labels(&splits)).await? }
            }
            Task::LanguageModeling => {
                return Err(DataError::InvalidConfig(
                    "a table has targets, and LanguageModeling takes none: set spec.task to Regression or Classification"
                        .into(),
                ));
            }
        };
        let preprocessor = fit::fit(&context, &train, &columns, targets).await?;
        let [train, validation, test] = [
            self.to_rows(&preprocessor, train).await?,
            self.to_rows(&preprocessor, validation).await?,
            self.to_rows(&preprocessor, test).await?,
        ];
        Ok(Prepared { preprocessor, stats: self.stats(), train, validation, test })
    }

    async fn without_outliers(&self, train: Staged, columns: &Columns, z_score: f64) -> Result<Staged, DataError> {
        let (columns, scratch) = (columns.clone(), self.scratch.clone());
        blocking(move || fit::without_outliers(&train, &columns, z_score, &scratch)).await
    }

    async fn to_rows(&self, preprocessor: &Preprocessor, split: Staged) -> Result<Rows, DataError> {
        let (preprocessor, scratch, limit) = (preprocessor.clone(), self.scratch.clone(), self.limits.rows_in_memory);
        blocking(move || {
            let mut rows = RowsWriter::new(&scratch, preprocessor.input_width(), preprocessor.target_width(), limit);
            for batch in split.read()? {
                let batch = batch?;
                rows.push(&preprocessor.transform(&batch)?, &preprocessor.targets(&batch)?)?;
            }
            rows.finish()
        })
        .await
    }
}

/// Runs work that computes or reads files for long, beside the tasks that answer requests.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DataError> + Send + 'static,
) -> Result<T, DataError> {
    tokio::task::spawn_blocking(work).await.map_err(DataError::internal)?
}
