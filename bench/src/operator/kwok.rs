//! A node that kwok pretends: pods of Jobs succeed on it at once, and leave a report; all others are ready.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client, api::DeleteParams};
use stoker_crds::{
    RunReport,
    artifact::ModelRef,
    metric::{ACCURACY, F1, LOSS, Split},
    progress::DataStats,
    training::{Scheduling, pod::Toleration},
};
use stoker_e2e::{Error, Result, checkout, error::ApiContext as _, manifest, wait::Wait};
use tempfile::TempDir;

use crate::process::Process;

/// The configuration, and the manifest of the node.
const FOLDER: &str = "tests/cluster/kwok";
/// Name of the node.
const NODE: &str = "kwok";
/// What the configuration has in place of the report.
const REPORT: &str = "${REPORT}";

/// The node, and the kwok that keeps it up; kwok ends when this is dropped.
pub(crate) struct FakeNode {
    nodes: Api<Node>,
    kwok: Process,
    folder: TempDir,
}

impl FakeNode {
    /// Starts kwok and waits until its node is ready.
    ///
    /// # Errors
    /// If there is no `kwok` on the PATH or no KUBECONFIG, or the node does not become ready.
    pub(crate) async fn start(client: &Client) -> Result<Self> {
        let folder = tempfile::tempdir().map_err(|source| Error::File { path: std::env::temp_dir(), source })?;
        let config = write_config(folder.path())?;
        let kubeconfig = std::env::var_os("KUBECONFIG")
            .ok_or_else(|| Error::Kubeconfig("KUBECONFIG is not set, and kwok needs it".into()))?;
        let mut command = Command::new("kwok");
        command.arg("--config").arg(config).arg("--kubeconfig").arg(kubeconfig);
        let kwok = Process::start(command, &folder.path().join("kwok.log"))?;
        for node in manifest::read(&checkout::path(FOLDER).join("node.yaml"))? {
            manifest::apply(client, "", &node).await?;
        }
        let fake = Self { nodes: Api::all(client.clone()), kwok, folder };
        let ready =
            Wait::new("the fake node to be ready", Duration::from_secs(60)).until(&fake.nodes, NODE, is_ready).await;
        ready.map_err(|error| fake.kwok.failure(&error.to_string()))?;
        Ok(fake)
    }

    /// Takes the node out of the cluster and ends kwok.
    ///
    /// # Errors
    /// If the API server refuses.
    pub(crate) async fn remove(self) -> Result<()> {
        let Self { nodes, kwok, folder } = self;
        let deleted = nodes.delete(NODE, &DeleteParams::default()).await.asked("delete the fake node");
        drop((kwok, folder));
        deleted.map(drop)
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// What sends pods to the node, and to no other.
pub(crate) fn scheduling() -> Scheduling {
    let toleration =
        Toleration { key: Some("stoker.dev/kwok".into()), operator: Some("Exists".into()), ..Toleration::default() };
    Scheduling {
        node_selector: [("type".to_owned(), "kwok".to_owned())].into(),
        tolerations: vec![toleration],
        priority_class_name: None,
    }
}

fn write_config(folder: &Path) -> Result<PathBuf> {
    let (source, target) = (checkout::path(FOLDER).join("config.yaml"), folder.join("config.yaml"));
    let config = std::fs::read_to_string(&source).map_err(|error| Error::File { path: source, source: error })?;
    let report = report().to_termination_message().map_err(|error| Error::Unexpected(error.to_string()))?;
    let written = std::fs::write(&target, config.replace(REPORT, &report));
    written.map_err(|source| Error::File { path: target.clone(), source })?;
    Ok(target)
}

/// What a trainer of `examples/digits.yaml` leaves behind when it has succeeded.
fn report() -> RunReport {
    let digest = "0123456789abcdef".repeat(4);
    let metrics = |loss| {
        BTreeMap::from([(LOSS, loss), (ACCURACY, 0.97), (F1, 0.97)].map(|(name, value)| (name.to_owned(), value)))
    };
    RunReport {
        run: "1-kwok".into(),
        data: Some(DataStats {
            rows_read: 1797,
            rows_dropped: BTreeMap::new(),
            train: 1437,
            validation: 180,
            test: 180,
            tokens: 0,
            fingerprint: format!("sha256:{digest}"),
        }),
        estimate: None,
        metrics: [(Split::Train, metrics(0.02)), (Split::Validation, metrics(0.1)), (Split::Test, metrics(0.12))]
            .into(),
        epoch: 60,
        total_epochs: 60,
        step: 1380,
        total_steps: 1380,
        model: Some(ModelRef {
            uri: format!("s3://models/bench/digits/models/{digest}"),
            digest: format!("sha256:{digest}"),
            published_at: Timestamp::now().to_string(),
        }),
        checkpoint: None,
        device: None,
        gpu_seconds: 0.0,
        peak_memory_bytes: 64 << 20,
        error: None,
    }
}

#[cfg(test)]
mod tests {
    use stoker_crds::report::MAX_REPORT_BYTES;

    use super::*;

    #[test]
    fn the_report_is_a_line_that_fits_between_single_quotes() {
        let text = report().to_termination_message().unwrap();
        assert!(text.len() < MAX_REPORT_BYTES && !text.contains(['\'', '\n']) && !text.contains("{{"), "{text}");
    }

    #[test]
    fn the_configuration_has_a_place_for_the_report() {
        let folder = tempfile::tempdir().unwrap();
        let config = std::fs::read_to_string(write_config(folder.path()).unwrap()).unwrap();
        assert!(config.contains(r#"message: '{"run":"1-kwok""#) && !config.contains(REPORT));
    }
}
