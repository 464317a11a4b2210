//! How the metrics went, in a bounded number of points.

use serde::{Deserialize, Serialize};
use stoker_crds::progress::{HistoryPoint, MAX_HISTORY};

/// Points of evaluations an equal number of them apart, and the latest one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct History {
    stride: u64,
    /// Evaluations so far.
    count: u64,
    /// Those of the evaluations `stride`, 2 · `stride`, …, counted from 1, and the latest.
    points: Vec<HistoryPoint>,
}

impl Default for History {
    fn default() -> Self {
        Self { stride: 1, count: 0, points: Vec::new() }
    }
}

impl History {
    /// At most [`MAX_HISTORY`] points; the last one is the latest.
    pub(super) fn points(&self) -> &[HistoryPoint] {
        &self.points
    }

    /// Adds a point. Where there would be too many, every second one is dropped.
    pub(super) fn push(&mut self, point: HistoryPoint) {
        // The latest point is kept whatever its number; it goes when the next one comes.
        if !self.count.is_multiple_of(self.stride) {
            self.points.pop();
        }
        self.count += 1;
        self.points.push(point);
        while self.points.len() > MAX_HISTORY {
            self.stride *= 2;
            let last = self.points.len() - 1;
            let mut index = 0..;
            self.points.retain(|_| index.next().is_some_and(|index| index == last || index % 2 == 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs(history: &History) -> Vec<u32> {
        history.points().iter().map(|point| point.epoch).collect()
    }

    fn history(epochs: u32) -> History {
        let mut history = History::default();
        for epoch in 1..=epochs {
            history.push(HistoryPoint { epoch, step: 0, metrics: Default::default() });
        }
        history
    }

    #[test]
    fn few_epochs_are_all_kept() {
        assert_eq!(epochs(&history(50)), (1..=50).collect::<Vec<_>>());
    }

    #[test]
    fn many_epochs_are_thinned_evenly_and_the_last_one_is_there() {
        assert_eq!(epochs(&history(51)), (2..=50).step_by(2).chain([51]).collect::<Vec<_>>());
        let many = epochs(&history(12_345));
        assert!(many.len() <= MAX_HISTORY, "{}", many.len());
        assert_eq!(many.last(), Some(&12_345));
        assert!(many[..many.len() - 1].windows(2).all(|pair| pair[1] - pair[0] == 256), "{many:?}");
    }
}
