//! The area under the ROC curve.

/// The probability that a positive row scores higher than a negative one, where equal scores count half (Mann-Whitney's
/// U over the number of pairs). `None` if there are no positive or no negative rows.
///
/// `rows` are (score, whether it is positive), in any order; they are sorted.
pub(super) fn auc(rows: &mut [(f32, bool)]) -> Option<f64> {
    rows.sort_unstable_by(|(left, _), (right, _)| left.total_cmp(right));
    let (mut below, mut pairs, mut positives) = (0u64, 0.0, 0u64);
    for tied in rows.chunk_by(|(left, _), (right, _)| left == right) {
        let positive = tied.iter().filter(|(_, positive)| *positive).count() as u64;
        let negative = tied.len() as u64 - positive;
        pairs += positive as f64 * (below as f64 + negative as f64 / 2.0);
        below += negative;
        positives += positive;
    }
    (positives > 0 && below > 0).then(|| pairs / (positives as f64 * below as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(positives: &[f32], negatives: &[f32]) -> Option<f64> {
        let rows = positives.iter().map(|score| (*score, true)).chain(negatives.iter().map(|score| (*score, false)));
        auc(&mut rows.collect::<Vec<_>>())
    }

    #[test]
    fn ties_count_half() {
        assert_eq!(area(&[0.5, 0.5], &[0.5, 0.5]), Some(0.5));
        // Pairs: 0.5 above 0.3, 0.5 equal to 0.5; 0.9 above both: 3.5 of 4.
        assert_eq!(area(&[0.5, 0.9], &[0.3, 0.5]), Some(0.875));
        assert_eq!(area(&[0.0, -0.0], &[-0.0]), Some(0.5));
    }

    #[test]
    fn the_extremes_are_one_and_zero() {
        assert_eq!(area(&[0.8, 0.9], &[0.1, 0.2]), Some(1.0));
        assert_eq!(area(&[0.1], &[0.8, 0.9]), Some(0.0));
    }

    #[test]
    fn one_class_alone_has_none() {
        assert_eq!(area(&[0.8], &[]), None);
        assert_eq!(area(&[], &[0.8]), None);
    }
}
