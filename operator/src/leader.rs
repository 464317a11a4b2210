//! Which replica acts: the one that holds the Lease.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{
    Api,
    api::PostParams,
    runtime::{WatchStreamExt, watcher::watch_object},
};

use crate::{
    error::{Error, Result},
    readiness::Readiness,
};

/// Name of the Lease.
pub const LEASE: &str = "stoker";
/// How long others wait after the last renewal that they saw.
const DURATION: Duration = Duration::from_secs(15);
/// How often the holder renews.
const RENEW_EVERY: Duration = Duration::from_secs(6);
/// How long after its last renewal the holder still writes; the rest of [`DURATION`] is for clocks and slow requests.
const HOLDS_FOR: Duration = Duration::from_secs(10);
/// How soon a renewal that failed is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Says whether this replica may still write: until its lease's renewal is overdue.
///
/// Every write asks it, so that a replica that was cut off for longer than its lease changes nothing any more.
#[derive(Clone, Debug, Default)]
pub struct Fence {
    leads_until: Arc<Mutex<Option<Instant>>>,
}

impl Fence {
    /// Fails unless this replica leads.
    ///
    /// # Errors
    /// [`Error::NotLeader`].
    pub fn check(&self) -> Result<()> {
        let leads_until = *self.leads_until.lock().unwrap_or_else(PoisonError::into_inner);
        if leads_until.is_some_and(|until| Instant::now() < until) { Ok(()) } else { Err(Error::NotLeader) }
    }

    /// Lets writes pass until then.
    pub fn extend(&self, until: Instant) {
        *self.leads_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    /// Lets no write pass any more.
    pub fn close(&self) {
        *self.leads_until.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Takes part in the election of the replica that acts.
pub struct Election {
    api: Api<Lease>,
    identity: String,
    fence: Fence,
    readiness: Readiness,
}

/// What a replica may do about the Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    /// Take it.
    Take,
    /// Wait so long, or until it changes.
    Wait(Duration),
}

/// What became of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Renewal {
    /// The Lease is held anew.
    Done,
    /// It may be tried again.
    Failed,
    /// Another replica holds it.
    Lost,
}

impl Election {
    /// An election among the replicas that share the Lease of that API's namespace.
    pub fn new(api: Api<Lease>, identity: String, fence: Fence, readiness: Readiness) -> Self {
        Self { api, identity, fence, readiness }
    }

    /// Waits until this replica leads, and returns the Lease that it holds. While another one holds it, this one only
    /// watches: it sends no request.
    pub async fn win(&self) -> Lease {
        loop {
            let changes = watch_object(self.api.clone(), LEASE).default_backoff();
            let mut changes = std::pin::pin!(changes);
            let mut known: Option<Option<Lease>> = None;
            let mut seen_at = Instant::now();
            loop {
                let claim = known.as_ref().map(|lease| claim(lease.as_ref(), &self.identity, seen_at.elapsed()));
                let wait = match claim {
                    Some(Claim::Take) => break,
                    Some(Claim::Wait(wait)) => wait,
                    None => DURATION,
                };
                match tokio::time::timeout(wait, changes.next()).await {
                    Ok(Some(Ok(lease))) => {
                        self.readiness.has_read_lease();
                        (known, seen_at) = (Some(lease), Instant::now());
                    }
                    Ok(Some(Err(error))) => {
                        tracing::warn!(error = &error as &dyn std::error::Error, "the Lease cannot be watched");
                    }
                    Ok(None) | Err(_) => {}
                }
            }
            match self.take(known.flatten()).await {
                Ok(lease) => return lease,
                Err(error) => {
                    tracing::info!(error = &error as &dyn std::error::Error, "another replica was faster");
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        }
    }

    /// Holds the Lease; returns when it could not be renewed in time, or is another one's.
    pub async fn hold(&self, lease: &mut Lease) {
        let mut renewed_at = Instant::now();
        let mut wait = RENEW_EVERY;
        loop {
            tokio::time::sleep(wait).await;
            let started = Instant::now();
            let left = HOLDS_FOR.saturating_sub(renewed_at.elapsed());
            match tokio::time::timeout(left, self.renew(lease)).await {
                Ok(Renewal::Done) => (renewed_at, wait) = (started, RENEW_EVERY),
                Ok(Renewal::Failed) => wait = RETRY_AFTER.min(HOLDS_FOR.saturating_sub(renewed_at.elapsed())),
                Ok(Renewal::Lost) | Err(_) => return self.fence.close(),
            }
        }
    }

    async fn renew(&self, lease: &mut Lease) -> Renewal {
        match self.write(renewed(lease.clone(), Timestamp::now())).await {
            Ok(written) => {
                *lease = written;
                Renewal::Done
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the Lease could not be renewed");
                match self.api.get(LEASE).await {
                    Ok(found) if holder(&found) != Some(&self.identity) => Renewal::Lost,
                    // A renewal whose answer was lost has changed the version.
                    Ok(found) => {
                        *lease = found;
                        Renewal::Failed
                    }
                    Err(_) => Renewal::Failed,
                }
            }
        }
    }

    /// Gives the Lease up, so that another replica need not wait for its end.
    pub async fn release(&self, lease: Lease) {
        self.fence.close();
        if let Err(error) = self.write(released(lease, Timestamp::now())).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the Lease could not be released; it will run out"
            );
        }
    }

    async fn take(&self, lease: Option<Lease>) -> Result<Lease> {
        let is_new = lease.is_none();
        let lease = taken(lease.unwrap_or_default(), &self.identity, Timestamp::now());
        if !is_new {
            return self.write(lease).await;
        }
        let started = Instant::now();
        let created = self.api.create(&PostParams::default(), &lease).await;
        self.held(created, "create", started)
    }

    /// Replaces the Lease as this replica last saw it: the API server refuses if it is another one by now.
    async fn write(&self, lease: Lease) -> Result<Lease> {
        let started = Instant::now();
        let written = self.api.replace(LEASE, &PostParams::default(), &lease).await;
        self.held(written, "renew", started)
    }

    /// What was answered to a request that began then, which is when a renewal counts from.
    fn held(&self, answer: kube::Result<Lease>, verb: &'static str, started: Instant) -> Result<Lease> {
        let lease = answer.map_err(|error| Error::api(verb, format!("Lease {LEASE}"), error))?;
        if holder(&lease) == Some(&self.identity) {
            self.fence.extend(started + HOLDS_FOR);
        }
        Ok(lease)
    }
}

/// What to do about a Lease that has not changed for so long. Other replicas' clocks are not trusted.
fn claim(lease: Option<&Lease>, identity: &str, unchanged_for: Duration) -> Claim {
    let held_by_another = lease.filter(|lease| holder(lease).is_some_and(|holder| holder != identity));
    let Some(spec) = held_by_another.and_then(|lease| lease.spec.as_ref()) else { return Claim::Take };
    let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    match seconds.map_or(DURATION, Duration::from_secs).saturating_sub(unchanged_for) {
        Duration::ZERO => Claim::Take,
        left => Claim::Wait(left),
    }
}

fn holder(lease: &Lease) -> Option<&String> {
    lease.spec.as_ref()?.holder_identity.as_ref().filter(|holder| !holder.is_empty())
}

fn taken(lease: Lease, identity: &str, now: Timestamp) -> Lease {
    let spec = lease.spec.unwrap_or_default();
    let changes_hands = spec.holder_identity.as_deref().unwrap_or_default() != identity;
    Lease {
        metadata: ObjectMeta { name: Some(LEASE.into()), ..lease.metadata },
        spec: Some(LeaseSpec {
            holder_identity: Some(identity.into()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: Some(MicroTime(now)),
            renew_time: Some(MicroTime(now)),
            lease_transitions: Some(spec.lease_transitions.unwrap_or(0).saturating_add(i32::from(changes_hands))),
            ..LeaseSpec::default()
        }),
    }
}

fn renewed(mut lease: Lease, now: Timestamp) -> Lease {
    lease.spec.get_or_insert_default().renew_time = Some(MicroTime(now));
    lease
}

fn released(lease: Lease, now: Timestamp) -> Lease {
    let mut lease = renewed(lease, now);
    let spec = lease.spec.get_or_insert_default();
    spec.holder_identity = None;
    spec.lease_duration_seconds = Some(1);
    lease
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{ApiServer, Step};

    fn held_by(identity: &str) -> Lease {
        taken(Lease::default(), identity, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_lease_is_taken_only_if_it_is_free_or_has_run_out() {
        let second = Duration::from_secs(1);
        let mine = held_by("a");
        assert_eq!(claim(None, "a", Duration::ZERO), Claim::Take);
        assert_eq!(claim(Some(&mine), "a", Duration::ZERO), Claim::Take);
        assert_eq!(claim(Some(&mine), "b", second), Claim::Wait(DURATION - second));
        assert_eq!(claim(Some(&mine), "b", DURATION), Claim::Take);
        assert_eq!(claim(Some(&released(mine, Timestamp::UNIX_EPOCH)), "b", Duration::ZERO), Claim::Take);
    }

    #[tokio::test]
    async fn a_replica_that_waits_takes_a_released_lease_at_once() {
        let mut lease = released(held_by("a"), Timestamp::UNIX_EPOCH);
        lease.metadata.resource_version = Some("7".into());
        let server = ApiServer::expecting([
            Step::get(
                "/apis/coordination.k8s.io/v1/namespaces/stoker-system/leases",
                json!({
                    "metadata": {"resourceVersion": "7"}, "items": [lease],
                }),
            ),
            Step::echo("PUT", "/apis/coordination.k8s.io/v1/namespaces/stoker-system/leases/stoker"),
        ]);
        let (fence, readiness) = (Fence::default(), Readiness::default());
        let leases = Api::namespaced(server.client(), "stoker-system");
        let election = Election::new(leases, "b".into(), fence.clone(), readiness.clone());
        let lease = election.win().await;
        drop(election);
        assert!(fence.check().is_ok() && readiness.waits_for().is_none());
        assert_eq!(
            (holder(&lease).map(String::as_str), lease.metadata.resource_version.as_deref()),
            (Some("b"), Some("7"))
        );
        let [_, put] = server.requests().await.try_into().unwrap();
        assert_eq!(put.body["spec"]["holderIdentity"], "b");
    }

    #[tokio::test]
    async fn a_lease_that_another_replica_has_taken_is_not_taken_back() {
        let path = "/apis/coordination.k8s.io/v1/namespaces/stoker-system/leases/stoker";
        let server = ApiServer::expecting([
            Step::refuse("PUT", path, 409, "Conflict", "the object has been modified"),
            Step::get(path, json!(held_by("b"))),
        ]);
        let leases = Api::namespaced(server.client(), "stoker-system");
        let election = Election::new(leases, "a".into(), Fence::default(), Readiness::default());
        assert_eq!(election.renew(&mut held_by("a")).await, Renewal::Lost);
        drop(election);
        server.requests().await;
    }

    #[test]
    fn changes_of_hands_are_counted() {
        let transitions = |lease: &Lease| lease.spec.as_ref().unwrap().lease_transitions;
        let first = held_by("a");
        let second = taken(released(first.clone(), Timestamp::UNIX_EPOCH), "b", Timestamp::UNIX_EPOCH);
        let again = taken(second.clone(), "b", Timestamp::UNIX_EPOCH);
        assert_eq!([&first, &second, &again].map(transitions), [Some(1), Some(2), Some(2)]);
    }

    #[test]
    fn the_fence_opens_for_a_time_and_closes() {
        let fence = Fence::default();
        assert!(fence.check().is_err());
        fence.extend(Instant::now() + Duration::from_secs(60));
        assert!(fence.check().is_ok());
        fence.extend(Instant::now());
        assert!(fence.check().is_err());
        fence.extend(Instant::now() + Duration::from_secs(60));
        fence.close();
        assert!(fence.check().is_err());
    }
}
