//! TLS towards upstreams: a second gateway, or a script, ends it.

use super::*;
use crate::harness::eventually;

/// A gateway whose upstream is `inner`'s TLS port.
fn outer(inner: &Gateway, tls: &str, more: &str) -> Gateway {
    Gateway::start(&format!(
        "services:\n  - name: app\n    upstreams: [{{ id: inner, address: \"localhost:{}\" }}]\n    tls: {tls}\n{}",
        inner.http.port(),
        crate::harness::indent(more, 4)
    ))
}

fn ca(certs: &Certs, more: &str) -> String {
    format!("{{ ca: \"{}\"{more} }}", certs.path("ca.pem").display())
}

#[test]
fn upstreams_are_verified_reused_and_checked() {
    let (certs, app) = (Certs::new().localhost(), echo());
    let inner = secure(&certs, &[&app], "");
    let gateway = outer(
        &inner,
        &ca(&certs, ""),
        "healthCheck: { path: /healthz, interval: 1s }\n",
    );
    let mut client = gateway.client();
    for _ in 0..5 {
        client.get("/").expect(200);
    }
    gateway.expect_metric("upstream_connects_total", &[], 1.0);
    gateway.expect_metric("upstream_reuses_total", &[], 4.0);
    eventually("a health check over TLS", || {
        app.requests()
            .iter()
            .any(|r| r.head.target() == "/healthz")
            .then_some(())
    });
    let body = vec![b'z'; 10 << 20];
    let response = client
        .request("POST", "/big")
        .body(&body)
        .send()
        .expect(200);
    assert!(response.body == body);
}

#[test]
fn a_new_connection_resumes_the_session_of_an_earlier_one() {
    let (certs, app) = (Certs::new().localhost(), echo());
    let inner = secure(&certs, &[&app], "");
    let gateway = outer(
        &inner,
        &ca(&certs, ""),
        "connections: { maxIdlePerCore: 0 }\n",
    );
    for _ in 0..3 {
        gateway.get("/").expect(200);
    }
    inner.expect_at_least("tls_handshakes_total", &["resumed"], 1.0);
    gateway.expect_at_least("upstream_tls_resumed_total", &[], 1.0);
}

#[test]
fn who_cannot_be_verified_is_not_spoken_to() {
    let (certs, app) = (Certs::new().localhost(), echo());
    certs.authority("foreign");
    let inner = secure(&certs, &[&app], "");
    let foreign = format!("{{ ca: \"{}\" }}", certs.path("foreign.pem").display());
    for tls in [
        foreign,
        "{}".to_owned(),
        ca(&certs, ", serverName: other.test"),
    ] {
        let gateway = outer(&inner, &tls, "");
        let response = gateway.get("/").expect(502);
        assert!(
            response.text().contains("TLS handshake"),
            "{}",
            response.text()
        );
        gateway.expect_at_least("upstream_errors_total", &["tls"], 1.0);
    }
    let plain = outer(&app_gateway(&app), &ca(&certs, ""), "");
    plain.get("/").expect(502);
    assert_eq!(app.count(), 0);
}

/// A gateway that speaks plain HTTP.
fn app_gateway(app: &Upstream) -> Gateway {
    Gateway::start(&service(&[app]))
}

#[test]
fn the_gateway_shows_its_own_certificate() {
    let (certs, app) = (Certs::new().localhost(), echo());
    certs.issue("us", "ca", "ec", "", "/CN=gateway");
    let client_ca = format!(", clientCa: \"{}\"", certs.path("ca.pem").display());
    let body = format!(
        "{}{}",
        listeners(&certs.block("server", &client_ca)),
        service(&[&app])
    );
    let inner = Gateway::start(&body);
    let ours = format!(
        ", certificate: \"{}\", key: \"{}\"",
        certs.path("us.pem").display(),
        certs.path("us.key").display()
    );
    outer(&inner, &ca(&certs, &ours), "").get("/").expect(200);
    assert_eq!(app.last().get("x-client-cert-subject"), Some("CN=gateway"));
    outer(&inner, &ca(&certs, ""), "").get("/").expect(502);
}

#[test]
fn a_body_that_ends_without_a_goodbye_was_cut() {
    let certs = Certs::new().localhost();
    let script = "
import socket, ssl, sys
c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
c.load_cert_chain('server.pem', 'server.key')
l = socket.create_server(('127.0.0.1', 0))
print(l.getsockname()[1], flush=True)
while True:
    raw, _ = l.accept()
    try:
        s = c.wrap_socket(raw, server_side=True)
        head = s.recv(65536)
        s.sendall(b'HTTP/1.1 200 OK\\r\\nConnection: close\\r\\n\\r\\npart of it')
        if b'/whole' in head: s.unwrap()
        else: s.shutdown(socket.SHUT_WR)
        s.close()
    except OSError: pass
";
    let mut server = Command::new("python3")
        .args(["-c", script])
        .current_dir(certs.path(""))
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    let lines = crate::harness::gateway::Lines::follow(server.stdout.take().expect("stdout"));
    let port: u16 = lines.wait(|l| l.trim().parse().ok()).expect("a port");
    let gateway = Gateway::start(&format!(
        "services:\n  - name: app\n    upstreams: [{{ id: a, address: \"localhost:{port}\" }}]\n    tls: {}\n",
        ca(&certs, "")
    ));
    let whole = gateway.get("/whole").expect(200);
    assert_eq!(whole.text(), "part of it");
    let mut connection = gateway.connect();
    connection.send("GET /cut HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(
        connection.try_response("GET").is_err(),
        "the cut body looks whole"
    );
    gateway.expect_metric("upstream_errors_total", &["truncated"], 1.0);
    drop(server.kill());
    drop(server.wait());
}
