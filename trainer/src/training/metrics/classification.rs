//! Accuracy, precision, recall, F1, ROC AUC and the confusion matrix.

use stoker_crds::metric::{self, Metrics};

use super::{Evaluation, MAX_CONFUSION_CLASSES, roc};

/// The most probabilities that are kept for the ROC AUC, 256 MiB of them; it is left out for larger splits.
const MAX_SCORES: usize = 64 << 20;

/// The metrics of a classification: `[rows, classes]` probabilities, row-major, and the rows' true classes.
pub fn classification(probabilities: &[f32], truth: &[u32], classes: usize) -> Evaluation {
    let mut rows = Classification::new(classes);
    rows.add(probabilities, truth);
    rows.finish()
}

/// Counts the rows of a classification, chunk by chunk.
#[derive(Clone, Debug)]
pub struct Classification {
    classes: usize,
    actual: Vec<u64>,
    predicted: Vec<u64>,
    correct: Vec<u64>,
    confusion: Option<Vec<Vec<u64>>>,
    truth: Vec<u32>,
    /// Of two classes only the second one's probabilities, which say all; `None` where there are too many.
    scores: Option<Vec<f32>>,
}

impl Classification {
    /// No rows yet.
    pub fn new(classes: usize) -> Self {
        let zeros = vec![0; classes];
        let confusion = (classes <= MAX_CONFUSION_CLASSES).then(|| vec![zeros.clone(); classes]);
        Self {
            classes,
            actual: zeros.clone(),
            predicted: zeros.clone(),
            correct: zeros,
            confusion,
            truth: Vec::new(),
            scores: Some(Vec::new()),
        }
    }

    /// Adds rows: `[rows, classes]` probabilities, row-major, and the true classes.
    ///
    /// The predicted class is the most probable one, of equally probable ones the first.
    ///
    /// # Panics
    /// If a true class is not below the number of classes.
    pub fn add(&mut self, probabilities: &[f32], truth: &[u32]) {
        for (row, actual) in probabilities.chunks_exact(self.classes).zip(truth) {
            let (actual, predicted) = (*actual as usize, argmax(row));
            self.actual[actual] += 1;
            self.predicted[predicted] += 1;
            self.correct[actual] += u64::from(actual == predicted);
            if let Some(confusion) = &mut self.confusion {
                confusion[actual][predicted] += 1;
            }
        }
        self.keep_scores(probabilities, truth);
    }

    fn keep_scores(&mut self, probabilities: &[f32], truth: &[u32]) {
        let Some(scores) = &mut self.scores else { return };
        let kept = if self.classes == 2 { truth.len() } else { probabilities.len() };
        if scores.len() + kept > MAX_SCORES {
            (self.scores, self.truth) = (None, Vec::new());
        } else {
            self.truth.extend(truth);
            match self.classes {
                2 => scores.extend(probabilities.iter().skip(1).step_by(2)),
                _ => scores.extend(probabilities),
            }
        }
    }

    /// The metrics of all rows; none if there is no row.
    pub fn finish(self) -> Evaluation {
        let rows: u64 = self.actual.iter().sum();
        if rows == 0 {
            return Evaluation::default();
        }
        let mut metrics = Metrics::new();
        let accuracy = ratio(self.correct.iter().sum(), rows);
        metrics.insert(metric::ACCURACY.into(), accuracy);
        for (name, per_class) in self.per_class() {
            // As scikit-learn's: a class that is neither true nor predicted in any row does not count.
            let seen = (0..self.classes).filter(|class| self.actual[*class] + self.predicted[*class] > 0);
            let (count, sum) = seen.fold((0.0, 0.0), |(n, sum), class| (n + 1.0, sum + per_class[class]));
            let weighted: f64 = per_class.iter().zip(&self.actual).map(|(value, n)| value * ratio(*n, rows)).sum();
            let macro_average = sum / count;
            metrics.insert(name.into(), if self.classes == 2 { per_class[1] } else { macro_average });
            if self.classes == 2 {
                metrics.insert(format!("{name}_macro"), macro_average);
            }
            // Every row has one true and one predicted class, so the micro averages are all the accuracy.
            metrics.insert(format!("{name}_micro"), accuracy);
            metrics.insert(format!("{name}_weighted"), weighted);
        }
        if let Some(auc) = self.roc_auc() {
            metrics.insert(metric::ROC_AUC.into(), auc);
        }
        Evaluation { metrics, confusion: self.confusion }
    }

    /// Precision, recall and F1 of each class; 0 where nothing was predicted, or is true.
    fn per_class(&self) -> [(&'static str, Vec<f64>); 3] {
        let each = |value: &dyn Fn(usize) -> f64| (0..self.classes).map(value).collect();
        [
            (metric::PRECISION, each(&|class| ratio(self.correct[class], self.predicted[class]))),
            (metric::RECALL, each(&|class| ratio(self.correct[class], self.actual[class]))),
            (metric::F1, each(&|class| ratio(2 * self.correct[class], self.predicted[class] + self.actual[class]))),
        ]
    }

    /// Of two classes that of the second one; of more the mean of each against the rest, over the classes that some but
    /// not all rows are of.
    fn roc_auc(&self) -> Option<f64> {
        let scores = self.scores.as_ref()?;
        let auc = |class: usize, scores: &mut dyn Iterator<Item = f32>| {
            let mut rows: Vec<_> = scores.zip(self.truth.iter().map(|truth| *truth as usize == class)).collect();
            roc::auc(&mut rows)
        };
        if self.classes == 2 {
            return auc(1, &mut scores.iter().copied());
        }
        let classes = (0..self.classes)
            .filter_map(|class| auc(class, &mut scores.iter().skip(class).step_by(self.classes).copied()))
            .collect::<Vec<_>>();
        (!classes.is_empty()).then(|| classes.iter().sum::<f64>() / classes.len() as f64)
    }
}

fn argmax(row: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in row.iter().enumerate() {
        if *value > row[best] {
            best = index;
        }
    }
    best
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rational numbers of small integers in f64, in another order of operations.
    #[track_caller]
    fn assert_metric(evaluation: &Evaluation, name: &str, expected: f64) {
        let actual = evaluation.metrics[name];
        assert!((actual - expected).abs() < 1e-14, "{name} is {actual}, not {expected}");
    }

    /// Sure of the given classes.
    fn sure(predicted: &[u32], classes: usize) -> Vec<f32> {
        let row = |class: u32| (0..classes).map(move |index| if index == class as usize { 1.0 } else { 0.0 });
        predicted.iter().flat_map(|class| row(*class)).collect()
    }

    /// scikit-learn's example of `precision_recall_fscore_support`: y_true = [0, 1, 2, 0, 1, 2], y_pred = [0, 2, 1, 0, 0, 1].
    #[test]
    fn three_classes_are_averaged_as_scikit_learn_does() {
        let evaluation = classification(&sure(&[0, 2, 1, 0, 0, 1], 3), &[0, 1, 2, 0, 1, 2], 3);
        assert_metric(&evaluation, "accuracy", 1.0 / 3.0);
        // macro (0.22…, 0.33…, 0.26…), micro (0.33… each), weighted (as macro: two rows of each class).
        for (average, [precision, recall, f1]) in [
            ("", [2.0 / 9.0, 1.0 / 3.0, 4.0 / 15.0]),
            ("_micro", [1.0 / 3.0; 3]),
            ("_weighted", [2.0 / 9.0, 1.0 / 3.0, 4.0 / 15.0]),
        ] {
            assert_metric(&evaluation, &format!("precision{average}"), precision);
            assert_metric(&evaluation, &format!("recall{average}"), recall);
            assert_metric(&evaluation, &format!("f1{average}"), f1);
        }
        assert_eq!(evaluation.confusion, Some(vec![vec![2, 0, 0], vec![1, 0, 1], vec![0, 2, 0]]));
    }

    #[test]
    fn unequal_classes_weigh_as_their_rows() {
        // Class 0: precision 2/3, recall 2/3. Class 1: precision 0, recall 0. Class 2 is never seen.
        let evaluation = classification(&sure(&[0, 0, 1, 0], 3), &[0, 0, 0, 1], 3);
        assert_metric(&evaluation, "precision", 1.0 / 3.0);
        assert_metric(&evaluation, "precision_weighted", 0.5);
        assert_metric(&evaluation, "f1", 1.0 / 3.0);
        assert!(!evaluation.metrics.contains_key("precision_macro"));
    }

    #[test]
    fn of_two_classes_the_second_one_counts() {
        // 1 true positive, 1 false positive, 2 false negatives, 2 true negatives.
        let evaluation = classification(&sure(&[1, 1, 0, 0, 0, 0], 2), &[1, 0, 1, 1, 0, 0], 2);
        assert_metric(&evaluation, "accuracy", 0.5);
        assert_metric(&evaluation, "precision", 0.5);
        assert_metric(&evaluation, "recall", 1.0 / 3.0);
        assert_metric(&evaluation, "f1", 0.4);
        assert_metric(&evaluation, "precision_macro", 0.5);
        assert_metric(&evaluation, "recall_macro", 0.5);
        assert_metric(&evaluation, "f1_macro", (0.4 + 4.0 / 7.0) / 2.0);
        assert_metric(&evaluation, "f1_micro", 0.5);
    }

    /// scikit-learn's example of `roc_auc_score`: y = [0, 0, 1, 1], scores = [0.1, 0.4, 0.35, 0.8] gives 0.75.
    #[test]
    fn the_roc_auc_of_two_classes_is_scikit_learns() {
        let probabilities: Vec<f32> = [0.1, 0.4, 0.35, 0.8].into_iter().flat_map(|p: f32| [1.0 - p, p]).collect();
        assert_metric(&classification(&probabilities, &[0, 0, 1, 1], 2), "roc_auc", 0.75);
    }

    /// Class 0: its row is above both others (1). Class 1: above one of two (1/2). Class 2: below both (0).
    #[test]
    fn the_roc_auc_of_several_classes_is_the_mean_of_each_against_the_rest() {
        let probabilities = [0.8, 0.1, 0.1, 0.2, 0.3, 0.5, 0.5, 0.45, 0.05];
        assert_metric(&classification(&probabilities, &[0, 1, 2], 3), "roc_auc", 0.5);
    }

    #[test]
    fn a_roc_auc_of_one_class_is_not_defined() {
        let evaluation = classification(&[0.2, 0.8, 0.4, 0.6], &[1, 1], 2);
        assert!(!evaluation.metrics.contains_key("roc_auc"));
        assert_metric(&evaluation, "accuracy", 1.0);
    }

    #[test]
    fn chunks_add_up_to_the_whole() {
        let probabilities = [0.9, 0.1, 0.3, 0.7, 0.5, 0.5, 0.2, 0.8];
        let truth = [0, 1, 1, 0];
        let mut chunks = Classification::new(2);
        chunks.add(&probabilities[..6], &truth[..3]);
        chunks.add(&probabilities[6..], &truth[3..]);
        assert_eq!(chunks.finish(), classification(&probabilities, &truth, 2));
    }

    #[test]
    fn no_rows_have_no_metrics() {
        assert_eq!(classification(&[], &[], 2), Evaluation::default());
    }
}
