//! The published versions of a ModelTraining, as other resources name them.

use stoker_crds::{
    ModelTraining, ModelTrainingStatus,
    deployment::Version,
    training::{
        Storage,
        status::{ModelStorage, ModelVersion},
    },
};

/// The version that is asked for, if it is listed.
pub(crate) fn find(status: &ModelTrainingStatus, wanted: Version) -> Option<&ModelVersion> {
    match wanted {
        Version::Latest => status.model.as_ref(),
        Version::Number(number) => status.versions.iter().find(|version| version.version == number),
    }
}

/// The storage that a version lies in: as it was when the version was published, or, where an earlier operator did not take that
/// down, as it is now.
pub(crate) fn storage(
    published_to: Option<&ModelStorage>,
    training: &ModelTraining,
    default_storage: Option<&Storage>,
) -> Option<Storage> {
    let published_to = published_to.cloned().map(Storage::from);
    published_to.or_else(|| training.spec.storage.as_ref().or(default_storage).cloned())
}

/// The numbers of versions, for a person.
pub(crate) fn list(versions: &[ModelVersion]) -> String {
    let numbers: Vec<String> = versions.iter().map(|version| version.version.to_string()).collect();
    if numbers.is_empty() { "none".into() } else { numbers.join(", ") }
}
