//! How the operator changes the cluster: the only module that writes objects other than status.

use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    core::{NamespaceResourceScope, Request},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::fmt::Debug;

use crate::{
    context::Context,
    error::{Error, Result},
};

/// The one field manager of everything that the operator writes.
pub const FIELD_MANAGER: &str = "stoker-operator";

/// What can be written: a namespaced kind of the API.
pub trait Object: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Debug + Serialize {}

impl<K> Object for K where K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Debug + Serialize {}

/// As what an answer is read: all of an object, or the part of it that is asked for, such as [`crate::lean::Job`].
pub trait Answer:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned
{
}

impl<K> Answer for K where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned
{
}

/// Makes an owned object what it should be (server-side apply), and returns it as it then is.
///
/// The object must name its owner. Fields that others have set since on an object of ours are taken back; an object
/// that is not ours is left alone.
///
/// # Errors
/// [`Error::NameConflict`] if an object of the name belongs to somebody else; [`Error::Api`] if it is refused.
pub async fn apply<A: Answer>(context: &Context, object: &impl Object) -> Result<A> {
    context.fence.check()?;
    let api = context.api::<A>(&namespace_of(object)?);
    let patch = Patch::Apply(object);
    let gentle = PatchParams::apply(FIELD_MANAGER);
    match api.patch(&object.name_any(), &gentle, &patch).await {
        Ok(applied) => Ok(applied),
        // Somebody else holds a field, or the object is of another make: only on our own object may we insist.
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_invalid() => {
            expect_owned(&api, object, "apply", status).await?;
            let applied = api.patch(&object.name_any(), &gentle.force(), &patch).await;
            applied.map_err(|error| Error::api("apply", describe(object), error))
        }
        Err(error) => Err(Error::api("apply", describe(object), error)),
    }
}

/// Creates an owned object that never changes, and returns it; one that is there already and ours is left as it is.
///
/// # Errors
/// [`Error::NameConflict`] if an object of the name belongs to somebody else; [`Error::Api`] if it is refused.
pub async fn create<A: Answer, K: Object>(context: &Context, object: &K) -> Result<A> {
    context.fence.check()?;
    let namespace = namespace_of(object)?;
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
    let body = serde_json::to_vec(object).map_err(|source| Error::Serialize { object: describe(object), source })?;
    let request = Request::new(K::url_path(&(), Some(&namespace))).create(&parameters, body);
    let request = request.map_err(|error| Error::api("create", describe(object), kube::Error::BuildRequest(error)))?;
    match context.client.request(request).await {
        Ok(created) => Ok(created),
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            expect_owned(&context.api(&namespace), object, "create", status).await
        }
        Err(error) => Err(Error::api("create", describe(object), error)),
    }
}

/// Changes some fields of an object of ours (a merge patch), and returns it as it then is.
///
/// # Errors
/// [`Error::Api`] if it is refused.
pub async fn patch<A: Answer>(context: &Context, namespace: &str, name: &str, fields: &Value) -> Result<A> {
    context.fence.check()?;
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    let patched = context.api::<A>(namespace).patch(name, &parameters, &Patch::Merge(fields)).await;
    patched.map_err(|error| Error::api("change", format!("{} {name}", A::kind(&())), error))
}

/// Deletes an object of ours and what it owns; one that is gone already is as good.
///
/// # Errors
/// [`Error::Api`] if it is refused.
pub async fn delete<K: Answer>(context: &Context, namespace: &str, name: &str) -> Result<()> {
    delete_if::<K>(context, namespace, name, None).await?;
    Ok(())
}

/// Deletes an object and what it owns, unless it has changed since it was read, or is another one of its name; returns whether it
/// is gone.
///
/// # Errors
/// [`Error::Api`] if it is refused.
pub async fn delete_unchanged<K: Answer + Object>(context: &Context, object: &K) -> Result<bool> {
    let unchanged = Preconditions { uid: object.uid(), resource_version: object.resource_version() };
    delete_if::<K>(context, &namespace_of(object)?, &object.name_any(), Some(unchanged)).await
}

/// Deletes an object that is as it has to be for that, and returns whether it is gone.
async fn delete_if<K: Answer>(
    context: &Context,
    namespace: &str,
    name: &str,
    preconditions: Option<Preconditions>,
) -> Result<bool> {
    context.fence.check()?;
    let has_conditions = preconditions.is_some();
    let parameters = DeleteParams { preconditions, ..DeleteParams::background() };
    match context.api::<K>(namespace).delete(name, &parameters).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(true),
        Err(kube::Error::Api(status)) if has_conditions && status.is_conflict() => Ok(false),
        Err(error) => Err(Error::api("delete", format!("{} {name}", K::kind(&())), error)),
    }
}

/// The existing object of the name, if it has the owner that `object` names.
async fn expect_owned<A: Answer, K: Object>(
    api: &Api<A>,
    object: &K,
    verb: &'static str,
    refusal: Box<kube::core::Status>,
) -> Result<A> {
    let existing = api.get_opt(&object.name_any()).await;
    match existing.map_err(|error| Error::api("read", describe(object), error))? {
        Some(existing) if controller_uid(&existing) == controller_uid(object) => Ok(existing),
        Some(_) => Err(Error::NameConflict { kind: K::kind(&()).into(), name: object.name_any() }),
        // Refused for what it is, or deleted meanwhile.
        None => Err(Error::api(verb, describe(object), kube::Error::Api(refusal))),
    }
}

fn controller_uid(object: &impl Resource) -> Option<&str> {
    let owners = object.owner_references();
    owners.iter().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.as_str())
}

fn namespace_of(object: &impl Object) -> Result<String> {
    object.namespace().ok_or_else(|| Error::Incomplete(describe(object), "namespace"))
}

fn describe<K: Object>(object: &K) -> String {
    format!("{} {}", K::kind(&()), object.name_any())
}
