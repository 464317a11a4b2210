use serde_json::{Value, json};

use super::*;

fn view(status: Value) -> PodView {
    let pod = json!({"metadata": {"name": "digits-1-aaaaa"}, "status": status});
    serde_json::from_value::<Pod>(pod).unwrap().into()
}

fn ended(exit_code: i32, reason: &str, message: &str) -> Value {
    json!({"phase": "Failed", "containerStatuses": [{
        "name": "trainer", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": exit_code, "reason": reason, "message": message}},
    }]})
}

fn waiting(reason: &str, message: &str) -> Value {
    json!({"phase": "Pending", "containerStatuses": [{
        "name": "trainer", "image": "registry/trainer:1", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": reason, "message": message}},
    }]})
}

#[test]
fn a_failed_pod_is_told_by_its_own_report_first() {
    let report = json!({
        "run": "1-0", "epoch": 0, "step": 0, "totalSteps": 0,
        "error": {"reason": "UnknownColumn", "message": "no column 'digit'"},
    });
    let view = view(ended(11, "Error", &report.to_string()));
    let error = view.error().unwrap();
    assert_eq!(
        (error.reason, error.message.as_str(), error.exit_code),
        (Reason::UnknownColumn, "no column 'digit'", Some(11))
    );
    assert!(view.report().is_some() && !view.problem.unwrap().needs_log);
}

#[test]
fn a_servers_error_is_read_too() {
    let said = r#"{"reason": "CorruptArtifact", "message": "model.safetensors does not match"}"#;
    assert_eq!(view(ended(14, "Error", said)).error().unwrap().reason, Reason::CorruptArtifact);
}

#[test]
fn a_failed_pod_without_a_report_is_told_by_how_it_ended() {
    let evicted = json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."});
    let drained = json!({"phase": "Failed", "conditions": [{
        "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting",
    }]});
    let cases = [
        (ended(137, "OOMKilled", ""), Reason::OutOfMemory, false),
        (ended(137, "Error", ""), Reason::PodFailed, true),
        (ended(21, "Error", ""), Reason::Preempted, false),
        (ended(101, "Error", "not JSON"), Reason::PodFailed, true),
        (evicted, Reason::Evicted, false),
        (drained, Reason::Evicted, false),
        (json!({"phase": "Failed", "reason": "NodeAffinity"}), Reason::PodFailed, false),
    ];
    for (status, reason, needs_log) in cases {
        let view = view(status.clone());
        let problem = view.problem.unwrap();
        assert_eq!((view.state, problem.reason, problem.needs_log), (State::Failed, reason, needs_log), "{status}");
    }
}

#[test]
fn a_pod_that_does_not_start_says_what_is_missing() {
    let unschedulable = json!({"phase": "Pending", "conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.", "lastTransitionTime": "2027-01-15T08:00:00Z",
    }]});
    let cases = [
        (waiting("ImagePullBackOff", "Back-off pulling image"), Reason::ImageUnavailable, "registry/trainer:1"),
        (
            waiting("CreateContainerConfigError", "secret \"s3\" not found"),
            Reason::SecretNotFound,
            "secret \"s3\" not found",
        ),
        (
            waiting("CreateContainerConfigError", "couldn't find key A in Secret team/s3"),
            Reason::SecretNotFound,
            "key A",
        ),
        (waiting("RunContainerError", "no such file"), Reason::PodFailed, "no such file"),
        (unschedulable, Reason::Unschedulable, "Insufficient nvidia.com/gpu"),
    ];
    for (status, reason, words) in cases {
        let view = view(status);
        let error = view.error().unwrap();
        assert_eq!((view.state, error.reason), (State::Waiting, reason));
        assert!(error.message.contains(words), "{}", error.message);
    }
    assert_eq!(view(waiting("ContainerCreating", "")).problem, None);
}

#[test]
fn a_container_that_was_started_again_tells_how_it_ended_last() {
    let status = json!({"phase": "Running", "podIP": "10.0.0.7", "containerStatuses": [{
        "name": "server", "image": "i", "imageID": "", "ready": false, "restartCount": 2,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
    }]});
    let view = view(status);
    assert_eq!((view.state, view.restarts, view.ip), (State::Waiting, 2, "10.0.0.7".parse().ok()));
    assert_eq!(view.problem.unwrap().reason, Reason::OutOfMemory);
}

#[test]
fn a_pod_that_does_not_end_in_its_grace_period_is_lost_half_a_minute_later() {
    let told_to_end = |status: Value| {
        let mut pod = json!({"metadata": {"name": "digits-1-aaaaa"}, "spec": {"containers": [], "nodeName": "node-7"}});
        pod["metadata"]["deletionTimestamp"] = "2027-01-15T08:02:00Z".into();
        pod["status"] = status;
        PodView::from(serde_json::from_value::<Pod>(pod).unwrap())
    };
    let running = told_to_end(json!({"phase": "Running"}));
    assert_eq!(running.lost_at(), "2027-01-15T08:02:30Z".parse().ok());
    assert_eq!(running.ending.unwrap().node.as_deref(), Some("node-7"));
    assert_eq!(told_to_end(json!({"phase": "Failed"})).lost_at(), None);
    assert_eq!(view(json!({"phase": "Running"})).lost_at(), None);
}

#[test]
fn a_pod_ended_when_its_container_did() {
    let mut status = ended(11, "Error", "");
    status["containerStatuses"][0]["state"]["terminated"]["finishedAt"] = "2027-01-15T08:00:00Z".into();
    assert_eq!(view(status).ended_at, "2027-01-15T08:00:00Z".parse().ok());
    assert!(view(json!({"phase": "Failed", "reason": "Evicted"})).ended_at.is_some());
    assert_eq!(view(json!({"phase": "Running"})).ended_at, None);
}

#[test]
fn a_trainers_pod_is_over_as_soon_as_its_container_is() {
    let ended_in = |restart_policy: &str, exit_code: i32| {
        let mut pod = json!({"metadata": {"name": "digits-1-aaaaa"}, "spec": {"containers": []}});
        pod["spec"]["restartPolicy"] = restart_policy.into();
        pod["status"] = ended(exit_code, "Error", "");
        pod["status"]["phase"] = "Running".into();
        PodView::from(serde_json::from_value::<Pod>(pod).unwrap()).state
    };
    assert_eq!(ended_in("Never", 0), State::Succeeded);
    assert_eq!(ended_in("Never", 11), State::Failed);
    assert_eq!(ended_in("Always", 0), State::Waiting);
}
