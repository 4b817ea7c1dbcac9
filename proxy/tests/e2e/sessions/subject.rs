//! A bound on the sessions of one subject, over all cores.

use std::time::{SystemTime, UNIX_EPOCH};

use super::*;
use crate::harness::eventually;
use crate::harness::signer::Signer;

const SECRET: &str = "a shared secret of the tests, long enough";

fn bounded(upstream: &Upstream, on: &str) -> Gateway {
    let session = format!(
        "{COOKIE}limits: {{ sessionsPerSubject: {{ max: 2, on: {on} }} }}\n\
         attributes: {{ fromAuth: [{{ claim: sub, attribute: userId }}] }}\n"
    );
    let more = format!(
        "runtime: {{ cores: 4 }}\nauth: {{ jwt: {{ algorithms: [HS256], secret: \"{SECRET}\" }} }}\n"
    );
    with_more(upstream, &session, &more)
}

fn log_in(client: &mut Client, user: &str) -> Response {
    let answer = format!("X-Session-Authenticate: {{\"userId\":\"{user}\"}}");
    let request = client.request("GET", "/");
    request.header("X-Answer", answer).send()
}

fn with_token(client: &mut Client, user: &str) -> Response {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let exp = now.expect("after 1970").as_secs() + 3600;
    let token =
        Signer::hmac(SECRET.as_bytes()).token(&serde_json::json!({"sub": user, "exp": exp}));
    let request = client.request("GET", "/");
    let bearer = format!("Bearer {token}");
    request.header("Authorization", bearer).send()
}

/// Sessions of a subject, as the API finds them.
fn found(gateway: &Gateway, user: &str) -> usize {
    let path = format!("/api/sessions?userId={user}");
    let found = gateway.api("GET", &path).expect(200).json();
    found["sessions"].as_array().expect("a list").len()
}

/// Sessions made a few milliseconds apart, so that they have an age.
fn in_order(gateway: &Gateway, upstream: &Upstream, count: usize) -> Vec<(Client, String)> {
    let mut sessions = Vec::new();
    let mut last = String::new();
    while sessions.len() < count {
        let (client, sid) = signed_in(gateway, upstream);
        let path = format!("/api/sessions/{sid}");
        let created = gateway.api("GET", &path).expect(200).json()["created"].to_string();
        if created != last {
            last = created;
            sessions.push((client, sid));
        }
    }
    sessions
}

#[test]
fn the_oldest_sessions_of_a_subject_make_room() {
    let upstream = app();
    let gateway = bounded(&upstream, "evictOldest");
    let mut sessions = in_order(&gateway, &upstream, 6);
    for (n, (client, _)) in sessions.iter_mut().enumerate() {
        match n {
            1 => log_in(client, "other").expect(200),
            // A field that is written counts as much as a login, and so does a token.
            3 => ask(client, "X-Session-Set: {\"userId\":\"u1\"}"),
            4 => with_token(client, "u1").expect(200),
            _ => log_in(client, "u1").expect(200),
        };
        assert!(found(&gateway, "u1") <= 2, "after {n}");
    }
    for (n, (client, id)) in sessions.iter_mut().enumerate() {
        client.get("/").expect(200);
        assert_eq!(sid(&upstream) == *id, matches!(n, 1 | 4 | 5), "{n}");
    }
    let (client, id) = &mut sessions[5];
    for _ in 0..3 {
        log_in(client, "u1").expect(200);
    }
    client.get("/").expect(200);
    assert_eq!(sid(&upstream), *id, "the same session again needs no room");
    // The application's own session by a token, and one that the operator makes.
    with_token(&mut gateway.client(), "u1").expect(200);
    assert_eq!(found(&gateway, "u1"), 2);
    let made = r#"{"authenticate":{"userId":"u1"}}"#;
    gateway.api_write("POST", "/api/sessions", made).expect(201);
    assert_eq!(found(&gateway, "u1"), 2);
    gateway.expect_metric("session_subject_limit_total", &[], 5.0);
    let first = &sessions[0].1;
    eventually("the event says why", || {
        let path = format!("/api/sessions/{first}/journal");
        let journal = gateway.api("GET", &path).expect(200).json().to_string();
        journal.contains("sessionsPerSubject").then_some(())
    });
}

#[test]
fn a_login_past_the_bound_may_be_rejected() {
    let upstream = app();
    let gateway = bounded(&upstream, "reject");
    let mut clients: Vec<Client> = (0..3).map(|_| signed_in(&gateway, &upstream).0).collect();
    log_in(&mut clients[0], "u1").expect(200);
    with_token(&mut clients[1], "u1").expect(200);
    assert!(!log_in(&mut clients[2], "u1").expect(403).sets_cookies());
    let before = upstream.count();
    assert!(!with_token(&mut clients[2], "u1").expect(403).sets_cookies());
    with_token(&mut gateway.client(), "u1").expect(403);
    assert_eq!(upstream.count(), before, "refused before the upstream");
    // Who is in already stays so.
    log_in(&mut clients[0], "u1").expect(200);
    with_token(&mut clients[1], "u1").expect(200);
    clients[2].get("/").expect(200);
    assert_eq!(data(&upstream), serde_json::Value::Null, "not logged in");
    let made = r#"{"authenticate":{"userId":"u1"}}"#;
    gateway.api_write("POST", "/api/sessions", made).expect(409);
    assert_eq!(found(&gateway, "u1"), 2);
    ask(&mut clients[1], "X-Session-Destroy: 1");
    log_in(&mut clients[2], "u1").expect(200);
    assert_eq!(found(&gateway, "u1"), 2);
    gateway.expect_metric("requests_refused_total", &["sessions_per_subject"], 3.0);
}
