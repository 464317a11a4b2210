//! The objects of a run: built from a [`ValidRun`] alone, without a look at the cluster.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        batch::v1::{
            Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement,
            PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule,
        },
        core::v1::ConfigMap,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use stoker_crds::{
    config::{CONFIG_DIR, CONFIG_FILE, SCRATCH_DIR},
    progress::PROGRESS_PORT,
    report::{FINAL_EXIT_CODES, PREEMPTED_EXIT_CODE},
    training::storage::{BASE_ENV_PREFIX, BASE_MOUNT, DATA_ENV_PREFIX, DATA_MOUNT, STORAGE_ENV_PREFIX, STORAGE_MOUNT},
};

use super::validate::ValidRun;
use crate::{
    error::{Error, Result},
    labels,
    pod_template::{Mount, PodPlan, Probes, Source},
    settings::Settings,
};

/// How long a trainer may take to write a checkpoint and end, in seconds.
const GRACE_PERIOD_SECONDS: i64 = 120;

/// The objects of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Objects {
    /// What the trainer is told; immutable.
    pub config_map: ConfigMap,
    /// The Job that runs it.
    pub job: Job,
}

/// The objects of a run.
///
/// # Errors
/// If the configuration cannot be written as JSON.
pub fn build(run: &ValidRun, settings: &Settings) -> Result<Objects> {
    Ok(Objects { config_map: config_map(run)?, job: job(run, settings) })
}

fn config_map(run: &ValidRun) -> Result<ConfigMap> {
    let config = serde_json::to_string_pretty(&run.config)
        .map_err(|source| Error::Serialize { object: format!("the configuration of run {}", run.name), source })?;
    Ok(ConfigMap {
        metadata: metadata(run),
        data: Some([(CONFIG_FILE.to_owned(), config)].into()),
        immutable: Some(true),
        ..ConfigMap::default()
    })
}

fn job(run: &ValidRun, settings: &Settings) -> Job {
    let mut metadata = metadata(run);
    let image = settings.image(run.config.resources.gpus);
    let annotations = [(labels::DIGEST_ANNOTATION, run.digest.as_str()), (labels::IMAGE_ANNOTATION, image)];
    metadata.annotations = Some(annotations.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    Job {
        metadata,
        spec: Some(JobSpec {
            backoff_limit: Some(run.retries),
            active_deadline_seconds: run.deadline_seconds,
            suspend: Some(run.suspend),
            // Two trainers of one run must never write at the same time: a pod is replaced once it has ended.
            pod_replacement_policy: Some("Failed".into()),
            pod_failure_policy: Some(failure_policy()),
            template: pod(run).build(settings),
            ..JobSpec::default()
        }),
        status: None,
    }
}

/// What a try's end means for the run: some ends no other try can better, and some are nobody's fault.
fn failure_policy() -> PodFailurePolicy {
    let on_exit_codes = |values: Vec<i32>| {
        Some(PodFailurePolicyOnExitCodesRequirement {
            container_name: Some(labels::TRAINER.into()),
            operator: "In".into(),
            values,
        })
    };
    let rule = |action: &str| PodFailurePolicyRule { action: action.into(), ..PodFailurePolicyRule::default() };
    let disruption = PodFailurePolicyOnPodConditionsPattern { type_: "DisruptionTarget".into(), status: "True".into() };
    PodFailurePolicy {
        rules: vec![
            PodFailurePolicyRule {
                on_exit_codes: on_exit_codes(FINAL_EXIT_CODES.map(i32::from).collect()),
                ..rule("FailJob")
            },
            PodFailurePolicyRule {
                on_exit_codes: on_exit_codes(vec![i32::from(PREEMPTED_EXIT_CODE)]),
                ..rule("Ignore")
            },
            PodFailurePolicyRule { on_pod_conditions: Some(vec![disruption]), ..rule("Ignore") },
        ],
    }
}

fn pod(run: &ValidRun) -> PodPlan<'_> {
    let config = &run.config;
    let mut volumes = vec![
        Mount { name: "config", path: CONFIG_DIR, source: Source::ConfigMap(&run.name) },
        Mount { name: "scratch", path: SCRATCH_DIR, source: Source::Scratch(&config.resources.scratch) },
    ];
    if let Some(name) = config.data.source.persistent_volume_claim.as_deref() {
        volumes.push(Mount { name: "data", path: DATA_MOUNT, source: Source::Claim { name, read_only: true } });
    }
    if let Some(name) = config.storage.persistent_volume_claim.as_deref() {
        volumes.push(Mount { name: "storage", path: STORAGE_MOUNT, source: Source::Claim { name, read_only: false } });
    }
    let base = config.model.base();
    if let Some(name) = base.and_then(|base| base.persistent_volume_claim.as_deref()) {
        volumes.push(Mount { name: "base", path: BASE_MOUNT, source: Source::Claim { name, read_only: true } });
    }
    let base_secret = base.and_then(|base| base.secret_name.as_deref());
    let storage_secret = config.storage.secret_name.as_deref();
    let data_secret = config.data.source.secret_name.as_deref().or(storage_secret);
    let credentials =
        [(DATA_ENV_PREFIX, data_secret), (STORAGE_ENV_PREFIX, storage_secret), (BASE_ENV_PREFIX, base_secret)];
    PodPlan {
        container: labels::TRAINER,
        labels: labels_of(run),
        annotations: BTreeMap::new(),
        args: ["train", "--config", &format!("{CONFIG_DIR}/{CONFIG_FILE}"), "--scratch", SCRATCH_DIR]
            .map(ToOwned::to_owned)
            .into(),
        // What sorts and spills looks there for room.
        env: vec![("TMPDIR", SCRATCH_DIR.to_owned())],
        credentials: credentials.into_iter().filter_map(|(prefix, secret)| Some((prefix, secret?))).collect(),
        resources: &config.resources,
        scheduling: &run.scheduling,
        service_account: config.storage.service_account_name.as_deref(),
        ports: vec![("progress", PROGRESS_PORT)],
        volumes,
        probes: Probes::default(),
        restart_policy: "Never",
        grace_period_seconds: GRACE_PERIOD_SECONDS,
    }
}

fn metadata(run: &ValidRun) -> ObjectMeta {
    ObjectMeta {
        name: Some(run.name.clone()),
        namespace: Some(run.namespace.clone()),
        labels: Some(labels_of(run)),
        owner_references: Some(vec![run.owner_reference.clone()]),
        ..ObjectMeta::default()
    }
}

fn labels_of(run: &ValidRun) -> BTreeMap<String, String> {
    let mut labels = run.owner.labels();
    labels.insert(labels::RUN.into(), run.config.run.number.to_string());
    labels.insert(labels::UID.into(), run.config.run.uid.clone());
    labels
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use stoker_crds::training::Cache;

    use super::*;
    use crate::training::{fixtures, run::Run, validate::validate};

    fn objects(change: impl Fn(&mut stoker_crds::ModelTraining)) -> Objects {
        let (mut training, settings) = (fixtures::training(), fixtures::settings());
        change(&mut training);
        let run = Run::of(&training).unwrap();
        build(&validate(&training, &run, None, &settings).unwrap(), &settings).unwrap()
    }

    #[test]
    fn the_objects_of_a_run() {
        let objects = objects(|_| ());
        insta::assert_yaml_snapshot!("config_map", objects.config_map);
        insta::assert_yaml_snapshot!("job", objects.job);
    }

    #[test]
    fn a_model_to_start_from_brings_its_secret_and_its_volume() {
        let from = |value: serde_json::Value| {
            let objects = objects(|training| {
                training.spec = fixtures::fine_tuning(stoker_crds::deployment::Version::Latest).spec;
                training.spec.model = serde_json::from_value(serde_json::json!({"from": value})).unwrap();
            });
            objects.job.spec.unwrap().template.spec.unwrap()
        };
        let pod = from(serde_json::json!({"huggingFace": {"uri": "s3://models/gpt2/", "secretName": "hub"}}));
        let credentials = pod.containers[0].env_from.clone().unwrap();
        let base = credentials.iter().find(|source| source.prefix.as_deref() == Some("BASE_")).unwrap();
        assert_eq!(base.secret_ref.as_ref().unwrap().name, "hub");

        let on_volume = serde_json::json!({"artifact": {"uri": "file:///base/m", "persistentVolumeClaim": "bases"}});
        let pod = from(on_volume);
        let mounts = pod.containers[0].volume_mounts.clone().unwrap();
        let mount = mounts.iter().find(|mount| mount.mount_path == "/base").unwrap();
        let volume = pod.volumes.unwrap().into_iter().find(|volume| volume.name == mount.name).unwrap();
        let claim = volume.persistent_volume_claim.unwrap();
        assert_eq!((claim.claim_name.as_str(), claim.read_only), ("bases", Some(true)));
    }

    #[test]
    fn a_gpu_a_volume_and_another_secret_reach_the_pod() {
        let objects = objects(|training| {
            training.spec.resources.gpus = 1;
            training.spec.data.source.uri = "file:///data/digits.csv".into();
            training.spec.data.source.persistent_volume_claim = Some("digits".into());
            training.spec.data.source.secret_name = Some("data".into());
            training.spec.scheduling.priority_class_name = Some("high".into());
            training.spec.deadline = Some(stoker_crds::Duration::from_secs(7200));
        });
        insta::assert_yaml_snapshot!("job_with_gpu", objects.job.spec.unwrap());
    }

    #[test]
    fn gpu_kernels_are_kept_where_the_spec_says_and_the_pod_may_write_there() {
        let size = json!({"emptyDir": {"sizeLimit": "4Gi"}, "name": "kernels"});
        let claim = json!({"persistentVolumeClaim": {"claimName": "a100", "readOnly": false}, "name": "kernels"});
        for (cache, volume) in [(Cache::Size("4Gi".into()), size), (Cache::PersistentVolumeClaim("a100".into()), claim)]
        {
            let objects = objects(|training| {
                training.spec.resources.gpus = 1;
                training.spec.resources.cache = Some(cache.clone());
            });
            let pod = objects.job.spec.unwrap().template.spec.unwrap();
            let mounts = pod.containers[0].volume_mounts.as_ref().unwrap();
            let mount = json!({"mountPath": "/cache", "name": "kernels", "readOnly": false});
            assert_eq!(json!(mounts.last()), mount);
            assert_eq!(json!(pod.volumes.unwrap().last()), volume);
            // The group to which Kubernetes gives a volume.
            assert_eq!(pod.security_context.unwrap().fs_group, Some(65532));
        }
    }
}
