//! The published versions of a ModelTraining, as other resources name them.

use stoker_crds::{ModelTrainingStatus, deployment::Version, training::status::ModelVersion};

/// The version that is asked for, if it is listed.
pub(crate) fn find(status: &ModelTrainingStatus, wanted: Version) -> Option<&ModelVersion> {
    match wanted {
        Version::Latest => status.model.as_ref(),
        Version::Number(number) => status.versions.iter().find(|version| version.version == number),
    }
}

/// The numbers of versions, for a person.
pub(crate) fn list(versions: &[ModelVersion]) -> String {
    let numbers: Vec<String> = versions.iter().map(|version| version.version.to_string()).collect();
    if numbers.is_empty() { "none".into() } else { numbers.join(", ") }
}
