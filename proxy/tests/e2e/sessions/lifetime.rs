//! How long a session lives.

use std::time::{Duration, Instant};

use super::*;
use crate::harness::eventually;

/// Makes a request now and then for so long, and fails when the session is another.
#[track_caller]
fn keep_busy(client: &mut Client, upstream: &Upstream, id: &str, bound: Duration) {
    let started = Instant::now();
    while started.elapsed() < bound {
        client.get("/").expect(200);
        assert_eq!(sid(upstream), id, "after {:?}", started.elapsed());
        std::thread::park_timeout(Duration::from_millis(100));
    }
}

/// Waits, without touching it, until the session is gone.
#[track_caller]
fn until_gone(gateway: &Gateway, id: &str) -> Duration {
    let started = Instant::now();
    eventually("it expires", || {
        (gateway.api("GET", &format!("/api/sessions/{id}")).status() == 404).then_some(())
    });
    started.elapsed()
}

#[test]
fn a_rolling_timeout_starts_again_at_every_request() {
    let upstream = app();
    let gateway = with_session(
        &upstream,
        &format!("{COOKIE}options: {{ timeout: 2s, rolling: true }}\n"),
    );
    let (mut client, id) = signed_in(&gateway, &upstream);
    keep_busy(&mut client, &upstream, &id, Duration::from_millis(4500));
    let idle = until_gone(&gateway, &id);
    assert!(
        idle > Duration::from_millis(900),
        "not before its time: {idle:?}"
    );
    let response = client.get("/").expect(200);
    assert_ne!(sid(&upstream), id);
    assert!(!response.set_cookie("sid").expires(), "replaced");
}

#[test]
fn a_fixed_timeout_ends_a_busy_session_too() {
    let upstream = app();
    let gateway = with_session(
        &upstream,
        &format!("{COOKIE}options: {{ timeout: 2s, rolling: false }}\n"),
    );
    let (mut client, id) = signed_in(&gateway, &upstream);
    let started = Instant::now();
    eventually("another session", || {
        client.get("/").expect(200);
        (sid(&upstream) != id).then_some(())
    });
    assert!(
        started.elapsed() > Duration::from_millis(900)
            && started.elapsed() < Duration::from_secs(6),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn the_absolute_lifetime_ends_a_busy_rolling_session() {
    let upstream = app();
    let keys = "options: { timeout: 30m, rolling: true }\nlifecycle: { cleanup: { strategies: [{ type: ttl, ttl: 2s }] } }\n";
    let gateway = with_session(&upstream, &format!("{COOKIE}{keys}"));
    let (mut client, id) = signed_in(&gateway, &upstream);
    eventually("another session", || {
        client.get("/").expect(200);
        (sid(&upstream) != id).then_some(())
    });
}

#[test]
fn the_earliest_of_timeout_and_inactive_wins() {
    let upstream = app();
    let keys = "options: { timeout: 30m }\nlifecycle: { cleanup: { strategies: [{ type: inactive, inactiveTime: 2s }] } }\n";
    let gateway = with_session(&upstream, &format!("{COOKIE}{keys}"));
    let (mut client, id) = signed_in(&gateway, &upstream);
    keep_busy(&mut client, &upstream, &id, Duration::from_secs(3));
    until_gone(&gateway, &id);
}

#[test]
fn an_expired_session_is_never_served_though_nobody_has_swept() {
    let upstream = app();
    let keys = "options: { timeout: 1s }\nlifecycle: { cleanup: { interval: 1h } }\n";
    let gateway = with_session(&upstream, &format!("{COOKIE}{keys}"));
    let (client, id) = signed_in(&gateway, &upstream);
    until_gone(&gateway, &id);
    with_cookie(&gateway, &client.jar.header().unwrap());
    assert_ne!(sid(&upstream), id);
}

#[test]
fn expired_sessions_are_swept_and_counted() {
    let upstream = app();
    let keys =
        "options: { timeout: 1s }\nlifecycle: { cleanup: { interval: 1s, batchSize: 10 } }\n";
    let gateway = with_session(&upstream, &format!("{COOKIE}{keys}"));
    for _ in 0..50 {
        gateway.get("/").expect(200);
    }
    eventually("none is left", || {
        (gateway.metric("active_sessions", &[]) < 0.5).then_some(())
    });
    gateway.expect_metric("session_expirations_total", &[], 50.0);
}

#[test]
fn expiry_is_a_miss_with_its_reason() {
    let upstream = app();
    let gateway = with_session(
        &upstream,
        &format!(
            "{COOKIE}options: {{ timeout: 1s }}\nlifecycle: {{ cleanup: {{ interval: 1h }} }}\n"
        ),
    );
    let (mut client, id) = signed_in(&gateway, &upstream);
    until_gone(&gateway, &id);
    client.get("/").expect(200);
    gateway.expect_at_least("session_misses_total", &["reason=\"expired\""], 1.0);
    gateway.expect_at_least("session_hits_total", &[], 1.0);
}
