//! The end of a session on demand: this one, the others of its subject, all of them.

use super::*;

#[track_caller]
fn login(gateway: &Gateway, upstream: &Upstream, user: &str) -> (Client, String) {
    let (mut client, id) = signed_in(gateway, upstream);
    ask(
        &mut client,
        &format!("X-Session-Authenticate: {{\"userId\":\"{user}\"}}"),
    );
    (client, id)
}

#[track_caller]
fn lives(client: &mut Client, upstream: &Upstream, id: &str) -> bool {
    let cookie = client_cookie(client);
    // A prefetch creates nothing, so looking changes nothing.
    client
        .request("GET", "/")
        .header("Sec-Purpose", "prefetch")
        .bare()
        .header("Cookie", cookie)
        .send()
        .expect(200);
    upstream.last().get("x-session-id") == Some(id)
}

fn client_cookie(client: &Client) -> String {
    client.jar.header().unwrap_or_else(|| "none=1".to_owned())
}

#[test]
fn destroy_ends_the_session_and_expires_the_cookie() {
    let upstream = app();
    let gateway = with_session(&upstream, COOKIE);
    let (mut client, id) = signed_in(&gateway, &upstream);
    ask(&mut client, "X-Session-Set: {\"a\":1}");
    let cookie = client.jar.header().unwrap();
    let set = ask(&mut client, "X-Session-Destroy: 1").set_cookie("sid");
    assert!(
        set.expires() && set.attribute("path") == Some("/"),
        "{set:?}"
    );
    assert_eq!(client.jar.get("sid"), None);
    with_cookie(&gateway, &cookie);
    assert_ne!(sid(&upstream), id, "the old token is dead");
    assert!(!upstream.last().head.has("x-session-data"));
    gateway.expect_at_least("session_destroys_total", &[], 1.0);
    gateway.expect_at_least("session_misses_total", &["reason=\"destroyed\""], 1.0);
}

#[test]
fn destroy_others_ends_the_subjects_other_sessions() {
    let upstream = app();
    let gateway = with_more(&upstream, COOKIE, "runtime: { cores: 4 }\n");
    let mut own: Vec<(Client, String)> =
        (0..4).map(|_| login(&gateway, &upstream, "ann")).collect();
    let (mut stranger, strange) = login(&gateway, &upstream, "bob");
    let (mut anonymous, nobody) = signed_in(&gateway, &upstream);
    ask(&mut own[0].0, "X-Session-Destroy: others");
    let alive: Vec<bool> = own
        .iter_mut()
        .map(|(client, id)| lives(client, &upstream, id))
        .collect();
    assert_eq!(alive, [true, false, false, false]);
    assert!(lives(&mut stranger, &upstream, &strange) && lives(&mut anonymous, &upstream, &nobody));
}

#[test]
fn destroy_all_ends_every_session_of_the_subject() {
    let upstream = app();
    let gateway = with_more(&upstream, COOKIE, "runtime: { cores: 4 }\n");
    let mut own: Vec<(Client, String)> =
        (0..3).map(|_| login(&gateway, &upstream, "ann")).collect();
    let (mut stranger, strange) = login(&gateway, &upstream, "bob");
    let cookies: Vec<String> = own
        .iter()
        .map(|(client, _)| client_cookie(client))
        .collect();
    assert!(
        ask(&mut own[1].0, "X-Session-Destroy: all")
            .set_cookie("sid")
            .expires()
    );
    for (cookie, (_, id)) in cookies.iter().zip(&own) {
        with_cookie(&gateway, cookie);
        assert_ne!(upstream.last().get("x-session-id"), Some(id.as_str()));
    }
    assert!(lives(&mut stranger, &upstream, &strange));
}

#[test]
fn destroy_others_without_a_subject_ends_nobody() {
    let upstream = app();
    let gateway = with_session(&upstream, COOKIE);
    let (mut one, first) = signed_in(&gateway, &upstream);
    let (mut two, second) = signed_in(&gateway, &upstream);
    ask(&mut one, "X-Session-Destroy: others");
    assert!(lives(&mut one, &upstream, &first) && lives(&mut two, &upstream, &second));
}

#[test]
fn another_word_destroys_nothing() {
    let upstream = app();
    let gateway = with_session(&upstream, COOKIE);
    let (mut client, id) = signed_in(&gateway, &upstream);
    for word in ["0", "", "yes", "everyone"] {
        ask(&mut client, &format!("X-Session-Destroy: {word}"));
        assert!(lives(&mut client, &upstream, &id), "{word:?}");
    }
}

#[test]
fn after_a_logout_the_next_visit_is_a_new_session() {
    let upstream = app();
    let gateway = with_session(&upstream, COOKIE);
    let (mut client, id) = login(&gateway, &upstream, "ann");
    ask(&mut client, "X-Session-Destroy: 1");
    client.get("/").expect(200).set_cookie("sid");
    assert_ne!(sid(&upstream), id);
    assert_eq!(upstream.last().get("x-session-new"), Some("1"));
}

#[test]
fn the_subject_may_be_another_field() {
    let upstream = app();
    let gateway = with_session(&upstream, &format!("{COOKIE}subject: account\n"));
    let mut clients: Vec<(Client, String)> = (0..3)
        .map(|n| {
            let (mut client, id) = signed_in(&gateway, &upstream);
            ask(
                &mut client,
                &format!("X-Session-Authenticate: {{\"account\":\"shared\",\"userId\":\"u{n}\"}}"),
            );
            (client, id)
        })
        .collect();
    ask(&mut clients[0].0, "X-Session-Destroy: others");
    let alive: Vec<bool> = clients
        .iter_mut()
        .map(|(client, id)| lives(client, &upstream, id))
        .collect();
    assert_eq!(alive, [true, false, false]);
}
