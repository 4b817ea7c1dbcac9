//! The admin endpoint: probes, metrics, sessions, upstreams, and who may talk to it.

use serde_json::Value;

use crate::harness::{
    Client, Gate, Gateway, Launch, PATIENCE, Reply, Upstream, eventually, service, service_with,
};

const SESSION: &str =
    "session: { identifier: { type: cookie, name: sid }, data: { index: [userId] } }\n";

fn app() -> Upstream {
    Upstream::new("a", |request| {
        let lines = request
            .head
            .all("x-answer")
            .into_iter()
            .filter_map(|line| line.split_once(": "));
        lines.fold(Reply::ok("app"), |reply, (name, value)| {
            reply.header(name, value)
        })
    })
}

#[track_caller]
fn login(gateway: &Gateway, upstream: &Upstream, user: &str) -> (Client, String) {
    let mut client = gateway.client();
    client.get("/").expect(200);
    client
        .request("GET", "/")
        .header(
            "X-Answer",
            format!("X-Session-Authenticate: {{\"userId\":{user}}}"),
        )
        .send()
        .expect(200);
    client.get("/").expect(200);
    let sid = upstream
        .last()
        .get("x-session-id")
        .expect("a session")
        .to_owned();
    (client, sid)
}

#[test]
fn probes_answer_and_readiness_fails_before_the_drain() {
    let upstream = app();
    let mut gateway = Gateway::start(&format!(
        "{}shutdown: {{ delay: 2s, timeout: 5s }}\n",
        service(&[&upstream])
    ));
    gateway.api("GET", "/healthz").expect(200);
    gateway.api("GET", "/readyz").expect(200);
    gateway.signal("TERM");
    eventually("readiness fails", || {
        (gateway.api("GET", "/readyz").status() == 503).then_some(())
    });
    gateway.api("GET", "/healthz").expect(200);
    gateway.get("/").expect(200);
    assert!(gateway.wait(PATIENCE).success());
}

#[test]
fn metrics_are_prometheus_text_with_the_seven_and_the_usual() {
    let upstream = app();
    let gateway = Gateway::start(&format!(
        "{}{SESSION}router: {{ sessionAffinity: {{ methods: [cookie] }} }}\n",
        service(&[&upstream])
    ));
    login(&gateway, &upstream, "\"u1\"");
    let response = gateway.api("GET", "/metrics").expect(200);
    assert!(
        response
            .get("content-type")
            .is_some_and(|v| v.starts_with("text/plain") && v.contains("version=0.0.4")),
        "{:?}",
        response.head
    );
    let text = response.text();
    let names = [
        "active_sessions",
        "session_creates_total",
        "session_destroys_total",
        "session_hits_total",
        "session_misses_total",
        "affinity_hits_total",
        "affinity_misses_total",
        "requests_total",
        "request_duration_seconds_bucket",
        "upstream_state",
        "connections_open",
    ];
    for name in names {
        assert!(
            text.lines()
                .any(|line| line.starts_with(&format!("gateway_{name}{{"))
                    || line.starts_with(&format!("gateway_{name} "))),
            "{name} in\n{text}"
        );
    }
    let mut typed = std::collections::HashSet::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.splitn(3, ' ');
            if words.next() == Some("TYPE") {
                assert!(
                    typed.insert(words.next().unwrap().to_owned()),
                    "one TYPE a name: {line}"
                );
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a value");
        assert!(value.parse::<f64>().is_ok(), "{line}");
        assert_eq!(
            series.matches('{').count(),
            series.matches('}').count(),
            "{line}"
        );
    }
    gateway.expect_metric("active_sessions", &["role"], 1.0);
    gateway.expect_metric("session_creates_total", &[], 1.0);
    gateway.expect_metric("session_hits_total", &[], 2.0);
    gateway.expect_metric("affinity_hits_total", &[], 2.0);
    gateway.expect_metric("requests_total", &["2xx"], 3.0);
}

#[test]
fn metrics_can_be_selected_and_turned_off() {
    let upstream = app();
    let with = |metrics: &str| {
        Gateway::start(&format!(
            "{}session: {{ identifier: {{ type: cookie, name: sid }}, metrics: {metrics} }}\n",
            service(&[&upstream])
        ))
    };
    with("{ enabled: false }")
        .api("GET", "/metrics")
        .expect(404);
    let text = with("{ collect: [active_sessions, session_hits] }")
        .api("GET", "/metrics")
        .expect(200)
        .text();
    assert!(
        text.contains("gateway_active_sessions") && text.contains("gateway_session_hits_total")
    );
    assert!(
        !text.contains("gateway_session_creates_total")
            && !text.contains("gateway_affinity_hits_total"),
        "{text}"
    );
}

fn list(gateway: &Gateway, query: &str) -> Vec<Value> {
    let page = gateway
        .api("GET", &format!("/api/sessions{query}"))
        .expect(200)
        .json();
    page["sessions"].as_array().expect("a list").clone()
}

#[test]
fn sessions_are_listed_and_found_by_an_indexed_field() {
    let upstream = app();
    let gateway = Gateway::start(&format!(
        "{}{SESSION}runtime: {{ cores: 4 }}\n",
        service(&[&upstream])
    ));
    let mut sids: Vec<String> = (0..6)
        .map(|n| {
            login(
                &gateway,
                &upstream,
                if n < 2 { "\"ann\"" } else { "\"bob\"" },
            )
            .1
        })
        .collect();
    login(&gateway, &upstream, "42");
    let all = list(&gateway, "");
    assert_eq!(all.len(), 7);
    assert!(
        all.iter()
            .all(|s| s["sid"].as_str().is_some_and(|sid| sid.len() == 22))
    );
    let mut found: Vec<String> = list(&gateway, "?userId=ann")
        .iter()
        .map(|s| s["sid"].as_str().unwrap().to_owned())
        .collect();
    found.sort();
    sids.truncate(2);
    sids.sort();
    assert_eq!(found, sids);
    assert_eq!(
        list(&gateway, "?userId=42").len(),
        1,
        "a number is found too"
    );
    assert!(list(&gateway, "?userId=nobody").is_empty());
    gateway.api("GET", "/api/sessions?cartId=1").expect(400);
}

#[test]
fn pages_of_sessions_give_each_once() {
    let upstream = app();
    let gateway = Gateway::start(&format!(
        "{}{SESSION}runtime: {{ cores: 4 }}\n",
        service(&[&upstream])
    ));
    for _ in 0..25 {
        gateway.get("/").expect(200);
    }
    let mut seen = std::collections::HashSet::new();
    let mut query = "?limit=4".to_owned();
    for _ in 0..100 {
        let page = gateway
            .api("GET", &format!("/api/sessions{query}"))
            .expect(200)
            .json();
        let sessions = page["sessions"].as_array().unwrap();
        assert!(sessions.len() <= 4);
        for session in sessions {
            assert!(
                seen.insert(session["sid"].as_str().unwrap().to_owned()),
                "twice: {session}"
            );
        }
        match page["next"].as_str() {
            Some(next) => query = format!("?limit=4&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), 25);
}

#[test]
fn a_session_is_shown_with_its_values_masked_unless_asked_for() {
    let upstream = app();
    let gateway = Gateway::start(&format!("{}{SESSION}", service(&[&upstream])));
    let (_, sid) = login(&gateway, &upstream, "\"ann-the-first\"");
    let masked = gateway
        .api("GET", &format!("/api/sessions/{sid}"))
        .expect(200)
        .text();
    assert!(
        masked.contains(&sid) && masked.contains("userId") && !masked.contains("ann-the-first"),
        "{masked}"
    );
    let plain = gateway
        .api("GET", &format!("/api/sessions/{sid}?values=true"))
        .expect(200)
        .json();
    assert_eq!(
        (
            plain["data"]["userId"].as_str(),
            plain["authenticated"].as_bool()
        ),
        (Some("ann-the-first"), Some(true))
    );
    assert!(
        plain["requestCount"].as_u64().is_some_and(|n| n >= 2),
        "{plain}"
    );
    gateway
        .api("GET", "/api/sessions/AAAAAAAAAAAAAAAAAAAAAA")
        .expect(404);
    gateway.api("GET", "/api/sessions/short").expect(400);
}

#[test]
fn looking_at_a_session_is_no_use_of_it() {
    let upstream = app();
    let gateway = Gateway::start(&format!(
        "{}session: {{ identifier: {{ type: cookie, name: sid }}, options: {{ timeout: 2s }} }}\n",
        service(&[&upstream])
    ));
    let mut client = gateway.client();
    client.get("/").expect(200);
    let sid = upstream.last().get("x-session-id").unwrap().to_owned();
    eventually("it expires although it is looked at", || {
        (gateway.api("GET", &format!("/api/sessions/{sid}")).status() == 404).then_some(())
    });
}

#[test]
fn a_deleted_session_is_dead_at_once_on_every_core() {
    let upstream = app();
    let gateway = Gateway::start(&format!(
        "{}{SESSION}runtime: {{ cores: 4 }}\n",
        service(&[&upstream])
    ));
    for _ in 0..6 {
        let (mut client, sid) = login(&gateway, &upstream, "\"ann\"");
        gateway
            .api_write("DELETE", &format!("/api/sessions/{sid}"), "")
            .expect(200);
        client.get("/").expect(200);
        assert_ne!(upstream.last().get("x-session-id"), Some(sid.as_str()));
        gateway
            .api_write("DELETE", &format!("/api/sessions/{sid}"), "")
            .expect(404);
    }
}

#[test]
fn log_out_everywhere_by_field() {
    let upstream = app();
    let gateway = Gateway::start(&format!(
        "{}{SESSION}runtime: {{ cores: 4 }}\n",
        service(&[&upstream])
    ));
    let mut ann: Vec<_> = (0..4)
        .map(|_| login(&gateway, &upstream, "\"ann\""))
        .collect();
    let (mut bob, bobs) = login(&gateway, &upstream, "\"bob\"");
    let done = gateway
        .api_write("DELETE", "/api/sessions?userId=ann", "")
        .expect(200)
        .json();
    assert_eq!(done["destroyed"], 4);
    for (client, sid) in &mut ann {
        client.get("/").expect(200);
        assert_ne!(upstream.last().get("x-session-id"), Some(sid.as_str()));
    }
    bob.get("/").expect(200);
    assert_eq!(upstream.last().get("x-session-id"), Some(bobs.as_str()));
    gateway.api_write("DELETE", "/api/sessions", "").expect(400);
}

#[test]
fn upstreams_are_shown_and_set() {
    let (one, two) = (Upstream::named("u1"), Upstream::named("u2"));
    let gateway = Gateway::start(&service(&[&one, &two]));
    for _ in 0..4 {
        gateway.get("/").expect(200);
    }
    let all = gateway.api("GET", "/api/upstreams").expect(200).json();
    let upstreams = all["services"][0]["upstreams"]
        .as_array()
        .expect("a list")
        .clone();
    assert_eq!(
        upstreams
            .iter()
            .map(|u| u["id"].as_str().unwrap())
            .collect::<Vec<_>>(),
        ["u1", "u2"]
    );
    assert_eq!(
        upstreams
            .iter()
            .map(|u| u["requests"].as_u64().unwrap())
            .sum::<u64>(),
        4
    );
    for state in ["drain", "maint", "ready"] {
        gateway.set_state("u1", state);
        assert_eq!(
            gateway.api("GET", "/api/upstreams/app/u1").json()["state"],
            state
        );
        let value = gateway.metric("upstream_state", &["u1", &format!("\"{state}\"")]);
        assert!((value - 1.0).abs() < 0.1, "{state}: {value}");
    }
    gateway
        .api_write("PUT", "/api/upstreams/app/u9", "{\"state\":\"drain\"}")
        .expect(404);
    gateway
        .api_write("PUT", "/api/upstreams/app/u1", "{\"state\":\"asleep\"}")
        .expect(400);
    gateway
        .api_write(
            "PUT",
            "/api/upstreams/app/u1",
            "{\"state\":\"drain\",\"x\":1}",
        )
        .expect(400);
    gateway
        .api_write("PUT", "/api/upstreams/app/u1", "nonsense")
        .expect(400);
    assert_eq!(
        gateway.api("GET", "/api/upstreams/app/u1").json()["state"],
        "ready"
    );
}

#[test]
fn a_foreign_host_or_origin_is_turned_away() {
    let upstream = app();
    let gateway = Gateway::start(&format!("{}{SESSION}", service(&[&upstream])));
    let port = gateway.admin.port();
    let ask = |host: &str, headers: &[(&str, &str)]| {
        let mut client = Client::new(gateway.admin);
        let request = headers
            .iter()
            .fold(client.request("GET", "/api/sessions"), |r, (n, v)| {
                r.header(n, *v)
            });
        request.host(host).send().status()
    };
    for good in [format!("127.0.0.1:{port}"), format!("localhost:{port}")] {
        assert_eq!(ask(&good, &[]), 200, "{good}");
    }
    for bad in [
        "rebound.evil.test".to_owned(),
        format!("evil.test:{port}"),
        format!("127.0.0.1.evil.test:{port}"),
        format!("localhost.evil.test:{port}"),
    ] {
        assert_eq!(ask(&bad, &[]), 403, "{bad}");
    }
    let own = format!("127.0.0.1:{port}");
    let write = |origin: &str| {
        let mut client = Client::new(gateway.admin);
        let request = client
            .request("PUT", "/api/upstreams/app/a")
            .header("Content-Type", "application/json");
        request
            .header("Origin", origin)
            .body("{\"state\":\"ready\"}")
            .send()
            .status()
    };
    assert_eq!(write("https://evil.test"), 403);
    assert_eq!(write("null"), 403);
    assert_eq!(write(&format!("http://127.0.0.1:{port}")), 200);
    assert_eq!(
        ask(&own, &[("Origin", &format!("http://127.0.0.1:{port}"))]),
        200
    );
}

#[test]
fn writes_need_the_json_content_type_and_leave_a_line() {
    let upstream = app();
    let gateway = Gateway::start(&service(&[&upstream]));
    let put = |content: Option<&str>| {
        let mut client = Client::new(gateway.admin);
        let request = client
            .request("PUT", "/api/upstreams/app/a")
            .body("{\"state\":\"drain\"}");
        let request = match content {
            Some(value) => request.header("Content-Type", value),
            None => request,
        };
        request.send().status()
    };
    for wrong in [
        None,
        Some("text/plain"),
        Some("application/x-www-form-urlencoded"),
    ] {
        assert_eq!(put(wrong), 415, "{wrong:?}");
    }
    assert_eq!(put(Some("application/json")), 200);
    let line = gateway.stderr.wait(|line| {
        (line.contains("/api/upstreams/app/a") && line.contains("200")).then(|| line.to_owned())
    });
    assert!(
        line.is_some_and(|line| line.contains("drain")),
        "{}",
        gateway.stderr.text()
    );
}

#[test]
fn a_token_is_asked_for_where_one_is_set() {
    let upstream = app();
    let body = format!(
        "{}admin: {{ address: \"127.0.0.1:0\", token: \"${{TOKEN_OF_TEST}}\" }}\n",
        service(&[&upstream])
    );
    let gateway = Launch::new(&body)
        .env("TOKEN_OF_TEST", "an-admin-token-of-the-tests")
        .start();
    let ask = |authorization: &str| {
        let mut client = Client::new(gateway.admin);
        let request = client.request("GET", "/api/upstreams");
        if authorization.is_empty() {
            request.send().status()
        } else {
            request
                .header("Authorization", authorization)
                .send()
                .status()
        }
    };
    assert_eq!(ask("Bearer an-admin-token-of-the-tests"), 200);
    for wrong in [
        "",
        "Bearer wrong",
        "Bearer an-admin-token-of-the-test",
        "Basic an-admin-token-of-the-tests",
        "Bearer an-admin-token-of-the-tests2",
    ] {
        assert_eq!(ask(wrong), 401, "{wrong}");
    }
    gateway.api("GET", "/healthz").expect(200);
    assert!(
        !gateway
            .stderr
            .text()
            .contains("an-admin-token-of-the-tests"),
        "a secret in the log"
    );
}

#[test]
fn an_admin_address_that_is_not_loopback_needs_a_token() {
    let upstream = app();
    let said = Launch::new(&format!(
        "{}admin: {{ address: \"0.0.0.0:0\" }}\n",
        service(&[&upstream])
    ))
    .try_start()
    .err()
    .expect("refused");
    assert!(
        said.code != 0 && said.stderr.contains("gateway.admin") && said.stderr.contains("token"),
        "{said:?}"
    );
}

#[test]
fn admin_answers_while_the_cores_are_busy() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::new("a", move |_| Reply::ok("x").after(&held));
    let gateway = Gateway::start(&service_with(&[&upstream], "connections: { max: 0 }\n"));
    let mut waiting: Vec<_> = (0..50)
        .map(|_| {
            let mut connection = gateway.connect();
            connection.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
            connection
        })
        .collect();
    upstream.wait_for(50);
    gateway.expect_metric("connections_open", &[], 50.0);
    gateway.expect_metric("upstream_active", &[], 50.0);
    gate.open();
    for connection in &mut waiting {
        connection.response("GET").expect(200);
    }
    drop(waiting);
    eventually("the gauges come down", || {
        (gateway.metric("connections_open", &[]) < 0.5
            && gateway.metric("upstream_active", &[]) < 0.5)
            .then_some(())
    });
}
