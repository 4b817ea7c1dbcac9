//! Hostile requests, and what becomes of each.

use super::*;

fn refusal(input: &[u8]) -> Refusal {
    let connection = read_connection(input, &HeadLimits::default());
    match connection.end {
        Err(refusal) if connection.requests.is_empty() => refusal,
        other => panic!(
            "{}: {other:?}, {:?}",
            input.escape_ascii(),
            connection.requests
        ),
    }
}

/// `Host: a` on a request line of HTTP/1.1 with these lines and rest.
fn with(lines: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}").into_bytes()
}

#[rustfmt::skip]
const REFUSED: &[(&str, u16, &str)] = &[
    // The request line.
    ("GET /\r\n", 400, "malformed request line"),
    ("GET / \r\n", 400, "malformed request line"),
    ("GET\r\n", 400, "malformed request line"),
    ("GET HTTP/1.1\r\n", 400, "request without a target"),
    ("GET  HTTP/1.1\r\n", 400, "request without a target"),
    ("GET  / HTTP/1.1\r\n", 400, "invalid character in the request target"),
    ("GET /  HTTP/1.1\r\n", 400, "invalid character in the request target"),
    ("GET / HTTP/1.1 \r\n", 400, "malformed request line"),
    ("GET / HTTP/1.1\t\r\n", 400, "malformed request line"),
    ("GET / x HTTP/1.1\r\n", 400, "invalid character in the request target"),
    ("GET /a HTTP/1.1 HTTP/1.1\r\n", 400, "invalid character in the request target"),
    ("GET\t/ HTTP/1.1\r\n", 400, "request without a target"),
    ("GET /\tHTTP/1.1\r\n", 400, "malformed request line"),
    (" GET / HTTP/1.1\r\n", 400, "empty method"),
    ("\tGET / HTTP/1.1\r\n", 400, "method is not a token"),
    ("GE(T / HTTP/1.1\r\n", 400, "method is not a token"),
    ("GET: / HTTP/1.1\r\n", 400, "method is not a token"),
    ("G\u{c9}T / HTTP/1.1\r\n", 400, "method is not a token"),
    ("get / HTTP/1.1\r\n", 400, "method in the wrong case"),
    ("Head / HTTP/1.1\r\n", 400, "method in the wrong case"),
    ("ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG / HTTP/1.1\r\n", 400, "method too long"),
    ("GET / HTTP/0.9\r\n", 400, "unsupported HTTP version"),
    ("GET / HTTP/1.2\r\n", 400, "unsupported HTTP version"),
    ("GET / HTTP/2.0\r\n", 400, "unsupported HTTP version"),
    ("GET / HTTP/3.0\r\n", 400, "unsupported HTTP version"),
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "unsupported HTTP version"),
    ("GET / HTTP/1.10\r\n", 400, "malformed request line"),
    ("GET / HTTP/01.1\r\n", 400, "malformed request line"),
    ("GET / HTTP/1,1\r\n", 400, "malformed request line"),
    ("GET / HTTP/1\r\n", 400, "malformed request line"),
    ("GET / HTTP/11\r\n", 400, "malformed request line"),
    ("GET / http/1.1\r\n", 400, "malformed request line"),
    ("GET / HTTPS/1.1\r\n", 400, "malformed request line"),
    ("GET / XHTTP/1.1\r\n", 400, "malformed request line"),
    ("GET /HTTP/1.1\r\n", 400, "malformed request line"),
    ("CONNECT a:443 HTTP/1.1\r\n", 501, "CONNECT and TRACE are not supported"),
    ("CONNECT / HTTP/1.1\r\n", 501, "CONNECT and TRACE are not supported"),
    ("TRACE / HTTP/1.1\r\n", 501, "CONNECT and TRACE are not supported"),
    // Targets.
    ("GET * HTTP/1.1\r\n", 400, "asterisk target without OPTIONS"),
    ("OPTIONS ** HTTP/1.1\r\n", 400, "malformed request target"),
    ("OPTIONS *?a HTTP/1.1\r\n", 400, "malformed request target"),
    ("GET a HTTP/1.1\r\n", 400, "malformed request target"),
    ("GET a:80 HTTP/1.1\r\n", 400, "malformed request target"),
    ("GET ?a=b HTTP/1.1\r\n", 400, "malformed request target"),
    ("GET ftp://a/ HTTP/1.1\r\n", 400, "malformed request target"),
    ("GET file:///etc/passwd HTTP/1.1\r\n", 400, "malformed request target"),
    ("GET http:/a HTTP/1.1\r\n", 400, "malformed request target"),
    ("GET http:///a HTTP/1.1\r\n", 400, "invalid authority in the request target"),
    ("GET http://u@a/ HTTP/1.1\r\n", 400, "invalid authority in the request target"),
    ("GET http://u:p@a/ HTTP/1.1\r\n", 400, "invalid authority in the request target"),
    ("GET http://a:b/ HTTP/1.1\r\n", 400, "invalid authority in the request target"),
    ("GET http://[::1/ HTTP/1.1\r\n", 400, "invalid authority in the request target"),
    ("GET http://a%2eb/ HTTP/1.1\r\n", 400, "invalid authority in the request target"),
    ("GET http://a\\b/ HTTP/1.1\r\n", 400, "invalid authority in the request target"),
    ("GET /#x HTTP/1.1\r\n", 400, "invalid character in the request target"),
    ("GET /?a#x HTTP/1.1\r\n", 400, "invalid character in the request target"),
    ("GET /\u{e9} HTTP/1.1\r\n", 400, "invalid character in the request target"),
    ("GET /?\u{e9} HTTP/1.1\r\n", 400, "invalid character in the request target"),
    ("GET /a\tb HTTP/1.1\r\n", 400, "invalid character in the request target"),
    ("GET /a\\b HTTP/1.1\r\n", 400, "backslash in the path"),
    ("GET /a%2fb HTTP/1.1\r\n", 400, "escaped slash, backslash or NUL in the path"),
    ("GET /a%5Cb HTTP/1.1\r\n", 400, "escaped slash, backslash or NUL in the path"),
    ("GET /a%00 HTTP/1.1\r\n", 400, "escaped slash, backslash or NUL in the path"),
    ("GET /%2e%2e%2fetc HTTP/1.1\r\n", 400, "escaped slash, backslash or NUL in the path"),
    ("GET /%zz HTTP/1.1\r\n", 400, "malformed escape in the path"),
    ("GET /% HTTP/1.1\r\n", 400, "malformed escape in the path"),
    ("GET /%4 HTTP/1.1\r\n", 400, "malformed escape in the path"),
    ("GET /%u002e HTTP/1.1\r\n", 400, "malformed escape in the path"),
    // Line ends and control bytes.
    ("GET / HTTP/1.1\nHost: a\n\n", 400, "bare LF"),
    ("GET / HTTP/1.1\r\nHost: a\n\r\n", 400, "bare LF"),
    ("GET / HTTP/1.1\r\nHost: a\r\n\n", 400, "bare LF"),
    ("GET / HTTP/1.1\r\nHost: a\r\nA: b\nC: d\r\n\r\n", 400, "bare LF"),
    ("GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", 400, "bare CR"),
    ("GET / HTTP/1.1\rHost: a\r\n\r\n", 400, "bare CR"),
    ("GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n", 400, "bare CR"),
    ("GET / HTTP/1.1\r\nHost: a\r\n\r\r\n", 400, "bare CR"),
    ("\nGET / HTTP/1.1\r\n", 400, "bare LF"),
    ("\rGET / HTTP/1.1\r\n", 400, "bare CR"),
    ("\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\n", 400, "empty line before the start line"),
    ("GET /\0 HTTP/1.1\r\n", 400, "NUL byte"),
    ("GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n", 400, "NUL byte"),
    ("GET / HTTP/1.1\r\nHo\0st: a\r\n\r\n", 400, "NUL byte"),
    ("GET / HTTP/1.1\r\nHost: a\r\nA: b\x0bc\r\n\r\n", 400, "control byte"),
    ("GET / HTTP/1.1\r\nHost: a\r\nA: \x7f\r\n\r\n", 400, "control byte"),
    ("GET / HTTP/1.1\r\nHost: a\r\nA: \x1b[0m\r\n\r\n", 400, "control byte"),
    ("\x16\x03\x01\x02\x00\x01\x00", 400, "control byte"),
    // Hosts.
    ("GET / HTTP/1.1\r\n\r\n", 400, "missing Host"),
    ("GET http://a/ HTTP/1.1\r\n\r\n", 400, "missing Host"),
    ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, "repeated Host"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: y\r\nhOST: b\r\n\r\n", 400, "repeated Host"),
    ("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400, "repeated Host"),
    ("GET / HTTP/1.1\r\nHost:\r\n\r\n", 400, "invalid Host"),
    ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, "invalid Host"),
    ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400, "invalid Host"),
    ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, "invalid Host"),
    ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400, "invalid Host"),
    ("GET / HTTP/1.1\r\nHost: a:x\r\n\r\n", 400, "invalid Host"),
    ("GET / HTTP/1.1\r\nHost: a:70000\r\n\r\n", 400, "invalid Host"),
    ("GET / HTTP/1.1\r\nHost: \u{e9}\r\n\r\n", 400, "invalid Host"),
    ("GET http://a/ HTTP/1.1\r\nHost: b c\r\n\r\n", 400, "invalid Host"),
    ("GET / HTTP/1.0\r\nHost: ?\r\n\r\n", 400, "invalid Host"),
];

/// These stand after `POST / HTTP/1.1`, `Host: a`.
#[rustfmt::skip]
const LINES_REFUSED: &[(&str, u16, &str)] = &[
    // Names.
    (": b\r\n\r\n", 400, "empty header name"),
    ("A\r\n\r\n", 400, "header line without a colon"),
    ("A : b\r\n\r\n", 400, "white space before the colon of a header"),
    ("A\t: b\r\n\r\n", 400, "white space before the colon of a header"),
    (" A: b\r\n\r\n", 400, "folded header line"),
    ("A: b\r\n c\r\n\r\n", 400, "folded header line"),
    ("A: b\r\n\tc: d\r\n\r\n", 400, "folded header line"),
    ("A: b\r\n \r\n\r\n", 400, "folded header line"),
    ("A B: c\r\n\r\n", 400, "header name is not a token"),
    ("A(: b\r\n\r\n", 400, "header name is not a token"),
    ("\"A\": b\r\n\r\n", 400, "header name is not a token"),
    ("\u{c4}: b\r\n\r\n", 400, "header name is not a token"),
    ("Content-Length\u{a0}: 5\r\n\r\n", 400, "header name is not a token"),
    ("Transfer_Encoding: chunked\r\n\r\n", 400, "underscore in the name of a framing header"),
    ("content_length: 5\r\n\r\n", 400, "underscore in the name of a framing header"),
    // Content-Length.
    ("Content-Length:\r\n\r\n", 400, "empty Content-Length"),
    ("Content-Length: \t \r\n\r\n", 400, "empty Content-Length"),
    ("Content-Length: +5\r\n\r\nabcde", 400, "Content-Length is not a number"),
    ("Content-Length: -5\r\n\r\nabcde", 400, "Content-Length is not a number"),
    ("Content-Length: 0x5\r\n\r\nabcde", 400, "Content-Length is not a number"),
    ("Content-Length: 5 5\r\n\r\nabcde", 400, "Content-Length is not a number"),
    ("Content-Length: 5, 5\r\n\r\nabcde", 400, "Content-Length is not a number"),
    ("Content-Length: 5,\r\n\r\nabcde", 400, "Content-Length is not a number"),
    ("Content-Length: 5.0\r\n\r\nabcde", 400, "Content-Length is not a number"),
    ("Content-Length: 5;a\r\n\r\nabcde", 400, "Content-Length is not a number"),
    ("Content-Length: \"5\"\r\n\r\nabcde", 400, "Content-Length is not a number"),
    ("Content-Length: \u{665}\r\n\r\nabcde", 400, "Content-Length is not a number"),
    ("Content-Length: 18446744073709551616\r\n\r\n", 400, "Content-Length too large"),
    ("Content-Length: 99999999999999999999999\r\n\r\n", 400, "Content-Length too large"),
    ("Content-Length: 5\r\nContent-Length: 5\r\n\r\nabcde", 400, "repeated Content-Length"),
    ("Content-Length: 5\r\nX: y\r\ncontent-length: 6\r\n\r\nabcde", 400, "repeated Content-Length"),
    // Transfer-Encoding.
    ("Transfer-Encoding:\r\n\r\n", 400, "Transfer-Encoding other than chunked"),
    ("Transfer-Encoding: gzip\r\n\r\n", 400, "Transfer-Encoding other than chunked"),
    ("Transfer-Encoding: identity\r\n\r\n", 400, "Transfer-Encoding other than chunked"),
    ("Transfer-Encoding: gzip, chunked\r\n\r\n", 400, "Transfer-Encoding other than chunked"),
    ("Transfer-Encoding: chunked, chunked\r\n\r\n", 400, "Transfer-Encoding other than chunked"),
    ("Transfer-Encoding: chunked, identity\r\n\r\n", 400, "Transfer-Encoding other than chunked"),
    ("Transfer-Encoding: ,chunked\r\n\r\n", 400, "Transfer-Encoding other than chunked"),
    ("Transfer-Encoding: chunked,\r\n\r\n", 400, "Transfer-Encoding other than chunked"),
    ("Transfer-Encoding: chunked;a=b\r\n\r\n", 400, "Transfer-Encoding other than chunked"),
    ("Transfer-Encoding: \"chunked\"\r\n\r\n", 400, "Transfer-Encoding other than chunked"),
    ("Transfer-Encoding: xchunked\r\n\r\n", 400, "Transfer-Encoding other than chunked"),
    ("Transfer-Encoding: chunked\u{a0}\r\n\r\n", 400, "Transfer-Encoding other than chunked"),
    ("Transfer-Encoding: chunKed x\r\n\r\n", 400, "Transfer-Encoding other than chunked"),
    ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "repeated Transfer-Encoding"),
    ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n", 400, "Transfer-Encoding other than chunked"),
    ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", 400, "both Content-Length and Transfer-Encoding"),
    ("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "both Content-Length and Transfer-Encoding"),
    ("Content-Length: 5\r\nTransfer-Encoding: gzip\r\n\r\n", 400, "both Content-Length and Transfer-Encoding"),
    // The rest.
    ("Expect: 200-ok\r\n\r\n", 417, "unknown expectation"),
    ("Expect:\r\n\r\n", 417, "unknown expectation"),
    ("Expect: 100-continue, x\r\n\r\n", 417, "unknown expectation"),
    ("Expect: 100-continue\r\nExpect: y\r\n\r\n", 417, "unknown expectation"),
    ("Connection: a b\r\n\r\n", 400, "malformed Connection"),
    ("Connection: close; x\r\n\r\n", 400, "malformed Connection"),
];

#[test]
fn refused() {
    assert!(REFUSED.len() + LINES_REFUSED.len() >= 150);
    for (input, status, reason) in REFUSED {
        assert_eq!(
            refusal(input.as_bytes()),
            Refusal {
                status: *status,
                reason
            },
            "{input:?}"
        );
    }
    for (lines, status, reason) in LINES_REFUSED {
        assert_eq!(
            refusal(&with(lines)),
            Refusal {
                status: *status,
                reason
            },
            "{lines:?}"
        );
    }
}

#[test]
fn refused_however_it_is_split() {
    let all = REFUSED.iter().map(|r| (r.0.as_bytes().to_vec(), r.2));
    let all = all.chain(LINES_REFUSED.iter().map(|r| (with(r.0), r.2)));
    for (input, reason) in all {
        for split in 0..=input.len() {
            let mut scan = HeadScan::new();
            let mut head = RequestHead::default();
            let limits = HeadLimits::default();
            let end = request(&input[..split], &limits, &mut scan, &mut head).and_then(|p| {
                assert_eq!(p, Progress::Partial, "{}", input.escape_ascii());
                request(&input, &limits, &mut scan, &mut head)
            });
            assert_eq!(
                end.unwrap_err().reason,
                reason,
                "{} at {split}",
                input.escape_ascii()
            );
        }
    }
}

#[test]
fn transfer_encoding_in_http_1_0() {
    let input = b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(refusal(input).reason, "Transfer-Encoding in HTTP/1.0");
}

#[test]
fn limits() {
    let limits = HeadLimits {
        header_bytes: 200,
        headers: 3,
        uri_bytes: 50,
        ..Default::default()
    };
    let end = |input: &str| read_connection(input.as_bytes(), &limits).end.unwrap_err();
    let long = "x".repeat(300);
    let line = |n| "A: b\r\n".repeat(n);
    assert_eq!(end(&format!("GET /{long}")).status, 414);
    assert_eq!(
        end(&format!("GET /{} HTTP/1.1\r\n", &long[..50])).status,
        414
    );
    assert_eq!(end(&format!("GET / HTTP/1.1\r\nA: {long}")).status, 431);
    assert_eq!(
        end(&format!("GET / HTTP/1.1\r\nA: {long}\r\n\r\n")).status,
        431
    );
    assert_eq!(
        end(&format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", line(3))).status,
        431
    );
    assert_eq!(
        end(&format!("GET / HTTP/1.1\r\n{}", line(4))).reason,
        "too many header lines"
    );
    let three = format!(
        "GET /{} HTTP/1.1\r\nHost: a\r\n{}\r\n",
        &long[..49],
        line(2)
    );
    assert_eq!(read_connection(three.as_bytes(), &limits).requests.len(), 1);
    // To the byte.
    let head = "GET / HTTP/1.1\r\nHost: a\r\nA: ";
    let fits = format!("{head}{}\r\n\r\n", &long[..200 - head.len() - 4]);
    assert_eq!(read_connection(fits.as_bytes(), &limits).requests.len(), 1);
    let over = format!("{head}{}\r\n\r\n", &long[..200 - head.len() - 3]);
    assert_eq!(end(&over).status, 431);
}

/// A start line that is too long is that, whatever else is wrong with it and however it came.
#[test]
fn a_long_start_line_in_any_steps() {
    let limits = HeadLimits {
        uri_bytes: 50,
        ..Default::default()
    };
    let long = "\u{eb}".repeat(60);
    for end in ["", "\n", "\0", "\r", " / HTTP/1.1\r\n"] {
        let input = format!("\r\n{long}{end}").into_bytes();
        for split in 0..=input.len() {
            let (mut scan, mut head) = (HeadScan::new(), RequestHead::default());
            let read = request(&input[..split], &limits, &mut scan, &mut head)
                .and_then(|_| request(&input, &limits, &mut scan, &mut head));
            assert_eq!(read.unwrap_err().status, 414, "{end:?} at {split}");
        }
    }
}

fn accept(input: &str) -> (RequestHead, Vec<u8>) {
    let mut head = RequestHead::default();
    let read = request(
        input.as_bytes(),
        &HeadLimits::default(),
        &mut HeadScan::new(),
        &mut head,
    );
    assert_eq!(read, Ok(Progress::Complete), "{input:?}");
    (head, input.as_bytes().to_vec())
}

#[test]
fn read_in_one_way() {
    let input = "\r\n\r\nGET /a/./b/%7Ec?x=%2f HTTP/1.1\r\nHost: h:8080\r\n\r\n";
    let (head, buf) = accept(input);
    assert_eq!(head.path(&buf), b"/a/b/~c");
    assert_eq!(head.query_bytes(&buf), Some(&b"x=%2f"[..]));
    assert_eq!(head.authority_bytes(&buf), b"h:8080");
    assert_eq!(head.len, buf.len());
    assert!(head.keep_alive && !head.expect_continue && head.framing == Framing::None);
}

#[test]
fn absolute_targets() {
    for (target, path, query, host, differs) in [
        ("http://b/x?y", "/x", Some("y"), "b", true),
        ("http://a", "/", None, "a", false),
        ("HTTPS://a?q", "/", Some("q"), "a", false),
        ("http://[::1]:80/../z", "/z", None, "[::1]:80", true),
    ] {
        let (head, buf) = accept(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(head.form, Form::Absolute);
        assert_eq!(head.path(&buf), path.as_bytes(), "{target}");
        assert_eq!(head.query_bytes(&buf), query.map(str::as_bytes), "{target}");
        assert_eq!(head.authority_bytes(&buf), host.as_bytes(), "{target}");
        assert_eq!(head.host_differs(&buf), differs, "{target}");
    }
    let (head, buf) = accept("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((head.form, head.path(&buf)), (Form::Asterisk, &b"*"[..]));
    let (head, _) = accept("GET / HTTP/1.0\r\n\r\n");
    assert_eq!((head.authority, head.keep_alive), (None, false));
}

#[test]
fn connection_options() {
    for (version, line, keep) in [
        ("1.1", "X: y", true),
        ("1.1", "Connection: close", false),
        ("1.1", "Connection: Keep-Alive, CLOSE", false),
        ("1.1", "Connection: foo\r\nConnection: , close ,", false),
        ("1.0", "Connection: keep-alive", true),
        ("1.0", "Connection: keep-alive, close", false),
        ("1.0", "X: y", false),
        ("1.1", "Connection:", true),
    ] {
        let (head, _) = accept(&format!(
            "GET / HTTP/{version}\r\nHost: a\r\n{line}\r\n\r\n"
        ));
        assert_eq!(head.keep_alive, keep, "{version} {line}");
    }
}

#[test]
fn nominations_reach_strangers_only() {
    let (head, buf) = accept(
        "GET / HTTP/1.1\r\nHost: a\r\nX-Mine: 1\r\nx-mine: 2\r\nAccept: x\r\nCookie: a=b\r\n\
         X-Forwarded-For: 1.2.3.4\r\nAuthorization: x\r\nX-Session-ID: s\r\nContent-Length: 0\r\n\
         Connection: x-MINE, host, cookie, x-forwarded-for, authorization, x-session-id, \
         content-length, accept\r\n\r\n",
    );
    let gone: Vec<_> = head
        .lines
        .iter()
        .filter(|l| l.hop_by_hop())
        .map(|l| l.name(&buf))
        .collect();
    assert_eq!(gone, [&b"X-Mine"[..], b"x-mine", b"Accept", b"Connection"]);
    let many = (0..33).map(|i| format!("x{i},")).collect::<String>();
    let refusal = refusal(&with(&format!("Connection: {many}\r\n\r\n")));
    assert_eq!(refusal.reason, "too many Connection options");
}

#[test]
fn expectations() {
    let expect = |input: &str| accept(input).0.expect_continue;
    assert!(expect(
        "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n\r\n"
    ));
    assert!(!expect(
        "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n"
    ));
    assert!(!expect(
        "PUT / HTTP/1.0\r\nHost: a\r\nExpect: x\r\nContent-Length: 5\r\n\r\n"
    ));
}

#[test]
fn upgrades() {
    for (lines, upgrade, websocket) in [
        ("Connection: Upgrade\r\nUpgrade: WebSocket", true, true),
        (
            "Connection: keep-alive, upgrade\r\nUpgrade: foo/2",
            true,
            false,
        ),
        ("Upgrade: websocket", false, false),
        ("Connection: upgrade", false, false),
        (
            "Connection: upgrade\r\nUpgrade: websocket, foo",
            false,
            false,
        ),
        (
            "Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: foo",
            false,
            false,
        ),
        (
            "Connection: upgrade, http2-settings\r\nUpgrade: h2c",
            false,
            false,
        ),
        (
            "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 1",
            false,
            false,
        ),
        (
            "Connection: upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked",
            false,
            false,
        ),
    ] {
        let (head, _) = accept(&format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n"));
        assert_eq!(
            (head.upgrade.is_some(), head.upgrade_websocket),
            (upgrade, websocket),
            "{lines}"
        );
    }
    let (head, _) = accept("GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(head.upgrade, None);
}

#[test]
fn odd_but_clear() {
    let (head, buf) = accept(
        "PROPFIND //x//?? HTTP/1.1\r\nHost:a\r\nA:\t b \t\r\nB: \u{fc}\r\nC:\r\nTE: a , Trailers\r\n\
         Content-Length: 007\r\nX_Forwarded_For: 1\r\nX_Session_ID: 2\r\nCookie: a\r\nCookie: b\r\n\r\n",
    );
    assert_eq!(head.method, Method::Extension);
    assert_eq!(head.method_bytes(&buf), b"PROPFIND");
    assert_eq!(head.path(&buf), b"//x//");
    assert_eq!(head.query_bytes(&buf), Some(&b"?"[..]));
    assert_eq!(head.framing, Framing::Length(7));
    assert!(head.te_trailers);
    let values: Vec<_> = head.lines.iter().map(|l| l.value(&buf)).collect();
    assert_eq!(values[1..4], [&b"b"[..], "\u{fc}".as_bytes(), b""]);
    assert_eq!(
        (head.lines[6].name, head.lines[7].name),
        (Name::Shadow, Name::Session)
    );
    assert_eq!(head.cookie, Some(8));
    assert_eq!(
        head.values(&buf, Name::Cookie).collect::<Vec<_>>(),
        [b"a", b"b"]
    );
    assert_eq!(head.value(&buf, Name::Origin), None);
}

#[test]
fn pipelined() {
    let input = b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\r\n\
        POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n3;x=\"y\"\r\ndef\r\n0\r\nT: u\r\n\r\n\
        GET /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /4 HTTP/1.1\r\n";
    let read = read_connection(input, &HeadLimits::default());
    let seen: Vec<_> = read
        .requests
        .iter()
        .map(|r| (&r.path[..], &r.body[..]))
        .collect();
    assert_eq!(
        seen,
        [(&b"/1"[..], &b"abc"[..]), (b"/2", b"def"), (b"/3", b"")]
    );
    assert_eq!(read.end, Ok(17), "what follows a close is left alone");
}
