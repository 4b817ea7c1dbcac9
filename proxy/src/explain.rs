//! Why a request would go where it would go: the path's own decisions, made without a request.
//!
//! Runs on a data core, asked by the control thread for `/api/explain`. The head is read by the path's
//! parser, routed by its router and judged by its pin policy, so that what is said is what would happen.
//!
//! Invariants: nothing is touched. No session is used or made, no pin renewed or made (a claim is taken for
//! won), whose turn it is and what drains give up are looked at in copies, nothing is counted or told. So
//! where load or chance decides, the next request may fare otherwise. Nothing said holds a token.
//! Tested end to end.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

use holdfast_store::id::Sid;
use holdfast_store::shard::{Answer, Ask};
use holdfast_store::token::{Presented, Signature, TokenError};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::core::Core;
use crate::generation::Generation;
use crate::identify;
use crate::parse::{self, HeadScan, Progress, RequestHead};
use crate::pin::choose::{Candidate, Choice, Tried};
use crate::pin::policy::{
    Action, By, CookiePin, Decider, Facts, Outcome, RulePolicy, Step, Verdict, View,
};

/// What is asked.
#[derive(Debug)]
pub struct Question {
    /// The head of the request, as a client would send it to the first listener.
    pub head: Vec<u8>,
    /// The client's address.
    pub client: IpAddr,
    /// Where the answer goes: it, or what is wrong with the head.
    pub reply: oneshot::Sender<Result<Value, String>>,
}

struct Seen<'a> {
    client: IpAddr,
    sid: Option<Sid>,
    head: &'a RequestHead,
    buf: &'a [u8],
}

impl Facts for Seen<'_> {
    fn client(&self) -> IpAddr {
        self.client
    }

    fn peer(&self) -> IpAddr {
        self.client
    }

    fn sid(&self) -> Option<[u8; 16]> {
        self.sid.map(|sid| sid.0)
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        let line = self
            .head
            .lines
            .iter()
            .find(|l| l.is(self.buf, name.as_bytes()));
        line.map(|line| line.value(self.buf))
    }
}

/// Answers a question.
pub async fn answer(core: &'static Core, question: Question) {
    let explained = explain(core, &question).await;
    // Whoever asked may be gone.
    let _ = question.reply.send(explained);
}

async fn explain(core: &'static Core, question: &Question) -> Result<Value, String> {
    let generation = core.generation();
    let buf = question.head.as_slice();
    let listener = generation.listeners.first().ok_or("there is no listener")?;
    let (mut scan, mut head) = (HeadScan::default(), RequestHead::default());
    match parse::request(buf, &listener.head_limits, &mut scan, &mut head) {
        Ok(Progress::Complete) => {}
        Ok(Progress::Partial) => return Err("the request is not whole".to_owned()),
        Err(refusal) => {
            return Err(format!("the request would be refused: {}", refusal.reason));
        }
    }
    let rule = generation.router.route(
        head.authority_bytes(buf),
        head.path(buf),
        head.method_bytes(buf),
    );
    let Some(rule) = rule else {
        return Ok(json!({
            "rule": null,
            "action": "reject",
            "status": 404,
            "why": "no rule matches host, path and method",
        }));
    };
    let found = identify::seen(&generation.identity, &head, buf);
    let (session, sid) = session(core, &generation, &found.tokens).await;
    let seen = Seen {
        client: question.client,
        sid,
        head: &head,
        buf,
    };
    let mut said = pin(core, &generation, rule, &seen, &found.pins).await;
    let plan = &generation.plan;
    let about = plan.rules.get(rule);
    let service = plan
        .services
        .get(generation.service_of(rule).index as usize);
    said["rule"] = json!(about.map(|rule| &rule.id));
    said["service"] = json!(service.map(|service| &service.name));
    said["session"] = session;
    said["path"] = json!(String::from_utf8_lossy(head.path(buf)));
    said["core"] = json!(core.index);
    Ok(said)
}

/// How the session would stand, and whose it is where it is good.
async fn session(
    core: &'static Core,
    generation: &Generation,
    tokens: &[(usize, Result<Presented, TokenError>)],
) -> (Value, Option<Sid>) {
    if generation.session().is_none() {
        return (json!({ "standing": "off" }), None);
    }
    let mut last = json!({ "standing": "none", "why": "no token was presented" });
    for (source, token) in tokens {
        let (standing, why, sid) = match token {
            Err(error) => ("dead", error.to_string(), None),
            Ok(token) => {
                let (standing, why) = standing(core, token).await;
                (standing, why.to_owned(), Some(token.sid))
            }
        };
        last = json!({
            "standing": standing,
            "why": why,
            "source": generation.identity.source_word(*source),
            "sid": sid.map(|sid| sid.to_string()),
        });
        if standing == "valid" {
            return (last, sid);
        }
    }
    (last, None)
}

async fn standing(core: &'static Core, token: &Presented) -> (&'static str, &'static str) {
    if token.kind != token.through {
        return ("refused", "a token of another kind than its source's");
    }
    let (sid, digest) = (token.sid, token.digest);
    let owner = core.sessions.owner(&sid);
    let held = core.sessions.ask(core, owner, Ask::Get(sid)).await;
    let Some(Answer::Get(Some(_))) = held else {
        return if token.unconfirmed && token.signature == Signature::Verified {
            ("valid", "a first token, whose session has no record yet")
        } else {
            ("dead", "no such session, or one that has ended")
        };
    };
    match core
        .sessions
        .ask(core, owner, Ask::Holds { sid, digest })
        .await
    {
        Some(Answer::Holds(true)) => ("valid", "its secret is the session's"),
        _ => ("refused", "its secret is not the session's"),
    }
}

/// What would become of the pin, and which upstream would serve.
async fn pin(
    core: &'static Core,
    generation: &Generation,
    rule: usize,
    seen: &Seen<'_>,
    cookies: &[(Vec<u8>, Vec<u8>)],
) -> Value {
    let policy = &generation.policies[rule];
    let service = generation.service_of(rule);
    let candidates = candidates(generation, rule);
    let tried = Tried::new();
    let view = View {
        candidates: &candidates,
        tried: &tried,
        now_ms: core.now_ms(),
        now_minute: core.wall_minute(),
        random: core.spread_u64(),
    };
    let mut cookie = CookiePin::Absent;
    if let Some(policy) = policy.cookie() {
        for (name, value) in cookies {
            cookie = policy.read(name, value, view.now_minute, cookie);
        }
    }
    let mut state = service.state.borrow().clone();
    let mut held = None;
    let verdict = match policy.by_cookie(&cookie, &view, &state) {
        Some(verdict) => verdict,
        None => {
            let mut decider = Decider::new(Rc::clone(policy), cookie, policy.keys(seen));
            loop {
                match decider.step(&view, &mut state) {
                    Step::Decided(verdict) => break verdict,
                    Step::Look { key, .. } => {
                        decider.answer(core.pin_peek(service.pins, key).await);
                    }
                    Step::Claim { tag, .. } => decider.answer_claim(Some(tag), true),
                    Step::Hold { upstream, time } => {
                        held = Some((upstream, time));
                        decider.waited();
                    }
                }
            }
        }
    };
    told(generation, rule, policy, &candidates, &verdict, held)
}

fn candidates(generation: &Generation, rule: usize) -> Vec<Candidate> {
    let service = generation.service_of(rule);
    let plan = generation.plan.services.get(service.index as usize);
    let max = plan.map_or(0, |plan| plan.connections.max);
    let mut candidates = service.candidates.borrow().clone();
    for (candidate, upstream) in candidates.iter_mut().zip(&service.upstreams) {
        candidate.active = upstream.active().load(Relaxed);
        candidate.full = max > 0 && candidate.active >= max;
    }
    candidates
}

fn told(
    generation: &Generation,
    rule: usize,
    policy: &RulePolicy,
    candidates: &[Candidate],
    verdict: &Verdict,
    held: Option<(usize, std::time::Duration)>,
) -> Value {
    let index = generation.service_of(rule).index as usize;
    let plan = generation.plan.services.get(index);
    let id = |at: usize| plan.and_then(|p| p.upstreams.get(at)).map(|u| u.id.clone());
    let by = match policy.choice() {
        Choice::ConsistentHash { .. } => "consistent-hash",
        Choice::IpHash { .. } => "ip-hash",
        Choice::HeaderHash { .. } => "header-hash",
        Choice::RoundRobin => "round-robin",
        Choice::LeastConnections => "least-connections",
        Choice::RandomTwo => "random-two",
    };
    let (outcome, why) = match &verdict.outcome {
        Outcome::Off => ("none", format!("nothing pins this request; {by} chose")),
        Outcome::First => (
            "first",
            format!("there was no pin; {by} chose, and a pin would be made"),
        ),
        Outcome::Hit(By::Cookie) => ("hit", "the cookie pins the client to it".to_owned()),
        Outcome::Hit(By::Table(_)) => ("hit", "the table pins the client to it".to_owned()),
        Outcome::Miss(miss) => (
            "miss",
            format!("the pin was not used: {miss:?}; {by} chose"),
        ),
        Outcome::Broken(lost) => (
            "broken",
            format!(
                "the pin was not followed, its upstream is {}; {by} chose",
                lost.name()
            ),
        ),
    };
    let (action, status, upstream) = match verdict.action {
        Action::Use(at) => ("use", None, id(at)),
        Action::Reject(status) => ("reject", Some(status), None),
        Action::Unavailable => ("reject", Some(503), None),
    };
    let why = match verdict.action {
        Action::Use(_) => why,
        Action::Reject(_) => {
            "onUnavailable rejects the clients of an upstream that does not serve".to_owned()
        }
        Action::Unavailable => "no upstream can serve".to_owned(),
    };
    let all = candidates.iter().enumerate().map(|(at, candidate)| {
        json!({
            "id": id(at),
            "state": candidate.state.name(),
            "weight": candidate.weight,
            "backup": candidate.backup,
            "active": candidate.active,
            "full": candidate.full,
        })
    });
    json!({
        "action": action,
        "status": status,
        "upstream": upstream,
        "why": why,
        "pin": {
            "outcome": outcome,
            "broken": verdict.broken.and_then(|(at, _)| id(at)),
            "heldFor": held.map(|(_, time)| time.as_secs_f64()),
        },
        "upstreams": all.collect::<Vec<_>>(),
    })
}
