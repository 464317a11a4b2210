//! How status is written, and what was written remembered until the watch tells it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Resource, ResourceExt,
    api::{PartialObjectMeta, Patch, PatchParams},
};
use serde::Serialize;
use serde_json::Value;

use crate::{
    apply::{Answer, FIELD_MANAGER},
    context::Context,
    error::{Error, Result},
    lean::ReadLean,
};

/// Objects as they were after our last write of their status, while the watch still shows them older.
///
/// Without it, a reconcile right after a write would start from the status before it, and write that again.
#[derive(Debug)]
pub struct Written<K> {
    by_uid: Mutex<HashMap<String, Arc<K>>>,
}

impl<K> Default for Written<K> {
    fn default() -> Self {
        Self { by_uid: Mutex::default() }
    }
}

impl<K: ResourceExt> Written<K> {
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

    fn remember(&self, object: K) {
        let Some(uid) = object.meta().uid.clone() else { return };
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
pub async fn write<K, S>(context: &Context, written: &Written<K>, object: &K, status: &S) -> Result<()>
where
    K: ReadLean,
    S: Serialize,
{
    // The UID keeps the status from a newer object of the same name.
    let identity = ObjectMeta { resource_version: None, ..identity_of(object.meta()) };
    let status =
        serde_json::to_value(status).map_err(|source| Error::Serialize { object: describe::<K>(&identity), source })?;
    if let Some(after) = applied::<K, K::Lean>(context, identity, status).await? {
        written.remember(after.into());
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
async fn applied<K, A>(context: &Context, identity: ObjectMeta, status: Value) -> Result<Option<A>>
where
    K: Resource<DynamicType = ()>,
    A: Answer,
{
    context.fence.check()?;
    let describe = || describe::<K>(&identity);
    let name = identity.name.clone().unwrap_or_default();
    let namespace = identity.namespace.clone().ok_or_else(|| Error::Incomplete(describe(), "namespace"))?;
    let patch = serde_json::json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": identity,
        "status": without_empty(status),
    });
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    match context.api::<A>(&namespace).patch_status(&name, &parameters, &Patch::Apply(&patch)).await {
        Ok(after) => Ok(Some(after)),
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(None),
        Err(error) => Err(Error::api("write", describe(), error)),
    }
}

/// Leaves out fields that are empty objects. Server-side apply makes null of an object all of whose fields it has to
/// remove, and no schema of ours takes a null there.
fn without_empty(value: Value) -> Value {
    let Value::Object(fields) = value else { return value };
    let fields = fields.into_iter().map(|(name, value)| (name, without_empty(value)));
    fields.filter(|(_, value)| value.as_object().is_none_or(|object| !object.is_empty())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_empty_object_is_left_out_and_with_it_what_holds_nothing_else() {
        let status = json!({"a": {}, "b": {"c": {"d": {}}}, "e": {"f": {}, "g": 0}, "list": [], "text": ""});
        assert_eq!(without_empty(status), json!({"e": {"g": 0}, "list": [], "text": ""}));
    }
}
