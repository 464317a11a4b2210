//! What Argo CD makes of a status, by the script that is shipped for it. Argo CD runs Lua 5.1, and so does this.
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use jiff::Timestamp;
use serde_json::{Value, json};
use stoker_crds::{ModelDeploymentStatus, ModelTrainingStatus};
use stoker_operator::conditions::{State, kstatus};

const KINDS: [&str; 2] = ["ModelTraining", "ModelDeployment"];

/// The health of a resource of that status, and what Argo CD shows with it.
fn health(kind: &str, status: Value) -> (String, String) {
    let shipped: Value = serde_saphyr::from_str(include_str!("../../deploy/argocd-health.yaml")).unwrap();
    let script = shipped["data"][format!("resource.customizations.health.stoker.dev_{kind}")].as_str().unwrap();
    let object = json!({"kind": kind, "metadata": {"name": "digits", "generation": 2}, "status": status});
    let program = format!(
        "local function health(obj)\n{script}\nend\nlocal answer = health({})\nio.write(answer.status, '\\n', answer.message)",
        table(&object)
    );
    let lua = Command::new("lua5.1").args(["-e", &program]).output();
    let lua = lua.expect("lua5.1 cannot be started: apt-get install lua5.1, as tests/cluster/build does");
    assert!(lua.status.success(), "{}\n{program}", String::from_utf8_lossy(&lua.stderr));
    let answer = String::from_utf8(lua.stdout).unwrap();
    let (status, message) = answer.split_once('\n').unwrap();
    (status.to_owned(), message.to_owned())
}

/// A value as Lua writes it. The texts here have no control characters, whose escapes differ from JSON's.
fn table(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| format!("[{name:?}] = {}", table(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
        Value::Array(items) => format!("{{{}}}", items.iter().map(table).collect::<Vec<_>>().join(", ")),
        Value::Null => "nil".into(),
        scalar => scalar.to_string(),
    }
}

/// A status of the generation, in that state.
fn status(state: State, observed_generation: i64) -> Value {
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    let conditions = kstatus(&[], state, "Reason", "what is so", Some(observed_generation), now);
    json!({"observedGeneration": observed_generation, "conditions": conditions})
}

#[test]
fn each_state_has_its_health() {
    for kind in KINDS {
        for (state, expected) in
            [(State::Ready, "Healthy"), (State::Reconciling, "Progressing"), (State::Stalled, "Degraded")]
        {
            assert_eq!(health(kind, status(state, 2)), (expected.to_owned(), "what is so".to_owned()), "{kind}");
        }
    }
    let mut paused = status(State::Paused, 2);
    paused["phase"] = "Suspended".into();
    assert_eq!(health("ModelTraining", paused).0, "Suspended");
}

#[test]
fn what_is_said_of_an_older_spec_does_not_count() {
    for kind in KINDS {
        assert_eq!(health(kind, status(State::Ready, 1)).0, "Progressing", "{kind}");
    }
}

#[test]
fn a_resource_that_was_just_made_is_on_its_way() {
    let born = [
        serde_json::to_value(ModelTrainingStatus::initial()).unwrap(),
        serde_json::to_value(ModelDeploymentStatus::initial()).unwrap(),
    ];
    for (kind, born) in KINDS.into_iter().zip(born) {
        assert_eq!(health(kind, born).0, "Progressing", "{kind}");
        assert_eq!(health(kind, json!({})).0, "Progressing", "{kind}");
    }
}
