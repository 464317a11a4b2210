//! What drives the reconciles of either kind: bounded concurrency, back-off by the class of the error, figures.

use std::{
    any::Any,
    collections::HashMap,
    convert::Infallible,
    fmt::Debug,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::{FutureExt, Stream, StreamExt};
use kube::{
    Resource, ResourceExt,
    runtime::{
        applier,
        controller::{Action, Config, Error as ControllerError},
        reflector::{ObjectRef, Store},
    },
};

use crate::{
    context::Context,
    error::{Class, Error, Result},
};

/// How long a reconcile may take.
const LONGEST: Duration = Duration::from_secs(60);

/// Reconciles the objects that `triggers` names, until it ends. What happens to one object without a pause of `debounce` is
/// answered by one reconcile.
pub async fn run<K, F>(
    context: Arc<Context>,
    store: Store<K>,
    triggers: impl Stream<Item = ObjectRef<K>>,
    debounce: Duration,
    reconcile: fn(Arc<K>, Arc<Context>) -> F,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + 'static,
    F: Future<Output = Result<Action>> + Send + 'static,
{
    let config = Config::default().concurrency(context.settings.concurrency).debounce(debounce);
    let reconcile = move |object: Arc<K>, context| Box::pin(observe(reconcile, object, context));
    let queue = triggers.map(Ok::<_, Infallible>);
    applier(reconcile, retry::<K>, context, store, queue, config)
        .for_each(async |result| {
            if let Err(error @ (ControllerError::QueueError(_) | ControllerError::RunnerError(_))) = result {
                tracing::error!(%error, "the controller cannot go on");
            }
        })
        .await;
}

/// A reconcile, with its figures and its log.
async fn observe<K, F>(
    reconcile: fn(Arc<K>, Arc<Context>) -> F,
    object: Arc<K>,
    context: Arc<Context>,
) -> Result<Action>
where
    K: Resource<DynamicType = ()>,
    F: Future<Output = Result<Action>>,
{
    let started = Instant::now();
    let uid = object.uid().unwrap_or_default();
    // One that panics says so and is tried again: the others have no part in it.
    let reconcile = AssertUnwindSafe(reconcile(object, context.clone())).catch_unwind();
    let result = match tokio::time::timeout(LONGEST, reconcile).await {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => Err(Error::Panicked(said(&*panic))),
        Err(_) => Err(Error::Timeout(LONGEST.as_secs())),
    };
    context.metrics.reconciled(kind::<K>(), started.elapsed(), result.as_ref().err());
    match &result {
        Ok(_) => context.backoff.reset(&uid),
        Err(error) => {
            tracing::warn!(error = error as &dyn std::error::Error, class = error.class().name(), "a reconcile failed")
        }
    }
    result
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("the log has what it said").to_owned()
}

fn retry<K: Resource<DynamicType = ()>>(object: Arc<K>, error: &Error, context: Arc<Context>) -> Action {
    Action::requeue(context.backoff.next(&object.uid().unwrap_or_default(), error.class()))
}

fn kind<K: Resource<DynamicType = ()>>() -> &'static str {
    match K::kind(&()) {
        std::borrow::Cow::Borrowed(kind) => kind,
        std::borrow::Cow::Owned(_) => "unknown",
    }
}

/// Failures in a row, by the object's UID: kept outside of the objects, so that a wait costs no write.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: Mutex<HashMap<String, u32>>,
}

impl Backoff {
    /// How long to wait after one more failure.
    pub fn next(&self, uid: &str, class: Class) -> Duration {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(uid.to_owned()).or_default();
        *count = count.saturating_add(1);
        class.delay(*count)
    }

    /// Forgets the failures of an object that succeeded or is gone.
    pub fn reset(&self, uid: &str) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use stoker_crds::ModelTraining;

    use super::*;
    use crate::{testing::ApiServer, training::fixtures};

    async fn broken(training: Arc<ModelTraining>, _: Arc<Context>) -> Result<Action> {
        let name = training.name_any();
        assert!(name.is_empty(), "{name} is too much");
        Ok(Action::await_change())
    }

    #[tokio::test]
    async fn a_reconcile_that_panics_is_an_error_of_its_own() {
        let server = ApiServer::expecting([]);
        let context = Arc::new(server.context().0);
        let error = observe(broken, Arc::new(fixtures::training()), context).await.unwrap_err();
        assert_eq!(error.to_string(), "the reconcile panicked: digits is too much");
        assert_eq!(error.class(), Class::Bug);
    }
}
