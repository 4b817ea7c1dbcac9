//! curl, which knows beforehand that HTTP/2 is spoken.

use std::process::Command;

use crate::harness::{Gateway, Reply, Upstream, service};

const KEYS: &str = "session: { identifier: { type: cookie, name: sid } }\nrouter: { sessionAffinity: { methods: [cookie], cookie: { key: \"a key for pin cookies in these tests\" } } }\n";

/// Runs curl with HTTP/2; gives what it printed.
#[track_caller]
fn curl(gateway: &Gateway, words: &[&str]) -> String {
    let output = Command::new("curl")
        .args(["-sS", "--http2-prior-knowledge", "--max-time", "20"])
        .args(words)
        .current_dir(gateway.dir())
        .output()
        .expect("curl must be installed for this test");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

fn app(id: &'static str) -> Upstream {
    Upstream::new(id, |request| match request.head.target() {
        "/login" => Reply::ok("in").header("X-Session-Authenticate", "{\"userId\":\"u1\"}"),
        "/chunked" => Reply::chunked(["one ", "two ", "three"]),
        _ if request.body.is_empty() => Reply::ok("hello"),
        _ => Reply::ok(&request.body),
    })
}

#[test]
fn curl_keeps_its_session_and_its_upstream_over_http2() {
    let (one, two) = (app("one"), app("two"));
    let gateway = Gateway::start(&format!("{}{KEYS}", service(&[&one, &two])));
    let base = format!("http://{}", gateway.http);
    for path in ["/", "/chunked", "/login", "/x", "/y"] {
        let url = format!("{base}{path}");
        let said = curl(
            &gateway,
            &[
                "-f",
                "-c",
                "jar",
                "-b",
                "jar",
                "-w",
                " %{http_version}",
                &url,
            ],
        );
        assert!(said.ends_with(" 2"), "{said}");
    }
    let all = [one.requests(), two.requests()].concat();
    let sids: std::collections::HashSet<_> = all
        .iter()
        .map(|r| r.get("x-session-id").map(str::to_owned))
        .collect();
    assert!(all.len() == 5 && sids.len() == 1 && !sids.contains(&None));
    assert!(one.count() == 0 || two.count() == 0);
    assert!(gateway.metric("http2_streams_total", &[]) >= 5.0);
}

#[test]
fn bodies_of_known_and_of_unknown_length_come_whole_and_go_back_whole() {
    let one = app("one");
    let gateway = Gateway::start(&format!("{}{KEYS}", service(&[&one])));
    let body: Vec<u8> = (0..3_000_000u32).map(|n| ((n * 31) >> 5) as u8).collect();
    let file = gateway.file("body");
    std::fs::write(&file, &body).expect("a file");
    let url = format!("http://{}/echo", gateway.http);
    for words in [
        &["-T", "body"][..],
        &["-T", "body", "-H", "Content-Length:", "-H", "Expect:"],
        &["--data-binary", "@body", "-H", "Expect: 100-continue"],
    ] {
        let mut all = words.to_vec();
        all.extend(["-f", "-o", "back", &url]);
        curl(&gateway, &all);
        assert!(std::fs::read(gateway.file("back")).expect("a file") == body);
    }
    let framings: Vec<bool> = one
        .requests()
        .iter()
        .map(|r| r.head.has("transfer-encoding"))
        .collect();
    assert_eq!(framings, [false, true, false]);
}

#[test]
fn an_http1_request_on_the_same_port_is_one() {
    let one = app("one");
    let gateway = Gateway::start(&service(&[&one]));
    assert_eq!(gateway.get("/").expect(200).text(), "hello");
    let url = format!("http://{}/", gateway.http);
    assert_eq!(
        curl(
            &gateway,
            &["-f", "-I", "-o", "/dev/null", "-w", "%{http_code}", &url]
        ),
        "200"
    );
}
