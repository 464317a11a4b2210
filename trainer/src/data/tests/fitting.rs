use datafusion::arrow::{array::AsArray, datatypes::Float64Type};
use stoker_crds::ModelTrainingSpec;

use super::*;
use crate::data::{Encoding, Fill, Output, Preprocessor, Scaling};

/// Numbers, text and booleans, some of them missing, and a target of three classes.
fn mixed(rows: usize) -> String {
    let row = |row: usize| {
        let number = if row.is_multiple_of(11) { String::new() } else { format!("{}", (row * row) as f64 / 7.0) };
        let text = ["red", "green", "", "blue"][row % 4];
        format!("{number},{text},{},{}\n", row.is_multiple_of(3), ["a", "b", "c"][row % 5 % 3])
    };
    std::iter::once("n,t,b,y\n".to_owned()).chain((0..rows).map(row)).collect()
}

fn mixed_config(numeric: &str, categorical: &str) -> Data<Format> {
    data(
        "s3://b/d.csv",
        json!({
            "split": {"train": 0.6, "validation": 0.2, "test": 0.2},
            "clean": {"missing": {"strategy": "MostFrequent", "columns": {"n": {"strategy": "Median"}}}},
            "transform": {"numeric": numeric, "categorical": categorical},
        }),
    )
}

#[tokio::test]
async fn training_sees_exactly_what_serving_makes_of_the_raw_rows() {
    let bucket = Bucket::new(&[("d.csv", &mixed(500))]);
    for (numeric, categorical) in [("Standardize", "OneHot"), ("MinMax", "Ordinal"), ("None", "OneHot")] {
        let config = mixed_config(numeric, categorical);
        let splits = bucket.split(&config, Task::Classification).await.unwrap();
        let prepared = bucket.prepare(&config, Task::Classification).await.unwrap();
        let stored = serde_json::to_vec(&prepared.preprocessor).unwrap();
        let served: Preprocessor = serde_json::from_slice(&stored).unwrap();
        assert_eq!(served, prepared.preprocessor);
        for (split, rows) in [
            (&splits.train, &prepared.train),
            (&splits.validation, &prepared.validation),
            (&splits.test, &prepared.test),
        ] {
            let raw = raw(split);
            let (features, targets): (Vec<_>, Vec<_>) = all(rows).into_iter().unzip();
            assert_eq!(served.transform(&raw).unwrap(), features.concat());
            assert_eq!(served.targets(&raw).unwrap(), targets.concat());
            let one_by_one = (0..raw.num_rows()).flat_map(|row| served.transform(&raw.slice(row, 1)).unwrap());
            assert_eq!(one_by_one.collect::<Vec<_>>(), features.concat());
        }
    }
}

#[tokio::test]
async fn statistics_are_those_of_the_training_split_alone() {
    let bucket = Bucket::new(&[("d.csv", &mixed(500))]);
    let config = mixed_config("Standardize", "OneHot");
    let splits = bucket.split(&config, Task::Classification).await.unwrap();
    let prepared = bucket.prepare(&config, Task::Classification).await.unwrap();
    let raw = raw(&splits.train);
    let mut values: Vec<f64> = raw.column(0).as_primitive::<Float64Type>().iter().flatten().collect();
    values.sort_by(f64::total_cmp);
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let deviation = (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt();
    let median = f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2]);

    let input = &prepared.preprocessor.inputs()[0];
    assert_eq!(input.fill, Some(Fill::Number(median)));
    let Encoding::Scaled(Scaling::Standardize { mean: fitted, standard_deviation }) = input.encoding else { panic!() };
    // Both sums round each of some 300 terms of up to 4e4 once: 1e-12 of the result is a hundred times that.
    assert!((fitted / mean - 1.0).abs() < 1e-12, "{fitted} {mean}");
    assert!((standard_deviation / deviation - 1.0).abs() < 1e-12, "{standard_deviation} {deviation}");
}

#[tokio::test]
async fn a_value_of_the_test_split_alone_is_no_category() {
    let days = (0..10).map(|row| format!("{},{row},{}\n", if row == 9 { "new" } else { "old" }, row % 2));
    let text: String = std::iter::once("t,day,y\n".to_owned()).chain(days).collect();
    let bucket = Bucket::new(&[("d.csv", &text)]);
    for (categorical, expected) in [("OneHot", 0.0), ("Ordinal", -1.0)] {
        let config = json!({
            "features": ["t"],
            "split": {"train": 0.9, "validation": 0.0, "test": 0.1, "time": "day"},
            "transform": {"categorical": categorical},
        });
        let prepared = bucket.prepare(&data("s3://b/d.csv", config), Task::Classification).await.unwrap();
        assert_eq!(prepared.preprocessor.input_width(), 1);
        assert_eq!(all(&prepared.test), [(vec![expected], vec![1.0])]);
    }
}

#[tokio::test]
async fn each_strategy_fills_missing_values_with_its_statistic() {
    let bucket = Bucket::new(&[("d.csv", "n,t,b,y\n1,x,true,1\n1,y,false,1\n2,y,true,1\n10,x,true,1\n,,,7\n")]);
    for (strategy, expected) in [
        (json!({"strategy": "Mean"}), 3.5),
        (json!({"strategy": "Median"}), 1.5),
        (json!({"strategy": "MostFrequent"}), 1.0),
        (json!({"strategy": "Constant", "value": -4.5}), -4.5),
    ] {
        let config = json!({
            "clean": {"missing": {"strategy": "MostFrequent", "columns": {"n": strategy}}},
            "transform": {"numeric": "None", "categorical": "Ordinal"},
        });
        let prepared = bucket.prepare(&data("s3://b/d.csv", config), Task::Regression).await.unwrap();
        let filled = all(&prepared.train).into_iter().find(|(_, targets)| targets == &[7.0]).unwrap();
        assert_eq!(filled.0, [expected, 0.0, 1.0], "x before y where both are as frequent");
    }
}

#[tokio::test]
async fn constants_as_the_api_takes_them_fill_columns_of_every_type() {
    let csv = "n,whole,t,id,b,day,y\n1,1,x,a,true,1970-01-01,1\n2,2,z,b,false,1970-01-03,2\n,,,,,,7\n";
    let bucket = Bucket::new(&[("d.csv", csv)]);
    let yaml = r#"
        task: Regression
        data:
          source: {uri: "s3://b/d.csv"}
          target: ["y"]
          clean:
            missing:
              strategy: Constant
              value: "0.5"
              columns:
                whole: {strategy: Constant, value: 3}
                t: {strategy: Constant, value: unknown}
                id: {strategy: Constant, value: 12}
                b: {strategy: Constant, value: "true"}
                day: {strategy: Constant, value: "1970-01-02"}
          transform: {numeric: None, categorical: Ordinal}
          split: {train: 1, validation: 0, test: 0}
        model: {mlp: {}}
    "#;
    let spec: ModelTrainingSpec = serde_saphyr::from_str(yaml).unwrap();
    spec.validate().unwrap();
    let config: Value = serde_json::to_value(spec.data.resolve().unwrap()).unwrap();
    let prepared = bucket.prepare(&serde_json::from_value(config).unwrap(), spec.task).await.unwrap();
    let fills: Vec<_> = prepared.preprocessor.inputs().iter().map(|input| input.fill.clone().unwrap()).collect();
    let text = |text: &str| Fill::Text(text.to_owned());
    let expected =
        [Fill::Number(0.5), Fill::Number(3.0), text("unknown"), text("12"), Fill::Boolean(true), Fill::Number(86400.0)];
    assert_eq!(fills, expected);
    let filled = all(&prepared.train).into_iter().find(|(_, targets)| targets == &[7.0]).unwrap();
    // Categories are in the order of their bytes: unknown, x, z; 12, a, b; false, true.
    assert_eq!(filled.0, [0.5, 3.0, 0.0, 0.0, 1.0, 86400.0]);
}

#[tokio::test]
async fn a_constant_that_fills_is_a_category_of_its_own() {
    let bucket = Bucket::new(&[("d.csv", "t,y\nx,1\n,2\n")]);
    let config = json!({"clean": {"missing": {"strategy": "Constant", "value": "none"}}});
    let prepared = bucket.prepare(&data("s3://b/d.csv", config), Task::Regression).await.unwrap();
    assert_eq!(sorted(&prepared.train), [(vec![0.0, 1.0], vec![1.0]), (vec![1.0, 0.0], vec![2.0])]);
}

#[tokio::test]
async fn columns_without_spread_become_zero() {
    let bucket = Bucket::new(&[("d.csv", "a,b,y\n5,5,1\n5,5,2\n")]);
    let config = json!({"transform": {"columns": {"b": "MinMax"}}});
    let prepared = bucket.prepare(&data("s3://b/d.csv", config), Task::Regression).await.unwrap();
    assert!(all(&prepared.train).iter().all(|(features, _)| features == &[0.0, 0.0]));
}

#[tokio::test]
async fn classes_are_sorted_and_rows_hold_their_indices() {
    let bucket = Bucket::new(&[("n.csv", "x,y\n1,10\n2,9\n3,0.5\n"), ("b.csv", "x,y\n1,true\n2,FALSE\n")]);
    let prepared = bucket
        .prepare(&data("s3://b/n.csv", json!({"transform": {"numeric": "None"}})), Task::Classification)
        .await
        .unwrap();
    let Output::Classes { labels, .. } = prepared.preprocessor.output() else { panic!() };
    assert_eq!(labels, &["0.5", "9", "10"]);
    assert_eq!(sorted(&prepared.train), [(vec![1.0], vec![2.0]), (vec![2.0], vec![1.0]), (vec![3.0], vec![0.0])]);
    let prepared = bucket.prepare(&data("s3://b/b.csv", json!({})), Task::Classification).await.unwrap();
    let Output::Classes { labels, .. } = prepared.preprocessor.output() else { panic!() };
    assert_eq!(labels, &["false", "true"]);
}

#[tokio::test]
async fn predictions_come_back_in_the_units_of_each_target() {
    let bucket = Bucket::new(&[("d.csv", "x,a,b\n1,100,-1\n2,300,1\n3,200,0\n")]);
    for transform in ["None", "Standardize", "MinMax"] {
        let config = json!({"target": ["b", "a"], "transform": {"target": transform}});
        let prepared = bucket.prepare(&data("s3://b/d.csv", config), Task::Regression).await.unwrap();
        let mut predictions: Vec<f32> = all(&prepared.train).into_iter().flat_map(|(_, targets)| targets).collect();
        prepared.preprocessor.restore_targets(&mut predictions);
        let mut rows: Vec<&[f32]> = predictions.chunks(2).collect();
        rows.sort_by(|a, b| a.partial_cmp(b).unwrap());
        for (row, expected) in rows.iter().zip([[-1.0, 100.0], [0.0, 200.0], [1.0, 300.0]]) {
            // One rounding to f32 on each way: half a unit in the last place of up to 300, twice, is under 4e-5.
            assert!(row.iter().zip(expected).all(|(a, b)| (a - b).abs() < 4e-5), "{transform} {row:?}");
        }
    }
}
