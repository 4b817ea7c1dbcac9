//! One data core: everything that a request's path reaches, and the core's background turns.
//!
//! Owns what lives as long as the thread: the core's shard of the sessions, its parking lot, its place
//! in the mesh, and which [`Generation`] new requests go by; all that comes from the configuration is
//! in there.
//! Made on the core's thread and never dropped (`'static`): the process ends with its cores. All of
//! it is used from that thread alone; what other threads say comes as messages.
//!
//! Invariants: no borrow of a `RefCell` is held across an await; nothing blocks; background work is
//! done in bounded turns. Deliberately absent: locks.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use holdfast_runtime::mesh::{Local, Port};
use holdfast_runtime::parking::Lot;
use holdfast_runtime::socket::{Bound, Listener};
use holdfast_runtime::stream::Stream;
use holdfast_runtime::{buffers, clock, memory};
use holdfast_store::pins::{PinKey, PinMethod, UpstreamHash};
use holdfast_store::shard::{Answer, Ask, Ends};

use crate::accept::{self, Conn, Parked, is_loopback};
use crate::accesslog::{self, Record};
use crate::boot::ProcessKeys;
use crate::entropy::Entropy;
use crate::event::{Event, EventKind};
use crate::generation::Generation;
use crate::message::{Message, UpstreamRef};
use crate::metrics::{CoreMetrics, Metric};
use crate::pin::ids::UpstreamTag;
use crate::pin::state::{AdminState, HealthState, UpstreamState};
use crate::pin::table::TableKey;
use crate::session::Sessions;
use crate::setup::{Setup, UpstreamId};
use crate::shared::Shared;
use crate::sockets::Sockets;
use crate::wakers::Wakers;

/// How often logs, events and gauges leave the core.
const TURN: Duration = Duration::from_millis(200);
/// Events kept between two turns; more are dropped and counted.
const MAX_EVENTS: usize = 16 * 1024;
/// Messages to the control thread that may wait when events are passed on.
const MAX_TOLD: usize = 64;
/// See the module.
pub struct Core {
    /// Which data core.
    pub index: usize,
    /// What all threads see.
    pub shared: Arc<Shared>,
    /// Its place in the mesh.
    pub mesh: Local<Message>,
    /// Sessions and table pins.
    pub sessions: Sessions,
    /// Tunnels that belong to sessions.
    pub sockets: Sockets,
    /// Idle connections.
    pub lot: Lot<Parked>,
    /// Connections of this core, parked ones included.
    pub open: Cell<usize>,
    /// Connections that wait with a read under way.
    pub reading: Cell<usize>,
    /// Requests waiting under `connections.max`.
    pub queued: Cell<usize>,
    /// No new work; what is in flight goes on.
    pub draining: Cell<bool>,
    /// What requests that begin now go by.
    generation: RefCell<Rc<Generation>>,
    /// Its number: what a connection compares at each request.
    number: Cell<u64>,
    /// Those before that a request still goes by.
    older: RefCell<Vec<Weak<Generation>>>,
    keys: Arc<ProcessKeys>,
    entropy: RefCell<Entropy>,
    request_ids: Cell<(u64, u64)>,
    /// Events without a session so far.
    ordinals: Cell<u64>,
    spread: Cell<u64>,
    lines: accesslog::Lines,
    events: RefCell<Vec<Event>>,
    scratch: RefCell<Vec<u8>>,
    /// Connections that closed or were parked since memory was given back; the same a second ago.
    pub left: Cell<u32>,
    left_before: Cell<u32>,
    drained: Cell<bool>,
    ended: Cell<bool>,
    wakers: Wakers,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

/// What a core is made from.
pub struct Parts {
    /// Which data core.
    pub index: usize,
    /// What all threads see.
    pub shared: Arc<Shared>,
    /// The first configuration.
    pub setup: Arc<Setup>,
    /// Its place in the mesh.
    pub port: Port<Message>,
    /// Its listeners, in the order of the plan.
    pub listeners: Vec<Bound>,
    /// Keys of the process that no configuration gave.
    pub keys: Arc<ProcessKeys>,
}

/// Bytes of a pooled buffer: a head of the usual bound and some of a body. No power of two, so that
/// the first bytes of buffers, which is what most requests touch, don't all fall into the same few
/// sets of the cache.
const BUFFER: usize = 16 * 1024 + 832;
/// Buffers that a core keeps for reuse.
const MAX_POOLED: usize = 16 * 1024;
/// Buffers that a core keeps even when it has not needed them for a while.
const KEEP_POOLED: usize = 32;
/// So many connections that closed, or were parked, are a wave.
const WAVE: u32 = 256;

/// Runs a data core until it is told to end. Called on its thread.
pub async fn run(parts: Parts) {
    buffers::configure(BUFFER, MAX_POOLED);
    let (core, listeners) = Core::new(parts);
    let core: &'static Core = Box::leak(Box::new(core));
    monoio::spawn(core.mesh.pump(|from, message| core.handle(from, message)));
    monoio::spawn(accept::watch_lot(core));
    monoio::spawn(turns(core));
    for (place, bound) in (0..).zip(listeners) {
        core.serve(place, bound);
    }
    core.mesh.send(core.shared.control(), Message::Ready);
    core.until(|core| core.ended.get()).await;
}

impl Core {
    fn new(parts: Parts) -> (Self, Vec<Bound>) {
        let Parts {
            index,
            shared,
            setup,
            port,
            listeners,
            keys,
        } = parts;
        let mut entropy = Entropy::default();
        let cores = shared.cores;
        let number = setup.number;
        let generation = Generation::new(setup, index, cores, &keys, None, clock::coarse_ms());
        let core = Self {
            index,
            sessions: Sessions::new(&shared, index, &generation, &keys),
            sockets: Sockets::default(),
            lot: Lot::new().expect("a core has its descriptor for the parking lot"),
            open: Cell::new(0),
            reading: Cell::new(0),
            queued: Cell::new(0),
            draining: Cell::new(false),
            generation: RefCell::new(Rc::new(generation)),
            number: Cell::new(number),
            older: RefCell::default(),
            keys,
            request_ids: Cell::new((entropy.u64(), 0)),
            ordinals: Cell::new(0),
            spread: Cell::new(entropy.u64() | 1),
            entropy: RefCell::new(entropy),
            lines: accesslog::Lines::default(),
            events: RefCell::default(),
            scratch: RefCell::default(),
            left: Cell::new(0),
            left_before: Cell::new(0),
            drained: Cell::new(false),
            ended: Cell::new(false),
            wakers: Wakers::default(),
            mesh: port.local(),
            shared,
        };
        (core, listeners)
    }

    /// What requests that begin now go by.
    pub fn generation(&self) -> Rc<Generation> {
        Rc::clone(&self.generation.borrow())
    }

    /// Whether the listener at a place is to take connections.
    pub fn serves(&self, place: u16) -> bool {
        let generation = self.generation.borrow();
        generation
            .setup
            .listeners
            .get(usize::from(place))
            .is_some_and(|place| place.serving)
    }

    /// Whether a listener has this place in the newest generation.
    pub fn knows(&self, place: u16) -> bool {
        usize::from(place) < self.generation.borrow().listeners.len()
    }

    /// The number of [`Self::generation`].
    #[inline]
    pub fn number(&self) -> u64 {
        self.number.get()
    }

    /// This core's counters.
    #[inline]
    pub fn metrics(&self) -> &CoreMetrics {
        &self.shared.metrics[self.index]
    }

    /// Milliseconds of the steady clock, coarse (one kernel tick).
    #[inline]
    pub fn now_ms(&self) -> u64 {
        clock::coarse_ms()
    }

    /// Unix milliseconds, coarse (one kernel tick).
    #[inline]
    pub fn wall_ms(&self) -> u64 {
        clock::coarse_wall_ms()
    }

    /// Unix minutes.
    #[inline]
    pub fn wall_minute(&self) -> u32 {
        (clock::coarse_wall_ms() / 60_000) as u32
    }

    /// Random bytes of the operating system's.
    pub fn random<const N: usize>(&self) -> [u8; N] {
        self.entropy.borrow_mut().bytes()
    }

    /// Lends an empty buffer of the core's.
    pub fn with_scratch<R>(&self, f: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        let mut scratch = self.scratch.take();
        scratch.clear();
        let result = f(&mut scratch);
        self.scratch.replace(scratch);
        result
    }

    /// The upstream that a table pin names, renewed; from its owner. `service` is
    /// [`ServiceCore::pins`](crate::generation::ServiceCore::pins), here and below.
    pub async fn pin_look(
        &self,
        service: u32,
        key: TableKey,
        life: Duration,
    ) -> Option<UpstreamTag> {
        let (owner, key, duration) = self.pin_of(service, key, life);
        pinned(
            self.sessions
                .ask(self, owner, Ask::PinGet { key, duration })
                .await,
        )
    }

    /// The upstream that a table pin names, without renewing it.
    pub async fn pin_peek(&self, service: u32, key: TableKey) -> Option<UpstreamTag> {
        let (owner, key, _) = self.pin_of(service, key, Duration::ZERO);
        pinned(self.sessions.ask(self, owner, Ask::PinPeek(key)).await)
    }

    /// Makes a table pin where there is none (or one to `replaces`); what it holds then, and whether this made it.
    pub async fn pin_claim(
        &self,
        service: u32,
        key: TableKey,
        tag: UpstreamTag,
        replaces: Option<UpstreamTag>,
        life: Duration,
    ) -> Option<(UpstreamTag, bool)> {
        let (owner, key, duration) = self.pin_of(service, key, life);
        let upstream = UpstreamHash(tag.0);
        let ask = match replaces {
            Some(old) => Ask::PinReplace {
                key,
                old: UpstreamHash(old.0),
                upstream,
                duration,
            },
            None => Ask::PinGetOrInsert {
                key,
                upstream,
                duration,
            },
        };
        match self.sessions.ask(self, owner, ask).await {
            Some(Answer::Pin(pin)) => pin.map(|p| (UpstreamTag(p.upstream.0), p.new)),
            _ => None,
        }
    }

    /// Takes a table pin away.
    pub async fn pin_remove(&self, service: u32, key: TableKey) {
        let (owner, key, _) = self.pin_of(service, key, Duration::ZERO);
        self.sessions.ask(self, owner, Ask::PinRemove(key)).await;
    }

    fn pin_of(&self, service: u32, key: TableKey, life: Duration) -> (usize, PinKey, u64) {
        let owner = ((key.spread() >> 32) * self.shared.cores as u64) >> 32;
        // The method is part of the key already.
        let pin = PinKey::new(service, PinMethod::Header, &key.0);
        (owner as usize, pin, life.as_millis() as u64)
    }

    /// 64 bits that spread choices; not for secrets (xorshift64*, Vigna 2016).
    #[inline]
    pub fn spread_u64(&self) -> u64 {
        let mut x = self.spread.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.spread.set(x);
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// The source of randomness, for the pure cores.
    pub fn with_entropy<R>(&self, f: impl FnOnce(&mut Entropy) -> R) -> R {
        f(&mut self.entropy.borrow_mut())
    }

    /// An id for a request that brought none: 64 random bits of the core, 64 bits that count.
    pub fn next_request_id(&self) -> [u8; 32] {
        let (base, count) = self.request_ids.get();
        self.request_ids.set((base, count.wrapping_add(1)));
        let mut text = [0; 32];
        for (i, byte) in base
            .to_be_bytes()
            .into_iter()
            .chain(count.to_be_bytes())
            .enumerate()
        {
            text[2 * i] = b"0123456789abcdef"[usize::from(byte >> 4)];
            text[2 * i + 1] = b"0123456789abcdef"[usize::from(byte & 15)];
        }
        text
    }

    /// Is the listener's own end of a connection on this machine alone?
    pub fn listener_loopback(&self, listener: u16, stream: &Stream) -> bool {
        let configured = self.generation.borrow().listener(listener).address.ip();
        is_loopback(configured)
            || (configured.is_unspecified()
                && stream.local_addr().is_some_and(|l| is_loopback(l.ip())))
    }

    /// Writes the access log's line of an exchange, and counts it for its route.
    pub fn log(&self, conn: &Conn, record: &Record) {
        let generation = &conn.generation;
        if let Some(rule) = record.rule
            && record.status > 0
        {
            let took = clock::monotonic_ns().saturating_sub(record.started_ns) / 1000;
            let route = generation.route(rule as usize);
            route.finished(record.status, took);
            route.pinned(record.pin);
        }
        if let Some(format) = &generation.log {
            self.lines.line(self, format, conn, record);
        }
    }

    /// Tells how an exchange with an upstream went, for passive health.
    pub fn outcome(&self, generation: &Generation, at: UpstreamRef, ok: bool) {
        if generation.service(at).passive.is_none() {
            return;
        }
        let upstream = generation.upstream(at);
        if (!ok || upstream.failing.get())
            && !self.sessions.is_congested(self, self.shared.control())
        {
            upstream.failing.set(!ok);
            let upstream = upstream.id();
            self.mesh
                .send(self.shared.control(), Message::Outcome { upstream, ok });
        }
    }

    /// Passes an event to the control thread, with the next turn.
    pub fn emit(&self, event: Event) {
        let mut events = self.events.borrow_mut();
        if events.len() < MAX_EVENTS {
            events.push(event);
        } else {
            self.metrics().count(Metric::EventsDropped);
        }
    }

    /// What tells apart events that belong to no session: the core, and a number given once.
    pub fn next_ordinal(&self) -> u64 {
        let next = self.ordinals.get() + 1;
        self.ordinals.set(next);
        ((self.index as u64) << 48) | next
    }

    /// Passes the events of this turn on, in the order in which they happened.
    fn tell(&self) {
        let mut events = std::mem::take(&mut *self.events.borrow_mut());
        if !events.is_empty() {
            // The shard's are collected after those of requests. Within a millisecond, a session is
            // before its pins.
            events.sort_by_key(|event| {
                let pin = matches!(
                    event.kind,
                    EventKind::AffinityEstablished | EventKind::AffinityBroken
                );
                (event.at, pin)
            });
            self.mesh
                .send(self.shared.control(), Message::Events(events));
        }
    }

    /// Counts connections that came (or went).
    pub fn opened(&self, change: isize) {
        let open = self.open.get().saturating_add_signed(change);
        self.open.set(open);
        // Other cores look at it before they send a connection here.
        self.metrics().set(Metric::ConnectionsOpen, open as u64);
    }

    /// Waits until something holds that a message may change.
    pub async fn until(&self, holds: impl Fn(&Self) -> bool) {
        self.wakers.until(|| holds(self)).await;
    }

    /// Tells the control thread, once, that nothing is left to do.
    pub fn check_drained(&self) {
        let over = self.draining.get() && self.open.get() == 0 && self.shared.moves.none();
        if over && !self.drained.replace(true) {
            self.lines.flush(self);
            self.sessions.drain_events(self);
            self.tell();
            self.mesh.send(self.shared.control(), Message::Drained);
        }
    }

    fn handle(&'static self, from: usize, message: Message) {
        match message {
            Message::Ask { call, ask } => {
                let answer = self.sessions.answer(self, ask);
                self.mesh.send(from, Message::Answer { call, answer });
            }
            Message::Answer { call, answer } => {
                self.sessions.calls().complete(call, answer);
            }
            Message::State {
                upstream,
                admin,
                health,
            } => self.set_state(upstream, admin, health),
            Message::Addresses {
                upstream,
                addresses,
            } => {
                let generation = self.generation();
                if let Some((service, at)) = generation.find(upstream) {
                    service.upstreams[at].pool.set_addresses(addresses);
                }
            }
            Message::Ends(ends) => self.sessions_ended(&ends),
            Message::LogBuffer(buffer) => self.lines.returned(buffer),
            Message::Reload { setup, listeners } => self.reload(setup, listeners),
            Message::Keys(keys) => {
                if let Some(attributes) = &self.generation().attributes {
                    attributes.set_keys(keys);
                }
            }
            Message::Connection(moving) => accept::moving::arrive(self, *moving),
            Message::Explain(question) => {
                monoio::spawn(crate::explain::answer(self, *question));
            }
            Message::Drain => self.drain(),
            Message::End => {
                self.lines.flush(self);
                self.sessions.drain_events(self);
                self.tell();
                self.ended.set(true);
                self.wakers.wake();
            }
            Message::Outcome { .. }
            | Message::Log(_)
            | Message::Events(_)
            | Message::Drained
            | Message::Reloaded { .. }
            | Message::KeysWanted
            | Message::Ready => {
                debug_assert!(
                    false,
                    "a message for the control thread reached a data core"
                );
            }
        }
    }

    /// Sessions have ended, here or on another core: their sockets are told, and their table pins of this
    /// core removed.
    pub fn sessions_ended(&self, ends: &Ends) {
        if ends.missed {
            self.sockets.ask_all();
        }
        self.sockets.end(&ends.sids);
        let generation = self.generation();
        for (service, maker) in &generation.session_pins {
            for sid in &ends.sids {
                let (owner, key, _) = self.pin_of(*service, maker.key(&sid.0), Duration::ZERO);
                if owner == self.index {
                    self.sessions.answer(self, Ask::PinRemove(key));
                }
            }
        }
    }

    /// Sets a state in every generation that a request may go by.
    fn set_state(&self, id: UpstreamId, admin: AdminState, health: HealthState) {
        let state = UpstreamState::combine(admin, health);
        let since = (state == UpstreamState::Drain).then(|| self.now_ms());
        let set = |generation: &Generation| {
            let Some((service, at)) = generation.find(id) else {
                return;
            };
            if let Some(candidate) = service.candidates.borrow_mut().get_mut(at) {
                candidate.state = state;
            }
            service.state.borrow_mut().drains.set(at, since);
        };
        set(&self.generation());
        let older = self.older.borrow();
        older.iter().filter_map(Weak::upgrade).for_each(|g| set(&g));
    }

    /// Takes up a new configuration: for every request that begins from now on.
    fn reload(&'static self, setup: Arc<Setup>, listeners: Vec<(u16, Bound)>) {
        let number = setup.number;
        // Lines of before belong to where the log went before.
        self.lines.flush(self);
        let old = self.generation();
        let new = Rc::new(Generation::new(
            setup,
            self.index,
            self.shared.cores,
            &self.keys,
            Some(&old),
            self.now_ms(),
        ));
        for upstream in old.upstreams() {
            let goes_on = new.upstreams().any(|u| Rc::ptr_eq(u, upstream));
            if !goes_on {
                upstream.retired.set(true);
                upstream.pool.clear();
            }
        }
        self.sessions
            .reload(&self.shared, &new, &self.keys, self.wall_ms());
        self.number.set(number);
        *self.generation.borrow_mut() = new;
        let mut older = self.older.borrow_mut();
        older.push(Rc::downgrade(&old));
        // Before the count: what nobody else holds goes here.
        drop(old);
        older.retain(|generation| generation.strong_count() > 0);
        drop(older);
        if !self.draining.get() {
            for (place, bound) in listeners {
                self.serve(place, bound);
            }
        }
        self.wakers.wake();
        self.mesh
            .send(self.shared.control(), Message::Reloaded { number });
    }

    /// Begins to take the connections of a listener.
    fn serve(&'static self, place: u16, bound: Bound) {
        match Listener::new(bound) {
            Ok(listener) => {
                monoio::spawn(accept::listen(self, listener, place));
            }
            Err(error) => crate::log::error(format!("core {}: listener: {error}", self.index)),
        }
    }

    fn drain(&self) {
        self.draining.set(true);
        for upstream in self.generation().upstreams() {
            upstream.pool.clear();
        }
        for parked in self.lot.drain() {
            accept::dismiss(self, parked);
        }
        self.wakers.wake();
        self.check_drained();
    }
}

fn pinned(answer: Option<Answer>) -> Option<UpstreamTag> {
    match answer {
        Some(Answer::Pin(pin)) => pin.map(|p| UpstreamTag(p.upstream.0)),
        _ => None,
    }
}

/// What is done now and then: logs, events and gauges five times a second; pools and shard.
async fn turns(core: &'static Core) {
    let mut turn = 0u64;
    loop {
        monoio::time::sleep(TURN).await;
        turn += 1;
        core.lines.flush(core);
        let generation = core.generation();
        core.sessions
            .turn(core, &generation, turn * TURN.as_millis() as u64);
        // Where the control thread stands still they wait here, where they have a bound.
        if core.mesh.waiting(core.shared.control()) < MAX_TOLD {
            core.tell();
        }
        // A move that stood in the way of a drain may have ended elsewhere.
        core.check_drained();
        gauges(core, &generation);
        if turn.is_multiple_of(5) {
            core.metrics().count(Metric::Turns);
            buffers::trim(KEEP_POOLED);
            give_back(core);
            let now = core.now_ms();
            for (service, plan) in generation.services.iter().zip(&generation.plan.services) {
                let idle = plan.connections.idle_timeout;
                service
                    .upstreams
                    .iter()
                    .for_each(|u| u.pool.sweep(now, idle));
            }
            let mut older = core.older.borrow_mut();
            older.retain(|generation| generation.strong_count() > 0);
            let count = older.len() as u64;
            core.metrics().set(Metric::GenerationsOld, count);
        }
    }
}

/// After a wave of connections has closed or been parked, what they held goes back to the kernel.
fn give_back(core: &Core) {
    let left = core.left.get();
    // Once the wave is over: not while it still breaks.
    let over = left == core.left_before.get() || left >= 64 * WAVE;
    if left >= WAVE && over {
        core.left.set(0);
        buffers::shrink(KEEP_POOLED);
        memory::give_back();
    }
    core.left_before.set(core.left.get());
}

fn gauges(core: &Core, generation: &Generation) {
    let metrics = core.metrics();
    metrics.set(Metric::ConnectionsParked, core.lot.len() as u64);
    let idle: usize = generation.upstreams().map(|u| u.pool.len()).sum();
    metrics.set(Metric::UpstreamIdle, idle as u64);
    metrics.set(Metric::MeshSpills, core.mesh.stats().spills);
}
