//! When a session is made, and when not.

use super::*;
use crate::harness::eventually;

#[test]
fn what_cannot_be_delivered_or_kept_is_not_created() {
    let upstream = app();
    let gateway = with_session(&upstream, COOKIE);
    let cases: [(&str, &[(&str, &str)]); 6] = [
        (
            "OPTIONS",
            &[
                ("Origin", "https://a.test"),
                ("Access-Control-Request-Method", "PUT"),
            ],
        ),
        ("GET", &[("Sec-Purpose", "prefetch")]),
        ("GET", &[("Sec-Purpose", "prefetch;prerender")]),
        (
            "GET",
            &[
                ("Sec-Fetch-Site", "cross-site"),
                ("Sec-Fetch-Mode", "no-cors"),
                ("Sec-Fetch-Dest", "image"),
            ],
        ),
        (
            "POST",
            &[
                ("Sec-Fetch-Site", "cross-site"),
                ("Sec-Fetch-Mode", "navigate"),
                ("Sec-Fetch-Dest", "document"),
            ],
        ),
        (
            "GET",
            &[("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "cors")],
        ),
    ];
    for (method, headers) in cases {
        let mut client = gateway.client();
        let request = headers
            .iter()
            .fold(client.request(method, "/"), |request, (n, v)| {
                request.header(n, v)
            });
        let response = request.send().expect(200);
        assert!(
            !response.sets_cookies(),
            "{method} {headers:?}: {:?}",
            response.head
        );
        expect_state(&upstream, None);
    }
    assert_eq!(gateway.records(), 0);
}

#[test]
fn what_can_be_kept_is_created() {
    let upstream = app();
    let gateway = with_session(&upstream, COOKIE);
    let cases: [(&str, &[(&str, &str)]); 6] = [
        ("GET", &[]),
        ("POST", &[]),
        ("HEAD", &[]),
        ("OPTIONS", &[]),
        (
            "GET",
            &[
                ("Sec-Fetch-Site", "same-origin"),
                ("Sec-Fetch-Mode", "cors"),
            ],
        ),
        // Lax lets a top-level navigation bring the cookie back.
        (
            "GET",
            &[
                ("Sec-Fetch-Site", "cross-site"),
                ("Sec-Fetch-Mode", "navigate"),
                ("Sec-Fetch-Dest", "document"),
            ],
        ),
    ];
    for (method, headers) in cases {
        let mut client = gateway.client();
        let request = headers
            .iter()
            .fold(client.request(method, "/"), |request, (n, v)| {
                request.header(n, v)
            });
        let response = request.send().expect(200);
        assert_eq!(
            response.set_cookies("sid").len(),
            1,
            "{method} {headers:?}: {:?}",
            response.head
        );
    }
}

#[test]
fn strict_withholds_from_a_cross_site_navigation_too() {
    let upstream = app();
    let gateway = with_session(
        &upstream,
        "identifier: { type: cookie, name: sid, sameSite: strict }\n",
    );
    let response = gateway
        .client()
        .request("GET", "/")
        .header("Sec-Fetch-Site", "cross-site")
        .header("Sec-Fetch-Mode", "navigate")
        .header("Sec-Fetch-Dest", "document")
        .send();
    assert!(!response.sets_cookies(), "{:?}", response.head);
}

#[test]
fn an_excluded_request_with_a_valid_token_has_its_session() {
    let upstream = app();
    let gateway = with_session(&upstream, COOKIE);
    let (mut client, id) = signed_in(&gateway, &upstream);
    client
        .request("GET", "/")
        .header("Sec-Purpose", "prefetch")
        .send()
        .expect(200);
    assert_eq!(sid(&upstream), id);
}

#[test]
fn creations_of_one_client_prefix_are_limited() {
    let upstream = app();
    let more = "listeners: [{ address: \"127.0.0.1:0\", trustedProxies: [\"127.0.0.1/32\"] }]\n";
    let keys = "identifier: { type: cookie, name: sid }\noptions: { secure: false }\nlifecycle: { creation: { limit: 3/m } }\n";
    let gateway = with_more(&upstream, keys, more);
    let from = |address: &str| {
        gateway
            .client()
            .request("GET", "/")
            .header("X-Forwarded-For", address)
            .send()
            .expect(200)
            .sets_cookies()
    };
    let created: Vec<bool> = (1..=6).map(|n| from(&format!("203.0.113.{n}"))).collect();
    assert_eq!(
        created,
        [true, true, true, false, false, false],
        "one /24 is one prefix"
    );
    expect_state(&upstream, None);
    assert!(from("198.51.100.1"), "another prefix is not concerned");
    gateway.expect_metric("session_creates_refused_total", &["limit"], 3.0);
}

#[test]
fn the_default_limit_stops_a_flood() {
    let upstream = app();
    let gateway = with_session(&upstream, COOKIE);
    let mut connection = gateway.connect();
    let started = std::time::Instant::now();
    let mut created = 0;
    for _ in 0..400 {
        let response = connection
            .exchange(&format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", gateway.http))
            .expect(200);
        created += usize::from(response.sets_cookies());
    }
    let allowed = 100.0 * (2.0 + started.elapsed().as_secs_f64());
    assert!(
        (created as f64) <= allowed.min(399.0) && created >= 90,
        "{created} created"
    );
}

#[test]
fn without_the_first_request_trigger_nothing_is_created_by_itself() {
    let upstream = app();
    let gateway = with_session(&upstream, &format!("{COOKIE}{ON_DEMAND}"));
    let mut client = gateway.client();
    assert!(!client.get("/").sets_cookies());
    expect_state(&upstream, None);
    assert!(
        !ask(&mut client, "X-Session-Set: {\"a\":1}").sets_cookies(),
        "Set creates nothing"
    );
    assert!(!ask(&mut client, "X-Session-Rotate: 1").sets_cookies());
    let response = client
        .request("GET", "/")
        .header("X-Answer", "X-Session-Create: 1")
        .header("X-Answer", "X-Session-Set: {\"a\":1}")
        .send();
    response.set_cookie("sid");
    client.get("/").expect(200);
    assert_eq!(data(&upstream)["a"], 1);
    let id = sid(&upstream);
    assert!(
        !ask(&mut client, "X-Session-Create: 1").sets_cookies(),
        "there is one already"
    );
    client.get("/").expect(200);
    assert_eq!(sid(&upstream), id);
}

#[test]
fn authentication_creates_where_there_is_none() {
    let upstream = app();
    let gateway = with_session(&upstream, &format!("{COOKIE}{ON_DEMAND}"));
    let mut client = gateway.client();
    ask(&mut client, "X-Session-Authenticate: {\"userId\":\"u7\"}").set_cookie("sid");
    client.get("/").expect(200);
    assert_eq!(data(&upstream)["userId"], "u7");
}

#[test]
fn defaults_are_the_first_data_with_the_time_filled_in() {
    let upstream = app();
    let keys = "lifecycle: { creation: { defaults: { born: \"${timestamp}\", theme: dark, count: 0, nested: { a: [1] } } } }\n";
    let gateway = with_session(&upstream, &format!("{COOKIE}{keys}"));
    let mut client = gateway.client();
    client.get("/").expect(200);
    let first = data(&upstream);
    assert_eq!(
        (first["theme"].as_str(), first["count"].as_u64()),
        (Some("dark"), Some(0))
    );
    let born = first["born"].as_str().expect("a time");
    assert!(
        born.len() >= 20
            && born.as_bytes()[10] == b'T'
            && born.ends_with('Z')
            && born.starts_with("20"),
        "RFC 3339, UTC: {born}"
    );
    ask(&mut client, "X-Session-Set: {\"count\":5}");
    client.get("/").expect(200);
    assert_eq!(
        (
            data(&upstream)["count"].as_u64(),
            data(&upstream)["born"].as_str()
        ),
        (Some(5), Some(born))
    );
}

#[test]
fn a_session_made_on_an_error_response_is_kept() {
    let upstream = Upstream::new("a", |_| Reply::status(404));
    let gateway = with_session(&upstream, COOKIE);
    let mut client = gateway.client();
    client.get("/").expect(404).set_cookie("sid");
    let id = sid(&upstream);
    client.get("/").expect(404);
    assert_eq!(sid(&upstream), id);
}

#[test]
fn an_answer_of_the_gateway_itself_sets_nothing() {
    let upstream = app();
    let body = format!(
        "{}router: {{ rules: [{{ path: \"/app/*\", serviceName: app }}] }}\nsession: {{ identifier: {{ type: cookie, name: sid }} }}\n",
        service(&[&upstream])
    );
    let gateway = Gateway::start(&body);
    assert!(!gateway.get("/elsewhere").expect(404).sets_cookies());
    assert!(gateway.get("/app/x").expect(200).sets_cookies());
}

/// Makes so many sessions from an address that a proxy names, and returns each token `returns` times.
#[track_caller]
fn make(gateway: &Gateway, count: u32, returns: usize, address: impl Fn(u32) -> String) {
    let mut connection = gateway.connect();
    let mut ask = |address: &str, cookie: &str| {
        connection
            .exchange(&format!(
                "GET / HTTP/1.1\r\nHost: {}\r\nX-Forwarded-For: {address}\r\n{cookie}\r\n",
                gateway.http
            ))
            .expect(200)
    };
    for n in 0..count {
        let made = ask(&address(n), "");
        let cookie = format!("Cookie: sid={}\r\n", made.set_cookie("sid").value);
        for _ in 0..returns {
            ask(&address(n), &cookie);
        }
    }
}

#[test]
fn one_address_that_holds_over_half_of_many_sessions_is_told_as_a_misdeployment() {
    const COUNTER: &str = "session_creates_by_one_address_total";
    let many = |n: u32| format!("198.51.{}.{}", n / 250, n % 250);
    let upstream = app();
    let more = "listeners: [{ address: \"127.0.0.1:0\", trustedProxies: [\"127.0.0.1/32\"] }]\nruntime: { cores: 2 }\n";
    let keys = "identifier: { type: cookie, name: sid }\noptions: { secure: false }\nlifecycle: { creation: { limit: 0 } }\n";
    let gateway = with_more(&upstream, keys, more);
    make(&gateway, 1100, 0, many);
    assert_eq!(gateway.metric(COUNTER, &[]), 0.0, "nobody has over half");
    make(&gateway, 1300, 0, |_| "203.0.113.7".into());
    gateway.expect_at_least(COUNTER, &[], 100.0);
    let told = || {
        let text = gateway.stderr.text();
        text.matches("the address 203.0.113.7 holds over half")
            .count()
    };
    eventually("it is told once", || (told() == 1).then_some(()));

    // First tokens that nobody returns are kept nowhere, so nobody holds them.
    let gateway = with_more(&upstream, &format!("{keys}{SIGNED}"), more);
    make(&gateway, 1100, 0, |_| "203.0.113.7".into());
    assert_eq!(gateway.metric(COUNTER, &[]), 0.0);
    make(&gateway, 1010, 2, |_| "203.0.113.7".into());
    gateway.expect_metric(COUNTER, &[], 11.0);
}
