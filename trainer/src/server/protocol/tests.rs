//! Requests and answers of small models, by their bytes.

use datafusion::arrow::{
    array::{Array, AsArray},
    datatypes::Float64Type,
};
use serde_json::{Value, json};

use super::{
    InvalidRequest, ModelVersion, Signature, model_metadata,
    signature::{Input, Prediction},
};
use crate::data::Kind;

const MOST_ROWS: usize = 3;
const MODEL: ModelVersion<'static> = ModelVersion { name: "fruit", version: "7" };

fn inputs() -> Vec<Input> {
    let columns = [("size", Kind::Number), ("colour", Kind::Text), ("ripe", Kind::Boolean)];
    columns.map(|(name, kind)| Input { name: name.into(), kind }).into()
}

fn classifier() -> Signature {
    let labels = ["apple", "lime", "plum"].map(String::from).into();
    Signature::new(inputs(), Prediction::Classes(labels))
}

fn tensor(name: &str, shape: Value, datatype: &str, data: Value) -> Value {
    json!({"name": name, "shape": shape, "datatype": datatype, "data": data})
}

/// A good request, of which one input may be replaced.
fn request(replaced: Value) -> Value {
    let good = [
        tensor("size", json!([2]), "FP64", json!([1.5, 2])),
        tensor("colour", json!([2]), "BYTES", json!(["red", "green"])),
        tensor("ripe", json!([2]), "BOOL", json!([true, false])),
    ];
    let inputs =
        good.into_iter().map(|tensor| if tensor["name"] == replaced["name"] { replaced.clone() } else { tensor });
    json!({"inputs": inputs.collect::<Vec<_>>()})
}

fn refusal(request: &Value) -> String {
    classifier().decode(request.to_string().as_bytes(), MOST_ROWS).unwrap_err().to_string()
}

#[test]
fn columns_are_read_by_name_in_the_models_order() {
    let request = json!({
        "id": "42",
        "parameters": {"ignored": [1, {"a": null}]},
        "inputs": [
            tensor("ripe", json!([2, 1]), "BOOL", json!([[true], [null]])),
            tensor("colour", json!([2]), "BYTES", json!([null, "grün\n"])),
            tensor("size", json!([2]), "INT32", json!([7, null])),
        ],
        "outputs": [{"name": "probabilities"}],
    });
    let inference = classifier().decode(request.to_string().as_bytes(), MOST_ROWS).unwrap();
    assert_eq!((inference.id.as_deref(), &inference.outputs[..]), (Some("42"), &[1][..]));
    let columns = inference.rows.columns();
    let size = columns[0].as_primitive::<Float64Type>();
    assert_eq!((size.value(0), size.is_null(1)), (7.0, true));
    let colour = columns[1].as_string::<i32>();
    assert_eq!((colour.is_null(0), colour.value(1)), (true, "grün\n"));
    let ripe = columns[2].as_boolean();
    assert_eq!((ripe.value(0), ripe.is_null(1)), (true, true));
}

#[test]
fn a_column_of_nulls_alone_is_a_column_of_missing_values() {
    let request = request(tensor("colour", json!([2]), "BYTES", json!([null, null])));
    let inference = classifier().decode(request.to_string().as_bytes(), MOST_ROWS).unwrap();
    assert_eq!(inference.rows.column(1).null_count(), 2);
}

#[test]
fn each_refusal_names_the_input_and_what_is_expected() {
    let cases = [
        (tensor("size", json!([2]), "BYTES", json!(["a", "b"])), "input 'size' has datatype BYTES; send FP64"),
        (tensor("ripe", json!([2]), "FP32", json!([0, 1])), "input 'ripe' has datatype FP32; send BOOL"),
        (
            tensor("size", json!([1, 2]), "FP64", json!([1, 2])),
            "input 'size' has shape [1, 2]; each input is one column",
        ),
        (tensor("size", json!([]), "FP64", json!([1])), "input 'size' has shape []; each input"),
        (tensor("size", json!([2]), "FP64", json!([1])), "input 'size' has shape [2], and its data holds 1 values"),
        (tensor("size", json!([u64::MAX]), "FP64", json!([1])), "input 'size' has shape [18446744073709551615], and"),
        (
            tensor("size", json!([2]), "FP64", json!([[1], [2]])),
            "input 'size', row 1: data of shape [2] holds one value",
        ),
        (
            tensor("size", json!([2, 1]), "FP64", json!([[1], [2, 3]])),
            "input 'size', row 2: data of shape [2, 1] holds",
        ),
        (tensor("size", json!([2, 1]), "FP64", json!([1, [2]])), "input 'size', row 1: data of shape [2, 1] holds"),
        (tensor("size", json!([2]), "FP64", json!([1, "x"])), "input 'size', row 2: found a text, where datatype FP64"),
        (tensor("size", json!([2]), "FP64", json!([null, true])), "input 'size', row 2: found true or false, where"),
        (
            tensor("colour", json!([2]), "BYTES", json!(["a", 5])),
            "input 'colour', row 2: found a number, where datatype",
        ),
        (
            tensor("size", json!([2]), "INT64", json!([1, 2.5])),
            "input 'size', row 2: not a whole number, as datatype INT64",
        ),
        (tensor("colour", json!([1]), "BYTES", json!(["a"])), "input 'colour' has 1 rows, and 'size' has 2"),
    ];
    for (replaced, message) in cases {
        let refused = refusal(&request(replaced.clone()));
        assert!(refused.starts_with(message), "{replaced}: {refused}");
    }
}

#[test]
fn inputs_are_each_given_once_and_no_others() {
    let mut unknown = request(json!({}));
    unknown["inputs"][0]["name"] = json!("weight");
    assert_eq!(refusal(&unknown), "unknown input 'weight'; the model takes 'size', 'colour', 'ripe'");
    let mut twice = request(json!({}));
    twice["inputs"][0] = twice["inputs"][1].clone();
    assert_eq!(refusal(&twice), "input 'colour' is given twice");
    assert_eq!(refusal(&json!({"inputs": []})), "missing inputs: 'size', 'colour', 'ripe'");
}

#[test]
fn requests_of_no_rows_or_too_many_are_refused() {
    let rows = |n: usize| {
        json!({"inputs": [
            tensor("size", json!([n]), "FP64", json!(vec![1.0; n])),
            tensor("colour", json!([n]), "BYTES", json!(vec!["red"; n])),
            tensor("ripe", json!([n]), "BOOL", json!(vec![true; n])),
        ]})
    };
    assert_eq!(refusal(&rows(0)), "the inputs have no rows; send at least one");
    assert!(classifier().decode(rows(3).to_string().as_bytes(), MOST_ROWS).is_ok());
    assert!(refusal(&rows(4)).starts_with("the request has 4 rows; at most 3"));
}

#[test]
fn outputs_that_are_not_there_are_refused() {
    let mut request = request(json!({}));
    request["outputs"] = json!([{"name": "label"}, {"name": "logits"}]);
    assert_eq!(refusal(&request), "unknown output 'logits'; the model gives 'label', 'probabilities'");
    request["outputs"] = json!([{"name": "label"}, {"name": "label"}]);
    assert_eq!(refusal(&request), "output 'label' is asked for twice");
}

#[test]
fn long_names_and_lists_are_cut_in_messages() {
    let columns = (0..100).map(|i| Input { name: format!("c{i}"), kind: Kind::Number }).collect::<Vec<_>>();
    let signature = Signature::new(columns, Prediction::Numbers(vec!["y".into()]));
    let request = json!({"inputs": [tensor(&"ä".repeat(5000), json!([1]), "FP64", json!([1]))]});
    let refused = signature.decode(request.to_string().as_bytes(), MOST_ROWS).unwrap_err().to_string();
    assert!(refused.len() < 1000 && refused.ends_with("'c15' and 84 more, which GET of the model lists"), "{refused}");
}

#[test]
fn a_classifier_answers_labels_and_probabilities() {
    let answer = |wanted: &[usize]| {
        let probabilities = [0.25, 0.5, 0.25, 0.5, 0.25, 0.25];
        serde_json::from_slice::<Value>(&classifier().encode(MODEL, Some("42"), wanted, &probabilities).unwrap())
            .unwrap()
    };
    let label = json!({"name": "label", "shape": [2], "datatype": "BYTES", "data": ["lime", "apple"]});
    let probabilities = json!({
        "name": "probabilities", "shape": [2, 3], "datatype": "FP32", "data": [0.25, 0.5, 0.25, 0.5, 0.25, 0.25],
    });
    let whole = json!({"model_name": "fruit", "model_version": "7", "id": "42", "outputs": [label, probabilities]});
    assert_eq!(answer(&[0, 1]), whole);
    assert_eq!(answer(&[1])["outputs"], json!([probabilities]));
}

#[test]
fn a_regression_answers_one_output_per_target() {
    let signature = Signature::new(inputs(), Prediction::Numbers(vec!["price".into(), "age".into()]));
    let body = signature.encode(MODEL, None, &[1, 0], &[1.5, -2.0, 3.0, 4.0]).unwrap();
    let answer: Value = serde_json::from_slice(&body).unwrap();
    let outputs = json!([
        {"name": "age", "shape": [2], "datatype": "FP32", "data": [-2.0, 4.0]},
        {"name": "price", "shape": [2], "datatype": "FP32", "data": [1.5, 3.0]},
    ]);
    assert_eq!(answer, json!({"model_name": "fruit", "model_version": "7", "outputs": outputs}));
}

#[test]
fn a_prediction_that_is_no_number_is_refused_with_its_row() {
    let refused = classifier().encode(MODEL, None, &[0], &[0.5, 0.25, 0.25, 0.5, f32::NAN, 0.5]).unwrap_err();
    assert_eq!(refused, InvalidRequest::Overflow { row: 1 });
}

#[test]
fn metadata_lists_inputs_outputs_and_labels() {
    let metadata: Value = serde_json::from_slice(&model_metadata(MODEL, &classifier())).unwrap();
    let labels = json!({"labels": ["apple", "lime", "plum"]});
    let expected = json!({
        "name": "fruit", "versions": ["7"], "platform": "stoker",
        "inputs": [
            {"name": "size", "datatype": "FP64", "shape": [-1]},
            {"name": "colour", "datatype": "BYTES", "shape": [-1]},
            {"name": "ripe", "datatype": "BOOL", "shape": [-1]},
        ],
        "outputs": [
            {"name": "label", "datatype": "BYTES", "shape": [-1], "parameters": labels},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3], "parameters": labels},
        ],
    });
    assert_eq!(metadata, expected);
}
