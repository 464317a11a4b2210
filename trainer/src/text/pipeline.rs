//! The steps in their order, from the configuration to the sequences of the three splits.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use datafusion::{
    catalog::streaming::StreamingTable, error::DataFusionError, execution::SendableRecordBatchStream,
    logical_expr::Partitioning, prelude::SessionContext,
};
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use stoker_crds::{
    metric::Split,
    progress::DataStats,
    training::{
        Data,
        data::Format,
        text::{Text, Tokenizer as TokenizerSpec, TokenizerFile},
    },
};

use super::{
    Corpus, Tokenizer, TokenizerError, Vocabulary,
    chat::{self, Conversation, Shape},
    clean::{Counts, Distinct, ORDER, Rules},
    documents::Documents,
    read::{Reader, columns_of},
    sequences::{Sequences, SequencesWriter},
    tokenizer::{self, MAX_JSON},
};
use crate::{
    data::{
        DataError, Scratch,
        clean::{changed, sorted},
        pipeline::blocking,
        rules::{Conditions, Predicate},
        scan::Scanner,
        session::{self, Limits},
        source,
        split::{self, Quota},
    },
    storage::Access,
};

/// About how many bytes of documents are encoded at a time.
const AT_A_TIME: usize = 1 << 20;

/// One preparation: what it works on, and how far it is.
pub(super) struct Pipeline<'a> {
    data: &'a Data<Format>,
    text: Text,
    context: usize,
    /// That of a model that has read text before.
    vocabulary: Option<Vocabulary>,
    access: &'a Access,
    scratch: &'a Scratch,
    limits: Limits,
    counts: Arc<Counts>,
    tokens: Arc<AtomicU64>,
    stats: Mutex<DataStats>,
}

impl<'a> Pipeline<'a> {
    pub(super) fn new(
        data: &'a Data<Format>,
        context: usize,
        access: &'a Access,
        scratch: &'a Scratch,
        limits: Limits,
    ) -> Self {
        let text = data.text.clone().unwrap_or_default();
        let (counts, tokens, stats) = (Arc::default(), Arc::default(), Mutex::default());
        Self { data, text, context: context.max(1), vocabulary: None, access, scratch, limits, counts, tokens, stats }
    }

    /// The same for a model that has read text before, if there is one.
    pub(super) fn with_vocabulary(self, vocabulary: Option<Vocabulary>) -> Self {
        Self { vocabulary, ..self }
    }

    /// What was counted so far.
    pub(super) fn stats(&self) -> DataStats {
        let stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner).clone();
        DataStats {
            rows_read: self.counts.tally.counts().read,
            rows_dropped: self.counts.dropped(&self.data.clean, &self.text),
            tokens: self.tokens.load(Ordering::Relaxed),
            ..stats
        }
    }

    fn update(&self, change: impl FnOnce(&mut DataStats)) {
        change(&mut self.stats.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Reads, cleans, splits, fits and encodes.
    pub(super) async fn run(&self) -> Result<Corpus, DataError> {
        let (documents, shape) = self.clean().await?;
        let quota = self.divide(&documents)?;
        let tokenizer = self.tokenizer(&documents, shape, quota).await?;
        let [train, validation, test] = self.encode(documents, shape, quota, &tokenizer).await?;
        let lens = [&train, &validation, &test].map(|split| split.len() as u64);
        self.update(|stats| [stats.train, stats.validation, stats.test] = lens);
        Ok(Corpus { tokenizer, stats: self.stats(), train, validation, test })
    }

    /// The documents that are kept, in their order.
    async fn clean(&self) -> Result<(Documents, Shape), DataError> {
        let Self { data, limits, .. } = *self;
        let context = session::session(self.scratch, limits)?;
        let files = source::list(self.access, &data.source.uri, data.format).await?;
        let fingerprint = source::fingerprint(&files).await?;
        self.update(|stats| stats.fingerprint = fingerprint);

        let scanner = Scanner::new(&context, &files, data.format, &data.csv)?;
        let found = columns_of(&scanner, &files, data.format).await?;
        let predicates = Predicate::parse(&context, data, &found)?;
        let in_predicates: BTreeSet<String> = predicates.iter().flat_map(Predicate::columns).collect();
        let context = session::for_documents(&context, limits);
        let at_a_time = (limits.partitions, limits.batch_documents());
        let scanner = scanner.within(&context);
        let reader = Reader::new(scanner, files, data, &self.text, &found, &in_predicates, at_a_time)?;
        let shape = reader.shape;
        let conditions = Conditions::new(&context, predicates, Arc::clone(&reader.schema))?;
        let rules = Rules::new(conditions, &self.text, shape, data.split.seed);

        let (tally, memory) = (&self.counts.tally, limits.memory() / 2);
        let failed = |error| tally.failure(self.scratch, error);
        let mut rows = self.ordered(&context, Arc::new(reader), rules).await.map_err(failed)?;
        let mut distinct = Distinct::new(self.scratch, &data.clean, &self.text, shape, memory, &self.counts)?;
        while let Some(batch) = rows.try_next().await.map_err(failed)? {
            distinct.push(&batch)?;
        }
        Ok((distinct.finish()?, shape))
    }

    /// The plan: read → rules → sort.
    async fn ordered(
        &self,
        context: &SessionContext,
        reader: Arc<Reader>,
        rules: Rules,
    ) -> Result<SendableRecordBatchStream, DataFusionError> {
        let files = reader.partitions(&self.counts.tally);
        let rows = context.read_table(Arc::new(StreamingTable::try_new(Arc::clone(&reader.schema), files)?))?;
        let rows = rows.repartition(Partitioning::RoundRobinBatch(self.limits.partitions))?;
        let (schema, counts) = (Arc::clone(&rules.schema), Arc::clone(&self.counts));
        let apply = move |batch| rules.apply(batch, &counts).map_err(|error| counts.tally.fail(error));
        sorted(changed(context, rows, schema, apply).await?, [ORDER].into_iter()).await
    }

    /// How many documents, from the first, go into each split.
    fn divide(&self, documents: &Documents) -> Result<Quota, DataError> {
        if documents.count == 0 {
            let stats = self.stats();
            let dropped: Vec<String> = stats.rows_dropped.iter().map(|(rule, rows)| format!("{rule} {rows}")).collect();
            return Err(DataError::Empty(format!(
                "no document of {} is left to train on: {} were read, and dropped by rule: {}; loosen spec.data.clean and spec.data.text, or correct the data",
                self.data.source.uri,
                stats.rows_read,
                dropped.join(", ")
            )));
        }
        let quotas = split::quotas(&[documents.count], &self.data.split);
        split::check(&quotas, &self.data.split)?;
        quotas.into_iter().next().ok_or_else(|| DataError::internal("the documents were not divided"))
    }

    async fn tokenizer(&self, documents: &Documents, shape: Shape, quota: Quota) -> Result<Tokenizer, DataError> {
        let tokenizer = match (&self.text.tokenizer, &self.vocabulary) {
            (None, Some(vocabulary)) => return vocabulary.own(),
            (None | Some(TokenizerSpec::Bytes(_)), _) => Tokenizer::bytes()?,
            (Some(TokenizerSpec::File(file)), _) => self.fetch(file).await?,
            (Some(TokenizerSpec::Bpe(bpe)), _) => {
                let (documents, vocabulary_size) = (documents.clone(), bpe.vocabulary_size);
                blocking(move || {
                    let train = documents.read().take(usize::try_from(quota[0]).unwrap_or(usize::MAX));
                    let content = |document: Result<String, DataError>| -> Result<String, DataError> {
                        Ok(shape.content(&document?).map_err(DataError::internal)?.into_owned())
                    };
                    tokenizer::fit(train.map(content), vocabulary_size)
                })
                .await?
            }
        };
        match &self.vocabulary {
            Some(vocabulary) => vocabulary.other(tokenizer),
            None => Ok(tokenizer),
        }
    }

    async fn fetch(&self, TokenizerFile { uri }: &TokenizerFile) -> Result<Tokenizer, DataError> {
        let file = self.access.open(uri)?;
        let failed = |error| DataError::from(file.error(error));
        let refused = |error: TokenizerError| {
            DataError::InvalidConfig(format!("{uri}: {error}; correct spec.data.text.tokenizer.file.uri, or the file"))
        };
        let got = file.store.get(&file.path).await.map_err(failed)?;
        if got.meta.size > MAX_JSON as u64 {
            return Err(refused(TokenizerError::TooLarge(got.meta.size)));
        }
        let json = got.bytes().await.map_err(failed)?;
        blocking(move || Ok(Tokenizer::from_json(&json, None))).await?.map_err(refused)
    }

    /// The tokens of each split.
    async fn encode(
        &self,
        documents: Documents,
        shape: Shape,
        quota: Quota,
        tokenizer: &Tokenizer,
    ) -> Result<[Sequences; 3], DataError> {
        let (tokenizer, scratch, context, tokens) =
            (tokenizer.clone(), self.scratch.clone(), self.context, Arc::clone(&self.tokens));
        let splits = blocking(move || {
            let mut documents = documents.read();
            let mut split = |count: u64| -> Result<Sequences, DataError> {
                let is_counted = shape == Shape::Conversation;
                let mut writer = SequencesWriter::new(&scratch, context, tokenizer.vocabulary_size(), is_counted)?;
                let mut left = documents.by_ref().take(usize::try_from(count).unwrap_or(usize::MAX));
                loop {
                    let some = next_documents(&mut left)?;
                    if some.is_empty() {
                        return writer.finish();
                    }
                    let before = writer.total();
                    encode(&tokenizer, shape, &some, &mut writer)?;
                    tokens.fetch_add(writer.total() - before, Ordering::Relaxed);
                }
            };
            Ok([split(quota[0])?, split(quota[1])?, split(quota[2])?])
        })
        .await?;
        for ((split, sequences), documents) in Split::ALL.iter().zip(&splits).zip(quota) {
            if documents > 0 && sequences.is_empty() {
                return Err(DataError::Empty(format!(
                    "the {} split has {} tokens, and a sequence takes {} (the model's context and one): bring more data, or make the context shorter",
                    split.name(),
                    sequences.tokens(),
                    self.context + 1
                )));
            }
        }
        Ok(splits)
    }
}

/// The next documents that are encoded at a time; none at the end.
fn next_documents(left: &mut impl Iterator<Item = Result<String, DataError>>) -> Result<Vec<String>, DataError> {
    let (mut documents, mut bytes) = (Vec::new(), 0);
    while bytes < AT_A_TIME
        && let Some(document) = left.next().transpose()?
    {
        bytes += document.len();
        documents.push(document);
    }
    Ok(documents)
}

/// Appends documents, each with the end of a text after it.
fn encode(
    tokenizer: &Tokenizer,
    shape: Shape,
    documents: &[String],
    writer: &mut SequencesWriter,
) -> Result<(), DataError> {
    let end = tokenizer.end_of_text();
    if shape == Shape::Plain {
        for mut tokens in tokenizer.encode_all(&documents.iter().map(String::as_str).collect::<Vec<_>>())? {
            tokens.push(end);
            writer.push(&tokens, std::iter::repeat(true))?;
        }
        return Ok(());
    }
    let conversations = documents.iter().map(|document| chat::parse(document)).collect::<Result<Vec<_>, _>>();
    for conversation in chat::encode(tokenizer, &conversations.map_err(DataError::internal)?)? {
        let Conversation { mut tokens, mut counts } = conversation;
        // That no message follows is not for the assistant to say.
        tokens.push(end);
        counts.push(false);
        writer.push(&tokens, counts.into_iter())?;
    }
    Ok(())
}
