use stoker_crds::deployment::status::Phase::{Available, Degraded, Failed, Pending, Progressing};

use super::*;
use crate::{
    conditions::is_true,
    deployment::fixtures::{at, deployment, digest, model, observed, pod, problem, workload},
};

#[test]
fn a_deployment_whose_pods_all_serve_is_available() {
    let (deployment, model) = (deployment(), model(1));
    let workloads = [workload("a", 1, [2, 2, 2])];
    let metrics = ServingMetrics {
        requests_per_second: 120.0,
        p50: Some("0.8ms".into()),
        p95: Some("2.1ms".into()),
        error_rate: 0.0,
    };
    let seen = Observed { metrics: Some(metrics), ..observed(&deployment, Some(&model), &workloads, &[]) };
    insta::assert_yaml_snapshot!(seen.status());
}

#[test]
fn a_status_that_says_nothing_new_is_the_same() {
    let (mut deployment, model) = (deployment(), model(1));
    let workloads = [workload("a", 1, [2, 2, 2])];
    let first = observed(&deployment, Some(&model), &workloads, &[]).status();
    // As it comes back from the API server, an hour later.
    deployment.status = serde_json::from_str(&serde_json::to_string(&first).unwrap()).unwrap();
    let later = Observed { now: at(3700), ..observed(&deployment, Some(&model), &workloads, &[]) };
    assert_eq!(later.status(), first);
}

#[test]
fn the_phase_follows_from_pods_and_errors() {
    let crash = || [pod("a", problem(Reason::PodFailed, None))];
    let unschedulable = |since| [pod("a", problem(Reason::Unschedulable, Some(since)))];
    let cases = [
        ("nothing yet", vec![], vec![], Progressing),
        ("pods on their way", vec![workload("a", 1, [2, 2, 0])], vec![pod("a", None)], Progressing),
        ("one pod is missing", vec![workload("a", 1, [2, 2, 1])], vec![pod("a", None)], Progressing),
        ("all there", vec![workload("a", 1, [2, 2, 2])], vec![], Available),
        ("an old pod is left", vec![workload("a", 2, [2, 2, 2]), workload("b", 1, [0, 1, 1])], vec![], Progressing),
        (
            "an old Deployment is left",
            vec![workload("a", 2, [2, 2, 2]), workload("b", 1, [0, 0, 0])],
            vec![],
            Progressing,
        ),
        ("one crashes", vec![workload("a", 1, [2, 2, 1])], crash().into(), Degraded),
        ("all crash", vec![workload("a", 1, [2, 2, 0])], crash().into(), Failed),
        (
            "the new ones crash",
            vec![workload("a", 2, [1, 1, 0]), workload("b", 1, [2, 2, 2])],
            crash().into(),
            Degraded,
        ),
        ("no node for a minute", vec![workload("a", 1, [2, 2, 1])], unschedulable(at(40)).into(), Progressing),
        ("no node for an hour", vec![workload("a", 1, [2, 2, 0])], unschedulable(at(-3600)).into(), Failed),
    ];
    for (name, workloads, pods, phase) in cases {
        let (deployment, model) = (deployment(), model(1));
        let status = observed(&deployment, Some(&model), &workloads, &pods).status();
        assert_eq!(status.phase, Some(phase), "{name}");
        assert_eq!(is_true(&status.conditions, "Ready"), phase == Available, "{name}");
        assert_eq!(is_true(&status.conditions, "Stalled"), matches!(phase, Degraded | Failed), "{name}");
    }
}

#[test]
fn a_missing_model_is_waited_for_and_what_serves_goes_on() {
    let deployment = deployment();
    let missing = Error::invalid(Reason::ModelNotFound, "there is no such ModelTraining");
    let seen = |workloads| Observed { error: Some(&missing), ..observed(&deployment, None, workloads, &[]) }.status();
    let status = seen(&[]);
    assert_eq!(status.phase, Some(Pending));
    assert_eq!(status.error.as_ref().map(|error| error.reason), Some(Reason::ModelNotFound));
    assert!(is_true(&status.conditions, "Reconciling"));
    let status = seen(&[workload("a", 1, [2, 2, 2])]);
    assert_eq!((status.phase, status.ready_replicas), (Some(Degraded), 2));
}

#[test]
fn a_passing_failure_of_the_api_server_does_not_make_an_available_deployment_less() {
    let (deployment, model) = (deployment(), model(1));
    let workloads = [workload("a", 1, [2, 2, 2])];
    let conflict = kube::core::Status::failure("try again", "Conflict").with_code(409);
    let error = Error::api("apply", "Service digits", kube::Error::Api(conflict.boxed()));
    let seen = Observed { error: Some(&error), ..observed(&deployment, Some(&model), &workloads, &[]) };
    assert_eq!((seen.status().phase, seen.status().error), (Some(Available), None));
}

#[test]
fn the_error_names_the_reason_the_pod_and_the_last_log_lines() {
    let (deployment, model) = (deployment(), model(1));
    let mut crash = problem(Reason::PodFailed, None).unwrap();
    (crash.exit_code, crash.needs_log) = (Some(139), true);
    let pods = [pod("b", problem(Reason::OutOfMemory, None)), pod("a", Some(crash))];
    let workloads = [workload("a", 1, [2, 2, 0])];
    let mut seen = observed(&deployment, Some(&model), &workloads, &pods);
    seen.explanation.log_tail = vec!["a line".into()];
    let error = seen.status().error.unwrap();
    // That of another revision's pod does not matter.
    assert_eq!((error.reason, error.exit_code), (Reason::PodFailed, Some(139)));
    assert_eq!((error.pod.as_deref(), error.log_tail), (Some("digits-a-xyz"), vec!["a line".to_owned()]));
}

#[test]
fn a_refused_pod_is_told_by_what_the_api_server_says() {
    let (deployment, model) = (deployment(), model(1));
    let cases = [
        (r#"pods "a" is forbidden: exceeded quota: gpus"#, Reason::PodRefused),
        (r#"error looking up service account team/x: serviceaccount "x" not found"#, Reason::ServiceAccountNotFound),
    ];
    for (refusal, reason) in cases {
        let mut refused = workload("a", 1, [2, 0, 0]).as_ref().clone();
        refused.refusal = Some(refusal.into());
        let status = observed(&deployment, Some(&model), &[Arc::new(refused)], &[]).status();
        let error = status.error.unwrap();
        assert_eq!((error.reason, status.phase), (reason, Some(Failed)));
        assert!(error.message.contains(refusal), "{}", error.message);
    }
}

#[test]
fn a_pod_that_is_silently_late_is_a_failure_after_the_deadline() {
    let (deployment, model) = (deployment(), model(1));
    let (workloads, pods) = ([workload("a", 1, [2, 2, 1])], [pod("a", None)]);
    let status_at = |second| Observed { now: at(second), ..observed(&deployment, Some(&model), &workloads, &pods) };
    assert_eq!(status_at(599).status().error, None);
    let late = status_at(600).status();
    assert_eq!((late.phase, late.error.map(|error| error.reason)), (Some(Degraded), Some(Reason::NotReady)));
    // The next look comes at the deadline, or when events may say more.
    assert_eq!(status_at(599).next_change(), Some(Duration::from_secs(1)));
    assert_eq!(status_at(2).next_change(), Some(Duration::from_secs(4)));
}

#[test]
fn traffic_is_shared_by_ready_pods_and_adds_up() {
    for (ready, traffic) in [
        (vec![], vec![]),
        (vec![0, 0], vec![0, 0]),
        (vec![1, 2], vec![33, 67]),
        (vec![1, 1, 1], vec![33, 34, 33]),
        (vec![3, 0], vec![100, 0]),
    ] {
        assert_eq!(shares(&ready), traffic, "{ready:?}");
    }
}

#[test]
fn a_roll_shows_both_versions_and_the_wanted_revision_first() {
    let (deployment, model) = (deployment(), model(2));
    let workloads = [workload("b", 1, [1, 1, 1]), workload("a", 2, [2, 2, 1])];
    let status = observed(&deployment, Some(&model), &workloads, &[]).status();
    let summary = status.summary.unwrap();
    assert_eq!((summary.version.as_deref(), summary.replicas.as_deref()), (Some("1→2"), Some("2/2")));
    let revisions: Vec<_> = status.revisions.iter().map(|r| (r.version, r.ready_replicas, r.traffic)).collect();
    assert_eq!(revisions, [(Some(2), 1, 50), (Some(1), 1, 50)]);
}

#[test]
fn an_artifact_is_named_by_the_start_of_its_digest() {
    let deployment = deployment();
    let model = ServedModel { digest: digest(0xabc), ..ServedModel::default() };
    let summary = observed(&deployment, Some(&model), &[], &[]).status().summary.unwrap();
    assert_eq!((summary.model.as_deref(), summary.version), (Some("000000000000"), None));
}

#[test]
fn noise_in_the_figures_is_not_told() {
    let (mut deployment, model) = (deployment(), model(1));
    let workloads = [workload("a", 1, [2, 2, 2])];
    let at_rate = |requests_per_second| Some(ServingMetrics { requests_per_second, ..ServingMetrics::default() });
    let seen = Observed { metrics: at_rate(120.0), ..observed(&deployment, Some(&model), &workloads, &[]) };
    let first = seen.status();
    deployment.status = Some(first.clone());
    let seen = |rate| Observed { metrics: at_rate(rate), ..observed(&deployment, Some(&model), &workloads, &[]) };
    assert_eq!(seen(125.0).status(), first);
    assert_ne!(seen(200.0).status(), first);
}
