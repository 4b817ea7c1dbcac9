//! Clients of others: httpx and h2load.

use std::process::Command;

use crate::harness::{Gateway, Reply, Upstream, service};

const SESSION: &str = "session: { identifier: { type: cookie, name: sid } }\n";

const HTTPX: &str = r#"
import os, httpx
with httpx.Client(http1=False, http2=True, base_url="http://127.0.0.1:" + os.environ["PORT"]) as client:
    first = client.get("/")
    assert first.http_version == "HTTP/2" and "sid" in client.cookies, first.headers
    before = client.cookies["sid"]
    for n in range(5):
        answer = client.get(f"/{n}")
        assert answer.text == first.text and "set-cookie" not in answer.headers, answer.headers
    assert client.get("/login").text == first.text
    assert client.cookies["sid"] != before
    assert client.get("/after").text == first.text
    # The secret of before the login is worth nothing now.
    late = httpx.Client(http1=False, http2=True, cookies={"sid": before}).get(client.base_url.join("/late"))
    assert late.text == "none" and "set-cookie" not in late.headers, late.text
    big = os.urandom(2_000_000)
    assert client.post("/echo", content=big).content == big
    assert client.post("/echo", content=iter([big[:1000], big[1000:]])).content == big
print("done")
"#;

fn app() -> Upstream {
    Upstream::new("a", |request| {
        let sid = request.get("x-session-id").unwrap_or("none").to_owned();
        match request.head.target() {
            "/echo" => Reply::ok(&request.body),
            "/login" => Reply::ok(sid).header("X-Session-Authenticate", "{\"userId\":\"u1\"}"),
            _ => Reply::ok(sid),
        }
    })
}

#[test]
fn httpx_creates_keeps_and_rotates_its_session() {
    let upstream = app();
    let gateway = Gateway::start(&format!("{}{SESSION}", service(&[&upstream])));
    let output = Command::new("python3")
        .args(["-c", HTTPX])
        .env("PORT", gateway.http.port().to_string())
        .output()
        .expect("python3");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        said.trim(),
        "done",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn h2load_gets_an_answer_to_every_request() {
    let upstream = app();
    let gateway = Gateway::start(&service(&[&upstream]));
    let output = Command::new("h2load")
        .args(["-n", "1000", "-c", "8", "-m", "10"])
        .arg(format!("http://{}/", gateway.http))
        .output()
        .expect("h2load must be installed for this test");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("1000 succeeded, 0 failed, 0 errored, 0 timeout"),
        "{said}"
    );
    assert!(said.contains("1000 2xx"), "{said}");
    gateway.expect_metric("http2_streams_total", &[], 1000.0);
    gateway.expect_metric("connections_open", &[], 0.0);
}
