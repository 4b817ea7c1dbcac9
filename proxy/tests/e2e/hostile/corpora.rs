//! Corpora of others, where they are at hand.

use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;

use super::one_reading;
use crate::harness::http::latin1;
use crate::harness::{Gateway, Reply, Upstream, lock, service, shared};

/// The file of that name; `None`, said aloud, where there is none.
fn corpus(name: &str) -> Option<serde_json::Value> {
    let text = std::fs::read_to_string(shared("trials")?.join(name)).expect("readable");
    Some(serde_json::from_str(&text).expect("JSON"))
}

#[test]
fn every_payload_of_smuggler_is_refused_or_read_once() {
    let Some(corpus) = corpus("smuggler-payloads.json") else {
        return;
    };
    let payloads: Vec<(String, Vec<Vec<u8>>)> = corpus
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| {
            let parts = entry["parts"].as_array().expect("parts").iter();
            let decode = |part: &serde_json::Value| {
                base64::engine::general_purpose::STANDARD
                    .decode(part.as_str().expect("text"))
                    .expect("base64")
            };
            (
                entry["id"].as_str().expect("an id").to_owned(),
                parts.map(decode).collect(),
            )
        })
        .collect();
    assert!(payloads.len() > 3000);
    let upstream = Upstream::new("a", |_| Reply::ok("x"));
    let mut gateway = Gateway::start(&service(&[&upstream]));
    let next = AtomicUsize::new(0);
    let wrong = std::sync::Mutex::new(Vec::<String>::new());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some((n, (id, parts))) = Some(next.fetch_add(1, Ordering::SeqCst))
                    .and_then(|n| payloads.get(n).map(|p| (n, p)))
                {
                    let mut connection = gateway.connect();
                    for part in parts {
                        let text = latin1(part).replace("__ID__", &format!("payload-{n}"));
                        let bytes: Vec<u8> = text.chars().map(|c| c as u8).collect();
                        drop(connection.try_send(bytes));
                    }
                    connection.finish();
                    let said = latin1(&connection.drain());
                    if !(said.starts_with("HTTP/1.1 400 ")
                        || said.starts_with("HTTP/1.1 200 ")
                        || said.is_empty())
                    {
                        lock(&wrong).push(format!("{id}: answered {said:?}"));
                    }
                }
            });
        }
    });
    let mut wrong = wrong.into_inner().unwrap();
    let mut arrivals = vec![0; payloads.len()];
    for request in upstream.requests() {
        match request
            .head
            .target()
            .strip_prefix("/payload-")
            .and_then(|n| n.parse::<usize>().ok())
        {
            Some(n) => arrivals[n] += 1,
            None => wrong.push(format!("a request that nobody sent: {:?}", request.head)),
        }
        if let Err(e) = one_reading(&request) {
            wrong.push(format!("{}: {e}", request.head.target()));
        }
    }
    wrong.extend(
        arrivals
            .iter()
            .enumerate()
            .filter(|(_, n)| **n > 1)
            .map(|(n, times)| format!("{} arrived {times} times", payloads[n].0)),
    );
    wrong.extend(upstream.faults());
    assert!(gateway.lives());
    gateway.get("/after").expect(200);
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(30)].join("\n")
    );
}

#[test]
fn our_cookie_is_found_and_others_untouched_in_every_header_of_the_corpus() {
    let Some(corpus) = corpus("parser.json") else {
        return;
    };
    let upstream = Upstream::named("a");
    let gateway = Gateway::start(&format!(
        "{}session: {{ identifier: {{ type: cookie, name: ours }} }}\n",
        service(&[&upstream])
    ));
    let mut client = gateway.client();
    client.get("/").expect(200);
    let ours = format!("ours={}", client.jar.get("ours").expect("a session"));
    client.get("/").expect(200);
    let sid = upstream
        .last()
        .get("x-session-id")
        .expect("a sid")
        .to_owned();
    let utf8 = |text: &str| latin1(text.as_bytes());
    let mut headers: Vec<Vec<String>> = Vec::new();
    for test in corpus.as_array().expect("a list") {
        let sent = test["sent"].as_array().expect("sent").iter();
        let pair = |c: &serde_json::Value| {
            utf8(&format!(
                "{}={}",
                c["name"].as_str().unwrap_or_default(),
                c["value"].as_str().unwrap_or_default()
            ))
        };
        headers.push(sent.map(pair).collect());
        // What a server once set is also what some client will send back whole.
        for line in test["received"].as_array().expect("received") {
            headers.push(
                utf8(line.as_str().expect("text"))
                    .split(';')
                    .map(str::to_owned)
                    .collect(),
            );
        }
    }
    headers.retain(|pieces| {
        pieces
            .iter()
            .all(|p| p.bytes().all(|b| b >= 0x20 && b != 0x7f || b == b'\t'))
    });
    headers.retain(|pieces| pieces.iter().any(|p| !p.trim().is_empty()));
    assert!(headers.len() > 200);
    let mut tried = 0;
    for pieces in &headers {
        for at in [0, pieces.len() / 2, pieces.len()] {
            let mut with_ours = pieces.clone();
            with_ours.insert(at, ours.clone());
            let line = with_ours.join("; ");
            let response = gateway
                .client()
                .request("GET", "/")
                .header("Cookie", &line)
                .send();
            assert_eq!(response.status(), 200, "{line:?}");
            let head = upstream.last().head;
            assert_eq!(
                head.get("x-session-id"),
                Some(sid.as_str()),
                "not found in {line:?}"
            );
            let trimmed = |text: &str| -> Vec<String> {
                text.split(';')
                    .map(|p| p.trim().to_owned())
                    .filter(|p| !p.is_empty())
                    .collect()
            };
            assert_eq!(
                trimmed(&head.all("cookie").join("; ")),
                trimmed(&pieces.join(";")),
                "{line:?}"
            );
            tried += 1;
        }
    }
    assert!(tried > 600);
}
