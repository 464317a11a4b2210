//! What the operator tells Prometheus about the resources: read from the caches when it is asked, kept nowhere.

use std::{collections::BTreeMap, sync::Arc};

use kube::{Resource, ResourceExt};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
};
use stoker_crds::{
    ModelDeployment, ModelTraining,
    metric::{LOSS, Split},
    training::status::Phase,
};

use crate::{context::Context, leader::Fence};

/// The most resources of a kind that are told one by one: the number of time series stays bounded.
const MAX_SERIES: usize = 200;

/// Figures of all resources.
pub struct Figures {
    contexts: Vec<Arc<Context>>,
    fence: Fence,
}

impl std::fmt::Debug for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Figures").field("scopes", &self.contexts.len()).finish_non_exhaustive()
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct InPhase {
    kind: &'static str,
    phase: String,
}

#[derive(Debug, EncodeLabelSet)]
struct Of {
    namespace: String,
    name: String,
}

/// A gauge's name, what it is, and its value for one resource.
type Gauge<K> = (&'static str, &'static str, fn(&K) -> Option<f64>);

const OF_TRAININGS: [Gauge<ModelTraining>; 4] = [
    ("training_progress_ratio", "Share of the optimizer steps that are done, 0 to 1", |training| {
        let progress = training.status.as_ref()?.progress.as_ref()?;
        Some(f64::from(progress.percent) / 100.0)
    }),
    ("training_samples_per_second", "Training rows per second", |training| {
        training.status.as_ref()?.progress.as_ref()?.throughput.samples_per_second
    }),
    ("training_tokens_per_second", "Tokens per second, of language models", |training| {
        training.status.as_ref()?.progress.as_ref()?.throughput.tokens_per_second
    }),
    ("training_loss", "Latest loss on the training split", |training| {
        training.status.as_ref()?.metrics.get(&Split::Train)?.get(LOSS).copied()
    }),
];

const OF_DEPLOYMENTS: [Gauge<ModelDeployment>; 3] = [
    ("deployment_ready_replicas", "Serving pods that are ready", |deployment| {
        Some(f64::from(deployment.status.as_ref()?.ready_replicas))
    }),
    ("deployment_requests_per_second", "Inference requests per second", |deployment| {
        Some(deployment.status.as_ref()?.metrics.as_ref()?.requests_per_second)
    }),
    ("deployment_error_ratio", "Share of requests answered with a 5xx status, 0 to 1", |deployment| {
        Some(deployment.status.as_ref()?.metrics.as_ref()?.error_rate)
    }),
];

impl Figures {
    /// Figures of everything that these contexts watch.
    pub fn new(contexts: Vec<Arc<Context>>, fence: Fence) -> Self {
        Self { contexts, fence }
    }

    fn phases(&self) -> BTreeMap<InPhase, i64> {
        let mut phases = BTreeMap::new();
        let mut count = |kind, phase: Option<String>| {
            *phases.entry(InPhase { kind, phase: phase.unwrap_or_else(|| "Unknown".into()) }).or_default() += 1;
        };
        for context in &self.contexts {
            for training in context.trainings.state() {
                let phase = training.status.as_ref().and_then(|status| status.phase);
                count("ModelTraining", phase.map(|phase| format!("{phase:?}")));
            }
            for deployment in context.deployments.state() {
                let phase = deployment.status.as_ref().and_then(|status| status.phase);
                count("ModelDeployment", phase.map(|phase| format!("{phase:?}")));
            }
        }
        phases
    }

    /// The trainings at work, up to the bound.
    fn trainings(&self) -> Vec<Arc<ModelTraining>> {
        let all = self.contexts.iter().flat_map(|context| context.trainings.state());
        let is_running = |training: &Arc<ModelTraining>| {
            training.status.as_ref().and_then(|status| status.phase).is_some_and(Phase::is_running)
        };
        all.filter(is_running).take(MAX_SERIES).collect()
    }

    fn deployments(&self) -> Vec<Arc<ModelDeployment>> {
        self.contexts.iter().flat_map(|context| context.deployments.state()).take(MAX_SERIES).collect()
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let leads = i64::from(self.fence.check().is_ok());
        let leader = encoder.encode_descriptor("leader", "Whether this replica leads", None, MetricType::Gauge)?;
        ConstGauge::new(leads).encode(leader)?;
        let mut phases = encoder.encode_descriptor("resources", "Resources by phase", None, MetricType::Gauge)?;
        for (labels, count) in self.phases() {
            ConstGauge::new(count).encode(phases.encode_family(&labels)?)?;
        }
        each(&mut encoder, &OF_TRAININGS, &self.trainings())?;
        each(&mut encoder, &OF_DEPLOYMENTS, &self.deployments())
    }
}

fn each<K: Resource>(
    encoder: &mut DescriptorEncoder<'_>,
    gauges: &[Gauge<K>],
    objects: &[Arc<K>],
) -> Result<(), std::fmt::Error> {
    for (name, help, value) in gauges {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (object, value) in objects.iter().filter_map(|object| Some((object, value(object)?))) {
            let labels = Of { namespace: object.namespace().unwrap_or_default(), name: object.name_any() };
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher::Event;
    use prometheus_client::{encoding::text::encode, registry::Registry};

    use super::*;
    use crate::{
        testing::ApiServer,
        training::{fixtures, status::tests::in_progress},
    };

    #[tokio::test]
    async fn resources_are_told_by_phase_and_trainings_one_by_one() {
        let (context, mut writers) = ApiServer::expecting([]).context();
        let training = ModelTraining { status: Some(in_progress()), ..fixtures::training() };
        writers.trainings.apply_watcher_event(&Event::Apply(training));
        let mut registry = Registry::with_prefix("stoker");
        let fence = context.fence.clone();
        registry.register_collector(Box::new(Figures::new(vec![Arc::new(context)], fence)));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "stoker_leader 1",
            "stoker_resources{kind=\"ModelTraining\",phase=\"Training\"} 1",
            "stoker_training_progress_ratio{namespace=\"team\",name=\"digits\"} 0.42",
            "stoker_training_loss{namespace=\"team\",name=\"digits\"} 0.0813",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
