//! What has to stand before the tour can begin, and how it is taken away.

use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, api::DeleteParams};
use stoker_e2e::{
    Error, Result, checkout, cluster,
    error::ApiContext as _,
    release::{self, Images},
    storage::{self, Storage},
    wait::Wait,
};

/// The namespace of the demo's own resources.
pub(crate) const NAMESPACE: &str = "stoker-demo";
/// The example manifests, and the data sets beside them.
pub(crate) const EXAMPLES: &str = "examples";

/// Sets everything up that is not there yet.
pub(crate) async fn build(client: &Client) -> Result<()> {
    say("Installing an S3 server and Stoker");
    for namespace in [release::NAMESPACE, storage::NAMESPACE, NAMESPACE] {
        cluster::ensure_namespace(client, namespace).await?;
    }
    let images = Images::from_env();
    let (released, stored) = tokio::join!(release::install(&images, &[]), Storage::install(client, storage::NAMESPACE));
    released?;
    let storage = stored?;
    storage.share_with(NAMESPACE).await?;
    note(&format!("helm release {}, namespace {}, image {}", release::NAME, release::NAMESPACE, images.operator));

    say("Uploading the example data");
    for key in storage.upload(&checkout::path(EXAMPLES).join("datasets"), storage::DATASETS).await? {
        note(&format!("s3://{}/{key}", storage::DATASETS));
    }
    Ok(())
}

/// Removes everything that [`build`] set up.
pub(crate) async fn remove(client: &Client) -> Result<()> {
    say("Removing the demo");
    // The operator is still there to see its resources go.
    delete_namespace(client, NAMESPACE).await?;
    match release::uninstall().await {
        Err(Error::Command { output, .. }) if output.contains("not found") => {}
        outcome => outcome?,
    }
    delete_namespace(client, release::NAMESPACE).await?;
    delete_namespace(client, storage::NAMESPACE).await?;
    note(
        "gone, but for the definitions of the two kinds, which no uninstall takes away from whoever else has resources of them:",
    );
    note("  kubectl delete crd modeltrainings.stoker.dev modeldeployments.stoker.dev");
    Ok(())
}

async fn delete_namespace(client: &Client, name: &str) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    match namespaces.delete(name, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
        answer => drop(answer.asked(format!("delete the namespace {name}"))?),
    }
    Wait::new(format!("the namespace {name} to be gone"), Duration::from_secs(180)).until_gone(&namespaces, name).await
}

/// A step of the demo begins.
pub(crate) fn say(text: &str) {
    println!("\n\u{1b}[1m{text}\u{1b}[0m");
}

/// A detail of a step.
pub(crate) fn note(text: &str) {
    println!("  {text}");
}
