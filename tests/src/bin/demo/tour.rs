//! The main job, end to end.

use std::{path::PathBuf, time::Duration};

use kube::{Api, Client, ResourceExt as _, api::DynamicObject};
use serde_json::json;
use stoker_crds::{
    ModelDeployment, ModelTraining,
    deployment::{ModelSource, status::Phase},
    metric::{self, Metrics, Split},
    serving::INFERENCE_PORT,
    training,
};
use stoker_e2e::{
    Error, Result, checkout, command, endpoint::Endpoint, error::ApiContext as _, evaluate::evaluate, manifest,
    wait::Wait,
};

use crate::{
    progress,
    stage::{self, EXAMPLES, NAMESPACE, note, say},
};

/// How far the metrics over HTTP may be from those in status: values pass through 32-bit numbers on the way.
const TOLERANCE: f64 = 1e-4;

/// Runs it all.
pub(crate) async fn run(client: &Client) -> Result<()> {
    stage::build(client).await?;
    let examples = Example::all()?;

    say("Applying the examples");
    for example in &examples {
        for object in &example.objects {
            apply(client, object).await?;
        }
        note(&format!("kubectl apply --namespace {NAMESPACE} -f examples/{}", example.file()));
    }

    say("Training");
    for name in examples.iter().flat_map(|example| example.names("ModelTraining")) {
        progress::show(client, &name).await?;
    }

    say("Serving: asking the models about rows that training never saw");
    for example in &examples {
        for name in example.names("ModelDeployment") {
            ask(client, example, &name).await?;
        }
    }

    say("kubectl get modeltrainings,modeldeployments");
    let arguments = ["get", "modeltrainings,modeldeployments", "--namespace", NAMESPACE];
    print!("{}", command::run("kubectl", &arguments).await?);
    hints();
    Ok(())
}

/// A manifest of the examples.
struct Example {
    path: PathBuf,
    objects: Vec<DynamicObject>,
}

impl Example {
    /// All of them, by name.
    fn all() -> Result<Vec<Self>> {
        let error = |source| Error::File { path: EXAMPLES.into(), source };
        let entries: std::io::Result<Vec<_>> = std::fs::read_dir(checkout::path(EXAMPLES)).map_err(error)?.collect();
        let mut paths: Vec<PathBuf> = entries.map_err(error)?.into_iter().map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
        paths.sort();
        paths.into_iter().map(|path| Ok(Self { objects: manifest::read(&path)?, path })).collect()
    }

    fn file(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The names of its resources of one kind.
    fn names(&self, kind: &str) -> impl Iterator<Item = String> {
        self.objects.iter().filter(move |object| is_of_kind(object, kind)).map(|object| object.name_any())
    }
}

/// Applies an object. Of a training that is at work on something else, as after one of the hints, the API server refuses that:
/// such a run is suspended first.
async fn apply(client: &Client, object: &DynamicObject) -> Result<()> {
    match manifest::apply(client, NAMESPACE, object).await {
        Err(Error::Api { source, .. }) if is_of_kind(object, "ModelTraining") && is_invalid(&source) => {}
        applied => return applied.map(drop),
    }
    let name = object.name_any();
    note(&format!("{name} is at work on another spec: its run is suspended, to train what the manifest says"));
    let mut held = object.clone();
    manifest::merge(&mut held.data, &json!({"spec": {"suspend": true}}));
    manifest::apply(client, NAMESPACE, &held).await?;
    let trainings: Api<ModelTraining> = Api::namespaced(client.clone(), NAMESPACE);
    Wait::new(format!("ModelTraining {name} to be suspended"), Duration::from_secs(180))
        .until(&trainings, &name, |training| {
            progress::current(training).is_some_and(|status| status.phase == Some(training::status::Phase::Suspended))
        })
        .await?;
    manifest::apply(client, NAMESPACE, object).await.map(drop)
}

fn is_of_kind(object: &DynamicObject, kind: &str) -> bool {
    object.types.as_ref().is_some_and(|types| types.kind == kind)
}

fn is_invalid(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_invalid())
}

/// Waits until a deployment serves, asks it about the held-out rows, and compares its metrics with those in status.
async fn ask(client: &Client, example: &Example, name: &str) -> Result<()> {
    let deployments: Api<ModelDeployment> = Api::namespaced(client.clone(), NAMESPACE);
    let deployment = Wait::new(format!("ModelDeployment {name} to be available"), Duration::from_secs(300))
        .until(&deployments, name, |deployment| {
            let status = deployment.status.as_ref();
            status.is_some_and(|status| {
                status.observed_generation == deployment.metadata.generation && status.phase == Some(Phase::Available)
            })
        })
        .await?;
    let endpoint = answering(client, name).await?;
    let over_http = evaluate(&example.path, &endpoint.url()).await?;
    let in_status = metrics_of(client, &deployment).await?;
    let Some((metric, asked, known)) = main_metric(&over_http.metrics, &in_status) else {
        return Err(Error::Unexpected(format!(
            "{name}: no metric is in status and over HTTP: {over_http:?}, {in_status:?}"
        )));
    };
    let rows = over_http.rows;
    note(&format!("{name:8} {rows} rows: {metric} {asked:.4} over HTTP, {known:.4} in status"));
    if (asked - known).abs() > TOLERANCE * known.abs().max(1.0) {
        return Err(Error::Unexpected(format!("{name} serves another {metric} than its status says")));
    }
    Ok(())
}

/// The Service's address, once it answers: the nodes learn of ready pods a moment after the API server does.
async fn answering(client: &Client, service: &str) -> Result<Endpoint> {
    Wait::new(format!("the Service {service} to answer"), Duration::from_secs(60))
        .until_ok(async || {
            let endpoint = Endpoint::of(client, NAMESPACE, service, INFERENCE_PORT).await;
            let endpoint = endpoint.map_err(|error| error.to_string())?;
            let ready = reqwest::get(format!("{}/v2/health/ready", endpoint.url())).await;
            ready.and_then(reqwest::Response::error_for_status).map_err(|error| error.to_string())?;
            Ok(endpoint)
        })
        .await
}

/// What the status of the deployed training says of the held-out rows.
async fn metrics_of(client: &Client, deployment: &ModelDeployment) -> Result<Metrics> {
    let ModelSource::Training(training) = &deployment.spec.model else {
        return Err(Error::Unexpected(format!("ModelDeployment {} serves no training", deployment.name_any())));
    };
    let trainings: Api<ModelTraining> = Api::namespaced(client.clone(), NAMESPACE);
    let training = trainings.get(&training.name).await.asked(format!("read ModelTraining {}", training.name))?;
    let metrics = training.status.and_then(|mut status| status.metrics.remove(&Split::Test));
    metrics.ok_or_else(|| Error::Unexpected("the training's status has no metrics of the test split".to_owned()))
}

/// The metric that says the most: its name, and its value in both.
fn main_metric<'a>(one: &'a Metrics, other: &Metrics) -> Option<(&'a str, f64, f64)> {
    [metric::ACCURACY, metric::R2].iter().find_map(|name| {
        let (name, value) = one.get_key_value(*name)?;
        Some((name.as_str(), *value, *other.get(name)?))
    })
}

fn hints() {
    say("What to try next");
    note("Train another version, and see it roll out without a lost request:");
    note(&format!(
        "  kubectl -n {NAMESPACE} patch mt digits --type merge -p '{{\"spec\":{{\"train\":{{\"seed\":1}}}}}}'; kubectl -n {NAMESPACE} get mt,md -w"
    ));
    note("Kill a trainer in mid-run, and see it go on from its last checkpoint:");
    note(&format!(
        "  kubectl -n {NAMESPACE} patch mt cells --type merge -p '{{\"spec\":{{\"checkpoint\":{{\"every\":\"5s\"}},\"train\":{{\"epochs\":50000}}}}}}'"
    ));
    note(&format!(
        "  sleep 15; kubectl -n {NAMESPACE} delete pod -l stoker.dev/training=cells --field-selector status.phase=Running --grace-period 0 --force"
    ));
    note(&format!("  kubectl -n {NAMESPACE} get mt cells -w"));
    note("Serve with more pods, and read what every field means:");
    note(&format!("  kubectl -n {NAMESPACE} scale md digits --replicas 3; kubectl explain modeltraining.spec.train"));
}
