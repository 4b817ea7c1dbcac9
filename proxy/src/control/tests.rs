//! The control thread against played cores: what it sends and writes, and how it ends.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

use super::admin::exposition::strict;
use super::shutdown::Exit;
use super::testing::{Played, SERVICE, until, with};
use crate::message::Message;
use crate::pin::state::{AdminState, HealthState};
use crate::setup::UpstreamId;

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
fn an_operator_sets_states() {
    let played = Played::ready(SERVICE);
    let reply = played.put("/api/upstreams/app/b", "{\"state\":\"drain\"}");
    let json = reply.json();
    assert_eq!(
        (&json["state"], &json["admin"], &json["health"]),
        (&"drain".into(), &"drain".into(), &"up".into())
    );
    let b = UpstreamId(1);
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
    let families = strict::read(&played.get("/metrics").body).unwrap();
    assert_eq!(
        families["gateway_events_total"].value(&[("type", "upstreamStateChanged")]),
        1.0
    );
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
    let upstream = UpstreamId(0);
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
        upstream: UpstreamId(9),
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
                upstream: UpstreamId(0),
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
