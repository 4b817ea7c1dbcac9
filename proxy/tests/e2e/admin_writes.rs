//! What an operator or a program may change through the admin endpoint.

use serde_json::Value;

use crate::harness::{Gateway, Launch, Upstream, eventually, service};

const SESSION: &str = "session:\n  identifier:\n    sources:\n      - { type: cookie, name: sid, priority: 1 }\n      \
                       - { type: query, name: s, priority: 2 }\n  data: { fields: [cartId, userId], maxSize: 1KB }\n";

fn start(upstreams: &[&Upstream]) -> Gateway {
    Gateway::start(&format!("{}{SESSION}", service(upstreams)))
}

#[track_caller]
fn made(gateway: &Gateway, body: &str) -> (String, String) {
    let answer = gateway
        .api_write("POST", "/api/sessions", body)
        .expect(201)
        .json();
    let text = |name: &str| answer[name].as_str().expect("a text").to_owned();
    (text("sid"), text("token"))
}

#[track_caller]
fn shown(gateway: &Gateway, sid: &str) -> Value {
    gateway
        .api("GET", &format!("/api/sessions/{sid}?values=true"))
        .expect(200)
        .json()
}

#[test]
fn a_session_is_made_and_its_token_answered_once() {
    let upstream = Upstream::named("a");
    let gateway = start(&[&upstream]);
    let (sid, token) = made(&gateway, r#"{"source":"query","data":{"cartId":"c9"}}"#);
    let session = shown(&gateway, &sid);
    assert_eq!(session["data"]["cartId"], "c9");
    assert_eq!(session["authenticated"], false);
    assert!(!session.to_string().contains(&token));
    gateway.get(&format!("/x?a=1&s={token}")).expect(200);
    let request = upstream.last();
    assert_eq!(request.get("x-session-id"), Some(sid.as_str()));
    assert_eq!(request.head.target(), "/x?a=1");
    // A query token works through the query alone.
    gateway
        .client()
        .request("GET", "/")
        .header("Cookie", format!("sid={token}"))
        .send()
        .expect(200);
    assert_ne!(upstream.last().get("x-session-id"), Some(sid.as_str()));
    let log = gateway.stderr.text();
    assert!(
        log.contains("audit: POST /api/sessions by 127.0.0.1"),
        "{log}"
    );
    assert!(
        log.contains(&sid) && !log.contains(&token) && !log.contains("c9"),
        "{log}"
    );
}

#[test]
fn a_session_can_be_made_logged_in() {
    let upstream = Upstream::named("a");
    let gateway = start(&[&upstream]);
    let (sid, token) = made(
        &gateway,
        r#"{"source":"cookie","authenticate":{"userId":"u1"}}"#,
    );
    assert_eq!(shown(&gateway, &sid)["authenticated"], true);
    gateway
        .client()
        .request("GET", "/")
        .header("Cookie", format!("sid={token}"))
        .send()
        .expect(200);
    assert_eq!(
        upstream.last().get("x-session-data"),
        Some(r#"{"userId":"u1"}"#)
    );
    let found = gateway
        .api("GET", "/api/sessions?userId=u1")
        .expect(200)
        .json();
    assert_eq!(found["sessions"][0]["sid"], sid.as_str());
}

#[test]
fn a_further_token_is_for_the_same_session() {
    let upstream = Upstream::named("a");
    let gateway = start(&[&upstream]);
    let (sid, _) = made(&gateway, "{}");
    let path = format!("/api/sessions/{sid}/tokens");
    let answer = gateway
        .api_write("POST", &path, r#"{"source":"query"}"#)
        .expect(201)
        .json();
    assert_eq!(answer["sid"], sid.as_str());
    let token = answer["token"].as_str().expect("a token");
    gateway.get(&format!("/?s={token}")).expect(200);
    assert_eq!(upstream.last().get("x-session-id"), Some(sid.as_str()));
    let none = "/api/sessions/AAAAAAAAAAAAAAAAAAAAAA/tokens";
    gateway.api_write("POST", none, "{}").expect(404);
    gateway
        .api_write("POST", &path, r#"{"source":"header"}"#)
        .expect(400);
    gateway
        .api_write("POST", &path, r#"{"sauce":"query"}"#)
        .expect(400);
}

#[test]
fn data_is_patched_whole_or_not_at_all() {
    let upstream = Upstream::named("a");
    let gateway = start(&[&upstream]);
    let (sid, token) = made(
        &gateway,
        r#"{"source":"query","data":{"cartId":"c1","userId":"u1"}}"#,
    );
    let path = format!("/api/sessions/{sid}");
    let version = shown(&gateway, &sid)["version"]
        .as_u64()
        .expect("a version");
    let masked = gateway
        .api_write("PATCH", &path, r#"{"data":{"cartId":"c2","userId":null}}"#)
        .expect(200)
        .json();
    assert_eq!(masked["data"]["cartId"], "***");
    assert_eq!(masked["version"], version + 1);
    let data = serde_json::json!({"cartId": "c2"});
    assert_eq!(shown(&gateway, &sid)["data"], data);
    let conditional = |version: u64, body: &str| {
        crate::harness::Client::new(gateway.admin)
            .request("PATCH", &path)
            .header("Content-Type", "application/json")
            .header("If-Version", version.to_string())
            .body(body)
            .send()
    };
    conditional(version, r#"{"data":{"cartId":"c3"}}"#).expect(409);
    conditional(version + 1, r#"{"data":{"cartId":"c4"}}"#).expect(200);
    gateway
        .api_write("PATCH", &path, r#"{"data":{"cartId":"c5","other":1}}"#)
        .expect(400);
    gateway
        .api_write("PATCH", &path, r#"{"data":{"version":1}}"#)
        .expect(400);
    let long = format!(r#"{{"data":{{"cartId":"{}"}}}}"#, "x".repeat(2000));
    gateway.api_write("PATCH", &path, &long).expect(413);
    assert_eq!(shown(&gateway, &sid)["data"]["cartId"], "c4");
    // The application hears nothing of a conflict that was the administrator's.
    gateway.get(&format!("/?s={token}")).expect(200);
    assert_eq!(upstream.last().get("x-session-conflict"), None);
    gateway.api("PATCH", &path).expect(400);
    let plain = crate::harness::Client::new(gateway.admin)
        .request("PATCH", &path)
        .body(r#"{"data":{}}"#)
        .send();
    assert_eq!(plain.status(), 415);
}

#[test]
fn upstreams_come_go_and_change_their_weight_without_a_file() {
    let (a, b) = (Upstream::named("a"), Upstream::named("b"));
    let gateway = start(&[&a]);
    let body = format!(r#"{{"id":"b","address":"{}"}}"#, b.address());
    let added = gateway
        .api_write("POST", "/api/upstreams/app", &body)
        .expect(201)
        .json();
    assert_eq!(
        (&added["id"], &added["state"]),
        (&"b".into(), &"ready".into())
    );
    eventually("the new one serves", || {
        (gateway.get("/").expect(200).text() == "b").then_some(())
    });
    gateway
        .api_write("POST", "/api/upstreams/app", &body)
        .expect(409);
    gateway
        .api_write("POST", "/api/upstreams/none", &body)
        .expect(404);
    gateway
        .api_write("POST", "/api/upstreams/app", r#"{"address":"nowhere"}"#)
        .expect(400);
    let weighed = gateway
        .api_write("PUT", "/api/upstreams/app/a", r#"{"weight":0}"#)
        .expect(200)
        .json();
    assert_eq!(weighed["weight"], 0);
    for _ in 0..8 {
        assert_eq!(
            gateway.get("/").expect(200).text(),
            "b",
            "a weight of 0 gets nobody new"
        );
    }
    gateway
        .api_write("PUT", "/api/upstreams/app/a", r#"{"weight":5000}"#)
        .expect(409);
    gateway
        .api_write("PUT", "/api/upstreams/app/a", "{}")
        .expect(400);
    let both = r#"{"weight":3,"state":"drain"}"#;
    let shown = gateway
        .api_write("PUT", "/api/upstreams/app/a", both)
        .expect(200)
        .json();
    assert_eq!(
        (&shown["weight"], &shown["state"]),
        (&3.into(), &"drain".into())
    );
    gateway.api("DELETE", "/api/upstreams/app/a").expect(200);
    gateway.api("GET", "/api/upstreams/app/a").expect(404);
    gateway.api("DELETE", "/api/upstreams/app/b").expect(409);
    assert_eq!(gateway.get("/").expect(200).text(), "b");
    // The files say again what there is.
    gateway.api_write("POST", "/api/reload", "").expect(200);
    gateway.api("GET", "/api/upstreams/app/a").expect(200);
    gateway.api("GET", "/api/upstreams/app/b").expect(404);
}

#[test]
fn the_configuration_is_shown_without_secrets() {
    let upstream = Upstream::named("a");
    let gateway = Launch::new(&format!(
        "node: gw-3\n{}session:\n  identifier: {{ type: cookie, name: sid }}\n  security: {{ encryption: {{ id: {{ \
         secret: \"${{THE_KEY}}\" }} }} }}\nrouter: {{ sessionAffinity: {{ methods: [cookie], cookie: {{ \
         key: \"a-written-key-of-32-characters-xx\" }} }} }}\n",
        service(&[&upstream])
    ))
    .env("THE_KEY", "content-of-the-variable-0123456789")
    .start();
    let answer = gateway.api("GET", "/api/config").expect(200);
    let text = answer.text();
    assert!(
        !text.contains("content-of") && !text.contains("a-written-key"),
        "{text}"
    );
    let written = &answer.json()["written"]["gateway"];
    assert_eq!(written["session"]["identifier"]["name"], "sid");
    assert_eq!(written["router"]["sessionAffinity"]["cookie"]["key"], "***");
    let cluster = gateway.api("GET", "/api/cluster").expect(200).json();
    assert_eq!(cluster["node"], "gw-3");
    assert_eq!(cluster["nodes"][0]["state"], "ready");
    assert_eq!(cluster["nodes"].as_array().expect("nodes").len(), 1);
}

#[test]
fn the_dashboard_is_one_page_that_needs_no_token_and_holds_nothing() {
    let upstream = Upstream::named("a");
    let gateway = Gateway::start(&format!(
        "admin: {{ address: \"127.0.0.1:0\", token: a-token-of-the-operator }}\n{}",
        service(&[&upstream])
    ));
    let page = gateway.api("GET", "/").expect(200);
    assert!(
        page.get("content-type")
            .is_some_and(|v| v.starts_with("text/html"))
    );
    let policy = page.get("content-security-policy").expect("a policy");
    assert!(
        policy.starts_with("default-src 'none'; script-src 'sha256-"),
        "{policy}"
    );
    assert!(page.text().contains("<title>Holdfast</title>"));
    gateway.api("GET", "/api/cluster").expect(401);
    gateway.api("GET", "/api/openapi.json").expect(401);
}

/// A pin's upstream as `/api/explain` tells it, and the whole answer.
#[track_caller]
fn explained(gateway: &Gateway, body: Value) -> Value {
    gateway
        .api_write("POST", "/api/explain", &body.to_string())
        .expect(200)
        .json()
}

#[test]
fn explain_says_what_would_happen_and_touches_nothing() {
    let (a, b) = (Upstream::named("a"), Upstream::named("b"));
    let gateway = Gateway::start(&format!(
        "{}session: {{ identifier: {{ type: cookie, name: sid }} }}\nrouter:\n  rules:\n    \
         - {{ path: \"/shop/*\", serviceName: app }}\n  sessionAffinity: {{ methods: [cookie, sourceIP], cookie: {{ name: pin }} }}\n",
        service(&[&a, &b])
    ));
    let nothing = explained(&gateway, serde_json::json!({"path": "/other"}));
    assert_eq!(
        (&nothing["rule"], &nothing["status"]),
        (&Value::Null, &404.into())
    );
    let first = explained(&gateway, serde_json::json!({"path": "/shop/x?y=1"}));
    assert_eq!(first["pin"]["outcome"], "first", "{first}");
    assert_eq!(first["session"]["standing"], "none");
    assert_eq!(first["path"], "/shop/x");
    let mut client = gateway.client();
    let pinned = client.get("/shop/").expect(200).text();
    let cookie = client.jar.header().expect("cookies");
    let other = explained(
        &gateway,
        serde_json::json!({"path": "/shop/", "client": "192.0.2.1"}),
    );
    assert_eq!(other["pin"]["outcome"], "first", "another client: {other}");
    let sid = a
        .requests()
        .iter()
        .chain(&b.requests())
        .next_back()
        .and_then(|r| r.get("x-session-id").map(str::to_owned))
        .expect("a sid");
    let before = gateway
        .api("GET", &format!("/api/sessions/{sid}"))
        .expect(200)
        .json();
    let hit = explained(
        &gateway,
        serde_json::json!({"path": "/shop/", "client": "192.0.2.1", "cookie": cookie}),
    );
    assert_eq!(
        (&hit["pin"]["outcome"], &hit["upstream"]),
        (&"hit".into(), &pinned.as_str().into()),
        "{hit}"
    );
    assert_eq!(
        (&hit["session"]["standing"], &hit["session"]["sid"]),
        (&"valid".into(), &sid.as_str().into())
    );
    let by_table = explained(
        &gateway,
        serde_json::json!({"path": "/shop/", "client": "127.0.0.1"}),
    );
    assert_eq!(
        (&by_table["pin"]["outcome"], &by_table["upstream"]),
        (&"hit".into(), &pinned.as_str().into()),
        "{by_table}"
    );
    gateway.set_state(&pinned, "down");
    let broken = explained(
        &gateway,
        serde_json::json!({"path": "/shop/", "cookie": cookie}),
    );
    assert_eq!(
        (&broken["pin"]["outcome"], &broken["pin"]["broken"]),
        (&"broken".into(), &pinned.as_str().into())
    );
    assert_ne!(broken["upstream"], pinned.as_str());
    let after = gateway
        .api("GET", &format!("/api/sessions/{sid}"))
        .expect(200)
        .json();
    assert_eq!(before, after);
    assert_eq!(gateway.records(), 1, "none was made");
    gateway.expect_metric("requests_total", &[], 1.0);
    for bad in [
        serde_json::json!({"host": "a\r\nX: y"}),
        serde_json::json!({"path": "no-slash"}),
        serde_json::json!({"headers": {"Host": "x"}}),
        serde_json::json!({"headers": {"a b": "x"}}),
        serde_json::json!({"client": "nobody"}),
    ] {
        gateway
            .api_write("POST", "/api/explain", &bad.to_string())
            .expect(400);
    }
    gateway
        .api("GET", "/api/explain?path=/shop/&client=192.0.2.7")
        .expect(200);
}
