//! Bounds on what a client may send.

use super::{plain, plain_with};
use crate::harness::{Connection, Reply, Upstream};

/// Sends it and gives the status, which must come although more may be on its way.
fn status(connection: &mut Connection, request: &[u8]) -> u16 {
    drop(connection.try_send(request));
    connection.response("GET").status()
}

#[test]
fn a_head_over_its_bound_is_431() {
    let upstream = Upstream::named("a");
    let gateway = plain_with(&[&upstream], "limits: { headerBytes: 4KB }\n", "");
    let request = |n: usize| {
        format!(
            "GET / HTTP/1.1\r\nHost: x\r\nX-Pad: {}\r\n\r\n",
            "p".repeat(n)
        )
    };
    assert_eq!(
        status(&mut gateway.connect(), request(3900).as_bytes()),
        200
    );
    for n in [4200, 20_000, 1_000_000] {
        assert_eq!(
            status(&mut gateway.connect(), request(n).as_bytes()),
            431,
            "{n}"
        );
    }
    assert_eq!(upstream.count(), 1);
}

#[test]
fn an_endless_head_is_cut_at_the_bound() {
    let upstream = Upstream::named("a");
    let gateway = plain(&[&upstream]);
    let mut connection = gateway.connect();
    drop(connection.try_send("GET / HTTP/1.1\r\nHost: x\r\n"));
    for n in 0..4000 {
        if connection
            .try_send(format!("X-{n}: {}\r\n", "y".repeat(200)))
            .is_err()
        {
            break;
        }
    }
    let said = connection.drain();
    assert!(
        said.is_empty() || said.starts_with(b"HTTP/1.1 431 "),
        "{}",
        String::from_utf8_lossy(&said)
    );
    assert_eq!(upstream.count(), 0);
}

#[test]
fn too_many_headers_are_431() {
    let upstream = Upstream::named("a");
    let gateway = plain_with(&[&upstream], "limits: { headers: 20 }\n", "");
    let request = |n: usize| {
        let lines: String = (0..n).map(|i| format!("X-{i}: y\r\n")).collect();
        format!("GET / HTTP/1.1\r\nHost: x\r\n{lines}\r\n")
    };
    assert_eq!(status(&mut gateway.connect(), request(19).as_bytes()), 200);
    assert_eq!(status(&mut gateway.connect(), request(20).as_bytes()), 431);
    assert_eq!(status(&mut gateway.connect(), request(150).as_bytes()), 431);
    assert_eq!(upstream.count(), 1);
}

#[test]
fn a_hundred_headers_pass_by_default() {
    let upstream = Upstream::named("a");
    let gateway = plain(&[&upstream]);
    let lines: String = (0..99).map(|i| format!("X-{i}: y\r\n")).collect();
    gateway
        .connect()
        .exchange(&format!("GET / HTTP/1.1\r\nHost: x\r\n{lines}\r\n"))
        .expect(200);
    assert_eq!(upstream.last().get("x-98"), Some("y"));
}

#[test]
fn a_target_over_its_bound_is_414() {
    let upstream = Upstream::named("a");
    let gateway = plain_with(&[&upstream], "limits: { uriBytes: 1KB }\n", "");
    let request = |n: usize| format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "u".repeat(n));
    assert_eq!(
        status(&mut gateway.connect(), request(1000).as_bytes()),
        200
    );
    assert_eq!(
        status(&mut gateway.connect(), request(1100).as_bytes()),
        414
    );
    assert_eq!(
        status(&mut gateway.connect(), request(12_000).as_bytes()),
        414
    );
    assert_eq!(upstream.count(), 1);
}

#[test]
fn a_body_announced_over_its_bound_is_413_before_it_comes() {
    let upstream = Upstream::named("a");
    let gateway = plain_with(&[&upstream], "limits: { bodyBytes: 10KB }\n", "");
    gateway
        .client()
        .request("POST", "/")
        .body(vec![b'x'; 10 * 1024])
        .send()
        .expect(200);
    let mut connection = gateway.connect();
    connection.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10241\r\n\r\n");
    connection.response("POST").expect(413);
    connection.expect_close();
    assert_eq!(upstream.count(), 1);
}

#[test]
fn a_chunked_body_is_cut_where_it_passes_the_bound() {
    let upstream = Upstream::new("a", |request| Reply::ok(request.body.len().to_string()));
    let gateway = plain_with(&[&upstream], "limits: { bodyBytes: 10KB }\n", "");
    let block = format!("400\r\n{}\r\n", "z".repeat(1024));
    let head = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(
        gateway
            .connect()
            .exchange(&format!("{head}{}0\r\n\r\n", block.repeat(10)))
            .expect(200)
            .text(),
        "10240"
    );
    let mut connection = gateway.connect();
    drop(connection.try_send(format!("{head}{}0\r\n\r\n", block.repeat(11))));
    connection.response("POST").expect(413);
    assert_eq!(
        upstream.count(),
        1,
        "an upstream never sees such a body end"
    );
}

#[test]
fn an_upstream_head_without_end_is_a_bad_gateway() {
    let upstream = Upstream::new("a", |_| {
        let mut bytes = b"HTTP/1.1 200 OK\r\n".to_vec();
        for n in 0..5000 {
            bytes.extend_from_slice(format!("X-{n}: {}\r\n", "y".repeat(100)).as_bytes());
        }
        bytes.extend_from_slice(b"Content-Length: 0\r\n\r\n");
        Reply::raw(bytes)
    });
    let gateway = plain(&[&upstream]);
    gateway.client().post("/", "x").expect(502);
}
