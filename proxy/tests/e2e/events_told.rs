//! Every kind of event with its reasons; the webhook against a receiver that is not ours.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::harness::{Client, Gateway, Launch, Lines, Upstream, ask, eventually, service};
use crate::tls::Certs;

#[track_caller]
fn login(gateway: &Gateway, user: &str) -> Client {
    let mut client = gateway.client();
    client.get("/").expect(200);
    ask(
        &mut client,
        &format!("X-Session-Authenticate: {{\"userId\":\"{user}\"}}"),
    );
    client
}

/// What a receiver has got: type, and reason or state, of each event.
fn told(receiver: &Upstream) -> BTreeSet<(String, String)> {
    let mut all = BTreeSet::new();
    for request in receiver.requests() {
        let events: Vec<Value> = serde_json::from_slice(&request.body).expect("JSON");
        for event in events {
            let data = &event["data"];
            let word = data["reason"].as_str().or(data["state"].as_str());
            all.insert((
                event["type"].as_str().expect("a type").to_owned(),
                word.unwrap_or_default().to_owned(),
            ));
        }
    }
    all
}

#[track_caller]
fn expect_told(receiver: &Upstream, expected: &[(&str, &str)]) {
    for (kind, word) in expected {
        let wanted = ((*kind).to_owned(), (*word).to_owned());
        eventually(&format!("{kind} {word:?}"), || {
            told(receiver).contains(&wanted).then_some(())
        });
    }
    let expected: BTreeSet<_> = expected
        .iter()
        .map(|(kind, word)| ((*kind).to_owned(), (*word).to_owned()))
        .collect();
    assert_eq!(told(receiver), expected, "and nothing else");
}

fn start(upstreams: &[&Upstream], receiver: &Upstream, session: &str) -> Gateway {
    Gateway::start(&format!(
        "{}session:\n  identifier: {{ type: cookie, name: sid }}\n  \
         events: {{ handlers: {{ webhook: {{ url: \"http://{}/\" }} }} }}\n{session}\
         router: {{ sessionAffinity: {{ methods: [cookie] }} }}\nruntime: {{ cores: 1 }}\n",
        service(upstreams),
        receiver.address()
    ))
}

#[test]
fn every_kind_of_event_is_told_with_its_reasons() {
    let (a, b) = (Upstream::obedient("a"), Upstream::obedient("b"));
    let receiver = Upstream::named("receiver");
    let gateway = start(
        &[&a, &b],
        &receiver,
        "  data: { index: [userId] }\n  lifecycle: { creation: { limit: 0 } }\n  \
         storage: { memory: { maxSessions: 8 } }\n  \
         security: { validation: { checkUserAgent: true } }\n",
    );
    // Created, logged in, its secret replaced; the one of before is suspicious then.
    let mut client = gateway.client();
    client.get("/").expect(200);
    let before = client.jar.header().expect("cookies");
    ask(&mut client, "X-Session-Authenticate: {\"userId\":\"u1\"}");
    client
        .request("GET", "/")
        .bare()
        .header("Cookie", before)
        .send()
        .expect(200);
    // Its pin is broken, and another made.
    let home = a.count() > b.count();
    gateway.set_state(if home { "a" } else { "b" }, "down");
    client.get("/").expect(200);
    gateway.set_state(if home { "a" } else { "b" }, "ready");
    // Ended with its subject, by the application, by the administrator, by its timeout.
    let mut other = login(&gateway, "u1");
    ask(&mut other, "X-Session-Destroy: others");
    ask(&mut other, "X-Session-Destroy: 1");
    drop(login(&gateway, "u2"));
    gateway.api("DELETE", "/api/sessions?userId=u2").expect(200);
    let mut short = login(&gateway, "u3");
    ask(&mut short, "X-Session-Timeout: 1s");
    expect_told_of(&receiver, "sessionExpired", || {
        let token = short.jar.header().expect("a cookie");
        gateway
            .client()
            .request("GET", "/")
            .header("Sec-Purpose", "prefetch")
            .header("Cookie", token)
            .send()
            .expect(200);
        // Each look is a sign of life: the next comes after the idle time.
        std::thread::park_timeout(std::time::Duration::from_millis(1500));
    });
    // One of another browser, and more than there is room for.
    let mut chrome = gateway.client();
    let agent = |major: u32| format!("Mozilla/5.0 (X11; Linux x86_64) Chrome/{major}.0.0.0");
    for major in [131, 131, 90] {
        let request = chrome
            .request("GET", "/")
            .header("User-Agent", agent(major));
        request.send().expect(200);
    }
    for _ in 0..12 {
        gateway.get("/").expect(200);
    }
    expect_told(
        &receiver,
        &[
            ("sessionCreated", ""),
            ("sessionAuthenticated", ""),
            ("sessionRotated", "authentication"),
            ("sessionHijackSuspected", "retired"),
            ("sessionValidationFailed", "userAgent"),
            ("sessionDestroyed", "subject"),
            ("sessionDestroyed", "upstream"),
            ("sessionDestroyed", "admin"),
            ("sessionExpired", "timeout"),
            ("sessionEvicted", "full"),
            ("affinityEstablished", ""),
            ("affinityBroken", "down"),
            ("upstreamStateChanged", "down"),
            ("upstreamStateChanged", "ready"),
        ],
    );
}

/// Does something until an event of a kind was told.
#[track_caller]
fn expect_told_of(receiver: &Upstream, kind: &str, mut act: impl FnMut()) {
    eventually(kind, || {
        act();
        told(receiver)
            .iter()
            .any(|(told, _)| told == kind)
            .then_some(())
    });
}

#[test]
fn a_session_that_is_destroyed_for_a_theft_says_so() {
    let upstream = Upstream::obedient("a");
    let receiver = Upstream::named("receiver");
    let gateway = start(
        &[&upstream],
        &receiver,
        "  security: { validation: { checkUserAgent: true, onMismatch: destroy }, \
         antiHijacking: { onReuse: destroy } }\n",
    );
    let mut client = gateway.client();
    client.get("/").expect(200);
    let before = client.jar.header().expect("cookies");
    ask(&mut client, "X-Session-Authenticate: {\"userId\":\"u1\"}");
    let mut thief = gateway.client();
    let request = thief.request("GET", "/").header("Cookie", before);
    request.send().expect(200);
    let mut victim = gateway.client();
    for agent in [
        "Mozilla/5.0 (X11; Linux x86_64) Chrome/131.0.0.0",
        "curl/8.5.0",
    ] {
        let request = victim.request("GET", "/").header("User-Agent", agent);
        request.send().expect(200);
    }
    for reason in ["reuse", "validation"] {
        eventually(reason, || {
            let wanted = ("sessionDestroyed".to_owned(), reason.to_owned());
            told(&receiver).contains(&wanted).then_some(())
        });
    }
}

/// A receiver over TLS that verifies each signature by its own means and says what it found.
const RECEIVER: &str = r#"
import hashlib, hmac, http.server, json, os, ssl, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers['Content-Length']))
        parts = dict(part.split('=', 1) for part in self.headers['X-Holdfast-Signature'].split(','))
        signed = parts['t'].encode() + b'.' + body
        wanted = hmac.new(os.environ['SECRET'].encode(), signed, hashlib.sha256).hexdigest()
        good = hmac.compare_digest(wanted, parts['v1']) and abs(time.time() - int(parts['t'])) < 60
        print('good' if good else 'bad', len(json.loads(body)), flush=True)
        self.send_response(204)
        self.end_headers()
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain('server.pem', 'server.key')
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()
"#;

struct Receiver {
    child: Child,
    port: String,
    said: Lines,
}

impl Receiver {
    fn start(certs: &Certs) -> Self {
        let mut child = Command::new("python3")
            .args(["-c", RECEIVER])
            .current_dir(certs.path(""))
            .env("SECRET", "a-key-of-the-receiver")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("python3");
        let mut out = BufReader::new(child.stdout.take().expect("its output"));
        let mut port = String::new();
        out.read_line(&mut port).expect("its port");
        Self {
            child,
            port: port.trim().to_owned(),
            said: Lines::follow(out),
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A gateway that trusts this authority, with a webhook to `receiver`.
fn over_tls(certs: &Certs, authority: &str, receiver: &Receiver, upstream: &Upstream) -> Gateway {
    let path = certs.path(authority);
    Launch::new(&format!(
        "{}session:\n  identifier: {{ type: cookie, name: sid }}\n  events:\n    emit: [sessionCreated]\n    \
         handlers: {{ webhook: {{ url: \"https://localhost:{}/secret-path\", secret: \"a-key-of-the-receiver\" }} }}\n",
        service(&[upstream]),
        receiver.port
    ))
    .env("SSL_CERT_FILE", path.to_str().expect("UTF-8"))
    .start()
}

#[test]
fn a_receiver_over_tls_is_verified_and_can_verify() {
    let certs = Certs::new().localhost();
    certs.authority("other");
    let upstream = Upstream::obedient("a");
    let receiver = Receiver::start(&certs);
    let gateway = over_tls(&certs, "ca.pem", &receiver, &upstream);
    gateway.get("/").expect(200);
    gateway.expect_metric("webhook_events_total", &["delivered"], 1.0);
    let said = receiver.said.wait(|line| Some(line.to_owned()));
    assert_eq!(said.as_deref(), Some("good 1"));

    let wary = over_tls(&certs, "other.pem", &receiver, &upstream);
    wary.get("/").expect(200);
    wary.expect_at_least("webhook_failures_total", &[], 1.0);
    assert_eq!(wary.metric("webhook_events_total", &["delivered"]), 0.0);
    let told = wary
        .stderr
        .wait(|line| line.contains("webhook: ").then(|| line.to_owned()))
        .expect("a line that says why");
    assert!(
        told.contains("certificate") && !told.contains("secret-path"),
        "{told}"
    );
    assert_eq!(receiver.said.all().len(), 1, "nothing was sent to it");
}

#[test]
fn drops_are_counted_exactly_and_order_is_kept() {
    /// More than the queue and a batch hold.
    const EVENTS: usize = 17_000;
    let upstream = Upstream::obedient("a");
    let mut receiver = Upstream::named("receiver");
    let address = receiver.address();
    receiver.stop();
    let gateway = Gateway::start(&format!(
        "{}session:\n  identifier: {{ type: cookie, name: sid }}\n  \
         lifecycle: {{ creation: {{ limit: 0 }} }}\n  \
         events: {{ handlers: {{ webhook: {{ url: \"http://{address}/\" }} }} }}\nruntime: {{ cores: 1 }}\n",
        service(&[&upstream])
    ));
    let mut connection = gateway.connect();
    let request = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", gateway.http);
    for _ in 0..EVENTS / 50 {
        connection.send(request.repeat(50));
        for _ in 0..50 {
            connection.response("GET").expect(200);
        }
    }
    gateway.expect_metric("events_total", &["sessionCreated"], EVENTS as f64);
    let dropped = gateway.metric("webhook_events_total", &["dropped_full"]);
    let waiting = gateway.metric("webhook_waiting", &[]);
    assert!(dropped >= 500.0, "{dropped}");
    assert_eq!(waiting + dropped, EVENTS as f64);
    receiver.restart();
    gateway.expect_metric("webhook_events_total", &["delivered"], waiting);
    assert_eq!(
        gateway.metric("webhook_events_total", &["dropped_full"]),
        dropped
    );
    gateway.expect_metric("webhook_waiting", &[], 0.0);
    gateway.expect_metric("events_dropped_total", &[], 0.0);
    let mut ids = std::collections::HashSet::new();
    let mut times: Vec<String> = Vec::new();
    for batch in receiver.requests() {
        let events: Vec<Value> = serde_json::from_slice(&batch.body).expect("JSON");
        for event in events {
            assert!(ids.insert(event["id"].to_string()), "{event} came twice");
            times.push(event["time"].as_str().expect("a time").to_owned());
        }
    }
    assert_eq!(ids.len() as f64, waiting);
    assert!(times.is_sorted(), "in the order in which they happened");
}
