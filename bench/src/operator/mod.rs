//! What the operator costs at scale: resources by the hundred and thousand, on a real API server, with pods that kwok
//! fakes, beside plain Jobs and Deployments of the same pods.

mod cost;
mod kwok;
mod workloads;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::{apps::v1::Deployment, batch::v1::Job, core::v1};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams},
};
use serde::Serialize;
use stoker_crds::{ModelDeployment, ModelTraining};
use stoker_e2e::{
    Error, Namespace, Result, cluster,
    error::ApiContext as _,
    release::{self, Images},
    wait::Wait,
};

use self::{
    cost::{Cost, Operator},
    kwok::FakeNode,
    workloads::{Samples, Verdict, Workload, create},
};
use crate::output::{Output, Table, count, number};

/// Objects that are being created at the same time.
const CREATORS: usize = 16;
/// How long all objects together may take.
const LIMIT: Duration = Duration::from_secs(1200);
/// How long the cluster has to calm down before and after.
const SETTLE: Duration = Duration::from_secs(5);
/// For how long the operator is watched with nothing to do.
const REST: Duration = Duration::from_secs(30);

/// The field's figures for 1,000 objects, on a machine of 2 cores with Kubernetes 1.37 and the same fake pods.
const OTHERS: [[&str; 6]; 5] = [
    ["to reach: 1,000 ModelTrainings", "≥ 25", "< 3", "< 30", "≤ 5", "0.20"],
    ["to reach: 1,000 ModelDeployments", "≥ 15", "< 3", "< 30", "≤ 5", "0.20"],
    ["others: plain Jobs | Deployments and Services", "34 | 22", "", "", "", ""],
    ["others: Kubeflow Trainer 2.3 and JobSet", "9.0", "23.8", "67 + 121", "3.1 + 5.2", ""],
    ["others: KServe 0.15, raw", "2.0", "38.6", "151", "18.3", "0.50"],
];

/// What a number of objects of a kind took.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Figures {
    objects: &'static str,
    count: u32,
    /// From the first that is created to the last that is done.
    seconds: f64,
    per_second: f64,
    /// What that cost the operator, where it has a part in it.
    operator: Option<Cost>,
}

impl Figures {
    fn new(objects: &'static str, count: u32, took: Duration, operator: Option<Cost>) -> Self {
        let seconds = took.as_secs_f64();
        Self { objects, count, seconds, per_second: f64::from(count) / seconds, operator }
    }

    fn row(&self) -> [String; 6] {
        let cost =
            |figure: fn(&Cost) -> f64| self.operator.as_ref().map(|cost| number(figure(cost))).unwrap_or_default();
        [
            format!("{} {}", count(self.count), self.objects),
            number(self.per_second),
            cost(|cost| cost.cpu_seconds),
            cost(|cost| cost.peak_memory_mib),
            cost(|cost| cost.requests_per_object),
            cost(|cost| cost.requests_per_second_at_rest),
        ]
    }
}

/// Installs the chart and measures each number of objects of each kind.
///
/// # Errors
/// If the cluster refuses something, or an object does not get where it should.
pub(crate) async fn run(counts: &[u32], output: &mut Output) -> Result<()> {
    println!("\nOperator: objects until they are done, on the real API server, with pods that kwok fakes\n");
    let client = cluster::connect().await?;
    release::install(&Images::from_env(), &[]).await?;
    let node = FakeNode::start(&client).await?;
    let measured = measure_all(&client, counts, output).await;
    let removed = node.remove().await;
    let all = measured?;
    removed?;
    print(&all);
    Ok(())
}

async fn measure_all(client: &Client, counts: &[u32], output: &mut Output) -> Result<Vec<Figures>> {
    let samples = Samples::take(client).await?;
    let mut all = Vec::new();
    for &count in counts {
        let figures = [
            jobs(client, &samples, count).await?,
            trainings(client, &samples, count).await?,
            plain_deployments(client, &samples, count).await?,
            deployments(client, &samples, count).await?,
        ];
        for figures in figures {
            output.record("operator", &figures)?;
            all.push(figures);
        }
    }
    Ok(all)
}

fn print(all: &[Figures]) {
    let mut table = Table::new(["", "objects/s", "CPU s", "peak MiB", "API requests/object", "API requests/s at rest"]);
    all.iter().for_each(|figures| table.row(figures.row()));
    OTHERS.into_iter().for_each(|row| table.row(row.map(str::to_owned)));
    println!("{table}");
    for figures in all {
        let Some(cost) = &figures.operator else { continue };
        println!("{} {}, requests/object: {}", count(figures.count), figures.objects, list(&cost.requests));
        println!("  at rest, requests/s: {}; {:.3} of a core", list(&cost.requests_at_rest), cost.cpu_at_rest);
    }
}

fn list(requests: &BTreeMap<String, f64>) -> String {
    requests.iter().map(|(call, figure)| format!("{call} {figure:.2}")).collect::<Vec<_>>().join(", ")
}

async fn jobs(client: &Client, samples: &Samples, count: u32) -> Result<Figures> {
    let took = time::<Job>(client, count, async |namespace, name| create(namespace, &samples.job(name)).await).await?;
    Ok(Figures::new("plain Jobs", count, took, None))
}

async fn plain_deployments(client: &Client, samples: &Samples, count: u32) -> Result<Figures> {
    let make = async |namespace: &Namespace, name: &str| {
        create(namespace, &samples.service(name)).await?;
        create(namespace, &samples.plain_deployment(name)).await
    };
    let took = time::<Deployment>(client, count, make).await?;
    Ok(Figures::new("plain Deployments and Services", count, took, None))
}

async fn trainings(client: &Client, samples: &Samples, count: u32) -> Result<Figures> {
    let make = async |namespace: &Namespace, name: &str| create(namespace, &samples.training(name)).await;
    let (took, cost) = time_operator::<ModelTraining>(client, count, make).await?;
    Ok(Figures::new("ModelTrainings", count, took, Some(cost)))
}

async fn deployments(client: &Client, samples: &Samples, count: u32) -> Result<Figures> {
    let make = async |namespace: &Namespace, name: &str| create(namespace, &samples.deployment(name)).await;
    let (took, cost) = time_operator::<ModelDeployment>(client, count, make).await?;
    Ok(Figures::new("ModelDeployments", count, took, Some(cost)))
}

/// How long it takes until that many objects are made and done, in a namespace of their own that is empty again after.
async fn time<K: Workload>(
    client: &Client,
    count: u32,
    make: impl AsyncFn(&Namespace, &str) -> Result<()>,
) -> Result<Duration> {
    let namespace = Namespace::create(client, "bench").await?;
    let took = until_done::<K>(&namespace, count, make).await?;
    clear(&namespace).await?;
    Ok(took)
}

/// The same, and what it cost an operator that has just started.
async fn time_operator<K: Workload>(
    client: &Client,
    count: u32,
    make: impl AsyncFn(&Namespace, &str) -> Result<()>,
) -> Result<(Duration, Cost)> {
    let operator = Operator::restart(client).await?;
    let namespace = Namespace::create(client, "bench").await?;
    tokio::time::sleep(SETTLE).await;
    let before = operator.bill().await?;
    let took = until_done::<K>(&namespace, count, make).await?;
    tokio::time::sleep(SETTLE).await;
    let after = operator.bill().await?;
    tokio::time::sleep(REST).await;
    let later = operator.bill().await?;
    clear(&namespace).await?;
    Ok((took, Cost::between(&before, &after, &later, count, REST)))
}

async fn until_done<K: Workload>(
    namespace: &Namespace,
    count: u32,
    make: impl AsyncFn(&Namespace, &str) -> Result<()>,
) -> Result<Duration> {
    eprintln!("{count} {} …", K::plural(&()));
    let api = namespace.api::<K>();
    let started = Instant::now();
    let made = stream::iter(0..count)
        .map(async |number| make(namespace, &format!("bench-{number}")).await)
        .buffer_unordered(CREATORS)
        .try_collect::<()>();
    let wait = Wait::new(format!("{count} {} to be done", K::plural(&())), LIMIT);
    let done = async {
        let ended = wait.until_any(&api, "", |objects| ended(objects.values(), count)).await;
        ended.map_err(briefly)?
    };
    tokio::try_join!(made, done)?;
    Ok(started.elapsed())
}

/// `Ok` as soon as all are done, an error as soon as one has failed.
fn ended<'a, K: Workload>(objects: impl Iterator<Item = &'a K>, count: u32) -> Option<Result<()>> {
    let mut done = 0;
    for object in objects {
        match object.verdict() {
            Verdict::Pending => {}
            Verdict::Done => done += 1,
            Verdict::Failed(why) => {
                return Some(Err(Error::Unexpected(format!("one of {count} {} failed: {why}", K::plural(&())))));
            }
        }
    }
    (done >= count).then_some(Ok(()))
}

/// Nobody reads the state of a thousand objects.
fn briefly(error: Error) -> Error {
    match error {
        Error::Timeout { what, seconds, last } => {
            Error::Timeout { what, seconds, last: last.chars().take(2000).collect() }
        }
        other => other,
    }
}

/// Deletes a namespace with all that is in it, and waits until it is gone. What owns other objects goes first.
async fn clear(namespace: &Namespace) -> Result<()> {
    let (background, all) = (DeleteParams::background(), ListParams::default());
    let trainings = namespace.api::<ModelTraining>();
    trainings.delete_collection(&background, &all).await.asked("delete the ModelTrainings")?;
    let deployments = namespace.api::<ModelDeployment>();
    deployments.delete_collection(&background, &all).await.asked("delete the ModelDeployments")?;
    namespace.delete().await?;
    let namespaces: Api<v1::Namespace> = Api::all(namespace.client.clone());
    Wait::new("the namespace to be gone", LIMIT).until_gone(&namespaces, &namespace.name).await
}
