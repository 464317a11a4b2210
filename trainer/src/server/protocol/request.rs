//! An inference request as it is written.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error, SeqAccess, Visitor},
};

use super::{signature::Datatype, values::Values};

/// `$inference_request` of the protocol; what is not listed here (`parameters`) is ignored.
#[derive(Debug, Deserialize)]
pub(super) struct InferenceRequest<'a> {
    pub(super) id: Option<String>,
    #[serde(borrow, deserialize_with = "with_places")]
    pub(super) inputs: Vec<InputTensor<'a>>,
    #[serde(default, borrow)]
    pub(super) outputs: Vec<RequestedOutput<'a>>,
}

/// `$request_input` of the protocol.
#[derive(Debug, Deserialize)]
pub(super) struct InputTensor<'a> {
    #[serde(borrow)]
    pub(super) name: Cow<'a, str>,
    pub(super) shape: Vec<u64>,
    pub(super) datatype: Datatype,
    #[serde(borrow)]
    pub(super) data: Values<'a>,
}

/// `$request_output` of the protocol.
#[derive(Debug, Deserialize)]
pub(super) struct RequestedOutput<'a> {
    #[serde(borrow)]
    pub(super) name: Cow<'a, str>,
}

/// Reads the inputs; an error says in which one.
fn with_places<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<InputTensor<'de>>, D::Error> {
    struct Inputs;
    impl<'de> Visitor<'de> for Inputs {
        type Value = Vec<InputTensor<'de>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array of tensors")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut tensors: A) -> Result<Self::Value, A::Error> {
            let mut inputs = Vec::new();
            loop {
                let next = tensors.next_element();
                let place = |error| A::Error::custom(format_args!("inputs[{}]: {error}", inputs.len()));
                match next.map_err(place)? {
                    Some(tensor) => inputs.push(tensor),
                    None => return Ok(inputs),
                }
            }
        }
    }
    deserializer.deserialize_seq(Inputs)
}

/// Reads a body.
///
/// # Errors
/// If it is no JSON, or no inference request; the message says where.
pub(super) fn parse(body: &[u8]) -> Result<InferenceRequest<'_>, String> {
    serde_json::from_slice(body).map_err(|error| {
        let hint = if is_not_finite(body, &error) {
            "; NaN and Infinity are no JSON: write null where a value is missing"
        } else {
            ""
        };
        format!("{error}{hint}")
    })
}

/// Whether the place of a syntax error holds one of the words for numbers that JSON does not have.
fn is_not_finite(body: &[u8], error: &serde_json::Error) -> bool {
    let line_start: usize =
        body.split_inclusive(|b| *b == b'\n').take(error.line().saturating_sub(1)).map(<[u8]>::len).sum();
    let end = line_start + error.column();
    // The parser stops at the first letter that cannot follow, which may be the second of `-Infinity`.
    let words: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];
    (end.saturating_sub(2)..=end)
        .filter_map(|start| body.get(start..))
        .any(|rest| words.iter().any(|word| rest.starts_with(word)))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_request_is_read_in_any_order_of_its_keys() {
        let body = br#"{"outputs":[{"name":"label"}],"inputs":[{"data":[1],"datatype":"FP64","shape":[1],"name":"x"}],"id":"7"}"#;
        let request = parse(body).unwrap();
        assert_eq!((request.id.as_deref(), request.inputs.len(), &*request.outputs[0].name), (Some("7"), 1, "label"));
    }

    #[test]
    fn what_is_no_request_is_refused_with_its_place() {
        for (body, part) in [
            ("", "EOF while parsing"),
            ("[]", "invalid length 0"),
            ("{}", "missing field `inputs`"),
            (r#"{"inputs":[]} x"#, "trailing characters"),
            (r#"{"id":5,"inputs":[]}"#, "invalid type: integer `5`, expected a string"),
            (r#"{"inputs":[],"inputs":[]}"#, "duplicate field `inputs`"),
            (r#"{"inputs":[{"name":"x","shape":[-1]}]}"#, "inputs[0]: invalid value: integer `-1`"),
            (r#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP65"}]}"#, "inputs[0]: unknown variant `FP65`"),
            (r#"{"inputs":[{"data":[1,2"#, "inputs[0]: data[2]: EOF while parsing"),
            (r#"{"inputs":[{"data":[NaN]}]}"#, "write null where a value is missing"),
            ("{\"inputs\":[{\"data\":\n[1, -Infinity]}]}", "inputs[0]: data[1]: "),
            ("{\"inputs\":[{\"data\":\n[1, -Infinity]}]}", "write null where a value is missing"),
        ] {
            let error = parse(body.as_bytes()).unwrap_err();
            assert!(error.contains(part), "{body}: {error}");
        }
    }

    #[test]
    fn deep_nesting_is_refused() {
        let body = format!(r#"{{"parameters":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert!(parse(body.as_bytes()).is_err());
    }
}
