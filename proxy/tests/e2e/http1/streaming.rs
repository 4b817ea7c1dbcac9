//! Bodies flow while they come; nobody's slowness becomes our memory.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::{plain, plain_with};
use crate::harness::http::Framing;
use crate::harness::{Gate, PATIENCE, Upstream, eventually};

#[test]
fn a_request_body_reaches_the_upstream_before_it_is_complete() {
    let half = Gate::new();
    let seen = half.clone();
    let upstream = Upstream::raw("a", move |link| {
        if link.head().is_none() {
            return;
        }
        assert_eq!(link.wire.take(5).unwrap(), b"first");
        seen.open();
        assert_eq!(link.wire.take(6).unwrap(), b"second");
        link.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone");
    });
    let gateway = plain(&[&upstream]);
    let mut connection = gateway.connect();
    connection.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\nfirst");
    half.wait();
    connection.send("second");
    assert_eq!(connection.response("POST").expect(200).text(), "done");
}

#[test]
fn a_request_in_chunks_reaches_the_upstream_chunk_by_chunk() {
    let turn = Arc::new(AtomicUsize::new(0));
    let count = turn.clone();
    let upstream = Upstream::raw("a", move |link| {
        if link.head().is_none() {
            return;
        }
        let mut all = Vec::new();
        while let Ok(Some(chunk)) = link.wire.chunk() {
            all.extend(chunk);
            count.store(all.len(), Ordering::SeqCst);
        }
        drop(link.wire.trailers());
        link.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
            all.len()
        ));
        link.send(&all);
    });
    let gateway = plain(&[&upstream]);
    let mut connection = gateway.connect();
    connection.send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    for n in 1..=5 {
        connection.send("3\r\nabc\r\n");
        eventually("the chunk arrives before the next is sent", || {
            (turn.load(Ordering::SeqCst) == 3 * n).then_some(())
        });
    }
    connection.send("0\r\n\r\n");
    assert_eq!(
        connection.response("POST").expect(200).text(),
        "abc".repeat(5)
    );
}

#[test]
fn a_response_body_reaches_the_client_before_it_is_complete() {
    for framing in ["Content-Length: 11\r\n", "Transfer-Encoding: chunked\r\n"] {
        let gate = Gate::new();
        let held = gate.clone();
        let chunked = framing.starts_with('T');
        let upstream = Upstream::raw("a", move |link| {
            if link.request().is_none() {
                return;
            }
            link.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n"));
            link.send(if chunked { "5\r\nfirst\r\n" } else { "first" });
            held.wait();
            link.send(if chunked {
                "6\r\nsecond\r\n0\r\n\r\n"
            } else {
                "second"
            });
        });
        let gateway = plain(&[&upstream]);
        let mut connection = gateway.connect();
        connection.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        let head = connection.head();
        assert_eq!(head.status(), 200);
        if head.response_framing("GET").unwrap() == Framing::Chunked {
            assert_eq!(connection.wire.chunk().unwrap().unwrap(), b"first");
            gate.open();
            assert_eq!(connection.wire.chunk().unwrap().unwrap(), b"second");
        } else {
            assert_eq!(connection.wire.take(5).unwrap(), b"first");
            gate.open();
            assert_eq!(connection.wire.take(6).unwrap(), b"second");
        }
    }
}

#[test]
fn a_response_head_reaches_the_client_before_any_body() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::raw("a", move |link| {
        if link.request().is_some() {
            link.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
            held.wait();
            link.send("8\r\ndata: 1\n\r\n0\r\n\r\n");
        }
    });
    let gateway = plain(&[&upstream]);
    let mut connection = gateway.connect();
    connection.send("GET /events HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(
        connection.head().get("content-type"),
        Some("text/event-stream")
    );
    gate.open();
    assert_eq!(
        connection.wire.body(Framing::Chunked).unwrap().data,
        b"data: 1\n"
    );
}

#[test]
fn an_early_response_arrives_while_the_body_is_still_being_sent() {
    let upstream = Upstream::raw("a", |link| {
        if link.head().is_some() {
            link.send(
                "HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\nConnection: close\r\n\r\nstop",
            );
            // Reads on, so that the answer is not lost to a reset.
            while link.wire.fill().is_ok_and(|n| n > 0) {}
        }
    });
    let gateway = plain(&[&upstream]);
    let mut connection = gateway.connect();
    connection
        .send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\nonly the first bytes");
    assert_eq!(connection.response("POST").expect(403).text(), "stop");
}

/// Waits until a counter has stood still for a while, and gives it.
fn settled(counter: &AtomicUsize) -> usize {
    let (mut last, mut since) = (counter.load(Ordering::SeqCst), Instant::now());
    eventually("the flow stands still", || {
        let now = counter.load(Ordering::SeqCst);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        (now > 0 && since.elapsed() > Duration::from_millis(400)).then_some(now)
    })
}

const MEGABYTE: usize = 1 << 20;

#[test]
fn a_slow_reader_of_a_big_response_does_not_grow_the_gateway() {
    const TOTAL: usize = 200 * MEGABYTE;
    let written = Arc::new(AtomicUsize::new(0));
    let count = written.clone();
    let upstream = Upstream::raw("a", move |link| {
        if link.request().is_none() {
            return;
        }
        link.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {TOTAL}\r\n\r\n"
        ));
        let block = vec![b'x'; 65536];
        while count.load(Ordering::SeqCst) < TOTAL && link.send(&block) {
            count.fetch_add(block.len(), Ordering::SeqCst);
        }
    });
    let gateway = plain(&[&upstream]);
    let before = gateway.resident_kib();
    let mut connection = gateway.connect();
    connection.send("GET /big HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(connection.head().status(), 200);
    let stuck = settled(&written);
    assert!(
        stuck < TOTAL / 2,
        "the upstream is held back, not swallowed: {stuck} bytes"
    );
    let grown = gateway.resident_kib().saturating_sub(before);
    assert!(
        grown < 6 * 1024,
        "grew by {grown} KiB while {stuck} bytes wait"
    );
    connection.wire.forget();
    let mut read = 0;
    while read < TOTAL {
        read += connection.wire.take(65536).expect("the rest").len();
    }
    assert_eq!(read, TOTAL);
    let grown = gateway.resident_kib().saturating_sub(before);
    assert!(
        grown < 6 * 1024,
        "grew by {grown} KiB over the whole transfer"
    );
}

/// Reads an upload of so many bytes once the gate opens, and answers.
fn reader(gate: &Gate, total: usize) -> Upstream {
    let held = gate.clone();
    Upstream::raw("a", move |link| {
        if link.head().is_none() {
            return;
        }
        held.wait();
        let mut read = 0;
        while read < total {
            let Ok(block) = link.wire.take(65536) else {
                return;
            };
            read += block.len();
        }
        link.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    })
}

#[test]
fn a_slow_upstream_is_no_fault_of_its_client() {
    const TOTAL: usize = 40 * MEGABYTE;
    let gate = Gate::new();
    let upstream = reader(&gate, TOTAL);
    let gateway = plain_with(&[&upstream], "limits: { bodyTimeout: 1s }\n", "");
    let mut connection = gateway.connect();
    connection.send(format!(
        "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: {TOTAL}\r\n\r\n"
    ));
    let mut writer = connection.wire.stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || writer.write_all(&vec![b'y'; TOTAL]));
    connection.patience(Duration::from_millis(3000));
    assert!(
        connection.wire.fill().is_err(),
        "neither an answer nor the end: the client has done what it could"
    );
    connection.patience(PATIENCE);
    gate.open();
    sender.join().unwrap().expect("it all goes in the end");
    connection.response("PUT").expect(200);
}

#[test]
fn a_slow_upstream_holds_a_big_upload_back() {
    const TOTAL: usize = 100 * MEGABYTE;
    let gate = Gate::new();
    let upstream = reader(&gate, TOTAL);
    let gateway = plain(&[&upstream]);
    let before = gateway.resident_kib();
    let mut connection = gateway.connect();
    connection
        .wire
        .stream
        .set_write_timeout(Some(2 * PATIENCE))
        .unwrap();
    connection.send(format!(
        "PUT /big HTTP/1.1\r\nHost: x\r\nContent-Length: {TOTAL}\r\n\r\n"
    ));
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let mut writer = connection.wire.stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        let block = vec![b'y'; 65536];
        while count.load(Ordering::SeqCst) < TOTAL {
            writer
                .write_all(&block)
                .expect("the gateway takes it in the end");
            count.fetch_add(block.len(), Ordering::SeqCst);
        }
    });
    let stuck = settled(&sent);
    assert!(
        stuck < TOTAL / 2,
        "the client is held back, not swallowed: {stuck} bytes"
    );
    let grown = gateway.resident_kib().saturating_sub(before);
    assert!(
        grown < 6 * 1024,
        "grew by {grown} KiB while {stuck} bytes wait"
    );
    gate.open();
    sender.join().unwrap();
    connection.response("PUT").expect(200);
}
