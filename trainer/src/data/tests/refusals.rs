use stoker_crds::Reason;

use super::*;

/// Checks that the configuration is refused for the reason, by a message that holds all of the words.
async fn refused(bucket: &Bucket, uri: &str, change: Value, task: Task, reason: Reason, words: &[&str]) {
    let error = bucket.refusal(&data(uri, change.clone()), task).await;
    assert_eq!(error.reason(), reason, "{change}: {error}");
    for word in words {
        assert!(error.to_string().contains(word), "{change}: '{word}' is not in: {error}");
    }
}

const CSV: &str = "age,Height,city,y,label\n1,2,Rome,3,a\n4,5,Oslo,6,b\n";

#[tokio::test]
async fn unknown_columns_are_named_with_what_is_near_them() {
    let bucket = Bucket::new(&[("d.csv", CSV)]);
    for (change, words) in [
        (json!({"target": ["z"]}), &["'z'", "spec.data.target", "age, Height, city, y, label"][..]),
        (json!({"features": ["height"]}), &["'height'", "Did you mean 'Height'?"]),
        (json!({"features": ["aeg"]}), &["'aeg'", "spec.data.features"]),
        (json!({"features": ["pixel_*"]}), &["'pixel_*'"]),
        (json!({"cast": {"zip": "Text"}}), &["'zip'", "spec.data.cast"]),
        (json!({"transform": {"columns": {"cty": "OneHot"}}}), &["'cty'", "'city'"]),
        (json!({"clean": {"missing": {"columns": {"ag": {"strategy": "Drop"}}}}}), &["'ag'", "'age'"]),
        (json!({"clean": {"require": ["weight > 0"]}}), &["'weight'", "\"weight > 0\""]),
        (
            json!({"split": {"train": 0.5, "validation": 0.0, "test": 0.5, "time": "day"}}),
            &["'day'", "spec.data.split.time"],
        ),
    ] {
        refused(&bucket, "s3://b/d.csv", change, Task::Regression, Reason::UnknownColumn, words).await;
    }
}

#[tokio::test]
async fn a_column_that_one_file_lacks_is_named_with_the_file() {
    let bucket = Bucket::new(&[("1.csv", "a,b,y\n1,2,3\n"), ("2.csv", "a,y\n1,3\n")]);
    let words = &["s3://b/2.csv", "'b'"];
    refused(&bucket, "s3://b/*.csv", json!({}), Task::Regression, Reason::UnknownColumn, words).await;
    assert!(bucket.prepare(&data("s3://b/*.csv", json!({"features": ["a"]})), Task::Regression).await.is_ok());
}

#[tokio::test]
async fn predicates_that_cannot_be_used_are_quoted() {
    let bucket = Bucket::new(&[("d.csv", CSV)]);
    for sql in ["age >", "age + 1", "avg(age) > 1", "age IN (SELECT 1)", "age = 1; DROP TABLE x", "no_function(age)"] {
        let change = json!({"clean": {"require": [sql]}});
        refused(&bucket, "s3://b/d.csv", change, Task::Regression, Reason::InvalidConfig, &[sql]).await;
    }
}

#[tokio::test]
async fn values_of_the_wrong_type_are_refused_before_training() {
    let bucket = Bucket::new(&[("d.csv", CSV)]);
    for (change, words) in [
        (json!({"target": ["city"]}), &["'city'", "'Rome'", "s3://b/d.csv", "row 1"][..]),
        (json!({"transform": {"columns": {"city": "Standardize"}}}), &["'city'", "OneHot"]),
        (json!({"clean": {"missing": {"strategy": "Mean"}}}), &["'city'", "Mean"]),
        (
            json!({"clean": {"missing": {"columns": {"age": {"strategy": "Constant", "value": "x"}}}}}),
            &["'age'", "'x'"],
        ),
    ] {
        refused(&bucket, "s3://b/d.csv", change, Task::Regression, Reason::WrongType, words).await;
    }
    let boolean = Bucket::new(&[("d.csv", "x,y\ntrue,1\nfalse,2\n")]);
    for value in [json!("0.5"), json!(1), json!("yes")] {
        let change = json!({"clean": {"missing": {"strategy": "Constant", "value": value}}});
        let written = format!("'{}'", value.as_str().unwrap_or("1"));
        refused(&boolean, "s3://b/d.csv", change, Task::Regression, Reason::WrongType, &["'x'", &written]).await;
    }
    let nested = Bucket::new(&[("d.jsonl", "{\"x\": [1], \"y\": 1}\n")]);
    refused(&nested, "s3://b/d.jsonl", json!({}), Task::Regression, Reason::WrongType, &["'x'", "list"]).await;
    let mixed = Bucket::new(&[("1.csv", "x,y\n1,1\n"), ("2.csv", "x,y\na,1\n")]);
    refused(
        &mixed,
        "s3://b/*.csv",
        json!({}),
        Task::Regression,
        Reason::WrongType,
        &["'x'", "s3://b/2.csv", "spec.data.cast"],
    )
    .await;
}

#[tokio::test]
async fn a_feature_that_is_the_target_too_is_refused() {
    let bucket = Bucket::new(&[("d.csv", CSV)]);
    let words = &["'y'", "spec.data.features", "spec.data.target"];
    refused(&bucket, "s3://b/d.csv", json!({"features": ["age", "y"]}), Task::Regression, Reason::InvalidConfig, words)
        .await;
}

#[tokio::test]
async fn a_value_that_does_not_parse_is_named_with_file_row_and_column() {
    let mut text = lines(20_000);
    text += "oops,1\n";
    let bucket = Bucket::new(&[("1.csv", &lines(10)), ("2.csv", &text)]);
    let words = &["s3://b/2.csv", "row 20001", "'x'", "'oops'"];
    refused(&bucket, "s3://b/*.csv", json!({}), Task::Regression, Reason::UnparsableData, words).await;
    let bucket = Bucket::new(&[("d.csv", "x,y\n1,1\ninf,1\n")]);
    refused(&bucket, "s3://b/d.csv", json!({}), Task::Regression, Reason::UnparsableData, &["row 2", "'inf'"]).await;
}

#[tokio::test]
async fn files_that_do_not_parse_are_named() {
    let fields = lines(20_000) + "1,2,3\n";
    for (name, text, words) in [
        ("d.csv", "a,y\n1,2\n3\n", &["s3://b/d.csv", "line 3"][..]),
        ("d.csv", &fields, &["s3://b/d.csv", "line 20002"]),
        ("d.csv", "a,a,y\n1,2,3\n", &["s3://b/d.csv", "'a'"]),
        ("d.csv.gz", "not compressed", &["s3://b/d.csv.gz"]),
        ("d.jsonl", "{\"a\": 1, \"y\": 1}\n[1]\n", &["s3://b/d.jsonl", "line 2"]),
        ("d.jsonl", "{\"a\": 1, \"y\"\n", &["s3://b/d.jsonl", "line 1"]),
        ("d.parquet", "not parquet", &["s3://b/d.parquet"]),
    ] {
        let bucket = Bucket::new(&[(name, text)]);
        let uri = format!("s3://b/{name}");
        refused(&bucket, &uri, json!({}), Task::Regression, Reason::UnparsableData, words).await;
    }
}

#[tokio::test]
async fn json_lines_that_change_their_type_further_down_are_refused() {
    let many: String = (0..100_000).map(|row| format!("{{\"x\": {row}, \"y\": 1}}\n")).collect();
    let bucket = Bucket::new(&[("d.jsonl", &(many + "{\"x\": \"oops\", \"y\": 1}\n"))]);
    refused(
        &bucket,
        "s3://b/d.jsonl",
        json!({}),
        Task::Regression,
        Reason::UnparsableData,
        &["s3://b/d.jsonl", "oops"],
    )
    .await;
}

#[tokio::test]
async fn json_values_that_are_not_what_cast_says_are_named() {
    for first in ["1", "\"1\"", "null"] {
        let rows = format!("{{\"x\": {first}, \"y\": 1}}\n{{\"x\": \"oops\", \"y\": 1}}\n");
        let bucket = Bucket::new(&[("d.jsonl", &rows)]);
        let words = &["s3://b/d.jsonl", "row 2", "'x'", "'oops'", "spec.data.cast.x"];
        let change = json!({"cast": {"x": "Number"}});
        refused(&bucket, "s3://b/d.jsonl", change, Task::Regression, Reason::WrongType, words).await;
    }
}

#[tokio::test]
async fn an_empty_result_says_what_every_rule_dropped() {
    let bucket = Bucket::new(&[("d.csv", "x,y\n1,1\n1,1\n2,\n"), ("header.csv", "x,y\n")]);
    let change = json!({"clean": {"duplicates": "Drop", "require": ["x > 1"]}});
    let words = &["s3://b/d.csv", "3 were read", "duplicates 1", "require 1", "missing 1"];
    refused(&bucket, "s3://b/d.csv", change, Task::Regression, Reason::EmptyData, words).await;
    refused(&bucket, "s3://b/header.csv", json!({}), Task::Regression, Reason::EmptyData, &["0 were read"]).await;
    refused(&bucket, "s3://b/none.csv", json!({}), Task::Regression, Reason::DataNotFound, &["s3://b/none.csv"]).await;
}

#[tokio::test]
async fn splits_and_classes_without_rows_are_refused() {
    let bucket = Bucket::new(&[("d.csv", "x,y\n1,a\n2,a\n3,a\n"), ("two.csv", "x,day,y\n1,1,a\n2,2,b\n3,3,c\n")]);
    let tenths = json!({"split": {"train": 0.8, "validation": 0.1, "test": 0.1}});
    refused(&bucket, "s3://b/d.csv", tenths, Task::Classification, Reason::EmptyData, &["validation"]).await;
    refused(&bucket, "s3://b/d.csv", json!({}), Task::Classification, Reason::EmptyData, &["'y'", "'a'"]).await;
    let by_time = json!({"split": {"train": 0.7, "validation": 0.0, "test": 0.3, "time": "day"}});
    refused(&bucket, "s3://b/two.csv", by_time, Task::Classification, Reason::EmptyData, &["'c'", "test", "stratify"])
        .await;
}

#[tokio::test]
async fn too_many_categories_or_classes_are_refused() {
    let rows = (0..1001).map(|row| format!("id{row},{row},1\n"));
    let text: String = std::iter::once("id,n,y\n".to_owned()).chain(rows).collect();
    let bucket = Bucket::new(&[("d.csv", &text)]);
    let words = &["'id'", "1000"];
    refused(&bucket, "s3://b/d.csv", json!({"features": ["id"]}), Task::Regression, Reason::WrongType, words).await;
    let target = json!({"target": ["n"], "features": ["y"]});
    refused(&bucket, "s3://b/d.csv", target, Task::Classification, Reason::WrongType, &["'n'", "Regression"]).await;
}
