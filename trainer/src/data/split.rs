//! How many rows go into which split, and which row into which.

use std::collections::BTreeMap;

use stoker_crds::{metric::Split, training::data::SplitSpec};

use super::DataError;

/// Rows per split, in the order of [`Split::ALL`].
pub(crate) type Quota = [u64; 3];

/// How many rows of each group go into which split, so that the totals, group after group, stay as near to the shares as
/// whole rows can.
///
/// For one group this is the method of the largest remainder; equal remainders go to test before validation before
/// training, so 1,794 rows at 0.8, 0.1, 0.1 become 1,435, 179 and 180. The first row of a group always trains: a class
/// that was never trained on cannot be predicted.
pub(crate) fn quotas(groups: &[u64], split: &SplitSpec) -> Vec<Quota> {
    let shares = shares(split);
    let (mut rows, mut given) = (0, [0; 3]);
    groups
        .iter()
        .map(|&group| {
            rows += group;
            let mut quota = shares.map(|share| floor(share * group as f64));
            for (total, rows) in given.iter_mut().zip(quota) {
                *total += rows;
            }
            for _ in quota.iter().sum::<u64>()..group {
                let lacks = |split: usize| shares[split] * rows as f64 - given[split] as f64;
                let most = if quota[0] == 0 { 0 } else { most_lacking([lacks(0), lacks(1), lacks(2)], shares) };
                quota[most] += 1;
                given[most] += 1;
            }
            quota
        })
        .collect()
}

fn shares(split: &SplitSpec) -> [f64; 3] {
    [split.train, split.validation, split.test]
}

/// Shares such as 0.1 are not exact in binary: what is a whole number but for that counts as one.
fn floor(rows: f64) -> u64 {
    (rows + 1e-6).floor() as u64
}

fn most_lacking(lacks: [f64; 3], shares: [f64; 3]) -> usize {
    let mut most = 0;
    for split in [1, 2] {
        if shares[split] > 0.0 && lacks[split] > lacks[most] - 1e-6 {
            most = split;
        }
    }
    most
}

/// Refuses splits that have a share but no row.
pub(crate) fn check(quotas: &[Quota], split: &SplitSpec) -> Result<(), DataError> {
    let rows: u64 = quotas.iter().flatten().sum();
    for (index, name) in Split::ALL.map(Split::name).into_iter().enumerate() {
        let share = shares(split)[index];
        if share > 0.0 && quotas.iter().all(|quota| quota[index] == 0) {
            return Err(DataError::Empty(format!(
                "the {name} split is empty: a share of {share} of {rows} rows is not one row; give it a larger share, set it to 0, or bring more data"
            )));
        }
    }
    Ok(())
}

/// Gives each row its split: of a group, in the order of the rows, first training, then validation, then test.
#[derive(Debug)]
pub(super) struct Assigner(BTreeMap<String, Quota>);

impl Assigner {
    pub(super) fn new(groups: impl IntoIterator<Item = String>, quotas: Vec<Quota>) -> Self {
        Self(groups.into_iter().zip(quotas).collect())
    }

    /// The split of the next row of a group; `None` if more rows come than were counted.
    pub(super) fn next(&mut self, group: &str) -> Option<Split> {
        let quota = self.0.get_mut(group)?;
        let index = quota.iter().position(|rows| *rows > 0)?;
        quota[index] -= 1;
        Some(Split::ALL[index])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(train: f64, validation: f64, test: f64) -> SplitSpec {
        SplitSpec { train, validation, test, ..SplitSpec::default() }
    }

    #[test]
    fn shares_become_rows_by_the_largest_remainder() {
        let tenths = split(0.8, 0.1, 0.1);
        for (rows, expected) in
            [(1794, [1435, 179, 180]), (1797, [1437, 180, 180]), (10, [8, 1, 1]), (1000, [800, 100, 100])]
        {
            assert_eq!(quotas(&[rows], &tenths), [expected], "{rows}");
        }
        assert_eq!(quotas(&[7], &split(1.0, 0.0, 0.0)), [[7, 0, 0]]);
        assert_eq!(quotas(&[3], &split(0.5, 0.5, 0.0)), [[1, 2, 0]]);
    }

    #[test]
    fn groups_keep_their_shares_and_so_does_the_whole() {
        let spec = split(0.8, 0.1, 0.1);
        let groups: Vec<u64> = (1..40).collect();
        let quotas = quotas(&groups, &spec);
        let mut totals = [0; 3];
        for (group, quota) in groups.iter().zip(&quotas) {
            assert_eq!(quota.iter().sum::<u64>(), *group);
            assert!(quota[0] >= 1);
            for (index, share) in shares(&spec).into_iter().enumerate() {
                assert!((quota[index] as f64 - share * *group as f64).abs() < 2.0, "{group} {quota:?}");
                totals[index] += quota[index];
            }
        }
        let rows: u64 = groups.iter().sum();
        for (total, share) in totals.into_iter().zip(shares(&spec)) {
            assert!((total as f64 - share * rows as f64).abs() < 2.0, "{totals:?}");
        }
    }

    #[test]
    fn classes_of_one_row_all_train() {
        assert!(quotas(&[1; 20], &split(0.8, 0.1, 0.1)).iter().all(|quota| *quota == [1, 0, 0]));
    }

    #[test]
    fn a_split_with_a_share_but_no_row_is_refused_by_name() {
        let spec = split(0.8, 0.1, 0.1);
        let error = check(&quotas(&[4], &spec), &spec).unwrap_err();
        assert!(matches!(&error, DataError::Empty(message) if message.contains("validation")), "{error}");
        assert!(check(&quotas(&[10], &spec), &spec).is_ok());
        let spec = split(0.9, 0.0, 0.1);
        assert!(check(&quotas(&[10], &spec), &spec).is_ok());
    }

    #[test]
    fn rows_are_assigned_until_the_quotas_are_used_up() {
        let mut assigner = Assigner::new(["a".into(), "b".into()], vec![[2, 0, 1], [1, 1, 0]]);
        let mut next = |group: &str| assigner.next(group).map(Split::name);
        assert_eq!(
            [next("a"), next("b"), next("a"), next("a"), next("b")],
            [Some("train"), Some("train"), Some("train"), Some("test"), Some("validation")]
        );
        assert_eq!((next("a"), next("c")), (None, None));
    }
}
