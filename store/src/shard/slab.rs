//! The entries of a shard.
//!
//! Owns entries in chunks of 1,024 that never move: no growth copies, and a cursor over slots stays good
//! under change. What a request reads and writes is one cache line, [`Entry`]; the rest stands beside it
//! in [`Aside`], and what few sessions have is out of line in [`Extra`]. Used by one shard. Invariants: a free slot is on the free list and nothing refers to it; slots are trusted
//! inside the shard, and checked by [`super::SlotRef`] where they leave it. Tested here.

use super::arena::{Arena, Handle};
use super::table::MAX_SLOT;
use crate::hlc::Stamp;
use crate::id::{Digest, NodeTag, Sid};
use crate::record::blob::Blob;
use crate::record::{Counter, Idle, SecretEntry};
use crate::time::{self, Quarter};
use crate::traits::Traits;

pub(crate) const NIL: u32 = u32::MAX;
const CHUNK_BITS: u32 = 10;
pub(crate) const CHUNK: usize = 1 << CHUNK_BITS;

/// Bits of [`Entry::flags`].
pub(crate) mod flag {
    /// A client has come back with the token.
    pub(crate) const PRESENTED: u8 = 1;
    /// The current secret is an authenticated one.
    pub(crate) const AUTHENTICATED: u8 = 2;
    /// A conditional write failed; told on the next request.
    pub(crate) const CONFLICT: u8 = 4;
    /// The token was issued signed.
    pub(crate) const SIGNED: u8 = 8;
    /// Stands in the eviction order where its last access puts it: see [`super::super::recency`].
    pub(crate) const PLACED: u8 = 16;
    /// Every request must look at what is out of line: an idle timeout, counters of other nodes.
    pub(crate) const EXTRA: u8 = 32;
    /// A new secret is to be offered, until one is used.
    pub(crate) const OFFER: u8 = 64;
    /// The slot is in use.
    pub(crate) const LIVE: u8 = 128;
}

/// One session: all that a request reads and writes, in one cache line.
#[derive(Debug, Clone)]
#[repr(align(64))]
pub(crate) struct Entry {
    pub(crate) sid: Sid,
    pub(crate) digest: Digest,
    /// Milliseconds since 2020 << 16 | birth tag.
    created: u64,
    pub(crate) last_access: Quarter,
    /// Requests and writes counted by this node.
    pub(crate) requests: u32,
    pub(crate) changes: u32,
    /// Different after every change of what readers see: the key of cached JSON.
    pub(crate) revision: u32,
    cell: u32,
    len: u16,
    class: u8,
    pub(crate) flags: u8,
}

/// The rest of a session, which most requests leave alone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Aside {
    /// Neighbours in the eviction order; `next` also links the free list.
    pub(crate) prev: u32,
    pub(crate) next: u32,
    /// Local seconds of the last change that others must learn; never on the wire.
    pub(crate) changed_at: u32,
    extra: u32,
}

impl Aside {
    const FREE: Self = Self {
        prev: NIL,
        next: NIL,
        changed_at: 0,
        extra: NIL,
    };
}

impl Entry {
    const FREE: Self = Self {
        sid: Sid([0; 16]),
        digest: Digest([0; 16]),
        created: 0,
        last_access: Quarter(0),
        requests: 0,
        changes: 0,
        revision: 0,
        cell: 0,
        len: 0,
        class: Handle::EMPTY.class,
        flags: 0,
    };

    /// A new one without fields.
    pub(crate) fn new(sid: Sid, digest: Digest, created: u64, birth: NodeTag) -> Self {
        let mut entry = Self {
            sid,
            digest,
            flags: flag::LIVE,
            ..Self::FREE
        };
        entry.set_created(created, birth);
        entry
    }

    /// Milliseconds since 2020.
    pub(crate) fn created(&self) -> u64 {
        self.created >> 16
    }

    pub(crate) fn created_unix(&self) -> u64 {
        time::EPOCH_MS + self.created()
    }

    pub(crate) fn birth(&self) -> NodeTag {
        NodeTag::new(self.created as u16)
    }

    pub(crate) fn set_created(&mut self, created: u64, birth: NodeTag) {
        self.created = (created << 16) | u64::from(birth.get());
    }

    pub(crate) fn creation(&self) -> Stamp {
        Stamp::creation(self.created(), self.birth().get())
    }

    pub(crate) fn handle(&self) -> Handle {
        Handle {
            cell: self.cell,
            len: self.len,
            class: self.class,
        }
    }

    pub(crate) fn set_handle(&mut self, handle: Handle) {
        (self.cell, self.len, self.class) = (handle.cell, handle.len, handle.class);
    }

    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(crate) fn set(&mut self, flag: u8, on: bool) {
        self.flags = if on {
            self.flags | flag
        } else {
            self.flags & !flag
        };
    }

    /// Notes an access; whether it is later than the last. The entry's place in the eviction order is
    /// then no longer that of its last access.
    #[inline]
    pub(crate) fn accessed(&mut self, at: Quarter) -> bool {
        let later = at > self.last_access;
        if later {
            self.last_access = at;
            self.flags &= !flag::PLACED;
        }
        later
    }

    /// See [`rank_of`].
    #[inline]
    pub(crate) fn rank(&self) -> u8 {
        rank_of(self.flags)
    }
}

/// 0 never presented, 1 anonymous, 2 authenticated: eviction takes the lowest first.
#[inline]
pub(crate) fn rank_of(flags: u8) -> u8 {
    if flags & flag::AUTHENTICATED != 0 {
        2
    } else {
        flags & flag::PRESENTED
    }
}

/// What few sessions have.
#[derive(Debug, Default)]
pub(crate) struct Extra {
    /// All secrets, the current one included; empty while the session has never rotated.
    pub(crate) secrets: Vec<SecretEntry>,
    /// Counters of other nodes, by node.
    pub(crate) counters: Vec<Counter>,
    /// Its own idle timeout.
    pub(crate) idle: Option<Idle>,
    /// What its client looks like.
    pub(crate) traits: Option<Box<Traits>>,
}

impl Extra {
    pub(crate) fn is_empty(&self) -> bool {
        self.secrets.is_empty()
            && self.counters.is_empty()
            && self.idle.is_none()
            && self.traits.is_none()
    }

    /// Whether every request must look at it.
    fn matters(&self) -> bool {
        !self.counters.is_empty() || self.idle.is_some()
    }

    /// About the memory that it takes.
    pub(crate) fn cost(&self) -> u64 {
        let lists = self.secrets.capacity() * size_of::<SecretEntry>()
            + self.counters.capacity() * size_of::<Counter>();
        let traits = self.traits.as_ref().map_or(0, |_| size_of::<Traits>() + 16);
        (size_of::<Self>() + lists + traits + 32) as u64
    }
}

/// Entries with what hangs on them.
#[derive(Debug)]
pub(crate) struct Store {
    entries: Vec<Box<[Entry; CHUNK]>>,
    asides: Vec<Box<[Aside; CHUNK]>>,
    free: u32,
    high: u32,
    live: u32,
    pub(crate) arena: Arena,
    extras: slab::Slab<Box<Extra>>,
}

impl Store {
    pub(crate) fn new() -> Self {
        Self {
            entries: Vec::new(),
            asides: Vec::new(),
            free: NIL,
            high: 0,
            live: 0,
            arena: Arena::new(),
            extras: slab::Slab::new(),
        }
    }

    /// Live entries.
    pub(crate) fn len(&self) -> u32 {
        self.live
    }

    /// One past the highest slot ever used.
    pub(crate) fn high(&self) -> u32 {
        self.high
    }

    /// Puts an entry into a free slot; `None` when all that an index can name are taken.
    pub(crate) fn insert(&mut self, entry: Entry) -> Option<u32> {
        let slot = if self.free != NIL {
            let slot = self.free;
            self.free = self.aside(slot).next;
            slot
        } else if self.high < MAX_SLOT {
            if self.high as usize >> CHUNK_BITS == self.entries.len() {
                self.entries.push(vec![Entry::FREE; CHUNK].try_into().ok()?);
                self.asides.push(vec![Aside::FREE; CHUNK].try_into().ok()?);
            }
            self.high += 1;
            self.high - 1
        } else {
            return None;
        };
        self.live += 1;
        *self.at_mut(slot) = entry;
        *self.aside_mut(slot) = Aside::FREE;
        Some(slot)
    }

    /// Frees a slot with all that hangs on it.
    pub(crate) fn remove(&mut self, slot: u32) {
        let (handle, extra) = (self.at(slot).handle(), self.aside(slot).extra);
        self.arena.free(handle);
        if extra != NIL {
            self.extras.try_remove(extra as usize);
        }
        *self.at_mut(slot) = Entry::FREE;
        *self.aside_mut(slot) = Aside {
            next: self.free,
            ..Aside::FREE
        };
        self.free = slot;
        self.live -= 1;
    }

    #[inline]
    pub(crate) fn at(&self, slot: u32) -> &Entry {
        &self.entries[(slot >> CHUNK_BITS) as usize][slot as usize & (CHUNK - 1)]
    }

    #[inline]
    pub(crate) fn at_mut(&mut self, slot: u32) -> &mut Entry {
        &mut self.entries[(slot >> CHUNK_BITS) as usize][slot as usize & (CHUNK - 1)]
    }

    #[inline]
    pub(crate) fn aside(&self, slot: u32) -> &Aside {
        &self.asides[(slot >> CHUNK_BITS) as usize][slot as usize & (CHUNK - 1)]
    }

    #[inline]
    pub(crate) fn aside_mut(&mut self, slot: u32) -> &mut Aside {
        &mut self.asides[(slot >> CHUNK_BITS) as usize][slot as usize & (CHUNK - 1)]
    }

    /// The entry, if the slot is in use.
    #[inline]
    pub(crate) fn live(&self, slot: u32) -> Option<&Entry> {
        let entry = self
            .entries
            .get((slot >> CHUNK_BITS) as usize)?
            .get(slot as usize & (CHUNK - 1))?;
        entry.has(flag::LIVE).then_some(entry)
    }

    /// What few sessions have.
    pub(crate) fn extra(&self, slot: u32) -> Option<&Extra> {
        let at = self.aside(slot).extra;
        if at == NIL {
            None
        } else {
            self.extras.get(at as usize).map(|b| &**b)
        }
    }

    /// The same where it holds an idle timeout or counters; else it is not looked at.
    #[inline]
    fn extra_that_matters(&self, slot: u32) -> Option<&Extra> {
        if self.at(slot).has(flag::EXTRA) {
            self.extra(slot)
        } else {
            None
        }
    }

    /// The session's own idle timeout.
    #[inline]
    pub(crate) fn idle(&self, slot: u32) -> Option<Idle> {
        self.extra_that_matters(slot).and_then(|x| x.idle)
    }

    /// Takes the rare part out, to be put back by [`Self::set_extra`].
    pub(crate) fn take_extra(&mut self, slot: u32) -> Extra {
        let at = self.aside(slot).extra;
        if at == NIL {
            Extra::default()
        } else {
            self.extras
                .get_mut(at as usize)
                .map(|x| std::mem::take(&mut **x))
                .unwrap_or_default()
        }
    }

    /// Replaces the rare part.
    pub(crate) fn set_extra(&mut self, slot: u32, extra: Extra) {
        let old = self.aside(slot).extra;
        let matters = extra.matters();
        let new = match (old == NIL, extra.is_empty()) {
            (true, true) => NIL,
            (true, false) => self.extras.insert(Box::new(extra)) as u32,
            (false, true) => {
                self.extras.try_remove(old as usize);
                NIL
            }
            (false, false) => {
                if let Some(place) = self.extras.get_mut(old as usize) {
                    **place = extra;
                }
                old
            }
        };
        self.aside_mut(slot).extra = new;
        self.at_mut(slot).set(flag::EXTRA, matters);
    }

    #[inline]
    pub(crate) fn blob(&self, entry: &Entry) -> Blob<'_> {
        Blob::new(self.arena.get(entry.handle()), entry.creation())
    }

    /// The value that readers see.
    pub(crate) fn value(&self, slot: u32, name: &[u8]) -> Option<&[u8]> {
        self.blob(self.at(slot)).get(name)
    }

    /// Writes of data and attributes over all nodes.
    #[inline]
    pub(crate) fn version(&self, slot: u32) -> u64 {
        let others = self
            .extra_that_matters(slot)
            .map_or(0, |x| x.counters.iter().map(|c| u64::from(c.changes)).sum());
        u64::from(self.at(slot).changes) + others
    }

    /// Requests over all nodes.
    pub(crate) fn requests(&self, slot: u32) -> u64 {
        let others = self.extra_that_matters(slot).map_or(0, |x| {
            x.counters.iter().map(|c| u64::from(c.requests)).sum()
        });
        u64::from(self.at(slot).requests) + others
    }

    /// Bytes of memory that the session takes, its place in the indexes included.
    pub(crate) fn cost(&self, slot: u32) -> u64 {
        let handle = self.at(slot).handle();
        ENTRY_COST + self.arena.cost(handle) + self.extra(slot).map_or(0, Extra::cost)
    }
}

/// An entry, its links and its cells in two indexes.
const ENTRY_COST: u64 = (size_of::<Entry>() + size_of::<Aside>()) as u64 + 8 + 12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_small() {
        assert_eq!((size_of::<Entry>(), size_of::<Aside>()), (64, 16));
    }

    #[test]
    fn created_packs() {
        let entry = Entry::new(
            Sid([1; 16]),
            Digest([2; 16]),
            (1 << 46) - 1,
            NodeTag::new(0x7fff),
        );
        assert_eq!(
            (entry.created(), entry.birth().get()),
            ((1 << 46) - 1, 0x7fff)
        );
        assert_eq!(entry.rank(), 0);
    }

    #[test]
    fn slots_are_reused() {
        let mut store = Store::new();
        let entry = |n| Entry::new(Sid([n; 16]), Digest([n; 16]), 1, NodeTag::new(1));
        let slots: Vec<_> = (0..3).map(|n| store.insert(entry(n)).unwrap()).collect();
        assert_eq!(slots, [0, 1, 2]);
        store.remove(1);
        assert!(store.live(1).is_none() && store.live(7).is_none());
        assert_eq!(
            (store.insert(entry(9)), store.len(), store.high()),
            (Some(1), 3, 3)
        );
    }
}
