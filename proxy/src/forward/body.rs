//! The request's body on its way upstream, beside the response that may already be coming.
//!
//! Owns the reading of a body (by length or chunks) and its writing. A body that came whole with its
//! head takes no part in this: it is written with the head.
//!
//! Invariants: at most one buffer is between reader and writer (backpressure is the socket's);
//! chunks are decoded and encoded anew, so that the upstream has the one reading that we had; where a
//! pump is dropped before its end, its client connection ends too, since bytes may be lost with it.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use holdfast_config::plan::Limits;
use holdfast_runtime::buffers::Buffer;
use holdfast_runtime::deadline::{Expire, Slot};
use holdfast_runtime::splice::{self, Step};
use holdfast_runtime::stream::Stream;
use http::HeaderMap;

use crate::accept::{Client, Conn};
use crate::core::Core;
use crate::forward::link::Link;
use crate::generation::Generation;
use crate::h2::head;
use crate::metrics::Metric;
use crate::parse::{HeadLimits, chunked};
use crate::text::{Sink, write_fmt};

/// From this length on, what is left of a body by length is moved within the kernel.
pub const SPLICE_FROM: u64 = 256 * 1024;
/// What a read of a long body asks for, where it can't be moved within the kernel.
const LARGE: usize = 64 * 1024;
/// Over how long `minBodyRate` is judged.
const RATE_WINDOW_MS: u64 = 10_000;

/// Why a body did not arrive whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    /// The client closed, or failed.
    ClientGone,
    /// The client was too slow.
    TooSlow,
    /// Bad chunks.
    Malformed(&'static str),
    /// Over `limits.bodyBytes`.
    TooLarge,
    /// The upstream closed, or failed.
    UpstreamGone,
}

/// How a body is delimited, and how far it was read.
#[derive(Debug)]
pub enum Reader {
    /// So many bytes are still to come.
    Length(u64),
    /// Chunks.
    Chunked(Box<chunked::Decoder>),
    /// What comes until the stream ends (HTTP/2).
    Frames {
        /// A call that may be silent for long (gRPC): what bounds its silence is `tunnelTimeout`.
        quiet: bool,
    },
}

/// What pump and exchange share.
#[derive(Debug)]
pub struct BodyState {
    /// Set once all is written.
    pub done: Cell<bool>,
    /// Set when it failed.
    pub error: Cell<Option<BodyError>>,
    /// What was read behind the body's end: the next request's first bytes.
    pub rest: RefCell<Buffer>,
    /// Body bytes read, framing aside.
    pub bytes: Cell<u64>,
}

/// A body under way.
pub struct Pump {
    future: Pin<Box<dyn Future<Output = ()>>>,
    /// Shared with it.
    pub state: Rc<BodyState>,
    finished: bool,
}

impl std::fmt::Debug for Pump {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pump")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl Pump {
    /// Starts moving a body from the client to `upstream`; `first` are its bytes that came with the head.
    pub fn start(
        core: &'static Core,
        conn: &Conn,
        upstream: Link,
        reader: Reader,
        first: Buffer,
    ) -> Self {
        let (client, generation) = (conn.client.clone(), conn.generation.clone());
        let state = Rc::new(BodyState {
            done: Cell::new(false),
            error: Cell::new(None),
            rest: RefCell::new(Buffer::empty()),
            bytes: Cell::new(0),
        });
        let shared = state.clone();
        let future = Box::pin(async move {
            let result = pump(
                core,
                &generation,
                &client,
                &upstream,
                reader,
                first,
                &shared,
            )
            .await;
            match result {
                Ok(()) => shared.done.set(true),
                Err(error) => shared.error.set(Some(error)),
            }
        });
        Self {
            future,
            state,
            finished: false,
        }
    }

    /// Drives this and `other` together until `other` is done.
    pub async fn beside<F: Future>(&mut self, other: F) -> F::Output {
        let mut other = std::pin::pin!(other);
        poll_fn(|cx| {
            if !self.finished && self.future.as_mut().poll(cx).is_ready() {
                self.finished = true;
            }
            other.as_mut().poll(cx)
        })
        .await
    }

    /// Drives both until `other` is done (then its output), or this has just ended (then `None`).
    pub async fn until<F: Future>(&mut self, mut other: Pin<&mut F>) -> Option<F::Output> {
        poll_fn(|cx| {
            if let Poll::Ready(output) = other.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            if !self.finished && self.future.as_mut().poll(cx).is_ready() {
                self.finished = true;
                return Poll::Ready(None);
            }
            Poll::Pending
        })
        .await
    }

    /// Whether the whole body is written.
    pub fn done(&self) -> bool {
        self.state.done.get()
    }
}

/// Polls `other` with the pump, if there is one.
pub async fn beside<F: Future>(pump: Option<&mut Pump>, other: F) -> F::Output {
    match pump {
        Some(pump) => pump.beside(other).await,
        None => other.await,
    }
}

/// Judges `minBodyRate`.
#[derive(Debug)]
pub struct Rate {
    floor: u64,
    since_ms: u64,
    bytes: u64,
}

impl Rate {
    /// Begins now.
    pub fn new(core: &Core, limits: &Limits) -> Self {
        Self {
            floor: limits.min_body_rate,
            since_ms: core.now_ms(),
            bytes: 0,
        }
    }

    /// Notes `n` bytes of progress; false when the last window was too slow.
    pub fn progress(&mut self, core: &Core, n: u64) -> bool {
        self.bytes += n;
        let now = core.now_ms();
        let passed = now.saturating_sub(self.since_ms);
        if passed < RATE_WINDOW_MS {
            return true;
        }
        let fast_enough = self.floor == 0 || self.bytes.saturating_mul(1000) / passed >= self.floor;
        self.since_ms = now;
        self.bytes = 0;
        fast_enough
    }
}

async fn pump(
    core: &'static Core,
    generation: &Generation,
    client: &Client,
    upstream: &Link,
    mut reader: Reader,
    first: Buffer,
    state: &BodyState,
) -> Result<(), BodyError> {
    let slot = client.new_slot();
    let limits = generation.limits();
    let mut rate = Rate::new(core, limits);
    let mut gap = limits.body_timeout;
    if let Reader::Frames { quiet: true } = reader {
        gap = limits.tunnel_timeout;
        rate.floor = 0;
    }
    let mut input = first;
    let mut out = Buffer::empty();
    loop {
        let encode = upstream.h2().is_none();
        let ended = step(generation, &mut reader, &mut input, &mut out, encode, state)?;
        let trailers = match &reader {
            Reader::Chunked(decoder) if ended && !encode => head::trailers_of(decoder.trailers()),
            _ => None,
        };
        if !out.is_empty() || ended {
            out = send(upstream, out, ended, trailers).await?;
            if matches!(reader, Reader::Frames { .. }) {
                // None is held while the client is silent.
                out = Buffer::empty();
            }
        }
        if ended {
            *state.rest.borrow_mut() = input;
            return Ok(());
        }
        if let Reader::Length(left) = &mut reader
            && *left >= SPLICE_FROM
            && input.is_empty()
            && let (Client::Socket(client), Link::Socket(upstream)) = (client, upstream)
            && client.is_plain()
            && upstream.is_plain()
        {
            let moved = spliced(core, limits, client, upstream, &slot, *left, &mut rate).await?;
            state.bytes.set(state.bytes.get() + moved);
            *left -= moved;
            continue;
        }
        if matches!(reader, Reader::Length(left) if left >= SPLICE_FROM) {
            enlarge(&mut input);
        }
        let (read, back) = receive(core, gap, client, &slot, input, &mut rate).await;
        input = back;
        match (read, &reader) {
            (Err(BodyError::ClientGone), Reader::Frames { .. }) if client.at_end() => {
                let trailers = client.trailers(&slot).await;
                let names = &generation.listeners[0].head_limits.names;
                let trailers = trailers.and_then(|t| head::trailers(names, t));
                if encode {
                    head::write_end(trailers.as_ref(), &mut out);
                }
                send(upstream, out, true, trailers).await?;
                return Ok(());
            }
            (read, _) => read?,
        }
    }
}

/// Makes an empty buffer one for long bodies.
pub fn enlarge(input: &mut Buffer) {
    if input.is_empty() && input.capacity() < LARGE {
        *input = Buffer::with_capacity(LARGE);
    }
}

/// Moves what is in `input` to `out`; true at the body's end.
fn step(
    generation: &Generation,
    reader: &mut Reader,
    input: &mut Buffer,
    out: &mut Buffer,
    encode: bool,
    state: &BodyState,
) -> Result<bool, BodyError> {
    let ended = match reader {
        Reader::Length(left) => {
            let n = (input.len() as u64).min(*left) as usize;
            out.put(&input.as_slice()[..n]);
            input.consume(n);
            *left -= n as u64;
            state.bytes.set(state.bytes.get() + n as u64);
            *left == 0
        }
        Reader::Frames { .. } => {
            if !input.is_empty() {
                if encode {
                    write_chunk_header(input.len(), out);
                }
                out.put(input.as_slice());
                if encode {
                    out.put(chunked::CRLF);
                }
                state.bytes.set(state.bytes.get() + input.len() as u64);
                input.clear();
            }
            false
        }
        Reader::Chunked(decoder) => {
            let mut data = 0;
            let ended = transcode(
                decoder,
                &generation.listeners[0].head_limits,
                input,
                out,
                encode.then_some(true),
                &mut data,
            )?;
            state.bytes.set(state.bytes.get() + data);
            ended
        }
    };
    let limit = generation.limits().body_bytes;
    if limit > 0 && state.bytes.get() > limit {
        return Err(BodyError::TooLarge);
    }
    Ok(ended)
}

/// Decodes chunks from `input` and encodes them to `out`: `encode` says whether trailers go along;
/// `None` writes plain data, for an HTTP/1.0 client. True at the end.
pub fn transcode(
    decoder: &mut chunked::Decoder,
    limits: &HeadLimits,
    input: &mut Buffer,
    out: &mut Buffer,
    encode: Option<bool>,
    data: &mut u64,
) -> Result<bool, BodyError> {
    // Small chunks are gathered: one chunk goes out for all that came in with one read.
    let mut gathered = Buffer::take();
    let fault = loop {
        if decoder.is_done() || input.is_empty() {
            break None;
        }
        match decoder.decode(input.as_slice(), limits) {
            Ok(piece) => {
                *data += piece.data.len() as u64;
                gathered.put(&input.as_slice()[piece.data]);
                input.consume(piece.consumed);
            }
            Err(refusal) => break Some(BodyError::Malformed(refusal.reason)),
        }
    };
    if !gathered.is_empty() {
        if encode.is_some() {
            write_chunk_header(gathered.len(), out);
        }
        out.put(gathered.as_slice());
        if encode.is_some() {
            out.put(chunked::CRLF);
        }
    }
    if let Some(fault) = fault {
        return Err(fault);
    }
    let ended = decoder.is_done();
    if let (true, Some(with_trailers)) = (ended, encode) {
        let mut end = Vec::new();
        decoder.write_end(with_trailers, &mut end);
        out.put(&end);
    }
    Ok(ended)
}

/// Writes the line before a chunk.
pub fn write_chunk_header(len: usize, out: &mut Buffer) {
    write_fmt(out, format_args!("{len:x}\r\n"));
}

/// Sends `out`, and the end if this is it. Trailers are for a stream; in chunks they are in `out`.
async fn send(
    upstream: &Link,
    out: Buffer,
    end: bool,
    trailers: Option<HeaderMap>,
) -> Result<Buffer, BodyError> {
    let gone = |_| BodyError::UpstreamGone;
    match upstream {
        Link::H2(call) if trailers.is_some() => {
            call.write(out, false).await.map_err(gone)?;
            call.end(trailers).map_err(gone)?;
            Ok(Buffer::empty())
        }
        _ => {
            let (result, out) = upstream.write(out, end).await;
            result.map_err(gone)?;
            Ok(out)
        }
    }
}

/// Reads once from the client, within the limits. The buffer comes back whatever happens.
async fn receive(
    core: &Core,
    gap: Duration,
    client: &Client,
    slot: &Slot,
    mut input: Buffer,
    rate: &mut Rate,
) -> (Result<(), BodyError>, Buffer) {
    // Zero in the configuration is no bound.
    if !gap.is_zero() {
        client.arm_read(slot, gap);
    }
    if client.h2().is_none() {
        if input.capacity() == 0 {
            input = Buffer::take();
        }
        if input.spare_len() == 0 {
            input.reserve(8 * 1024);
        }
    }
    let (read, input) = client.read(slot, input).await;
    let expired = slot.expired();
    slot.disarm();
    let result = match read {
        Ok(0) | Err(_) if expired => Err(BodyError::TooSlow),
        Ok(0) | Err(_) => Err(BodyError::ClientGone),
        Ok(n) => {
            core.metrics().add(Metric::BytesFromClients, n as u64);
            if rate.progress(core, n as u64) {
                Ok(())
            } else {
                Err(BodyError::TooSlow)
            }
        }
    };
    (result, input)
}

async fn spliced(
    core: &Core,
    limits: &Limits,
    client: &Stream,
    upstream: &Stream,
    slot: &Slot,
    left: u64,
    rate: &mut Rate,
) -> Result<u64, BodyError> {
    let limit = limits.body_bytes;
    let n = if limit > 0 { left.min(limit) } else { left };
    let mut slow = false;
    let moved = splice::splice_exact(client, upstream, n, |step| match step {
        Step::Moved(moved) => {
            core.metrics().add(Metric::BytesFromClients, moved);
            if !rate.progress(core, moved) && !slow {
                slow = true;
                // The transfer then ends by itself, as it does when the deadline passes.
                let _ = client.shutdown(std::net::Shutdown::Read);
            }
        }
        Step::Waits(splice::Side::Read) if !limits.body_timeout.is_zero() => {
            slot.arm(limits.body_timeout, Expire::Read);
        }
        // The upstream is slow: that is no fault of the client's.
        Step::Waits(_) => slot.disarm(),
    })
    .await;
    let expired = slot.expired();
    slot.disarm();
    match moved {
        Ok(moved) => Ok(moved),
        Err(e) if e.side == splice::Side::Read => Err(if expired || slow {
            BodyError::TooSlow
        } else {
            BodyError::ClientGone
        }),
        Err(_) => Err(BodyError::UpstreamGone),
    }
}

/// Reads `missing` more bytes of a body into [`Conn::input`].
pub async fn gather(core: &Core, conn: &mut Conn, missing: usize) -> Result<(), BodyError> {
    let end = conn.input.len() + missing;
    conn.input.reserve(missing);
    let generation = conn.generation.clone();
    let limits = generation.limits();
    let mut rate = Rate::new(core, limits);
    let slot = conn.client.new_slot();
    while conn.input.len() < end {
        let input = std::mem::take(&mut conn.input);
        let (read, input) = receive(
            core,
            limits.body_timeout,
            &conn.client,
            &slot,
            input,
            &mut rate,
        )
        .await;
        conn.input = input;
        read?;
    }
    Ok(())
}
