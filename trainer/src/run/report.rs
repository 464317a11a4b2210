//! The report that a trainer pod leaves behind.

use std::path::Path;

use stoker_crds::{Progress, RunReport, artifact::ModelRef, report::RunError as ReportedError};

/// The report of a run that ended in this state.
pub(super) fn report(progress: Progress, gpu_seconds: f64, result: Result<ModelRef, ReportedError>) -> RunReport {
    let Progress {
        run,
        data,
        estimate,
        epoch,
        total_epochs,
        step,
        total_steps,
        metrics,
        checkpoint,
        device,
        peak_memory_bytes,
        ..
    } = progress;
    let (model, error) = match result {
        Ok(model) => (Some(model), None),
        Err(error) => (None, Some(error)),
    };
    RunReport {
        run,
        data: (data.rows_read > 0).then_some(data),
        estimate,
        metrics,
        epoch,
        total_epochs,
        step,
        total_steps,
        model,
        checkpoint,
        device,
        gpu_seconds,
        peak_memory_bytes,
        error,
    }
}

/// Writes the report where Kubernetes reads it.
///
/// # Errors
/// If the file cannot be written.
pub(super) fn write(report: &RunReport, path: &Path) -> std::io::Result<()> {
    let message = report.to_termination_message().map_err(std::io::Error::other)?;
    std::fs::write(path, message)
}
