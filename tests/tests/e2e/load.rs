//! Steady load on a served model.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use stoker_e2e::inference::{Model, numbers, texts};
use tokio::{sync::Notify, task::JoinSet};

/// Clients that ask one after the other, without a pause.
const CLIENTS: usize = 4;

/// Load that goes on until it is stopped.
pub(crate) struct Load {
    clients: JoinSet<()>,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    stopped: AtomicBool,
    answered: AtomicUsize,
    progress: Notify,
    failures: Mutex<Vec<String>>,
}

impl Load {
    /// Starts to ask a model of [`crate::lines`].
    pub(crate) fn start(model: &Model) -> Self {
        let seen = Arc::new(Seen::default());
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            clients.spawn(ask(model.clone(), client as f64, Arc::clone(&seen)));
        }
        Self { clients, seen }
    }

    /// Waits until so many more requests have been answered.
    pub(crate) async fn goes_on(&self, requests: usize) {
        let goal = self.seen.answered.load(Ordering::SeqCst) + requests;
        loop {
            let progress = self.seen.progress.notified();
            if self.seen.answered.load(Ordering::SeqCst) >= goal {
                return;
            }
            progress.await;
        }
    }

    /// Stops; returns how many requests were answered, and what went wrong with any.
    pub(crate) async fn stop(self) -> (usize, Vec<String>) {
        self.seen.stopped.store(true, Ordering::SeqCst);
        self.clients.join_all().await;
        let failures = std::mem::take(&mut *self.seen.failures.lock().unwrap());
        (self.seen.answered.load(Ordering::SeqCst), failures)
    }
}

async fn ask(model: Model, a: f64, seen: Arc<Seen>) {
    while !seen.stopped.load(Ordering::SeqCst) {
        let failure = match model.infer(&[numbers("a", &[a]), numbers("b", &[0.5]), texts("color", &["red"])]).await {
            Ok(answer) if answer.status.is_success() => None,
            Ok(answer) => Some(format!("{} {}", answer.status, answer.body)),
            Err(error) => Some(error.to_string()),
        };
        match failure {
            None => drop(seen.answered.fetch_add(1, Ordering::SeqCst)),
            Some(failure) => seen.failures.lock().unwrap().push(failure),
        }
        seen.progress.notify_waiters();
    }
}
