//! Tests of the decision, against a table that is a map.

mod cookies;
mod drains;
mod first;
mod lost;

use std::collections::HashMap;
use std::rc::Rc;

use holdfast_config::plan::{Affinity, Algorithm, Balancing, PinCookie, PinEncoding, SameSite};

use super::*;
use crate::pin::choose::tests::{candidates, service};
use crate::pin::cookie::{Miss, Opened};
use crate::pin::ids::UpstreamTag;
use crate::pin::state::UpstreamState;
use AffinityMethod::{Cookie, Session, SourceIp};
use UpstreamState::{Down, Drain, Maint, Ready};

const NOW: u32 = 29_000_000;

fn header_method() -> AffinityMethod {
    AffinityMethod::Header("x-cart".into())
}

fn affinity(methods: Vec<AffinityMethod>) -> Affinity {
    Affinity {
        methods,
        cookie: PinCookie {
            name: "pin".into(),
            path: "/".into(),
            domain: None,
            max_age: 3600,
            secure: false,
            same_site: SameSite::Lax,
            key: None,
        },
        encoding: PinEncoding::Secure,
        duration: Duration::from_secs(3600),
        max_life: Duration::ZERO,
        algorithm: None,
        on_unavailable: OnUnavailable::Rebind,
    }
}

#[derive(Clone)]
struct Client {
    address: IpAddr,
    sid: Option<[u8; 16]>,
    cart: Option<&'static str>,
}

impl Facts for Client {
    fn client(&self) -> IpAddr {
        self.address
    }
    fn peer(&self) -> IpAddr {
        [10, 0, 0, 1].into()
    }
    fn sid(&self) -> Option<[u8; 16]> {
        self.sid
    }
    fn header(&self, name: &str) -> Option<&[u8]> {
        self.cart.filter(|_| name == "x-cart").map(str::as_bytes)
    }
}

fn client(last: u8) -> Client {
    Client {
        address: [192, 0, 2, last].into(),
        sid: None,
        cart: None,
    }
}

/// One gateway of one core: a rule, its table, its upstreams.
struct Gateway {
    policy: Rc<RulePolicy>,
    core: CoreState,
    candidates: Vec<Candidate>,
    table: HashMap<TableKey, UpstreamTag>,
    now_ms: u64,
    /// Table acts, in order.
    acts: Vec<&'static str>,
}

impl Gateway {
    fn new(affinity: Option<Affinity>) -> Self {
        Self::of(affinity, &service(Balancing::RoundRobin, &[1, 1, 1]), 1)
    }

    fn of(affinity: Option<Affinity>, service: &Service, services: usize) -> Self {
        let rule = Rule {
            id: "r".into(),
            path: "/".into(),
            prefix: true,
            host: None,
            methods: vec![],
            service: 0,
            affinity,
        };
        Self {
            policy: Rc::new(RulePolicy::new(&rule, service, services, &[7; 32])),
            core: CoreState::new(service, 0, 1),
            candidates: candidates(service),
            table: HashMap::new(),
            now_ms: 0,
            acts: vec![],
        }
    }

    fn answer(&mut self, decider: &mut Decider<&RulePolicy>, step: Step) {
        match step {
            Step::Look { key, .. } => {
                self.acts.push("look");
                decider.answer(self.table.get(&key).copied());
            }
            Step::Claim {
                key, tag, replaces, ..
            } => {
                self.acts.push("claim");
                let made = self
                    .table
                    .get(&key)
                    .is_none_or(|held| Some(*held) == replaces);
                if made {
                    self.table.insert(key, tag);
                }
                decider.answer_claim(self.table.get(&key).copied(), made);
            }
            Step::Hold { .. } | Step::Decided(_) => panic!("no question to the table: {step:?}"),
        }
    }

    /// Steps to a decision or a hold.
    fn run(&mut self, decider: &mut Decider<&RulePolicy>, tried: &Tried) -> Step {
        loop {
            let candidates = self.candidates.clone();
            let view = View {
                candidates: &candidates,
                tried,
                now_ms: self.now_ms,
                now_minute: NOW,
                random: 0,
            };
            match decider.step(&view, &mut self.core) {
                step @ (Step::Hold { .. } | Step::Decided(_)) => return step,
                step => self.answer(decider, step),
            }
        }
    }

    fn request(&mut self, client: &Client, cookie: CookiePin) -> Verdict {
        let policy = Rc::clone(&self.policy);
        let mut decider = Decider::new(&*policy, cookie, policy.keys(client));
        match self.run(&mut decider, &Tried::new()) {
            Step::Decided(verdict) => verdict,
            step => panic!("{step:?}"),
        }
    }
}

/// A good cookie pin, fresh.
fn pinned(upstream: usize) -> CookiePin {
    found(upstream, 0, false)
}

fn found(upstream: usize, idle: u32, other_name: bool) -> CookiePin {
    let opened = Opened {
        upstream,
        issued: NOW - 100,
        last_use: NOW - idle,
        renew: false,
    };
    CookiePin::Found { opened, other_name }
}

const NEW: CookieAction = CookieAction::Set { issued: NOW };

/// Action, outcome, cookie, established, broken.
fn told(verdict: Verdict) -> (Action, Outcome, CookieAction, bool, Option<(usize, Lost)>) {
    (
        verdict.action,
        verdict.outcome,
        verdict.cookie,
        verdict.established,
        verdict.broken,
    )
}
