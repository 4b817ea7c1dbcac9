//! Which header lines pass, which are ours, which end here.

use super::{plain, plain_with};
use crate::harness::http::latin1;
use crate::harness::{Reply, Upstream};

#[test]
fn end_to_end_headers_pass_in_order_with_their_spelling() {
    let upstream = Upstream::new("a", |_| {
        Reply::raw(b"HTTP/1.1 200 OK\r\nX-B: 2\r\nx-a: 1\r\nX-B: 3\r\nX-Odd: caf\xe9 \xff\r\nX-Empty:\r\nContent-Length: 0\r\n\r\n")
    });
    let gateway = plain(&[&upstream]);
    let mut connection = gateway.connect();
    connection.send(b"GET /p?q=1 HTTP/1.1\r\nHost: app.test:81\r\nX-B: 2\r\nx-a: 1\r\nX-B: 3\r\nX-Odd: caf\xe9 \xff\r\nX-Empty:\r\nAccept: */*\r\n\r\n");
    let response = connection.response("GET").expect(200);
    let odd = latin1(b"caf\xe9 \xff");
    let ours = |name: &str| {
        name.to_ascii_lowercase().starts_with("x-b") || matches!(name, "x-a" | "X-Odd" | "X-Empty")
    };
    let expected = [
        ("X-B", "2"),
        ("x-a", "1"),
        ("X-B", "3"),
        ("X-Odd", odd.as_str()),
        ("X-Empty", ""),
    ];
    for headers in [&response.head.headers, &upstream.last().head.headers] {
        let got: Vec<(&str, &str)> = headers
            .iter()
            .filter(|(n, _)| ours(n))
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .collect();
        assert_eq!(got, expected);
    }
    let request = upstream.last().head;
    assert_eq!(
        (
            request.start.as_str(),
            request.get("host"),
            request.get("accept")
        ),
        ("GET /p?q=1 HTTP/1.1", Some("app.test:81"), Some("*/*"))
    );
}

#[test]
fn hop_by_hop_headers_of_a_request_end_here() {
    let upstream = Upstream::named("a");
    let gateway = plain(&[&upstream]);
    gateway
        .client()
        .request("GET", "/")
        .header("Connection", "keep-alive, X-Hop, x-other-hop")
        .header("X-Hop", "1")
        .header("X-Other-Hop", "2")
        .header("Keep-Alive", "timeout=5")
        .header("Proxy-Connection", "keep-alive")
        .header("TE", "gzip")
        .header("Upgrade", "h2c")
        .header("X-Kept", "3")
        .send()
        .expect(200);
    let head = upstream.last().head;
    for gone in [
        "x-hop",
        "x-other-hop",
        "keep-alive",
        "proxy-connection",
        "te",
        "upgrade",
    ] {
        assert!(!head.has(gone), "{gone} in {head:?}");
    }
    assert!(
        !head.lists("connection", "x-hop") && head.get("x-kept") == Some("3"),
        "{head:?}"
    );
}

#[test]
fn hop_by_hop_headers_of_a_response_end_here() {
    let upstream = Upstream::new("a", |_| {
        Reply::ok("x")
            .header("Connection", "X-Hop")
            .header("X-Hop", "1")
            .header("Keep-Alive", "timeout=1")
            .header("X-Kept", "2")
    });
    let gateway = plain(&[&upstream]);
    let head = gateway.get("/").expect(200).head;
    for gone in ["x-hop", "keep-alive"] {
        assert!(!head.has(gone), "{gone} in {head:?}");
    }
    assert_eq!(head.get("x-kept"), Some("2"));
}

#[test]
fn connection_cannot_name_away_what_the_message_needs() {
    let upstream = Upstream::new("a", |request| Reply::ok(&request.body));
    let gateway = plain(&[&upstream]);
    let mut connection = gateway.connect();
    connection.send("POST / HTTP/1.1\r\nHost: app.test\r\nConnection: content-length, host, x-forwarded-for\r\nContent-Length: 3\r\n\r\nabc");
    let response = connection.response("POST");
    if response.status() == 200 {
        let head = upstream.last().head;
        assert_eq!(
            (response.text().as_str(), head.get("host")),
            ("abc", Some("app.test"))
        );
        assert!(
            head.get("x-forwarded-for")
                .is_some_and(|v| v.ends_with("127.0.0.1")),
            "{head:?}"
        );
    } else {
        assert_eq!((response.status(), upstream.count()), (400, 0));
    }
}

#[test]
fn a_stranger_cannot_forge_forwarding_headers() {
    let upstream = Upstream::named("a");
    let gateway = plain(&[&upstream]);
    gateway
        .client()
        .request("GET", "/")
        .host("shop.test")
        .header("X-Forwarded-For", "6.6.6.6")
        .header("X-Forwarded-Proto", "https")
        .header("X-Forwarded-Host", "evil.test")
        .send()
        .expect(200);
    let head = upstream.last().head;
    let list = head.all("x-forwarded-for");
    assert_eq!(list.len(), 1, "one line: {list:?}");
    assert_eq!(
        list[0].rsplit(',').next().map(str::trim),
        Some("127.0.0.1"),
        "the peer is the last word: {list:?}"
    );
    assert_eq!(head.all("x-forwarded-proto"), ["http"]);
    assert_eq!(head.all("x-forwarded-host"), ["shop.test"]);
}

const TRUSTING: &str = "listeners: [{ address: \"127.0.0.1:0\", trustedProxies: [\"127.0.0.0/8\", \"10.0.0.0/8\"] }]\n";

#[test]
fn a_trusted_proxy_is_believed() {
    let upstream = Upstream::named("a");
    let gateway = plain_with(&[&upstream], TRUSTING, "");
    gateway
        .client()
        .request("GET", "/")
        .host("inner.test")
        .header("X-Forwarded-For", "203.0.113.9, 10.1.2.3")
        .header("X-Forwarded-Proto", "https")
        .header("X-Forwarded-Host", "shop.test")
        .send()
        .expect(200);
    let head = upstream.last().head;
    let joined = head.all("x-forwarded-for").join(", ");
    let hops: Vec<&str> = joined.split(',').map(str::trim).collect();
    assert_eq!(hops, ["203.0.113.9", "10.1.2.3", "127.0.0.1"]);
    assert_eq!(head.all("x-forwarded-proto"), ["https"]);
    assert_eq!(head.all("x-forwarded-host"), ["shop.test"]);
}

#[test]
fn without_a_proxy_in_front_the_peer_is_named() {
    let upstream = Upstream::named("a");
    let gateway = plain_with(&[&upstream], TRUSTING, "");
    gateway
        .client()
        .request("GET", "/")
        .host("shop.test")
        .send()
        .expect(200);
    let head = upstream.last().head;
    assert_eq!(head.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(
        (head.get("x-forwarded-proto"), head.get("x-forwarded-host")),
        (Some("http"), Some("shop.test"))
    );
}

#[test]
fn via_is_left_alone() {
    let upstream = Upstream::new("a", |_| Reply::ok("x").header("Via", "1.1 varnish"));
    let gateway = plain(&[&upstream]);
    let response = gateway
        .client()
        .request("GET", "/")
        .header("Via", "1.0 fred")
        .send();
    assert_eq!(upstream.last().head.all("via"), ["1.0 fred"]);
    assert_eq!(response.head.all("via"), ["1.1 varnish"]);
    gateway.get("/").expect(200);
    assert!(!upstream.last().head.has("via"), "none is added");
}

#[test]
fn a_request_id_is_made_or_kept_and_traceparent_passed_on() {
    let upstream = Upstream::named("a");
    let gateway = plain(&[&upstream]);
    gateway.get("/").expect(200);
    let first = upstream
        .last()
        .get("x-request-id")
        .map(str::to_owned)
        .expect("one is made");
    gateway.get("/").expect(200);
    let second = upstream
        .last()
        .get("x-request-id")
        .map(str::to_owned)
        .expect("one is made");
    assert!(first.len() >= 16 && first != second, "{first} {second}");
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    gateway
        .client()
        .request("GET", "/")
        .header("X-Request-ID", "mine-1")
        .header("traceparent", trace)
        .send()
        .expect(200);
    let head = upstream.last().head;
    assert_eq!(
        (head.all("x-request-id"), head.get("traceparent")),
        (vec!["mine-1"], Some(trace))
    );
}

#[test]
fn an_absolute_form_target_is_sent_on_in_origin_form_with_its_host() {
    let upstream = Upstream::named("a");
    let gateway = plain(&[&upstream]);
    let cases = [
        ("http://shop.test/path?q=1", "/path?q=1", "shop.test"),
        ("http://shop.test:8080/", "/", "shop.test:8080"),
        ("HTTP://shop.test", "/", "shop.test"),
        ("http://shop.test?x=1", "/?x=1", "shop.test"),
    ];
    for (target, path, host) in cases {
        gateway
            .connect()
            .exchange(&format!(
                "GET {target} HTTP/1.1\r\nHost: other.test\r\n\r\n"
            ))
            .expect(200);
        let head = upstream.last().head;
        assert_eq!(
            (head.target(), head.all("host")),
            (path, vec![host]),
            "{target}"
        );
    }
}

#[test]
fn options_for_the_server_itself_passes() {
    let upstream = Upstream::named("a");
    let gateway = plain(&[&upstream]);
    gateway
        .connect()
        .exchange("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect(200);
    assert_eq!(upstream.last().head.target(), "*");
    gateway
        .connect()
        .exchange("GET * HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect(400);
    assert_eq!(upstream.count(), 1);
}

#[test]
fn connect_and_trace_are_refused() {
    let upstream = Upstream::named("a");
    let gateway = plain(&[&upstream]);
    for request in [
        "CONNECT example.test:443 HTTP/1.1\r\nHost: example.test:443\r\n\r\n",
        "CONNECT / HTTP/1.1\r\nHost: x\r\n\r\n",
        "TRACE / HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        let mut connection = gateway.connect();
        connection.send(request);
        let status = connection.response("GET").status();
        assert!(matches!(status, 400 | 405 | 501), "{request:?}: {status}");
    }
    assert_eq!(upstream.count(), 0);
}
