//! Asks running pods how they fare, over plain HTTP inside the cluster: progress of trainers, figures of servers.

use std::{
    cell::Cell,
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::de::DeserializeOwned;

use crate::{
    bell::Bell,
    cache::Owned,
    labels::Owner,
    pods::{PodView, State},
    settings::Settings,
};

/// How long a pod may take to answer.
const TIMEOUT: Duration = Duration::from_secs(1);
/// The longest answer that is read, in bytes.
const MAX_BODY: usize = 256 << 10;
/// How many pods are asked at the same time.
const CONCURRENCY: usize = 16;
/// The longest wait between two tries of a pod that does not answer.
const LONGEST_SILENCE: Duration = Duration::from_secs(30);
/// How often the poller looks for pods that are due.
const TICK: Duration = Duration::from_millis(250);
/// How often it forgets the pods that are gone.
const FORGETTING: Duration = Duration::from_secs(10);

/// Why a pod gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum PollError {
    /// It did not answer in time.
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    Timeout,
    /// The address gives no URI.
    #[error("cannot ask")]
    Request(#[from] http::Error),
    /// It cannot be reached.
    #[error("cannot be reached")]
    Connection(#[from] hyper_util::client::legacy::Error),
    /// It answered with an error.
    #[error("answered with status {0}")]
    Status(http::StatusCode),
    /// The answer is too long or broke off.
    #[error("the answer cannot be read: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    /// The answer is not what it should be.
    #[error("the answer is not understood")]
    Json(#[from] serde_json::Error),
}

/// An HTTP client for the pods' own small answers.
#[derive(Clone, Debug)]
pub struct PodClient {
    http: Client<HttpConnector, Empty<Bytes>>,
}

impl Default for PodClient {
    fn default() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(TIMEOUT));
        let http = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(5))
            .pool_max_idle_per_host(1)
            .build(connector);
        Self { http }
    }
}

impl PodClient {
    /// The JSON that a pod answers at a path.
    ///
    /// # Errors
    /// If it does not answer within a second, or with anything but that JSON.
    pub async fn get<T: DeserializeOwned>(&self, ip: IpAddr, port: u16, path: &str) -> Result<T, PollError> {
        let request = http::Request::get(format!("http://{}{path}", SocketAddr::new(ip, port))).body(Empty::new())?;
        let answer = async {
            let response = self.http.request(request).await?;
            if !response.status().is_success() {
                return Err(PollError::Status(response.status()));
            }
            let body = Limited::new(response.into_body(), MAX_BODY).collect().await.map_err(PollError::Body)?;
            Ok(serde_json::from_slice(&body.to_bytes())?)
        };
        tokio::time::timeout(TIMEOUT, answer).await.map_err(|_| PollError::Timeout)?
    }
}

/// What pods answered last, by their UID.
#[derive(Debug)]
pub struct Polled<T> {
    by_uid: RwLock<HashMap<String, Answers<T>>>,
}

/// The last two answers of a pod, and when they came; two make a rate.
#[derive(Debug)]
pub struct Answers<T> {
    /// The last answer.
    pub latest: (Instant, Arc<T>),
    /// The one before.
    pub before: Option<(Instant, Arc<T>)>,
}

impl<T> Clone for Answers<T> {
    fn clone(&self) -> Self {
        let Self { latest, before } = self;
        Self { latest: latest.clone(), before: before.clone() }
    }
}

impl<T> Default for Polled<T> {
    fn default() -> Self {
        Self { by_uid: RwLock::default() }
    }
}

impl<T> Polled<T> {
    /// What the pod of that UID answered last.
    pub fn latest(&self, uid: &str) -> Option<Arc<T>> {
        self.answers(uid).map(|answers| answers.latest.1)
    }

    /// The last two answers of the pod of that UID.
    pub fn answers(&self, uid: &str) -> Option<Answers<T>> {
        self.by_uid.read().unwrap_or_else(PoisonError::into_inner).get(uid).cloned()
    }

    /// Takes note of an answer.
    pub fn insert(&self, uid: &str, at: Instant, answer: T) {
        let mut by_uid = self.by_uid.write().unwrap_or_else(PoisonError::into_inner);
        let before = by_uid.remove(uid).map(|answers| answers.latest);
        by_uid.insert(uid.to_owned(), Answers { latest: (at, Arc::new(answer)), before });
    }

    fn uids(&self) -> HashSet<String> {
        self.by_uid.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    fn retain(&self, keep: impl Fn(&str) -> bool) {
        self.by_uid.write().unwrap_or_else(PoisonError::into_inner).retain(|uid, _| keep(uid));
    }
}

/// Asks the running pods of one component, for ever.
pub struct Poller<T> {
    /// The port that answers.
    pub port: u16,
    /// The path that answers.
    pub path: &'static str,
    /// Which pods are asked.
    pub selects: fn(&Owner) -> bool,
    /// The pods.
    pub pods: Arc<Owned<PodView>>,
    /// Where the answers go.
    pub polled: Arc<Polled<T>>,
    /// How often, and how many.
    pub settings: Arc<Settings>,
}

/// When a pod is asked next, and how often it has not answered in a row.
#[derive(Clone, Copy, Debug)]
struct Turn {
    next: Instant,
    failures: u32,
}

/// By the UID of a pod.
type Turns = Mutex<HashMap<String, Turn>>;

impl<T: DeserializeOwned + Send + Sync> Poller<T> {
    /// Asks every running pod in turn, and rings for each answer. A pod that has just started is asked at once,
    /// one that does not answer ever more seldom.
    pub async fn run(self, bell: Bell) {
        let client = PodClient::default();
        let turns = Turns::default();
        let mut forgotten = Instant::now();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if forgotten.elapsed() >= FORGETTING {
                forgotten = Instant::now();
                self.forget_others(&turns);
            }
            let (due, running) = self.due(&turns);
            let interval = self.interval(running);
            let ask = async |(owner, pod): (Owner, Arc<PodView>)| {
                if self.ask(&client, &pod, &turns, interval).await {
                    bell.ring(owner);
                }
            };
            futures::stream::iter(due).for_each_concurrent(CONCURRENCY, ask).await;
        }
    }

    /// The pods that are to be asked now, and how many are asked in turn.
    fn due(&self, turns: &Turns) -> (Vec<(Owner, Arc<PodView>)>, usize) {
        let (turns, now, running) =
            (turns.lock().unwrap_or_else(PoisonError::into_inner), Instant::now(), Cell::new(0));
        let is_due = |pod: &PodView| turns.get(&pod.uid).is_none_or(|turn| turn.next <= now);
        let due = self.pods.select(|owner, pod| {
            let is_asked = self.asks(owner, pod);
            running.set(running.get() + usize::from(is_asked));
            is_asked && is_due(pod)
        });
        (due, running.get())
    }

    fn asks(&self, owner: &Owner, pod: &PodView) -> bool {
        (self.selects)(owner) && pod.state == State::Running && pod.ip.is_some()
    }

    /// With many pods, each is asked more seldom.
    fn interval(&self, pods: usize) -> Duration {
        let pods = u32::try_from(pods).unwrap_or(u32::MAX);
        let needed = Duration::from_secs(1).saturating_mul(pods) / self.settings.max_polls_per_second.max(1);
        self.settings.poll_interval.max(needed)
    }

    fn forget_others(&self, turns: &Turns) {
        let running = self.pods.select(|owner, pod| self.asks(owner, pod));
        let uids: HashSet<&str> = running.iter().map(|(_, pod)| pod.uid.as_str()).collect();
        turns.lock().unwrap_or_else(PoisonError::into_inner).retain(|uid, _| uids.contains(uid.as_str()));
        // The last answer is still wanted when the pod has ended, until the pod is gone.
        let answered: HashSet<String> = self.polled.uids();
        if !answered.is_empty() {
            let there = self.pods.select(|_, pod| answered.contains(&pod.uid));
            let there: HashSet<&str> = there.iter().map(|(_, pod)| pod.uid.as_str()).collect();
            self.polled.retain(|uid| there.contains(uid));
        }
    }

    async fn ask(&self, client: &PodClient, pod: &PodView, turns: &Turns, interval: Duration) -> bool {
        let Some(ip) = pod.ip else { return false };
        let answer = client.get::<T>(ip, self.port, self.path).await;
        let now = Instant::now();
        let mut turns = turns.lock().unwrap_or_else(PoisonError::into_inner);
        let failures = turns.get(&pod.uid).map_or(0, |turn| turn.failures);
        match answer {
            Ok(answer) => {
                turns.insert(pod.uid.clone(), Turn { next: now + interval, failures: 0 });
                self.polled.insert(&pod.uid, now, answer);
                true
            }
            Err(error) => {
                tracing::debug!(pod = pod.name, error = &error as &dyn std::error::Error, "a pod gives no answer");
                let wait = silence(failures).max(interval.min(LONGEST_SILENCE) / 8);
                turns.insert(pod.uid.clone(), Turn { next: now + wait, failures: failures.saturating_add(1) });
                false
            }
        }
    }
}

/// How long a pod is left alone that did not answer so many times before: 250 ms at first, since it may just start.
fn silence(failures: u32) -> Duration {
    TICK.saturating_mul(1 << failures.min(16)).min(LONGEST_SILENCE)
}

#[cfg(test)]
mod tests {
    use axum::{Json, Router, http::StatusCode, routing::get};
    use kube::runtime::reflector::ObjectRef;
    use serde_json::{Value, json};
    use tokio::net::TcpListener;

    use super::*;
    use crate::training::fixtures;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    /// A pod's port.
    async fn pod() -> u16 {
        let routes = Router::new()
            .route("/good", get(async || Json(json!({"step": 7}))))
            .route("/long", get(async || "x".repeat(MAX_BODY + 1)))
            .route("/busy", get(async || StatusCode::SERVICE_UNAVAILABLE))
            .route("/silent", get(std::future::pending::<()>));
        let listener = TcpListener::bind((HERE, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move { axum::serve(listener, routes).await });
        port
    }

    #[tokio::test]
    async fn only_a_short_good_answer_that_comes_soon_is_taken() {
        let (client, port) = (PodClient::default(), pod().await);
        assert_eq!(client.get::<Value>(HERE, port, "/good").await.unwrap()["step"], 7);
        let error = async |path| client.get::<Value>(HERE, port, path).await.unwrap_err();
        assert!(matches!(error("/long").await, PollError::Body(_)));
        assert!(matches!(error("/busy").await, PollError::Status(StatusCode::SERVICE_UNAVAILABLE)));
        assert!(matches!(error("/silent").await, PollError::Timeout));
        assert!(matches!(client.get::<Vec<u8>>(HERE, port, "/good").await.unwrap_err(), PollError::Json(_)));
    }

    #[tokio::test]
    async fn a_running_pod_is_asked_and_its_answer_kept() {
        let poller = Poller::<Value> {
            port: pod().await,
            path: "/good",
            selects: |_| true,
            pods: Arc::default(),
            polled: Arc::default(),
            settings: Arc::new(fixtures::settings()),
        };
        let (polled, owner) = (poller.polled.clone(), Owner::training("team", "digits"));
        let running = PodView { ip: Some(HERE), ..fixtures::pod("digits-1-aaaaa", State::Running, 1) };
        let ended = PodView { ip: Some(HERE), ..fixtures::pod("digits-1-bbbbb", State::Failed, 2) };
        let (asked, not_asked) = (running.uid.clone(), ended.uid.clone());
        for pod in [running, ended] {
            poller.pods.insert(owner.clone(), pod.name.clone(), pod);
        }
        let (bell, mut triggers) = Bell::new();
        let called = tokio::select! {
            () = poller.run(bell) => None,
            training = triggers.trainings.next() => training,
        };
        assert_eq!(called, Some(ObjectRef::new("digits").within("team")));
        assert_eq!(*polled.latest(&asked).unwrap(), json!({"step": 7}));
        assert!(polled.latest(&not_asked).is_none());
    }

    #[test]
    fn a_silent_pod_is_asked_ever_more_seldom() {
        assert_eq!(silence(0), Duration::from_millis(250));
        assert_eq!(silence(3), Duration::from_secs(2));
        assert_eq!(silence(u32::MAX), LONGEST_SILENCE);
    }
}
