//! What a message is must survive the way: bodies, trailers, statuses, interim responses.

use super::{noise, plain};
use crate::harness::http::Framing;
use crate::harness::{Reply, Upstream};

#[test]
fn a_body_of_known_length_passes_both_ways() {
    let upstream = Upstream::new("a", |request| Reply::ok(&request.body));
    let gateway = plain(&[&upstream]);
    for size in [1, 600, 16_383, 16_384, 16_385, 65_537, 3_000_000] {
        let body = noise(size);
        let response = gateway
            .client()
            .request("POST", "/echo")
            .body(&body)
            .send()
            .expect(200);
        assert!(response.body == body, "{size} bytes came back different");
        assert_eq!(response.framing, Framing::Length(size as u64));
        assert!(
            upstream.last().body == body,
            "{size} bytes arrived different"
        );
    }
}

#[test]
fn a_chunked_body_passes_both_ways_with_its_trailers() {
    let upstream = Upstream::new("a", |_| {
        Reply::chunked(["one", "two-", "three"]).trailer("X-Sum", "9")
    });
    let gateway = plain(&[&upstream]);
    let mut connection = gateway.connect();
    connection.send(
        "POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\nTrailer: X-Check\r\n\r\n\
         4\r\nabcd\r\n1A\r\nefghijklmnopqrstuvwxyz0123\r\n0\r\nX-Check: 42\r\n\r\n",
    );
    let response = connection.response("POST").expect(200);
    assert_eq!(response.text(), "onetwo-three");
    assert_eq!(response.trailers, [("X-Sum".to_owned(), "9".to_owned())]);
    let received = upstream.last();
    assert_eq!(received.body, b"abcdefghijklmnopqrstuvwxyz0123");
    assert_eq!(received.trailers, [("X-Check".to_owned(), "42".to_owned())]);
    connection
        .exchange("GET /next HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect(200);
}

#[test]
fn chunked_bodies_of_any_cut_come_out_the_same() {
    let upstream = Upstream::new("a", |request| Reply::ok(&request.body));
    let gateway = plain(&[&upstream]);
    let body = noise(40_000);
    for cut in [1, 7, 4_095, 16_384, 39_999] {
        let mut bytes =
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for chunk in body.chunks(cut) {
            bytes.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        let mut connection = gateway.connect();
        connection.send(&bytes);
        assert!(
            connection.response("POST").expect(200).body == body,
            "chunks of {cut}"
        );
    }
}

#[test]
fn a_request_in_single_bytes_is_one_request() {
    let upstream = Upstream::new("a", |request| Reply::ok(&request.body));
    let gateway = plain(&[&upstream]);
    let mut connection = gateway.connect();
    for byte in
        b"POST /slow HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    {
        connection.send([*byte]);
    }
    assert_eq!(connection.response("POST").expect(200).text(), "abc");
    assert_eq!(upstream.count(), 1);
}

#[test]
fn a_head_request_gets_no_body_and_the_connection_goes_on() {
    let upstream = Upstream::new("a", |_| Reply::ok("twelve bytes"));
    let gateway = plain(&[&upstream]);
    let mut connection = gateway.connect();
    let head = connection
        .exchange("HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect(200);
    assert_eq!(
        (head.get("content-length"), head.body.len()),
        (Some("12"), 0)
    );
    assert_eq!(
        connection
            .exchange("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            .text(),
        "twelve bytes"
    );
}

#[test]
fn no_content_and_not_modified_have_no_body() {
    let upstream = Upstream::new("a", |request| match request.head.target() {
        "/204" => Reply::status(204),
        _ => Reply::raw("HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\nETag: \"x\"\r\n\r\n"),
    });
    let gateway = plain(&[&upstream]);
    let mut connection = gateway.connect();
    for _ in 0..3 {
        connection
            .exchange("GET /204 HTTP/1.1\r\nHost: x\r\n\r\n")
            .expect(204);
        let unchanged = connection
            .exchange("GET /304 HTTP/1.1\r\nHost: x\r\n\r\n")
            .expect(304);
        assert_eq!(unchanged.get("etag"), Some("\"x\""));
    }
}

#[test]
fn an_empty_body_stays_empty() {
    let upstream = Upstream::new("a", |request| match request.head.target() {
        "/chunked" => Reply::chunked([]),
        _ => Reply::ok(""),
    });
    let gateway = plain(&[&upstream]);
    let mut connection = gateway.connect();
    for target in ["/chunked", "/length", "/chunked"] {
        let request = format!("POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        assert!(connection.exchange(&request).expect(200).body.is_empty());
    }
    assert_eq!(
        upstream.last().get("content-length"),
        Some("0"),
        "a POST without a body says so"
    );
}

#[test]
fn a_response_that_ends_with_its_connection_arrives_whole() {
    let body = noise(200_000);
    let sent = body.clone();
    let upstream = Upstream::new("a", move |_| {
        let mut bytes = b"HTTP/1.1 200 OK\r\nContent-Type: x/y\r\n\r\n".to_vec();
        bytes.extend_from_slice(&sent);
        Reply::raw(bytes).close()
    });
    let gateway = plain(&[&upstream]);
    let response = gateway.get("/");
    assert!(response.body == body);
    assert_eq!(response.get("content-type"), Some("x/y"));
}

#[test]
fn the_go_ahead_of_expect_comes_once_before_the_body() {
    let upstream = Upstream::new("a", |request| Reply::ok(&request.body));
    let gateway = plain(&[&upstream]);
    let mut connection = gateway.connect();
    for _ in 0..2 {
        connection.send(
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
        );
        assert_eq!(connection.head().status(), 100);
        connection.send("hello");
        let response = connection.response("POST").expect(200);
        assert_eq!(
            (response.text().as_str(), response.interim.len()),
            ("hello", 0)
        );
    }
}

#[test]
fn a_body_sent_without_waiting_for_the_go_ahead_is_taken() {
    let upstream = Upstream::new("a", |request| Reply::ok(&request.body));
    let gateway = plain(&[&upstream]);
    let mut connection = gateway.connect();
    connection.send(
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
    );
    assert_eq!(connection.response("POST").expect(200).text(), "hello");
    connection
        .exchange("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect(200);
}

#[test]
fn an_unknown_expectation_is_refused() {
    let upstream = Upstream::named("a");
    let gateway = plain(&[&upstream]);
    gateway
        .connect()
        .exchange("GET / HTTP/1.1\r\nHost: x\r\nExpect: a-miracle\r\n\r\n")
        .expect(417);
    assert_eq!(upstream.count(), 0);
}

#[test]
fn early_hints_pass_to_the_client() {
    let upstream = Upstream::new("a", |_| {
        Reply::raw(
            "HTTP/1.1 103 Early Hints\r\nLink: </s.css>; rel=preload\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </t.js>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        )
    });
    let gateway = plain(&[&upstream]);
    let response = gateway.get("/").expect(200);
    assert_eq!(response.text(), "ok");
    let links: Vec<_> = response
        .interim
        .iter()
        .map(|head| (head.status(), head.get("link").unwrap_or_default()))
        .collect();
    assert_eq!(links, [(103, "</s.css>; rel=preload"), (103, "</t.js>")]);
}

#[test]
fn a_client_of_http_1_0_sees_no_interim_responses_and_no_chunks() {
    let upstream = Upstream::new("a", |_| {
        let mut bytes = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".to_vec();
        bytes.extend(Reply::chunked(["ab", "cd"]).render("GET"));
        Reply::raw(bytes)
    });
    let gateway = plain(&[&upstream]);
    let mut connection = gateway.connect();
    connection.send("GET / HTTP/1.0\r\nHost: x\r\n\r\n");
    let response = connection.response("GET").expect(200);
    assert!(
        response.interim.is_empty() && !response.head.has("transfer-encoding"),
        "{:?}",
        response.head
    );
    assert_eq!(response.text(), "abcd");
    connection.expect_close();
    assert!(
        upstream.last().head.start.ends_with("HTTP/1.1"),
        "towards the upstream it is 1.1"
    );
}

#[test]
fn a_client_of_http_1_0_that_asks_for_it_is_kept() {
    let upstream = Upstream::named("a");
    let gateway = plain(&[&upstream]);
    let mut connection = gateway.connect();
    let first = connection
        .exchange("GET /1 HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n")
        .expect(200);
    assert!(
        first.head.lists("connection", "keep-alive"),
        "{:?}",
        first.head
    );
    connection
        .exchange("GET /2 HTTP/1.0\r\nHost: x\r\n\r\n")
        .expect(200);
    connection.expect_close();
}

#[test]
fn an_upstream_of_http_1_0_is_understood() {
    let upstream = Upstream::new("a", |request| match request.head.target() {
        "/length" => Reply::raw("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc").close(),
        _ => Reply::raw("HTTP/1.0 200 OK\r\n\r\nabcdef").close(),
    });
    let gateway = plain(&[&upstream]);
    assert_eq!(gateway.get("/length").expect(200).text(), "abc");
    let until_close = gateway.get("/until-close").expect(200);
    assert_eq!(until_close.text(), "abcdef");
    assert!(
        until_close.head.start.starts_with("HTTP/1.1"),
        "our own version: {}",
        until_close.head.start
    );
}

#[test]
fn status_lines_and_unusual_methods_pass_unchanged() {
    let upstream = Upstream::new("a", |_| {
        Reply::raw("HTTP/1.1 299 Quite Fine\r\nContent-Length: 0\r\n\r\n")
    });
    let gateway = plain(&[&upstream]);
    for method in ["PATCH", "PROPFIND", "M-SEARCH", "QUERY", "DELETE"] {
        let response = gateway.client().request(method, "/x").send();
        assert_eq!(response.head.start, "HTTP/1.1 299 Quite Fine");
        assert_eq!(upstream.last().head.method(), method);
    }
}
