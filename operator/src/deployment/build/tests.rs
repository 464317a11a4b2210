use k8s_openapi::api::core::v1::PodSpec;

use super::*;
use crate::{
    deployment::fixtures::{digest, validated},
    training::fixtures::settings,
};

fn objects(change: impl FnOnce(&mut stoker_crds::ModelDeployment)) -> Objects {
    build(&validated(change), &settings()).unwrap()
}

fn pod(objects: &Objects) -> &PodSpec {
    objects.workload.spec.as_ref().unwrap().template.spec.as_ref().unwrap()
}

/// A change of a ModelDeployment's spec, as a user would write it.
fn patch(deployment: &mut stoker_crds::ModelDeployment, spec: &str) {
    let mut value = serde_json::to_value(&deployment.spec).unwrap();
    let changes: serde_json::Value = serde_saphyr::from_str(spec).unwrap();
    value.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    deployment.spec = serde_json::from_value(value).unwrap();
}

fn with(spec: &str) -> Objects {
    objects(|deployment| patch(deployment, spec))
}

#[test]
fn the_objects_of_a_deployment() {
    let Objects { service, policy, budget, workload } = objects(|_| {});
    insta::assert_yaml_snapshot!("service", service);
    insta::assert_yaml_snapshot!("policy", policy);
    insta::assert_yaml_snapshot!("budget", budget);
    insta::assert_yaml_snapshot!("workload", workload);
}

#[test]
fn keys_a_gpu_and_limits_reach_the_pod() {
    let objects = with(
        "
        auth: {apiKeys: {secretName: digits-keys}}
        server:
          batching: {maxSize: 128, maxDelay: 5ms}
          limits: {maxBodyBytes: 2048, timeout: 1h, maxQueue: 7}
          resources: {gpus: 1, cpu: '4', memory: 8Gi}
        scheduling: {priorityClassName: high, nodeSelector: {pool: gpu}}
        ",
    );
    insta::assert_yaml_snapshot!("pod_with_everything", pod(&objects));
}

#[test]
fn gpu_kernels_are_kept_on_the_claim_that_the_spec_names() {
    let objects = with("server: {resources: {gpus: 1, cache: {persistentVolumeClaim: a100}}}");
    let volume = pod(&objects).volumes.as_ref().unwrap().last().unwrap();
    assert_eq!(volume.persistent_volume_claim.as_ref().unwrap().claim_name, "a100");
    let mounts = pod(&objects).containers[0].volume_mounts.as_ref().unwrap();
    let mount = mounts.iter().find(|mount| mount.name == volume.name).unwrap();
    assert_eq!((mount.mount_path.as_str(), mount.read_only), ("/cache", Some(false)));
}

#[test]
fn an_artifact_on_a_volume_is_mounted_and_needs_no_network() {
    let spec = format!(
        "model: {{artifact: {{uri: file:///storage/digits, digest: '{}', persistentVolumeClaim: models}}}}",
        digest(1)
    );
    let objects = with(&spec);
    insta::assert_yaml_snapshot!("policy_of_a_volume", objects.policy.spec);
    assert_eq!(pod(&objects).containers[0].env_from, Some(vec![]));
    let mounts = pod(&objects).containers[0].volume_mounts.as_ref().unwrap();
    assert_eq!((mounts[0].mount_path.as_str(), mounts[0].read_only), ("/storage", Some(true)));
}

#[test]
fn only_an_identity_in_the_cloud_opens_the_way_to_its_credentials() {
    let blocked = |objects: &Objects| serde_json::to_string(&objects.policy).unwrap().contains("169.254.0.0/16");
    let spec = format!("model: {{artifact: {{uri: s3://models/digits, digest: '{}'}}}}", digest(1));
    assert!(blocked(&with(&spec)));
    let spec = spec.replace("digest:", "serviceAccountName: reader, digest:");
    let objects = with(&spec);
    assert!(!blocked(&objects));
    assert_eq!(pod(&objects).service_account_name.as_deref(), Some("reader"));
}

#[test]
fn a_budget_is_made_for_several_replicas_alone() {
    assert_eq!(with("replicas: 1").budget, None);
    assert_eq!(with("replicas: 0").budget, None);
    assert!(with("replicas: 2").budget.is_some());
}

#[test]
fn what_is_in_the_pod_makes_another_revision_and_what_is_not_does_not() {
    let revision = objects(|_| {}).revision();
    assert_eq!(with("replicas: 5").revision(), revision);
    for spec in [
        "server: {batching: {maxSize: 1}}",
        "server: {resources: {memory: 1Gi}}",
        "auth: {apiKeys: {secretName: keys}}",
        "scheduling: {nodeSelector: {a: b}}",
    ] {
        assert_ne!(with(spec).revision(), revision, "{spec}");
    }
    let mut other = settings();
    other.trainer_image = "stoker-trainer:next".into();
    assert_ne!(build(&validated(|_| {}), &other).unwrap().revision(), revision);
}

#[test]
fn the_longest_name_fits_every_object() {
    let objects = objects(|deployment| deployment.metadata.name = Some("a".repeat(45)));
    // The name of a pod's host, and the values of labels.
    assert!(objects.revision().len() <= 63, "{}", objects.revision());
}

#[test]
fn a_server_has_the_time_to_answer_its_last_requests() {
    for (timeout, grace) in [("1s", 11), ("30s", 40), ("1h", 310)] {
        let objects = with(&format!("server: {{limits: {{timeout: {timeout}}}}}"));
        assert_eq!(pod(&objects).termination_grace_period_seconds, Some(grace), "{timeout}");
    }
}
