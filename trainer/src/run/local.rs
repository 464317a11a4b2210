//! `stoker-trainer local`: the ModelTraining of a manifest, in one process, with a folder for storage.

mod base;
mod terminal;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use stoker_crds::{
    Reason, TrainConfig,
    artifact::ModelRef,
    config::RunIdentity,
    training::{Storage, storage::SCHEMES},
};
use tokio_util::sync::CancellationToken;

use self::terminal::Terminal;
use super::{RunError, Tracker, manifest, manifest::Training, pipeline::Pipeline};
use crate::{data::Scratch, storage::Access};

/// What is run, and where the buckets of its URIs lie here.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The manifest that holds the ModelTraining.
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Which ModelTraining, where the manifest holds several.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The folder in which the data's buckets lie: s3://datasets/x.csv is DIR/datasets/x.csv [default: the manifest's folder].
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The folder in which the storage's buckets lie; checkpoints and models are written there.
    #[arg(long, value_name = "DIR", default_value = "stoker-local")]
    storage: PathBuf,
    /// Go on with the last run from its last checkpoint instead of starting a new one.
    #[arg(long)]
    resume: bool,
}

impl Options {
    fn data_access(&self) -> Access {
        let beside = self.file.parent().filter(|parent| !parent.as_os_str().is_empty());
        Access::local(self.data.as_deref().or(beside).unwrap_or(Path::new(".")))
    }
}

/// Runs the training and says where its model lies.
///
/// # Errors
/// If the manifest cannot be used or the run fails.
pub async fn run(options: Options, stop: CancellationToken) -> Result<(), RunError> {
    let training = manifest::read(&options.file, options.name.as_deref())?;
    let config = Arc::new(resolve(&training, &options).await?);
    let scratch = tempfile::tempdir()
        .map_err(|source| RunError::Io { what: "cannot make a folder for prepared data".into(), source })?;
    let tracker = Arc::new(Tracker::new(config.run.id()));
    let pipeline = Pipeline {
        config: Arc::clone(&config),
        data: options.data_access(),
        base: base::access(&training.spec, options.data_access(), &options.storage),
        storage: Access::local(&options.storage),
        scratch: Scratch::unlimited(scratch.path()),
        tracker: Arc::clone(&tracker),
        stop,
    };
    let terminal = Terminal::start(&training.name, Arc::clone(&tracker));
    let result = pipeline.run().await;
    terminal.finish().await;
    match result {
        Ok(model) => {
            terminal::print_result(&tracker.progress(), &artifact_path(&options.storage, &model), &training.name);
            Ok(())
        }
        Err(error) => {
            if let Some(checkpoint) = tracker.progress().checkpoint.filter(|_| error.reason() != Reason::Diverged) {
                eprintln!("The checkpoint of step {} is kept; add --resume to go on from it.", checkpoint.step);
            }
            Err(error)
        }
    }
}

/// The configuration as the operator would resolve it, for the next run of this folder, or the last one to resume.
async fn resolve(training: &Training, options: &Options) -> Result<TrainConfig, RunError> {
    let Training { name, namespace, spec } = training;
    let default_storage = Storage {
        uri: "s3://models".into(),
        secret_name: None,
        service_account_name: None,
        persistent_volume_claim: None,
    };
    let identity =
        |number| RunIdentity { namespace: namespace.clone(), training: name.clone(), uid: "local".into(), number };
    let root = Access::local(&options.storage).open(&spec.storage.as_ref().unwrap_or(&default_storage).uri)?;
    let base = base::published(spec, &root, namespace).await?;
    let mut config = TrainConfig::resolve(spec, identity(1), Some(&default_storage), base.as_ref())?;
    let runs = local_path(&options.storage, &config.storage.uri).join(namespace).join(name).join("runs");
    let last = last_run(&runs);
    config.run.number = if options.resume { last.max(1) } else { last + 1 };
    Ok(config)
}

/// The highest number among the folders `<number>-…` of a folder; 0 for none.
fn last_run(runs: &Path) -> u32 {
    let entries = std::fs::read_dir(runs).into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.split('-').next()?.parse().ok());
    numbers.max().unwrap_or(0)
}

/// Where [`Access::local`] has what a URI names.
fn local_path(dir: &Path, uri: &str) -> PathBuf {
    let path = SCHEMES.iter().find_map(|scheme| uri.strip_prefix(scheme)).unwrap_or(uri);
    dir.join(path.trim_end_matches('/'))
}

fn artifact_path(storage: &Path, model: &ModelRef) -> PathBuf {
    local_path(storage, &model.uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_folders() {
        assert_eq!(local_path(Path::new("here"), "s3://models/a/b/"), Path::new("here/models/a/b"));
    }

    #[test]
    fn runs_are_counted_on_from_the_highest_number() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(last_run(folder.path()), 0);
        for name in ["1-local", "10-local", "9-local", "notes"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        assert_eq!(last_run(folder.path()), 10);
    }

    /// A bucket of text, a storage, and a manifest of trainings that start from each other.
    struct Workplace(tempfile::TempDir);

    impl Workplace {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir(dir.path().join("texts")).unwrap();
            let lines: String = (0..60).map(|line| format!("line {line:03}\n")).collect();
            std::fs::write(dir.path().join("texts/lines.txt"), lines).unwrap();
            Self(dir)
        }

        async fn run(&self, name: &str, model: serde_json::Value) -> Result<(), RunError> {
            let manifest = self.0.path().join(format!("{name}.yaml"));
            let text = serde_json::json!({
                "kind": "ModelTraining",
                "metadata": {"name": name},
                "spec": {
                    "task": "LanguageModeling",
                    "data": {
                        "source": {"uri": "s3://texts/lines.txt"},
                        "text": {"documents": {"endAt": "Line", "minLength": 1}},
                    },
                    "model": model,
                    "train": {"batchSize": 4, "steps": 3},
                },
            });
            std::fs::write(&manifest, text.to_string()).unwrap();
            let options = Options {
                file: manifest,
                name: None,
                data: None,
                storage: self.0.path().join("storage"),
                resume: false,
            };
            run(options, CancellationToken::new()).await
        }

        /// The files of the one model that a training has published, and their folder.
        fn published(&self, name: &str) -> (Vec<String>, PathBuf) {
            let models = self.0.path().join("storage/models/default").join(name).join("models");
            let folder = std::fs::read_dir(models).unwrap().next().unwrap().unwrap().path();
            let names =
                std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<_> = names.collect();
            names.sort();
            (names, folder)
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_training_starts_from_another_one_and_from_a_folder_and_publishes_a_model_or_adapters() {
        let workplace = Workplace::new();
        let from_training = |more: serde_json::Value| {
            let mut from = serde_json::json!({"training": {"name": "base"}});
            from.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            serde_json::json!({ "from": from })
        };
        let error = workplace.run("early", from_training(serde_json::json!({}))).await.unwrap_err();
        assert!(error.to_string().contains("no such version of 'base'"), "{error}");

        let small = serde_json::json!({"transformer": {"layers": 1, "width": 16, "heads": 2, "context": 8}});
        workplace.run("base", small).await.unwrap();
        let whole = ["config.json", "manifest.json", "metrics.json", "model.safetensors", "tokenizer.json"];
        let (files, base) = workplace.published("base");
        assert_eq!(files, whole);

        let lora = serde_json::json!({"lora": {"rank": 2, "export": "Adapter"}});
        workplace.run("adapters", from_training(lora)).await.unwrap();
        let (files, adapters) = workplace.published("adapters");
        let alone =
            ["adapter_config.json", "adapter_model.safetensors", "manifest.json", "metrics.json", "tokenizer.json"];
        assert_eq!(files, alone);
        let metrics: serde_json::Value =
            serde_json::from_slice(&std::fs::read(adapters.join("metrics.json")).unwrap()).unwrap();
        let digest = format!("sha256:{}", base.file_name().unwrap().to_str().unwrap());
        assert_eq!(metrics["lineage"]["base"]["digest"], serde_json::json!(digest));

        workplace.run("nested", serde_json::json!({"from": {"training": {"name": "adapters"}}})).await.unwrap();
        let (files, nested) = workplace.published("nested");
        assert_eq!(files, whole);
        let metrics: serde_json::Value =
            serde_json::from_slice(&std::fs::read(nested.join("metrics.json")).unwrap()).unwrap();
        let digest = format!("sha256:{}", adapters.file_name().unwrap().to_str().unwrap());
        assert_eq!(metrics["lineage"]["base"]["digest"], serde_json::json!(digest));

        let folder = format!("file://{}", base.display());
        let merged = serde_json::json!({"from": {"huggingFace": {"uri": folder}, "lora": {"rank": 2}, "context": 4}});
        workplace.run("merged", merged).await.unwrap();
        let (files, merged) = workplace.published("merged");
        assert_eq!(files, whole);
        let config: serde_json::Value =
            serde_json::from_slice(&std::fs::read(merged.join("config.json")).unwrap()).unwrap();
        assert_eq!((&config["n_positions"], &config["vocab_size"]), (&serde_json::json!(4), &serde_json::json!(257)));
    }
}
