//! Who may reach trainers: the operator alone, on the one port that tells their progress.
//!
//! One NetworkPolicy per namespace selects the trainer pods of all its ModelTrainings: a policy for each would cost a
//! request for each, and say the same. It belongs to the ModelTraining that had it made last, and goes with it; one that
//! still runs then has it made again.

use std::{
    collections::{HashMap, HashSet},
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
use kube::runtime::watcher::Event;
use stoker_crds::progress::PROGRESS_PORT;
use tokio::sync::OnceCell;

use crate::{
    apply,
    context::Context,
    error::Result,
    labels::{COMPONENT, MANAGED_BY, STOKER, TRAINER},
    lean::Meta,
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

    /// Takes note of what a watch of policies tells, and says which namespaces need theirs again. `listed` is of the list that
    /// is going on: a policy that was deleted while the watch was broken off is not in the next one, and no event tells of it.
    pub fn unguarded(&self, event: &Event<Meta<NetworkPolicy>>, listed: &mut HashSet<String>) -> Vec<String> {
        match event {
            Event::Init => listed.clear(),
            Event::InitApply(policy) => listed.extend(guarded_by(&policy.metadata).cloned()),
            Event::InitDone => return self.forget(|namespace| !listed.contains(namespace)),
            Event::Delete(policy) => {
                let deleted = guarded_by(&policy.metadata);
                return self.forget(|namespace| deleted == Some(namespace));
            }
            Event::Apply(_) => {}
        }
        Vec::new()
    }

    /// Takes it that these namespaces have no policy, and names them.
    fn forget(&self, which: impl Fn(&String) -> bool) -> Vec<String> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.extract_if(|namespace, _| which(namespace)).map(|(namespace, _)| namespace).collect()
    }
}

/// The namespace whose trainers a policy is for.
fn guarded_by(policy: &ObjectMeta) -> Option<&String> {
    policy.namespace.as_ref().filter(|_| policy.name.as_deref() == Some(NAME))
}

/// Makes sure that a namespace has the policy; asks the API server once per namespace, however many runs begin in it.
///
/// # Errors
/// If the API server refuses it, or a policy of that name belongs to somebody else.
pub async fn admit_operator_only(context: &Context, namespace: &str, owner: &OwnerReference) -> Result<()> {
    let guarded = context.guarded_namespaces.of(namespace);
    let make = || async {
        let policy = policy(namespace, owner, &context.settings.operator_namespace);
        apply::apply::<Meta<NetworkPolicy>>(context, &policy).await.map(drop)
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
    use serde_json::json;

    use super::*;
    use crate::training::fixtures;

    fn policy_of(namespace: &str, name: &str) -> Meta<NetworkPolicy> {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": namespace}})).unwrap()
    }

    #[test]
    fn a_namespace_whose_policy_is_gone_is_unguarded_even_if_no_event_told_of_it() {
        let (guarded, mut listed) = (GuardedNamespaces::default(), HashSet::new());
        for namespace in ["kept", "missed", "told"] {
            guarded.of(namespace);
        }
        let mut unguarded = |event| guarded.unguarded(&event, &mut listed);
        assert!(unguarded(Event::Delete(policy_of("told", "digits"))).is_empty(), "another policy of the namespace");
        assert_eq!(unguarded(Event::Delete(policy_of("told", NAME))), ["told"]);
        assert!(unguarded(Event::Delete(policy_of("told", NAME))).is_empty(), "told already");
        for expected in [vec!["missed"], vec![]] {
            let list = [policy_of("kept", NAME), policy_of("missed", "digits"), policy_of("new", NAME)];
            assert!(unguarded(Event::Init).is_empty());
            assert!(list.into_iter().all(|policy| unguarded(Event::InitApply(policy)).is_empty()));
            assert_eq!(unguarded(Event::InitDone), expected);
        }
        // Of what was listed last the next list knows nothing.
        unguarded(Event::Init);
        assert_eq!(unguarded(Event::InitDone), ["kept"]);
    }

    #[test]
    fn only_the_operators_namespace_reaches_the_progress_port() {
        let owner = fixtures::training().controller_owner_ref(&()).unwrap();
        insta::assert_yaml_snapshot!(super::policy("team", &owner, "stoker-system"));
    }
}
