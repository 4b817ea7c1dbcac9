//! Attributes from request headers.

use super::*;

const RULES: &str = "attributes: { fromHeaders: [{ header: X-Tenant-ID, attribute: tenantId }, { header: X-Plan, attribute: plan }] }\n";
const TRUSTING: &str =
    "listeners: [{ address: \"127.0.0.1:0\", trustedProxies: [\"127.0.0.1/32\"] }]\n";

#[track_caller]
fn send(client: &mut Client, headers: &[(&str, &str)]) {
    let mut request = client.request("GET", "/");
    for (name, value) in headers {
        request = request.header(name, value);
    }
    request.send().expect(200);
}

#[test]
fn a_header_of_a_trusted_proxy_becomes_an_attribute_and_changes_with_it() {
    let upstream = app();
    for cores in [1, 2] {
        let more = format!("{TRUSTING}runtime: {{ cores: {cores} }}\n");
        let keys = format!("{COOKIE}{RULES}data: {{ fields: [cart] }}\n");
        let gateway = with_more(&upstream, &keys, &more);
        // Over two cores some sessions are another core's, which a trusted proxy's connection never
        // moves to.
        for n in 0..16 {
            let mut client = gateway.client();
            let tenant = format!("t{n}");
            send(&mut client, &[("X-Tenant-ID", &tenant)]);
            assert_eq!(data(&upstream)["tenantId"], tenant, "on the first request");
            client.disconnect();
            send(&mut client, &[("X-Tenant-ID", &tenant)]);
            let version = upstream.last().get("x-session-version").map(str::to_owned);
            client.disconnect();
            send(&mut client, &[]);
            assert_eq!(
                data(&upstream)["tenantId"],
                tenant,
                "it stays without the header"
            );
            assert_eq!(
                upstream.last().get("x-session-version").map(str::to_owned),
                version,
                "and what repeats is no change"
            );
            send(
                &mut client,
                &[("X-Tenant-ID", "other"), ("x-plan", "gold \"1\"")],
            );
            assert_eq!(
                data(&upstream),
                serde_json::json!({"tenantId": "other", "plan": "gold \"1\""})
            );
            assert!(upstream.last().get("x-session-version").map(str::to_owned) > version);
        }
    }
}

#[test]
fn a_header_of_anybody_else_says_nothing() {
    let upstream = app();
    let gateway = with_session(&upstream, &format!("{COOKIE}{RULES}"));
    let (mut client, _) = signed_in(&gateway, &upstream);
    send(&mut client, &[("X-Tenant-ID", "t1")]);
    assert!(data(&upstream).is_null());
    let any =
        "attributes: { fromHeaders: [{ header: X-Tenant-ID, attribute: tenantId, trust: any }] }\n";
    let gateway = with_session(&upstream, &format!("{COOKIE}{any}"));
    let (mut client, _) = signed_in(&gateway, &upstream);
    send(&mut client, &[("X-Tenant-ID", "t1")]);
    assert_eq!(data(&upstream)["tenantId"], "t1");
}

#[test]
fn an_application_can_not_write_over_an_attribute() {
    let upstream = app();
    let gateway = with_more(&upstream, &format!("{COOKIE}{RULES}"), TRUSTING);
    let mut client = gateway.client();
    send(&mut client, &[("X-Tenant-ID", "t1")]);
    ask(
        &mut client,
        "X-Session-Set: {\"tenantId\":\"forged\",\"cart\":1}",
    );
    send(&mut client, &[]);
    assert_eq!(
        data(&upstream),
        serde_json::json!({"tenantId": "t1", "cart": 1})
    );
}

#[test]
fn a_header_that_says_two_things_or_too_much_is_counted_and_says_nothing() {
    let upstream = app();
    let keys = format!("{COOKIE}{RULES}data: {{ maxSize: 256B }}\n");
    let gateway = with_more(&upstream, &keys, TRUSTING);
    let (mut client, _) = signed_in(&gateway, &upstream);
    send(&mut client, &[("X-Tenant-ID", "t1"), ("X-Tenant-ID", "t2")]);
    assert!(data(&upstream).is_null());
    gateway.expect_at_least("session_attributes_refused_total", &["header"], 1.0);
    send(&mut client, &[("X-Tenant-ID", &"x".repeat(300))]);
    assert!(data(&upstream).is_null());
    gateway.expect_at_least("session_attributes_refused_total", &["size"], 1.0);
    send(&mut client, &[("X-Tenant-ID", "t1"), ("X-Tenant-ID", "t1")]);
    assert_eq!(data(&upstream)["tenantId"], "t1");
}

#[test]
fn a_first_token_that_is_kept_nowhere_shows_its_attributes_all_the_same() {
    let upstream = app();
    let keys = format!("{COOKIE}{SIGNED}{RULES}");
    let gateway = with_more(&upstream, &keys, TRUSTING);
    let mut client = gateway.client();
    send(&mut client, &[("X-Tenant-ID", "t1")]);
    assert_eq!(data(&upstream)["tenantId"], "t1");
    assert_eq!(gateway.records(), 0, "attributes make no record");
    send(&mut client, &[("X-Tenant-ID", "t1")]);
    assert_eq!(data(&upstream)["tenantId"], "t1");
}
