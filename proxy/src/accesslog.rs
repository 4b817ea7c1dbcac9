//! The access log, as a core makes it: one line an exchange, gathered and handed to the control thread.
//!
//! Owns the fields (one table) and a buffer a core. Lines are formatted on the data core; files are
//! the control thread's.
//!
//! Invariants: at most [`MAX_OUT`] buffers a core are on their way; a line that finds none is dropped
//! and counted, never waited for. No token, cookie, header value but those named here, and no query
//! value of a query token, is ever written.

use std::cell::{Cell, RefCell};

use holdfast_config::plan::{AccessLog, LogFormat};
use holdfast_runtime::clock;

use crate::accept::Conn;
use crate::core::Core;
use crate::message::{Message, UpstreamRef};
use crate::metrics::{Metric, PinOutcome};
use crate::parse::Name;
use crate::text::{Sink, write_fmt, write_ip, write_number};

/// Buffers of a core that may be on their way to the writer.
pub const MAX_OUT: u32 = 16;
const FLUSH_BYTES: usize = 32 * 1024;

/// What is known of an exchange when it ends.
#[derive(Debug)]
pub struct Record {
    /// Monotonic nanoseconds at the head's end.
    pub started_ns: u64,
    /// Monotonic nanoseconds at the upstream's head, or 0.
    pub answered_ns: u64,
    /// The head was read whole.
    pub parsed: bool,
    /// Status sent, 0 for none.
    pub status: u16,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the response's body.
    pub bytes_out: u64,
    /// Index into `Plan::rules`.
    pub rule: Option<u32>,
    /// The last upstream tried.
    pub upstream: Option<UpstreamRef>,
    /// Tries.
    pub tries: u32,
    /// How the pin went.
    pub pin: PinOutcome,
    /// The session's public name.
    pub sid: Option<[u8; 22]>,
    /// What was presented: `none`, `valid`, `dead`, `refused`, `unsure`, `new`.
    pub session: &'static str,
    /// The client's address.
    pub client: Option<std::net::IpAddr>,
    /// The request id that was made, if none came.
    pub request_id: Option<[u8; 32]>,
    /// The upstream broke off.
    pub truncated: bool,
    /// Why the gateway itself answered; empty where an upstream did.
    pub error: &'static str,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            started_ns: 0,
            answered_ns: 0,
            parsed: false,
            status: 0,
            bytes_in: 0,
            bytes_out: 0,
            rule: None,
            upstream: None,
            tries: 0,
            pin: PinOutcome::None,
            sid: None,
            session: "none",
            client: None,
            request_id: None,
            truncated: false,
            error: "",
        }
    }
}

/// A field of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the configuration's LOG_FIELDS says what each is"
)]
pub enum Field {
    Time,
    RequestId,
    Traceparent,
    Client,
    Peer,
    Listener,
    Method,
    Host,
    Path,
    Protocol,
    Status,
    BytesIn,
    BytesOut,
    Route,
    Service,
    Upstream,
    Attempts,
    Sid,
    Session,
    Pin,
    Duration,
    UpstreamTime,
    UserAgent,
    Referer,
    TlsVersion,
    TlsCipher,
    TlsName,
    Error,
}

/// All fields, in the order of the configuration's `LOG_FIELDS` and of a JSON line, with whether the
/// value is bare (a number) in JSON.
pub const FIELDS: &[(Field, &str, bool)] = &[
    (Field::Time, "time", false),
    (Field::RequestId, "requestId", false),
    (Field::Traceparent, "traceparent", false),
    (Field::Client, "client", false),
    (Field::Peer, "peer", false),
    (Field::Listener, "listener", false),
    (Field::Method, "method", false),
    (Field::Host, "host", false),
    (Field::Path, "path", false),
    (Field::Protocol, "protocol", false),
    (Field::Status, "status", true),
    (Field::BytesIn, "bytesIn", true),
    (Field::BytesOut, "bytesOut", true),
    (Field::Route, "route", false),
    (Field::Service, "service", false),
    (Field::Upstream, "upstream", false),
    (Field::Attempts, "attempts", true),
    (Field::Sid, "sid", false),
    (Field::Session, "session", false),
    (Field::Pin, "pin", false),
    (Field::Duration, "durationUs", true),
    (Field::UpstreamTime, "upstreamUs", true),
    (Field::UserAgent, "userAgent", false),
    (Field::Referer, "referer", false),
    (Field::TlsVersion, "tlsVersion", false),
    (Field::TlsCipher, "tlsCipher", false),
    (Field::TlsName, "tlsName", false),
    (Field::Error, "error", false),
];

#[derive(Debug)]
enum Piece {
    Text(Box<str>),
    Field(Field),
}

/// How lines of a configuration look.
#[derive(Debug)]
pub struct Format {
    /// `None`: JSON.
    template: Option<Vec<Piece>>,
}

impl Format {
    /// For a configured log.
    pub fn new(settings: &AccessLog) -> Self {
        Self {
            template: match &settings.format {
                LogFormat::Json => None,
                LogFormat::Template(text) => Some(compile(text)),
            },
        }
    }
}

/// The lines of one core that are not handed over yet.
#[derive(Debug, Default)]
pub struct Lines {
    buffer: RefCell<Vec<u8>>,
    spare: RefCell<Vec<Vec<u8>>>,
    out: Cell<u32>,
}

impl Lines {
    /// Writes the line of an exchange.
    pub fn line(&self, core: &Core, format: &Format, conn: &Conn, record: &Record) {
        let mut buffer = self.buffer.borrow_mut();
        if buffer.len() >= FLUSH_BYTES && !self.hand_over(core, &mut buffer) {
            core.metrics().count(Metric::LogLinesDropped);
            return;
        }
        core.metrics().count(Metric::LogLines);
        let source = Source { conn, record };
        match &format.template {
            None => source.json(&mut buffer),
            Some(pieces) => {
                for piece in pieces {
                    match piece {
                        Piece::Text(text) => buffer.put(text.as_bytes()),
                        Piece::Field(field) => {
                            let before = buffer.len();
                            source.value(*field, false, &mut buffer);
                            if buffer.len() == before {
                                buffer.put(b"-");
                            }
                        }
                    }
                }
                buffer.put(b"\n");
            }
        }
    }

    /// Hands over what is there.
    pub fn flush(&self, core: &Core) {
        let mut buffer = self.buffer.borrow_mut();
        if !buffer.is_empty() {
            self.hand_over(core, &mut buffer);
        }
    }

    /// A buffer came back from the writer.
    pub fn returned(&self, buffer: Vec<u8>) {
        self.out.set(self.out.get().saturating_sub(1));
        self.spare.borrow_mut().push(buffer);
    }

    fn hand_over(&self, core: &Core, buffer: &mut Vec<u8>) -> bool {
        if self.out.get() >= MAX_OUT {
            return false;
        }
        self.out.set(self.out.get() + 1);
        let fresh = self
            .spare
            .borrow_mut()
            .pop()
            .unwrap_or_else(|| Vec::with_capacity(FLUSH_BYTES + 4096));
        let full = std::mem::replace(buffer, fresh);
        core.mesh.send(core.shared.control(), Message::Log(full));
        true
    }
}

/// Splits a template at its `{field}` places. The configuration's check has refused unknown names;
/// what is no field stays text.
fn compile(text: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        let Some(close) = rest[open..].find('}').map(|i| open + i) else {
            break;
        };
        let name = &rest[open + 1..close];
        match FIELDS.iter().find(|(_, n, _)| *n == name) {
            Some((field, ..)) => {
                if open > 0 {
                    pieces.push(Piece::Text(rest[..open].into()));
                }
                pieces.push(Piece::Field(*field));
            }
            None => pieces.push(Piece::Text(rest[..=close].into())),
        }
        rest = &rest[close + 1..];
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.into()));
    }
    pieces
}

struct Source<'a> {
    conn: &'a Conn,
    record: &'a Record,
}

impl Source<'_> {
    fn json(&self, out: &mut Vec<u8>) {
        let mut first = true;
        for &(field, name, bare) in FIELDS {
            let start = out.len();
            out.put(if first { b"{\"" } else { b",\"" });
            out.put(name.as_bytes());
            out.put(if bare { b"\":" } else { b"\":\"" });
            let before = out.len();
            self.value(field, true, out);
            if out.len() == before {
                // A field without a value is left out.
                out.truncate(start);
                continue;
            }
            first = false;
            if !bare {
                out.put(b"\"");
            }
        }
        out.put(b"}\n");
    }

    fn value(&self, field: Field, json: bool, out: &mut Vec<u8>) {
        let record = self.record;
        let generation = &self.conn.generation;
        let plan = &generation.plan;
        match field {
            Field::Time => out.put(&clock::rfc3339(clock::wall_ms())),
            Field::Client => write_ip(record.client.unwrap_or(self.conn.peer.ip()), out),
            Field::Status => write_number(u64::from(record.status), out),
            Field::BytesIn => write_number(record.bytes_in, out),
            Field::BytesOut => write_number(record.bytes_out, out),
            Field::Peer => {
                write_ip(self.conn.peer.ip(), out);
                out.put(b":");
                write_number(u64::from(self.conn.peer.port()), out);
            }
            Field::Listener => {
                let listener = generation.listener(self.conn.listener);
                write_fmt(out, format_args!("{}", listener.address));
            }
            Field::Duration if record.started_ns > 0 => {
                write_number(
                    clock::monotonic_ns().saturating_sub(record.started_ns) / 1000,
                    out,
                );
            }
            Field::UpstreamTime if record.answered_ns > 0 => {
                write_number(
                    record.answered_ns.saturating_sub(record.started_ns) / 1000,
                    out,
                );
            }
            Field::Route => {
                if let Some(rule) = record.rule {
                    escaped(plan.rules[rule as usize].id.as_bytes(), json, out);
                }
            }
            Field::Service => {
                if let Some(at) = record.upstream {
                    escaped(
                        plan.services[at.service as usize].name.as_bytes(),
                        json,
                        out,
                    );
                }
            }
            Field::Upstream => {
                if let Some(at) = record.upstream {
                    let service = &plan.services[at.service as usize];
                    escaped(
                        service.upstreams[at.upstream as usize].id.as_bytes(),
                        json,
                        out,
                    );
                }
            }
            Field::Attempts if record.tries > 0 => write_number(u64::from(record.tries), out),
            Field::Pin => out.put(record.pin.name().as_bytes()),
            Field::Sid => {
                if let Some(sid) = &record.sid {
                    out.put(sid);
                }
            }
            Field::Session => out.put(record.session.as_bytes()),
            Field::TlsVersion | Field::TlsCipher | Field::TlsName => self.of_tls(field, out),
            Field::Error if record.truncated => out.put(b"the upstream's answer broke off"),
            Field::Error => out.put(record.error.as_bytes()),
            _ if record.parsed => self.of_head(field, json, out),
            _ => {}
        }
    }

    fn of_tls(&self, field: Field, out: &mut Vec<u8>) {
        let Some(secured) = &self.conn.secured else {
            return;
        };
        let facts = &secured.facts;
        match field {
            Field::TlsVersion => out.put(facts.version_name().as_bytes()),
            Field::TlsCipher => out.put(facts.suite_name().as_bytes()),
            // Letters, digits, dots and the like: it was checked when it was read.
            _ => out.put(facts.server_name.as_deref().unwrap_or_default().as_bytes()),
        }
    }

    fn of_head(&self, field: Field, json: bool, out: &mut Vec<u8>) {
        let head = &self.conn.head;
        let buf = self.conn.input.as_slice();
        // The head is gone once the input was handed on.
        if buf.len() < head.len {
            return;
        }
        let header = |name: Name| head.value(buf, name).unwrap_or_default();
        match field {
            Field::Method => escaped(head.method_bytes(buf), json, out),
            Field::Host => escaped(head.authority_bytes(buf), json, out),
            Field::Path => {
                let identity = &self.conn.generation.identity;
                identity.write_masked_target(head, buf, json, out);
            }
            Field::Protocol if self.conn.client.h2().is_some() => out.put(b"HTTP/2"),
            Field::Protocol => out.put(if head.version == crate::parse::Version::Http11 {
                b"HTTP/1.1"
            } else {
                b"HTTP/1.0"
            }),
            Field::RequestId => match &self.record.request_id {
                Some(made) => out.put(made),
                None => escaped(header(Name::XRequestId), json, out),
            },
            Field::Traceparent => escaped(header(Name::Traceparent), json, out),
            Field::UserAgent => escaped(header(Name::UserAgent), json, out),
            Field::Referer => {
                let line = head.lines.iter().find(|l| l.is(buf, b"referer"));
                escaped(line.map(|l| l.value(buf)).unwrap_or_default(), json, out);
            }
            _ => {}
        }
    }
}

/// Writes bytes of a client so that they end neither the string nor the line: JSON escapes, and
/// `\u00XX` for every byte outside ASCII, since headers need not be UTF-8.
pub fn escaped(bytes: &[u8], json: bool, out: &mut Vec<u8>) {
    for &byte in bytes {
        match byte {
            b'"' | b'\\' if json => out.extend_from_slice(&[b'\\', byte]),
            0x20..=0x7e => out.push(byte),
            _ => write_fmt(out, format_args!("\\u{:04x}", byte)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_text_and_fields() {
        let pieces = compile("{client} \"{method} {path}\" {status} {nonsense} end");
        let fields: Vec<_> = pieces
            .iter()
            .filter_map(|p| {
                if let Piece::Field(f) = p {
                    Some(*f)
                } else {
                    None
                }
            })
            .collect();
        assert_eq!(
            fields,
            [Field::Client, Field::Method, Field::Path, Field::Status]
        );
        assert!(matches!(pieces.last(), Some(Piece::Text(t)) if &**t == " end"));
    }

    #[test]
    fn the_fields_are_those_of_the_configuration() {
        let ours: Vec<_> = FIELDS.iter().map(|(_, name, _)| *name).collect();
        let theirs: Vec<_> = holdfast_config::plan::LOG_FIELDS
            .iter()
            .map(|(name, _)| *name)
            .collect();
        assert_eq!(ours, theirs);
    }

    #[test]
    fn a_value_can_end_neither_its_string_nor_its_line() {
        let mut out = Vec::new();
        escaped(b"a\"b\\c\r\n\xff", true, &mut out);
        assert_eq!(out, br#"a\"b\\c\u000d\u000a\u00ff"#);
    }
}
