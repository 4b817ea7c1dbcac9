//! Sessions that check what their client looks like, and clients that guess tokens.

use super::*;
use crate::harness::signer::Signer;
use crate::tls::{Certs, python, secure, shell};

const CHROME: &str = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36";

fn checking(keys: &str) -> String {
    format!("identifier: {{ type: cookie, name: sid }}\nsecurity: {{ validation: {{ {keys} }} }}\n")
}

/// A request with this cookie and these headers.
fn send(gateway: &Gateway, cookie: &str, headers: &[(&str, &str)]) -> Response {
    let mut client = gateway.client();
    let mut request = client.request("GET", "/").header("Cookie", cookie);
    for (name, value) in headers {
        request = request.header(name, *value);
    }
    request.send()
}

/// A client with these headers that has a session: its cookie, and its sid.
fn session_of(
    gateway: &Gateway,
    upstream: &Upstream,
    headers: &[(&str, &str)],
) -> (String, String) {
    let set = send(gateway, "x=1", headers).expect(200).set_cookie("sid");
    let cookie = format!("sid={}", set.value);
    send(gateway, &cookie, headers).expect(200);
    (cookie, sid(upstream))
}

fn agent(major: u32) -> String {
    CHROME.replace("131", &major.to_string())
}

#[test]
fn another_browser_is_served_without_the_session_and_harms_nobody() {
    let upstream = app();
    let gateway = with_session(&upstream, &checking("checkUserAgent: true"));
    let (cookie, id) = session_of(&gateway, &upstream, &[("User-Agent", CHROME)]);
    let stolen = send(&gateway, &cookie, &[("User-Agent", "curl/8.5.0")]).expect(200);
    assert!(!stolen.sets_cookies());
    expect_state(&upstream, Some("refused"));
    let newer = agent(140);
    send(&gateway, &cookie, &[("User-Agent", &newer)]).expect(200);
    assert_eq!(sid(&upstream), id, "an updated browser is the same");
    send(&gateway, &cookie, &[("User-Agent", CHROME)]).expect(200);
    expect_state(&upstream, Some("refused"));
    send(&gateway, &cookie, &[]).expect(200);
    assert_eq!(sid(&upstream), id, "what is absent is not compared");
    gateway.expect_at_least("session_validation_failures_total", &["userAgent"], 2.0);
}

#[test]
fn an_exact_check_compares_the_user_agent_as_it_is() {
    let upstream = app();
    let gateway = with_session(&upstream, &checking("checkUserAgent: true, exact: true"));
    let (cookie, _) = session_of(&gateway, &upstream, &[("User-Agent", CHROME)]);
    let newer = agent(132);
    send(&gateway, &cookie, &[("User-Agent", &newer)]).expect(200);
    expect_state(&upstream, Some("refused"));
}

#[test]
fn a_fingerprint_has_platform_language_and_more() {
    let upstream = app();
    let gateway = with_session(&upstream, &checking("checkFingerprint: true"));
    let owner = [
        ("User-Agent", CHROME),
        ("Accept-Language", "de-AT,de;q=0.9"),
        ("Sec-CH-UA-Platform", "\"Linux\""),
        ("Sec-CH-UA-Mobile", "?0"),
    ];
    let (cookie, id) = session_of(&gateway, &upstream, &owner);
    for (at, other) in [(1, "fr"), (2, "\"Windows\""), (3, "?1"), (0, "curl/8.5.0")] {
        let mut headers = owner;
        headers[at].1 = other;
        assert!(!send(&gateway, &cookie, &headers).expect(200).sets_cookies());
        expect_state(&upstream, Some("refused"));
    }
    send(&gateway, &cookie, &owner[..1]).expect(200);
    assert_eq!(sid(&upstream), id);
    gateway.expect_at_least("session_validation_failures_total", &["fingerprint"], 4.0);
}

#[test]
fn another_network_is_refused_and_each_family_has_one() {
    let upstream = app();
    let gateway = Gateway::start(&format!(
        "listeners: [{{ address: \"127.0.0.1:0\", trustedProxies: [\"127.0.0.0/8\"] }}]\n{}session:\n{}",
        service(&[&upstream]),
        indent(
            "identifier: { type: cookie, name: sid }\noptions: { secure: false }\nsecurity: { validation: { checkIP: true } }\n",
            2
        )
    ));
    let from = |ip: &'static str| [("X-Forwarded-For", ip)];
    let (cookie, id) = session_of(&gateway, &upstream, &from("198.51.100.7"));
    for (ip, same) in [
        ("198.51.100.99", true),
        ("198.51.101.7", false),
        ("2001:db8:0:1::1", true),
        ("2001:db8:0:2::1", true),
        ("2001:db8:1::1", false),
    ] {
        send(&gateway, &cookie, &from(ip)).expect(200);
        let served = upstream.last().get("x-session-id") == Some(id.as_str());
        assert_eq!(served, same, "{ip}");
    }
}

#[test]
fn a_mismatch_may_be_rejected_end_the_session_or_be_observed() {
    for (action, status, served, stays) in [
        ("reject", 403, false, true),
        ("destroy", 200, false, false),
        ("observe", 200, true, true),
    ] {
        let upstream = app();
        let keys = format!("checkUserAgent: true, onMismatch: {action}");
        let gateway = with_session(&upstream, &checking(&keys));
        let (cookie, id) = session_of(&gateway, &upstream, &[("User-Agent", CHROME)]);
        let before = upstream.requests().len();
        send(&gateway, &cookie, &[("User-Agent", "curl/8.5.0")]).expect(status);
        if status == 200 {
            assert_eq!(sid(&upstream) == id, served, "{action}");
        } else {
            assert_eq!(upstream.requests().len(), before, "{action}");
        }
        send(&gateway, &cookie, &[("User-Agent", CHROME)]).expect(200);
        assert_eq!(sid(&upstream) == id, stays, "{action}");
        gateway.expect_at_least("session_validation_failures_total", &["userAgent"], 1.0);
    }
}

#[test]
fn a_session_stays_with_its_tenant() {
    let upstream = app();
    let gateway = with_session(
        &upstream,
        &format!(
            "{}attributes: {{ fromHeaders: [{{ header: X-Tenant, attribute: tenantId, trust: any }}] }}\n",
            checking("checkTenant: true")
        ),
    );
    let (cookie, id) = session_of(&gateway, &upstream, &[("X-Tenant", "one")]);
    for (headers, same) in [
        (&[("X-Tenant", "two")][..], false),
        (&[][..], false),
        (&[("X-Tenant", "one")][..], true),
    ] {
        send(&gateway, &cookie, headers).expect(200);
        let served = upstream.last().get("x-session-id") == Some(id.as_str());
        assert_eq!(served, same, "{headers:?}");
    }
}

#[test]
fn a_tenant_may_be_named_by_a_token() {
    let upstream = app();
    let keys = checking("checkTenant: true, onMismatch: reject");
    let gateway = with_more(
        &upstream,
        &format!(
            "{keys}attributes: {{ fromAuth: [{{ claim: sub, attribute: userId }}, {{ claim: org.id, attribute: tenantId }}] }}\n"
        ),
        "auth: { jwt: { algorithms: [HS256], secret: \"a shared secret of the tests, long enough\" } }\n",
    );
    let token = |org: serde_json::Value| {
        let signer = Signer::hmac(b"a shared secret of the tests, long enough");
        let claims = serde_json::json!({"sub": "u1", "exp": 4_000_000_000_u64, "org": org});
        format!("Bearer {}", signer.token(&claims))
    };
    let one = token(serde_json::json!({"id": 1}));
    let (cookie, id) = session_of(&gateway, &upstream, &[("Authorization", &one)]);
    assert_eq!(data(&upstream)["tenantId"], 1);
    for (org, same) in [
        (serde_json::json!({"id": 2}), false),
        // Another value, though it reads alike.
        (serde_json::json!({"id": "1"}), false),
        (serde_json::Value::Null, false),
        (serde_json::json!({"id": 1}), true),
    ] {
        let status = if same { 200 } else { 403 };
        let response = send(&gateway, &cookie, &[("Authorization", &token(org))]);
        assert!(!response.expect(status).sets_cookies());
    }
    send(&gateway, &cookie, &[]).expect(403);
    send(&gateway, &cookie, &[("Authorization", "Bearer forged")]).expect(403);
    send(&gateway, &cookie, &[("Authorization", &one)]).expect(200);
    assert_eq!(sid(&upstream), id);
    assert_eq!(data(&upstream)["tenantId"], 1);
    gateway.expect_metric("session_validation_failures_total", &["tenant"], 5.0);
}

#[test]
fn the_hello_of_a_tls_client_is_part_of_its_fingerprint() {
    let (certs, upstream) = (Certs::new().localhost(), app());
    let session = format!(
        "session:\n{}",
        indent(&checking("checkFingerprint: true"), 2)
    );
    let gateway = secure(&certs, &[&upstream], &session);
    // Both say the same of themselves in every header that is looked at.
    let curl = |cookie: &str| {
        let words = format!(
            "-sS --http1.1 --cacert $CERTS/ca.pem -A x -H 'Cookie: {cookie}' -D - -o /dev/null $BASE/"
        );
        shell(&format!("curl {words}"), &gateway, &certs)
    };
    let other = |cookie: &str| {
        let script = format!(
            "lines = 'User-Agent: x\\r\\nCookie: {cookie}\\r\\n'\nc = context()\n\
             s = connect(c)\nprint(get(s, more=lines)[0])\n\
             with connect(c, session=s.session) as s:\n  get(s, more=lines)\n  assert s.session_reused\n"
        );
        python(&script, &gateway, &certs)
    };
    let cookie = |head: &str| {
        let line = head
            .lines()
            .find(|l| l.to_ascii_lowercase().starts_with("set-cookie"));
        let value = line.unwrap_or_else(|| panic!("no cookie in {head}"));
        value[12..].split(';').next().unwrap_or_default().to_owned()
    };
    let of_curl = cookie(&curl("a=1"));
    curl(&of_curl);
    let id = sid(&upstream);
    assert!(!other(&of_curl).to_ascii_lowercase().contains("set-cookie"));
    expect_state(&upstream, Some("refused"));
    curl(&of_curl);
    assert_eq!(sid(&upstream), id, "its own client goes on");
    // The other way round, and a resumed connection is the same client.
    let of_other = cookie(&other("a=1"));
    other(&of_other);
    let id = sid(&upstream);
    curl(&of_other);
    expect_state(&upstream, Some("refused"));
    other(&of_other);
    assert_eq!(sid(&upstream), id);
    gateway.expect_metric("session_validation_failures_total", &["fingerprint"], 3.0);
}

#[test]
fn only_tokens_that_cannot_be_ours_are_limited() {
    let upstream = app();
    let gateway = with_session(
        &upstream,
        "identifier: { type: cookie, name: sid }\nsecurity: { guessLimit: 3/h }\n",
    );
    let (client, id) = signed_in(&gateway, &upstream);
    let good = client.jar.header().unwrap();
    let token = client.jar.get("sid").unwrap().to_owned();
    let guess = altered(&token, |bytes| bytes[30] ^= 1);
    for cookie in [
        "sid=junk".to_owned(),
        format!("sid={guess}"),
        "sid=".to_owned() + &token[1..],
    ] {
        send(&gateway, &cookie, &[]).expect(200);
    }
    send(&gateway, "sid=junk", &[]).expect(429);
    send(&gateway, &format!("sid={guess}"), &[]).expect(429);
    send(&gateway, &good, &[]).expect(200);
    assert_eq!(sid(&upstream), id);
    send(&gateway, "other=1", &[]).expect(200);
    // One that was ours once does not count.
    let gone = altered(&token, |bytes| bytes[7] ^= 1);
    send(&gateway, &format!("sid={gone}"), &[]).expect(200);
    gateway.expect_at_least("requests_refused_total", &["guess_limit"], 2.0);
}
