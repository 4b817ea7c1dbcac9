//! Tokens with an HMAC, and first tokens that need no record.

use super::*;

#[test]
fn a_signed_token_has_74_characters_and_is_found() {
    let upstream = app();
    let gateway = with_session(&upstream, &format!("{COOKIE}{SIGNED}"));
    let mut client = gateway.client();
    let token = client.get("/").set_cookie("sid").value;
    assert_eq!((token.len(), decode(&token).len()), (74, 55));
    let id = sid(&upstream);
    client.get("/").expect(200);
    assert_eq!(sid(&upstream), id);
}

#[test]
fn a_forged_token_is_dead_whatever_bit_was_turned() {
    let upstream = app();
    let gateway = with_session(&upstream, &format!("{COOKIE}{SIGNED}"));
    let (client, id) = signed_in(&gateway, &upstream);
    let token = client.jar.get("sid").unwrap().to_owned();
    for at in 0..55 {
        let response = with_cookie(
            &gateway,
            &format!("sid={}", altered(&token, |b| b[at] ^= 4)),
        );
        assert_ne!(
            upstream.last().get("x-session-id"),
            Some(id.as_str()),
            "byte {at}"
        );
        assert_ne!(
            upstream.last().get("x-session-state"),
            Some("unsure"),
            "byte {at}"
        );
        assert!(!response.set_cookie("sid").expires(), "byte {at}: replaced");
    }
    let unsigned = &token[..52];
    with_cookie(&gateway, &format!("sid={unsigned}"));
    assert_ne!(
        upstream.last().get("x-session-id"),
        Some(id.as_str()),
        "the signature is not optional"
    );
    gateway.expect_at_least("session_misses_total", &["signature"], 50.0);
}

#[test]
fn the_first_of_several_secrets_signs_and_all_verify() {
    let upstream = app();
    let with = |secrets: &str| {
        let security = format!(
            "security: {{ encryption: {{ enabled: true, id: {{ enabled: true, secret: {secrets} }} }} }}\n"
        );
        with_session(&upstream, &format!("{COOKIE}{security}"))
    };
    let (old, new) = (
        "\"the old secret, which is long enough\"",
        "\"the new secret, which is long enough\"",
    );
    let token = with(old).get("/").set_cookie("sid").value;
    let id = sid(&upstream);
    let gateway = with(&format!("[{new}, {old}]"));
    with_cookie(&gateway, &format!("sid={token}"));
    assert_eq!(
        sid(&upstream),
        id,
        "a first token needs no record, only the secret"
    );
    with_cookie(&with(new), &format!("sid={token}"));
    assert_ne!(sid(&upstream), id, "the old secret is gone");
}

#[test]
fn a_first_token_is_storeless_until_it_returns() {
    let upstream = app();
    let gateway = with_session(&upstream, &format!("{COOKIE}{SIGNED}"));
    let tokens: Vec<String> = (0..20)
        .map(|_| gateway.get("/").set_cookie("sid").value)
        .collect();
    assert_eq!(upstream.last().get("x-session-new"), Some("1"));
    assert_eq!(gateway.records(), 0, "no record yet");
    assert!(
        gateway.metric("session_creates_total", &[]).abs() < 0.1,
        "counted when confirmed"
    );
    with_cookie(&gateway, &format!("sid={}", tokens[3]));
    assert_eq!(gateway.records(), 1);
    gateway.expect_metric("session_creates_total", &[], 1.0);
    with_cookie(&gateway, &format!("sid={}", tokens[3]));
    gateway.expect_metric("session_creates_total", &[], 1.0);
}

#[test]
fn a_write_of_data_makes_the_record_at_once() {
    let upstream = app();
    let gateway = with_session(&upstream, &format!("{COOKIE}{SIGNED}"));
    let mut client = gateway.client();
    ask(&mut client, "X-Session-Set: {\"cartId\":\"c9\"}");
    assert_eq!(gateway.records(), 1);
    client.get("/").expect(200);
    assert_eq!(data(&upstream)["cartId"], "c9");
}

#[test]
fn defaults_alone_make_no_record() {
    let upstream = app();
    let gateway = with_session(
        &upstream,
        &format!("{COOKIE}{SIGNED}lifecycle: {{ creation: {{ defaults: {{ theme: dark }} }} }}\n"),
    );
    let mut client = gateway.client();
    client.get("/").expect(200);
    assert_eq!(data(&upstream)["theme"], "dark");
    assert_eq!(gateway.records(), 0);
    client.get("/").expect(200);
    assert_eq!(data(&upstream)["theme"], "dark");
    assert_eq!(gateway.records(), 1);
}

#[test]
fn an_unconfirmed_session_that_was_destroyed_does_not_come_back() {
    let upstream = app();
    let gateway = with_session(&upstream, &format!("{COOKIE}{SIGNED}"));
    let token = gateway.get("/").set_cookie("sid").value;
    let id = sid(&upstream);
    let cookie = format!("sid={token}");
    gateway
        .client()
        .request("GET", "/")
        .header("Cookie", &cookie)
        .header("X-Answer", "X-Session-Destroy: 1")
        .send()
        .expect(200);
    for _ in 0..3 {
        with_cookie(&gateway, &cookie);
        assert_ne!(
            upstream.last().get("x-session-id"),
            Some(id.as_str()),
            "destroyed is destroyed"
        );
    }
}

#[test]
fn confirm_can_be_turned_off_and_on() {
    let upstream = app();
    let off = with_session(
        &upstream,
        &format!("{COOKIE}{SIGNED}lifecycle: {{ creation: {{ confirm: false }} }}\n"),
    );
    off.get("/").set_cookie("sid");
    assert_eq!(off.records(), 1);
    drop(off);
    let auto = with_session(&upstream, COOKIE);
    auto.get("/").set_cookie("sid");
    assert_eq!(
        auto.records(),
        1,
        "without a signature there must be a record"
    );
}

#[test]
fn two_first_requests_with_one_unconfirmed_token_are_one_session() {
    let upstream = app();
    let gateway = with_more(
        &upstream,
        &format!("{COOKIE}{SIGNED}"),
        "runtime: { cores: 8 }\n",
    );
    for _ in 0..10 {
        let token = gateway.get("/").set_cookie("sid").value;
        let id = sid(&upstream);
        let before = upstream.count();
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| with_cookie(&gateway, &format!("sid={token}")));
            }
        });
        assert!(
            upstream.requests()[before..]
                .iter()
                .all(|r| r.get("x-session-id") == Some(id.as_str()))
        );
    }
    gateway.expect_metric("session_creates_total", &[], 10.0);
}
