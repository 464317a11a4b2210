//! What every reconcile works with.

use std::sync::Arc;

use jiff::Timestamp;
use kube::{
    Api, Client, Resource,
    core::NamespaceResourceScope,
    runtime::{
        events::{Event, EventType, Recorder, Reporter},
        reflector::{ObjectRef, Store},
    },
};
use stoker_crds::{ModelDeployment, ModelTraining, Progress, serving::ServerStats};

use crate::{
    apply::FIELD_MANAGER,
    cache::Owned,
    controller::Backoff,
    deployment::Memories,
    events::Inquiries,
    leader::Fence,
    metrics::Metrics,
    pods::PodView,
    poll::Polled,
    settings::Settings,
    status::Written,
    training::{job::JobView, network::GuardedNamespaces},
    watches::Writers,
    workloads::{Children, WorkloadView},
};

/// What every reconcile works with: one per namespace that is watched, or one for the whole cluster.
pub struct Context {
    /// The namespace that is watched; `None` for the whole cluster.
    pub scope: Option<String>,
    /// What the operator was started with.
    pub settings: Arc<Settings>,
    /// The Kubernetes API. Writes go through [`crate::apply`], which heeds the fence.
    pub client: Client,
    /// Says whether this replica still leads.
    pub fence: Fence,
    /// What is counted and timed.
    pub metrics: Arc<Metrics>,
    /// Who writes events.
    pub reporter: Reporter,
    /// Writes warnings, and counts those that are repeated instead of writing them again.
    pub warnings: Recorder,
    /// The time; tests set it.
    pub clock: fn() -> Timestamp,
    /// Every ModelTraining in scope.
    pub trainings: Store<ModelTraining>,
    /// Every ModelDeployment in scope.
    pub deployments: Store<ModelDeployment>,
    /// The Jobs of trainings.
    pub jobs: Arc<Owned<JobView>>,
    /// The pods of trainings and deployments.
    pub pods: Arc<Owned<PodView>>,
    /// The `apps/v1` Deployments of ModelDeployments.
    pub workloads: Arc<Owned<WorkloadView>>,
    /// What else ModelDeployments own.
    pub children: Children,
    /// What is remembered of ModelDeployments between reconciles.
    pub memories: Memories,
    /// The namespaces whose trainers only the operator may reach.
    pub guarded_namespaces: GuardedNamespaces,
    /// How often events are asked for.
    pub inquiries: Inquiries,
    /// What running trainers answered last.
    pub progress: Arc<Polled<Progress>>,
    /// What serving pods answered last.
    pub stats: Arc<Polled<ServerStats>>,
    /// Statuses that were written and may not have come back through the watch yet.
    pub written_trainings: Written<ModelTraining>,
    /// The same for deployments.
    pub written_deployments: Written<ModelDeployment>,
    /// Failures in a row, per object.
    pub backoff: Backoff,
}

/// What the contexts of all scopes share.
#[derive(Clone)]
pub struct Shared {
    /// What the operator was started with.
    pub settings: Arc<Settings>,
    /// The Kubernetes API.
    pub client: Client,
    /// Says whether this replica still leads.
    pub fence: Fence,
    /// What is counted and timed.
    pub metrics: Arc<Metrics>,
}

impl Context {
    /// A context for one namespace, or for the whole cluster, that has seen nothing yet.
    pub fn new(scope: Option<String>, shared: Shared, writers: &Writers) -> Self {
        let Shared { settings, client, fence, metrics } = shared;
        let reporter = Reporter { controller: FIELD_MANAGER.into(), instance: Some(settings.identity.clone()) };
        Self {
            scope,
            settings,
            warnings: Recorder::new(client.clone(), reporter.clone()),
            reporter,
            client,
            fence,
            metrics,
            clock: Timestamp::now,
            trainings: writers.trainings.as_reader(),
            deployments: writers.deployments.as_reader(),
            jobs: Arc::default(),
            // A pod of a suspended run is deleted as soon as it has ended, and says in its last words what it saved.
            pods: Arc::new(Owned::lingering(|pod| pod.last_words.is_some())),
            workloads: Arc::default(),
            children: Children::default(),
            memories: Memories::default(),
            guarded_namespaces: GuardedNamespaces::default(),
            inquiries: Inquiries::default(),
            progress: Arc::default(),
            stats: Arc::default(),
            written_trainings: Written::new(writers.trainings.as_reader()),
            written_deployments: Written::new(writers.deployments.as_reader()),
            backoff: Backoff::default(),
        }
    }

    /// The API of a kind in a namespace.
    pub fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// The API of a kind in everything that is watched.
    pub fn watched<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        match &self.scope {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    /// Waits until the initial list of everything watched is in.
    pub async fn listed(&self) {
        let Children { services, policies, budgets } = &self.children;
        tokio::join!(self.jobs.listed(), self.pods.listed(), self.workloads.listed());
        tokio::join!(services.listed(), policies.listed(), budgets.listed());
        // A store's writer lives as long as the watches.
        let _ = tokio::join!(self.trainings.wait_until_ready(), self.deployments.wait_until_ready());
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// The ModelTraining of that name, as it was seen last, with the status that was written last.
    pub fn training(&self, namespace: &str, name: &str) -> Option<Arc<ModelTraining>> {
        let training = self.trainings.get(&ObjectRef::new(name).within(namespace))?;
        Some(self.written_trainings.newer(training))
    }

    /// Tells a person what happened to an object; `kubectl describe` shows it.
    ///
    /// An event that cannot be written is logged and forgotten: status holds the same.
    pub async fn event<K>(&self, object: &K, type_: EventType, reason: &str, note: &str)
    where
        K: Resource<DynamicType = ()>,
    {
        if self.fence.check().is_err() {
            return;
        }
        let event = Event {
            type_,
            reason: reason.into(),
            note: Some(note.chars().take(1000).collect()),
            action: "Reconcile".into(),
            secondary: None,
        };
        // A recorder keeps each event in memory for minutes, to count it. Only warnings are repeated.
        let recorder = match event.type_ {
            EventType::Warning => self.warnings.clone(),
            EventType::Normal => Recorder::new(self.client.clone(), self.reporter.clone()),
        };
        if let Err(error) = recorder.publish(&event, &object.object_ref(&())).await {
            tracing::warn!(%error, reason, "an event could not be written");
        }
    }
}
