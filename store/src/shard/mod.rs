//! One core's part of the session map.
//!
//! Owns the entries, their indexes, the order of eviction, tombstones and table pins of one core.
//! That core's thread only; other threads ask by [`Ask`] and get an [`Answer`], made by the same
//! methods. Hot: [`Shard::attach`], [`Shard::write_json`].
//!
//! Invariants: created + received − destroyed − expired − evicted = live; a destroyed session never
//! returns while its tombstone stands; an expired one is never served, swept or not; the victim of an
//! eviction is the one that the policy names (exactly under `lfu` and `ttl`, to a quarter of a second and
//! within counted bounds under `lru`); whoever crosses `max_sessions` or `max_bytes`
//! evicts its own, never the session that it has just made.
//!
//! Deliberately absent: timers for each session (expiry is judged at lookup and swept by a cursor), and
//! the choice of the core that owns a session, which [`crate::id::shard_of`] makes.
//!
//! Tested by unit tests beside each part and by the simulator in `tests/sim` against a shadow model.

mod admin;
mod apply;
mod arena;
mod attach;
mod attributes;
mod change;
mod life;
mod look;
mod message;
mod order;
mod receive;
mod recency;
mod rotate;
mod slab;
mod subjects;
mod table;
#[cfg(test)]
mod tests;
mod tombstones;
mod write;

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

pub use admin::{Filter, Page, surplus};
pub use attach::{Attached, Valid};
pub use attributes::{Attribute, Attributes, Bound};
pub use life::{Created, DESTROY_BATCH, Destroyed, Ends, SweepReport};
pub use message::{Answer, Ask, AttachAnswer};
pub use order::{Frequency, HALF_LIFE};

use crate::event::{Event, EventKind};
use crate::hlc::{Hlc, Stamp};
use crate::id::{NodeTag, Sid};
use crate::pins::Pins;
use crate::session::Policy;
use crate::time;
use order::Order;
use slab::{Entry, Store};
use subjects::FieldIndex;
use table::Table;
use tombstones::Tombstones;

/// What is counted over all shards of an instance: one atomic each in the product.
pub trait Totals {
    /// Adds to the number of sessions; returns the new total.
    fn add_sessions(&self, delta: i64) -> u64;
    /// Adds to the bytes of memory that sessions take; returns the new total.
    fn add_bytes(&self, delta: i64) -> u64;
}

/// Totals of a process with one thread: for tests and tools.
#[derive(Debug, Clone, Default)]
pub struct LocalTotals(Rc<(Cell<u64>, Cell<u64>)>);

impl LocalTotals {
    /// Sessions and bytes.
    pub fn get(&self) -> (u64, u64) {
        (self.0.0.get(), self.0.1.get())
    }
}

fn bump(cell: &Cell<u64>, delta: i64) -> u64 {
    cell.set(cell.get().saturating_add_signed(delta));
    cell.get()
}

impl Totals for LocalTotals {
    fn add_sessions(&self, delta: i64) -> u64 {
        bump(&self.0.0, delta)
    }

    fn add_bytes(&self, delta: i64) -> u64 {
        bump(&self.0.1, delta)
    }
}

/// A shard's place among those of its instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Home {
    /// Which.
    pub shard: usize,
    /// Of how many.
    pub shards: usize,
}

impl Home {
    /// Whether `sid` is born, and lives, here.
    pub fn owns(self, sid: &Sid) -> bool {
        crate::id::shard_of(sid, self.shards) == self.shard
    }
}

/// A session's place in its shard, for calls that follow at once. It is checked against the sid: after
/// the session has gone it finds nothing, even when the place is used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotRef {
    slot: u32,
    check: u32,
}

/// What a shard has counted since it was made. Read by its own thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Sessions created here.
    pub created: u64,
    /// Sessions that came from elsewhere.
    pub received: u64,
    /// Sessions destroyed on demand.
    pub destroyed: u64,
    /// Sessions that expired.
    pub expired: u64,
    /// Sessions evicted to stay within a bound.
    pub evicted: u64,
    /// Requests whose client looked like another, by [`crate::traits::Check`].
    pub mismatches: [u64; 4],
    /// Of those destroyed: because their subject had too many.
    pub subject_limited: u64,
    /// Requests with a retired secret.
    pub reuses: u64,
    /// Secrets exchanged.
    pub rotated: u64,
    /// Events not told because too many were waiting.
    pub events_dropped: u64,
    /// Tombstones forgotten before their time because of their bound.
    pub tombstones_dropped: u64,
    /// Evictions whose search for the session not used for longest ended at its bound: the victim was
    /// the oldest of those looked at.
    pub searches_cut: u64,
    /// Times that two quarters of a second of the distant past became one in the order of eviction,
    /// because of the bound on their number.
    pub quarters_joined: u64,
}

/// One core's sessions and pins.
pub struct Shard {
    policy: Arc<Policy>,
    home: Home,
    tag: NodeTag,
    hlc: Hlc,
    store: Store,
    sids: Table,
    indexes: Vec<FieldIndex>,
    order: Order,
    tombstones: Tombstones,
    pins: Pins,
    totals: Box<dyn Totals>,
    counts: Counts,
    events: VecDeque<Event>,
    ends: Ends,
    cursor: u32,
    revision: u32,
    /// Where fields are packed before it is known whether they fit.
    scratch: Vec<u8>,
}

impl Shard {
    /// An empty shard of the node `tag`.
    pub fn new(policy: Arc<Policy>, home: Home, tag: NodeTag, totals: Box<dyn Totals>) -> Self {
        let [a, b, c, d] = policy.seeds;
        let index = |name: &crate::fields::Name| {
            FieldIndex::new(
                name.as_bytes().into(),
                ahash::RandomState::with_seeds(a, b, c, d),
            )
        };
        Self {
            home,
            tag,
            hlc: Hlc::default(),
            store: Store::new(),
            sids: Table::new(),
            indexes: policy.index.iter().map(index).collect(),
            order: Order::new(policy.eviction),
            tombstones: Tombstones::new(policy.max_tombstones),
            pins: Pins::new(policy.max_pins, policy.seeds),
            totals,
            counts: Counts::default(),
            events: VecDeque::new(),
            ends: Ends::default(),
            cursor: 0,
            revision: 0,
            scratch: Vec::new(),
            policy,
        }
    }

    /// Sessions held, those that have expired and are not swept yet included.
    pub fn len(&self) -> usize {
        self.store.len() as usize
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What has been counted.
    pub fn counts(&self) -> Counts {
        let (searches_cut, quarters_joined) = self.order.bounds_hit();
        Counts {
            searches_cut,
            quarters_joined,
            tombstones_dropped: self.tombstones.dropped,
            ..self.counts
        }
    }

    /// Tombstones that stand.
    pub fn tombstones(&self) -> usize {
        self.tombstones.len()
    }

    /// The table pins.
    pub fn pins(&mut self) -> &mut Pins {
        &mut self.pins
    }

    /// Moves all waiting events to `out`.
    pub fn drain_events(&mut self, out: &mut Vec<Event>) {
        out.extend(self.events.drain(..));
    }

    #[inline]
    fn find(&self, sid: &Sid) -> Option<u32> {
        self.sids
            .find(sid.index_bits(), |slot| self.store.at(slot).sid == *sid)
    }

    fn slot_ref(&self, slot: u32) -> SlotRef {
        SlotRef {
            slot,
            check: self.store.at(slot).sid.check(),
        }
    }

    #[inline]
    fn resolve(&self, at: SlotRef) -> Option<&Entry> {
        self.store
            .live(at.slot)
            .filter(|e| e.sid.check() == at.check)
    }

    /// Appends the flat JSON object of what upstreams see at `now` (Unix ms) of the session's data,
    /// printable ASCII only; nothing where there is none. Returns whether there is.
    #[inline]
    pub fn write_json(&self, at: SlotRef, now: u64, out: &mut Vec<u8>) -> bool {
        self.resolve(at)
            .is_some_and(|entry| self.write_entry_json(entry, now, out))
    }

    fn write_entry_json(&self, entry: &Entry, now: u64, out: &mut Vec<u8>) -> bool {
        let before = out.len();
        out.push(b'{');
        if self
            .store
            .blob(entry)
            .write_members(time::unix_seconds(now), out)
        {
            out.push(b'}');
            return true;
        }
        out.truncate(before);
        false
    }

    /// When the session ends if nothing more happens, Unix ms; `u64::MAX` is never.
    #[inline]
    fn expires(&self, slot: u32) -> u64 {
        let (policy, entry) = (&*self.policy, self.store.at(slot));
        let after = |start: u64, life: u64| {
            if life == 0 {
                u64::MAX
            } else {
                start.saturating_add(life)
            }
        };
        let (created, last) = (entry.created_unix(), entry.last_access.end());
        let mut end = after(created, policy.ttl).min(after(last, policy.inactive));
        let own = self.store.idle(slot);
        match own {
            Some(own) => end = end.min(after(last, own.ms)),
            None if policy.rolling => end = end.min(after(last, policy.timeout)),
            None => {}
        }
        if policy.rolling {
            end
        } else {
            end.min(after(created, policy.timeout))
        }
    }

    /// A stamp for a change made here and now.
    fn stamp(&mut self, now: u64) -> Stamp {
        Stamp {
            clock: self.hlc.tick(now),
            tag: self.tag.get(),
        }
    }

    fn next_revision(&mut self) -> u32 {
        self.revision = self.revision.wrapping_add(1);
        self.revision
    }

    fn tell(&mut self, kind: EventKind, slot: u32, now: u64, reason: &'static str, ordinal: u64) {
        if self.policy.max_events == 0 {
            return;
        }
        if self.events.len() >= self.policy.max_events {
            self.counts.events_dropped += 1;
            return;
        }
        let subject = self.store.value(slot, self.policy.subject());
        let subject = subject
            .and_then(|s| std::str::from_utf8(s).ok())
            .map(Into::into);
        let sid = Some(self.store.at(slot).sid);
        self.events.push_back(Event {
            kind,
            at: now,
            sid,
            reason,
            subject,
            upstream: None,
            ordinal,
        });
    }
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Shard({:?}, {} sessions, {} pins)",
            self.home,
            self.len(),
            self.pins.len()
        )
    }
}
