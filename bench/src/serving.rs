//! Requests per second, and how long they take: `stoker-trainer serve` on loopback, asked about one row at a time.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use serde_json::{Map, Value, json};
use stoker_e2e::{Error, Result, command, inference::Model, wait::Wait};

use crate::{
    examples,
    load::{self, Duty, Outcome, Target},
    output::{Output, Table, number},
    process::{Process, free_address},
};

/// Connections that are open at the same time.
const CONNECTIONS: [u32; 3] = [1, 8, 64];
/// What others reach with small models over HTTP, in requests per second.
const OTHERS: &str = "To be ahead of: 1,849 requests/s (MLServer over REST), 2,400 (FastAPI with ONNX)";

/// An example, and the file of its first row.
struct Example {
    name: &'static str,
    data: &'static str,
}

const EXAMPLES: [Example; 2] =
    [Example { name: "cars", data: "cars/cars.jsonl" }, Example { name: "digits", data: "digits/digits.csv" }];

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Figures {
    model: &'static str,
    connections: u32,
    body_bytes: usize,
    requests_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    slowest_ms: f64,
    errors: u64,
}

impl Figures {
    fn row(&self) -> [String; 7] {
        [
            format!("{}, {} bytes", self.model, self.body_bytes),
            self.connections.to_string(),
            number(self.requests_per_second),
            number(self.p50_ms),
            number(self.p99_ms),
            number(self.slowest_ms),
            self.errors.to_string(),
        ]
    }
}

/// Trains two examples, serves them, and asks them over 1, 8 and 64 connections.
///
/// # Errors
/// If a request fails, or is not answered with 200.
pub(crate) async fn run(seconds: u64, output: &mut Output) -> Result<()> {
    println!("\nServing: one row a request, {seconds} s at each number of connections\n");
    let duty = Duty { warm_up: Duration::from_secs(2), counted: Duration::from_secs(seconds) };
    let mut table =
        Table::new(["model, request", "connections", "requests/s", "p50 ms", "p99 ms", "slowest ms", "errors"]);
    for example in &EXAMPLES {
        for figures in measure(example, duty).await? {
            table.row(figures.row());
            output.record("serving", &figures)?;
        }
    }
    println!("{table}\n{OTHERS}");
    Ok(())
}

async fn measure(example: &Example, duty: Duty) -> Result<Vec<Figures>> {
    let folder = tempfile::tempdir().map_err(|source| Error::File { path: std::env::temp_dir(), source })?;
    let artifact = train(example.name, folder.path()).await?;
    let server = Server::start(example.name, &artifact, folder.path()).await?;
    let target = Arc::new(server.target(example).await?);
    let mut all = Vec::new();
    for connections in CONNECTIONS {
        let outcome = load::run(&target, connections, duty).await?;
        if outcome.errors > 0 {
            let errors = outcome.errors;
            return Err(server
                .process
                .failure(&format!("{errors} requests for {} were not answered with 200", example.name)));
        }
        all.push(figures(example.name, connections, &target, &outcome));
    }
    Ok(all)
}

fn figures(model: &'static str, connections: u32, target: &Target, outcome: &Outcome) -> Figures {
    Figures {
        model,
        connections,
        body_bytes: target.body.len(),
        requests_per_second: outcome.per_second(),
        p50_ms: outcome.percentile(0.5),
        p99_ms: outcome.percentile(0.99),
        slowest_ms: outcome.percentile(1.0),
        errors: outcome.errors,
    }
}

/// Trains an example as `make local` does, and returns the folder of its model.
async fn train(name: &str, folder: &Path) -> Result<PathBuf> {
    let mut trainer = Command::new(command::own_binary("stoker-trainer")?);
    trainer
        .arg("local")
        .arg("--file")
        .arg(examples::folder()?.join(format!("{name}.yaml")))
        .arg("--storage")
        .arg(folder);
    let said = command::output_of(trainer).await?;
    let model = said.lines().find_map(|line| line.strip_prefix("model  "));
    model.map(PathBuf::from).ok_or_else(|| Error::Unexpected(format!("`stoker-trainer local` named no model:\n{said}")))
}

/// A server on loopback; it is ended when this is dropped.
struct Server {
    process: Process,
    name: &'static str,
    address: std::net::SocketAddr,
}

impl Server {
    async fn start(name: &'static str, artifact: &Path, folder: &Path) -> Result<Self> {
        let (address, management) = (free_address()?, free_address()?);
        let mut serve = Command::new(command::own_binary("stoker-trainer")?);
        serve.args(["serve", "--name", name]).arg("--model").arg(artifact);
        serve.args(["--listen", &address.to_string(), "--management-listen", &management.to_string()]);
        let process = Process::start(serve, &folder.join("serve.log"))?;
        let ready = format!("http://{management}/readyz");
        let answered = Wait::new(format!("{name} to be served"), Duration::from_secs(60))
            .until_ok(async || {
                let answer = reqwest::get(&ready).await.map_err(|error| error.to_string())?;
                answer.error_for_status().map(drop).map_err(|error| error.to_string())
            })
            .await;
        answered.map_err(|error| process.failure(&error.to_string()))?;
        Ok(Self { process, name, address })
    }

    /// The first row of the example's data, as the server wants to be asked.
    async fn target(&self, example: &Example) -> Result<Target> {
        let row = first_row(&examples::folder()?.join("datasets").join(example.data))?;
        let described = Model::new(&format!("http://{}", self.address), self.name)?
            .get(&format!("/v2/models/{}", self.name))
            .await?
            .body;
        let unknown = || Error::Unexpected(format!("the server describes {} as {described}", self.name));
        let inputs = described["inputs"].as_array().ok_or_else(unknown)?;
        let tensor = |input: &Value| {
            let value = row.get(input["name"].as_str()?)?;
            Some(json!({"name": input["name"], "shape": [1], "datatype": input["datatype"], "data": [value]}))
        };
        let tensors: Vec<Value> = inputs.iter().map(tensor).collect::<Option<_>>().ok_or_else(unknown)?;
        let path = format!("/v2/models/{}/infer", self.name);
        Ok(Target {
            address: self.address,
            path: path.parse().map_err(|_| Error::Unexpected(format!("{path} is no path")))?,
            body: json!({ "inputs": tensors }).to_string().into(),
        })
    }
}

/// The first row of a file of JSON lines, or of a CSV file of numbers.
fn first_row(path: &Path) -> Result<Map<String, Value>> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
    let unusable = || Error::Unexpected(format!("{} has no first row", path.display()));
    let mut lines = text.lines();
    let first = lines.next().ok_or_else(unusable)?;
    if let Ok(row) = serde_json::from_str(first) {
        return Ok(row);
    }
    let values = lines.next().ok_or_else(unusable)?.split(',');
    let cells =
        first.split(',').zip(values).map(|(name, value)| Some((name.to_owned(), json!(value.parse::<f64>().ok()?))));
    cells.collect::<Option<_>>().ok_or_else(unusable)
}
