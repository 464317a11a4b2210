//! Scenarios: a small model made by the real data, model and artifact code, behind the real routes and sockets.

mod api;
mod fuzz;
#[cfg(feature = "gpu")]
mod gpu;
mod limits;
mod sockets;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Request, StatusCode},
};
use burn::tensor::Device;
use clap::Parser;
use serde_json::{Value, json};
use stoker_crds::{
    artifact::{CONFIG, PREPROCESSOR, WEIGHTS},
    training::{Data, Model, Task, data::Format, model::Mlp, optimize::Loss},
};
use tower::ServiceExt;

use super::{ServeOptions, inference, management, metrics::Metrics, model::ServedModel, state::ServerState};
use crate::{
    artifact,
    data::{Preprocessor, Scratch, prepare},
    model::{Architecture, ModelError, Predictor, to_safetensors},
    storage::Access,
};

/// A model of fruit in a folder: `size` (a number, filled where it is missing), `colour` (text), `ripe` (true or false).
struct Fruit {
    folder: tempfile::TempDir,
    preprocessor: Preprocessor,
    digest: String,
}

impl Fruit {
    /// Tells apples, limes and plums apart.
    async fn classifier() -> Self {
        Self::publish(json!({"target": ["kind"]}), Task::Classification, Loss::CrossEntropy).await
    }

    /// Estimates two numbers, which it learned in other units than it answers in.
    async fn regression() -> Self {
        let data = json!({"target": ["price", "age"], "transform": {"target": "Standardize"}});
        Self::publish(data, Task::Regression, Loss::MSE).await
    }

    async fn publish(mut data: Value, task: Task, loss: Loss) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("raw")).unwrap();
        std::fs::write(folder.path().join("raw/fruit.csv"), csv()).unwrap();
        data["source"] = json!({"uri": "s3://raw/fruit.csv"});
        data["format"] = json!("csv");
        data["features"] = json!(["size", "colour", "ripe"]);
        data["clean"] = json!({"missing": {"columns": {"size": {"strategy": "Median"}}}});
        let data: Data<Format> = serde_json::from_value(data).unwrap();
        let access = Access::local(folder.path());
        let preprocessor =
            prepare(&data, task, &access, &Scratch::unlimited(folder.path()), &|_| ()).await.unwrap().preprocessor;

        let (inputs, outputs) = (preprocessor.input_width(), preprocessor.output_width());
        let model = Model::Mlp(Mlp { hidden: vec![8], ..Mlp::default() });
        let architecture = Architecture::new(model, task, loss, inputs, outputs).unwrap();
        let weights = to_safetensors(&architecture.init(7, &Device::flex())).unwrap();
        let files = vec![
            (CONFIG.into(), serde_json::to_vec(&architecture).unwrap().into()),
            (WEIGHTS.into(), weights.into()),
            (PREPROCESSOR.into(), serde_json::to_vec(&preprocessor).unwrap().into()),
        ];
        let digest = artifact::commit(&access.open("s3://model/fruit").unwrap(), None, files).await.unwrap();
        Self { folder, preprocessor, digest }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("model/fruit")
    }

    /// The options of a server for this model, with further flags.
    fn options(&self, flags: &[&str]) -> ServeOptions {
        options(&self.path(), flags)
    }

    /// The state of a server that has loaded this model.
    async fn loaded(&self, flags: &[&str]) -> Arc<ServerState> {
        let state = ServerState::new(self.options(flags)).unwrap();
        let model = ServedModel::load(&state.options, &state.metrics).await.unwrap();
        state.set_model(model);
        Arc::new(state)
    }

    /// The same model, computed by the given function instead of its weights: one that waits, or fails.
    fn computed_by(
        &self,
        options: &ServeOptions,
        metrics: &Metrics,
        predict: impl Fn(&[f32]) -> Result<Vec<f32>, ModelError> + Send + 'static,
    ) -> ServedModel {
        ServedModel::new(options, metrics, self.digest.clone(), self.preprocessor.clone(), predict).unwrap()
    }

    /// The artifact's weights, without a server.
    async fn predictor(&self) -> Predictor {
        let folder = Access::local(self.folder.path()).open("s3://model/fruit").unwrap();
        let artifact = artifact::open(&folder, Some(&self.digest)).await.unwrap();
        Predictor::load(artifact.file(CONFIG).unwrap(), artifact.file(WEIGHTS).unwrap(), &Device::flex()).unwrap()
    }
}

fn csv() -> String {
    let rows = (0..60_u32).map(|i| {
        let (kind, colour) = [("apple", "red"), ("lime", "green"), ("plum", "blue")][i as usize % 3];
        let (size, ripe) = (f64::from(i % 7) * 1.5 + 1.0, i % 2 == 0);
        format!("{size},{colour},{ripe},{kind},{},{}\n", size * 100.0 + 1000.0, i % 5)
    });
    ["size,colour,ripe,kind,price,age\n".to_owned()].into_iter().chain(rows).collect()
}

fn options(model: &Path, flags: &[&str]) -> ServeOptions {
    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: ServeOptions,
    }
    let model = model.display().to_string();
    let fixed = ["serve", "--model", &model, "--name", "fruit", "--model-version", "3"];
    let ports = ["--listen", "127.0.0.1:0", "--management-listen", "127.0.0.1:0"];
    Cli::parse_from(fixed.iter().chain(&ports).chain(flags)).options
}

/// Holds computations up until they are let go, one by one.
struct Gate(mpsc::Sender<()>);

impl Gate {
    /// A gate, and a model behind it that answers the probabilities of `classes` classes, all alike.
    fn new(classes: usize, width: usize) -> (Self, impl Fn(&[f32]) -> Result<Vec<f32>, ModelError> + Send + 'static) {
        let (open, opened) = mpsc::channel();
        let predict = move |features: &[f32]| {
            // Without its gate, the model is free.
            let _ = opened.recv();
            Ok(vec![1.0 / classes as f32; features.len() / width * classes])
        };
        (Self(open), predict)
    }

    fn let_one_go(&self) {
        self.0.send(()).unwrap();
    }
}

/// A request for so many rows, all of which the model knows.
fn rows(n: usize) -> Value {
    let colours: Vec<_> = ["red", "green", "blue"].into_iter().cycle().take(n).collect();
    json!({"inputs": [
        {"name": "size", "shape": [n], "datatype": "FP64", "data": (0..n).map(|i| i as f64 / 4.0).collect::<Vec<_>>()},
        {"name": "colour", "shape": [n], "datatype": "BYTES", "data": colours},
        {"name": "ripe", "shape": [n], "datatype": "BOOL", "data": (0..n).map(|i| i % 2 == 0).collect::<Vec<_>>()},
    ]})
}

fn post(path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(path).header("content-type", "application/json").body(body.into()).unwrap()
}

fn infer(body: &Value) -> Request<Body> {
    post("/v2/models/fruit/infer", body.to_string())
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl Answer {
    /// The error's message.
    fn error(&self) -> &str {
        self.body["error"].as_str().unwrap_or_default()
    }
}

/// Asks the inference port.
async fn ask(state: &Arc<ServerState>, request: Request<Body>) -> Answer {
    ask_router(inference::router(Arc::clone(state)), request).await
}

/// Asks the management port.
async fn ask_management(state: &Arc<ServerState>, request: Request<Body>) -> Answer {
    ask_router(management::router(Arc::clone(state)), request).await
}

/// An answer that is no JSON becomes a JSON text.
async fn ask_router(router: Router, request: Request<Body>) -> Answer {
    let (head, body) = router.oneshot(request).await.unwrap().into_parts();
    let bytes = to_bytes(body, usize::MAX).await.unwrap();
    let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| Value::from(String::from_utf8(bytes.into()).unwrap()));
    Answer { status: head.status, headers: head.headers, body }
}

fn numbers(data: &Value) -> Vec<f32> {
    serde_json::from_value(data.clone()).unwrap()
}

/// Equal but for the order in which a product's terms are added: each of the model's two layers adds at most 8 terms
/// of about 1, with a rounding error of 2^-24 each.
fn assert_close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= 1e-6 * expected.abs().max(1.0), "{found} is not {expected}");
    }
}
