//! The order in which rows are looked at, and the seeds of what is random in a step.

use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

/// What a seed is for: each use has a stream of its own.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stream {
    /// The initial weights.
    Weights,
    /// The order of the rows in an epoch.
    Order,
    /// Dropout in a step.
    Dropout,
    /// What a language model writes after a step.
    Samples,
}

/// The seed of the `n`-th draw of a stream: a hash, so that nothing has to be carried over from step to step.
pub(super) fn derive_seed(seed: u64, stream: Stream, n: u64) -> u64 {
    let mut hash = Sha256::new();
    hash.update([stream as u8]);
    hash.update(seed.to_le_bytes());
    hash.update(n.to_le_bytes());
    let digest = hash.finalize();
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The rows' indices in the order of an epoch: every row once, decided by seed and epoch alone.
#[must_use]
pub fn epoch_order(rows: u32, seed: u64, epoch: u32) -> Vec<u32> {
    let mut order: Vec<u32> = (0..rows).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(derive_seed(seed, Stream::Order, u64::from(epoch))));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_has_every_row_once_in_an_order_of_its_own() {
        let (first, second) = (epoch_order(100, 7, 0), epoch_order(100, 7, 1));
        assert_ne!(first, second);
        assert_ne!(first, epoch_order(100, 8, 0));
        assert_eq!(first, epoch_order(100, 7, 0));
        for mut order in [first, second] {
            order.sort_unstable();
            assert_eq!(order, (0..100).collect::<Vec<_>>());
        }
    }

    #[test]
    fn streams_and_draws_differ() {
        let seeds = [
            derive_seed(1, Stream::Weights, 0),
            derive_seed(1, Stream::Order, 0),
            derive_seed(1, Stream::Dropout, 0),
            derive_seed(1, Stream::Dropout, 1),
            derive_seed(2, Stream::Dropout, 1),
        ];
        assert_eq!(seeds.iter().collect::<std::collections::BTreeSet<_>>().len(), seeds.len());
    }
}
