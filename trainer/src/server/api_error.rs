//! Answers that are no success, as the protocol wants them: a status and `{"error": "…"}`.

use axum::{
    Json,
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{CONNECTION, RETRY_AFTER, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::{batcher::BatchError, incident::Incident, protocol::InvalidRequest};

/// An answer that is no success.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    #[error("no route {0}; the model is served under /v2/models")]
    UnknownPath(String),
    #[error("unknown model or version: this server serves '{name}', version '{version}'")]
    UnknownModel { name: String, version: String },
    #[error("this path does not take that method")]
    MethodNotAllowed,
    #[error("an API key is needed: send it as 'Authorization: Bearer …' or as 'X-API-Key: …'")]
    Unauthorized,
    #[error("the body must be JSON without compression: send it with 'Content-Type: application/json'")]
    UnsupportedMediaType,
    #[error("the body is longer than {0} bytes: send the rows in several requests")]
    BodyTooLarge(u64),
    #[error("the body ended before it was complete")]
    BodyBroken,
    #[error("the body did not arrive in time")]
    BodyTimeout,
    #[error(transparent)]
    Invalid(#[from] InvalidRequest),
    #[error("the model is being loaded: try again in some seconds")]
    Loading,
    #[error("too many rows are waiting: try again in some seconds")]
    Overloaded,
    #[error("other requests fill the memory for bodies: try again in some seconds")]
    Busy,
    #[error("the prediction took longer than the server's time limit")]
    Timeout,
    #[error("{0}")]
    Internal(Incident),
}

impl ApiError {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::UnknownPath(_) | Self::UnknownModel { .. } => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::BodyTooLarge(_) | Self::Invalid(InvalidRequest::TooManyRows { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyBroken | Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Loading | Self::Overloaded | Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        match self {
            Self::Unauthorized => Some((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
            Self::Loading | Self::Overloaded | Self::Busy => Some((RETRY_AFTER, HeaderValue::from_static("1"))),
            // What is left of the body is not waited for.
            Self::BodyTooLarge(_) | Self::BodyTimeout => Some((CONNECTION, HeaderValue::from_static("close"))),
            _ => None,
        }
    }
}

impl From<BatchError> for ApiError {
    fn from(error: BatchError) -> Self {
        match error {
            BatchError::Overloaded => Self::Overloaded,
            BatchError::Failed(incident) => Self::Internal(incident),
        }
    }
}

/// `$inference_error_response` of the protocol.
#[derive(Serialize)]
struct ErrorBody {
    error: String,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(ErrorBody { error: self.to_string() })).into_response();
        response.headers_mut().extend(self.header());
        response
    }
}
