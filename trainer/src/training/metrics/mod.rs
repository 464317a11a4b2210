//! Metrics of a whole split, exact, from predictions and truths.
//!
//! burn-train averages its metrics over batches, so that precision, F1, ROC AUC and R² depend on the batch size and the
//! last batch weighs too much. What is reported, and decides on early stopping, is computed here from every row of the
//! split, as scikit-learn does.

mod classification;
mod regression;
mod roc;

use stoker_crds::metric::Metrics;

pub use self::{
    classification::{Classification, classification},
    regression::{Regression, regression},
};

/// The metrics of one split.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// By name: see [`stoker_crds::metric`]. One that is not defined for the rows (a ROC AUC of one class) is absent.
    pub metrics: Metrics,
    /// Rows by true class (outer) and predicted class (inner), for a classification of at most
    /// [`MAX_CONFUSION_CLASSES`] classes.
    pub confusion: Option<Vec<Vec<u64>>>,
}

/// The most classes for which a confusion matrix is kept.
pub const MAX_CONFUSION_CLASSES: usize = 256;
