//! Events: the stream, journals, the webhook.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hmac::{Hmac, Mac as _};
use serde_json::Value;

use crate::harness::{Connection, Gateway, Reply, Upstream, eventually, lock, service};

const SESSION: &str =
    "session: { identifier: { type: cookie, name: sid }, data: { index: [userId] } }\n";

fn app() -> Upstream {
    Upstream::new("a", |request| {
        let lines = request.head.all("x-answer").into_iter();
        let lines = lines.filter_map(|line| line.split_once(": "));
        lines.fold(Reply::ok("app"), |reply, (name, value)| {
            reply.header(name, value)
        })
    })
}

fn with(upstream: &Upstream, session: &str) -> String {
    format!(
        "{}session:\n  identifier: {{ type: cookie, name: sid }}\n{session}",
        service(&[upstream])
    )
}

/// A stream of events as a browser reads it.
struct Stream {
    connection: Connection,
    text: String,
}

/// One message of it: fields by name.
#[derive(Debug)]
struct Message {
    id: String,
    event: String,
    data: Value,
}

impl Stream {
    #[track_caller]
    fn open(gateway: &Gateway, query: &str, last: Option<&str>) -> Self {
        let mut connection = Connection::open(gateway.admin);
        let last = last.map_or(String::new(), |id| format!("Last-Event-ID: {id}\r\n"));
        connection.send(format!(
            "GET /api/events{query} HTTP/1.1\r\nHost: {}\r\n{last}\r\n",
            gateway.admin
        ));
        let head = connection.head();
        assert_eq!(head.status(), 200);
        assert_eq!(head.get("content-type"), Some("text/event-stream"));
        let mut stream = Self {
            connection,
            text: String::new(),
        };
        // It has begun once its first bytes are here.
        assert_eq!(stream.block(), "retry: 2000");
        stream
    }

    /// What stands before the next blank line.
    #[track_caller]
    fn block(&mut self) -> String {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                return block;
            }
            let chunk = self.connection.wire.chunk().expect("a chunk");
            let chunk = chunk.expect("the stream goes on");
            self.text
                .push_str(&String::from_utf8(chunk).expect("UTF-8"));
        }
    }

    #[track_caller]
    fn next(&mut self) -> Message {
        loop {
            let block = self.block();
            let field = |name: &str| {
                let line = block.lines().find_map(|line| line.strip_prefix(name));
                line.map(str::to_owned).unwrap_or_default()
            };
            let data = field("data: ");
            if !data.is_empty() {
                return Message {
                    id: field("id: "),
                    event: field("event: "),
                    data: serde_json::from_str(&data).expect("JSON"),
                };
            }
        }
    }

    /// The next of a type.
    #[track_caller]
    fn next_of(&mut self, kind: &str) -> Message {
        loop {
            let message = self.next();
            if message.data["type"] == kind {
                return message;
            }
        }
    }
}

#[test]
fn a_stream_tells_what_happens_as_cloudevents() {
    let upstream = app();
    let gateway = Gateway::start(&format!("node: gw-7\n{}{SESSION}", service(&[&upstream])));
    let mut stream = Stream::open(&gateway, "", None);
    let mut open = Stream::open(&gateway, "?values=true&type=sessionAuthenticated", None);
    let mut client = gateway.client();
    client.get("/").expect(200);
    let created = stream.next();
    let event = &created.data;
    assert_eq!(created.event, "", "a browser's onmessage gets it");
    assert_eq!(event["specversion"], "1.0");
    assert_eq!(event["type"], "sessionCreated");
    assert_eq!(event["source"], "/holdfast/gw-7");
    assert_eq!(event["id"], created.id.as_str());
    assert_eq!(event["datacontenttype"], "application/json");
    assert_eq!(event["subject"], event["data"]["sid"]);
    let answer = "X-Session-Authenticate: {\"userId\":\"u1\"}";
    client
        .request("GET", "/")
        .header("X-Answer", answer)
        .send()
        .expect(200);
    assert_eq!(
        stream.next_of("sessionAuthenticated").data["data"]["subject"],
        "***"
    );
    assert_eq!(open.next().data["data"]["subject"], "u1", "asked for");
    let sid = event["subject"].as_str().unwrap();
    gateway
        .api("DELETE", &format!("/api/sessions/{sid}"))
        .expect(200);
    let destroyed = stream.next_of("sessionDestroyed");
    assert_eq!(destroyed.data["data"]["reason"], "admin");
    assert_eq!(destroyed.data["subject"], sid);
    gateway.set_state("a", "drain");
    let changed = stream.next_of("upstreamStateChanged");
    let data = serde_json::json!({"service": "app", "upstream": "a", "state": "drain"});
    assert_eq!(changed.data["data"], data);
    gateway.expect_metric("events_total", &["sessionDestroyed"], 1.0);
    gateway.api("GET", "/api/events?type=x").expect(400);
}

#[test]
fn a_stream_goes_on_after_the_event_that_was_seen_last() {
    let upstream = app();
    let gateway = Gateway::start(&format!("{}{SESSION}", service(&[&upstream])));
    let mut stream = Stream::open(&gateway, "", None);
    gateway.get("/").expect(200);
    let first = stream.next();
    drop(stream);
    gateway.get("/").expect(200);
    gateway.get("/").expect(200);
    gateway.expect_metric("events_total", &["sessionCreated"], 3.0);
    let mut stream = Stream::open(&gateway, "", Some(&first.id));
    let (second, third) = (stream.next(), stream.next());
    assert!(second.id != first.id && third.id != second.id);
    let mut again = Stream::open(&gateway, "", Some(&second.id));
    assert_eq!(again.next().id, third.id, "the same event has the same id");
    let mut unknown = Stream::open(&gateway, "", Some("unknown"));
    assert_eq!(unknown.next().event, "gap");
    let rest: Vec<_> = (0..3).map(|_| unknown.next().id).collect();
    assert_eq!(rest, [first.id, second.id, third.id]);
}

#[test]
fn affinity_is_told_with_its_upstream_and_its_reason() {
    let (a, b) = (Upstream::named("a"), Upstream::named("b"));
    let gateway = Gateway::start(&format!(
        "{}{SESSION}router: {{ sessionAffinity: {{ methods: [cookie] }} }}\n",
        service(&[&a, &b])
    ));
    let mut stream = Stream::open(&gateway, "", None);
    let mut client = gateway.client();
    client.get("/").expect(200);
    let created = stream.next();
    assert_eq!(created.data["type"], "sessionCreated", "before its pin");
    let pinned = stream.next();
    assert_eq!(pinned.data["type"], "affinityEstablished");
    assert_eq!(pinned.data["subject"], created.data["subject"]);
    assert_eq!(pinned.data["data"]["service"], "app");
    let first = pinned.data["data"]["upstream"].as_str().unwrap().to_owned();
    gateway.set_state(&first, "down");
    eventually("a new pin", || {
        let broken = client.get("/").expect(200);
        (broken.text() != first).then_some(())
    });
    let broken = stream.next_of("affinityBroken");
    assert_eq!(broken.data["data"]["upstream"], first.as_str());
    assert!(broken.data["data"]["reason"].is_string(), "{broken:?}");
    let again = stream.next_of("affinityEstablished");
    assert_ne!(again.data["data"]["upstream"], first.as_str());
}

#[test]
fn a_journal_has_the_last_events_of_a_session() {
    let upstream = app();
    let gateway = Gateway::start(&with(&upstream, "  events: { emit: [sessionDestroyed] }\n"));
    let mut client = gateway.client();
    client.get("/").expect(200);
    client.get("/").expect(200);
    let sid = upstream
        .last()
        .get("x-session-id")
        .expect("a sid")
        .to_owned();
    let journal = |query: &str| {
        let path = format!("/api/sessions/{sid}/journal{query}");
        let json = gateway.api("GET", &path).expect(200).json();
        json["events"].as_array().expect("events").clone()
    };
    for _ in 0..70 {
        client
            .request("GET", "/")
            .header("X-Answer", "X-Session-Authenticate: {\"userId\":\"u1\"}")
            .send()
            .expect(200);
    }
    let events = eventually("all of them", || {
        let count = gateway.metric("events_total", &["sessionAuthenticated"]);
        (count >= 70.0).then(|| journal(""))
    });
    assert_eq!(
        events.len(),
        64,
        "the last 64, although emit leaves them out"
    );
    assert!(events.iter().all(|e| e["subject"] == sid.as_str()));
    assert!(events.iter().any(|e| e["data"]["subject"] == "***"));
    assert!(
        journal("?values=true")
            .iter()
            .any(|e| e["data"]["subject"] == "u1")
    );
    gateway
        .api("DELETE", &format!("/api/sessions/{sid}"))
        .expect(200);
    eventually("a journal outlives its session", || {
        let last = journal("").pop().expect("events");
        (last["type"] == "sessionDestroyed").then_some(())
    });
    gateway
        .api("GET", "/api/sessions/AAAAAAAAAAAAAAAAAAAAAA/journal")
        .expect(404);
}

#[test]
fn the_webhook_gets_signed_batches_in_order_and_again_after_a_failure() {
    let upstream = app();
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tries);
    let receiver = Upstream::new("receiver", move |_| {
        match counted.fetch_add(1, Ordering::SeqCst) {
            0 => Reply::status(503).header("Retry-After", "1"),
            1 => Reply::status(500),
            _ => Reply::status(204),
        }
    });
    // One core: what several tell at the same time has no order between them.
    let gateway = Gateway::start(
        &(with(
            &upstream,
            &format!(
                "  events:\n    emit: [sessionCreated, sessionDestroyed]\n    handlers: {{ webhook: {{ \
             url: \"http://{}/hook?x=1\", secret: \"a-key-of-the-receiver\" }} }}\n",
                receiver.address()
            ),
        ) + "runtime: { cores: 1 }\n"),
    );
    let began = Instant::now();
    for _ in 0..5 {
        gateway.get("/").expect(200);
    }
    gateway.expect_metric("webhook_events_total", &["delivered"], 5.0);
    assert!(
        began.elapsed() >= Duration::from_millis(1250),
        "Retry-After, then a wait"
    );
    gateway.expect_metric("webhook_failures_total", &[], 2.0);
    gateway.expect_metric("webhook_waiting", &[], 0.0);
    let requests = receiver.requests();
    for request in &requests {
        assert_eq!(
            (request.head.method(), request.head.target()),
            ("POST", "/hook?x=1")
        );
        let kind = request.get("content-type").expect("a type");
        assert!(
            kind.starts_with("application/cloudevents-batch+json"),
            "{kind}"
        );
        let signature = request.get("x-holdfast-signature").expect("a signature");
        let (time, signature) = signature.split_once(",v1=").expect("two parts");
        let time = time.strip_prefix("t=").expect("a time");
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(b"a-key-of-the-receiver").unwrap();
        mac.update(format!("{time}.").as_bytes());
        mac.update(&request.body);
        let expected: String = mac
            .finalize()
            .into_bytes()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert_eq!(signature, expected);
    }
    let events = |bodies: &[crate::harness::Received]| -> Vec<Value> {
        let parsed = bodies
            .iter()
            .map(|r| serde_json::from_slice(&r.body).expect("JSON"));
        parsed.flat_map(|batch: Vec<Value>| batch).collect()
    };
    assert_eq!(requests[0].body, requests[1].body, "the same batch again");
    let all = events(&requests[2..]);
    assert_eq!(all.len(), 5);
    assert!(all.iter().all(|e| e["type"] == "sessionCreated"));
    let times: Vec<_> = all.iter().map(|e| e["time"].as_str().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert_eq!(receiver.accepted(), 1, "one connection is kept");
}

#[test]
fn a_receiver_that_is_down_slows_nobody_and_gets_all_later() {
    let upstream = app();
    let mut receiver = Upstream::named("receiver");
    let address = receiver.address();
    receiver.stop();
    let gateway = Gateway::start(&with(
        &upstream,
        &format!(
            "  lifecycle: {{ creation: {{ limit: 0 }} }}\n  \
             events: {{ handlers: {{ webhook: {{ url: \"http://{address}/\" }} }} }}\n"
        ),
    ));
    for _ in 0..250 {
        gateway.get("/").expect(200);
    }
    gateway.expect_metric("webhook_waiting", &[], 250.0);
    gateway.expect_at_least("webhook_failures_total", &[], 2.0);
    receiver.restart();
    gateway.expect_metric("webhook_events_total", &["delivered"], 250.0);
    gateway.expect_metric("webhook_events_total", &["dropped"], 0.0);
    let mut ids = std::collections::HashSet::new();
    for request in receiver.requests() {
        assert!(
            request.get("x-holdfast-signature").is_none(),
            "no secret, no signature"
        );
        let batch: Vec<Value> = serde_json::from_slice(&request.body).expect("JSON");
        assert!(batch.len() <= 100);
        ids.extend(batch.iter().map(|e| e["id"].as_str().unwrap().to_owned()));
    }
    assert_eq!(ids.len(), 250);
}

#[test]
fn what_a_receiver_refuses_is_dropped_and_counted() {
    let upstream = app();
    let receiver = Upstream::new("receiver", |_| Reply::status(400));
    let gateway = Gateway::start(&with(
        &upstream,
        &format!(
            "  events: {{ handlers: {{ webhook: {{ url: \"http://{}/\" }} }} }}\n",
            receiver.address()
        ),
    ));
    gateway.get("/").expect(200);
    gateway.expect_metric("webhook_events_total", &["dropped_refused"], 1.0);
    let lines = gateway.stderr.text();
    assert!(lines.contains("webhook: status 400"), "{lines}");
}

#[test]
fn the_last_events_are_sent_before_the_end() {
    let upstream = app();
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = Arc::clone(&seen);
    let receiver = Upstream::new("receiver", move |request| {
        let batch: Vec<Value> = serde_json::from_slice(&request.body).expect("JSON");
        lock(&kept).extend(batch);
        Reply::status(200)
    });
    let mut gateway = Gateway::start(&with(
        &upstream,
        &format!(
            "  events: {{ handlers: {{ webhook: {{ url: \"http://{}/\" }} }} }}\n",
            receiver.address()
        ),
    ));
    gateway.get("/").expect(200);
    gateway.signal("INT");
    assert!(gateway.wait(crate::harness::PATIENCE).success());
    assert_eq!(lock(&seen).len(), 1);
}

#[test]
fn no_event_is_lost_in_a_burst_larger_than_a_batch() {
    let upstream = app();
    let receiver = Upstream::named("receiver");
    let gateway = Gateway::start(&with(
        &upstream,
        &format!(
            "  lifecycle: {{ creation: {{ limit: 0 }} }}\n  \
             events: {{ handlers: {{ webhook: {{ url: \"http://{}/\" }} }} }}\n",
            receiver.address()
        ),
    ));
    for _ in 0..300 {
        gateway.get("/").expect(200);
    }
    gateway.expect_metric("webhook_events_total", &["delivered"], 300.0);
    gateway.expect_metric("session_creates_total", &[], 300.0);
}
