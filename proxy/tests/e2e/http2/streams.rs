//! Many streams over one connection: sessions of several cores, flow control, the end.

use std::collections::HashSet;

use super::frames::*;
use crate::harness::{Gate, Gateway, Reply, Upstream, service};

const SESSION: &str =
    "session: { identifier: { type: cookie, name: sid }, options: { secure: false } }\n";

#[test]
fn a_hundred_streams_at_once_are_a_hundred_sessions_over_two_cores() {
    let upstream = Upstream::new("a", |request| {
        Reply::ok(request.get("x-session-id").unwrap_or("none"))
    });
    let gateway = Gateway::start(&format!(
        "{}{SESSION}runtime: {{ cores: 2 }}\n",
        service(&[&upstream])
    ));
    let clients: Vec<(String, String)> = (0..100)
        .map(|_| {
            let response = gateway.get("/new").expect(200);
            let token = response.set_cookie("sid").value;
            (response.text(), format!("sid={token}"))
        })
        .collect();
    let mut peer = Peer::connect(&gateway, &[]);
    for round in 0..3 {
        let stream = |n: usize| (2 * (round * 100 + n) + 1) as u32;
        for (n, (_, cookie)) in clients.iter().enumerate() {
            let mut fields = get("/");
            fields.push(("cookie", cookie));
            peer.head(stream(n), &fields, true);
        }
        for (n, (sid, _)) in clients.iter().enumerate() {
            let answer = peer.answer(stream(n)).expect(200);
            assert_eq!(String::from_utf8_lossy(&answer.body()), *sid);
        }
    }
    let sids: HashSet<_> = clients.iter().map(|(sid, _)| sid).collect();
    assert_eq!((sids.len(), gateway.records()), (100, 100));
    gateway.expect_at_least("requests_crossed_cores_total", &[], 1.0);
}

#[test]
fn a_stream_without_window_holds_no_other() {
    let upstream = Upstream::new("a", |_| Reply::ok("x".repeat(200_000)));
    let gateway = Gateway::start(&service(&[&upstream]));
    // SETTINGS_INITIAL_WINDOW_SIZE of 0; the connection's own is opened wide.
    let mut peer = Peer::connect(&gateway, &[0, 4, 0, 0, 0, 0]);
    peer.send(WINDOW_UPDATE, 0, 0, 1_000_000u32.to_be_bytes());
    peer.head(1, &get("/stalled"), true);
    peer.until("a head", |f| f.kind == HEADERS && f.stream == 1);
    peer.head(3, &get("/open"), true);
    peer.send(WINDOW_UPDATE, 0, 3, 300_000u32.to_be_bytes());
    assert_eq!(peer.answer(3).expect(200).body().len(), 200_000);
    assert!(peer.frames[&1].iter().all(|f| f.kind != DATA));
    peer.send(WINDOW_UPDATE, 0, 1, 300_000u32.to_be_bytes());
    assert_eq!(peer.answer(1).expect(200).body().len(), 200_000);
}

#[test]
fn a_client_that_resets_its_stream_lets_its_upstream_go() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::new("a", move |request| {
        if request.head.target() == "/slow" {
            held.wait();
        }
        Reply::ok("ok")
    });
    let gateway = Gateway::start(&service(&[&upstream]));
    let mut peer = Peer::connect(&gateway, &[]);
    peer.head(1, &get("/slow"), true);
    upstream.wait_for(1);
    peer.send(RST_STREAM, 0, 1, 8u32.to_be_bytes());
    gateway.expect_at_least("client_aborts_total", &[], 1.0);
    peer.head(3, &get("/next"), true);
    peer.answer(3).expect(200);
    gate.open();
}

#[test]
fn on_a_drain_what_began_is_finished_and_the_connection_is_told_to_go() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::new("a", move |_| {
        held.wait();
        Reply::ok("late")
    });
    let mut gateway = Gateway::start(&service(&[&upstream]));
    let mut peer = Peer::connect(&gateway, &[]);
    peer.head(1, &get("/"), true);
    upstream.wait_for(1);
    gateway.signal("TERM");
    peer.until("GOAWAY", |f| f.kind == GOAWAY && f.code() == 0);
    gate.open();
    assert_eq!(peer.answer(1).expect(200).body(), b"late");
    peer.end();
    assert!(gateway.wait(crate::harness::PATIENCE).success());
}

#[test]
fn an_idle_connection_is_told_to_go_after_the_idle_timeout() {
    let upstream = Upstream::named("a");
    let keys = "limits: { idleTimeout: 1s }\n";
    let gateway = Gateway::start(&format!("{}{keys}", service(&[&upstream])));
    let mut peer = Peer::connect(&gateway, &[]);
    peer.head(1, &get("/"), true);
    peer.answer(1).expect(200);
    assert_eq!(peer.end(), Some(0));
    gateway.expect_metric("connections_open", &[], 0.0);
}

#[test]
fn a_preface_that_does_not_come_whole_is_ended_in_time() {
    let upstream = Upstream::named("a");
    let keys = "limits: { headerTimeout: 1s }\n";
    let gateway = Gateway::start(&format!("{}{keys}", service(&[&upstream])));
    // A peer that speaks frames would answer the SETTINGS that come.
    let mut connection = gateway.connect();
    connection.send(&PREFACE[..20]).drain();
    gateway.expect_metric("connections_open", &[], 0.0);
    gateway.expect_metric("requests_refused_total", &["timeout"], 1.0);
    assert_eq!(
        gateway.metric("requests_refused_total", &["malformed"]),
        0.0
    );
}
