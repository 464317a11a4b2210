//! `stoker-trainer train`: a run inside a pod, as the operator asks for it.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Instant};

use stoker_crds::{
    TrainConfig,
    config::{CONFIG_DIR, CONFIG_FILE, SCRATCH_DIR, TERMINATION_MESSAGE_PATH},
    progress::PROGRESS_PORT,
    quantity,
    training::storage::{BASE_ENV_PREFIX, DATA_ENV_PREFIX, STORAGE_ENV_PREFIX},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{RunError, Tracker, endpoint, pipeline::Pipeline, report};
use crate::{data::Scratch, storage::Access};

/// Where the pod holds what.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The run's configuration.
    #[arg(long, value_name = "FILE", default_value_os_t = PathBuf::from(CONFIG_DIR).join(CONFIG_FILE))]
    config: PathBuf,
    /// The folder for prepared data and for what does not fit the memory.
    #[arg(long, value_name = "DIR", default_value = SCRATCH_DIR)]
    scratch: PathBuf,
    /// The file that takes the report at the end.
    #[arg(long, value_name = "FILE", default_value = TERMINATION_MESSAGE_PATH)]
    termination_message_path: PathBuf,
    /// Where the progress and the metrics are served.
    #[arg(long, value_name = "ADDRESS", default_value_t = SocketAddr::from(([0, 0, 0, 0], PROGRESS_PORT)))]
    listen: SocketAddr,
}

/// Runs it to its end, and leaves the report.
///
/// # Errors
/// The exit code of a failure, which says whether another try can help; the report explains it.
pub async fn run(options: Options, stop: CancellationToken) -> Result<(), u8> {
    let config = read_config(&options);
    let run = config.as_ref().map_or_else(|_| String::new(), |config| config.run.id());
    let gpus = config.as_ref().map_or(0, |config| config.resources.gpus);
    let (tracker, started) = (Arc::new(Tracker::new(run)), Instant::now());

    let result = match config {
        Ok(config) => run_config(&options, config, Arc::clone(&tracker), stop).await,
        Err(error) => Err(error),
    };
    match &result {
        Ok(model) => tracing::info!(uri = model.uri, digest = model.digest, "the model is published"),
        Err(error) => tracing::error!(reason = %error.reason(), "{error}"),
    }
    let outcome = result.as_ref().map(drop).map_err(RunError::exit_code);
    let gpu_seconds = f64::from(gpus) * started.elapsed().as_secs_f64();
    let report = report::report(tracker.progress(), gpu_seconds, result.map_err(|error| error.report()));
    if let Err(error) = report::write(&report, &options.termination_message_path) {
        tracing::error!(%error, path = %options.termination_message_path.display(), "the report cannot be written");
    }
    outcome
}

fn read_config(options: &Options) -> Result<TrainConfig, RunError> {
    let error = |message: String| RunError::Config { path: options.config.clone(), message };
    let text = std::fs::read_to_string(&options.config).map_err(|source| error(source.to_string()))?;
    serde_json::from_str(&text).map_err(|source| error(source.to_string()))
}

async fn run_config(
    options: &Options,
    config: TrainConfig,
    tracker: Arc<Tracker>,
    stop: CancellationToken,
) -> Result<stoker_crds::artifact::ModelRef, RunError> {
    let listener = TcpListener::bind(options.listen)
        .await
        .map_err(|source| RunError::Io { what: format!("cannot listen at {}", options.listen), source })?;
    let router = endpoint::router(Arc::clone(&tracker));
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    let bytes = |amount: &str| quantity::bytes(amount).unwrap_or(u64::MAX);
    let (room, memory) = (bytes(&config.resources.scratch), bytes(&config.resources.memory));
    let pipeline = Pipeline {
        scratch: Scratch::new(options.scratch.clone(), room).with_memory(memory),
        config: Arc::new(config),
        data: Access::from_env(DATA_ENV_PREFIX),
        base: Access::from_env(BASE_ENV_PREFIX),
        storage: Access::from_env(STORAGE_ENV_PREFIX),
        tracker,
        stop,
    };
    let result = pipeline.run().await;
    server.abort();
    result
}
