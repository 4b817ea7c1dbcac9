//! Attributes that are computed when a session is forwarded.

use serde_json::json;

use super::*;
use crate::harness::Launch;

#[track_caller]
fn computed(upstream: &Upstream, list: &str, more: &str) -> Gateway {
    let keys = format!("{COOKIE}attributes: {{ computed: [{list}] }}\n{more}");
    with_session(upstream, &keys)
}

#[test]
fn the_age_of_a_session_is_seconds_and_nothing_of_it_is_stored() {
    let upstream = app();
    let gateway = computed(
        &upstream,
        "{ attribute: sessionAge, expression: \"now() - session.created\" }, \
         { attribute: requests, expression: session.requestCount }, \
         { attribute: where, expression: \"request.method + ' ' + request.path\" }",
        "",
    );
    let mut client = gateway.client();
    client.get("/first").expect(200);
    let first = data(&upstream);
    assert_eq!(first["where"], "GET /first");
    assert!(
        first["sessionAge"].as_u64().is_some_and(|age| age < 5),
        "{first}"
    );
    let version = upstream.last().get("x-session-version").map(str::to_owned);
    client.get("/second").expect(200);
    let second = data(&upstream);
    assert!(second["requests"].as_u64() > first["requests"].as_u64());
    assert_eq!(second["where"], "GET /second");
    assert_eq!(
        upstream.last().get("x-session-version").map(str::to_owned),
        version
    );
    let stored = gateway.api(
        "GET",
        &format!("/api/sessions/{}?values=true", sid(&upstream)),
    );
    assert!(!stored.text().contains("sessionAge"), "{}", stored.text());
}

#[test]
fn data_roles_and_login_are_seen_and_a_failure_is_left_out() {
    let upstream = app();
    let gateway = computed(
        &upstream,
        "{ attribute: admin, expression: \"session.authenticated && 'admin' in session.roles\" }, \
         { attribute: broken, expression: \"session.none + 1\" }",
        "",
    );
    let (mut client, _) = signed_in(&gateway, &upstream);
    assert_eq!(data(&upstream), json!({"admin": false}));
    gateway.expect_at_least("session_computed_failed_total", &[], 2.0);
    ask(
        &mut client,
        "X-Session-Authenticate: {\"userId\":\"u1\",\"roles\":[\"admin\"],\"admin\":\"forged\"}",
    );
    client.get("/").expect(200);
    assert_eq!(
        data(&upstream),
        json!({"userId": "u1", "roles": ["admin"], "admin": true})
    );
}

#[test]
fn a_session_of_another_core_or_kept_nowhere_is_computed_too() {
    let upstream = app();
    let keys = format!(
        "{COOKIE}{SIGNED}attributes: {{ computed: [{{ attribute: n, expression: session.requestCount }}, {{ attribute: a, expression: session.a }}] }}\n"
    );
    let more = "listeners: [{ address: \"127.0.0.1:0\", trustedProxies: [\"127.0.0.1/32\"] }]\nruntime: { cores: 2 }\n";
    let gateway = with_more(&upstream, &keys, more);
    for _ in 0..8 {
        let mut client = gateway.client();
        client.get("/").expect(200);
        assert_eq!(data(&upstream), json!({"n": 1}));
        ask(&mut client, "X-Session-Set: {\"a\":1}");
        client.disconnect();
        client.get("/").expect(200);
        // The request before the token came back was kept nowhere either.
        assert_eq!(data(&upstream), json!({"a": 1, "n": 2}));
    }
}

#[test]
fn a_wrong_expression_is_an_error_of_check_with_line_and_column() {
    let upstream = app();
    let config = format!(
        "{}session:\n  attributes:\n    computed:\n      - attribute: x\n        expression: \"1 + nobody.a\"\n",
        service(&[&upstream])
    );
    let said = Launch::new(&config).check();
    assert_eq!(said.code, 2);
    let text = said.all();
    assert!(
        text.contains("gateway.session.attributes.computed[0].expression: line 1, column 5 of the expression: nobody is not known"),
        "{text}"
    );
}
