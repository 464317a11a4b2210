//! What was prepared, sent to the storage while the run trains, so that a pod that goes on with it need not prepare it again.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Tracker, prepared::Prepared};
use crate::{
    artifact::remove,
    storage::Folder,
    training::{Event, Watch},
};

/// How long an upload that is given up may take to remove what it has sent.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// An upload beside the training.
pub(super) struct Keeping {
    folder: Folder,
    tracker: Arc<Tracker>,
    /// The run is told to end.
    stop: CancellationToken,
    /// The upload is given up: with `stop`, so that the last checkpoint is sent alone.
    halt: CancellationToken,
    task: JoinHandle<()>,
}

impl Keeping {
    /// Begins to send what was prepared to a folder; `None` if it is of a kind that is not kept.
    pub(super) fn begin(
        prepared: &Arc<Prepared>,
        folder: Folder,
        tracker: &Arc<Tracker>,
        stop: &CancellationToken,
    ) -> Option<Self> {
        if !prepared.can_be_kept() {
            return None;
        }
        let (stop, halt, tracker) = (stop.clone(), stop.child_token(), Arc::clone(tracker));
        let task = tokio::spawn({
            let (prepared, folder, halt, tracker) =
                (Arc::clone(prepared), folder.clone(), halt.clone(), Arc::clone(&tracker));
            async move {
                let halted = async {
                    halt.cancelled().await;
                    tokio::time::sleep(LAST_WORDS).await;
                };
                tokio::select! {
                    kept = prepared.keep(&folder, &halt) => match kept {
                        Err(error) if !halt.is_cancelled() => not_kept(&tracker, &folder, &error.to_string()),
                        Ok(()) | Err(_) => {}
                    },
                    () = halted => {}
                }
            }
        });
        Some(Self { folder, tracker, stop, halt, task })
    }

    /// Waits until all is sent, for another try of the run, unless the run is told to end.
    pub(super) async fn finish(self) {
        if let Err(error) = self.task.await {
            not_kept(&self.tracker, &self.folder, &error.to_string());
        }
    }

    /// Gives the upload up, and removes what was sent of it.
    pub(super) async fn give_up(self) {
        self.halt.cancel();
        self.finish().await;
    }

    /// Deletes what was sent: the run has succeeded, and no pod will ask for it any more.
    pub(super) async fn forget(self) {
        let (folder, tracker, stop) = (self.folder.clone(), Arc::clone(&self.tracker), self.stop.clone());
        self.give_up().await;
        let removed = tokio::select! {
            removed = remove(&folder) => removed.map_err(|error| error.to_string()),
            () = stop.cancelled() => Err("the run was told to end".to_owned()),
        };
        if let Err(error) = removed {
            let uri = &folder.uri;
            let warning = format!("what was prepared for this run could not be deleted: {error}; delete {uri}");
            tracker.on(Event::Warning(&warning));
        }
    }
}

fn not_kept(tracker: &Tracker, folder: &Folder, error: &str) {
    let uri = &folder.uri;
    let warning = format!(
        "what was prepared could not be kept in {uri}, so a pod that goes on with this run prepares it again: {error}"
    );
    tracker.on(Event::Warning(&warning));
}
