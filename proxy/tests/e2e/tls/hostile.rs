//! What is no good TLS, and TLS that breaks off.

use super::*;
use crate::harness::eventually;

fn gone(gateway: &Gateway) {
    eventually("no connection is left", || {
        (gateway.metric("connections_open", &[]) < 0.1).then_some(())
    });
}

#[test]
fn plain_http_gets_a_page_and_garbage_gets_nothing() {
    let (certs, app) = (Certs::new().localhost(), echo());
    let gateway = secure(&certs, &[&app], "");
    let mut connection = gateway.connect();
    let response = connection.exchange("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(response.status(), 400);
    assert!(
        response.text().contains("this port speaks TLS"),
        "{}",
        response.text()
    );
    connection.finish();
    connection.expect_close();
    for bytes in [
        &b"\x80\x2e\x01\x00\x02"[..],
        b"\0\0\0\0",
        b"\x16\x03\x01\xff\xff\x01",
        b"\x16\x03\x01\0\x04\x02\0\0\0",
    ] {
        let mut connection = gateway.connect();
        connection.send(bytes);
        connection.finish();
        connection.drain();
    }
    drop(connection);
    gateway.expect_metric("tls_handshake_failures_total", &["plain_http"], 1.0);
    gateway.expect_metric("tls_handshake_failures_total", &["not_tls"], 2.0);
    assert_eq!(app.count(), 0);
    gone(&gateway);
}

#[test]
fn a_slow_handshake_ends_in_time() {
    let (certs, app) = (Certs::new().localhost(), echo());
    let gateway = secure(&certs, &[&app], "limits: { headerTimeout: 1s }\n");
    let mut silent = gateway.connect();
    let mut part = gateway.connect();
    part.send(b"\x16\x03\x01\x02\x00\x01");
    silent.drain();
    part.drain();
    gateway.expect_metric("tls_handshake_failures_total", &["timeout"], 2.0);
    // After the handshake a part of a record is not waited for longer either.
    python(
        "
with connect() as s:
    raw = socket.socket(fileno=os.dup(s.fileno()))
    raw.sendall(b'\\x17\\x03\\x03\\x00\\x30abc')
    s.settimeout(10)
    try:
        assert s.recv(1) == b''
    except (ssl.SSLError, ConnectionError):
        pass
",
        &gateway,
        &certs,
    );
    gone(&gateway);
}

#[test]
fn a_record_that_trickles_gains_no_time() {
    let (certs, app) = (Certs::new().localhost(), echo());
    let limits = "limits: { headerTimeout: 2s, idleTimeout: 3s }\nruntime: { cores: 1 }\n";
    let gateway = secure(&certs, &[&app], limits);
    let script = "
import threading
def trickle(asks):
    s = connect()
    if asks: get(s)
    raw = socket.socket(fileno=os.dup(s.fileno()))
    raw.settimeout(0.4)
    begun, record = time.time(), b'\\x17\\x03\\x03\\x10\\x00' + b'x' * 4096
    for i in range(40):
        try:
            raw.sendall(record[i:i + 1])
            while raw.recv(4096): pass
            break
        except TimeoutError: continue
        except OSError: break
    took[asks] = time.time() - begun
took = {}
threads = [threading.Thread(target=trickle, args=(asks,)) for asks in (False, True)]
for t in threads: t.start()
for t in threads: t.join()
assert took[False] < 6 and took[True] < 7, took
";
    python(script, &gateway, &certs);
    gateway.expect_metric("requests_refused_total", &["timeout"], 2.0);
    gone(&gateway);
}

#[test]
fn a_forged_record_ends_the_connection_with_an_alert() {
    let (certs, app) = (Certs::new().localhost(), echo());
    let gateway = secure(&certs, &[&app], "");
    let script = "
for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
    with connect(context(version, version)) as s:
        get(s)
        raw = socket.socket(fileno=os.dup(s.fileno()))
        raw.sendall(b'\\x17\\x03\\x03\\x00\\x30' + b'x' * 48)
        try:
            s.recv(1)
            raise SystemExit('no alert')
        except ssl.SSLError as e:
            assert 'BAD_RECORD_MAC' in str(e).upper(), e
";
    python(script, &gateway, &certs);
    gone(&gateway);
}

#[test]
fn a_client_that_breaks_off_within_its_body_is_gone() {
    let (certs, app) = (Certs::new().localhost(), echo());
    let gateway = secure(&certs, &[&app], "");
    let script = "
for end in ('cut', 'reset', 'half'):
    s = connect()
    s.sendall(b'POST / HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 1000000\\r\\n\\r\\n' + b'y' * 1000)
    if end == 'cut': s.shutdown(socket.SHUT_WR)
    if end == 'reset': s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\\1\\0\\0\\0\\0\\0\\0\\0')
    s.close()
with connect() as s: get(s)
";
    python(script, &gateway, &certs);
    assert_eq!(
        app.count(),
        1,
        "no broken body reached the application whole"
    );
    gone(&gateway);
}

#[test]
fn a_client_that_says_goodbye_gets_its_answer_first() {
    let (certs, app) = (Certs::new().localhost(), echo());
    let gateway = secure(&certs, &[&app], "");
    // HTTP/1.0: the end of the answer is that of the connection, and must be a good one.
    let script = "
with connect() as s:
    s.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')
    data = b''
    while True:
        more = s.recv(65536)
        if not more: break
        data += more
    assert data.startswith(b'HTTP/1.1 200'), data
with connect() as s:
    get(s)
    raw = s.unwrap()
    raw.settimeout(10)
    assert raw.recv(1) == b''
";
    python(script, &gateway, &certs);
    gone(&gateway);
}
