//! The control thread against played cores: what it serves, sends and writes.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

use super::admin::CONNECTIONS;
use super::admin::exposition::strict;
use super::admin::metrics::SESSION_METRICS;
use super::shutdown::Exit;
use super::testing::{DEADLINE, Played, until};
use crate::message::{Message, UpstreamRef};
use crate::metrics::{Metric, PinOutcome, bump};
use crate::pin::state::{AdminState, HealthState};

const SERVICE: &str = "  services:
    - name: app
      upstreams: [{ id: a, address: \"127.0.0.1:1\" }, { id: b, address: \"unix:/nowhere/b.sock\" }]
";

fn with(more: &str) -> String {
    format!("{SERVICE}{more}")
}

const SESSION: &str = "  session: { enabled: true, identifier: { type: cookie, name: sid } }\n";

#[test]
fn readiness_follows_the_cores() {
    let played = Played::start(SERVICE);
    assert_eq!(played.get("/healthz").status, 200);
    let reply = played.get("/readyz");
    assert_eq!(
        (reply.status, reply.body.as_str()),
        (
            503,
            "core 0 does not listen yet\ncore 1 does not listen yet\n"
        )
    );
    played.cores[1].send(Message::Ready);
    until("one core", || {
        (played.get("/readyz").body == "core 0 does not listen yet\n").then_some(())
    });
    played.cores[0].send(Message::Ready);
    until("all cores", || {
        (played.get("/readyz").status == 200).then_some(())
    });
    played.shared.unready.store(true, Relaxed);
    assert_eq!(played.get("/readyz").body, "readiness was withdrawn\n");
    assert_eq!(played.get("/healthz").status, 200);
}

#[test]
fn metrics_are_well_formed_and_sum_over_cores() {
    let played = Played::ready(&with(SESSION));
    for (core, metrics) in played.shared.metrics.iter().enumerate() {
        let n = core as u64 + 1;
        metrics.set(Metric::SessionsActive, 10 * n);
        metrics.add(Metric::MissExpired, n);
        metrics.routes[0].finished(200, 99);
        metrics.routes[0].finished(503, 2_000_000_000);
        metrics.routes[0].pinned(PinOutcome::Hit);
        metrics.routes[0].pinned(PinOutcome::Unavailable);
        bump(&metrics.upstreams[0][1].requests, n);
    }
    played.shared.active[0][0].store(7, Relaxed);
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
    assert_eq!(value("gateway_active_sessions", &[("role", "owned")]), 30.0);
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
fn an_operator_sets_states() {
    let played = Played::ready(SERVICE);
    let reply = played.put("/api/upstreams/app/b", "{\"state\":\"drain\"}");
    let json = reply.json();
    assert_eq!(
        (&json["state"], &json["admin"], &json["health"]),
        (&"drain".into(), &"drain".into(), &"up".into())
    );
    let b = UpstreamRef {
        service: 0,
        upstream: 1,
    };
    for core in &played.cores {
        core.sees("the state", |message| match message {
            Message::State {
                upstream,
                admin: AdminState::Drain,
                health: HealthState::Up,
            } if *upstream == b => Some(()),
            _ => None,
        });
    }
    let all = played.get("/api/upstreams").json();
    let upstreams = &all["services"][0]["upstreams"];
    assert_eq!(
        (&upstreams[0]["state"], &upstreams[1]["state"]),
        (&"ready".into(), &"drain".into())
    );
    assert_eq!(upstreams[1]["address"], "unix:/nowhere/b.sock");
    assert_eq!(upstreams[0]["addresses"][0], "127.0.0.1:1");
    assert_eq!(played.get("/api/upstreams/app/b").json()["state"], "drain");
    assert_eq!(
        played
            .put("/api/upstreams/app/b", "{\"state\":\"ready\"}")
            .json()["state"],
        "ready"
    );
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

/// Answers every connection with a status that can be changed; 0 closes at once.
fn upstream(status: u16) -> (std::net::SocketAddr, Arc<AtomicU16>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let status = Arc::new(AtomicU16::new(status));
    let answer = Arc::clone(&status);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let status = answer.load(Relaxed);
            let mut head = [0; 4096];
            if status != 0 && stream.read(&mut head).is_ok() {
                let _ = write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
            }
        }
    });
    (address, status)
}

fn health(message: &Message, wanted: HealthState) -> Option<()> {
    match message {
        Message::State { health, .. } if *health == wanted => Some(()),
        _ => None,
    }
}

#[test]
fn checks_decide_for_all_cores() {
    let (address, status) = upstream(200);
    let played = Played::ready(&format!(
        "  services:
    - name: app
      upstreams: [{{ id: a, address: \"{address}\" }}]
      healthCheck: {{ path: /ok, interval: 20ms, timeout: 2s, healthy: 2, unhealthy: 2 }}
"
    ));
    let checked = |state: &str| {
        until(state, || {
            let upstream = played.get("/api/upstreams/app/a").json();
            (upstream["health"] == state && upstream["lastCheck"].is_string()).then_some(upstream)
        })
    };
    assert_eq!(checked("up")["lastCheck"], "status 200");
    for (next, wanted, state) in [
        (500, HealthState::Down, "down"),
        (200, HealthState::Up, "up"),
        (404, HealthState::Drain, "drain"),
        (0, HealthState::Down, "down"),
    ] {
        played.cores.iter().for_each(|core| core.forget());
        status.store(next, Relaxed);
        for core in &played.cores {
            core.sees(state, |message| health(message, wanted));
        }
        checked(state);
    }
    let families = strict::read(&played.get("/metrics").body).unwrap();
    let a = [("service", "app"), ("upstream", "a")];
    assert_eq!(
        families["gateway_upstream_state"].value(&[a[0], a[1], ("state", "down")]),
        1.0
    );
    assert!(families["gateway_upstream_state_changes_total"].value(&a) >= 4.0);
    assert!(
        families["gateway_health_checks_total"].value(&[a[0], a[1], ("result", "failed")]) >= 4.0
    );
}

#[test]
fn failed_exchanges_eject_for_all_cores() {
    let played = Played::ready(
        "  services:
    - name: app
      upstreams: [{ id: a, address: \"127.0.0.1:1\" }]
      passiveHealth: { failures: 3, window: 10s, eject: 50ms }
",
    );
    let upstream = UpstreamRef {
        service: 0,
        upstream: 0,
    };
    for core in [0, 1, 0] {
        played.cores[core].send(Message::Outcome {
            upstream,
            ok: false,
        });
    }
    for core in &played.cores {
        core.sees("the ejection", |message| health(message, HealthState::Down));
        core.sees("its end", |message| health(message, HealthState::Up));
    }
    // One that does not exist is nobody's.
    played.cores[0].send(Message::Outcome {
        upstream: UpstreamRef {
            service: 9,
            upstream: 9,
        },
        ok: false,
    });
    assert_eq!(played.get("/healthz").status, 200);
}

#[test]
fn names_are_resolved_before_readiness() {
    let played = Played::ready(
        "  services:
    - name: app
      upstreams: [{ id: a, address: \"localhost:8099\" }]
",
    );
    for core in &played.cores {
        let addresses = core.sees("addresses", |message| match message {
            Message::Addresses {
                upstream:
                    UpstreamRef {
                        service: 0,
                        upstream: 0,
                    },
                addresses,
            } => Some(Arc::clone(addresses)),
            _ => None,
        });
        assert!(!addresses.is_empty());
        assert!(
            addresses
                .iter()
                .all(|address| address.ip().is_loopback() && address.port() == 8099)
        );
    }
    let shown = played.get("/api/upstreams/app/a").json();
    assert_eq!(shown["address"], "localhost:8099");
    assert!(!shown["addresses"].as_array().unwrap().is_empty());
}

#[test]
fn lines_reach_the_log_and_buffers_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let played = Played::ready(&with(&format!(
        "  accessLog: {{ path: {} }}\n",
        path.display()
    )));
    let mut buffer = Vec::with_capacity(5000);
    buffer.extend_from_slice(b"one\ntwo\n");
    played.cores[1].send(Message::Log(buffer));
    played.cores[1].sees("the buffer", |message| match message {
        Message::LogBuffer(buffer) => {
            (buffer.is_empty() && buffer.capacity() >= 5000).then_some(())
        }
        _ => None,
    });
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
    played.cores[0].order(|core| {
        core.send(Message::Log(b"last\n".to_vec()));
        core.send(Message::Drained);
    });
    played.cores[1].send(Message::Drained);
    played.stopper.stop(true);
    assert_eq!(played.exit(), Exit::Drained);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\nlast\n");
}

#[test]
fn without_a_log_buffers_come_back_as_well() {
    let played = Played::ready(SERVICE);
    played.cores[0].send(Message::Log(b"line\n".to_vec()));
    played.cores[0].sees("the buffer", |message| {
        matches!(message, Message::LogBuffer(b) if b.is_empty()).then_some(())
    });
}

#[test]
fn the_end_comes_in_order() {
    let played = Played::ready(&with("  shutdown: { delay: 50ms, timeout: 15s }\n"));
    played.cores[0].order(|core| core.drains = false);
    played.stopper.stop(false);
    for core in &played.cores {
        core.sees("the drain", |message| {
            matches!(message, Message::Drain).then_some(())
        });
    }
    assert!(
        played.shared.unready.load(Relaxed),
        "readiness failed before"
    );
    let ready = played.get("/readyz");
    assert_eq!(
        (ready.status, ready.body.as_str()),
        (503, "shutting down: draining\n")
    );
    assert_eq!(played.get("/healthz").status, 200);
    played.cores[0].send(Message::Drained);
    assert_eq!(played.exit(), Exit::Drained);
}

#[test]
fn a_core_that_does_not_finish_is_not_waited_for_longer() {
    let played = Played::ready(&with("  shutdown: { delay: 0s, timeout: 100ms }\n"));
    played.cores[0].order(|core| core.drains = false);
    played.stopper.stop(false);
    assert_eq!(played.exit(), Exit::TimedOut);
}

#[test]
fn asked_twice_it_ends_at_once() {
    let played = Played::ready(&with("  shutdown: { delay: 1h, timeout: 1h }\n"));
    played.stopper.stop(false);
    played.stopper.stop(false);
    assert_eq!(played.exit(), Exit::Forced);
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
