//! Sending the request to its upstream and reading the head of the answer, with retries.
//!
//! Owns one exchange: the upstream connection, the request's body on its way, the answer's first
//! bytes. Runs on a data core.
//!
//! Invariants: a request that never reached an upstream may go to another; one that may have been
//! seen is tried again only if it is idempotent (RFC 9110, 9.2.2) and all of it is still at hand; an
//! answer of which one byte was seen is never asked for again. A kept connection that the upstream
//! had closed counts as no failure of the upstream.

pub mod body;
pub mod head;
pub mod link;
pub mod pool;
pub mod proxied;
pub mod queue;

use std::time::Duration;

use holdfast_config::plan::Retry;
use holdfast_runtime::buffers::Buffer;
use holdfast_runtime::clock;

use crate::accept::{Client, Conn};
use crate::accesslog::Record;
use crate::core::Core;
use crate::deliver::page::Refusal;
use crate::generation::Generation;
use crate::h2::Fault;
use crate::message::UpstreamRef;
use crate::metrics::{Metric, bump};
use crate::parse::{self, Asked, Framing, MAX_INTERIM, Name, Progress, Version};
use crate::pin::stage::{self, Pinned};
use crate::text::Sink;
use body::{BodyError, Pump, Reader};
use pool::{ConnectError, UpstreamConn};

/// An answer's head has been read (into [`Conn::response`]); its body is still to come.
#[derive(Debug)]
pub struct Answered {
    /// What was decided on the way here. It holds the place among what is in flight.
    pub pinned: Box<Pinned>,
    /// Which upstream answered.
    pub at: UpstreamRef,
    /// The exchange under way.
    pub exchange: Exchange,
}

/// An exchange with an upstream.
#[derive(Debug)]
pub struct Exchange {
    /// The request's body, if it did not come whole with its head. Before `up`: it holds a slot.
    pub pump: Option<Pump>,
    /// The connection that it came over.
    pub up: UpstreamConn,
    /// Bytes of the answer: its head first.
    pub input: Buffer,
    /// Bytes of `Conn::input` that belong to this request, where there is no pump.
    pub consumed: usize,
}

/// How a try failed.
#[derive(Debug)]
enum Failure {
    Connect(ConnectError),
    /// No byte of an answer came; the connection was kept from before.
    Stale,
    /// The upstream says that it has not looked at the request.
    Unprocessed,
    /// No byte of an answer came over a new connection.
    NoAnswer,
    /// The answer broke off within its head.
    Truncated,
    TimedOut,
    Malformed(&'static str),
    Body(BodyError),
}

/// What of the request's body is at hand.
enum Outgoing {
    /// All of it: so many bytes behind the head.
    Whole(usize),
    /// It is still coming.
    Streaming,
}

/// Sends the request and reads the answer's head.
pub async fn forward(
    core: &'static Core,
    conn: &mut Conn,
    mut pinned: Box<Pinned>,
    record: &mut Record,
) -> Result<Answered, Refusal> {
    let retry = conn.generation.service(pinned.at).retry.clone();
    let outgoing = outgoing(core, conn, &retry).await?;
    let mut tries = 0;
    let mut stale = 0;
    loop {
        tries += 1;
        let at = pinned.at;
        record.upstream = Some(at);
        record.tries = tries;
        bump(&conn.generation.upstream(at).metrics().requests, 1);
        let failure = match attempt(core, conn, &pinned, &outgoing, stale > 0).await {
            Ok(exchange) => {
                core.outcome(&conn.generation, at, true);
                if conn.generation.log.is_some() {
                    record.answered_ns = clock::monotonic_ns();
                }
                return Ok(Answered {
                    pinned,
                    at,
                    exchange,
                });
            }
            Err(failure) => failure,
        };
        count(core, &conn.generation, at, &failure);
        if let Failure::Body(error) = failure {
            return Err(body_refusal(error));
        }
        let at_hand = matches!(outgoing, Outgoing::Whole(n) if n <= retry.body_bytes);
        let resendable = conn.head.method.idempotent() && at_hand;
        match failure {
            // The same upstream, over a new connection: it has not failed.
            Failure::Unprocessed if at_hand && stale == 0 => {
                stale += 1;
                tries -= 1;
                continue;
            }
            Failure::Stale if resendable && stale == 0 => {
                stale += 1;
                tries -= 1;
                continue;
            }
            // Another upstream could be had no more than this one, and a pin is not to move for it.
            Failure::Connect(ConnectError::Exhausted) => return Err(refusal(&failure)),
            Failure::Connect(_) if tries < retry.attempts => {}
            Failure::Unprocessed if tries < retry.attempts && at_hand => {}
            Failure::Stale | Failure::NoAnswer if tries < retry.attempts && resendable => {}
            _ => return Err(refusal(&failure)),
        }
        core.metrics().count(Metric::Retries);
        stale = 0;
        let (status, reason) = status(&failure);
        Box::pin(stage::another(core, conn, &mut pinned, record))
            .await
            .map_err(|_| Refusal::upstream(status, reason))?;
    }
}

async fn outgoing(core: &Core, conn: &mut Conn, retry: &Retry) -> Result<Outgoing, Refusal> {
    let limit = conn.generation.limits().body_bytes;
    let length = match conn.head.framing {
        Framing::Length(n) => n,
        Framing::Chunked => return Ok(Outgoing::Streaming),
        _ => return Ok(Outgoing::Whole(0)),
    };
    if limit > 0 && length > limit {
        return Err(Refusal::too_large(
            "the body is longer than this gateway takes",
        ));
    }
    let here = conn.input.len() - conn.head.len;
    if length <= here as u64 {
        return Ok(Outgoing::Whole(length as usize));
    }
    // Only what is at hand can be sent again, so what may be sent again is gathered first.
    let gathered = retry.attempts > 1
        && conn.head.method.idempotent()
        && length <= retry.body_bytes as u64
        && !conn.head.expect_continue;
    if !gathered {
        return Ok(Outgoing::Streaming);
    }
    Box::pin(body::gather(core, conn, length as usize - here))
        .await
        .map_err(body_refusal)?;
    Ok(Outgoing::Whole(length as usize))
}

async fn attempt(
    core: &'static Core,
    conn: &mut Conn,
    pinned: &Pinned,
    outgoing: &Outgoing,
    fresh: bool,
) -> Result<Exchange, Failure> {
    let at = pinned.at;
    let careful = !conn.head.method.idempotent() || matches!(outgoing, Outgoing::Streaming);
    let client = proxied::Client::of(conn, pinned);
    let up = pool::checkout(core, &conn.generation, at, fresh, careful, client)
        .await
        .map_err(Failure::Connect)?;
    let mut out = Buffer::take();
    head::write(
        core,
        conn,
        &pinned.attached.request,
        &pinned.attached,
        &mut out,
    );
    let mut consumed = conn.head.len;
    let mut content: &[u8] = &[];
    if let Outgoing::Whole(n) = *outgoing {
        content = &conn.input.as_slice()[consumed..consumed + n];
        consumed += n;
        arm(conn, &up);
    }
    let whole = matches!(outgoing, Outgoing::Whole(_));
    let (written, input) = up.link.begin(out, content, whole).await;
    if written.is_err() {
        return Err(unanswered(&up));
    }
    let pump = match outgoing {
        Outgoing::Whole(_) => None,
        Outgoing::Streaming => Some(start_pump(core, conn, &up)),
    };
    let mut exchange = Exchange {
        pump,
        up,
        input,
        consumed,
    };
    read_head(core, conn, &mut exchange).await?;
    Ok(exchange)
}

fn unanswered(up: &UpstreamConn) -> Failure {
    let fault = up.link.h2().and_then(|call| call.fault());
    match fault {
        _ if up.link.expired() => Failure::TimedOut,
        Some(Fault::Unprocessed) => Failure::Unprocessed,
        Some(Fault::Malformed(reason)) => Failure::Malformed(reason),
        // A shared connection is looked at before it is used.
        Some(Fault::Gone) => Failure::NoAnswer,
        None if up.reused => Failure::Stale,
        None => Failure::NoAnswer,
    }
}

fn arm(conn: &Conn, up: &UpstreamConn) {
    let limit = conn.generation.limits().response_timeout;
    if !limit.is_zero() {
        up.link.arm(limit);
    }
}

fn start_pump(core: &'static Core, conn: &Conn, up: &UpstreamConn) -> Pump {
    let mut first = Buffer::empty();
    first.put(&conn.input.as_slice()[conn.head.len..]);
    let reader = match conn.head.framing {
        Framing::Length(n) => Reader::Length(n),
        _ if conn.client.h2().is_some() => Reader::Frames {
            quiet: conn
                .head
                .value(conn.input.as_slice(), Name::ContentType)
                .is_some_and(|kind| kind.starts_with(b"application/grpc")),
        },
        _ => Reader::Chunked(Box::new(parse::chunked::Decoder::request())),
    };
    Pump::start(core, conn, up.link.clone(), reader, first)
}

async fn read_head(
    core: &'static Core,
    conn: &mut Conn,
    exchange: &mut Exchange,
) -> Result<(), Failure> {
    let mut interim = 0;
    conn.response_scan = Default::default();
    loop {
        if !exchange.input.is_empty() {
            let progress = parse::response(
                exchange.input.as_slice(),
                &conn.generation.response_limits,
                &mut conn.response_scan,
                Asked {
                    method: conn.head.method,
                    upgrade: conn.head.upgrade.is_some(),
                },
                &mut conn.response,
            )
            .map_err(|r| Failure::Malformed(r.reason))?;
            if progress == Progress::Complete {
                if !conn.response.is_interim() {
                    if conn.response.status == 101 && conn.client.h2().is_some() {
                        is_opened(conn, exchange.input.as_slice())?;
                    }
                    exchange.up.link.disarm();
                    return Ok(());
                }
                interim += 1;
                if interim > MAX_INTERIM {
                    return Err(Failure::Malformed("too many interim responses"));
                }
                Box::pin(pass_interim(core, conn, exchange)).await;
                continue;
            }
        }
        let seen = !exchange.input.is_empty() || interim > 0;
        if read_some(conn, exchange).await? == 0 {
            return Err(match unanswered(&exchange.up) {
                early @ (Failure::TimedOut | Failure::Unprocessed) => early,
                _ if seen => Failure::Truncated,
                other => other,
            });
        }
    }
}

/// Of a WebSocket that came by extended CONNECT we are the client, who must check the answer to its key
/// (RFC 6455, 4.1); a client of HTTP/1.1 checks it itself.
#[cold]
fn is_opened(conn: &Conn, input: &[u8]) -> Result<(), Failure> {
    let value = |lines: &[parse::Line], buf: &[u8], name: &[u8]| {
        let mut all = lines
            .iter()
            .filter(|l| l.name(buf).eq_ignore_ascii_case(name));
        let value = all.next().map(|l| l.value(buf).to_vec());
        value.filter(|_| all.next().is_none())
    };
    let asked = conn.input.as_slice();
    let key = value(&conn.head.lines, asked, b"sec-websocket-key").unwrap_or_default();
    let accept = value(&conn.response.lines, input, b"sec-websocket-accept");
    if accept.as_deref() == Some(crate::h2::head::websocket_accept(&key).as_bytes()) {
        Ok(())
    } else {
        Err(Failure::Malformed(
            "the upstream answered the WebSocket handshake wrongly",
        ))
    }
}

/// Reads once from the upstream, the request's body going on beside. 0 is the end (or a failure).
async fn read_some(conn: &Conn, exchange: &mut Exchange) -> Result<usize, Failure> {
    let gone = || Failure::Body(BodyError::ClientGone);
    let client = &conn.client;
    let input = std::mem::take(&mut exchange.input);
    let Some(pump) = exchange.pump.as_mut() else {
        let link = &exchange.up.link;
        let (read, back) = match client {
            Client::Socket(_) => link.read(input).await,
            Client::H2(client) => {
                let reading = Box::pin(client.unless_gone(link.read_soon(input)));
                reading.await.ok_or_else(gone)?
            }
        };
        exchange.input = back;
        return Ok(read.unwrap_or(0));
    };
    let link = &exchange.up.link;
    let late = client.h2().is_some();
    let mut reading = std::pin::pin!(async {
        if late {
            link.read_late(input).await
        } else {
            link.read(input).await
        }
    });
    loop {
        let turn = pump.until(reading.as_mut());
        let turn = match client {
            Client::Socket(_) => turn.await,
            Client::H2(client) => client.unless_gone(turn).await.ok_or_else(gone)?,
        };
        if let Some((read, back)) = turn {
            exchange.input = back;
            return Ok(read.unwrap_or(0));
        }
        match pump.state.error.get() {
            // The upstream has the whole request: now its time runs.
            None => arm(conn, &exchange.up),
            // It may have answered before it closed.
            Some(BodyError::UpstreamGone) => exchange.up.link.arm(Duration::from_secs(1)),
            Some(error) => {
                exchange.up.link.cut();
                let _ = reading.as_mut().await;
                return Err(Failure::Body(error));
            }
        }
    }
}

/// Passes a 1xx on (RFC 9110, 15.2), if the client can take one.
async fn pass_interim(core: &Core, conn: &mut Conn, exchange: &mut Exchange) {
    let len = conn.response.len;
    let wanted = conn.head.version == Version::Http11
        && (conn.response.status != 100 || conn.head.expect_continue);
    if wanted {
        let mut out = Buffer::take();
        crate::deliver::head::write_interim(core, conn, exchange.input.as_slice(), &mut out);
        match &conn.client {
            Client::H2(client) => client.send_interim(out.as_slice()),
            Client::Socket(_) => {
                let writing = conn.client.write(out, false);
                let (_, _) = body::beside(exchange.pump.as_mut(), writing).await;
            }
        }
    }
    exchange.input.consume(len);
    conn.response_scan = Default::default();
}

fn count(core: &Core, generation: &Generation, at: UpstreamRef, failure: &Failure) {
    let metric = match failure {
        Failure::Connect(ConnectError::Failed) => Metric::UpstreamConnectErrors,
        Failure::Connect(ConnectError::Tls) => Metric::UpstreamTlsErrors,
        Failure::Connect(ConnectError::Exhausted) => Metric::UpstreamExhausted,
        Failure::Connect(ConnectError::TimedOut) | Failure::TimedOut => Metric::UpstreamTimeouts,
        Failure::Stale | Failure::Unprocessed => Metric::UpstreamStale,
        Failure::NoAnswer => Metric::UpstreamResets,
        Failure::Truncated => Metric::UpstreamTruncated,
        Failure::Malformed(_) => Metric::UpstreamMalformed,
        Failure::Body(_) => Metric::ClientAborted,
    };
    core.metrics().count(metric);
    if !matches!(
        failure,
        Failure::Stale
            | Failure::Unprocessed
            | Failure::Body(_)
            | Failure::Connect(ConnectError::Exhausted)
    ) {
        bump(&generation.upstream(at).metrics().failures, 1);
        core.outcome(generation, at, false);
    }
}

fn status(failure: &Failure) -> (u16, &'static str) {
    match failure {
        Failure::Connect(ConnectError::Failed) => (502, "the upstream refused the connection"),
        Failure::Connect(ConnectError::Tls) => (502, "the TLS handshake with the upstream failed"),
        Failure::Connect(ConnectError::Exhausted) => {
            (503, "the gateway can open no more connections")
        }
        Failure::Connect(ConnectError::TimedOut) => {
            (504, "the upstream took no connection in time")
        }
        Failure::Stale | Failure::NoAnswer => {
            (502, "the upstream closed the connection without an answer")
        }
        Failure::Unprocessed => (503, "the upstream takes no more requests"),
        Failure::Truncated => (502, "the upstream's answer broke off"),
        Failure::TimedOut => (504, "the upstream did not answer in time"),
        Failure::Malformed(reason) => (502, reason),
        Failure::Body(_) => (400, "the request's body did not arrive"),
    }
}

fn refusal(failure: &Failure) -> Refusal {
    let (status, reason) = status(failure);
    Refusal::upstream(status, reason)
}

/// The answer to a body that failed.
pub fn body_refusal(error: BodyError) -> Refusal {
    match error {
        BodyError::ClientGone => Refusal::gone(),
        BodyError::TooSlow => Refusal::timeout("the request's body came too slowly"),
        BodyError::Malformed(reason) => Refusal::malformed(reason),
        BodyError::TooLarge => Refusal::too_large("the body is longer than this gateway takes"),
        BodyError::UpstreamGone => {
            Refusal::upstream(502, "the upstream closed while the request was being sent")
        }
    }
}
