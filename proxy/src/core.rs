//! One data core: everything that a request's path reaches, and the core's background turns.
//!
//! Owns the core's shard of the sessions, its upstream pools, its parking lot, its place in the mesh.
//! Made on the core's thread and never dropped (`'static`): the process ends with its cores. All of
//! it is used from that thread alone; what other threads say comes as messages.
//!
//! Invariants: no borrow of a `RefCell` is held across an await; nothing blocks; background work is
//! done in bounded turns. Deliberately absent: locks.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use holdfast_config::plan::Plan;
use holdfast_runtime::mesh::{Local, Port};
use holdfast_runtime::parking::Lot;
use holdfast_runtime::socket::{Bound, Listener};
use holdfast_runtime::stream::Stream;
use holdfast_runtime::{buffers, clock, memory};
use holdfast_store::pins::{PinKey, PinMethod, UpstreamHash};
use holdfast_store::shard::{Answer, Ask};

use crate::accept::{self, Conn, Parked, is_loopback};
use crate::accesslog::{self, Record};
use crate::entropy::Entropy;
use crate::event::Event;
use crate::forward::pool::Pool;
use crate::identify::Identity;
use crate::message::{Message, UpstreamRef};
use crate::metrics::{CoreMetrics, Metric};
use crate::parse::{HeadLimits, NameRules};
use crate::pin::choose::Candidate;
use crate::pin::ids::UpstreamTag;
use crate::pin::policy::{CoreState, RulePolicy};
use crate::pin::rules::Router;
use crate::pin::state::{AdminState, HealthState, UpstreamState};
use crate::pin::table::TableKey;
use crate::session::Sessions;
use crate::shared::Shared;

/// How often logs, events and gauges leave the core.
const TURN: Duration = Duration::from_millis(200);
/// Events kept between two turns; more are dropped and counted.
const MAX_EVENTS: usize = 16 * 1024;
/// Least bounds on the head of a response, whatever `limits` says of requests: an upstream is not a
/// stranger, and many Set-Cookie lines are usual.
const RESPONSE_HEAD_BYTES: usize = 64 * 1024;
const RESPONSE_HEADERS: usize = 256;

/// A service on this core.
#[derive(Debug)]
pub struct ServiceCore {
    /// Its index in the plan.
    pub index: u32,
    /// Its upstreams as a choice sees them.
    pub candidates: RefCell<Vec<Candidate>>,
    /// Rotation and drains.
    pub state: RefCell<CoreState>,
    pools: Vec<Pool>,
    /// Failures of each upstream that the control thread was told of and no success since.
    failing: Vec<Cell<bool>>,
}

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
    /// Sources and keys.
    pub identity: Identity,
    /// Rules.
    pub router: Router,
    /// By rule.
    pub policies: Vec<RulePolicy>,
    /// Idle connections.
    pub lot: Lot<Parked>,
    /// Bounds on request heads.
    pub head_limits: Vec<HeadLimits>,
    /// Bounds on response heads.
    pub response_limits: HeadLimits,
    /// Connections of this core, parked ones included.
    pub open: Cell<usize>,
    /// Connections that wait with a read under way.
    pub reading: Cell<usize>,
    /// Requests waiting under `connections.max`.
    pub queued: Cell<usize>,
    /// No new work; what is in flight goes on.
    pub draining: Cell<bool>,
    /// Host for requests of HTTP/1.0 clients that name none.
    pub default_host: Box<[u8]>,
    services: Vec<ServiceCore>,
    entropy: RefCell<Entropy>,
    request_ids: Cell<(u64, u64)>,
    spread: Cell<u64>,
    log: Option<accesslog::Log>,
    events: RefCell<Vec<Event>>,
    scratch: RefCell<Vec<u8>>,
    /// Connections that closed or were parked since memory was given back; the same a second ago.
    pub left: Cell<u32>,
    left_before: Cell<u32>,
    drained: Cell<bool>,
    ended: Cell<bool>,
    wakers: RefCell<Vec<Waker>>,
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
    /// Its place in the mesh.
    pub port: Port<Message>,
    /// Its listeners, in the order of the plan.
    pub listeners: Vec<Bound>,
    /// Keys of the process that no configuration gave.
    pub keys: Arc<crate::boot::ProcessKeys>,
}

/// Bytes of a pooled buffer: a head of the usual bound and some of a body. No power of two, so that
/// the first bytes of buffers, which is what most requests touch, don't all fall into the same few
/// sets of the cache.
const BUFFER: usize = 16 * 1024 + 832;
/// Buffers that a core keeps for reuse.
const MAX_POOLED: usize = 512;
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
    for (index, bound) in listeners.into_iter().enumerate() {
        match Listener::new(bound) {
            Ok(listener) => {
                monoio::spawn(accept::listen(core, listener, index as u16));
            }
            Err(error) => crate::log::error(format!("core {}: listener: {error}", core.index)),
        }
    }
    core.mesh.send(core.shared.control(), Message::Ready);
    core.until(|core| core.ended.get()).await;
}

impl Core {
    fn new(parts: Parts) -> (Self, Vec<Bound>) {
        let Parts {
            index,
            shared,
            port,
            listeners,
            keys,
        } = parts;
        let plan: &Plan = &shared.plan;
        let services = plan
            .services
            .iter()
            .enumerate()
            .map(|(i, service)| ServiceCore {
                index: i as u32,
                candidates: RefCell::new(
                    service
                        .upstreams
                        .iter()
                        .map(|u| Candidate {
                            state: UpstreamState::Ready,
                            weight: u.weight,
                            backup: u.backup,
                            full: false,
                            active: 0,
                        })
                        .collect(),
                ),
                state: RefCell::new(CoreState::new(service, index, shared.cores)),
                pools: service.upstreams.iter().map(|_| Pool::default()).collect(),
                failing: service.upstreams.iter().map(|_| Cell::new(false)).collect(),
            })
            .collect();
        let policies = plan
            .rules
            .iter()
            .map(|rule| {
                let service = &plan.services[rule.service];
                RulePolicy::new(rule, service, plan.services.len(), &keys.pin_key(rule))
            })
            .collect();
        let mut entropy = Entropy::default();
        let core = Self {
            index,
            sessions: Sessions::new(&shared, index, &keys),
            identity: Identity::new(plan),
            router: Router::new(plan),
            policies,
            lot: Lot::new().expect("a core has its descriptor for the parking lot"),
            head_limits: plan
                .listeners
                .iter()
                .map(|l| head_limits(plan, l.raw_paths))
                .collect(),
            response_limits: HeadLimits {
                header_bytes: plan.limits.header_bytes.max(RESPONSE_HEAD_BYTES),
                headers: plan.limits.headers.max(RESPONSE_HEADERS),
                ..head_limits(plan, false)
            },
            open: Cell::new(0),
            reading: Cell::new(0),
            queued: Cell::new(0),
            draining: Cell::new(false),
            default_host: default_host(plan),
            services,
            request_ids: Cell::new((entropy.u64(), 0)),
            spread: Cell::new(entropy.u64() | 1),
            entropy: RefCell::new(entropy),
            log: plan.access_log.as_ref().map(accesslog::Log::new),
            events: RefCell::default(),
            scratch: RefCell::default(),
            left: Cell::new(0),
            left_before: Cell::new(0),
            drained: Cell::new(false),
            ended: Cell::new(false),
            wakers: RefCell::default(),
            mesh: port.local(),
            shared,
        };
        (core, listeners)
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

    /// The service of a rule.
    pub fn service_of(&self, rule: usize) -> &ServiceCore {
        &self.services[self.shared.plan.rules[rule].service]
    }

    /// The pool of an upstream.
    pub fn pool(&self, at: UpstreamRef) -> &Pool {
        &self.services[at.service as usize].pools[at.upstream as usize]
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

    /// The upstream that a table pin names, renewed; from its owner.
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
        let configured = self.shared.plan.listeners[listener as usize].address.ip();
        is_loopback(configured)
            || (configured.is_unspecified()
                && stream.local_addr().is_some_and(|l| is_loopback(l.ip())))
    }

    /// Whether exchanges are logged.
    pub fn logs(&self) -> bool {
        self.log.is_some()
    }

    /// Writes the access log's line of an exchange, and counts it for its route.
    pub fn log(&self, conn: &Conn, record: &Record) {
        if let Some(rule) = record.rule
            && record.status > 0
        {
            let took = clock::monotonic_ns().saturating_sub(record.started_ns) / 1000;
            let route = &self.metrics().routes[rule as usize];
            route.finished(record.status, took);
            route.pinned(record.pin);
        }
        if let Some(log) = &self.log {
            log.line(self, conn, record);
        }
    }

    /// Tells how an exchange with an upstream went, for passive health.
    pub fn outcome(&self, at: UpstreamRef, ok: bool) {
        if self.shared.plan.services[at.service as usize]
            .passive
            .is_none()
        {
            return;
        }
        let failing = &self.services[at.service as usize].failing[at.upstream as usize];
        if !ok || failing.get() {
            failing.set(!ok);
            self.mesh
                .send(self.shared.control(), Message::Outcome { upstream: at, ok });
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

    /// Waits until something holds that a message may change.
    pub async fn until(&self, holds: impl Fn(&Self) -> bool) {
        poll_fn(|cx| {
            if holds(self) {
                return Poll::Ready(());
            }
            let mut wakers = self.wakers.borrow_mut();
            if !wakers.iter().any(|w| w.will_wake(cx.waker())) {
                wakers.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    fn wake(&self) {
        let wakers = std::mem::take(&mut *self.wakers.borrow_mut());
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Tells the control thread, once, that nothing is left to do.
    pub fn check_drained(&self) {
        if self.draining.get() && self.open.get() == 0 && !self.drained.replace(true) {
            if let Some(log) = &self.log {
                log.flush(self);
            }
            self.mesh.send(self.shared.control(), Message::Drained);
        }
    }

    fn handle(&self, from: usize, message: Message) {
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
            } => self.pool(upstream).set_addresses(addresses),
            Message::LogBuffer(buffer) => {
                if let Some(log) = &self.log {
                    log.returned(buffer);
                }
            }
            Message::Drain => self.drain(),
            Message::End => {
                if let Some(log) = &self.log {
                    log.flush(self);
                }
                self.ended.set(true);
                self.wake();
            }
            Message::Outcome { .. }
            | Message::Log(_)
            | Message::Events(_)
            | Message::Drained
            | Message::Ready => {
                debug_assert!(
                    false,
                    "a message for the control thread reached a data core"
                );
            }
        }
    }

    fn set_state(&self, at: UpstreamRef, admin: AdminState, health: HealthState) {
        let service = &self.services[at.service as usize];
        let state = UpstreamState::combine(admin, health);
        if let Some(candidate) = service
            .candidates
            .borrow_mut()
            .get_mut(at.upstream as usize)
        {
            candidate.state = state;
        }
        let since = (state == UpstreamState::Drain).then(|| self.now_ms());
        service
            .state
            .borrow_mut()
            .drains
            .set(at.upstream as usize, since);
    }

    fn drain(&self) {
        self.draining.set(true);
        for service in &self.services {
            service.pools.iter().for_each(Pool::clear);
        }
        for parked in self.lot.drain() {
            drop(parked);
            accept::closed(self);
        }
        self.wake();
        self.check_drained();
    }
}

fn pinned(answer: Option<Answer>) -> Option<UpstreamTag> {
    match answer {
        Some(Answer::Pin(pin)) => pin.map(|p| UpstreamTag(p.upstream.0)),
        _ => None,
    }
}

fn head_limits(plan: &Plan, raw_paths: bool) -> HeadLimits {
    let prefix = plan
        .session
        .as_ref()
        .and_then(|s| s.forward.as_ref())
        .map_or("X-Session-", |f| &f.prefix);
    HeadLimits {
        header_bytes: plan.limits.header_bytes,
        headers: plan.limits.headers,
        uri_bytes: plan.limits.uri_bytes,
        raw_paths,
        names: NameRules::new(prefix),
    }
}

fn default_host(plan: &Plan) -> Box<[u8]> {
    let text = plan
        .listeners
        .first()
        .map_or_else(String::new, |l| l.address.to_string());
    text.into_bytes().into_boxed_slice()
}

/// What is done now and then: logs, events and gauges five times a second; pools and shard.
async fn turns(core: &'static Core) {
    let mut turn = 0u64;
    loop {
        monoio::time::sleep(TURN).await;
        turn += 1;
        if let Some(log) = &core.log {
            log.flush(core);
        }
        core.sessions.turn(core, turn * TURN.as_millis() as u64);
        let events = std::mem::take(&mut *core.events.borrow_mut());
        if !events.is_empty() {
            core.mesh
                .send(core.shared.control(), Message::Events(events));
        }
        gauges(core);
        if turn.is_multiple_of(5) {
            core.metrics().count(Metric::Turns);
            buffers::trim(KEEP_POOLED);
            give_back(core);
            let now = core.now_ms();
            for service in &core.services {
                let idle = core.shared.plan.services[service.index as usize]
                    .connections
                    .idle_timeout;
                service.pools.iter().for_each(|p| p.sweep(now, idle));
            }
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

fn gauges(core: &Core) {
    let metrics = core.metrics();
    metrics.set(Metric::ConnectionsOpen, core.open.get() as u64);
    metrics.set(Metric::ConnectionsParked, core.lot.len() as u64);
    let idle: usize = core
        .services
        .iter()
        .flat_map(|s| &s.pools)
        .map(Pool::len)
        .sum();
    metrics.set(Metric::UpstreamIdle, idle as u64);
    metrics.set(Metric::MeshSpills, core.mesh.stats().spills);
}
