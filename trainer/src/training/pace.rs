//! Rows per second.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Over how long the pace is taken.
const WINDOW: Duration = Duration::from_secs(5);
/// How often a mark is set.
const MARK: Duration = Duration::from_millis(100);

/// Rows per second over the last seconds.
#[derive(Debug)]
pub(super) struct Pace {
    rows: u64,
    marks: VecDeque<(Instant, u64)>,
    per_second: f64,
}

impl Pace {
    pub(super) fn start(now: Instant) -> Self {
        Self { rows: 0, marks: [(now, 0)].into(), per_second: 0.0 }
    }

    /// Counts rows that were done up to now, and answers the pace.
    pub(super) fn count(&mut self, rows: usize, now: Instant) -> f64 {
        self.rows += rows as u64;
        if self.marks.back().is_none_or(|(last, _)| now - *last >= MARK) {
            self.marks.push_back((now, self.rows));
            while self.marks.get(1).is_some_and(|(mark, _)| now - *mark >= WINDOW) {
                self.marks.pop_front();
            }
            if let Some((first, rows)) = self.marks.front() {
                self.per_second = (self.rows - rows) as f64 / (now - *first).as_secs_f64();
            }
        }
        self.per_second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_that_of_the_last_seconds() {
        let start = Instant::now();
        let mut pace = Pace::start(start);
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        assert!(pace.count(10, at(0.05)) == 0.0, "too early to tell");
        for tenth in 1..=100 {
            pace.count(100, at(f64::from(tenth) / 10.0));
        }
        let slow = (101..=200).map(|tenth| pace.count(1, at(f64::from(tenth) / 10.0))).last().unwrap();
        // 1 row each 0.1 s: what was faster is more than 5 s ago.
        assert!((slow - 10.0).abs() < 1e-6, "{slow}");
    }
}
