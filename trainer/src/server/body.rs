//! Request bodies: how long they may be, how long they may take, and how much of them is held at once.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::Request,
    http::header::EXPECT,
    middleware::Next,
    response::Response,
};
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout_at},
};

use super::api_error::ApiError;

/// The least memory that bodies which are being read or worked on may fill, in bytes.
const MIN_BUDGET: u64 = 64 << 20;
/// So many bodies of the greatest length fit the budget at least.
const MIN_BODIES: u64 = 4;
/// How long a client that still sends is listened to after its answer.
const LINGER: Duration = Duration::from_secs(2);

/// Reads bodies within limits of length, time and memory.
#[derive(Debug)]
pub(super) struct BodyReader {
    max_bytes: u64,
    /// Bytes that may be held.
    budget: Semaphore,
}

impl BodyReader {
    pub(super) fn new(max_bytes: u64) -> Self {
        let budget = max_bytes.saturating_mul(MIN_BODIES).max(MIN_BUDGET);
        let budget = usize::try_from(budget).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { max_bytes, budget: Semaphore::new(budget) }
    }

    /// The whole body, and what it takes of the memory until it is dropped.
    ///
    /// # Errors
    /// If the body is too long, breaks off, or is not there in time, or others fill the memory.
    pub(super) async fn read(&self, body: Body, deadline: Instant) -> Result<(Bytes, SemaphorePermit<'_>), ApiError> {
        if body.size_hint().lower() > self.max_bytes {
            return Err(ApiError::BodyTooLarge(self.max_bytes));
        }
        timeout_at(deadline, self.collect(body)).await.map_err(|_| ApiError::BodyTimeout)?
    }

    /// Memory is taken as bytes come, so that whoever only announces a long body takes none.
    ///
    /// Where there is none left, the body is refused. It cannot wait for more while it holds some: bodies of which each
    /// waits for what the others hold would wait for ever.
    async fn collect(&self, mut body: Body) -> Result<(Bytes, SemaphorePermit<'_>), ApiError> {
        let mut memory = self.take(0)?;
        let mut whole = Bytes::new();
        let mut joined: Vec<u8> = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| ApiError::BodyBroken)?.into_data() else { continue };
            if (whole.len() + joined.len() + data.len()) as u64 > self.max_bytes {
                return Err(ApiError::BodyTooLarge(self.max_bytes));
            }
            memory.merge(self.take(data.len())?);
            if whole.is_empty() && joined.is_empty() {
                // Most bodies come in one piece, which needs no copy.
                whole = data;
            } else {
                joined.extend_from_slice(&std::mem::take(&mut whole));
                joined.extend_from_slice(&data);
            }
        }
        Ok((if joined.is_empty() { whole } else { joined.into() }, memory))
    }

    fn take(&self, bytes: usize) -> Result<SemaphorePermit<'_>, ApiError> {
        let bytes = u32::try_from(bytes).map_err(|_| ApiError::BodyTooLarge(self.max_bytes))?;
        self.budget.try_acquire_many(bytes).map_err(|_| ApiError::Busy)
    }
}

/// Listens to a client that still sends when it is answered: a connection that is closed with unread bytes on it is
/// reset, and the client may lose the answer.
pub(super) async fn linger(request: Request, next: Next) -> Response {
    // A client that expects to be told whether to send has not begun.
    if request.body().is_end_stream() || request.headers().contains_key(EXPECT) {
        return next.run(request).await;
    }
    next.run(request.map(|body| Body::new(Lingering(body)))).await
}

/// A body of which what nobody read is thrown away for a while.
struct Lingering(Body);

impl HttpBody for Lingering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let (false, Ok(runtime)) = (self.is_end_stream(), tokio::runtime::Handle::try_current()) else { return };
        let mut body = std::mem::take(&mut self.0);
        runtime.spawn(tokio::time::timeout(LINGER, async move { while let Some(Ok(_)) = body.frame().await {} }));
    }
}
