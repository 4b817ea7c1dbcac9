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
//! **Tested** by tables beside this file and by `tests/sim_pin`.

mod cookie;
mod decide;
mod verdict;

use std::net::IpAddr;
use std::time::Duration;

use holdfast_config::plan::{AffinityMethod, OnUnavailable, Rule, Service};
use smallvec::SmallVec;

pub use self::cookie::{CookiePin, CookiePolicy};
pub use self::decide::{Decider, Step};
pub use self::verdict::{Action, By, CookieAction, Lost, Outcome, Verdict};
use super::choose::{Candidate, Choice, Rotation, Tried};
use super::drain::Drains;
use super::hash::hash64;
use super::ids::Ids;
use super::state::Usable;
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
                cookie: with_cookie
                    .then(|| CookiePolicy::new(affinity, &service.name, &ids, services, key)),
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

/// The value of a header without the blanks around it; `None` for an empty one, which names nobody.
fn header<'f>(facts: &'f impl Facts, name: &str) -> Option<&'f [u8]> {
    facts
        .header(name)
        .map(<[u8]>::trim_ascii)
        .filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests;
