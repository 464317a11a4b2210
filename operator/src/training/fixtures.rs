//! What the tests start from.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use stoker_crds::{ModelTraining, ModelTrainingSpec};

use crate::settings::Settings;

/// A ModelTraining as the API server holds it, not reconciled yet.
pub(crate) fn training() -> ModelTraining {
    let spec: ModelTrainingSpec = serde_json::from_value(serde_json::json!({
        "task": "Classification",
        "data": {"source": {"uri": "s3://datasets/digits/*.csv"}, "format": null, "target": ["digit"]},
        "model": {"mlp": {"hidden": [64, 32]}},
        "train": {"loss": null, "epochs": 50},
        "storage": {"uri": "s3://models", "secretName": "s3"},
    }))
    .unwrap();
    let metadata = ObjectMeta {
        name: Some("digits".into()),
        namespace: Some("team".into()),
        uid: Some("0a1b2c3d-0000-4000-8000-000000000000".into()),
        generation: Some(1),
        resource_version: Some("10".into()),
        ..ObjectMeta::default()
    };
    ModelTraining { metadata, spec, status: None }
}

/// The settings of an operator that was installed with nothing but defaults.
pub(crate) fn settings() -> Settings {
    use clap::Parser;
    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        settings: Settings,
    }
    Arguments::parse_from(["stoker-operator", "--trainer-image=stoker-trainer:test", "--identity=operator-0"]).settings
}
