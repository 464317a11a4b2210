//! What the routes answer.

use axum::{middleware::from_fn, routing};
use datafusion::arrow::array::AsArray;
use stoker_crds::{
    report::RunError,
    training::model::{Preset, Transformer},
};

use super::*;
use crate::server::{ServeError, Server, inference::catch_panic, protocol::Signature};

#[tokio::test]
async fn a_server_without_its_model_is_live_and_not_ready() {
    let fruit = Fruit::classifier().await;
    let state = Arc::new(ServerState::new(fruit.options(&[])).unwrap());
    assert_eq!(ask(&state, get("/v2/health/live")).await.body, json!({"live": true}));
    let ready = ask(&state, get("/v2/health/ready")).await;
    assert_eq!((ready.status, ready.body), (StatusCode::SERVICE_UNAVAILABLE, json!({"ready": false})));
    assert_eq!(ask(&state, get("/v2/models/fruit/ready")).await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ask_management(&state, get("/healthz")).await.status, StatusCode::OK);
    assert_eq!(ask_management(&state, get("/readyz")).await.status, StatusCode::SERVICE_UNAVAILABLE);
    let refused = ask(&state, infer(&rows(1))).await;
    assert_eq!(
        (refused.status, &refused.headers["retry-after"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"1".parse().unwrap())
    );
}

#[tokio::test]
async fn a_loaded_server_says_what_it_serves() {
    let fruit = Fruit::classifier().await;
    let state = fruit.loaded(&["--digest", &fruit.digest]).await;
    for path in ["/v2/health/ready", "/v2/models/fruit/ready", "/v2/models/fruit/versions/3/ready"] {
        let ready = ask(&state, get(path)).await;
        assert_eq!((ready.status, &ready.body["ready"]), (StatusCode::OK, &json!(true)), "{path}");
    }
    assert_eq!(ask(&state, get("/v2")).await.body["name"], "stoker-trainer");
    for path in ["/v2/models/fruit", "/v2/models/fruit/versions/3"] {
        let metadata = ask(&state, get(path)).await.body;
        assert_eq!((&metadata["name"], &metadata["versions"]), (&json!("fruit"), &json!(["3"])), "{path}");
        assert_eq!(metadata["inputs"][1], json!({"name": "colour", "datatype": "BYTES", "shape": [-1]}));
        assert_eq!(metadata["outputs"][0]["parameters"]["labels"], json!(["apple", "lime", "plum"]));
    }
}

#[tokio::test]
async fn served_probabilities_are_those_of_the_model_and_the_same_alone_as_in_a_batch() {
    let fruit = Fruit::classifier().await;
    let state = fruit.loaded(&["--max-batch-size", "8"]).await;
    let together = ask(&state, infer(&rows(20))).await.body;
    let probabilities = numbers(&together["outputs"][1]["data"]);

    let batch = Signature::of(&fruit.preprocessor);
    let batch = batch.decode(rows(20).to_string().as_bytes(), 20).unwrap().rows;
    let expected = fruit.predictor().await.predict(&fruit.preprocessor.transform(&batch).unwrap()).unwrap();
    assert_close(&probabilities, &expected);

    for row in 0..20 {
        let alone = json!({"inputs": rows(20)["inputs"].as_array().unwrap().iter().map(|tensor| {
            let mut tensor = tensor.clone();
            (tensor["shape"], tensor["data"]) = (json!([1]), json!([tensor["data"][row]]));
            tensor
        }).collect::<Vec<_>>()});
        let alone = ask(&state, infer(&alone)).await.body;
        assert_close(&numbers(&alone["outputs"][1]["data"]), &probabilities[row * 3..][..3]);
        assert_eq!(alone["outputs"][0]["data"][0], together["outputs"][0]["data"][row]);
    }
}

#[tokio::test]
async fn a_regression_answers_in_the_targets_own_units() {
    let fruit = Fruit::regression().await;
    let state = fruit.loaded(&[]).await;
    let mut request = rows(4);
    request["id"] = json!("a\"b");
    let answer = ask(&state, infer(&request)).await.body;
    assert_eq!(answer["id"], "a\"b");
    assert_eq!((&answer["model_name"], &answer["model_version"]), (&json!("fruit"), &json!("3")));

    let batch = Signature::of(&fruit.preprocessor);
    let batch = batch.decode(request.to_string().as_bytes(), 4).unwrap().rows;
    assert_eq!(batch.column(1).as_string::<i32>().value(1), "green");
    let mut expected = fruit.predictor().await.predict(&fruit.preprocessor.transform(&batch).unwrap()).unwrap();
    fruit.preprocessor.restore_targets(&mut expected);
    for (target, name) in ["price", "age"].into_iter().enumerate() {
        let output = &answer["outputs"][target];
        assert_eq!((&output["name"], &output["shape"]), (&json!(name), &json!([4])));
        let expected: Vec<f32> = expected.iter().skip(target).step_by(2).copied().collect();
        assert_close(&numbers(&output["data"]), &expected);
    }
}

#[tokio::test]
async fn a_missing_value_is_filled_where_training_filled_it_and_refused_where_it_did_not() {
    let fruit = Fruit::classifier().await;
    let state = fruit.loaded(&[]).await;
    let mut request = rows(3);
    request["inputs"][0]["data"][1] = Value::Null;
    assert_eq!(ask(&state, infer(&request)).await.status, StatusCode::OK);
    request["inputs"][1]["data"][2] = Value::Null;
    let refused = ask(&state, infer(&request)).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert!(refused.error().starts_with("column 'colour' has no value in row 3"), "{}", refused.error());
}

#[tokio::test]
async fn each_bad_request_gets_its_status_and_a_reason() {
    let fruit = Fruit::classifier().await;
    let state = fruit.loaded(&["--max-queue", "10"]).await;
    let ok = rows(1).to_string();
    let path = "/v2/models/fruit/infer";
    let typed =
        |content_type: &str| Request::post(path).header("content-type", content_type).body(ok.clone().into()).unwrap();
    let mut gzip = post(path, ok.clone());
    gzip.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
    let mut unknown = rows(1);
    unknown["inputs"][0]["name"] = json!("weight");
    let mut untyped = rows(1);
    untyped["inputs"][1]["datatype"] = json!("INT8");
    let cases = [
        (get("/"), 404, "no route /"),
        (get("/v2/models"), 404, "no route /v2/models"),
        (get("/v2/models/vegetable"), 404, "this server serves 'fruit', version '3'"),
        (get("/v2/models/%ff"), 404, "this server serves"),
        (get("/v2/models/fruit/versions/4"), 404, "version '3'"),
        (post("/v2/models/vegetable/infer", ok.clone()), 404, "this server serves"),
        (post("/v2/models/fruit/versions/2/infer", ok.clone()), 404, "this server serves"),
        (get(path), 405, "method"),
        (post("/v2/health/ready", ok.clone()), 405, "method"),
        (Request::post(path).body(ok.clone().into()).unwrap(), 415, "application/json"),
        (typed("text/plain"), 415, "application/json"),
        (typed("application/jsonl"), 415, "application/json"),
        (gzip, 415, "without compression"),
        (post(path, ""), 400, "EOF"),
        (post(path, "{\"inputs\":[{\"data\":[NaN]}]}"), 400, "write null"),
        (post(path, vec![0xff, 0xfe]), 400, "line 1 column 1"),
        (infer(&unknown), 400, "unknown input 'weight'; the model takes 'size', 'colour', 'ripe'"),
        (infer(&untyped), 400, "input 'colour' has datatype INT8; send BYTES"),
        (infer(&rows(11)), 413, "at most 10"),
    ];
    for (request, status, part) in cases {
        let asked = format!("{} {}", request.method(), request.uri());
        let answer = ask(&state, request).await;
        assert_eq!(answer.status.as_u16(), status, "{asked}: {}", answer.body);
        assert!(answer.error().contains(part), "{asked}: {}", answer.body);
        assert_eq!(answer.headers["content-type"], "application/json", "{asked}");
    }
    for good in [typed("application/json; charset=utf-8"), typed("Application/JSON"), infer(&rows(10))] {
        assert_eq!(ask(&state, good).await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn with_keys_all_but_health_needs_one() {
    let fruit = Fruit::classifier().await;
    let keys = tempfile::tempdir().unwrap();
    std::fs::write(keys.path().join("alice"), "secret").unwrap();
    let state = fruit.loaded(&["--api-keys-dir", keys.path().to_str().unwrap()]).await;
    for open in ["/v2/health/live", "/v2/health/ready", "/v2/models/fruit/ready"] {
        assert_eq!(ask(&state, get(open)).await.status, StatusCode::OK, "{open}");
    }
    let closed = || [get("/v2"), get("/v2/models/fruit"), infer(&rows(1)), post("/v2/models/x/infer", "no JSON")];
    for request in closed() {
        let path = request.uri().to_string();
        let refused = ask(&state, request).await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(refused.headers["www-authenticate"], "Bearer");
    }
    let mut asked = infer(&rows(1));
    asked.headers_mut().insert("x-api-key", "secret".parse().unwrap());
    assert_eq!(ask(&state, asked).await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_management_port_counts_what_the_inference_port_answers() {
    let fruit = Fruit::classifier().await;
    let state = fruit.loaded(&[]).await;
    for request in [infer(&rows(3)), infer(&rows(1)), post("/v2/models/x/infer", ""), get("/v2")] {
        ask(&state, request).await;
    }
    let stats = ask_management(&state, get("/v1/stats")).await.body;
    assert_eq!((&stats["requests"], &stats["errors"], &stats["inFlight"]), (&json!(3), &json!(0), &json!(0)));
    assert_eq!(stats["digest"], fruit.digest);
    let metrics = ask_management(&state, get("/metrics")).await;
    let text = metrics.body.as_str().unwrap();
    for line in [
        "stoker_server_requests_total{code=\"200\"} 2",
        "stoker_server_requests_total{code=\"404\"} 1",
        "stoker_server_requests_in_flight 0",
        "stoker_server_queue_rows 0",
        // The prediction that warms the model up, and two requests.
        "stoker_server_batch_rows_count 3",
        "stoker_server_batch_rows_sum 5.0",
        &format!("stoker_server_model_info{{name=\"fruit\",version=\"3\",digest=\"{}\"}} 1", fruit.digest),
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn a_failing_computation_is_answered_without_its_details() {
    let fruit = Fruit::classifier().await;
    let state = ServerState::new(fruit.options(&[])).unwrap();
    let predict = |_: &[f32]| -> Result<Vec<f32>, ModelError> { panic!("a panic that is meant to be") };
    state.set_model(fruit.computed_by(&state.options, &state.metrics, predict));
    let state = Arc::new(state);
    let failed = ask(&state, infer(&rows(1))).await;
    assert_eq!(failed.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(failed.error().starts_with("internal error; the server's log has the details under incident "));
    // It computes nothing at all, so the pod is to be restarted.
    assert_eq!(ask_management(&state, get("/healthz")).await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(state.metrics.stats("").errors, 1);
}

#[tokio::test]
async fn a_handler_that_panics_is_answered_without_its_details() {
    let panics = async || -> StatusCode { panic!("a panic that is meant to be") };
    let router = Router::new().route("/", routing::get(panics)).route_layer(from_fn(catch_panic));
    let failed = ask_router(router, get("/")).await;
    assert_eq!(failed.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(failed.error().starts_with("internal error"), "{}", failed.body);
}

#[tokio::test]
async fn a_model_that_is_not_the_expected_one_ends_the_server_with_its_reason() {
    let fruit = Fruit::classifier().await;
    let message = fruit.folder.path().join("termination-log");
    let other = format!("sha256:{}", "0".repeat(64));
    let flags = ["--digest", &other, "--termination-message-path", message.to_str().unwrap()];
    let error = crate::server::serve(fruit.options(&flags), Default::default()).await.unwrap_err();
    assert_eq!(error.reason(), stoker_crds::Reason::CorruptArtifact);
    let report: RunError = serde_json::from_slice(&std::fs::read(message).unwrap()).unwrap();
    assert_eq!(report.reason, stoker_crds::Reason::CorruptArtifact);
    assert!(report.message.contains(&fruit.digest), "{}", report.message);
}

#[tokio::test]
async fn files_of_different_models_are_refused() {
    let (classifier, regression) = (Fruit::classifier().await, Fruit::regression().await);
    let read = |fruit: &Fruit, name: &str| (name.to_owned(), std::fs::read(fruit.path().join(name)).unwrap().into());
    let files = vec![read(&classifier, CONFIG), read(&classifier, WEIGHTS), read(&regression, PREPROCESSOR)];
    let folder = Access::local(classifier.folder.path()).open("s3://model/mixed").unwrap();
    artifact::commit(&folder, None, files).await.unwrap();
    let options = options(&classifier.folder.path().join("model/mixed"), &[]);
    let error = ServedModel::load(&options, &Metrics::default()).await.unwrap_err();
    assert!(matches!(error, ServeError::Mismatch), "{error}");
}

#[tokio::test]
async fn a_language_model_is_refused_by_name_before_its_weights_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let transformer = Transformer { preset: Some(Preset::Tiny), ..Transformer::default() }.resolve().unwrap();
    let architecture = Architecture::language(transformer, 300).unwrap();
    let config = serde_json::to_vec(&architecture).unwrap();
    let files = vec![(CONFIG.to_owned(), config.into()), (WEIGHTS.to_owned(), "none".into())];
    let stored = Access::local(folder.path()).open("s3://model/language").unwrap();
    artifact::commit(&stored, None, files).await.unwrap();
    let options = options(&folder.path().join("model/language"), &[]);
    let error = ServedModel::load(&options, &Metrics::default()).await.unwrap_err();
    assert!(error.to_string().contains("language model"), "{error}");
    assert_eq!(error.reason(), stoker_crds::Reason::InvalidConfig);
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let fruit = Fruit::classifier().await;
    let first = Server::bind(fruit.options(&[])).await.unwrap();
    let taken = first.inference_address().unwrap();
    let error = Server::bind(ServeOptions { listen: taken, ..fruit.options(&[]) }).await.unwrap_err();
    assert!(error.to_string().contains(&taken.to_string()), "{error}");
}
