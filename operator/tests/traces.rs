//! Traces reach the collector that the standard environment variables name.
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

/// How long the operator may take to send its first trace.
const LIMIT: Duration = Duration::from_secs(60);

/// A server on loopback that answers every request with a status, and tells the beginning of each.
fn server(status: &'static str) -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (told, requests) = mpsc::channel();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let request = answer(&mut connection.unwrap(), status);
            if told.send(request).is_err() {
                return;
            }
        }
    });
    (address, requests)
}

fn answer(connection: &mut TcpStream, status: &str) -> String {
    let mut start = [0; 4096];
    let read = connection.read(&mut start).unwrap_or(0);
    // Whoever asked may be gone already.
    write!(connection, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").ok();
    String::from_utf8_lossy(&start[..read]).into_owned()
}

/// Ends the process when the test does.
struct Operator(Child);

impl Drop for Operator {
    fn drop(&mut self) {
        self.0.kill().expect("the operator can be ended");
        self.0.wait().expect("the operator ends");
    }
}

#[test]
fn traces_reach_the_collector_of_the_standard_environment_variables() {
    let (api_server, _asked) = server("503 Service Unavailable");
    let (collector, traces) = server("200 OK");
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    let text = format!(
        "{{apiVersion: v1, kind: Config, current-context: c, contexts: [{{name: c, context: {{cluster: c, user: u}}}}], \
         clusters: [{{name: c, cluster: {{server: 'http://{api_server}'}}}}], users: [{{name: u, user: {{}}}}]}}"
    );
    fs::write(&kubeconfig, text).unwrap();
    let _operator = Operator(
        Command::new(env!("CARGO_BIN_EXE_stoker-operator"))
            .args(["run", "--listen=127.0.0.1:0"])
            .env("KUBECONFIG", kubeconfig)
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{collector}"))
            .env("OTEL_BSP_SCHEDULE_DELAY", "100")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let request = traces.recv_timeout(LIMIT).expect("the operator sends a trace of its requests");
    assert!(request.starts_with("POST /v1/traces "), "{request}");
}
