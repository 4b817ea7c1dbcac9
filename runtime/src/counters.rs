//! Counters that one core writes and others read.
//!
//! Owns nothing shared but memory: a [`Block`] a core, behind an `Arc`. Its core alone writes, with a
//! relaxed load and store (no locked instruction); any thread reads. Invariants: one writer a block;
//! two blocks never share a cache line; sums over cores are of values that were each true at some
//! recent moment. It deliberately knows no names and no text format. Tested below.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number of one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; for the writer alone.
    #[inline]
    pub fn add(&self, by: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(by), Relaxed);
    }

    /// Subtracts (a gauge); for the writer alone.
    #[inline]
    pub fn sub(&self, by: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(by), Relaxed);
    }

    /// Sets (a gauge); for the writer alone.
    #[inline]
    pub fn set(&self, to: u64) {
        self.0.store(to, Relaxed);
    }

    /// Its value.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// `N` counters of one core.
#[derive(Debug)]
#[repr(align(128))]
pub struct Block<const N: usize>([Counter; N]);

impl<const N: usize> Default for Block<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl<const N: usize> std::ops::Index<usize> for Block<N> {
    type Output = Counter;

    #[inline]
    fn index(&self, index: usize) -> &Counter {
        &self.0[index]
    }
}

/// Sum of one counter over the blocks of all cores.
pub fn sum<'a, const N: usize>(
    blocks: impl IntoIterator<Item = &'a Block<N>>,
    index: usize,
) -> u64 {
    blocks
        .into_iter()
        .fold(0, |sum, block| sum.wrapping_add(block[index].get()))
}

/// Sub-buckets of each power of two: values are told apart to an eighth.
const SUB_BITS: u32 = 3;
const SUBS: usize = 1 << SUB_BITS;
/// Buckets of a [`Histogram`].
pub const BUCKETS: usize = (64 - SUB_BITS as usize + 1) * SUBS;

/// Counts of values in fixed logarithmic buckets over all of u64; a bucket is at most an eighth wide.
#[derive(Debug)]
#[repr(align(128))]
pub struct Histogram {
    buckets: Box<[Counter]>,
    sum: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| Counter::default()).collect(),
            sum: Counter::default(),
        }
    }
}

/// The bucket of a value.
#[inline]
pub fn bucket_of(value: u64) -> usize {
    if value < SUBS as u64 {
        return value as usize;
    }
    let shift = value.ilog2() - SUB_BITS;
    (shift as usize + 1) * SUBS + (value >> shift) as usize - SUBS
}

/// The largest value of a bucket.
pub fn upper_bound(bucket: usize) -> u64 {
    if bucket < SUBS {
        return bucket as u64;
    }
    let shift = (bucket / SUBS - 1) as u32;
    let first = ((bucket % SUBS + SUBS) as u128) << shift;
    (first + (1u128 << shift) - 1).min(u128::from(u64::MAX)) as u64
}

impl Histogram {
    /// Counts a value; for the writer alone.
    #[inline]
    pub fn record(&self, value: u64) {
        self.buckets[bucket_of(value)].add(1);
        self.sum.add(value);
    }

    /// Adds its counts to `snapshot`.
    pub fn add_to(&self, snapshot: &mut Snapshot) {
        for (total, counter) in snapshot.buckets.iter_mut().zip(&self.buckets) {
            *total += counter.get();
        }
        snapshot.sum = snapshot.sum.wrapping_add(self.sum.get());
    }
}

/// Histograms of several cores, summed.
#[derive(Debug, Clone)]
pub struct Snapshot {
    buckets: Vec<u64>,
    sum: u64,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self {
            buckets: vec![0; BUCKETS],
            sum: 0,
        }
    }
}

impl Snapshot {
    /// Values counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Sum of the values.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// Values in buckets that lie wholly at or under `bound`.
    pub fn count_up_to(&self, bound: u64) -> u64 {
        self.buckets
            .iter()
            .enumerate()
            .take_while(|&(i, _)| upper_bound(i) <= bound)
            .map(|(_, n)| n)
            .sum()
    }

    /// A value that the share `quantile` (0 to 1) of all values doesn't exceed; 0 without values.
    pub fn quantile(&self, quantile: f64) -> u64 {
        let rank = (quantile.clamp(0.0, 1.0) * self.count() as f64)
            .ceil()
            .max(1.0) as u64;
        let mut seen = 0;
        for (i, n) in self.buckets.iter().enumerate() {
            seen += n;
            if seen >= rank {
                return upper_bound(i);
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_cover_all_values_in_order() {
        for bucket in 0..BUCKETS {
            let last = upper_bound(bucket);
            assert_eq!(bucket_of(last), bucket);
            if last < u64::MAX {
                assert_eq!(bucket_of(last + 1), bucket + 1);
            } else {
                assert_eq!(bucket, BUCKETS - 1);
            }
        }
    }

    #[test]
    fn quantiles_are_within_an_eighth() {
        let cores = [Histogram::default(), Histogram::default()];
        for value in 1..=100_000u64 {
            cores[(value % 2) as usize].record(value);
        }
        let mut all = Snapshot::default();
        cores.iter().for_each(|core| core.add_to(&mut all));
        assert_eq!(all.count(), 100_000);
        assert_eq!(all.sum(), 100_000 * 100_001 / 2);
        for (quantile, exact) in [(0.5, 50_000.0), (0.99, 99_000.0), (1.0, 100_000.0)] {
            let got = all.quantile(quantile) as f64;
            assert!(got >= exact && got <= exact * 1.126, "{quantile}: {got}");
        }
        assert_eq!(Snapshot::default().quantile(0.5), 0);
        assert!(all.count_up_to(1_000) <= 1_000 && all.count_up_to(1_000) > 870);
    }

    #[test]
    fn sums_over_cores() {
        let blocks = [Block::<3>::default(), Block::default()];
        blocks[0][1].add(5);
        blocks[1][1].add(7);
        blocks[1][1].sub(2);
        blocks[1][2].set(9);
        assert_eq!(
            (sum(&blocks, 0), sum(&blocks, 1), sum(&blocks, 2)),
            (0, 10, 9)
        );
        assert_eq!(std::mem::align_of::<Block<3>>(), 128);
    }
}
