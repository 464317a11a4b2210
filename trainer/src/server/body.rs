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

/// The least memory that bodies which are being read may fill, in KiB.
const MIN_BUDGET_KIB: u32 = 64 << 10;
/// So many bodies of the greatest length fit the budget at least.
const MIN_BODIES: u32 = 4;
/// How long a client that still sends is listened to after its answer.
const LINGER: Duration = Duration::from_secs(2);

/// Reads bodies within limits of length, time and memory.
#[derive(Debug)]
pub(super) struct BodyReader {
    max_bytes: u64,
    max_kib: u32,
    /// KiB that may be held. Slow clients fill this, and not the pod's memory.
    budget: Semaphore,
}

impl BodyReader {
    pub(super) fn new(max_bytes: u64) -> Self {
        let max_kib = u32::try_from(max_bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let budget = max_kib.saturating_mul(MIN_BODIES).max(MIN_BUDGET_KIB);
        Self { max_bytes, max_kib, budget: Semaphore::new(budget as usize) }
    }

    /// The whole body, and what it takes of the memory until it is dropped.
    ///
    /// # Errors
    /// If the body is too long, breaks off, or is not there in time, or too many others are being read.
    pub(super) async fn read(&self, body: Body, deadline: Instant) -> Result<(Bytes, SemaphorePermit<'_>), ApiError> {
        let length = body.size_hint();
        if length.lower() > self.max_bytes {
            return Err(ApiError::BodyTooLarge(self.max_bytes));
        }
        let kib = length.upper().map_or(self.max_kib, |upper| u32::try_from(upper.div_ceil(1024)).unwrap_or(u32::MAX));
        let permit = timeout_at(deadline, self.budget.acquire_many(kib.min(self.max_kib)));
        let permit = permit.await.ok().and_then(Result::ok).ok_or(ApiError::Overloaded)?;
        let bytes = timeout_at(deadline, self.collect(body)).await.map_err(|_| ApiError::BodyTimeout)??;
        Ok((bytes, permit))
    }

    async fn collect(&self, mut body: Body) -> Result<Bytes, ApiError> {
        let mut whole = Bytes::new();
        let mut joined: Vec<u8> = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| ApiError::BodyBroken)?.into_data() else { continue };
            if (whole.len() + joined.len() + data.len()) as u64 > self.max_bytes {
                return Err(ApiError::BodyTooLarge(self.max_bytes));
            }
            if whole.is_empty() && joined.is_empty() {
                // Most bodies come in one piece, which needs no copy.
                whole = data;
            } else {
                joined.extend_from_slice(&std::mem::take(&mut whole));
                joined.extend_from_slice(&data);
            }
        }
        Ok(if joined.is_empty() { whole } else { joined.into() })
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
