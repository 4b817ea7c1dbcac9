//! Whose page may open a WebSocket with a session cookie.

use super::*;
use crate::harness::websocket::{accept_for, handshake};
use crate::http2::frames::{Answer, HEADERS, Peer};
use crate::tls::{Certs, python, secure};

fn sockets() -> Upstream {
    Upstream::raw("a", |link| {
        while let Some(request) = link.request() {
            if request.head.has("upgrade") {
                let key = request.get("sec-websocket-key").unwrap_or_default();
                let accept = accept_for(key);
                link.send(format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"));
                drop(link.wire.rest());
                return;
            }
            link.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    })
}

fn gateway(upstream: &Upstream) -> Gateway {
    let session = "identifier:\n  sources:\n    - { type: cookie, name: sid, priority: 1 }\n    \
                   - { type: header, name: X-Token, priority: 2 }\n";
    let more =
        "websocket: { allowedOrigins: [\"https://app.example.com\"] }\nruntime: { cores: 2 }\n";
    with_more(upstream, session, more)
}

/// The status of a handshake with these lines.
#[track_caller]
fn opened(gateway: &Gateway, lines: &str) -> u16 {
    let mut connection = gateway.connect();
    let host = gateway.http.to_string();
    connection.send(handshake("/socket", &host, lines));
    let head = connection.head();
    assert!(!head.has("set-cookie") || head.status() != 403, "{head:?}");
    head.status()
}

#[test]
fn a_handshake_with_a_session_cookie_needs_an_origin_of_ours() {
    let upstream = sockets();
    let gateway = gateway(&upstream);
    let (client, _) = signed_in(&gateway, &upstream);
    let cookie = client.jar.header().expect("a cookie");
    let (ours, with) = (format!("http://{}", gateway.http), |origin: &str| {
        opened(&gateway, &format!("Cookie: {cookie}\r\n{origin}"))
    });
    assert_eq!(with(&format!("Origin: {ours}\r\n")), 101);
    assert_eq!(with("Origin: https://app.example.com\r\n"), 101);
    let reached = upstream.count();
    for origin in [
        "",
        "Origin: null\r\n",
        "Origin: https://evil.test\r\n",
        "Origin: http://app.example.com\r\n",
        "Origin: http://127.0.0.1\r\n",
        &format!("Origin: {ours}\r\nOrigin: https://evil.test\r\n"),
        &format!("Origin: {ours}.evil.test\r\n"),
    ] {
        assert_eq!(with(origin), 403, "{origin:?}");
    }
    assert_eq!(upstream.count(), reached, "refused before the upstream");
    gateway.expect_metric("requests_refused_total", &["origin"], 7.0);
    // Without a session, or with one by a header, there is nothing to steal.
    assert_eq!(opened(&gateway, "Origin: https://evil.test\r\n"), 101);
    let token = client.jar.get("sid").expect("a token");
    let lines = format!("X-Token: {token}\r\nOrigin: https://evil.test\r\n");
    assert_eq!(opened(&gateway, &lines), 101);
    // Other requests of other sites are for SameSite to withhold.
    let mut plain = gateway.client();
    let request = plain.request("GET", "/").header("Cookie", cookie.clone());
    request
        .header("Origin", "https://evil.test")
        .send()
        .expect(200);
}

#[test]
fn over_https_a_page_of_plain_http_is_another_origin() {
    let (certs, upstream) = (Certs::new().localhost(), sockets());
    let gateway = secure(&certs, &[&upstream], &format!("session:\n  {COOKIE}"));
    let script = "
head, _ = get(connect())
cookie = [l.split(': ')[1].split(';')[0] for l in head.split('\\r\\n') if l.lower().startswith('set-cookie')][0]
for scheme in ('https', 'http'):
    with connect() as s:
        s.sendall(('GET / HTTP/1.1\\r\\nHost: localhost\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n'
            'Sec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\n'
            'Cookie: %s\\r\\nOrigin: %s://localhost\\r\\n\\r\\n' % (cookie, scheme)).encode())
        print(scheme, s.recv(4096).decode('latin-1').split(' ')[1])
";
    let said = python(script, &gateway, &certs);
    assert_eq!(said, "https 101\nhttp 403\n");
}

#[test]
fn extended_connect_is_held_to_the_same_rule() {
    let upstream = sockets();
    let gateway = gateway(&upstream);
    let (client, _) = signed_in(&gateway, &upstream);
    let cookie = client.jar.header().expect("a cookie");
    let host = gateway.http.to_string();
    let ours = format!("http://{host}");
    let mut peer = Peer::connect(&gateway, &[]);
    for (stream, origin) in [(1, ours.as_str()), (3, "https://evil.test")] {
        let fields = [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "http"),
            (":authority", &host),
            (":path", "/socket"),
            ("sec-websocket-version", "13"),
            ("cookie", &cookie),
            ("origin", origin),
        ];
        peer.head(stream, &fields, false);
        if origin == ours {
            let head = peer.until("the head", |f| f.kind == HEADERS && f.stream == stream);
            assert_eq!(Answer(vec![head]).status(), 200);
        } else {
            let body = peer.answer(stream).body();
            assert!(
                body.starts_with(b"403 "),
                "{}",
                String::from_utf8_lossy(&body)
            );
        }
    }
    gateway.expect_metric("requests_refused_total", &["origin"], 1.0);
}
