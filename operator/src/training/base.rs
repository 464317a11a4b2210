//! The version of another training's model that a run starts from.

use stoker_crds::{
    ModelTraining, Reason,
    deployment::Version,
    training::{
        Storage, Task,
        model::{BaseTraining, BaseVersion},
        status::ModelVersion,
    },
};

use super::run::Run;
use crate::{
    error::{Error, Result},
    versions,
};

/// The ModelTraining that a training starts from, if it names one.
pub fn of(training: &ModelTraining) -> Option<&BaseTraining> {
    training.spec.model.base()?.training.as_ref()
}

/// The version that a run starts from; `base` is the ModelTraining that it names, if that exists.
///
/// A run that has begun goes on with the version that it began with, whatever was published, or deleted, since.
///
/// # Errors
/// [`Error::Invalid`], with `ModelNotFound` where the model is not there (yet).
pub fn resolve(
    training: &ModelTraining,
    run: &Run,
    base: Option<&ModelTraining>,
    default_storage: Option<&Storage>,
) -> Result<Option<BaseVersion>> {
    let Some(source) = of(training) else { return Ok(None) };
    let began_with = training.status.as_ref().filter(|_| run.goes_on).and_then(|status| status.base.clone());
    match began_with {
        Some(version) => Ok(Some(version)),
        None => published(source, base, default_storage).map(Some),
    }
}

fn published(
    source: &BaseTraining,
    base: Option<&ModelTraining>,
    default_storage: Option<&Storage>,
) -> Result<BaseVersion> {
    let name = &source.name;
    let missing = |message| Error::invalid(Reason::ModelNotFound, message);
    let invalid = |message| Error::invalid(Reason::InvalidConfig, message);
    let base = base.ok_or_else(|| {
        missing(format!(
            "there is no ModelTraining '{name}' in this namespace to start from, or none that can be read (its own status then says why): create it, or name another in spec.model.from.training.name"
        ))
    })?;
    if base.spec.task != Task::LanguageModeling {
        return Err(invalid(format!(
            "ModelTraining '{name}' trains no language model, and only one can be started from: name a training of the task LanguageModeling in spec.model.from.training.name"
        )));
    }
    let status = base.status.as_ref();
    let found = status.and_then(|status| versions::find(status, source.version));
    let ModelVersion { version, uri, digest, storage, .. } = found.ok_or_else(|| {
        missing(match source.version {
            Version::Latest => format!(
                "ModelTraining '{name}' has not published a model yet; the run starts as soon as it has (see: kubectl get modeltraining {name})"
            ),
            Version::Number(number) => format!(
                "ModelTraining '{name}' lists no version {number} (it lists: {}): choose another in spec.model.from.training.version, or name the artifact of an older one in spec.model.from.artifact",
                versions::list(status.map(|status| status.versions.as_slice()).unwrap_or_default())
            ),
        })
    })?;
    let storage = versions::storage(storage.as_ref(), base, default_storage).ok_or_else(|| {
        invalid(format!(
            "ModelTraining '{name}' sets no spec.storage, and the operator has no default storage any more: set spec.storage of that training"
        ))
    })?;
    Ok(BaseVersion {
        training: name.clone(),
        version: *version,
        uri: uri.clone(),
        digest: digest.clone(),
        secret_name: storage.secret_name,
        persistent_volume_claim: storage.persistent_volume_claim,
    })
}

#[cfg(test)]
mod tests {
    use stoker_crds::{ModelTrainingStatus, training::status::ModelStorage};

    use super::*;
    use crate::training::fixtures;

    fn resolved(training: &ModelTraining, base: Option<&ModelTraining>) -> Result<Option<BaseVersion>> {
        resolve(training, &Run::of(training).unwrap(), base, None)
    }

    fn refusal(training: &ModelTraining, base: Option<&ModelTraining>) -> (Reason, String) {
        let error = resolved(training, base).unwrap_err().to_status();
        (error.reason, error.message)
    }

    #[test]
    fn latest_is_the_newest_version_and_a_number_is_that_one() {
        let base = fixtures::base(&[1, 2]);
        for (wanted, found) in [(Version::Latest, 2), (Version::Number(1), 1)] {
            let version = resolved(&fixtures::fine_tuning(wanted), Some(&base)).unwrap().unwrap();
            assert_eq!((version.version, version.digest), (found, format!("sha256:{found:064}")));
            assert_eq!(version.secret_name.as_deref(), Some("base-s3"));
        }
        assert_eq!(resolved(&fixtures::training(), Some(&base)).unwrap(), None);
    }

    #[test]
    fn a_version_is_read_with_the_secret_that_it_was_written_with() {
        let mut base = fixtures::base(&[1]);
        let model = base.status.as_mut().unwrap().model.as_mut().unwrap();
        model.storage = base.spec.storage.clone().map(ModelStorage::from);
        base.spec.storage.as_mut().unwrap().secret_name = Some("rotated".into());
        let secret = |wanted| resolved(&fixtures::fine_tuning(wanted), Some(&base)).unwrap().unwrap().secret_name;
        assert_eq!(secret(Version::Latest).as_deref(), Some("base-s3"));
        // The list holds it as an earlier operator wrote it.
        assert_eq!(secret(Version::Number(1)).as_deref(), Some("rotated"));
    }

    #[test]
    fn a_model_that_is_not_there_is_not_found_and_the_message_says_what_to_do() {
        let (latest, third) = (fixtures::fine_tuning(Version::Latest), fixtures::fine_tuning(Version::Number(3)));
        let (published, not_yet) = (fixtures::base(&[1, 2]), fixtures::base(&[]));
        for (training, base, part) in [
            (&latest, None, "there is no ModelTraining 'stories' in this namespace"),
            (&latest, Some(&not_yet), "has not published a model yet; the run starts as soon as it has"),
            (&third, Some(&published), "lists no version 3 (it lists: 2, 1)"),
        ] {
            let (reason, message) = refusal(training, base);
            assert!(reason == Reason::ModelNotFound && message.contains(part), "{message}");
        }
        let mut rows = fixtures::base(&[1]);
        rows.spec.task = Task::Classification;
        let (reason, message) = refusal(&latest, Some(&rows));
        assert!(reason == Reason::InvalidConfig && message.contains("no language model"), "{message}");
    }

    #[test]
    fn a_run_goes_on_with_the_version_that_it_began_with_and_the_next_run_takes_the_newest() {
        let mut training = fixtures::fine_tuning(Version::Latest);
        let began_with = resolved(&training, Some(&fixtures::base(&[1]))).unwrap();
        training.status = Some(ModelTrainingStatus {
            run: 1,
            base: began_with.clone(),
            config_digest: Some(Run::of(&training).unwrap().digest.to_string()),
            phase: Some(stoker_crds::training::status::Phase::Training),
            ..Default::default()
        });
        let newer = fixtures::base(&[1, 2]);
        assert_eq!(resolved(&training, Some(&newer)).unwrap(), began_with);
        assert_eq!(resolved(&training, None).unwrap(), began_with);
        training.spec.train.seed += 1;
        assert_eq!(resolved(&training, Some(&newer)).unwrap().unwrap().version, 2);
    }
}
