//! What is remembered of destroyed sessions: that they must not return.
//!
//! Owns eight bytes of a sid for each, in buckets by the hour in which it may be forgotten. Used by one
//! shard. Invariants: a tombstone stands at least until its end, unless the table was full (counted);
//! the earliest go first then. Deliberately absent: any part of a session. Tested here.

use std::collections::BTreeMap;

use crate::id::Sid;

const HOUR_MS: u64 = 3_600_000;

/// All tombstones of a shard.
#[derive(Debug)]
pub(crate) struct Tombstones {
    /// By the hour after which they may go.
    hours: BTreeMap<u64, hashbrown::HashSet<u64, rustc_hash::FxBuildHasher>>,
    len: usize,
    bound: usize,
    /// Forgotten before their time because of the bound.
    pub(crate) dropped: u64,
}

impl Tombstones {
    pub(crate) fn new(bound: usize) -> Self {
        Self {
            hours: BTreeMap::new(),
            len: 0,
            bound: bound.max(1),
            dropped: 0,
        }
    }

    /// At most so many from now on; those that are over it go as new ones come.
    pub(crate) fn set_bound(&mut self, bound: usize) {
        self.bound = bound.max(1);
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Remembers `sid` until `end`, Unix ms.
    pub(crate) fn insert(&mut self, sid: &Sid, end: u64) {
        let hour = end / HOUR_MS;
        if self
            .hours
            .range(hour..)
            .any(|(_, set)| set.contains(&sid.short()))
        {
            return;
        }
        if self.len >= self.bound {
            self.drop_earliest();
        }
        if self.hours.entry(hour).or_default().insert(sid.short()) {
            self.len += 1;
        }
    }

    fn drop_earliest(&mut self) {
        let Some(mut entry) = self.hours.first_entry() else {
            return;
        };
        if let Some(any) = entry.get().iter().next().copied() {
            entry.get_mut().remove(&any);
            self.len -= 1;
            self.dropped += 1;
        }
        if entry.get().is_empty() {
            entry.remove();
        }
    }

    /// Whether `sid` is remembered.
    pub(crate) fn contains(&self, sid: &Sid) -> bool {
        self.hours.values().any(|set| set.contains(&sid.short()))
    }

    /// Forgets those whose hour is over.
    pub(crate) fn expire(&mut self, now: u64) {
        while let Some(entry) = self
            .hours
            .first_entry()
            .filter(|e| *e.key() < now / HOUR_MS)
        {
            self.len -= entry.remove().len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sid(n: u8) -> Sid {
        Sid([n; 16])
    }

    #[test]
    fn stand_until_their_end() {
        let mut tombstones = Tombstones::new(10);
        tombstones.insert(&sid(1), HOUR_MS + 5);
        tombstones.insert(&sid(2), 3 * HOUR_MS);
        tombstones.insert(&sid(1), 2 * HOUR_MS);
        tombstones.expire(2 * HOUR_MS - 1);
        assert!(
            tombstones.contains(&sid(1))
                && tombstones.contains(&sid(2))
                && !tombstones.contains(&sid(3))
        );
        tombstones.expire(3 * HOUR_MS);
        assert!(!tombstones.contains(&sid(1)), "both its entries are over");
        assert!(tombstones.contains(&sid(2)));
        tombstones.expire(4 * HOUR_MS);
        assert_eq!(tombstones.len(), 0);
    }

    #[test]
    fn bounded_the_earliest_go() {
        let mut tombstones = Tombstones::new(2);
        for n in [1, 2, 3] {
            tombstones.insert(&sid(n), u64::from(n) * HOUR_MS);
        }
        assert_eq!((tombstones.len(), tombstones.dropped), (2, 1));
        assert!(!tombstones.contains(&sid(1)) && tombstones.contains(&sid(3)));
    }
}
