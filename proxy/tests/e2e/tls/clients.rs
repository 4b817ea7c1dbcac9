//! What clients get over TLS.

use super::*;
use crate::harness::websocket::{accept_for, frame};
use crate::harness::{Launch, eventually};

#[test]
fn curl_is_served_by_each_version_and_protocol() {
    let (certs, app) = (Certs::new().localhost(), echo());
    let gateway = secure(&certs, &[&app], "accessLog: { path: stdout }\n");
    for words in [
        "--http1.1 --tlsv1.3",
        "--http1.1 --tlsv1.2 --tls-max 1.2",
        "--http2 --tlsv1.3",
    ] {
        let script = format!("curl -sSf --cacert ca.pem {words} $BASE/a $BASE/b");
        shell(&script, &gateway, &certs);
        assert_eq!(
            app.last().get("x-forwarded-proto"),
            Some("https"),
            "{words}"
        );
    }
    assert_eq!(app.count(), 6);
    gateway.expect_metric("tls_handshakes_total", &["full"], 3.0);
    let line = gateway
        .stdout
        .wait(|l| l.contains("TLSv1.2").then(|| l.to_owned()))
        .expect("a line of the log");
    assert!(
        line.contains("\"tlsName\":\"localhost\"") && line.contains("ECDSA_WITH_AES"),
        "{line}"
    );
}

#[test]
fn sessions_get_secure_cookies_over_tls() {
    let (certs, app) = (Certs::new().localhost(), echo());
    let more = "session: { identifier: { type: cookie, name: sid } }\n";
    let gateway = secure(&certs, &[&app], more);
    let text = shell(
        "curl -sSf --cacert ca.pem -c jar -b jar -D - -o /dev/null $BASE/ $BASE/ --cacert ca.pem",
        &gateway,
        &certs,
    );
    assert!(text.to_lowercase().contains("; secure"), "{text}");
    let sids: Vec<_> = app
        .requests()
        .iter()
        .map(|r| r.get("x-session-id").map(str::to_owned))
        .collect();
    assert!(sids[0].is_some() && sids[0] == sids[1], "{sids:?}");
}

#[test]
fn bodies_of_ten_megabytes_go_both_ways() {
    let (certs, app) = (Certs::new().localhost(), echo());
    let gateway = secure(&certs, &[&app], "limits: { bodyBytes: 0 }\n");
    let script = "head -c 10485760 /dev/urandom > sent\n\
        for v in '--tlsv1.3 --http1.1' '--tlsv1.2 --tls-max 1.2 --http1.1' '--http2'; do\n\
        curl -sSf --cacert ca.pem $v -H 'Content-Type: x/y' -T sent $BASE/ -o got\n\
        cmp sent got\n\
        curl -sSf --cacert ca.pem $v -H 'Transfer-Encoding: chunked' -T - $BASE/ -o got < sent\n\
        cmp sent got\ndone\n";
    shell(script, &gateway, &certs);
    assert_eq!(app.count(), 6);
}

#[test]
fn tickets_resume_sessions_on_every_core() {
    let (certs, app) = (Certs::new().localhost(), echo());
    let gateway = secure(&certs, &[&app], "runtime: { cores: 2 }\n");
    let script = "
for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
    c = context(version, version)
    with connect(c) as s:
        get(s)
        session = s.session
        assert not s.session_reused
    for i in range(12):
        with connect(c, session=session) as s:
            get(s)
            assert s.session_reused, (version, i)
";
    python(script, &gateway, &certs);
    gateway.expect_metric("tls_handshakes_total", &["full"], 2.0);
    gateway.expect_metric("tls_handshakes_total", &["resumed"], 24.0);
}

#[test]
fn a_parked_connection_wakes_and_ends_with_a_word() {
    let (certs, app) = (Certs::new().localhost(), echo());
    let gateway = secure(&certs, &[&app], "limits: { idleTimeout: 6s }\n");
    let admin = gateway.admin.port();
    let script = format!(
        "
import urllib.request
def parked():
    text = urllib.request.urlopen('http://127.0.0.1:{admin}/metrics').read().decode()
    return sum(float(l.split()[-1]) for l in text.splitlines() if l.startswith('gateway_connections_parked'))
def wait():
    end = time.monotonic() + 15
    while parked() < 2:
        assert time.monotonic() < end
all = [connect(context(v, v)) for v in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)]
for round in range(2):
    for s in all: get(s)
    wait()
for s in all:
    # recv gives b'' only after close_notify.
    assert s.recv(1) == b''
"
    );
    python(&script, &gateway, &certs);
    assert_eq!(app.count(), 4);
}

#[test]
fn pipelined_requests_and_small_records_are_read() {
    let (certs, app) = (Certs::new().localhost(), echo());
    let gateway = secure(&certs, &[&app], "");
    let script = "
with connect() as s:
    s.sendall(b'GET /1 HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n' * 3)
    carry = b''
    seen = 0
    while seen < 3:
        carry += s.recv(10)
        seen = carry.count(b'HTTP/1.1 200')
with connect() as s:
    for byte in b'GET /2 HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n':
        s.sendall(bytes([byte]))
    response(s)
";
    python(script, &gateway, &certs);
    assert_eq!(app.count(), 4);
}

#[test]
fn key_updates_go_on_in_both_directions() {
    let (certs, app) = (Certs::new().localhost(), echo());
    let gateway = secure(&certs, &[&app], "");
    // `K` asks for an update of ours too, `k` does not; each line is a command or data.
    let script = "(printf 'GET /1 HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'; sleep 1; echo K; sleep 1; \
        printf 'GET /2 HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'; sleep 1; echo k; sleep 1; \
        printf 'GET /3 HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n'; sleep 3) \
        | openssl s_client -connect localhost:$PORT -CAfile ca.pem -tls1_3 2>&1 || true\n";
    let text = shell(script, &gateway, &certs);
    assert_eq!(text.matches("HTTP/1.1 200").count(), 3, "{text}");
    assert!(text.contains("KEYUPDATE"), "{text}");
}

#[test]
fn a_websocket_goes_through_tls() {
    let certs = Certs::new().localhost();
    let app = Upstream::raw("app", |link| {
        let Some(request) = link.request() else {
            return;
        };
        let key = request
            .get("sec-websocket-key")
            .unwrap_or_default()
            .to_owned();
        link.send(format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n\r\n",
            accept_for(&key)
        ));
        link.send(frame(1, b"hello", false));
        let mut seen = 0;
        while link.wire.fill().is_ok_and(|n| n > 0) {
            let fresh = link.wire.pending()[seen..].to_vec();
            seen += fresh.len();
            link.send(fresh);
        }
    });
    let gateway = secure(&certs, &[&app], "");
    let script = "
with connect() as s:
    s.sendall(b'GET /ws HTTP/1.1\\r\\nHost: localhost\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\nSec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\n\\r\\n')
    data = b''
    while b'hello' not in data:
        more = s.recv(65536); assert more; data += more
    assert data.startswith(b'HTTP/1.1 101'), data
    payload = os.urandom(200000)
    import threading
    t = threading.Thread(target=s.sendall, args=(payload,)); t.start()
    got = b''
    while len(got) < len(payload):
        more = s.recv(65536); assert more; got += more
    t.join()
    assert got == payload
";
    python(script, &gateway, &certs);
}

#[test]
fn connections_move_home_with_their_tls() {
    let (certs, app) = (Certs::new().localhost(), echo());
    let more = "session: { identifier: { type: cookie, name: sid } }\nruntime: { cores: 4 }\n";
    let body = format!(
        "{}{}{more}",
        listeners(&certs.block("server", "")),
        service(&[&app])
    );
    let gateway = Launch::new(&body).start();
    let script = "
for i in range(12):
    with connect() as s:
        head, _ = get(s)
        cookie = [l for l in head.split('\\r\\n') if l.lower().startswith('set-cookie: sid=')][0].split(': ')[1].split(';')[0]
    with connect() as s:
        for n in range(3): get(s, '/%d' % n, 'Cookie: %s\\r\\n' % cookie)
";
    python(script, &gateway, &certs);
    assert_eq!(app.count(), 48);
    gateway.expect_at_least("connections_moved_total", &[], 1.0);
    assert!(
        app.requests()
            .iter()
            .all(|r| r.get("x-session-id").is_some())
    );
    eventually("no connection is left", || {
        (gateway.metric("connections_open", &[]) < 0.1).then_some(())
    });
}

#[test]
fn a_connection_that_is_opened_for_http2_and_never_used_is_no_malformed_request() {
    let (certs, app) = (Certs::new().localhost(), echo());
    let gateway = secure(&certs, &[&app], "limits: { headerTimeout: 1s }\n");
    let malformed = || gateway.metric("requests_refused_total", &["malformed"]);
    let open = |before: &str, after: &str| {
        let script = format!(
            "{before} openssl s_client -quiet -no_ign_eof -alpn h2 -connect localhost:$PORT -CAfile ca.pem {after} 2>&1 || true\n"
        );
        shell(&script, &gateway, &certs);
    };
    // It closes at once, or says nothing for too long (an input that never ends).
    open("", "</dev/null");
    open("mkfifo silence;", "<>silence");
    gateway.expect_metric("http2_connections_total", &[], 2.0);
    gateway.expect_metric("connections_open", &[], 0.0);
    assert_eq!(malformed(), 0.0);
    open("printf 'GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n' |", "");
    gateway.expect_metric("requests_refused_total", &["malformed"], 1.0);
    gateway.expect_metric("connections_open", &[], 0.0);
    assert_eq!(
        gateway.metric("requests_refused_total", &["timeout"]),
        0.0,
        "nothing came that could be late"
    );
}
