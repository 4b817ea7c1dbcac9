//! Looking at sessions, and records that come and go.

use proptest::prelude::*;

use super::*;

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
    let all = Destroyed {
        count: 4,
        more: false,
    };
    assert!(
        matches!(answer, Answer::Destroyed(done) if done == all),
        "{answer:?}"
    );
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
fn answers_are_those_of_the_methods() {
    let mut b = bench(|_| {});
    let token = b.create();
    b.set(&token, r#"{"a":1}"#);
    let answer = b.shard.handle(
        Ask::Attach(Box::new((presented(&token, Signature::Absent), Vec::new()))),
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
