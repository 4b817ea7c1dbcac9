//! Corpora of others, where they are at hand: in the folder `../shared/trials` beside the
//! repository. Without it these tests do nothing.

use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::*;

fn corpus(name: &str) -> Option<Value> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/trials");
    let text = std::fs::read(folder.join(name)).ok()?;
    Some(serde_json::from_slice(&text).expect("the corpus is JSON"))
}

/// Every payload is refused, or each request in it is read so that what goes upstream reads the same
/// again, in full: nothing is left over that a second reader could take for a request.
#[test]
fn ambiguous_requests() {
    let Some(payloads) = corpus("smuggler-payloads.json") else {
        return;
    };
    let limits = HeadLimits::default();
    let (mut refused, mut read) = (0, 0);
    for payload in payloads.as_array().expect("a list") {
        let id = payload["id"].as_str().expect("an id");
        let parts = payload["parts"].as_array().expect("parts").iter();
        let input: Vec<u8> = parts
            .flat_map(|p| STANDARD.decode(p.as_str().expect("text")).expect("base64"))
            .collect();
        let connection = read_connection(&input, &limits);
        if connection.requests.is_empty() && connection.end.is_err() {
            refused += 1;
        }
        for one in &connection.requests {
            read += 1;
            unambiguous(id, one, &limits);
        }
    }
    assert!(refused > 1000, "{refused} refused, {read} read");
}

fn unambiguous(id: &str, one: &Read, limits: &HeadLimits) {
    let lower = one.head.to_ascii_lowercase();
    let mut head = RequestHead::default();
    request(&one.head, limits, &mut HeadScan::new(), &mut head).expect("it was read before");
    // No framing line but the one that was understood: not under a name that someone might repair.
    for line in &head.lines {
        let letters: Vec<u8> = line
            .name(&one.head)
            .iter()
            .filter(|b| b.is_ascii_alphabetic())
            .map(u8::to_ascii_lowercase)
            .collect();
        let framing = letters == b"transferencoding" || letters == b"contentlength";
        assert!(
            !framing || matches!(line.name, Name::TransferEncoding | Name::ContentLength),
            "{id}: {}",
            lower.escape_ascii()
        );
    }
    let out = write_request(&one.head, &head, &one.body);
    let again = read_connection(&out, limits);
    assert_eq!(again.end, Ok(0), "{id}");
    let [again] = &again.requests[..] else {
        panic!("{id}: {} requests", again.requests.len())
    };
    assert_eq!(again.body, one.body, "{id}");
    assert_eq!((&again.path, &again.host), (&one.path, &one.host), "{id}");
}

/// Among all that browsers send and servers set, our cookies are found, and taken out without a
/// change to any other.
#[test]
fn cookies_of_others() {
    let Some(cases) = corpus("parser.json") else {
        return;
    };
    let mut tried = 0;
    for case in cases.as_array().expect("a list") {
        let sent = case["sent"].as_array().expect("sent").iter().map(|c| {
            let text = |key: &str| c[key].as_str().unwrap_or_default().to_owned();
            format!("{}={}", text("name"), text("value"))
        });
        let sent = sent.collect::<Vec<_>>().join("; ");
        let received = case["received"].as_array().expect("received").iter();
        let received = received.map(|r| r.as_str().unwrap_or_default().to_owned());
        for foreign in received.chain([sent]) {
            tried += 1;
            check_cookies(&foreign);
        }
    }
    assert!(tried > 300, "{tried}");
}

fn check_cookies(foreign: &str) {
    let ours = |n: &[u8]| n == b"hf_sid";
    for (value, left) in [
        (
            format!("hf_sid=tok.en; {foreign}"),
            foreign.trim_start_matches([' ', '\t']),
        ),
        (format!("{foreign}; hf_sid=tok.en"), foreign),
        (
            format!("{foreign}; hf_sid=tok.en; z=\""),
            &format!("{foreign}; z=\"")[..],
        ),
    ] {
        let found: Vec<_> = cookies::values(value.as_bytes(), b"hf_sid").collect();
        assert_eq!(found, [b"tok.en"], "{value}");
        let mut out = Vec::new();
        match cookies::without(value.as_bytes(), ours, &mut out) {
            cookies::Rewrite::Changed => {
                assert_eq!(
                    out.escape_ascii().to_string(),
                    left.as_bytes().escape_ascii().to_string()
                );
            }
            cookies::Rewrite::Empty => {
                assert!(left.trim_matches([' ', '\t', ';']).is_empty(), "{value}")
            }
            cookies::Rewrite::Unchanged => panic!("not found in {value}"),
        }
    }
}
