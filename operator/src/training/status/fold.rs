//! Takes what pods tell, while they run and when they end, into a status.

use std::collections::BTreeMap;

use jiff::Timestamp;
use stoker_crds::{
    ModelTrainingStatus, Progress, RunReport,
    progress::{DeviceInfo, Estimate, MAX_HISTORY, MAX_SAMPLE_CHARACTERS, MAX_SAMPLES, Sample, Throughput},
    quantity,
    training::{
        evaluation::MAX_PROMPT_CHARACTERS,
        status::{TrainingEstimate, TrainingProgress},
    },
};

use super::{Facts, outcome::has_just_started, summary};
use crate::pods::{PodView, State};

/// The most warnings that stand in status.
const MAX_WARNINGS: usize = 10;

/// Takes everything observed of a run into its status.
pub(super) fn observations(status: &mut ModelTrainingStatus, facts: &Facts<'_>) {
    let pods = &facts.observed.pods;
    pods_seen(status, facts);
    if let Some(progress) = facts.observed.progress.as_deref() {
        progress_of(status, progress);
    }
    let reports: Vec<(&PodView, RunReport)> =
        pods.iter().filter_map(|pod| Some((pod.as_ref(), pod.report()?))).collect();
    let newest = pods.last().map(|pod| &pod.name);
    if let Some((_, report)) = reports.last().filter(|(pod, _)| newest == Some(&pod.name)) {
        report_of(status, report);
    }
    for (_, report) in &reports {
        used(status, None, report.peak_memory_bytes);
    }
    count_gpu_seconds(status, &reports);
}

/// Adds the GPU-seconds of the pods that have ended since the last count: reports vanish with their pods, and what was counted
/// stays. One pod works on a run at a time, so they end in the order in which they were created.
fn count_gpu_seconds(status: &mut ModelTrainingStatus, reports: &[(&PodView, RunReport)]) {
    let known = status.resources.as_ref();
    let counted_until: Option<Timestamp> = known.and_then(|resources| resources.counted_until.as_ref()?.parse().ok());
    let counts = reports.iter().map(|(pod, report)| (pod.created_at, report.gpu_seconds));
    let is_new = |at: Timestamp| counted_until.is_none_or(|until| at > until);
    let new: Vec<(Timestamp, f64)> = counts.filter(|(at, seconds)| is_new(*at) && *seconds > 0.0).collect();
    let Some((newest, _)) = new.last() else { return };
    let seconds: f64 = new.iter().map(|(_, seconds)| seconds).sum();
    let resources = status.resources.get_or_insert_default();
    resources.counted_until = Some(newest.to_string());
    resources.gpu_seconds = match counted_until {
        Some(_) => resources.gpu_seconds + seconds,
        // An earlier version has counted without a word on which pods.
        None => resources.gpu_seconds.max(seconds),
    };
}

/// Counts restarts: a pod other than the last one known took over, or several have been at work.
fn pods_seen(status: &mut ModelTrainingStatus, facts: &Facts<'_>) {
    let at_work: Vec<&PodView> =
        facts.observed.pods.iter().map(AsRef::as_ref).filter(|pod| has_worked(pod, facts)).collect();
    let (Some(first), Some(newest)) = (at_work.first(), at_work.last()) else { return };
    let took_over = status.pod.as_ref().is_some_and(|last| *last != newest.name);
    let before = u32::try_from(at_work.len() - 1).unwrap_or(u32::MAX);
    status.restarts = before.max(status.restarts.saturating_add(u32::from(took_over)));
    status.pod = Some(newest.name.clone());
    status.started_at.get_or_insert_with(|| first.created_at.to_string());
}

/// Whether a pod has come so far that it is worth a word: what only waits, or has just started, may change at once.
fn has_worked(pod: &PodView, facts: &Facts<'_>) -> bool {
    let answers = facts.observed.progress.is_some();
    pod.state.has_ended() || pod.state == State::Running && (answers || !has_just_started(pod, facts.now))
}

fn progress_of(status: &mut ModelTrainingStatus, progress: &Progress) {
    let Progress {
        run: _,
        stage: _,
        data,
        epoch,
        total_epochs,
        step,
        total_steps,
        throughput,
        eta_seconds,
        estimate,
        metrics,
        history,
        samples,
        checkpoint,
        resumed_from,
        warnings,
        device,
        peak_memory_bytes,
    } = progress;
    status.progress = Some(TrainingProgress {
        percent: percent(*step, *total_steps),
        epoch: *epoch,
        total_epochs: *total_epochs,
        step: *step,
        total_steps: *total_steps,
        throughput: rounded(throughput),
        eta: eta_seconds.and_then(summary::duration),
        resumed_from: *resumed_from,
    });
    if data.rows_read > 0 {
        status.data = Some(data.clone());
    }
    if let Some(estimate) = estimate {
        status.estimate = Some(in_words(estimate));
    }
    if !metrics.is_empty() {
        status.metrics.clone_from(metrics);
    }
    if !history.is_empty() {
        status.history = history.iter().take(MAX_HISTORY).cloned().collect();
    }
    if !samples.is_empty() {
        status.samples = samples.iter().rev().take(MAX_SAMPLES).rev().map(bounded).collect();
    }
    if checkpoint.is_some() {
        status.checkpoint.clone_from(checkpoint);
    }
    status.warnings = warnings.iter().take(MAX_WARNINGS).map(|warning| warning.chars().take(500).collect()).collect();
    used(status, device.as_ref(), *peak_memory_bytes);
}

/// The end of a pod is the last word on everything that its report names.
fn report_of(status: &mut ModelTrainingStatus, report: &RunReport) {
    let RunReport {
        run: _,
        data,
        estimate,
        metrics,
        epoch,
        total_epochs,
        step,
        total_steps,
        model,
        checkpoint,
        device,
        gpu_seconds: _,
        peak_memory_bytes,
        error: _,
    } = report;
    let is_done = model.is_some();
    let progress = status.progress.get_or_insert_default();
    progress.epoch = *epoch;
    progress.total_epochs = (*total_epochs).max(*epoch);
    progress.step = *step;
    progress.total_steps = *total_steps;
    progress.percent = if is_done { 100 } else { percent(*step, *total_steps) };
    // What a model was trained at stays to be read.
    if !is_done {
        progress.throughput = Throughput::default();
    }
    progress.eta = None;
    if data.is_some() {
        status.data.clone_from(data);
    }
    if let Some(estimate) = estimate {
        status.estimate = Some(in_words(estimate));
    }
    let final_metrics: BTreeMap<_, _> = metrics.clone();
    status.metrics.extend(final_metrics);
    if checkpoint.is_some() {
        status.checkpoint.clone_from(checkpoint);
    }
    used(status, device.as_ref(), *peak_memory_bytes);
}

fn used(status: &mut ModelTrainingStatus, device: Option<&DeviceInfo>, peak_memory_bytes: u64) {
    if device.is_none() && peak_memory_bytes == 0 {
        return;
    }
    let resources = status.resources.get_or_insert_default();
    if let Some(device) = device {
        resources.device.clone_from(&device.name);
        if let Some(bytes) = device.memory_bytes {
            resources.device_memory = Some(summary::bytes(bytes));
        }
    }
    let peak = resources.peak_memory.as_deref().and_then(quantity::bytes).unwrap_or(0);
    if peak_memory_bytes > peak {
        resources.peak_memory = Some(summary::bytes(peak_memory_bytes));
    }
}

/// Figures as exact as a person needs them.
fn rounded(throughput: &Throughput) -> Throughput {
    let Throughput { samples_per_second, tokens_per_second, tflops, mfu, data_wait, checkpoint_stall } = *throughput;
    let whole = |rate: Option<f64>| rate.map(f64::round).filter(|rate| *rate > 0.0);
    let thousandths = |share: f64| (share * 1000.0).round() / 1000.0;
    Throughput {
        samples_per_second: whole(samples_per_second),
        tokens_per_second: whole(tokens_per_second),
        tflops: tflops.map(thousandths).filter(|tflops| *tflops > 0.0),
        mfu: mfu.map(thousandths),
        data_wait: data_wait.map(thousandths),
        checkpoint_stall: checkpoint_stall.map(thousandths),
    }
}

fn in_words(estimate: &Estimate) -> TrainingEstimate {
    let Estimate { parameters, weights_bytes, gradients_bytes, optimizer_bytes, activations_bytes, copies_bytes } =
        *estimate;
    TrainingEstimate {
        parameters,
        memory: summary::bytes(estimate.memory_bytes()),
        weights: summary::bytes(weights_bytes),
        gradients: summary::bytes(gradients_bytes),
        optimizer: summary::bytes(optimizer_bytes),
        activations: summary::bytes(activations_bytes),
        copies: summary::bytes(copies_bytes),
    }
}

/// A sample of no more than may be: what pods say is not trusted to be short.
fn bounded(Sample { step, prompt, text }: &Sample) -> Sample {
    let first = |text: &str, most| text.chars().take(most).collect();
    Sample { step: *step, prompt: first(prompt, MAX_PROMPT_CHARACTERS), text: first(text, MAX_SAMPLE_CHARACTERS) }
}

fn percent(step: u64, total: u64) -> u32 {
    let percent = step.saturating_mul(100).checked_div(total).unwrap_or(0);
    u32::try_from(percent.min(100)).unwrap_or(100)
}
