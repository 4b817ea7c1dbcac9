//! Keep-alive, pipelining, and the connections to upstreams.

use super::{plain, plain_with};
use crate::harness::{Connection, Gate, Gateway, Reply, Upstream, eventually};

const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

#[test]
fn one_client_connection_uses_one_upstream_connection() {
    let upstream = Upstream::named("a");
    let gateway = plain(&[&upstream]);
    let mut connection = gateway.connect();
    for _ in 0..20 {
        connection.exchange(GET).expect(200);
    }
    assert_eq!((upstream.count(), upstream.accepted()), (20, 1));
}

#[test]
fn upstream_connections_are_shared_by_the_clients_of_a_core() {
    let upstream = Upstream::named("a");
    let gateway = plain_with(&[&upstream], "runtime: { cores: 1 }\n", "");
    for _ in 0..10 {
        gateway.connect().exchange(GET).expect(200);
    }
    assert_eq!(upstream.accepted(), 1);
}

#[test]
fn idle_upstream_connections_are_bounded_in_number_and_time() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::new("a", move |_| Reply::ok("x").after(&held));
    let keys = "connections: { maxIdlePerCore: 2, idleTimeout: 1s }\n";
    let gateway = plain_with(&[&upstream], "runtime: { cores: 1 }\n", keys);
    let mut clients: Vec<Connection> = (0..6).map(|_| gateway.connect()).collect();
    for client in &mut clients {
        client.send(GET);
    }
    upstream.wait_for(6);
    gate.open();
    for client in &mut clients {
        client.response("GET").expect(200);
    }
    eventually("no more than two are kept", || {
        (upstream.open() <= 2).then_some(())
    });
    eventually("and these not for ever", || {
        (upstream.open() == 0).then_some(())
    });
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::new("a", move |request| {
        let reply = Reply::ok(request.head.target());
        if request.head.target() == "/1" {
            reply.after(&held)
        } else {
            reply
        }
    });
    let gateway = plain(&[&upstream]);
    let mut connection = gateway.connect();
    connection.send(
        "GET /1 HTTP/1.1\r\nHost: x\r\n\r\nPOST /2 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc\
         POST /3 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nz\r\n0\r\n\r\nGET /4 HTTP/1.1\r\nHost: x\r\n\r\n",
    );
    upstream.wait_for(1);
    gate.open();
    for target in ["/1", "/2", "/3", "/4"] {
        assert_eq!(connection.response("GET").expect(200).text(), target);
    }
    let bodies: Vec<Vec<u8>> = upstream.requests().into_iter().map(|r| r.body).collect();
    assert_eq!(bodies, [&b""[..], b"abc", b"z", b""]);
}

#[test]
fn a_thousand_pipelined_requests_are_a_thousand_answers() {
    let upstream = Upstream::new("a", |request| Reply::ok(request.head.target()));
    let gateway = plain(&[&upstream]);
    let mut connection = gateway.connect();
    let mut writer = connection.wire.stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        let all: String = (0..1000)
            .map(|n| format!("GET /{n} HTTP/1.1\r\nHost: x\r\n\r\n"))
            .collect();
        std::io::Write::write_all(&mut writer, all.as_bytes()).unwrap();
    });
    for n in 0..1000 {
        assert_eq!(connection.response("GET").text(), format!("/{n}"));
    }
    sender.join().unwrap();
}

#[test]
fn a_client_that_asks_to_close_is_told_and_closed() {
    let upstream = Upstream::named("a");
    let gateway = plain_with(&[&upstream], "runtime: { cores: 1 }\n", "");
    let mut connection = gateway.connect();
    let response = connection
        .exchange("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .expect(200);
    assert!(
        response.head.lists("connection", "close"),
        "{:?}",
        response.head
    );
    connection.expect_close();
    gateway.connect().exchange(GET).expect(200);
    assert_eq!(
        upstream.accepted(),
        1,
        "the upstream's connection is not the client's"
    );
}

#[test]
fn a_client_that_half_closes_still_gets_its_answer() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::new("a", move |_| Reply::ok("still").after(&held));
    let gateway = plain(&[&upstream]);
    let mut connection = gateway.connect();
    connection.send(GET);
    connection.finish();
    upstream.wait_for(1);
    gate.open();
    assert_eq!(connection.response("GET").expect(200).text(), "still");
    connection.expect_close();
}

#[test]
fn an_upstream_that_closes_does_not_close_the_client() {
    let upstream = Upstream::new("a", |_| {
        Reply::ok("x").header("Connection", "close").close()
    });
    let gateway = plain(&[&upstream]);
    let mut connection = gateway.connect();
    for _ in 0..5 {
        let response = connection.exchange(GET).expect(200);
        assert!(
            !response.head.lists("connection", "close"),
            "{:?}",
            response.head
        );
    }
    assert_eq!(upstream.accepted(), 5);
}

#[test]
fn kept_connections_that_the_upstream_ended_meanwhile_cost_no_request() {
    let mut upstream = Upstream::named("a");
    let gateway = plain(&[&upstream]);
    let mut connection = gateway.connect();
    for round in 0..5 {
        connection.exchange(GET).expect(200);
        connection
            .exchange("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
            .expect(200);
        if round % 2 == 0 {
            upstream.cut();
        } else {
            upstream.stop();
            upstream.restart();
        }
        // Either end may notice first; both orders must work.
        eventually("the upstream's side is closed", || {
            (upstream.open() == 0).then_some(())
        });
    }
    assert_eq!(upstream.count(), 10, "each exactly once");
}

#[test]
fn a_client_that_leaves_takes_its_request_with_it() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::new("a", move |_| Reply::ok("x").after(&held));
    let gateway = plain(&[&upstream]);
    let idle = gateway.descriptors();
    let mut connection = gateway.connect();
    connection.send(GET);
    upstream.wait_for(1);
    drop(connection);
    gate.open();
    eventually("nothing is left open but the pool", || {
        (gateway.descriptors() <= idle + 1).then_some(())
    });
    gateway.get("/").expect(200);
}

#[test]
fn upstreams_on_unix_sockets_work() {
    let dir = tempfile::tempdir().unwrap();
    let upstream = Upstream::unix("u", &dir.path().join("app.sock"), |request| {
        Reply::ok(&request.body)
    });
    let gateway = plain(&[&upstream]);
    let mut connection = gateway.connect();
    for _ in 0..3 {
        let response = connection
            .exchange("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 3\r\n\r\nabc")
            .expect(200);
        assert_eq!(response.text(), "abc");
    }
    assert_eq!(upstream.last().get("host"), Some("app.test"));
}

#[test]
fn upstreams_by_name_are_resolved() {
    let upstream = Upstream::named("a");
    let body = format!(
        "services: [{{ name: app, upstreams: [{{ id: a, address: \"localhost:{}\" }}] }}]\n",
        upstream.port()
    );
    let gateway = Gateway::start(&body);
    gateway.get("/").expect(200);
    assert_eq!(upstream.count(), 1);
}

#[test]
fn a_name_that_does_not_resolve_is_unavailable_and_no_crash() {
    let body = "services: [{ name: app, upstreams: [{ id: a, address: \"does-not-exist.invalid:80\" }] }]\n";
    let mut gateway = Gateway::start(body);
    let status = gateway.get("/").status();
    assert!(matches!(status, 502 | 503), "{status}");
    assert!(gateway.lives());
}

#[test]
fn connections_beyond_the_limit_are_closed_and_counted() {
    let upstream = Upstream::named("a");
    let gateway = plain_with(
        &[&upstream],
        "runtime: { cores: 1, maxConnections: 4 }\n",
        "",
    );
    let mut kept: Vec<Connection> = (0..4).map(|_| gateway.connect()).collect();
    for connection in &mut kept {
        connection.exchange(GET).expect(200);
    }
    let mut fifth = gateway.connect();
    drop(fifth.try_send(GET));
    let said = fifth.drain();
    assert!(
        said.is_empty() || said.starts_with(b"HTTP/1.1 503"),
        "{}",
        String::from_utf8_lossy(&said)
    );
    gateway.expect_at_least("connections_refused_total", &[], 1.0);
    drop(kept);
    eventually("there is room again", || {
        let mut connection = gateway.connect();
        drop(connection.try_send(GET));
        connection
            .try_response("GET")
            .ok()
            .filter(|r| r.status() == 200)
    });
}
