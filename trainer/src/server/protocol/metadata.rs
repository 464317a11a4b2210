//! What the server and the model are, for clients that ask.

use serde::Serialize;

use super::{
    response::ModelVersion,
    signature::{Datatype, Prediction, Signature},
};

/// `$metadata_server_response` of the protocol.
#[derive(Serialize)]
pub(in crate::server) struct ServerMetadata {
    name: &'static str,
    version: &'static str,
    extensions: [&'static str; 0],
}

impl ServerMetadata {
    /// This server.
    pub(in crate::server) const STOKER: Self =
        Self { name: env!("CARGO_PKG_NAME"), version: env!("CARGO_PKG_VERSION"), extensions: [] };
}

/// `$metadata_model_response` of the protocol.
#[derive(Serialize)]
struct ModelMetadata<'a> {
    name: &'a str,
    versions: [&'a str; 1],
    platform: &'static str,
    inputs: Vec<TensorMetadata<'a>>,
    outputs: Vec<TensorMetadata<'a>>,
}

/// `$metadata_tensor` of the protocol; -1 in a shape is any number of rows.
#[derive(Serialize)]
struct TensorMetadata<'a> {
    name: &'a str,
    datatype: Datatype,
    shape: Vec<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Labels<'a>>,
}

#[derive(Serialize)]
struct Labels<'a> {
    /// The classes, in the order of their probabilities.
    labels: &'a [String],
}

/// The metadata of a model, as JSON.
pub(in crate::server) fn model_metadata(model: ModelVersion<'_>, signature: &Signature) -> Vec<u8> {
    let inputs = signature.inputs.iter().map(|input| TensorMetadata {
        name: &input.name,
        datatype: Datatype::of(input.kind),
        shape: vec![-1],
        parameters: None,
    });
    let outputs =
        signature.outputs.iter().enumerate().map(|(position, name)| match (&signature.prediction, position) {
            (Prediction::Classes(labels), 0) => {
                TensorMetadata { name, datatype: Datatype::Bytes, shape: vec![-1], parameters: Some(Labels { labels }) }
            }
            (Prediction::Classes(labels), _) => {
                let classes = i64::try_from(labels.len()).unwrap_or(i64::MAX);
                TensorMetadata {
                    name,
                    datatype: Datatype::Fp32,
                    shape: vec![-1, classes],
                    parameters: Some(Labels { labels }),
                }
            }
            (Prediction::Numbers(_), _) => {
                TensorMetadata { name, datatype: Datatype::Fp32, shape: vec![-1], parameters: None }
            }
        });
    let metadata = ModelMetadata {
        name: model.name,
        versions: [model.version],
        platform: "stoker",
        inputs: inputs.collect(),
        outputs: outputs.collect(),
    };
    #[expect(clippy::expect_used, reason = "the types hold text and whole numbers only")]
    let body = serde_json::to_vec(&metadata).expect("metadata is JSON");
    body
}
