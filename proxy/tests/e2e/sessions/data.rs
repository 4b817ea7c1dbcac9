//! Which data may be stored, how much, and how it is shown.

use super::*;

#[test]
fn only_the_fields_of_the_list_are_stored() {
    let upstream = app();
    let keys = "data: { fields: [userId, cartId] }\nlifecycle: { creation: { defaults: { exempt: 1 } } }\n";
    let gateway = with_session(&upstream, &format!("{COOKIE}{keys}"));
    let (mut client, _) = signed_in(&gateway, &upstream);
    ask(
        &mut client,
        "X-Session-Set: {\"cartId\":\"c1\",\"evil\":1,\"userid\":2}",
    );
    client.get("/").expect(200);
    assert_eq!(
        data(&upstream),
        serde_json::json!({"cartId": "c1", "exempt": 1})
    );
    gateway.expect_at_least("session_writes_refused_total", &["field"], 2.0);
}

#[test]
fn a_write_past_the_size_is_refused_whole() {
    let upstream = app();
    let gateway = with_session(&upstream, &format!("{COOKIE}data: {{ maxSize: 1KB }}\n"));
    let (mut client, _) = signed_in(&gateway, &upstream);
    ask(
        &mut client,
        &format!("X-Session-Set: {{\"a\":\"{}\"}}", "x".repeat(700)),
    );
    ask(
        &mut client,
        &format!(
            "X-Session-Set: {{\"small\":1,\"b\":\"{}\"}}",
            "y".repeat(700)
        ),
    );
    client.get("/").expect(200);
    let kept = data(&upstream);
    assert_eq!(kept["a"].as_str().map(str::len), Some(700));
    assert!(
        kept.get("b").is_none() && kept.get("small").is_none(),
        "{kept}"
    );
    gateway.expect_at_least("session_writes_refused_total", &["size"], 1.0);
    ask(
        &mut client,
        &format!(
            "X-Session-Set: {{\"a\":null,\"b\":\"{}\"}}",
            "y".repeat(700)
        ),
    );
    client.get("/").expect(200);
    assert_eq!(
        data(&upstream)["b"].as_str().map(str::len),
        Some(700),
        "what is removed makes room"
    );
}

#[test]
fn data_over_the_header_bound_is_left_out_and_said_so() {
    let upstream = app();
    let gateway = with_session(
        &upstream,
        &format!("{COOKIE}data: {{ maxSize: 64KB }}\nforward: {{ maxHeader: 1KB }}\n"),
    );
    let (mut client, id) = signed_in(&gateway, &upstream);
    ask(
        &mut client,
        &format!("X-Session-Set: {{\"a\":\"{}\"}}", "x".repeat(2000)),
    );
    client.get("/").expect(200);
    let head = upstream.last().head;
    assert_eq!(
        (
            head.get("x-session-id"),
            head.has("x-session-data"),
            head.get("x-session-data-omitted")
        ),
        (Some(id.as_str()), false, Some("size"))
    );
    gateway.expect_at_least("session_data_omitted_total", &[], 1.0);
    ask(&mut client, "X-Session-Set: {\"a\":\"short\"}");
    client.get("/").expect(200);
    assert_eq!(
        (
            data(&upstream)["a"].as_str(),
            upstream.last().get("x-session-data-omitted")
        ),
        (Some("short"), None)
    );
}

#[test]
fn the_data_header_is_ascii_whatever_was_stored() {
    let upstream = app();
    let gateway = with_session(&upstream, COOKIE);
    let (mut client, _) = signed_in(&gateway, &upstream);
    let value = "é \u{4e2d} \u{1f600} \" \\ \u{7f} \n \t /";
    // DEL must be escaped on the way: a raw one is refused as a control byte.
    let json = serde_json::json!({ "v": value })
        .to_string()
        .replace('\u{7f}', "\\u007f");
    let wire: String = json.bytes().map(char::from).collect();
    ask(&mut client, &format!("X-Session-Set: {wire}"));
    client.get("/").expect(200);
    let text = upstream
        .last()
        .get("x-session-data")
        .expect("data")
        .to_owned();
    assert!(text.bytes().all(|b| (0x20..0x7f).contains(&b)), "{text:?}");
    assert_eq!(data(&upstream)["v"], value);
}

#[test]
fn hostile_values_cannot_leave_their_header() {
    let upstream = app();
    let gateway = with_session(&upstream, COOKIE);
    let (mut client, _) = signed_in(&gateway, &upstream);
    ask(
        &mut client,
        "X-Session-Set: {\"a\":\"x\\r\\nX-Evil: 1\",\"b\\r\\nc\":\"\\u0000\",\"\":1}",
    );
    client.get("/").expect(200);
    assert!(
        !upstream.last().head.has("x-evil"),
        "{:?}",
        upstream.last().head
    );
    assert_eq!(data(&upstream)["a"], "x\r\nX-Evil: 1");
    assert_eq!(upstream.faults(), Vec::<String>::new());
}

#[test]
fn numbers_keep_their_meaning() {
    let upstream = app();
    let gateway = with_session(&upstream, COOKIE);
    let (mut client, _) = signed_in(&gateway, &upstream);
    ask(
        &mut client,
        "X-Session-Set: {\"big\":9007199254740993,\"neg\":-5,\"frac\":0.1,\"zero\":0,\"exp\":1e3}",
    );
    client.get("/").expect(200);
    let stored = data(&upstream);
    assert_eq!(
        (
            stored["big"].as_u64(),
            stored["neg"].as_i64(),
            stored["frac"].as_f64()
        ),
        (Some(9_007_199_254_740_993), Some(-5), Some(0.1))
    );
    assert_eq!(
        (stored["zero"].as_f64(), stored["exp"].as_f64()),
        (Some(0.0), Some(1000.0))
    );
}

#[test]
fn many_writers_of_one_session_lose_no_field() {
    let upstream = app();
    let gateway = with_more(&upstream, COOKIE, "runtime: { cores: 8 }\n");
    let (mut client, _) = signed_in(&gateway, &upstream);
    std::thread::scope(|scope| {
        for n in 0..8 {
            let mut tab = client.tab();
            scope.spawn(move || {
                for i in 0..10 {
                    ask(&mut tab, &format!("X-Session-Set: {{\"w{n}x{i}\":{i}}}"));
                    tab.disconnect();
                }
            });
        }
    });
    client.get("/").expect(200);
    assert_eq!(
        data(&upstream).as_object().map(serde_json::Map::len),
        Some(80)
    );
}
