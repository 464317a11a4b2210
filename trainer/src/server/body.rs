//! Request bodies: how long they may be, how long they may take, and how much of them is held at once.

use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use http_body_util::BodyExt;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout_at},
};

use super::api_error::ApiError;

/// The least memory that bodies which are being read may fill, in KiB.
const MIN_BUDGET_KIB: u32 = 64 << 10;
/// So many bodies of the greatest length fit the budget at least.
const MIN_BODIES: u32 = 4;
/// How long a client that sends too much is listened to, so that it reads the answer instead of a broken connection.
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
            return Err(self.refuse(body));
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
                return Err(self.refuse(body));
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

    /// Refuses a body, whose rest is thrown away for a while: a connection that is closed with unread bytes on it is
    /// reset, and the client may lose the answer.
    fn refuse(&self, mut body: Body) -> ApiError {
        let discard = async move { while let Some(Ok(_)) = body.frame().await {} };
        tokio::spawn(tokio::time::timeout(LINGER, discard));
        ApiError::BodyTooLarge(self.max_bytes)
    }
}
