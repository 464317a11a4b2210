//! A small data set that is learned in a moment: `y` is a line in `a` and `b`, shifted by the `color`.

use std::fmt::Write as _;

use kube::api::DynamicObject;
use serde_json::{Value, json};
use stoker_e2e::{
    Result, manifest,
    storage::{DATASETS, Storage},
};

/// Where it lies.
pub(crate) const URI: &str = "s3://datasets/lines/lines.csv";
/// Its key in the bucket.
pub(crate) const KEY: &str = "lines/lines.csv";
/// Its rows.
pub(crate) const ROWS: u32 = 600;

/// Puts it into a storage.
pub(crate) async fn upload(storage: &Storage) -> Result<()> {
    storage.put(DATASETS, KEY, csv(ROWS)).await
}

/// So many rows of `a`, `b`, `color`, `y`, and the `side` of zero on which `y` lies.
pub(crate) fn csv(rows: u32) -> String {
    let mut csv = String::from("a,b,color,y,side\n");
    for row in 0..rows {
        // Multiples of irrational numbers fill the square evenly, the same way every time.
        let a = (f64::from(row) * 0.754_877_666).fract() * 4.0 - 2.0;
        let b = (f64::from(row) * 0.569_840_29).fract() * 4.0 - 2.0;
        let (color, shift) = [("red", -1.0), ("green", 0.0), ("blue", 1.0)][row as usize % 3];
        let y = 3.0 * a - 2.0 * b + shift;
        let side = if y > 0.0 { "above" } else { "below" };
        writeln!(csv, "{a:.6},{b:.6},{color},{y:.6},{side}").unwrap();
    }
    csv
}

/// A ModelTraining of it that takes a second or two; `spec` is merged into its spec.
pub(crate) fn training(name: &str, spec: &Value) -> DynamicObject {
    let mut training = json!({
        "apiVersion": "stoker.dev/v1alpha1",
        "kind": "ModelTraining",
        "metadata": {"name": name},
        "spec": {
            "task": "Regression",
            "data": {"source": {"uri": URI}, "features": ["a", "b", "color"], "target": ["y"]},
            "model": {"mlp": {"hidden": [16]}},
            "train": {"optimizer": {"adam": {"learningRate": 0.01}}, "epochs": 20},
            "storage": {"uri": "s3://models", "secretName": "s3"},
            "resources": {"cpu": "300m", "memory": "256Mi", "scratch": "64Mi"},
        },
    });
    manifest::merge(&mut training["spec"], spec);
    serde_json::from_value(training).unwrap()
}

/// What makes a [`training`] learn the `side` instead.
pub(crate) fn classification() -> Value {
    json!({"task": "Classification", "data": {"target": ["side"]}})
}

/// What makes a [`training`] run for some ten seconds, with a checkpoint every moment.
pub(crate) fn long() -> Value {
    json!({"train": {"epochs": null, "steps": 30_000}, "checkpoint": {"everySteps": 1000}})
}

/// What makes a [`training`] run until something ends it.
pub(crate) fn endless() -> Value {
    json!({"train": {"epochs": null, "steps": 1_000_000_000}})
}

/// A ModelDeployment of a training; `spec` is merged into its spec.
pub(crate) fn deployment(name: &str, training: &str, spec: &Value) -> DynamicObject {
    let mut deployment = json!({
        "apiVersion": "stoker.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": {
            "model": {"training": {"name": training}},
            "server": {"resources": {"cpu": "100m", "memory": "128Mi"}},
        },
    });
    manifest::merge(&mut deployment["spec"], spec);
    serde_json::from_value(deployment).unwrap()
}
