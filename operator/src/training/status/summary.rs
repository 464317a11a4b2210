//! A status in few words, for the columns of `kubectl get`.

use std::collections::BTreeMap;

use stoker_crds::{
    Duration, ModelTrainingStatus,
    metric::{ACCURACY, LOSS, Metrics, PERPLEXITY, R2, Split},
    training::status::{Phase, TrainingSummary},
};

/// The columns of a status.
pub(super) fn of(status: &ModelTrainingStatus) -> TrainingSummary {
    let progress = status.progress.as_ref();
    let is_running = status.phase.is_some_and(Phase::is_running);
    TrainingSummary {
        progress: progress.map(|progress| format!("{}%", progress.percent)),
        epoch: progress.filter(|progress| progress.total_epochs > 0).map(|p| format!("{}/{}", p.epoch, p.total_epochs)),
        loss: loss(&status.metrics, is_running).map(significant),
        metric: main_metric(&status.metrics),
        eta: progress.and_then(|progress| progress.eta.clone()).filter(|_| is_running),
    }
}

/// The metrics that a version is known by: of the test split, or of validation where there is none.
pub(super) fn final_metrics(metrics: &BTreeMap<Split, Metrics>) -> Option<&Metrics> {
    metrics.get(&Split::Test).or_else(|| metrics.get(&Split::Validation))
}

/// Of a run that goes on the mean loss of its epoch so far, which moves, and not that of its last evaluation, which stands still;
/// of one that is over that of rows that it has not learned from, where there are such.
fn loss(metrics: &BTreeMap<Split, Metrics>, is_running: bool) -> Option<f64> {
    let splits = if is_running { [Split::Train, Split::Validation] } else { [Split::Validation, Split::Train] };
    splits.into_iter().find_map(|split| metrics.get(&split)?.get(LOSS).copied())
}

/// Accuracy of a classification, R² of a regression, perplexity of a language model.
fn main_metric(metrics: &BTreeMap<Split, Metrics>) -> Option<String> {
    let splits = [Split::Test, Split::Validation, Split::Train];
    let values = splits.into_iter().filter_map(|split| metrics.get(&split));
    let mut named = values.flat_map(|metrics| [ACCURACY, R2, PERPLEXITY].map(|name| (name, metrics.get(name))));
    named.find_map(|(name, value)| Some(format!("{name} {}", shortest(format!("{:.4}", value?)))))
}

/// A number in three significant digits.
fn significant(value: f64) -> String {
    let magnitude = if value == 0.0 { 0.0 } else { value.abs().log10().floor() };
    if !(-4.0..6.0).contains(&magnitude) {
        return format!("{value:.2e}");
    }
    // The magnitude lies between -4 and 5 here.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small non-negative whole number")]
    let decimals = (2.0 - magnitude).max(0.0) as usize;
    format!("{value:.decimals$}")
}

/// Without zeros at the end.
fn shortest(number: String) -> String {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.').to_owned() } else { number }
}

/// A time to wait, as exact as a person needs it: `12s`, `2m5s`, `1h30m`.
pub(super) fn duration(seconds: f64) -> Option<String> {
    let whole = std::time::Duration::try_from_secs_f64(seconds.max(0.0)).ok()?.as_secs();
    let rounded = if whole >= 3600 { whole / 60 * 60 } else { whole };
    Some(Duration::from_secs(rounded).to_string())
}

/// An amount of memory, such as `1.5Gi`.
pub(super) fn bytes(bytes: u64) -> String {
    let units = [("Gi", 1_u64 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];
    match units.into_iter().find(|(_, size)| bytes >= *size) {
        Some(("Gi", size)) => {
            let tenths = bytes.saturating_mul(10) / size;
            format!("{}Gi", shortest(format!("{}.{}", tenths / 10, tenths % 10)))
        }
        Some((unit, size)) => format!("{}{unit}", bytes / size),
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_exact_as_a_person_needs_them() {
        let losses = [
            (0.08134, "0.0813"),
            (12.345, "12.3"),
            (2.0, "2.00"),
            (0.0, "0.00"),
            (1.234e-7, "1.23e-7"),
            (123_456.0, "123456"),
        ];
        assert_eq!(losses.map(|(value, _)| significant(value)), losses.map(|(_, text)| text.to_owned()));
        let waits = [(12.4, "12s"), (125.0, "2m5s"), (5400.0, "1h30m"), (5425.0, "1h30m"), (0.2, "0s")];
        assert_eq!(waits.map(|(value, _)| duration(value).unwrap()), waits.map(|(_, text)| text.to_owned()));
        let sizes = [(3 << 29, "1.5Gi"), (1 << 30, "1Gi"), (300 << 20, "300Mi"), (12, "12")];
        assert_eq!(sizes.map(|(value, _)| bytes(value)), sizes.map(|(_, text)| text.to_owned()));
    }

    #[test]
    fn the_loss_moves_while_a_run_goes_on_and_is_that_of_validation_afterwards() {
        let of = |split, value| (split, Metrics::from([(LOSS.to_owned(), value)]));
        let both = BTreeMap::from([of(Split::Train, 0.08), of(Split::Validation, 0.11)]);
        assert_eq!([true, false].map(|is_running| loss(&both, is_running)), [Some(0.08), Some(0.11)]);
        let alone = BTreeMap::from([of(Split::Train, 0.08)]);
        assert_eq!([true, false].map(|is_running| loss(&alone, is_running)), [Some(0.08); 2]);
        assert_eq!(loss(&BTreeMap::new(), true), None);
    }

    #[test]
    fn the_main_metric_is_that_of_the_task_on_the_rows_that_count_most() {
        let metrics = |split, name: &str, value| (split, Metrics::from([(name.to_owned(), value)]));
        let both = BTreeMap::from([metrics(Split::Train, ACCURACY, 1.0), metrics(Split::Test, ACCURACY, 0.97)]);
        assert_eq!(main_metric(&both).as_deref(), Some("accuracy 0.97"));
        assert_eq!(
            main_metric(&BTreeMap::from([metrics(Split::Validation, R2, 0.91234)])).as_deref(),
            Some("r2 0.9123")
        );
        assert_eq!(main_metric(&BTreeMap::new()), None);
    }
}
