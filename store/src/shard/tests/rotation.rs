//! Two-phase rotation, and what former secrets are good for.

use super::*;
use crate::rotation::RotationKeys;
use crate::session::OnMismatch;

const SECOND: u64 = 1000;

fn rotating(change: impl FnOnce(&mut Policy)) -> Bench {
    bench(|p| {
        p.rotation = RotationKeys::new([&b"k"[..]]);
        change(p);
    })
}

fn rotate() -> Commands {
    Commands {
        rotate: true,
        ..Commands::default()
    }
}

impl Bench {
    fn offered(&mut self, token: &Fresh) -> Option<Fresh> {
        self.apply(token.target(), Commands::default()).token
    }

    fn later(&mut self, ms: u64) {
        self.now += ms;
    }
}

#[test]
fn an_offer_changes_nothing_until_it_is_used_and_every_response_makes_the_same() {
    let mut b = rotating(|_| {});
    let old = b.create();
    let before = b.view(&old).record;
    assert_eq!(b.offered(&old), None, "not without a reason");
    let new = b.apply(old.target(), rotate()).token.unwrap();
    assert_eq!(new.sid, old.sid);
    assert_ne!(new.secret, old.secret);
    b.later(40 * SECOND);
    for _ in 0..3 {
        assert!(b.valid(&old).offer, "until one is used");
        assert_eq!(b.offered(&old).unwrap().secret, new.secret);
    }
    assert_eq!(b.view(&old).record.secrets, before.secrets);
    let used = b.valid(&new);
    assert!(!used.offer);
    assert_eq!(b.offered(&new), None);
    let secrets = b.view(&new).record.secrets;
    assert_eq!(secrets.len(), 2);
    assert_eq!(secrets[0].digest, new.secret.digest());
    assert!(b.events().contains(&EventKind::SessionRotated));
}

#[test]
fn the_old_secret_is_good_for_the_grace_and_refused_from_then_on() {
    let mut b = rotating(|_| {});
    let old = b.create();
    let new = b.apply(old.target(), rotate()).token.unwrap();
    b.valid(&new);
    b.later(29 * SECOND);
    let late = b.valid(&old);
    assert!(!late.offer && late.digest == old.secret.digest());
    let asked = b.apply(old.target(), rotate());
    assert!(
        asked.lost && asked.token.is_none(),
        "no token for a former secret"
    );
    b.later(2 * SECOND);
    assert_eq!(b.attach(&old), Attached::Refused(Refused::Retired));
    assert!(b.events().contains(&EventKind::SessionHijackSuspected));
    b.valid(&new);
}

#[test]
fn no_grace_where_it_is_zero() {
    let mut b = rotating(|p| p.rotate_grace = 0);
    let old = b.create();
    let new = b.apply(old.target(), rotate()).token.unwrap();
    b.valid(&old);
    b.valid(&new);
    assert_eq!(b.attach(&old), Attached::Refused(Refused::Retired));
}

#[test]
fn while_one_is_in_grace_no_other_is_offered() {
    let mut b = rotating(|_| {});
    let first = b.create();
    let second = b.apply(first.target(), rotate()).token.unwrap();
    b.valid(&second);
    assert_eq!(b.apply(second.target(), rotate()).token, None);
    b.later(29 * SECOND);
    assert_eq!(b.offered(&second), None);
    b.later(2 * SECOND);
    let third = b.offered(&second).unwrap();
    b.valid(&third);
    b.valid(&second);
    assert_eq!(b.attach(&first), Attached::Refused(Refused::Retired));
}

#[test]
fn the_interval_counts_from_the_first_use_of_the_current_secret() {
    let mut b = rotating(|p| {
        p.rotate_interval = 15 * MINUTE;
        p.timeout = 0;
    });
    let old = b.create();
    b.later(15 * MINUTE - SECOND);
    assert!(!b.valid(&old).offer);
    assert!(b.offered(&old).is_none());
    b.later(2 * SECOND);
    assert!(b.valid(&old).offer);
    let new = b.offered(&old).unwrap();
    b.later(10 * MINUTE);
    assert!(!b.valid(&new).offer);
    b.later(15 * MINUTE - SECOND);
    assert!(!b.valid(&new).offer);
    b.later(2 * SECOND);
    assert!(b.valid(&new).offer);
}

#[test]
fn a_login_leaves_no_grace_and_ends_what_was_offered() {
    let mut b = rotating(|_| {});
    let old = b.create();
    let pending = b.apply(old.target(), rotate()).token.unwrap();
    let fresh = b.login(&old, r#"{"userId":"u1"}"#).token.unwrap();
    for token in [&old, &pending] {
        assert_eq!(b.attach(token), Attached::Refused(Refused::Retired));
    }
    assert!(
        !b.valid(&fresh).offer,
        "a new secret is not to be exchanged"
    );
}

#[test]
fn a_login_by_a_former_secret_is_carried_out_unless_another_login_was_faster() {
    let mut b = rotating(|_| {});
    let old = b.create();
    let new = b.apply(old.target(), rotate()).token.unwrap();
    b.valid(&new);
    // The request came while `old` was good; its response is late.
    b.later(MINUTE);
    let fresh = b.login(&old, r#"{"userId":"u1"}"#).token.unwrap();
    assert_eq!(b.attach(&new), Attached::Refused(Refused::Retired));
    assert!(b.valid(&fresh).authenticated);
    let loser = b.login(&new, r#"{"userId":"u2"}"#);
    assert!(loser.lost && loser.token.is_none());
    assert_eq!(b.json(&fresh), r#"{"userId":"u1"}"#);
}

#[test]
fn an_exchange_without_grace_ends_the_grace_of_those_before() {
    let mut b = rotating(|_| {});
    let first = b.create();
    let second = b.apply(first.target(), rotate()).token.unwrap();
    b.valid(&second);
    b.valid(&first);
    b.login(&second, r#"{"userId":"u1"}"#);
    for token in [&first, &second] {
        assert_eq!(b.attach(token), Attached::Refused(Refused::Retired));
    }
    let mut b = rotating(|_| {});
    let first = b.create();
    let second = b.apply(first.target(), rotate()).token.unwrap();
    b.valid(&second);
    let retire = Commands {
        retire: true,
        ..Commands::default()
    };
    b.apply(second.target(), retire);
    for token in [&first, &second] {
        assert_eq!(b.attach(token), Attached::Refused(Refused::Retired));
    }
}

#[test]
fn reuse_may_destroy_or_be_observed() {
    for (on_reuse, served) in [
        (OnMismatch::Refuse, None),
        (OnMismatch::Observe, Some(true)),
        (OnMismatch::Destroy, Some(false)),
    ] {
        let mut b = rotating(|p| p.on_reuse = on_reuse);
        let old = b.create();
        let new = b.login(&old, r#"{"userId":"u1"}"#).token.unwrap();
        match (b.attach(&old), served) {
            (Attached::Refused(Refused::Retired), None) => {
                b.valid(&new);
            }
            (Attached::Valid(valid), Some(true)) => {
                assert_eq!(valid.digest, old.secret.digest());
                assert!(b.offered(&old).is_none());
                b.valid(&new);
            }
            (Attached::Dead(Dead::Destroyed), Some(false)) => {
                assert_eq!(b.attach(&new), Attached::Dead(Dead::Destroyed));
            }
            other => panic!("{other:?}"),
        }
        assert!(b.events().contains(&EventKind::SessionHijackSuspected));
    }
}

#[test]
fn offers_of_former_keys_are_recognized() {
    let mut b = rotating(|_| {});
    let old = b.create();
    let new = b.apply(old.target(), rotate()).token.unwrap();
    let mut policy = b.shard.policy().clone();
    policy.rotation = RotationKeys::new([&b"new"[..], b"k"]);
    b.shard.set_policy(policy, b.now);
    assert_ne!(b.offered(&old).unwrap().secret, new.secret);
    b.valid(&new);
}

#[test]
fn a_token_is_not_repeated_while_another_may_be_on_its_way() {
    let mut b = rotating(|p| {
        p.rotate_interval = 15 * MINUTE;
        p.timeout = 0;
    });
    let token = b.create();
    let digest = token.secret.digest();
    assert!(b.shard.may_repeat(&token.sid, &digest, b.now));
    assert!(!b.shard.may_repeat(&token.sid, &Digest([1; 16]), b.now));
    b.later(15 * MINUTE - 29 * SECOND);
    assert!(!b.shard.may_repeat(&token.sid, &digest, b.now), "soon due");
    let mut asked = rotating(|_| {});
    let token = asked.create();
    asked.apply(token.target(), rotate());
    assert!(
        !asked
            .shard
            .may_repeat(&token.sid, &token.secret.digest(), asked.now)
    );
}

#[test]
fn a_session_that_never_rotated_keeps_nothing_out_of_line() {
    let mut b = rotating(|p| p.rotate_interval = MINUTE);
    let token = b.create();
    let (_, before) = b.totals.get();
    b.later(2 * MINUTE);
    b.valid(&token);
    b.offered(&token).unwrap();
    assert_eq!(b.totals.get().1, before);
}
