//! Waiting for what Kubernetes does: on watches, with a deadline that says what it waited for and what it saw last.

use std::{collections::BTreeMap, fmt::Debug, pin::pin, time::Duration};

use futures::StreamExt as _;
use kube::{
    Api, Resource, ResourceExt,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{Instant, timeout_at};

use crate::{Error, Result};

/// What can be waited for: a kind that is known when compiling.
pub trait Kind: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize + Send + 'static {}

impl<K> Kind for K where K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize + Send + 'static {}

/// A condition in words, and how long it may take to hold.
#[derive(Clone, Debug)]
pub struct Wait {
    what: String,
    limit: Duration,
}

impl Wait {
    /// Waits up to `limit` for `what`, which completes the sentence "waited for …".
    pub fn new(what: impl Into<String>, limit: Duration) -> Self {
        Self { what: what.into(), limit }
    }

    /// The object of that name, as soon as it exists and is as wanted.
    ///
    /// # Errors
    /// If that takes too long.
    pub async fn until<K: Kind>(&self, api: &Api<K>, name: &str, holds: impl Fn(&K) -> bool) -> Result<K> {
        let one = format!("metadata.name={name}");
        self.watch(api, watcher::Config::default().fields(&one), |objects| {
            objects.values().find(|object| holds(object)).cloned()
        })
        .await
    }

    /// Returns as soon as no object has that name, or another one has taken it.
    ///
    /// # Errors
    /// If that takes too long.
    pub async fn until_gone<K: Kind>(&self, api: &Api<K>, name: &str) -> Result<()> {
        let one = format!("metadata.name={name}");
        self.watch(api, watcher::Config::default().fields(&one), |objects| objects.is_empty().then_some(())).await
    }

    /// What `find` makes of all objects that match the labels, as soon as it is something; it is shown every change.
    ///
    /// # Errors
    /// If that takes too long.
    pub async fn until_any<K: Kind, T>(
        &self,
        api: &Api<K>,
        labels: &str,
        find: impl FnMut(&BTreeMap<String, K>) -> Option<T>,
    ) -> Result<T> {
        self.watch(api, watcher::Config::default().labels(labels), find).await
    }

    /// Asks again and again what cannot be watched, ten times a second.
    ///
    /// # Errors
    /// If the answer is not there in time; the error holds the last `Err`.
    pub async fn until_ok<T>(&self, mut ask: impl AsyncFnMut() -> std::result::Result<T, String>) -> Result<T> {
        let deadline = Instant::now() + self.limit;
        let mut ticks = tokio::time::interval(Duration::from_millis(100));
        let mut last = String::new();
        loop {
            ticks.tick().await;
            match timeout_at(deadline, ask()).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(message)) => last = message,
                Err(_) => return Err(self.timed_out(last)),
            }
        }
    }

    async fn watch<K: Kind, T>(
        &self,
        api: &Api<K>,
        config: watcher::Config,
        mut find: impl FnMut(&BTreeMap<String, K>) -> Option<T>,
    ) -> Result<T> {
        let mut events = pin!(watcher(api.clone(), config).default_backoff());
        let mut objects = BTreeMap::new();
        let mut broken = String::new();
        let deadline = Instant::now() + self.limit;
        loop {
            match timeout_at(deadline, events.next()).await {
                Ok(Some(Ok(event))) => {
                    if note(&mut objects, event)
                        && let Some(found) = find(&objects)
                    {
                        return Ok(found);
                    }
                }
                // The watch begins again by itself.
                Ok(Some(Err(error))) => broken = format!("the watch broke: {error}\n"),
                Ok(None) => return Err(Error::Unexpected(format!("the watch for {} ended", self.what))),
                Err(_) => return Err(self.timed_out(broken + &describe(&objects))),
            }
        }
    }

    fn timed_out(&self, last: String) -> Error {
        Error::Timeout { what: self.what.clone(), seconds: self.limit.as_secs(), last }
    }
}

/// Keeps `objects` as the watch tells; returns whether they are complete.
fn note<K: Kind>(objects: &mut BTreeMap<String, K>, event: Event<K>) -> bool {
    match event {
        Event::Init => objects.clear(),
        Event::InitApply(object) => drop(objects.insert(object.name_any(), object)),
        Event::Apply(object) => {
            objects.insert(object.name_any(), object);
            return true;
        }
        Event::Delete(object) => {
            objects.remove(&object.name_any());
            return true;
        }
        Event::InitDone => return true,
    }
    false
}

fn describe<K: Kind>(objects: &BTreeMap<String, K>) -> String {
    if objects.is_empty() {
        return "nothing".to_owned();
    }
    objects.values().map(status_yaml).collect::<Vec<_>>().join("---\n")
}

/// Name and status of an object, or all of it where it has no status.
pub fn status_yaml<K: Kind>(object: &K) -> String {
    let value = serde_json::to_value(object).unwrap_or_default();
    let shown = match value.get("status") {
        Some(status) => serde_json::json!({ "name": object.name_any(), "status": status }),
        None => value,
    };
    serde_saphyr::to_string(&shown).unwrap_or_else(|error| error.to_string())
}
