//! A model behind a server of the Open Inference Protocol v2.

use std::time::Duration;

use datafusion::arrow::{
    array::{AsArray, RecordBatch},
    datatypes::{DataType, Float64Type},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::answers::{Answers, typed};
use crate::run::RunError;

/// Rows in one request.
const ROWS_PER_REQUEST: usize = 64;
/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A served model and what it takes.
pub(super) struct ServedModel {
    client: reqwest::Client,
    url: String,
    key: Option<String>,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
}

#[derive(Deserialize)]
struct Tensor {
    name: String,
    datatype: String,
    #[serde(default)]
    parameters: Option<Parameters>,
}

#[derive(Deserialize)]
struct Parameters {
    #[serde(default)]
    labels: Vec<String>,
}

#[derive(Deserialize)]
struct Answer {
    outputs: Vec<Output>,
}

#[derive(Deserialize)]
struct Output {
    name: String,
    data: Value,
}

impl ServedModel {
    /// Asks the server what the model takes and gives.
    pub(super) async fn connect(root: &str, name: &str, key: Option<&str>) -> Result<Self, RunError> {
        let client = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .build()
            .map_err(|error| RunError::Server(format!("cannot make an HTTP client: {error}")))?;
        let url = format!("{}/v2/models/{name}", root.trim_end_matches('/'));
        let key = key.map(str::to_owned);
        let metadata = send(&url, authorized(client.get(&url), key.as_deref())).await?;
        Ok(Self { client, url, key, metadata })
    }

    /// What the model answers about the rows.
    pub(super) async fn answer(&self, rows: &[RecordBatch], targets: &[String]) -> Result<Answers, RunError> {
        let mut answers = self.no_answers(targets)?;
        for batch in rows {
            for start in (0..batch.num_rows()).step_by(ROWS_PER_REQUEST) {
                let part = batch.slice(start, ROWS_PER_REQUEST.min(batch.num_rows() - start));
                self.answer_part(&part, &mut answers).await?;
            }
        }
        Ok(answers)
    }

    fn no_answers(&self, targets: &[String]) -> Result<Answers, RunError> {
        let labels =
            self.metadata.outputs.iter().find_map(|output| output.parameters.as_ref()).map(|p| p.labels.clone());
        match (labels, targets) {
            (Some(labels), [column]) => {
                Ok(Answers::Classes { column: column.clone(), labels, probabilities: Vec::new() })
            }
            (None, columns) => Ok(Answers::Numbers { columns: columns.to_vec(), values: Vec::new() }),
            _ => Err(RunError::Server(format!("{} predicts one class; the manifest has several targets", self.url))),
        }
    }

    async fn answer_part(&self, rows: &RecordBatch, answers: &mut Answers) -> Result<(), RunError> {
        let inputs = self.metadata.inputs.iter().map(|input| tensor(rows, input)).collect::<Result<Vec<_>, _>>()?;
        let url = format!("{}/infer", self.url);
        let request = authorized(self.client.post(&url), self.key.as_deref()).json(&json!({ "inputs": inputs }));
        let answer: Answer = send(&url, request).await?;
        match answers {
            Answers::Classes { labels, probabilities, .. } => {
                let answered = numbers(&url, &answer, "probabilities", rows.num_rows() * labels.len())?;
                probabilities.extend(answered);
            }
            Answers::Numbers { columns, values } => {
                let answered = columns
                    .iter()
                    .map(|column| numbers(&url, &answer, column, rows.num_rows()))
                    .collect::<Result<Vec<_>, _>>()?;
                values.extend((0..rows.num_rows()).flat_map(|row| answered.iter().map(move |column| column[row])));
            }
        }
        Ok(())
    }
}

/// A feature column as an input tensor of the protocol.
fn tensor(rows: &RecordBatch, input: &Tensor) -> Result<Value, RunError> {
    let data: Vec<Value> = match input.datatype.as_str() {
        "BYTES" => typed(rows, &input.name, &DataType::Utf8)?.as_string::<i32>().iter().map(Value::from).collect(),
        "BOOL" => typed(rows, &input.name, &DataType::Boolean)?.as_boolean().iter().map(Value::from).collect(),
        _ => {
            let array = typed(rows, &input.name, &DataType::Float64)?;
            array.as_primitive::<Float64Type>().iter().map(Value::from).collect()
        }
    };
    Ok(json!({"name": input.name, "datatype": input.datatype, "shape": [rows.num_rows()], "data": data}))
}

/// The numbers of one output.
fn numbers(url: &str, answer: &Answer, name: &str, expected: usize) -> Result<Vec<f32>, RunError> {
    let found = answer.outputs.iter().find(|output| output.name == name).map(|output| output.data.clone());
    let values: Option<Vec<f32>> = found.and_then(|data| serde_json::from_value(data).ok());
    values
        .filter(|values| values.len() == expected)
        .ok_or_else(|| RunError::Server(format!("{url} did not answer {expected} numbers for '{name}'")))
}

fn authorized(request: reqwest::RequestBuilder, key: Option<&str>) -> reqwest::RequestBuilder {
    match key {
        Some(key) => request.bearer_auth(key),
        None => request,
    }
}

async fn send<T: DeserializeOwned>(url: &str, request: reqwest::RequestBuilder) -> Result<T, RunError> {
    let unreachable = |error: reqwest::Error| RunError::Server(format!("{url} does not answer: {error}"));
    let response = request.send().await.map_err(unreachable)?;
    let status = response.status();
    let body = response.text().await.map_err(unreachable)?;
    if !status.is_success() {
        return Err(RunError::Server(format!("{url} answered {status}: {body}")));
    }
    serde_json::from_str(&body).map_err(|error| RunError::Server(format!("{url} answered what is no answer: {error}")))
}
