//! What the cluster looked like last: views of owned objects, found by their owner without asking the API server.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use futures::{Stream, StreamExt, TryStreamExt, stream};
use kube::{
    Resource, ResourceExt,
    runtime::watcher::{self, Event},
};

use tokio::sync::watch;

use crate::labels::Owner;

/// Views of the objects of one kind, by owner and name.
///
/// A view holds the little that a reconcile needs of an object, so that thousands of them fit a small memory.
#[derive(Debug)]
pub struct Owned<V> {
    views: RwLock<Views<V>>,
    is_listed: watch::Sender<bool>,
    /// Of which objects the last state is known for a while after they are gone.
    lingers: fn(&V) -> bool,
}

/// How long the last state of an object is known that is gone: longer than a reconcile may wait for what else happens.
const LINGERING: Duration = Duration::from_secs(5);

/// One map for all owners: one for each would cost more memory than what is in it.
type Views<V> = BTreeMap<(Owner, String), Arc<V>>;

impl<V> Default for Owned<V> {
    fn default() -> Self {
        Self { views: RwLock::default(), is_listed: watch::Sender::new(false), lingers: |_| false }
    }
}

impl<V> Owned<V> {
    /// One that knows the last state of some objects for a while after they are gone: of those that say in it what nobody else
    /// knows, and may be gone before a reconcile looks.
    pub fn lingering(lingers: fn(&V) -> bool) -> Self {
        Self { lingers, ..Self::default() }
    }
}

impl<V: PartialEq> Owned<V> {
    /// Waits until the initial list is in.
    pub async fn listed(&self) {
        // The sender lives as long as this does.
        let _ = self.is_listed.subscribe().wait_for(|is_listed| *is_listed).await;
    }

    /// All objects of an owner, by name.
    pub fn of(&self, owner: &Owner) -> Vec<Arc<V>> {
        let views = self.views.read().unwrap_or_else(PoisonError::into_inner);
        let from_first = views.range((owner.clone(), String::new())..);
        from_first.take_while(|((of, _), _)| of == owner).map(|(_, view)| view.clone()).collect()
    }

    /// One object of an owner.
    pub fn get(&self, owner: &Owner, name: &str) -> Option<Arc<V>> {
        let views = self.views.read().unwrap_or_else(PoisonError::into_inner);
        views.get(&(owner.clone(), name.to_owned())).cloned()
    }

    /// The objects that are wanted, each with its owner.
    pub fn select(&self, wanted: impl Fn(&Owner, &V) -> bool) -> Vec<(Owner, Arc<V>)> {
        let views = self.views.read().unwrap_or_else(PoisonError::into_inner);
        let all = views.iter().map(|((owner, _), view)| (owner, view));
        all.filter(|(owner, view)| wanted(owner, view)).map(|(owner, view)| (owner.clone(), view.clone())).collect()
    }

    /// Takes note of an object, as it was answered to a request of our own: the watch tells it a little later.
    /// Returns whether that is news.
    pub fn insert(&self, owner: Owner, name: String, view: V) -> bool {
        let mut views = self.views.write().unwrap_or_else(PoisonError::into_inner);
        let key = (owner, name);
        if views.get(&key).is_some_and(|known| **known == view) {
            return false;
        }
        views.insert(key, Arc::new(view));
        true
    }

    /// Forgets an object.
    pub fn remove(&self, owner: &Owner, name: &str) {
        let mut views = self.views.write().unwrap_or_else(PoisonError::into_inner);
        views.remove(&(owner.clone(), name.to_owned()));
    }

    /// Knows the last state of an object for a while, and then forgets it.
    fn linger(self: &Arc<Self>, owner: Owner, name: String, view: V)
    where
        V: Send + Sync + 'static,
    {
        let (key, view) = ((owner, name), Arc::new(view));
        self.views.write().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), view.clone());
        let cache = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(LINGERING).await;
            let mut views = cache.views.write().unwrap_or_else(PoisonError::into_inner);
            // Another object may have its name by now.
            if views.get(&key).is_some_and(|known| Arc::ptr_eq(known, &view)) {
                views.remove(&key);
            }
        });
    }

    /// Puts another set of objects in place of all, and says whose they are or were.
    fn replace(&self, all: Views<V>) -> Vec<Owner> {
        let mut views = self.views.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *views, all);
        let mut owners: Vec<Owner> = before.into_keys().chain(views.keys().cloned()).map(|(owner, _)| owner).collect();
        owners.sort_unstable();
        owners.dedup();
        self.is_listed.send_replace(true);
        owners
    }

    /// Follows a watch, and tells whose objects have changed in what their views hold. The first items come when the
    /// whole initial list is in.
    pub fn follow<K>(
        self: Arc<Self>,
        events: impl Stream<Item = watcher::Result<Event<K>>> + Send,
        view: impl Fn(K) -> V + Send,
    ) -> impl Stream<Item = watcher::Result<Owner>> + Send
    where
        K: Resource + Send,
        V: Send + Sync + 'static,
    {
        let mut listed: Views<V> = BTreeMap::new();
        events
            .map_ok(move |event| {
                let changed = match event {
                    Event::Init => {
                        listed = BTreeMap::new();
                        Vec::new()
                    }
                    Event::InitApply(object) => {
                        if let Some(owner) = Owner::of(object.meta()) {
                            listed.insert((owner, object.name_any()), Arc::new(view(object)));
                        }
                        Vec::new()
                    }
                    Event::InitDone => self.replace(std::mem::take(&mut listed)),
                    Event::Apply(object) => {
                        let owner = Owner::of(object.meta());
                        let is_news = |owner: &Owner| self.insert(owner.clone(), object.name_any(), view(object));
                        owner.filter(is_news).into_iter().collect()
                    }
                    Event::Delete(object) => {
                        let (owner, name) = (Owner::of(object.meta()), object.name_any());
                        if let Some(owner) = &owner {
                            let last = view(object);
                            if (self.lingers)(&last) {
                                self.linger(owner.clone(), name, last);
                            } else {
                                self.remove(owner, &name);
                            }
                        }
                        owner.into_iter().collect()
                    }
                };
                stream::iter(changed).map(Ok)
            })
            .try_flatten()
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn object(name: &str, training: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.into());
        object.metadata.namespace = Some("a".into());
        object.metadata.labels = Some(Owner::training("a", training).labels());
        object
    }

    #[test]
    fn a_new_list_replaces_what_was_known_and_names_every_owner_touched() {
        let cache = Arc::new(Owned::default());
        cache.insert(Owner::training("a", "gone"), "gone-1".into(), "gone-1".into());
        let events = [Event::Init, Event::InitApply(object("new-1", "new")), Event::InitDone].map(Ok);
        let changed: Vec<Owner> =
            block_on(cache.clone().follow(stream::iter(events), |o: ConfigMap| o.name_any()).try_collect()).unwrap();
        assert_eq!(changed, [Owner::training("a", "gone"), Owner::training("a", "new")]);
        assert!(cache.of(&Owner::training("a", "gone")).is_empty());
        assert_eq!(*cache.get(&Owner::training("a", "new"), "new-1").unwrap(), "new-1");
    }

    #[test]
    fn the_objects_of_an_owner_are_its_own_alone_in_the_order_of_their_names() {
        let cache = Owned::default();
        for (owner, name) in [("x", "x-2"), ("w", "w-1"), ("x", "x-1"), ("xy", "xy-1"), ("y", "y-1")] {
            assert!(cache.insert(Owner::training("a", owner), name.into(), name));
        }
        assert_eq!(cache.of(&Owner::training("a", "x")).iter().map(|name| **name).collect::<Vec<_>>(), ["x-1", "x-2"]);
        assert!(cache.of(&Owner::deployment("a", "x")).is_empty() && cache.of(&Owner::training("b", "x")).is_empty());
        assert!(!cache.insert(Owner::training("a", "x"), "x-1".into(), "x-1"), "what is known is no news");
    }

    #[tokio::test(start_paused = true)]
    async fn of_an_object_that_lingers_the_last_state_is_known_until_a_reconcile_has_looked() {
        let cache = Arc::new(Owned::lingering(|words: &String| !words.is_empty()));
        let gone = |words: &str| {
            let mut object = object("x-1", "x");
            object.data = Some([("words".to_owned(), words.to_owned())].into());
            stream::iter([Ok(Event::Apply(object.clone())), Ok(Event::Delete(object))])
        };
        let words = |object: ConfigMap| object.data.and_then(|mut data| data.remove("words")).unwrap_or_default();
        let owner = Owner::training("a", "x");
        for (last, lingers) in [("I have saved step 7", true), ("", false)] {
            let changed: Vec<Owner> = cache.clone().follow(gone(last), words).try_collect().await.unwrap();
            assert_eq!(changed.len(), 2);
            assert_eq!(cache.get(&owner, "x-1").is_some_and(|known| *known == last), lingers);
            tokio::time::sleep(LINGERING + Duration::from_millis(1)).await;
            assert!(cache.of(&owner).is_empty());
        }
    }

    #[test]
    fn an_object_that_was_deleted_is_forgotten() {
        let cache = Arc::new(Owned::default());
        let events = [Event::Apply(object("x-1", "x")), Event::Delete(object("x-1", "x"))].map(Ok);
        let changed: Vec<Owner> =
            block_on(cache.clone().follow(stream::iter(events), |_: ConfigMap| ()).try_collect()).unwrap();
        assert_eq!(changed.len(), 2);
        assert!(cache.select(|_, ()| true).is_empty());
    }
}
