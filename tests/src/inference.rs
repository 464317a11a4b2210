//! A client of the Open Inference Protocol v2.

use std::time::Duration;

use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::{Error, Result};

/// A served model.
#[derive(Clone, Debug)]
pub struct Model {
    http: reqwest::Client,
    root: String,
    name: String,
}

/// What a server answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// The body; null where it is no JSON.
    pub body: Value,
}

impl Model {
    /// The model of that name behind the URL's root.
    ///
    /// # Errors
    /// If no HTTP client can be made.
    pub fn new(root: &str, name: &str) -> Result<Self> {
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(30))
            .build()
            .map_err(|source| Error::Http { what: "make an HTTP client".into(), source })?;
        Ok(Self { http, root: root.to_owned(), name: name.to_owned() })
    }

    /// A POST to `…/infer`, still to be given its body.
    pub fn post(&self) -> RequestBuilder {
        self.http.post(format!("{}/v2/models/{}/infer", self.root, self.name))
    }

    /// Asks for predictions of the given inputs.
    ///
    /// # Errors
    /// If the server cannot be reached; a refusal is an [`Answer`].
    pub async fn infer(&self, inputs: &[Value]) -> Result<Answer> {
        send(self.post().json(&json!({ "inputs": inputs }))).await
    }

    /// Gets a path such as `/v2/health/ready`.
    ///
    /// # Errors
    /// If the server cannot be reached.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        send(self.http.get(format!("{}{path}", self.root))).await
    }
}

/// Sends a request and takes whatever answer comes.
///
/// # Errors
/// If none comes.
pub async fn send(request: RequestBuilder) -> Result<Answer> {
    let error = |source: reqwest::Error| Error::Http { what: "ask the model".into(), source: source.without_url() };
    let response = request.send().await.map_err(error)?;
    let status = response.status();
    let body = response.bytes().await.map_err(error)?;
    Ok(Answer { status, body: serde_json::from_slice(&body).unwrap_or_default() })
}

/// One input tensor: a column of numbers, one per row.
pub fn numbers(name: &str, values: &[f64]) -> Value {
    json!({"name": name, "shape": [values.len()], "datatype": "FP64", "data": values})
}

/// One input tensor: a column of texts, one per row.
pub fn texts(name: &str, values: &[&str]) -> Value {
    json!({"name": name, "shape": [values.len()], "datatype": "BYTES", "data": values})
}

impl Answer {
    /// The data of an output tensor.
    ///
    /// # Errors
    /// If the request was refused, or there is no such output.
    pub fn output(&self, name: &str) -> Result<&Vec<Value>> {
        self.body["outputs"]
            .as_array()
            .and_then(|outputs| outputs.iter().find(|output| output["name"] == name))
            .and_then(|output| output["data"].as_array())
            .ok_or_else(|| {
                Error::Unexpected(format!("no output '{name}' in the answer {}: {}", self.status, self.body))
            })
    }
}
