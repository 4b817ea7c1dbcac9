//! The admin endpoint over real sockets, against played cores with real shards.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering::Relaxed;

use super::CONNECTIONS;
use super::exposition::strict;
use super::metrics::SESSION_METRICS;
use crate::control::testing::{DEADLINE, Played, SERVICE, until, with};
use crate::metrics::{Metric, PinOutcome, bump};

const SESSION: &str = "  session: { enabled: true, identifier: { type: cookie, name: sid } }\n";

#[test]
fn metrics_are_well_formed_and_sum_over_cores() {
    let played = Played::ready(&with(SESSION));
    for (core, metrics) in played.shared.metrics.iter().enumerate() {
        let n = core as u64 + 1;
        metrics.set(Metric::PinsTable, 10 * n);
        metrics.add(Metric::MissExpired, n);
        let route = &played.setup.routes[0][core];
        route.finished(200, 99);
        route.finished(503, 2_000_000_000);
        route.pinned(PinOutcome::Hit);
        route.pinned(PinOutcome::Unavailable);
        bump(&played.setup.endpoints[0][1].cores[core].requests, n);
    }
    played.setup.endpoints[0][0].active.store(7, Relaxed);
    played.shared.sessions.store(40, Relaxed);
    let reply = played.get("/metrics");
    assert!(
        reply
            .head
            .contains("content-type: text/plain; version=0.0.4; charset=utf-8"),
        "{}",
        reply.head
    );
    let families = strict::read(&reply.body).unwrap();
    let value = |name: &str, labels: &[(&str, &str)]| families[name].value(labels);
    assert_eq!(value("gateway_active_sessions", &[("role", "owned")]), 40.0);
    assert_eq!(value("gateway_pins", &[]), 30.0);
    assert_eq!(
        value("gateway_session_misses_total", &[("reason", "expired")]),
        3.0
    );
    assert_eq!(
        value(
            "gateway_requests_total",
            &[("route", "default"), ("code", "2xx")]
        ),
        2.0
    );
    assert_eq!(
        value("gateway_affinity_hits_total", &[("route", "default")]),
        2.0
    );
    assert_eq!(
        value(
            "gateway_affinity_misses_total",
            &[("route", "default"), ("reason", "unavailable")]
        ),
        2.0
    );
    let a = [("service", "app"), ("upstream", "a")];
    let b = [("service", "app"), ("upstream", "b")];
    assert_eq!(value("gateway_upstream_requests_total", &b), 3.0);
    assert_eq!(value("gateway_upstream_active", &a), 7.0);
    assert_eq!(
        value("gateway_upstream_state", &[a[0], a[1], ("state", "ready")]),
        1.0
    );
    assert_eq!(
        value("gateway_upstream_state", &[a[0], a[1], ("state", "down")]),
        0.0
    );
    assert_eq!(value("gateway_cores_ready", &[]), 2.0);
    assert!(value("process_resident_memory_bytes", &[]) > 1e6);
    let duration = &families["gateway_request_duration_seconds"];
    let count = |name: &str| {
        duration
            .samples
            .iter()
            .find(|s| s.0.ends_with(name))
            .unwrap()
            .2
    };
    assert_eq!((count("_count"), count("_sum")), (4.0, 4000.000198));
    for name in SESSION_METRICS {
        let gauge = families.contains_key(&format!("gateway_{name}"));
        assert!(
            gauge || families.contains_key(&format!("gateway_{name}_total")),
            "{name}"
        );
    }
}

#[test]
fn metrics_are_what_was_asked_for() {
    let session =
        |metrics: &str| with(&SESSION.replace("enabled: true,", &format!("metrics: {metrics},")));
    let played = Played::ready(&session("{ collect: [session_hits, affinity_misses] }"));
    let families = strict::read(&played.get("/metrics").body).unwrap();
    let there: Vec<&str> = SESSION_METRICS
        .into_iter()
        .filter(|name| {
            families
                .keys()
                .any(|family| family.trim_end_matches("_total") == format!("gateway_{name}"))
        })
        .collect();
    assert_eq!(there, ["session_hits", "affinity_misses"]);
    assert!(
        families.contains_key("gateway_requests_total"),
        "others stay"
    );

    let played = Played::ready(&session("{ enabled: false }"));
    assert_eq!(played.get("/metrics").status, 404);
}

fn sids(page: &serde_json::Value) -> Vec<String> {
    let sessions = page["sessions"].as_array().unwrap();
    sessions
        .iter()
        .map(|session| session["sid"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn sessions_are_listed_page_by_page() {
    let played = Played::ready(&with(SESSION));
    let mut made = BTreeSet::new();
    for n in 0..25 {
        let core = &played.cores[n % 2];
        made.insert(
            core.order(move |core| core.session(&format!("{{\"userId\":\"u{}\"}}", n % 5))),
        );
    }
    let (mut listed, mut path) = (Vec::new(), "/api/sessions?limit=7".to_owned());
    let mut pages = 0;
    loop {
        let page = played.get(&path).json();
        assert!(sids(&page).len() <= 7);
        listed.extend(sids(&page));
        pages += 1;
        let Some(next) = page["next"].as_str() else {
            break;
        };
        path = format!("/api/sessions?limit=7&cursor={next}");
    }
    assert_eq!(listed.len(), 25, "each once");
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), made);
    assert!(pages >= 4);

    let found = played.get("/api/sessions?userId=u3").json();
    assert_eq!(sids(&found).len(), 5);
    assert_eq!(
        sids(&played.get("/api/sessions?userId=nobody").json()).len(),
        0
    );
    assert_eq!(
        sids(&played.get("/api/sessions?cursor=999999999999.7").json()).len(),
        0
    );
    let (status, text) = played.get("/api/sessions?color=red").refusal();
    assert_eq!((status, text.contains("userId")), (400, true), "{text}");
    assert_eq!(played.get("/api/sessions?limit=0").status, 400);
}

#[test]
fn a_session_is_shown_masked_and_without_secrets() {
    let played = Played::ready(&with(SESSION));
    let sid = played.cores[0]
        .order(|core| core.session(r#"{"userId":"u1","n":12345678901234567890.5,"ü":["x"]}"#));
    let path = format!("/api/sessions/{sid}");
    let masked = played.get(&path);
    assert_eq!(
        masked.json()["data"],
        serde_json::json!({ "userId": "***", "n": "***", "ü": "***" })
    );
    assert!(!masked.body.contains("u1"), "{}", masked.body);
    let plain = played.get(&format!("{path}?values=true"));
    assert!(
        plain.body.contains("12345678901234567890.5"),
        "no number is rounded: {}",
        plain.body
    );
    assert_eq!(plain.json()["data"]["ü"], serde_json::json!(["x"]));
    assert_eq!(plain.json()["subject"], "u1");
    for key in plain.json().as_object().unwrap().keys() {
        assert!(
            !["record", "secrets", "digest", "token"].contains(&key.as_str()),
            "{key}"
        );
    }
    assert!(plain.json()["created"].as_str().unwrap().ends_with('Z'));
    assert_eq!(played.get("/api/sessions/tooshort").status, 400);
    assert_eq!(
        played.get("/api/sessions/AAAAAAAAAAAAAAAAAAAAAA").status,
        404
    );
}

#[test]
fn sessions_end_by_sid_and_by_field() {
    let played = Played::ready(&with(SESSION));
    let sid = played.cores[1].order(|core| core.session(r#"{"userId":"u1"}"#));
    let path = format!("/api/sessions/{sid}");
    assert_eq!(
        played
            .request("DELETE", &path, "Origin: http://evil.example\r\n", "")
            .status,
        403
    );
    assert_eq!(played.get(&path).status, 200);
    assert_eq!(played.request("DELETE", &path, "", "").status, 200);
    assert_eq!(played.request("DELETE", &path, "", "").status, 404);
    assert_eq!(played.get(&path).status, 404);

    for (n, user) in ["\"7\"", "7", "\"7\"", "\"8\""].into_iter().enumerate() {
        played.cores[n % 2].order(move |core| core.session(&format!("{{\"userId\":{user}}}")));
    }
    assert_eq!(
        played.request("DELETE", "/api/sessions", "", "").status,
        400
    );
    let reply = played.request("DELETE", "/api/sessions?userId=7", "", "");
    assert_eq!(reply.json()["destroyed"], 3, "the strings and the number");
    assert_eq!(sids(&played.get("/api/sessions").json()).len(), 1);
}

#[test]
fn without_sessions_there_are_none() {
    let played = Played::ready(SERVICE);
    for path in ["/api/sessions", "/api/sessions/AAAAAAAAAAAAAAAAAAAAAA"] {
        assert_eq!(
            played.get(path).refusal(),
            (404, "sessions are off".to_owned())
        );
    }
}

#[test]
fn what_is_wrong_is_said_in_json() {
    let played = Played::ready(SERVICE);
    let put = |path: &str, body: &str| played.put(path, body).refusal().0;
    assert_eq!(put("/api/upstreams/app/b", "{\"state\":\"up\"}"), 400);
    assert_eq!(
        put("/api/upstreams/app/b", "{\"state\":\"ready\",\"x\":1}"),
        400
    );
    assert_eq!(put("/api/upstreams/app/b", "{"), 400);
    assert_eq!(put("/api/upstreams/app/c", "{\"state\":\"ready\"}"), 404);
    assert_eq!(put("/api/upstreams/other/b", "{\"state\":\"ready\"}"), 404);
    assert_eq!(put("/api/upstreams/app/%FF", "{\"state\":\"ready\"}"), 400);
    assert_eq!(put("/api/upstreams/app/b", &"x".repeat(70_000)), 413);
    let wrong_type = played.request(
        "PUT",
        "/api/upstreams/app/b",
        "Content-Type: text/plain\r\n",
        "{}",
    );
    assert_eq!(wrong_type.refusal().0, 415);
    assert_eq!(played.get("/nothing").refusal().0, 404);
    let method = played.request("POST", "/api/upstreams", "", "");
    assert_eq!(method.refusal().0, 405);
    assert!(method.head.contains("allow: get"), "{}", method.head);
    assert_eq!(
        played
            .request("GET", "/healthz", "Host: evil.example\r\n", "")
            .refusal()
            .0,
        403
    );
    assert_eq!(played.get("/").status, 200);
}

#[test]
fn a_token_is_needed_but_for_probes() {
    let played = Played::ready(&with("  admin: { token: s3cret-token-0123456789 }\n"));
    assert_eq!(played.get("/readyz").status, 200);
    let refused = played.get("/api/upstreams");
    assert_eq!(refused.refusal().0, 401);
    assert!(refused.head.contains("www-authenticate: bearer"));
    assert_eq!(played.get("/metrics").status, 401);
    let bearer = "Authorization: Bearer s3cret-token-0123456789\r\n";
    assert_eq!(
        played.request("GET", "/api/upstreams", bearer, "").status,
        200
    );
}

#[test]
fn connections_are_bounded() {
    let played = Played::ready(SERVICE);
    let open: Vec<TcpStream> = (0..CONNECTIONS)
        .map(|_| TcpStream::connect(played.admin).unwrap())
        .collect();
    until("a refusal", || {
        let mut more = TcpStream::connect(played.admin).unwrap();
        more.set_read_timeout(Some(DEADLINE)).unwrap();
        more.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .ok()?;
        let mut byte = [0];
        // Refused: closed or reset before a byte of an answer.
        (!matches!(more.read(&mut byte), Ok(1))).then_some(())
    });
    drop(open);
    until("room again", || {
        let mut stream = TcpStream::connect(played.admin).unwrap();
        let _ = write!(
            stream,
            "GET /healthz HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            played.admin
        );
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        text.starts_with("HTTP/1.1 200").then_some(())
    });
    let families = strict::read(&played.get("/metrics").body).unwrap();
    assert!(families["gateway_admin_connections_refused_total"].value(&[]) >= 1.0);
}
