//! Two-phase rotation: offers, their first use, and what former secrets are good for.

use super::*;
use crate::harness::eventually;

/// Rotation by age, with a grace short enough to wait for.
const ROTATING: &str = "identifier: { type: cookie, name: sid }\nsecurity: { antiHijacking: { rotateId: true, rotateInterval: 1s, rotateGrace: 1s } }\n";

fn rotating(more: &str) -> String {
    format!(
        "identifier: {{ type: cookie, name: sid }}\nsecurity: {{ antiHijacking: {{ rotateId: true, rotateInterval: 1h, {more} }} }}\n"
    )
}

#[test]
fn every_response_offers_the_same_secret_until_it_is_used() {
    let upstream = app();
    let gateway = with_session(&upstream, &rotating("rotateGrace: 30s"));
    let (mut client, id) = signed_in(&gateway, &upstream);
    let old = client.jar.header().unwrap();
    let offered = ask(&mut client, "X-Session-Rotate: 1").set_cookie("sid");
    for _ in 0..3 {
        // Each of these responses might be the first that arrives.
        let again = with_cookie(&gateway, &old).set_cookie("sid");
        assert_eq!(decode(&again.value)[7..], decode(&offered.value)[7..]);
        assert_eq!(sid(&upstream), id);
    }
    let used = with_cookie(&gateway, &format!("sid={}", offered.value));
    assert!(!used.sets_cookies(), "{:?}", used.head);
    assert_eq!(sid(&upstream), id);
    let late = with_cookie(&gateway, &old);
    assert_eq!(sid(&upstream), id, "good for the grace");
    assert!(!late.sets_cookies(), "nothing is given for a former secret");
}

#[test]
fn an_offer_with_other_acts_of_the_same_response_goes_out() {
    let upstream = app();
    let gateway = with_session(&upstream, ROTATING);
    let (client, id) = signed_in(&gateway, &upstream);
    let old = client.jar.header().unwrap();
    let offered = eventually("an offer", || {
        gateway
            .client()
            .request("GET", "/")
            .header("Cookie", &old)
            .header("X-Answer", "X-Session-Set: {\"a\":1}")
            .send()
            .expect(200)
            .set_cookies("sid")
            .pop()
    });
    with_cookie(&gateway, &format!("sid={}", offered.value));
    assert_eq!(sid(&upstream), id);
}

#[test]
fn a_secret_is_exchanged_by_its_age_and_the_old_one_refused_after_the_grace() {
    let upstream = app();
    let gateway = with_session(&upstream, ROTATING);
    let (mut client, id) = signed_in(&gateway, &upstream);
    let copied = client.jar.header().unwrap();
    eventually("an offer", || client.get("/").set_cookies("sid").pop());
    client.get("/").expect(200);
    assert_eq!(sid(&upstream), id);
    eventually("the end of the grace", || {
        assert!(!with_cookie(&gateway, &copied).sets_cookies());
        let head = upstream.last().head;
        (head.get("x-session-state") == Some("refused")).then_some(())
    });
    client.get("/").expect(200);
    assert_eq!(sid(&upstream), id, "the owner goes on");
    gateway.expect_at_least("session_misses_total", &["retired"], 1.0);
}

#[test]
fn a_login_ends_what_was_offered_before_it() {
    let upstream = app();
    let gateway = with_session(&upstream, &rotating("rotateGrace: 30s"));
    let (mut client, id) = signed_in(&gateway, &upstream);
    let old = client.jar.header().unwrap();
    let offered = ask(&mut client, "X-Session-Rotate: 1").set_cookie("sid");
    let login = gateway
        .client()
        .request("GET", "/")
        .header("Cookie", &old)
        .header("X-Answer", "X-Session-Authenticate: {\"userId\":\"u1\"}")
        .send()
        .expect(200)
        .set_cookie("sid");
    for planted in [old, format!("sid={}", offered.value)] {
        assert!(!with_cookie(&gateway, &planted).sets_cookies());
        expect_state(&upstream, Some("refused"));
    }
    with_cookie(&gateway, &format!("sid={}", login.value));
    assert_eq!(sid(&upstream), id);
    assert_eq!(data(&upstream)["userId"], "u1");
}

#[test]
fn reuse_of_a_retired_secret_may_destroy_or_be_observed() {
    for (on_reuse, owner_stays, served) in [("destroy", false, false), ("observe", true, true)] {
        let upstream = app();
        let gateway = with_session(
            &upstream,
            &rotating(&format!("rotateGrace: 30s, onReuse: {on_reuse}")),
        );
        let (mut client, id) = signed_in(&gateway, &upstream);
        let copied = client.jar.header().unwrap();
        ask(&mut client, "X-Session-Authenticate: {\"userId\":\"u1\"}");
        with_cookie(&gateway, &copied);
        let got = upstream.last().get("x-session-id").map(str::to_owned);
        assert_eq!(got == Some(id.clone()), served, "{on_reuse}");
        client.get("/").expect(200);
        assert_eq!(sid(&upstream) == id, owner_stays, "{on_reuse}");
    }
}

#[test]
fn a_token_in_a_header_rotates_through_its_header() {
    let upstream = app();
    let gateway = with_session(
        &upstream,
        "identifier: { type: header, name: X-Token, generateIfMissing: true }\n",
    );
    let first = gateway.client().get("/").expect(200);
    let token = first.head.get("x-token").expect("a token").to_owned();
    let send = |token: &str, answer: &str| {
        gateway
            .client()
            .request("GET", "/")
            .header("X-Token", token)
            .header("X-Answer", answer)
            .send()
            .expect(200)
    };
    let offer = send(&token, "X-Session-Rotate: 1");
    let offered = offer.head.get("x-token").expect("an offer").to_owned();
    assert!(!offer.sets_cookies());
    let id = sid(&upstream);
    send(&offered, "X-Other: 1");
    assert_eq!(sid(&upstream), id);
}

#[test]
fn a_rotation_is_not_undone_by_a_renewal() {
    let upstream = app();
    let keys = "identifier: { type: cookie, name: sid, maxAge: 3600 }\noptions: { timeout: 30m, touchInterval: 1s }\n";
    let gateway = with_session(&upstream, keys);
    let (mut client, _) = signed_in(&gateway, &upstream);
    let old = client.jar.header().unwrap();
    let offered = ask(&mut client, "X-Session-Rotate: 1").set_cookie("sid");
    // Another session of the same age is renewed by now.
    let (mut other, _) = signed_in(&gateway, &upstream);
    eventually("a renewal", || other.get("/").set_cookies("sid").pop());
    let set = with_cookie(&gateway, &old).set_cookie("sid");
    assert_eq!(
        decode(&set.value)[7..],
        decode(&offered.value)[7..],
        "the offer, not the old one again"
    );
}
