//! The decision for one request: which upstream, how its pin fared, and what is to be remembered.
//!
//! **Owns** the order of things in an affinity. [`RulePolicy`] is one rule's, immutable and shared;
//! [`CoreState`] is one core's and service's; [`Decider`] is one request's and asks for what it needs:
//!
//! ```text
//! cookies ─► CookiePolicy::read ─► CookiePin ─► RulePolicy::by_cookie ─► Verdict        (nothing else to do)
//!                                                     │ no
//! facts ───► RulePolicy::keys ───► Decider::step ─► Look ─► answer ─► … Claim ─► answer ─► Decided(Verdict)
//!                                                 └► Hold ─► (wait) ─► …
//! ```
//!
//! **Rules**, where the order of methods leaves a choice:
//! - A cookie pin that came, good and to an upstream that may serve it, wins over every table pin, whatever
//!   its place in the list, and no table pin is looked at or renewed. So a client behind an address that
//!   others share is never moved by it.
//! - Else the tables are asked in the order of the methods. The first pin to an upstream that may serve it
//!   wins, and the cookie (if listed) is set to that.
//! - Else the algorithm chooses, and *every* table method that has a key is claimed, in order, before the
//!   connect. Who claims second is told the first one's upstream and goes there: parallel first requests
//!   agree.
//! - A pin whose upstream is `down` or `maint`, or could not be reached, follows `onUnavailable`. One that a
//!   drain gives up is always bound anew, and stays where it is while nobody else can take it.
//! - What a client was given within this very request was never his: if that upstream can't be reached he
//!   is simply given another, and hears nothing of a broken pin.
//!
//! **Invariants.** An upstream that was tried, is `down` or is `maint` is never decided for. A drain only
//! serves its pinned clients. The same inputs give the same outputs.
//!
//! **Not here**: the table itself (asked by [`Step`]), waiting, and the writing of headers.
//! **Tested** by tables beside this file and by `tests/sim_pin.rs`.

use std::net::IpAddr;
use std::time::Duration;

use holdfast_config::plan::{AffinityMethod, OnUnavailable, PinCookie, Rule, Service};
use smallvec::SmallVec;

use super::choose::{Candidate, Choice, Rotation, Tried};
use super::cookie::{Codec, Miss, Opened, tenth_passed};
use super::drain::Drains;
use super::hash::hash64;
use super::ids::{Ids, UpstreamTag};
use super::set_cookie::{CookieNames, write_expired_cookie, write_name, write_rest};
use super::state::{UpstreamState, Usable};
use super::table::{KeyMaker, TableKey, TableMethod, address_bytes};

/// How long a table pin lives without use where `duration` is zero.
pub const TABLE_LIFE: Duration = Duration::from_secs(24 * 3600);

/// What a request shows of its client.
pub trait Facts {
    /// The client address.
    fn client(&self) -> IpAddr;
    /// The other end of the connection.
    fn peer(&self) -> IpAddr;
    /// The session's public name, if there is a session.
    fn sid(&self) -> Option<[u8; 16]>;
    /// A request header by its name in lower case; the first, if there are several.
    fn header(&self, name: &str) -> Option<&[u8]>;
}

/// What one core keeps for one service, from request to request.
#[derive(Debug, Clone)]
pub struct CoreState {
    /// Whose turn it is.
    pub rotation: Rotation,
    /// What draining upstreams give up.
    pub drains: Drains,
}

impl CoreState {
    /// For core `core` of `cores`.
    pub fn new(service: &Service, core: usize, cores: usize) -> Self {
        let upstreams = service.upstreams.len();
        Self {
            rotation: Rotation::new(upstreams, core),
            drains: Drains::new(upstreams, service.drain_timeout, service.drain_rate, cores),
        }
    }
}

/// The world at the moment of a step.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The service's upstreams, by position.
    pub candidates: &'a [Candidate],
    /// What this request has tried.
    pub tried: &'a Tried,
    /// Milliseconds of a steady clock (drains).
    pub now_ms: u64,
    /// Unix minutes (cookies).
    pub now_minute: u32,
    /// Fresh random bits.
    pub random: u64,
}

/// What a request's cookies said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CookiePin {
    /// No pin cookie.
    #[default]
    Absent,
    /// One that is no pin.
    Missed(Miss),
    /// A pin.
    Found {
        /// Which.
        opened: Opened,
        /// It came under [`CookieNames::other`].
        other_name: bool,
    },
}

/// The cookie method of a rule.
#[derive(Debug)]
pub struct CookiePolicy {
    settings: PinCookie,
    names: CookieNames,
    codec: Codec,
    duration: Duration,
    max_life: Duration,
}

impl CookiePolicy {
    /// Names, for hiding the cookie from upstreams.
    pub fn names(&self) -> &CookieNames {
        &self.names
    }

    /// As configured.
    pub fn settings(&self) -> &PinCookie {
        &self.settings
    }

    /// Takes one cookie of the request in; begin with [`CookiePin::Absent`]. The first good one under the
    /// own name wins, else the first good one under the other; cookies of other names change nothing.
    pub fn read(&self, name: &[u8], value: &[u8], now_minute: u32, so_far: CookiePin) -> CookiePin {
        let other_name = if name == self.names.own.as_bytes() {
            false
        } else if name == self.names.other.as_bytes() {
            true
        } else {
            return so_far;
        };
        match so_far {
            CookiePin::Found {
                other_name: false, ..
            } => return so_far,
            CookiePin::Found { .. } if other_name => return so_far,
            _ => {}
        }
        match self
            .codec
            .open(value, now_minute, self.duration, self.max_life)
        {
            Ok(opened) => CookiePin::Found { opened, other_name },
            // What comes under the other name may be another service's.
            Err(miss) if !other_name && so_far == CookiePin::Absent => CookiePin::Missed(miss),
            Err(_) => so_far,
        }
    }

    /// Appends the value of the `Set-Cookie` that pins to `upstream`. `nonce`: random, used once.
    pub fn write_pin(
        &self,
        upstream: usize,
        issued: u32,
        now_minute: u32,
        nonce: [u8; 12],
        secure_attr: bool,
        out: &mut Vec<u8>,
    ) {
        write_name(&self.names.own, out);
        self.codec.seal(upstream, issued, now_minute, nonce, out);
        write_rest(&self.settings, secure_attr, out);
    }

    /// Appends the value of the `Set-Cookie` that ends the pin.
    pub fn write_end(&self, secure_attr: bool, out: &mut Vec<u8>) {
        write_expired_cookie(&self.settings, &self.names.own, secure_attr, out);
    }

    /// Appends the value of the `Set-Cookie` that ends a pin under the other name.
    pub fn write_retire(&self, secure_attr: bool, out: &mut Vec<u8>) {
        write_expired_cookie(&self.settings, &self.names.other, secure_attr, out);
    }

    fn renews(&self, opened: &Opened, now_minute: u32) -> bool {
        let idle = now_minute.saturating_sub(opened.last_use);
        // The browser counts too, and from the last time that it was told.
        opened.renew || tenth_passed(idle, Duration::from_secs(self.settings.max_age))
    }
}

#[derive(Debug)]
struct Pinning {
    cookie: Option<CookiePolicy>,
    tables: SmallVec<[KeyMaker; 2]>,
    /// All methods, in order: what names a client to a consistent hash.
    key_order: SmallVec<[TableMethod; 2]>,
    on_unavailable: OnUnavailable,
    table_life: Duration,
}

/// How one rule decides. Immutable; made anew when the service's upstreams or their weights change.
#[derive(Debug)]
pub struct RulePolicy {
    pinning: Option<Pinning>,
    choice: Choice,
    ids: Ids,
}

/// What names a request's client to the tables and to a hash. Keys of table methods are in the order of
/// [`RulePolicy::tables`]; `None` where the request has none.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    tables: SmallVec<[Option<TableKey>; 2]>,
    hash: Option<u64>,
}

impl Keys {
    /// Keys of table pins, by slot.
    pub fn tables(&self) -> impl Iterator<Item = (usize, TableKey)> + '_ {
        self.tables
            .iter()
            .enumerate()
            .filter_map(|(slot, key)| key.map(|key| (slot, key)))
    }
}

impl RulePolicy {
    /// For a rule of a router with `services` services; `key`: see [`super::key::derive`].
    pub fn new(rule: &Rule, service: &Service, services: usize, key: &[u8; 32]) -> Self {
        let ids: Vec<&str> = service
            .upstreams
            .iter()
            .map(|upstream| upstream.id.as_str())
            .collect();
        let algorithm = rule
            .affinity
            .as_ref()
            .and_then(|affinity| affinity.algorithm.as_ref());
        let pinning = rule.affinity.as_ref().map(|affinity| {
            let key_order: SmallVec<[_; 2]> = affinity
                .methods
                .iter()
                .filter_map(|method| match method {
                    AffinityMethod::Cookie => None,
                    AffinityMethod::SourceIp => Some(TableMethod::SourceIp),
                    AffinityMethod::Header(name) => Some(TableMethod::Header(name.clone())),
                    AffinityMethod::Session => Some(TableMethod::Session),
                })
                .collect();
            let with_cookie = affinity.methods.contains(&AffinityMethod::Cookie);
            Pinning {
                cookie: with_cookie.then(|| CookiePolicy {
                    settings: affinity.cookie.clone(),
                    names: CookieNames::new(&affinity.cookie.name, &service.name, services),
                    codec: Codec::new(&service.name, &ids, affinity.encoding, key),
                    duration: affinity.duration,
                    max_life: affinity.max_life,
                }),
                tables: key_order
                    .iter()
                    .map(|method| KeyMaker::new(&service.name, method.clone()))
                    .collect(),
                key_order,
                on_unavailable: affinity.on_unavailable,
                table_life: if affinity.duration.is_zero() {
                    TABLE_LIFE
                } else {
                    affinity.duration
                },
            }
        });
        Self {
            pinning,
            choice: Choice::new(algorithm, service),
            ids: Ids::new(ids.into_iter()),
        }
    }

    /// The cookie method, if the rule has it.
    pub fn cookie(&self) -> Option<&CookiePolicy> {
        self.pinning.as_ref()?.cookie.as_ref()
    }

    /// The table methods, by slot.
    pub fn tables(&self) -> &[KeyMaker] {
        self.pinning.as_ref().map_or(&[], |pinning| &pinning.tables)
    }

    /// How long a table pin lives after its last use.
    pub fn table_life(&self) -> Duration {
        self.pinning
            .as_ref()
            .map_or(TABLE_LIFE, |pinning| pinning.table_life)
    }

    /// The upstreams' tags.
    pub fn ids(&self) -> &Ids {
        &self.ids
    }

    /// How it chooses.
    pub fn choice(&self) -> &Choice {
        &self.choice
    }

    /// The keys of a request. Costs a hash for each table method, so ask after [`Self::by_cookie`].
    pub fn keys(&self, facts: &impl Facts) -> Keys {
        let tables = self.tables().iter().map(|maker| match maker.method() {
            TableMethod::SourceIp => Some(maker.key(address_bytes(facts.client()).as_ref())),
            TableMethod::Header(name) => header(facts, name).map(|value| maker.key(value)),
            TableMethod::Session => facts.sid().map(|sid| maker.key(&sid)),
        });
        Keys {
            tables: tables.collect(),
            hash: self.hash_of(facts),
        }
    }

    fn hash_of(&self, facts: &impl Facts) -> Option<u64> {
        let address = |address| hash64(address_bytes(address).as_ref(), 0);
        match &self.choice {
            Choice::ConsistentHash { .. } => {
                let order = self
                    .pinning
                    .as_ref()
                    .map_or(&[][..], |pinning| &pinning.key_order);
                let by_method = order.iter().find_map(|method| match method {
                    TableMethod::SourceIp => Some(address(facts.client())),
                    TableMethod::Header(name) => header(facts, name).map(|value| hash64(value, 0)),
                    TableMethod::Session => facts.sid().map(|sid| hash64(&sid, 0)),
                });
                by_method
                    .or_else(|| facts.sid().map(|sid| hash64(&sid, 0)))
                    .or_else(|| Some(address(facts.client())))
            }
            Choice::IpHash { by_client, .. } => Some(address(if *by_client {
                facts.client()
            } else {
                facts.peer()
            })),
            Choice::HeaderHash { header: name, .. } => {
                header(facts, name).map(|value| hash64(value, 0))
            }
            Choice::RoundRobin | Choice::LeastConnections | Choice::RandomTwo => None,
        }
    }

    /// The whole decision where the cookie alone makes it: a good pin to an upstream that may serve it.
    /// Else `None`, and a [`Decider`] goes on. Changes nothing: a drain that gives clients up is asked
    /// there, once.
    pub fn by_cookie(
        &self,
        cookie: &CookiePin,
        view: &View<'_>,
        core: &CoreState,
    ) -> Option<Verdict> {
        let CookiePin::Found { opened, other_name } = cookie else {
            return None;
        };
        let policy = self.cookie()?;
        let state = view.candidates.get(opened.upstream)?.state;
        let stays = match state.usable() {
            Usable::New => true,
            Usable::PinnedOnly => !core.drains.ends(),
            Usable::No => false,
        };
        let stays = stays && !view.tried.contains(opened.upstream);
        stays.then(|| policy.kept(opened, *other_name, view.now_minute))
    }
}

impl CookiePolicy {
    /// A good pin is used; it is written anew where it is due.
    fn kept(&self, opened: &Opened, other_name: bool, now_minute: u32) -> Verdict {
        let renew = other_name || self.renews(opened, now_minute);
        Verdict {
            action: Action::Use(opened.upstream),
            outcome: Outcome::Hit(By::Cookie),
            cookie: if renew {
                CookieAction::Set {
                    issued: opened.issued,
                }
            } else {
                CookieAction::Keep
            },
            retire_other: other_name,
            established: false,
            broken: None,
        }
    }
}

/// The value of a header without the blanks around it; `None` for an empty one, which names nobody.
fn header<'f>(facts: &'f impl Facts, name: &str) -> Option<&'f [u8]> {
    facts
        .header(name)
        .map(<[u8]>::trim_ascii)
        .filter(|value| !value.is_empty())
}

/// May this pinned client be served there? `given_up`: an upstream whose drain has given this client up; it
/// is asked once and remembered.
fn fitness(
    upstream: usize,
    view: &View<'_>,
    drains: &mut Drains,
    given_up: &mut Option<usize>,
) -> Result<(), Lost> {
    if view.tried.contains(upstream) {
        return Err(Lost::Unreachable);
    }
    let state = view
        .candidates
        .get(upstream)
        .map_or(UpstreamState::Down, |candidate| candidate.state);
    match state.usable() {
        Usable::New => Ok(()),
        Usable::PinnedOnly if *given_up == Some(upstream) => Err(Lost::Drained),
        Usable::PinnedOnly if drains.gives_up(upstream, view.now_ms) => {
            *given_up = Some(upstream);
            Err(Lost::Drained)
        }
        Usable::PinnedOnly => Ok(()),
        Usable::No if state == UpstreamState::Maint => Err(Lost::Maint),
        Usable::No => Err(Lost::Down),
    }
}

/// Why a pin is not followed although it is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lost {
    /// Its upstream is `down`.
    Down,
    /// Its upstream is in maintenance.
    Maint,
    /// Its upstream could not be reached by this request.
    Unreachable,
    /// Its upstream drains and has given it up.
    Drained,
    /// Its upstream ended it (`X-Affinity-Clear`).
    Cleared,
}

impl Lost {
    /// As events and logs write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Maint => "maint",
            Self::Unreachable => "unreachable",
            Self::Drained => "drained",
            Self::Cleared => "cleared",
        }
    }
}

/// What holds the pin that was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum By {
    /// The client.
    Cookie,
    /// The table, through the method of this slot.
    Table(usize),
}

/// How the pin fared, for counters and the access log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The rule keeps no pins, or nothing of this request can hold one.
    Off,
    /// There was none; one was made.
    First,
    /// It was used.
    Hit(By),
    /// One was presented that is none.
    Miss(Miss),
    /// A good one was presented and could not be used.
    Broken(Lost),
}

/// What the request is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Go to the upstream at this position.
    Use(usize),
    /// Be answered with this status (`onUnavailable: reject`).
    Reject(u16),
    /// Be answered with 503 and Retry-After: no upstream is usable (or each was tried).
    Unavailable,
}

/// What happens to the pin cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CookieAction {
    /// Nothing.
    Keep,
    /// It is written, for the upstream of [`Action::Use`].
    Set {
        /// Unix minute since when the pin is.
        issued: u32,
    },
    /// It is ended at the client.
    Expire,
}

/// All that follows for one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// What to do.
    pub action: Action,
    /// How the pin fared.
    pub outcome: Outcome,
    /// What happens to the cookie.
    pub cookie: CookieAction,
    /// A cookie under the other name is ended as well.
    pub retire_other: bool,
    /// A new pin was made: event `affinityEstablished`.
    pub established: bool,
    /// A pin to this upstream ended: event `affinityBroken`.
    pub broken: Option<(usize, Lost)>,
}

impl Verdict {
    /// The upstream to go to.
    pub fn upstream(&self) -> Option<usize> {
        match self.action {
            Action::Use(upstream) => Some(upstream),
            Action::Reject(_) | Action::Unavailable => None,
        }
    }

    /// The upstream answered `X-Affinity-Clear: 1`: no cookie is set, one that came is ended, and
    /// `affinityBroken` is due. The caller takes the pins of [`Keys::tables`] that name this upstream out of
    /// the table.
    pub fn clear(&mut self, cookie: &CookiePin) {
        let Some(upstream) = self.upstream() else {
            return;
        };
        self.retire_other |= matches!(
            cookie,
            CookiePin::Found {
                other_name: true,
                ..
            }
        );
        self.cookie = match cookie {
            CookiePin::Found {
                other_name: false, ..
            }
            | CookiePin::Missed(_) => CookieAction::Expire,
            CookiePin::Found { .. } | CookiePin::Absent => CookieAction::Keep,
        };
        if self.outcome != Outcome::Off {
            self.broken = Some((upstream, Lost::Cleared));
        }
        self.established = false;
    }
}

/// What a [`Decider`] wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Look this table pin up (which renews it), then [`Decider::answer`] with what it holds.
    Look {
        /// Method.
        slot: usize,
        /// Client.
        key: TableKey,
    },
    /// In one act in the owner's shard: where there is no pin, or one to `replaces`, make one to `tag`; then
    /// [`Decider::answer`] with what it holds now (`None` if it holds none: full, or not to be reached).
    Claim {
        /// Method.
        slot: usize,
        /// Client.
        key: TableKey,
        /// The new pin.
        tag: UpstreamTag,
        /// A pin that may be overwritten.
        replaces: Option<UpstreamTag>,
    },
    /// Wait until this upstream may serve (then step again) or the time is over (then
    /// [`Decider::waited`] and step again). One that could not be reached: take it out of `tried` to try it
    /// again.
    Hold {
        /// Position.
        upstream: usize,
        /// At the longest, from the first hold of the request on.
        time: Duration,
    },
    /// Done.
    Decided(Verdict),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Start,
    Look(usize),
    Looked(usize),
    Choose,
    Claim(usize),
    Claimed(usize),
}

/// The decision for one request, step by step. Made anew for each request, asked again for a retry.
#[derive(Debug)]
pub struct Decider<'p> {
    policy: &'p RulePolicy,
    cookie: CookiePin,
    keys: Keys,
    at: At,
    answer: Option<UpstreamTag>,
    answer_made: Option<bool>,
    /// By slot: a pin that was found and may be overwritten.
    stale: SmallVec<[Option<UpstreamTag>; 2]>,
    /// The first good pin that could not be used.
    broken: Option<(usize, Lost)>,
    miss: Option<Miss>,
    given_up: Option<usize>,
    /// The choice is to stay with the one that gave him up.
    stays: bool,
    chosen: usize,
    /// Another request's pin was met in a claim: it is not ours to announce.
    joined: bool,
    /// A table took our claim.
    claimed: bool,
    /// One more claim of the first slot may follow a pin to an upstream that serves nobody.
    again: bool,
    /// Given to this client by this very request.
    made: Option<usize>,
    waited: bool,
}

impl<'p> Decider<'p> {
    /// For a request that [`RulePolicy::by_cookie`] did not decide (or was not asked).
    pub fn new(policy: &'p RulePolicy, cookie: CookiePin, keys: Keys) -> Self {
        let miss = match cookie {
            CookiePin::Missed(miss) => Some(miss),
            CookiePin::Absent | CookiePin::Found { .. } => None,
        };
        Self {
            policy,
            cookie,
            at: At::Start,
            answer: None,
            answer_made: None,
            stale: SmallVec::from_elem(None, keys.tables.len()),
            keys,
            broken: None,
            miss,
            given_up: None,
            stays: false,
            chosen: 0,
            joined: false,
            claimed: false,
            again: true,
            made: None,
            waited: false,
        }
    }

    /// The keys, for [`Verdict::clear`].
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The answer to a [`Step::Look`]; to a [`Step::Claim`] see [`Self::answer_claim`].
    pub fn answer(&mut self, pin: Option<UpstreamTag>) {
        self.answer = pin;
        self.answer_made = None;
    }

    /// The answer to a [`Step::Claim`]: what the table holds, and whether this claim made it. Without that
    /// (by [`Self::answer`]) two parallel first requests that chose alike both announce the pin.
    pub fn answer_claim(&mut self, pin: Option<UpstreamTag>, made: bool) {
        self.answer = pin;
        self.answer_made = Some(made);
    }

    /// The time of a [`Step::Hold`] is over.
    pub fn waited(&mut self) {
        self.waited = true;
    }

    /// The decided upstream could not serve and stands in `tried`: decide again from the beginning.
    pub fn retry(&mut self) {
        self.at = At::Start;
    }

    /// The next thing to do.
    pub fn step(&mut self, view: &View<'_>, core: &mut CoreState) -> Step {
        let step = loop {
            let next = match self.at {
                At::Start => self.start(view, core),
                At::Look(slot) => self.look(slot),
                At::Looked(slot) => self.looked(slot, view, core),
                At::Choose => self.choose(view, core),
                At::Claim(slot) => self.claim(slot, view),
                At::Claimed(slot) => self.claimed(slot, view),
            };
            if let Some(step) = next {
                break step;
            }
        };
        if matches!(step, Step::Hold { .. } | Step::Decided(_)) {
            self.at = At::Start;
        }
        step
    }

    fn start(&mut self, view: &View<'_>, core: &mut CoreState) -> Option<Step> {
        self.answer = None;
        (self.joined, self.claimed, self.again, self.stays) = (false, false, true, false);
        self.stale.iter_mut().for_each(|stale| *stale = None);
        self.at = At::Look(0);
        if let CookiePin::Found { opened, other_name } = self.cookie
            && let Some(policy) = self.policy.cookie()
        {
            match fitness(opened.upstream, view, &mut core.drains, &mut self.given_up) {
                Ok(()) => {
                    return Some(Step::Decided(policy.kept(
                        &opened,
                        other_name,
                        view.now_minute,
                    )));
                }
                Err(lost) => return self.lose(opened.upstream, lost),
            }
        }
        None
    }

    fn look(&mut self, slot: usize) -> Option<Step> {
        let Some(key) = self.keys.tables.get(slot) else {
            self.at = At::Choose;
            return None;
        };
        self.at = At::Looked(slot);
        self.answer = None;
        key.map(|key| Step::Look { slot, key })
    }

    fn looked(&mut self, slot: usize, view: &View<'_>, core: &mut CoreState) -> Option<Step> {
        self.at = At::Look(slot + 1);
        let tag = self.answer.take()?;
        let Some(upstream) = self.policy.ids.position(tag) else {
            self.overwrite(slot, tag);
            self.miss.get_or_insert(Miss::NoSuchUpstream);
            return None;
        };
        match fitness(upstream, view, &mut core.drains, &mut self.given_up) {
            Ok(()) => Some(Step::Decided(self.found(slot, upstream, view))),
            Err(lost) => {
                self.overwrite(slot, tag);
                self.lose(upstream, lost)
            }
        }
    }

    fn overwrite(&mut self, slot: usize, tag: UpstreamTag) {
        if let Some(stale) = self.stale.get_mut(slot) {
            *stale = Some(tag);
        }
    }

    /// A table pin is used, and given to the client as a cookie if the rule has one.
    fn found(&self, slot: usize, upstream: usize, view: &View<'_>) -> Verdict {
        // On a retry this may be what another request of the client agreed on: a first choice still.
        let outcome = match self.broken {
            Some((_, lost)) => Outcome::Broken(lost),
            None if self.made.is_some() => Outcome::First,
            None => Outcome::Hit(By::Table(slot)),
        };
        self.verdict(Action::Use(upstream), outcome, view, false)
    }

    /// A good pin can't be used: what follows by `onUnavailable`, or `None` to go on.
    fn lose(&mut self, upstream: usize, lost: Lost) -> Option<Step> {
        if self.made == Some(upstream) {
            return None;
        }
        self.broken.get_or_insert((upstream, lost));
        if lost == Lost::Drained || self.waited {
            return None;
        }
        match self.policy.pinning.as_ref()?.on_unavailable {
            OnUnavailable::Rebind => None,
            OnUnavailable::Hold(time) => {
                // It may come back, and then nothing was broken.
                self.broken = None;
                Some(Step::Hold { upstream, time })
            }
            OnUnavailable::Reject(status) => {
                self.broken = None;
                Some(Step::Decided(Verdict {
                    action: Action::Reject(status),
                    outcome: Outcome::Broken(lost),
                    cookie: CookieAction::Keep,
                    retire_other: false,
                    established: false,
                    broken: None,
                }))
            }
        }
    }

    fn choose(&mut self, view: &View<'_>, core: &mut CoreState) -> Option<Step> {
        let choice = &self.policy.choice;
        let chosen = choice.choose(
            &mut core.rotation,
            view.candidates,
            view.tried,
            self.keys.hash,
            view.random,
        );
        let Some(chosen) = chosen else {
            return self.choose_nobody(view);
        };
        if self.policy.pinning.is_none() {
            return Some(Step::Decided(self.verdict(
                Action::Use(chosen),
                Outcome::Off,
                view,
                false,
            )));
        }
        self.chosen = chosen;
        self.at = At::Claim(0);
        None
    }

    /// Nobody can take the client: one that a drain gave up stays for now.
    fn choose_nobody(&mut self, view: &View<'_>) -> Option<Step> {
        let stays = self.given_up.filter(|upstream| {
            let state = view
                .candidates
                .get(*upstream)
                .map(|candidate| candidate.state);
            state.is_some_and(|state| state.usable() != Usable::No)
                && !view.tried.contains(*upstream)
        });
        match stays {
            // Tables were told of another upstream, which could not be reached: tell them again.
            Some(upstream) if self.made.is_some() => {
                self.chosen = upstream;
                self.stays = true;
                self.at = At::Claim(0);
                None
            }
            Some(upstream) => Some(Step::Decided(self.stayed(upstream, view))),
            None => Some(Step::Decided(Verdict {
                action: Action::Unavailable,
                outcome: self.outcome(),
                cookie: CookieAction::Keep,
                retire_other: false,
                established: false,
                // A table pin that was overwritten on the way is gone; a cookie is still at the client.
                broken: self.broken.filter(|_| {
                    self.made.is_some() && !matches!(self.cookie, CookiePin::Found { .. })
                }),
            })),
        }
    }

    /// The pin to an upstream that gave it up is used once more.
    fn stayed(&self, upstream: usize, view: &View<'_>) -> Verdict {
        if let (CookiePin::Found { opened, other_name }, Some(policy)) =
            (self.cookie, self.policy.cookie())
            && opened.upstream == upstream
        {
            return policy.kept(&opened, other_name, view.now_minute);
        }
        let broken = self.broken.filter(|(lost, _)| *lost != upstream);
        let slot = self.stale.iter().position(Option::is_some).unwrap_or(0);
        let outcome = match broken {
            Some((_, lost)) => Outcome::Broken(lost),
            None => Outcome::Hit(By::Table(slot)),
        };
        Verdict {
            broken,
            ..self.verdict(Action::Use(upstream), outcome, view, false)
        }
    }

    fn claim(&mut self, slot: usize, view: &View<'_>) -> Option<Step> {
        let Some(key) = self.keys.tables.get(slot) else {
            return Some(Step::Decided(self.bound(view)));
        };
        self.at = At::Claimed(slot);
        self.answer = None;
        let (key, tag) = ((*key)?, self.policy.ids.tag(self.chosen)?);
        let replaces = self.stale.get(slot).copied().flatten();
        Some(Step::Claim {
            slot,
            key,
            tag,
            replaces,
        })
    }

    fn claimed(&mut self, slot: usize, view: &View<'_>) -> Option<Step> {
        self.at = At::Claim(slot + 1);
        let held = self.answer.take()?;
        if self.policy.ids.tag(self.chosen) == Some(held) {
            if self.answer_made.unwrap_or(true) {
                self.claimed = true;
            } else if !self.claimed {
                self.joined = true;
            }
            return None;
        }
        // Another request was faster. The first table that holds a pin decides for all.
        if self.claimed || self.joined {
            return None;
        }
        let usable = self.policy.ids.position(held).filter(|upstream| {
            let state = view
                .candidates
                .get(*upstream)
                .map(|candidate| candidate.state);
            state.is_some_and(|state| state.usable() != Usable::No)
                && !view.tried.contains(*upstream)
                && self.given_up != Some(*upstream)
        });
        if let Some(upstream) = usable {
            self.chosen = upstream;
            self.joined = true;
        } else if std::mem::take(&mut self.again) {
            self.overwrite(slot, held);
            self.at = At::Claim(slot);
        }
        None
    }

    /// The algorithm chose, and the tables agreed.
    fn bound(&mut self, view: &View<'_>) -> Verdict {
        if self.stays && self.given_up == Some(self.chosen) {
            self.made = None;
            return self.stayed(self.chosen, view);
        }
        self.made = Some(self.chosen);
        let held = self.claimed || self.joined || self.policy.cookie().is_some();
        let outcome = match self.outcome() {
            Outcome::First if !held => Outcome::Off,
            outcome => outcome,
        };
        self.verdict(
            Action::Use(self.chosen),
            outcome,
            view,
            held && !self.joined,
        )
    }

    fn outcome(&self) -> Outcome {
        match (self.broken, self.miss) {
            (Some((_, lost)), _) => Outcome::Broken(lost),
            (None, Some(miss)) => Outcome::Miss(miss),
            (None, None) => Outcome::First,
        }
    }

    fn verdict(
        &self,
        action: Action,
        outcome: Outcome,
        view: &View<'_>,
        established: bool,
    ) -> Verdict {
        let set = self.policy.cookie().is_some();
        Verdict {
            action,
            outcome,
            cookie: if set {
                CookieAction::Set {
                    issued: view.now_minute,
                }
            } else {
                CookieAction::Keep
            },
            retire_other: matches!(
                self.cookie,
                CookiePin::Found {
                    other_name: true,
                    ..
                }
            ),
            established,
            broken: self.broken,
        }
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
