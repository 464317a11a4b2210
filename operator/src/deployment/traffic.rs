//! How requests fare: rates, times and errors out of the counters that serving pods show. Pure.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use stoker_crds::{
    deployment::status::ServingMetrics,
    serving::{LATENCY_BOUNDS, ServerStats},
};

/// The span that rates and times are of.
const WINDOW: Duration = Duration::from_secs(60);
/// Samples between the first and the last of the window are kept no closer than this.
const SPACING: Duration = Duration::from_secs(10);
/// A figure that differs by a smaller share from the one in status is not news.
const NEWS: f64 = 0.1;

/// The counters of a deployment's pods over the last [`WINDOW`], by the pods' UIDs.
#[derive(Debug, Default)]
pub(crate) struct Traffic(HashMap<String, VecDeque<Sample>>);

#[derive(Debug)]
struct Sample {
    at: Instant,
    stats: Arc<ServerStats>,
}

/// What happened between two samples.
#[derive(Debug, Default)]
struct Sum {
    per_second: f64,
    requests: u64,
    errors: u64,
    /// Requests per bucket of [`LATENCY_BOUNDS`], and those that took longer.
    buckets: [u64; LATENCY_BOUNDS.len() + 1],
}

impl Traffic {
    /// Takes what a pod answered at a time; an answer that was taken before changes nothing.
    pub(crate) fn add(&mut self, pod: &str, at: Instant, stats: Arc<ServerStats>) {
        let samples = self.0.entry(pod.to_owned()).or_default();
        if samples.back().is_some_and(|last| last.at >= at) {
            return;
        }
        // A container that restarted counts from 0 again.
        if samples.back().is_some_and(|last| stats.requests < last.stats.requests) {
            samples.clear();
        }
        let last_two = samples.len().checked_sub(2).and_then(|second| Some((samples.get(second)?, samples.back()?)));
        if last_two.is_some_and(|(second, last)| last.at - second.at < SPACING) {
            samples.pop_back();
        }
        samples.push_back(Sample { at, stats });
        while samples.len() > 2 && samples.get(1).is_some_and(|second| at - second.at >= WINDOW) {
            samples.pop_front();
        }
    }

    /// Forgets all pods but these.
    pub(crate) fn retain(&mut self, pods: &[&str]) {
        self.0.retain(|pod, _| pods.contains(&pod.as_str()));
    }

    /// The figures over the window, rounded; `None` before two samples of any pod. A pod that fell silent counts no more.
    pub(crate) fn figures(&self, now: Instant) -> Option<ServingMetrics> {
        let spans: Vec<_> = self.0.values().filter_map(|samples| span(samples, now)).collect();
        if spans.is_empty() {
            return None;
        }
        let mut sum = Sum::default();
        for (first, last) in spans {
            sum.add(first, last);
        }
        #[expect(clippy::cast_precision_loss, reason = "counts of a minute are far below 2^53")]
        let error_rate = if sum.requests == 0 { 0.0 } else { sum.errors as f64 / sum.requests as f64 };
        Some(ServingMetrics {
            requests_per_second: round(sum.per_second),
            p50: quantile(&sum.buckets, 0.5).map(milliseconds),
            p95: quantile(&sum.buckets, 0.95).map(milliseconds),
            error_rate: round(error_rate),
        })
    }
}

/// Whether `new` says something that `old` does not, beyond noise.
pub(crate) fn is_news(old: Option<&ServingMetrics>, new: Option<&ServingMetrics>) -> bool {
    let (Some(old), Some(new)) = (old, new) else { return old.is_some() != new.is_some() };
    let seconds = |text: &Option<String>| text.as_deref().and_then(seconds);
    differs(old.requests_per_second, new.requests_per_second)
        || differs(old.error_rate, new.error_rate)
        || old.p95.is_some() != new.p95.is_some()
        || differs(seconds(&old.p50).unwrap_or(0.0), seconds(&new.p50).unwrap_or(0.0))
        || differs(seconds(&old.p95).unwrap_or(0.0), seconds(&new.p95).unwrap_or(0.0))
}

fn differs(old: f64, new: f64) -> bool {
    (old - new).abs() > NEWS * old.abs().max(new.abs())
}

fn span(samples: &VecDeque<Sample>, now: Instant) -> Option<(&Sample, &Sample)> {
    let (first, last) = (samples.front()?, samples.back()?);
    let is_fresh = now.saturating_duration_since(last.at) < WINDOW;
    (last.at > first.at && is_fresh).then_some((first, last))
}

impl Sum {
    fn add(&mut self, first: &Sample, last: &Sample) {
        let requests = last.stats.requests.saturating_sub(first.stats.requests);
        #[expect(clippy::cast_precision_loss, reason = "counts of a minute are far below 2^53")]
        let per_second = requests as f64 / (last.at - first.at).as_secs_f64();
        self.per_second += per_second;
        self.requests += requests;
        self.errors += last.stats.errors.saturating_sub(first.stats.errors);
        let before = first.stats.latency_buckets.iter().copied().chain(std::iter::repeat(0));
        let counts = last.stats.latency_buckets.iter().zip(before);
        for (bucket, (now, before)) in self.buckets.iter_mut().zip(counts) {
            *bucket += now.saturating_sub(before);
        }
    }
}

/// The time, in seconds, within which that share of the requests was answered: linear within its bucket, as
/// Prometheus' `histogram_quantile` does it. What took longer than every bound counts as the last bound.
#[expect(clippy::cast_precision_loss, reason = "counts of a minute are far below 2^53")]
fn quantile(buckets: &[u64], share: f64) -> Option<f64> {
    let total: u64 = buckets.iter().sum();
    if total == 0 {
        return None;
    }
    let rank = share * total as f64;
    let (mut below, mut lower) = (0.0, 0.0);
    for (count, upper) in buckets.iter().zip(LATENCY_BOUNDS) {
        let count = *count as f64;
        if count > 0.0 && below + count >= rank {
            return Some(lower + (upper - lower) * (rank - below) / count);
        }
        below += count;
        lower = upper;
    }
    Some(lower)
}

/// Two significant digits.
fn round(value: f64) -> f64 {
    if value <= 0.0 {
        return 0.0;
    }
    let digits = 1 - value.log10().floor().clamp(-3.0, 1.0) as i32;
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

fn milliseconds(seconds: f64) -> String {
    let millis = seconds * 1000.0;
    if millis < 10.0 { format!("{millis:.1}ms") } else { format!("{millis:.0}ms") }
}

fn seconds(text: &str) -> Option<f64> {
    text.strip_suffix("ms")?.parse::<f64>().ok().map(|millis| millis / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(requests: u64, errors: u64, buckets: &[(usize, u64)]) -> ServerStats {
        let mut latency_buckets = vec![0; LATENCY_BOUNDS.len() + 1];
        for (bucket, count) in buckets {
            latency_buckets[*bucket] = *count;
        }
        ServerStats { requests, errors, latency_buckets, ..ServerStats::default() }
    }

    /// What was gathered of samples (second, pod, counters), and the time of the last.
    fn gather(samples: &[(u64, &str, ServerStats)]) -> (Traffic, Instant) {
        let start = Instant::now();
        let mut traffic = Traffic::default();
        for (second, pod, stats) in samples {
            traffic.add(pod, start + Duration::from_secs(*second), Arc::new(stats.clone()));
        }
        let last = samples.iter().map(|(second, ..)| *second).max().unwrap_or(0);
        (traffic, start + Duration::from_secs(last))
    }

    fn figures(samples: &[(u64, &str, ServerStats)]) -> Option<ServingMetrics> {
        let (traffic, now) = gather(samples);
        traffic.figures(now)
    }

    #[test]
    fn one_sample_gives_no_figures() {
        assert_eq!(figures(&[(0, "a", stats(100, 0, &[]))]), None);
    }

    #[test]
    fn rates_of_all_pods_add_up() {
        let figures = figures(&[
            (0, "a", stats(100, 0, &[])),
            (0, "b", stats(0, 0, &[])),
            (10, "a", stats(900, 8, &[(1, 800)])),
            (10, "b", stats(400, 4, &[(1, 400)])),
        ]);
        let figures = figures.unwrap();
        assert_eq!((figures.requests_per_second, figures.error_rate), (120.0, 0.01));
    }

    #[test]
    fn a_restarted_container_starts_over() {
        let restart = [(0, "a", stats(100, 0, &[])), (10, "a", stats(20, 0, &[])), (20, "a", stats(70, 0, &[]))];
        assert_eq!(figures(&restart[..2]), None);
        assert_eq!(figures(&restart).unwrap().requests_per_second, 5.0);
    }

    #[test]
    fn what_is_older_than_the_window_does_not_count() {
        // 1,000 requests per second at first, then 10.
        let requests = |second: u64| if second < 100 { second * 1000 } else { 99_000 + second * 10 };
        let samples: Vec<_> = (0..=100).map(|i| (2 * i, "a", stats(requests(2 * i), 0, &[]))).collect();
        let (traffic, now) = gather(&samples);
        assert_eq!(traffic.figures(now).unwrap().requests_per_second, 10.0);
        assert!(traffic.0["a"].len() <= 8, "{} samples are kept", traffic.0["a"].len());
        assert_eq!(traffic.figures(now + WINDOW), None, "a silent pod still counts");
    }

    #[test]
    fn a_pod_that_is_gone_does_not_count() {
        let (mut traffic, now) = gather(&[(0, "gone", stats(0, 0, &[])), (10, "gone", stats(100, 0, &[]))]);
        traffic.retain(&["a"]);
        assert_eq!(traffic.figures(now), None);
    }

    #[test]
    fn an_answer_counts_once() {
        let samples = [(0, "a", stats(0, 0, &[])), (10, "a", stats(50, 0, &[])), (10, "a", stats(50, 0, &[]))];
        let (traffic, now) = gather(&samples);
        assert_eq!(traffic.0["a"].len(), 2);
        assert_eq!(traffic.figures(now).unwrap().requests_per_second, 5.0);
    }

    #[test]
    fn quantiles_are_linear_within_a_bucket() {
        // 80 requests between 0.5 and 1 ms, 20 between 20 and 50 ms.
        let figures = figures(&[(0, "a", stats(0, 0, &[])), (10, "a", stats(100, 0, &[(1, 80), (8, 20)]))]).unwrap();
        // 0.5 + 0.5 * 50 / 80, and 20 + 30 * 15 / 20.
        assert_eq!((figures.p50.as_deref(), figures.p95.as_deref()), (Some("0.8ms"), Some("42ms")));
        let slow = quantile(&[vec![0; LATENCY_BOUNDS.len()], vec![3]].concat(), 0.5);
        assert_eq!(slow, Some(5.0));
        assert_eq!(quantile(&[0; 15], 0.5), None);
    }

    #[test]
    fn figures_are_rounded_to_two_digits() {
        let cases = [(0.0, 0.0), (123.4, 123.0), (12.34, 12.0), (1.234, 1.2), (0.1234, 0.12), (0.000_04, 0.0)];
        for (value, rounded) in cases {
            assert_eq!(round(value), rounded, "{value}");
        }
    }

    #[test]
    fn noise_is_no_news() {
        let at = |rps, p95: &str| ServingMetrics {
            requests_per_second: rps,
            p95: Some(p95.to_owned()),
            ..ServingMetrics::default()
        };
        assert!(!is_news(Some(&at(120.0, "2.1ms")), Some(&at(125.0, "2.2ms"))));
        assert!(is_news(Some(&at(120.0, "2.1ms")), Some(&at(160.0, "2.1ms"))));
        assert!(is_news(Some(&at(120.0, "2.1ms")), Some(&at(120.0, "4.0ms"))));
        assert!(is_news(Some(&at(120.0, "2.1ms")), Some(&ServingMetrics::default())));
        assert!(is_news(None, Some(&ServingMetrics::default())));
        assert!(!is_news(None, None));
    }
}
