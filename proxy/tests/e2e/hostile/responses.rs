//! A table of hostile responses. After each, another client must get its own answer.

use crate::harness::http::latin1;
use crate::harness::{Gateway, Reply, Upstream, service_with};

/// What the client may see.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fate {
    /// 502, and nothing of the upstream's text.
    BadGateway,
    /// The head may be out; the body must not look complete.
    Broken,
    /// A sound response with this body, whatever follows it on the upstream's connection.
    Whole(&'static str),
    /// 502, or a sound response.
    BadGatewayOrWhole,
}

use Fate::{BadGateway, BadGatewayOrWhole, Broken, Whole};

#[rustfmt::skip]
const TABLE: &[(&str, &[u8], Fate)] = &[
    ("not HTTP", b"hello there\r\n\r\n", BadGateway),
    ("nothing", b"", BadGateway),
    ("another protocol", b"SSH-2.0-OpenSSH_9.2\r\n\r\n", BadGateway),
    ("HTTP/2 frames", b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x80", BadGateway),
    ("another version", b"HTTP/2.0 200 OK\r\nContent-Length: 1\r\n\r\nx", BadGateway),
    ("a lower-case version", b"http/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", BadGateway),
    ("a status of two digits", b"HTTP/1.1 20 OK\r\nContent-Length: 1\r\n\r\nx", BadGateway),
    ("a status of four digits", b"HTTP/1.1 2000 OK\r\nContent-Length: 1\r\n\r\nx", BadGateway),
    ("a status of letters", b"HTTP/1.1 abc OK\r\nContent-Length: 1\r\n\r\nx", BadGateway),
    ("a status of zero", b"HTTP/1.1 000 OK\r\nContent-Length: 1\r\n\r\nx", BadGateway),
    ("a negative status", b"HTTP/1.1 -20 OK\r\nContent-Length: 1\r\n\r\nx", BadGateway),
    ("no status", b"HTTP/1.1\r\nContent-Length: 1\r\n\r\nx", BadGateway),
    ("two blanks in the status line", b"HTTP/1.1  200 OK\r\nContent-Length: 1\r\n\r\nx", BadGateway),
    ("NUL in the reason", b"HTTP/1.1 200 O\x00K\r\nContent-Length: 1\r\n\r\nx", BadGateway),
    ("a bare CR in the reason", b"HTTP/1.1 200 O\rX: y\r\nContent-Length: 1\r\n\r\nx", BadGateway),
    ("a head that ends in LF", b"HTTP/1.1 200 OK\nContent-Length: 1\n\nx", BadGateway),
    ("a line that ends in LF", b"HTTP/1.1 200 OK\r\nX-A: b\nContent-Length: 1\r\n\r\nx", BadGateway),
    ("a folded line", b"HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\nContent-Length: 1\r\n\r\nx", BadGateway),
    ("a blank before the colon", b"HTTP/1.1 200 OK\r\nContent-Length : 1\r\n\r\nx", BadGateway),
    ("a name with a blank", b"HTTP/1.1 200 OK\r\nX A: b\r\nContent-Length: 1\r\n\r\nx", BadGateway),
    ("an empty name", b"HTTP/1.1 200 OK\r\n: b\r\nContent-Length: 1\r\n\r\nx", BadGateway),
    ("a line without a colon", b"HTTP/1.1 200 OK\r\nX-A\r\nContent-Length: 1\r\n\r\nx", BadGateway),
    ("NUL in a value", b"HTTP/1.1 200 OK\r\nX-A: \x00\r\nContent-Length: 1\r\n\r\nx", BadGateway),
    ("a control byte in a value", b"HTTP/1.1 200 OK\r\nX-A: \x08\r\nContent-Length: 1\r\n\r\nx", BadGateway),
    ("a bare CR in a value", b"HTTP/1.1 200 OK\r\nX-A: b\rSet-Cookie: evil=1\r\nContent-Length: 1\r\n\r\nx", BadGateway),
    ("two lengths that differ", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy", BadGateway),
    ("two equal lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", BadGateway),
    ("a list of lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\nx", BadGateway),
    ("a signed length", b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\nx", BadGateway),
    ("a negative length", b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nx", BadGateway),
    ("an empty length", b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nx", BadGateway),
    ("a length over 64 bits", b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551617\r\n\r\nx", BadGateway),
    ("length and chunked", b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", BadGateway),
    ("another coding", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nx", BadGateway),
    ("a coding before chunked", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", BadGateway),
    ("chunked twice", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", BadGateway),
    ("identity", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 1\r\n\r\nx", BadGateway),
    ("an empty coding", b"HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n\r\nx", BadGateway),
    ("chunked from HTTP/1.0", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", BadGateway),
    ("a switch of protocols that nobody asked for", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nraw bytes", BadGateway),
    ("interim responses without end", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n", BadGateway),
    ("an interim response with a length", b"HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", BadGatewayOrWhole),
    ("an empty chunk size", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n\r\n", Broken),
    ("a chunk size of letters", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\nabc\r\n0\r\n\r\n", Broken),
    ("a chunk size with 0x", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\nx\r\n0\r\n\r\n", Broken),
    ("a chunk size with a sign", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+1\r\nx\r\n0\r\n\r\n", Broken),
    ("a chunk size over 64 bits", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000001\r\nx\r\n0\r\n\r\n", Broken),
    ("a chunk longer than said", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxyz\r\n0\r\n\r\n", Broken),
    ("a chunk size that ends in LF", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\n", Broken),
    ("a folded trailer", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-A: b\r\n c\r\n\r\n", Broken),
    ("a trailer with NUL", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-A: \x00\r\n\r\n", Broken),
    ("a length that is never reached", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx", Broken),
    ("a second response at once", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", Whole("x")),
    ("bytes after the last chunk", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", Whole("x")),
    ("a body on a 204", b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", Whole("")),
    ("a length on a 204", b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nevil", BadGatewayOrWhole),
    ("a body on a 304", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nevil", Whole("")),
];

#[test]
fn every_entry_of_the_table_is_refused_or_read_once() {
    assert!(TABLE.len() >= 40, "{} entries", TABLE.len());
    let upstream = Upstream::new("a", |request| {
        match request
            .head
            .target()
            .strip_prefix("/entry-")
            .and_then(|n| n.parse::<usize>().ok())
        {
            // The connection of a hostile answer stays open where that could deceive.
            Some(n) if matches!(TABLE[n].2, Whole(_)) => Reply::raw(TABLE[n].1),
            Some(n) => Reply::raw(TABLE[n].1).close(),
            None => Reply::ok("sound"),
        }
    });
    let body = service_with(&[&upstream], "retry: { attempts: 1 }\n");
    let mut gateway = Gateway::start(&format!(
        "{body}runtime: {{ cores: 1 }}\nlimits: {{ responseTimeout: 2s }}\n"
    ));
    let mut wrong: Vec<String> = Vec::new();
    for (n, (name, _, fate)) in TABLE.iter().enumerate() {
        let mut connection = gateway.connect();
        connection.send(format!(
            "POST /entry-{n} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
        ));
        let outcome = connection.try_response("POST");
        let bad_gateway = outcome
            .as_ref()
            .is_ok_and(|r| r.status() == 502 && !r.head.has("x-a"));
        let sound = match fate {
            BadGateway => bad_gateway,
            Broken => outcome.is_err() || bad_gateway,
            Whole(body) => outcome
                .as_ref()
                .is_ok_and(|r| r.status() < 400 && r.body == body.as_bytes()),
            BadGatewayOrWhole => {
                bad_gateway
                    || outcome
                        .as_ref()
                        .is_ok_and(|r| r.status() < 400 && r.text() != "evil")
            }
        };
        if !sound {
            wrong.push(format!("{name}: {fate:?}, got {outcome:?}"));
        }
        let seen = latin1(&connection.wire.seen);
        if seen.contains("evil") {
            wrong.push(format!("{name}: what must not pass did: {seen:?}"));
        }
        // The same connection, if it is still there, and another one must both get their own answers.
        let sent = connection.try_send("GET /sound HTTP/1.1\r\nHost: x\r\n\r\n");
        let next = sent.and_then(|()| connection.try_response("GET"));
        if let Some(next) = next.ok().filter(|next| next.text() != "sound") {
            wrong.push(format!(
                "{name}: the next answer on the connection was {:?}",
                next.text()
            ));
        }
        let other = gateway.get("/sound").text();
        if other != "sound" {
            wrong.push(format!("{name}: another client then got {other:?}"));
        }
    }
    assert!(gateway.lives(), "the process lives");
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn interim_responses_have_a_bound() {
    let upstream = Upstream::raw("a", |link| {
        if link.request().is_some() {
            while link.send(
                "HTTP/1.1 102 Processing\r\nX-Pad: ppppppppppppppppppppppppppppppppppppppp\r\n\r\n",
            ) {}
        }
    });
    let gateway = Gateway::start(&service_with(&[&upstream], "retry: { attempts: 1 }\n"));
    let mut connection = gateway.connect();
    connection.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    let outcome = connection.try_response("POST");
    assert!(
        outcome.as_ref().is_err() || outcome.as_ref().is_ok_and(|r| r.status() == 502),
        "{outcome:?}"
    );
    assert!(connection.wire.seen.len() < 10_000_000, "it had a bound");
}

#[test]
fn a_response_before_any_request_is_never_given_to_one() {
    let upstream = Upstream::raw("a", |link| {
        while link.request().is_some() {
            link.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntrue");
            link.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
        }
    });
    let gateway = Gateway::start(&format!(
        "{}runtime: {{ cores: 1 }}\n",
        service_with(&[&upstream], "")
    ));
    for method in ["GET", "POST", "PUT", "DELETE"] {
        let mut connection = gateway.connect();
        for _ in 0..5 {
            let response = connection.exchange(&format!(
                "{method} / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
            ));
            assert_eq!(response.expect(200).text(), "true", "{method}");
            // Time enough for what nobody asked for to arrive while the connection idles.
            connection.patience(std::time::Duration::from_millis(60));
            assert!(
                connection.wire.fill().is_err(),
                "nothing more comes to the client"
            );
            connection.patience(crate::harness::PATIENCE);
        }
    }
}
