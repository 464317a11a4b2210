use std::sync::Arc;

use jiff::SignedDuration;
use stoker_crds::{ModelTraining, Reason, RunReport, progress::Sample, training::status::StatusError};

use super::*;
use crate::{
    pods::{Ending, PodView, Problem, State as PodState},
    training::{
        dereference::LogTail,
        fixtures::{self, failed_pod, job, now, pod, progress, succeeded_pod},
        job::{End, JobView},
    },
};

fn observed(job: JobView, pods: Vec<PodView>) -> Observed {
    Observed { job: Some(Arc::new(job)), pods: pods.into_iter().map(Arc::new).collect(), ..Observed::default() }
}

fn after(seconds: i64, old: &ModelTrainingStatus, observed: &Observed) -> ModelTrainingStatus {
    let training = ModelTraining { status: Some(old.clone()), ..fixtures::training() };
    let run = Run::of(&training).unwrap();
    let facts = Facts {
        generation: Some(1),
        suspend: observed.job.as_ref().is_some_and(|job| job.is_suspended),
        run: &run,
        base: None,
        storage: training.spec.storage.as_ref(),
        observed,
        applied: Some(Ok(&Applied::Running)),
        now: now() + SignedDuration::from_secs(seconds),
    };
    next(old, &facts)
}

/// The status after one look at a new training.
fn first(observed: &Observed) -> ModelTrainingStatus {
    after(0, &ModelTrainingStatus::default(), observed)
}

fn training_pod() -> Observed {
    let mut observed = observed(job(None, 60), vec![pod("digits-1-aaaaa", PodState::Running, 50)]);
    observed.progress = Some(Arc::new(progress()));
    observed
}

/// The status of a training in the middle of its run.
pub(crate) fn in_progress() -> ModelTrainingStatus {
    first(&training_pod())
}

/// A pod whose grace period is over in a minute.
fn ending_pod(state: PodState) -> PodView {
    let ending = Ending { due_at: now() + SignedDuration::from_secs(60), node: Some("node-7".into()) };
    PodView { ending: Some(ending), ..pod("digits-1-aaaaa", state, 50) }
}

fn waiting(reason: Reason, since: Option<i64>) -> Observed {
    let problem = Problem {
        reason,
        message: format!("{reason} happened"),
        exit_code: None,
        since: since.map(|age| now() - SignedDuration::from_secs(age)),
        needs_log: false,
    };
    let pod = PodView { problem: Some(problem), running_since: None, ..pod("digits-1-aaaaa", PodState::Waiting, 60) };
    observed(job(None, 61), vec![pod])
}

fn reason(status: &ModelTrainingStatus) -> Option<Reason> {
    status.error.as_ref().map(|error| error.reason)
}

fn holds(status: &ModelTrainingStatus) -> Vec<&str> {
    let holding = status.conditions.iter().filter(|condition| condition.status == "True");
    holding.map(|condition| condition.type_.as_str()).collect()
}

#[test]
fn while_a_training_only_waits_for_its_pod_the_status_that_it_was_born_with_stands_for_a_minute() {
    let born = ModelTrainingStatus::initial();
    let waits = after(0, &born, &observed(job(None, 0), vec![]));
    let seconds = SignedDuration::from_secs;
    for (age, left) in [(0, 60), (59, 1), (60, 0), (3600, 0)] {
        assert_eq!(due_in(&born, &waits, seconds(age)), Some(seconds(left)), "{age}");
    }
    assert_eq!(due_in(&waits, &waits, seconds(0)), None);
    assert_eq!(
        due_in(&ModelTrainingStatus::default(), &waits, seconds(0)),
        Some(seconds(0)),
        "a definition without it"
    );
    let says_more = [
        after(0, &born, &observed(JobView { is_suspended: true, ..job(None, 0) }, vec![])),
        after(0, &born, &waiting(Reason::SecretNotFound, None)),
        after(0, &born, &training_pod()),
        after(0, &born, &observed(job(None, 1), vec![succeeded_pod()])),
    ];
    for status in says_more {
        assert_eq!(due_in(&born, &status, seconds(0)), Some(seconds(0)), "{:?}", status.phase);
    }
}

#[test]
fn conditions_hold_since_the_first_time_that_the_operator_says_so() {
    let waits = after(0, &ModelTrainingStatus::initial(), &observed(job(None, 0), vec![]));
    let since: Vec<Timestamp> = waits.conditions.iter().map(|condition| condition.last_transition_time.0).collect();
    assert_eq!(since, [now(); 3]);
}

#[test]
fn a_run_in_progress() {
    insta::assert_yaml_snapshot!(in_progress());
}

#[test]
fn a_run_that_has_succeeded() {
    let status = after(60, &first(&training_pod()), &observed(job(None, 120), vec![succeeded_pod()]));
    insta::assert_yaml_snapshot!(status);
}

#[test]
fn a_run_that_has_failed() {
    let end = End::Failed { reason: "PodFailurePolicy".into(), message: "exit code 11".into() };
    let failed = failed_pod("digits-1-aaaaa", Reason::UnknownColumn, 11, 50);
    insta::assert_yaml_snapshot!(first(&observed(job(Some(end), 60), vec![failed])));
}

#[test]
fn what_a_language_model_wrote_stays_in_status_bounded_whatever_a_pod_says() {
    let mut progress = progress();
    let sample = |step| Sample { step, prompt: "p".repeat(1000), text: "ä".repeat(5000) };
    progress.samples = (1..=20).map(sample).collect();
    let mut writing = training_pod();
    writing.progress = Some(Arc::new(progress));
    let status = first(&writing);
    assert_eq!(status.samples.iter().map(|sample| sample.step).collect::<Vec<_>>(), (13..=20).collect::<Vec<_>>());
    assert!(status.samples.iter().all(|sample| sample.prompt.len() == 200 && sample.text.chars().count() == 1000));
    let done = after(60, &status, &observed(job(None, 120), vec![succeeded_pod()]));
    assert_eq!(done.samples, status.samples);
}

#[test]
fn the_same_observations_give_the_same_status_whenever_they_are_made() {
    let end = End::Failed { reason: "BackoffLimitExceeded".into(), message: String::new() };
    let cases = [
        training_pod(),
        observed(job(None, 60), vec![succeeded_pod()]),
        observed(job(Some(end), 60), vec![failed_pod("digits-1-aaaaa", Reason::OutOfMemory, 137, 9)]),
        waiting(Reason::SecretNotFound, None),
        waiting(Reason::Unschedulable, Some(30)),
        observed(job(None, 0), vec![]),
    ];
    for case in cases {
        let status = first(&case);
        assert_eq!(after(3600, &status, &case), status, "{case:?}");
    }
}

#[test]
fn another_pod_takes_over_and_the_failure_before_it_stays_in_sight_until_success() {
    let failed = || failed_pod("digits-1-aaaaa", Reason::OutOfMemory, 137, 50);
    let one = first(&observed(job(None, 60), vec![failed()]));
    assert_eq!((one.restarts, one.phase, reason(&one)), (0, Some(Phase::Pending), Some(Reason::OutOfMemory)));
    assert_eq!(holds(&one), ["Reconciling"]);

    let two = after(10, &one, &observed(job(None, 70), vec![failed(), pod("digits-1-bbbbb", PodState::Running, 5)]));
    assert_eq!((two.restarts, two.phase, reason(&two)), (1, Some(Phase::Preparing), Some(Reason::OutOfMemory)));

    let done = PodView { name: "digits-1-bbbbb".into(), ..succeeded_pod() };
    let three = after(20, &two, &observed(job(None, 80), vec![failed(), done]));
    assert_eq!((three.restarts, three.phase, reason(&three)), (1, Some(Phase::Succeeded), None));
}

#[test]
fn a_pod_that_vanished_counts_as_a_restart_once_another_has_taken_over() {
    let one = first(&training_pod());
    let without = after(5, &one, &observed(job(None, 65), vec![]));
    assert_eq!((without.restarts, without.phase), (0, Some(Phase::Pending)));
    let other = observed(job(None, 70), vec![pod("digits-1-bbbbb", PodState::Running, 1)]);
    let two = after(10, &without, &other);
    assert_eq!((two.restarts, two.pod.as_deref()), (1, Some("digits-1-bbbbb")));
    assert_eq!(after(20, &two, &other).restarts, 1);
}

#[test]
fn what_needs_help_is_stalled_and_heals_by_itself() {
    for cause in [Reason::SecretNotFound, Reason::ImageUnavailable] {
        let status = first(&waiting(cause, None));
        assert_eq!(
            (reason(&status), status.phase, holds(&status)),
            (Some(cause), Some(Phase::Pending), vec!["Stalled"])
        );
        let healed = after(5, &status, &training_pod());
        assert_eq!((reason(&healed), holds(&healed)), (None, vec!["Reconciling"]));
    }
}

#[test]
fn a_pod_that_no_node_takes_is_a_problem_only_after_a_while() {
    assert_eq!(reason(&first(&waiting(Reason::Unschedulable, Some(4)))), None);
    assert_eq!(reason(&first(&waiting(Reason::Unschedulable, Some(5)))), Some(Reason::Unschedulable));
    let soon = waiting(Reason::Unschedulable, Some(4));
    assert_eq!(next_look(&soon, now()), Some(SignedDuration::from_secs(1)));
}

#[test]
fn a_trainer_that_keeps_silent_is_taken_to_be_preparing() {
    let silent = |age| observed(job(None, 60), vec![pod("digits-1-aaaaa", PodState::Running, age)]);
    assert_eq!(first(&silent(4)).phase, Some(Phase::Pending));
    assert_eq!(first(&silent(5)).phase, Some(Phase::Preparing));
}

#[test]
fn a_job_that_gets_no_pod_says_why() {
    let refused = StatusError {
        reason: Reason::PodRefused,
        message: "the cluster refused to create the pod: exceeded quota".into(),
        exit_code: None,
        pod: None,
        log_tail: Vec::new(),
    };
    let status = first(&Observed { obstacle: Some(refused), ..observed(job(None, 10), vec![]) });
    assert_eq!((reason(&status), holds(&status)), (Some(Reason::PodRefused), vec!["Stalled"]));
}

#[test]
fn the_log_of_a_pod_without_a_report_is_kept() {
    let pods = || vec![failed_pod("digits-1-aaaaa", Reason::PodFailed, 101, 50)];
    let tail = LogTail { pod: "digits-1-aaaaa".into(), lines: vec!["thread 'main' panicked".into()] };
    let read = first(&Observed { log_tail: Some(tail), ..observed(job(None, 60), pods()) });
    let later = after(10, &read, &observed(job(None, 70), pods()));
    assert_eq!(later.error.unwrap().log_tail, ["thread 'main' panicked"]);
}

#[test]
fn a_suspended_run_is_suspended_once_its_pod_has_ended() {
    let held = || JobView { is_suspended: true, ..job(None, 60) };
    let mut checkpointing = observed(held(), vec![ending_pod(PodState::Running)]);
    checkpointing.progress = Some(Arc::new(progress()));
    let one = first(&checkpointing);
    assert_eq!(one.phase, Some(Phase::Training));
    let two = after(5, &one, &observed(held(), vec![]));
    assert_eq!((two.phase, holds(&two)), (Some(Phase::Suspended), vec![]));
}

#[test]
fn a_pod_that_is_lost_with_its_node_stalls_the_run_until_another_takes_over() {
    let mut dying = observed(job(None, 60), vec![ending_pod(PodState::Running)]);
    dying.progress = Some(Arc::new(progress()));
    let before = after(89, &in_progress(), &dying);
    assert_eq!((before.phase, reason(&before)), (Some(Phase::Training), None));
    // No event tells that time has passed.
    let at = now() + SignedDuration::from_secs(89);
    assert_eq!(next_look(&dying, at), Some(SignedDuration::from_secs(1)));

    let lost = after(90, &before, &dying);
    assert_eq!(
        (lost.phase, reason(&lost), holds(&lost)),
        (Some(Phase::Pending), Some(Reason::Evicted), vec!["Stalled"])
    );
    let error = lost.error.clone().unwrap();
    assert_eq!(error.pod.as_deref(), Some("digits-1-aaaaa"));
    assert!(error.message.contains("kubectl delete node node-7"), "{}", error.message);
    assert_eq!(after(3600, &lost, &dying), lost);

    let other = observed(job(None, 70), vec![pod("digits-1-bbbbb", PodState::Running, 50)]);
    let healed = after(120, &lost, &other);
    assert_eq!((reason(&healed), holds(&healed), healed.restarts), (None, vec!["Reconciling"], 1));
}

#[test]
fn a_suspended_run_whose_pod_is_lost_with_its_node_is_not_called_suspended() {
    let held = JobView { is_suspended: true, ..job(None, 60) };
    let lost = after(90, &in_progress(), &observed(held, vec![ending_pod(PodState::Running)]));
    assert_eq!(
        (lost.phase, reason(&lost), holds(&lost)),
        (Some(Phase::Pending), Some(Reason::Evicted), vec!["Stalled"])
    );
}

#[test]
fn a_pod_that_was_told_to_end_and_has_ended_is_not_lost() {
    let failed = observed(job(None, 60), vec![ending_pod(PodState::Failed)]);
    assert_eq!(holds(&after(3600, &in_progress(), &failed)), ["Reconciling"]);
}

#[test]
fn what_keeps_a_run_from_its_next_pod_is_asked_from_the_end_of_the_last_one_on() {
    let ended_at = now() - SignedDuration::from_secs(20);
    let failed = PodView { ended_at: Some(ended_at), ..failed_pod("digits-1-aaaaa", Reason::OutOfMemory, 137, 50) };
    let seen = observed(job(None, 60), vec![failed.clone()]);
    assert_eq!(seen.stuck_since(), Some(ended_at));
    // Questions come at 3, 6, 12 and 24 seconds.
    assert_eq!(next_look(&seen, now()), Some(SignedDuration::from_secs(4)));

    let resumed = observed(job(None, 5), vec![failed.clone()]);
    assert_eq!(resumed.stuck_since(), Some(now() - SignedDuration::from_secs(5)));

    let replaced = observed(job(None, 60), vec![failed, pod("digits-1-bbbbb", PodState::Running, 5)]);
    assert_eq!(replaced.stuck_since(), None);
}

#[test]
fn a_run_that_took_too_long_says_so() {
    let end = End::Failed { reason: "DeadlineExceeded".into(), message: String::new() };
    let failed = failed_pod("digits-1-aaaaa", Reason::Preempted, 21, 50);
    let status = first(&observed(job(Some(end), 60), vec![failed]));
    assert_eq!((status.phase, reason(&status)), (Some(Phase::Failed), Some(Reason::DeadlineExceeded)));
}

#[test]
fn a_pod_of_exit_code_0_without_a_model_is_no_success() {
    let silent = PodView { last_words: None, ..succeeded_pod() };
    assert_eq!(first(&observed(job(None, 60), vec![silent])).phase, Some(Phase::Failed));
}

#[test]
fn a_jobs_end_is_believed_once_its_pods_have_ended() {
    let failed = || job(Some(End::Failed { reason: "PodFailurePolicy".into(), message: String::new() }), 60);
    let lagging = observed(failed(), vec![pod("digits-1-aaaaa", PodState::Running, 60)]);
    assert_ne!(first(&lagging).phase, Some(Phase::Failed));
    let vanished = first(&observed(job(Some(End::Complete), 60), vec![]));
    assert_eq!((vanished.phase, vanished.error), (Some(Phase::Pending), None));
}

#[test]
fn the_next_run_starts_anew_and_keeps_what_was_published() {
    let done = first(&observed(job(None, 60), vec![succeeded_pod()]));
    let mut training = ModelTraining { status: Some(done.clone()), ..fixtures::training() };
    training.spec.train.seed += 1;
    let run = Run::of(&training).unwrap();
    let facts = Facts {
        generation: Some(2),
        suspend: false,
        run: &run,
        base: None,
        storage: None,
        observed: &Observed::default(),
        applied: Some(Ok(&Applied::Started)),
        now: now(),
    };
    let status = next(&done, &facts);
    assert_eq!((status.run, status.phase, status.finished_at, status.pod), (2, Some(Phase::Pending), None, None));
    assert_eq!(status.versions, done.versions);
    assert_eq!(status.progress, None);
}

/// A pod that has ended after so many GPU-seconds, and has held so much memory.
fn gpu_pod(name: &str, age: i64, gpu_seconds: f64, peak_memory_bytes: u64) -> PodView {
    let report = RunReport { gpu_seconds, peak_memory_bytes, model: None, ..fixtures::report() };
    PodView { last_words: Some(fixtures::as_text(&report)), ..failed_pod(name, Reason::Preempted, 21, age) }
}

#[test]
fn what_pods_used_is_added_up_though_they_vanish_and_each_is_counted_once() {
    let (one, two) = (gpu_pod("digits-1-aaaaa", 60, 100.0, 3 << 30), gpu_pod("digits-1-bbbbb", 10, 50.0, 1 << 30));
    let used = |status: &ModelTrainingStatus| {
        let resources = status.resources.clone().unwrap();
        (resources.gpu_seconds, resources.peak_memory.unwrap())
    };
    let mut status = ModelTrainingStatus::default();
    for (pods, gpu_seconds) in [
        (vec![one.clone()], 100.0),
        (vec![one.clone()], 100.0),
        (vec![], 100.0),
        (vec![two.clone()], 150.0),
        (vec![two.clone()], 150.0),
        (vec![], 150.0),
    ] {
        status = after(10, &status, &observed(job(None, 60), pods));
        assert_eq!(used(&status), (gpu_seconds, "3Gi".to_owned()));
    }
    let at_once = first(&observed(job(None, 60), vec![one.clone(), two.clone()]));
    assert_eq!(used(&at_once), (150.0, "3Gi".to_owned()));

    // As an earlier version left it, which counted the first pod.
    let mut earlier = first(&observed(job(None, 60), vec![one.clone()]));
    earlier.resources.as_mut().unwrap().counted_until = None;
    for (pods, gpu_seconds) in [(vec![one.clone()], 100.0), (vec![one, two], 150.0)] {
        earlier = after(10, &earlier, &observed(job(None, 60), pods));
        assert_eq!(used(&earlier).0, gpu_seconds);
    }
}

#[test]
fn what_could_not_be_read_for_a_time_is_no_error_of_a_run_that_has_succeeded() {
    let done = observed(job(None, 60), vec![succeeded_pod()]);
    let succeeded = first(&done);
    let mut unreadable = succeeded.clone();
    unreadable.error = waiting(Reason::InvalidConfig, None).newest().unwrap().error();
    assert_eq!(after(60, &unreadable, &done), succeeded);
}
