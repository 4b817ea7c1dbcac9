//! Birth, use and end of sessions.

use super::*;

#[test]
fn born_attached_and_written() {
    let mut b = bench(|_| {});
    let token = b.create();
    assert_eq!(b.json(&token), "", "nothing where there is no data");
    let done = b.set(&token, r#"{"cartId":"c1","ü":[1, 2]}"#);
    assert_eq!(
        (done.version, done.session, done.token),
        (1, Some(token.sid), None)
    );
    assert_eq!(b.json(&token), r#"{"\u00fc":[1,2],"cartId":"c1"}"#);
    b.set(&token, r#"{"cartId":null,"n":1}"#);
    assert_eq!(b.json(&token), r#"{"\u00fc":[1,2],"n":1}"#);
    let view = b.view(&token);
    assert_eq!(
        (
            view.version,
            view.requests,
            view.created,
            view.authenticated
        ),
        (2, 4, NOW, false)
    );
    assert_eq!(b.events(), [EventKind::SessionCreated]);
}

#[test]
fn revision_follows_what_readers_see() {
    let mut b = bench(|_| {});
    let token = b.create();
    let first = b.valid(&token).revision;
    assert_eq!(b.valid(&token).revision, first, "a touch is not a change");
    b.set(&token, r#"{"a":1}"#);
    assert_ne!(b.valid(&token).revision, first);
}

#[test]
fn slots_do_not_outlive_their_session() {
    let mut b = bench(|_| {});
    let token = b.create();
    b.set(&token, r#"{"a":"mine"}"#);
    let slot = b.valid(&token).slot;
    b.shard.destroy(&token.sid, Reason::Admin, b.now);
    let other = b.create();
    b.set(&other, r#"{"a":"theirs"}"#);
    let mut out = Vec::new();
    assert!(!b.shard.write_json(slot, b.now, &mut out) && out.is_empty());
}

#[test]
fn rolling_timeout_ends_after_the_last_request_and_never_early() {
    let mut b = bench(|p| p.timeout = 2000);
    b.now = NOW + 240;
    let token = b.create();
    for _ in 0..5 {
        b.now += 1999;
        b.valid(&token);
    }
    b.now += 2000 + 250;
    assert_eq!(b.attach(&token), Attached::Dead(Dead::Expired));
    assert_eq!(
        b.attach(&token),
        Attached::Dead(Dead::Unknown),
        "and nothing is left of it"
    );
    assert_eq!(
        b.events(),
        [EventKind::SessionCreated, EventKind::SessionExpired]
    );
}

#[test]
fn earliest_of_all_bounds_wins() {
    for (rolling, timeout, ttl, inactive, at) in [
        (false, HOUR, 0, 0, HOUR),
        (false, HOUR, MINUTE, 0, MINUTE),
        (true, HOUR, 3 * MINUTE, 0, 3 * MINUTE),
        (true, 0, 3 * MINUTE, 0, 3 * MINUTE),
        (true, HOUR, 0, 2 * MINUTE, 2 * MINUTE + 250),
        (false, HOUR, 0, 2 * MINUTE, 2 * MINUTE + 250),
    ] {
        let mut b = bench(|p| {
            (p.rolling, p.timeout, p.ttl, p.inactive) = (rolling, timeout, ttl, inactive)
        });
        let token = b.create();
        assert_eq!(b.view(&token).expires, Some(NOW + at));
        if inactive == 0 {
            b.now = NOW + at - 1;
            b.valid(&token);
        }
        b.now = NOW + at;
        assert_eq!(b.attach(&token), Attached::Dead(Dead::Expired));
    }
    let b = &mut bench(|p| (p.timeout, p.ttl) = (0, 0));
    let token = b.create();
    assert_eq!(b.view(&token).expires, None);
}

#[test]
fn own_timeout_replaces_the_idle_one_alone() {
    let mut b = bench(|p| p.timeout = HOUR);
    let token = b.create();
    b.apply(
        token.target(),
        Commands {
            timeout: Some(MINUTE),
            ..Commands::default()
        },
    );
    assert_eq!(b.view(&token).expires, Some(NOW + MINUTE + 250));
    b.apply(
        token.target(),
        Commands {
            timeout: Some(2 * HOUR),
            ..Commands::default()
        },
    );
    assert_eq!(b.view(&token).expires, Some(NOW + 2 * HOUR + 250));
    b.apply(
        token.target(),
        Commands {
            timeout: Some(0),
            ..Commands::default()
        },
    );
    assert_eq!(
        b.view(&token).expires,
        Some(NOW + 24 * HOUR),
        "none of its own, but never past ttl"
    );
    let mut b = bench(|p| (p.timeout, p.rolling) = (HOUR, false));
    let token = b.create();
    b.apply(
        token.target(),
        Commands {
            timeout: Some(2 * HOUR),
            ..Commands::default()
        },
    );
    assert_eq!(
        b.view(&token).expires,
        Some(NOW + HOUR),
        "nor past a lifetime"
    );
}

#[test]
fn wrong_secrets_kinds_and_signatures() {
    let mut b = bench(|p| p.signed = true);
    let token = b.create();
    let good = presented(&token, Signature::Verified);
    let now = b.now;
    let wrong = Presented {
        digest: Digest([9; 16]),
        ..good
    };
    assert_eq!(
        b.shard.attach(&wrong, now),
        Attached::Refused(Refused::UnknownSecret)
    );
    let query = Presented {
        through: Kind::Query,
        ..good
    };
    assert_eq!(
        b.shard.attach(&query, now),
        Attached::Refused(Refused::WrongKind)
    );
    let stripped = Presented {
        signature: Signature::Absent,
        ..good
    };
    assert_eq!(
        b.shard.attach(&stripped, now),
        Attached::Dead(Dead::Forged),
        "issued signed, so it is not ours"
    );
    assert!(matches!(b.shard.attach(&good, now), Attached::Valid(_)));
}

#[test]
fn tokens_of_before_stay_good_when_signing_is_turned_on_or_off() {
    // Born unsigned, moved as a record into an instance that signs.
    let mut off = bench(|p| p.signed = false);
    let mut on = bench(|p| p.signed = true);
    let token = off.create();
    let record = off.view(&token).record;
    assert!(on.shard.merge(&record, on.now).created);
    let unsigned = presented(&token, Signature::Absent);
    assert!(matches!(
        on.shard.attach(&unsigned, on.now),
        Attached::Valid(_)
    ));
    // Once it has a signed token, an unsigned one is a forgery.
    let fresh = on
        .apply(
            token.target(),
            Commands {
                retire: true,
                ..Commands::default()
            },
        )
        .token
        .unwrap();
    let unsigned = presented(&fresh, Signature::Absent);
    assert_eq!(
        on.shard.attach(&unsigned, on.now),
        Attached::Dead(Dead::Forged)
    );
    // And back: signed tokens are served unread.
    let token = on.create();
    assert!(off.shard.merge(&on.view(&token).record, off.now).created);
    let unread = presented(&token, Signature::Unread);
    assert!(matches!(
        off.shard.attach(&unread, off.now),
        Attached::Valid(_)
    ));
}

#[test]
fn a_storeless_session_is_made_by_its_return() {
    let mut b = bench(|p| {
        (p.confirm, p.signed) = (true, true);
        p.defaults = vec![(Name::new("t"), "\"${timestamp}\"".into())];
    });
    let created = b.shard.create(b.now, &mut b.entropy).unwrap();
    let token = created.token;
    assert!(created.slot.is_none() && token.unconfirmed && b.shard.is_empty());
    assert_eq!(b.shard.counts().created, 0);
    let mut defaults = Vec::new();
    assert!(b.shard.policy().write_first(
        token.issued,
        &crate::shard::Attributes::default(),
        &mut defaults
    ));
    b.now += 29 * MINUTE;
    let valid = b.valid(&token);
    assert!(valid.confirmed);
    assert_eq!(b.view(&token).created, NOW / 1000 * 1000);
    assert_eq!(b.json(&token).as_bytes(), defaults);
    assert!(!b.valid(&token).confirmed);
    assert_eq!(b.shard.counts().created, 1);
    let late = b.create();
    b.now += 30 * MINUTE;
    assert_eq!(b.attach(&late), Attached::Dead(Dead::Expired));
}

#[test]
fn nobody_makes_a_record_by_an_unsigned_token() {
    let mut b = bench(|p| p.confirm = true);
    let token = b.create();
    for signature in [Signature::Absent, Signature::Unread] {
        let forged = presented(&token, signature);
        assert_eq!(b.shard.attach(&forged, b.now), Attached::Dead(Dead::Forged));
    }
    assert!(b.shard.is_empty());
}

#[test]
fn only_a_write_of_data_makes_the_record() {
    let mut b = bench(|p| (p.confirm, p.fields) = (true, Some(vec![Name::new("a")])));
    let token = b.create();
    let done = b.set(&token, r#"{"z":1}"#);
    assert!(b.shard.is_empty() && !done.created && done.session == Some(token.sid));
    let done = b.set(&token, r#"{"a":1}"#);
    assert!(done.created && done.version == 1 && b.shard.len() == 1);
    assert_eq!(b.json(&token), r#"{"a":1}"#);
    let explicit = b.apply(
        Target::None,
        Commands {
            create: true,
            ..Commands::default()
        },
    );
    assert!(explicit.token.unwrap().unconfirmed && !explicit.created);
}

#[test]
fn a_destroyed_storeless_session_never_returns() {
    let mut b = bench(|p| p.confirm = true);
    let (never, back) = (b.create(), b.create());
    let done = b.apply(
        never.target(),
        Commands {
            destroy: Some(Destroy::This),
            ..Commands::default()
        },
    );
    assert!(done.expire && b.shard.counts().destroyed == 0);
    b.valid(&back);
    b.shard.destroy(&back.sid, Reason::Admin, b.now);
    for minute in 0..30 {
        b.now = NOW + minute * MINUTE;
        b.shard.sweep(b.now, 100);
        assert_eq!(b.attach(&never), Attached::Dead(Dead::Destroyed));
        assert_eq!(b.attach(&back), Attached::Dead(Dead::Destroyed));
    }
    // One that expired before its first token did.
    let short = b.create();
    b.valid(&short);
    b.apply(
        short.target(),
        Commands {
            timeout: Some(1000),
            ..Commands::default()
        },
    );
    b.now += MINUTE;
    assert_eq!(b.attach(&short), Attached::Dead(Dead::Expired));
    assert!(matches!(b.attach(&short), Attached::Dead(_)));
}

#[test]
fn eviction_takes_the_never_presented_then_the_anonymous() {
    let mut b = bench(|p| p.max_sessions = 3);
    let member = b.create();
    let member = b.login(&member, r#"{"userId":"u"}"#).token.unwrap();
    let guest = b.create();
    b.valid(&guest);
    let (new1, new2) = (b.create(), b.create());
    assert_eq!(
        b.attach(&new1),
        Attached::Dead(Dead::Unknown),
        "eviction leaves no tombstone"
    );
    b.valid(&new2);
    let new3 = b.create();
    assert!(
        matches!(b.attach(&guest), Attached::Dead(_)),
        "the guest was used longest ago"
    );
    for token in [&member, &new2, &new3] {
        b.valid(token);
    }
    assert_eq!((b.shard.counts().evicted, b.totals.get().0), (2, 3));
}

#[test]
fn the_least_recently_used_goes_even_within_one_instant() {
    let mut b = bench(|p| p.max_sessions = 3);
    let [first, second, third] = [b.create(), b.create(), b.create()];
    b.valid(&first);
    let fourth = b.create();
    assert!(matches!(b.attach(&second), Attached::Dead(_)));
    // All have come back: now recency alone decides, at once and after any time.
    for wait in [0, 1, 250, 10_000] {
        let mut b = bench(|p| p.max_sessions = 3);
        let tokens = [b.create(), b.create(), b.create()];
        for token in &tokens {
            b.valid(token);
        }
        b.now += wait;
        b.valid(&tokens[0]);
        let new = b.create();
        assert!(matches!(b.attach(&tokens[1]), Attached::Dead(_)), "{wait}");
        for token in [&tokens[0], &tokens[2], &new] {
            b.valid(token);
        }
        assert_eq!(b.shard.counts().searches_cut, 0);
    }
    for token in [&first, &third, &fourth] {
        b.valid(token);
    }
}

#[test]
fn what_will_be_read_is_named() {
    let mut b = bench(|_| ());
    let nobody = Sid([9; 16]);
    assert!(b.shard.first_read(&nobody).is_none() && b.shard.second_read(&nobody).is_none());
    let tokens: Vec<_> = (0..500).map(|_| b.create()).collect();
    let named = |token: &&Fresh| {
        assert!(b.shard.first_read(&token.sid).is_some());
        let named = b.shard.second_read(&token.sid);
        named.expect("at least one like it") == &token.sid
    };
    let right = tokens.iter().filter(named).count();
    assert!(right > 450, "most are those that are meant: {right}");
    let set = Commands {
        set: fields(r#"{"cart":"c-1"}"#),
        ..Commands::default()
    };
    b.apply(tokens[0].target(), set);
    let slot = b.valid(&tokens[0]).slot;
    assert!(b.shard.json_read(slot).ends_with(b"\"c-1\""));
    b.shard.destroy(&tokens[0].sid, Reason::Admin, b.now);
    assert_eq!(b.shard.json_read(slot), b"", "gone");
}

#[test]
fn sweeps_keep_searches_short() {
    for turns in [0, 1] {
        let mut b = bench(|p| p.max_sessions = 200);
        let tokens: Vec<_> = (0..200).map(|_| b.create()).collect();
        for token in &tokens {
            b.valid(token);
        }
        for token in tokens.iter().rev() {
            b.now += 250;
            b.valid(token);
        }
        for _ in 0..turns {
            b.shard.sweep(b.now, 1000);
        }
        b.create();
        assert_eq!(b.shard.counts().searches_cut, 1 - turns);
        let oldest = matches!(b.attach(&tokens[199]), Attached::Dead(_));
        assert_eq!(oldest, turns == 1);
    }
}

#[test]
fn bytes_are_bounded_and_counted_to_zero() {
    let mut b = bench(|p| (p.max_bytes, p.max_size) = (20_000, 8192));
    let tokens: Vec<_> = (0..10).map(|_| b.create()).collect();
    for token in &tokens {
        b.set(token, &format!("{{\"a\":\"{}\"}}", "x".repeat(4000)));
        assert!(b.totals.get().1 <= 20_000);
    }
    assert_eq!(b.shard.len(), 4);
    let last = tokens.last().unwrap();
    b.login(last, r#"{"userId":"u"}"#);
    b.now += 25 * HOUR;
    while !b.shard.sweep(b.now, 3).wrapped {}
    assert_eq!((b.shard.len(), b.totals.get()), (0, (0, 0)));
}

#[test]
fn a_shard_alone_with_its_new_session_keeps_it() {
    let mut b = bench(|p| p.max_sessions = 1);
    b.totals.add_sessions(5);
    let token = b.create();
    b.valid(&token);
    b.create();
    assert_eq!(b.shard.len(), 1);
}

#[test]
fn sweep_is_fair_and_bounded() {
    let mut b = bench(|p| p.timeout = MINUTE);
    let tokens: Vec<_> = (0..10).map(|_| b.create()).collect();
    b.now += MINUTE / 2;
    b.valid(&tokens[3]);
    b.now += MINUTE / 2 + 250;
    let turns: Vec<_> = (0..4).map(|_| b.shard.sweep(b.now, 3)).collect();
    assert_eq!(
        turns.iter().map(|t| t.examined).collect::<Vec<_>>(),
        [3, 3, 3, 1]
    );
    assert_eq!(turns.iter().map(|t| t.expired).sum::<usize>(), 9);
    assert!(turns[3].wrapped && b.shard.len() == 1);
}

#[test]
fn events_are_bounded() {
    let mut b = bench(|p| p.max_events = 2);
    for _ in 0..5 {
        b.create();
    }
    assert_eq!((b.events().len(), b.shard.counts().events_dropped), (2, 3));
}

#[test]
fn born_at_home() {
    let policy = Arc::new(Policy::default());
    for n in 0..5 {
        let home = Home {
            shard: n,
            shards: 5,
        };
        let mut shard = Shard::new(
            policy.clone(),
            home,
            NodeTag::new(1),
            Box::new(LocalTotals::default()),
        );
        for seed in 0..50 {
            let created = shard
                .create(NOW, &mut Counting(seed * 1000 + n as u64))
                .unwrap();
            assert!(home.owns(&created.token.sid));
        }
    }
}

fn change(b: &mut Bench, change: impl FnOnce(&mut Policy)) {
    let mut policy = b.shard.policy().clone();
    change(&mut policy);
    b.shard.set_policy(policy, b.now);
}

#[test]
fn another_policy_holds_for_the_sessions_that_there_are() {
    let mut b = bench(|p| p.timeout = HOUR);
    let token = b.create();
    b.now += 10 * MINUTE;
    change(&mut b, |p| p.timeout = 20 * MINUTE);
    b.valid(&token);
    b.now += 19 * MINUTE;
    b.valid(&token);
    change(&mut b, |p| p.timeout = 5 * MINUTE);
    b.now += 6 * MINUTE;
    assert!(matches!(b.attach(&token), Attached::Dead(Dead::Expired)));
    let other = b.create();
    change(&mut b, |p| {
        p.timeout = 2 * HOUR;
        p.seeds = [9; 4];
    });
    b.now += HOUR;
    b.valid(&other);
    assert_eq!(b.shard.policy().seeds, [1, 2, 3, 4], "keys of hashes stay");
}

#[test]
fn a_field_that_is_indexed_later_finds_the_sessions_that_had_it() {
    let mut b = bench(|_| {});
    let tokens: Vec<_> = (0..3).map(|_| b.create()).collect();
    for (token, team) in tokens.iter().zip(["x", "y", "x"]) {
        b.set(token, &format!(r#"{{"team":"{team}","userId":"u"}}"#));
    }
    b.shard.destroy(&tokens[2].sid, Reason::Admin, b.now);
    let found = |b: &mut Bench, field: &str, value: &str| {
        let filter = Filter {
            name: Name::new(field),
            value: json_string(value).into(),
        };
        b.shard.list(0, 10, Some(&filter), b.now).sessions.len()
    };
    change(&mut b, |p| {
        p.index = vec![Name::new("team"), Name::new("userId")]
    });
    assert_eq!(
        (found(&mut b, "team", "x"), found(&mut b, "team", "y")),
        (1, 1)
    );
    assert_eq!(found(&mut b, "userId", "u"), 2);
    b.set(&tokens[0], r#"{"team":"y"}"#);
    assert_eq!(
        (found(&mut b, "team", "x"), found(&mut b, "team", "y")),
        (0, 2)
    );
    change(&mut b, |p| p.index = vec![Name::new("userId")]);
    assert_eq!(found(&mut b, "userId", "u"), 2);
}

#[test]
fn another_order_of_eviction_takes_over_all_sessions() {
    use crate::session::Eviction::{Lfu, Lru, Ttl};
    for (first, second) in [(Lru, Lfu), (Lfu, Ttl), (Ttl, Lru), (Lru, Ttl), (Lfu, Lru)] {
        let mut b = bench(|p| p.eviction = first);
        let mut tokens: Vec<_> = (0..10)
            .map(|_| {
                b.now += MINUTE;
                b.create()
            })
            .collect();
        for token in &tokens {
            b.valid(token);
        }
        let gone = tokens.remove(3);
        b.shard.destroy(&gone.sid, Reason::Admin, b.now);
        change(&mut b, |p| {
            p.eviction = second;
            p.max_sessions = 5;
        });
        b.now += MINUTE;
        let newest = b.create();
        assert_eq!(b.shard.len(), 5, "{first:?} to {second:?}");
        b.valid(&newest);
        for _ in 0..20 {
            b.now += MINUTE;
            b.create();
        }
        let counts = b.shard.counts();
        assert_eq!(b.shard.len(), 5);
        assert_eq!(counts.created - counts.destroyed - counts.evicted, 5);
    }
}
