//! The cookie: which one counts, when it is written, what its lines say.

use super::*;

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
fn the_life_of_a_pin_is_the_rule_s() {
    for (max_life, good) in [(0, true), (3600, true), (60, false)] {
        let mut affinity = affinity(vec![Cookie]);
        (affinity.duration, affinity.max_life) =
            (Duration::from_secs(36_000), Duration::from_secs(max_life));
        let gateway = Gateway::new(Some(affinity));
        let policy = gateway.policy.cookie().unwrap();
        let mut line = Vec::new();
        policy.write_pin(1, NOW, NOW, [1; 12], false, &mut line);
        let text = String::from_utf8(line).unwrap();
        let value = text.split(['=', ';']).nth(1).unwrap().trim();
        let read = policy.read(b"pin", value.as_bytes(), NOW + 5, CookiePin::Absent);
        match read {
            CookiePin::Found { opened, .. } => {
                assert!(good && opened.upstream == 1, "{max_life} s: {opened:?}");
            }
            other => assert!(
                !good && matches!(other, CookiePin::Missed(Miss::Expired)),
                "{max_life} s: {other:?}"
            ),
        }
    }
}
