//! What the API server makes of the two kinds.

use std::path::{Path, PathBuf};

use kube::api::DynamicObject;
use serde_json::json;
use stoker_crds::{ModelTraining, ModelTrainingStatus, training::model::Preset};
use stoker_e2e::{Namespace, checkout, command, manifest};

use crate::{
    lines,
    setup::test,
    steps::{deploy, succeeded, train},
};

const REFUSED: &str = "crds/tests/refused";

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_manifest_is_refused_with_the_field_and_what_it_should_be() {
    test("refused", async |namespace: Namespace| {
        let files = files_of(&checkout::path(REFUSED));
        assert!(files.len() > 50, "only {} files in {REFUSED}", files.len());
        let mut wrong = Vec::new();
        for file in files {
            let yaml = std::fs::read_to_string(&file).unwrap();
            let expected = ["field", "message"].map(|key| header(&yaml, key));
            let object = manifest::parse(&file.display().to_string(), &yaml).unwrap().remove(0);
            let answer = match manifest::dry_run(&namespace.client, &namespace.name, &object).await {
                Ok(_) => "taken".to_owned(),
                Err(error) => error.to_string(),
            };
            if !expected.iter().all(|part| answer.contains(part)) {
                wrong.push(format!("{}: expected {expected:?}, got: {answer}", file.display()));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    })
    .await;
}

fn files_of(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn header<'a>(yaml: &'a str, key: &str) -> &'a str {
    let prefix = format!("# {key}: ");
    yaml.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_with_every_field_is_taken() {
    test("complete", async |namespace: Namespace| {
        for object in complete() {
            manifest::dry_run(&namespace.client, &namespace.name, &object).await.unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_is_born_with_conditions() {
    test("born", async |namespace: Namespace| {
        train(&namespace, "lines", &json!({"scheduling": {"nodeSelector": {"stoker.dev/test": "none"}}})).await;
        let born = namespace.api::<ModelTraining>().get("lines").await.unwrap().status;
        assert_eq!(born, Some(ModelTrainingStatus::initial()));
        let named = ["--namespace", namespace.name.as_str(), "--timeout=0", "modeltraining/lines"];
        command::run("kubectl", &[&["wait", "--for=condition=Reconciling"], &named[..]].concat()).await.unwrap();
    })
    .await;
}

fn complete() -> Vec<DynamicObject> {
    let training = lines::training(
        "complete",
        &json!({
            "data": {
                "source": {"secretName": "s3"},
                "format": "csv",
                "csv": {"delimiter": ";", "header": true},
                "features": ["a", "c_*"],
                "cast": {"color": "Text"},
                "clean": {
                    "duplicates": "Drop",
                    "missing": {
                        "strategy": "Constant", "value": 0,
                        "columns": {"a": {"strategy": "Constant", "value": "1.5"}, "color": {"strategy": "MostFrequent"}},
                    },
                    "require": ["a BETWEEN -2 AND 2"],
                    "outliers": {"zScore": 6},
                },
                "transform": {
                    "numeric": "MinMax", "categorical": "Ordinal", "columns": {"color": "OneHot"}, "target": "Standardize",
                },
                "split": {"train": 0.7, "validation": 0.2, "test": 0.1, "seed": 1, "time": "day"},
            },
            "model": {"mlp": {"hidden": [64, 32], "activation": "LeakyReLU", "dropout": 0.1}},
            "train": {
                "loss": "Huber",
                "optimizer": {"adam": null, "sgd": {"learningRate": 0.1, "momentum": 0.9, "nesterov": true, "weightDecay": 0}},
                "schedule": {"step": {"every": 100, "factor": 0.5}},
                "weightDecayOn": "Matrices",
                "batchSize": 64,
                "microBatchSize": 16,
                "precision": "F32",
                "gradientClip": {"norm": 1},
                "ema": {"decay": 0.99},
                "earlyStopping": {"metric": "validation/r2", "patience": 3, "minDelta": 0.001, "restoreBest": false},
                "seed": 7,
            },
            "checkpoint": {"every": "1m30s", "keepLast": 5},
            "resources": {
                "gpus": 1, "cpu": "1500m", "memory": "1.5Gi", "scratch": "10Gi", "cache": {"persistentVolumeClaim": "a100"},
            },
            "scheduling": {
                "nodeSelector": {"pool": "gpu"},
                "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
                "priorityClassName": "batch",
            },
            "suspend": true,
            "retries": 5,
            "deadline": "2h",
            "ttlAfterFinished": "24h",
        }),
    );
    let deployment = lines::deployment(
        "complete",
        "complete",
        &json!({
            "model": {"training": {"version": 3}},
            "replicas": 2,
            "server": {
                "batching": {"maxSize": 16, "maxDelay": "0s"},
                "limits": {"maxBodyBytes": 1_048_576, "timeout": "5s", "maxQueue": 100},
                "resources": {"gpus": 1, "cache": {"size": "4Gi"}},
            },
            "rollout": {"strategy": "Rolling"},
            "auth": {"apiKeys": {"secretName": "keys"}},
            "scheduling": {"nodeSelector": {"pool": "serving"}},
        }),
    );
    vec![training, language_model(), fine_tuning(), deployment]
}

/// Every field that a language model has besides.
fn language_model() -> DynamicObject {
    lines::training(
        "language",
        &json!({
            "task": "LanguageModeling",
            "data": {
                "source": {"uri": "s3://datasets/talks/*.jsonl"},
                "features": null,
                "target": null,
                "text": {
                    "messages": "talk",
                    "tokenizer": {"bytes": null, "bpe": {"vocabularySize": 1024}},
                    "length": {"min": 10, "max": 100_000},
                    "nearDuplicates": {"similarity": 0.9},
                },
                "clean": {"duplicates": "Drop", "require": ["language = 'en'"]},
            },
            "model": {
                "mlp": null,
                "transformer": {
                    "preset": "tiny", "layers": 2, "width": 64, "heads": 4, "keyValueHeads": 2, "context": 128,
                    "feedForward": 192, "positions": "Rotary", "ropeTheta": 10_000,
                    "ropeScaling": {
                        "factor": 8, "lowFrequencyFactor": 1, "highFrequencyFactor": 4, "originalContext": 64,
                    },
                    "normalization": "RMSNorm", "normEpsilon": 0.00001, "activation": "SwiGLU", "bias": false,
                    "tiedEmbeddings": true, "dropout": 0.1,
                },
            },
            "train": {
                "loss": "CrossEntropy",
                "optimizer": {
                    "adam": null,
                    "muon": {
                        "learningRate": 0.02, "adjustLearningRate": "MatchRmsAdamW", "momentum": 0.9, "nesterov": true,
                        "weightDecay": 0.1, "adamW": {"learningRate": 0.01},
                    },
                },
                "schedule": {"wsd": {"warmupSteps": 10, "decaySteps": 100, "decay": "OneMinusSqrt", "minimum": 0.001}},
                "earlyStopping": {"metric": "validation/perplexity", "patience": 3},
            },
        }),
    )
}

/// Every field of a model to start from.
fn fine_tuning() -> DynamicObject {
    lines::training(
        "fine-tuning",
        &json!({
            "task": "LanguageModeling",
            "data": {"source": {"uri": "s3://datasets/talks/*.jsonl"}, "features": null, "target": null},
            "model": {
                "mlp": null,
                "from": {
                    "artifact": null,
                    "huggingFace": {
                        "uri": "file:///base/gpt2/", "secretName": "hub", "persistentVolumeClaim": "models",
                    },
                    "training": null,
                    "context": 128,
                    "dropout": 0.1,
                    "lora": {"rank": 16, "alpha": 32, "targets": ["c_attn", "mlp.c_proj"], "export": "Adapter"},
                },
            },
            "train": {"activationCheckpointing": true},
        }),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn every_preset_is_taken_as_it_stands() {
    test("presets", async |namespace: Namespace| {
        for preset in Preset::ALL {
            let spec = json!({
                "task": "LanguageModeling",
                "data": {"source": {"uri": "s3://datasets/books.jsonl"}, "features": null, "target": null},
                "model": {"mlp": null, "transformer": {"preset": preset}},
            });
            manifest::dry_run(&namespace.client, &namespace.name, &lines::training("preset", &spec)).await.unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_explain_describes_every_field() {
    test("explain", async |_: Namespace| {
        let clean = command::run("kubectl", &["explain", "modeltraining.spec.data.clean"]).await.unwrap();
        let clean = clean.split_whitespace().collect::<Vec<_>>().join(" ");
        for text in ["duplicates", "missing", "require", "outliers", "Which rows are dropped", "age BETWEEN 0 AND 120"]
        {
            assert!(clean.contains(text), "'{text}' is not in:\n{clean}");
        }
        for kind in ["modeltraining", "modeldeployment"] {
            let all = command::run("kubectl", &["explain", "--recursive", &format!("{kind}.spec")]).await.unwrap();
            assert!(!all.contains("<no description>"), "{all}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manifest_that_installs_stoker_without_helm_is_taken() {
    test("manifest", async |_: Namespace| {
        let manifest = checkout::path("deploy/stoker.yaml").display().to_string();
        let apply = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--filename", &manifest];
        let applied = command::run("kubectl", &apply).await.unwrap();
        for object in ["modeltrainings.stoker.dev", "modeldeployments.stoker.dev", "deployment.apps/stoker"] {
            assert!(applied.contains(object), "{applied}");
        }
    })
    .await;
}

/// Nothing is written: the definitions are there already, and other tests' resources are served by them. That the API server
/// makes new ones of the same text, each installation of the chart shows.
#[tokio::test(flavor = "multi_thread")]
async fn the_definitions_alone_are_taken_whether_kubectl_or_the_server_applies_them() {
    test("definitions", async |_: Namespace| {
        let folder = checkout::path("crds").display().to_string();
        // By itself kubectl keeps the whole text in an annotation too, which has room for 256 KiB. And to the server it is Helm
        // that holds the fields on this cluster.
        let ways: [&[&str]; 2] = [&[], &["--server-side", "--force-conflicts"]];
        for way in ways {
            let apply = [&["apply", "--dry-run=server", "--filename", folder.as_str()][..], way].concat();
            let applied = command::run("kubectl", &apply).await.unwrap();
            for definition in ["modeltrainings.stoker.dev", "modeldeployments.stoker.dev"] {
                assert!(applied.contains(definition), "{applied}");
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_get_shows_how_a_training_and_a_deployment_are() {
    test("columns", async |namespace: Namespace| {
        train(&namespace, "lines", &json!({"train": {"epochs": 20}})).await;
        succeeded(&namespace, "lines").await;
        deploy(&namespace, "lines", &json!({})).await;
        let in_namespace = ["--namespace", namespace.name.as_str()];

        let trainings = command::run("kubectl", &[&["get", "mt"], &in_namespace[..]].concat()).await.unwrap();
        let [header, row] = two_lines(&trainings);
        let names = ["NAME", "PHASE", "PROGRESS", "EPOCH", "LOSS", "METRIC", "ETA", "MODEL", "AGE"];
        assert_eq!(header.split_whitespace().collect::<Vec<_>>(), names);
        let cells: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(cells[..4], ["lines", "Succeeded", "100%", "20/20"], "{row}");

        let deployments = command::run("kubectl", &[&["get", "md"], &in_namespace[..]].concat()).await.unwrap();
        let [header, row] = two_lines(&deployments);
        let names = ["NAME", "READY", "MODEL", "VERSION", "REPLICAS", "RPS", "P95", "URL", "AGE"];
        assert_eq!(header.split_whitespace().collect::<Vec<_>>(), names);
        let cells: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(cells[..5], ["lines", "True", "lines", "1", "1/1"], "{row}");
        assert!(row.contains(&format!("http://lines.{}.svc:8080", namespace.name)), "{row}");

        let all = command::run("kubectl", &[&["get", "stoker", "--output", "name"], &in_namespace[..]].concat()).await;
        assert_eq!(all.unwrap(), "modeldeployment.stoker.dev/lines\nmodeltraining.stoker.dev/lines\n");
    })
    .await;
}

fn two_lines(table: &str) -> [&str; 2] {
    table.lines().collect::<Vec<_>>().try_into().unwrap_or_else(|_| panic!("not a header and one row:\n{table}"))
}
