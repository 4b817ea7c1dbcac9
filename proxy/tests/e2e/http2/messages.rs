//! What a request over HTTP/2 may say, and what becomes of it.

use super::frames::*;
use crate::harness::{Gateway, Reply, Upstream, service};

fn setting() -> (Upstream, Gateway) {
    let upstream = Upstream::new("a", |request| Reply::ok(&request.body));
    let gateway = Gateway::start(&service(&[&upstream]));
    (upstream, gateway)
}

/// Pseudo-header fields, in which some are others; an empty value leaves one out.
fn with<'a>(changes: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut fields = get("/wrong");
    for (name, value) in changes {
        match fields.iter_mut().find(|(n, _)| n == name) {
            Some(field) => field.1 = value,
            None => fields.push((name, value)),
        }
    }
    fields.retain(|(_, value)| !value.is_empty());
    fields
}

#[test]
fn what_is_malformed_is_refused_and_harms_no_other_stream() {
    let (upstream, gateway) = setting();
    let mut late = get("/wrong");
    late.insert(1, ("accept", "*/*"));
    let mut twice = get("/wrong");
    twice.push((":path", "/other"));
    let table: Vec<(&str, Vec<(&str, &str)>)> = vec![
        ("an upper-case name", with(&[("X-Upper", "1")])),
        ("no method", with(&[(":method", "")])),
        ("no path", with(&[(":path", "")])),
        ("no scheme", with(&[(":scheme", "")])),
        ("another scheme", with(&[(":scheme", "ftp")])),
        ("a path without its slash", with(&[(":path", "wrong")])),
        ("a space in the path", with(&[(":path", "/a b")])),
        ("an unknown pseudo-header", with(&[(":version", "2")])),
        ("a pseudo-header of responses", with(&[(":status", "200")])),
        ("a pseudo-header behind a field", late),
        ("a pseudo-header twice", twice),
        ("Connection", with(&[("connection", "close")])),
        ("Keep-Alive", with(&[("keep-alive", "5")])),
        ("Proxy-Connection", with(&[("proxy-connection", "close")])),
        (
            "Transfer-Encoding",
            with(&[("transfer-encoding", "chunked")]),
        ),
        ("Upgrade", with(&[("upgrade", "websocket")])),
        ("TE other than trailers", with(&[("te", "gzip")])),
        ("CR and LF in a value", with(&[("x", "a\r\nx-y: z")])),
        ("NUL in a value", with(&[("x", "a\0b")])),
        ("a colon in a name", with(&[("x:y", "z")])),
        ("white space before a value", with(&[("x", " a")])),
        ("Host other than the authority", with(&[("host", "y.test")])),
        ("an invalid authority", with(&[(":authority", "a/b")])),
        (
            "a user in the authority",
            with(&[(":authority", "u@x.test")]),
        ),
        ("two lengths", {
            let mut fields = with(&[("content-length", "0")]);
            fields.push(("content-length", "1"));
            fields
        }),
        ("a length and no content", with(&[("content-length", "5")])),
        (
            "CONNECT",
            vec![(":method", "CONNECT"), (":authority", "x.test:80")],
        ),
        ("an encoded slash", with(&[(":path", "/a%2Fb")])),
        ("no authority and no Host", with(&[(":authority", "")])),
    ];
    let mut wrong = Vec::new();
    for (name, fields) in &table {
        let mut peer = Peer::connect(&gateway, &[]);
        peer.head(1, fields, true);
        // A reset, an error, or the end of the connection, which is its client's alone.
        let mut answered = false;
        while let Ok(Some(frame)) = peer.next() {
            let ok = frame.kind == HEADERS && frame.payload.first() == Some(&0x88);
            let failed = frame.kind == RST_STREAM && frame.code() == INTERNAL_ERROR;
            if ok || failed {
                wrong.push(format!("{name}: {frame:?}"));
            }
            answered = answered || matches!(frame.kind, HEADERS | RST_STREAM | GOAWAY);
            if answered {
                break;
            }
        }
        if !answered {
            wrong.push(format!("{name}: nothing came"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(upstream.count(), 0);
    let mut peer = Peer::connect(&gateway, &[]);
    for stream in [1, 3, 5] {
        let path = if stream == 5 { "/good" } else { "/a%2Fb" };
        peer.head(stream, &get(path), true);
        assert_eq!(
            peer.answer(stream).status(),
            if stream == 5 { 200 } else { 400 }
        );
    }
    assert_eq!(upstream.last().head.target(), "/good");
}

#[test]
fn content_of_another_length_than_was_said_is_no_request() {
    let (upstream, gateway) = setting();
    let mut peer = Peer::connect(&gateway, &[]);
    for (stream, said, sent) in [(1, "5", "abc"), (3, "2", "abc")] {
        let mut fields = request("POST", "/");
        fields.push(("content-length", said));
        peer.head(stream, &fields, false);
        peer.send(DATA, END_STREAM, stream, sent);
        let answer = peer.answer(stream);
        assert!(answer.status() != 200, "{answer:?}");
    }
    assert_eq!(upstream.count(), 0, "nothing whole has arrived");
}

#[test]
fn cookies_in_pieces_are_one_line_for_the_upstream() {
    let (upstream, gateway) = setting();
    let mut peer = Peer::connect(&gateway, &[]);
    let mut fields = get("/");
    fields.extend([
        ("cookie", "a=1"),
        ("x-between", "y"),
        ("cookie", "b=2"),
        ("cookie", "c=3"),
    ]);
    peer.head(1, &fields, true);
    peer.answer(1).expect(200);
    assert_eq!(upstream.last().head.all("cookie"), ["a=1; b=2; c=3"]);
}

#[test]
fn trailers_go_through_both_ways_but_for_those_that_steer() {
    let upstream = Upstream::new("a", |_| {
        Reply::chunked(["one", "two"])
            .trailer("X-Sum", "7")
            .trailer("X-Session-Destroy", "1")
    });
    let gateway = Gateway::start(&service(&[&upstream]));
    let mut peer = Peer::connect(&gateway, &[]);
    peer.head(1, &request("POST", "/"), false);
    peer.send(DATA, 0, 1, "content");
    let trailers = [
        ("x-check", "9"),
        ("content-length", "1"),
        ("x-session-id", "1"),
    ];
    peer.send(HEADERS, END_HEADERS | END_STREAM, 1, head(&trailers));
    let answer = peer.answer(1).expect(200);
    assert_eq!(answer.body(), b"onetwo");
    let heads: Vec<&Frame> = answer.heads().collect();
    assert_eq!(heads.len(), 2, "a head and trailers: {answer:?}");
    assert!(heads[1].ends());
    let request = upstream.last();
    assert_eq!(request.body, b"content");
    assert_eq!(request.trailers, [("x-check".to_owned(), "9".to_owned())]);
}

#[test]
fn an_answer_that_breaks_off_is_reset_and_not_taken_for_whole() {
    let upstream = Upstream::new("a", |_| {
        Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").close()
    });
    let gateway = Gateway::start(&service(&[&upstream]));
    let mut peer = Peer::connect(&gateway, &[]);
    peer.head(1, &get("/"), true);
    let answer = peer.answer(1);
    assert_eq!(
        (answer.body(), answer.reset()),
        (b"half".to_vec(), Some(INTERNAL_ERROR))
    );
}

#[test]
fn interim_answers_come_before_the_last() {
    let upstream = Upstream::new("a", |_| {
        Reply::raw(
            "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        )
    });
    let gateway = Gateway::start(&service(&[&upstream]));
    let mut peer = Peer::connect(&gateway, &[]);
    peer.head(1, &get("/"), true);
    let answer = peer.answer(1);
    assert_eq!(answer.heads().count(), 2, "{answer:?}");
    assert_eq!((answer.status(), answer.body()), (200, b"ok".to_vec()));
}

#[test]
fn answers_without_content_end_with_their_head() {
    let upstream = Upstream::new("a", |request| match request.head.target() {
        "/none" => Reply::status(204),
        "/same" => Reply::status(304),
        _ => Reply::ok("hello"),
    });
    let gateway = Gateway::start(&service(&[&upstream]));
    let mut peer = Peer::connect(&gateway, &[]);
    for (stream, method, path, status) in [
        (1, "GET", "/none", 204),
        (3, "GET", "/same", 304),
        (5, "HEAD", "/", 200),
    ] {
        peer.head(stream, &request(method, path), true);
        let answer = peer.answer(stream).expect(status);
        assert_eq!(answer.0.len(), 1, "{method} {path}: {answer:?}");
    }
}

#[test]
fn a_websocket_opens_by_extended_connect_and_carries_bytes_both_ways() {
    let upstream = Upstream::raw("socket", |link| {
        let Some(request) = link.request() else {
            return;
        };
        assert_eq!(request.head.method(), "GET");
        let key = request.get("sec-websocket-key").unwrap_or_default();
        let accept = crate::harness::websocket::accept_for(key);
        link.send(format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\nfirst"));
        while let Ok(bytes) = link.wire.take(4) {
            link.send(bytes);
        }
    });
    let gateway = Gateway::start(&service(&[&upstream]));
    let mut peer = Peer::connect(&gateway, &[]);
    let mut fields = request("CONNECT", "/chat");
    fields.extend([(":protocol", "websocket"), ("sec-websocket-version", "13")]);
    peer.head(1, &fields, false);
    peer.until("the head", |f| f.kind == HEADERS && f.stream == 1);
    for word in ["ping", "pong"] {
        peer.send(DATA, 0, 1, word);
        peer.until(word, |f| {
            f.kind == DATA && f.payload.ends_with(word.as_bytes())
        });
    }
    peer.send(DATA, END_STREAM, 1, "last");
    let answer = peer.answer(1).expect(200);
    assert_eq!(answer.body(), b"firstpingponglast");
    let request = upstream.last();
    assert_eq!(request.get("upgrade"), Some("websocket"));
    assert_eq!(request.get("sec-websocket-key").map(str::len), Some(24));
}

#[test]
fn a_websocket_whose_upstream_does_not_know_the_key_is_not_opened() {
    for line in ["Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n", ""] {
        let upstream = Upstream::raw("socket", move |link| {
            if link.request().is_some() {
                link.send(format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{line}\r\n"));
            }
        });
        let gateway = Gateway::start(&service(&[&upstream]));
        let mut peer = Peer::connect(&gateway, &[]);
        let mut fields = request("CONNECT", "/chat");
        fields.extend([(":protocol", "websocket"), ("sec-websocket-version", "13")]);
        peer.head(1, &fields, false);
        let answer = peer.answer(1);
        assert!(answer.body().starts_with(b"502 "), "{answer:?}");
        gateway.expect_metric("upstream_errors_total", &["malformed"], 1.0);
    }
}

#[test]
fn host_alone_names_the_authority() {
    let (upstream, gateway) = setting();
    let mut peer = Peer::connect(&gateway, &[]);
    peer.head(
        1,
        &with(&[(":authority", ""), ("host", "y.test"), (":path", "/h")]),
        true,
    );
    peer.answer(1).expect(200);
    assert_eq!(upstream.last().get("host"), Some("y.test"));
}

#[test]
fn a_tunnel_that_the_upstream_does_not_open_is_no_success() {
    let (upstream, gateway) = setting();
    let tunnel = |more: &[(&'static str, &'static str)]| {
        let mut fields = vec![(":protocol", "websocket")];
        fields.extend(request("CONNECT", "/socket"));
        fields.push(("sec-websocket-version", "13"));
        fields.extend(more);
        fields
    };
    let mut peer = Peer::connect(&gateway, &[]);
    // The upstream answers 200, which would tell the client that its tunnel stands.
    peer.head(1, &tunnel(&[]), false);
    assert!(peer.answer(1).body().starts_with(b"502 "));
    assert_eq!(upstream.last().get("upgrade"), Some("websocket"));
    peer.head(3, &tunnel(&[("content-length", "5")]), false);
    assert!(peer.answer(3).body().starts_with(b"400 "));
    assert_eq!(upstream.count(), 1);
}
