//! Load on a server of this machine: connections that are kept alive, on each of them one request after the other.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, StatusCode, Uri,
    client::conn::http1::{SendRequest, handshake},
    header::{CONTENT_TYPE, HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use stoker_e2e::{Error, Result};
use tokio::{net::TcpStream, task::JoinSet};

/// What is asked, and where.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// An address on loopback.
    pub(crate) address: SocketAddr,
    /// The path of the POST.
    pub(crate) path: Uri,
    /// Its body, as JSON.
    pub(crate) body: Bytes,
}

/// For how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Duty {
    /// At first, without counting.
    pub(crate) warm_up: Duration,
    /// Then, counting.
    pub(crate) counted: Duration,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    seconds: f64,
    /// Of each answered request, in microseconds, from the shortest to the longest.
    latencies: Vec<u32>,
    /// Answers with another status than 200.
    pub(crate) errors: u64,
}

impl Outcome {
    /// Requests that were answered with 200, per second.
    pub(crate) fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.seconds
    }

    /// The time within which that share of the requests was answered, in milliseconds (the nearest rank).
    pub(crate) fn percentile(&self, share: f64) -> f64 {
        let rank = (share * self.latencies.len() as f64).ceil() as usize;
        self.latencies.get(rank.saturating_sub(1)).map_or(f64::NAN, |micros| f64::from(*micros) / 1000.0)
    }
}

/// Asks over that many connections at the same time.
///
/// # Errors
/// If the address is not on loopback, or a connection breaks.
pub(crate) async fn run(target: &Arc<Target>, connections: u32, duty: Duty) -> Result<Outcome> {
    if !target.address.ip().is_loopback() {
        return Err(Error::Unexpected(format!("{} is not on loopback: load goes nowhere else", target.address)));
    }
    let mut opened = Vec::new();
    for _ in 0..connections {
        opened.push(connect(target.address).await?);
    }
    let from = Instant::now() + duty.warm_up;
    let until = from + duty.counted;
    let clients: JoinSet<_> =
        opened.into_iter().map(|connection| ask_until(connection, Arc::clone(target), from, until)).collect();
    let mut outcome = Outcome { seconds: duty.counted.as_secs_f64(), latencies: Vec::new(), errors: 0 };
    for client in clients.join_all().await {
        let (latencies, errors) = client?;
        outcome.latencies.extend(latencies);
        outcome.errors += errors;
    }
    outcome.latencies.sort_unstable();
    Ok(outcome)
}

type Connection = SendRequest<Full<Bytes>>;

async fn connect(address: SocketAddr) -> Result<Connection> {
    let refused = |error: &dyn std::error::Error| Error::Unexpected(format!("cannot connect to {address}: {error}"));
    let stream = TcpStream::connect(address).await.map_err(|error| refused(&error))?;
    stream.set_nodelay(true).map_err(|error| refused(&error))?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| refused(&error))?;
    // A connection that breaks fails the request that is on it.
    tokio::spawn(connection);
    Ok(sender)
}

/// Latencies, in microseconds, of the requests answered in that time; and how many had another status than 200.
async fn ask_until(
    mut connection: Connection,
    target: Arc<Target>,
    from: Instant,
    until: Instant,
) -> Result<(Vec<u32>, u64)> {
    let (mut latencies, mut errors) = (Vec::new(), 0);
    loop {
        let sent = Instant::now();
        let status = ask(&mut connection, &target)
            .await
            .map_err(|error| Error::Unexpected(format!("a connection to {} broke: {error}", target.address)))?;
        let answered = Instant::now();
        if answered > until {
            return Ok((latencies, errors));
        }
        if answered < from {
            continue;
        }
        match status {
            StatusCode::OK => latencies.push(u32::try_from((answered - sent).as_micros()).unwrap_or(u32::MAX)),
            _ => errors += 1,
        }
    }
}

/// Sends one request and takes the whole answer.
async fn ask(connection: &mut Connection, target: &Target) -> hyper::Result<StatusCode> {
    let mut request = Request::new(Full::new(target.body.clone()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = target.path.clone();
    request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    connection.ready().await?;
    let answer = connection.send_request(request).await?;
    let status = answer.status();
    answer.into_body().collect().await?;
    Ok(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_time_within_which_that_share_was_answered() {
        let outcome = Outcome { seconds: 2.0, latencies: (1..=200).map(|i| i * 1000).collect(), errors: 0 };
        assert_eq!((outcome.percentile(0.5), outcome.percentile(0.99)), (100.0, 198.0));
        assert_eq!(outcome.per_second(), 100.0);
    }
}
