//! The response's body on its way to the client.
//!
//! Owns how a body is delimited on both sides. Runs on a data core.
//!
//! Invariants: at most one buffer, or one pipe, is between upstream and client; what the upstream
//! cut short is never made to look whole; bytes behind a body's end are no one's and end the
//! upstream's connection.

use std::time::Duration;

use holdfast_runtime::buffers::Buffer;
use holdfast_runtime::splice::{self, Step};
use holdfast_runtime::stream::Stream;

use crate::accept::{Client, Conn};
use crate::core::Core;
use crate::forward::body::{BodyError, SPLICE_FROM, enlarge, transcode, write_chunk_header};
use crate::forward::link::Link;
use crate::forward::pool::UpstreamConn;
use crate::h2::head;
use crate::metrics::Metric;
use crate::parse::{Framing, Version, chunked};
use crate::text::Sink;

/// A client that takes nothing at all for so long is ended, where `minBodyRate` does not end it before.
pub const CLIENT_STALL: Duration = Duration::from_secs(60);

/// How the body goes out.
#[derive(Debug)]
pub struct Plan {
    /// As the upstream delimits it.
    pub framing: Framing,
    /// The client takes chunks. HTTP/2 delimits content by itself.
    pub chunks: bool,
    /// The client's connection is kept afterwards.
    pub keep: bool,
}

impl Plan {
    /// From the heads of both sides.
    pub fn new(core: &Core, conn: &Conn, request_done: bool) -> Self {
        let framing = conn.response.framing;
        let h2 = conn.client.h2().is_some();
        let chunks = conn.head.version == Version::Http11 && !h2;
        let delimited = h2 || chunks || !matches!(framing, Framing::Chunked | Framing::UntilClose);
        Self {
            framing,
            chunks,
            keep: conn.head.keep_alive && delimited && request_done && !core.draining.get(),
        }
    }

    /// Chunks are written to the client.
    pub fn encodes(&self) -> bool {
        self.chunks && matches!(self.framing, Framing::Chunked | Framing::UntilClose)
    }
}

/// How sending ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// All was sent; the upstream's connection is clean (true) or not.
    Whole(bool),
    /// The client went away, or was too slow.
    Client,
    /// The upstream broke off.
    Upstream,
}

/// Sends `out` (the head) and the body behind it. `input` holds what was read of the body so far.
pub async fn send(
    core: &Core,
    conn: &Conn,
    up: &UpstreamConn,
    plan: &Plan,
    input: Buffer,
    out: Buffer,
    sent: &mut u64,
) -> End {
    let result = match plan.framing {
        Framing::Length(n) => by_length(core, conn, up, n, input, out, sent).await,
        // What is rarer waits in boxes of its own, so that the path's state stays small.
        Framing::Chunked => Box::pin(by_chunks(core, conn, up, plan, input, out, sent)).await,
        Framing::UntilClose => Box::pin(until_close(core, conn, up, plan, input, out, sent)).await,
        Framing::None => {
            let clean = input.is_empty();
            write(core, conn, out, true, sent).await.map(|_| clean)
        }
    };
    match result {
        Ok(clean) => End::Whole(clean),
        Err(end) => end,
    }
}

/// Begins the client's time for what is written to it.
fn arm(conn: &Conn) {
    let rate = conn.generation.limits().min_body_rate;
    conn.client.arm_slow(rate, CLIENT_STALL);
}

/// What a failed write to the client means; one that we gave up is counted.
fn client_ended(core: &Core, conn: &Conn) -> End {
    if conn.client.socket().is_some_and(|s| s.expired()) {
        core.metrics().count(Metric::SlowReaders);
    }
    End::Client
}

/// Writes all of `out` to the client, within its time; the buffer comes back empty. `end` says that
/// the answer ends with it.
async fn write(
    core: &Core,
    conn: &Conn,
    out: Buffer,
    end: bool,
    sent: &mut u64,
) -> Result<Buffer, End> {
    let n = out.len() as u64;
    if n == 0 && !end {
        return Ok(out);
    }
    arm(conn);
    let (written, out) = conn.client.write(out, end).await;
    conn.client.disarm();
    written.map_err(|e| {
        if e.kind() == std::io::ErrorKind::TimedOut {
            core.metrics().count(Metric::Http2Stalls);
        }
        client_ended(core, conn)
    })?;
    core.metrics().add(Metric::BytesToClients, n);
    *sent += n;
    Ok(out)
}

async fn read(conn: &Conn, up: &UpstreamConn, mut input: Buffer) -> Result<(usize, Buffer), End> {
    let (read, input) = match &conn.client {
        Client::Socket(_) => {
            if input.spare_len() == 0 {
                input.reserve(8 * 1024);
            }
            up.link.read(input).await
        }
        Client::H2(client) => {
            let reading = Box::pin(client.unless_gone(up.link.read_late(input)));
            reading.await.ok_or(End::Client)?
        }
    };
    Ok((read.map_err(|_| End::Upstream)?, input))
}

async fn by_length(
    core: &Core,
    conn: &Conn,
    up: &UpstreamConn,
    length: u64,
    mut input: Buffer,
    mut out: Buffer,
    sent: &mut u64,
) -> Result<bool, End> {
    let mut left = length;
    let here = (input.len() as u64).min(left) as usize;
    if here <= out.spare_len() {
        out.put(&input.as_slice()[..here]);
        input.consume(here);
        left -= here as u64;
    }
    out = write(core, conn, out, left == 0, sent).await?;
    loop {
        let here = (input.len() as u64).min(left) as usize;
        if here > 0 {
            left -= here as u64;
            if here == input.len() {
                input = write(core, conn, input, left == 0, sent).await?;
            } else {
                out.put(&input.as_slice()[..here]);
                input.consume(here);
                out = write(core, conn, out, left == 0, sent).await?;
            }
        }
        if left == 0 {
            return Ok(input.is_empty());
        }
        if left >= SPLICE_FROM {
            if let (Client::Socket(client), Link::Socket(up)) = (&conn.client, &up.link)
                && client.is_plain()
                && up.is_plain()
            {
                left -= Box::pin(spliced(core, conn, client, up, left, sent)).await?;
                continue;
            }
            enlarge(&mut input);
        }
        let (n, back) = read(conn, up, input).await?;
        input = back;
        if n == 0 {
            return Err(End::Upstream);
        }
    }
}

async fn spliced(
    core: &Core,
    conn: &Conn,
    client: &Stream,
    up: &Stream,
    left: u64,
    sent: &mut u64,
) -> Result<u64, End> {
    client.disarm();
    let mut armed = false;
    let moved = splice::splice_exact(up, client, left, |step| match step {
        Step::Moved(n) => {
            core.metrics().add(Metric::BytesToClients, n);
            *sent += n;
        }
        // A client that takes next to nothing doesn't hold its upstream for ever.
        Step::Waits(splice::Side::Write) if armed => {}
        Step::Waits(splice::Side::Write) => {
            arm(conn);
            armed = true;
        }
        Step::Waits(_) => {
            client.disarm();
            armed = false;
        }
    })
    .await;
    client.disarm();
    moved.map_err(|e| {
        if e.side == splice::Side::Read {
            End::Upstream
        } else {
            client_ended(core, conn)
        }
    })
}

async fn by_chunks(
    core: &Core,
    conn: &Conn,
    up: &UpstreamConn,
    plan: &Plan,
    mut input: Buffer,
    mut out: Buffer,
    sent: &mut u64,
) -> Result<bool, End> {
    let mut decoder = chunked::Decoder::response();
    let limits = &conn.generation.response_limits;
    let with_trailers = conn.head.te_trailers;
    let mut data = 0;
    loop {
        let ended = transcode(
            &mut decoder,
            limits,
            &mut input,
            &mut out,
            plan.chunks.then_some(with_trailers),
            &mut data,
        )
        .map_err(|error| match error {
            BodyError::Malformed(_) => {
                core.metrics().count(Metric::UpstreamMalformed);
                End::Upstream
            }
            _ => End::Upstream,
        });
        // What was whole before the fault is still delivered, and then the connection is cut.
        out = write(core, conn, out, false, sent).await?;
        if ended? {
            if let Client::H2(client) = &conn.client {
                client
                    .end(head::trailers_of(decoder.trailers()))
                    .map_err(|_| End::Client)?;
            }
            return Ok(input.is_empty());
        }
        let (n, back) = read(conn, up, input).await?;
        input = back;
        if n == 0 {
            return Err(End::Upstream);
        }
    }
}

async fn until_close(
    core: &Core,
    conn: &Conn,
    up: &UpstreamConn,
    plan: &Plan,
    mut input: Buffer,
    mut out: Buffer,
    sent: &mut u64,
) -> Result<bool, End> {
    loop {
        if !input.is_empty() {
            if plan.chunks {
                write_chunk_header(input.len(), &mut out);
            }
            out.put(input.as_slice());
            if plan.chunks {
                out.put(b"\r\n");
            }
            input.clear();
        }
        out = write(core, conn, out, false, sent).await?;
        let (n, back) = read(conn, up, input).await?;
        input = back;
        if n == 0 {
            break;
        }
    }
    let came = up.link.trailers().await;
    let trailers = came.and_then(|t| head::trailers(&conn.generation.response_limits.names, t));
    if plan.chunks {
        let wanted = trailers.as_ref().filter(|_| conn.head.te_trailers);
        head::write_end(wanted, &mut out);
    }
    match (&conn.client, trailers) {
        (Client::H2(client), Some(trailers)) => {
            client.end(Some(trailers)).map_err(|_| End::Client)?;
        }
        _ => drop(write(core, conn, out, true, sent).await?),
    }
    Ok(false)
}
