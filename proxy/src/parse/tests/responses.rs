//! Hostile responses: each a 502.

use super::*;

fn read(input: &[u8], asked: Asked) -> Result<(Progress, ResponseHead), Refusal> {
    let mut head = ResponseHead::default();
    let limits = HeadLimits {
        header_bytes: 1000,
        headers: 10,
        ..Default::default()
    };
    response(input, &limits, &mut HeadScan::new(), asked, &mut head).map(|p| (p, head))
}

#[rustfmt::skip]
const REFUSED: &[(&str, &str)] = &[
    ("HTTP/1.1\r\n", "malformed status line"),
    ("HTTP/1.1 \r\n", "malformed status line"),
    ("HTTP/1.1 20\r\n", "malformed status line"),
    ("HTTP/1.1  200 OK\r\n", "invalid status"),
    ("HTTP/1.1 2000 OK\r\n", "invalid status"),
    ("HTTP/1.1 200OK\r\n", "invalid status"),
    ("HTTP/1.1 200\tOK\r\n", "invalid status"),
    ("HTTP/1.1 -20 OK\r\n", "invalid status"),
    ("HTTP/1.1 +20 OK\r\n", "invalid status"),
    ("HTTP/1.1 2x0 OK\r\n", "invalid status"),
    ("HTTP/1.1 000 OK\r\n", "invalid status"),
    ("HTTP/1.1 099 OK\r\n", "invalid status"),
    ("HTTP/1.1 600 OK\r\n", "invalid status"),
    ("HTTP/1.1 999 OK\r\n", "invalid status"),
    ("HTTP/1.2 200 OK\r\n", "malformed status line"),
    ("HTTP/2 200 OK\r\n", "malformed status line"),
    ("HTTP/2.0 200 OK\r\n", "malformed status line"),
    ("HTTP/0.9 200 OK\r\n", "malformed status line"),
    ("http/1.1 200 OK\r\n", "malformed status line"),
    ("HTTP/1.1\t200 OK\r\n", "malformed status line"),
    (" HTTP/1.1 200 OK\r\n", "malformed status line"),
    ("ICY 200 OK\r\n", "malformed status line"),
    ("<html>\r\n", "malformed status line"),
    ("\r\nHTTP/1.1 200 OK\r\n", "empty line before the start line"),
    ("HTTP/1.1 200 O\0K\r\n", "NUL byte"),
    ("HTTP/1.1 200 O\x1bK\r\n", "control byte"),
    ("HTTP/1.1 200 OK\n\n", "bare LF"),
    ("HTTP/1.1 200 OK\r\nA: b\n\r\n", "bare LF"),
    ("HTTP/1.1 200 OK\rA: b\r\n\r\n", "bare CR"),
    ("HTTP/1.1 200 OK\r\nA: b\r\r\n", "bare CR"),
    ("HTTP/1.1 200 OK\r\nA: b\x01\r\n\r\n", "control byte"),
    ("HTTP/1.1 200 OK\r\nA b\r\n\r\n", "header line without a colon"),
    ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", "white space before the colon of a header"),
    ("HTTP/1.1 200 OK\r\n A: b\r\n\r\n", "folded header line"),
    ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", "folded header line"),
    ("HTTP/1.1 200 OK\r\n: b\r\n\r\n", "empty header name"),
    ("HTTP/1.1 200 OK\r\nA(: b\r\n\r\n", "header name is not a token"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", "repeated Content-Length"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "repeated Content-Length"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n", "Content-Length is not a number"),
    ("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "Content-Length is not a number"),
    ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "Content-Length is not a number"),
    ("HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n", "empty Content-Length"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\n", "Content-Length too large"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "both Content-Length and Transfer-Encoding"),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "Transfer-Encoding other than chunked"),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", "Transfer-Encoding other than chunked"),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", "repeated Transfer-Encoding"),
    ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "Transfer-Encoding in HTTP/1.0"),
    ("HTTP/1.1 200 OK\r\nTransfer_Encoding: chunked\r\n\r\n", "underscore in the name of a framing header"),
    ("HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", "101 without an upgrade asked for"),
    ("HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\n", "body in a response that has none"),
    ("HTTP/1.1 103 Early\r\nTransfer-Encoding: chunked\r\n\r\n", "body in a response that has none"),
    ("HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n", "body in a response that has none"),
    ("HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n", "body in a response that has none"),
    ("HTTP/1.1 200 OK\r\nConnection: a b\r\n\r\n", "malformed Connection"),
    ("HTTP/1.1 200 OK\r\nA: 1\r\nA: 2\r\nA: 3\r\nA: 4\r\nA: 5\r\nA: 6\r\nA: 7\r\nA: 8\r\nA: 9\r\nA: 10\r\nA: 11\r\n\r\n", "too many header lines"),
];

#[test]
fn refused_however_it_is_split() {
    assert!(REFUSED.len() >= 50);
    for (input, reason) in REFUSED {
        let whole = read(input.as_bytes(), Method::Get.into())
            .map(|_| ())
            .unwrap_err();
        assert_eq!(
            whole,
            Refusal {
                status: 502,
                reason
            },
            "{input:?}"
        );
        let limits = HeadLimits {
            headers: 10,
            ..Default::default()
        };
        let (mut scan, mut head) = (HeadScan::new(), ResponseHead::default());
        let end = (1..=input.len()).find_map(|len| {
            response(
                &input.as_bytes()[..len],
                &limits,
                &mut scan,
                Method::Get,
                &mut head,
            )
            .err()
        });
        assert_eq!(end, Some(whole), "{input:?}, byte by byte");
    }
    let long = format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(1000));
    let refusal = read(long.as_bytes(), Method::Get.into())
        .map(|_| ())
        .unwrap_err();
    assert_eq!(
        refusal,
        Refusal {
            status: 502,
            reason: "header lines too large"
        }
    );
    let long = format!("HTTP/1.1 200 {}", "x".repeat(1000));
    let refusal = read(long.as_bytes(), Method::Get.into())
        .map(|_| ())
        .unwrap_err();
    assert_eq!(
        refusal,
        Refusal {
            status: 502,
            reason: "status line too long"
        }
    );
}

#[test]
fn framing_by_status_method_and_lines() {
    let upgrade = Asked {
        method: Method::Get,
        upgrade: true,
    };
    let get = Asked::from(Method::Get);
    let head = Asked::from(&Method::Head);
    for (text, asked, framing, keep, length) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            get,
            Framing::Length(5),
            true,
            Some(5),
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            head,
            Framing::None,
            true,
            Some(5),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            get,
            Framing::Chunked,
            true,
            None,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            head,
            Framing::None,
            true,
            None,
        ),
        (
            "HTTP/1.1 200 OK\r\n\r\n",
            get,
            Framing::UntilClose,
            false,
            None,
        ),
        ("HTTP/1.1 200 OK\r\n\r\n", head, Framing::None, true, None),
        (
            "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
            get,
            Framing::Length(0),
            false,
            Some(0),
        ),
        (
            "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n",
            get,
            Framing::Length(0),
            true,
            Some(0),
        ),
        (
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            get,
            Framing::Length(0),
            false,
            Some(0),
        ),
        (
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
            get,
            Framing::None,
            true,
            Some(5),
        ),
        (
            "HTTP/1.1 304 \r\nTransfer-Encoding: chunked\r\n\r\n",
            get,
            Framing::None,
            true,
            None,
        ),
        (
            "HTTP/1.1 204\r\nContent-Length: 0\r\n\r\n",
            get,
            Framing::None,
            true,
            None,
        ),
        (
            "HTTP/1.1 100 Continue\r\n\r\n",
            get,
            Framing::None,
            true,
            None,
        ),
        (
            "HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
            upgrade,
            Framing::None,
            false,
            None,
        ),
    ] {
        let (progress, read) = read(text.as_bytes(), asked).unwrap();
        assert_eq!(progress, Progress::Complete);
        let seen = (read.framing, read.keep_alive, read.content_length);
        assert_eq!(seen, (framing, keep, length), "{text:?} {asked:?}");
        assert_eq!(read.is_interim(), read.status == 100);
        assert_eq!(read.len, text.len());
    }
}

#[test]
fn lines_and_reason() {
    let text = b"HTTP/1.1 200 Tr\xe8s bien \r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\nX-Session-Set: {}\r\n\
        X-Hop: 1\r\nConnection: x-hop, set-cookie\r\nContent-Length: 0\r\n\r\nHTTP/1.1";
    let (_, head) = read(text, Method::Get.into()).unwrap();
    assert_eq!(head.reason.of(text), b"Tr\xe8s bien ");
    assert_eq!(
        head.values(text, Name::SetCookie).collect::<Vec<_>>(),
        [b"a=1", b"b=2"]
    );
    assert!(head.has(Name::Session) && !head.has(Name::Cookie));
    let gone: Vec<_> = head
        .lines
        .iter()
        .filter(|l| l.hop_by_hop())
        .map(|l| l.name(text))
        .collect();
    assert_eq!(gone, [&b"X-Hop"[..], b"Connection"]);
    assert_eq!(head.len, text.len() - 8);
    assert_eq!(head.value(text, Name::ContentLength), Some(&b"0"[..]));
}
