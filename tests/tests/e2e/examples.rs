//! The demo's path: every manifest under `examples/`, applied as it stands, is trained and served.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt as _, api::ListParams};
use stoker_crds::{ModelTraining, metric::Split};
use stoker_e2e::{Namespace, checkout, evaluate::evaluate, manifest};

use crate::{
    setup::test,
    steps::{available, serve, succeeded},
};

const EXAMPLES: &str = "examples";

fn manifests() -> Vec<PathBuf> {
    let files = std::fs::read_dir(checkout::path(EXAMPLES)).unwrap().map(|entry| entry.unwrap().path());
    let mut manifests: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|extension| extension == "yaml")).collect();
    manifests.sort();
    manifests
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_trains_and_is_served_as_well_as_its_status_says() {
    test("examples", async |namespace: Namespace| {
        let manifests = manifests();
        assert!(manifests.len() >= 3, "{manifests:?}");
        for path in &manifests {
            for object in manifest::read(path).unwrap() {
                namespace.apply(&object).await.unwrap();
            }
        }
        for path in &manifests {
            trained_and_served(&namespace, path).await;
        }
        a_language_model_knows_more_than_which_byte_follows_which(&namespace).await;
        pods_hold_no_token(&namespace).await;
    })
    .await;
}

async fn trained_and_served(namespace: &Namespace, path: &Path) {
    for object in manifest::read(path).unwrap() {
        let name = object.name_any();
        match object.types.as_ref().unwrap().kind.as_str() {
            "ModelTraining" => {
                let status = succeeded(namespace, &name).await;
                assert_eq!((status.run, status.restarts, &status.error), (1, 0, &None));
            }
            "ModelDeployment" => {
                available(namespace, &name, 1).await;
                served_as_status_says(namespace, path, &name).await;
            }
            other => panic!("{}: {other} is no kind of Stoker's", path.display()),
        }
    }
}

/// Asks the server about the rows that the training held out, and compares the metrics with those in status.
async fn served_as_status_says(namespace: &Namespace, path: &Path, name: &str) {
    let served = serve(namespace, name).await;
    let over_http = evaluate(path, &served.endpoint.url()).await.unwrap();
    let training = namespace.api::<ModelTraining>().get(name).await.unwrap();
    let in_status = training.status.unwrap().metrics[&Split::Test].clone();
    assert!(over_http.rows > 10 && !over_http.metrics.is_empty(), "{over_http:?}");
    for (metric, value) in &over_http.metrics {
        let expected = in_status.get(metric).unwrap_or_else(|| panic!("no {metric} in {in_status:?}"));
        // Values pass through 32-bit numbers in JSON; what is counted, like accuracy, comes out exactly.
        assert!(
            (value - expected).abs() <= 1e-4 * expected.abs().max(1.0),
            "{metric}: {value} over HTTP, {expected} in status"
        );
    }
}

/// No model that looks at one byte alone to predict the next can have a lower perplexity on a text than the counts of that
/// very text give: e to the power of the mean of -ln(count of the pair / count of its first byte).
async fn a_language_model_knows_more_than_which_byte_follows_which(namespace: &Namespace) {
    let text = std::fs::read(checkout::path("examples/datasets/opticks/opticks.txt")).unwrap();
    let (mut firsts, mut pairs) = (HashMap::new(), HashMap::new());
    for pair in text.windows(2) {
        *firsts.entry(pair[0]).or_insert(0.0) += 1.0;
        *pairs.entry([pair[0], pair[1]]).or_insert(0.0) += 1.0;
    }
    let entropy: f64 = pairs.iter().map(|([first, _], count): (_, &f64)| -count * (count / firsts[first]).ln()).sum();
    let bigrams = (entropy / (text.len() - 1) as f64).exp();
    let status = namespace.api::<ModelTraining>().get("opticks").await.unwrap().status.unwrap();
    let perplexity = status.metrics[&Split::Test]["perplexity"];
    assert!(perplexity > 1.0 && perplexity < bigrams, "{perplexity} is not below {bigrams}, which bigrams reach");
    assert_eq!(status.estimate.unwrap().parameters, 372_672);
    assert!(status.samples.iter().any(|sample| sample.prompt == "The Rays of Light" && !sample.text.is_empty()));
}

async fn pods_hold_no_token(namespace: &Namespace) {
    let pods = namespace.api::<Pod>().list(&ListParams::default()).await.unwrap();
    for pod in pods {
        let token = pod.spec.as_ref().and_then(|spec| spec.automount_service_account_token);
        assert_eq!(token, Some(false), "pod {}", pod.name_any());
    }
}
