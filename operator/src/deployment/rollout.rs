//! How pods move from the old revisions of a ModelDeployment to the new one: one step at a time, and pure.
//!
//! In every step at least `wanted` pods are ready if they were before, and at most `wanted + 1` exist: one more of the
//! new revision, and when it is ready, one fewer of the old. A new revision that never becomes ready costs one pod and
//! leaves the old ones as they are.

/// One revision's Deployment, as it was last seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Revision {
    /// Name of the Deployment.
    pub(crate) name: String,
    /// Pods that its spec asks for.
    pub(crate) replicas: u32,
    /// Pods that exist.
    pub(crate) pods: u32,
    /// Of those, the ready ones.
    pub(crate) ready: u32,
    /// Whether all its pods were ready at some time.
    pub(crate) has_served: bool,
}

/// What one old revision's Deployment becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// It gets that many pods.
    Scale(u32),
    /// Its last pod is gone, and so goes it.
    Delete,
}

/// The next step: how many pods the new revision gets, and what becomes of each old one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Pods of the new revision.
    pub(crate) new: u32,
    /// By name of the Deployment, in the order given.
    pub(crate) old: Vec<(String, Target)>,
}

/// The next step towards `wanted` ready pods of the new revision and none of the old ones (newest first).
///
/// `new` is `None` while its Deployment does not exist. Taken again and again as pods become ready, it ends with every
/// old revision deleted.
pub(crate) fn next_step(wanted: u32, new: Option<&Revision>, old: &[Revision]) -> Step {
    let ready = new.map_or(0, |new| new.ready);
    let kept = keep(wanted.saturating_sub(ready), old);
    // A pod that is told to go counts until it is gone.
    let occupied: u32 = old.iter().zip(&kept).map(|(revision, kept)| revision.pods.max(*kept)).sum();
    let new = wanted.min((wanted + 1).saturating_sub(occupied));
    let old = old.iter().zip(kept).map(|(revision, kept)| (revision.name.clone(), target(revision, kept))).collect();
    Step { new, old }
}

fn target(revision: &Revision, kept: u32) -> Target {
    let is_empty = revision.replicas == 0 && revision.pods == 0;
    if kept == 0 && is_empty { Target::Delete } else { Target::Scale(kept) }
}

/// How many pods each old revision keeps, `needed` in all.
///
/// Ready pods are kept before others. A revision that never served keeps none that is not ready: it holds no traffic,
/// and what it occupies, such as a GPU, may be what its successor waits for.
fn keep(needed: u32, old: &[Revision]) -> Vec<u32> {
    let mut kept = vec![0; old.len()];
    let mut missing = needed;
    let mut take = |kept: &mut u32, most: u32| {
        let taken = missing.min(most);
        *kept += taken;
        missing -= taken;
    };
    for (kept, revision) in kept.iter_mut().zip(old) {
        take(kept, revision.ready.min(revision.replicas));
    }
    for (kept, revision) in kept.iter_mut().zip(old).filter(|(_, revision)| revision.has_served) {
        take(kept, revision.replicas.saturating_sub(*kept));
    }
    // More are wanted than before the roll began: the newest that serves grows with it.
    let serving = kept.iter_mut().zip(old).find(|(_, revision)| revision.has_served && revision.ready > 0);
    if let Some((kept, _)) = serving {
        take(kept, u32::MAX);
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn revision(name: &str, replicas: u32, ready: u32, has_served: bool) -> Revision {
        Revision { name: name.into(), replicas, pods: replicas, ready, has_served }
    }

    #[test]
    fn the_first_revision_gets_all_its_pods_at_once() {
        assert_eq!(next_step(3, None, &[]), Step { new: 3, old: vec![] });
    }

    #[test]
    fn one_more_of_the_new_and_when_it_is_ready_one_fewer_of_the_old() {
        let scale = |new, old| Step { new, old: vec![("old".into(), Target::Scale(old))] };
        let steps = [
            (None, revision("old", 2, 2, true), scale(1, 2)),
            (Some(revision("new", 1, 0, false)), revision("old", 2, 2, true), scale(1, 2)),
            (Some(revision("new", 1, 1, true)), revision("old", 2, 2, true), scale(1, 1)),
            (Some(revision("new", 1, 1, true)), revision("old", 1, 1, true), scale(2, 1)),
            (Some(revision("new", 2, 2, true)), revision("old", 1, 1, true), scale(2, 0)),
        ];
        for (new, old, step) in steps {
            assert_eq!(next_step(2, new.as_ref(), std::slice::from_ref(&old)), step, "{new:?} {old:?}");
        }
    }

    #[test]
    fn an_old_revision_is_deleted_only_once_its_pods_are_gone() {
        let new = revision("new", 2, 2, true);
        let leaving = Revision { pods: 1, ..revision("old", 0, 0, true) };
        assert_eq!(next_step(2, Some(&new), &[leaving]).old, [("old".into(), Target::Scale(0))]);
        assert_eq!(next_step(2, Some(&new), &[revision("old", 0, 0, true)]).old, [("old".into(), Target::Delete)]);
    }

    #[test]
    fn a_revision_that_never_served_makes_room_for_its_successor() {
        let step = next_step(1, None, &[revision("broken", 1, 0, false)]);
        assert_eq!(step.old, [("broken".into(), Target::Scale(0))]);
        let step = next_step(2, None, &[revision("broken", 1, 0, false), revision("serving", 2, 2, true)]);
        assert_eq!(step.old, [("broken".into(), Target::Scale(0)), ("serving".into(), Target::Scale(2))]);
    }

    #[test]
    fn what_serves_comes_back_while_the_new_revision_is_broken() {
        let step = next_step(2, Some(&revision("new", 1, 0, false)), &[revision("old", 2, 0, true)]);
        assert_eq!(step, Step { new: 1, old: vec![("old".into(), Target::Scale(2))] });
    }

    #[test]
    fn scaling_up_during_a_broken_roll_scales_what_serves() {
        let step = next_step(4, Some(&revision("new", 1, 0, false)), &[revision("old", 2, 2, true)]);
        assert_eq!(step, Step { new: 1, old: vec![("old".into(), Target::Scale(4))] });
    }

    #[test]
    fn no_replicas_are_wanted_and_none_is_kept() {
        let step = next_step(0, Some(&revision("new", 1, 1, true)), &[revision("old", 2, 2, true)]);
        assert_eq!(step, Step { new: 0, old: vec![("old".into(), Target::Scale(0))] });
    }

    /// A cluster with one new and up to two old revisions: what the operator wrote, and what became of it.
    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
    struct Cluster {
        /// (asked, existing, ready) of the new revision, then of the old ones; `None` once deleted.
        revisions: [Option<(u32, u32, u32)>; 3],
    }

    impl Cluster {
        fn observe(&self, index: usize) -> Option<Revision> {
            let (replicas, pods, ready) = self.revisions[index]?;
            Some(Revision { name: index.to_string(), replicas, pods, ready, has_served: true })
        }

        fn pods(&self) -> u32 {
            self.revisions.iter().flatten().map(|(_, pods, _)| pods).sum()
        }

        fn ready(&self) -> u32 {
            self.revisions.iter().flatten().map(|(_, _, ready)| ready).sum()
        }

        /// The operator takes its next step.
        fn step(&self, wanted: u32) -> Self {
            let old: Vec<Revision> = (1..3).filter_map(|index| self.observe(index)).collect();
            let step = next_step(wanted, self.observe(0).as_ref(), &old);
            let mut next = self.clone();
            let (_, pods, ready) = self.revisions[0].unwrap_or_default();
            next.revisions[0] = Some((step.new, pods, ready));
            for (name, target) in step.old {
                let revision = &mut next.revisions[name.parse::<usize>().unwrap()];
                *revision = match (target, *revision) {
                    (Target::Scale(replicas), Some((_, pods, ready))) => Some((replicas, pods, ready)),
                    _ => None,
                };
            }
            next
        }

        /// Everything that Kubernetes may do next: create a pod, make one ready, or end one, unready ones first.
        fn happenings(&self) -> Vec<Self> {
            let mut next = Vec::new();
            for (index, revision) in self.revisions.iter().enumerate() {
                let Some((replicas, pods, ready)) = *revision else { continue };
                let mut push = |state| {
                    let mut cluster = self.clone();
                    cluster.revisions[index] = Some(state);
                    next.push(cluster);
                };
                if pods < replicas {
                    push((replicas, pods + 1, ready));
                }
                if ready < pods {
                    push((replicas, pods, ready + 1));
                }
                if pods > replicas {
                    push((replicas, pods - 1, ready.min(pods - 1)));
                }
            }
            next
        }
    }

    /// Walks every state that can be reached, in whatever order the operator and Kubernetes act.
    fn walk(wanted: u32, first: u32, second: u32) -> BTreeSet<Cluster> {
        let start = Cluster { revisions: [None, Some((first, first, first)), Some((second, second, second))] };
        let mut seen = BTreeSet::new();
        let mut open = vec![start];
        while let Some(cluster) = open.pop() {
            if seen.insert(cluster.clone()) {
                open.push(cluster.step(wanted));
                open.extend(cluster.happenings());
            }
        }
        seen
    }

    #[test]
    fn in_every_order_of_events_all_wanted_pods_stay_ready_and_at_most_one_more_exists() {
        for wanted in 0..=4 {
            for second in 0..=wanted {
                for cluster in walk(wanted, wanted - second, second) {
                    assert!(cluster.ready() >= wanted, "{cluster:?} serves {wanted} no more");
                    assert!(cluster.pods() <= wanted + 1, "{cluster:?} has more pods than {wanted} and one");
                }
            }
        }
    }

    #[test]
    fn every_roll_ends_with_the_new_revision_alone() {
        for wanted in 0..=4 {
            for second in 0..=wanted {
                for mut cluster in walk(wanted, wanted - second, second) {
                    loop {
                        let stepped = cluster.step(wanted);
                        let next = stepped.happenings().pop().unwrap_or(stepped);
                        if next == cluster {
                            break;
                        }
                        cluster = next;
                    }
                    assert_eq!(cluster.revisions, [Some((wanted, wanted, wanted)), None, None]);
                }
            }
        }
    }
}
