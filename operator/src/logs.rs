//! The last lines of a pod's log, where nothing else says why it failed.

use k8s_openapi::api::core::v1::Pod;
use kube::api::LogParams;

use crate::{
    context::Context,
    error::{Error, Result},
};

/// How many lines of a log stand in status.
const LINES: usize = 10;
/// The most bytes of a log that are read.
const BYTES: i64 = 4096;

/// The last lines that a pod wrote; with `before_restart`, those of its container before the current one.
///
/// # Errors
/// [`Error::Api`] if the log cannot be read.
pub async fn tail(context: &Context, namespace: &str, pod: &str, before_restart: bool) -> Result<Vec<String>> {
    let end = LogParams {
        tail_lines: i64::try_from(LINES).ok(),
        limit_bytes: Some(BYTES),
        previous: before_restart,
        ..LogParams::default()
    };
    let log = context.api::<Pod>(namespace).logs(pod, &end).await;
    Ok(last_lines(&log.map_err(|error| Error::api("read", format!("the log of pod {pod}"), error))?))
}

/// The last lines, each of a length that a terminal shows.
fn last_lines(log: &str) -> Vec<String> {
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LINES)..].iter().map(|line| line.chars().take(400).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_of_a_log_are_few_and_short() {
        let log = (0..30).map(|i| format!("line {i} {}\n\n", "x".repeat(1000))).collect::<String>();
        let lines = last_lines(&log);
        assert_eq!(lines.len(), LINES);
        assert!(lines[0].starts_with("line 20") && lines.iter().all(|line| line.len() == 400));
    }
}
