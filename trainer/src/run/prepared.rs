//! Data that is ready to be trained on, of whatever kind.

use bytes::Bytes;
use stoker_crds::{
    TrainConfig,
    artifact::{PREPROCESSOR, TOKENIZER},
    metric::Split,
    progress::DataStats,
    training::{Model, Text},
};

use tokio_util::sync::CancellationToken;

use super::RunError;
use crate::{
    artifact::ArtifactError,
    base::Base,
    data::{self, Scratch},
    model::ModelError,
    storage::{Access, Folder},
    text::{self, Corpus, KeptError, Tokenizer, Vocabulary, stop_token},
    training::{Dataset, Problem},
};

/// Data that is ready to be trained on.
#[derive(Debug)]
pub(super) enum Prepared {
    /// Rows of numbers.
    Table(Box<data::Prepared>),
    /// Sequences of tokens.
    Text(Box<Corpus>),
}

/// What a model reads.
#[derive(Clone, Debug)]
pub(super) enum Reads {
    /// Rows of numbers.
    Rows,
    /// Sequences of tokens.
    Tokens {
        /// How many it reads at once.
        context: usize,
        /// Which ones, if it has read text before; else they follow from the data.
        vocabulary: Option<Vocabulary>,
    },
}

impl Reads {
    /// What the model of a run reads; `base` is what it starts from, where it names something.
    ///
    /// # Errors
    /// If the tokenizer of what it starts from is needed and cannot be used.
    pub(super) fn of(config: &TrainConfig, base: Option<&Base>) -> Result<Self, RunError> {
        Ok(match &config.model {
            Model::Mlp(_) => Self::Rows,
            Model::Transformer(transformer) => Self::Tokens { context: transformer.context as usize, vocabulary: None },
            Model::From(_) => {
                let base = base.ok_or(ModelError::NoBase)?;
                let vocabulary = base.vocabulary(config.data.text.as_ref())?;
                Self::Tokens { context: base.context(), vocabulary: Some(vocabulary) }
            }
        })
    }
}

impl Prepared {
    /// Prepares data for a model that reads so. Text that was prepared before is taken from the folder `kept`.
    ///
    /// # Errors
    /// If the data cannot be read or trained on.
    pub(super) async fn of(
        config: &TrainConfig,
        reads: Reads,
        access: &Access,
        scratch: &Scratch,
        kept: Option<&Folder>,
        on_stats: &(dyn Fn(&DataStats) + Send + Sync),
    ) -> Result<Self, RunError> {
        let data = &config.data;
        Ok(match reads {
            Reads::Tokens { context, vocabulary } => {
                let corpus = text::prepare(data, context, vocabulary, access, scratch, kept, on_stats).await?;
                Self::Text(Box::new(corpus))
            }
            Reads::Rows => Self::Table(Box::new(data::prepare(data, config.task, access, scratch, on_stats).await?)),
        })
    }

    /// Whether it may take so long to prepare that it is worth keeping: text.
    pub(super) fn can_be_kept(&self) -> bool {
        matches!(self, Self::Text(_))
    }

    /// Writes it to a folder, so that the run need not prepare it again, if it can be kept.
    ///
    /// # Errors
    /// If it is halted, or the storage fails.
    pub(super) async fn keep(&self, folder: &Folder, halt: &CancellationToken) -> Result<(), KeptError> {
        match self {
            Self::Table(_) => Ok(()),
            Self::Text(corpus) => text::keep(corpus, folder, halt).await,
        }
    }

    /// What was read, dropped and kept.
    pub(super) fn stats(&self) -> &DataStats {
        match self {
            Self::Table(table) => &table.stats,
            Self::Text(corpus) => &corpus.stats,
        }
    }

    /// What a person should know of it.
    pub(super) fn warning(&self) -> Option<&str> {
        match self {
            Self::Table(_) => None,
            Self::Text(corpus) => corpus.warning.as_deref(),
        }
    }

    /// The samples of a split.
    pub(super) fn split(&self, split: Split) -> &dyn Dataset {
        match (self, split) {
            (Self::Table(table), Split::Train) => &table.train,
            (Self::Table(table), Split::Validation) => &table.validation,
            (Self::Table(table), Split::Test) => &table.test,
            (Self::Text(corpus), Split::Train) => &corpus.train,
            (Self::Text(corpus), Split::Validation) => &corpus.validation,
            (Self::Text(corpus), Split::Test) => &corpus.test,
        }
    }

    /// What is to be learned; `restore_targets` is [`Self::restore_targets`].
    pub(super) fn problem<'a>(&'a self, restore_targets: &'a (dyn Fn(&mut [f32]) + Sync)) -> Problem<'a> {
        let (inputs, targets) = match self {
            Self::Table(table) => (table.preprocessor.input_width(), table.preprocessor.output_width()),
            Self::Text(corpus) => (corpus.train.context(), corpus.tokenizer.vocabulary_size()),
        };
        Problem {
            train: self.split(Split::Train),
            validation: self.split(Split::Validation),
            inputs,
            targets,
            restore_targets,
            tokenizer: self.tokenizer(),
            fingerprint: &self.stats().fingerprint,
        }
    }

    /// The token with which what a model of such texts writes is over.
    pub(super) fn stop_token(&self, texts: Option<&Text>) -> Option<u32> {
        self.tokenizer().map(|tokenizer| stop_token(tokenizer, texts))
    }

    /// Makes text of the tokens of a language model.
    fn tokenizer(&self) -> Option<&Tokenizer> {
        match self {
            Self::Table(_) => None,
            Self::Text(corpus) => Some(&corpus.tokenizer),
        }
    }

    /// Brings the targets of a regression back to their own units.
    pub(super) fn restore_targets(&self, targets: &mut [f32]) {
        if let Self::Table(table) = self {
            table.preprocessor.restore_targets(targets);
        }
    }

    /// The file of a model that says how what it is asked becomes what it reads: its name and content.
    ///
    /// # Errors
    /// If it cannot be written as JSON.
    pub(super) fn input_file(&self) -> Result<(&'static str, Bytes), ArtifactError> {
        Ok(match self {
            Self::Table(table) => (PREPROCESSOR, serde_json::to_vec_pretty(&table.preprocessor)?.into()),
            Self::Text(corpus) => (TOKENIZER, corpus.tokenizer.to_json().to_vec().into()),
        })
    }
}
