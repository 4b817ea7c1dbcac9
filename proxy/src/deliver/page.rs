//! Answers of the gateway's own: what went wrong, in a line.
//!
//! Owns [`Refusal`], the one way in which a request ends early. Runs on a data core.
//!
//! Invariants: a page names no address, no upstream and nothing of the configuration; a connection
//! is kept only if the request that is refused was read to its end in one way.

use holdfast_runtime::buffers::Buffer;

use crate::accept::{Client, Conn};
use crate::accesslog::Record;
use crate::core::Core;
use crate::metrics::Metric;
use crate::parse::{Framing, Method, Version};
use crate::serve::Next;
use crate::text::{Sink, write_number};

/// Why a request gets no answer of an upstream's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Status, or 0 where nothing can be answered.
    pub status: u16,
    /// A line for people.
    pub reason: &'static str,
    /// Seconds of Retry-After.
    pub retry_after: Option<u32>,
    /// A further line of the head, such as `Location`.
    pub line: Option<Box<[u8]>>,
    close: bool,
    metric: Option<Metric>,
}

impl Refusal {
    fn new(status: u16, reason: &'static str, close: bool, metric: Option<Metric>) -> Self {
        Self {
            status,
            reason,
            retry_after: None,
            line: None,
            close,
            metric,
        }
    }

    /// The client is gone: nothing to answer.
    pub fn gone() -> Self {
        Self::new(0, "the client went away", true, Some(Metric::ClientAborted))
    }

    /// An idle connection ended: nothing happened.
    pub fn ended() -> Self {
        Self::new(0, "", true, None)
    }

    /// What the parser refused.
    pub fn parse(refusal: crate::parse::Refusal) -> Self {
        let metric = match refusal.status {
            413 | 414 | 431 => Metric::RefusedTooLarge,
            405 | 501 => Metric::RefusedMethod,
            _ => Metric::RefusedMalformed,
        };
        Self::new(refusal.status, refusal.reason, true, Some(metric))
    }

    /// 400.
    pub fn malformed(reason: &'static str) -> Self {
        Self::new(400, reason, true, Some(Metric::RefusedMalformed))
    }

    /// 413.
    pub fn too_large(reason: &'static str) -> Self {
        Self::new(413, reason, true, Some(Metric::RefusedTooLarge))
    }

    /// 408.
    pub fn timeout(reason: &'static str) -> Self {
        Self::new(408, reason, true, Some(Metric::RefusedTimeout))
    }

    /// 401, with the line that says what is asked for.
    pub fn unauthorized(challenge: &'static [u8]) -> Self {
        let metric = Some(Metric::RefusedToken);
        Self {
            line: Some(challenge.into()),
            ..Self::new(401, "a valid token is required", false, metric)
        }
    }

    /// 404: no rule.
    pub fn unrouted() -> Self {
        Self::new(
            404,
            "no route matches this request",
            false,
            Some(Metric::RefusedUnrouted),
        )
    }

    /// 429: too many tokens that are none of ours.
    pub fn guessing() -> Self {
        let reason = "too many invalid session tokens";
        Self::new(429, reason, false, Some(Metric::RefusedGuessing))
    }

    /// 503 with Retry-After: too much waits for another core.
    pub fn overload() -> Self {
        Self {
            retry_after: Some(1),
            ..Self::new(503, "overloaded", false, Some(Metric::RefusedOverload))
        }
    }

    /// 403: the client looks like another than its session's.
    pub fn mismatch() -> Self {
        let reason = "this session belongs to another client";
        Self::new(403, reason, false, Some(Metric::RefusedMismatch))
    }

    /// 403: a WebSocket with a session cookie, from a page of another origin.
    pub fn origin() -> Self {
        let reason = "a page of this origin may not open a socket here";
        Self::new(403, reason, false, Some(Metric::RefusedOrigin))
    }

    /// 501: a WebSocket for a service that is spoken to by HTTP/2.
    pub fn websocket() -> Self {
        let reason = "this service takes no WebSockets: it is spoken to by HTTP/2";
        Self::new(501, reason, false, Some(Metric::RefusedWebsocket))
    }

    /// 403: the subject has as many sessions as it may.
    pub fn subject() -> Self {
        let reason = "too many sessions of this user";
        Self::new(403, reason, false, Some(Metric::RefusedSubject))
    }

    /// 421: a reload has changed which certificates clients must show; a new connection shows one.
    pub fn misdirected() -> Self {
        let reason = "a new connection is needed";
        Self::new(421, reason, true, Some(Metric::RefusedTrust))
    }

    /// 502 or 504.
    pub fn upstream(status: u16, reason: &'static str) -> Self {
        Self::new(status, reason, false, None)
    }

    /// 503 with Retry-After.
    pub fn unavailable(status: u16, reason: &'static str, retry_after: u32) -> Self {
        Self {
            retry_after: Some(retry_after),
            ..Self::new(status, reason, false, Some(Metric::UpstreamUnavailable))
        }
    }

    /// 303 to a path of ours, with further lines.
    pub fn see_other(lines: Box<[u8]>) -> Self {
        Self {
            line: Some(lines),
            ..Self::new(303, "see the other address", false, None)
        }
    }
}

/// The standard phrase of a status that we answer with.
fn phrase(status: u16) -> &'static str {
    match status {
        303 => "See Other",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}

/// Answers a refusal and says what becomes of the connection.
pub async fn refuse(
    core: &'static Core,
    conn: &mut Conn,
    mut refusal: Refusal,
    record: &mut Record,
) -> Next {
    if let Some(metric) = refusal.metric {
        core.metrics().count(metric);
    }
    record.status = refusal.status;
    record.error = refusal.reason;
    if refusal.status == 0 {
        if refusal.metric.is_some() {
            core.log(conn, record);
        }
        return Next::Close;
    }
    let unread = record.parsed && !whole(conn);
    let keep =
        record.parsed && !refusal.close && !unread && conn.head.keep_alive && !core.draining.get();
    let mut out = Buffer::take();
    if conn.secured.is_some()
        && let Some(line) = conn
            .generation
            .tls(conn.listener)
            .and_then(|s| s.hsts.clone())
    {
        refusal.line = Some(
            [refusal.line.as_deref().unwrap_or_default(), &line]
                .concat()
                .into(),
        );
    }
    write(&refusal, conn, record, keep, &mut out);
    core.log(conn, record);
    if record.parsed && keep {
        let length = if let Framing::Length(n) = conn.head.framing {
            n as usize
        } else {
            0
        };
        conn.input.consume(conn.head.len + length);
    }
    conn.client.arm(crate::deliver::body::CLIENT_STALL);
    if let Client::H2(client) = &conn.client {
        let (head, body) = halves(out.as_slice());
        if client.send_head(head, body.is_empty()).is_err() {
            return Next::Close;
        }
        out.consume(head.len());
    }
    let written = if out.is_empty() {
        Ok(())
    } else {
        conn.client.write(out, true).await.0
    };
    conn.client.disarm();
    match written {
        Err(_) => Next::Close,
        Ok(()) if keep => Next::Keep,
        Ok(()) => Next::Linger,
    }
}

/// An answer's head, and what follows it.
fn halves(answer: &[u8]) -> (&[u8], &[u8]) {
    let end = memchr::memmem::find(answer, b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
    answer.split_at(end)
}

/// Is the whole request in the input?
fn whole(conn: &Conn) -> bool {
    match conn.head.framing {
        Framing::Length(n) => n <= conn.input.len().saturating_sub(conn.head.len) as u64,
        Framing::Chunked => false,
        _ => true,
    }
}

fn write(refusal: &Refusal, conn: &Conn, record: &Record, keep: bool, out: &mut Buffer) {
    let phrase = phrase(refusal.status);
    out.put(b"HTTP/1.1 ");
    write_number(u64::from(refusal.status), out);
    out.put(b" ");
    out.put(phrase.as_bytes());
    out.put(b"\r\nContent-Type: text/plain; charset=utf-8\r\nCache-Control: no-store\r\nContent-Length: ");
    let mut body = Vec::with_capacity(128);
    write_number(u64::from(refusal.status), &mut body);
    body.put(b" ");
    body.put(phrase.as_bytes());
    body.put(b": ");
    body.put(refusal.reason.as_bytes());
    body.put(b"\n");
    write_number(body.len() as u64, out);
    out.put(b"\r\n");
    if let Some(seconds) = refusal.retry_after {
        out.put(b"Retry-After: ");
        write_number(u64::from(seconds), out);
        out.put(b"\r\n");
    }
    if refusal.status == 405 {
        out.put(b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n");
    }
    if let Some(line) = &refusal.line {
        out.put(line);
    }
    if !keep {
        out.put(b"Connection: close\r\n");
    } else if conn.head.version == Version::Http10 {
        out.put(b"Connection: keep-alive\r\n");
    }
    out.put(b"\r\n");
    if !(record.parsed && conn.head.method == Method::Head) {
        out.put(&body);
    }
}
