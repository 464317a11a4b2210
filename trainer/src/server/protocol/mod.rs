//! The Open Inference Protocol, version 2, as JSON over HTTP: pure functions between bytes and rows.
//!
//! Source: the Open Inference Protocol specification, `specification/protocol/inference_rest.md` of
//! open-inference/open-inference-protocol. Inputs are raw feature columns by name, one tensor of shape `[rows]` or
//! `[rows, 1]` each.

mod decode;
mod error;
mod metadata;
mod request;
mod response;
mod signature;
#[cfg(test)]
mod tests;
mod values;

pub(super) use self::{
    decode::Inference,
    error::InvalidRequest,
    metadata::{ServerMetadata, model_metadata},
    response::ModelVersion,
    signature::Signature,
};
