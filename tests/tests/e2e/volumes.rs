//! Data and models that lie on volumes instead of in buckets.

use std::os::unix::fs::chown;

use k8s_openapi::api::core::v1::{self, PersistentVolumeClaim};
use kube::{Api, Resource as _};
use serde_json::json;
use stoker_crds::artifact::MANIFEST;
use stoker_e2e::{
    Namespace,
    inference::{numbers, texts},
};
use tempfile::TempDir;

use crate::{
    lines,
    setup::test,
    steps::{deploy, serve, succeeded, train, wait},
};

/// The user and group as which Stoker's pods run.
const NONROOT: u32 = 65532;

/// The folder of a new volume, to which a claim of that name is bound. The node of `tests/cluster` sees this machine's folders
/// as they are, but for those below `/run`, `/var/lib` and `/var/log`.
///
/// The namespace owns the volume, which so is deleted after it, however the test ends.
async fn claimed(namespace: &Namespace, claim: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    // A pod's fsGroup changes nothing in a folder of the node, and one that the node makes is root's.
    chown(folder.path(), Some(NONROOT), Some(NONROOT)).unwrap();
    let namespaces: Api<v1::Namespace> = Api::all(namespace.client.clone());
    let owner = namespaces.get(&namespace.name).await.unwrap().owner_ref(&()).unwrap();
    let (name, modes, size) = (format!("{}-{claim}", namespace.name), ["ReadWriteOnce"], json!({"storage": "64Mi"}));
    let volume = json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "ownerReferences": [owner]},
        "spec": {
            "capacity": size,
            "accessModes": modes,
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"namespace": namespace.name, "name": claim},
            "hostPath": {"path": folder.path(), "type": "Directory"},
        },
    });
    let wanted = json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": claim},
        "spec": {"storageClassName": "", "volumeName": name, "accessModes": modes, "resources": {"requests": size}},
    });
    for object in [volume, wanted] {
        namespace.apply(&serde_json::from_value(object).unwrap()).await.unwrap();
    }
    wait(format!("the claim {claim} to be bound"))
        .until(&namespace.api::<PersistentVolumeClaim>(), claim, |claim| {
            claim.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Bound"))
        })
        .await
        .unwrap();
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn data_is_read_from_one_volume_and_the_model_is_published_on_another_and_served_from_there() {
    test("volumes", async |namespace: Namespace| {
        let (data, models) = (claimed(&namespace, "data").await, claimed(&namespace, "models").await);
        std::fs::write(data.path().join("lines.csv"), lines::csv(lines::ROWS)).unwrap();
        let spec = json!({
            "data": {"source": {"uri": "file:///data/lines.csv", "persistentVolumeClaim": "data"}},
            "storage": {"uri": "file:///storage/trained", "secretName": null, "persistentVolumeClaim": "models"},
        });
        train(&namespace, "lines", &spec).await;
        let uri = succeeded(&namespace, "lines").await.model.unwrap().uri;
        let published = models.path().join(uri.strip_prefix("file:///storage/").unwrap());
        assert!(published.join(MANIFEST).is_file(), "{} is not on the volume of {uri}", published.display());

        deploy(&namespace, "lines", &json!({})).await;
        let served = serve(&namespace, "lines").await;
        let row = [numbers("a", &[1.0]), numbers("b", &[1.0]), texts("color", &["green"])];
        let answer = served.model.infer(&row).await.unwrap();
        assert_eq!(answer.output("y").unwrap().len(), 1);
    })
    .await;
}
