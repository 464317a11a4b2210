//! A namespace that a test has for itself.

use std::{collections::BTreeMap, panic::AssertUnwindSafe};

use futures::FutureExt as _;
use k8s_openapi::api::core::v1;
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, DynamicObject, ListParams, ObjectMeta, PostParams},
    core::NamespaceResourceScope,
};

use crate::{Result, cluster, diagnose, error::ApiContext as _, manifest, wait::Kind};

/// Marks the namespaces of tests.
const LABEL: &str = "stoker.dev/e2e";

/// A namespace that a test has for itself; Pod Security enforces `restricted` in it.
#[derive(Clone)]
pub struct Namespace {
    /// Talks to the API server.
    pub client: Client,
    /// Its name.
    pub name: String,
}

impl Namespace {
    /// A new namespace whose name starts with `e2e-` and `purpose`.
    ///
    /// # Errors
    /// If the API server refuses.
    pub async fn create(client: &Client, purpose: &str) -> Result<Self> {
        let mut labels: BTreeMap<String, String> = serde_json::from_value(cluster::restricted()).unwrap_or_default();
        labels.insert(LABEL.to_owned(), "true".to_owned());
        let metadata = ObjectMeta {
            generate_name: Some(format!("e2e-{purpose}-")),
            labels: Some(labels),
            ..ObjectMeta::default()
        };
        let namespace = v1::Namespace { metadata, ..v1::Namespace::default() };
        let namespaces: Api<v1::Namespace> = Api::all(client.clone());
        let created = namespaces.create(&PostParams::default(), &namespace).await.asked("make a namespace")?;
        Ok(Self { client: client.clone(), name: created.name_any() })
    }

    /// The API of one kind in this namespace.
    pub fn api<K: Kind + kube::Resource<Scope = NamespaceResourceScope>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// Applies an object into this namespace.
    ///
    /// # Errors
    /// If the API server refuses.
    pub async fn apply(&self, object: &DynamicObject) -> Result<DynamicObject> {
        manifest::apply(&self.client, &self.name, object).await
    }

    /// Has it deleted, with all that is in it; does not wait for that.
    ///
    /// # Errors
    /// If the API server refuses.
    pub async fn delete(&self) -> Result<()> {
        delete(&Api::all(self.client.clone()), &self.name).await
    }
}

/// Runs a test in a namespace of its own, which is deleted afterwards. If the test panics, shows what is in there.
///
/// # Panics
/// As the test does, or if the namespace cannot be made or deleted.
#[expect(clippy::expect_used, reason = "called by tests alone")]
pub async fn with_namespace(client: &Client, purpose: &str, test: impl AsyncFnOnce(Namespace)) {
    let namespace = Namespace::create(client, purpose).await.expect("a namespace for the test");
    let outcome = AssertUnwindSafe(test(namespace.clone())).catch_unwind().await;
    if let Err(panic) = outcome {
        eprintln!("{}", diagnose::namespace(client, &namespace.name).await);
        namespace.delete().await.ok();
        std::panic::resume_unwind(panic);
    }
    namespace.delete().await.expect("the test's namespace is deleted");
}

/// Has the namespaces deleted that an interrupted test left behind.
///
/// # Errors
/// If the API server refuses.
pub async fn delete_leftovers(client: &Client) -> Result<()> {
    let namespaces: Api<v1::Namespace> = Api::all(client.clone());
    let left = namespaces.list(&ListParams::default().labels(LABEL)).await.asked("list the namespaces of tests")?;
    for namespace in left {
        delete(&namespaces, &namespace.name_any()).await?;
    }
    Ok(())
}

async fn delete(namespaces: &Api<v1::Namespace>, name: &str) -> Result<()> {
    match namespaces.delete(name, &DeleteParams::default()).await {
        // It is being deleted already, or gone.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        answer => answer.map(drop).asked(format!("delete the namespace {name}")),
    }
}
