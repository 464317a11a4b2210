//! Who may reach trainers: the operator alone, on the one port that tells their progress.
//!
//! One NetworkPolicy per namespace selects the trainer pods of all its ModelTrainings: a policy for each would cost a
//! request for each, and say the same. It belongs to the ModelTraining that had it made last, and goes with it; one that
//! still runs then has it made again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use k8s_openapi::{
    api::networking::v1::{
        NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference},
        util::intstr::IntOrString,
    },
};
use kube::core::PartialObjectMeta;
use stoker_crds::progress::PROGRESS_PORT;
use tokio::sync::OnceCell;

use crate::{
    apply,
    context::Context,
    error::Result,
    labels::{COMPONENT, MANAGED_BY, STOKER, TRAINER},
};

/// Name of the policy.
const NAME: &str = "stoker-trainers";

/// The namespaces that have the policy, or are just getting it.
#[derive(Debug, Default)]
pub struct GuardedNamespaces(Mutex<HashMap<String, Arc<OnceCell<()>>>>);

impl GuardedNamespaces {
    fn of(&self, namespace: &str) -> Arc<OnceCell<()>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(namespace.to_owned()).or_default().clone()
    }

    /// Takes note that a policy was deleted, and says which namespace needs it again.
    pub fn deleted(&self, policy: &ObjectMeta) -> Option<String> {
        let namespace = policy.namespace.as_ref().filter(|_| policy.name.as_deref() == Some(NAME))?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(namespace)?;
        Some(namespace.clone())
    }
}

/// Makes sure that a namespace has the policy; asks the API server once per namespace, however many runs begin in it.
///
/// # Errors
/// If the API server refuses it, or a policy of that name belongs to somebody else.
pub async fn admit_operator_only(context: &Context, namespace: &str, owner: &OwnerReference) -> Result<()> {
    let guarded = context.guarded_namespaces.of(namespace);
    let make = || async {
        let policy = policy(namespace, owner, &context.settings.operator_namespace);
        apply::apply::<PartialObjectMeta<NetworkPolicy>>(context, &policy).await.map(drop)
    };
    guarded.get_or_try_init(make).await?;
    Ok(())
}

fn policy(namespace: &str, owner: &OwnerReference, operator_namespace: &str) -> NetworkPolicy {
    let labels = |pairs: &[(&str, &str)]| {
        Some(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    };
    let operator = NetworkPolicyPeer {
        namespace_selector: Some(LabelSelector {
            match_labels: labels(&[("kubernetes.io/metadata.name", operator_namespace)]),
            ..LabelSelector::default()
        }),
        ..NetworkPolicyPeer::default()
    };
    let port = NetworkPolicyPort {
        port: Some(IntOrString::Int(i32::from(PROGRESS_PORT))),
        protocol: Some("TCP".into()),
        end_port: None,
    };
    NetworkPolicy {
        metadata: ObjectMeta {
            name: Some(NAME.into()),
            namespace: Some(namespace.into()),
            // Not as its controller: of those an object has but one for all time.
            owner_references: Some(vec![OwnerReference { controller: None, ..owner.clone() }]),
            labels: labels(&[("app.kubernetes.io/name", STOKER), (MANAGED_BY, STOKER), (COMPONENT, TRAINER)]),
            ..ObjectMeta::default()
        },
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector {
                match_labels: labels(&[(MANAGED_BY, STOKER), (COMPONENT, TRAINER)]),
                ..LabelSelector::default()
            }),
            policy_types: Some(vec!["Ingress".into()]),
            ingress: Some(vec![NetworkPolicyIngressRule { from: Some(vec![operator]), ports: Some(vec![port]) }]),
            egress: None,
        }),
    }
}

#[cfg(test)]
mod tests {
    use kube::Resource;

    use crate::training::fixtures;

    #[test]
    fn only_the_operators_namespace_reaches_the_progress_port() {
        let owner = fixtures::training().controller_owner_ref(&()).unwrap();
        insta::assert_yaml_snapshot!(super::policy("team", &owner, "stoker-system"));
    }
}
