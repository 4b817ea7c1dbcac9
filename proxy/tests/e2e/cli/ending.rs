//! How the process ends, and the access log that outlives a rename.

use std::time::{Duration, Instant};

use crate::harness::{Gate, Gateway, PATIENCE, Reply, Upstream, eventually, service};

fn holding(gate: &Gate) -> Upstream {
    let held = gate.clone();
    Upstream::new("a", move |request| {
        if request.head.target() == "/hold" {
            Reply::ok("at last").after(&held)
        } else {
            Reply::ok("a")
        }
    })
}

#[test]
fn sigterm_lets_requests_under_way_finish() {
    let gate = Gate::new();
    let upstream = holding(&gate);
    let mut gateway = Gateway::start(&format!(
        "{}shutdown: {{ delay: 0s, timeout: 20s }}\n",
        service(&[&upstream])
    ));
    let mut idle = gateway.connect();
    idle.exchange("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect(200);
    let mut under_way = gateway.connect();
    under_way.send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    upstream.wait_for(2);
    gateway.signal("TERM");
    idle.expect_close();
    eventually("nobody is let in any more", || {
        std::net::TcpStream::connect(gateway.http)
            .is_err()
            .then_some(())
    });
    assert!(gateway.lives(), "one request is under way");
    gate.open();
    let response = under_way.response("GET").expect(200);
    assert_eq!(response.text(), "at last");
    assert!(
        response.head.lists("connection", "close"),
        "{:?}",
        response.head
    );
    assert!(gateway.wait(PATIENCE).success());
}

#[test]
fn the_drain_has_an_end() {
    let gate = Gate::new();
    let upstream = holding(&gate);
    let mut gateway = Gateway::start(&format!(
        "{}shutdown: {{ delay: 0s, timeout: 1s }}\n",
        service(&[&upstream])
    ));
    let mut under_way = gateway.connect();
    under_way.send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    upstream.wait_for(1);
    gateway.signal("TERM");
    gateway.wait(Duration::from_secs(5));
    gate.open();
}

#[test]
fn sigint_without_a_terminal_drains_like_sigterm() {
    let gate = Gate::new();
    let upstream = holding(&gate);
    let mut gateway = Gateway::start(&service(&[&upstream]));
    let mut under_way = gateway.connect();
    under_way.send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    upstream.wait_for(1);
    gateway.signal("INT");
    eventually("nobody is let in any more", || {
        std::net::TcpStream::connect(gateway.http)
            .is_err()
            .then_some(())
    });
    gate.open();
    assert_eq!(under_way.response("GET").expect(200).text(), "at last");
    assert!(gateway.wait(PATIENCE).success());
}

#[test]
fn a_second_signal_ends_at_once() {
    let gate = Gate::new();
    let upstream = holding(&gate);
    let mut gateway = Gateway::start(&format!(
        "{}shutdown: {{ delay: 0s, timeout: 60s }}\n",
        service(&[&upstream])
    ));
    let mut under_way = gateway.connect();
    under_way.send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    upstream.wait_for(1);
    gateway.signal("TERM");
    eventually("readiness fails or is gone", || {
        std::net::TcpStream::connect(gateway.http)
            .is_err()
            .then_some(())
    });
    assert!(gateway.lives());
    let started = Instant::now();
    gateway.signal("TERM");
    gateway.wait(PATIENCE);
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "{:?}",
        started.elapsed()
    );
    gate.open();
}

#[test]
fn an_idle_gateway_ends_at_once_on_sigterm() {
    let upstream = Upstream::named("a");
    let mut gateway = Gateway::start(&service(&[&upstream]));
    let mut idle: Vec<_> = (0..50).map(|_| gateway.connect()).collect();
    for connection in &mut idle {
        connection
            .exchange("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            .expect(200);
    }
    let started = Instant::now();
    gateway.signal("TERM");
    assert!(gateway.wait(PATIENCE).success());
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn sigusr1_reopens_the_access_log() {
    let upstream = Upstream::named("a");
    let gateway = Gateway::start(&format!(
        "{}accessLog: {{ path: access.log, format: json }}\n",
        service(&[&upstream])
    ));
    let (now, old) = (gateway.file("access.log"), gateway.file("access.log.1"));
    let holds = |path: &std::path::Path, word: &str| {
        std::fs::read_to_string(path).is_ok_and(|text| text.contains(word))
    };
    gateway.get("/before").expect(200);
    eventually("the first line", || holds(&now, "/before").then_some(()));
    std::fs::rename(&now, &old).unwrap();
    gateway.get("/between").expect(200);
    eventually("it still goes to the renamed file", || {
        holds(&old, "/between").then_some(())
    });
    gateway.signal("USR1");
    eventually("a new file", || now.exists().then_some(()));
    gateway.get("/after").expect(200);
    eventually("the new file is used", || {
        holds(&now, "/after").then_some(())
    });
    assert!(!holds(&old, "/after"));
}

#[test]
fn the_access_log_has_a_json_object_a_line() {
    let upstream = Upstream::new("a", |request| {
        if request.head.target() == "/missing" {
            Reply::status(404)
        } else {
            Reply::ok("hello")
        }
    });
    let text = format!(
        "{}accessLog: {{ path: access.log, format: json }}\nsession: {{ identifier: {{ type: cookie, name: sid }} }}\nrouter: {{ sessionAffinity: {{ methods: [cookie] }}, rules: [{{ id: everything, path: \"/*\", serviceName: app }}] }}\n",
        service(&[&upstream])
    );
    let gateway = Gateway::start(&text);
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut client = gateway.client();
    client
        .request("GET", "/one?q=\"x\"%22")
        .header("X-Request-ID", "request-1")
        .header("traceparent", trace)
        .send();
    client.get("/missing").expect(404);
    gateway
        .connect()
        .exchange("BAD REQUEST LINE\r\n\r\n")
        .expect(400);
    let sid = upstream
        .last()
        .get("x-session-id")
        .expect("a session")
        .to_owned();
    let lines = eventually("three lines", || {
        let text = std::fs::read_to_string(gateway.file("access.log")).ok()?;
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}")))
            .collect();
        (lines.len() >= 3).then_some(lines)
    });
    let missing = lines
        .iter()
        .find(|l| l.to_string().contains("/missing"))
        .expect("its line")
        .to_string();
    for word in ["404", &sid, "everything", "GET", "hit", "127.0.0.1"] {
        assert!(missing.contains(word), "{word} in {missing}");
    }
    let first = lines
        .iter()
        .find(|l| l.to_string().contains("/one"))
        .expect("its line")
        .to_string();
    for word in ["request-1", trace, "first"] {
        assert!(first.contains(word), "{word} in {first}");
    }
    assert!(
        lines.iter().any(|l| l.to_string().contains("400")),
        "{lines:?}"
    );
}

#[test]
fn the_access_log_may_be_a_template_on_stdout() {
    let upstream = Upstream::named("a");
    let said = crate::harness::Launch::new(&format!(
        "{}accessLog: {{ path: stdout, format: \"{{nothing}}\" }}\n",
        service(&[&upstream])
    ))
    .check();
    assert!(
        said.code == 2 && said.all().contains("gateway.accessLog.format"),
        "an unknown field is an error: {said:?}"
    );
    let gateway = Gateway::start(&format!(
        "{}accessLog: {{ path: stdout, format: \"<<{{method}} {{path}} {{status}}>>\" }}\n",
        service(&[&upstream])
    ));
    gateway.get("/in-a-template").expect(200);
    let line = gateway
        .stdout
        .wait(|line| line.contains("/in-a-template").then(|| line.to_owned()));
    assert_eq!(line.as_deref(), Some("<<GET /in-a-template 200>>"));
}

#[test]
fn what_a_client_sends_cannot_forge_a_line_of_the_log() {
    let upstream = Upstream::named("a");
    let gateway = Gateway::start(&format!(
        "{}accessLog: {{ path: access.log, format: json }}\n",
        service(&[&upstream])
    ));
    gateway
        .client()
        .request("GET", "/x%0a%0d%22")
        .header("X-Request-ID", "a\"b\\c\u{e9}\u{ff}")
        .header("User-Agent", "\"},{\"")
        .send()
        .expect(200);
    gateway.get("/last").expect(200);
    let text = eventually("the lines", || {
        std::fs::read_to_string(gateway.file("access.log"))
            .ok()
            // Lines of two cores come in any order.
            .filter(|t| t.contains("/last") && t.contains("/x") && t.ends_with('\n'))
    });
    assert_eq!(text.lines().count(), 2, "{text}");
    for line in text.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    }
}
