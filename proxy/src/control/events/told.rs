//! One event as it is told: CloudEvents 1.0 in JSON.
//!
//! Pure; the control thread's. Invariants: an event is written the same way wherever it goes, but for
//! the value of its session's subject, which is masked unless asked for; its `id` is that of the
//! happening ([`Event::id`]), so that who gets it twice can tell. No secret is ever in one.
//! Tested below.

use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::event::{Event, EventKind};
use crate::log::Rfc3339;

/// What a masked value shows as.
const MASK: &str = "\"***\"";

/// An event with its id.
#[derive(Debug)]
pub struct Told {
    /// The event.
    pub event: Event,
    id: [u8; 16],
}

#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: &'a str,
    source: &'a str,
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    time: String,
    datacontenttype: &'static str,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    sid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

impl Told {
    /// With its id.
    pub fn new(event: Event) -> Self {
        let id = event.id();
        Self { event, id }
    }

    /// Its id: 22 characters of base64url.
    pub fn id(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.id)
    }

    /// Whether `id` is its id.
    pub fn is(&self, id: &str) -> bool {
        URL_SAFE_NO_PAD.decode(id).is_ok_and(|id| id == self.id)
    }

    /// Bytes of memory, about.
    pub fn cost(&self) -> usize {
        let event = &self.event;
        let names = event.upstream.as_ref();
        240 + event.subject.as_ref().map_or(0, |s| s.len())
            + names.map_or(0, |u| u.service.len() + u.id.len())
    }

    /// Appends the JSON. `source` says whose it is ([`source`]); `values`: the subject is shown.
    pub fn write(&self, source: &str, values: bool, out: &mut Vec<u8>) {
        let event = &self.event;
        let sid = event.sid.as_ref().map(ToString::to_string);
        let upstream = event.upstream.as_deref();
        let about = upstream.map(|u| format!("{}/{}", u.service, u.id));
        let shown = event.subject.as_ref().and_then(|subject| {
            let text = if values { subject } else { MASK };
            RawValue::from_string(text.to_owned()).ok()
        });
        let word = Some(event.reason).filter(|word| !word.is_empty());
        let is_state = event.kind == EventKind::UpstreamStateChanged;
        let (state, reason) = if is_state { (word, None) } else { (None, word) };
        let whole = CloudEvent {
            specversion: "1.0",
            id: &self.id(),
            source,
            r#type: event.kind.name(),
            subject: sid.as_deref().or(about.as_deref()),
            time: Rfc3339(UNIX_EPOCH + Duration::from_millis(event.at)).to_string(),
            datacontenttype: "application/json",
            data: Data {
                sid: sid.as_deref(),
                subject: shown.as_deref(),
                service: upstream.map(|u| &*u.service),
                upstream: upstream.map(|u| &*u.id),
                state,
                reason,
            },
        };
        // Writing to memory does not fail.
        let _ = serde_json::to_writer(out, &whole);
    }

    /// The JSON as a value of another document.
    pub fn json(&self, source: &str, values: bool) -> Box<RawValue> {
        let mut text = Vec::new();
        self.write(source, values, &mut text);
        String::from_utf8(text)
            .ok()
            .and_then(|text| RawValue::from_string(text).ok())
            .unwrap_or_default()
    }
}

/// The `source` of this instance's events: a URI reference.
pub fn source(node: &str) -> String {
    let mut out = "/holdfast/".to_owned();
    for byte in node.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use holdfast_store::id::Sid;

    use super::*;
    use crate::event::UpstreamName;

    fn written(event: Event, values: bool) -> serde_json::Value {
        let mut out = Vec::new();
        Told::new(event).write(&source("gw 1"), values, &mut out);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn a_session_s_event_has_all_that_cloudevents_wants() {
        let event = Event {
            kind: EventKind::SessionDestroyed,
            at: 1_700_000_000_123,
            sid: Some(Sid([7; 16])),
            reason: "admin",
            subject: Some("\"u1\"".into()),
            upstream: None,
            ordinal: 0,
        };
        let json = written(event.clone(), true);
        let sid = Sid([7; 16]).to_string();
        assert_eq!(json["specversion"], "1.0");
        assert_eq!(json["source"], "/holdfast/gw%201");
        assert_eq!(json["type"], "sessionDestroyed");
        assert_eq!(json["subject"], sid);
        assert_eq!(json["time"], "2023-11-14T22:13:20.123Z");
        assert_eq!(json["id"].as_str().unwrap().len(), 22);
        let data = serde_json::json!({"sid": sid, "subject": "u1", "reason": "admin"});
        assert_eq!(json["data"], data);
        let masked = written(event, false);
        assert_eq!(masked["data"]["subject"], "***");
        assert_eq!(masked["id"], json["id"]);
    }

    #[test]
    fn an_upstream_s_event_names_it() {
        let json = written(
            Event {
                kind: EventKind::UpstreamStateChanged,
                at: 0,
                sid: None,
                reason: "down",
                subject: None,
                upstream: Some(Box::new(UpstreamName {
                    service: "s".into(),
                    id: "a".into(),
                })),
                ordinal: 0,
            },
            false,
        );
        assert_eq!(json["subject"], "s/a");
        let data = serde_json::json!({"service": "s", "upstream": "a", "state": "down"});
        assert_eq!(json["data"], data);
    }
}
