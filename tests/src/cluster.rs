//! The connection to a cluster.

use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, Config,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{Error, Result, error::ApiContext as _, manifest::FIELD_MANAGER};

/// Connects to the cluster that `kubectl` and `helm` find too: that of `KUBECONFIG`, or of the user's own kubeconfig.
///
/// A client lives and dies with the runtime that it is made on.
///
/// # Errors
/// If there is no kubeconfig, or it cannot be used.
pub async fn connect() -> Result<Client> {
    let error = |error: &dyn std::error::Error| Error::Kubeconfig(error.to_string());
    let config = Config::infer().await.map_err(|e| error(&e))?;
    Client::try_from(config).map_err(|e| error(&e))
}

/// The labels by which Pod Security enforces `restricted` in a namespace.
pub fn restricted() -> Value {
    json!({"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/enforce-version": "latest"})
}

/// Makes sure of a namespace in which Pod Security enforces `restricted`.
///
/// # Errors
/// If the API server refuses.
pub async fn ensure_namespace(client: &Client, name: &str) -> Result<()> {
    let namespace = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": restricted()},
    });
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let params = PatchParams::apply(FIELD_MANAGER).force();
    namespaces.patch(name, &params, &Patch::Apply(namespace)).await.asked(format!("make the namespace {name}"))?;
    Ok(())
}
