//! Stoker's Helm release.

use crate::{Result, checkout, command, error::Error};

/// The chart, in the checkout.
pub const CHART: &str = "charts/stoker";
/// Name of the release, and of the operator's Deployment and Lease.
pub const NAME: &str = "stoker";
/// Its namespace.
pub const NAMESPACE: &str = "stoker-system";
/// Selects the operator's pods.
pub const OPERATOR_PODS: &str = "app.kubernetes.io/name=stoker,app.kubernetes.io/instance=stoker";

/// The images that the release runs.
///
/// The environment names them, `STOKER_OPERATOR_IMAGE` and `STOKER_TRAINER_IMAGE`, as `images/build` prints them. The
/// default is the one that it built last.
#[derive(Clone, Debug)]
pub struct Images {
    /// The operator's.
    pub operator: String,
    /// The one that trainings and servers run.
    pub trainer: String,
}

impl Images {
    /// The images that the environment names.
    pub fn from_env() -> Self {
        let image = |variable: &str, default: &str| std::env::var(variable).unwrap_or_else(|_| default.to_owned());
        Self {
            operator: image("STOKER_OPERATOR_IMAGE", "stoker-operator:dev"),
            trainer: image("STOKER_TRAINER_IMAGE", "stoker-trainer:dev"),
        }
    }

    fn values(&self) -> Result<[String; 6]> {
        let split = |image: &str| {
            image
                .rsplit_once(':')
                .filter(|(_, tag)| !tag.contains('/'))
                .map(|(repository, tag)| (repository.to_owned(), tag.to_owned()))
                .ok_or_else(|| Error::Unexpected(format!("the image '{image}' has no tag")))
        };
        let ((operator, operator_tag), (trainer, trainer_tag)) = (split(&self.operator)?, split(&self.trainer)?);
        Ok([
            format!("image.repository={operator}"),
            format!("image.tag={operator_tag}"),
            format!("trainer.image.repository={trainer}"),
            format!("trainer.image.tag={trainer_tag}"),
            // Where no GPU is at hand, this image too says what it finds.
            format!("trainer.gpuImage.repository={trainer}"),
            format!("trainer.gpuImage.tag={trainer_tag}"),
        ])
    }
}

/// Installs the chart or upgrades the release to it, and waits until the operator is ready.
///
/// `settings` are values of the chart, such as `replicas=2`.
///
/// # Errors
/// If `helm` refuses, or the operator does not become ready within three minutes.
pub async fn install(images: &Images, settings: &[&str]) -> Result<()> {
    let values = images.values()?;
    let chart = checkout::path(CHART);
    let chart = chart.to_string_lossy();
    let mut arguments = vec![
        "upgrade",
        NAME,
        &chart,
        "--install",
        "--namespace",
        NAMESPACE,
        "--create-namespace",
        "--wait",
        "--timeout",
        "3m",
    ];
    for value in values.iter().map(String::as_str).chain(settings.iter().copied()) {
        arguments.extend(["--set", value]);
    }
    command::run("helm", &arguments).await.map(drop)
}

/// Uninstalls the release and waits until what belonged to it is gone.
///
/// # Errors
/// If `helm` refuses, or it takes longer than two minutes.
pub async fn uninstall() -> Result<()> {
    command::run("helm", &["uninstall", NAME, "--namespace", NAMESPACE, "--wait", "--timeout", "2m"]).await.map(drop)
}

/// Runs the chart's own tests against the release.
///
/// # Errors
/// If one fails.
pub async fn test() -> Result<()> {
    command::run("helm", &["test", NAME, "--namespace", NAMESPACE, "--logs", "--timeout", "2m"]).await.map(drop)
}
