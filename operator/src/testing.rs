//! A mocked API server for scenarios: it answers the requests that a script expects, in that order, and no other.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Request, Response};
use http_body_util::BodyExt;
use kube::{Client, client::Body};
use prometheus_client::registry::Registry;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tower_test::mock;

use crate::{
    context::{Context, Shared},
    leader::Fence,
    metrics::Metrics,
    training::fixtures,
    watches::Writers,
};

/// A request that is expected, and the answer to it.
pub(crate) struct Step {
    method: &'static str,
    path: String,
    answer: Answer,
}

enum Answer {
    /// The object that was sent, as the API server would return it.
    Echo,
    /// A status code and a body.
    Json(u16, Value),
}

impl Step {
    /// A request whose object is taken as it is.
    pub(crate) fn echo(method: &'static str, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), answer: Answer::Echo }
    }

    /// A read that finds that.
    pub(crate) fn get(path: impl Into<String>, found: Value) -> Self {
        Self { method: "GET", path: path.into(), answer: Answer::Json(200, found) }
    }

    /// A write after which the object is that.
    pub(crate) fn written(method: &'static str, path: impl Into<String>, after: Value) -> Self {
        Self { method, path: path.into(), answer: Answer::Json(200, after) }
    }

    /// A request that is refused.
    pub(crate) fn refuse(
        method: &'static str,
        path: impl Into<String>,
        code: u16,
        reason: &str,
        message: &str,
    ) -> Self {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message});
        Self { method, path: path.into(), answer: Answer::Json(code, status) }
    }
}

/// A request that came.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Its path, without the query.
    pub(crate) path: String,
    /// Its body; null for none.
    pub(crate) body: Value,
}

/// The mocked API server.
pub(crate) struct ApiServer {
    client: Client,
    script: JoinHandle<Vec<Seen>>,
}

impl ApiServer {
    /// A server that expects these requests, in this order.
    pub(crate) fn expecting(steps: impl IntoIterator<Item = Step>) -> Self {
        let (service, mut handle) = mock::pair::<Request<Body>, Response<Body>>();
        let steps: Vec<Step> = steps.into_iter().collect();
        let script = tokio::spawn(async move {
            let mut seen = Vec::new();
            for step in steps {
                let Some((request, respond)) = handle.next_request().await else {
                    panic!("{} {} was expected and did not come; so far came {seen:?}", step.method, step.path);
                };
                let (parts, body) = request.into_parts();
                let bytes = body.collect().await.unwrap().to_bytes();
                let body: Value = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
                let came = (parts.method.as_str(), parts.uri.path());
                assert_eq!(came, (step.method, step.path.as_str()), "after {seen:?}, with {body:#}");
                let (code, answer) = match step.answer {
                    Answer::Echo => (200, as_stored(body.clone())),
                    Answer::Json(code, answer) => (code, answer),
                };
                let answer = Body::from(serde_json::to_vec(&answer).unwrap());
                respond.send_response(Response::builder().status(code).body(answer).unwrap());
                seen.push(Seen { path: parts.uri.path().to_owned(), body });
            }
            if let Some((request, _)) = handle.next_request().await {
                panic!("unexpected: {} {}", request.method(), request.uri());
            }
            seen
        });
        Self { client: Client::new(service, "default"), script }
    }

    /// A client of it.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// A context whose every request comes here, and which may write.
    pub(crate) fn context(&self) -> (Context, Writers) {
        let fence = Fence::default();
        fence.extend(Instant::now() + Duration::from_secs(3600));
        let writers = Writers::default();
        let shared = Shared {
            settings: Arc::new(fixtures::settings()),
            client: self.client(),
            fence,
            metrics: Arc::new(Metrics::new(&mut Registry::default())),
        };
        let mut context = Context::new(None, shared, &writers);
        context.clock = fixtures::now;
        (context, writers)
    }

    /// What came; fails if that was not all that was expected, or more. Call it when everything that holds a client is
    /// dropped.
    pub(crate) async fn requests(self) -> Vec<Seen> {
        let Self { client, script } = self;
        drop(client);
        match script.await {
            Ok(seen) => seen,
            Err(failed) => std::panic::resume_unwind(failed.into_panic()),
        }
    }
}

/// The object that the API server would return for one that is sent.
fn as_stored(mut object: Value) -> Value {
    let metadata = &mut object["metadata"];
    for (key, value) in [("uid", "11111111-0000-4000-8000-000000000000"), ("resourceVersion", "100")] {
        if metadata[key].is_null() {
            metadata[key] = value.into();
        }
    }
    metadata["creationTimestamp"] = fixtures::now().to_string().into();
    object
}

/// An object as the watches would show it.
pub(crate) fn read_back<A: DeserializeOwned>(object: &impl Serialize) -> A {
    serde_json::from_value(serde_json::to_value(object).unwrap()).unwrap()
}
