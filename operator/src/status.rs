//! How status is written, and what was written remembered until the watch tells it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
};
use serde::Serialize;
use serde_json::Value;

use crate::{
    apply::{FIELD_MANAGER, Object},
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
    K: Object + ReadLean,
    S: Serialize,
{
    context.fence.check()?;
    let name = object.name_any();
    let describe = || format!("the status of {} {name}", K::kind(&()));
    let namespace = object.namespace().ok_or_else(|| Error::Incomplete(describe(), "namespace"))?;
    let status = serde_json::to_value(status).map_err(|source| Error::Serialize { object: describe(), source })?;
    let patch = serde_json::json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        // The UID keeps the status from a newer object of the same name.
        "metadata": { "name": name, "uid": object.uid() },
        "status": without_empty(status),
    });
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    match context.api::<K::Lean>(&namespace).patch_status(&name, &parameters, &Patch::Apply(&patch)).await {
        Ok(after) => {
            written.remember(after.into());
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
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
