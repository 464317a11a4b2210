//! The names of metrics, as the field writes them, and the splits that they are of.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The loss that is trained on, averaged over rows.
pub const LOSS: &str = "loss";
/// Share of rows whose predicted class is the true one.
pub const ACCURACY: &str = "accuracy";
/// Macro-averaged precision (of the positive class where there are two classes). Variants: `precision_micro`, `precision_weighted`.
pub const PRECISION: &str = "precision";
/// Macro-averaged recall (of the positive class where there are two classes). Variants: `recall_micro`, `recall_weighted`.
pub const RECALL: &str = "recall";
/// Macro-averaged F1 (of the positive class where there are two classes). Variants: `f1_micro`, `f1_weighted`.
pub const F1: &str = "f1";
/// e to the power of the mean cross-entropy of a token: among how many tokens, as likely as each other, the model would have
/// to choose.
pub const PERPLEXITY: &str = "perplexity";
/// Area under the ROC curve; one-vs-rest macro average for several classes.
pub const ROC_AUC: &str = "roc_auc";
/// Mean squared error, in squared units of the target.
pub const MSE: &str = "mse";
/// Root of the mean squared error, in units of the target.
pub const RMSE: &str = "rmse";
/// Mean absolute error, in units of the target.
pub const MAE: &str = "mae";
/// Coefficient of determination, averaged uniformly over the targets.
pub const R2: &str = "r2";

/// Metrics of one split, by name.
pub type Metrics = BTreeMap<String, f64>;

/// One of the parts that the data is split into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// What the model is fitted on, and the only part that statistics are fitted on.
    Train,
    /// What decides on early stopping.
    Validation,
    /// What is looked at once, at the end.
    Test,
}

impl Split {
    /// All of them, in the order of a run.
    pub const ALL: [Self; 3] = [Self::Train, Self::Validation, Self::Test];

    /// The name as it stands in status and in metric names like `validation/loss`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}
