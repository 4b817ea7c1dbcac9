//! A hash set of slots in little memory: the index by sid, and those by field.
//!
//! Owns u32 cells only: 6 bits of hash (so that a wrong candidate is rarely looked at) and 26 bits of
//! slot. The keys stay where they are, in the slab; the caller compares and hashes. 1,024 segments of
//! open addressing with linear probing, each growing by a fifth on its own: no moment at which the whole
//! table is copied, and on average more than three quarters full, so 5 to 6 bytes a session.
//!
//! Invariants: no tombstones (a removal shifts back); a slot is in the table at most once for a hash.
//! Deliberately absent: keys, and iteration. Tested against a model here.

/// Most slots of a shard: 26 bits less the empty mark.
pub const MAX_SLOT: u32 = (1 << 26) - 2;

const SEGMENTS: usize = 1024;
const EMPTY: u32 = u32::MAX;
const SLOT_BITS: u32 = 26;
const SLOT_MASK: u32 = (1 << SLOT_BITS) - 1;

#[derive(Debug, Default)]
struct Segment {
    cells: Box<[u32]>,
    len: u32,
}

/// The set.
#[derive(Debug)]
pub(crate) struct Table {
    segments: Box<[Segment]>,
}

fn segment_of(hash: u64) -> usize {
    (hash >> 54) as usize
}

fn tag(hash: u64) -> u32 {
    (hash as u32) << SLOT_BITS
}

fn home(hash: u64, cells: usize) -> usize {
    (((hash >> 6 & 0xffff_ffff) * cells as u64) >> 32) as usize
}

fn next(at: usize, cells: usize) -> usize {
    if at + 1 == cells { 0 } else { at + 1 }
}

impl Table {
    pub(crate) fn new() -> Self {
        Self {
            segments: (0..SEGMENTS).map(|_| Segment::default()).collect(),
        }
    }

    /// The slot of `hash` for which `same` holds.
    #[inline]
    pub(crate) fn find(&self, hash: u64, mut same: impl FnMut(u32) -> bool) -> Option<u32> {
        let cells = &self.segments[segment_of(hash)].cells;
        if cells.is_empty() {
            return None;
        }
        let tag = tag(hash);
        let mut at = home(hash, cells.len());
        loop {
            let cell = cells[at];
            if cell == EMPTY {
                return None;
            }
            if cell & !SLOT_MASK == tag && same(cell & SLOT_MASK) {
                return Some(cell & SLOT_MASK);
            }
            at = next(at, cells.len());
        }
    }

    /// The cell at which a search for `hash` begins, for a prefetch: it is not read.
    #[inline]
    pub(crate) fn first_cell(&self, hash: u64) -> Option<&u32> {
        let cells = &self.segments[segment_of(hash)].cells;
        cells.get(home(hash, cells.len()))
    }

    /// Adds `slot`, which must not be there. `hash_of` gives the hash of any slot in the table.
    pub(crate) fn insert(&mut self, hash: u64, slot: u32, hash_of: impl Fn(u32) -> u64) {
        debug_assert!(slot <= MAX_SLOT);
        let segment = &mut self.segments[segment_of(hash)];
        let cells = segment.cells.len();
        // At most 85 % full, so that there is always an empty cell to end a search.
        if (segment.len as usize + 1) * 20 > cells * 17 {
            segment.resize((cells * 6 / 5).max(cells + 6), &hash_of);
        }
        segment.place(hash, slot);
        segment.len += 1;
    }

    /// Puts `new` in the place of `old`, which has the same hash.
    pub(crate) fn replace(&mut self, hash: u64, old: u32, new: u32) {
        let segment = &mut self.segments[segment_of(hash)];
        if let Some(at) = segment.position(hash, old) {
            segment.cells[at] = tag(hash) | new;
        }
    }

    /// Removes `slot`; whether it was there.
    pub(crate) fn remove(&mut self, hash: u64, slot: u32, hash_of: impl Fn(u32) -> u64) -> bool {
        let segment = &mut self.segments[segment_of(hash)];
        let Some(mut hole) = segment.position(hash, slot) else {
            return false;
        };
        let cells = segment.cells.len();
        let mut at = next(hole, cells);
        // Each follower whose home is not between the hole and itself moves into the hole.
        while segment.cells[at] != EMPTY {
            let wants = home(hash_of(segment.cells[at] & SLOT_MASK), cells);
            let stays = if hole <= at {
                hole < wants && wants <= at
            } else {
                hole < wants || wants <= at
            };
            if !stays {
                segment.cells[hole] = segment.cells[at];
                hole = at;
            }
            at = next(at, cells);
        }
        segment.cells[hole] = EMPTY;
        segment.len -= 1;
        if cells > 16 && (segment.len as usize) * 3 < cells {
            segment.resize(cells / 2, &hash_of);
        }
        true
    }
}

impl Segment {
    fn position(&self, hash: u64, slot: u32) -> Option<usize> {
        if self.cells.is_empty() {
            return None;
        }
        let wanted = tag(hash) | slot;
        let mut at = home(hash, self.cells.len());
        while self.cells[at] != wanted {
            if self.cells[at] == EMPTY {
                return None;
            }
            at = next(at, self.cells.len());
        }
        Some(at)
    }

    fn place(&mut self, hash: u64, slot: u32) {
        let mut at = home(hash, self.cells.len());
        while self.cells[at] != EMPTY {
            at = next(at, self.cells.len());
        }
        self.cells[at] = tag(hash) | slot;
    }

    fn resize(&mut self, cells: usize, hash_of: &impl Fn(u32) -> u64) {
        let old = std::mem::replace(&mut self.cells, vec![EMPTY; cells].into());
        for cell in old.iter().filter(|c| **c != EMPTY) {
            let slot = cell & SLOT_MASK;
            self.place(hash_of(slot), slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Few segments and homes, so that runs are long and wrap around.
    fn hash(slot: u32) -> u64 {
        let mixed = u64::from(slot).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed & 3) << 54 | (mixed >> 20 & 7) << 35 | mixed >> 60
    }

    proptest! {
        #[test]
        fn behaves_like_a_set(steps in proptest::collection::vec((0u32..200, any::<bool>()), 0..600)) {
            let mut table = Table::new();
            let mut model = std::collections::BTreeSet::new();
            for (slot, add) in steps {
                if add && model.insert(slot) {
                    table.insert(hash(slot), slot, hash);
                } else if !add {
                    prop_assert_eq!(table.remove(hash(slot), slot, hash), model.remove(&slot));
                }
                for slot in 0..200 {
                    let found = table.find(hash(slot), |s| s == slot);
                    prop_assert_eq!(found.is_some(), model.contains(&slot));
                }
            }
        }
    }

    #[test]
    fn stays_small() {
        let mut table = Table::new();
        let spread =
            |slot: u32| u64::from(slot).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(slot) << 7;
        for slot in 0..200_000 {
            table.insert(spread(slot), slot, spread);
        }
        let cells: usize = table.segments.iter().map(|s| s.cells.len()).sum();
        assert!(
            cells * 4 <= 200_000 * 6,
            "{} bytes each",
            cells as f64 * 4.0 / 200_000.0
        );
        for slot in 0..200_000 {
            assert!(table.remove(spread(slot), slot, spread));
        }
        let cells: usize = table.segments.iter().map(|s| s.cells.len()).sum();
        assert!(cells <= SEGMENTS * 16, "given back: {cells}");
    }
}
