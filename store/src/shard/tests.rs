//! What a shard does, by behaviour. Scale and interleaving are the simulator's.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::Entropy;
use crate::event::EventKind;
use crate::fields::{Fields, Name, json_string};
use crate::id::{Digest, Secret, Sid};
use crate::record::{Counter, Record, wire};
use crate::session::{Applied, Apply, Commands, Dead, Destroy, Fresh, Reason, Refused, Target};
use crate::token::{Kind, Presented, Signature};

const NOW: u64 = 1_764_000_000_000;
const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;

struct Counting(u64);

impl Entropy for Counting {
    fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            *byte = (self.0 >> 56) as u8;
        }
    }
}

struct Bench {
    shard: Shard,
    entropy: Counting,
    totals: LocalTotals,
    now: u64,
}

fn bench(change: impl FnOnce(&mut Policy)) -> Bench {
    let mut policy = Policy {
        seeds: [1, 2, 3, 4],
        ..Policy::default()
    };
    change(&mut policy);
    let totals = LocalTotals::default();
    let home = Home {
        shard: 0,
        shards: 1,
    };
    let shard = Shard::new(
        Arc::new(policy),
        home,
        NodeTag::new(5),
        Box::new(totals.clone()),
    );
    Bench {
        shard,
        entropy: Counting(1),
        totals,
        now: NOW,
    }
}

fn fields(json: &str) -> Option<Fields> {
    Some(Fields::parse(json.as_bytes()).unwrap())
}

fn presented(token: &Fresh, signature: Signature) -> Presented {
    let kind = Kind::CookieOrHeader;
    Presented {
        sid: token.sid,
        digest: token.secret.digest(),
        kind,
        through: kind,
        unconfirmed: token.unconfirmed,
        issued: token.issued,
        tag: token.tag,
        signature,
    }
}

impl Bench {
    fn create(&mut self) -> Fresh {
        self.shard
            .create(self.now, &mut self.entropy)
            .unwrap()
            .token
    }

    fn attach(&mut self, token: &Fresh) -> Attached {
        self.shard
            .attach(&presented(token, Signature::Verified), self.now)
    }

    fn valid(&mut self, token: &Fresh) -> Valid {
        match self.attach(token) {
            Attached::Valid(valid) => valid,
            other => panic!("{other:?}"),
        }
    }

    fn apply(&mut self, target: Target, commands: Commands) -> Applied {
        self.shard
            .apply(&Apply { target, commands }, self.now, &mut self.entropy)
    }

    fn set(&mut self, token: &Fresh, json: &str) -> Applied {
        self.apply(
            token.target(),
            Commands {
                set: fields(json),
                ..Commands::default()
            },
        )
    }

    fn login(&mut self, token: &Fresh, json: &str) -> Applied {
        self.apply(
            token.target(),
            Commands {
                authenticate: fields(json),
                ..Commands::default()
            },
        )
    }

    fn json(&mut self, token: &Fresh) -> String {
        let valid = self.valid(token);
        let mut out = Vec::new();
        self.shard.write_json(valid.slot, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn events(&mut self) -> Vec<EventKind> {
        let mut out = Vec::new();
        self.shard.drain_events(&mut out);
        out.iter().map(|e| e.kind).collect()
    }

    fn view(&self, token: &Fresh) -> crate::session::View {
        self.shard.get(&token.sid, self.now).unwrap()
    }
}

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
    assert!(!b.shard.write_json(slot, &mut out) && out.is_empty());
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
                rotate: true,
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
fn rotation_retires_the_old_secret_at_once() {
    let mut b = bench(|_| {});
    let first = b.create();
    let mut tokens = vec![first];
    for _ in 0..8 {
        let last = *tokens.last().unwrap();
        let done = b.apply(
            last.target(),
            Commands {
                rotate: true,
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
            rotate: true,
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
    assert!(b.shard.policy().write_defaults(token.issued, &mut defaults));
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
fn found_by_every_indexed_field() {
    let mut b = bench(|p| p.index = vec![Name::new("userId"), Name::new("tenant")]);
    let mut sids = Vec::new();
    for n in 0..20 {
        let token = b.create();
        b.set(
            &token,
            &format!("{{\"userId\":\"u{}\",\"tenant\":{}}}", n % 3, n % 2),
        );
        sids.push(token);
    }
    let find = |b: &Bench, name, value: &[u8]| {
        let mut found: Vec<Sid> = b.shard.find_by(&Name::new(name), value).collect();
        found.sort();
        found
    };
    let wanted = |keep: &dyn Fn(usize) -> bool| {
        let mut wanted: Vec<Sid> = (0..20).filter(|n| keep(*n)).map(|n| sids[n].sid).collect();
        wanted.sort();
        wanted
    };
    assert_eq!(
        find(&b, "userId", &json_string("u1")),
        wanted(&|n| n % 3 == 1)
    );
    assert_eq!(find(&b, "tenant", b"1"), wanted(&|n| n % 2 == 1));
    b.set(&sids[1], r#"{"userId":"u9"}"#);
    b.set(&sids[4], r#"{"userId":null}"#);
    b.shard.destroy(&sids[7].sid, Reason::Admin, b.now);
    assert_eq!(
        find(&b, "userId", &json_string("u1")),
        wanted(&|n| n % 3 == 1 && ![1, 4, 7].contains(&n))
    );
    assert_eq!(find(&b, "userId", &json_string("u9")), [sids[1].sid]);
    assert_eq!(b.shard.find_by(&Name::new("cart"), b"1").count(), 0);
    let filter = Filter {
        name: Name::new("userId"),
        value: json_string("u1").into(),
    };
    let answer = b.shard.handle(
        Ask::FindAndDestroy {
            filter: Box::new(filter),
            reason: Reason::Admin,
        },
        b.now,
        &mut b.entropy,
    );
    assert!(matches!(answer, Answer::Destroyed(4)), "{answer:?}");
}

#[test]
fn pages_are_stable_and_complete() {
    let mut b = bench(|_| {});
    let tokens: Vec<_> = (0..10).map(|_| b.create()).collect();
    for token in &tokens[..6] {
        b.set(token, r#"{"userId":"u","plan":"x"}"#);
    }
    let all = |b: &Bench, filter: Option<&Filter>| {
        let (mut cursor, mut seen) = (Some(0), Vec::new());
        while let Some(at) = cursor {
            let page = b.shard.list(at, 4, filter, b.now);
            assert!(page.sessions.len() <= 4);
            seen.extend(page.sessions.iter().map(|s| s.record.sid));
            cursor = page.next;
        }
        seen
    };
    let sids: Vec<_> = tokens.iter().map(|t| t.sid).collect();
    assert_eq!(all(&b, None), sids);
    for name in ["userId", "plan"] {
        let value = if name == "userId" { "u" } else { "x" };
        let filter = Filter {
            name: Name::new(name),
            value: json_string(value).into(),
        };
        assert_eq!(all(&b, Some(&filter)), sids[..6], "{name}: indexed or not");
    }
    b.now += HOUR;
    assert!(all(&b, None).is_empty(), "expired ones are not shown");
}

#[test]
fn a_storeless_session_confirmed_twice_merges_into_one() {
    let mut one = bench(|p| {
        (p.confirm, p.defaults) = (true, vec![(Name::new("t"), "\"${timestamp}\"".into())])
    });
    let mut two = bench(|p| {
        (p.confirm, p.defaults) = (true, vec![(Name::new("t"), "\"${timestamp}\"".into())])
    });
    let token = one.create();
    one.now += 1000;
    two.now += 5000;
    one.valid(&token);
    two.valid(&token);
    one.set(&token, r#"{"a":1}"#);
    let (first, second) = (one.view(&token).record, two.view(&token).record);
    assert_eq!(
        (first.created, first.birth, &first.secrets),
        (second.created, second.birth, &second.secrets)
    );
    two.shard.merge(&first, two.now);
    assert_eq!(two.json(&token), one.json(&token));
}

#[test]
fn destroy_arrives_before_or_after_what_it_destroys() {
    let mut from = bench(|_| {});
    let token = from.create();
    let record = from.view(&token).record;
    let dead = Record {
        destroyed: Some(NOW + HOUR),
        ..Record::change(token.sid, record.created, record.birth)
    };
    let mut before = bench(|_| {});
    assert!(!before.shard.merge(&dead, NOW).destroyed);
    assert!(!before.shard.merge(&record, NOW).created);
    let mut after = bench(|_| {});
    let effect = after.shard.merge(&record, NOW);
    assert_eq!(
        (effect.created, effect.events),
        (true, 0),
        "told by the owner, who made it"
    );
    assert!(after.shard.merge(&dead, NOW).destroyed);
    for b in [&mut before, &mut after] {
        assert_eq!(b.attach(&token), Attached::Dead(Dead::Destroyed));
        b.now += 26 * HOUR;
        b.shard.sweep(b.now, 1);
        assert_eq!(b.shard.tombstones(), 0);
    }
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

#[test]
fn answers_are_those_of_the_methods() {
    let mut b = bench(|_| {});
    let token = b.create();
    b.set(&token, r#"{"a":1}"#);
    let answer = b.shard.handle(
        Ask::Attach(presented(&token, Signature::Absent)),
        b.now,
        &mut b.entropy,
    );
    let Answer::Attach(answer) = answer else {
        panic!("{answer:?}")
    };
    assert!(matches!(answer.attached, Attached::Valid(_)));
    assert_eq!(answer.json, br#"{"a":1}"#);
    let answer = b.shard.handle(Ask::Get(token.sid), b.now, &mut b.entropy);
    assert!(matches!(answer, Answer::Get(Some(view)) if view.data == br#"{"a":1}"#));
}

#[test]
fn nothing_prints_a_secret() {
    let mut b = bench(|_| {});
    let token = Fresh {
        secret: Secret([0xab; 16]),
        ..b.create()
    };
    let text = format!(
        "{token:?} {:?} {:?}",
        token.target(),
        presented(&token, Signature::Absent)
    );
    let digest = token.secret.digest().0;
    assert!(
        !text.contains("171") && !text.contains(&format!("{}, {}", digest[0], digest[1])),
        "{text}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Merging into a shard and reading back is the join of records.
    #[test]
    fn a_shard_merges_as_records_do(
        base in crate::merge::tests::any_record(),
        deltas in proptest::collection::vec(crate::merge::tests::any_record(), 1..4),
    ) {
        let mut b = bench(|p| (p.timeout, p.ttl) = (0, 0));
        // A whole record has a secret, and this shard's own counter.
        prop_assume!(base.destroyed.is_none() && !base.secrets.is_empty());
        let mut model = base.clone();
        prop_assert!(b.shard.merge(&base, NOW).created);
        for delta in &deltas {
            model.join(delta);
            b.shard.merge(delta, NOW);
        }
        match b.shard.get(&base.sid, NOW) {
            None => prop_assert!(model.destroyed.is_some()),
            Some(view) => {
                model.counters.retain(|c| *c != Counter { tag: c.tag, ..Counter::default() });
                let mut record = view.record;
                record.counters.retain(|c| *c != Counter { tag: c.tag, ..Counter::default() });
                prop_assert_eq!(&record, &model);
                let mut bytes = Vec::new();
                wire::encode(&record, &mut bytes);
                prop_assert_eq!(wire::decode(&bytes), Ok(record));
            }
        }
    }
}
