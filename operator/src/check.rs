//! Asks one address whether it is well: for `helm test`, since the image has neither shell nor curl.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};

/// How long an answer is waited for, all tries together.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long between two tries.
const PAUSE: Duration = Duration::from_secs(1);

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// No URI.
    #[error("'{0}' is no address: write it like http://stoker.stoker-system.svc:8080/readyz")]
    Address(String, #[source] http::uri::InvalidUri),
    /// No good answer came in time.
    #[error("{url} gave no good answer within {} s: {last}", PATIENCE.as_secs())]
    NoAnswer {
        /// What was asked.
        url: String,
        /// What came last instead.
        last: String,
    },
}

/// Asks until the answer is one of success.
///
/// # Errors
/// If there is none within half a minute.
pub async fn check(url: &str) -> Result<(), CheckError> {
    let uri: http::Uri = url.parse().map_err(|error| CheckError::Address(url.to_owned(), error))?;
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let mut last = "it does not answer".to_owned();
    let answered = async {
        loop {
            match client.get(uri.clone()).await {
                Ok(answer) if answer.status().is_success() => return,
                Ok(answer) => last = format!("it answers {}", answer.status()),
                Err(error) => last = crate::error::with_causes(&error),
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, answered).await.is_ok();
    if in_time { Ok(()) } else { Err(CheckError::NoAnswer { url: url.to_owned(), last }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_answers_well_passes() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = axum::Router::new().route("/readyz", axum::routing::get(async || "ok"));
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        check(&format!("http://{address}/readyz")).await.unwrap();
        server.abort();
    }

    #[tokio::test]
    async fn what_is_no_address_is_refused_at_once() {
        assert!(matches!(check("no address").await, Err(CheckError::Address(..))));
    }
}
