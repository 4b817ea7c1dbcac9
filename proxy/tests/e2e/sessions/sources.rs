//! Where a token comes from: cookie, header, query, and which of several wins.

use super::*;

const ALL: &str = "identifier:\n  sources:\n    - { type: cookie, name: sid, priority: 1 }\n    - { type: header, name: X-Token, priority: 2 }\n    - { type: query, name: t, priority: 3 }\n";

#[test]
fn a_cookie_client_keeps_one_session() {
    let upstream = app();
    let gateway = with_session(&upstream, COOKIE);
    let mut client = gateway.client();
    let first = client.get("/").expect(200);
    let set = first.set_cookie("sid");
    let id = sid(&upstream);
    assert_eq!(upstream.last().get("x-session-new"), Some("1"));
    assert_eq!((set.value.len(), id.len()), (52, 22));
    let bytes = decode(&set.value);
    assert_eq!(bytes.len(), 39);
    assert_eq!(
        URL_SAFE_NO_PAD.encode(&bytes[7..23]),
        id,
        "the sid is in the token"
    );
    for _ in 0..5 {
        let response = client.get("/").expect(200);
        assert!(
            !response.sets_cookies(),
            "nothing to set: {:?}",
            response.head
        );
        assert_eq!(
            (sid(&upstream), upstream.last().get("x-session-new")),
            (id.clone(), None)
        );
    }
}

#[test]
fn two_clients_have_two_sessions() {
    let upstream = app();
    let gateway = with_session(&upstream, COOKIE);
    let (_, one) = signed_in(&gateway, &upstream);
    let (_, two) = signed_in(&gateway, &upstream);
    assert_ne!(one, two);
    assert_eq!(gateway.records(), 2);
}

#[test]
fn a_session_is_found_from_every_connection_on_eight_cores() {
    let upstream = app();
    let gateway = with_more(&upstream, COOKIE, "runtime: { cores: 8 }\n");
    for n in 0..12 {
        let (mut client, id) = signed_in(&gateway, &upstream);
        ask(&mut client, &format!("X-Session-Set: {{\"n\":{n}}}"));
        for _ in 0..12 {
            client.disconnect();
            client.get("/").expect(200);
            assert_eq!(
                (sid(&upstream), data(&upstream)["n"].as_u64()),
                (id.clone(), Some(n))
            );
        }
    }
}

#[test]
fn one_connection_may_carry_many_sessions() {
    let upstream = app();
    let gateway = with_more(&upstream, COOKIE, "runtime: { cores: 8 }\n");
    let sessions: Vec<(String, String)> = (0..10)
        .map(|_| {
            let (client, id) = signed_in(&gateway, &upstream);
            (client.jar.header().unwrap(), id)
        })
        .collect();
    let mut connection = gateway.connect();
    for (cookie, id) in sessions.iter().cycle().take(50) {
        connection
            .exchange(&format!(
                "GET / HTTP/1.1\r\nHost: {}\r\nCookie: {cookie}\r\n\r\n",
                gateway.http
            ))
            .expect(200);
        assert_eq!(&sid(&upstream), id);
    }
}

#[test]
fn a_header_client_gets_its_token_back_in_the_header() {
    let upstream = app();
    let gateway = with_session(
        &upstream,
        "identifier: { type: header, name: X-Session-ID, generateIfMissing: true }\n",
    );
    let first = gateway.get("/");
    let token = first.get("x-session-id").expect("a token").to_owned();
    let id = sid(&upstream);
    assert!(
        token.len() == 52 && token != id && !first.sets_cookies(),
        "{:?}",
        first.head
    );
    let again = gateway
        .client()
        .request("GET", "/")
        .header("x-session-id", &token)
        .send();
    assert_eq!(
        upstream.last().head.all("x-session-id"),
        [id.as_str()],
        "the token itself stays here"
    );
    assert!(!again.head.has("x-session-id"), "{:?}", again.head);
}

#[test]
fn without_generate_if_missing_a_header_client_without_one_gets_none() {
    let upstream = app();
    let gateway = with_session(&upstream, "identifier: { type: header, name: X-Token }\n");
    let response = gateway.get("/");
    assert!(!response.head.has("x-token") && !response.sets_cookies());
    expect_state(&upstream, None);
    assert_eq!(gateway.records(), 0);
}

#[test]
fn the_lowest_priority_number_with_a_valid_token_wins() {
    let upstream = app();
    let gateway = with_session(&upstream, ALL);
    let (one, first) = signed_in(&gateway, &upstream);
    let (two, second) = signed_in(&gateway, &upstream);
    let (cookie, header) = (one.jar.get("sid").unwrap(), two.jar.get("sid").unwrap());
    let send = |cookie: &str, header: &str| {
        gateway
            .client()
            .request("GET", "/")
            .header("X-Token", header)
            .header("Cookie", format!("sid={cookie}"))
            .send()
            .expect(200)
    };
    send(cookie, header);
    assert_eq!(sid(&upstream), first);
    let response = send("not-a-token", header);
    assert_eq!(sid(&upstream), second, "the first that is valid");
    assert!(!upstream.last().head.has("x-token"), "{:?}", response.head);
    gateway
        .client()
        .request("GET", "/")
        .header("X-Token", header)
        .send()
        .expect(200);
    assert_eq!(
        sid(&upstream),
        second,
        "cookie and header tokens are one kind"
    );
}

#[test]
fn priorities_are_numbers_and_not_the_order_of_the_file() {
    let upstream = app();
    let keys = "identifier:\n  sources:\n    - { type: cookie, name: sid, priority: 20 }\n    - { type: header, name: X-Token, priority: 3, generateIfMissing: true }\n";
    let gateway = with_session(&upstream, keys);
    let response = gateway.get("/");
    assert!(
        response.head.has("x-token") && !response.sets_cookies(),
        "a new token goes the lowest way: {:?}",
        response.head
    );
    let one = response.get("x-token").unwrap().to_owned();
    let first = sid(&upstream);
    let two = gateway.get("/").get("x-token").unwrap().to_owned();
    gateway
        .client()
        .request("GET", "/")
        .header("Cookie", format!("sid={two}"))
        .header("X-Token", &one)
        .send();
    assert_eq!(sid(&upstream), first);
}

/// A token of the kind that only a URL may carry, honoured by any gateway with the same secret.
fn query_token(upstream: &Upstream) -> String {
    let gateway = with_session(
        upstream,
        &format!("identifier: {{ type: query, name: t }}\n{SIGNED}"),
    );
    gateway
        .get("/")
        .get("x-session-id")
        .expect("a token, where query is the only source")
        .to_owned()
}

#[test]
fn a_query_token_is_taken_out_of_the_url() {
    let upstream = app();
    let gateway = with_session(&upstream, "identifier: { type: query, name: t }\n");
    let first = gateway.get("/");
    let token = first
        .get("x-session-id")
        .expect("a token, where query is the only source")
        .to_owned();
    let id = sid(&upstream);
    let cases = [
        (format!("/p?t={token}"), "/p"),
        (format!("/p?t={token}&a=1"), "/p?a=1"),
        (format!("/p?a=1&t={token}"), "/p?a=1"),
        (format!("/p?a=1&t={token}&b=2"), "/p?a=1&b=2"),
        (format!("/p?tt=1&t={token}&xt=2"), "/p?tt=1&xt=2"),
    ];
    for (target, clean) in cases {
        gateway.get(&target).expect(200);
        assert_eq!(
            (sid(&upstream).as_str(), upstream.last().head.target()),
            (id.as_str(), clean),
            "{target}"
        );
        assert!(
            !format!("{:?}", upstream.last().head).contains(&token),
            "the token in some header: {:?}",
            upstream.last().head
        );
    }
}

#[test]
fn a_query_token_is_masked_in_the_access_log() {
    let upstream = app();
    let gateway = with_more(
        &upstream,
        "identifier: { type: query, name: t }\n",
        "accessLog: { path: access.log, format: json }\n",
    );
    let token = gateway
        .get("/")
        .get("x-session-id")
        .expect("a token")
        .to_owned();
    gateway
        .get(&format!("/in-the-log?a=1&t={token}"))
        .expect(200);
    let text = crate::harness::eventually("the line", || {
        std::fs::read_to_string(gateway.file("access.log"))
            .ok()
            .filter(|text| text.contains("/in-the-log"))
    });
    assert!(
        !text.contains(&token) && !text.contains(&token[30..]),
        "{text}"
    );
}

#[test]
fn a_token_works_only_through_its_kind() {
    let upstream = app();
    let in_url = query_token(&upstream);
    let gateway = with_session(&upstream, &format!("{ALL}{SIGNED}"));
    gateway.get(&format!("/?t={in_url}")).expect(200);
    let id = sid(&upstream);
    for (name, value) in [
        ("Cookie", format!("sid={in_url}")),
        ("X-Token", in_url.clone()),
    ] {
        let response = gateway
            .client()
            .request("GET", "/")
            .header(name, value)
            .send()
            .expect(200);
        expect_state(&upstream, Some("refused"));
        assert!(!response.sets_cookies(), "{:?}", response.head);
    }
    let (client, own) = signed_in(&gateway, &upstream);
    assert_ne!(own, id);
    let response = gateway
        .get(&format!("/?t={}", client.jar.get("sid").unwrap()))
        .expect(200);
    expect_state(&upstream, Some("refused"));
    assert!(!response.sets_cookies());
}

#[test]
fn a_navigation_trades_its_query_token_for_a_cookie() {
    let upstream = app();
    let token = query_token(&upstream);
    let gateway = with_session(&upstream, &format!("{ALL}{SIGNED}"));
    gateway.get(&format!("/?t={token}")).expect(200);
    let id = sid(&upstream);
    let before = upstream.count();
    let mut client = gateway.client();
    let response = client
        .request("GET", &format!("/page?a=1&t={token}&b=2"))
        .header("Sec-Fetch-Mode", "navigate")
        .send()
        .expect(303);
    let location = response.get("location").expect("a location").to_owned();
    assert!(location.ends_with("/page?a=1&b=2"), "{location}");
    assert_eq!(upstream.count(), before, "the gateway answers by itself");
    assert!(
        response
            .get("cache-control")
            .is_some_and(|v| v.contains("no-store")),
        "{:?}",
        response.head
    );
    client.get("/page?a=1&b=2").expect(200);
    assert_eq!(sid(&upstream), id, "the cookie is the same session's");
    gateway.get(&format!("/?t={token}")).expect(200);
    assert_ne!(
        upstream.last().get("x-session-id"),
        Some(id.as_str()),
        "the token of the URL is spent"
    );
}
