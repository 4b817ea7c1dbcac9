//! A browser: headless Chromium loads a page with a style, scripts, images, fetches and a WebSocket
//! through the gateway, over TLS and HTTP/2, and tells the application what it saw.

use std::process::{Child, Command, Stdio};

use crate::harness::websocket::{accept_for, frame, read_frame};
use crate::harness::{Gateway, PATIENCE, Upstream, eventually_within, service};
use crate::tls::Certs;

const PAGE: &str = r#"<!doctype html><title>page</title><link rel="stylesheet" href="/style.css">
<body><script src="/early.js"></script>
<img src="/1.svg"><img src="/2.svg"><img src="/3.svg">
<script>
const get = async (path, options) => {
  const response = await fetch(path, options);
  if (response.status !== 200) throw new Error(path + ' ' + response.status);
  return response.text();
};
const socket = () => new Promise((done, failed) => {
  const ws = new WebSocket(location.origin.replace('http', 'ws') + '/socket');
  ws.onopen = () => ws.send('ping');
  ws.onmessage = (event) => { ws.close(1000); done(event.data); };
  ws.onerror = () => failed(new Error('the socket failed'));
});
(async () => {
  let said = [];
  try {
    said.push(document.images.length + ' images', getComputedStyle(document.body).color);
    said.push('cookies ' + JSON.stringify(document.cookie));
    await Promise.all(Array.from({ length: 20 }, (_, n) => get('/fetch/' + n)));
    said.push(await socket());
    await get('/login', { method: 'POST', body: 'u1' });
    await Promise.all(Array.from({ length: 20 }, (_, n) => get('/after/' + n)));
    said.push(await socket());
  } catch (error) { said.push(String(error)); }
  await fetch('/result', { method: 'POST', body: said.join('; ') });
})();
</script>"#;

fn application() -> Upstream {
    Upstream::raw("app", |link| {
        while let Some(request) = link.request() {
            let mut more = String::new();
            let (kind, body) = match request.head.target() {
                "/" => ("text/html", PAGE),
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
    fn open(url: &str) -> Self {
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
            ])
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

#[test]
fn a_browser_keeps_one_session_over_fetches_sockets_and_a_login() {
    let (certs, app) = (Certs::new().localhost(), application());
    let gateway = Gateway::start(&format!(
        "{}listeners: [{{ address: \"127.0.0.1:0\", tls: {} }}]\nruntime: {{ cores: 2 }}\n\
         session: {{ identifier: {{ type: cookie, name: sid }}, security: {{ encryption: {{ id: {{ enabled: true, secret: \"a secret for the tests, long enough\" }} }} }} }}\n",
        service(&[&app]),
        certs.block("server", "")
    ));
    let _browser = Browser::open(&format!("https://localhost:{}/", gateway.http.port()));
    let result = eventually_within(4 * PATIENCE, "the page has told what it saw", || {
        let told = app.requests();
        let told = told.iter().find(|r| r.head.target() == "/result")?;
        Some(String::from_utf8_lossy(&told.body).into_owned())
    });
    assert_eq!(
        result, "3 images; rgb(1, 2, 3); cookies \"\"; ping; ping",
        "the token is for the browser alone, and nothing was refused"
    );
    let requests = app.requests();
    let sids: std::collections::HashSet<_> = requests
        .iter()
        .filter_map(|r| r.get("x-session-id"))
        .collect();
    assert_eq!(sids.len(), 1, "one session all along");
    assert!(
        requests.iter().all(|r| r.get("x-session-state").is_none()),
        "none was refused"
    );
    assert!(gateway.metric("http2_streams_total", &[]) > 40.0);
}
