//! Attributes from JSON Web Tokens, and what a token does to its session.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::*;
use crate::harness::signer::{P256, RSA, Signer, key_set};
use crate::harness::{Launch, eventually, eventually_within};

const SECRET: &str = "a shared secret of the tests, long enough";
const MAPPED: &str = "attributes: { fromAuth: [{ claim: sub, attribute: userId }, { claim: roles, attribute: userRoles }] }\n";
const SHARED: &str = "auth: { jwt: { algorithms: [HS256], secret: \"a shared secret of the tests, long enough\" } }\n";

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("after 1970").as_secs()
}

/// Claims that are good for an hour.
fn claims(user: &str) -> Value {
    json!({"sub": user, "exp": now() + 3600})
}

fn token(claims: &Value) -> String {
    Signer::hmac(SECRET.as_bytes()).token(claims)
}

fn send(client: &mut Client, token: &str) -> Response {
    let request = client.request("GET", "/");
    request
        .header("Authorization", format!("Bearer {token}"))
        .send()
}

fn shared(upstream: &Upstream, keys: &str) -> Gateway {
    with_more(upstream, &format!("{COOKIE}{MAPPED}{keys}"), SHARED)
}

/// A gateway that takes its keys from a file in its directory.
fn from_file(upstream: &Upstream, keys: &str, jwt: &str) -> Gateway {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("keys.json");
    std::fs::write(&path, keys).expect("a file");
    let path = path.display();
    let more = format!("auth: {{ jwt: {{ jwksFile: \"{path}\", {jwt} }} }}\n");
    let gateway = with_more(upstream, &format!("{COOKIE}{MAPPED}"), &more);
    // It is read at the start; the tests that change it make one of their own.
    drop(dir);
    gateway
}

#[test]
fn the_first_token_of_a_subject_authenticates_and_retires_the_secret_at_once() {
    let upstream = app();
    let gateway = shared(&upstream, "");
    let (mut client, planted) = signed_in(&gateway, &upstream);
    let mut thief = client.tab();
    let old = client.jar.header().expect("a cookie");
    let response = send(
        &mut client,
        &token(&json!({"sub": "u1", "roles": ["a"], "exp": now() + 3600})),
    );
    let response = response.expect(200);
    assert!(response.sets_cookies(), "a new secret");
    assert_eq!(response.get("cache-control"), Some("no-store"));
    assert_eq!(sid(&upstream), planted, "the same session");
    assert!(!upstream.last().head.has("x-session-new"));
    assert_eq!(data(&upstream), json!({"userId": "u1", "userRoles": ["a"]}));
    // Later tokens of that subject are no authentication.
    for _ in 0..3 {
        let response = send(&mut client, &token(&claims("u1"))).expect(200);
        assert!(!response.sets_cookies());
        assert_eq!(sid(&upstream), planted);
    }
    assert_eq!(
        data(&upstream),
        json!({"userId": "u1"}),
        "a claim that is gone"
    );
    client.get("/").expect(200);
    assert_eq!(
        data(&upstream),
        json!({"userId": "u1"}),
        "also without a token"
    );
    // Who holds a copy of the old secret has nothing.
    assert!(thief.jar.header().is_some());
    with_cookie(&gateway, &old);
    expect_state(&upstream, Some("refused"));
    thief.get("/").expect(200);
}

#[test]
fn parallel_first_calls_with_the_old_secret_are_served_and_set_no_cookie() {
    let upstream = app();
    let gateway = shared(&upstream, "");
    let (mut client, session) = signed_in(&gateway, &upstream);
    let old = client.jar.header().expect("a cookie");
    send(&mut client, &token(&claims("u1"))).expect(200);
    let late = |token: &str| {
        let mut other = gateway.client();
        let request = other.request("GET", "/").header("Cookie", &old);
        request
            .header("Authorization", format!("Bearer {token}"))
            .send()
            .expect(200)
    };
    let response = late(&token(&claims("u1")));
    assert!(!response.sets_cookies());
    assert_eq!(sid(&upstream), session);
    // Another subject has no part in it: a session of its own.
    let response = late(&token(&claims("u2")));
    assert!(response.sets_cookies());
    assert_ne!(sid(&upstream), session);
    assert_eq!(data(&upstream), json!({"userId": "u2"}));
}

#[test]
fn another_subject_starts_a_new_session_and_leaves_the_old_one_alone() {
    let upstream = app();
    let gateway = shared(&upstream, "");
    let mut client = gateway.client();
    send(&mut client, &token(&claims("u1"))).expect(200);
    let first = sid(&upstream);
    ask(&mut client, "X-Session-Set: {\"cart\":\"of u1\"}");
    let kept = client.jar.header().expect("a cookie");
    let response = send(&mut client, &token(&claims("u2"))).expect(200);
    assert!(response.sets_cookies());
    assert_ne!(sid(&upstream), first);
    assert_eq!(upstream.last().get("x-session-new"), Some("1"));
    assert_eq!(
        data(&upstream),
        json!({"userId": "u2"}),
        "nothing of the other's"
    );
    with_cookie(&gateway, &kept);
    assert_eq!(data(&upstream), json!({"userId": "u1", "cart": "of u1"}));
}

#[test]
fn a_token_makes_a_session_where_authentication_may() {
    let upstream = app();
    let gateway = shared(&upstream, ON_DEMAND);
    let mut client = gateway.client();
    client.get("/").expect(200);
    expect_state(&upstream, None);
    let response = send(&mut client, &token(&claims("u1"))).expect(200);
    assert!(response.sets_cookies());
    assert_eq!(data(&upstream), json!({"userId": "u1"}));
    let session = sid(&upstream);
    let listed = gateway.api("GET", "/api/sessions?userId=u1").expect(200);
    assert!(listed.text().contains(&session), "{}", listed.text());
    let never = "lifecycle: { creation: { triggers: [explicitCreate] } }\n";
    let gateway = shared(&upstream, never);
    let mut client = gateway.client();
    send(&mut client, &token(&claims("u1"))).expect(200);
    expect_state(&upstream, None);
}

#[test]
fn what_came_from_a_token_is_withheld_after_its_expiry() {
    let upstream = app();
    let gateway = shared(&upstream, "");
    let mut client = gateway.client();
    let exp = now() + 2;
    send(&mut client, &token(&json!({"sub": "u1", "exp": exp}))).expect(200);
    ask(&mut client, "X-Session-Set: {\"cart\":1}");
    assert_eq!(data(&upstream)["userId"], "u1");
    let session = sid(&upstream);
    eventually_within(std::time::Duration::from_secs(20), "the expiry", || {
        client.get("/").expect(200);
        (data(&upstream) == json!({"cart": 1})).then_some(())
    });
    assert!(now() >= exp);
    assert_eq!(sid(&upstream), session, "the session goes on");
    send(&mut client, &token(&claims("u1"))).expect(200);
    assert_eq!(data(&upstream), json!({"cart": 1, "userId": "u1"}));
}

#[test]
fn a_token_that_is_not_good_is_as_good_as_none() {
    let upstream = app();
    let gateway = shared(&upstream, "");
    let (mut client, session) = signed_in(&gateway, &upstream);
    let good = token(&claims("u1"));
    for bad in [
        "x".to_owned(),
        token(&json!({"sub": "u1", "exp": now() - 5})),
        token(&json!({"sub": "u1", "nbf": now() + 600})),
        Signer::hmac(b"another secret").token(&claims("u1")),
        RSA.token(&claims("u1")),
        format!("{}x", good),
        "a".repeat(12_000),
    ] {
        let response = send(&mut client, &bad).expect(200);
        assert!(!response.sets_cookies());
        assert_eq!(sid(&upstream), session);
        assert!(data(&upstream).is_null());
    }
    for reason in ["malformed", "expired", "early", "signature", "algorithm"] {
        gateway.expect_at_least("jwt_refused_total", &[reason], 1.0);
    }
    // Two tokens, or another scheme.
    let mut request = client.request("GET", "/");
    for user in ["u1", "u2"] {
        request = request.header("Authorization", format!("Bearer {}", token(&claims(user))));
    }
    request.send().expect(200);
    assert!(data(&upstream).is_null());
    let request = client.request("GET", "/");
    request
        .header("Authorization", "Basic YTpi")
        .send()
        .expect(200);
    assert_eq!(upstream.last().get("authorization"), Some("Basic YTpi"));
    assert!(data(&upstream).is_null());
}

#[test]
fn required_means_401_with_what_is_asked_for() {
    let upstream = app();
    let required = SHARED.replace(
        "algorithms",
        "required: true, issuer: me, audience: shop, algorithms",
    );
    for session in [format!("{COOKIE}{MAPPED}"), "enabled: false\n".into()] {
        let gateway = with_more(&upstream, &session, &required);
        let mut client = gateway.client();
        let before = upstream.count();
        let response = client.get("/").expect(401);
        assert_eq!(response.get("www-authenticate"), Some("Bearer"));
        assert!(!response.sets_cookies());
        for (iss, aud) in [("me", "other"), ("other", "shop")] {
            let mut wrong = claims("u1");
            (wrong["iss"], wrong["aud"]) = (json!(iss), json!(aud));
            let response = send(&mut client, &token(&wrong)).expect(401);
            let expected = Some("Bearer error=\"invalid_token\"");
            assert_eq!(response.get("www-authenticate"), expected);
        }
        assert_eq!(upstream.count(), before, "nothing goes upstream");
        let mut right = claims("u1");
        (right["iss"], right["aud"]) = (json!("me"), json!(["shop", "b"]));
        send(&mut client, &token(&right)).expect(200);
        gateway.expect_at_least("requests_refused_total", &["token"], 3.0);
    }
}

#[test]
fn a_token_that_comes_again_costs_no_signature() {
    let upstream = app();
    let gateway = shared(&upstream, "");
    let mut client = gateway.client();
    let token = token(&claims("u1"));
    for _ in 0..5 {
        send(&mut client, &token).expect(200);
    }
    gateway.expect_metric("jwt_verified_total", &["signature"], 1.0);
    gateway.expect_metric("jwt_verified_total", &["memory"], 4.0);
}

#[test]
fn tokens_may_come_in_a_header_of_their_own() {
    let upstream = app();
    let more = SHARED.replace("algorithms", "header: X-Token, algorithms");
    let gateway = with_more(&upstream, &format!("{COOKIE}{MAPPED}"), &more);
    for value in [
        token(&claims("u1")),
        format!("Bearer {}", token(&claims("u1"))),
    ] {
        let mut client = gateway.client();
        let request = client.request("GET", "/").header("X-Token", value);
        request.send().expect(200);
        assert_eq!(data(&upstream), json!({"userId": "u1"}));
    }
}

#[test]
fn public_keys_come_from_a_file_and_no_token_gets_around_them() {
    let ed = Signer::ed("ed-1");
    let upstream = app();
    let gateway = from_file(
        &upstream,
        &key_set(&[&RSA, &P256, &ed]),
        "algorithms: [RS256, ES256, EdDSA]",
    );
    for signer in [&*RSA, &*P256, &ed] {
        let mut client = gateway.client();
        send(&mut client, &signer.token(&claims("u1"))).expect(200);
        assert_eq!(data(&upstream), json!({"userId": "u1"}));
    }
    let n = RSA.jwk["n"].as_str().expect("a modulus");
    let header = json!({"alg": "HS256", "kid": "rsa-1"});
    let by_public_key =
        Signer::hmac(n.as_bytes()).sign(jsonwebtoken::Algorithm::HS256, &header, &claims("u1"));
    let none = {
        let header = crate::harness::signer::base64(json!({"alg": "none"}).to_string());
        let payload = crate::harness::signer::base64(claims("u1").to_string());
        format!("{header}.{payload}.")
    };
    let confused = RSA.sign(
        jsonwebtoken::Algorithm::RS256,
        &json!({"alg": "RS256", "kid": "ec-1"}),
        &claims("u1"),
    );
    for bad in [by_public_key, none, confused] {
        let mut client = gateway.client();
        send(&mut client, &bad).expect(200);
        assert!(data(&upstream).is_null(), "{bad}");
    }
}

#[test]
fn a_file_of_keys_is_read_again_when_it_changes() {
    let upstream = app();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("keys.json");
    std::fs::write(&path, key_set(&[&RSA])).expect("a file");
    let jwt = format!(
        "auth: {{ jwt: {{ required: true, algorithms: [RS256, ES256], jwksFile: \"{}\" }} }}\n",
        path.display()
    );
    let gateway = with_more(&upstream, &format!("{COOKIE}{MAPPED}"), &jwt);
    let (old, new) = (RSA.token(&claims("u1")), P256.token(&claims("u1")));
    send(&mut gateway.client(), &old).expect(200);
    send(&mut gateway.client(), &new).expect(401);
    // What is no key set changes nothing.
    std::fs::write(&path, "{").expect("a file");
    let kept = |line: &str| line.contains("the keys that there are stay").then_some(());
    gateway.stderr.wait(kept).expect("a warning");
    send(&mut gateway.client(), &old).expect(200);
    std::fs::write(&path, key_set(&[&P256])).expect("a file");
    eventually("the new keys", || {
        (send(&mut gateway.client(), &new).status() == 200).then_some(())
    });
    send(&mut gateway.client(), &old).expect(401);
}

#[test]
fn a_file_that_can_not_be_read_is_an_error_at_the_start() {
    let upstream = app();
    let config = format!(
        "{}auth: {{ jwt: {{ jwksFile: /nowhere/keys.json }} }}\n",
        service(&[&upstream])
    );
    let Err(said) = Launch::new(&config).try_start() else {
        panic!("it started");
    };
    let text = said.all();
    assert!(
        text.contains("gateway.auth.jwt.jwksFile: /nowhere/keys.json cannot be read"),
        "{text}"
    );
}

#[test]
fn keys_are_fetched_kept_and_fetched_again_for_a_key_that_is_not_known() {
    let upstream = app();
    let issuer = Upstream::new("issuer", move |_| {
        Reply::ok(key_set(&[&RSA])).header("Content-Type", "application/json")
    });
    let jwt = format!(
        "auth: {{ jwt: {{ required: true, algorithms: [RS256, ES256], jwksUrl: \"http://{}/keys\" }} }}\n",
        issuer.address()
    );
    let gateway = with_more(&upstream, &format!("{COOKIE}{MAPPED}"), &jwt);
    // Ready means that they are here.
    send(&mut gateway.client(), &RSA.token(&claims("u1"))).expect(200);
    assert_eq!(issuer.count(), 1);
    assert_eq!(issuer.last().head.target(), "/keys");
    send(&mut gateway.client(), &P256.token(&claims("u1"))).expect(401);
    eventually_within(std::time::Duration::from_secs(30), "a second fetch", || {
        (issuer.count() >= 2).then_some(())
    });
    send(&mut gateway.client(), &RSA.token(&claims("u1"))).expect(200);
}

#[test]
fn without_keys_a_required_token_is_a_matter_of_time() {
    let upstream = app();
    let jwt = format!(
        "auth: {{ jwt: {{ required: true, jwksUrl: \"http://127.0.0.1:{}/keys\" }} }}\n",
        Upstream::dead_port()
    );
    let gateway = with_more(&upstream, &format!("{COOKIE}{MAPPED}"), &jwt);
    let response = send(&mut gateway.client(), &RSA.token(&claims("u1"))).expect(503);
    assert!(response.get("retry-after").is_some());
    gateway.client().get("/").expect(401);
}
