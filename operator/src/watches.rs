//! What the operator watches, and whose reconcile each change calls for.

use std::{
    collections::{HashMap, HashSet, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    pin::pin,
    sync::Arc,
};

use futures::{
    Stream, StreamExt, TryStreamExt,
    channel::mpsc,
    future::{self, BoxFuture},
    stream,
};
use k8s_openapi::api::{core::v1::Service, networking::v1::NetworkPolicy, policy::v1::PodDisruptionBudget};
use kube::{
    Api, Resource, ResourceExt,
    core::NamespaceResourceScope,
    runtime::{
        WatchStreamExt,
        reflector::{Store, store::Writer},
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use stoker_crds::{ModelDeployment, ModelTraining, deployment::ModelSource};

use crate::{
    bell::Bell,
    cache::Owned,
    context::Context,
    dependents::Dependents,
    labels::{self, Owner, RESTART_ANNOTATION},
    lean::{Deployment, Job, Meta, Pod, ReadLean},
    status::Written,
    training::{self, base},
    unreadable::{self, Watched, readable},
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

/// The watches of everything in scope, which never end.
pub fn all(context: &Arc<Context>, writers: Writers, bell: &Bell) -> Vec<BoxFuture<'static, ()>> {
    let (children, dependents) = (&context.children, Arc::new(Dependents::default()));
    let (in_policies, on_policy) = (context.clone(), bell.clone());
    let mut listed = HashSet::new();
    let policies = metadata::<NetworkPolicy>(context).inspect_ok(move |event| {
        for namespace in in_policies.guarded_namespaces.unguarded(event, &mut listed) {
            running_in(&in_policies, &namespace).for_each(|training| on_policy.ring(training));
        }
    });
    let (of_trainings, refused_trainings) = resources(context, |context| &context.written_trainings);
    let (of_deployments, refused_deployments) = resources(context, |context| &context.written_deployments);
    let trainings =
        trainings(context.clone(), reflected(of_trainings, writers.trainings), dependents.clone(), bell.clone());
    let deployments =
        deployments(context.clone(), reflected(of_deployments, writers.deployments), dependents, bell.clone());
    vec![
        Box::pin(trainings),
        Box::pin(deployments),
        refused_trainings,
        refused_deployments,
        Box::pin(ring(of_unfinished(context, owned::<Job, _>(context, &context.jobs)), bell.clone())),
        Box::pin(ring(of_unfinished(context, owned::<Pod, _>(context, &context.pods)), bell.clone())),
        Box::pin(ring(owned::<Deployment, _>(context, &context.workloads), bell.clone())),
        Box::pin(ring(children.services.clone().follow(metadata::<Service>(context), of_child), bell.clone())),
        Box::pin(ring(
            children.budgets.clone().follow(metadata::<PodDisruptionBudget>(context), of_child),
            bell.clone(),
        )),
        Box::pin(ring(children.policies.clone().follow(policies, of_child), bell.clone())),
    ]
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
fn metadata<K>(context: &Context) -> impl Stream<Item = watcher::Result<Event<Meta<K>>>> + Send + use<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + Send + 'static,
{
    events(context.watched::<Meta<K>>(), watcher::Config::default().labels(&labels::managed()))
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

/// Without those that are of a finished run: nothing more becomes of it, whatever becomes of its Job and pods.
fn of_unfinished<S: Stream<Item = watcher::Result<Owner>> + Send>(
    context: &Arc<Context>,
    changed: S,
) -> impl Stream<Item = watcher::Result<Owner>> + Send + use<S> {
    let context = context.clone();
    changed.try_filter(move |owner| future::ready(!is_finished(&context, owner)))
}

async fn ring(changed: impl Stream<Item = watcher::Result<Owner>> + Send, bell: Bell) {
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

/// The changes of a kind of ours, for its store, and what says of those objects that cannot be read that they cannot.
pub(crate) fn resources<K: ReadLean>(
    context: &Arc<Context>,
    written: fn(&Context) -> &Written<K>,
) -> (impl Stream<Item = watcher::Result<Event<K>>> + Send + use<K>, BoxFuture<'static, ()>) {
    let (in_context, (refuse, refused)) = (context.clone(), mpsc::unbounded());
    let changes = events(context.watched::<Watched<K>>(), watcher::Config::default())
        .try_filter_map(move |event| future::ready(Ok(readable(event, written(&in_context), &refuse))));
    let say: BoxFuture<'static, ()> = Box::pin(unreadable::say::<K>(context.clone(), refused));
    (changes, say)
}

async fn trainings(
    context: Arc<Context>,
    watch: impl Stream<Item = watcher::Result<Seen<ModelTraining>>> + Send,
    dependents: Arc<Dependents>,
    bell: Bell,
) {
    let (mut specs, mut models, mut watch) = (Changes::default(), Changes::default(), pin!(watch));
    while let Some(seen) = watch.next().await {
        let Some(Seen { object: training, is_gone }) = told(seen) else { continue };
        let uid = training.uid().unwrap_or_default();
        let (namespace, owner) = (training.namespace().unwrap_or_default(), training_of(&training));
        context.written_trainings.seen(&training);
        if is_gone {
            context.written_trainings.forget(&uid);
            context.backoff.reset(&uid);
        }
        let base = base::of(&training).filter(|_| !is_gone);
        dependents.note(owner.clone(), base.map(|base| Owner::training(namespace, &base.name)));
        let versions =
            training.status.as_ref().map(|status| status.versions.iter().map(|v| &v.digest).collect::<Vec<_>>());
        if models.differs(&uid, is_gone, &versions) {
            let all = dependents.of(&owner).into_iter();
            all.filter(|dependent| !is_finished(&context, dependent)).for_each(|dependent| bell.ring(dependent));
        }
        if specs.differs(&uid, is_gone, &wish(&training)) && !is_gone {
            bell.ring(owner);
        }
    }
}

/// What a user may want of a ModelTraining: status is not of it.
fn wish(training: &ModelTraining) -> impl Hash + use<> {
    let meta = &training.metadata;
    (meta.generation, meta.annotations.as_ref().and_then(|all| all.get(RESTART_ANNOTATION).cloned()))
}

fn training_of(training: &ModelTraining) -> Owner {
    Owner::training(training.namespace().unwrap_or_default(), training.name_any())
}

fn has_finished(training: &ModelTraining) -> bool {
    training.status.as_ref().is_some_and(training::is_finished)
}

/// Whether it is a ModelTraining that has finished.
fn is_finished(context: &Context, owner: &Owner) -> bool {
    let Owner::Training { namespace, name } = owner else { return false };
    context.training(namespace, name).is_some_and(|training| has_finished(&training))
}

/// The ModelTrainings of a namespace that have not finished.
fn running_in(context: &Context, namespace: &str) -> impl Iterator<Item = Owner> + use<> {
    let namespace = namespace.to_owned();
    let is_in = move |training: &Arc<ModelTraining>| training.metadata.namespace.as_ref() == Some(&namespace);
    let running = context.trainings.state().into_iter().filter(|training| !has_finished(training));
    running.filter(is_in).map(|training| training_of(&training))
}

async fn deployments(
    context: Arc<Context>,
    watch: impl Stream<Item = watcher::Result<Seen<ModelDeployment>>> + Send,
    dependents: Arc<Dependents>,
    bell: Bell,
) {
    let (mut specs, mut watch) = (Changes::default(), pin!(watch));
    while let Some(seen) = watch.next().await {
        let Some(Seen { object: deployment, is_gone }) = told(seen) else { continue };
        let uid = deployment.uid().unwrap_or_default();
        let namespace = deployment.namespace().unwrap_or_default();
        let owner = Owner::deployment(&namespace, deployment.name_any());
        let named = match &deployment.spec.model {
            ModelSource::Training(source) => Some(Owner::training(namespace, &source.name)),
            _ => None,
        };
        context.written_deployments.seen(&deployment);
        dependents.note(owner.clone(), named.clone().filter(|_| !is_gone));
        if is_gone {
            context.written_deployments.forget(&uid);
            context.backoff.reset(&uid);
            context.memories.forget(&uid);
            // What it named may have waited for its end.
            named.into_iter().for_each(|training| bell.ring(training));
        }
        if specs.differs(&uid, is_gone, &deployment.metadata.generation) && !is_gone {
            bell.ring(owner);
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
    use kube::runtime::reflector::ObjectRef;
    use stoker_crds::{deployment::Version, training::status::Phase};

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

    /// The trainings that events call for, in their order, each once.
    async fn called(events: Vec<Event<ModelTraining>>) -> Vec<(String, String)> {
        let server = ApiServer::expecting([]);
        let (context, writers) = server.context();
        let (bell, mut triggers) = Bell::new();
        let watch = reflected(stream::iter(events.into_iter().map(Ok)), writers.trainings);
        trainings(Arc::new(context), watch, Arc::default(), bell).await;
        let mut called = Vec::new();
        while let Some(training) = triggers.trainings.next().await {
            called.push((training.namespace.unwrap_or_default(), training.name));
        }
        server.requests().await;
        called
    }

    #[tokio::test]
    async fn what_is_published_calls_for_the_trainings_that_wait_to_start_from_it() {
        let mut finished = fixtures::fine_tuning(Version::Latest);
        (finished.metadata.name, finished.metadata.uid) = (Some("finished".into()), Some("uid-of-finished".into()));
        finished.status =
            Some(stoker_crds::ModelTrainingStatus { phase: Some(Phase::Succeeded), ..Default::default() });
        let (waiting, mut elsewhere) = (fixtures::fine_tuning(Version::Latest), fixtures::fine_tuning(Version::Latest));
        (elsewhere.metadata.namespace, elsewhere.metadata.uid) = (Some("another".into()), Some("uid-elsewhere".into()));
        let (waits, base) = (waiting.name_any(), fixtures::base(&[1]).name_any());
        let there = [waiting, finished, elsewhere, training("unrelated")].map(Event::Apply);
        let published = [fixtures::base(&[]), fixtures::base(&[1])].map(Event::Apply);
        let called = called(there.into_iter().chain(published).collect()).await;
        let expected = [("team", &*waits), ("team", "finished"), ("another", &*waits), ("team", "unrelated")];
        // The base itself is new; each change of what it has published calls for the one that waits.
        let expected = expected.into_iter().chain([("team", &*waits), ("team", &*base), ("team", &*waits)]);
        assert_eq!(
            called,
            expected.map(|(namespace, name)| (namespace.to_owned(), name.to_owned())).collect::<Vec<_>>()
        );
    }

    #[tokio::test]
    async fn what_becomes_of_the_job_and_pods_of_a_finished_run_calls_for_nothing() {
        let server = ApiServer::expecting([]);
        let (context, mut writers) = server.context();
        for (name, phase) in [("running", Phase::Training), ("succeeded", Phase::Succeeded), ("failed", Phase::Failed)]
        {
            let status = stoker_crds::ModelTrainingStatus { phase: Some(phase), ..Default::default() };
            writers
                .trainings
                .apply_watcher_event(&Event::Apply(ModelTraining { status: Some(status), ..training(name) }));
        }
        let owners = ["running", "succeeded", "failed", "unknown"].map(|name| Owner::training("team", name));
        let changed = stream::iter(owners.clone().into_iter().chain([Owner::deployment("team", "failed")]).map(Ok));
        let called: Vec<Owner> = of_unfinished(&Arc::new(context), changed).try_collect().await.unwrap();
        let [running, .., unknown] = owners;
        assert_eq!(called, [running, unknown, Owner::deployment("team", "failed")]);
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
