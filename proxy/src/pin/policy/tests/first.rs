//! First requests, table pins, what names a client.

use super::*;

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
            .map(|_| Decider::new(&*policy, CookiePin::Absent, policy.keys(&shopper)))
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
    let mut decider = Decider::new(&*policy, CookiePin::Absent, keys);
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
    let mut decider = Decider::new(&*policy, CookiePin::Absent, policy.keys(&client(1)));
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
fn a_claim_that_another_request_made_alike_is_not_announced_twice() {
    let mut gateway = Gateway::new(Some(affinity(vec![SourceIp])));
    let policy = Rc::clone(&gateway.policy);
    let mut decider = Decider::new(&*policy, CookiePin::Absent, policy.keys(&client(1)));
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
