//! Sessions on the path: asking the owner of a token, creating, carrying out what upstreams ask.
//!
//! Owns the core's shard, the questions that it has open at others, and the rule when a token may be
//! set. Runs on a data core. The shard decides about sessions; this decides what of it is said to
//! upstream and client.
//!
//! Invariants: a request that was *refused* or *unsure* gets no Set-Cookie but for an explicit act; a
//! token is set only for a session that is still there when the response is released; sessions are
//! born in the shard of the core that creates them. Tested end to end, and the shard by its simulator.

pub mod commands;
pub mod cookies;
pub mod create;
pub mod headers;
pub mod look;

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use holdfast_config::plan::{self, Source};
use holdfast_runtime::bytes::prefetch;
use holdfast_runtime::mesh::Calls;
use holdfast_store::id::{NodeTag, Sid, shard_of};
use holdfast_store::session::{
    Applied, Apply, BuiltIn, Commands, Dead, Destroy, Fresh, Policy, Refused, Target,
};
use holdfast_store::shard::{
    Answer, Ask, AttachAnswer, Attached as Judged, Attributes, Bound, Home, Shard, SlotRef, Totals,
};
use holdfast_store::token::{Kind, Presented, Token, TokenError, TokenText};
use holdfast_store::traits::Traits;
use smallvec::SmallVec;

use crate::accept::Conn;
use crate::accesslog::Record;
use crate::attributes::Said;
use crate::boot::ProcessKeys;
use crate::core::Core;
use crate::deliver::page::Refusal;
use crate::forward::Answered;
use crate::generation::Generation;
use crate::identify::{Candidate, Carried, Identified, Request};
use crate::metrics::Metric;
use crate::parse::Name;
use crate::pin::stage;
use crate::shared::Shared;
use crate::text::Sink;

/// Turns of the cleanup that one turn of the core may do.
const SWEEPS: usize = 4;

/// The sessions of one core.
pub struct Sessions {
    shard: RefCell<Shard>,
    calls: Calls<Answer>,
    cores: usize,
    home: usize,
    sweeping: Cell<bool>,
    /// Events that the shard has dropped, as far as counted.
    events_dropped: Cell<u64>,
    next_sweep_ms: Cell<u64>,
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

/// How what the request carried was judged, over all its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing.
    None,
    /// Dead tokens only.
    Dead,
    /// A refused one.
    Refused,
    /// A valid one.
    Valid,
}

/// The session of a request.
#[derive(Debug)]
pub struct Live {
    /// Its name.
    pub sid: Sid,
    /// Index of the source that its token came through, or goes out by.
    pub source: usize,
    /// Version of its data.
    pub version: u64,
    /// Made by this request.
    pub new: bool,
    /// A secret made by this request: to be set at the client.
    pub fresh: Option<Fresh>,
    /// A conditional write of an earlier response was not done.
    pub conflict: bool,
    /// When the presented token was issued, Unix seconds.
    pub issued: u32,
    /// A new secret is to be offered with the response.
    offer: bool,
    target: Target,
    data: Data,
}

/// Where a session's JSON is.
#[derive(Debug)]
enum Data {
    /// In this core's shard.
    Here(SlotRef),
    /// Sent along by the owner; empty for none.
    Sent(Vec<u8>, BuiltIn),
}

/// A request whose session, if any, is known.
#[derive(Debug)]
pub struct Attached {
    /// Its facts.
    pub request: Request,
    /// Pin cookies, as (name, value) ranges of the input.
    pub pins: SmallVec<[(std::ops::Range<u32>, std::ops::Range<u32>); 2]>,
    /// How its tokens were judged.
    pub standing: Standing,
    /// Its session.
    pub live: Option<Live>,
    /// Sources of dead tokens.
    dead: SmallVec<[u8; 2]>,
    /// Source of two valid tokens of different sessions.
    doubled: Option<u8>,
    /// What the client looks like, where that is checked.
    look: look::Look,
    /// A token came that we cannot have issued.
    guessed: bool,
    /// The client of a session looks like another, which is an error.
    rejected: bool,
}

impl Attached {
    /// The session's name.
    pub fn sid(&self) -> Option<&Sid> {
        self.live.as_ref().map(|l| &l.sid)
    }

    /// Writes the session headers of the request that goes upstream.
    pub fn write_request_lines(
        &self,
        core: &Core,
        conn: &Conn,
        out: &mut holdfast_runtime::buffers::Buffer,
    ) {
        let Some(names) = &conn.generation.names else {
            return;
        };
        if self.standing == Standing::Refused && self.live.is_none() {
            out.put(&names.refused);
            return;
        }
        let Some(live) = &self.live else { return };
        names.write(core, conn, &self.request, live, out);
    }
}

impl Live {
    /// What is built in of the session, as it is now.
    pub fn built_in(&self, core: &Core) -> BuiltIn {
        match &self.data {
            Data::Here(slot) => {
                let shard = core.sessions.shard.borrow();
                shard.built_in(*slot).unwrap_or_default()
            }
            Data::Sent(_, built_in) => *built_in,
        }
    }

    /// Appends the session's JSON; nothing where there is none.
    fn write_json(&self, core: &Core, out: &mut Vec<u8>) {
        match &self.data {
            Data::Here(slot) => {
                let shard = core.sessions.shard.borrow();
                shard.write_json(*slot, core.wall_ms(), out);
            }
            Data::Sent(json, _) => out.put(json),
        }
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
            calls: Calls::new(),
            cores: shared.cores,
            home: index,
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

    /// Answers a question to this core's shard.
    pub fn answer(&self, core: &Core, ask: Ask) -> Answer {
        let now = core.wall_ms();
        core.with_entropy(|entropy| self.shard.borrow_mut().handle(ask, now, entropy))
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
        self.drain_events(core);
        let mut shard = self.shard.borrow_mut();
        let (counts, metrics) = (shard.counts(), core.metrics());
        metrics.set(Metric::SessionsActive, shard.len() as u64);
        metrics.set(Metric::SessionCreates, counts.created);
        metrics.set(Metric::SessionDestroys, counts.destroyed);
        metrics.set(Metric::SessionExpirations, counts.expired);
        metrics.set(Metric::SessionEvictions, counts.evicted);
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

/// Asks the owners of the request's tokens, and creates a session where it should have one.
pub async fn attach(
    core: &'static Core,
    conn: &Conn,
    identified: Identified,
    record: &mut Record,
) -> Result<Box<Attached>, Refusal> {
    let Identified {
        request,
        carried,
        pins,
    } = identified;
    // Boxed once: the steps that follow hand it on.
    let mut attached = Box::new(Attached {
        request,
        pins,
        standing: Standing::None,
        live: None,
        dead: SmallVec::new(),
        doubled: None,
        look: look::Look::new(),
        guessed: false,
        rejected: false,
    });
    // Also without sessions a token may be required.
    let said = match &conn.generation.attributes {
        Some(plan) => plan.collect(core, conn, &attached.request)?,
        None => None,
    };
    if conn.generation.session().is_none() {
        return Ok(attached);
    }
    let several = said.is_some() && several(&carried);
    if let Some(looker) = &conn.generation.identity.looker {
        attached.look = looker.look(conn, &attached.request);
    }
    for carried in &carried {
        // A valid token of a better source was found: the others are not looked at.
        if attached
            .live
            .as_ref()
            .is_some_and(|l| l.source != usize::from(carried.source))
        {
            break;
        }
        let Some(presented) = presented(core, carried, &mut attached) else {
            continue;
        };
        let judged = if core.sessions.owner(&presented.sid) == core.sessions.home {
            let mut shard = core.sessions.shard.borrow_mut();
            let (now, look) = (core.wall_ms(), &attached.look);
            let (judged, bound) = match &said {
                Some(said) if !several => core
                    .with_entropy(|entropy| shard.attach_with(presented, said, look, now, entropy)),
                _ => (shard.attach_as(presented, look, now), Bound::default()),
            };
            if let Judged::Valid(valid) = &judged {
                prefetch(shard.json_read(valid.slot));
            }
            Some((judged, bound, None))
        } else {
            // What rarely happens waits in a box of its own, so that the path's state stays small.
            let said = said.clone().filter(|_| !several);
            Box::pin(ask_owner(core, *presented, said, attached.look.to_vec())).await
        };
        if let Some((judged, bound, data)) = judged {
            let judged = Ruling {
                judged,
                bound,
                data,
            };
            judge(core, carried.source, presented, judged, &mut attached);
        }
    }
    if several && attached.doubled.is_none() {
        Box::pin(say_to_the_one(core, &carried, &said, &mut attached)).await;
    }
    if attached.doubled.is_some() {
        attached.live = None;
        attached.standing = Standing::Refused;
        core.metrics().count(Metric::MissDoubled);
        doubled_event(core);
    }
    if let Some(refusal) = turned_away(core, conn, &attached) {
        return Err(refusal);
    }
    record.session = match attached.standing {
        Standing::None => "none",
        Standing::Dead => "dead",
        Standing::Refused => "refused",
        Standing::Valid => "valid",
    };
    if attached.standing == Standing::Valid {
        core.metrics().count(Metric::SessionHits);
        if came_by_query(conn, &attached)
            && let Some(to) = Box::pin(clean_address(core, conn, &mut attached)).await
        {
            return Err(to);
        }
    } else if attached.standing != Standing::Refused || begins_anew(&attached, &said) {
        first_request(core, conn, &mut attached, said.as_deref());
        if attached.live.is_some() {
            record.session = "new";
        }
    }
    record.sid = attached.sid().map(Sid::text);
    Ok(attached)
}

/// Whether a request carries tokens of different sessions, so that it is not known yet which is meant.
fn several(carried: &[Carried]) -> bool {
    let mut sids = carried.iter().filter_map(|c| match &c.candidate {
        Candidate::Token(presented) => Some(presented.sid),
        _ => None,
    });
    let first = sids.next();
    sids.any(|sid| Some(sid) != first)
}

/// Tells the session that won among [`several`] what the request says of it.
async fn say_to_the_one(
    core: &'static Core,
    carried: &[Carried],
    said: &Said,
    attached: &mut Attached,
) {
    let Some(live) = &attached.live else { return };
    let meant = carried.iter().find_map(|c| match &c.candidate {
        Candidate::Token(p) if p.sid == live.sid && usize::from(c.source) == live.source => {
            Some((c.source, *p))
        }
        _ => None,
    });
    let Some((source, presented)) = meant else {
        return;
    };
    let look = attached.look.to_vec();
    if let Some((judged, bound, data)) = ask_owner(core, presented, said.clone(), look).await {
        let ruling = Ruling {
            judged,
            bound,
            data,
        };
        judge(core, source, &presented, ruling, attached);
    }
}

/// Whether a token begins a session although the request came with one: it is another subject's, or
/// its secret is good no more. An authentication is an explicit act.
fn begins_anew(attached: &Attached, said: &Said) -> bool {
    attached.doubled.is_none() && said.as_ref().is_some_and(|said| said.subject.is_some())
}

/// What is answered to a client that guesses tokens, or that looks like another.
fn turned_away(core: &Core, conn: &Conn, attached: &Attached) -> Option<Refusal> {
    if attached.standing == Standing::Valid {
        return None;
    }
    if attached.rejected {
        return Some(Refusal::mismatch());
    }
    let limit = conn.generation.setup.guesses.as_ref()?;
    let over = attached.guessed && !limit.take(attached.request.client, core.wall_ms());
    over.then(Refusal::guessing)
}

fn doubled_event(core: &Core) {
    core.emit(crate::event::Event {
        kind: crate::event::EventKind::SessionValidationFailed,
        at: core.wall_ms(),
        sid: None,
        reason: "two sessions in one request",
        subject: None,
        upstream: None,
        ordinal: core.next_ordinal(),
    });
}

/// The token to ask its owner about, if what was carried is one.
fn presented<'a>(
    core: &Core,
    carried: &'a Carried,
    attached: &mut Attached,
) -> Option<&'a Presented> {
    let metrics = core.metrics();
    match &carried.candidate {
        Candidate::Token(presented) => return Some(presented),
        Candidate::Dead(error) => {
            metrics.count(match error {
                TokenError::Malformed => Metric::MissMalformed,
                TokenError::WronglySigned => Metric::MissForged,
            });
            attached.guessed = true;
            died(carried.source, attached);
        }
        Candidate::Insecure => metrics.count(Metric::MissInsecure),
    }
    None
}

/// What a shard ruled on one token.
struct Ruling {
    judged: Judged,
    bound: Bound,
    /// What another core's shard sent along.
    data: Option<Data>,
}

/// Asks another core's shard about a token. `None` if it can't be asked.
async fn ask_owner(
    core: &'static Core,
    presented: Presented,
    said: Said,
    look: Vec<Traits>,
) -> Option<(Judged, Bound, Option<Data>)> {
    core.metrics().count(Metric::CrossedCores);
    let owner = core.sessions.owner(&presented.sid);
    let ask = match said {
        None => Ask::Attach(Box::new((presented, look))),
        Some(said) => Ask::AttachWith(Box::new((presented, (*said).clone(), look))),
    };
    match core.sessions.ask(core, owner, ask).await {
        Some(Answer::Attach(answer)) => {
            let AttachAnswer {
                attached,
                json,
                bound,
                built_in,
            } = *answer;
            Some((attached, bound, Some(Data::Sent(json, built_in))))
        }
        _ => None,
    }
}

/// What a shard's judgement of one token means for the request.
fn judge(core: &Core, source: u8, presented: &Presented, ruling: Ruling, attached: &mut Attached) {
    let metrics = core.metrics();
    let Ruling {
        judged,
        bound,
        data,
    } = ruling;
    if bound.too_large {
        too_large(core);
    }
    match judged {
        Judged::Valid(_) if bound.other => {
            metrics.count(Metric::MissSubject);
            attached.live = None;
            attached.standing = Standing::Refused;
        }
        Judged::Valid(valid) => {
            if attached.live.as_ref().is_some_and(|l| l.sid != valid.sid) {
                attached.doubled = Some(source);
                return;
            }
            attached.standing = Standing::Valid;
            attached.live = Some(Live {
                sid: valid.sid,
                source: usize::from(source),
                version: valid.version,
                new: false,
                fresh: bound.token,
                conflict: valid.conflict,
                issued: presented.issued,
                offer: valid.offer,
                target: Target::Session {
                    sid: valid.sid,
                    digest: Some(valid.digest),
                },
                data: data.unwrap_or(Data::Here(valid.slot)),
            });
        }
        Judged::Dead(dead) => {
            metrics.count(match dead {
                Dead::Forged => Metric::MissForged,
                Dead::Destroyed => Metric::MissDestroyed,
                Dead::Expired => Metric::MissExpired,
                Dead::Unknown => Metric::MissUnknown,
            });
            died(source, attached);
        }
        Judged::Refused(refused) => {
            metrics.count(match refused {
                Refused::Retired => Metric::MissRetired,
                Refused::UnknownSecret => Metric::MissSecret,
                Refused::WrongKind => Metric::MissKind,
                Refused::Mismatch(_) => Metric::MissMismatch,
            });
            attached.guessed |= refused == Refused::UnknownSecret;
            if attached.standing != Standing::Valid {
                attached.standing = Standing::Refused;
            }
        }
        Judged::Rejected(_) => {
            metrics.count(Metric::MissMismatch);
            attached.rejected = true;
            if attached.standing != Standing::Valid {
                attached.standing = Standing::Refused;
            }
        }
    }
}

fn died(source: u8, attached: &mut Attached) {
    attached.dead.push(source);
    if attached.standing == Standing::None {
        attached.standing = Standing::Dead;
    }
}

/// Attributes did not fit into a session.
fn too_large(core: &Core) {
    core.metrics().count(Metric::AttributesTooLarge);
    static SAID: crate::log::Limited = crate::log::Limited::new(std::time::Duration::from_secs(10));
    SAID.warn(|| "attributes over data.maxSize were not written to their session".into());
}

/// The trigger `firstRequest`, and `authentication` by a token.
fn first_request(
    core: &'static Core,
    conn: &Conn,
    attached: &mut Attached,
    said: Option<&Attributes>,
) {
    let identity = &conn.generation.identity;
    let Some(plan) = conn.generation.session() else {
        return;
    };
    let names_a_subject = said.is_some_and(|said| said.subject.is_some());
    if !(plan.creation.first_request || names_a_subject && plan.creation.authentication) {
        return;
    }
    let Some(source) = create::carrier(identity) else {
        return;
    };
    let carrier = &identity.sources[source].source;
    if !create::deliverable(carrier, &attached.request) || create::passing(carrier, conn) {
        return core.metrics().count(Metric::CreatesUndeliverable);
    }
    let client = attached.request.client;
    if conn
        .generation
        .setup
        .limiter
        .as_ref()
        .is_some_and(|l| !l.take(client, core.wall_ms()))
    {
        return core.metrics().count(Metric::CreatesLimited);
    }
    let now = core.wall_ms();
    let none = Attributes::default();
    let said = said.unwrap_or(&none);
    let mut shard = core.sessions.shard.borrow_mut();
    let (created, bound) = core.with_entropy(|entropy| shard.create_with(said, now, entropy));
    if bound.too_large {
        too_large(core);
    }
    let Some(created) = created else {
        return core.metrics().count(Metric::CreatesRejected);
    };
    if let (Some(slot), Some(traits)) = (created.slot, attached.look.first()) {
        shard.bind_created(slot, traits);
    }
    let (data, version) = match created.slot {
        Some(slot) => (
            Data::Here(slot),
            shard.built_in(slot).map_or(0, |b| b.version),
        ),
        None => {
            let mut json = Vec::new();
            let issued = created.token.issued;
            shard.policy().write_first(issued, said, &mut json);
            (Data::Sent(json, first_built_in(issued)), 0)
        }
    };
    attached.live = Some(Live {
        sid: created.token.sid,
        source,
        version,
        new: true,
        fresh: Some(created.token),
        conflict: false,
        issued: created.token.issued,
        offer: false,
        target: created.token.target(),
        data,
    });
}

/// What is built in of a session that has no record yet.
fn first_built_in(issued: u32) -> BuiltIn {
    let issued = u64::from(issued) * 1000;
    BuiltIn {
        created: issued,
        last_access: issued,
        requests: 1,
        ..BuiltIn::default()
    }
}

fn came_by_query(conn: &Conn, attached: &Attached) -> bool {
    attached.live.as_ref().is_some_and(|live| {
        matches!(
            conn.generation.identity.sources[live.source].source,
            Source::Query { .. }
        )
    })
}

/// A navigation with a query token and no valid cookie, where there is a cookie source: the query
/// token is retired and the browser sent to the same address without it, with a cookie.
async fn clean_address(
    core: &'static Core,
    conn: &Conn,
    attached: &mut Attached,
) -> Option<Refusal> {
    let live = attached.live.as_ref()?;
    let identity = &conn.generation.identity;
    if !create::navigation(conn) {
        return None;
    }
    let cookie = identity.sources.iter().find_map(|s| match &s.source {
        Source::Cookie(cookie) => Some(cookie),
        _ => None,
    })?;
    if cookie.secure && !attached.request.secure && !attached.request.laptop {
        return None;
    }
    let apply = Apply {
        target: live.target,
        commands: Commands {
            retire: true,
            ..Commands::default()
        },
        traits: None,
    };
    let owner = core.sessions.owner(&live.sid);
    let Some(Answer::Apply(applied)) = core
        .sessions
        .ask(core, owner, Ask::Apply(Box::new(apply)))
        .await
    else {
        return None;
    };
    let token = applied.token?.encode(Kind::CookieOrHeader, &identity.keys);
    let mut lines = Vec::new();
    lines.put(b"Location: ");
    let path = attached.request.path(conn);
    if path.starts_with(b"//") {
        // Else a browser would take the first segment for a host (URL standard, 4.3).
        lines.put(b"/.");
    }
    lines.put(path);
    if let Some(query) = attached.request.query(conn) {
        lines.put(b"?");
        lines.put(query);
    }
    lines.put(b"\r\n");
    cookies::set(
        cookie,
        token.as_bytes(),
        attached.request.laptop,
        &mut lines,
    );
    Some(Refusal::see_other(lines.into_boxed_slice()))
}

/// What the response says of session and pin.
#[derive(Debug, Default)]
pub struct Conclusion {
    /// Whole lines, Set-Cookie all of them.
    pub lines: Vec<u8>,
    /// A token that goes out in a header.
    pub header: Option<(String, TokenText)>,
    /// A line sets, or ends, a session cookie.
    pub session_cookie: bool,
    /// A line sets, or ends, a pin cookie.
    pub pin_cookie: bool,
}

/// Carries out what the upstream asks, before the response goes on.
pub async fn conclude(
    core: &'static Core,
    conn: &Conn,
    answered: &mut Answered,
    record: &mut Record,
) -> Result<Conclusion, Refusal> {
    let mut conclusion = Conclusion::default();
    if conn.generation.session().is_some() {
        let control = conn.generation.service(answered.at).control;
        let commands = conn
            .response
            .has(Name::Session)
            .then(|| commands::read(core, conn, answered.exchange.input.as_slice(), control));
        let attached = &mut answered.pinned.attached;
        if commands.as_ref().is_some_and(|c| !c.is_empty()) || has_to_say(core, conn, attached) {
            let commands = commands.unwrap_or_default();
            Box::pin(session(core, conn, attached, commands, &mut conclusion)).await;
        }
        if record.sid.is_none() {
            record.sid = attached.sid().map(Sid::text);
        }
    }
    let cleared = conn.response.has(Name::AffinityClear)
        && conn
            .response
            .value(answered.exchange.input.as_slice(), Name::AffinityClear)
            == Some(b"1");
    let lines = &mut conclusion.lines;
    conclusion.pin_cookie = stage::conclude(core, conn, &mut answered.pinned, cleared, lines).await;
    Ok(conclusion)
}

/// Whether a response without commands says something of the session: a new token, one to renew, a
/// cookie to end.
fn has_to_say(core: &Core, conn: &Conn, attached: &Attached) -> bool {
    let live = attached.live.as_ref().is_some_and(|live| {
        live.fresh.is_some() || live.offer || renewable(core, conn, live).is_some()
    });
    live || !attached.dead.is_empty() || attached.doubled.is_some()
}

async fn session(
    core: &'static Core,
    conn: &Conn,
    attached: &mut Attached,
    commands: Commands,
    conclusion: &mut Conclusion,
) {
    let mut set = false;
    if commands.is_empty() {
        set = unasked(core, conn, attached, conclusion).await;
    } else {
        let applied = carry_out(core, conn, attached, commands.clone()).await;
        count(core, &applied);
        let source = attached
            .live
            .as_ref()
            .map(|l| l.source)
            .or_else(|| create::carrier(&conn.generation.identity));
        // A first token that the shard had nothing to add to still goes out.
        let token = applied.token.or_else(|| {
            let live = attached.live.as_ref()?;
            live.fresh.filter(|_| !applied.gone && !applied.expire)
        });
        if let (Some(fresh), Some(source)) = (token, source) {
            set = say(conn, &attached.request, source, &fresh, conclusion);
            if attached.live.is_none() {
                attached.live = Some(born(fresh, source, applied.version));
            }
        }
        let ended = matches!(commands.destroy, Some(Destroy::This | Destroy::All));
        if applied.expire || (ended && attached.standing != Standing::None && token.is_none()) {
            expire_carried(conn, attached, conclusion);
            set = true;
        }
    }
    if !set {
        for source in std::mem::take(&mut attached.dead) {
            expire(conn, attached, usize::from(source), false, conclusion);
        }
    }
    if let Some(source) = attached.doubled
        && create::navigation(conn)
    {
        expire(conn, attached, usize::from(source), true, conclusion);
    }
}

fn born(fresh: Fresh, source: usize, version: u64) -> Live {
    Live {
        sid: fresh.sid,
        source,
        version,
        new: true,
        fresh: Some(fresh),
        conflict: false,
        issued: fresh.issued,
        offer: false,
        target: fresh.target(),
        data: Data::Sent(Vec::new(), first_built_in(fresh.issued)),
    }
}

/// Carries commands out at the owner, and in the other shards what concerns them.
async fn carry_out(
    core: &'static Core,
    conn: &Conn,
    attached: &Attached,
    mut commands: Commands,
) -> Applied {
    let identity = &conn.generation.identity;
    let Some(plan) = conn.generation.session() else {
        return Applied::default();
    };
    let target = attached.live.as_ref().map_or(Target::None, |l| l.target);
    if matches!(target, Target::None) {
        // Where a plain first request makes a session, an explicit act may too.
        let creation = &plan.creation;
        commands.create &= creation.explicit_create || creation.first_request;
        if !(creation.authentication || creation.first_request)
            && commands.authenticate.take().is_some()
        {
            core.metrics().count(Metric::ControlDenied);
        }
        let deliverable = create::carrier(identity)
            .is_some_and(|s| create::deliverable(&identity.sources[s].source, &attached.request));
        if !deliverable && (commands.create || commands.authenticate.is_some()) {
            core.metrics().count(Metric::CreatesUndeliverable);
            (commands.create, commands.authenticate) = (false, None);
        }
    }
    let owner = attached
        .live
        .as_ref()
        .map_or(core.index, |l| core.sessions.owner(&l.sid));
    let apply = Box::new(Apply {
        target,
        commands,
        traits: attached.look.first().copied(),
    });
    let Some(Answer::Apply(applied)) = core.sessions.ask(core, owner, Ask::Apply(apply)).await
    else {
        return Applied::default();
    };
    if let Some(elsewhere) = &applied.elsewhere {
        for other in (0..core.sessions.cores).filter(|c| *c != owner) {
            let ask = Ask::DestroySubject {
                subject: elsewhere.subject.clone(),
                except: elsewhere.except,
                reason: holdfast_store::session::Reason::Subject,
            };
            core.sessions.ask(core, other, ask).await;
        }
    }
    *applied
}

fn count(core: &Core, applied: &Applied) {
    let metrics = core.metrics();
    if applied.conflict {
        metrics.count(Metric::SetsConflict);
    }
    if applied.too_large {
        metrics.count(Metric::SetsTooLarge);
        static SAID: crate::log::Limited =
            crate::log::Limited::new(std::time::Duration::from_secs(10));
        SAID.warn(|| "a write of session data over data.maxSize was refused".into());
    }
    if applied.dropped > 0 {
        metrics.add(Metric::SetsDropped, u64::from(applied.dropped));
        static SAID: crate::log::Limited =
            crate::log::Limited::new(std::time::Duration::from_secs(10));
        SAID.warn(|| {
            "a write of session data named a field that is not in data.fields: it was dropped"
                .into()
        });
    }
    if applied.full {
        metrics.count(Metric::CreatesRejected);
    }
}

/// A response without commands: a new token goes out, or the offer of a new secret; a `maxAge` cookie is
/// renewed where it is time.
async fn unasked(
    core: &'static Core,
    conn: &Conn,
    attached: &Attached,
    conclusion: &mut Conclusion,
) -> bool {
    let Some(live) = &attached.live else {
        return false;
    };
    if let Some(fresh) = &live.fresh {
        let gone = gone_meanwhile(core, fresh).await;
        return !gone && say(conn, &attached.request, live.source, fresh, conclusion);
    }
    if live.offer {
        let applied = carry_out(core, conn, attached, Commands::default()).await;
        return applied
            .token
            .is_some_and(|fresh| say(conn, &attached.request, live.source, &fresh, conclusion));
    }
    match renewable(core, conn, live) {
        Some(cookie) => renew(core, conn, attached, live, cookie, conclusion).await,
        None => false,
    }
}

/// Whether a session has ended, or got another secret, since this request made one for it.
async fn gone_meanwhile(core: &'static Core, fresh: &Fresh) -> bool {
    let owner = core.sessions.owner(&fresh.sid);
    let digest = fresh.secret.digest();
    if owner == core.sessions.home {
        let shard = core.sessions.shard.borrow();
        return shard.is_tombstoned(&fresh.sid)
            || (!fresh.unconfirmed && !shard.is_good(&fresh.sid, &digest, core.wall_ms()));
    }
    let sid = fresh.sid;
    let held = core.sessions.ask(core, owner, Ask::Holds { sid, digest });
    !matches!(held.await, Some(Answer::Holds(true)))
}

/// The cookie with a `maxAge` that it is time to send again.
fn renewable<'a>(core: &Core, conn: &'a Conn, live: &Live) -> Option<&'a plan::SessionCookie> {
    let plan = conn.generation.session()?;
    let Source::Cookie(cookie) = &conn.generation.identity.sources[live.source].source else {
        return None;
    };
    cookie.max_age?;
    let age = (core.wall_ms() / 1000).saturating_sub(u64::from(live.issued));
    (age >= plan.touch_interval.as_secs().max(1)).then_some(cookie)
}

/// Sets the presented token again, with a new time of issue, if its secret is still the current one and
/// no other is pending.
async fn renew(
    core: &'static Core,
    conn: &Conn,
    attached: &Attached,
    live: &Live,
    cookie: &plan::SessionCookie,
    conclusion: &mut Conclusion,
) -> bool {
    let identity = &conn.generation.identity;
    if !create::deliverable(&identity.sources[live.source].source, &attached.request) {
        return false;
    }
    let Target::Session {
        sid,
        digest: Some(digest),
    } = live.target
    else {
        return false;
    };
    let owner = core.sessions.owner(&sid);
    let held = core
        .sessions
        .ask(core, owner, Ask::MayRepeat { sid, digest })
        .await;
    if !matches!(held, Some(Answer::MayRepeat(true))) {
        return false;
    }
    let buf = conn.input.as_slice();
    let values = conn
        .head
        .values(buf, Name::Cookie)
        .flat_map(crate::parse::cookies::pairs);
    for pair in values.filter(|p| p.name == cookie.name.as_bytes()) {
        if let Ok((token, _)) = Token::decode(pair.value, &identity.keys)
            && token.sid == sid
            && token.secret.digest() == digest
        {
            let issued = u32::try_from(core.wall_ms() / 1000).unwrap_or(u32::MAX);
            let text = Token {
                issued,
                unconfirmed: false,
                ..token
            }
            .encode(&identity.keys);
            cookies::set(
                cookie,
                text.as_bytes(),
                attached.request.laptop,
                &mut conclusion.lines,
            );
            conclusion.session_cookie = true;
            return true;
        }
    }
    false
}

/// Sends a token to the client through a source. False where it can't be delivered.
fn say(
    conn: &Conn,
    request: &Request,
    source: usize,
    fresh: &Fresh,
    conclusion: &mut Conclusion,
) -> bool {
    let identity = &conn.generation.identity;
    let source = &identity.sources[source].source;
    if !create::deliverable(source, request) {
        return false;
    }
    match source {
        Source::Cookie(cookie) => {
            let text = fresh.encode(Kind::CookieOrHeader, &identity.keys);
            cookies::set(
                cookie,
                text.as_bytes(),
                request.laptop,
                &mut conclusion.lines,
            );
            conclusion.session_cookie = true;
        }
        Source::Header { name, .. } => {
            let text = fresh.encode(Kind::CookieOrHeader, &identity.keys);
            conclusion.header = Some((name.clone(), text));
        }
        Source::Query { .. } => {
            let Some(names) = &conn.generation.names else {
                return false;
            };
            let text = fresh.encode(Kind::Query, &identity.keys);
            conclusion.header = Some((names.id_name.clone(), text));
        }
    }
    // Whoever can read the token must not keep the response.
    conclusion.session_cookie = true;
    true
}

/// Ends at the client whatever cookie the request came with.
fn expire_carried(conn: &Conn, attached: &Attached, conclusion: &mut Conclusion) {
    match &attached.live {
        Some(live) => expire(conn, attached, live.source, false, conclusion),
        None => {
            let cookie = |s: &crate::identify::SourcePlan| matches!(s.source, Source::Cookie(_));
            for source in conn
                .generation
                .identity
                .sources
                .iter()
                .enumerate()
                .filter(|(_, s)| cookie(s))
                .map(|(i, _)| i)
            {
                expire(conn, attached, source, false, conclusion);
            }
        }
    }
}

fn expire(
    conn: &Conn,
    attached: &Attached,
    source: usize,
    both: bool,
    conclusion: &mut Conclusion,
) {
    let Source::Cookie(cookie) = &conn.generation.identity.sources[source].source else {
        return;
    };
    let laptop = attached.request.laptop;
    if both {
        cookies::expire_both(cookie, laptop, &mut conclusion.lines);
    } else {
        cookies::expire(cookie, laptop, &mut conclusion.lines);
    }
    conclusion.session_cookie = true;
}
