//! Upstreams that fail: retries, statuses, and what an error page says.

use super::{plain, plain_with};
use crate::harness::{
    Connection, Gateway, Link, Reply, Response, Upstream, eventually, service_with,
};

fn dead(id: &str) -> String {
    format!(
        "{{ id: {id}, address: \"127.0.0.1:{}\" }}",
        Upstream::dead_port()
    )
}

/// A service of entries written by hand.
fn entries(entries: &[&str], keys: &str) -> String {
    let keys: String = keys.lines().map(|l| format!("    {l}\n")).collect();
    format!(
        "services:\n  - name: app\n    upstreams: [{}]\n{keys}",
        entries.join(", ")
    )
}

/// Answers the first request of each connection, and ends the connection at the second without a word.
fn forgetful() -> Upstream {
    Upstream::raw("a", |link: &mut Link| {
        if link.request().is_some() {
            link.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            drop(link.request());
        }
    })
}

#[test]
fn a_request_that_reached_nobody_is_tried_elsewhere_whatever_its_method() {
    let alive = Upstream::named("b");
    let gateway = Gateway::start(&entries(&[&dead("a"), &alive.entry()], ""));
    for n in 0..10 {
        gateway.client().post("/", "x").expect(200);
        assert_eq!(alive.count(), n + 1, "exactly once");
    }
}

#[test]
fn an_idempotent_request_on_a_connection_that_breaks_is_tried_again() {
    let upstream = forgetful();
    let gateway = plain_with(&[&upstream], "runtime: { cores: 1 }\n", "");
    let mut connection = gateway.connect();
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"] {
        let request =
            format!("{method} /{method} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        connection.exchange(&request).expect(200);
    }
    assert!(upstream.accepted() >= 3, "connections did break");
}

#[test]
fn a_post_that_may_have_reached_its_upstream_is_not_repeated() {
    let upstream = forgetful();
    let gateway = plain_with(&[&upstream], "runtime: { cores: 1 }\n", "");
    let mut connection = gateway.connect();
    connection
        .exchange("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect(200);
    connection
        .exchange("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
        .expect(502);
    let posts = upstream
        .requests()
        .iter()
        .filter(|r| r.head.method() == "POST")
        .count();
    assert_eq!(posts, 1);
}

fn closes(id: &str) -> Upstream {
    Upstream::raw(id, |link: &mut Link| drop(link.request()))
}

#[test]
fn a_put_within_the_retry_buffer_moves_on_and_a_bigger_one_does_not() {
    let broken = closes("a");
    let alive = Upstream::new("b", |request| Reply::ok(request.body.len().to_string()));
    let body = service_with(
        &[&broken, &alive],
        "retry: { attempts: 2, bodyBytes: 1KB }\nloadBalancing: round-robin\n",
    );
    let gateway = Gateway::start(&format!("{body}runtime: {{ cores: 1 }}\n"));
    for _ in 0..4 {
        let response = gateway
            .client()
            .request("PUT", "/")
            .body(vec![b'x'; 1000])
            .send()
            .expect(200);
        assert_eq!(response.text(), "1000");
    }
    assert!(broken.count() > 0, "the broken one was tried");
    let statuses: Vec<u16> = (0..4)
        .map(|_| {
            gateway
                .client()
                .request("PUT", "/")
                .body(vec![b'x'; 5000])
                .send()
                .status()
        })
        .collect();
    assert!(
        statuses.contains(&502) && statuses.contains(&200),
        "{statuses:?}"
    );
}

#[test]
fn one_attempt_is_no_retry() {
    let broken = closes("a");
    let gateway = plain_with(&[&broken], "", "retry: { attempts: 1 }\n");
    gateway.get("/").expect(502);
    assert_eq!(broken.count(), 1);
}

#[test]
fn attempts_are_bounded() {
    let farm: Vec<Upstream> = (0..5).map(|n| closes(&format!("u{n}"))).collect();
    let all: Vec<&Upstream> = farm.iter().collect();
    let gateway = plain_with(&all, "", "retry: { attempts: 3 }\n");
    gateway.get("/").expect(502);
    assert_eq!(
        farm.iter()
            .map(Upstream::count)
            .collect::<Vec<_>>()
            .iter()
            .sum::<usize>(),
        3
    );
    assert!(farm.iter().all(|u| u.count() <= 1), "each another one");
}

#[test]
fn a_refused_connection_is_a_bad_gateway() {
    let gateway = Gateway::start(&entries(&[&dead("a")], ""));
    let status = gateway.get("/").status();
    assert!(matches!(status, 502 | 503), "{status}");
}

#[test]
fn with_no_usable_upstream_the_answer_is_503_with_retry_after() {
    let health =
        "healthCheck: { path: /h, interval: 100ms, timeout: 100ms, healthy: 1, unhealthy: 1 }\n";
    let gateway = Gateway::start(&entries(&[&dead("a"), &dead("b")], health));
    let response: Response = eventually("both are seen to be down", || {
        Some(gateway.get("/")).filter(|r| r.head.has("retry-after"))
    });
    assert_eq!(response.status(), 503);
    assert!(
        response
            .get("retry-after")
            .unwrap()
            .parse::<u32>()
            .is_ok_and(|n| n > 0),
        "{:?}",
        response.head
    );
}

#[test]
fn a_body_that_breaks_off_never_looks_complete() {
    let upstream = Upstream::new("a", |request| match request.head.target() {
        "/length" => Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this").close(),
        "/chunked" => {
            Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n")
                .close()
        }
        "/in-chunk" => {
            Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n99\r\nonly this")
                .close()
        }
        _ => Reply::raw(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-Trail",
        )
        .close(),
    });
    let mut gateway = plain(&[&upstream]);
    for target in ["/length", "/chunked", "/in-chunk", "/in-trailer"] {
        let mut connection = gateway.connect();
        connection.send(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"));
        let outcome = connection.try_response("GET");
        assert!(outcome.is_err(), "{target}: {outcome:?}");
    }
    assert!(gateway.lives());
    gateway.expect_at_least("upstream_errors_total", &["truncated"], 4.0);
}

#[test]
fn an_upstream_that_ends_before_its_head_is_a_bad_gateway() {
    let upstream = Upstream::new("a", |_| Reply::raw("HTTP/1.1 200 OK\r\nContent-Le").close());
    let gateway = plain(&[&upstream]);
    gateway.client().post("/", "x").expect(502);
}

#[test]
fn error_pages_say_what_happened_and_leak_no_address() {
    let port = Upstream::dead_port();
    let text = format!(
        "services: [{{ name: hidden-service, upstreams: [{{ id: hidden-id, address: \"127.0.0.1:{port}\" }}], retry: {{ attempts: 1 }} }}]\n\
         router: {{ rules: [{{ id: only, path: \"/only/*\", serviceName: hidden-service }}] }}\n"
    );
    let gateway = Gateway::start(&text);
    let bad_requests = [
        "GET / HTTP/1.1\r\n\r\n",
        "NONSENSE\r\n\r\n",
        "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
    ];
    let mut pages: Vec<Response> = vec![
        gateway.get("/only/x"),
        gateway.get("/elsewhere").expect(404),
    ];
    for request in bad_requests {
        let mut connection: Connection = gateway.connect();
        connection.send(request);
        pages.push(connection.response("GET"));
    }
    for page in pages {
        assert!((400..600).contains(&page.status()));
        let all = format!("{:?}{}", page.head, page.text());
        for secret in [
            "127.0.0.1",
            &port.to_string(),
            "hidden-id",
            "hidden-service",
            "gw-",
        ] {
            assert!(!all.contains(secret), "{secret} in {all}");
        }
        assert!(
            !page.body.is_empty() && page.text().trim().lines().count() <= 3,
            "one line of explanation: {:?}",
            page.text()
        );
    }
}

#[test]
fn a_dead_upstream_with_passive_health_is_given_a_rest() {
    let broken = closes("a");
    let alive = Upstream::named("b");
    let keys = "passiveHealth: { failures: 3, window: 10s, eject: 60s }\nretry: { attempts: 2 }\nloadBalancing: round-robin\n";
    let gateway = plain_with(&[&broken, &alive], "", keys);
    eventually("three failures eject it", || {
        gateway.get("/").expect(200);
        (gateway.api("GET", "/api/upstreams").text().contains("down")).then_some(())
    });
    let tried = eventually("the cores know", || {
        let before = broken.count();
        (0..10).for_each(|_| drop(gateway.get("/").expect(200)));
        (broken.count() == before).then_some(before)
    });
    assert!(tried >= 3);
}

#[test]
fn plain_gateways_answer_when_the_upstream_is_back() {
    let mut upstream = Upstream::named("a");
    let gateway = plain(&[&upstream]);
    gateway.get("/").expect(200);
    upstream.stop();
    let status = gateway.get("/").status();
    assert!(matches!(status, 502 | 503), "{status}");
    upstream.restart();
    eventually("it is used again", || {
        Some(()).filter(|()| gateway.get("/").status() == 200)
    });
}

#[test]
fn a_machine_without_files_left_is_no_fault_of_the_upstream() {
    let upstream = Upstream::new("a", |_| Reply::ok("a").header("Connection", "close"));
    let passive = "passiveHealth: { failures: 1, window: 10s, eject: 1h }\n";
    let gateway = plain_with(&[&upstream], "runtime: { cores: 1 }\n", passive);
    let limit = |soft: &str| {
        let (pid, soft) = (gateway.pid().to_string(), format!("--nofile={soft}:20000"));
        let set = std::process::Command::new("prlimit")
            .args(["--pid", &pid, &soft])
            .status();
        assert!(set.expect("prlimit").success());
    };
    let mut connection = gateway.connect();
    connection
        .exchange("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect(200);
    limit("3");
    for _ in 0..3 {
        connection
            .exchange("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            .expect(503);
    }
    limit("20000");
    connection
        .exchange("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect(200);
    gateway.expect_metric("upstream_errors_total", &["exhausted"], 3.0);
    gateway.expect_metric("upstream_errors_total", &["connect"], 0.0);
    assert!(
        gateway
            .stderr
            .text()
            .contains("no connection to upstream app/a")
    );
}
