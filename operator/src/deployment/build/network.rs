//! The NetworkPolicy. One for each ModelDeployment, though one for a whole namespace would do: it goes with its owner,
//! and opens to each what that one needs.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::networking::v1::{
        IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
        NetworkPolicyPort, NetworkPolicySpec,
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use stoker_crds::serving::{INFERENCE_PORT, MANAGEMENT_PORT};

use super::{metadata, pods_of};
use crate::deployment::validate::{Access, Validated};

/// Addresses of all machines, and among them the ones at which clouds hand out credentials of the node.
const EVERYWHERE: [(&str, &[&str]); 2] =
    [("0.0.0.0/0", &["169.254.0.0/16"]), ("::/0", &["fe80::/10", "fd00:ec2::254/128"])];
const DNS_PORT: u16 = 53;

/// Lets everybody in the cluster ask the model, and the operator alone see the figures; lets the pods reach their
/// storage, wherever that is, but not the node's credentials, unless a cloud identity of their own is behind those
/// addresses.
pub(super) fn policy(deployment: &Validated, operator_namespace: &str) -> NetworkPolicy {
    let egress = match &deployment.access {
        Access::Volume(_) => Vec::new(),
        Access::Objects { service_account, .. } => vec![dns(), storage(service_account.is_some())],
    };
    NetworkPolicy {
        metadata: metadata(deployment, &deployment.name),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(pods_of(deployment)),
            policy_types: Some(vec!["Ingress".into(), "Egress".into()]),
            ingress: Some(vec![
                from(LabelSelector::default(), INFERENCE_PORT),
                from(namespace(operator_namespace), MANAGEMENT_PORT),
            ]),
            egress: Some(egress),
        }),
    }
}

fn from(namespaces: LabelSelector, to: u16) -> NetworkPolicyIngressRule {
    let peer = NetworkPolicyPeer { namespace_selector: Some(namespaces), ..NetworkPolicyPeer::default() };
    NetworkPolicyIngressRule { from: Some(vec![peer]), ports: Some(vec![port("TCP", to)]) }
}

fn namespace(name: &str) -> LabelSelector {
    let label = ("kubernetes.io/metadata.name".to_owned(), name.to_owned());
    LabelSelector { match_labels: Some(BTreeMap::from([label])), ..LabelSelector::default() }
}

fn dns() -> NetworkPolicyEgressRule {
    NetworkPolicyEgressRule { to: None, ports: Some(vec![port("UDP", DNS_PORT), port("TCP", DNS_PORT)]) }
}

fn storage(with_cloud_identity: bool) -> NetworkPolicyEgressRule {
    let peers = EVERYWHERE.map(|(cidr, link_local)| {
        let except = link_local.iter().map(|cidr| (*cidr).to_owned()).collect();
        let ip_block = IPBlock { cidr: cidr.into(), except: (!with_cloud_identity).then_some(except) };
        NetworkPolicyPeer { ip_block: Some(ip_block), ..NetworkPolicyPeer::default() }
    });
    NetworkPolicyEgressRule { to: Some(peers.into()), ports: None }
}

fn port(protocol: &str, number: u16) -> NetworkPolicyPort {
    NetworkPolicyPort {
        protocol: Some(protocol.into()),
        port: Some(IntOrString::Int(i32::from(number))),
        end_port: None,
    }
}
