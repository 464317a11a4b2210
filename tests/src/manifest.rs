//! Applying manifests as `kubectl apply --server-side` does.

use std::path::Path;

use kube::{
    Api, Client,
    api::{DynamicObject, GroupVersionKind, Patch, PatchParams, TypeMeta, ValidationDirective},
    discovery,
};
use serde_json::Value;

use crate::{Error, Result, error::ApiContext as _};

/// Who the API server says applied what this crate applies.
pub const FIELD_MANAGER: &str = "stoker-e2e";

/// The objects of a YAML text with any number of documents.
///
/// # Errors
/// If the text is no YAML or holds something else than Kubernetes objects.
pub fn parse(file: &str, yaml: &str) -> Result<Vec<DynamicObject>> {
    let error = |message: String| Error::Manifest { file: file.to_owned(), message };
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).map_err(|e| error(e.to_string()))?;
    documents
        .into_iter()
        .filter(|document| !document.is_null())
        .map(|document| serde_json::from_value(document).map_err(|e| error(e.to_string())))
        .collect()
}

/// The objects of a file.
///
/// # Errors
/// If the file cannot be read, or does not hold Kubernetes objects.
pub fn read(path: &Path) -> Result<Vec<DynamicObject>> {
    let yaml = std::fs::read_to_string(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
    parse(&path.display().to_string(), &yaml)
}

/// Applies an object server-side; into `namespace`, if its kind has namespaces and it names none.
///
/// # Errors
/// If the API server does not know the kind, or refuses the object.
pub async fn apply(client: &Client, namespace: &str, object: &DynamicObject) -> Result<DynamicObject> {
    patch(client, namespace, object, false).await
}

/// What the API server would say to [`apply`].
///
/// # Errors
/// If the API server does not know the kind, or would refuse the object.
pub async fn dry_run(client: &Client, namespace: &str, object: &DynamicObject) -> Result<DynamicObject> {
    patch(client, namespace, object, true).await
}

async fn patch(client: &Client, namespace: &str, object: &DynamicObject, dry_run: bool) -> Result<DynamicObject> {
    let (name, what) = describe(object)?;
    let api = api_of(client, namespace, object).await?;
    let params = PatchParams {
        dry_run,
        force: true,
        field_manager: Some(FIELD_MANAGER.to_owned()),
        field_validation: Some(ValidationDirective::Strict),
    };
    api.patch(name, &params, &Patch::Apply(object)).await.asked(format!("apply {what}"))
}

/// Deletes an object, if it is there.
///
/// # Errors
/// If the API server does not know the kind, or refuses.
pub async fn delete(client: &Client, namespace: &str, object: &DynamicObject) -> Result<()> {
    let (name, what) = describe(object)?;
    match api_of(client, namespace, object).await?.delete(name, &Default::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        answer => answer.map(drop).asked(format!("delete {what}")),
    }
}

fn describe(object: &DynamicObject) -> Result<(&str, String)> {
    let types = types_of(object)?;
    let name = object
        .metadata
        .name
        .as_deref()
        .ok_or_else(|| Error::Manifest { file: types.kind.clone(), message: "metadata.name is missing".to_owned() })?;
    Ok((name, format!("{} {name}", types.kind)))
}

fn types_of(object: &DynamicObject) -> Result<&TypeMeta> {
    object.types.as_ref().ok_or_else(|| Error::Manifest {
        file: object.metadata.name.clone().unwrap_or_default(),
        message: "apiVersion and kind are missing".to_owned(),
    })
}

async fn api_of(client: &Client, namespace: &str, object: &DynamicObject) -> Result<Api<DynamicObject>> {
    let types = types_of(object)?;
    let gvk = GroupVersionKind::try_from(types)
        .map_err(|error| Error::Manifest { file: types.kind.clone(), message: error.to_string() })?;
    let (resource, capabilities) = discovery::pinned_kind(client, &gvk)
        .await
        .asked(format!("look up the kind {} of {}", types.kind, types.api_version))?;
    let namespace = object.metadata.namespace.as_deref().unwrap_or(namespace);
    Ok(Api::dynamic(client.clone(), &resource, &capabilities.scope).constrain(namespace))
}

/// Merges `patch` into `target` as RFC 7386 says: objects field by field, a null removes.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    if let Value::Object(object) = target {
        for (name, value) in fields {
            if value.is_null() {
                object.remove(name);
            } else {
                merge(object.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
    }
}
