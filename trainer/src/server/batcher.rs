//! Dynamic batching: requests that come together are computed together, on a thread of their own.
//!
//! While a batch is computed, the requests that come meanwhile gather in the queue and make the next batch. Only when
//! the queue runs dry there is a choice: to compute what is there, or to wait for more. A lone client would only be
//! slowed down by waiting. So a batch waits, for `max_delay` at most since its oldest request came, only until it holds
//! as many requests as the one before: clients that ask again as soon as they are answered, as all do under load,
//! come back together and need not be waited for any longer. With a single client that is one request, and nothing is
//! ever waited for; after a burst, one wait is in vain.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{incident::Incident, metrics::Metrics};
use crate::model::ModelError;

/// How requests are put together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policy {
    /// The most rows that are computed at once.
    pub(super) max_size: usize,
    /// How long a request waits for others, at most.
    pub(super) max_delay: Duration,
    /// The most rows that wait.
    pub(super) max_queue: usize,
}

/// Why a request gets no prediction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BatchError {
    /// The queue has no room for the request's rows.
    #[error("the queue is full")]
    Overloaded,
    /// The computation failed; the log says why.
    #[error("{0}")]
    Failed(Incident),
}

/// The queue in front of a model. When it is dropped, its thread ends.
#[derive(Debug)]
pub(super) struct Batcher {
    jobs: mpsc::Sender<Job>,
    width: usize,
    policy: Policy,
    metrics: Metrics,
    computes: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// Up to `max_size` rows of one request.
#[derive(Debug)]
struct Job {
    features: Vec<f32>,
    rows: usize,
    since: Instant,
    reply: oneshot::Sender<Result<Vec<f32>, BatchError>>,
}

impl Batcher {
    /// Starts the thread on which `predict` turns `[rows, width]` features into as many rows of predictions.
    ///
    /// # Errors
    /// If the system refuses the thread.
    pub(super) fn start(
        policy: Policy,
        width: usize,
        metrics: Metrics,
        predict: impl Fn(&[f32]) -> Result<Vec<f32>, ModelError> + Send + 'static,
    ) -> std::io::Result<Self> {
        let (jobs, received) = mpsc::channel();
        let computes = Arc::new(AtomicBool::new(true));
        let worker = Worker {
            received,
            waiting: VecDeque::new(),
            policy,
            width,
            company: 1,
            metrics: metrics.clone(),
            computes: Arc::clone(&computes),
            predict,
        };
        let thread = std::thread::Builder::new().name("batcher".into()).spawn(move || worker.run())?;
        Ok(Self { jobs, width, policy, metrics, computes, thread })
    }

    /// The predictions for `[rows, width]` features. A row's prediction does not depend on the rows computed with it.
    ///
    /// # Errors
    /// If too many rows wait already, or the computation fails.
    pub(super) async fn predict(&self, features: Vec<f32>) -> Result<Vec<f32>, BatchError> {
        self.admit(features.len() / self.width)?;
        let most = self.policy.max_size * self.width;
        if features.len() <= most {
            return self.submit(features).await;
        }
        let parts: Vec<_> = features.chunks(most).map(|part| self.submit(part.to_vec())).collect();
        drop(features);
        Ok(futures::future::try_join_all(parts).await?.concat())
    }

    /// Whether the model answered when it was last asked. If not, only a restart can help.
    pub(super) fn computes(&self) -> bool {
        self.computes.load(Relaxed) && !self.thread.is_finished()
    }

    fn admit(&self, rows: usize) -> Result<(), BatchError> {
        let fits = |queued: i64| Some(queued + count(rows)).filter(|queued| *queued <= count(self.policy.max_queue));
        let queued = self.metrics.queued_rows.inner().fetch_update(Relaxed, Relaxed, fits);
        queued.map(drop).map_err(|_| BatchError::Overloaded)
    }

    /// Sends rows that are admitted at once; the future waits for their predictions.
    fn submit(&self, features: Vec<f32>) -> impl Future<Output = Result<Vec<f32>, BatchError>> + use<> {
        let (reply, answer) = oneshot::channel();
        let rows = features.len() / self.width;
        // If the thread is gone, the reply is dropped with the job.
        let _ = self.jobs.send(Job { features, rows, since: Instant::now(), reply });
        async {
            let gone = |_| BatchError::Failed(Incident::log("the thread that computes the model has ended"));
            answer.await.map_err(gone)?
        }
    }
}

/// Rows as a gauge counts them. There are never as many as would not fit: their features would not fit the memory.
fn count(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

struct Worker<P> {
    received: mpsc::Receiver<Job>,
    waiting: VecDeque<Job>,
    policy: Policy,
    width: usize,
    /// How many jobs the last batch held.
    company: usize,
    metrics: Metrics,
    computes: Arc<AtomicBool>,
    predict: P,
}

impl<P: Fn(&[f32]) -> Result<Vec<f32>, ModelError>> Worker<P> {
    fn run(mut self) {
        while self.gather() {
            let batch = self.take_batch();
            self.answer(batch);
        }
    }

    /// Waits until there is a batch to compute; false when no more will come.
    fn gather(&mut self) -> bool {
        loop {
            self.waiting.extend(self.received.try_iter());
            self.drop_abandoned();
            let Some(oldest) = self.waiting.front() else {
                match self.received.recv() {
                    Ok(job) => self.waiting.push_back(job),
                    Err(mpsc::RecvError) => return false,
                }
                continue;
            };
            let patience = (oldest.since + self.policy.max_delay).saturating_duration_since(Instant::now());
            let rows: usize = self.waiting.iter().map(|job| job.rows).sum();
            if rows >= self.policy.max_size || self.waiting.len() >= self.company || patience.is_zero() {
                return true;
            }
            match self.received.recv_timeout(patience) {
                Ok(job) => self.waiting.push_back(job),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return true,
            }
        }
    }

    /// Forgets requests whose client went away or whose time is up.
    fn drop_abandoned(&mut self) {
        self.waiting.retain(|job| {
            let is_wanted = !job.reply.is_closed();
            if !is_wanted {
                self.metrics.queued_rows.dec_by(count(job.rows));
            }
            is_wanted
        });
    }

    /// Up to `max_size` rows of those that wait longest.
    fn take_batch(&mut self) -> Vec<Job> {
        let mut room = self.policy.max_size;
        let fitting = self.waiting.iter().take_while(|job| {
            let fits = job.rows <= room;
            room = room.saturating_sub(job.rows);
            fits
        });
        let fitting = fitting.count();
        self.waiting.drain(..fitting).collect()
    }

    fn answer(&mut self, mut batch: Vec<Job>) {
        let rows: usize = batch.iter().map(|job| job.rows).sum();
        self.company = batch.len();
        self.metrics.queued_rows.dec_by(count(rows));
        self.metrics.batch_rows.observe(rows as f64);
        let outcome = match &mut batch[..] {
            [alone] => self.compute(&alone.features),
            _ => self.compute(&batch.iter().flat_map(|job| &job.features).copied().collect::<Vec<_>>()),
        };
        let width = outcome.as_ref().map_or(0, |predictions| predictions.len() / rows);
        let mut from = 0;
        for job in batch {
            let to = from + job.rows * width;
            let answer = outcome.as_ref().map(|predictions| predictions[from..to].to_vec()).map_err(|error| *error);
            from = to;
            // A client that went away meanwhile needs no answer.
            let _ = job.reply.send(answer);
        }
    }

    /// The predictions, or the incident that a failure or a panic is logged as.
    fn compute(&self, features: &[f32]) -> Result<Vec<f32>, BatchError> {
        let outcome = self.attempt(features);
        // A failure may come from the rows, or from a device that will not compute anything any more.
        let computes = outcome.is_ok() || self.attempt(&vec![0.0; self.width]).is_ok();
        self.computes.store(computes, Relaxed);
        outcome.map_err(|details| BatchError::Failed(Incident::log(details)))
    }

    fn attempt(&self, features: &[f32]) -> Result<Vec<f32>, String> {
        match catch_unwind(AssertUnwindSafe(|| (self.predict)(features))) {
            Ok(outcome) => outcome.map_err(|error| error.to_string()),
            Err(_) => Err("the model's computation panicked; the panic's own message stands above".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::{FutureExt, future::join_all};

    use super::*;

    const POLICY: Policy = Policy { max_size: 4, max_delay: Duration::from_secs(3600), max_queue: 8 };

    /// Doubles each number, one number per row.
    fn double(features: &[f32]) -> Result<Vec<f32>, ModelError> {
        Ok(features.iter().map(|x| 2.0 * x).collect())
    }

    /// A model that computes nothing until it is let, and says how many rows it is given.
    struct Gate {
        open: mpsc::Sender<()>,
        sizes: Arc<Mutex<Vec<usize>>>,
        batcher: Batcher,
    }

    impl Gate {
        fn new(policy: Policy) -> Self {
            let (open, opened) = mpsc::channel();
            let sizes = Arc::new(Mutex::new(Vec::new()));
            let seen = Arc::clone(&sizes);
            let predict = move |features: &[f32]| {
                seen.lock().unwrap().push(features.len());
                opened.recv().unwrap();
                double(features)
            };
            let batcher = Batcher::start(policy, 1, Metrics::default(), predict).unwrap();
            Self { open, sizes, batcher }
        }

        /// Waits until the model is computing its n-th batch.
        async fn computing(&self, n: usize) {
            while self.sizes.lock().unwrap().len() < n {
                tokio::task::yield_now().await;
            }
        }

        fn queued(&self) -> i64 {
            self.batcher.metrics.queued_rows.get()
        }
    }

    #[tokio::test]
    async fn a_lone_request_waits_for_nobody() {
        // With a delay of an hour, waiting would show.
        let batcher = Batcher::start(POLICY, 1, Metrics::default(), double).unwrap();
        for x in 0..10_u8 {
            let x = f32::from(x);
            assert_eq!(batcher.predict(vec![x]).await, Ok(vec![2.0 * x]));
        }
    }

    #[tokio::test]
    async fn requests_that_come_during_a_computation_are_computed_together() {
        let gate = Gate::new(Policy { max_delay: Duration::ZERO, ..POLICY });
        let first = gate.batcher.predict(vec![1.0]);
        let others = async {
            gate.computing(1).await;
            let others = join_all([2.0, 3.0, 4.0].map(|x| gate.batcher.predict(vec![x])));
            let release = async {
                while gate.queued() < 3 {
                    tokio::task::yield_now().await;
                }
                gate.open.send(()).unwrap();
                gate.open.send(()).unwrap();
            };
            tokio::join!(others, release).0
        };
        let (first, others) = tokio::join!(first, others);
        assert_eq!(first, Ok(vec![2.0]));
        assert_eq!(others, [Ok(vec![4.0]), Ok(vec![6.0]), Ok(vec![8.0])]);
        assert_eq!(*gate.sizes.lock().unwrap(), [1, 3]);
    }

    #[tokio::test]
    async fn a_big_request_is_computed_in_parts_and_answered_whole() {
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&sizes);
        let predict = move |features: &[f32]| {
            seen.lock().unwrap().push(features.len());
            double(features)
        };
        let batcher = Batcher::start(POLICY, 1, Metrics::default(), predict).unwrap();
        let rows = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        assert_eq!(batcher.predict(rows.to_vec()).await, Ok(rows.map(|x| 2.0 * x).to_vec()));
        assert_eq!(*sizes.lock().unwrap(), [4, 3]);
    }

    #[tokio::test]
    async fn a_full_queue_refuses_more_and_an_abandoned_request_makes_room() {
        let gate = Gate::new(Policy { max_delay: Duration::ZERO, max_queue: 2, ..POLICY });
        let mut first = Box::pin(gate.batcher.predict(vec![1.0]));
        tokio::select! { _ = &mut first => panic!("answered by a closed gate"), () = gate.computing(1) => () }
        let mut second = Box::pin(gate.batcher.predict(vec![2.0, 3.0]));
        assert!((&mut second).now_or_never().is_none());
        assert_eq!(gate.batcher.predict(vec![4.0]).await, Err(BatchError::Overloaded));
        drop(second);
        gate.open.send(()).unwrap();
        gate.open.send(()).unwrap();
        assert_eq!(first.await, Ok(vec![2.0]));
        while gate.queued() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(gate.batcher.predict(vec![5.0]).await, Ok(vec![10.0]));
        assert_eq!(*gate.sizes.lock().unwrap(), [1, 1]);
    }

    #[tokio::test]
    async fn a_computation_that_panics_fails_its_requests_and_no_others() {
        let predict = |features: &[f32]| {
            assert!(features[0] >= 0.0, "a panic that is meant to be");
            double(features)
        };
        let batcher = Batcher::start(POLICY, 1, Metrics::default(), predict).unwrap();
        assert!(matches!(batcher.predict(vec![-1.0]).await, Err(BatchError::Failed(_))));
        assert!(batcher.computes());
        assert_eq!(batcher.predict(vec![1.0]).await, Ok(vec![2.0]));
    }

    #[tokio::test]
    async fn a_model_that_computes_nothing_any_more_is_noticed() {
        let predict = |features: &[f32]| Err(ModelError::Width { values: features.len(), width: 1 });
        let batcher = Batcher::start(POLICY, 1, Metrics::default(), predict).unwrap();
        assert!(matches!(batcher.predict(vec![1.0]).await, Err(BatchError::Failed(_))));
        assert!(!batcher.computes());
    }
}
