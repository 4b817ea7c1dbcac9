//! What upstreams see, and what clients cannot make them see.

use super::*;

#[test]
fn spoofed_session_headers_are_removed() {
    let upstream = app();
    let gateway = with_session(&upstream, &format!("{COOKIE}{ON_DEMAND}"));
    let spoofed = [
        "X-Session-ID",
        "x-session-data",
        "X-SESSION-NEW",
        "X-Session-State",
        "X_Session_ID",
        "X-Session_Data",
        "x_session-version",
        "X-Session-Anything",
        "X_SESSION_ANYTHING",
        "X-Session-",
    ];
    let mut client = gateway.client();
    let request = spoofed
        .iter()
        .fold(client.request("GET", "/"), |request, name| {
            request.header(name, "evil")
        });
    request
        .header("X-Sessions", "fine")
        .header("X-Sess-ID", "fine")
        .send()
        .expect(200);
    let head = upstream.last().head;
    assert!(
        !head.headers.iter().any(|(_, value)| value == "evil"),
        "{head:?}"
    );
    assert_eq!(
        (head.get("x-sessions"), head.get("x-sess-id")),
        (Some("fine"), Some("fine"))
    );
}

#[test]
fn spoofed_headers_do_not_stand_beside_ours() {
    let upstream = app();
    let gateway = with_session(&upstream, COOKIE);
    let (mut client, id) = signed_in(&gateway, &upstream);
    client
        .request("GET", "/")
        .header("X-Session-ID", "evil")
        .header("X_Session_ID", "evil")
        .header("X-Session-Data", "{\"admin\":true}")
        .send()
        .expect(200);
    assert_eq!(upstream.last().head.all("x-session-id"), [id.as_str()]);
    assert_eq!(data(&upstream), serde_json::Value::Null);
}

#[test]
fn connection_cannot_nominate_our_headers_away() {
    let upstream = app();
    let gateway = with_session(&upstream, COOKIE);
    let (mut client, id) = signed_in(&gateway, &upstream);
    ask(&mut client, "X-Session-Set: {\"a\":1}");
    client
        .request("GET", "/")
        .header(
            "Connection",
            "X-Session-ID, X-Session-Data, Cookie, X-Session-Version",
        )
        .header("Cookie", "a=1")
        .send()
        .expect(200);
    assert_eq!(sid(&upstream), id);
    assert_eq!(data(&upstream)["a"], 1);
}

#[test]
fn spoofed_trailers_are_removed() {
    let upstream = app();
    let gateway = with_session(&upstream, COOKIE);
    let mut connection = gateway.connect();
    connection.send("POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Session-ID: evil\r\nX_Session_Data: evil\r\nX-Sum: 1\r\n\r\n");
    connection.response("POST").expect(200);
    assert_eq!(
        upstream.last().trailers,
        [("X-Sum".to_owned(), "1".to_owned())]
    );
}

#[test]
fn affinity_headers_of_a_client_do_not_reach_control() {
    let upstream = app();
    let gateway = with_session(&upstream, COOKIE);
    let (mut client, id) = signed_in(&gateway, &upstream);
    client
        .request("GET", "/")
        .header("X-Session-Destroy", "1")
        .header("X-Session-Set", "{\"a\":1}")
        .send()
        .expect(200);
    client.get("/").expect(200);
    assert_eq!(
        (sid(&upstream), data(&upstream)),
        (id, serde_json::Value::Null)
    );
}

#[test]
fn the_prefix_can_be_another() {
    let upstream = app();
    let gateway = with_session(
        &upstream,
        &format!("{COOKIE}forward: {{ prefix: \"X-Gate-\" }}\n"),
    );
    let mut client = gateway.client();
    client.get("/").expect(200);
    let head = upstream.last().head;
    assert!(
        head.get("x-gate-id").is_some_and(|id| id.len() == 22)
            && head.get("x-gate-new") == Some("1"),
        "{head:?}"
    );
    assert!(
        !head
            .headers
            .iter()
            .any(|(n, _)| n.to_ascii_lowercase().starts_with("x-session-")),
        "{head:?}"
    );
    ask(&mut client, "X-Gate-Set: {\"a\":1}");
    client
        .request("GET", "/")
        .header("X-Gate-ID", "evil")
        .header("X_Gate_Data", "evil")
        .send()
        .expect(200);
    let head = upstream.last().head;
    assert_eq!(head.get("x-gate-data"), Some("{\"a\":1}"));
    assert!(
        !head.headers.iter().any(|(_, value)| value == "evil"),
        "{head:?}"
    );
    let response = ask(&mut client, "X-Gate-Other: 1");
    assert!(!response.head.has("x-gate-other"));
}

#[test]
fn forwarding_can_be_turned_off() {
    let upstream = app();
    let gateway = with_session(
        &upstream,
        &format!("{COOKIE}forward: {{ enabled: false }}\n"),
    );
    let mut client = gateway.client();
    client.get("/").expect(200).set_cookie("sid");
    assert!(
        !client.get("/").sets_cookies(),
        "the session itself is kept"
    );
    let head = upstream.last().head;
    assert!(
        !head
            .headers
            .iter()
            .any(|(n, _)| n.to_ascii_lowercase().starts_with("x-session-")),
        "{head:?}"
    );
}

#[test]
fn the_sid_is_stable_and_the_secret_never_leaves() {
    let upstream = app();
    let gateway = with_more(
        &upstream,
        COOKIE,
        "accessLog: { path: access.log, format: json }\n",
    );
    let (mut client, id) = signed_in(&gateway, &upstream);
    ask(&mut client, "X-Session-Rotate: 1");
    client.get("/last-of-all").expect(200);
    assert_eq!(sid(&upstream), id);
    let log = crate::harness::eventually("the line", || {
        std::fs::read_to_string(gateway.file("access.log"))
            .ok()
            .filter(|t| t.contains("/last-of-all"))
    });
    assert!(log.contains(&id), "the sid is safe to log: {log}");
    let secret = &client.jar.get("sid").unwrap()[31..];
    let seen = format!(
        "{log}{}{}{:?}",
        gateway.stderr.text(),
        gateway.stdout.text(),
        upstream.requests()
    );
    assert!(!seen.contains(secret));
    let api = gateway
        .api("GET", &format!("/api/sessions/{id}"))
        .expect(200)
        .text()
        + &gateway.api("GET", "/api/sessions").expect(200).text();
    assert!(!api.contains(secret) && api.contains(&id));
}
