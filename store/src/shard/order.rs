//! The order of eviction: exact, kept up to date at every touch.
//!
//! Owns the lists that run through the entries. A session is in the list of its rank (never presented <
//! anonymous < authenticated) and, under `lfu` and `ttl`, of its key; the victim is the head of the first
//! list. Used by one shard. Keys:
//! - `lru`: none; one list a rank, moved to the end at each touch.
//! - `ttl`: the second in which the session expires.
//! - `lfu`: the decayed number of uses as log2 Σ 2^(time of use ÷ half-life), in eighths. All decay at
//!   one rate, so the order of two sessions changes only when one is used: nothing is ever aged.
//!
//! Invariants: every live entry is in exactly one list. Deliberately absent: sampling. Tested here and
//! against a model by the simulator.

use std::collections::BTreeMap;

use super::slab::{CHUNK, NIL, Store};
use crate::session::Eviction;
use crate::time;

/// Half-life of a use under `lfu`, in seconds.
pub const HALF_LIFE: u32 = 300;
/// Steps of a [`Frequency`] in a doubling.
const STEPS: f64 = 256.0;
/// Steps of a [`Frequency`] in one list.
const LIST_BITS: u32 = 5;

/// A decayed number of uses: log2 of it plus the time in half-lives, in 256ths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Frequency(pub u32);

impl Frequency {
    /// One use at `now`, Unix ms.
    pub fn once(now: u64) -> Self {
        let seconds = u64::from(time::short_seconds(now));
        Self((seconds * STEPS as u64 / u64::from(HALF_LIFE)) as u32)
    }

    /// One more use at `now`.
    pub fn used(self, now: u64) -> Self {
        let once = Self::once(now);
        let (high, low) = (self.0.max(once.0), self.0.min(once.0));
        let more = (1.0 + (-f64::from(high - low) / STEPS).exp2()).log2() * STEPS;
        Self(high.saturating_add(more as u32))
    }

    /// The list that it belongs to.
    pub fn list(self) -> u32 {
        self.0 >> LIST_BITS
    }
}

#[derive(Debug, Clone, Copy)]
struct List {
    head: u32,
    tail: u32,
}

const EMPTY: List = List {
    head: NIL,
    tail: NIL,
};

/// All lists.
#[derive(Debug)]
pub(crate) struct Order {
    policy: Eviction,
    /// `lru`: by rank.
    recent: [List; 3],
    /// `lfu` and `ttl`: by rank and key.
    keyed: BTreeMap<(u8, u32), List>,
    /// `lfu` and `ttl`: key (or frequency) by slot, in chunks.
    keys: Vec<Box<[u32]>>,
}

impl Order {
    pub(crate) fn new(policy: Eviction) -> Self {
        Self {
            policy,
            recent: [EMPTY; 3],
            keyed: BTreeMap::new(),
            keys: Vec::new(),
        }
    }

    fn key(&self, slot: u32) -> u32 {
        self.keys
            .get(slot as usize / CHUNK)
            .and_then(|c| c.get(slot as usize % CHUNK))
            .copied()
            .unwrap_or(0)
    }

    fn set_key(&mut self, slot: u32, key: u32) {
        if self.policy == Eviction::Lru {
            return;
        }
        while self.keys.len() <= slot as usize / CHUNK {
            self.keys.push(vec![0; CHUNK].into());
        }
        self.keys[slot as usize / CHUNK][slot as usize % CHUNK] = key;
    }

    #[inline]
    fn list_of(&self, slot: u32) -> u32 {
        match self.policy {
            Eviction::Lru => 0,
            _ => self.list_for(self.key(slot)),
        }
    }

    fn list_for(&self, key: u32) -> u32 {
        match self.policy {
            Eviction::Lru => 0,
            Eviction::Lfu => Frequency(key).list(),
            Eviction::Ttl => key,
        }
    }

    fn list(&self, rank: u8, key: u32) -> List {
        match self.policy {
            Eviction::Lru => self.recent[usize::from(rank)],
            _ => self.keyed.get(&(rank, key)).copied().unwrap_or(EMPTY),
        }
    }

    fn set_list(&mut self, rank: u8, key: u32, list: List) {
        match self.policy {
            Eviction::Lru => self.recent[usize::from(rank)] = list,
            _ if list.head == NIL => {
                self.keyed.remove(&(rank, key));
            }
            _ => {
                self.keyed.insert((rank, key), list);
            }
        }
    }

    /// Adds a new entry, used at `now`, that expires at `expires` (Unix ms).
    pub(crate) fn insert(&mut self, store: &mut Store, slot: u32, now: u64, expires: u64) {
        match self.policy {
            Eviction::Lru => {}
            Eviction::Lfu => self.set_key(slot, Frequency::once(now).0),
            Eviction::Ttl => self.set_key(slot, time::short_seconds(expires)),
        }
        self.link(store, slot);
    }

    /// Removes an entry. Its rank must be what it was when it was added or last moved.
    pub(crate) fn remove(&mut self, store: &mut Store, slot: u32) {
        let (rank, key) = (store.at(slot).rank(), self.list_of(slot));
        let (prev, next) = (store.at(slot).prev, store.at(slot).next);
        let mut list = self.list(rank, key);
        if prev == NIL {
            list.head = next
        } else {
            store.at_mut(prev).next = next
        }
        if next == NIL {
            list.tail = prev
        } else {
            store.at_mut(next).prev = prev
        }
        if prev == NIL || next == NIL {
            self.set_list(rank, key, list);
        }
    }

    /// Moves an entry whose flags become `flags` and whose expiry may have changed. `used` is whether
    /// it is a use, which under `lru` moves it to the end even within its list.
    #[inline]
    pub(crate) fn moved(
        &mut self,
        store: &mut Store,
        slot: u32,
        now: u64,
        expires: u64,
        used: bool,
        flags: u8,
    ) {
        let entry = store.at_mut(slot);
        let rank = entry.rank();
        let old = std::mem::replace(&mut entry.flags, flags);
        let (same, last) = (entry.rank() == rank, entry.next == NIL);
        let list = self.list_of(slot);
        let key = match self.policy {
            Eviction::Lru => 0,
            Eviction::Lfu if used => Frequency(self.key(slot)).used(now).0,
            Eviction::Lfu => self.key(slot),
            Eviction::Ttl => time::short_seconds(expires),
        };
        if same && self.list_for(key) == list && (last || !used) {
            self.set_key(slot, key);
            return;
        }
        store.at_mut(slot).flags = old;
        self.remove(store, slot);
        store.at_mut(slot).flags = flags;
        self.set_key(slot, key);
        self.link(store, slot);
    }

    /// Who is evicted next: the first of the lowest list, but not `except`.
    pub(crate) fn victim(&self, store: &Store, except: u32) -> Option<u32> {
        let first = |list: &List| match list.head {
            NIL => None,
            head if head == except => Some(store.at(head).next).filter(|next| *next != NIL),
            head => Some(head),
        };
        match self.policy {
            Eviction::Lru => self.recent.iter().find_map(first),
            // At most two lists are looked at: a list is never empty and holds `except` once.
            _ => self.keyed.values().find_map(first),
        }
    }

    fn link(&mut self, store: &mut Store, slot: u32) {
        let (rank, key) = (store.at(slot).rank(), self.list_of(slot));
        let mut list = self.list(rank, key);
        let entry = store.at_mut(slot);
        (entry.prev, entry.next) = (list.tail, NIL);
        if list.tail == NIL {
            list.head = slot
        } else {
            store.at_mut(list.tail).next = slot
        }
        list.tail = slot;
        self.set_list(rank, key, list);
    }
}

#[cfg(test)]
mod tests {
    use super::super::slab::{Entry, flag};
    use super::*;
    use crate::id::{Digest, NodeTag, Sid};

    const NOW: u64 = time::EPOCH_MS + 1_000_000_000;

    fn filled(policy: Eviction, expires: &[u64]) -> (Store, Order) {
        let (mut store, mut order) = (Store::new(), Order::new(policy));
        for (n, expires) in expires.iter().enumerate() {
            let slot = store
                .insert(Entry::new(
                    Sid([n as u8; 16]),
                    Digest([0; 16]),
                    1,
                    NodeTag::new(1),
                ))
                .unwrap();
            order.insert(&mut store, slot, NOW, *expires);
        }
        (store, order)
    }

    fn drained(mut store: Store, mut order: Order) -> Vec<u32> {
        let mut out = Vec::new();
        while let Some(slot) = order.victim(&store, NIL) {
            order.remove(&mut store, slot);
            store.remove(slot);
            out.push(slot);
        }
        assert_eq!(store.len(), 0);
        out
    }

    #[test]
    fn ranks_then_recency() {
        let (mut store, mut order) = filled(Eviction::Lru, &[0; 5]);
        order.moved(
            &mut store,
            0,
            NOW,
            0,
            true,
            flag::LIVE | flag::PRESENTED | flag::AUTHENTICATED,
        );
        order.moved(&mut store, 1, NOW, 0, true, flag::LIVE | flag::PRESENTED);
        order.moved(&mut store, 2, NOW, 0, true, flag::LIVE | flag::PRESENTED);
        order.moved(&mut store, 1, NOW, 0, true, flag::LIVE | flag::PRESENTED);
        assert_eq!(order.victim(&store, 3), Some(4), "never the exception");
        assert_eq!(drained(store, order), [3, 4, 2, 1, 0]);
    }

    #[test]
    fn nearest_expiry_first() {
        let (mut store, mut order) = filled(
            Eviction::Ttl,
            &[NOW + 9_000, NOW + 3_000, NOW + 6_000, u64::MAX],
        );
        order.moved(&mut store, 1, NOW, NOW + 60_000, true, flag::LIVE);
        assert_eq!(order.victim(&store, 2), Some(0));
        assert_eq!(drained(store, order), [2, 0, 1, 3]);
    }

    #[test]
    fn least_used_first_and_uses_decay() {
        let (mut store, mut order) = filled(Eviction::Lfu, &[0; 3]);
        for _ in 0..50 {
            order.moved(&mut store, 0, NOW, 0, true, flag::LIVE);
        }
        for _ in 0..5 {
            order.moved(&mut store, 1, NOW, 0, true, flag::LIVE);
        }
        // One use of an hour later outweighs fifty of now.
        order.moved(&mut store, 2, NOW + 3_600_000, 0, true, flag::LIVE);
        assert_eq!(drained(store, order), [1, 0, 2]);
    }

    #[test]
    fn frequency_counts_doublings() {
        let mut frequency = Frequency::once(NOW);
        for _ in 0..63 {
            frequency = frequency.used(NOW);
        }
        let doublings = f64::from(frequency.0 - Frequency::once(NOW).0) / STEPS;
        assert!(
            (5.5..=6.0).contains(&doublings),
            "64 uses are 6 doublings, rounded down: {doublings}"
        );
    }
}
