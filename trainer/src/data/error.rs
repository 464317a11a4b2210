//! Why data cannot be trained on.

use stoker_crds::Reason;

use crate::storage::StorageError;

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
    #[error("{0}")]
    DiskFull(String),
    /// A defect.
    #[error("{0}")]
    Internal(String),
}

impl DataError {
    /// The reason that a run which ends by this error reports.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Storage(error) => error.reason(),
            Self::InvalidConfig(_) => Reason::InvalidConfig,
            Self::UnknownColumn(_) => Reason::UnknownColumn,
            Self::WrongType(_) => Reason::WrongType,
            Self::Unparsable(_) => Reason::UnparsableData,
            Self::Empty(_) => Reason::EmptyData,
            Self::NotFound(_) => Reason::DataNotFound,
            Self::DiskFull(_) => Reason::DiskFull,
            Self::Internal(_) => Reason::Internal,
        }
    }
}
