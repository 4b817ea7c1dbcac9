//! Every wait has an end, and only the wait that it is meant for.

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::{plain, plain_with};
use crate::harness::{
    Connection, Gate, Gateway, PATIENCE, Reply, Upstream, eventually, eventually_within,
};

/// Nothing, and not the end either, comes within the time.
#[track_caller]
fn expect_silence(connection: &mut Connection, millis: u64) {
    connection.patience(Duration::from_millis(millis));
    let error = connection
        .wire
        .fill()
        .expect_err("neither bytes nor the end");
    assert!(
        matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        "{error}"
    );
    connection.patience(PATIENCE);
}

/// Ends within the patience, with nothing or with this status before it.
#[track_caller]
fn expect_end(connection: &mut Connection, status: u16) {
    let said = connection.drain();
    let wanted = format!("HTTP/1.1 {status} ");
    assert!(
        said.is_empty() || said.starts_with(wanted.as_bytes()),
        "{}",
        String::from_utf8_lossy(&said)
    );
}

#[test]
fn a_head_that_does_not_end_is_408() {
    let upstream = Upstream::named("a");
    let gateway = plain_with(&[&upstream], "limits: { headerTimeout: 1s }\n", "");
    let mut connection = gateway.connect();
    connection.send("GET / HTTP/1.1\r\nHost: x\r\nX-Unfin");
    let started = Instant::now();
    expect_end(&mut connection, 408);
    assert!(
        started.elapsed() > Duration::from_millis(500)
            && started.elapsed() < Duration::from_secs(5)
    );
    assert_eq!(upstream.count(), 0);
}

#[test]
fn a_head_that_trickles_does_not_buy_time() {
    let upstream = Upstream::named("a");
    let gateway = plain_with(&[&upstream], "limits: { headerTimeout: 1s }\n", "");
    let mut connection = gateway.connect();
    connection.send("GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ");
    let started = Instant::now();
    connection.patience(Duration::from_millis(100));
    // One byte in each pause of reading, until the gateway has had enough.
    loop {
        assert!(
            started.elapsed() < Duration::from_secs(6),
            "still fed after 6 s"
        );
        match connection.wire.fill() {
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                drop(connection.try_send("x"))
            }
            _ => break,
        }
    }
    assert_eq!(upstream.count(), 0);
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let upstream = Upstream::named("a");
    let gateway = plain_with(&[&upstream], "limits: { idleTimeout: 1s }\n", "");
    let mut fresh = gateway.connect();
    let mut used = gateway.connect();
    used.exchange("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect(200);
    let started = Instant::now();
    used.expect_close();
    assert!(started.elapsed() > Duration::from_millis(500));
    fresh.expect_close();
}

#[test]
fn an_upstream_that_does_not_answer_is_504() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::new("a", move |_| Reply::ok("late").after(&held));
    let gateway = plain_with(
        &[&upstream],
        "limits: { responseTimeout: 1s }\n",
        "retry: { attempts: 1 }\n",
    );
    let started = Instant::now();
    let response = gateway.client().post("/", "x").expect(504);
    assert!(started.elapsed() < Duration::from_secs(5), "{response:?}");
    gateway.expect_at_least("upstream_errors_total", &["timeout"], 1.0);
    gate.open();
}

#[test]
fn the_response_timeout_never_cuts_a_stream() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::raw("a", move |link| {
        if link.request().is_some() {
            link.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc");
            held.wait();
            link.send("def");
        }
    });
    let gateway = plain_with(
        &[&upstream],
        "limits: { responseTimeout: 500ms, idleTimeout: 500ms, headerTimeout: 500ms, bodyTimeout: 500ms }\n",
        "",
    );
    let mut connection = gateway.connect();
    connection.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(connection.head().status(), 200);
    assert_eq!(connection.wire.take(3).unwrap(), b"abc");
    expect_silence(&mut connection, 2500);
    gate.open();
    assert_eq!(connection.wire.take(3).unwrap(), b"def");
}

#[test]
fn waiting_for_a_slow_answer_is_not_being_idle() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::new("a", move |_| Reply::ok("patience").after(&held));
    let gateway = plain_with(
        &[&upstream],
        "limits: { idleTimeout: 500ms, headerTimeout: 500ms, bodyTimeout: 500ms }\n",
        "",
    );
    let mut connection = gateway.connect();
    connection.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    expect_silence(&mut connection, 2500);
    gate.open();
    assert_eq!(connection.response("GET").expect(200).text(), "patience");
}

#[test]
fn a_request_body_that_stalls_is_ended() {
    let upstream = Upstream::named("a");
    let gateway = plain_with(&[&upstream], "limits: { bodyTimeout: 1s }\n", "");
    for framing in [
        "Content-Length: 10\r\n\r\nabc",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nab",
    ] {
        let mut connection = gateway.connect();
        connection.send(format!("POST / HTTP/1.1\r\nHost: x\r\n{framing}"));
        let started = Instant::now();
        expect_end(&mut connection, 408);
        assert!(started.elapsed() > Duration::from_millis(500));
    }
    eventually("its upstream connections are gone", || {
        (upstream.open() == 0).then_some(())
    });
    assert_eq!(
        upstream.count(),
        0,
        "no upstream took it for a whole request"
    );
}

#[test]
fn a_body_that_keeps_coming_is_not_ended() {
    let upstream = Upstream::new("a", |request| Reply::ok(&request.body));
    let gateway = plain_with(
        &[&upstream],
        "limits: { bodyTimeout: 1s, minBodyRate: 0 }\n",
        "",
    );
    let mut connection = gateway.connect();
    connection.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n");
    for byte in b"12345678" {
        expect_silence(&mut connection, 300);
        connection.send([*byte]);
    }
    assert_eq!(connection.response("POST").expect(200).text(), "12345678");
}

#[test]
fn a_body_under_the_minimum_rate_is_ended() {
    let upstream = Upstream::named("a");
    let gateway = plain_with(&[&upstream], "limits: { minBodyRate: 1000 }\n", "");
    let mut connection = gateway.connect();
    connection.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n");
    let started = Instant::now();
    connection.patience(Duration::from_millis(100));
    loop {
        assert!(
            started.elapsed() < Duration::from_secs(25),
            "10 bytes a second for 25 s"
        );
        match connection.wire.fill() {
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                drop(connection.try_send("x"))
            }
            _ => break,
        }
    }
    assert!(started.elapsed() > Duration::from_secs(8));
}

#[test]
fn a_connect_that_hangs_is_given_up() {
    // A listener that never accepts, with its queue filled: the kernel drops the next SYN.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut fillers = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        fillers.push(stream);
        assert!(fillers.len() < 10_000, "the queue has no end");
    }
    let text = format!(
        "services: [{{ name: app, upstreams: [{{ id: a, address: \"{address}\" }}], connections: {{ connectTimeout: 500ms }}, retry: {{ attempts: 1 }} }}]\n"
    );
    let gateway = Gateway::start(&text);
    let started = Instant::now();
    let status = gateway.get("/").status();
    assert!(matches!(status, 502..=504), "{status}");
    assert!(
        started.elapsed() < Duration::from_secs(4),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn defaults_do_not_hurry_anybody() {
    let upstream = Upstream::new("a", |request| Reply::ok(&request.body));
    let gateway = plain(&[&upstream]);
    let mut connection = gateway.connect();
    connection.send("POST / HTTP/1.1\r\n");
    expect_silence(&mut connection, 1500);
    connection.send("Host: x\r\nContent-Length: 2\r\n\r\na");
    expect_silence(&mut connection, 1500);
    connection.send("b");
    assert_eq!(connection.response("POST").expect(200).text(), "ab");
}

#[test]
fn a_client_that_stops_reading_does_not_hold_its_upstream_for_ever() {
    let upstream = Upstream::raw("a", |link| {
        if link.request().is_some() {
            link.send("HTTP/1.1 200 OK\r\nContent-Length: 500000000\r\n\r\n");
            while link.send([b'x'; 65536]) {}
        }
    });
    let gateway = plain(&[&upstream]);
    let mut connection = gateway.connect();
    connection.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(connection.head().status(), 200);
    eventually_within(Duration::from_secs(45), "the upstream is let go", || {
        (upstream.open() == 0).then_some(())
    });
    gateway.expect_metric("slow_readers_total", &[], 1.0);
}
