//! How status is written, and what was written remembered until the watch tells it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Resource, ResourceExt,
    api::{PartialObjectMeta, Patch, PatchParams},
    runtime::reflector::{ObjectRef, Store},
};
use serde_json::Value;

use crate::{
    apply::{Answer, FIELD_MANAGER},
    context::Context,
    error::{Error, Result},
    lean::ReadLean,
    unreadable::{Watched, read},
};

/// Objects as they were after our last write of their status, while the watch still shows them older.
///
/// Without it, a reconcile right after a write would start from the status before it, and write that again.
pub struct Written<K: Resource<DynamicType = ()> + Clone + 'static> {
    watched: Store<K>,
    by_uid: Mutex<HashMap<String, Arc<K>>>,
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> Written<K> {
    /// Nothing is written yet; `watched` is what the watch shows.
    pub fn new(watched: Store<K>) -> Self {
        Self { watched, by_uid: Mutex::default() }
    }

    /// What the watch shows.
    pub const fn watched(&self) -> &Store<K> {
        &self.watched
    }

    /// The newer one of what a watch shows and what was written.
    pub fn newer(&self, watched: Arc<K>) -> Arc<K> {
        let by_uid = self.by_uid.lock().unwrap_or_else(PoisonError::into_inner);
        let written = watched.meta().uid.as_ref().and_then(|uid| by_uid.get(uid));
        match written {
            Some(written) if version(written.as_ref()) > version(watched.as_ref()) => written.clone(),
            _ => watched,
        }
    }

    /// Forgets an object that is gone.
    pub fn forget(&self, uid: &str) {
        self.by_uid.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    /// Forgets what was written once the watch shows it or something newer.
    pub fn seen(&self, watched: &K) {
        let Some(uid) = &watched.meta().uid else { return };
        let mut by_uid = self.by_uid.lock().unwrap_or_else(PoisonError::into_inner);
        if by_uid.get(uid).is_some_and(|written| version(written.as_ref()) <= version(watched)) {
            by_uid.remove(uid);
        }
    }

    /// The object as it was written, if that is the state of this metadata, and forgets it.
    pub fn take(&self, watched: &ObjectMeta) -> Option<Arc<K>> {
        let uid = watched.uid.as_ref()?;
        let mut by_uid = self.by_uid.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = by_uid.get(uid)?.meta().resource_version == watched.resource_version;
        if is_it { by_uid.remove(uid) } else { None }
    }

    /// Takes note of an object, unless the watch was faster.
    fn remember(&self, object: K) {
        let Some(uid) = object.meta().uid.clone() else { return };
        let watched = self.watched.get(&ObjectRef::from_obj(&object));
        if watched.is_none_or(|watched| version(watched.as_ref()) >= version(&object)) {
            return;
        }
        self.by_uid.lock().unwrap_or_else(PoisonError::into_inner).insert(uid, Arc::new(object));
    }
}

/// The order of an object's states. Kubernetes documents resource versions as numbers that only grow; an object
/// without one counts as older than any.
fn version(object: &impl ResourceExt) -> u64 {
    object.meta().resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

/// Writes the status of an object, whole; the caller has seen that it differs from what is there.
///
/// # Errors
/// [`Error::Api`] if it is refused; an object that is gone meanwhile needs no status.
pub async fn write<K: ReadLean>(context: &Context, written: &Written<K>, object: &K, status: &K::Status) -> Result<()> {
    // The UID keeps the status from a newer object of the same name.
    let identity = ObjectMeta { resource_version: None, ..identity_of(object.meta()) };
    let value =
        serde_json::to_value(status).map_err(|source| Error::Serialize { object: describe::<K>(&identity), source })?;
    let Some(after) = applied::<K, Watched<K>>(context, identity, value).await? else { return Ok(()) };
    if after.metadata.generation == object.meta().generation {
        written.remember(K::of(after.metadata, object.spec().clone(), Some(status.clone())));
    } else if let Ok(after) = read(after) {
        // Somebody has changed the spec meanwhile.
        written.remember(after);
    }
    Ok(())
}

/// Writes the status of an object of that metadata, whole, unless the object has changed since it was read: then the watch tells
/// of what it has become.
///
/// # Errors
/// [`Error::Api`] if it is refused.
pub async fn write_unchanged<K: ReadLean>(context: &Context, read: &ObjectMeta, status: Value) -> Result<()> {
    applied::<K, PartialObjectMeta<K>>(context, identity_of(read), status).await.map(drop)
}

/// What tells an object from all others, and from what it was and will be.
fn identity_of(meta: &ObjectMeta) -> ObjectMeta {
    let ObjectMeta { name, namespace, uid, resource_version, .. } = meta;
    ObjectMeta {
        name: name.clone(),
        namespace: namespace.clone(),
        uid: uid.clone(),
        resource_version: resource_version.clone(),
        ..ObjectMeta::default()
    }
}

fn describe<K: Resource<DynamicType = ()>>(identity: &ObjectMeta) -> String {
    format!("the status of {} {}", K::kind(&()), identity.name.as_deref().unwrap_or_default())
}

/// Applies a status, and returns the answer: none if there is no object any more that is as `identity` says.
async fn applied<K, A>(context: &Context, identity: ObjectMeta, mut status: Value) -> Result<Option<A>>
where
    K: Resource<DynamicType = ()>,
    A: Answer,
{
    context.fence.check()?;
    let describe = || describe::<K>(&identity);
    let name = identity.name.clone().unwrap_or_default();
    let namespace = identity.namespace.clone().ok_or_else(|| Error::Incomplete(describe(), "namespace"))?;
    remove_empty(&mut status);
    let patch = serde_json::json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": identity,
        "status": status,
    });
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    match context.api::<A>(&namespace).patch_status(&name, &parameters, &Patch::Apply(&patch)).await {
        Ok(after) => Ok(Some(after)),
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(None),
        Err(error) => Err(Error::api("write", describe(), error)),
    }
}

/// Removes fields that are empty objects. Server-side apply makes null of an object all of whose fields it has to
/// remove, and no schema of ours takes a null there.
fn remove_empty(value: &mut Value) {
    let Value::Object(fields) = value else { return };
    fields.values_mut().for_each(remove_empty);
    fields.retain(|_, value| value.as_object().is_none_or(|object| !object.is_empty()));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use kube::runtime::{reflector::store::Writer, watcher::Event};
    use stoker_crds::{ModelTraining, ModelTrainingStatus, training::status::Phase};

    use super::*;
    use crate::{
        testing::{ApiServer, Step},
        training::fixtures,
    };

    const PATH: &str = "/apis/stoker.dev/v1alpha1/namespaces/team/modeltrainings/digits/status";

    fn pending() -> ModelTrainingStatus {
        ModelTrainingStatus { run: 1, phase: Some(Phase::Pending), ..ModelTrainingStatus::default() }
    }

    /// What is known of a training after a write of its status, which is answered by `answer`.
    async fn known_after(training: &ModelTraining, answer: &ModelTraining) -> Arc<ModelTraining> {
        let server = ApiServer::expecting([Step::written("PATCH", PATH, json!(answer))]);
        let (context, mut writers) = server.context();
        writers.trainings.apply_watcher_event(&Event::Apply(training.clone()));
        write(&context, &context.written_trainings, training, &pending()).await.unwrap();
        let known = context.written_trainings.newer(Arc::new(training.clone()));
        drop(context);
        server.requests().await;
        known
    }

    #[tokio::test]
    async fn what_was_written_is_known_and_so_is_a_spec_that_somebody_changed_meanwhile() {
        let training = fixtures::training();
        let mut answer = ModelTraining { status: Some(pending()), ..training.clone() };
        answer.metadata.resource_version = Some("11".into());
        assert_eq!(*known_after(&training, &answer).await, answer);
        answer.metadata.generation = answer.metadata.generation.map(|generation| generation + 1);
        answer.spec.train.seed += 1;
        assert_eq!(*known_after(&training, &answer).await, answer);
    }

    #[test]
    fn what_was_written_is_taken_once_when_the_watch_shows_it_and_not_when_it_shows_another_state() {
        let mut writer = Writer::new(());
        let (written, watched) = (Written::new(writer.as_reader()), fixtures::training());
        let mut later = watched.clone();
        later.metadata.resource_version = Some("11".into());
        written.remember(later.clone());
        assert_eq!(written.take(&later.metadata), None, "what is gone is not kept");
        writer.apply_watcher_event(&Event::Apply(watched.clone()));
        written.remember(later.clone());
        assert_eq!(written.take(&watched.metadata), None);
        assert_eq!(written.take(&later.metadata).as_deref(), Some(&later));
        assert_eq!(written.take(&later.metadata), None);
        writer.apply_watcher_event(&Event::Apply(later.clone()));
        written.remember(later.clone());
        assert_eq!(written.take(&later.metadata), None, "what the watch has shown is not kept");
    }

    #[test]
    fn an_empty_object_is_left_out_and_with_it_what_holds_nothing_else() {
        let mut status = json!({"a": {}, "b": {"c": {"d": {}}}, "e": {"f": {}, "g": 0}, "list": [], "text": ""});
        remove_empty(&mut status);
        assert_eq!(status, json!({"e": {"g": 0}, "list": [], "text": ""}));
    }
}
