//! The session cookie itself, other people's cookies, and caching.

use super::*;
use crate::harness::Reply;

#[test]
fn the_defaults_of_the_cookie_are_safe() {
    let upstream = app();
    let gateway = with_session(&upstream, COOKIE);
    let set = gateway.get("/").set_cookie("sid");
    assert_eq!(
        (
            set.attribute("path"),
            set.attribute("samesite")
                .map(str::to_ascii_lowercase)
                .as_deref()
        ),
        (Some("/"), Some("lax"))
    );
    assert!(
        set.has("httponly")
            && !set.has("domain")
            && !set.has("max-age")
            && !set.has("expires")
            && !set.has("partitioned"),
        "{set:?}"
    );
    assert!(
        !set.has("secure"),
        "on loopback, for a loopback host, so that a laptop works"
    );
}

#[test]
fn every_attribute_is_configurable() {
    let upstream = app();
    let keys = "identifier: { type: cookie, name: GSESSIONID, domain: .example.com, path: /app, sameSite: strict, maxAge: 86400 }\noptions: { secure: false, httpOnly: false }\n";
    let gateway = with_session(&upstream, keys);
    let set = gateway
        .client()
        .request("GET", "/app")
        .host("www.example.com")
        .send()
        .set_cookie("GSESSIONID");
    assert_eq!(set.attribute("path"), Some("/app"));
    assert!(
        set.attribute("domain")
            .is_some_and(|d| d.trim_start_matches('.') == "example.com"),
        "{set:?}"
    );
    assert!(
        set.attribute("samesite")
            .is_some_and(|s| s.eq_ignore_ascii_case("strict")),
        "{set:?}"
    );
    assert_eq!(set.attribute("max-age"), Some("86400"));
    assert!(!set.has("secure") && !set.has("httponly"), "{set:?}");
}

#[test]
fn a_secure_cookie_is_neither_set_nor_taken_over_plain_http() {
    let upstream = app();
    let gateway = with_session(&upstream, COOKIE);
    let response = gateway
        .client()
        .request("GET", "/")
        .host("shop.test")
        .send()
        .expect(200);
    assert!(!response.sets_cookies(), "{:?}", response.head);
    expect_state(&upstream, None);
    let (client, id) = signed_in(&gateway, &upstream);
    let plain = gateway
        .client()
        .request("GET", "/")
        .host("shop.test")
        .header("Cookie", client.jar.header().unwrap())
        .send()
        .expect(200);
    assert_ne!(
        upstream.last().get("x-session-id"),
        Some(id.as_str()),
        "{:?}",
        plain.head
    );
    assert!(!plain.sets_cookies(), "{:?}", plain.head);
    assert!(
        !upstream.last().head.has("cookie"),
        "and it goes no further: {:?}",
        upstream.last().head
    );
    gateway.expect_at_least("insecure_requests_total", &[], 1.0);
}

#[test]
fn loopback_names_count_and_a_proxy_in_front_does_not() {
    let upstream = app();
    let gateway = with_session(&upstream, COOKIE);
    for host in [
        "localhost",
        "localhost:8080",
        "127.0.0.1",
        "127.8.8.8:80",
        "[::1]:80",
    ] {
        let set = gateway
            .client()
            .request("GET", "/")
            .host(host)
            .send()
            .set_cookie("sid");
        assert!(!set.has("secure"), "{host}: {set:?}");
    }
    for host in [
        "localhost.evil.test",
        "127.0.0.1.evil.test",
        "10.0.0.1",
        "notlocalhost",
    ] {
        assert!(
            !gateway
                .client()
                .request("GET", "/")
                .host(host)
                .send()
                .sets_cookies(),
            "{host}"
        );
    }
    for (name, value) in [
        ("Forwarded", "for=1.2.3.4"),
        ("X-Forwarded-For", "1.2.3.4"),
        ("X-Forwarded-Proto", "http"),
        ("X-Forwarded-Host", "a.test"),
        ("Via", "1.1 p"),
    ] {
        let response = gateway
            .client()
            .request("GET", "/")
            .header(name, value)
            .send();
        assert!(!response.sets_cookies(), "{name}: {:?}", response.head);
    }
}

#[test]
fn a_trusted_proxy_that_ends_tls_vouches_for_it() {
    let upstream = app();
    let more = "listeners: [{ address: \"127.0.0.1:0\", trustedProxies: [\"127.0.0.1/32\"] }]\n";
    let gateway = with_more(&upstream, COOKIE, more);
    let https = |cookie: &str| {
        gateway
            .client()
            .request("GET", "/")
            .host("shop.test")
            .header("X-Forwarded-Proto", "https")
            .header("X-Forwarded-For", "203.0.113.5")
            .header("Cookie", cookie)
            .send()
            .expect(200)
    };
    let set = https("a=b").set_cookie("sid");
    assert!(set.has("secure"), "{set:?}");
    let id = sid(&upstream);
    https(&format!("sid={}", set.value));
    assert_eq!(sid(&upstream), id);
    let plain = gateway
        .client()
        .request("GET", "/")
        .host("shop.test")
        .header("X-Forwarded-Proto", "http")
        .header("X-Forwarded-For", "203.0.113.5")
        .send();
    assert!(!plain.sets_cookies(), "{:?}", plain.head);
}

#[test]
fn cookies_of_others_go_through_unchanged() {
    let upstream = app();
    let gateway = with_session(&upstream, COOKIE);
    let (client, id) = signed_in(&gateway, &upstream);
    let ours = client.jar.header().unwrap();
    let cases = [
        ("a=1; OURS; b=2", "a=1; b=2"),
        ("OURS; a=1", "a=1"),
        ("a=1; OURS", "a=1"),
        ("a=\"x; OURS; b=y\"", "a=\"x; b=y\""),
        ("a=b=c; OURS; d", "a=b=c; d"),
        ("xsid=1; OURS; sidx=2; SID=3", "xsid=1; sidx=2; SID=3"),
        ("a=1;OURS;b=2", "a=1;b=2"),
        ("$Version=1; OURS; $Path=/", "$Version=1; $Path=/"),
        ("a={\"x\":\"y,z\"}; OURS", "a={\"x\":\"y,z\"}"),
    ];
    for (line, rest) in cases {
        with_cookie(&gateway, &line.replace("OURS", &ours));
        assert_eq!(sid(&upstream), id, "{line}");
        let norm = |text: &str| {
            text.split(';')
                .map(|p| p.trim().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            norm(&upstream.last().head.all("cookie").join("; ")),
            norm(rest),
            "{line}"
        );
    }
    for untouched in [
        "a=1; b=2",
        "a=1;b=2",
        " spaced = out ;x",
        "a=1;;b=2",
        "=x",
        "a",
    ] {
        with_cookie(&gateway, untouched);
        assert_eq!(
            upstream.last().head.all("cookie"),
            [untouched.trim()],
            "byte for byte where ours is not in it"
        );
    }
}

#[test]
fn set_cookie_lines_of_others_pass_and_ours_from_an_upstream_does_not() {
    let upstream = Upstream::new("a", |_| {
        Reply::ok("x")
            .header("Set-Cookie", "a=1; Path=/; HttpOnly")
            .header("Set-Cookie", "sid=stolen; Path=/")
            .header(
                "Set-Cookie",
                "b=\"x;y\"; Expires=Wed, 21 Oct 2099 07:28:00 GMT",
            )
            .header("Set-Cookie", "SID=other")
    });
    let gateway = with_session(&upstream, COOKIE);
    let mut client = gateway.client();
    client.get("/").expect(200);
    let response = client.get("/").expect(200);
    assert_eq!(
        response.head.all("set-cookie"),
        [
            "a=1; Path=/; HttpOnly",
            "b=\"x;y\"; Expires=Wed, 21 Oct 2099 07:28:00 GMT",
            "SID=other"
        ]
    );
    gateway.expect_at_least("upstream_set_cookies_dropped_total", &[], 2.0);
}

#[test]
fn a_response_that_sets_the_session_is_not_stored_by_caches() {
    let upstream = Upstream::new("a", |_| {
        Reply::ok("x").header(
            "Cache-Control",
            "public, max-age=600, s-maxage=900, stale-while-revalidate=5",
        )
    });
    let gateway = with_session(&upstream, COOKIE);
    let mut client = gateway.client();
    let first = client.get("/").expect(200);
    let control = first
        .head
        .all("cache-control")
        .join(", ")
        .to_ascii_lowercase();
    assert!(control.contains("no-store"), "{control}");
    for gone in ["public", "max-age", "s-maxage"] {
        assert!(
            !control
                .split(',')
                .any(|d| d.trim().split('=').next() == Some(gone)),
            "{gone} in {control}"
        );
    }
    let second = client.get("/").expect(200);
    assert_eq!(
        second.head.all("cache-control"),
        ["public, max-age=600, s-maxage=900, stale-while-revalidate=5"],
        "untouched where nothing is set"
    );
}

#[test]
fn host_prefixed_names_work() {
    let upstream = app();
    let more = "listeners: [{ address: \"127.0.0.1:0\", trustedProxies: [\"127.0.0.1/32\"] }]\n";
    let gateway = with_more(
        &upstream,
        "identifier: { type: cookie, name: __Host-session }\n",
        more,
    );
    let set = gateway
        .client()
        .request("GET", "/")
        .host("shop.test")
        .header("X-Forwarded-Proto", "https")
        .header("X-Forwarded-For", "203.0.113.5")
        .send()
        .set_cookie("__Host-session");
    assert!(
        set.has("secure") && set.attribute("path") == Some("/") && !set.has("domain"),
        "{set:?}"
    );
}

#[test]
fn sessions_can_be_turned_off() {
    let upstream = app();
    let gateway = with_session(&upstream, &format!("enabled: false\n{COOKIE}"));
    let response = with_cookie(&gateway, "sid=whatever; a=1");
    assert!(!response.sets_cookies() && !upstream.last().head.has("x-session-id"));
}
