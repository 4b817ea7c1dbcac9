//! What responses do to sessions.

use super::*;

#[test]
fn an_exchange_at_once_leaves_no_grace() {
    let mut b = bench(|_| {});
    let first = b.create();
    let mut tokens = vec![first];
    for _ in 0..8 {
        let last = *tokens.last().unwrap();
        let done = b.apply(
            last.target(),
            Commands {
                retire: true,
                ..Commands::default()
            },
        );
        tokens.push(done.token.unwrap());
    }
    let last = tokens.pop().unwrap();
    assert_eq!(last.sid, first.sid);
    b.valid(&last);
    for (age, token) in tokens.iter().rev().enumerate() {
        let reason = if age < 5 {
            Refused::Retired
        } else {
            Refused::UnknownSecret
        };
        assert_eq!(b.attach(token), Attached::Refused(reason), "{age}");
    }
    let stale = b.apply(
        first.target(),
        Commands {
            retire: true,
            ..Commands::default()
        },
    );
    assert!(
        stale.lost && stale.token.is_none(),
        "the loser sets no cookie"
    );
    assert_eq!(
        b.events()
            .iter()
            .filter(|e| **e == EventKind::SessionHijackSuspected)
            .count(),
        5
    );
}

#[test]
fn authentication_marks_binds_and_rotates() {
    let mut b = bench(|_| {});
    let token = b.create();
    b.set(&token, r#"{"cartId":"c1"}"#);
    let done = b.login(&token, r#"{"userId":"u1"}"#);
    let fresh = done.token.unwrap();
    assert_eq!(b.attach(&token), Attached::Refused(Refused::Retired));
    assert!(b.valid(&fresh).authenticated);
    assert_eq!(b.json(&fresh), r#"{"cartId":"c1","userId":"u1"}"#);
    let view = b.view(&fresh);
    assert_eq!(
        (view.version, view.subject.as_deref()),
        (2, Some(&b"\"u1\""[..]))
    );
    let events = b.events();
    assert!(
        events.contains(&EventKind::SessionAuthenticated)
            && events.contains(&EventKind::SessionRotated)
    );
}

#[test]
fn of_two_authentications_at_once_the_loser_changes_nothing() {
    let mut b = bench(|_| {});
    let token = b.create();
    let winner = b.login(&token, r#"{"userId":"victim"}"#).token.unwrap();
    let loser = b.login(&token, r#"{"userId":"thief","role":"x"}"#);
    assert!(loser.lost && loser.token.is_none());
    assert_eq!(b.json(&winner), r#"{"userId":"victim"}"#);
    let same = b.login(&token, r#"{"userId":"victim","role":"y"}"#);
    assert!(same.lost && same.token.is_none());
    assert_eq!(
        b.json(&winner),
        r#"{"role":"y","userId":"victim"}"#,
        "the same subject may merge"
    );
}

#[test]
fn authentication_without_a_session_creates_one() {
    for confirm in [false, true] {
        let mut b = bench(|p| p.confirm = confirm);
        let done = b.apply(
            Target::None,
            Commands {
                authenticate: fields(r#"{"userId":"u1"}"#),
                ..Commands::default()
            },
        );
        let token = done.token.unwrap();
        assert!(done.created && !token.unconfirmed);
        assert!(b.valid(&token).authenticated);
        let done = b.login(&token, r#"{"userId":"u1"}"#);
        assert_eq!(b.attach(&token), Attached::Refused(Refused::Retired));
        assert!(b.valid(&done.token.unwrap()).authenticated);
    }
}

#[test]
fn fields_are_filtered_and_sizes_bounded_whole() {
    let mut b = bench(|p| {
        p.fields = Some(vec![Name::new("a"), Name::new("b")]);
        p.max_size = 39;
        p.defaults = vec![(Name::new("created"), "\"${timestamp}\"".into())];
    });
    let token = b.create();
    assert_eq!(
        b.json(&token),
        r#"{"created":"2025-11-24T16:00:00Z"}"#,
        "defaults are exempt"
    );
    let done = b.set(&token, r#"{"a":1,"z":2,"created":3}"#);
    assert_eq!(
        (done.dropped, done.version, done.too_large),
        (2, 0, true),
        "the default leaves no room"
    );
    let mut b =
        bench(|p| (p.fields, p.max_size) = (Some(vec![Name::new("a"), Name::new("b")]), 40));
    let token = b.create();
    b.set(&token, r#"{"a":1}"#);
    let done = b.set(&token, r#"{"a":2,"b":"0123456789012345678901234567890"}"#);
    assert_eq!((done.too_large, done.version), (true, 1));
    assert_eq!(b.json(&token), r#"{"a":1}"#, "the session stays as it was");
    let done = b.login(&token, r#"{"userId":"u1","z":1}"#);
    assert_eq!(
        (done.dropped, done.token.is_some()),
        (1, true),
        "the subject is an attribute"
    );
}

#[test]
fn names_of_removed_fields_are_bounded_too() {
    let mut b = bench(|p| p.max_size = 100);
    let token = b.create();
    let refused = (0..200).find(|n| b.set(&token, &format!("{{\"removed{n}\":null}}")).too_large);
    assert!(refused.is_some_and(|n| n > 10), "{refused:?}");
}

#[test]
fn conditional_writes_conflict_once() {
    let mut b = bench(|_| {});
    let token = b.create();
    let set = |v, json| Commands {
        set: fields(json),
        if_version: Some(v),
        ..Commands::default()
    };
    assert!(!b.apply(token.target(), set(0, r#"{"a":1}"#)).conflict);
    let done = b.apply(token.target(), set(0, r#"{"a":2}"#));
    assert_eq!((done.conflict, done.version), (true, 1));
    assert!(b.valid(&token).conflict, "told on the next request");
    assert!(!b.valid(&token).conflict, "and not again");
    assert_eq!(b.json(&token), r#"{"a":1}"#);
}

#[test]
fn a_response_to_a_destroyed_session_changes_nothing() {
    let mut b = bench(|_| {});
    let token = b.create();
    b.shard.destroy(&token.sid, Reason::Admin, b.now);
    for commands in [
        Commands {
            set: fields(r#"{"a":1}"#),
            ..Commands::default()
        },
        Commands {
            authenticate: fields(r#"{"userId":"u1"}"#),
            ..Commands::default()
        },
        Commands {
            create: true,
            rotate: true,
            ..Commands::default()
        },
    ] {
        let done = b.apply(token.target(), commands);
        assert_eq!(
            done,
            Applied {
                gone: true,
                ..Applied::default()
            }
        );
    }
    assert_eq!(b.attach(&token), Attached::Dead(Dead::Destroyed));
    assert!(b.shard.is_empty());
}

#[test]
fn destroy_this_others_all() {
    let mut b = bench(|_| {});
    let login = |b: &mut Bench, user: &str| {
        let token = b.create();
        b.login(&token, &format!("{{\"userId\":\"{user}\"}}"))
            .token
            .unwrap()
    };
    let (one, two, three, other) = (
        login(&mut b, "u"),
        login(&mut b, "u"),
        login(&mut b, "u"),
        login(&mut b, "v"),
    );
    let destroy = |d| Commands {
        destroy: Some(d),
        ..Commands::default()
    };
    let done = b.apply(one.target(), destroy(Destroy::Others));
    assert_eq!(
        (done.destroyed, done.expire, done.session),
        (2, false, Some(one.sid))
    );
    let elsewhere = done.elsewhere.unwrap();
    assert_eq!(
        (&*elsewhere.subject, elsewhere.except),
        (&b"\"u\""[..], Some(one.sid))
    );
    assert_eq!(b.attach(&two), Attached::Dead(Dead::Destroyed));
    assert_eq!(b.attach(&three), Attached::Dead(Dead::Destroyed));
    b.valid(&one);
    let again = login(&mut b, "u");
    let done = b.apply(again.target(), destroy(Destroy::All));
    assert_eq!((done.destroyed, done.expire, done.session), (2, true, None));
    let done = b.apply(
        other.target(),
        Commands {
            create: true,
            ..destroy(Destroy::This)
        },
    );
    assert!(done.created && !done.expire, "one ends, another begins");
    assert_eq!(b.attach(&other), Attached::Dead(Dead::Destroyed));
    let refused = b.apply(Target::None, destroy(Destroy::This));
    assert!(
        refused.expire,
        "an explicit act expires the cookie of a refused request too"
    );
    assert_eq!(b.shard.counts().destroyed, 5);
}

#[test]
fn many_sessions_of_a_subject_end_in_turns() {
    let mut b = bench(|_| {});
    let many = DESTROY_BATCH * 2 + 10;
    let tokens: Vec<_> = (0..many)
        .map(|_| {
            let token = b.create();
            b.login(&token, r#"{"userId":"u"}"#).token.unwrap()
        })
        .collect();
    let done = b.apply(
        tokens[3].target(),
        Commands {
            destroy: Some(Destroy::Others),
            ..Commands::default()
        },
    );
    assert_eq!(done.destroyed as usize, DESTROY_BATCH);
    let elsewhere = done.elsewhere.unwrap();
    assert!(elsewhere.here, "there are more");
    let mut turns = Vec::new();
    loop {
        let turn = b.shard.destroy_subject(
            &elsewhere.subject,
            elsewhere.except.as_ref(),
            Reason::Subject,
            b.now,
        );
        turns.push(turn.count as usize);
        if !turn.more {
            break;
        }
    }
    assert_eq!(
        turns,
        [DESTROY_BATCH, 9],
        "and the one that was spared stays"
    );
    b.valid(&tokens[3]);
    let name = crate::fields::Name::new("userId");
    let turn = b.shard.destroy_by(&name, b"\"u\"", Reason::Admin, b.now);
    assert_eq!((turn.count, turn.more), (1, false));
    let none = crate::fields::Name::new("cart");
    let turn = b.shard.destroy_by(&none, b"\"u\"", Reason::Admin, b.now);
    assert_eq!((turn.count, turn.more), (0, false), "not indexed");
}

#[test]
fn every_end_is_named_once() {
    let mut b = bench(|p| {
        (p.max_sessions, p.timeout) = (3, 60_000);
    });
    let first = b.create();
    let (second, third) = (b.create(), b.create());
    assert!(!b.shard.has_ends());
    let fourth = b.create();
    let ends = b.shard.take_ends();
    assert_eq!(
        (ends.sids, ends.missed),
        (vec![first.sid], false),
        "evicted"
    );
    b.shard.destroy(&second.sid, Reason::Admin, b.now);
    b.shard.destroy(&second.sid, Reason::Admin, b.now);
    b.now += 59_000;
    assert!(b.shard.lives(&third.sid, true, false, b.now));
    assert!(b.shard.lives(&fourth.sid, false, false, b.now));
    b.now += 2_000;
    b.shard.sweep(b.now, 100);
    assert_eq!(b.shard.take_ends().sids, [second.sid, fourth.sid]);
    assert!(
        b.shard.lives(&third.sid, false, false, b.now),
        "it was used"
    );
    assert!(!b.shard.lives(&second.sid, true, true, b.now));
    b.now += 60_000;
    assert!(!b.shard.lives(&third.sid, true, false, b.now));
    assert_eq!(b.shard.take_ends().sids, [third.sid], "however it is found");
    let unknown = crate::id::Sid([9; 16]);
    assert!(b.shard.lives(&unknown, false, true, b.now), "no record yet");
    assert!(!b.shard.lives(&unknown, false, false, b.now));
}

#[test]
fn an_expiry_says_whether_it_was_idle_or_old() {
    let mut b = bench(|p| (p.timeout, p.ttl) = (60_000, 90_000));
    let (idle, old) = (b.create(), b.create());
    b.now += 50_000;
    b.valid(&old);
    b.now += 45_000;
    b.shard.sweep(b.now, 100);
    let mut events = Vec::new();
    b.shard.drain_events(&mut events);
    let ends: Vec<_> = events
        .iter()
        .filter(|e| e.kind == EventKind::SessionExpired)
        .map(|e| (e.sid, e.reason))
        .collect();
    let expected = [(Some(idle.sid), "timeout"), (Some(old.sid), "ttl")];
    assert_eq!(
        ends, expected,
        "what came first, however late it is noticed"
    );
}
