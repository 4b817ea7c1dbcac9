//! The entries of a shard.
//!
//! Owns [`Entry`] (80 bytes) in chunks of 1,024 that never move: no growth copies, and a cursor over
//! slots stays good under change. Rare parts of a session are out of line in [`Extra`]. Used by one
//! shard. Invariants: a free slot is on the free list and nothing refers to it; slots are trusted
//! inside the shard, and checked by [`super::SlotRef`] where they leave it. Tested here.

use super::arena::{Arena, Handle};
use super::table::MAX_SLOT;
use crate::hlc::Stamp;
use crate::id::{Digest, NodeTag, Sid};
use crate::record::blob::Blob;
use crate::record::{Counter, Idle, SecretEntry};
use crate::time::{self, Quarter};

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
    /// The slot is in use.
    pub(crate) const LIVE: u8 = 128;
}

/// One session.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) sid: Sid,
    pub(crate) digest: Digest,
    /// Milliseconds since 2020 << 16 | birth tag, in two halves to keep the alignment at 4.
    created: [u32; 2],
    pub(crate) last_access: Quarter,
    /// Requests and writes counted by this node.
    pub(crate) requests: u32,
    pub(crate) changes: u32,
    /// Neighbours in the eviction order; `next` also links the free list.
    pub(crate) prev: u32,
    pub(crate) next: u32,
    /// Local seconds of the last change that others must learn; never on the wire.
    pub(crate) changed_at: u32,
    /// Different after every change of what readers see: the key of cached JSON.
    pub(crate) revision: u32,
    pub(crate) extra: u32,
    pub(crate) cell: u32,
    pub(crate) len: u16,
    pub(crate) class: u8,
    pub(crate) flags: u8,
}

impl Entry {
    const FREE: Self = Self {
        sid: Sid([0; 16]),
        digest: Digest([0; 16]),
        created: [0; 2],
        last_access: Quarter(0),
        requests: 0,
        changes: 0,
        prev: NIL,
        next: NIL,
        changed_at: 0,
        revision: 0,
        extra: NIL,
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
        self.packed() >> 16
    }

    pub(crate) fn created_unix(&self) -> u64 {
        time::EPOCH_MS + self.created()
    }

    pub(crate) fn birth(&self) -> NodeTag {
        NodeTag::new(self.packed() as u16)
    }

    pub(crate) fn set_created(&mut self, created: u64, birth: NodeTag) {
        let packed = created << 16 | u64::from(birth.get());
        self.created = [packed as u32, (packed >> 32) as u32];
    }

    fn packed(&self) -> u64 {
        u64::from(self.created[0]) | u64::from(self.created[1]) << 32
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

    /// 0 never presented, 1 anonymous, 2 authenticated: eviction takes the lowest first.
    #[inline]
    pub(crate) fn rank(&self) -> u8 {
        if self.has(flag::AUTHENTICATED) {
            2
        } else {
            self.flags & flag::PRESENTED
        }
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
}

impl Extra {
    pub(crate) fn is_empty(&self) -> bool {
        self.secrets.is_empty() && self.counters.is_empty() && self.idle.is_none()
    }

    /// About the memory that it takes.
    pub(crate) fn cost(&self) -> u64 {
        let lists = self.secrets.capacity() * size_of::<SecretEntry>()
            + self.counters.capacity() * size_of::<Counter>();
        (size_of::<Self>() + lists + 32) as u64
    }
}

/// Entries with what hangs on them.
#[derive(Debug)]
pub(crate) struct Store {
    chunks: Vec<Box<[Entry]>>,
    free: u32,
    high: u32,
    live: u32,
    pub(crate) arena: Arena,
    extras: slab::Slab<Box<Extra>>,
}

impl Store {
    pub(crate) fn new() -> Self {
        Self {
            chunks: Vec::new(),
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
            self.free = self.at(slot).next;
            slot
        } else if self.high < MAX_SLOT {
            if self.high as usize >> CHUNK_BITS == self.chunks.len() {
                self.chunks.push(vec![Entry::FREE; CHUNK].into());
            }
            self.high += 1;
            self.high - 1
        } else {
            return None;
        };
        self.live += 1;
        *self.at_mut(slot) = entry;
        Some(slot)
    }

    /// Frees a slot with all that hangs on it.
    pub(crate) fn remove(&mut self, slot: u32) {
        let (handle, extra) = (self.at(slot).handle(), self.at(slot).extra);
        self.arena.free(handle);
        if extra != NIL {
            self.extras.try_remove(extra as usize);
        }
        *self.at_mut(slot) = Entry {
            next: self.free,
            ..Entry::FREE
        };
        self.free = slot;
        self.live -= 1;
    }

    #[inline]
    pub(crate) fn at(&self, slot: u32) -> &Entry {
        &self.chunks[(slot >> CHUNK_BITS) as usize][slot as usize & (CHUNK - 1)]
    }

    #[inline]
    pub(crate) fn at_mut(&mut self, slot: u32) -> &mut Entry {
        &mut self.chunks[(slot >> CHUNK_BITS) as usize][slot as usize & (CHUNK - 1)]
    }

    /// The entry, if the slot is in use.
    pub(crate) fn live(&self, slot: u32) -> Option<&Entry> {
        let entry = self
            .chunks
            .get((slot >> CHUNK_BITS) as usize)?
            .get(slot as usize & (CHUNK - 1))?;
        entry.has(flag::LIVE).then_some(entry)
    }

    #[inline]
    pub(crate) fn extra(&self, entry: &Entry) -> Option<&Extra> {
        if entry.extra == NIL {
            None
        } else {
            self.extras.get(entry.extra as usize).map(|b| &**b)
        }
    }

    /// Takes the rare part out, to be put back by [`Self::set_extra`].
    pub(crate) fn take_extra(&mut self, slot: u32) -> Extra {
        let at = self.at(slot).extra;
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
        let old = self.at(slot).extra;
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
        self.at_mut(slot).extra = new;
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
    pub(crate) fn version(&self, entry: &Entry) -> u64 {
        let others = self
            .extra(entry)
            .map_or(0, |x| x.counters.iter().map(|c| u64::from(c.changes)).sum());
        u64::from(entry.changes) + others
    }

    /// Requests over all nodes.
    pub(crate) fn requests(&self, entry: &Entry) -> u64 {
        let others = self.extra(entry).map_or(0, |x| {
            x.counters.iter().map(|c| u64::from(c.requests)).sum()
        });
        u64::from(entry.requests) + others
    }

    /// Bytes of memory that the session takes, its place in the indexes included.
    pub(crate) fn cost(&self, entry: &Entry) -> u64 {
        ENTRY_COST + self.arena.cost(entry.handle()) + self.extra(entry).map_or(0, Extra::cost)
    }
}

/// An entry, its links and its cells in two indexes.
const ENTRY_COST: u64 = size_of::<Entry>() as u64 + 8 + 12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_small() {
        assert_eq!(size_of::<Entry>(), 80);
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
