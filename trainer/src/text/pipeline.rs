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
        text::{Bpe, Text, Tokenizer as TokenizerSpec, TokenizerFile},
    },
};

use super::{
    Corpus, Tokenizer, TokenizerError, Vocabulary,
    chat::{self, ASSISTANT, Conversation, Shape},
    clean::{Counts, Distinct, ORDER, Rules},
    documents::Documents,
    kept::{self, KeptError},
    read::{Reader, columns_of},
    sequences::{Sequences, SequencesWriter},
    tokenizer::{self, MAX_JSON},
};
use crate::{
    artifact::{ArtifactError, digest},
    data::{
        DataError, Scratch,
        clean::{changed, sorted},
        pipeline::blocking,
        rules::{Conditions, Predicate},
        scan::Scanner,
        session::{self, Limits},
        source::{self, SourceFile},
        split::{self, Quota},
    },
    storage::{Access, Folder},
};

/// About how many bytes of documents are encoded at a time.
const AT_A_TIME: usize = 1 << 20;

/// Where a tokenizer comes from.
enum Choice {
    /// It is there before the data are.
    Given(Tokenizer),
    /// It is fitted on them.
    Fitted(Bpe),
}

/// One preparation: what it works on, and how far it is.
pub(super) struct Pipeline<'a> {
    data: &'a Data<Format>,
    text: Text,
    context: usize,
    /// That of a model that has read text before.
    vocabulary: Option<Vocabulary>,
    /// Where what was prepared before may lie.
    kept: Option<&'a Folder>,
    access: &'a Access,
    scratch: &'a Scratch,
    limits: Limits,
    counts: Arc<Counts>,
    tokens: Arc<AtomicU64>,
    /// Characters that the tokenizer has no tokens for.
    lost: Arc<AtomicU64>,
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
        let (counts, tokens, lost) = (Arc::default(), Arc::default(), Arc::default());
        let (context, stats) = (context.max(1), Mutex::default());
        Self { data, text, context, vocabulary: None, kept: None, access, scratch, limits, counts, tokens, lost, stats }
    }

    /// The same for a model that has read text before, if there is one.
    pub(super) fn with_vocabulary(self, vocabulary: Option<Vocabulary>) -> Self {
        Self { vocabulary, ..self }
    }

    /// The same where the corpus may lie in a folder.
    pub(super) fn with_kept(self, kept: Option<&'a Folder>) -> Self {
        Self { kept, ..self }
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

    /// Reads, cleans, splits, fits and encodes, or takes the corpus that came of that before and was kept.
    pub(super) async fn run(&self) -> Result<Corpus, DataError> {
        let files = source::list(self.access, &self.data.source.uri, self.data.format).await?;
        let fingerprint = source::fingerprint(&files).await?;
        let choice = self.choose_tokenizer().await?;
        let key = self.key(&fingerprint, &choice)?;
        if let Some(corpus) = self.take(&key).await? {
            return Ok(corpus);
        }
        self.update(|stats| stats.fingerprint = fingerprint);
        let (documents, shape) = self.clean(files).await?;
        let quota = self.divide(&documents)?;
        let tokenizer = match choice {
            Choice::Given(tokenizer) => tokenizer,
            Choice::Fitted(bpe) => self.fit_tokenizer(bpe.vocabulary_size, &documents, shape, quota).await?,
        };
        let [train, validation, test] = self.encode(documents, shape, quota, &tokenizer).await?;
        let lens = [&train, &validation, &test].map(|split| split.len() as u64);
        self.update(|stats| [stats.train, stats.validation, stats.test] = lens);
        let warning = self.warning(&tokenizer);
        Ok(Corpus { key, is_taken: false, tokenizer, stats: self.stats(), warning, train, validation, test })
    }

    /// Digest of all that decides about the corpus: data, configuration, the tokenizer if it is not fitted on the data, and the
    /// version that prepares them.
    fn key(&self, fingerprint: &str, choice: &Choice) -> Result<String, DataError> {
        let tokenizer = match choice {
            Choice::Given(tokenizer) => Some((digest(tokenizer.to_json()), tokenizer.end_of_text())),
            Choice::Fitted(_) => None,
        };
        let all = (env!("CARGO_PKG_VERSION"), self.data, self.context, fingerprint, tokenizer);
        Ok(digest(&serde_json::to_vec(&all).map_err(DataError::internal)?))
    }

    /// The corpus of that key, if it was kept. Only what is damaged is prepared again: a storage that fails says nothing about
    /// what lies in it.
    async fn take(&self, key: &str) -> Result<Option<Corpus>, DataError> {
        let Some(folder) = self.kept else { return Ok(None) };
        match kept::take(folder, key, self.scratch).await {
            Ok(corpus) => Ok(corpus),
            Err(error) if error.is_broken() => {
                tracing::warn!(%error, "the text that was prepared before cannot be taken, and is prepared again");
                Ok(None)
            }
            Err(KeptError::Data(error)) => Err(error),
            Err(KeptError::Artifact(ArtifactError::Storage(error))) => Err(error.into()),
            Err(error) => Err(DataError::internal(error)),
        }
    }

    /// That characters were lost, if some were.
    fn warning(&self, tokenizer: &Tokenizer) -> Option<String> {
        let lost = self.lost.load(Ordering::Relaxed);
        (lost > 0).then(|| {
            format!(
                "the tokenizer has no tokens for the bytes {}, so {lost} characters of {} that have such a byte were lost, in whole or in part: name another tokenizer in spec.data.text.tokenizer if the model is to know them",
                tokenizer.lacking(),
                self.data.source.uri
            )
        })
    }

    /// The documents that are kept, in their order.
    async fn clean(&self, files: Vec<SourceFile>) -> Result<(Documents, Shape), DataError> {
        let Self { data, limits, .. } = *self;
        let context = session::session(self.scratch, limits)?;
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
        let files = reader.partitions(&self.counts);
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
            let correct = "loosen spec.data.clean and spec.data.text, or correct the data";
            let advice = match self.counts.unanswered.roles() {
                Some(roles) => format!(
                    "a conversation is missing unless a message of the role {ASSISTANT} has words, and the roles in such are {roles}: give answers the role {ASSISTANT}, or {correct}"
                ),
                None => correct.to_owned(),
            };
            return Err(DataError::Empty(format!(
                "no document of {} is left to train on: {} were read, and dropped by rule: {}; {advice}",
                self.data.source.uri,
                stats.rows_read,
                dropped.join(", ")
            )));
        }
        let quotas = split::quotas(&[documents.count], &self.data.split);
        split::check(&quotas, &self.data.split)?;
        quotas.into_iter().next().ok_or_else(|| DataError::internal("the documents were not divided"))
    }

    async fn choose_tokenizer(&self) -> Result<Choice, DataError> {
        let tokenizer = match (&self.text.tokenizer, &self.vocabulary) {
            (None, Some(vocabulary)) => return vocabulary.own().map(Choice::Given),
            (None | Some(TokenizerSpec::Bytes(_)), _) => Tokenizer::bytes()?,
            (Some(TokenizerSpec::File(file)), _) => self.fetch(file).await?,
            (Some(TokenizerSpec::Bpe(bpe)), _) => return Ok(Choice::Fitted(*bpe)),
        };
        self.checked(tokenizer).map(Choice::Given)
    }

    /// The tokenizer that is fitted on the training split.
    async fn fit_tokenizer(
        &self,
        vocabulary_size: u32,
        documents: &Documents,
        shape: Shape,
        quota: Quota,
    ) -> Result<Tokenizer, DataError> {
        let documents = documents.clone();
        let fitting = blocking(move || {
            let train = documents.read().take(usize::try_from(quota[0]).unwrap_or(usize::MAX));
            let content = |document: Result<String, DataError>| -> Result<String, DataError> {
                Ok(shape.content(&document?).map_err(DataError::internal)?.into_owned())
            };
            tokenizer::fit(train.map(content), vocabulary_size)
        });
        self.checked(fitting.await?)
    }

    /// The tokenizer, if a model that has read text before can take it in place of its own.
    fn checked(&self, tokenizer: Tokenizer) -> Result<Tokenizer, DataError> {
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
        let own = self.vocabulary.as_ref().and_then(|vocabulary| vocabulary.tokenizer.as_ref());
        let end_of_text = own.map(Tokenizer::end_of_text);
        blocking(move || Ok(Tokenizer::from_json(&json, end_of_text))).await?.map_err(refused)
    }

    /// The tokens of each split.
    async fn encode(
        &self,
        documents: Documents,
        shape: Shape,
        quota: Quota,
        tokenizer: &Tokenizer,
    ) -> Result<[Sequences; 3], DataError> {
        let (tokenizer, scratch, context) = (tokenizer.clone(), self.scratch.clone(), self.context);
        let (tokens, lost) = (Arc::clone(&self.tokens), Arc::clone(&self.lost));
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
                    lost.fetch_add(encode(&tokenizer, shape, &some, &mut writer)? as u64, Ordering::Relaxed);
                    tokens.fetch_add(writer.total() - before, Ordering::Relaxed);
                }
            };
            Ok([split(quota[0])?, split(quota[1])?, split(quota[2])?])
        })
        .await?;
        for ((split, sequences), documents) in Split::ALL.iter().zip(&splits).zip(quota) {
            if documents == 0 {
                continue;
            }
            if sequences.is_empty() {
                return Err(DataError::Empty(format!(
                    "the {} split has {} tokens, and a sequence takes {} (the model's context and one): bring more data, or make the context shorter",
                    split.name(),
                    sequences.tokens(),
                    self.context + 1
                )));
            }
            if !sequences.learns() {
                return Err(DataError::Empty(format!(
                    "no whole sequence of the {} split holds a token that the role {ASSISTANT} says, so nothing can be learned or measured there: bring more conversations, or make the context shorter",
                    split.name()
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

/// Appends documents, each with the end of a text after it, and gives how many characters of them have no tokens.
fn encode(
    tokenizer: &Tokenizer,
    shape: Shape,
    documents: &[String],
    writer: &mut SequencesWriter,
) -> Result<usize, DataError> {
    let (begin, end, lacking) = (tokenizer.begin_of_text(), tokenizer.end_of_text(), tokenizer.lacking());
    if shape == Shape::Plain {
        for tokens in tokenizer.encode_all(&documents.iter().map(String::as_str).collect::<Vec<_>>())? {
            writer.push(&[begin, &tokens, &[end]].concat(), std::iter::repeat(true))?;
        }
        return Ok(documents.iter().map(|document| lacking.count(document)).sum());
    }
    let conversations = documents.iter().map(|document| chat::parse(document)).collect::<Result<Vec<_>, _>>();
    let conversations = conversations.map_err(DataError::internal)?;
    for conversation in chat::encode(tokenizer, &conversations)? {
        let Conversation { mut tokens, mut counts } = conversation;
        // That no message follows is not for the assistant to say.
        tokens.push(end);
        counts.push(false);
        writer.push(&tokens, counts.into_iter())?;
    }
    Ok(conversations.iter().flatten().map(|message| lacking.count(&message.content)).sum())
}
