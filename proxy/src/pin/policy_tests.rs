//! Tests of the decision, against a table that is a map.

use std::collections::HashMap;
use std::rc::Rc;

use holdfast_config::plan::{Affinity, Algorithm, Balancing, PinEncoding, SameSite};

use super::super::choose::tests::{candidates, service};
use super::*;
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

    fn answer(&mut self, decider: &mut Decider<'_>, step: Step) {
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
    fn run(&mut self, decider: &mut Decider<'_>, tried: &Tried) -> Step {
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
        let mut decider = Decider::new(&policy, cookie, policy.keys(client));
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

#[test]
fn without_affinity_nothing_is_kept() {
    let mut gateway = Gateway::new(None);
    for turn in [0, 1, 2, 0] {
        let verdict = gateway.request(&client(1), pinned(1));
        assert_eq!(
            told(verdict),
            (
                Action::Use(turn),
                Outcome::Off,
                CookieAction::Keep,
                false,
                None
            )
        );
    }
    assert!(gateway.acts.is_empty());
    assert!(gateway.policy.cookie().is_none() && gateway.policy.tables().is_empty());
}

#[test]
fn a_first_request_is_chosen_for_and_every_method_makes_a_pin() {
    let mut gateway = Gateway::new(Some(affinity(vec![
        Cookie,
        SourceIp,
        header_method(),
        Session,
    ])));
    let shopper = Client {
        sid: Some([1; 16]),
        cart: Some("c1"),
        ..client(1)
    };
    let verdict = gateway.request(&shopper, CookiePin::Absent);
    assert_eq!(
        told(verdict),
        (Action::Use(0), Outcome::First, NEW, true, None)
    );
    assert_eq!(
        gateway.acts,
        ["look", "look", "look", "claim", "claim", "claim"]
    );
    assert_eq!(gateway.table.len(), 3);
    // Each of them alone brings the client back, and then the cookie is set again.
    for (n, again) in [
        Client {
            cart: None,
            sid: None,
            ..shopper.clone()
        },
        Client {
            address: client(2).address,
            sid: None,
            ..shopper.clone()
        },
        Client {
            address: client(3).address,
            cart: None,
            ..shopper.clone()
        },
    ]
    .iter()
    .enumerate()
    {
        let verdict = gateway.request(again, CookiePin::Absent);
        let by = Outcome::Hit(By::Table(n));
        assert_eq!(told(verdict), (Action::Use(0), by, NEW, false, None), "{n}");
    }
    let stranger = gateway.request(&client(9), CookiePin::Absent);
    assert_eq!(stranger.action, Action::Use(1));
}

#[test]
fn a_cookie_pin_wins_and_leaves_the_table_alone() {
    for methods in [vec![Cookie, SourceIp], vec![SourceIp, Cookie]] {
        let mut gateway = Gateway::new(Some(affinity(methods)));
        gateway.request(&client(1), CookiePin::Absent);
        gateway.acts.clear();
        let verdict = gateway.request(&client(1), pinned(2));
        let by = Outcome::Hit(By::Cookie);
        assert_eq!(
            told(verdict),
            (Action::Use(2), by, CookieAction::Keep, false, None)
        );
        assert!(gateway.acts.is_empty());
    }
}

#[test]
fn a_cookie_is_renewed_after_a_tenth_of_what_ends_first() {
    let with = |duration, max_age| {
        let mut affinity = affinity(vec![Cookie]);
        (affinity.duration, affinity.cookie.max_age) = (Duration::from_secs(duration), max_age);
        Gateway::new(Some(affinity))
    };
    // duration, Max-Age, minutes idle, renewed (what the duration asks for is told by the codec)
    for (duration, max_age, idle, renewed) in [
        (0, 0, 9999, false),
        (36_000, 3600, 5, false),
        (36_000, 3600, 6, true),
        (0, 600, 1, true),
        (0, 600, 0, false),
    ] {
        let verdict = with(duration, max_age).request(&client(1), found(1, idle, false));
        let expected = if renewed {
            CookieAction::Set { issued: NOW - 100 }
        } else {
            CookieAction::Keep
        };
        assert_eq!(verdict.cookie, expected, "{duration} {max_age} {idle}");
        assert_eq!(
            (verdict.outcome, verdict.established),
            (Outcome::Hit(By::Cookie), false)
        );
    }
    let opened = Opened {
        upstream: 0,
        issued: 5,
        last_use: NOW,
        renew: true,
    };
    let verdict = with(0, 0).request(
        &client(1),
        CookiePin::Found {
            opened,
            other_name: false,
        },
    );
    assert_eq!(
        verdict.cookie,
        CookieAction::Set { issued: 5 },
        "as the codec says"
    );
}

#[test]
fn a_pin_under_the_other_name_is_used_and_replaced() {
    let mut gateway = Gateway::new(Some(affinity(vec![Cookie])));
    let verdict = gateway.request(&client(1), found(2, 0, true));
    assert_eq!(
        (verdict.action, verdict.retire_other),
        (Action::Use(2), true)
    );
    assert_eq!(verdict.cookie, CookieAction::Set { issued: NOW - 100 });
    gateway.candidates[2].state = Down;
    let verdict = gateway.request(&client(1), found(2, 0, true));
    assert_eq!((verdict.cookie, verdict.retire_other), (NEW, true));
}

#[test]
fn a_miss_is_counted_and_a_new_pin_made() {
    let mut gateway = Gateway::new(Some(affinity(vec![Cookie, SourceIp])));
    let verdict = gateway.request(&client(1), CookiePin::Missed(Miss::Forged));
    assert_eq!(
        told(verdict),
        (Action::Use(0), Outcome::Miss(Miss::Forged), NEW, true, None)
    );
    let verdict = gateway.request(&client(1), CookiePin::Missed(Miss::Expired));
    assert_eq!(
        verdict.outcome,
        Outcome::Hit(By::Table(0)),
        "the table still knew"
    );
}

#[test]
fn a_table_pin_to_an_upstream_that_is_gone_is_a_miss_and_replaced() {
    let mut gateway = Gateway::new(Some(affinity(vec![SourceIp])));
    gateway.request(&client(1), CookiePin::Absent);
    *gateway.table.values_mut().next().unwrap() = UpstreamTag::of("gone");
    let verdict = gateway.request(&client(1), CookiePin::Absent);
    let miss = Outcome::Miss(Miss::NoSuchUpstream);
    assert_eq!(
        told(verdict),
        (Action::Use(1), miss, CookieAction::Keep, true, None)
    );
    let verdict = gateway.request(&client(1), CookiePin::Absent);
    assert_eq!(
        (verdict.action, verdict.outcome),
        (Action::Use(1), Outcome::Hit(By::Table(0)))
    );
}

#[test]
fn a_pin_to_a_dead_upstream_is_rebound_with_both_events() {
    for (state, lost) in [(Down, Lost::Down), (Maint, Lost::Maint)] {
        for methods in [vec![Cookie, SourceIp], vec![SourceIp], vec![Cookie]] {
            let mut gateway = Gateway::new(Some(affinity(methods.clone())));
            let with_cookie = methods.contains(&Cookie);
            gateway.request(&client(1), CookiePin::Absent);
            gateway.candidates[0].state = state;
            let cookie = if with_cookie {
                pinned(0)
            } else {
                CookiePin::Absent
            };
            let verdict = gateway.request(&client(1), cookie);
            let set = if with_cookie { NEW } else { CookieAction::Keep };
            let broken = Outcome::Broken(lost);
            assert_eq!(
                told(verdict),
                (Action::Use(1), broken, set, true, Some((0, lost))),
                "{methods:?}"
            );
            // It comes back, and nobody returns to it.
            gateway.candidates[0].state = Ready;
            let cookie = if with_cookie {
                pinned(1)
            } else {
                CookiePin::Absent
            };
            assert_eq!(gateway.request(&client(1), cookie).action, Action::Use(1));
        }
    }
}

#[test]
fn the_next_method_may_know_a_usable_one() {
    let mut gateway = Gateway::new(Some(affinity(vec![Cookie, SourceIp])));
    gateway.request(&client(1), CookiePin::Absent);
    gateway.candidates[2].state = Down;
    let verdict = gateway.request(&client(1), pinned(2));
    let broken = (Outcome::Broken(Lost::Down), Some((2, Lost::Down)));
    assert_eq!((verdict.outcome, verdict.broken), broken);
    assert_eq!(
        (verdict.action, verdict.cookie, verdict.established),
        (Action::Use(0), NEW, false)
    );
}

#[test]
fn reject_answers_and_keeps_the_pin() {
    let mut reject = affinity(vec![Cookie, SourceIp]);
    reject.on_unavailable = OnUnavailable::Reject(503);
    let mut gateway = Gateway::new(Some(reject));
    gateway.request(&client(1), CookiePin::Absent);
    gateway.candidates[0].state = Maint;
    for cookie in [pinned(0), CookiePin::Absent] {
        let verdict = gateway.request(&client(1), cookie);
        let broken = Outcome::Broken(Lost::Maint);
        assert_eq!(
            told(verdict),
            (Action::Reject(503), broken, CookieAction::Keep, false, None)
        );
    }
    gateway.candidates[0].state = Ready;
    assert_eq!(
        gateway.request(&client(1), CookiePin::Absent).action,
        Action::Use(0)
    );
    gateway.candidates[0].state = Down;
    assert_eq!(
        gateway.request(&client(2), CookiePin::Absent).action,
        Action::Use(1),
        "no pin, no reject"
    );
}

#[test]
fn hold_waits_and_then_goes_back_or_on() {
    let time = Duration::from_secs(10);
    let mut hold = affinity(vec![Cookie, SourceIp]);
    hold.on_unavailable = OnUnavailable::Hold(time);
    for comes_back in [true, false] {
        let mut gateway = Gateway::new(Some(hold.clone()));
        gateway.request(&client(1), CookiePin::Absent);
        gateway.candidates[0].state = Down;
        let policy = Rc::clone(&gateway.policy);
        let mut decider = Decider::new(&policy, pinned(0), policy.keys(&client(1)));
        let tried = Tried::new();
        assert_eq!(
            gateway.run(&mut decider, &tried),
            Step::Hold { upstream: 0, time }
        );
        if comes_back {
            gateway.candidates[0].state = Ready;
        } else {
            decider.waited();
        }
        let Step::Decided(verdict) = gateway.run(&mut decider, &tried) else {
            panic!("it holds again")
        };
        let lost = Lost::Down;
        let expected = if comes_back {
            (
                Action::Use(0),
                Outcome::Hit(By::Cookie),
                CookieAction::Keep,
                false,
                None,
            )
        } else {
            (
                Action::Use(1),
                Outcome::Broken(lost),
                NEW,
                true,
                Some((0, lost)),
            )
        };
        assert_eq!(told(verdict), expected);
    }
}

#[test]
fn a_pinned_client_whose_upstream_cannot_be_reached_follows_on_unavailable() {
    let time = Duration::from_secs(1);
    for on_unavailable in [
        OnUnavailable::Rebind,
        OnUnavailable::Hold(time),
        OnUnavailable::Reject(503),
    ] {
        let mut affinity = affinity(vec![Cookie, SourceIp]);
        affinity.on_unavailable = on_unavailable;
        let mut gateway = Gateway::new(Some(affinity));
        let policy = Rc::clone(&gateway.policy);
        let mut decider = Decider::new(&policy, pinned(2), policy.keys(&client(1)));
        let mut tried = Tried::new();
        assert!(
            matches!(gateway.run(&mut decider, &tried), Step::Decided(v) if v.action == Action::Use(2))
        );
        tried.add(2);
        decider.retry();
        let lost = Lost::Unreachable;
        match (on_unavailable, gateway.run(&mut decider, &tried)) {
            (OnUnavailable::Rebind, Step::Decided(verdict)) => {
                let expected = (
                    Action::Use(0),
                    Outcome::Broken(lost),
                    NEW,
                    true,
                    Some((2, lost)),
                );
                assert_eq!(told(verdict), expected);
            }
            (OnUnavailable::Hold(_), step) => {
                assert_eq!(step, Step::Hold { upstream: 2, time });
                tried.remove(2);
                let step = gateway.run(&mut decider, &tried);
                assert!(
                    matches!(step, Step::Decided(v) if v.action == Action::Use(2)),
                    "{step:?}"
                );
            }
            (OnUnavailable::Reject(status), Step::Decided(verdict)) => {
                assert_eq!(
                    (verdict.action, verdict.broken),
                    (Action::Reject(status), None)
                );
            }
            (_, step) => panic!("{step:?}"),
        }
    }
}

#[test]
fn a_new_client_whose_upstream_cannot_be_reached_is_still_new() {
    for on_unavailable in [OnUnavailable::Rebind, OnUnavailable::Reject(503)] {
        let mut affinity = affinity(vec![Cookie, SourceIp]);
        affinity.on_unavailable = on_unavailable;
        let mut gateway = Gateway::new(Some(affinity));
        let policy = Rc::clone(&gateway.policy);
        let mut decider = Decider::new(&policy, CookiePin::Absent, policy.keys(&client(1)));
        let mut tried = Tried::new();
        for turn in 0..3 {
            let step = gateway.run(&mut decider, &tried);
            let Step::Decided(verdict) = step else {
                panic!("{step:?}")
            };
            assert_eq!(
                told(verdict),
                (Action::Use(turn), Outcome::First, NEW, true, None)
            );
            let held: Vec<_> = gateway.table.values().copied().collect();
            assert_eq!(held, [policy.ids().tag(turn).unwrap()], "the table follows");
            tried.add(turn);
            decider.retry();
        }
        let Step::Decided(verdict) = gateway.run(&mut decider, &tried) else {
            panic!("held")
        };
        assert_eq!(
            (verdict.action, verdict.cookie),
            (Action::Unavailable, CookieAction::Keep)
        );
    }
}

#[test]
fn parallel_first_requests_agree() {
    // Two requests at every interleaving of their table acts, bit by bit of `order`.
    for order in 0..64u32 {
        let mut gateway = Gateway::new(Some(affinity(vec![Cookie, SourceIp, header_method()])));
        let shopper = Client {
            cart: Some("c"),
            ..client(1)
        };
        let policy = Rc::clone(&gateway.policy);
        let mut deciders: Vec<_> = (0..2)
            .map(|_| Decider::new(&policy, CookiePin::Absent, policy.keys(&shopper)))
            .collect();
        let mut verdicts = [None; 2];
        let (tried, mut turn) = (Tried::new(), 0);
        while verdicts.iter().any(Option::is_none) {
            let wanted = (order >> (turn % 6) & 1) as usize;
            let which = if verdicts[wanted].is_none() {
                wanted
            } else {
                1 - wanted
            };
            let candidates = gateway.candidates.clone();
            let view = View {
                candidates: &candidates,
                tried: &tried,
                now_ms: 0,
                now_minute: NOW,
                random: 0,
            };
            match deciders[which].step(&view, &mut gateway.core) {
                Step::Decided(verdict) => verdicts[which] = Some(verdict),
                step => gateway.answer(&mut deciders[which], step),
            }
            turn += 1;
            assert!(turn < 100, "order {order}");
        }
        let [Some(a), Some(b)] = verdicts else {
            panic!("both are decided")
        };
        assert_eq!(a.action, b.action, "order {order}");
        assert!(
            a.established ^ b.established,
            "order {order}: one pin, one event"
        );
        let tag = policy.ids().tag(a.upstream().unwrap()).unwrap();
        assert!(
            gateway.table.values().all(|held| *held == tag),
            "order {order}"
        );
    }
}

#[test]
fn a_claim_that_meets_a_dead_pin_is_made_once_more() {
    let mut gateway = Gateway::new(Some(affinity(vec![SourceIp])));
    let policy = Rc::clone(&gateway.policy);
    gateway.candidates[2].state = Down;
    let keys = policy.keys(&client(1));
    let (_, key) = keys.tables().next().unwrap();
    let mut decider = Decider::new(&policy, CookiePin::Absent, keys);
    let tried = Tried::new();
    let candidates = gateway.candidates.clone();
    let view = View {
        candidates: &candidates,
        tried: &tried,
        now_ms: 0,
        now_minute: NOW,
        random: 0,
    };
    assert!(matches!(
        decider.step(&view, &mut gateway.core),
        Step::Look { .. }
    ));
    decider.answer(None);
    // Between look and claim someone else pins to the dead one.
    gateway.table.insert(key, policy.ids().tag(2).unwrap());
    let Step::Decided(verdict) = gateway.run(&mut decider, &tried) else {
        panic!("held")
    };
    assert_eq!(
        (verdict.action, verdict.established),
        (Action::Use(0), true)
    );
    assert_eq!(gateway.table[&key], policy.ids().tag(0).unwrap());
}

#[test]
fn a_table_that_takes_nothing_stops_nobody() {
    let mut gateway = Gateway::new(Some(affinity(vec![SourceIp])));
    let policy = Rc::clone(&gateway.policy);
    let mut decider = Decider::new(&policy, CookiePin::Absent, policy.keys(&client(1)));
    let (candidates, tried) = (gateway.candidates.clone(), Tried::new());
    let view = View {
        candidates: &candidates,
        tried: &tried,
        now_ms: 0,
        now_minute: NOW,
        random: 0,
    };
    for _ in 0..2 {
        assert!(matches!(
            decider.step(&view, &mut gateway.core),
            Step::Look { .. } | Step::Claim { .. }
        ));
        decider.answer(None);
    }
    let Step::Decided(verdict) = decider.step(&view, &mut gateway.core) else {
        panic!("asks again")
    };
    assert_eq!(
        told(verdict),
        (
            Action::Use(0),
            Outcome::Off,
            CookieAction::Keep,
            false,
            None
        )
    );
}

#[test]
fn a_request_without_the_header_holds_no_pin() {
    let mut gateway = Gateway::new(Some(affinity(vec![header_method()])));
    for cart in [None, Some(""), Some("  ")] {
        let verdict = gateway.request(&Client { cart, ..client(1) }, CookiePin::Absent);
        assert_eq!(
            (verdict.outcome, verdict.established),
            (Outcome::Off, false),
            "{cart:?}"
        );
    }
    assert!(gateway.table.is_empty());
    let a = gateway.request(
        &Client {
            cart: Some("c1"),
            ..client(1)
        },
        CookiePin::Absent,
    );
    let b = gateway.request(
        &Client {
            cart: Some(" c1 "),
            ..client(2)
        },
        CookiePin::Absent,
    );
    assert_eq!(
        (a.action, b.outcome),
        (b.action, Outcome::Hit(By::Table(0)))
    );
}

#[test]
fn a_drain_keeps_its_clients_and_takes_no_new_ones() {
    let mut gateway = Gateway::new(Some(affinity(vec![Cookie, SourceIp])));
    gateway.request(&client(1), CookiePin::Absent);
    gateway.candidates[0].state = Drain;
    for cookie in [pinned(0), CookiePin::Absent] {
        assert_eq!(
            gateway.request(&client(1), cookie).action,
            Action::Use(0),
            "{cookie:?}"
        );
    }
    for n in 2..20 {
        assert_ne!(
            gateway.request(&client(n), CookiePin::Absent).action,
            Action::Use(0)
        );
    }
}

#[test]
fn a_drain_that_ends_moves_its_clients_between_requests() {
    let mut service = service(Balancing::RoundRobin, &[1, 1]);
    service.drain_timeout = Duration::from_secs(60);
    let mut gateway = Gateway::of(Some(affinity(vec![Cookie, SourceIp])), &service, 1);
    gateway.request(&client(1), CookiePin::Absent);
    gateway.candidates[0].state = Drain;
    gateway.core.drains.set(0, Some(0));
    gateway.now_ms = 59_999;
    assert_eq!(
        gateway.request(&client(1), pinned(0)).action,
        Action::Use(0)
    );
    gateway.now_ms = 60_000;
    // Nobody else can take him: he stays, and nothing is said.
    gateway.candidates[1].state = Down;
    for (cookie, by, set) in [
        (pinned(0), By::Cookie, CookieAction::Keep),
        (CookiePin::Absent, By::Table(0), NEW),
    ] {
        let verdict = gateway.request(&client(1), cookie);
        let expected = (Action::Use(0), Outcome::Hit(by), set, false, None);
        assert_eq!(told(verdict), expected);
    }
    gateway.candidates[1].state = Ready;
    let verdict = gateway.request(&client(1), pinned(0));
    let lost = Lost::Drained;
    assert_eq!(
        told(verdict),
        (
            Action::Use(1),
            Outcome::Broken(lost),
            NEW,
            true,
            Some((0, lost))
        )
    );
    let again = gateway.request(&client(1), CookiePin::Absent);
    assert_eq!(
        (again.action, again.outcome),
        (Action::Use(1), Outcome::Hit(By::Table(0)))
    );
}

#[test]
fn a_client_whose_new_place_cannot_be_reached_stays_with_the_drain() {
    let mut service = service(Balancing::RoundRobin, &[1, 1]);
    service.drain_timeout = Duration::from_secs(1);
    for cookie in [pinned(0), CookiePin::Absent] {
        let mut gateway = Gateway::of(Some(affinity(vec![Cookie, SourceIp])), &service, 1);
        gateway.request(&client(1), CookiePin::Absent);
        gateway.candidates[0].state = Drain;
        gateway.core.drains.set(0, Some(0));
        gateway.now_ms = 1_000;
        let policy = Rc::clone(&gateway.policy);
        let mut decider = Decider::new(&policy, cookie, policy.keys(&client(1)));
        let mut tried = Tried::new();
        let step = gateway.run(&mut decider, &tried);
        assert!(
            matches!(step, Step::Decided(v) if v.action == Action::Use(1)),
            "{step:?}"
        );
        tried.add(1);
        decider.retry();
        let Step::Decided(verdict) = gateway.run(&mut decider, &tried) else {
            panic!("held")
        };
        assert_eq!((verdict.action, verdict.broken), (Action::Use(0), None));
        assert!(matches!(verdict.outcome, Outcome::Hit(_)));
        let held: Vec<_> = gateway.table.values().copied().collect();
        assert_eq!(
            held,
            [policy.ids().tag(0).unwrap()],
            "the table is told again"
        );
    }
}

#[test]
fn a_dead_cookie_pin_beside_a_draining_table_pin_is_told_and_replaced() {
    let mut service = service(Balancing::RoundRobin, &[1, 1]);
    service.drain_timeout = Duration::from_secs(1);
    let mut gateway = Gateway::of(Some(affinity(vec![Cookie, SourceIp])), &service, 1);
    gateway.request(&client(1), CookiePin::Absent);
    gateway.candidates[0].state = Drain;
    gateway.candidates[1].state = Down;
    gateway.core.drains.set(0, Some(0));
    gateway.now_ms = 1_000;
    let lost = Lost::Down;
    let expected = (
        Action::Use(0),
        Outcome::Broken(lost),
        NEW,
        false,
        Some((1, lost)),
    );
    assert_eq!(told(gateway.request(&client(1), pinned(1))), expected);
}

#[test]
fn a_claim_that_another_request_made_alike_is_not_announced_twice() {
    let mut gateway = Gateway::new(Some(affinity(vec![SourceIp])));
    let policy = Rc::clone(&gateway.policy);
    let mut decider = Decider::new(&policy, CookiePin::Absent, policy.keys(&client(1)));
    let (candidates, tried) = (gateway.candidates.clone(), Tried::new());
    let view = View {
        candidates: &candidates,
        tried: &tried,
        now_ms: 0,
        now_minute: NOW,
        random: 0,
    };
    assert!(matches!(
        decider.step(&view, &mut gateway.core),
        Step::Look { .. }
    ));
    decider.answer(None);
    let Step::Claim { tag, .. } = decider.step(&view, &mut gateway.core) else {
        panic!("no claim")
    };
    decider.answer_claim(Some(tag), false);
    let Step::Decided(verdict) = decider.step(&view, &mut gateway.core) else {
        panic!("asks again")
    };
    assert_eq!(
        (verdict.action, verdict.established),
        (Action::Use(0), false)
    );
}

#[test]
fn a_drain_rate_is_spent_once_a_client_whatever_pins_he_has() {
    let mut service = service(Balancing::RoundRobin, &[1, 1]);
    service.drain_rate = 10;
    let mut gateway = Gateway::of(Some(affinity(vec![Cookie, SourceIp])), &service, 1);
    for n in 0..100 {
        gateway.request(&client(n), CookiePin::Absent);
    }
    // Clients of either parity alternate, so the even ones are at 0.
    gateway.candidates[0].state = Drain;
    gateway.core.drains.set(0, Some(0));
    gateway.now_ms = 2_000;
    let moved = (0..100)
        .step_by(2)
        .filter(|n| gateway.request(&client(*n), pinned(0)).action == Action::Use(1))
        .count();
    assert_eq!(moved, 10, "one second's worth");
}

#[test]
fn a_drain_is_bound_anew_whatever_on_unavailable_says() {
    let mut service = service(Balancing::RoundRobin, &[1, 1]);
    service.drain_timeout = Duration::from_secs(1);
    let mut affinity = affinity(vec![Cookie]);
    affinity.on_unavailable = OnUnavailable::Reject(503);
    let mut gateway = Gateway::of(Some(affinity), &service, 1);
    gateway.candidates[0].state = Drain;
    gateway.core.drains.set(0, Some(0));
    gateway.now_ms = 1_000;
    assert_eq!(
        gateway.request(&client(1), pinned(0)).action,
        Action::Use(1)
    );
}

#[test]
fn by_cookie_says_what_the_decider_says_or_nothing() {
    let states = [Ready, Drain, Down, Maint];
    let cookies = [
        CookiePin::Absent,
        CookiePin::Missed(Miss::Future),
        pinned(0),
        pinned(1),
        found(2, 59, true),
        pinned(9),
    ];
    for ends in [false, true] {
        let mut service = service(Balancing::RoundRobin, &[1, 1, 1]);
        service.drain_timeout = Duration::from_secs(u64::from(ends));
        for (state, cookie) in states.iter().flat_map(|s| cookies.map(|c| (*s, c))) {
            let mut gateway = Gateway::of(Some(affinity(vec![Cookie, SourceIp])), &service, 1);
            gateway
                .candidates
                .iter_mut()
                .for_each(|candidate| candidate.state = state);
            let (candidates, tried) = (gateway.candidates.clone(), Tried::new());
            let view = View {
                candidates: &candidates,
                tried: &tried,
                now_ms: 0,
                now_minute: NOW,
                random: 0,
            };
            let quick = gateway.policy.by_cookie(&cookie, &view, &gateway.core);
            let good = matches!(cookie, CookiePin::Found { opened, .. } if opened.upstream < 3);
            let stays = state == Ready || state == Drain && !ends;
            assert_eq!(quick.is_some(), good && stays, "{state:?} {cookie:?}");
            if let Some(quick) = quick {
                assert_eq!(quick, gateway.request(&client(1), cookie));
            }
        }
    }
}

#[test]
fn no_usable_upstream() {
    let mut gateway = Gateway::new(Some(affinity(vec![Cookie, SourceIp])));
    gateway
        .candidates
        .iter_mut()
        .for_each(|candidate| candidate.state = Down);
    for (cookie, outcome) in [
        (CookiePin::Absent, Outcome::First),
        (
            CookiePin::Missed(Miss::Expired),
            Outcome::Miss(Miss::Expired),
        ),
        (pinned(1), Outcome::Broken(Lost::Down)),
    ] {
        let verdict = gateway.request(&client(1), cookie);
        assert_eq!(
            told(verdict),
            (
                Action::Unavailable,
                outcome,
                CookieAction::Keep,
                false,
                None
            )
        );
    }
    assert!(gateway.table.is_empty(), "nobody is pinned to nothing");
}

#[test]
fn clear_ends_what_came_and_sets_nothing() {
    let mut gateway = Gateway::new(Some(affinity(vec![Cookie, SourceIp])));
    for (cookie, action, retire_other) in [
        (pinned(1), CookieAction::Expire, false),
        (CookiePin::Missed(Miss::Forged), CookieAction::Expire, false),
        (found(1, 0, true), CookieAction::Keep, true),
        (CookiePin::Absent, CookieAction::Keep, false),
    ] {
        let mut verdict = gateway.request(&client(1), cookie);
        verdict.clear(&cookie);
        let broken = Some((verdict.upstream().unwrap(), Lost::Cleared));
        assert_eq!(
            (verdict.cookie, verdict.retire_other),
            (action, retire_other),
            "{cookie:?}"
        );
        assert_eq!(
            (verdict.established, verdict.broken),
            (false, broken),
            "{cookie:?}"
        );
    }
}

#[test]
fn cookies_are_read_by_name() {
    let two = Gateway::of(
        Some(affinity(vec![Cookie])),
        &service(Balancing::RoundRobin, &[1, 1, 1]),
        2,
    );
    let policy = two.policy.cookie().unwrap();
    let (own, other) = (policy.names().own.clone(), policy.names().other.clone());
    assert_eq!(other, "pin");
    let value = |upstream| {
        let mut out = Vec::new();
        policy
            .codec
            .seal(upstream, NOW - 100, NOW, [1; 12], &mut out);
        out
    };
    let read = |cookies: &[(&str, Vec<u8>)]| {
        cookies
            .iter()
            .fold(CookiePin::Absent, |so_far, (name, value)| {
                policy.read(name.as_bytes(), value, NOW, so_far)
            })
    };
    let (good, bad) = (value(1), b"bad".to_vec());
    assert_eq!(read(&[("x", good.clone())]), CookiePin::Absent);
    assert_eq!(read(&[(&own, good.clone())]), pinned(1));
    assert_eq!(read(&[(&other, good.clone())]), found(1, 0, true));
    assert_eq!(
        read(&[(&other, bad.clone())]),
        CookiePin::Absent,
        "it may be another service's"
    );
    assert_eq!(
        read(&[(&own, bad.clone())]),
        CookiePin::Missed(Miss::Undecodable)
    );
    assert_eq!(
        read(&[(&own, bad.clone()), (&own, good.clone())]),
        pinned(1),
        "a good one after a bad one"
    );
    assert_eq!(
        read(&[(&own, good.clone()), (&own, value(2))]),
        pinned(1),
        "the first good one"
    );
    assert_eq!(
        read(&[(&own, bad), (&other, good.clone())]),
        found(1, 0, true)
    );
    assert_eq!(
        read(&[(&other, good), (&own, value(2))]),
        pinned(2),
        "the own name first"
    );
    assert_eq!(
        read(&[(&other, value(1)), (&other, value(2))]),
        found(1, 0, true)
    );
}

#[test]
fn the_lines_it_writes_are_the_lines_it_reads() {
    let gateway = Gateway::new(Some(affinity(vec![Cookie])));
    let policy = gateway.policy.cookie().unwrap();
    let mut line = Vec::new();
    policy.write_pin(2, NOW - 100, NOW, [3; 12], true, &mut line);
    let line = String::from_utf8(line).unwrap();
    let (pair, rest) = line.split_once(';').unwrap();
    let (name, value) = pair.split_once('=').unwrap();
    assert_eq!(
        rest,
        " Max-Age=3600; Path=/; Secure; HttpOnly; SameSite=Lax"
    );
    assert_eq!(
        policy.read(name.as_bytes(), value.as_bytes(), NOW, CookiePin::Absent),
        pinned(2)
    );
    let text = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    };
    assert!(text(&|out| policy.write_end(false, out)).starts_with("pin=; Max-Age=0;"));
    assert!(text(&|out| policy.write_retire(false, out)).starts_with("pin."));
}

#[test]
fn what_names_a_client_to_a_hash() {
    let ring = || {
        Some(Algorithm::ConsistentHash {
            replicas: 100,
            bounded_load: None,
        })
    };
    let hash = |methods, algorithm, client: &Client| {
        let mut affinity = affinity(methods);
        affinity.algorithm = algorithm;
        Gateway::new(Some(affinity)).policy.keys(client).hash
    };
    let by = |bytes: &[u8]| Some(hash64(bytes, 0));
    let address = [192, 0, 2, 1];
    let all = Client {
        sid: Some([5; 16]),
        cart: Some("c"),
        ..client(1)
    };
    let ring_cases = [
        (vec![Cookie], all.clone(), by(&[5; 16])),
        (vec![Cookie], client(1), by(&address)),
        (vec![Cookie, SourceIp], all.clone(), by(&address)),
        (vec![header_method(), SourceIp], all.clone(), by(b"c")),
        (vec![header_method()], client(1), by(&address)),
        (
            vec![header_method()],
            Client {
                cart: None,
                ..all.clone()
            },
            by(&[5; 16]),
        ),
        (vec![Session, SourceIp], all.clone(), by(&[5; 16])),
    ];
    for (methods, client, expected) in ring_cases {
        assert_eq!(
            hash(methods.clone(), ring(), &client),
            expected,
            "{methods:?}"
        );
    }
    let ip = |use_x_forwarded_for| {
        Some(Algorithm::IpHash {
            use_x_forwarded_for,
        })
    };
    assert_eq!(hash(vec![Cookie], ip(true), &all), by(&address));
    assert_eq!(hash(vec![Cookie], ip(false), &all), by(&[10, 0, 0, 1]));
    let by_header = || {
        Some(Algorithm::HeaderHash {
            header: "x-cart".into(),
        })
    };
    assert_eq!(hash(vec![Cookie], by_header(), &all), by(b"c"));
    assert_eq!(hash(vec![Cookie], by_header(), &client(1)), None);
    assert_eq!(hash(vec![Cookie], None, &all), None);
}

#[test]
fn a_table_pin_without_a_duration_lives_a_day() {
    let mut without = affinity(vec![SourceIp]);
    without.duration = Duration::ZERO;
    assert_eq!(Gateway::new(Some(without)).policy.table_life(), TABLE_LIFE);
    let with = Gateway::new(Some(affinity(vec![SourceIp])));
    assert_eq!(with.policy.table_life(), Duration::from_secs(3600));
}
