//! From predictions to the body of an answer.

use serde::{Serialize, Serializer, ser::SerializeSeq};

use super::{
    error::InvalidRequest,
    signature::{Datatype, Prediction, Signature},
};

/// Who answers: the beginning of each answer.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct ModelVersion<'a> {
    pub(in crate::server) name: &'a str,
    pub(in crate::server) version: &'a str,
}

/// `$inference_response` of the protocol.
#[derive(Serialize)]
struct InferenceResponse<'a> {
    model_name: &'a str,
    model_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    outputs: Vec<OutputTensor<'a>>,
}

/// `$response_output` of the protocol.
#[derive(Serialize)]
struct OutputTensor<'a> {
    name: &'a str,
    shape: Shape,
    datatype: Datatype,
    data: Data<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Shape {
    Column([usize; 1]),
    Matrix([usize; 2]),
}

enum Data<'a> {
    /// The most probable class of each row of `[rows, labels]` probabilities.
    Labels { labels: &'a [String], probabilities: &'a [f32] },
    /// All predictions, flat.
    All(&'a [f32]),
    /// One column of `[rows, width]` predictions.
    Column { predictions: &'a [f32], width: usize, column: usize },
}

impl Serialize for Data<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::All(predictions) => predictions.serialize(serializer),
            Self::Column { predictions, width, column } => {
                let mut sequence = serializer.serialize_seq(Some(predictions.len() / width))?;
                predictions.chunks_exact(width).try_for_each(|row| sequence.serialize_element(&row[column]))?;
                sequence.end()
            }
            Self::Labels { labels, probabilities } => {
                let mut sequence = serializer.serialize_seq(Some(probabilities.len() / labels.len()))?;
                probabilities
                    .chunks_exact(labels.len())
                    .try_for_each(|row| sequence.serialize_element(&labels[most_probable(row)]))?;
                sequence.end()
            }
        }
    }
}

/// The class of the highest probability; the first one of several.
fn most_probable(row: &[f32]) -> usize {
    row.iter().enumerate().fold(0, |best, (class, probability)| if *probability > row[best] { class } else { best })
}

impl Signature {
    /// The answer to a request: `predictions` `[rows, width]` are probabilities per class, or targets in their own
    /// units.
    ///
    /// # Errors
    /// If a prediction is no finite number.
    pub(in crate::server) fn encode(
        &self,
        model: ModelVersion<'_>,
        id: Option<&str>,
        wanted: &[usize],
        predictions: &[f32],
    ) -> Result<Vec<u8>, InvalidRequest> {
        let width = self.output_width();
        if let Some(at) = predictions.iter().position(|prediction| !prediction.is_finite()) {
            return Err(InvalidRequest::Overflow { row: at / width });
        }
        let outputs = wanted.iter().map(|output| self.output_tensor(*output, predictions, width)).collect();
        let ModelVersion { name: model_name, version: model_version } = model;
        let response = InferenceResponse { model_name, model_version, id, outputs };
        #[expect(clippy::expect_used, reason = "the types hold text and finite numbers only")]
        let body = serde_json::to_vec(&response).expect("a response is JSON");
        Ok(body)
    }

    fn output_tensor<'a>(&'a self, output: usize, predictions: &'a [f32], width: usize) -> OutputTensor<'a> {
        let rows = predictions.len() / width;
        let name = &self.outputs[output];
        match (&self.prediction, output) {
            (Prediction::Classes(labels), 0) => {
                let data = Data::Labels { labels, probabilities: predictions };
                OutputTensor { name, shape: Shape::Column([rows]), datatype: Datatype::Bytes, data }
            }
            (Prediction::Classes(_), _) => {
                let shape = Shape::Matrix([rows, width]);
                OutputTensor { name, shape, datatype: Datatype::Fp32, data: Data::All(predictions) }
            }
            (Prediction::Numbers(_), column) => {
                let data = Data::Column { predictions, width, column };
                OutputTensor { name, shape: Shape::Column([rows]), datatype: Datatype::Fp32, data }
            }
        }
    }
}
