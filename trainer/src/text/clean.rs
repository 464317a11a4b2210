//! Cleaning: which documents are kept, and in which order.
//!
//! [`Rules`] look at one document alone, on all threads. The documents are then sorted by a hash of their content, and
//! [`Distinct`] goes through them in that order.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use datafusion::arrow::{
    array::{ArrayRef, AsArray, BinaryArray, BooleanArray, StringArray},
    compute::filter_record_batch,
    datatypes::{DataType, Field, Schema, SchemaRef},
    record_batch::RecordBatch,
};
use sha2::{Digest, Sha256};
use stoker_crds::training::{
    data::{Clean, Duplicates},
    text::{DocumentLength, Text},
};

use super::{
    chat::{Shape, Unanswered},
    documents::{Documents, DocumentsWriter},
    near::{Kept, Sketcher},
};
use crate::data::{DataError, Scratch, rules::Conditions, tally::Tally};

/// The column of the documents.
const DOCUMENT: &str = "document";
/// The column that documents are ordered by.
pub(super) const ORDER: &str = "order";
/// The column of the sketches, where near duplicates are dropped.
const SKETCH: &str = "sketch";
/// The bytes of an order. Of a billion documents, two different ones have the same with a probability below 10⁻²⁰.
const ORDER_BYTES: usize = 16;

/// What was counted so far.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) tally: Arc<Tally>,
    pub(super) unanswered: Unanswered,
    length: AtomicU64,
    duplicates: AtomicU64,
    near_duplicates: AtomicU64,
}

impl Counts {
    /// The documents that were dropped, by the rules that there are.
    pub(super) fn dropped(&self, clean: &Clean, text: &Text) -> BTreeMap<String, u64> {
        let counts = self.tally.counts();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("missing", true, counts.missing),
            ("require", !clean.require.is_empty(), counts.require),
            ("length", text.length.is_some(), count(&self.length)),
            ("duplicates", clean.duplicates == Duplicates::Drop, count(&self.duplicates)),
            ("nearDuplicates", text.near_duplicates.is_some(), count(&self.near_duplicates)),
        ]
        .into_iter()
        .filter(|(_, is_asked, _)| *is_asked)
        .map(|(rule, _, documents)| (rule.to_owned(), documents))
        .collect()
    }
}

fn add(counter: &AtomicU64, documents: usize) {
    counter.fetch_add(documents as u64, Ordering::Relaxed);
}

/// Which documents are kept for what they are, and what decides on their order.
pub(super) struct Rules {
    conditions: Conditions,
    length: DocumentLength,
    shape: Shape,
    seed: i64,
    sketcher: Option<Sketcher>,
    pub(super) schema: SchemaRef,
}

impl Rules {
    pub(super) fn new(conditions: Conditions, text: &Text, shape: Shape, seed: i64) -> Self {
        let sketcher = text.near_duplicates.map(|near| Sketcher::new(near.similarity));
        let sketch = sketcher.as_ref().map(|_| Field::new(SKETCH, DataType::Binary, false));
        let fields = [Field::new(DOCUMENT, DataType::Utf8, false), Field::new(ORDER, DataType::Binary, false)];
        let schema = Arc::new(Schema::new(fields.into_iter().chain(sketch).collect::<Vec<_>>()));
        Self { conditions, length: text.length.unwrap_or_default(), shape, seed, sketcher, schema }
    }

    /// Drops documents without a word, those that fail a predicate, and those that are too short or too long; gives the
    /// others their order. The documents are the first column of a batch.
    pub(super) fn apply(&self, batch: RecordBatch, counts: &Counts) -> Result<RecordBatch, DataError> {
        let rows = batch.num_rows();
        let is_there = texts(&batch).iter().map(|text| Some(text.is_some_and(|text| !text.trim().is_empty())));
        let batch = filter_record_batch(&batch, &is_there.collect())?;
        let present = batch.num_rows();
        let batch = self.conditions.keep(batch)?;
        let required = batch.num_rows();
        let fits = texts(&batch).iter().flatten().map(|text| self.fits(text));
        let batch = filter_record_batch(&batch, &fits.collect::<Result<BooleanArray, _>>()?)?;
        counts.tally.count_dropped((present - required) as u64, (rows - present) as u64);
        add(&counts.length, required - batch.num_rows());
        self.ordered(texts(&batch))
    }

    fn fits(&self, document: &str) -> Result<Option<bool>, DataError> {
        let DocumentLength { min, max } = self.length;
        if min.is_none() && max.is_none() {
            return Ok(Some(true));
        }
        let characters = self.shape.content(document).map_err(DataError::internal)?.chars().count();
        let is_short = min.is_some_and(|min| characters < min as usize);
        Ok(Some(!is_short && max.is_none_or(|max| characters <= max as usize)))
    }

    fn ordered(&self, documents: &StringArray) -> Result<RecordBatch, DataError> {
        let texts = || documents.iter().flatten();
        let orders = BinaryArray::from_iter_values(texts().map(|text| order(text, self.seed)));
        let mut columns: Vec<ArrayRef> = vec![Arc::new(documents.clone()), Arc::new(orders)];
        if let Some(sketcher) = &self.sketcher {
            let sketch = |text| Ok(sketcher.sketch(&self.shape.content(text)?));
            let sketches = texts().map(sketch).collect::<Result<Vec<_>, serde_json::Error>>();
            columns.push(Arc::new(BinaryArray::from_iter_values(sketches.map_err(DataError::internal)?)));
        }
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

fn texts(batch: &RecordBatch) -> &StringArray {
    batch.column(0).as_string()
}

/// The start of the SHA-256 over the seed and a document: an order that looks like chance, but is the same whatever the
/// files' order and names.
fn order(document: &str, seed: i64) -> [u8; ORDER_BYTES] {
    let digest: [u8; 32] = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(document).finalize().into();
    std::array::from_fn(|byte| digest[byte])
}

/// Keeps the first of equal documents and of those that are nearly equal, as far as that is asked.
pub(super) struct Distinct<'a> {
    drops_duplicates: bool,
    shape: Shape,
    /// The order of the document before.
    before: Option<Vec<u8>>,
    near: Option<Kept>,
    kept: DocumentsWriter,
    counts: &'a Counts,
}

impl<'a> Distinct<'a> {
    /// `memory` is the most that finding near duplicates may take, in bytes.
    pub(super) fn new(
        scratch: &Scratch,
        clean: &Clean,
        text: &Text,
        shape: Shape,
        memory: usize,
        counts: &'a Counts,
    ) -> Result<Self, DataError> {
        let near = text.near_duplicates.map(|near| Kept::new(near.similarity, memory));
        let (drops_duplicates, kept) = (clean.duplicates == Duplicates::Drop, DocumentsWriter::new(scratch)?);
        Ok(Self { drops_duplicates, shape, before: None, near, kept, counts })
    }

    /// Takes the next documents in their order.
    pub(super) fn push(&mut self, batch: &RecordBatch) -> Result<(), DataError> {
        let (documents, orders) = (texts(batch), batch.column(1).as_binary::<i32>());
        let sketches = self.near.is_some().then(|| batch.column(2).as_binary::<i32>());
        for row in 0..batch.num_rows() {
            let (document, order) = (documents.value(row), orders.value(row));
            let is_duplicate = self.before.as_deref() == Some(order);
            self.before = Some(order.to_vec());
            if self.drops_duplicates && is_duplicate {
                add(&self.counts.duplicates, 1);
                continue;
            }
            self.keep(document, sketches.map(|sketches| sketches.value(row)).unwrap_or_default())?;
        }
        Ok(())
    }

    fn keep(&mut self, document: &str, sketch: &[u8]) -> Result<(), DataError> {
        let Some(near) = &mut self.near else { return self.kept.push(document).map(drop) };
        let shape = self.shape;
        let content = |document: &str| -> Result<String, DataError> {
            Ok(shape.content(document).map_err(DataError::internal)?.into_owned())
        };
        if near.has_near(&content(document)?, sketch, |place| content(&self.kept.get(place)?))? {
            add(&self.counts.near_duplicates, 1);
            return Ok(());
        }
        near.keep(sketch, self.kept.push(document)?)
    }

    pub(super) fn finish(self) -> Result<Documents, DataError> {
        self.kept.finish()
    }
}
