//! What is made in great numbers: resources of Stoker, and plain Jobs and Deployments with the same pods.

use std::time::Duration;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec},
        batch::v1::{Job, JobSpec},
        core::v1::{PodTemplateSpec, Service, ServicePort, ServiceSpec},
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::{Client, Resource, api::ObjectMeta, core::NamespaceResourceScope};
use stoker_crds::{
    ModelDeployment, ModelTraining,
    deployment::{ArtifactSource, ModelSource, status::Phase as Serving},
    training::status::Phase as Training,
};
use stoker_e2e::{
    Error, Namespace, Result,
    error::ApiContext as _,
    wait::{Kind, Wait},
};

use super::kwok;
use crate::examples;

/// How long a single object may take.
const LIMIT: Duration = Duration::from_secs(120);
/// The label by which plain objects find their pods.
const APP: &str = "app";

/// How far an object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// On its way.
    Pending,
    /// Where it should be.
    Done,
    /// It will not get there.
    Failed(String),
}

/// A kind whose objects come to an end.
pub(crate) trait Workload: Kind + Resource<Scope = NamespaceResourceScope> {
    /// How far it is.
    fn verdict(&self) -> Verdict;
}

impl Workload for Job {
    fn verdict(&self) -> Verdict {
        let conditions = self.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let end =
            conditions.into_iter().find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True");
        match end {
            None => Verdict::Pending,
            Some(condition) if condition.type_ == "Complete" => Verdict::Done,
            Some(condition) => Verdict::Failed(condition.message.clone().unwrap_or_default()),
        }
    }
}

impl Workload for Deployment {
    fn verdict(&self) -> Verdict {
        let available = self.status.as_ref().and_then(|status| status.available_replicas);
        if available >= Some(1) { Verdict::Done } else { Verdict::Pending }
    }
}

impl Workload for ModelTraining {
    fn verdict(&self) -> Verdict {
        let Some(status) = &self.status else { return Verdict::Pending };
        match status.phase {
            Some(Training::Succeeded) => Verdict::Done,
            Some(Training::Failed) => Verdict::Failed(format!("{:?}", status.error)),
            _ => Verdict::Pending,
        }
    }
}

impl Workload for ModelDeployment {
    fn verdict(&self) -> Verdict {
        let Some(status) = &self.status else { return Verdict::Pending };
        match status.phase {
            Some(Serving::Available) => Verdict::Done,
            Some(Serving::Failed | Serving::Degraded) => Verdict::Failed(format!("{:?}", status.error)),
            _ => Verdict::Pending,
        }
    }
}

/// One of each, to make others after.
pub(crate) struct Samples {
    training: ModelTraining,
    deployment: ModelDeployment,
    job: JobSpec,
    serving: DeploymentSpec,
    ports: Vec<ServicePort>,
}

impl Samples {
    /// Makes one training and one deployment, and looks at what the operator makes of them.
    ///
    /// # Errors
    /// If they do not succeed.
    pub(crate) async fn take(client: &Client) -> Result<Self> {
        let (mut training, mut deployment) = (examples::resource("digits.yaml")?, examples::resource("digits.yaml")?);
        send_to_fake_node(&mut training, &mut deployment);
        let namespace = Namespace::create(client, "bench-sample").await?;
        create(&namespace, &training).await?;
        create(&namespace, &deployment).await?;
        await_one::<ModelTraining>(&namespace).await?;
        await_one::<ModelDeployment>(&namespace).await?;
        let (job, serving, service) = (
            only::<Job>(&namespace).await?.spec,
            only::<Deployment>(&namespace).await?.spec,
            only::<Service>(&namespace).await?.spec,
        );
        super::clear(&namespace).await?;
        Ok(Self {
            training,
            deployment,
            job: job.unwrap_or_default(),
            serving: serving.unwrap_or_default(),
            ports: service.and_then(|spec| spec.ports).unwrap_or_default(),
        })
    }

    /// A training of that name.
    pub(crate) fn training(&self, name: &str) -> ModelTraining {
        ModelTraining::new(name, self.training.spec.clone())
    }

    /// A deployment of that name.
    pub(crate) fn deployment(&self, name: &str) -> ModelDeployment {
        ModelDeployment::new(name, self.deployment.spec.clone())
    }

    /// A Job with the pod of a training, and no part in Stoker.
    pub(crate) fn job(&self, name: &str) -> Job {
        let mut spec = self.job.clone();
        (spec.selector, spec.template.metadata) = (None, labels(name));
        Job { metadata: named(name), spec: Some(spec), status: None }
    }

    /// A Deployment with the pod of a server, and no part in Stoker.
    pub(crate) fn plain_deployment(&self, name: &str) -> Deployment {
        let template = PodTemplateSpec { metadata: labels(name), ..self.serving.template.clone() };
        let selector =
            LabelSelector { match_labels: Some([(APP.into(), name.into())].into()), ..LabelSelector::default() };
        let spec = DeploymentSpec { selector, template, ..self.serving.clone() };
        Deployment { metadata: named(name), spec: Some(spec), status: None }
    }

    /// The Service of a [`Samples::plain_deployment`].
    pub(crate) fn service(&self, name: &str) -> Service {
        let spec = ServiceSpec {
            selector: Some([(APP.into(), name.into())].into()),
            ports: Some(self.ports.clone()),
            ..ServiceSpec::default()
        };
        Service { metadata: named(name), spec: Some(spec), status: None }
    }
}

/// The example's resources, on the fake node, and the deployment with a model of its own.
fn send_to_fake_node(training: &mut ModelTraining, deployment: &mut ModelDeployment) {
    training.spec.scheduling = kwok::scheduling();
    deployment.spec.scheduling = kwok::scheduling();
    deployment.spec.replicas = 1;
    deployment.spec.model = ModelSource::Artifact(ArtifactSource {
        uri: "s3://models/bench/digits/models/0123".into(),
        digest: format!("sha256:{}", "0123456789abcdef".repeat(4)),
        secret_name: Some("s3".into()),
        service_account_name: None,
        persistent_volume_claim: None,
    });
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() }
}

fn labels(name: &str) -> Option<ObjectMeta> {
    Some(ObjectMeta { labels: Some([(APP.into(), name.into())].into()), ..ObjectMeta::default() })
}

/// Creates an object in a namespace.
///
/// # Errors
/// If the API server refuses.
pub(crate) async fn create<K>(namespace: &Namespace, object: &K) -> Result<()>
where
    K: Kind + Resource<Scope = NamespaceResourceScope>,
{
    let created = namespace.api::<K>().create(&Default::default(), object).await;
    created.map(drop).asked(format!("create a {}", K::kind(&())))
}

/// Waits until the one object of a kind is done.
async fn await_one<K: Workload>(namespace: &Namespace) -> Result<()> {
    let find = |object: &K| match object.verdict() {
        Verdict::Pending => None,
        Verdict::Done => Some(Ok(())),
        Verdict::Failed(why) => Some(Err(Error::Unexpected(format!("a sample {} failed: {why}", K::kind(&()))))),
    };
    let wait = Wait::new(format!("a sample {} to be done", K::kind(&())), LIMIT);
    wait.until_any(&namespace.api::<K>(), "", |objects| objects.values().find_map(find)).await?
}

/// The one object of a kind that is in a namespace.
async fn only<K: Kind + Resource<Scope = NamespaceResourceScope>>(namespace: &Namespace) -> Result<K> {
    let found = namespace.api::<K>().list(&Default::default()).await.asked(format!("list {}", K::plural(&())))?;
    let [object]: [K; 1] = found.items.try_into().map_err(|others: Vec<K>| {
        Error::Unexpected(format!("a sample has {} {} instead of one", others.len(), K::plural(&())))
    })?;
    Ok(object)
}
