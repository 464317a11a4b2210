use futures::{TryStreamExt, channel::mpsc};
use kube::{ResourceExt, runtime::reflector::store::Writer};
use stoker_crds::ModelTraining;

use super::*;
use crate::{
    testing::{ApiServer, Seen, Step},
    training::fixtures,
    watches,
};

const LIST: &str = "/apis/stoker.dev/v1alpha1/modeltrainings";
const STATUS: &str = "/apis/stoker.dev/v1alpha1/namespaces/team/modeltrainings/broken/status";

/// A ModelTraining in the middle of its run, as the API server holds it.
fn stored(name: &str) -> Value {
    let mut stored = serde_json::to_value(fixtures::training()).unwrap();
    stored["metadata"]["name"] = name.into();
    stored["status"] = json!({
        "phase": "Training", "run": 3, "configDigest": "a.b", "pod": "broken-3-aaaaa",
        "versions": [{"version": 1, "uri": "s3://models/1", "digest": "sha256:01", "publishedAt": "2027-01-15T08:00:00Z"}],
        "error": {"reason": "OutOfMemory", "message": "raise resources.memory", "exitCode": 137},
    });
    stored
}

fn watched(stored: &Value) -> Watched<ModelTraining> {
    serde_json::from_str(&stored.to_string()).unwrap()
}

/// What the store shows of a list of these, and the requests after the one for the list.
async fn listed(items: &[&Value], patches: Vec<Step>) -> (Vec<String>, Vec<Seen>) {
    let list = json!({
        "apiVersion": "stoker.dev/v1alpha1", "kind": "ModelTrainingList",
        "metadata": {"resourceVersion": "20"}, "items": items,
    });
    let server = ApiServer::expecting(std::iter::once(Step::get(LIST, list)).chain(patches));
    let (context, mut writers) = server.context();
    let context = Arc::new(context);
    let (changes, refused) = watches::resources(&context, |context| &context.written_trainings);
    // The last event of a list is that it is done; a watch would follow.
    let readable = items.len() - 1;
    let events: Vec<_> = changes.take(readable + 2).try_collect().await.unwrap();
    events.iter().for_each(|event| writers.trainings.apply_watcher_event(event));
    refused.await;
    let shown = context.trainings.state().iter().map(|training| training.name_any()).collect();
    drop(context);
    let mut requests = server.requests().await;
    requests.remove(0);
    (shown, requests)
}

#[tokio::test]
async fn an_object_that_cannot_be_read_says_so_once_and_keeps_all_its_status_and_the_others_are_shown() {
    let good = stored("good");
    let mut specs = stored("broken");
    specs["spec"]["train"]["epochs"] = 4_294_967_296_u64.into();
    let mut statuses = stored("broken");
    statuses["status"]["phase"] = "Dreaming".into();
    for (mut broken, problem) in [
        (specs, "spec.train.epochs cannot be read: invalid value: integer `4294967296`, expected u32: "),
        (statuses, "status.phase cannot be read: unknown variant `Dreaming`, expected one of "),
    ] {
        let (shown, requests) = listed(&[&broken, &good], vec![Step::echo("PATCH", STATUS)]).await;
        assert_eq!(shown, ["good"]);
        let [Seen { body: patch, .. }] = requests.try_into().unwrap();
        let metadata = &broken["metadata"];
        for field in ["name", "uid", "resourceVersion"] {
            assert_eq!(patch["metadata"][field], metadata[field], "{field}");
        }
        let error = &patch["status"]["error"];
        assert_eq!(error["reason"], "InvalidConfig");
        assert!(error["message"].as_str().unwrap().starts_with(problem), "{error}");
        let mut expected = broken["status"].clone();
        expected["error"] = error.clone();
        assert_eq!(patch["status"], expected);

        broken["status"] = expected;
        let (shown, requests) = listed(&[&good, &broken], Vec::new()).await;
        assert_eq!((shown, requests.len()), (vec!["good".to_owned()], 0));
    }
}

#[test]
fn an_object_that_can_be_read_no_longer_is_gone_for_the_store() {
    let (refuse, mut refused) = mpsc::unbounded();
    let mut writer = Writer::<ModelTraining>::new(());
    let (store, own) = (writer.as_reader(), Written::new(writer.as_reader()));
    let mut broken = stored("broken");
    let known = readable(Event::Apply(watched(&broken)), &own, &refuse).unwrap();
    writer.apply_watcher_event(&known);
    broken["spec"]["precision"] = "F4".into();
    let Some(Event::Delete(gone)) = readable(Event::Apply(watched(&broken)), &own, &refuse) else {
        panic!("the store is not told that it is gone");
    };
    writer.apply_watcher_event(&Event::Delete(gone));
    assert!(store.is_empty());
    let unreadable = refused.try_recv().unwrap();
    assert!(unreadable.problem.starts_with("spec cannot be read: unknown field `precision`"), "{}", unreadable.problem);

    assert!(readable(Event::Apply(watched(&broken)), &own, &refuse).is_none(), "what is not known is not gone");
    assert!(readable(Event::Delete(watched(&broken)), &own, &refuse).is_none());
}

#[test]
fn an_object_that_can_be_read_is_what_it_was_written_as() {
    let training = fixtures::training();
    let written = watched(&serde_json::to_value(&training).unwrap());
    assert_eq!(read(written).unwrap(), training);
    let mut without_spec = stored("broken");
    without_spec.as_object_mut().unwrap().remove("spec");
    let problem = read(watched(&without_spec)).unwrap_err().problem;
    assert!(problem.starts_with("spec cannot be read: invalid type: null"), "{problem}");
}

#[test]
fn the_fields_that_are_open_are_named() {
    let cases: [(&str, &[&str]); 5] = [
        ("", &[]),
        (r#"{"a": 1"#, &["a"]),
        (r#"{"a": 1, "b""#, &[]),
        (r#"{"a": {"b": "c: {", "d": [{"e": 1}, {"f": 2"#, &["a", "d", "f"]),
        (r#"{"a": {"b": "\"\\"}, "c": [1, 2"#, &["c"]),
    ];
    for (start, fields) in cases {
        assert_eq!(open_fields(start).collect::<Vec<_>>(), fields, "{start}");
    }
}
