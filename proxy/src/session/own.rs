//! The sessions that a core owns: its shard, and the questions to those of others.
//!
//! Owns [`Sessions`], one a data core, which alone touches it. Invariants: no borrow of the shard lives
//! across an await; cleanup is done in bounded turns. Tested end to end.

use std::cell::{Cell, RefCell, RefMut};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use holdfast_runtime::bytes::prefetch;
use holdfast_runtime::mesh::Calls;
use holdfast_store::id::{NodeTag, Sid, shard_of};
use holdfast_store::session::Policy;
use holdfast_store::shard::{Answer, Ask, Home, Shard, Totals};

use crate::boot::ProcessKeys;
use crate::core::Core;
use crate::generation::Generation;
use crate::metrics::Metric;
use crate::shared::Shared;

/// Turns of the cleanup that one turn of the core may do.
const SWEEPS: usize = 4;

/// The sessions of one core.
pub struct Sessions {
    pub(super) shard: RefCell<Shard>,
    /// A panic came amid a change of the shard.
    broken: Cell<bool>,
    calls: Calls<Answer>,
    pub(super) cores: usize,
    pub(super) home: usize,
    /// This instance, as its tokens name it.
    pub(super) tag: NodeTag,
    sweeping: Cell<bool>,
    /// Events that the shard has dropped, as far as counted.
    events_dropped: Cell<u64>,
    next_sweep_ms: Cell<u64>,
}

/// The shard while it is changed.
pub(super) struct Changing<'a> {
    shard: RefMut<'a, Shard>,
    broken: &'a Cell<bool>,
}

impl Deref for Changing<'_> {
    type Target = Shard;

    fn deref(&self) -> &Shard {
        &self.shard
    }
}

impl DerefMut for Changing<'_> {
    fn deref_mut(&mut self) -> &mut Shard {
        &mut self.shard
    }
}

impl Drop for Changing<'_> {
    #[inline]
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.broken.set(true);
        }
    }
}

struct SharedTotals(Arc<Shared>);

impl Totals for SharedTotals {
    fn add_sessions(&self, delta: i64) -> u64 {
        let before = self.0.sessions.fetch_add(delta as usize, Relaxed);
        (before as u64).wrapping_add_signed(delta)
    }

    fn add_bytes(&self, delta: i64) -> u64 {
        let before = self.0.session_bytes.fetch_add(delta as u64, Relaxed);
        before.wrapping_add_signed(delta)
    }
}
impl Sessions {
    /// For a core.
    pub fn new(shared: &Arc<Shared>, index: usize, first: &Generation, keys: &ProcessKeys) -> Self {
        let policy = match first.session() {
            Some(session) => Policy::from_plan(session, shared.cores, keys.seeds, &keys.session),
            // Table pins live in the shard also where there are no sessions.
            None => Policy {
                seeds: keys.seeds,
                ..Policy::default()
            },
        };
        let home = Home {
            shard: index,
            shards: shared.cores,
        };
        let totals = Box::new(SharedTotals(shared.clone()));
        Self {
            shard: RefCell::new(Shard::new(
                Arc::new(policy),
                home,
                NodeTag::new(keys.node),
                totals,
            )),
            broken: Cell::new(false),
            calls: Calls::new(),
            cores: shared.cores,
            home: index,
            tag: NodeTag::new(keys.node),
            sweeping: Cell::new(false),
            events_dropped: Cell::new(0),
            next_sweep_ms: Cell::new(0),
        }
    }

    /// Brings near what an attach of `sid` reads first.
    #[inline]
    pub fn prefetch_index(&self, sid: &Sid) {
        if let Some(first) = self.shard.borrow().first_read(sid) {
            prefetch(first);
        }
    }

    /// Brings near what an attach of `sid` reads next, some 100 ns after [`Self::prefetch_index`].
    #[inline]
    pub fn prefetch_entry(&self, sid: &Sid) {
        if let Some(second) = self.shard.borrow().second_read(sid) {
            prefetch(second);
        }
    }

    /// Questions that wait for answers of other cores.
    pub fn calls(&self) -> &Calls<Answer> {
        &self.calls
    }

    /// Takes up the policy of a new configuration, for the sessions that there are as well. Where it
    /// turns sessions off, those that there are end by the policy that they had.
    pub fn reload(&self, shared: &Shared, new: &Generation, keys: &ProcessKeys, now_ms: u64) {
        if let Some(session) = new.session() {
            let policy = Policy::from_plan(session, shared.cores, keys.seeds, &keys.session);
            self.shard.borrow_mut().set_policy(policy, now_ms);
        }
    }

    /// The shard, to be changed on a request's path.
    pub(super) fn shard_mut(&self) -> Changing<'_> {
        Changing {
            shard: self.shard.borrow_mut(),
            broken: &self.broken,
        }
    }

    /// Whether no panic came amid a change of the shard.
    pub fn is_sound(&self) -> bool {
        !self.broken.get()
    }

    /// Answers a question to this core's shard.
    pub fn answer(&self, core: &Core, ask: Ask) -> Answer {
        let now = core.wall_ms();
        let answer = core.with_entropy(|entropy| self.shard_mut().handle(ask, now, entropy));
        self.tell_ends(core);
        answer
    }

    /// Tells those that hold something of sessions that have ended: sockets and pins, on any core.
    fn tell_ends(&self, core: &Core) {
        if !self.shard.borrow().has_ends() {
            return;
        }
        let ends = Arc::new(self.shard.borrow_mut().take_ends());
        let pinned = !core.generation().session_pins.is_empty();
        for (other, metrics) in core.shared.metrics.iter().enumerate() {
            if other != self.home && (pinned || metrics.get(Metric::SocketsOpen) > 0) {
                let ends = Arc::clone(&ends);
                core.mesh.send(other, crate::message::Message::Ends(ends));
            }
        }
        core.sessions_ended(&ends);
    }

    /// Whether so many messages to the core `owner` wait that nothing new should begin that asks it. Counted.
    pub fn is_congested(&self, core: &Core, owner: usize) -> bool {
        let congested = core.mesh.is_congested(owner);
        if congested {
            core.metrics().count(Metric::MeshRefused);
        }
        congested
    }

    /// Asks the shard of `owner`, which may be this core's. `None` if it can't be asked.
    pub async fn ask(&self, core: &Core, owner: usize, ask: Ask) -> Option<Answer> {
        if owner == self.home {
            return Some(self.answer(core, ask));
        }
        let (call, answer) = self.calls.open();
        core.mesh
            .send(owner, crate::message::Message::Ask { call, ask });
        Some(answer.await)
    }

    /// The core that owns a sid.
    pub fn owner(&self, sid: &Sid) -> usize {
        shard_of(sid, self.cores)
    }

    /// Takes over what the shard has told.
    pub fn drain_events(&self, core: &Core) {
        let mut events = Vec::new();
        let mut shard = self.shard.borrow_mut();
        shard.drain_events(&mut events);
        let dropped = shard.counts().events_dropped;
        drop(shard);
        let before = self.events_dropped.replace(dropped);
        core.metrics().add(Metric::EventsDropped, dropped - before);
        events.into_iter().for_each(|event| core.emit(event));
    }

    /// Background work: cleanup in bounded turns, events, gauges.
    pub fn turn(&self, core: &Core, generation: &Generation, now_ms: u64) {
        let mut shard = self.shard.borrow_mut();
        let (interval, batch) = match generation.session() {
            Some(plan) => (
                plan.cleanup.interval.as_millis() as u64,
                plan.cleanup.batch_size.max(1),
            ),
            None => (60_000, 1000),
        };
        if now_ms >= self.next_sweep_ms.get() && !self.sweeping.replace(true) {
            self.next_sweep_ms.set(now_ms + interval.max(200));
        }
        let wall = core.wall_ms();
        for _ in 0..SWEEPS {
            if !self.sweeping.get() {
                break;
            }
            self.sweeping.set(!shard.sweep(wall, batch).wrapped);
        }
        shard.pins().sweep(wall, batch);
        drop(shard);
        self.tell_ends(core);
        self.drain_events(core);
        let mut shard = self.shard.borrow_mut();
        let (counts, metrics) = (shard.counts(), core.metrics());
        metrics.set(Metric::SessionsActive, shard.len() as u64);
        metrics.set(Metric::SessionCreates, counts.created);
        metrics.set(Metric::SessionDestroys, counts.destroyed);
        metrics.set(Metric::SessionExpirations, counts.expired);
        metrics.set(Metric::SessionEvictions, counts.evicted);
        metrics.set(Metric::SubjectLimited, counts.subject_limited);
        metrics.set(Metric::SecretReuses, counts.reuses);
        metrics.set(Metric::SecretsRotated, counts.rotated);
        let checks = [
            Metric::MismatchIp,
            Metric::MismatchUserAgent,
            Metric::MismatchFingerprint,
            Metric::MismatchTenant,
        ];
        for (metric, count) in checks.into_iter().zip(counts.mismatches) {
            metrics.set(metric, count);
        }
        metrics.set(Metric::TombstonesDropped, counts.tombstones_dropped);
        metrics.set(Metric::PinsTable, shard.pins().len() as u64);
        metrics.set(Metric::PinsEvicted, shard.pins().evicted());
    }
}
