//! Clients that make work and carry nothing: each is ended, counted, and harms nobody else.

use super::frames::*;
use crate::harness::{Gateway, Upstream, service};

fn setting() -> (Upstream, Gateway) {
    let upstream = Upstream::named("a");
    let keys = "limits: { http2: { maxStreams: 32, maxResets: 100, maxControlFrames: 200 } }\n";
    let gateway = Gateway::start(&format!("{}{keys}", service(&[&upstream])));
    (upstream, gateway)
}

/// Sends frames until the gateway has enough; it must say so, count it, and serve others.
#[track_caller]
fn flood(reason: &str, mut next: impl FnMut(u32) -> Vec<u8>) {
    let (_upstream, mut gateway) = setting();
    let mut good = Peer::connect(&gateway, &[]);
    good.head(1, &get("/before"), true);
    good.answer(1).expect(200);
    let mut peer = Peer::connect(&gateway, &[]);
    peer.polite = false;
    for n in 0..20_000 {
        if peer.try_write(&next(n)).is_err() {
            break;
        }
    }
    if let Some(code) = peer.end() {
        assert_eq!(code, ENHANCE_YOUR_CALM);
    }
    let label = format!("reason=\"{reason}");
    gateway.expect_metric("http2_connections_ended_total", &[&label], 1.0);
    good.head(3, &get("/after"), true);
    good.answer(3).expect(200);
    assert!(gateway.lives());
    gateway.expect_metric("connections_open", &[], 1.0);
}

#[test]
fn streams_reset_as_soon_as_they_are_opened_end_the_connection() {
    flood("resets", |n| {
        let stream = 2 * n + 1;
        let mut out =
            Frame::new(HEADERS, END_HEADERS | END_STREAM, stream, head(&get("/"))).bytes();
        out.extend(Frame::new(RST_STREAM, 0, stream, 8u32.to_be_bytes()).bytes());
        out
    });
}

#[test]
fn a_head_in_endless_continuation_frames_ends_the_connection() {
    flood("continuations", |n| match n {
        0 => Frame::new(HEADERS, 0, 1, head(&get("/"))).bytes(),
        _ => Frame::new(CONTINUATION, 0, 1, head(&[("x", "y")])).bytes(),
    });
}

#[test]
fn settings_without_end_end_the_connection() {
    flood("settings", |_| Frame::new(SETTINGS, 0, 0, []).bytes());
}

#[test]
fn pings_without_end_end_the_connection() {
    flood("pings", |_| Frame::new(PING, 0, 0, b"12345678").bytes());
}

#[test]
fn frames_without_content_end_the_connection() {
    // The codec has a bound of its own on these, and which is met first hangs on how they arrive.
    flood("", |n| match n {
        0 => Frame::new(HEADERS, END_HEADERS, 1, head(&request("POST", "/"))).bytes(),
        _ => Frame::new(DATA, 0, 1, []).bytes(),
    });
    flood("empty", |_| {
        Frame::new(PRIORITY, 0, 1, [0, 0, 0, 0, 9]).bytes()
    });
}

#[test]
fn windows_and_unknown_frames_without_end_end_the_connection() {
    flood("windows", |_| {
        Frame::new(WINDOW_UPDATE, 0, 0, 1u32.to_be_bytes()).bytes()
    });
    flood("unknown", |_| Frame::new(0xee, 0, 0, b"whatever").bytes());
}

#[test]
fn a_head_that_unpacks_to_far_more_than_it_is_ends_the_connection() {
    flood("calm", |n| {
        let mut block = head(&get("/"));
        // A literal that is put into the table, then named again and again by one byte.
        block.extend([0x40, 1, b'a', 127]);
        block.extend([0x81, 0x1e]);
        block.extend([b'x'; 4000]);
        block.extend([0xbe; 12_000]);
        Frame::new(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, block).bytes()
    });
}

#[test]
fn a_head_that_is_a_little_too_large_is_answered_with_431_and_the_next_request_goes_through() {
    let (upstream, gateway) = setting();
    let mut peer = Peer::connect(&gateway, &[]);
    let large = "x".repeat(15_000);
    let mut fields = get("/large");
    fields.extend([("a", &large[..]), ("b", &large[..2000])]);
    let block = head(&fields);
    peer.send(HEADERS, END_STREAM, 1, &block[..16_000]);
    peer.send(CONTINUATION, END_HEADERS, 1, &block[16_000..]);
    let answer = peer.answer(1);
    assert_eq!(
        (answer.heads().count(), upstream.count()),
        (1, 0),
        "{answer:?}"
    );
    assert_ne!(answer.status(), 200);
    peer.head(3, &get("/after"), true);
    peer.answer(3).expect(200);
}

#[test]
fn more_streams_than_may_be_open_at_once_are_refused_one_by_one() {
    let gate = crate::harness::Gate::new();
    let held = gate.clone();
    let upstream = Upstream::new("a", move |_| {
        held.wait();
        crate::harness::Reply::ok("ok")
    });
    let keys = "limits: { http2: { maxStreams: 4 } }\n";
    let gateway = Gateway::start(&format!("{}{keys}", service(&[&upstream])));
    let mut peer = Peer::connect(&gateway, &[]);
    for n in 0..6 {
        peer.head(2 * n + 1, &get("/"), true);
    }
    assert_eq!(peer.answer(9).reset(), Some(REFUSED_STREAM));
    assert_eq!(peer.answer(11).reset(), Some(REFUSED_STREAM));
    gate.open();
    for n in 0..4 {
        peer.answer(2 * n + 1).expect(200);
    }
}

#[test]
fn streams_whose_reset_comes_with_them_ask_no_upstream() {
    let (upstream, gateway) = setting();
    let mut peer = Peer::connect(&gateway, &[]);
    let mut out = Vec::new();
    for n in 0..20 {
        let stream = 2 * n + 1;
        out.extend(Frame::new(HEADERS, END_HEADERS | END_STREAM, stream, head(&get("/"))).bytes());
        out.extend(Frame::new(RST_STREAM, 0, stream, 8u32.to_be_bytes()).bytes());
    }
    peer.try_write(&out).expect("the gateway takes it");
    peer.head(41, &get("/after"), true);
    peer.answer(41).expect(200);
    gateway.expect_metric("http2_streams_total", &[], 21.0);
    assert_eq!((upstream.count(), upstream.accepted()), (1, 1));
}

#[test]
fn streams_that_get_no_window_are_reset_and_let_their_upstream_go() {
    let upstream = Upstream::new("a", |_| crate::harness::Reply::ok("x".repeat(300_000)));
    let keys = "limits: { minBodyRate: 1000 }\nruntime: { cores: 1 }\n";
    let gateway = Gateway::start(&format!("{}{keys}", service(&[&upstream])));
    // SETTINGS_INITIAL_WINDOW_SIZE of 0.
    let mut peer = Peer::connect(&gateway, &[0, 4, 0, 0, 0, 0]);
    peer.send(WINDOW_UPDATE, 0, 0, 1_000_000u32.to_be_bytes());
    for stream in [1, 3, 5, 7] {
        peer.head(stream, &get("/"), true);
        peer.until("a head", |f| f.kind == HEADERS && f.stream == stream);
    }
    // One gets a crumb, which is no pace; one gets all.
    peer.send(WINDOW_UPDATE, 0, 3, 1u32.to_be_bytes());
    peer.send(WINDOW_UPDATE, 0, 7, 300_000u32.to_be_bytes());
    assert_eq!(peer.answer(7).expect(200).body().len(), 300_000);
    for stream in [1, 3, 5] {
        assert!(peer.answer(stream).reset().is_some(), "stream {stream}");
    }
    gateway.expect_metric("http2_stalls_total", &[], 3.0);
    crate::harness::eventually("their upstream connections are closed", || {
        (upstream.open() <= 1).then_some(())
    });
    peer.head(9, &get("/"), true);
    peer.send(WINDOW_UPDATE, 0, 9, 300_000u32.to_be_bytes());
    peer.answer(9).expect(200);
}
