//! Attributes from headers and tokens, and whose session it is.

use super::*;
use crate::shard::{Attribute, Attributes};

fn attribute(name: &str, json: Option<&str>, expires: u64) -> Attribute {
    Attribute {
        name: Name::new(name),
        value: json.map(|j| j.as_bytes().into()),
        expires: u32::try_from(expires / 1000).unwrap(),
        once: false,
    }
}

/// What a header says.
fn header(name: &str, value: &str) -> Attributes {
    let json = json_string(value);
    let json = std::str::from_utf8(&json).unwrap();
    Attributes::new(vec![attribute(name, Some(json), 0)], None)
}

/// What a token of `user` says that expires at `exp`, Unix ms.
fn token_of(user: &str, exp: u64) -> Attributes {
    let json = json_string(user);
    let text = std::str::from_utf8(&json).unwrap();
    let fields = vec![attribute("userId", Some(text), exp)];
    Attributes::new(fields, Some(json.clone().into()))
}

impl Bench {
    fn with(&mut self, token: &Fresh, attributes: &Attributes) -> (Attached, Bound) {
        let presented = presented(token, Signature::Verified);
        self.shard
            .attach_with(&presented, attributes, &[], self.now, &mut self.entropy)
    }

    #[track_caller]
    fn bound(&mut self, token: &Fresh, attributes: &Attributes) -> (Valid, Bound) {
        match self.with(token, attributes) {
            (Attached::Valid(valid), bound) => (valid, bound),
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn authenticated(&mut self, token: &Fresh, attributes: &Attributes) -> Fresh {
        let (valid, bound) = self.bound(token, attributes);
        assert!(valid.authenticated);
        bound.token.expect("a new secret")
    }
}

#[test]
fn a_value_that_changes_is_updated_and_one_that_repeats_costs_no_version() {
    let mut b = bench(|p| p.fields = Some(vec![Name::new("cart")]));
    let token = b.create();
    let (first, _) = b.bound(&token, &header("tenant", "a"));
    let (again, bound) = b.bound(&token, &header("tenant", "a"));
    assert_eq!(
        (first.version, again.version, bound),
        (1, 1, Bound::default())
    );
    assert_eq!(again.revision, first.revision);
    let (changed, _) = b.bound(&token, &header("tenant", "b"));
    assert_eq!(changed.version, 2);
    assert_eq!(
        b.json(&token),
        r#"{"tenant":"b"}"#,
        "data.fields does not bind it"
    );
}

#[test]
fn an_attribute_wins_over_data_of_its_name() {
    let mut b = bench(|_| ());
    let token = b.create();
    b.set(&token, r#"{"tenant":"forged","x":1}"#);
    b.bound(&token, &header("tenant", "a"));
    b.set(&token, r#"{"tenant":"forged again"}"#);
    assert_eq!(b.json(&token), r#"{"tenant":"a","x":1}"#);
}

#[test]
fn the_first_value_of_one_that_is_set_once_binds() {
    let mut b = bench(|_| ());
    let token = b.create();
    let once = |value: &str| {
        let mut attributes = header("tenant", value);
        attributes.fields[0].once = true;
        attributes
    };
    b.bound(&token, &once("a"));
    b.bound(&token, &once("b"));
    assert_eq!(b.json(&token), r#"{"tenant":"a"}"#);
}

#[test]
fn what_is_too_large_is_not_written_and_authenticates_nobody() {
    let mut b = bench(|p| p.max_size = 64);
    let token = b.create();
    b.set(&token, r#"{"a":1}"#);
    let long = "x".repeat(64);
    let (valid, bound) = b.bound(&token, &header("tenant", &long));
    assert!(bound.too_large && bound.token.is_none() && !valid.authenticated);
    let (valid, bound) = b.bound(&token, &token_of(&long, NOW + HOUR));
    assert!(bound.too_large && bound.token.is_none() && !valid.authenticated);
    assert_eq!(b.json(&token), r#"{"a":1}"#);
    let attributes = token_of(&long, NOW + HOUR);
    let before = b.shard.len();
    let (created, bound) = b.shard.create_with(&attributes, b.now, &mut b.entropy);
    assert!(created.is_none() && bound.too_large);
    assert_eq!(b.shard.len(), before);
}

#[test]
fn the_first_token_of_a_subject_is_an_authentication_and_later_ones_are_not() {
    let mut b = bench(|_| ());
    let planted = b.create();
    b.events();
    let fresh = b.authenticated(&planted, &token_of("u1", NOW + HOUR));
    assert_eq!(
        b.events(),
        [EventKind::SessionRotated, EventKind::SessionAuthenticated]
    );
    assert_eq!(b.attach(&planted), Attached::Refused(Refused::Retired));
    for exp in [NOW + HOUR, NOW + 2 * HOUR] {
        let (valid, bound) = b.bound(&fresh, &token_of("u1", exp));
        assert_eq!((bound.token, bound.other), (None, false));
        assert!(valid.authenticated);
        assert_eq!(valid.version, 1, "an expiry that moves on is no change");
    }
    let without = b.valid(&fresh);
    assert!(without.authenticated, "it stays so without a token");
}

#[test]
fn another_subject_gets_nothing_of_the_session() {
    let mut b = bench(|_| ());
    let first = b.create();
    let fresh = b.authenticated(&first, &token_of("u1", NOW + HOUR));
    let (valid, bound) = b.bound(&fresh, &token_of("u2", NOW + HOUR));
    assert!(bound.other && bound.token.is_none());
    assert_eq!(valid.version, 1);
    assert_eq!(b.json(&fresh), r#"{"userId":"u1"}"#);
    // Also where the application had authenticated it.
    let mut b = bench(|_| ());
    let token = b.create();
    let fresh = b.login(&token, r#"{"userId":"u1"}"#).token.unwrap();
    assert!(b.bound(&fresh, &token_of("u2", NOW + HOUR)).1.other);
    let (_, bound) = b.bound(&fresh, &token_of("u1", NOW + HOUR));
    assert_eq!((bound.other, bound.token), (false, None));
}

#[test]
fn the_retired_secret_is_good_for_a_moment_to_the_same_subject_alone() {
    let mut b = bench(|p| p.rotate_grace = 30_000);
    let old = b.create();
    b.set(&old, r#"{"a":1}"#);
    let fresh = b.authenticated(&old, &token_of("u1", NOW + HOUR));
    b.events();
    let (valid, bound) = b.bound(&old, &token_of("u1", NOW + HOUR));
    assert_eq!((valid.sid, bound.token), (fresh.sid, None), "and no cookie");
    assert_eq!(b.events(), [], "nobody is suspected");
    // What its response asks for can't take the session over.
    let stale = Target::Session {
        sid: valid.sid,
        digest: Some(valid.digest),
    };
    let commands = Commands {
        authenticate: fields(r#"{"userId":"u2"}"#),
        ..Commands::default()
    };
    let applied = b.apply(stale, commands);
    assert!(applied.lost && applied.token.is_none());
    let refused = Attached::Refused(Refused::Retired);
    assert_eq!(b.with(&old, &token_of("u2", NOW + HOUR)).0, refused);
    assert_eq!(b.with(&old, &Attributes::default()).0, refused);
    b.now += 31_000;
    assert_eq!(b.with(&old, &token_of("u1", NOW + HOUR)).0, refused);
    assert_eq!(b.json(&fresh), r#"{"a":1,"userId":"u1"}"#);
}

#[test]
fn what_came_from_a_token_is_withheld_after_its_expiry_and_returns_with_another() {
    let mut b = bench(|_| ());
    let token = b.create();
    b.set(&token, r#"{"userId":"data","a":1}"#);
    let fresh = b.authenticated(&token, &token_of("u1", NOW + MINUTE));
    let version = b.valid(&fresh).version;
    b.now += MINUTE;
    assert_eq!(
        b.json(&fresh),
        r#"{"a":1}"#,
        "and the data of its name stays hidden"
    );
    let found: Vec<_> = b
        .shard
        .find_by(&Name::new("userId"), &json_string("u1"))
        .collect();
    assert_eq!(found, [fresh.sid], "log out everywhere still finds it");
    let (valid, bound) = b.bound(&fresh, &token_of("u1", b.now + MINUTE));
    assert_eq!(bound, Bound::default());
    assert!(valid.version > version, "readers see a difference");
    assert_eq!(b.json(&fresh), r#"{"a":1,"userId":"u1"}"#);
}

#[test]
fn of_two_tokens_that_say_the_same_the_longer_one_holds() {
    let mut b = bench(|_| ());
    let token = b.create();
    let fresh = b.authenticated(&token, &token_of("u1", NOW + 2 * MINUTE));
    let revision = b.valid(&fresh).revision;
    let (valid, _) = b.bound(&fresh, &token_of("u1", NOW + MINUTE));
    assert_eq!(valid.revision, revision);
    b.now += MINUTE;
    assert_eq!(b.json(&fresh), r#"{"userId":"u1"}"#);
}

#[test]
fn a_claim_that_a_later_token_lacks_is_removed() {
    let mut b = bench(|_| ());
    let token = b.create();
    let roles = |json: Option<&str>| {
        let mut attributes = token_of("u1", NOW + HOUR);
        attributes.fields.push(attribute("roles", json, NOW + HOUR));
        Attributes::new(attributes.fields, attributes.subject)
    };
    let fresh = b.authenticated(&token, &roles(Some(r#"["admin"]"#)));
    assert_eq!(b.json(&fresh), r#"{"roles":["admin"],"userId":"u1"}"#);
    b.bound(&fresh, &roles(None));
    assert_eq!(b.json(&fresh), r#"{"userId":"u1"}"#);
}

#[test]
fn a_session_may_be_born_authenticated_or_with_attributes() {
    let mut b = bench(|_| ());
    let attributes = token_of("u1", NOW + HOUR);
    let (created, bound) = b.shard.create_with(&attributes, b.now, &mut b.entropy);
    let created = created.unwrap();
    let gained = Bound {
        gained: true,
        ..Bound::default()
    };
    assert_eq!(bound, gained);
    assert!(b.valid(&created.token).authenticated);
    assert_eq!(b.json(&created.token), r#"{"userId":"u1"}"#);
    let built_in = b.shard.built_in(created.slot.unwrap()).unwrap();
    assert_eq!((built_in.created, built_in.authenticated), (NOW, true));

    let attributes = header("tenant", "a");
    let (created, _) = b.shard.create_with(&attributes, b.now, &mut b.entropy);
    let token = created.unwrap().token;
    assert!(!b.valid(&token).authenticated);
    assert_eq!(b.json(&token), r#"{"tenant":"a"}"#);
}

#[test]
fn a_storeless_session_shows_its_attributes_and_makes_no_record() {
    let mut b = bench(|p| {
        p.confirm = true;
        p.signed = true;
        p.defaults = vec![(Name::new("z"), "1".into())];
    });
    let attributes = header("tenant", "a");
    let (created, _) = b.shard.create_with(&attributes, b.now, &mut b.entropy);
    let created = created.unwrap();
    assert_eq!((created.slot, b.shard.len()), (None, 0));
    let mut out = Vec::new();
    let policy = b.shard.policy();
    assert!(policy.write_first(created.token.issued, &attributes, &mut out));
    assert_eq!(String::from_utf8(out).unwrap(), r#"{"tenant":"a","z":1}"#);
}

#[test]
fn expiring_attributes_survive_a_record() {
    let mut b = bench(|_| ());
    let token = b.create();
    let fresh = b.authenticated(&token, &token_of("u1", NOW + MINUTE));
    let record = b.view(&fresh).record;
    let mut bytes = Vec::new();
    wire::encode(&record, &mut bytes);
    let mut other = bench(|_| ());
    other.shard.merge(&wire::decode(&bytes).unwrap(), NOW);
    assert_eq!(other.json(&fresh), r#"{"userId":"u1"}"#);
    other.now += MINUTE;
    assert_eq!(other.json(&fresh), "");
}
