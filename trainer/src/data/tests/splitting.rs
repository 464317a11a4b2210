use std::collections::{BTreeMap, BTreeSet};

use datafusion::arrow::{array::AsArray, datatypes::Float64Type};

use super::*;

const TENTHS: (f64, f64, f64) = (0.8, 0.1, 0.1);

fn split((train, validation, test): (f64, f64, f64)) -> Value {
    json!({"split": {"train": train, "validation": validation, "test": test}})
}

fn xs(rows: &RecordBatch) -> Vec<f64> {
    rows.column_by_name("x").unwrap().as_primitive::<Float64Type>().values().to_vec()
}

#[tokio::test]
async fn the_splits_have_exact_shares_and_no_row_in_common() {
    let bucket = Bucket::new(&[("d.csv", &lines(1794))]);
    let splits = bucket.split(&data("s3://b/d.csv", split(TENTHS)), Task::Regression).await.unwrap();
    let splits = [&splits.train, &splits.validation, &splits.test].map(|split| xs(&raw(split)));
    assert_eq!(splits.each_ref().map(Vec::len), [1435, 179, 180]);
    let all: BTreeSet<u64> = splits.iter().flatten().map(|x| *x as u64).collect();
    assert_eq!(all.len(), 1794);
    assert!(!splits[0].is_sorted(), "rows are split by chance, not by their place in the file");
}

#[tokio::test]
async fn files_order_and_threads_change_nothing() {
    let text = lines(500);
    let (header, rows) = text.split_once('\n').unwrap();
    let rows: Vec<&str> = rows.lines().collect();
    let file = |rows: Vec<&str>| format!("{header}\n{}\n", rows.join("\n"));
    let (first, second) = rows.split_at(123);
    let (first, second) = (file(first.to_vec()), file(second.to_vec()));
    let reversed = file(rows.iter().rev().copied().collect());
    let config = data("s3://b/*.csv", split(TENTHS));
    let mut seen = Vec::new();
    for files in [
        &[("1.csv", &first), ("2.csv", &second)][..],
        &[("1.csv", &second), ("2.csv", &first)],
        &[("r.csv", &reversed)],
    ] {
        let bucket = Bucket::new(&[]);
        for (name, text) in files {
            bucket.write(name, text.as_bytes());
        }
        for partitions in [1, 4] {
            let limits = Limits { partitions, ..LIMITS };
            let prepared = bucket.prepare_within(&config, Task::Regression, limits).await.unwrap();
            seen.push((
                [prepared.train, prepared.validation, prepared.test].each_ref().map(all),
                prepared.preprocessor,
            ));
        }
    }
    assert!(seen.iter().all(|other| *other == seen[0]));
}

#[tokio::test]
async fn another_seed_splits_otherwise() {
    let bucket = Bucket::new(&[("d.csv", &lines(100))]);
    let mut test_rows = Vec::new();
    for seed in [1, 2] {
        let config = json!({"split": {"train": 0.8, "validation": 0.1, "test": 0.1, "seed": seed}});
        let splits = bucket.split(&data("s3://b/d.csv", config), Task::Regression).await.unwrap();
        test_rows.push(xs(&raw(&splits.test)));
    }
    assert_ne!(test_rows[0], test_rows[1]);
}

#[tokio::test]
async fn a_stratified_split_keeps_the_shares_of_the_classes() {
    let rows = (0..1000).map(|row| format!("{row},{}\n", if row % 10 == 0 { "rare" } else { "common" }));
    let text: String = std::iter::once("x,y\n".to_owned()).chain(rows).collect();
    let bucket = Bucket::new(&[("d.csv", &text)]);
    let config = json!({"split": {"train": 0.8, "validation": 0.1, "test": 0.1, "stratify": true}});
    let splits = bucket.split(&data("s3://b/d.csv", config), Task::Classification).await.unwrap();
    for (split, expected) in [(&splits.train, (720, 80)), (&splits.validation, (90, 10)), (&splits.test, (90, 10))] {
        let mut counts = BTreeMap::new();
        for label in raw(split).column(1).as_string::<i32>().iter().flatten() {
            *counts.entry(label.to_owned()).or_insert(0) += 1;
        }
        assert_eq!((counts["common"], counts["rare"]), expected);
    }
}

#[tokio::test]
async fn a_split_by_time_trains_on_the_oldest_and_tests_on_the_newest() {
    let days = (0..100).map(|row| format!("{row},20{:02}-01-01,1\n", (row * 37) % 100));
    let text: String = std::iter::once("x,day,y\n".to_owned()).chain(days).collect();
    let bucket = Bucket::new(&[("d.csv", &text)]);
    let config = json!({"features": ["day"], "split": {"train": 0.8, "validation": 0.1, "test": 0.1, "time": "day"}});
    let splits = bucket.split(&data("s3://b/d.csv", config), Task::Regression).await.unwrap();
    let times = [&splits.train, &splits.validation, &splits.test]
        .map(|split| raw(split).column(0).as_primitive::<Float64Type>().values().to_vec());
    assert_eq!(times.each_ref().map(Vec::len), [80, 10, 10]);
    let all: Vec<f64> = times.into_iter().flatten().collect();
    assert!(all.is_sorted_by(|a, b| a < b));
    assert_eq!(all[0], 946_684_800.0, "2000-01-01 in seconds since 1970");
}

#[tokio::test]
async fn a_time_column_that_is_no_feature_is_left_out_of_the_rows() {
    let bucket = Bucket::new(&[("d.csv", "x,day,y\n1,2024-01-02,1\n2,2024-01-01,1\n3,,1\n")]);
    let config = json!({"features": ["x"], "split": {"train": 0.5, "validation": 0.0, "test": 0.5, "time": "day"}});
    let splits = bucket.split(&data("s3://b/d.csv", config), Task::Regression).await.unwrap();
    assert_eq!((xs(&raw(&splits.train)), xs(&raw(&splits.test))), (vec![2.0], vec![1.0]));
    assert_eq!(raw(&splits.test).num_columns(), 2);
}

#[tokio::test]
async fn held_out_rows_are_those_of_the_test_split() {
    let bucket = Bucket::new(&[("d.csv", &lines(300))]);
    let config = data(
        "s3://b/d.csv",
        json!({"split": {"train": 0.8, "validation": 0.1, "test": 0.1}, "transform": {"numeric": "None"}}),
    );
    let prepared = bucket.prepare(&config, Task::Classification).await.unwrap();
    let batches =
        crate::data::held_out(&config, Task::Classification, &bucket.access(), &bucket.scratch()).await.unwrap();
    let values: Vec<f64> = batches.iter().flat_map(xs).collect();
    let expected: Vec<f64> = all(&prepared.test).iter().map(|(features, _)| f64::from(features[0])).collect();
    assert_eq!(values, expected);
    assert_eq!(values.len(), 30);
}
