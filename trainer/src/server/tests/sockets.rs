//! What only a real connection shows.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::server::{ServeError, Server};

/// A running server, which is told to stop when it is dropped.
struct Running {
    inference: SocketAddr,
    management: SocketAddr,
    stop: CancellationToken,
    served: JoinHandle<Result<(), ServeError>>,
}

impl Running {
    async fn start(options: ServeOptions) -> Self {
        let server = Server::bind(options).await.unwrap();
        Self::run(server, |server, stop| tokio::spawn(server.run(stop))).await
    }

    /// A server for a model that is loaded already.
    async fn start_with(server: Server, model: ServedModel) -> Self {
        Self::run(server, |server, stop| tokio::spawn(server.run_with(async { Ok(model) }, stop))).await
    }

    async fn run(
        server: Server,
        spawn: impl FnOnce(Server, CancellationToken) -> JoinHandle<Result<(), ServeError>>,
    ) -> Self {
        let (inference, management) = (server.inference_address().unwrap(), server.management_address().unwrap());
        let stop = CancellationToken::new();
        let served = spawn(server, stop.clone());
        let running = Self { inference, management, stop, served };
        until(async || running.management("/readyz").await.starts_with("HTTP/1.1 200")).await;
        running
    }

    async fn management(&self, path: &str) -> String {
        exchange(self.management, get_text(path).as_bytes()).await
    }

    async fn infer(&self, rows: usize) -> String {
        exchange(self.inference, infer_text(rows, "connection: close\r\n").as_bytes()).await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn get_text(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
}

fn infer_text(n: usize, headers: &str) -> String {
    let body = rows(n).to_string();
    let length = body.len();
    format!(
        "POST /v2/models/fruit/infer HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n{headers}\r\n{body}"
    )
}

/// Sends bytes on a new connection and reads until the server ends it; empty if it takes no connection.
async fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let Ok(mut stream) = TcpStream::connect(address).await else { return String::new() };
    stream.write_all(bytes).await.unwrap();
    read_all(&mut stream).await
}

async fn read_all(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

/// Reads one answer of a connection that stays open.
async fn read_answer(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&answer).into_owned();
        let length = text.split_once("\r\n\r\n").and_then(|(head, body)| {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?;
            Some((length.parse::<usize>().unwrap(), body.len()))
        });
        if length.is_some_and(|(length, read)| read >= length) {
            return text;
        }
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "ended after {text}");
    }
}

async fn until(condition: impl AsyncFn() -> bool) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("the condition holds within a minute");
}

#[tokio::test]
async fn a_server_starts_from_its_artifact_and_stops_when_told() {
    let fruit = Fruit::classifier().await;
    let mut running = Running::start(fruit.options(&["--drain-delay", "0s"])).await;
    assert!(running.infer(2).await.starts_with("HTTP/1.1 200 OK\r\n"));
    assert!(running.management("/v1/stats").await.contains(&fruit.digest));
    running.stop.cancel();
    (&mut running.served).await.unwrap().unwrap();
    assert_eq!(running.infer(1).await, "");
}

#[tokio::test]
async fn a_connection_serves_one_request_after_the_other() {
    let fruit = Fruit::classifier().await;
    let running = Running::start(fruit.options(&["--drain-delay", "0s"])).await;
    let mut stream = TcpStream::connect(running.inference).await.unwrap();
    for n in [1, 2, 3] {
        stream.write_all(infer_text(n, "").as_bytes()).await.unwrap();
        assert!(read_answer(&mut stream).await.contains(&format!("\"shape\":[{n}]")));
    }
    // A refusal keeps it too.
    stream.write_all(infer_text(1, "content-encoding: br\r\n").as_bytes()).await.unwrap();
    assert!(read_answer(&mut stream).await.starts_with("HTTP/1.1 415"));
    stream.write_all(infer_text(1, "connection: close\r\n").as_bytes()).await.unwrap();
    assert!(read_all(&mut stream).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_client_that_sends_too_much_reads_why_it_is_refused() {
    let fruit = Fruit::classifier().await;
    let running = Running::start(fruit.options(&["--drain-delay", "0s", "--max-body-bytes", "100000"])).await;
    let length = 8 << 20;
    for (model, content_type, refusal) in [
        ("fruit", "application/json", "HTTP/1.1 413"),
        ("fruit", "text/csv", "HTTP/1.1 415"),
        ("vegetable", "application/json", "HTTP/1.1 404"),
    ] {
        let head = format!(
            "POST /v2/models/{model}/infer HTTP/1.1\r\nhost: t\r\ncontent-type: {content_type}\r\n\
             content-length: {length}\r\nconnection: close\r\n\r\n"
        );
        let answer = exchange(running.inference, &[head.into_bytes(), vec![b' '; length]].concat()).await;
        assert!(answer.starts_with(refusal), "{answer}");
        assert!(answer.contains("{\"error\":\""), "{answer}");
    }
}

#[tokio::test]
async fn slow_and_long_headers_end_their_connection() {
    let fruit = Fruit::classifier().await;
    let running = Running::start(fruit.options(&["--drain-delay", "0s", "--idle-timeout", "100ms"])).await;
    assert_eq!(exchange(running.inference, b"POST /v2/models/fruit/infer HTTP/1.1\r\nhost:").await, "");
    assert_eq!(exchange(running.inference, b"").await, "");
    let long = format!("GET /v2 HTTP/1.1\r\nhost: t\r\nx: {}\r\n\r\n", "x".repeat(20_000));
    assert!(exchange(running.inference, long.as_bytes()).await.starts_with("HTTP/1.1 431"));
    assert!(exchange(running.inference, b"\x16\x03\x01 no HTTP\r\n\r\n").await.starts_with("HTTP/1.1 400"));
    assert!(running.infer(1).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn the_keys_of_a_rotated_secret_are_taken_without_a_restart() {
    let fruit = Fruit::classifier().await;
    let keys = tempfile::tempdir().unwrap();
    std::fs::write(keys.path().join("alice"), "old").unwrap();
    let flags = ["--drain-delay", "0s", "--api-keys-dir", keys.path().to_str().unwrap()];
    let running = Running::start(fruit.options(&flags)).await;
    let asks_with = async |key: &str| {
        let headers = format!("connection: close\r\nauthorization: Bearer {key}\r\n");
        exchange(running.inference, infer_text(1, &headers).as_bytes()).await
    };
    assert!(asks_with("old").await.starts_with("HTTP/1.1 200"));
    assert!(asks_with("new").await.starts_with("HTTP/1.1 401"));
    std::fs::write(keys.path().join("next"), "new").unwrap();
    std::fs::rename(keys.path().join("next"), keys.path().join("alice")).unwrap();
    until(async || asks_with("new").await.starts_with("HTTP/1.1 200")).await;
    assert!(asks_with("old").await.starts_with("HTTP/1.1 401"));
}

#[tokio::test]
async fn a_draining_server_answers_what_came_and_what_still_comes_and_asks_clients_to_leave() {
    let fruit = Fruit::classifier().await;
    // The drain lasts until the test has asked all that it asks.
    let server = Server::bind(fruit.options(&["--drain-delay", "2s", "--max-batch-delay", "0s"])).await.unwrap();
    let (gate, predict) = Gate::new(3, fruit.preprocessor.input_width());
    let model = fruit.computed_by(&server.state.options, &server.state.metrics, predict);
    let mut running = Running::start_with(server, model).await;

    // Two requests are at work when the server is told to stop, one on a connection that would stay open.
    let mut kept = TcpStream::connect(running.inference).await.unwrap();
    kept.write_all(infer_text(1, "").as_bytes()).await.unwrap();
    let mut closing = TcpStream::connect(running.inference).await.unwrap();
    closing.write_all(infer_text(2, "connection: close\r\n").as_bytes()).await.unwrap();
    until(async || running.management("/v1/stats").await.contains("\"inFlight\":2")).await;
    running.stop.cancel();
    until(async || running.management("/readyz").await.starts_with("HTTP/1.1 503")).await;
    assert!(running.management("/healthz").await.starts_with("HTTP/1.1 200"));

    // One comes after that.
    let mut late = TcpStream::connect(running.inference).await.unwrap();
    late.write_all(infer_text(3, "").as_bytes()).await.unwrap();
    until(async || running.management("/v1/stats").await.contains("\"inFlight\":3")).await;
    drop(gate);
    for stream in [&mut kept, &mut closing, &mut late] {
        let answer = read_all(stream).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
    }
    (&mut running.served).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_request_that_outlasts_the_drain_delay_is_answered_and_one_that_outlasts_the_drain_is_not() {
    let fruit = Fruit::classifier().await;
    for (timeout, outcome) in [("60s", "HTTP/1.1 200"), ("50ms", "")] {
        let flags = ["--drain-delay", "0s", "--drain-timeout", timeout];
        let server = Server::bind(fruit.options(&flags)).await.unwrap();
        let (gate, predict) = Gate::new(3, fruit.preprocessor.input_width());
        let model = fruit.computed_by(&server.state.options, &server.state.metrics, predict);
        let mut running = Running::start_with(server, model).await;
        let mut stream = TcpStream::connect(running.inference).await.unwrap();
        stream.write_all(infer_text(1, "").as_bytes()).await.unwrap();
        until(async || running.management("/v1/stats").await.contains("\"inFlight\":1")).await;
        running.stop.cancel();
        // No connection is taken any more.
        until(async || TcpStream::connect(running.inference).await.is_err()).await;
        if !outcome.is_empty() {
            gate.let_one_go();
        }
        let answer = read_all(&mut stream).await;
        assert!(answer.starts_with(outcome) && answer.is_empty() == outcome.is_empty(), "{timeout}: {answer}");
        (&mut running.served).await.unwrap().unwrap();
    }
}
