//! Table pins: "this client, for this service, goes to that upstream", by address, header or session.
//!
//! Owns one core's part of the table. That core's thread only; other cores ask by message. A first
//! choice is made in one step ([`Pins::get_or_insert`]), so two first requests agree. Invariants: at most
//! `bound` pins, the least recently used goes first and is counted; a pin whose time is over is never
//! used, swept or not; keys have a bounded length. Deliberately absent: states of upstreams, and which
//! upstream to choose. Tested here.

use hashbrown::HashTable;
use sha2::Digest as _;
use smallvec::SmallVec;

const NIL: u32 = u32::MAX;
/// Longest key kept as it is; a longer one is kept as its SHA-256.
const MAX_KEY: usize = 64;
/// Life of a pin for which no duration is configured.
const FOR_EVER_MS: u64 = 24 * 3_600_000;

/// The place where a pin's key comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the method of the same name")]
#[repr(u8)]
pub enum PinMethod {
    SourceIp = 1,
    Header = 2,
    Session = 3,
}

/// A service, a method and what the client is known by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PinKey(SmallVec<[u8; 24]>);

impl PinKey {
    /// `service` is a number that is stable for the service; `key` the method's key, of any length.
    pub fn new(service: u32, method: PinMethod, key: &[u8]) -> Self {
        let mut bytes = SmallVec::from_slice(&service.to_le_bytes());
        if key.len() <= MAX_KEY {
            bytes.push(method as u8);
            bytes.extend_from_slice(key);
        } else {
            bytes.push(method as u8 | 0x80);
            bytes.extend_from_slice(&sha2::Sha256::digest(key));
        }
        Self(bytes)
    }

    /// The shard among `shards` that owns the pin. `seeds` are those of the policy.
    pub fn shard(&self, shards: usize, seeds: [u64; 4]) -> usize {
        let hash = hasher(seeds).hash_one(&self.0[..]);
        // The high half: the low bits place it within the shard's table.
        (((hash >> 32) * shards as u64) >> 32) as usize
    }
}

fn hasher([a, b, c, d]: [u64; 4]) -> ahash::RandomState {
    ahash::RandomState::with_seeds(a, b, c, d)
}

/// A number that is stable for an upstream: of its id, never of its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UpstreamHash(pub u64);

impl UpstreamHash {
    /// Of an upstream's id: the first 8 bytes of its SHA-256.
    pub fn of(id: &str) -> Self {
        let digest = sha2::Sha256::digest(id.as_bytes());
        Self(digest.first_chunk().map_or(0, |b| u64::from_be_bytes(*b)))
    }
}

/// A pin as it was found or made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    /// Where to.
    pub upstream: UpstreamHash,
    /// When it was made, Unix ms.
    pub issued: u64,
    /// When it was last used before, Unix ms.
    pub last_use: u64,
    /// Whether this call made it.
    pub new: bool,
}

#[derive(Debug)]
struct Entry {
    key: Box<[u8]>,
    upstream: UpstreamHash,
    issued: u64,
    last_use: u64,
    expires: u64,
    prev: u32,
    next: u32,
}

/// What a turn of [`Pins::sweep`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PinSweep {
    /// Pins looked at.
    pub examined: usize,
    /// Pins removed.
    pub removed: usize,
    /// The turn reached the end of the table: the next begins at its start.
    pub wrapped: bool,
}

/// One core's pins.
#[derive(Debug)]
pub struct Pins {
    entries: slab::Slab<Entry>,
    index: HashTable<u32>,
    hasher: ahash::RandomState,
    /// Least recently used.
    head: u32,
    /// Most recently used.
    tail: u32,
    bound: usize,
    cursor: usize,
    drain_cursor: usize,
    evicted: u64,
    expired: u64,
}

impl Pins {
    /// At most `bound` pins; `seeds` are those of the policy.
    pub fn new(bound: usize, seeds: [u64; 4]) -> Self {
        Self {
            entries: slab::Slab::new(),
            index: HashTable::new(),
            hasher: hasher(seeds),
            head: NIL,
            tail: NIL,
            bound: bound.clamp(1, NIL as usize - 1),
            cursor: 0,
            drain_cursor: 0,
            evicted: 0,
            expired: 0,
        }
    }

    /// At most `bound` pins from now on. Those that are over it go as they end.
    pub fn set_bound(&mut self, bound: usize) {
        self.bound = bound.clamp(1, NIL as usize - 1);
    }

    /// Pins held, those not swept yet included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Pins given up because the table was full.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Pins whose time was over.
    pub fn expired(&self) -> u64 {
        self.expired
    }

    fn find(&self, key: &[u8]) -> Option<u32> {
        let same = |slot: &u32| {
            self.entries
                .get(*slot as usize)
                .is_some_and(|e| *e.key == *key)
        };
        self.index.find(self.hasher.hash_one(key), same).copied()
    }

    /// The pin of `key`, which this renews for `duration` ms (0: a day).
    pub fn get(&mut self, key: &PinKey, now: u64, duration: u64) -> Option<Pin> {
        let slot = self.find(&key.0)?;
        self.touch(slot, now, duration)
    }

    /// The pin of `key`, unless it has expired. Changes nothing.
    pub fn peek(&self, key: &PinKey, now: u64) -> Option<Pin> {
        let entry = self.entries.get(self.find(&key.0)? as usize)?;
        (entry.expires > now).then_some(Pin {
            upstream: entry.upstream,
            issued: entry.issued,
            last_use: entry.last_use,
            new: false,
        })
    }

    fn touch(&mut self, slot: u32, now: u64, duration: u64) -> Option<Pin> {
        let entry = self.entries.get_mut(slot as usize)?;
        if entry.expires <= now {
            self.expired += 1;
            self.remove_slot(slot);
            return None;
        }
        let pin = Pin {
            upstream: entry.upstream,
            issued: entry.issued,
            last_use: entry.last_use,
            new: false,
        };
        entry.last_use = now;
        entry.expires = expiry(now, duration);
        if self.tail != slot {
            self.unlink(slot);
            self.link(slot);
        }
        Some(pin)
    }

    /// The pin of `key`, or a new one to `upstream`.
    pub fn get_or_insert(
        &mut self,
        key: &PinKey,
        upstream: UpstreamHash,
        now: u64,
        duration: u64,
    ) -> Pin {
        match self.get(key, now, duration) {
            Some(pin) => pin,
            None => self.insert(key, upstream, now, duration),
        }
    }

    /// Pins `key` to `upstream`, whatever it was pinned to.
    pub fn put(&mut self, key: &PinKey, upstream: UpstreamHash, now: u64, duration: u64) -> Pin {
        self.remove(key);
        self.insert(key, upstream, now, duration)
    }

    /// Pins `key` to `upstream` only if it is still pinned to `old`, or not at all; returns the pin that
    /// holds. Of two requests that move a client away from one dead upstream, the second follows the first.
    pub fn replace(
        &mut self,
        key: &PinKey,
        old: UpstreamHash,
        upstream: UpstreamHash,
        now: u64,
        duration: u64,
    ) -> Pin {
        match self.get(key, now, duration) {
            Some(pin) if pin.upstream != old => pin,
            _ => self.put(key, upstream, now, duration),
        }
    }

    fn insert(&mut self, key: &PinKey, upstream: UpstreamHash, now: u64, duration: u64) -> Pin {
        if self.entries.len() >= self.bound {
            self.evicted += 1;
            self.remove_slot(self.head);
        }
        let expires = expiry(now, duration);
        let entry = Entry {
            key: key.0[..].into(),
            upstream,
            issued: now,
            last_use: now,
            expires,
            prev: NIL,
            next: NIL,
        };
        let slot = self.entries.insert(entry) as u32;
        let Self {
            entries,
            index,
            hasher,
            ..
        } = self;
        index.insert_unique(hasher.hash_one(&key.0[..]), slot, |s| {
            entries
                .get(*s as usize)
                .map_or(0, |e| hasher.hash_one(&e.key[..]))
        });
        self.link(slot);
        Pin {
            upstream,
            issued: now,
            last_use: now,
            new: true,
        }
    }

    /// Forgets the pin of `key`; returns where it went.
    pub fn remove(&mut self, key: &PinKey) -> Option<UpstreamHash> {
        let slot = self.find(&key.0)?;
        self.remove_slot(slot)
    }

    /// Forgets pins of `service` to `upstream`: at most `limit` of them, looking at no more than `batch`
    /// pins. Call again until [`PinSweep::wrapped`].
    pub fn remove_upstream(
        &mut self,
        service: u32,
        upstream: UpstreamHash,
        limit: usize,
        batch: usize,
    ) -> PinSweep {
        let prefix = service.to_le_bytes();
        let mut cursor = self.drain_cursor;
        let report = self.walk(&mut cursor, batch, limit, |e| {
            e.upstream == upstream && e.key.starts_with(&prefix)
        });
        self.drain_cursor = cursor;
        report
    }

    /// Removes pins whose time is over, looking at no more than `batch`.
    pub fn sweep(&mut self, now: u64, batch: usize) -> PinSweep {
        let mut cursor = self.cursor;
        let report = self.walk(&mut cursor, batch, usize::MAX, |e| e.expires <= now);
        self.cursor = cursor;
        self.expired += report.removed as u64;
        report
    }

    /// Looks at `batch` slots from `cursor` on and removes up to `limit` that `goes` names.
    fn walk(
        &mut self,
        cursor: &mut usize,
        batch: usize,
        limit: usize,
        goes: impl Fn(&Entry) -> bool,
    ) -> PinSweep {
        let mut report = PinSweep::default();
        while report.examined < batch && report.removed < limit {
            if *cursor >= self.entries.capacity() {
                *cursor = 0;
                report.wrapped = true;
                break;
            }
            report.examined += 1;
            if self.entries.get(*cursor).is_some_and(&goes) {
                self.remove_slot(*cursor as u32);
                report.removed += 1;
            }
            *cursor += 1;
        }
        report
    }

    fn remove_slot(&mut self, slot: u32) -> Option<UpstreamHash> {
        self.entries.get(slot as usize)?;
        self.unlink(slot);
        let entry = self.entries.try_remove(slot as usize)?;
        let hash = self.hasher.hash_one(&entry.key[..]);
        if let Ok(found) = self.index.find_entry(hash, |s| *s == slot) {
            found.remove();
        }
        Some(entry.upstream)
    }

    fn unlink(&mut self, slot: u32) {
        let Some(entry) = self.entries.get(slot as usize) else {
            return;
        };
        let (prev, next) = (entry.prev, entry.next);
        match self.entries.get_mut(prev as usize) {
            Some(entry) => entry.next = next,
            None => self.head = next,
        }
        match self.entries.get_mut(next as usize) {
            Some(entry) => entry.prev = prev,
            None => self.tail = prev,
        }
    }

    fn link(&mut self, slot: u32) {
        let tail = self.tail;
        if let Some(entry) = self.entries.get_mut(slot as usize) {
            (entry.prev, entry.next) = (tail, NIL);
        }
        match self.entries.get_mut(tail as usize) {
            Some(entry) => entry.next = slot,
            None => self.head = slot,
        }
        self.tail = slot;
    }
}

fn expiry(now: u64, duration: u64) -> u64 {
    now.saturating_add(if duration == 0 { FOR_EVER_MS } else { duration })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;

    fn key(n: u32) -> PinKey {
        PinKey::new(7, PinMethod::SourceIp, &n.to_le_bytes())
    }

    fn pins(bound: usize) -> Pins {
        Pins::new(bound, [1, 2, 3, 4])
    }

    #[test]
    fn two_first_requests_agree() {
        let mut pins = pins(10);
        let (a, b) = (UpstreamHash::of("a"), UpstreamHash::of("b"));
        let first = pins.get_or_insert(&key(1), a, 5, MINUTE);
        let second = pins.get_or_insert(&key(1), b, 6, MINUTE);
        assert_eq!(
            (first.upstream, first.new, second.upstream, second.new),
            (a, true, a, false)
        );
        assert_eq!(
            pins.replace(&key(1), b, b, 7, MINUTE).upstream,
            a,
            "not what it was moved from"
        );
        assert_eq!(pins.replace(&key(1), a, b, 7, MINUTE).upstream, b);
        assert_eq!(pins.remove(&key(1)), Some(b));
        assert_eq!((pins.get(&key(1), 8, MINUTE), pins.len()), (None, 0));
    }

    #[test]
    fn expire_after_last_use() {
        let mut pins = pins(10);
        let a = UpstreamHash::of("a");
        pins.put(&key(1), a, 0, MINUTE);
        assert!(pins.get(&key(1), MINUTE - 1, MINUTE).is_some());
        let pin = pins.get(&key(1), 2 * MINUTE - 2, MINUTE).unwrap();
        assert_eq!((pin.issued, pin.last_use), (0, MINUTE - 1));
        assert_eq!(pins.get(&key(1), 3 * MINUTE - 2, MINUTE), None);
        pins.put(&key(2), a, 0, 0);
        assert!(
            pins.get(&key(2), FOR_EVER_MS - 1, 0).is_some(),
            "no duration is a day"
        );
        assert_eq!(pins.expired(), 1);
    }

    #[test]
    fn full_the_least_recently_used_goes() {
        let mut pins = pins(3);
        let a = UpstreamHash::of("a");
        for n in 1..=3 {
            pins.put(&key(n), a, 0, MINUTE);
        }
        pins.get(&key(1), 1, MINUTE);
        pins.put(&key(4), a, 2, MINUTE);
        assert_eq!((pins.len(), pins.evicted()), (3, 1));
        let held: Vec<_> = (1..=4)
            .filter(|n| pins.get(&key(*n), 3, MINUTE).is_some())
            .collect();
        assert_eq!(held, [1, 3, 4]);
    }

    #[test]
    fn sweeps_and_drains_in_bounded_turns() {
        let mut pins = pins(1000);
        let (a, b) = (UpstreamHash::of("a"), UpstreamHash::of("b"));
        for n in 0..100 {
            pins.put(
                &key(n),
                if n % 2 == 0 { a } else { b },
                0,
                if n < 10 { 1 } else { MINUTE },
            );
        }
        let mut removed = 0;
        loop {
            let report = pins.sweep(5, 7);
            assert!(report.examined <= 7);
            removed += report.removed;
            if report.wrapped {
                break;
            }
        }
        assert_eq!((removed, pins.len()), (10, 90));
        let report = pins.remove_upstream(7, a, 4, 1000);
        assert_eq!(report.removed, 4);
        while !pins.remove_upstream(7, a, 16, 16).wrapped {}
        assert_eq!(pins.len(), 45);
        while !pins.remove_upstream(8, b, 16, 16).wrapped {}
        assert_eq!(pins.len(), 45, "another service");
    }

    #[test]
    fn keys_are_bounded_and_spread() {
        let long = PinKey::new(1, PinMethod::Header, &[b'x'; 5000]);
        assert_eq!(long.0.len(), 37);
        assert_ne!(long, PinKey::new(1, PinMethod::Header, &[b'x'; 5001]));
        let mut counts = [0; 4];
        for n in 0..4000 {
            counts[key(n).shard(4, [9; 4])] += 1;
        }
        assert!(counts.iter().all(|c| (800..1200).contains(c)), "{counts:?}");
    }
}
