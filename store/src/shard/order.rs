//! The order of eviction, by policy.
//!
//! Owns the lists that run through the entries. Under `lru` they are those of [`Recency`], which are put
//! right when someone must go. Under `lfu` and `ttl` the order is exact and up to date after every touch:
//! a session is in the list of its rank (never presented < anonymous < authenticated) and key; the victim
//! is the head of the first list. Used by one shard. Keys:
//! - `ttl`: the second in which the session expires.
//! - `lfu`: the decayed number of uses as log2 Σ 2^(time of use ÷ half-life), in eighths. All decay at
//!   one rate, so the order of two sessions changes only when one is used: nothing is ever aged.
//!
//! Invariants: every live entry is in exactly one list. Deliberately absent: sampling. Tested here and
//! against a model by the simulator.

use std::collections::BTreeMap;

use super::recency::Recency;
use super::slab::{CHUNK, NIL, Store, rank_of};
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
    /// `lru`.
    recency: Recency,
    /// `lfu` and `ttl`: by rank and key.
    keyed: BTreeMap<(u8, u32), List>,
    /// `lfu` and `ttl`: key (or frequency) by slot, in chunks.
    keys: Vec<Box<[u32]>>,
}

impl Order {
    pub(crate) fn new(policy: Eviction) -> Self {
        Self {
            policy,
            recency: Recency::default(),
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
        while self.keys.len() <= slot as usize / CHUNK {
            self.keys.push(vec![0; CHUNK].into());
        }
        self.keys[slot as usize / CHUNK][slot as usize % CHUNK] = key;
    }

    fn list_of(&self, slot: u32) -> u32 {
        self.list_for(self.key(slot))
    }

    fn list_for(&self, key: u32) -> u32 {
        match self.policy {
            Eviction::Lru | Eviction::Ttl => key,
            Eviction::Lfu => Frequency(key).list(),
        }
    }

    fn list(&self, rank: u8, key: u32) -> List {
        self.keyed.get(&(rank, key)).copied().unwrap_or(EMPTY)
    }

    fn set_list(&mut self, rank: u8, key: u32, list: List) {
        if list.head == NIL {
            self.keyed.remove(&(rank, key));
        } else {
            self.keyed.insert((rank, key), list);
        }
    }

    /// The order under `lru`; nothing under another policy.
    #[inline]
    pub(crate) fn recency(&mut self) -> Option<&mut Recency> {
        (self.policy == Eviction::Lru).then_some(&mut self.recency)
    }

    /// Searches under `lru` that ended at their bound, and lists joined because of theirs.
    pub(crate) fn bounds_hit(&self) -> (u64, u64) {
        (self.recency.searches_cut, self.recency.lists_joined)
    }

    /// Adds a new entry, used at `now`, that expires at `expires` (Unix ms).
    pub(crate) fn insert(&mut self, store: &mut Store, slot: u32, now: u64, expires: u64) {
        match self.policy {
            Eviction::Lru => return self.recency.link(store, slot),
            Eviction::Lfu => self.set_key(slot, Frequency::once(now).0),
            Eviction::Ttl => self.set_key(slot, time::short_seconds(expires)),
        }
        self.link(store, slot);
    }

    /// Removes an entry. Its rank must be what it was when it was added or last moved.
    pub(crate) fn remove(&mut self, store: &mut Store, slot: u32) {
        if let Some(recency) = self.recency() {
            return recency.unlink(store, slot);
        }
        let (rank, key) = (store.at(slot).rank(), self.list_of(slot));
        let (prev, next) = (store.aside(slot).prev, store.aside(slot).next);
        let mut list = self.list(rank, key);
        if prev == NIL {
            list.head = next
        } else {
            store.aside_mut(prev).next = next
        }
        if next == NIL {
            list.tail = prev
        } else {
            store.aside_mut(next).prev = prev
        }
        if prev == NIL || next == NIL {
            self.set_list(rank, key, list);
        }
    }

    /// Moves an entry whose flags become `flags` and whose expiry may have changed. `used` is whether
    /// it is a use at `now`, which moves it to the end even within its list; under `lru` uses are told
    /// to [`Self::recency`] instead.
    pub(crate) fn moved(
        &mut self,
        store: &mut Store,
        slot: u32,
        now: u64,
        expires: u64,
        used: bool,
        flags: u8,
    ) {
        let key = match self.policy {
            Eviction::Lru => return self.recency.changed(store, slot, flags),
            Eviction::Lfu if used => Frequency(self.key(slot)).used(now).0,
            Eviction::Lfu => self.key(slot),
            Eviction::Ttl => time::short_seconds(expires),
        };
        let last = store.aside(slot).next == NIL;
        let entry = store.at_mut(slot);
        let same = rank_of(flags) == entry.rank() && self.list_for(key) == self.list_of(slot);
        if same && (last || !used) {
            entry.flags = flags;
            self.set_key(slot, key);
            return;
        }
        self.remove(store, slot);
        store.at_mut(slot).flags = flags;
        self.set_key(slot, key);
        self.link(store, slot);
    }

    /// Who is evicted next: the first of the lowest list, but not `except`.
    pub(crate) fn victim(&mut self, store: &mut Store, except: u32) -> Option<u32> {
        if let Some(recency) = self.recency() {
            return recency.victim(store, except);
        }
        let first = |list: &List| match list.head {
            NIL => None,
            head if head == except => Some(store.aside(head).next).filter(|next| *next != NIL),
            head => Some(head),
        };
        // At most two lists are looked at: a list is never empty and holds `except` once.
        self.keyed.values().find_map(first)
    }

    fn link(&mut self, store: &mut Store, slot: u32) {
        let (rank, key) = (store.at(slot).rank(), self.list_of(slot));
        let mut list = self.list(rank, key);
        let aside = store.aside_mut(slot);
        (aside.prev, aside.next) = (list.tail, NIL);
        if list.tail == NIL {
            list.head = slot
        } else {
            store.aside_mut(list.tail).next = slot
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
        while let Some(slot) = order.victim(&mut store, NIL) {
            order.remove(&mut store, slot);
            store.remove(slot);
            out.push(slot);
        }
        assert_eq!(store.len(), 0);
        out
    }

    #[test]
    fn ranks_come_first() {
        let authenticated = flag::LIVE | flag::PRESENTED | flag::AUTHENTICATED;
        for policy in [Eviction::Lru, Eviction::Lfu, Eviction::Ttl] {
            let (mut store, mut order) = filled(policy, &[NOW; 4]);
            order.moved(&mut store, 0, NOW, NOW, false, authenticated);
            let anonymous = flag::LIVE | flag::PRESENTED;
            order.moved(&mut store, 1, NOW, NOW, false, anonymous);
            assert_eq!(order.victim(&mut store, 2), Some(3), "never the exception");
            assert_eq!(drained(store, order), [2, 3, 1, 0]);
        }
    }

    #[test]
    fn nearest_expiry_first() {
        let (mut store, mut order) = filled(
            Eviction::Ttl,
            &[NOW + 9_000, NOW + 3_000, NOW + 6_000, u64::MAX],
        );
        order.moved(&mut store, 1, NOW, NOW + 60_000, true, flag::LIVE);
        assert_eq!(order.victim(&mut store, 2), Some(0));
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
