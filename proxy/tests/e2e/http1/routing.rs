//! Rules and paths.

use super::plain;
use crate::harness::{Gateway, Upstream};

fn two_services(rules: &str) -> (Upstream, Upstream, Gateway) {
    let (one, two) = (Upstream::named("one"), Upstream::named("two"));
    let text = format!(
        "services:\n  - {{ name: one, upstreams: [{}] }}\n  - {{ name: two, upstreams: [{}] }}\nrouter:\n  rules:\n{rules}",
        one.entry(),
        two.entry()
    );
    let gateway = Gateway::start(&text);
    (one, two, gateway)
}

#[test]
fn the_longest_path_wins_whatever_the_order() {
    let (_one, _two, gateway) = two_services(
        "    - { path: \"/*\", serviceName: one }\n    - { path: \"/chat/*\", serviceName: two }\n    - { path: \"/chat/old/*\", serviceName: one }\n",
    );
    let cases = [
        ("/", "one"),
        ("/chatter", "one"),
        ("/chat", "two"),
        ("/chat?x=1", "two"),
        ("/chat/", "two"),
        ("/chat/a/b", "two"),
        ("/chat/old", "one"),
        ("/chat/old/x", "one"),
        ("/chat/older", "two"),
        ("/x/../chat/a", "two"),
        ("/chat/../x", "one"),
        ("/%63hat/a", "two"),
        ("/CHAT", "one"),
    ];
    for (target, service) in cases {
        assert_eq!(gateway.get(target).expect(200).text(), service, "{target}");
    }
}

#[test]
fn an_exact_path_matches_nothing_below_it() {
    let (_one, _two, gateway) = two_services(
        "    - { path: /exact, serviceName: one }\n    - { path: \"/tree/*\", serviceName: two }\n",
    );
    assert_eq!(gateway.get("/exact").expect(200).text(), "one");
    assert_eq!(gateway.get("/exact?q").expect(200).text(), "one");
    for target in ["/exact/", "/exact/x", "/exac", "/", "/trees"] {
        gateway.get(target).expect(404);
    }
}

#[test]
fn host_and_methods_narrow_a_rule() {
    let (_one, _two, gateway) = two_services(
        "    - { path: \"/*\", host: shop.test, serviceName: one }\n    - { path: \"/*\", host: \"*.wide.test\", serviceName: two }\n    \
         - { path: \"/api/*\", methods: [POST], serviceName: two }\n",
    );
    let ask = |method: &str, target: &str, host: &str| {
        let response = gateway.client().request(method, target).host(host).send();
        if response.status() == 200 {
            response.text()
        } else {
            response.status().to_string()
        }
    };
    assert_eq!(ask("GET", "/", "shop.test"), "one");
    assert_eq!(ask("GET", "/", "SHOP.test:80"), "one");
    assert_eq!(ask("GET", "/", "other.test"), "404");
    assert_eq!(ask("GET", "/", "a.wide.test"), "two");
    assert_eq!(ask("GET", "/", "wide.test"), "404");
    assert_eq!(ask("POST", "/api/x", "other.test"), "two");
    assert_eq!(ask("GET", "/api/x", "other.test"), "404");
}

#[test]
fn paths_are_forwarded_as_they_were_matched() {
    let upstream = Upstream::named("a");
    let gateway = plain(&[&upstream]);
    let cases = [
        ("/a/../b", "/b"),
        ("/a/./b", "/a/b"),
        ("/../../etc/passwd", "/etc/passwd"),
        ("/a/..", "/"),
        ("/a/b/..", "/a/"),
        ("/a/%2e%2e/b", "/b"),
        ("/a/.%2E/b", "/b"),
        ("/%61%7Eb", "/a~b"),
        ("/a%20b", "/a%20b"),
        ("/a//b", "/a//b"),
        ("/%c3%a9", "/%c3%a9"),
        ("/x?a=/../b&c=%2F%61", "/x?a=/../b&c=%2F%61"),
        ("/a%3Fb", "/a%3Fb"),
        ("/...", "/..."),
    ];
    for (target, forwarded) in cases {
        gateway
            .connect()
            .exchange(&format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"))
            .expect(200);
        let got = upstream.last().head.target().to_owned();
        assert!(
            got.eq_ignore_ascii_case(forwarded),
            "{target} went as {got}, not {forwarded}"
        );
    }
}

#[test]
fn hidden_separators_in_a_path_are_refused() {
    let upstream = Upstream::named("a");
    let gateway = plain(&[&upstream]);
    for target in [
        "/a%2Fb", "/a%2fb", "/a%5Cb", "/a%5cb", "/a%00b", "/a\\b", "/..%2f", "/a%2", "/a%zz",
    ] {
        gateway
            .connect()
            .exchange(&format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"))
            .expect(400);
    }
    assert_eq!(upstream.count(), 0);
}

#[test]
fn raw_paths_go_as_they_came() {
    let upstream = Upstream::named("a");
    let text = format!(
        "{}listeners: [{{ address: \"127.0.0.1:0\", pathPolicy: raw }}]\n",
        crate::harness::service(&[&upstream])
    );
    let gateway = Gateway::start(&text);
    for target in ["/a%2Fb", "/a%5Cb", "/a%00", "/x%2F..%2Fy"] {
        gateway
            .connect()
            .exchange(&format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"))
            .expect(200);
        assert_eq!(upstream.last().head.target(), target);
    }
}

#[test]
fn several_listeners_serve_the_same() {
    let upstream = Upstream::named("a");
    let text = format!(
        "{}listeners: [{{ address: \"127.0.0.1:0\" }}, {{ address: \"[::1]:0\" }}]\n",
        crate::harness::service(&[&upstream])
    );
    let gateway = Gateway::start(&text);
    assert_eq!(gateway.listeners.len(), 2);
    for address in &gateway.listeners {
        assert_eq!(
            crate::harness::Client::new(*address)
                .get("/")
                .expect(200)
                .text(),
            "a"
        );
    }
}
