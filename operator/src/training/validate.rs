//! What a spec comes to: everything that its run is built from, or why it cannot be run.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};
use stoker_crds::{
    ModelTraining, ModelTrainingSpec, Reason, TrainConfig,
    config::RunIdentity,
    training::{Scheduling, model::BaseVersion, storage::SCHEMES, validate::FieldError},
};

use super::run::Run;
use crate::{
    error::{Error, Result},
    labels::Owner,
    settings::Settings,
};

/// A run that can be built: whatever takes one needs no further check.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidRun {
    /// Whose it is.
    pub owner: Owner,
    /// The reference that its objects hold to the ModelTraining.
    pub owner_reference: OwnerReference,
    /// Its namespace.
    pub namespace: String,
    /// The name of its Job and ConfigMap.
    pub name: String,
    /// Its digest, as it stands in status.
    pub digest: String,
    /// Whether status does not know it yet.
    pub is_new: bool,
    /// What the trainer is told.
    pub config: TrainConfig,
    /// Where its pod may run.
    pub scheduling: Scheduling,
    /// Whether it is held back.
    pub suspend: bool,
    /// How often it is tried again.
    pub retries: i32,
    /// How long it may take, in seconds.
    pub deadline_seconds: Option<i64>,
}

/// Checks what the API server checks too: a cluster may have an older schema.
///
/// # Errors
/// [`Error::Invalid`], which names the fields and the fix.
pub fn check(spec: &ModelTrainingSpec) -> Result<()> {
    let in_words = |errors: Vec<FieldError>| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    spec.validate().map_err(|errors| Error::invalid(Reason::InvalidConfig, in_words(errors)))
}

/// Checks what the API server cannot: what depends on how the operator was installed. `base` is the version that the run
/// starts from, where it names a training.
///
/// # Errors
/// [`Error::Invalid`], which names the field and the fix.
pub fn validate(
    training: &ModelTraining,
    run: &Run,
    base: Option<&BaseVersion>,
    settings: &Settings,
) -> Result<ValidRun> {
    let spec = &training.spec;
    let invalid = |message: String| Error::invalid(Reason::InvalidConfig, message);
    let incomplete = |what| Error::Incomplete(format!("ModelTraining {}", training.name_any()), what);
    let namespace = training.namespace().ok_or_else(|| incomplete("namespace"))?;
    let identity = RunIdentity {
        namespace: namespace.clone(),
        training: training.name_any(),
        uid: training.uid().ok_or_else(|| incomplete("uid"))?,
        number: run.number,
    };
    let config = TrainConfig::resolve(spec, identity, settings.default_storage.as_ref(), base)
        .map_err(|error| invalid(error.to_string()))?;
    check_files(&config, settings)?;
    Ok(ValidRun {
        owner: Owner::training(&namespace, training.name_any()),
        owner_reference: training.controller_owner_ref(&()).ok_or_else(|| incomplete("uid"))?,
        name: run.name(&training.name_any()),
        digest: run.digest.to_string(),
        is_new: run.is_new,
        scheduling: spec.scheduling.clone(),
        suspend: spec.suspend,
        retries: i32::try_from(spec.retries).unwrap_or(i32::MAX),
        deadline_seconds: spec.deadline.map(|deadline| whole_seconds(deadline.0)),
        namespace,
        config,
    })
}

/// Refuses `file://` where the administrator turned it off.
fn check_files(config: &TrainConfig, settings: &Settings) -> Result<()> {
    let [.., file] = SCHEMES;
    let base = config.model.base().map(|base| ("spec.model.from", &base.uri));
    let uris = [("spec.data.source.uri", &config.data.source.uri), ("spec.storage.uri", &config.storage.uri)];
    match uris.into_iter().chain(base).find(|(_, uri)| uri.starts_with(file)) {
        Some((field, uri)) if !settings.allow_file_storage => Err(Error::invalid(
            Reason::InvalidConfig,
            format!(
                "{field}: '{uri}' is on a volume, which this cluster's Stoker does not allow: use s3://, gs:// or az://"
            ),
        )),
        _ => Ok(()),
    }
}

/// A Job counts whole seconds; what is shorter than one is one.
fn whole_seconds(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use stoker_crds::training::Storage;

    use super::*;
    use crate::training::fixtures;

    fn error(change: impl Fn(&mut ModelTraining, &mut Settings)) -> String {
        let (mut training, mut settings) = (fixtures::training(), fixtures::settings());
        change(&mut training, &mut settings);
        let run = Run::of(&training).unwrap();
        validate(&training, &run, None, &settings).unwrap_err().to_status().message
    }

    #[test]
    fn a_spec_without_storage_needs_a_default_one() {
        let message = error(|training, _| training.spec.storage = None);
        assert!(message.contains("spec.storage.uri"), "{message}");
    }

    #[test]
    fn the_default_storage_is_taken_where_none_is_set() {
        let (mut training, mut settings) = (fixtures::training(), fixtures::settings());
        settings.default_storage = training.spec.storage.take().map(|mut storage: Storage| {
            storage.uri = "gs://default".into();
            storage
        });
        let run = validate(&training, &Run::of(&training).unwrap(), None, &settings).unwrap();
        assert_eq!(run.config.storage.uri, "gs://default");
    }

    #[test]
    fn files_are_refused_where_they_are_turned_off() {
        let message = error(|training, settings| {
            settings.allow_file_storage = false;
            training.spec.data.source.uri = "file:///data/a.csv".into();
        });
        assert!(message.starts_with("spec.data.source.uri"), "{message}");
    }

    #[test]
    fn what_an_older_schema_let_through_is_refused_here() {
        let mut spec = fixtures::training().spec;
        spec.train.batch_size = 0;
        let message = check(&spec).unwrap_err().to_status().message;
        assert!(message.contains("spec.train.batchSize"), "{message}");
    }
}
