//! What an upstream's response may do to a session.

use super::*;
use crate::harness::{Gate, Reply, eventually};

#[test]
fn set_merges_and_null_removes() {
    let upstream = app();
    let gateway = with_session(&upstream, COOKIE);
    let (mut client, _) = signed_in(&gateway, &upstream);
    let version = |u: &Upstream| {
        u.last()
            .get("x-session-version")
            .and_then(|v| v.parse::<u64>().ok())
            .expect("a version")
    };
    let before = version(&upstream);
    ask(
        &mut client,
        "X-Session-Set: {\"cartId\":\"c9\",\"n\":1.5,\"ok\":true,\"list\":[1,\"a\"]}",
    );
    client.get("/").expect(200);
    assert_eq!(
        data(&upstream),
        serde_json::json!({"cartId": "c9", "n": 1.5, "ok": true, "list": [1, "a"]})
    );
    let after = version(&upstream);
    assert!(after > before, "{before} then {after}");
    ask(
        &mut client,
        "X-Session-Set: {\"n\":null,\"cartId\":\"c10\"}",
    );
    client.get("/").expect(200);
    assert_eq!(
        data(&upstream),
        serde_json::json!({"cartId": "c10", "ok": true, "list": [1, "a"]})
    );
    let last = version(&upstream);
    assert!(last > after);
    client.get("/").expect(200);
    assert_eq!(version(&upstream), last, "a touch is not a change");
    ask(
        &mut client,
        "X-Session-Set: {\"ok\":null,\"list\":null,\"cartId\":null}",
    );
    client.get("/").expect(200);
    assert!(
        !upstream.last().head.has("x-session-data"),
        "left out when empty: {:?}",
        upstream.last().head
    );
}

#[test]
fn a_set_that_is_not_an_object_writes_nothing_and_harms_nobody() {
    let upstream = app();
    let gateway = with_session(&upstream, COOKIE);
    let (mut client, _) = signed_in(&gateway, &upstream);
    ask(&mut client, "X-Session-Set: {\"kept\":1}");
    for wrong in [
        "",
        "1",
        "[]",
        "null",
        "{",
        "{\"a\":}",
        "{\"a\":1}x",
        "\"a\"",
        "{'a':1}",
    ] {
        ask(&mut client, &format!("X-Session-Set: {wrong}"));
    }
    client.get("/").expect(200);
    assert_eq!(data(&upstream), serde_json::json!({"kept": 1}));
    gateway.expect_at_least("session_writes_refused_total", &["malformed"], 8.0);
}

#[test]
fn if_version_writes_only_on_that_version_and_tells_of_a_conflict() {
    let upstream = app();
    let gateway = with_session(&upstream, COOKIE);
    let (mut client, _) = signed_in(&gateway, &upstream);
    ask(&mut client, "X-Session-Set: {\"a\":1}");
    client.get("/").expect(200);
    let version = upstream.last().get("x-session-version").unwrap().to_owned();
    let set = |client: &mut Client, version: &str, value: u32| {
        client
            .request("GET", "/")
            .header("X-Answer", format!("X-Session-Set: {{\"a\":{value}}}"))
            .header("X-Answer", format!("X-Session-If-Version: {version}"))
            .send()
            .expect(200)
    };
    set(&mut client, &version, 2);
    client.get("/").expect(200);
    assert_eq!(
        (
            data(&upstream)["a"].as_u64(),
            upstream.last().get("x-session-conflict")
        ),
        (Some(2), None)
    );
    set(&mut client, &version, 3);
    client.get("/").expect(200);
    assert_eq!(
        (
            data(&upstream)["a"].as_u64(),
            upstream.last().get("x-session-conflict")
        ),
        (Some(2), Some("1"))
    );
    client.get("/").expect(200);
    assert_eq!(
        upstream.last().get("x-session-conflict"),
        None,
        "only on the next request"
    );
    set(&mut client, "not-a-number", 4);
    client.get("/").expect(200);
    assert_eq!(
        data(&upstream)["a"].as_u64(),
        Some(2),
        "what is no version matches none"
    );
}

#[test]
fn control_headers_and_unknown_ones_of_the_prefix_never_reach_the_client() {
    let upstream = Upstream::new("a", |_| {
        Reply::chunked(["x"])
            .header("X-Session-Set", "{\"a\":1}")
            .header("x-session-timeout", "30m")
            .header("X-Session-Whatever", "1")
            .header("X-Session-ID", "fake")
            .header("X-Affinity-Clear", "1")
            .header("X-Sessions", "mine")
            .trailer("X-Session-Set", "{\"t\":1}")
            .trailer("X-Sum", "2")
    });
    let gateway = with_session(&upstream, COOKIE);
    let (mut client, _) = signed_in(&gateway, &upstream);
    let response = client
        .request("GET", "/")
        .header("TE", "trailers")
        .send()
        .expect(200);
    let names: Vec<&str> = response
        .head
        .headers
        .iter()
        .map(|(n, _)| n.as_str())
        .filter(|n| n.to_ascii_lowercase().starts_with("x-"))
        .collect();
    assert_eq!(
        names
            .iter()
            .filter(|n| !n.eq_ignore_ascii_case("x-request-id"))
            .collect::<Vec<_>>(),
        [&"X-Sessions"]
    );
    assert_eq!(response.trailers, [("X-Sum".to_owned(), "2".to_owned())]);
    assert_eq!(
        data(&upstream),
        serde_json::json!({"a": 1}),
        "a trailer is removed and not carried out"
    );
}

#[test]
fn a_services_control_bounds_what_its_responses_may_do() {
    let upstream = app();
    let every = [
        ("create", "X-Session-Create: 1"),
        ("set", "X-Session-Set: {\"a\":1}"),
        ("authenticate", "X-Session-Authenticate: {\"userId\":\"u\"}"),
        ("rotate", "X-Session-Rotate: 1"),
        ("destroy", "X-Session-Destroy: 1"),
    ];
    for allowed in ["create", "set", "authenticate", "rotate", "destroy", "none"] {
        let list = if allowed == "none" {
            "[]".to_owned()
        } else {
            format!("[{allowed}]")
        };
        let body = crate::harness::service_with(&[&upstream], &format!("control: {list}\n"));
        let triggers = "lifecycle: { creation: { triggers: [firstRequest, explicitCreate, authentication] } }\n";
        let gateway = Gateway::start(&format!(
            "{body}session:\n{}",
            indent(&format!("{COOKIE}{triggers}"), 2)
        ));
        for (name, answer) in every {
            let effect = if name == "create" {
                // On a request whose creation was withheld, so that the act itself is seen.
                let mut client = gateway.client();
                let response = client
                    .request("GET", "/")
                    .header("Sec-Purpose", "prefetch")
                    .header("X-Answer", answer)
                    .send();
                response.sets_cookies()
            } else {
                let (mut client, id) = signed_in(&gateway, &upstream);
                let changed = ask(&mut client, answer).sets_cookies();
                client.get("/").expect(200);
                changed
                    || upstream.last().get("x-session-id") != Some(&id)
                    || upstream.last().head.has("x-session-data")
            };
            assert_eq!(effect, name == allowed, "control: {list}, {name}");
        }
    }
}

#[test]
fn timeout_changes_the_idle_time_of_this_session_alone() {
    let upstream = app();
    let gateway = with_session(&upstream, COOKIE);
    let (mut short, gone) = signed_in(&gateway, &upstream);
    let (mut long, stays) = signed_in(&gateway, &upstream);
    ask(&mut short, "X-Session-Timeout: 1s");
    ask(&mut long, "X-Session-Timeout: nonsense");
    eventually("it expires", || {
        (gateway
            .api("GET", &format!("/api/sessions/{gone}"))
            .status()
            == 404)
            .then_some(())
    });
    short.get("/").expect(200);
    assert_ne!(sid(&upstream), gone);
    long.get("/").expect(200);
    assert_eq!(sid(&upstream), stays);
}

#[test]
fn several_acts_in_one_response_all_happen() {
    let upstream = app();
    let gateway = with_session(&upstream, COOKIE);
    let (mut client, id) = signed_in(&gateway, &upstream);
    let response = client
        .request("GET", "/")
        .header("X-Answer", "X-Session-Set: {\"a\":1,\"b\":2}")
        .header("X-Answer", "X-Session-Rotate: 1")
        .header("X-Answer", "X-Session-Timeout: 10m")
        .send()
        .expect(200);
    response.set_cookie("sid");
    client.get("/").expect(200);
    assert_eq!(
        (sid(&upstream), data(&upstream)),
        (id, serde_json::json!({"a": 1, "b": 2}))
    );
}

#[test]
fn acts_are_done_before_the_response_goes_on() {
    let upstream = app();
    let gateway = with_more(&upstream, COOKIE, "runtime: { cores: 8 }\n");
    let (client, _) = signed_in(&gateway, &upstream);
    let cookie = client.jar.header().unwrap();
    for n in 0..40 {
        let answer = format!("X-Session-Set: {{\"n\":{n}}}");
        gateway
            .client()
            .request("GET", "/")
            .header("Cookie", &cookie)
            .header("X-Answer", answer)
            .send()
            .expect(200);
        with_cookie(&gateway, &cookie);
        assert_eq!(
            data(&upstream)["n"],
            n,
            "a new connection, maybe on another core, sees it"
        );
    }
}

#[test]
fn an_authenticated_session_is_marked_and_keeps_its_data() {
    let upstream = app();
    let gateway = with_session(&upstream, COOKIE);
    let (mut client, id) = signed_in(&gateway, &upstream);
    ask(&mut client, "X-Session-Set: {\"cartId\":\"c1\"}");
    ask(
        &mut client,
        "X-Session-Authenticate: {\"userId\":\"u1\",\"roles\":[\"admin\"]}",
    );
    client.get("/").expect(200);
    assert_eq!(sid(&upstream), id);
    assert_eq!(
        data(&upstream),
        serde_json::json!({"cartId": "c1", "userId": "u1", "roles": ["admin"]})
    );
    let session = gateway
        .api("GET", &format!("/api/sessions/{id}"))
        .expect(200)
        .json();
    assert_eq!(session["authenticated"], true, "{session}");
}

#[test]
fn a_request_under_way_while_the_session_is_destroyed_changes_nothing() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::new("a", move |request| match request.head.target() {
        "/slow" => Reply::ok("x")
            .header("X-Session-Set", "{\"back\":1}")
            .header("X-Session-Rotate", "1")
            .after(&held),
        "/logout" => Reply::ok("x").header("X-Session-Destroy", "1"),
        _ => Reply::ok("x"),
    });
    let gateway = with_session(&upstream, COOKIE);
    let (mut client, id) = signed_in(&gateway, &upstream);
    let mut tab = client.tab();
    let slow = std::thread::spawn(move || tab.get("/slow"));
    upstream.wait_for(3);
    assert!(client.get("/logout").set_cookie("sid").expires());
    gate.open();
    let late = slow.join().unwrap().expect(200);
    assert!(
        !late.set_cookies("sid").iter().any(|set| !set.expires()),
        "{:?}",
        late.head
    );
    assert_eq!(
        gateway.api("GET", &format!("/api/sessions/{id}")).status(),
        404
    );
}
