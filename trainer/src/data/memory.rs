//! The memory of a session, one half of it for what can spill and the other for what cannot.

use std::fmt;

use datafusion::{
    error::DataFusionError,
    execution::memory_pool::{
        FairSpillPool, GreedyMemoryPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation,
    },
};

/// A pool of two halves, by what a consumer does when it gets no more: spill, or fail.
///
/// In a [`FairSpillPool`] alone, those that spill take all there is, and a sort that has filled its share cannot merge
/// what it holds. A half is what the merge needs at most: a sort reserves twice the size of its rows, of which it gives
/// back what its merge, which cannot spill, reserves for the rows and their keys. The merge of what was spilled takes as
/// many files at a time as there is room for.
#[derive(Debug)]
pub(super) struct HalvedPool {
    spilling: FairSpillPool,
    others: GreedyMemoryPool,
    bytes: usize,
}

impl HalvedPool {
    /// A pool of so many bytes in all.
    pub(super) fn new(bytes: usize) -> Self {
        Self { spilling: FairSpillPool::new(bytes / 2), others: GreedyMemoryPool::new(bytes / 2), bytes }
    }

    fn half_of(&self, consumer: &MemoryConsumer) -> &dyn MemoryPool {
        if consumer.can_spill() { &self.spilling } else { &self.others }
    }
}

impl fmt::Display for HalvedPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({} and {})", self.name(), self.spilling, self.others)
    }
}

impl MemoryPool for HalvedPool {
    fn name(&self) -> &str {
        "halved"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.half_of(consumer).register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.half_of(consumer).unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.half_of(reservation.consumer()).grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.half_of(reservation.consumer()).shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<(), DataFusionError> {
        self.half_of(reservation.consumer()).try_grow(reservation, additional)
    }

    fn reserved(&self) -> usize {
        self.spilling.reserved() + self.others.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_can_spill_leaves_the_other_half_alone() {
        let pool: Arc<dyn MemoryPool> = Arc::new(HalvedPool::new(200));
        let sort = MemoryConsumer::new("sort").with_can_spill(true).register(&pool);
        let merge = MemoryConsumer::new("merge").register(&pool);
        sort.try_grow(100).unwrap();
        assert!(sort.try_grow(1).is_err());
        merge.try_grow(100).unwrap();
        assert!(merge.try_grow(1).is_err());
        assert_eq!(pool.reserved(), 200);
        drop(sort);
        assert_eq!(pool.reserved(), 100);
    }
}
