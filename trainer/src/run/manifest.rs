//! A ModelTraining as it stands in a manifest, for runs without an API server.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use stoker_crds::{
    ModelTrainingSpec,
    training::validate::{FieldError, check_name},
};

/// A ModelTraining of a manifest file.
#[derive(Clone, Debug)]
pub struct Training {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`, or `default`.
    pub namespace: String,
    /// `spec`.
    pub spec: ModelTrainingSpec,
}

/// Why a manifest gives no training.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is no YAML, or a field is unknown or of the wrong type.
    #[error("{path}: {message}", path = path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        message: String,
    },
    /// There is no ModelTraining of that name, or more than one.
    #[error("{path} holds {found} ModelTrainings{named}: name one that it holds with --name", path = path.display())]
    Choose {
        /// The file.
        path: PathBuf,
        /// How many there are.
        found: usize,
        /// Of which name.
        named: String,
    },
    /// Fields cannot be as they are written.
    #[error("the ModelTraining '{name}' cannot be run:\n{}", lines(errors))]
    Invalid {
        /// Its name.
        name: String,
        /// What is wrong.
        errors: Vec<FieldError>,
    },
}

fn lines(errors: &[FieldError]) -> String {
    errors.iter().map(|error| format!("  {error}")).collect::<Vec<_>>().join("\n")
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    spec: serde_json::Value,
}

#[derive(Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    name: String,
    namespace: Option<String>,
}

/// Reads the ModelTraining of a manifest: the one of that name, or the only one.
///
/// # Errors
/// If the file cannot be read, holds no such training, or the training cannot be run as it is written.
pub fn read(path: &Path, name: Option<&str>) -> Result<Training, ManifestError> {
    let parse = |message: String| ManifestError::Parse { path: path.to_owned(), message };
    let text = std::fs::read_to_string(path).map_err(|source| ManifestError::Read { path: path.to_owned(), source })?;
    let documents: Vec<Document> = serde_saphyr::from_multiple(&text).map_err(|error| parse(error.to_string()))?;
    let mut trainings: Vec<Document> = documents
        .into_iter()
        .filter(|document| document.kind == "ModelTraining" && name.is_none_or(|name| document.metadata.name == name))
        .collect();
    let (1, Some(document)) = (trainings.len(), trainings.pop()) else {
        let named = name.map(|name| format!(" named '{name}'")).unwrap_or_default();
        return Err(ManifestError::Choose { path: path.to_owned(), found: trainings.len(), named });
    };
    let Metadata { name, namespace } = document.metadata;
    let spec: ModelTrainingSpec = serde_json::from_value(document.spec)
        .map_err(|error| parse(format!("the spec of the ModelTraining '{name}' is not valid: {error}")))?;
    let errors = check_name(&name).err().into_iter().chain(spec.validate().err().into_iter().flatten());
    let errors: Vec<FieldError> = errors.collect();
    if errors.is_empty() {
        Ok(Training { name, namespace: namespace.unwrap_or_else(|| "default".into()), spec })
    } else {
        Err(ManifestError::Invalid { name, errors })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(name: &str) -> PathBuf {
        Path::new("../examples").join(name)
    }

    #[test]
    fn the_examples_are_read_as_they_stand() {
        for name in ["digits", "cars", "cells"] {
            let training = read(&example(&format!("{name}.yaml")), None).unwrap();
            assert_eq!((training.name.as_str(), training.namespace.as_str()), (name, "default"));
        }
    }

    #[test]
    fn an_unknown_field_is_refused_by_its_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = std::fs::read_to_string(example("cells.yaml")).unwrap().replace("batchSize", "batchsize");
        std::fs::write(file.path(), text).unwrap();
        let error = read(file.path(), None).unwrap_err().to_string();
        assert!(error.contains("batchsize"), "{error}");
    }

    #[test]
    fn every_wrong_field_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = std::fs::read_to_string(example("cells.yaml")).unwrap();
        let text = text.replace("train: 0.8", "train: 0.9").replace("loss: MSE", "loss: CrossEntropy");
        std::fs::write(file.path(), text).unwrap();
        let error = read(file.path(), None).unwrap_err().to_string();
        assert!(error.contains("spec.data.split") && error.contains("spec.train.loss"), "{error}");
    }

    #[test]
    fn what_a_cluster_would_refuse_is_refused_here_too() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = std::fs::read_to_string(example("cells.yaml")).unwrap();
        let changed = text.replace("name: cells", "name: Cells_2").replace("memory: 1Gi", "memory: 512m");
        std::fs::write(file.path(), changed).unwrap();
        let error = read(file.path(), None).unwrap_err().to_string();
        assert!(error.contains("metadata.name") && error.contains("512Mi"), "{error}");
    }

    #[test]
    fn a_name_that_is_not_there_is_refused() {
        let error = read(&example("cars.yaml"), Some("boats")).unwrap_err().to_string();
        assert!(error.contains("'boats'") && error.contains("--name"), "{error}");
    }
}
