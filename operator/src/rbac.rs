//! What the operator may do in the cluster: the only place that says so, with a reason per rule.
//!
//! There is no rule for Secrets: pods mount them by name, and the operator never reads one.

/// A rule of the operator's Role.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Why the operator needs it.
    pub reason: &'static str,
    /// The API group; empty for the core one.
    pub group: &'static str,
    /// The resources.
    pub resources: &'static [&'static str],
    /// What it may do with them.
    pub verbs: &'static [&'static str],
    /// The one object that it is for; empty for all.
    pub name: &'static str,
}

const fn rule(
    reason: &'static str,
    group: &'static str,
    resources: &'static [&'static str],
    verbs: &'static [&'static str],
) -> Rule {
    Rule { reason, group, resources, verbs, name: "" }
}

/// What it may do where users' resources lie: cluster-wide, or in each of the listed namespaces.
pub const RULES: &[Rule] = &[
    rule("what users ask for", "stoker.dev", &["modeltrainings", "modeldeployments"], &["get", "list", "watch"]),
    rule("spec.ttlAfterFinished deletes a finished ModelTraining", "stoker.dev", &["modeltrainings"], &["delete"]),
    rule("what became of it", "stoker.dev", &["modeltrainings/status", "modeldeployments/status"], &["patch"]),
    rule(
        "owner references with blockOwnerDeletion need it where the cluster enforces that permission",
        "stoker.dev",
        &["modeltrainings/finalizers", "modeldeployments/finalizers"],
        &["update"],
    ),
    rule("the Job of each run", "batch", &["jobs"], &["get", "list", "watch", "create", "patch", "delete"]),
    rule("the configuration of each run", "", &["configmaps"], &["get", "create", "delete"]),
    rule("how the pods of runs and servers fare", "", &["pods"], &["get", "list", "watch"]),
    rule("the last lines of a pod that failed without a report", "", &["pods/log"], &["get"]),
    rule(
        "one Deployment per served revision",
        "apps",
        &["deployments"],
        &["get", "list", "watch", "create", "patch", "delete"],
    ),
    rule(
        "the address of each ModelDeployment",
        "",
        &["services"],
        &["get", "list", "watch", "create", "patch", "delete"],
    ),
    rule(
        "a drained node leaves enough servers",
        "policy",
        &["poddisruptionbudgets"],
        &["get", "list", "watch", "create", "patch", "delete"],
    ),
    rule(
        "who may reach trainers and servers",
        "networking.k8s.io",
        &["networkpolicies"],
        &["get", "list", "watch", "create", "patch", "delete"],
    ),
    rule("why a Job or a Deployment creates no pod, or a volume is not mounted", "", &["events"], &["list"]),
    rule("what happened, for kubectl describe", "events.k8s.io", &["events"], &["create", "patch"]),
];

/// What it may do in its own namespace.
pub const LEADER_ELECTION: &[Rule] = &[
    rule("the first replica makes the leader's Lease", "coordination.k8s.io", &["leases"], &["create"]),
    Rule {
        reason: "the leader renews the Lease, the others watch it",
        group: "coordination.k8s.io",
        resources: &["leases"],
        verbs: &["get", "list", "watch", "update"],
        name: crate::leader::LEASE,
    },
];

/// Both lists as YAML, for the chart: `rules` and `leaderElection`.
pub fn manifest() -> String {
    format!("rules:\n{}leaderElection:\n{}", list(RULES), list(LEADER_ELECTION))
}

fn list(rules: &[Rule]) -> String {
    rules.iter().map(yaml).collect()
}

fn yaml(rule: &Rule) -> String {
    let quoted = |words: &[&str]| words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
    let Rule { reason, group, resources, verbs, name } = rule;
    let only = if name.is_empty() { String::new() } else { format!("    resourceNames: [\"{name}\"]\n") };
    format!(
        "  # {reason}\n  - apiGroups: [\"{group}\"]\n    resources: [{}]\n{only}    verbs: [{}]\n",
        quoted(resources),
        quoted(verbs)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_rule_reaches_secrets_or_everything() {
        for rule in RULES.iter().chain(LEADER_ELECTION) {
            assert!(!rule.reason.is_empty());
            assert!(!rule.resources.iter().any(|resource| resource.starts_with("secrets")), "{rule:?}");
            let words = rule.resources.iter().chain(rule.verbs).chain([&rule.group]);
            assert!(words.into_iter().all(|word| *word != "*"), "{rule:?}");
        }
    }
}
