//! The labels that every object of Stoker carries, and whose it is by them.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Who manages an object; every watch of the operator selects by it.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY`].
pub const STOKER: &str = "stoker";
/// What a pod is for: [`TRAINER`] or [`SERVER`].
pub const COMPONENT: &str = "app.kubernetes.io/component";
/// The component that trains, and the name of its container.
pub const TRAINER: &str = "trainer";
/// The component that serves, and the name of its container.
pub const SERVER: &str = "server";
/// The ModelTraining that an object belongs to.
pub const TRAINING: &str = "stoker.dev/training";
/// The number of the run that an object belongs to.
pub const RUN: &str = "stoker.dev/run";
/// The UID of the ModelTraining that a Job and its pods belong to: one that is deleted and created again is another.
pub const UID: &str = "stoker.dev/uid";
/// The ModelDeployment that an object belongs to.
pub const DEPLOYMENT: &str = "stoker.dev/deployment";
/// The revision of the ModelDeployment that an object belongs to.
pub const REVISION: &str = "stoker.dev/revision";
/// Digest of what an object was made from.
pub const DIGEST_ANNOTATION: &str = "stoker.dev/digest";
/// The image that an object's pods run: kept apart from the image in their template, which admission may rewrite.
pub const IMAGE_ANNOTATION: &str = "stoker.dev/image";
/// Digest of the model that a revision serves.
pub const MODEL_DIGEST_ANNOTATION: &str = "stoker.dev/model-digest";
/// Version of the model that a revision serves.
pub const MODEL_VERSION_ANNOTATION: &str = "stoker.dev/model-version";
/// Set to anything new on a ModelTraining, it starts the next run of an unchanged spec.
pub const RESTART_ANNOTATION: &str = "stoker.dev/restart";

/// Selects every object of the operator.
pub fn managed() -> String {
    format!("{MANAGED_BY}={STOKER}")
}

/// The resource that an object belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Owner {
    /// A ModelTraining.
    Training {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A ModelDeployment.
    Deployment {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

impl Owner {
    /// The ModelTraining of that name.
    pub fn training(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self::Training { namespace: namespace.into(), name: name.into() }
    }

    /// The ModelDeployment of that name.
    pub fn deployment(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self::Deployment { namespace: namespace.into(), name: name.into() }
    }

    /// Whose an object is by its labels.
    pub fn of(meta: &ObjectMeta) -> Option<Self> {
        let labels = meta.labels.as_ref()?;
        let namespace = meta.namespace.clone()?;
        match (labels.get(TRAINING), labels.get(DEPLOYMENT)) {
            (Some(name), None) => Some(Self::Training { namespace, name: name.clone() }),
            (None, Some(name)) => Some(Self::Deployment { namespace, name: name.clone() }),
            _ => None,
        }
    }

    /// The labels of everything that belongs to it.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let (key, name, component) = match self {
            Self::Training { name, .. } => (TRAINING, name, TRAINER),
            Self::Deployment { name, .. } => (DEPLOYMENT, name, SERVER),
        };
        [
            ("app.kubernetes.io/name", STOKER),
            ("app.kubernetes.io/instance", name),
            (MANAGED_BY, STOKER),
            (COMPONENT, component),
            (key, name),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    }
}
