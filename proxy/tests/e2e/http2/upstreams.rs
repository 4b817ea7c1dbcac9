//! HTTP/2 upstreams: shared connections, their ends, refusals, clients of either version.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::frames::*;
use crate::harness::{Gateway, PATIENCE, Upstream, eventually, service_with};

/// An upstream that speaks frames: one function serves each connection.
struct Scripted {
    port: u16,
    accepted: Arc<AtomicUsize>,
}

impl Scripted {
    fn start(serve: impl Fn(usize, &mut Peer) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = accepted.clone();
        let serve = Arc::new(serve);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let serve = serve.clone();
                let nth = count.fetch_add(1, SeqCst);
                std::thread::spawn(move || {
                    let mut preface = [0; 24];
                    let mut stream = stream;
                    drop(stream.set_read_timeout(Some(PATIENCE)));
                    if std::io::Read::read_exact(&mut stream, &mut preface).is_err() {
                        return;
                    }
                    assert_eq!(preface, PREFACE);
                    let mut peer = Peer::over(stream);
                    peer.send(SETTINGS, 0, 0, []);
                    serve(nth, &mut peer);
                });
            }
        });
        Self { port, accepted }
    }

    fn gateway(&self) -> Gateway {
        Gateway::start(&format!(
            "services:\n  - name: app\n    protocol: h2\n    upstreams: [{{ id: a, address: \"127.0.0.1:{}\" }}]\n\
             runtime: {{ cores: 1 }}\nlimits: {{ responseTimeout: 2s }}\n",
            self.port
        ))
    }
}

/// The next request's stream.
fn request_of(peer: &mut Peer) -> Option<u32> {
    while let Ok(Some(frame)) = peer.next() {
        if frame.kind == HEADERS {
            return Some(frame.stream);
        }
    }
    None
}

fn ok(peer: &mut Peer, stream: u32) {
    drop(peer.try_write(&Frame::new(HEADERS, END_HEADERS, stream, [0x88]).bytes()));
    drop(peer.try_write(&Frame::new(DATA, END_STREAM, stream, "ok").bytes()));
}

#[test]
fn requests_of_http1_clients_share_one_connection() {
    let upstream = Scripted::start(|_, peer| {
        while let Some(stream) = request_of(peer) {
            ok(peer, stream);
        }
    });
    let gateway = upstream.gateway();
    for n in 0..20 {
        assert_eq!(gateway.get(&format!("/{n}")).expect(200).text(), "ok");
    }
    assert_eq!(upstream.accepted.load(SeqCst), 1);
}

#[test]
fn after_goaway_a_new_connection_is_opened() {
    let upstream = Scripted::start(|_, peer| {
        if let Some(stream) = request_of(peer) {
            ok(peer, stream);
            let mut payload = stream.to_be_bytes().to_vec();
            payload.extend([0; 4]);
            drop(peer.try_write(&Frame::new(GOAWAY, 0, 0, payload).bytes()));
            while let Ok(Some(_)) = peer.next() {}
        }
    });
    let gateway = upstream.gateway();
    for n in 0..10 {
        assert_eq!(gateway.get(&format!("/{n}")).expect(200).text(), "ok");
    }
    assert_eq!(upstream.accepted.load(SeqCst), 10);
}

#[test]
fn a_request_that_was_not_processed_is_sent_again_whatever_its_method() {
    for how in [RST_STREAM, GOAWAY] {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let upstream = Scripted::start(move |_, peer| {
            while let Some(stream) = request_of(peer) {
                if count.fetch_add(1, SeqCst) > 0 {
                    ok(peer, stream);
                } else if how == RST_STREAM {
                    peer.send(RST_STREAM, 0, stream, REFUSED_STREAM.to_be_bytes());
                } else {
                    peer.send(GOAWAY, 0, 0, [0; 8]);
                }
            }
        });
        let gateway = upstream.gateway();
        let response = gateway.client().post("/", "content").expect(200);
        assert_eq!(response.text(), "ok");
        assert_eq!(asked.load(SeqCst), 2);
    }
}

#[test]
fn what_an_upstream_does_wrong_is_a_502_or_504_and_the_next_request_goes_through() {
    let wrong: [fn(&mut Peer, u32); 5] = [
        |peer, stream| {
            drop(peer.try_write(&Frame::new(RST_STREAM, 0, stream, [0, 0, 0, 2]).bytes()))
        },
        |peer, _| drop(peer.try_write(b"HTTP/1.1 400 Bad Request\r\n\r\n")),
        |peer, _| peer.finish(),
        |_, _| {},
        // An upper-case name.
        |peer, stream| {
            let mut fields = vec![0x88];
            fields.extend(head(&[("X", "y")]));
            drop(peer.try_write(&Frame::new(HEADERS, END_HEADERS, stream, fields).bytes()));
        },
    ];
    for (n, act) in wrong.into_iter().enumerate() {
        let asked = AtomicUsize::new(0);
        let upstream = Scripted::start(move |_, peer| {
            while let Some(stream) = request_of(peer) {
                match asked.fetch_add(1, SeqCst) {
                    0 => act(peer, stream),
                    _ => ok(peer, stream),
                }
            }
        });
        let gateway = upstream.gateway();
        let response = gateway.client().post("/", "content");
        assert!(
            [502, 504].contains(&response.status()),
            "{n}: {:?}",
            response.head
        );
        gateway.get("/").expect(200);
    }
}

#[test]
fn an_upstreams_bound_on_streams_opens_another_connection() {
    let held = crate::harness::Gate::new();
    let gate = held.clone();
    let upstream = Scripted::start(move |_, peer| {
        // SETTINGS_MAX_CONCURRENT_STREAMS of 2.
        peer.send(SETTINGS, 0, 0, [0, 3, 0, 0, 0, 2]);
        let mut waiting = Vec::new();
        while let Some(stream) = request_of(peer) {
            waiting.push(stream);
            if waiting.len() == 2 {
                gate.wait();
                for stream in waiting.drain(..) {
                    ok(peer, stream);
                }
            }
        }
    });
    let gateway = upstream.gateway();
    // One by one until the bound is known.
    let mut peer = Peer::connect(&gateway, &[]);
    for n in 0..6 {
        peer.head(2 * n + 1, &get("/"), true);
        crate::harness::eventually("a request at the upstream", || {
            (gateway.metric("upstream_requests_total", &[]) >= f64::from(n + 1)).then_some(())
        });
    }
    held.open();
    for n in 0..6 {
        peer.answer(2 * n + 1).expect(200);
    }
    assert!(upstream.accepted.load(SeqCst) >= 3);
}

#[test]
fn a_connection_that_has_gone_silent_is_not_asked_again() {
    let upstream = Scripted::start(|nth, peer| {
        let mut answered = 0;
        while let Some(stream) = request_of(peer) {
            if nth > 0 || answered == 0 {
                ok(peer, stream);
            }
            answered += 1;
        }
    });
    let gateway = upstream.gateway();
    gateway.get("/first").expect(200);
    gateway.get("/silent").expect(504);
    gateway.get("/next").expect(200);
    assert_eq!(upstream.accepted.load(SeqCst), 2);
}

#[test]
fn a_connection_that_names_one_client_holds_up_no_other() {
    // It never answers a TLS hello.
    let silent = Upstream::raw(
        "silent",
        |link| while link.wire.fill().is_ok_and(|n| n > 0) {},
    );
    let keys = "protocol: h2\nproxyProtocol: true\ntls: { serverName: x }\nconnections: { connectTimeout: 1m }\n";
    let body = format!(
        "{}runtime: {{ cores: 1 }}\n",
        service_with(&[&silent], keys)
    );
    let gateway = Gateway::start(&body);
    let mut clients = [gateway.connect(), gateway.connect(), gateway.connect()];
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    eventually("each client's connection is being opened", || {
        (silent.accepted() == 3).then_some(())
    });
}

#[test]
fn a_websocket_for_an_http2_upstream_is_refused_in_so_many_words_and_asks_nobody() {
    let upstream = Scripted::start(|_, peer| {
        while let Some(stream) = request_of(peer) {
            ok(peer, stream);
        }
    });
    let gateway = upstream.gateway();
    let opening = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut client = gateway.connect();
    let response = client.exchange(opening).expect(501);
    assert!(response.text().contains("WebSocket"), "{}", response.text());
    let mut peer = Peer::connect(&gateway, &[]);
    let mut fields = request("CONNECT", "/chat");
    fields.extend([(":protocol", "websocket"), ("sec-websocket-version", "13")]);
    peer.head(1, &fields, false);
    let answer = peer.answer(1);
    assert!(answer.body().starts_with(b"501 "), "{answer:?}");
    assert_eq!(upstream.accepted.load(SeqCst), 0);
    gateway.expect_metric("requests_refused_total", &["websocket"], 2.0);
    // Neither connection is harmed, and another protocol is only not switched to.
    let other = opening.replace("websocket", "another/1");
    client.exchange(&other).expect(200);
    peer.head(3, &get("/"), true);
    peer.answer(3).expect(200);
    gateway.expect_metric("requests_refused_total", &["websocket"], 2.0);
}
