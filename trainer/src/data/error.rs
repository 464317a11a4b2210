//! Why data cannot be trained on.

use std::error::Error;

use datafusion::{arrow::error::ArrowError, error::DataFusionError};
use stoker_crds::Reason;

use super::{preprocessor::TransformError, scratch::Scratch, source::SourceFile};
use crate::{
    storage::{StorageError, causes, chain, is_disk_full},
    text::TokenizerError,
};

/// Why data cannot be trained on: each message names the column, file, row or rule, and the way out.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The configuration of the data cannot be used.
    #[error("{0}")]
    InvalidConfig(String),
    /// A named column is not in the data.
    #[error("{0}")]
    UnknownColumn(String),
    /// A column's values are not of the type that its use needs.
    #[error("{0}")]
    WrongType(String),
    /// A file cannot be parsed.
    #[error("{0}")]
    Unparsable(String),
    /// No row is left, or a split is empty.
    #[error("{0}")]
    Empty(String),
    /// No file matches.
    #[error("{0}")]
    NotFound(String),
    /// The scratch volume is full.
    #[error(
        "the scratch folder {folder} is full ({source}): raise spec.resources.scratch, or use fewer columns or rows"
    )]
    DiskFull {
        /// The folder that was written to.
        folder: String,
        /// The system's answer.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A prepared row cannot be converted.
    #[error(transparent)]
    Transform(#[from] TransformError),
    /// A tokenizer cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A defect, or a failure of the machine.
    #[error("the data could not be prepared: {}", chain(source.as_ref()))]
    Internal {
        /// What happened.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl DataError {
    /// The reason that a run which ends by this error reports.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Storage(error) => error.reason(),
            Self::InvalidConfig(_) => Reason::InvalidConfig,
            Self::UnknownColumn(_) => Reason::UnknownColumn,
            Self::WrongType(_) => Reason::WrongType,
            Self::Unparsable(_) | Self::Transform(_) => Reason::UnparsableData,
            Self::Empty(_) => Reason::EmptyData,
            Self::NotFound(_) => Reason::DataNotFound,
            Self::DiskFull { .. } => Reason::DiskFull,
            Self::Tokenizer(error) => error.reason(),
            Self::Internal { .. } => Reason::Internal,
        }
    }

    pub(crate) fn internal(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Internal { source: error.into() }
    }

    /// A failure to read a file, of which so many rows were read before.
    pub(crate) fn reading(file: &SourceFile, rows: u64, error: DataFusionError) -> Self {
        let storage = causes(&error).find_map(|error| error.downcast_ref());
        if let Some(storage) = storage.map(|storage| file.folder.classify(storage)) {
            return storage.with_source(error).into();
        }
        let text = chain(&error);
        let place = if rows == 0 { String::new() } else { format!(", after row {rows},") };
        Self::Unparsable(format!(
            "{}{place} cannot be parsed: {text}; correct the file, or spec.data.format and spec.data.csv",
            file.uri()
        ))
    }

    /// A failure to work on what was read: of the scratch folder, of memory, or a defect.
    pub(crate) fn working(scratch: &Scratch, error: DataFusionError) -> Self {
        if let DataFusionError::ResourcesExhausted(text) = error.find_root() {
            return Self::InvalidConfig(format!(
                "the memory does not suffice to sort the data ({text}): raise spec.resources.memory"
            ));
        }
        Self::scratch(scratch, error)
    }

    /// A failure to write to or read from the scratch folder.
    pub(crate) fn scratch(scratch: &Scratch, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let source = error.into();
        match is_disk_full(source.as_ref()) {
            true => Self::DiskFull { folder: scratch.folder().display().to_string(), source },
            false => Self::Internal { source },
        }
    }
}

impl From<ArrowError> for DataError {
    fn from(error: ArrowError) -> Self {
        Self::internal(error)
    }
}

#[cfg(test)]
mod tests {
    use std::{io, path::Path};

    use super::*;

    #[test]
    fn a_full_disk_is_found_however_deep_it_is_wrapped() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        for error in [
            DataFusionError::IoError(full()),
            DataFusionError::from(ArrowError::from(full())),
            DataFusionError::from(ArrowError::ExternalError(Box::new(io::Error::other(full())))).context("spilling"),
        ] {
            let error = DataError::working(&Scratch::unlimited(Path::new("/scratch")), error);
            assert_eq!(error.reason(), Reason::DiskFull, "{error}");
            assert!(error.to_string().contains("/scratch") && error.to_string().contains("spec.resources.scratch"));
        }
        let other =
            DataError::working(&Scratch::unlimited(Path::new("/scratch")), DataFusionError::Internal("x".into()));
        assert_eq!(other.reason(), Reason::Internal);
    }
}
