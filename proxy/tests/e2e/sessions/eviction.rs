//! Bounds on the number of sessions, and who goes first.

use super::*;

fn bounded(policy: &str, max: u32) -> String {
    format!(
        "{COOKIE}storage: {{ type: memory, memory: {{ maxSessions: {max}, evictionPolicy: {policy} }} }}\n"
    )
}

fn alive(gateway: &Gateway, id: &str) -> bool {
    gateway.api("GET", &format!("/api/sessions/{id}")).status() == 200
}

#[test]
fn the_number_of_sessions_is_bounded() {
    for policy in ["lru", "lfu", "ttl"] {
        let upstream = app();
        let gateway = with_more(&upstream, &bounded(policy, 20), "runtime: { cores: 1 }\n");
        for _ in 0..60 {
            gateway.get("/").expect(200);
        }
        let active = gateway.records();
        assert!((15..=20).contains(&active), "{policy}: {active}");
        gateway.expect_at_least("session_evictions_total", &[], 40.0);
    }
}

#[test]
fn the_bound_holds_over_all_cores() {
    let upstream = app();
    let gateway = with_more(&upstream, &bounded("lru", 40), "runtime: { cores: 8 }\n");
    for _ in 0..90 {
        gateway.get("/").expect(200);
    }
    let active = gateway.records();
    assert!(
        active <= 48,
        "one over for each shard at the most: {active}"
    );
}

#[test]
fn lru_gives_up_the_one_longest_unused() {
    let upstream = app();
    let gateway = with_more(&upstream, &bounded("lru", 4), "runtime: { cores: 1 }\n");
    let mut sessions: Vec<(Client, String)> =
        (0..4).map(|_| signed_in(&gateway, &upstream)).collect();
    for used in [1, 2, 0] {
        sessions[used].0.get("/").expect(200);
    }
    signed_in(&gateway, &upstream);
    assert!(!alive(&gateway, &sessions[3].1));
    assert!([0, 1, 2].iter().all(|n| alive(&gateway, &sessions[*n].1)));
}

#[test]
fn lfu_gives_up_the_one_least_used() {
    let upstream = app();
    let gateway = with_more(&upstream, &bounded("lfu", 4), "runtime: { cores: 1 }\n");
    let mut sessions: Vec<(Client, String)> =
        (0..4).map(|_| signed_in(&gateway, &upstream)).collect();
    for used in [0, 1, 3] {
        for _ in 0..60 {
            sessions[used].0.get("/").expect(200);
        }
    }
    signed_in(&gateway, &upstream);
    assert!(!alive(&gateway, &sessions[2].1));
    assert!([0, 1, 3].iter().all(|n| alive(&gateway, &sessions[*n].1)));
}

#[test]
fn ttl_gives_up_the_one_nearest_its_end() {
    let upstream = app();
    let gateway = with_more(&upstream, &bounded("ttl", 4), "runtime: { cores: 1 }\n");
    let mut sessions: Vec<(Client, String)> =
        (0..4).map(|_| signed_in(&gateway, &upstream)).collect();
    ask(&mut sessions[2].0, "X-Session-Timeout: 2m");
    sessions[2].0.get("/").expect(200);
    signed_in(&gateway, &upstream);
    assert!(!alive(&gateway, &sessions[2].1));
    assert!([0, 1, 3].iter().all(|n| alive(&gateway, &sessions[*n].1)));
}

#[test]
fn a_session_that_never_came_back_goes_before_one_that_did() {
    let upstream = app();
    let gateway = with_more(&upstream, &bounded("lru", 4), "runtime: { cores: 1 }\n");
    let (_client, oldest) = signed_in(&gateway, &upstream);
    for _ in 0..10 {
        gateway.get("/").expect(200);
    }
    assert!(
        alive(&gateway, &oldest),
        "a flood of visitors without cookies ends nobody's session"
    );
}

#[test]
fn an_anonymous_session_goes_before_an_authenticated_one() {
    let upstream = app();
    let gateway = with_more(&upstream, &bounded("lru", 4), "runtime: { cores: 1 }\n");
    let (mut client, known) = signed_in(&gateway, &upstream);
    ask(&mut client, "X-Session-Authenticate: {\"userId\":\"u\"}");
    client.get("/").expect(200);
    for _ in 0..10 {
        signed_in(&gateway, &upstream);
    }
    assert!(alive(&gateway, &known));
}

#[test]
fn the_smallest_of_several_bounds_holds() {
    let upstream = app();
    let keys = format!(
        "{}lifecycle: {{ cleanup: {{ strategies: [{{ type: maxSessions, maxSessions: 10, evictPolicy: lru }}] }} }}\n",
        bounded("lru", 1000)
    );
    let gateway = with_more(&upstream, &keys, "runtime: { cores: 1 }\n");
    for _ in 0..30 {
        gateway.get("/").expect(200);
    }
    let active = gateway.records();
    assert!((5..=10).contains(&active), "{active}");
}
