//! A browser: headless Chromium loads a page with a style, scripts, images, fetches and a WebSocket
//! through the gateway, over TLS, in one tab and in several, and tells the application what it saw.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::harness::websocket::{accept_for, frame, read_frame};
use crate::harness::{Gateway, PATIENCE, Received, Upstream, eventually_within, lock, service};
use crate::tls::Certs;

const HEAD: &str = r#"<!doctype html><title>page</title><link rel="stylesheet" href="/style.css">
<body><script src="/early.js"></script>
<img src="/1.svg"><img src="/2.svg"><img src="/3.svg">
<script>
const get = async (path, options) => {
  const response = await fetch(path, options);
  if (response.status !== 200) throw new Error(path + ' ' + response.status);
  return response.text();
};
const several = (path) => Promise.all(Array.from({ length: 20 }, (_, n) => get(path + n)));
const socket = () => new Promise((done, failed) => {
  const ws = new WebSocket(location.origin.replace('http', 'ws') + '/socket');
  ws.onopen = () => ws.send('ping');
  ws.onmessage = (event) => { ws.close(1000); done(event.data); };
  ws.onerror = () => failed(new Error('the socket failed'));
});
"#;

/// One tab.
const PAGE: &str = r#"
(async () => {
  let said = [];
  try {
    said.push(document.images.length + ' images', getComputedStyle(document.body).color);
    said.push('cookies ' + JSON.stringify(document.cookie));
    await several('/fetch/');
    said.push(await socket());
    await get('/login', { method: 'POST', body: 'u1' });
    await several('/after/');
    said.push(await socket());
  } catch (error) { said.push(String(error)); }
  await fetch('/result', { method: 'POST', body: said.join('; ') });
})();
</script>"#;

/// Four tabs that all ask without end until `/on` says that it is enough. The first opens the others, and
/// logs in while they are idle: at a login what is under way with the old secret is refused.
const TABS: &str = r#"
const mine = Number(new URLSearchParams(location.search).get('tab') || 0);
const channel = new BroadcastChannel('tabs');
const heard = [];
channel.onmessage = (event) => heard.push(event.data);
const until = async (word, count) => {
  while (heard.filter((said) => said === word).length < count) await get('/wait');
};
const work = async (phase) => {
  do {
    await several('/' + phase + '/');
    if (await socket() !== 'ping') throw new Error('no echo');
  } while (await get('/on/' + phase) !== 'enough');
};
(async () => {
  try {
    if (mine === 0) {
      await several('/first/');
      for (let n = 1; n < 4; n++) window.open('/tabs?tab=' + n);
      await until('here', 3);
      channel.postMessage('begin');
    } else {
      channel.postMessage('here');
      await until('begin', 1);
    }
    await work('before');
    if (mine === 0) {
      // Answers of the others are all here when they say so.
      while (heard.filter((said) => said === 'idle').length < 3) await new Promise((done) => setTimeout(done, 20));
      await get('/login', { method: 'POST', body: 'u1' });
      channel.postMessage('in');
    } else {
      channel.postMessage('idle');
      while (!heard.includes('in')) await new Promise((done) => setTimeout(done, 20));
    }
    await work('after');
    await fetch('/result', { method: 'POST', body: 'good' });
  } catch (error) { await fetch('/result', { method: 'POST', body: mine + ': ' + error }); }
})();
</script>"#;

/// What the tabs are told, and what they have told.
#[derive(Default)]
struct Play {
    /// The phases are long enough.
    enough: [AtomicBool; 2],
    /// They have begun.
    begun: [AtomicBool; 2],
    results: Mutex<Vec<String>>,
}

fn application(play: Arc<Play>) -> Upstream {
    Upstream::raw("app", move |link| {
        let word = |phase: usize| {
            play.begun[phase].store(true, Ordering::Relaxed);
            let enough = play.enough[phase].load(Ordering::Relaxed);
            if enough { "enough" } else { "more" }
        };
        let (page, tabs) = (format!("{HEAD}{PAGE}"), format!("{HEAD}{TABS}"));
        while let Some(request) = link.request() {
            let mut more = String::new();
            let (kind, body) = match request.head.target() {
                "/" => ("text/html", page.as_str()),
                "/on/before" => ("text/plain", word(0)),
                "/on/after" => ("text/plain", word(1)),
                "/result" => {
                    let text = String::from_utf8_lossy(&request.body).into_owned();
                    lock(&play.results).push(text);
                    ("text/plain", "thanks")
                }
                target if target.starts_with("/tabs") => ("text/html", tabs.as_str()),
                "/style.css" => ("text/css", "body { color: rgb(1, 2, 3) }"),
                "/early.js" => ("text/javascript", "'use strict';"),
                "/socket" => {
                    let accept = accept_for(request.get("sec-websocket-key").unwrap_or_default());
                    link.send(format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"));
                    while let Ok((opcode, payload)) = read_frame(&mut link.wire) {
                        link.send(frame(opcode, &payload, false));
                        if opcode == 8 {
                            break;
                        }
                    }
                    return;
                }
                "/login" => {
                    more = "X-Session-Authenticate: {\"userId\":\"u1\"}\r\n".to_owned();
                    ("text/plain", "in")
                }
                target if target.ends_with(".svg") => (
                    "image/svg+xml",
                    "<svg xmlns='http://www.w3.org/2000/svg' width='1' height='1'/>",
                ),
                _ => ("text/plain", "ok"),
            };
            link.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{more}Content-Length: {}\r\n\r\n{body}",
                body.len()
            ));
        }
    })
}

/// Chromium, ended with the test.
struct Browser(
    Child,
    #[allow(dead_code, reason = "removed when dropped")] tempfile::TempDir,
);

impl Browser {
    fn open(url: &str, words: &[&str]) -> Self {
        let profile = tempfile::tempdir().expect("a folder");
        let child = Command::new("chromium")
            .args([
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--no-first-run",
                "--ignore-certificate-errors",
                "--disable-popup-blocking",
            ])
            .args(words)
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("chromium must be installed for this test: {e}"));
        Self(child, profile)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[track_caller]
fn assert_one_session(requests: &[Received]) {
    let sids: std::collections::HashSet<_> = requests
        .iter()
        .filter_map(|r| r.get("x-session-id"))
        .collect();
    assert_eq!(sids.len(), 1, "one session all along");
}

#[test]
fn a_browser_keeps_one_session_over_fetches_sockets_and_a_login() {
    let play = Arc::new(Play::default());
    let (certs, app) = (Certs::new().localhost(), application(play.clone()));
    let gateway = Gateway::start(&format!(
        "{}listeners: [{{ address: \"127.0.0.1:0\", tls: {} }}]\nruntime: {{ cores: 2 }}\n\
         session: {{ identifier: {{ type: cookie, name: sid }}, security: {{ encryption: {{ id: {{ enabled: true, secret: \"a secret for the tests, long enough\" }} }} }} }}\n",
        service(&[&app]),
        certs.block("server", "")
    ));
    let _browser = Browser::open(&format!("https://localhost:{}/", gateway.http.port()), &[]);
    let result = eventually_within(4 * PATIENCE, "the page has told what it saw", || {
        lock(&play.results).first().cloned()
    });
    assert_eq!(
        result, "3 images; rgb(1, 2, 3); cookies \"\"; ping; ping",
        "the token is for the browser alone, and nothing was refused"
    );
    let requests = app.requests();
    assert_one_session(&requests);
    assert!(
        requests.iter().all(|r| r.get("x-session-state").is_none()),
        "none was refused"
    );
    assert!(gateway.metric("http2_streams_total", &[]) > 40.0);
    assert_eq!(
        gateway.metric("requests_refused_total", &["malformed"]),
        0.0
    );
}

/// Every check, with the host for a tenant; secrets exchanged as often as the grace lets them.
const CHECKED: &str = "session:
  identifier: { type: cookie, name: sid }
  attributes: { fromHeaders: [{ header: Host, attribute: tenantId, trust: any }] }
  security:
    encryption: { id: { secret: \"a secret for the tests, long enough\" } }
    validation: { checkIP: true, checkUserAgent: true, checkFingerprint: true, checkTenant: true, onMismatch: reject }
    antiHijacking: { rotateId: true, rotateInterval: 1s, rotateGrace: 5s, onReuse: destroy }
";

#[track_caller]
fn tabs_are_never_refused(words: &[&str]) -> Gateway {
    let play = Arc::new(Play::default());
    let (certs, app) = (Certs::new().localhost(), application(play.clone()));
    let gateway = Gateway::start(&format!(
        "{}listeners: [{{ address: \"127.0.0.1:0\", tls: {} }}]\nruntime: {{ cores: 2 }}\n{CHECKED}accessLog: {{ path: stdout, format: json }}\n",
        service(&[&app]),
        certs.block("server", "")
    ));
    let port = gateway.http.port();
    let _browser = Browser::open(&format!("https://localhost:{port}/tabs"), words);
    let rotations = || gateway.metric("session_rotations_total", &[]);
    for phase in 0..2 {
        let good = || {
            let told = lock(&play.results).clone();
            assert!(told.is_empty(), "phase {phase}: {told:?}");
        };
        eventually_within(6 * PATIENCE, "the tabs are at work", || {
            good();
            play.begun[phase].load(Ordering::Relaxed).then_some(())
        });
        let from = rotations();
        eventually_within(6 * PATIENCE, "secrets were exchanged", || {
            good();
            (rotations() >= from + 2.0).then_some(())
        });
        play.enough[phase].store(true, Ordering::Relaxed);
    }
    let all = eventually_within(6 * PATIENCE, "the tabs have told what they saw", || {
        Some(lock(&play.results).clone()).filter(|all| all.len() == 4)
    });
    assert_eq!(all, ["good"; 4]);
    for line in gateway.stdout.all() {
        let line: serde_json::Value = serde_json::from_str(&line).expect("a line of the log");
        assert!(line["status"] == 200 || line["status"] == 101, "{line}");
    }
    let requests = app.requests();
    assert_one_session(&requests);
    for request in &requests {
        assert_eq!(request.get("x-session-state"), None, "{:?}", request.head);
        assert!(request.head.has("x-session-id"), "{:?}", request.head);
    }
    let last = requests.last().and_then(|r| r.get("x-session-data"));
    let last: serde_json::Value = serde_json::from_str(last.expect("data")).expect("JSON");
    assert_eq!(last["userId"], "u1");
    assert_eq!(last["tenantId"], format!("localhost:{port}"));
    for (name, labels) in [
        ("session_validation_failures_total", &[][..]),
        ("session_reuses_total", &[]),
        ("session_misses_total", &[]),
        ("requests_refused_total", &["validation"]),
        ("requests_refused_total", &["origin"]),
        ("requests_refused_total", &["malformed"]),
    ] {
        assert_eq!(gateway.metric(name, labels), 0.0, "{name}");
    }
    gateway
}

#[test]
fn tabs_pass_every_check_over_rotations_and_a_login_by_http2() {
    let gateway = tabs_are_never_refused(&[]);
    assert!(gateway.metric("http2_streams_total", &[]) > 100.0);
}

#[test]
fn tabs_pass_every_check_over_rotations_and_a_login_by_http1() {
    let gateway = tabs_are_never_refused(&["--disable-http2"]);
    assert_eq!(gateway.metric("http2_streams_total", &[]), 0.0);
}
