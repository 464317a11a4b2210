//! Starts everything, and ends it in the right order.

use std::sync::Arc;

use futures::{FutureExt, future::BoxFuture};
use kube::Api;
use prometheus_client::registry::Registry;
use stoker_crds::{Progress, progress, serving, serving::ServerStats};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::{JoinError, JoinSet},
};

use crate::{
    bell::{Bell, Triggers},
    context::{Context, Shared},
    controller, deployment,
    figures::Figures,
    labels::Owner,
    leader::{Election, Fence},
    metrics::Metrics,
    poll::Poller,
    probes,
    readiness::Readiness,
    requests::counted_client,
    settings::Settings,
    training,
    watches::{self, Writers},
};

/// Why the operator cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// There is no cluster to talk to.
    #[error("the Kubernetes API cannot be reached: is there a kubeconfig, or a service account in a pod?")]
    Client(#[from] Box<kube::Error>),
    /// The port for probes and metrics cannot be opened.
    #[error("probes and metrics cannot be served on {address}")]
    Probes {
        /// Where.
        address: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The process cannot be told to end.
    #[error("signals cannot be received")]
    Signals(#[from] std::io::Error),
    /// Another replica leads, or may.
    #[error("the leader's Lease could not be renewed in time: this replica ends, so that another can act")]
    LeaseLost,
    /// A controller or a watch has ended, which none does by itself.
    #[error("a controller or a watch ended: this replica ends, so that another can act")]
    ControllerEnded(#[source] Option<JoinError>),
}

/// Runs the operator until it is told to end.
///
/// # Errors
/// If it cannot start, or has to stop.
pub async fn run(settings: Settings) -> Result<(), Fatal> {
    let settings = Arc::new(settings);
    let (fence, readiness) = (Fence::default(), Readiness::default());
    let mut registry = Registry::with_prefix("stoker");
    let client = counted_client(&mut registry).await.map_err(Box::new)?;
    let metrics = Arc::new(Metrics::new(&mut registry));
    let shared = Shared { settings: settings.clone(), client: client.clone(), fence: fence.clone(), metrics };
    let scopes = scopes(&shared);
    let contexts = scopes.iter().map(|(context, _)| context.clone()).collect();
    registry.register_collector(Box::new(Figures::new(contexts, fence.clone())));

    let leases = Api::namespaced(client, &settings.operator_namespace);
    let election = Election::new(leases, settings.identity.clone(), fence, readiness.clone());
    let address = settings.listen;
    tokio::select! {
        served = probes::serve(address, Arc::new(registry), readiness.clone()) => match served {
            Ok(()) => Err(Fatal::ControllerEnded(None)),
            Err(source) => Err(Fatal::Probes { address, source }),
        },
        ended = lead(&election, scopes, &readiness) => ended,
    }
}

/// Waits to lead, leads, and gives the Lease up when it is told to end.
async fn lead(election: &Election, scopes: Vec<(Arc<Context>, Writers)>, readiness: &Readiness) -> Result<(), Fatal> {
    let mut told_to_end = std::pin::pin!(told_to_end()?);
    tracing::info!("waits for the leader's Lease");
    let mut lease = tokio::select! {
        lease = election.win() => lease,
        () = &mut told_to_end => return Ok(()),
    };
    tracing::info!("leads");
    readiness.leads(scopes.len());
    let of_scope = |(context, writers)| work(context, writers, readiness.clone());
    let mut work: JoinSet<()> = scopes.into_iter().flat_map(of_scope).collect();
    let ended = tokio::select! {
        // None ever ends by itself; whichever did would leave the others half blind.
        ended = work.join_next() => Err(Fatal::ControllerEnded(ended.and_then(Result::err))),
        () = election.hold(&mut lease) => return Err(Fatal::LeaseLost),
        () = &mut told_to_end => Ok(()),
    };
    work.shutdown().await;
    election.release(lease).await;
    tracing::info!("has released the leader's Lease and ends");
    ended
}

fn told_to_end() -> Result<impl Future<Output = ()>, std::io::Error> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// What every reconcile works with, for the whole cluster or for each namespace.
fn scopes(shared: &Shared) -> Vec<(Arc<Context>, Writers)> {
    let namespaces: Vec<Option<String>> = match shared.settings.namespaces.as_slice() {
        [] => vec![None],
        namespaces => namespaces.iter().cloned().map(Some).collect(),
    };
    let context = |scope| {
        let writers = Writers::default();
        (Arc::new(Context::new(scope, shared.clone(), &writers)), writers)
    };
    namespaces.into_iter().map(context).collect()
}

/// What watches, asks pods, and reconciles, for ever: each a task of its own, so that what wakes one of them does not wake
/// the others.
fn work(context: Arc<Context>, writers: Writers, readiness: Readiness) -> Vec<BoxFuture<'static, ()>> {
    let (bell, Triggers { trainings, deployments }) = Bell::new();
    let trainers = Poller::<Progress> {
        port: progress::PROGRESS_PORT,
        path: progress::PROGRESS_PATH,
        selects: |owner| matches!(owner, Owner::Training { .. }),
        pods: context.pods.clone(),
        polled: context.progress.clone(),
        settings: context.settings.clone(),
    };
    let servers = Poller::<ServerStats> {
        port: serving::MANAGEMENT_PORT,
        path: serving::STATS_PATH,
        selects: |owner| matches!(owner, Owner::Deployment { .. }),
        pods: context.pods.clone(),
        polled: context.stats.clone(),
        settings: context.settings.clone(),
    };
    // Before everything is known, what is there would be taken for missing. A store wakes only one of those that wait for it.
    let everything = context.clone();
    let listed = async move {
        everything.listed().await;
        readiness.has_listed();
    };
    let listed = listed.boxed().shared();
    let mut work = watches::all(&context, writers, &bell);
    work.push(Box::pin(trainers.run(bell.clone())));
    work.push(Box::pin(servers.run(bell)));
    let control =
        controller::run(context.clone(), context.trainings.clone(), trainings, training::DEBOUNCE, training::reconcile);
    work.push(Box::pin(listed.clone().then(|()| control)));
    let (all, debounce) = (context.deployments.clone(), deployment::DEBOUNCE);
    let control = controller::run(context.clone(), all, deployments, debounce, deployment::reconcile);
    work.push(Box::pin(listed.then(|()| control)));
    work
}
