//! The step of the path that finds the request's upstream: the shell around [`super::policy`].
//!
//! Runs on a data core. Asks the owner shards of table pins, waits where a pin is held, takes a place
//! under `connections.max`. It decides nothing itself.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::choose::{Candidate, Tried};
use super::cookie::Miss;
use super::policy::{
    Action, CookieAction, CookiePin, Decider, Facts, Outcome, RulePolicy, Step, Verdict, View,
};
use super::state::Usable;
use super::table::TableKey;
use crate::accept::Conn;
use crate::accesslog::Record;
use crate::core::Core;
use crate::deliver::page::Refusal;
use crate::event::{Event, EventKind, UpstreamName};
use crate::forward::{pool::Active, queue};
use crate::generation::ServiceCore;
use crate::message::UpstreamRef;
use crate::metrics::PinOutcome;
use crate::session::Attached;

/// Retry-After of a 503 that says that nothing can serve.
const RETRY_AFTER: u32 = 5;
/// How often a held pin looks whether its upstream is back.
const LOOK: Duration = Duration::from_millis(20);

/// A request whose upstream is known, and a place there taken.
#[derive(Debug)]
pub struct Pinned {
    /// Session and facts.
    pub attached: Box<Attached>,
    /// Where it goes.
    pub at: UpstreamRef,
    /// What follows for the pin.
    pub verdict: Verdict,
    /// Its place among what is in flight.
    pub active: Option<Active>,
    cookie: CookiePin,
    decider: Option<Box<Decider<Rc<RulePolicy>>>>,
    tried: Tried,
}

struct Seen<'a> {
    conn: &'a Conn,
    attached: &'a Attached,
}

impl Facts for Seen<'_> {
    fn client(&self) -> IpAddr {
        self.attached.request.client
    }

    fn peer(&self) -> IpAddr {
        self.conn.peer.ip()
    }

    fn sid(&self) -> Option<[u8; 16]> {
        self.attached.sid().map(|sid| sid.0)
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        let buf = self.conn.input.as_slice();
        let lines = &self.conn.head.lines;
        lines
            .iter()
            .find(|l| l.is(buf, name.as_bytes()))
            .map(|l| l.value(buf))
    }
}

/// Finds the upstream.
pub async fn pin(
    core: &'static Core,
    conn: &Conn,
    attached: Box<Attached>,
    record: &mut Record,
) -> Result<Box<Pinned>, Refusal> {
    let rule = attached.request.rule;
    let policy = &conn.generation.policies[rule];
    let service = conn.generation.service_of(rule);
    let cookie = read_cookie(core, conn, &attached, policy);
    let at = UpstreamRef {
        service: service.index,
        upstream: 0,
    };
    let mut pinned = Box::new(Pinned {
        attached,
        at,
        verdict: Verdict {
            action: Action::Unavailable,
            outcome: Outcome::Off,
            cookie: CookieAction::Keep,
            retire_other: false,
            established: false,
            broken: None,
        },
        active: None,
        cookie,
        decider: None,
        tried: Tried::new(),
    });
    let quick = {
        let candidates = service.candidates.borrow();
        let view = view(core, &candidates, &pinned.tried);
        policy.by_cookie(&cookie, &view, &service.state.borrow())
    };
    match quick {
        Some(verdict) => pinned.verdict = verdict,
        None => Box::pin(decide(core, conn, &mut pinned)).await,
    }
    settle(core, conn, &mut pinned, record).await?;
    Ok(pinned)
}

/// The upstream could not be reached: the next one, by the same rules.
pub async fn another(
    core: &'static Core,
    conn: &Conn,
    pinned: &mut Pinned,
    record: &mut Record,
) -> Result<(), Refusal> {
    pinned.active = None;
    pinned.tried.add(pinned.at.upstream as usize);
    decide(core, conn, pinned).await;
    settle(core, conn, pinned, record).await
}

/// Follows the verdict: a place at the upstream, or the answer that there is none.
async fn settle(
    core: &'static Core,
    conn: &Conn,
    pinned: &mut Pinned,
    record: &mut Record,
) -> Result<(), Refusal> {
    record.pin = outcome(&pinned.verdict.outcome);
    if pinned.verdict.upstream().is_none() {
        // No response of an upstream's will tell of a pin that broke.
        events(core, conn, pinned);
    }
    let upstream = match pinned.verdict.action {
        Action::Use(upstream) => upstream,
        Action::Reject(status) => {
            return Err(Refusal::unavailable(
                status,
                "the upstream that this client belongs to does not serve",
                RETRY_AFTER,
            ));
        }
        Action::Unavailable => {
            return Err(Refusal::unavailable(
                503,
                "no upstream can serve this request now",
                RETRY_AFTER,
            ));
        }
    };
    pinned.at.upstream = upstream as u32;
    pinned.active = match Active::take(&conn.generation, pinned.at) {
        Some(active) => Some(active),
        None => Box::pin(queue::place(core, &conn.generation, pinned.at)).await,
    };
    if pinned.active.is_none() {
        return Err(Refusal::unavailable(
            503,
            "the upstream has all the requests that it takes",
            1,
        ));
    }
    Ok(())
}

fn view<'a>(core: &Core, candidates: &'a [Candidate], tried: &'a Tried) -> View<'a> {
    View {
        candidates,
        tried,
        now_ms: core.now_ms(),
        now_minute: core.wall_minute(),
        random: core.spread_u64(),
    }
}

fn read_cookie(core: &Core, conn: &Conn, attached: &Attached, policy: &RulePolicy) -> CookiePin {
    let mut found = CookiePin::Absent;
    let Some(cookie) = policy.cookie() else {
        return found;
    };
    let buf = conn.input.as_slice();
    let part = |range: &std::ops::Range<u32>| buf.get(range.start as usize..range.end as usize);
    for (name, value) in &attached.pins {
        if let (Some(name), Some(value)) = (part(name), part(value)) {
            found = cookie.read(name, value, core.wall_minute(), found);
        }
    }
    found
}

async fn decide(core: &'static Core, conn: &Conn, pinned: &mut Pinned) {
    let rule = pinned.attached.request.rule;
    let policy = &conn.generation.policies[rule];
    let service = conn.generation.service_of(rule);
    let mut decider = match pinned.decider.take() {
        Some(mut decider) => {
            decider.retry();
            decider
        }
        None => {
            let seen = Seen {
                conn,
                attached: &pinned.attached,
            };
            let keys = policy.keys(&seen);
            Box::new(Decider::new(Rc::clone(policy), pinned.cookie, keys))
        }
    };
    refresh(conn, service);
    loop {
        let step = {
            let candidates = service.candidates.borrow();
            let view = view(core, &candidates, &pinned.tried);
            decider.step(&view, &mut service.state.borrow_mut())
        };
        match step {
            Step::Decided(verdict) => {
                pinned.verdict = verdict;
                break;
            }
            Step::Look { key, .. } => {
                let pin = core.pin_look(service.pins, key, policy.table_life()).await;
                decider.answer(pin);
            }
            Step::Claim {
                key, tag, replaces, ..
            } => {
                let pin = core
                    .pin_claim(service.pins, key, tag, replaces, policy.table_life())
                    .await;
                decider.answer_claim(pin.map(|(tag, _)| tag), pin.is_some_and(|(_, made)| made));
            }
            Step::Hold { upstream, time } => {
                hold(core, service, &mut pinned.tried, upstream, time).await;
                decider.waited();
            }
        }
    }
    pinned.decider = Some(decider);
}

/// Waits until an upstream may serve again, at most `time`.
async fn hold(
    core: &Core,
    service: &ServiceCore,
    tried: &mut Tried,
    upstream: usize,
    time: Duration,
) {
    let until = core.now_ms() + time.as_millis() as u64;
    while core.now_ms() < until {
        monoio::time::sleep(LOOK).await;
        let usable = service.candidates.borrow()[upstream].state.usable() != Usable::No;
        if usable {
            // One that refused a connection is tried once more at the end of its time.
            if !tried.contains(upstream) {
                return;
            }
        }
    }
    tried.remove(upstream);
}

/// Brings the counts that the choice looks at up to date.
fn refresh(conn: &Conn, service: &ServiceCore) {
    let plan = &conn.generation.plan.services[service.index as usize];
    let max = plan.connections.max;
    let mut candidates = service.candidates.borrow_mut();
    for (candidate, upstream) in candidates.iter_mut().zip(&service.upstreams) {
        candidate.active = upstream.active().load(Relaxed);
        candidate.full = max > 0 && candidate.active >= max;
    }
}

fn outcome(outcome: &Outcome) -> PinOutcome {
    match outcome {
        Outcome::Off => PinOutcome::None,
        Outcome::First => PinOutcome::First,
        Outcome::Hit(_) => PinOutcome::Hit,
        Outcome::Miss(Miss::Undecodable) => PinOutcome::Undecodable,
        Outcome::Miss(Miss::Forged) => PinOutcome::Forged,
        Outcome::Miss(Miss::Expired) => PinOutcome::Expired,
        Outcome::Miss(Miss::NoSuchUpstream) => PinOutcome::NoSuchUpstream,
        Outcome::Miss(Miss::Future) => PinOutcome::Future,
        Outcome::Broken(_) => PinOutcome::Unavailable,
    }
}

/// What the response tells the client of its pin: whole Set-Cookie lines. True if there is one.
pub async fn conclude(
    core: &'static Core,
    conn: &Conn,
    pinned: &mut Pinned,
    cleared: bool,
    lines: &mut Vec<u8>,
) -> bool {
    let rule = pinned.attached.request.rule;
    let policy = &conn.generation.policies[rule];
    if cleared {
        Box::pin(clear(core, conn, pinned)).await;
    }
    events(core, conn, pinned);
    let Some(cookie) = policy.cookie() else {
        return false;
    };
    let verdict = &pinned.verdict;
    let secure = cookie.settings().secure && !pinned.attached.request.laptop;
    // A cookie that asks for Secure is of no use over plain HTTP: the client would not keep it.
    let undeliverable =
        secure && !pinned.attached.request.secure && !pinned.attached.request.laptop;
    let before = lines.len();
    match verdict.cookie {
        CookieAction::Set { issued } if !undeliverable => {
            lines.extend_from_slice(b"Set-Cookie: ");
            let minute = core.wall_minute();
            let upstream = pinned.at.upstream as usize;
            cookie.write_pin(upstream, issued, minute, core.random(), secure, lines);
            lines.extend_from_slice(b"\r\n");
        }
        CookieAction::Expire => {
            lines.extend_from_slice(b"Set-Cookie: ");
            cookie.write_end(secure, lines);
            lines.extend_from_slice(b"\r\n");
        }
        _ => {}
    }
    if verdict.retire_other {
        lines.extend_from_slice(b"Set-Cookie: ");
        cookie.write_retire(secure, lines);
        lines.extend_from_slice(b"\r\n");
    }
    lines.len() > before
}

async fn clear(core: &'static Core, conn: &Conn, pinned: &mut Pinned) {
    let rule = pinned.attached.request.rule;
    let policy = &conn.generation.policies[rule];
    let service = conn.generation.service_of(rule);
    pinned.verdict.clear(&pinned.cookie);
    let Some(tag) = policy.ids().tag(pinned.at.upstream as usize) else {
        return;
    };
    let keys: smallvec::SmallVec<[TableKey; 2]> = match &pinned.decider {
        Some(decider) => decider.keys().tables().map(|(_, key)| key).collect(),
        None => {
            let attached = &pinned.attached;
            let keys = policy.keys(&Seen { conn, attached });
            keys.tables().map(|(_, key)| key).collect()
        }
    };
    for key in keys {
        let at = core.pin_look(service.pins, key, policy.table_life()).await;
        if at == Some(tag) {
            core.pin_remove(service.pins, key).await;
        }
    }
}

fn events(core: &Core, conn: &Conn, pinned: &Pinned) {
    let sid = pinned.attached.sid().copied();
    let event = |kind, upstream: usize, reason| Event {
        kind,
        at: core.wall_ms(),
        sid,
        reason,
        subject: None,
        upstream: name_of(conn, pinned, upstream),
        // The names tell apart the pins of a session.
        ordinal: sid.map_or_else(|| core.next_ordinal(), |_| 0),
    };
    if let Some((upstream, lost)) = pinned.verdict.broken {
        core.emit(event(EventKind::AffinityBroken, upstream, lost.name()));
    }
    if pinned.verdict.established {
        let upstream = pinned.at.upstream as usize;
        core.emit(event(EventKind::AffinityEstablished, upstream, ""));
    }
}

fn name_of(conn: &Conn, pinned: &Pinned, upstream: usize) -> Option<Box<UpstreamName>> {
    let plan = &conn.generation.plan;
    let service = plan.services.get(pinned.at.service as usize)?;
    let upstream = service.upstreams.get(upstream)?;
    Some(Box::new(UpstreamName {
        service: service.name.as_str().into(),
        id: upstream.id.as_str().into(),
    }))
}
