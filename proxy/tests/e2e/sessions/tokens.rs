//! What a presented token can be, and when a response may set one.

use super::*;
use crate::harness::eventually;

#[test]
fn dead_tokens_are_replaced_on_the_first_request() {
    let upstream = app();
    let gateway = with_session(&upstream, COOKIE);
    let (client, _) = signed_in(&gateway, &upstream);
    let token = client.jar.get("sid").unwrap().to_owned();
    let unknown = altered(&token, |b| b[10] ^= 0xff);
    let cases = [
        "",
        "x",
        "%20",
        "\"\"",
        &token[..51],
        &format!("{token}A"),
        &token.replace(|c: char| c.is_ascii_digit(), "!"),
        &"A".repeat(52),
        &unknown,
    ];
    for dead in cases {
        let response = with_cookie(&gateway, &format!("sid={dead}"));
        let set = response.set_cookie("sid");
        assert!(!set.expires() && set.value.len() == 52, "{dead:?}: {set:?}");
        assert_eq!(upstream.last().get("x-session-new"), Some("1"), "{dead:?}");
        assert!(
            !upstream.last().head.has("cookie"),
            "{:?}",
            upstream.last().head
        );
    }
}

#[test]
fn a_dead_token_that_is_not_replaced_is_expired_at_the_client() {
    let upstream = app();
    let gateway = with_session(&upstream, &format!("{COOKIE}{ON_DEMAND}"));
    for dead in ["garbage", &"A".repeat(52)] {
        let response = with_cookie(&gateway, &format!("sid={dead}"));
        let set = response.set_cookie("sid");
        assert!(
            set.expires() && set.attribute("path") == Some("/"),
            "{set:?}"
        );
        expect_state(&upstream, None);
    }
    assert!(
        !gateway.get("/").sets_cookies(),
        "nothing presented, nothing to expire"
    );
}

#[test]
fn an_id_chosen_by_a_client_is_never_adopted() {
    let upstream = app();
    let gateway = with_session(&upstream, COOKIE);
    let chosen = URL_SAFE_NO_PAD.encode([1_u8; 39]);
    let response = with_cookie(&gateway, &format!("sid={chosen}"));
    assert_ne!(response.set_cookie("sid").value, chosen);
    assert_ne!(sid(&upstream), URL_SAFE_NO_PAD.encode([1_u8; 16]));
}

#[test]
fn a_known_sid_with_a_wrong_secret_is_refused_and_nothing_is_set() {
    let upstream = app();
    let gateway = with_session(&upstream, COOKIE);
    let (mut client, id) = signed_in(&gateway, &upstream);
    let token = client.jar.get("sid").unwrap().to_owned();
    for at in [23, 30, 38] {
        let response = with_cookie(
            &gateway,
            &format!("sid={}", altered(&token, |b| b[at] ^= 1)),
        );
        expect_state(&upstream, Some("refused"));
        assert!(!response.sets_cookies(), "{:?}", response.head);
    }
    client.get("/").expect(200);
    assert_eq!(sid(&upstream), id, "the owner is untouched");
    gateway.expect_at_least("session_misses_total", &["secret"], 3.0);
}

#[test]
fn explicit_acts_are_exempt_on_a_refused_request() {
    let upstream = app();
    let gateway = with_session(
        &upstream,
        &format!(
            "{COOKIE}lifecycle: {{ creation: {{ triggers: [firstRequest, explicitCreate, authentication] }} }}\n"
        ),
    );
    let (victim, id) = signed_in(&gateway, &upstream);
    let refused = format!(
        "sid={}",
        altered(victim.jar.get("sid").unwrap(), |b| b[30] ^= 1)
    );
    let act = |answer: &str| {
        gateway
            .client()
            .request("GET", "/")
            .header("Cookie", &refused)
            .header("X-Answer", answer)
            .send()
            .expect(200)
    };
    for answer in [
        "X-Session-Create: 1",
        "X-Session-Authenticate: {\"userId\":\"u1\"}",
    ] {
        let set = act(answer).set_cookie("sid");
        assert!(!set.expires());
        with_cookie(&gateway, &format!("sid={}", set.value));
        assert_ne!(sid(&upstream), id, "{answer}: a new session");
    }
    assert!(act("X-Session-Destroy: 1").set_cookie("sid").expires());
    assert!(!act("X-Session-Set: {\"a\":1}").sets_cookies());
    with_cookie(&gateway, &victim.jar.header().unwrap());
    assert_eq!(sid(&upstream), id, "the victim is untouched");
}

#[test]
fn rotation_gives_a_new_secret_for_the_same_sid() {
    let upstream = app();
    let gateway = with_session(&upstream, COOKIE);
    let (mut client, id) = signed_in(&gateway, &upstream);
    let old = client.jar.header().unwrap();
    let set = ask(&mut client, "X-Session-Rotate: 1").set_cookie("sid");
    assert_ne!(format!("sid={}", set.value), old);
    let response = client.get("/").expect(200);
    assert_eq!(sid(&upstream), id);
    assert!(!response.sets_cookies());
}

#[test]
fn authentication_retires_the_old_secret_before_its_response_is_out() {
    let upstream = app();
    let gateway = with_session(&upstream, COOKIE);
    let (mut client, id) = signed_in(&gateway, &upstream);
    let old = client.jar.header().unwrap();
    let set = ask(&mut client, "X-Session-Authenticate: {\"userId\":\"u1\"}").set_cookie("sid");
    assert_ne!(format!("sid={}", set.value), old);
    let response = with_cookie(&gateway, &old);
    expect_state(&upstream, Some("refused"));
    assert!(
        !response.sets_cookies(),
        "a late request never wipes the good cookie"
    );
    client.get("/").expect(200);
    assert_eq!(sid(&upstream), id);
    assert_eq!(data(&upstream)["userId"], "u1");
    gateway.expect_at_least("session_misses_total", &["retired"], 1.0);
}

#[test]
fn a_cookie_with_max_age_is_renewed_now_and_then() {
    let upstream = app();
    let keys = "identifier: { type: cookie, name: sid, maxAge: 3600 }\noptions: { timeout: 30m, touchInterval: 1s }\n";
    let gateway = with_session(&upstream, keys);
    let mut client = gateway.client();
    let first = client.get("/").set_cookie("sid");
    assert_eq!(first.attribute("max-age"), Some("3600"));
    assert!(!client.get("/").sets_cookies(), "not with every response");
    let renewed = eventually("a renewal", || client.get("/").set_cookies("sid").pop());
    assert_eq!(
        (&decode(&renewed.value)[7..], renewed.attribute("max-age")),
        (&decode(&first.value)[7..], Some("3600"))
    );
}

#[test]
fn two_valid_cookies_of_our_name_make_none_win() {
    let upstream = app();
    let gateway = with_session(&upstream, COOKIE);
    let (one, _) = signed_in(&gateway, &upstream);
    let (two, _) = signed_in(&gateway, &upstream);
    let both = format!(
        "{}; {}",
        one.jar.header().unwrap(),
        two.jar.header().unwrap()
    );
    let quiet = with_cookie(&gateway, &both);
    assert!(
        !upstream.last().head.has("x-session-id"),
        "{:?}",
        upstream.last().head
    );
    assert!(
        !upstream.last().head.has("cookie") && !quiet.sets_cookies(),
        "{:?}",
        quiet.head
    );
    let page = gateway
        .client()
        .request("GET", "/")
        .header("Cookie", &both)
        .header("Sec-Fetch-Mode", "navigate")
        .send()
        .expect(200);
    assert!(
        page.set_cookies("sid").iter().any(|set| set.expires()),
        "{:?}",
        page.head
    );
    gateway.expect_at_least("session_misses_total", &["doubled"], 2.0);
}

#[test]
fn both_forms_of_a_doubled_cookie_are_expired_where_there_is_a_domain() {
    let upstream = app();
    let keys =
        "identifier: { type: cookie, name: sid, domain: .shop.test }\noptions: { secure: false }\n";
    let gateway = with_session(&upstream, keys);
    let fresh = || {
        gateway
            .client()
            .request("GET", "/")
            .host("www.shop.test")
            .send()
            .set_cookie("sid")
            .value
    };
    let both = format!("sid={}; sid={}", fresh(), fresh());
    let page = gateway
        .client()
        .request("GET", "/")
        .host("www.shop.test")
        .header("Cookie", &both)
        .header("Sec-Fetch-Mode", "navigate")
        .send();
    let sets = page.set_cookies("sid");
    assert!(
        sets.len() == 2 && sets.iter().all(|set| set.expires()),
        "{:?}",
        page.head
    );
    assert_eq!(
        sets.iter().filter(|set| set.has("domain")).count(),
        1,
        "{:?}",
        page.head
    );
}

#[test]
fn the_same_cookie_twice_and_a_dead_one_beside_a_good_one_still_work() {
    let upstream = app();
    let gateway = with_session(&upstream, COOKIE);
    let (client, id) = signed_in(&gateway, &upstream);
    let cookie = client.jar.header().unwrap();
    for line in [
        format!("{cookie}; {cookie}"),
        format!("sid=dead; {cookie}"),
        format!("{cookie}; sid=dead"),
    ] {
        let response = with_cookie(&gateway, &line);
        assert_eq!(sid(&upstream), id, "{line}");
        assert!(
            !response.set_cookies("sid").iter().any(|set| !set.expires()),
            "{:?}",
            response.head
        );
        assert!(!upstream.last().head.has("cookie"));
    }
    let split = gateway
        .client()
        .request("GET", "/")
        .header("Cookie", "a=1")
        .header("Cookie", &cookie)
        .header("Cookie", "b=2")
        .send();
    assert_eq!((split.status(), sid(&upstream)), (200, id));
    assert_eq!(upstream.last().head.all("cookie").join("; "), "a=1; b=2");
}

#[test]
fn parallel_first_requests_of_one_client_all_work() {
    let upstream = app();
    let gateway = with_session(&upstream, COOKIE);
    let (client, id) = signed_in(&gateway, &upstream);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let mut tab = client.tab();
            scope.spawn(move || {
                for _ in 0..20 {
                    assert!(!tab.get("/").expect(200).sets_cookies());
                }
            });
        }
    });
    assert!(
        upstream
            .requests()
            .iter()
            .skip(2)
            .all(|r| r.get("x-session-id") == Some(id.as_str()))
    );
}

#[test]
fn sessions_of_another_instance_are_told_as_a_misdeployment() {
    let upstream = app();
    let other = with_more(&upstream, COOKIE, "node: gw-1\n");
    let gateway = with_more(&upstream, COOKIE, "node: gw-2\n");
    let (client, _) = signed_in(&other, &upstream);
    let token = client.jar.get("sid").expect("a token");
    // One of its own that is gone is nothing strange.
    let (own, _) = signed_in(&gateway, &upstream);
    let gone = altered(own.jar.get("sid").expect("a token"), |bytes| bytes[20] ^= 1);
    with_cookie(&gateway, &format!("sid={gone}"));
    gateway.expect_metric("session_foreign_tokens_total", &[], 0.0);
    assert!(with_cookie(&gateway, &format!("sid={token}")).sets_cookies());
    with_cookie(&gateway, &format!("sid={token}"));
    gateway.expect_metric("session_foreign_tokens_total", &[], 2.0);
    let said = gateway.stderr.text();
    assert_eq!(
        said.matches("session of another instance").count(),
        1,
        "{said}"
    );
}
