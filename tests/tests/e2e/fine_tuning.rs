//! Trainings that start from what another one publishes.

use serde_json::{Value, json};
use stoker_crds::{
    ModelTraining,
    artifact::{MANIFEST, Manifest, WEIGHTS},
    report::Reason,
    training::status::Phase,
};
use stoker_e2e::{Namespace, storage::DATASETS};

use crate::{
    setup::{shared_storage, test},
    steps::{error_of, patch, succeeded, train, wait, with},
};

/// A ModelTraining of lines of text that takes a second or two, with that model.
fn text(uri: &str, model: &Value) -> Value {
    json!({
        "task": "LanguageModeling",
        "data": {
            "source": {"uri": uri},
            "features": null,
            "target": null,
            "text": {"documents": {"endAt": "Line", "minLength": 1}},
        },
        "model": with(json!({"mlp": null}), model.clone()),
        "train": {"batchSize": 8, "epochs": null, "steps": 20},
    })
}

fn small() -> Value {
    json!({"transformer": {"layers": 1, "width": 16, "heads": 2, "context": 16}})
}

async fn upload(namespace: &Namespace) {
    let storage = shared_storage(&namespace.client);
    for (key, word) in [("lines/first.txt", "first"), ("lines/second.txt", "second")] {
        let lines: String = (0..200).map(|line| format!("the {word} text has line {line:03}\n")).collect();
        storage.put(DATASETS, key, lines).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_training_waits_for_the_one_that_it_starts_from_and_then_succeeds() {
    test("fine-tune", async |namespace: Namespace| {
        upload(&namespace).await;
        let from = json!({"from": {"training": {"name": "base"}, "lora": {"rank": 4, "alpha": 8}}});
        train(&namespace, "tuned", &text("s3://datasets/lines/second.txt", &from)).await;
        let error = error_of(&namespace, "tuned", Reason::ModelNotFound).await;
        assert!(error.message.contains("there is no ModelTraining 'base'"), "{}", error.message);

        // Held back, it is there and has published nothing.
        let base = with(text("s3://datasets/lines/first.txt", &small()), json!({"suspend": true}));
        train(&namespace, "base", &base).await;
        let says = |training: &ModelTraining| {
            let error = training.status.as_ref().and_then(|status| status.error.as_ref());
            error.is_some_and(|error| error.message.contains("has not published a model yet"))
        };
        wait("the training to say what it waits for")
            .until(&namespace.api::<ModelTraining>(), "tuned", says)
            .await
            .unwrap();

        patch::<ModelTraining>(&namespace, "base", json!({"spec": {"suspend": false}})).await;
        let base = succeeded(&namespace, "base").await.model.unwrap();
        let tuned = succeeded(&namespace, "tuned").await;
        assert_eq!((tuned.phase, tuned.run), (Some(Phase::Succeeded), 1));
        let started_from = tuned.base.unwrap();
        assert_eq!((started_from.version, &started_from.digest), (1, &base.digest));

        // A whole model again, which a third one can start from.
        let model = tuned.model.unwrap();
        let storage = shared_storage(&namespace.client);
        let manifest = storage.get(&format!("{}/{MANIFEST}", model.uri)).await.unwrap();
        let manifest: Manifest = serde_json::from_slice(&manifest).unwrap();
        assert!(manifest.file(WEIGHTS).is_some() && model.digest != base.digest);
        let again = json!({"from": {"artifact": {"uri": model.uri, "digest": model.digest}}});
        train(&namespace, "again", &text("s3://datasets/lines/first.txt", &again)).await;
        succeeded(&namespace, "again").await;
    })
    .await;
}
