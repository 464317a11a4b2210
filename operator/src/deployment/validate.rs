//! From what was read to what can be built: every value of a [`Validated`] can be used as it is. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;
use stoker_crds::{
    ModelDeployment, ModelTraining, Reason,
    deployment::{MAX_NAME, ModelSource, Server, TrainingSource, Version, status::ServedModel},
    training::{
        Resources, Scheduling, Storage, Task,
        status::{MAX_VERSIONS, ModelStorage, ModelVersion},
    },
};

use crate::{Error, Result, versions};

/// A ModelDeployment that can be built.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Validated {
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
    /// Makes an object its own.
    pub(crate) owner: OwnerReference,
    /// The model to serve.
    pub(crate) model: ServedModel,
    /// How its pods get at the model.
    pub(crate) access: Access,
    /// How many pods serve it.
    pub(crate) replicas: u32,
    /// How the pods work.
    pub(crate) server: Server,
    /// What a pod gets.
    pub(crate) resources: Resources,
    /// The Secret of API keys, if not everybody may ask.
    pub(crate) api_keys: Option<String>,
    /// On which nodes the pods may run.
    pub(crate) scheduling: Scheduling,
}

/// How pods get at a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// In object storage.
    Objects {
        /// The Secret with the credentials.
        secret: Option<String>,
        /// The service account that has an identity in the cloud.
        service_account: Option<String>,
    },
    /// On the volume of that claim.
    Volume(String),
}

/// Checks a ModelDeployment against what it refers to: `training` is the one that it names, if that exists.
///
/// # Errors
/// [`Error::Invalid`], with `ModelNotFound` where the model is not there (yet), and `InvalidConfig` for what the API
/// server's own validation would refuse, or the operator's settings do.
pub(crate) fn validate(
    deployment: &ModelDeployment,
    training: Option<&ModelTraining>,
    default_storage: Option<&Storage>,
    allow_file_storage: bool,
) -> Result<Validated> {
    let meta = &deployment.metadata;
    let incomplete = |what| Error::Incomplete("ModelDeployment".into(), what);
    let name = meta.name.clone().ok_or_else(|| incomplete("name"))?;
    let spec = &deployment.spec;
    if name.len() > MAX_NAME {
        return Err(invalid(format!("metadata.name is longer than {MAX_NAME} characters: choose a shorter one")));
    }
    if spec.server.limits.timeout.0.is_zero() {
        return Err(invalid("spec.server.limits.timeout must be longer than 0s"));
    }
    let (model, storage) = match &spec.model {
        ModelSource::Training(source) => {
            let served = deployment.status.as_ref().and_then(|status| status.model.as_ref());
            published(source, training, served, default_storage)?
        }
        ModelSource::Artifact(source) => {
            let model =
                ServedModel { digest: source.digest.clone(), uri: source.uri.clone(), ..ServedModel::default() };
            let storage = Storage {
                uri: source.uri.clone(),
                secret_name: source.secret_name.clone(),
                service_account_name: source.service_account_name.clone(),
                persistent_volume_claim: source.persistent_volume_claim.clone(),
            };
            (model, storage)
        }
    };
    check_digest(&model.digest)?;
    Ok(Validated {
        access: access(&model.uri, storage, allow_file_storage)?,
        namespace: meta.namespace.clone().ok_or_else(|| incomplete("namespace"))?,
        owner: deployment.controller_owner_ref(&()).ok_or_else(|| incomplete("uid"))?,
        name,
        model,
        replicas: spec.replicas,
        resources: Resources::from(&spec.server.resources),
        server: spec.server.clone(),
        api_keys: spec.auth.as_ref().map(|auth| auth.api_keys.secret_name.clone()),
        scheduling: spec.scheduling.clone(),
    })
}

/// The wanted version of a training's model, and the storage that it lies in. One that the training's bounded list has
/// dropped is known by being `served`, and taken to lie where the training writes now.
fn published(
    source: &TrainingSource,
    training: Option<&ModelTraining>,
    served: Option<&ServedModel>,
    default_storage: Option<&Storage>,
) -> Result<(ServedModel, Storage)> {
    let name = &source.name;
    let missing = |message| Err(Error::invalid(Reason::ModelNotFound, message));
    let Some(training) = training else {
        return missing(format!(
            "there is no ModelTraining '{name}' in this namespace, or none that can be read (its own status then says why): create it, or name another in spec.model.training.name"
        ));
    };
    if training.spec.task == Task::LanguageModeling {
        return Err(invalid(format!(
            "ModelTraining '{name}' trains a language model, and servers take models of rows: name a training of a Regression or a Classification in spec.model.training.name"
        )));
    }
    let versions = training.status.as_ref().map(|status| status.versions.as_slice()).unwrap_or_default();
    let Some((model, published_to)) = find(source, training, served) else {
        return missing(match source.version {
            Version::Latest => format!(
                "ModelTraining '{name}' has not published a model yet; it is served as soon as it has (see: kubectl get modeltraining {name})"
            ),
            Version::Number(number) if is_full(versions) => format!(
                "ModelTraining '{name}' lists no version {number} (it lists its last ones: {}): choose another in spec.model.training.version, or name the artifact of an older one in spec.model.artifact",
                versions::list(versions)
            ),
            Version::Number(number) => format!(
                "ModelTraining '{name}' has no version {number} (it has: {}): choose another in spec.model.training.version, or Latest",
                versions::list(versions)
            ),
        });
    };
    let Some(storage) = versions::storage(published_to.as_ref(), training, default_storage) else {
        return Err(invalid(format!(
            "ModelTraining '{name}' sets no spec.storage, and the operator has no default storage any more: set spec.storage of the training"
        )));
    };
    Ok((model, storage))
}

/// The wanted version as the training lists it, with what it was published to, else as it is served.
fn find(
    source: &TrainingSource,
    training: &ModelTraining,
    served: Option<&ServedModel>,
) -> Option<(ServedModel, Option<ModelStorage>)> {
    let status = training.status.as_ref()?;
    let is_wanted = |served: &&ServedModel| {
        served.training.as_ref() == Some(&source.name) && served.version.map(Version::Number) == Some(source.version)
    };
    match versions::find(status, source.version).cloned() {
        Some(ModelVersion { version, uri, digest, metrics, published_at: _, storage }) => {
            let training = Some(source.name.clone());
            Some((ServedModel { training, version: Some(version), digest, uri, metrics }, storage))
        }
        None => Some((served.filter(is_wanted).filter(|_| is_full(&status.versions))?.clone(), None)),
    }
}

/// Whether a training may have published more versions than it lists.
fn is_full(versions: &[ModelVersion]) -> bool {
    versions.len() >= MAX_VERSIONS
}

/// How pods get at a model of that URI.
fn access(uri: &str, storage: Storage, allow_file_storage: bool) -> Result<Access> {
    let Storage { uri: _, secret_name, service_account_name, persistent_volume_claim } = storage;
    match (uri.starts_with("file://"), persistent_volume_claim) {
        (false, _) => Ok(Access::Objects { secret: secret_name, service_account: service_account_name }),
        (true, _) if !allow_file_storage => Err(invalid(format!(
            "the model lies at {uri}, and this cluster's administrator has turned file:// URIs off: use s3://, gs:// or az://"
        ))),
        (true, Some(claim)) => Ok(Access::Volume(claim)),
        (true, None) => Err(invalid(format!(
            "the model lies at {uri}, and no persistentVolumeClaim says on which volume that is: set it beside the URI"
        ))),
    }
}

fn check_digest(digest: &str) -> Result<()> {
    let hex = digest.strip_prefix("sha256:").unwrap_or_default();
    if hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Ok(());
    }
    Err(invalid(format!("the model's digest '{digest}' is not sha256: and 64 hexadecimal digits")))
}

fn invalid(message: impl Into<String>) -> Error {
    Error::invalid(Reason::InvalidConfig, message)
}

#[cfg(test)]
mod tests {
    use stoker_crds::ModelDeploymentStatus;

    use super::*;
    use crate::deployment::fixtures::{deployment, digest, model, training};

    fn check(change: impl FnOnce(&mut ModelDeployment), training: Option<&ModelTraining>) -> Result<Validated> {
        let mut deployment = deployment();
        change(&mut deployment);
        validate(&deployment, training, None, true)
    }

    fn refusal<T: std::fmt::Debug>(result: Result<T>) -> (Reason, String) {
        let error = result.unwrap_err().to_status();
        (error.reason, error.message)
    }

    fn version(version: Version) -> impl FnOnce(&mut ModelDeployment) {
        move |deployment| {
            deployment.spec.model = ModelSource::Training(TrainingSource { name: "digits".into(), version });
        }
    }

    fn artifact(uri: &str, digest: &str, claim: Option<&str>) -> impl FnOnce(&mut ModelDeployment) {
        let artifact = stoker_crds::deployment::ArtifactSource {
            uri: uri.into(),
            digest: digest.into(),
            secret_name: None,
            service_account_name: None,
            persistent_volume_claim: claim.map(Into::into),
        };
        move |deployment| deployment.spec.model = ModelSource::Artifact(artifact)
    }

    #[test]
    fn latest_is_the_last_version_and_a_number_is_that_one() {
        let training = training(3);
        for (wanted, found) in [(Version::Latest, 3), (Version::Number(1), 1)] {
            let valid = check(version(wanted), Some(&training)).unwrap();
            assert_eq!((valid.model.version, valid.model.digest), (Some(found), digest(found)));
            assert_eq!(valid.access, Access::Objects { secret: Some("s3".into()), service_account: None });
        }
    }

    #[test]
    fn a_model_that_is_not_there_is_not_found_and_the_message_says_what_to_do() {
        let cases = [
            (check(|_| {}, None), "there is no ModelTraining 'digits'"),
            (check(|_| {}, Some(&training(0))), "has not published a model yet"),
            (check(version(Version::Number(7)), Some(&training(2))), "has no version 7 (it has: 2, 1)"),
            (check(version(Version::Number(7)), Some(&training(0))), "has no version 7 (it has: none)"),
        ];
        for (result, part) in cases {
            let (reason, message) = refusal(result);
            assert_eq!(reason, Reason::ModelNotFound);
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn a_language_model_is_not_served() {
        let mut training = training(1);
        training.spec.task = Task::LanguageModeling;
        let (reason, message) = refusal(check(|_| {}, Some(&training)));
        assert!(reason == Reason::InvalidConfig && message.contains("language model"), "{message}");
    }

    #[test]
    fn a_served_version_is_served_on_when_the_training_lists_it_no_longer() {
        let mut training = training(22);
        let versions = &mut training.status.as_mut().unwrap().versions;
        versions.truncate(MAX_VERSIONS);
        let pinned = |served: ServedModel, training: &ModelTraining| {
            let pin = |deployment: &mut ModelDeployment| {
                version(Version::Number(1))(deployment);
                deployment.status = Some(ModelDeploymentStatus { model: Some(served), ..Default::default() });
            };
            check(pin, Some(training)).map(|valid| valid.model)
        };
        assert_eq!(pinned(model(1), &training).unwrap(), model(1));
        let of_another = ServedModel { training: Some("wine".into()), ..model(1) };
        for served in [model(2), of_another] {
            let (reason, message) = refusal(pinned(served, &training));
            assert!(reason == Reason::ModelNotFound && message.contains("spec.model.artifact"), "{message}");
        }
        // A training of the same name that was made anew: what served was never its own.
        training.status.as_mut().unwrap().versions.retain(|version| version.version == 22);
        assert_eq!(refusal(pinned(model(1), &training)).0, Reason::ModelNotFound);
    }

    #[test]
    fn the_operators_storage_stands_in_for_the_trainings() {
        let mut training = training(1);
        training.spec.storage = None;
        assert_eq!(refusal(check(|_| {}, Some(&training))).0, Reason::InvalidConfig);
        let storage = Storage {
            uri: "s3://models".into(),
            secret_name: None,
            service_account_name: Some("reader".into()),
            persistent_volume_claim: None,
        };
        let valid = validate(&deployment(), Some(&training), Some(&storage), true).unwrap();
        assert_eq!(valid.access, Access::Objects { secret: None, service_account: Some("reader".into()) });
    }

    #[test]
    fn a_version_is_read_as_it_was_written_and_not_as_the_training_writes_now() {
        let mut training = training(2);
        let status = training.status.as_mut().unwrap();
        status.versions[0].storage = training.spec.storage.clone().map(ModelStorage::from);
        training.spec.storage.as_mut().unwrap().secret_name = Some("other".into());
        // The first was published by an operator that did not take that down.
        for (number, secret) in [(2, "s3"), (1, "other")] {
            let valid = check(version(Version::Number(number)), Some(&training)).unwrap();
            assert_eq!(valid.access, Access::Objects { secret: Some(secret.into()), service_account: None });
        }
    }

    #[test]
    fn a_volume_is_taken_where_the_administrator_allows_it() {
        let (mut on_volume, uri) = (deployment(), "file:///storage/digits");
        artifact(uri, &digest(1), Some("models"))(&mut on_volume);
        assert_eq!(validate(&on_volume, None, None, true).unwrap().access, Access::Volume("models".into()));
        let (reason, message) = refusal(validate(&on_volume, None, None, false));
        assert!(reason == Reason::InvalidConfig && message.contains(uri), "{message}");
    }

    #[test]
    fn what_the_schema_should_have_refused_is_refused() {
        let cases: [(Result<Validated>, &str); 5] = [
            (check(artifact("s3://models/a", "sha256:abc", None), None), "digest 'sha256:abc'"),
            (check(artifact("s3://models/a", &"a".repeat(64), None), None), "digest"),
            (check(artifact("file:///storage/a", &digest(1), None), None), "persistentVolumeClaim"),
            (check(|deployment| deployment.metadata.name = Some("a".repeat(46)), Some(&training(1))), "metadata.name"),
            (
                check(
                    |deployment| deployment.spec.server.limits.timeout.0 = std::time::Duration::ZERO,
                    Some(&training(1)),
                ),
                "timeout",
            ),
        ];
        for (result, part) in cases {
            let (reason, message) = refusal(result);
            assert_eq!(reason, Reason::InvalidConfig);
            assert!(message.contains(part), "{message}");
        }
    }
}
