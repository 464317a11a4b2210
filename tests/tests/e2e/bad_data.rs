//! Runs whose data is not what their spec says: each ends once, with a reason, what it is about, and an exit code.

use std::fmt::Write as _;

use serde_json::{Value, json};
use stoker_crds::{artifact::PREPROCESSOR, report::Reason};
use stoker_e2e::{Namespace, storage::DATASETS};

use crate::{
    lines,
    setup::{shared_storage, test},
    steps::{failed, succeeded, train, with},
};

/// The run fails for good: no pod is tried again.
async fn fails(namespace: &Namespace, name: &str, spec: &Value, reason: Reason, about: &[&str]) {
    train(namespace, name, spec).await;
    let (status, error) = failed(namespace, name).await;
    assert_eq!(error.reason, reason);
    assert_eq!(error.exit_code, reason.exit_code().map(i32::from));
    for name in about {
        assert!(error.message.contains(name), "'{name}' is not in: {}", error.message);
    }
    assert_eq!(status.restarts, 0, "a run was tried again that cannot end better");
    assert!(error.pod.is_some_and(|pod| pod.starts_with(name)));
}

/// A file that only this test reads; returns its URI.
async fn file(namespace: &Namespace, name: &str, content: impl Into<object_store::PutPayload>) -> Value {
    let key = format!("{}/{name}", namespace.name);
    shared_storage(&namespace.client).put(DATASETS, &key, content).await.unwrap();
    json!({"data": {"source": {"uri": format!("s3://{DATASETS}/{key}")}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_is_not_there_is_named() {
    test("column", async |namespace: Namespace| {
        let target = json!({"data": {"target": ["price"]}});
        fails(&namespace, "target", &target, Reason::UnknownColumn, &["price"]).await;
        let feature = json!({"data": {"features": ["a", "weight_*"]}});
        fails(&namespace, "feature", &feature, Reason::UnknownColumn, &["weight_*"]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_leaves_no_row_is_named() {
    test("empty", async |namespace: Namespace| {
        let rule = json!({"data": {"clean": {"require": ["a > 1000"]}}});
        fails(&namespace, "rule", &rule, Reason::EmptyData, &["600", "require"]).await;
        let header_only = file(&namespace, "empty.csv", "a,b,color,y\n").await;
        fails(&namespace, "file", &header_only, Reason::EmptyData, &["empty.csv"]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_parsed_is_named() {
    test("unparsable", async |namespace: Namespace| {
        let ragged = file(&namespace, "ragged.csv", "a,b,color,y\n1,2,red,3\n1,2,red,3,4,5\n").await;
        fails(&namespace, "csv", &ragged, Reason::UnparsableData, &["ragged.csv"]).await;
        let noise = file(&namespace, "noise.parquet", vec![7_u8; 4096]).await;
        fails(&namespace, "parquet", &noise, Reason::UnparsableData, &["noise.parquet"]).await;
        let broken =
            file(&namespace, "broken.jsonl", "{\"a\": 1, \"b\": 2, \"color\": \"red\", \"y\": 3}\n{\"a\":").await;
        fails(&namespace, "json", &broken, Reason::UnparsableData, &["broken.jsonl"]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_of_the_wrong_type_is_named() {
    test("type", async |namespace: Namespace| {
        let text_target = json!({"data": {"features": ["a", "b"], "target": ["color"]}});
        fails(&namespace, "target", &text_target, Reason::WrongType, &["color"]).await;
        let cast = json!({"data": {"cast": {"color": "Number"}}});
        fails(&namespace, "cast", &cast, Reason::WrongType, &["color"]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_uri_without_a_file_is_named() {
    test("no-file", async |namespace: Namespace| {
        let nothing = json!({"data": {"source": {"uri": "s3://datasets/no-such-folder/*.csv"}}});
        fails(&namespace, "glob", &nothing, Reason::DataNotFound, &["s3://datasets/no-such-folder/*.csv"]).await;
        let nothing = json!({"data": {"source": {"uri": "s3://datasets/no-such-file.csv"}}});
        fails(&namespace, "file", &nothing, Reason::DataNotFound, &["s3://datasets/no-such-file.csv"]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_predicate_that_is_no_sql_is_named() {
    test("predicate", async |namespace: Namespace| {
        let rule = json!({"data": {"clean": {"require": ["a >"]}}});
        fails(&namespace, "rule", &rule, Reason::InvalidConfig, &["a >"]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loss_that_grows_without_bound_ends_the_run() {
    test("diverges", async |namespace: Namespace| {
        let steep = json!({"train": {"optimizer": {"adam": null, "sgd": {"learningRate": 1e12}}}});
        fails(
            &namespace,
            "steep",
            &with(steep, json!({"model": {"mlp": {"hidden": [64, 64]}}})),
            Reason::Diverged,
            &["learningRate"],
        )
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_rows_are_counted_by_the_rule_that_dropped_them() {
    test("dropped", async |namespace: Namespace| {
        let mut csv = lines::csv(100);
        csv.push_str("1.0,1.0,red,1.0,above\n1.0,1.0,red,1.0,above\n,1.0,red,1.0,above\n500.0,1.0,red,1.0,above\n");
        let spec = with(
            file(&namespace, "dirty.csv", csv).await,
            json!({"data": {"clean": {"duplicates": "Drop", "missing": {"strategy": "Drop"}, "require": ["a < 100"]}}}),
        );
        train(&namespace, "dirty", &spec).await;
        let data = succeeded(&namespace, "dirty").await.data.unwrap();
        assert_eq!(data.rows_read, 104);
        let dropped = ["duplicates", "missing", "require"].map(|rule| data.rows_dropped.get(rule).copied());
        assert_eq!(dropped, [Some(1), Some(1), Some(1)]);
        assert_eq!(data.train + data.validation + data.test, 101);
        assert!(data.fingerprint.starts_with("sha256:"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fraction_and_a_boolean_that_are_written_as_text_fill_missing_values() {
    test("constants", async |namespace: Namespace| {
        let mut csv = String::from("a,hot,y\n");
        for row in 0..100_usize {
            let a = if row % 5 == 0 { String::new() } else { row.to_string() };
            let hot = ["true", "false", ""][row % 3];
            writeln!(csv, "{a},{hot},{}", row % 7).unwrap();
        }
        let columns = json!({
            "a": {"strategy": "Constant", "value": "0.5"},
            "hot": {"strategy": "Constant", "value": "true"},
        });
        let spec = with(
            file(&namespace, "gaps.csv", csv).await,
            json!({"data": {"features": ["a", "hot"], "clean": {"missing": {"columns": columns}}}}),
        );
        train(&namespace, "gaps", &spec).await;
        let status = succeeded(&namespace, "gaps").await;
        let data = status.data.unwrap();
        assert_eq!(data.train + data.validation + data.test, 100);

        let preprocessor = format!("{}/{PREPROCESSOR}", status.model.unwrap().uri);
        let preprocessor = shared_storage(&namespace.client).get(&preprocessor).await.unwrap();
        let preprocessor: Value = serde_json::from_slice(&preprocessor).unwrap();
        let fills = [0_usize, 1].map(|input| &preprocessor["inputs"][input]["fill"]);
        assert_eq!(fills, [&json!({"number": 0.5}), &json!({"boolean": true})]);
    })
    .await;
}
