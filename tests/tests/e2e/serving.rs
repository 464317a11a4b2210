//! What a served model makes of requests, good and bad, and how it is scaled and guarded.

use reqwest::{StatusCode, header};
use serde_json::{Value, json};
use stoker_crds::{ModelDeployment, Reason};
use stoker_e2e::{
    Namespace, command,
    inference::{Model, numbers, send, texts},
};

use crate::{
    lines,
    setup::test,
    steps::{available, deploy, secret, serve, succeeded, train, wait},
};

fn row(a: f64, b: f64, color: &str) -> [Value; 3] {
    [numbers("a", &[a]), numbers("b", &[b]), texts("color", &[color])]
}

async fn is_ready_and_answers(model: &Model) {
    let ready = model.get("/v2/health/ready").await.unwrap();
    assert_eq!(ready.status, StatusCode::OK, "{ready:?}");
    let answer = model.infer(&row(1.0, 1.0, "green")).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_request_gets_its_status_and_the_server_stays_ready() {
    test("requests", async |namespace: Namespace| {
        train(&namespace, "lines", &json!({})).await;
        succeeded(&namespace, "lines").await;
        deploy(&namespace, "lines", &json!({"server": {"limits": {"maxBodyBytes": 4096}}})).await;
        let served = serve(&namespace, "lines").await;
        let model = &served.model;

        let [a, b, color] = row(1.0, 1.0, "green");
        let tensor = |name: &str, shape: Value, datatype: &str, data: Value| {
            json!({"name": name, "shape": shape, "datatype": datatype, "data": data})
        };
        let refused: [(&str, Vec<Value>, &str); 9] = [
            ("a shape that the data does not have", vec![tensor("a", json!([2]), "FP64", json!([1.0])), b.clone(), color.clone()], "a"),
            ("a shape of two columns", vec![tensor("a", json!([1, 2]), "FP64", json!([1.0, 2.0])), b.clone(), color.clone()], "a"),
            ("inputs of different lengths", vec![numbers("a", &[1.0, 2.0]), b.clone(), color.clone()], "rows"),
            ("text for a number", vec![tensor("a", json!([1]), "BYTES", json!(["one"])), b.clone(), color.clone()], "a"),
            ("text in a column of numbers", vec![tensor("a", json!([1]), "FP64", json!(["one"])), b.clone(), color.clone()], "a"),
            ("a missing input", vec![a.clone(), color.clone()], "b"),
            ("an unknown input", vec![a.clone(), b.clone(), color.clone(), numbers("c", &[1.0])], "c"),
            ("an input given twice", vec![a.clone(), a.clone(), b.clone(), color.clone()], "a"),
            ("a missing value where rows with one are dropped", vec![tensor("a", json!([1]), "FP64", json!([null])), b, color], "a"),
        ];
        for (what, inputs, about) in refused {
            let answer = model.infer(&inputs).await.unwrap();
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{what}: {answer:?}");
            let error = answer.body["error"].as_str().unwrap_or_else(|| panic!("{what}: no error in {answer:?}"));
            assert!(error.contains(about), "{what}: {error}");
        }

        let body = |text: &str| model.post().header(header::CONTENT_TYPE, "application/json").body(text.to_owned());
        let nan = r#"{"inputs":[{"name":"a","shape":[1],"datatype":"FP64","data":[NaN]}]}"#;
        for (what, request, status) in [
            ("NaN", body(nan), StatusCode::BAD_REQUEST),
            ("no JSON", body("{"), StatusCode::BAD_REQUEST),
            ("no inference request", body("[]"), StatusCode::BAD_REQUEST),
            ("a body that is too large", body(&" ".repeat(5000)), StatusCode::PAYLOAD_TOO_LARGE),
        ] {
            let answer = send(request).await.unwrap();
            assert_eq!(answer.status, status, "{what}: {answer:?}");
            assert!(answer.body["error"].is_string(), "{what}: {answer:?}");
        }
        for path in ["/v2/models/other", "/v2/models/lines/versions/99", "/v2/repository/index", "/nowhere"] {
            let answer = model.get(path).await.unwrap();
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}: {answer:?}");
        }
        is_ready_and_answers(model).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_speaks_the_open_inference_protocol() {
    test("protocol", async |namespace: Namespace| {
        train(&namespace, "sides", &lines::classification()).await;
        succeeded(&namespace, "sides").await;
        deploy(&namespace, "sides", &json!({})).await;
        let served = serve(&namespace, "sides").await;
        let model = &served.model;

        for path in
            ["/v2/health/live", "/v2/health/ready", "/v2/models/sides/ready", "/v2/models/sides/versions/1/ready"]
        {
            assert_eq!(model.get(path).await.unwrap().status, StatusCode::OK, "{path}");
        }
        assert!(model.get("/v2").await.unwrap().body["extensions"].is_array());
        let metadata = model.get("/v2/models/sides").await.unwrap().body;
        assert_eq!((&metadata["name"], &metadata["versions"]), (&json!("sides"), &json!(["1"])));
        let inputs: Vec<_> =
            metadata["inputs"].as_array().unwrap().iter().map(|i| (&i["name"], &i["datatype"])).collect();
        let expected = [("a", "FP64"), ("b", "FP64"), ("color", "BYTES")].map(|(n, d)| (json!(n), json!(d)));
        assert_eq!(inputs, expected.each_ref().map(|(name, datatype)| (name, datatype)));

        // Far on either side, there is no doubt.
        let inputs = [numbers("a", &[2.0, -2.0]), numbers("b", &[-2.0, 2.0]), texts("color", &["green", "green"])];
        let answer = model.infer(&inputs).await.unwrap();
        assert_eq!(answer.output("label").unwrap(), &[json!("above"), json!("below")]);
        let probabilities = answer.output("probabilities").unwrap();
        for row in probabilities.chunks(2) {
            let sum: f64 = row.iter().map(|p| p.as_f64().unwrap()).sum();
            assert!((sum - 1.0).abs() < 1e-6, "{probabilities:?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_scale_changes_the_number_of_servers() {
    test("scale", async |namespace: Namespace| {
        train(&namespace, "lines", &json!({})).await;
        succeeded(&namespace, "lines").await;
        deploy(&namespace, "lines", &json!({})).await;
        for replicas in ["2", "0", "1"] {
            let replicas = format!("--replicas={replicas}");
            let arguments = ["scale", "modeldeployment/lines", &replicas, "--namespace", &namespace.name];
            command::run("kubectl", &arguments).await.unwrap();
            available(&namespace, "lines", 1).await;
        }
        let scale = namespace.api::<ModelDeployment>().get_scale("lines").await.unwrap();
        assert_eq!(scale.spec.and_then(|spec| spec.replicas), Some(1));
        let status = scale.status.unwrap();
        assert_eq!(status.replicas, 1);
        assert!(status.selector.is_some_and(|selector| selector.contains("stoker.dev/deployment=lines")));
        let served = serve(&namespace, "lines").await;
        is_ready_and_answers(&served.model).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_api_keys_only_their_holders_are_answered() {
    test("keys", async |namespace: Namespace| {
        train(&namespace, "lines", &json!({})).await;
        succeeded(&namespace, "lines").await;
        let keys = json!({"auth": {"apiKeys": {"secretName": "keys"}}});
        namespace.apply(&lines::deployment("lines", "lines", &keys)).await.unwrap();
        wait("the deployment to miss its Secret of keys")
            .until(&namespace.api(), "lines", |deployment: &ModelDeployment| {
                let error = deployment.status.as_ref().and_then(|status| status.error.as_ref());
                error.is_some_and(|error| error.reason == Reason::SecretNotFound && error.message.contains("keys"))
            })
            .await
            .unwrap();
        secret(&namespace, "keys", &[("alice", "open-sesame".to_owned())]).await;
        available(&namespace, "lines", 1).await;
        let served = serve(&namespace, "lines").await;

        let ask = || served.model.post().json(&json!({"inputs": row(1.0, 1.0, "green")}));
        for (what, request, status) in [
            ("no key", ask(), StatusCode::UNAUTHORIZED),
            ("a wrong key", ask().bearer_auth("open-barley"), StatusCode::UNAUTHORIZED),
            ("a key", ask().bearer_auth("open-sesame"), StatusCode::OK),
            ("a key in the other header", ask().header("X-API-Key", "open-sesame"), StatusCode::OK),
        ] {
            let answer = send(request).await.unwrap();
            assert_eq!(answer.status, status, "{what}: {answer:?}");
            assert!(!answer.body.to_string().contains("sesame"), "{what}: {answer:?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_row_alone_gets_the_same_answer_as_in_a_batch() {
    test("alone", async |namespace: Namespace| {
        train(&namespace, "lines", &json!({})).await;
        succeeded(&namespace, "lines").await;
        deploy(&namespace, "lines", &json!({})).await;
        let served = serve(&namespace, "lines").await;

        let rows: Vec<f64> = (0..40).map(|row| f64::from(row) / 10.0 - 2.0).collect();
        let colors: Vec<&str> = ["red", "green", "blue", "violet"].into_iter().cycle().take(rows.len()).collect();
        let batch = [numbers("a", &rows), numbers("b", &rows), texts("color", &colors)];
        let together = served.model.infer(&batch).await.unwrap();
        let together = together.output("y").unwrap();
        assert_eq!(together.len(), rows.len());
        for (value, (color, expected)) in rows.iter().zip(colors.iter().zip(together)) {
            let alone = served.model.infer(&row(*value, *value, color)).await.unwrap();
            let (alone, expected) = (alone.output("y").unwrap()[0].as_f64().unwrap(), expected.as_f64().unwrap());
            // Sums of a few hundred 32-bit products may be rounded in another order: some units in the last place.
            assert!((alone - expected).abs() <= 1e-5 * expected.abs().max(1.0), "{alone} alone, {expected} in a batch");
        }
    })
    .await;
}
