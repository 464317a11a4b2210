//! What the operator watches, and whose reconcile each change calls for.

use std::{
    collections::{HashMap, HashSet, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    sync::Arc,
};

use futures::{
    Stream, StreamExt, TryStreamExt,
    channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded},
    future::{BoxFuture, join_all},
    stream,
};
use k8s_openapi::api::{core::v1::Service, networking::v1::NetworkPolicy, policy::v1::PodDisruptionBudget};
use kube::{
    Api, Resource, ResourceExt,
    core::{NamespaceResourceScope, PartialObjectMeta},
    runtime::{
        WatchStreamExt,
        reflector::{ObjectRef, Store, store::Writer},
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use stoker_crds::{ModelDeployment, ModelTraining, deployment::ModelSource, training::status::Phase};

use crate::{
    cache::Owned,
    context::Context,
    labels::{self, Owner, RESTART_ANNOTATION},
    lean::{Deployment, Job, Pod, ReadLean},
    training::base,
};

/// How many objects a page of an initial list holds: few, since a page is in memory as a whole.
const PAGE: u32 = 100;

/// The writing ends of the stores of both kinds.
pub struct Writers {
    /// Of ModelTrainings.
    pub trainings: Writer<ModelTraining>,
    /// Of ModelDeployments.
    pub deployments: Writer<ModelDeployment>,
}

impl Default for Writers {
    fn default() -> Self {
        Self { trainings: Writer::new(()), deployments: Writer::new(()) }
    }
}

/// The objects that are to be reconciled, in the order of what happened.
pub struct Triggers {
    /// ModelTrainings.
    pub trainings: UnboundedReceiver<ObjectRef<ModelTraining>>,
    /// ModelDeployments.
    pub deployments: UnboundedReceiver<ObjectRef<ModelDeployment>>,
}

/// Where changes are told.
#[derive(Clone, Debug)]
pub struct Bell {
    trainings: UnboundedSender<ObjectRef<ModelTraining>>,
    deployments: UnboundedSender<ObjectRef<ModelDeployment>>,
}

impl Bell {
    /// A bell, and what it rings.
    pub fn new() -> (Self, Triggers) {
        let ((trainings, training_refs), (deployments, deployment_refs)) = (unbounded(), unbounded());
        (Self { trainings, deployments }, Triggers { trainings: training_refs, deployments: deployment_refs })
    }

    /// Calls for the reconcile of a resource.
    pub fn ring(&self, owner: Owner) {
        // Nobody listens any more only when the controllers have ended.
        let _ = match owner {
            Owner::Training { namespace, name } => {
                self.trainings.unbounded_send(ObjectRef::new(&name).within(&namespace)).is_ok()
            }
            Owner::Deployment { namespace, name } => {
                self.deployments.unbounded_send(ObjectRef::new(&name).within(&namespace)).is_ok()
            }
        };
    }
}

/// Watches everything in scope, for ever.
pub async fn run(context: Arc<Context>, writers: Writers, bell: Bell) {
    let children = &context.children;
    let policies = metadata::<NetworkPolicy>(&context).inspect_ok(|event| {
        let Event::Delete(policy) = event else { return };
        if let Some(namespace) = context.guarded_namespaces.deleted(&policy.metadata) {
            running_in(&context, &namespace).for_each(|training| bell.ring(training));
        }
    });
    let watches: Vec<BoxFuture<'_, ()>> = vec![
        Box::pin(trainings(&context, writers.trainings, &bell)),
        Box::pin(deployments(&context, writers.deployments, &bell)),
        Box::pin(ring(owned::<Job, _>(&context, &context.jobs), &bell)),
        Box::pin(ring(owned::<Pod, _>(&context, &context.pods), &bell)),
        Box::pin(ring(owned::<Deployment, _>(&context, &context.workloads), &bell)),
        Box::pin(ring(children.services.clone().follow(metadata::<Service>(&context), of_child), &bell)),
        Box::pin(ring(children.budgets.clone().follow(metadata::<PodDisruptionBudget>(&context), of_child), &bell)),
        Box::pin(ring(children.policies.clone().follow(policies, of_child), &bell)),
    ];
    join_all(watches).await;
}

fn of_child<K: Resource>(object: K) -> crate::workloads::ChildView {
    crate::workloads::ChildView::of(&object)
}

/// The changes of a kind.
fn events<K>(api: Api<K>, config: watcher::Config) -> impl Stream<Item = watcher::Result<Event<K>>> + Send
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    watcher(api, config.page_size(PAGE)).default_backoff()
}

/// The changes of the metadata of a kind of which Stoker owns objects.
fn metadata<K>(context: &Context) -> impl Stream<Item = watcher::Result<Event<PartialObjectMeta<K>>>> + Send + use<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + Send + 'static,
{
    events(context.watched::<PartialObjectMeta<K>>(), watcher::Config::default().labels(&labels::managed()))
}

/// Keeps a cache of owned objects up to date, and tells whose have changed.
fn owned<K, V>(
    context: &Context,
    cache: &Arc<Owned<V>>,
) -> impl Stream<Item = watcher::Result<Owner>> + Send + use<K, V>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug
        + Send
        + 'static,
    V: From<K> + PartialEq + Send + Sync + 'static,
{
    let changes = events(context.watched::<K>(), watcher::Config::default().labels(&labels::managed()));
    cache.clone().follow(changes, V::from)
}

async fn ring(changed: impl Stream<Item = watcher::Result<Owner>> + Send, bell: &Bell) {
    changed.for_each(async |owner| told(owner).map_or((), |owner| bell.ring(owner))).await;
}

/// A watch that broke off begins again by itself.
fn told<T>(item: watcher::Result<T>) -> Option<T> {
    item.inspect_err(|error| {
        tracing::warn!(error = error as &dyn std::error::Error, "a watch broke off; it begins again")
    })
    .ok()
}

/// What a watch tells of an object, when the store shows it too.
#[derive(Debug)]
struct Seen<K> {
    object: Arc<K>,
    is_gone: bool,
}

/// Keeps a store up to date, and tells of each object once the store shows it: that of a list comes with the last page.
/// What vanished while the watch was broken off is told of too.
fn reflected<K>(
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send,
    writer: Writer<K>,
) -> impl Stream<Item = watcher::Result<Seen<K>>> + Send
where
    K: Resource<DynamicType = ()> + Clone + Send + Sync + 'static,
{
    let (store, mut before) = (writer.as_reader(), Vec::new());
    let tell = move |event: Event<K>| {
        let seen = match event {
            Event::Init => {
                before = store.state();
                Vec::new()
            }
            Event::InitApply(_) => Vec::new(),
            Event::InitDone => listed(std::mem::take(&mut before), &store),
            Event::Apply(object) => vec![Seen { object: Arc::new(object), is_gone: false }],
            Event::Delete(object) => vec![Seen { object: Arc::new(object), is_gone: true }],
        };
        stream::iter(seen).map(Ok)
    };
    events.reflect(writer).map_ok(tell).try_flatten()
}

/// What a list has come to: what is there no longer, and what is.
fn listed<K: Resource<DynamicType = ()> + Clone + 'static>(before: Vec<Arc<K>>, store: &Store<K>) -> Vec<Seen<K>> {
    let there = store.state();
    let uids: HashSet<Option<String>> = there.iter().map(|object| object.uid()).collect();
    let gone = before.into_iter().filter(|object| !uids.contains(&object.uid()));
    let gone = gone.map(|object| Seen { object, is_gone: true });
    gone.chain(there.iter().map(|object| Seen { object: object.clone(), is_gone: false })).collect()
}

/// The changes of a kind of ours.
fn resources<K>(context: &Context) -> impl Stream<Item = watcher::Result<Event<K>>> + Send + use<K>
where
    K: ReadLean + Send + 'static,
{
    events(context.watched::<K::Lean>(), watcher::Config::default()).map_ok(|event| match event {
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(object.into()),
        Event::InitDone => Event::InitDone,
        Event::Apply(object) => Event::Apply(object.into()),
        Event::Delete(object) => Event::Delete(object.into()),
    })
}

async fn trainings(context: &Context, writer: Writer<ModelTraining>, bell: &Bell) {
    let (mut specs, mut models) = (Changes::default(), Changes::default());
    let mut watch = std::pin::pin!(reflected(resources(context), writer));
    while let Some(seen) = watch.next().await {
        let Some(Seen { object: training, is_gone }) = told(seen) else { continue };
        let uid = training.uid().unwrap_or_default();
        context.written_trainings.seen(&training);
        if is_gone {
            context.written_trainings.forget(&uid);
            context.backoff.reset(&uid);
        }
        let versions =
            training.status.as_ref().map(|status| status.versions.iter().map(|v| &v.digest).collect::<Vec<_>>());
        if models.differs(&uid, is_gone, &versions) {
            deployments_of(context, &training).for_each(|deployment| bell.ring(deployment));
            trainings_from(context, &training).for_each(|waiting| bell.ring(waiting));
        }
        if specs.differs(&uid, is_gone, &wish(&training)) && !is_gone {
            bell.ring(Owner::training(training.namespace().unwrap_or_default(), training.name_any()));
        }
    }
}

/// What a user may want of a ModelTraining: status is not of it.
fn wish(training: &ModelTraining) -> impl Hash + use<> {
    let meta = &training.metadata;
    (meta.generation, meta.annotations.as_ref().and_then(|all| all.get(RESTART_ANNOTATION).cloned()))
}

/// The ModelTrainings of a namespace that have not finished.
fn running_in(context: &Context, namespace: &str) -> impl Iterator<Item = Owner> + use<> {
    let namespace = namespace.to_owned();
    unfinished_in(context, &namespace).map(move |training| Owner::training(namespace.clone(), training.name_any()))
}

/// The ModelTrainings that have not finished, and start from what a ModelTraining publishes.
fn trainings_from(context: &Context, base: &ModelTraining) -> impl Iterator<Item = Owner> + use<> {
    let (namespace, name) = (base.namespace().unwrap_or_default(), base.name_any());
    unfinished_in(context, &namespace).filter_map(move |training| {
        let names_it = base::of(&training).is_some_and(|base| base.name == name);
        names_it.then(|| Owner::training(namespace.clone(), training.name_any()))
    })
}

fn unfinished_in(context: &Context, namespace: &str) -> impl Iterator<Item = Arc<ModelTraining>> + use<> {
    let namespace = namespace.to_owned();
    context.trainings.state().into_iter().filter(move |training| {
        let is_finished = training.status.as_ref().and_then(|status| status.phase).is_some_and(Phase::is_finished);
        training.metadata.namespace.as_ref() == Some(&namespace) && !is_finished
    })
}

/// The ModelDeployments that name a ModelTraining.
fn deployments_of(context: &Context, training: &ModelTraining) -> impl Iterator<Item = Owner> + use<> {
    let (namespace, name) = (training.namespace().unwrap_or_default(), training.name_any());
    context.deployments.state().into_iter().filter_map(move |deployment| {
        let ModelSource::Training(source) = &deployment.spec.model else { return None };
        let names_it = source.name == name && deployment.metadata.namespace.as_ref() == Some(&namespace);
        names_it.then(|| Owner::deployment(namespace.clone(), deployment.name_any()))
    })
}

async fn deployments(context: &Context, writer: Writer<ModelDeployment>, bell: &Bell) {
    let mut specs = Changes::default();
    let mut watch = std::pin::pin!(reflected(resources(context), writer));
    while let Some(seen) = watch.next().await {
        let Some(Seen { object: deployment, is_gone }) = told(seen) else { continue };
        let uid = deployment.uid().unwrap_or_default();
        context.written_deployments.seen(&deployment);
        if is_gone {
            context.written_deployments.forget(&uid);
            context.backoff.reset(&uid);
            context.memories.forget(&uid);
            // What it named may have waited for its end.
            if let ModelSource::Training(source) = &deployment.spec.model {
                bell.ring(Owner::training(deployment.namespace().unwrap_or_default(), &source.name));
            }
        }
        if specs.differs(&uid, is_gone, &deployment.metadata.generation) && !is_gone {
            bell.ring(Owner::deployment(deployment.namespace().unwrap_or_default(), deployment.name_any()));
        }
    }
}

/// Tells changes of one aspect of objects from all others.
#[derive(Debug, Default)]
struct Changes(HashMap<String, u64>);

impl Changes {
    /// Whether the aspect differs from what it was last; an object that is gone differs.
    fn differs(&mut self, uid: &str, is_gone: bool, aspect: &impl Hash) -> bool {
        if is_gone {
            self.0.remove(uid);
            return true;
        }
        let mut hasher = DefaultHasher::new();
        aspect.hash(&mut hasher);
        let hash = hasher.finish();
        self.0.insert(uid.to_owned(), hash) != Some(hash)
    }
}

#[cfg(test)]
mod tests {
    use stoker_crds::deployment::Version;

    use super::*;
    use crate::{testing::ApiServer, training::fixtures};

    fn training(name: &str) -> ModelTraining {
        let mut training = fixtures::training();
        (training.metadata.name, training.metadata.uid) = (Some(name.into()), Some(format!("uid-of-{name}")));
        training
    }

    #[tokio::test]
    async fn a_list_is_told_of_when_the_store_shows_it_and_so_is_what_vanished_meanwhile() {
        let writer = Writer::new(());
        let store: Store<ModelTraining> = writer.as_reader();
        let events = [
            Event::Apply(training("gone")),
            Event::Apply(training("kept")),
            Event::Init,
            Event::InitApply(training("kept")),
            Event::InitApply(training("new")),
            Event::InitDone,
            Event::Delete(training("kept")),
        ];
        let seen = reflected(stream::iter(events.map(Ok)), writer).map_ok(|seen| {
            let is_shown = store.get(&ObjectRef::from_obj(&*seen.object)).is_some();
            assert_eq!(is_shown, !seen.is_gone, "{seen:?}");
            (seen.object.name_any(), seen.is_gone)
        });
        let mut seen: Vec<(String, bool)> = seen.try_collect().await.unwrap();
        // A store has no order.
        seen[3..5].sort_unstable();
        let expected =
            [("gone", false), ("kept", false), ("gone", true), ("kept", false), ("new", false), ("kept", true)];
        assert_eq!(seen, expected.map(|(name, is_gone)| (name.to_owned(), is_gone)));
    }

    #[tokio::test]
    async fn what_is_published_calls_for_the_trainings_that_wait_to_start_from_it() {
        let server = ApiServer::expecting([]);
        let (context, mut writers) = server.context();
        let mut finished = fixtures::fine_tuning(Version::Latest);
        (finished.metadata.name, finished.metadata.uid) = (Some("finished".into()), Some("uid-of-finished".into()));
        finished.status =
            Some(stoker_crds::ModelTrainingStatus { phase: Some(Phase::Succeeded), ..Default::default() });
        let mut elsewhere = fixtures::fine_tuning(Version::Latest);
        elsewhere.metadata.namespace = Some("another".into());
        for training in [fixtures::fine_tuning(Version::Latest), finished, elsewhere, training("unrelated")] {
            writers.trainings.apply_watcher_event(&Event::Apply(training));
        }
        let called: Vec<Owner> = trainings_from(&context, &fixtures::base(&[1])).collect();
        assert_eq!(called, [Owner::training("team", "digits")]);
        drop(context);
        server.requests().await;
    }

    #[test]
    fn only_a_change_of_the_aspect_counts() {
        let mut changes = Changes::default();
        let steps = [(1, true), (1, false), (2, true), (2, false)];
        assert!(steps.iter().all(|(generation, differs)| changes.differs("a", false, generation) == *differs));
        assert!(changes.differs("a", true, &2) && changes.differs("a", false, &2));
    }
}
