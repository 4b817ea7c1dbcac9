//! Which certificate a client gets, and which one it must show.

use super::*;
use crate::harness::PATIENCE;

/// The subject that a client with these words of s_client is shown.
fn shown(words: &str, gateway: &Gateway, certs: &Certs) -> String {
    let script = format!(
        "openssl s_client -connect 127.0.0.1:$PORT {words} </dev/null 2>/dev/null | openssl x509 -noout -subject"
    );
    shell(&script, gateway, certs).trim().to_owned()
}

#[test]
fn a_certificate_is_chosen_by_name_and_by_kind() {
    let (certs, app) = (Certs::new(), echo());
    for (name, kind, names) in [
        ("first", "ec", "DNS:first.test"),
        ("rsa", "rsa", "DNS:first.test,DNS:only-rsa.test"),
        ("wild", "ec", "DNS:*.wild.test"),
        ("exact", "ec", "DNS:exact.wild.test"),
    ] {
        certs.issue(name, "ca", kind, names, &format!("/CN={name}"));
    }
    let list = ["first", "rsa", "wild", "exact"].map(|name| certs.block(name, ""));
    let body = format!(
        "{}{}",
        listeners(&format!("[{}]", list.join(", "))),
        service(&[&app])
    );
    let gateway = Gateway::start(&body);
    let rsa = "-tls1_2 -cipher ECDHE-RSA-AES128-GCM-SHA256";
    let rsa13 = "-tls1_3 -sigalgs rsa_pss_rsae_sha256";
    for (words, expected) in [
        ("-servername first.test", "first"),
        ("-servername FIRST.test", "first"),
        (&format!("-servername first.test {rsa}"), "rsa"),
        (&format!("-servername first.test {rsa13}"), "rsa"),
        ("-servername only-rsa.test", "rsa"),
        ("-servername exact.wild.test", "exact"),
        ("-servername other.wild.test", "wild"),
        ("-servername a.b.wild.test", "first"),
        ("-servername wild.test", "first"),
        ("-servername unknown.test", "first"),
        ("-noservername", "first"),
        (&format!("-noservername {rsa}"), "rsa"),
        (&format!("-servername exact.wild.test {rsa}"), "rsa"),
    ] {
        let subject = shown(words, &gateway, &certs);
        assert!(
            subject.ends_with(&format!("CN = {expected}")),
            "{words}: {subject}"
        );
    }
}

#[test]
fn clients_must_show_a_certificate_whose_subject_goes_upstream() {
    let (certs, app) = (Certs::new().localhost(), echo());
    certs.authority("clients");
    certs.authority("others");
    certs.issue("good", "clients", "ec", "", "/C=AT/O=A, Company/CN=Zoë #1");
    certs.issue("bad", "others", "ec", "", "/CN=stranger");
    let ca = format!(", clientCa: \"{}\"", certs.path("clients.pem").display());
    let body = |more: &str| {
        format!(
            "{}{}",
            listeners(&certs.block("server", &format!("{ca}{more}"))),
            service(&[&app])
        )
    };
    let gateway = Gateway::start(&body(", minVersion: \"1.3\""));
    let curl = "curl -sSf --cacert ca.pem";
    let forged = "-H 'X-Client-Cert-Subject: CN=admin' -H 'X_Client_Cert_Subject: CN=admin'";
    shell(
        &format!(
            "! {curl} $BASE/\n! {curl} --cert bad.pem --key bad.key $BASE/\n! {curl} --tls-max 1.2 $BASE/\n\
             {curl} {forged} --cert good.pem --key good.key $BASE/\n"
        ),
        &gateway,
        &certs,
    );
    assert_eq!(app.count(), 1);
    let subject = shell(
        "openssl x509 -in good.pem -noout -subject -nameopt RFC2253",
        &gateway,
        &certs,
    );
    let seen = app.last();
    let all = seen.head.all("x-client-cert-subject");
    assert_eq!(all, [subject.trim().trim_start_matches("subject=")]);
    assert!(!seen.head.has("x_client_cert_subject"));
    gateway.expect_metric("tls_handshake_failures_total", &["certificate"], 2.0);
    let gateway = gateway.replace(&body(", clientAuth: optional"));
    shell(
        &format!("{curl} {forged} $BASE/\n! {curl} --cert bad.pem --key bad.key $BASE/\n"),
        &gateway,
        &certs,
    );
    assert!(!app.last().head.has("x-client-cert-subject"));
}

#[test]
fn hsts_and_ocsp_go_along() {
    let certs = Certs::new().localhost();
    let app = Upstream::new("app", |request| match request.head.target() {
        "/own" => Reply::ok("x").header("Strict-Transport-Security", "max-age=1"),
        _ => Reply::ok("x"),
    });
    std::fs::write(certs.path("staple"), b"not DER, but what the file holds").unwrap();
    let more = format!(", hsts: 1d, ocsp: \"{}\"", certs.path("staple").display());
    let body = format!(
        "{}{}",
        listeners(&certs.block("server", &more)),
        service(&[&app])
    );
    let gateway = Gateway::start(&body);
    let text = shell(
        "for p in / /own /%2F; do curl -sS --cacert ca.pem -D - -o /dev/null $BASE$p; done",
        &gateway,
        &certs,
    )
    .to_lowercase();
    assert_eq!(
        text.matches("strict-transport-security: max-age=86400")
            .count(),
        2,
        "{text}"
    );
    assert_eq!(
        text.matches("strict-transport-security: max-age=1\r")
            .count(),
        1,
        "{text}"
    );
    let text = shell(
        "openssl s_client -connect localhost:$PORT -status </dev/null 2>&1 || true",
        &gateway,
        &certs,
    );
    assert!(text.contains("not DER, but wha"), "{text}");
}

#[test]
fn files_that_do_not_fit_are_named() {
    let (certs, app) = (Certs::new().localhost(), echo());
    certs.issue("other", "ca", "ec", "DNS:other", "/CN=other");
    let path = |name: &str| certs.path(name).display().to_string();
    let tls = format!(
        "{{ certificate: \"{}\", key: \"{}\" }}",
        path("server.pem"),
        path("other.key")
    );
    for (tls, expected) in [
        (
            tls,
            format!(
                "gateway.listeners[0].tls.key: {}: does not belong to the certificate in {}",
                path("other.key"),
                path("server.pem")
            ),
        ),
        (
            format!(
                "[{}, {{ certificate: \"{}\", key: \"{}\" }}]",
                certs.block("server", ""),
                path("gone.pem"),
                path("server.key")
            ),
            format!(
                "gateway.listeners[0].tls[1].certificate: {}: cannot be read",
                path("gone.pem")
            ),
        ),
        (
            format!(
                "{{ certificate: \"{}\", key: \"{}\" }}",
                path("server.key"),
                path("server.key")
            ),
            format!(
                "gateway.listeners[0].tls.certificate: {}: holds no certificate",
                path("server.key")
            ),
        ),
        (
            format!(
                "{{ certificate: \"{}\", key: \"{}\" }}",
                path("server.pem"),
                path("server.pem")
            ),
            format!(
                "gateway.listeners[0].tls.key: {}: holds no private key",
                path("server.pem")
            ),
        ),
    ] {
        let body = format!("{}{}", listeners(&tls), service(&[&app]));
        let said = Launch::new(&body).check();
        assert_eq!(said.code, 2, "{}", said.all());
        assert!(
            said.stderr.contains(&expected),
            "{expected} in {}",
            said.all()
        );
        let Err(said) = Launch::new(&body).try_start() else {
            panic!("it started");
        };
        assert!(
            said.stderr.contains(&expected),
            "{expected} in {}",
            said.all()
        );
    }
}

#[test]
fn a_reload_takes_a_new_certificate_and_keeps_connections() {
    let (certs, app) = (Certs::new().localhost(), echo());
    let gateway = secure(&certs, &[&app], "");
    assert!(shown("", &gateway, &certs).ends_with("CN = localhost"));
    let script = "
import signal
s = connect()
get(s)
print('ready', flush=True)
";
    python(script, &gateway, &certs);
    certs.issue(
        "server",
        "ca",
        "ec",
        "DNS:localhost,IP:127.0.0.1",
        "/CN=renewed",
    );
    gateway.signal("HUP");
    let deadline = std::time::Instant::now() + PATIENCE;
    while !shown("", &gateway, &certs).ends_with("CN = renewed") {
        assert!(
            std::time::Instant::now() < deadline,
            "the old certificate is shown"
        );
    }
}

/// Runs a script that has `reload()`.
fn reloading(script: &str, gateway: &Gateway, certs: &Certs) {
    let reload = format!(
        "
import urllib.request
def reload():
    r = urllib.request.Request('http://{}/api/reload', b'', {{'Content-Type': 'application/json'}})
    urllib.request.urlopen(r, timeout=15).read()
",
        gateway.admin
    );
    python(&format!("{reload}{script}"), gateway, certs);
}

/// Asks before and after a reload over one HTTP/2 connection; the second answer is 421, then GOAWAY.
const ASK_TWICE: &str = "
import hpack, struct
c.set_alpn_protocols(['h2'])
encoder, decoder = hpack.Encoder(), hpack.Decoder()
def frame(kind, flags, stream, payload):
    return struct.pack('>I', len(payload))[1:] + bytes([kind, flags]) + struct.pack('>I', stream) + payload
def frames(s):
    data = b''
    while True:
        while len(data) < 9 or len(data) < 9 + int.from_bytes(data[:3], 'big'):
            more = s.recv(65536)
            assert more, 'ended early'
            data += more
        n = 9 + int.from_bytes(data[:3], 'big')
        yield data[3], int.from_bytes(data[5:9], 'big'), data[9:n]
        data = data[n:]
with connect(c) as s:
    s.sendall(b'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n' + frame(4, 0, 0, b''))
    coming, goaway = frames(s), False
    def ask(stream):
        global goaway
        head = [(':method', 'GET'), (':path', '/'), (':scheme', 'https'), (':authority', 'localhost')]
        s.sendall(frame(1, 5, stream, encoder.encode(head)))
        for kind, at, payload in coming:
            goaway = goaway or kind == 7
            if kind == 1 and at == stream:
                return dict(decoder.decode(payload))[':status']
    assert ask(1) == '200'
    reload()
    assert ask(3) == '421'
    while not goaway:
        goaway = next(coming)[0] == 7
";

#[test]
fn connections_that_there_are_must_meet_new_rules_on_client_certificates() {
    let (certs, app) = (Certs::new().localhost(), echo());
    certs.authority("clients");
    certs.authority("others");
    certs.issue("good", "clients", "ec", "", "/CN=good");
    let body = |more: &str| {
        format!(
            "{}{}",
            listeners(&certs.block("server", more)),
            service(&[&app])
        )
    };
    let ca = |name: &str| {
        format!(
            ", clientCa: \"{}\"",
            certs.path(&format!("{name}.pem")).display()
        )
    };
    let load = "c = context()\nc.load_cert_chain('good.pem', 'good.key')\n";
    let cases = [
        (String::new(), ca("clients"), false),
        (ca("clients"), ca("others"), false),
        (ca("clients"), String::new(), false),
        (
            ca("clients") + ", clientAuth: optional",
            ca("clients"),
            false,
        ),
        (ca("clients"), ca("clients") + ", hsts: 1d", true),
    ];
    for (before, after, kept) in cases {
        let mut gateway = Gateway::start(&body(&before));
        gateway.rewrite(&body(&after));
        let script = format!(
            "{load}
kept = {}
with connect(c) as s, connect(c) as fresh:
    get(s)
    reload()
    for one in (s, fresh):
        head, _ = get(one)
        assert (' 421 ' not in head) == kept, head
        assert ('onnection: close' not in head) == kept, head
        if not kept: assert one.recv(1) == b''
",
            if kept { "True" } else { "False" }
        );
        reloading(&script, &gateway, &certs);
        let refused = if kept { 0.0 } else { 2.0 };
        gateway.expect_metric("requests_refused_total", &["client_certificate"], refused);
        if !kept {
            gateway = gateway.replace(&body(&before));
            gateway.rewrite(&body(&after));
            reloading(&format!("{load}{ASK_TWICE}"), &gateway, &certs);
        }
    }
}

#[test]
fn sessions_resume_across_a_reload_that_changes_no_certificate() {
    let (certs, app) = (Certs::new().localhost(), echo());
    certs.authority("clients");
    certs.issue("good", "clients", "ec", "", "/CN=good");
    certs.issue("other", "ca", "ec", "DNS:localhost", "/CN=other");
    let body = |name: &str, more: &str, headers: u32| {
        format!(
            "{}{}limits: {{ headers: {headers} }}\n",
            listeners(&certs.block(name, more)),
            service(&[&app])
        )
    };
    let ca = format!(", clientCa: \"{}\"", certs.path("clients.pem").display());
    let optional = format!("{ca}, clientAuth: optional");
    for (before, (name, after), resumes) in [
        ("", ("server", ""), true),
        (&*ca, ("server", &*ca), true),
        (&*optional, ("server", &*ca), false),
        ("", ("other", ""), false),
    ] {
        let gateway = Gateway::start(&body("server", before, 77));
        gateway.rewrite(&body(name, after, 78));
        let script = format!(
            "
versions = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
contexts = [context(version, version) for version in versions]
sessions = []
for c in contexts:
    c.load_cert_chain('good.pem', 'good.key')
    with connect(c) as s:
        get(s)
        sessions.append(s.session)
reload()
for c, session in zip(contexts, sessions):
    with connect(c, session=session) as s:
        get(s)
        assert s.session_reused == {}, c.minimum_version
",
            if resumes { "True" } else { "False" }
        );
        reloading(&script, &gateway, &certs);
    }
}
