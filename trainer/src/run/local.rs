//! `stoker-trainer local`: the ModelTraining of a manifest, in one process, with a folder for storage.

mod terminal;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use stoker_crds::{
    TrainConfig,
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
    let config = Arc::new(resolve(&training, &options)?);
    let scratch = tempfile::tempdir()
        .map_err(|source| RunError::Io { what: "cannot make a folder for prepared data".into(), source })?;
    let tracker = Arc::new(Tracker::new(config.run.id()));
    let pipeline = Pipeline {
        config: Arc::clone(&config),
        data: options.data_access(),
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
            if let Some(checkpoint) = tracker.progress().checkpoint {
                eprintln!("The checkpoint of step {} is kept; add --resume to go on from it.", checkpoint.step);
            }
            Err(error)
        }
    }
}

/// The configuration as the operator would resolve it, for the next run of this folder, or the last one to resume.
fn resolve(training: &Training, options: &Options) -> Result<TrainConfig, RunError> {
    let Training { name, namespace, spec } = training;
    let default_storage = Storage {
        uri: "s3://models".into(),
        secret_name: None,
        service_account_name: None,
        persistent_volume_claim: None,
    };
    let identity =
        |number| RunIdentity { namespace: namespace.clone(), training: name.clone(), uid: "local".into(), number };
    let mut config = TrainConfig::resolve(spec, identity(1), Some(&default_storage))?;
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
}
