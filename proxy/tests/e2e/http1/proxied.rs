//! The PROXY protocol: from who stands in front, and towards upstreams.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::plain_with;
use crate::harness::{
    Connection, Gateway, Link, Reply, Upstream, eventually, service, service_with,
};

const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A gateway whose listener demands a header.
fn proxied(upstream: &Upstream, keys: &str) -> Gateway {
    let listener = format!("{{ address: \"127.0.0.1:0\", proxyProtocol: true{keys} }}");
    Gateway::start(&format!(
        "{}listeners: [{listener}]\n",
        service(&[upstream])
    ))
}

fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    header.extend([command, family]);
    header.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    header.extend(body);
    header
}

/// The client's address as the upstream was told of the newest request.
fn told(upstream: &Upstream) -> String {
    upstream
        .last()
        .get("x-forwarded-for")
        .unwrap_or("-")
        .to_owned()
}

#[test]
fn the_source_of_a_header_is_the_client_for_all_requests_of_its_connection() {
    let upstream = Upstream::named("a");
    let gateway = proxied(&upstream, "");
    let mut v6 = [0; 36];
    v6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    v6[15] = 7;
    let v4 = [192, 0, 2, 9, 10, 0, 0, 1, 0x1f, 0x90, 0, 80];
    let tlvs = [&v4[..], b"\x02\0\x0bexample.com\x04\0\x03abc"].concat();
    for (header, client) in [
        (
            b"PROXY TCP4 192.0.2.7 10.0.0.1 5000 80\r\n".to_vec(),
            "192.0.2.7",
        ),
        (
            b"PROXY TCP6 2001:db8::7 ::1 5000 80\r\n".to_vec(),
            "2001:db8::7",
        ),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (v2(0x21, 0x11, &v4), "192.0.2.9"),
        (v2(0x21, 0x11, &tlvs), "192.0.2.9"),
        (v2(0x21, 0x21, &v6), "2001:db8::7"),
        (v2(0x20, 0x00, &[]), "127.0.0.1"),
        (v2(0x21, 0x31, &[b'/'; 216]), "127.0.0.1"),
    ] {
        let mut connection = gateway.connect();
        connection.send([&header, GET.as_bytes()].concat());
        connection.response("GET").expect(200);
        assert_eq!(told(&upstream), client);
        connection.exchange(GET).expect(200);
        assert_eq!(told(&upstream), client);
        // Byte by byte, and the request long after.
        let mut connection = gateway.connect();
        for byte in &header {
            connection.send([*byte]);
        }
        connection.exchange(GET).expect(200);
        assert_eq!(told(&upstream), client);
    }
    gateway.expect_metric("proxy_headers_total", &[], 16.0);
}

#[test]
fn a_connection_without_a_good_header_is_closed_without_a_word() {
    let upstream = Upstream::named("a");
    let gateway = proxied(&upstream, "");
    let bad = [
        GET.as_bytes().to_vec(),
        b"PROXY TCP4 192.0.2.7 10.0.0.1 5000\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.7 10.0.0.1 5000 80\n".to_vec(),
        format!("PROXY UNKNOWN {}", "x".repeat(200)).into_bytes(),
        v2(0x21, 0x11, &[0; 4]),
        v2(0x11, 0x11, &[0; 12]),
        v2(0x21, 0x11, &[0; 9000])[..16].to_vec(),
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03".to_vec(),
    ];
    for header in &bad {
        let mut connection = gateway.connect();
        drop(connection.try_send(header));
        connection.expect_close();
    }
    let mut broken = gateway.connect();
    broken.send("PROXY TCP4 192");
    broken.finish();
    broken.expect_close();
    let count = bad.len() as f64 + 1.0;
    let refused = "proxy_headers_refused_total";
    gateway.expect_metric(refused, &["malformed"], count);
    // Opened and closed, as a check of the port does.
    let mut quiet = gateway.connect();
    quiet.finish();
    quiet.expect_close();
    gateway.expect_metric(refused, &["malformed"], count);
    assert_eq!(upstream.count(), 0);
    let said = gateway.stderr.text();
    assert_eq!(said.matches("PROXY header").count(), 1, "{said}");
    gateway.expect_metric("connections_open", &[], 0.0);
}

#[test]
fn a_header_must_come_within_the_header_timeout() {
    let upstream = Upstream::named("a");
    let listener = "listeners: [{ address: \"127.0.0.1:0\", proxyProtocol: true }]\n";
    let keys = format!("{listener}limits: {{ headerTimeout: 1s }}\n");
    let gateway = plain_with(&[&upstream], &keys, "");
    let mut silent = gateway.connect();
    let mut slow = gateway.connect();
    slow.send("PROXY TCP4 ");
    let mut late = gateway.connect();
    late.send("PROXY TCP4 192.0.2.7 10.0.0.1 5000 80\r\n");
    silent.expect_close();
    slow.expect_close();
    late.expect_close();
    gateway.expect_metric("proxy_headers_refused_total", &["timeout"], 2.0);
}

#[test]
fn trusted_proxies_are_asked_of_the_address_in_the_header() {
    let upstream = Upstream::named("a");
    let gateway = proxied(&upstream, ", trustedProxies: [\"192.0.2.0/24\"]");
    let get = "GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.5\r\n\r\n";
    for (source, chain) in [
        ("192.0.2.7", "203.0.113.5, 192.0.2.7"),
        ("198.51.100.1", "198.51.100.1"),
    ] {
        let mut connection = gateway.connect();
        connection.send(format!("PROXY TCP4 {source} 10.0.0.1 5000 80\r\n{get}"));
        connection.response("GET").expect(200);
        assert_eq!(told(&upstream), chain);
    }
}

#[test]
fn without_the_key_a_header_is_no_request() {
    let upstream = Upstream::named("a");
    let gateway = plain_with(&[&upstream], "", "");
    let mut connection = gateway.connect();
    connection.send(format!("PROXY TCP4 192.0.2.7 10.0.0.1 5000 80\r\n{GET}"));
    connection.response("GET").expect(400);
    assert_eq!(upstream.count(), 0);
}

/// The addresses of the header that a connection to an upstream opens with; `None` for LOCAL.
fn introduction(link: &mut Link) -> Option<(SocketAddr, SocketAddr)> {
    let fixed = link.wire.take(16).ok()?;
    assert_eq!(&fixed[..12], SIGNATURE, "{fixed:?}");
    let body = link.wire.take(usize::from(fixed[15])).ok()?;
    if fixed[12] == 0x20 {
        return None;
    }
    let ip = |bytes: &[u8]| match <[u8; 4]>::try_from(bytes) {
        Ok(v4) => IpAddr::from(v4),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes).unwrap()),
    };
    let port = |bytes: &[u8]| u16::from_be_bytes(bytes.try_into().unwrap());
    let n = match fixed[13] {
        0x11 => 4,
        0x21 => 16,
        other => panic!("family {other:x}"),
    };
    Some((
        SocketAddr::new(ip(&body[..n]), port(&body[2 * n..2 * n + 2])),
        SocketAddr::new(ip(&body[n..2 * n]), port(&body[2 * n + 2..])),
    ))
}

/// Answers each request with the client that its connection names.
fn names_clients() -> Upstream {
    Upstream::raw("a", |link| {
        let said = introduction(link);
        let text = said.map_or_else(|| "local".to_owned(), |(from, to)| format!("{from} {to}"));
        while let Some(received) = link.request() {
            link.send(Reply::ok(&text).render(received.head.method()));
        }
    })
}

#[test]
fn upstream_connections_name_their_client_and_serve_no_other() {
    let upstream = names_clients();
    let keys = "runtime: { cores: 1 }\n";
    let gateway = plain_with(&[&upstream], keys, "proxyProtocol: true\n");
    let mut ours = Vec::new();
    for _ in 0..3 {
        let mut connection = gateway.connect();
        let own = connection.wire.stream.local_addr().unwrap();
        let expected = format!("{own} {}", gateway.http);
        assert_eq!(connection.exchange(GET).expect(200).text(), expected);
        ours.push((connection, expected));
    }
    for _ in 0..3 {
        for (connection, expected) in &mut ours {
            assert_eq!(&connection.exchange(GET).expect(200).text(), expected);
        }
    }
    assert_eq!(upstream.accepted(), 3);
}

#[test]
fn a_client_that_a_header_named_is_named_to_the_upstream() {
    let upstream = names_clients();
    let listener = "listeners: [{ address: \"127.0.0.1:0\", proxyProtocol: true, trustedProxies: [\"192.0.2.7\"] }]\n";
    let gateway = plain_with(&[&upstream], listener, "proxyProtocol: true\n");
    let mut connection = gateway.connect();
    connection.send(format!("PROXY TCP6 2001:db8::7 ::1 5000 80\r\n{GET}"));
    let text = connection.response("GET").expect(200).text();
    assert!(text.starts_with("[2001:db8::7]:5000 "), "{text}");
    let mut connection = gateway.connect();
    connection.send("PROXY TCP4 192.0.2.7 10.0.0.1 5000 80\r\n");
    for (client, named) in [
        ("203.0.113.5", "203.0.113.5:0 "),
        ("203.0.113.6", "203.0.113.6:0 "),
        ("203.0.113.5", "203.0.113.5:0 "),
    ] {
        let get = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {client}\r\n\r\n");
        let text = connection.exchange(&get).expect(200).text();
        assert!(text.starts_with(named), "{text}");
    }
    assert_eq!(upstream.accepted(), 3, "each client has its own, kept");
}

#[test]
fn kept_connections_of_clients_that_left_make_room() {
    let upstream = names_clients();
    let keys = "proxyProtocol: true\nconnections: { maxIdlePerCore: 2 }\n";
    let gateway = plain_with(&[&upstream], "runtime: { cores: 1 }\n", keys);
    let mut clients: Vec<Connection> = (0..5).map(|_| gateway.connect()).collect();
    for client in &mut clients {
        client.exchange(GET).expect(200);
    }
    eventually("two are kept", || (upstream.open() == 2).then_some(()));
    // Those of the two newest.
    clients[4].exchange(GET).expect(200);
    clients[3].exchange(GET).expect(200);
    assert_eq!(upstream.accepted(), 5);
}

#[test]
fn health_checks_speak_for_the_gateway_itself() {
    let upstream = Upstream::raw("a", |link| {
        let said = introduction(link);
        while let Some(received) = link.request() {
            let good = said.is_none() == (received.head.target() == "/healthz");
            let reply = if good {
                Reply::ok("x")
            } else {
                Reply::status(500)
            };
            link.send(reply.render(received.head.method()));
        }
    });
    let check = "healthCheck: { interval: 100ms, timeout: 5s, healthy: 1, unhealthy: 1 }\n";
    let keys = format!("proxyProtocol: true\n{check}");
    let gateway = Gateway::start(&service_with(&[&upstream], &keys));
    gateway.expect_at_least("health_checks_total", &["passed"], 3.0);
    gateway
        .connect()
        .patience(Duration::from_secs(30))
        .exchange(GET)
        .expect(200);
    assert_eq!(gateway.metric("health_checks_total", &["failed"]), 0.0);
}
