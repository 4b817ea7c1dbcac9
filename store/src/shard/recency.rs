//! The order of eviction under `lru`: cheap at a touch, put right when someone must go.
//!
//! Owns one list for each rank (never presented < anonymous < authenticated) and quarter of a second.
//! Used by one shard. An entry is *placed* when it stands in the list of its last access. A touch in a
//! later quarter writes the entry alone, which is then no longer placed and stands too early; whoever
//! looks for a victim moves such entries on, each touch paying for at most one move, and stops at the
//! first that is placed. A touch in the quarter of the place moves the entry to the end at once.
//!
//! So the victim is, of the lowest rank, one whose last access lies in the oldest quarter; of two of one
//! quarter that came into their rank in it (were made, came back first, or logged in, and have been used
//! in no later one), the one that has not been used for longer. Two bounds weaken this, each with a
//! counter: a search moves [`LOOKS`] entries at most and then takes the oldest of them, and quarters of
//! the distant past share a list when there are very many.
//!
//! Invariants: an entry is in exactly one list, of its rank, and of no later quarter than its last access
//! (save in a shared list); a list is never empty; the links at both ends of a list name the list, so
//! that leaving needs no look-up. Deliberately absent: sampling, clocks. Tested here, and by the
//! simulator against the contract above.

use std::collections::BTreeMap;

use super::slab::{Store, flag, rank_of};
use crate::time::Quarter;

/// Entries that one search moves.
pub(crate) const LOOKS: u32 = 64;
/// Lists that are always allowed.
const FEW_LISTS: usize = 1024;
/// Sessions for each list beyond.
const SESSIONS_A_LIST: usize = 16;
/// Marks a link that names a list, not a slot. Slots have 26 bits.
const LIST: u32 = 1 << 31;

#[derive(Debug)]
struct List {
    rank: u8,
    quarter: Quarter,
    head: u32,
    tail: u32,
}

/// All lists.
#[derive(Debug, Default)]
pub(crate) struct Recency {
    lists: slab::Slab<List>,
    index: BTreeMap<(u8, Quarter), u32>,
    /// By rank: how many lists, and the one found last.
    counts: [usize; 3],
    found: [u32; 3],
    /// Searches that ended at their bound.
    pub(crate) searches_cut: u64,
    /// Lists that were joined to the next because of their bound.
    pub(crate) lists_joined: u64,
}

impl Recency {
    /// Adds an entry at the place of its last access.
    pub(crate) fn link(&mut self, store: &mut Store, slot: u32) {
        let entry = store.at_mut(slot);
        entry.flags |= flag::PLACED;
        let (rank, quarter) = (entry.rank(), entry.last_access);
        let id = self.list_for(store, rank, quarter);
        let Some(list) = self.lists.get_mut(id as usize) else {
            return;
        };
        let last = std::mem::replace(&mut list.tail, slot);
        let aside = store.aside_mut(slot);
        (aside.prev, aside.next) = (last, LIST | id);
        self.set_next(store, last, slot);
    }

    /// Takes an entry out.
    pub(crate) fn unlink(&mut self, store: &mut Store, slot: u32) {
        let (prev, next) = (store.aside(slot).prev, store.aside(slot).next);
        self.set_next(store, prev, next);
        if next & LIST == 0 {
            store.aside_mut(next).prev = prev;
        } else if prev == next {
            self.drop_list(next & !LIST);
        } else if let Some(list) = self.lists.get_mut((next & !LIST) as usize) {
            list.tail = prev;
        }
    }

    fn set_next(&mut self, store: &mut Store, at: u32, next: u32) {
        if at & LIST == 0 {
            store.aside_mut(at).next = next;
        } else if let Some(list) = self.lists.get_mut((at & !LIST) as usize) {
            list.head = next;
        }
    }

    /// Notes a use in `quarter` of an entry whose flags become `flags`.
    #[inline]
    pub(crate) fn used(&mut self, store: &mut Store, slot: u32, quarter: Quarter, flags: u8) {
        let entry = store.at_mut(slot);
        if rank_of(flags) == entry.rank() {
            entry.flags = flags;
            if entry.accessed(quarter) || !entry.has(flag::PLACED) {
                return;
            }
            if store.aside(slot).next & LIST != 0 {
                return;
            }
        } else {
            entry.accessed(quarter);
        }
        self.relink(store, slot, flags);
    }

    /// Notes that an entry's flags become `flags`, without a use.
    pub(crate) fn changed(&mut self, store: &mut Store, slot: u32, flags: u8) {
        if rank_of(flags) == store.at(slot).rank() {
            store.at_mut(slot).flags = flags;
        } else {
            self.relink(store, slot, flags);
        }
    }

    /// Moves an entry to its place if it is not there.
    pub(crate) fn settle(&mut self, store: &mut Store, slot: u32) {
        let entry = store.at(slot);
        if !entry.has(flag::PLACED) {
            let flags = entry.flags;
            self.relink(store, slot, flags);
        }
    }

    #[inline(never)]
    fn relink(&mut self, store: &mut Store, slot: u32, flags: u8) {
        self.unlink(store, slot);
        store.at_mut(slot).flags = flags;
        self.link(store, slot);
    }

    /// Who is evicted next, but not `except`.
    pub(crate) fn victim(&mut self, store: &mut Store, except: u32) -> Option<u32> {
        let mut oldest: Option<(Quarter, u32)> = None;
        for _ in 0..LOOKS {
            let slot = self.first(store, except)?;
            let entry = store.at(slot);
            if entry.has(flag::PLACED) {
                return Some(slot);
            }
            let this = (entry.last_access, slot);
            if oldest.is_none_or(|oldest| this.0 < oldest.0) {
                oldest = Some(this);
            }
            self.settle(store, slot);
        }
        let first = self.first(store, except)?;
        if store.at(first).has(flag::PLACED) {
            return Some(first);
        }
        self.searches_cut += 1;
        oldest.map(|(_, slot)| slot)
    }

    /// The first entry of the first list, but not `except`.
    fn first(&self, store: &Store, except: u32) -> Option<u32> {
        // At most two lists are looked at: a list is never empty and holds `except` once.
        self.index.values().find_map(|id| {
            let head = self.lists.get(*id as usize)?.head;
            let slot = if head == except {
                store.aside(head).next
            } else {
                head
            };
            (slot & LIST == 0).then_some(slot)
        })
    }

    fn list_for(&mut self, store: &mut Store, rank: u8, quarter: Quarter) -> u32 {
        let at = usize::from(rank);
        let found = self.found[at];
        let list = self.lists.get(found as usize);
        if list.is_some_and(|list| (list.rank, list.quarter) == (rank, quarter)) {
            return found;
        }
        let id = match self.index.get(&(rank, quarter)) {
            Some(id) => *id,
            None => {
                if self.lists.len() >= FEW_LISTS.max(store.len() as usize / SESSIONS_A_LIST) {
                    self.join_oldest(store);
                }
                self.new_list(rank, quarter)
            }
        };
        self.found[at] = id;
        id
    }

    /// An empty list, to be filled at once: its ends name itself.
    fn new_list(&mut self, rank: u8, quarter: Quarter) -> u32 {
        let place = self.lists.vacant_entry();
        let id = place.key() as u32;
        place.insert(List {
            rank,
            quarter,
            head: LIST | id,
            tail: LIST | id,
        });
        self.index.insert((rank, quarter), id);
        self.counts[usize::from(rank)] += 1;
        id
    }

    fn drop_list(&mut self, id: u32) {
        if let Some(list) = self.lists.try_remove(id as usize) {
            self.index.remove(&(list.rank, list.quarter));
            self.counts[usize::from(list.rank)] -= 1;
        }
    }

    /// Puts the oldest list of the rank that has most before its second: their order stays.
    fn join_oldest(&mut self, store: &mut Store) {
        let most = (0..3u8).max_by_key(|rank| self.counts[usize::from(*rank)]);
        let rank = most.unwrap_or(0);
        let oldest = (rank, Quarter(0))..=(rank, Quarter(u32::MAX));
        let mut ids = self.index.range(oldest).map(|(_, id)| *id);
        let (Some(older), Some(newer)) = (ids.next(), ids.next()) else {
            return;
        };
        let Some(List { head, tail, .. }) = self.lists.get(older as usize) else {
            return;
        };
        let (head, tail) = (*head, *tail);
        let Some(list) = self.lists.get_mut(newer as usize) else {
            return;
        };
        let next = std::mem::replace(&mut list.head, head);
        store.aside_mut(head).prev = LIST | newer;
        store.aside_mut(tail).next = next;
        store.aside_mut(next).prev = tail;
        self.drop_list(older);
        self.lists_joined += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::super::slab::{Entry, NIL};
    use super::*;
    use crate::id::{Digest, NodeTag, Sid};

    const ANONYMOUS: u8 = flag::LIVE | flag::PRESENTED;

    /// One entry in each quarter.
    fn filled(quarters: impl IntoIterator<Item = u32>) -> (Store, Recency) {
        let (mut store, mut recency) = (Store::new(), Recency::default());
        for (n, quarter) in quarters.into_iter().enumerate() {
            let mut sid = [0; 16];
            sid[..8].copy_from_slice(&n.to_le_bytes());
            let mut entry = Entry::new(Sid(sid), Digest([0; 16]), 1, NodeTag::new(1));
            entry.last_access = Quarter(quarter);
            entry.flags = ANONYMOUS;
            let slot = store.insert(entry).unwrap();
            recency.link(&mut store, slot);
        }
        (store, recency)
    }

    fn used(store: &mut Store, recency: &mut Recency, slot: u32, quarter: u32) {
        let flags = store.at(slot).flags;
        recency.used(store, slot, Quarter(quarter), flags);
    }

    fn drained(mut store: Store, mut recency: Recency) -> Vec<u32> {
        let mut out = Vec::new();
        while let Some(slot) = recency.victim(&mut store, NIL) {
            recency.unlink(&mut store, slot);
            store.remove(slot);
            out.push(slot);
        }
        assert_eq!((store.len(), recency.lists.len()), (0, 0));
        assert_eq!((recency.index.len(), recency.counts), (0, [0; 3]));
        out
    }

    #[test]
    fn exact_within_the_quarter_of_the_place() {
        let (mut store, mut recency) = filled([7; 4]);
        used(&mut store, &mut recency, 0, 7);
        used(&mut store, &mut recency, 2, 7);
        used(&mut store, &mut recency, 2, 7);
        assert_eq!(
            recency.victim(&mut store, 1),
            Some(3),
            "never the exception"
        );
        assert_eq!(drained(store, recency), [1, 3, 0, 2]);
    }

    #[test]
    fn a_later_use_counts_where_it_lies() {
        let (mut store, mut recency) = filled([1, 2, 3, 8, 12]);
        for (slot, quarter) in [(0, 10), (1, 4), (2, 9), (1, 9), (1, 5), (0, 11)] {
            used(&mut store, &mut recency, slot, quarter);
        }
        assert!(!store.at(0).has(flag::PLACED), "nothing was moved yet");
        // 1 and 2 were last used in one quarter, so either may be first: the one placed first is.
        assert_eq!(drained(store, recency), [3, 1, 2, 0, 4]);
    }

    #[test]
    fn a_rank_is_a_place_of_its_own() {
        let (mut store, mut recency) = filled([1, 2, 3]);
        recency.changed(&mut store, 0, ANONYMOUS | flag::AUTHENTICATED);
        recency.used(&mut store, 1, Quarter(5), flag::LIVE | flag::AUTHENTICATED);
        assert_eq!(drained(store, recency), [2, 0, 1]);
    }

    #[test]
    fn a_search_is_bounded_and_the_next_goes_on() {
        let (mut store, mut recency) = filled((0..200).chain([1000]));
        for slot in 0..200 {
            used(&mut store, &mut recency, slot, 1000 - slot);
        }
        // The oldest of the first 64 looked at is the last of them.
        assert_eq!(recency.victim(&mut store, NIL), Some(LOOKS - 1));
        assert_eq!(recency.searches_cut, 1);
        for slot in 0..200 {
            recency.settle(&mut store, slot);
        }
        assert_eq!(recency.victim(&mut store, NIL), Some(199), "settled");
        assert_eq!(recency.searches_cut, 1);
    }

    #[test]
    fn lists_are_bounded_and_the_order_stays() {
        let count = FEW_LISTS as u32 + 500;
        let (mut store, mut recency) = filled((0..count).map(|n| 2 * n));
        assert_eq!(recency.lists.len(), FEW_LISTS);
        assert_eq!(recency.lists_joined, 500);
        used(&mut store, &mut recency, 0, 2 * count);
        let expected: Vec<u32> = (1..count).chain([0]).collect();
        assert_eq!(drained(store, recency), expected);
    }
}
