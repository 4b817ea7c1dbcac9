//! Clients of others: curl, Python, Node. They must be installed; `.ci/run` does that.

use crate::harness::websocket::{accept_for, frame, read_frame};
use crate::harness::{Gateway, Reply, Upstream, script, service};

const KEYS: &str = "session: { identifier: { type: cookie, name: sid } }\nrouter: { sessionAffinity: { methods: [cookie], cookie: { key: \"a key for pin cookies in these tests\" } } }\n";

/// Two upstreams that echo a body, or say which they are.
fn setting() -> (Upstream, Upstream, Gateway) {
    let app = |id: &'static str| {
        Upstream::new(id, move |request| {
            let reply = if request.body.is_empty() {
                Reply::ok(id)
            } else {
                Reply::ok(&request.body)
            };
            match request.head.target() {
                "/login" => reply.header("X-Session-Authenticate", "{\"userId\":\"u1\"}"),
                "/chunked" => Reply::chunked(["one ", "two ", "three"]),
                _ => reply,
            }
        })
    };
    let (one, two) = (app("one"), app("two"));
    let gateway = Gateway::start(&format!("{}{KEYS}", service(&[&one, &two])));
    (one, two, gateway)
}

/// Runs a program with a script on its standard input; gives what it printed.
#[track_caller]
fn run(program: &str, words: &[&str], script: &str, gateway: &Gateway) -> String {
    script::run(
        program,
        words,
        script,
        "http://127.0.0.1",
        gateway,
        gateway.dir(),
    )
}

/// The session and the upstream of every request so far: there must be one of each.
#[track_caller]
fn expect_one_session_at_one_upstream(one: &Upstream, two: &Upstream, requests: usize) {
    let all = [one.requests(), two.requests()].concat();
    assert_eq!(all.len(), requests);
    let sids: std::collections::HashSet<_> = all
        .iter()
        .map(|r| r.get("x-session-id").map(str::to_owned))
        .collect();
    assert!(sids.len() == 1 && !sids.contains(&None), "{sids:?}");
    assert!(
        one.count() == 0 || two.count() == 0,
        "{} and {}",
        one.count(),
        two.count()
    );
}

#[test]
fn curl_with_a_cookie_jar_keeps_its_session_and_its_upstream() {
    let (one, two, gateway) = setting();
    let script = "for i in 1 2 3 4 5; do curl -sS -f -c jar -b jar $BASE/; done; curl -sS -f -c jar -b jar $BASE/login; curl -sS -f -c jar -b jar $BASE/x --next -sS -f -c jar -b jar $BASE/y\n\
                  curl -sS -f -c jar -b jar -T - $BASE/upload < /etc/hostname; curl -sS -f -b jar -H 'Expect: 100-continue' -d @/etc/passwd $BASE/post; curl -sS -f -b jar $BASE/chunked; curl -sS -f -b jar --http1.0 $BASE/old; curl -sS -f -b jar -I $BASE/head > /dev/null\n";
    let text = run("sh", &[], script, &gateway);
    assert!(
        text.contains("one two three") && text.contains("root:"),
        "{text}"
    );
    expect_one_session_at_one_upstream(&one, &two, 13);
}

#[test]
fn curl_sends_a_hundred_requests_over_one_connection() {
    let (one, two, gateway) = setting();
    let text = run(
        "sh",
        &[],
        "curl -sS -f -c jar -b jar -w '%{num_connects}\\n' -o /dev/null \"$BASE/[1-100]\"\n",
        &gateway,
    );
    let connects: usize = text.lines().filter_map(|l| l.parse::<usize>().ok()).sum();
    assert_eq!(connects, 1);
    assert_eq!(one.count() + two.count(), 100);
}

#[test]
fn python_keeps_its_session_and_its_upstream() {
    let (one, two, gateway) = setting();
    let script = r#"
import http.client, http.cookiejar, os, urllib.request
base = os.environ["BASE"]
jar = http.cookiejar.CookieJar(policy=http.cookiejar.DefaultCookiePolicy(rfc2965=False))
opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
for n in range(5):
    with opener.open(f"{base}/{n}") as response:
        assert response.status == 200, response.status
        response.read()
assert {c.name for c in jar} == {"sid", "gateway-backend"}, jar
cookies = "; ".join(f"{c.name}={c.value}" for c in jar)
connection = http.client.HTTPConnection("127.0.0.1", int(os.environ["PORT"]))
for n in range(5):
    connection.request("POST", "/chunks", body=(b"part%d" % i for i in range(3)), headers={"Cookie": cookies}, encode_chunked=True)
    response = connection.getresponse()
    assert response.read() == b"part0part1part2" and response.status == 200
connection.request("HEAD", "/", headers={"Cookie": cookies})
response = connection.getresponse()
assert response.read() == b"" and response.headers["Content-Length"]
print("done")
"#;
    assert_eq!(run("python3", &["-"], script, &gateway).trim(), "done");
    expect_one_session_at_one_upstream(&one, &two, 11);
}

#[test]
fn node_fetch_keeps_its_session_and_its_upstream() {
    let (one, two, gateway) = setting();
    let script = r#"
(async () => {
  const base = process.env.BASE;
  const jar = new Map();
  const go = async (path, options = {}) => {
    const cookie = [...jar].map(([n, v]) => `${n}=${v}`).join('; ');
    const response = await fetch(base + path, { ...options, headers: { ...(cookie ? { cookie } : {}), ...options.headers } });
    // Node 18 has them in one text only.
    const lines = response.headers.getSetCookie?.() ?? (response.headers.get('set-cookie') ?? '').split(/, (?=[\w-]+=)/).filter(Boolean);
    for (const line of lines) {
      const [pair] = line.split(';');
      jar.set(pair.slice(0, pair.indexOf('=')), pair.slice(pair.indexOf('=') + 1));
    }
    if (response.status !== 200) throw new Error(`${path}: ${response.status}`);
    return response.text();
  };
  await go('/first');
  await Promise.all(Array.from({ length: 10 }, (_, n) => go('/' + n)));
  if (await go('/chunked') !== 'one two three') throw new Error('chunked');
  const stream = new ReadableStream({ start(c) { c.enqueue(new TextEncoder().encode('a')); c.enqueue(new TextEncoder().encode('bc')); c.close(); } });
  if (await go('/stream', { method: 'POST', body: stream, duplex: 'half' }) !== 'abc') throw new Error('stream');
  const big = 'x'.repeat(3_000_000);
  if (await go('/big', { method: 'POST', body: big }) !== big) throw new Error('big');
  console.log('done');
})().catch((e) => { console.error(e); process.exit(1); });
"#;
    assert_eq!(run("node", &["-"], script, &gateway).trim(), "done");
    expect_one_session_at_one_upstream(&one, &two, 14);
}

#[test]
fn nodes_websocket_talks_through_the_gateway() {
    let upstream = Upstream::raw("socket", |link| {
        let Some(request) = link.request() else {
            return;
        };
        let accept = accept_for(request.get("sec-websocket-key").unwrap_or_default());
        link.send(format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"));
        while let Ok((opcode, payload)) = read_frame(&mut link.wire) {
            link.send(frame(opcode, &payload, false));
            if opcode == 8 {
                return;
            }
        }
    });
    let gateway = Gateway::start(&format!("{}{KEYS}", service(&[&upstream])));
    // Debian 12's Node 18 has no WebSocket of its own; `.ci/tools` then installs the package node-ws.
    let script = r#"
const Socket = globalThis.WebSocket ?? require('ws');
const socket = new Socket(process.env.BASE.replace('http', 'ws') + '/socket');
const sizes = [1, 200, 70000];
let next = 0;
socket.onopen = () => socket.send('x'.repeat(sizes[0]));
socket.onmessage = (event) => {
  if (event.data.length !== sizes[next]) throw new Error(`${event.data.length}`);
  next += 1;
  if (next < sizes.length) socket.send('x'.repeat(sizes[next])); else socket.close(1000);
};
socket.onclose = (event) => { console.log(next, event.code, event.wasClean); };
socket.onerror = (event) => { console.error(event.message || event); process.exit(1); };
"#;
    let version = run("node", &["--version"], "", &gateway);
    let major: u32 = version
        .trim()
        .trim_start_matches('v')
        .split('.')
        .next()
        .and_then(|major| major.parse().ok())
        .expect("a version");
    let words: &[&str] = match major {
        20 | 21 => &["--experimental-websocket", "-"],
        _ => &["-"],
    };
    assert_eq!(run("node", words, script, &gateway).trim(), "3 1000 true");
    assert!(
        upstream.last().head.has("x-session-id"),
        "{:?}",
        upstream.last().head
    );
}
