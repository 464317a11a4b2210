//! `stoker-trainer evaluate`: what a model makes of the rows that its training held out.
//!
//! The split follows from the data and its seed alone, so the held-out rows are found again without being stored: they are
//! the very rows that the metrics in status are of.

mod answers;
mod served;

use std::path::{Path, PathBuf};

use datafusion::arrow::record_batch::RecordBatch;
use stoker_crds::{
    artifact::{ADAPTER_CONFIG, CONFIG, PREPROCESSOR, TOKENIZER, WEIGHTS},
    metric::Metrics,
    training::{Data, Model, Resources, Task, data::Format, storage::STORAGE_ENV_PREFIX},
};

use self::{answers::Answers, served::ServedModel};
use super::{RunError, manifest, manifest::Training};
use crate::{
    artifact::{self, Artifact},
    data::{self, Output, Preprocessor, Scratch, TransformError},
    model::{Predictor, choose_device, end_of_text},
    server::artifact_uri,
    storage::Access,
    text::{self, Tokenizer, Vocabulary},
    training,
};

/// The training whose held-out rows are taken, and the model that is asked about them.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The manifest that holds the ModelTraining.
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Which ModelTraining, where the manifest holds several.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The folder in which the data's buckets lie [default: the manifest's folder].
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    model: ModelOption,
    /// The name under which the server serves the model [default: the training's].
    #[arg(long, value_name = "NAME", requires = "url")]
    served_as: Option<String>,
    /// A key that the server accepts.
    #[arg(long, env = "STOKER_API_KEY", value_name = "KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct ModelOption {
    /// The folder of a model artifact, which is computed here.
    #[arg(long, value_name = "URI")]
    model: Option<String>,
    /// A server of the Open Inference Protocol, which is asked over HTTP.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
}

/// Asks the model about the held-out rows and prints its metrics.
///
/// # Errors
/// If the data cannot be read, or the model cannot be loaded or does not answer.
pub async fn run(options: Options) -> Result<(), RunError> {
    let training = manifest::read(&options.file, options.name.as_deref())?;
    let data = training.spec.data.resolve()?;
    let folder = tempfile::tempdir()
        .map_err(|source| RunError::Io { what: "cannot make a folder for prepared data".into(), source })?;
    let (data_access, scratch) = (Access::local(data_dir(&options)), Scratch::unlimited(folder.path()));
    if training.spec.task == Task::LanguageModeling {
        return evaluate_text(&options, &training, &data, &data_access, &scratch).await;
    }
    let rows = data::held_out(&data, training.spec.task, &data_access, &scratch).await?;
    let count: usize = rows.iter().map(RecordBatch::num_rows).sum();

    let answers = match (&options.model.url, &options.model.model) {
        (Some(url), _) => {
            let name = options.served_as.as_deref().unwrap_or(&training.name);
            let model = ServedModel::connect(url, name, options.api_key.as_deref()).await?;
            model.answer(&rows, &data.target).await?
        }
        (None, Some(uri)) => answer(&open_artifact(uri).await?, &rows)?,
        (None, None) => return Err(RunError::Server("say which model: --model or --url".into())),
    };
    let metrics = answers.score(&rows)?;
    print(&metrics, count, "rows", options.json)
}

/// Loss and perplexity of a language model on the sequences that training never saw, in the tokens of its own tokenizer.
async fn evaluate_text(
    options: &Options,
    training: &Training,
    data: &Data<Format>,
    access: &Access,
    scratch: &Scratch,
) -> Result<(), RunError> {
    let Some(uri) = &options.model.model else {
        return Err(RunError::Server("a language model is evaluated here, and not over HTTP: give --model".into()));
    };
    let artifact = open_artifact(uri).await?;
    refuse_adapters(&artifact)?;
    let predictor = load(&artifact)?;
    let language = predictor.architecture().tokens()?;
    // Where the model was started from another one, its tokens were too; else they follow from the data once more.
    let vocabulary = match training.spec.model {
        Model::From(_) => {
            let refused = |error| RunError::Server(format!("the model's {TOKENIZER} cannot be used: {error}"));
            let end = end_of_text(artifact.file(CONFIG)?);
            let tokenizer = Tokenizer::from_json(artifact.file(TOKENIZER)?, end).map_err(refused)?;
            let (tensor, shape) = language.token_matrix();
            Some(Vocabulary { tensor, shape, tokenizer: Some(tokenizer) })
        }
        Model::Transformer(_) | Model::Mlp(_) => None,
    };
    let context = language.transformer().context as usize;
    let corpus = text::prepare(data, context, vocabulary, access, scratch, None, &|_| {}).await?;
    if *artifact.file(TOKENIZER)? != corpus.tokenizer.to_json() {
        return Err(RunError::Server(format!(
            "the model's {TOKENIZER} is not the one that this data and configuration give: name the manifest and the data \
             that the model was trained with"
        )));
    }
    let metrics = training::evaluate(&predictor, &corpus.test, &|_| {})?.metrics;
    print(&metrics, corpus.test.len(), "sequences", options.json)
}

/// Adapters alone are no model.
fn refuse_adapters(artifact: &Artifact) -> Result<(), RunError> {
    if artifact.file(ADAPTER_CONFIG).is_ok() {
        return Err(RunError::Server(
            "the model is adapters (LoRA) alone, which are not evaluated without the model that they are of: publish it with \
             lora.export Merged"
                .into(),
        ));
    }
    Ok(())
}

fn load(artifact: &Artifact) -> Result<Predictor, RunError> {
    let device = choose_device(&Resources::default())?;
    Ok(Predictor::load(artifact.file(CONFIG)?, artifact.file(WEIGHTS)?, &device)?)
}

fn data_dir(options: &Options) -> &Path {
    let beside = options.file.parent().filter(|parent| !parent.as_os_str().is_empty());
    options.data.as_deref().or(beside).unwrap_or(Path::new("."))
}

async fn open_artifact(uri: &str) -> Result<Artifact, RunError> {
    let folder = Access::from_env(STORAGE_ENV_PREFIX).open(&artifact_uri(uri))?;
    Ok(artifact::open(&folder, None).await?)
}

/// What a model that is computed here answers.
fn answer(artifact: &Artifact, rows: &[RecordBatch]) -> Result<Answers, RunError> {
    let preprocessor: Preprocessor = serde_json::from_slice(artifact.file(PREPROCESSOR)?).map_err(|error| {
        RunError::Server(format!("{PREPROCESSOR} cannot be read: {error}; publish the model again"))
    })?;
    let predictor = load(artifact)?;
    let mut predictions = Vec::new();
    for batch in rows {
        let unfit = |error: TransformError| RunError::Server(format!("a held-out row cannot be transformed: {error}"));
        predictions.extend(predictor.predict(&preprocessor.transform(batch).map_err(unfit)?)?);
    }
    Ok(match preprocessor.output() {
        Output::Classes { column, labels, .. } => {
            Answers::Classes { column: column.clone(), labels: labels.clone(), probabilities: predictions }
        }
        Output::Numbers { columns, .. } => {
            preprocessor.restore_targets(&mut predictions);
            Answers::Numbers { columns: columns.clone(), values: predictions }
        }
    })
}

fn print(metrics: &Metrics, count: usize, what: &str, json: bool) -> Result<(), RunError> {
    if json {
        println!("{}", serde_json::json!({what: count, "metrics": metrics}));
        return Ok(());
    }
    println!("{count} held-out {what}");
    for (name, value) in metrics {
        println!("{name:<20}{value:>10.4}");
    }
    Ok(())
}
