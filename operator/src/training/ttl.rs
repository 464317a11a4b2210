//! `spec.ttlAfterFinished`: when a finished ModelTraining is deleted.

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use stoker_crds::{ModelTraining, ModelTrainingStatus, deployment::ModelSource, training::status::Phase};

use crate::{apply, context::Context, error::Result};

/// How soon to look again whether a ModelDeployment still names a ModelTraining whose time is over.
const LOOK_AGAIN: SignedDuration = SignedDuration::from_secs(60);

/// How soon to look again at a ModelTraining that has changed since its time was found to be over.
const LOOK_AGAIN_SOON: SignedDuration = SignedDuration::from_secs(1);

/// Deletes a ModelTraining whose time is over, unless a ModelDeployment names it, or it has changed since it was read; else tells
/// when to look again.
///
/// # Errors
/// If the API server refuses the deletion.
pub async fn expire(
    context: &Context,
    training: &ModelTraining,
    status: &ModelTrainingStatus,
) -> Result<Option<SignedDuration>> {
    let now = context.now();
    match remaining(training, status, now) {
        Some(left) if left > SignedDuration::ZERO => Ok(Some(left)),
        Some(_) if is_served(context, training) => Ok(Some(LOOK_AGAIN)),
        Some(_) => {
            tracing::info!("spec.ttlAfterFinished is over: deleting the ModelTraining");
            let is_gone = apply::delete_unchanged(context, training).await?;
            Ok((!is_gone).then_some(LOOK_AGAIN_SOON))
        }
        None => Ok(None),
    }
}

/// How much longer a finished ModelTraining is kept; `None` if it is kept for ever or has not finished.
fn remaining(training: &ModelTraining, status: &ModelTrainingStatus, now: Timestamp) -> Option<SignedDuration> {
    let ttl = SignedDuration::try_from(training.spec.ttl_after_finished?.0).ok()?;
    status.phase.filter(|phase: &Phase| phase.is_finished())?;
    let finished: Timestamp = status.finished_at.as_ref()?.parse().ok()?;
    Some(ttl - now.duration_since(finished))
}

fn is_served(context: &Context, training: &ModelTraining) -> bool {
    let (namespace, name) = (training.namespace(), training.name_any());
    let names_it = |deployment: &stoker_crds::ModelDeployment| {
        let ModelSource::Training(source) = &deployment.spec.model else { return false };
        source.name == name && deployment.namespace() == namespace
    };
    context.deployments.find(names_it).is_some()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        testing::{ApiServer, Step},
        training::fixtures,
    };

    #[test]
    fn the_time_counts_from_the_end_of_the_run() {
        let mut training = fixtures::training();
        let mut status = ModelTrainingStatus {
            phase: Some(Phase::Succeeded),
            finished_at: Some("2026-01-01T00:00:00Z".into()),
            ..Default::default()
        };
        let now = "2026-01-01T00:10:00Z".parse().unwrap();
        assert_eq!(remaining(&training, &status, now), None);
        training.spec.ttl_after_finished = Some(stoker_crds::Duration::from_secs(3600));
        assert_eq!(remaining(&training, &status, now), Some(SignedDuration::from_mins(50)));
        status.phase = Some(Phase::Training);
        assert_eq!(remaining(&training, &status, now), None);
    }

    #[tokio::test]
    async fn what_was_edited_meanwhile_is_not_deleted_but_looked_at_again() {
        let mut training = fixtures::training();
        training.spec.ttl_after_finished = Some(stoker_crds::Duration::from_secs(1));
        let status = ModelTrainingStatus {
            phase: Some(Phase::Succeeded),
            finished_at: Some("2026-01-01T00:00:00Z".into()),
            ..Default::default()
        };
        let path = "/apis/stoker.dev/v1alpha1/namespaces/team/modeltrainings/digits";
        let deleted = json!({"kind": "Status", "apiVersion": "v1", "status": "Success"});
        let server = ApiServer::expecting([
            Step::refuse("DELETE", path, 409, "Conflict", "the object has been modified"),
            Step::written("DELETE", path, deleted),
        ]);
        let (context, _writers) = server.context();
        for look_again in [Some(LOOK_AGAIN_SOON), None] {
            assert_eq!(expire(&context, &training, &status).await.unwrap(), look_again);
        }
        drop(context);
        for request in server.requests().await {
            let as_read = json!({"resourceVersion": "10", "uid": training.metadata.uid});
            assert_eq!(request.body["preconditions"], as_read);
        }
    }
}
