//! A client's HTTP/2 connection: its frames, its streams, its end.
//!
//! Owns the connection's task, which moves frames and begins a task for each stream; each stream then
//! walks the same path as an HTTP/1.1 request ([`crate::serve`]). Runs on the core that accepted the
//! connection: sessions of other cores are asked by message.
//!
//! Invariants: a connection has at most `limits.http2.maxStreams` tasks, streams that the client has
//! reset and whose task has not yet noticed included; one that floods is ended with ENHANCE_YOUR_CALM
//! and counted; one without streams ends after `limits.idleTimeout`; on a drain it is told GOAWAY and
//! what it began is finished. Tested end to end.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use base64::Engine;
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use holdfast_config::plan::Limits;
use holdfast_runtime::buffers::Buffer;
use holdfast_runtime::deadline::{Expire, Slot};
use http::Request;

use super::exchange::Exchange;
use super::flow::Chunk;
use super::head;
use super::io::{Io, Wire};
use super::watch::{Bounds, Flood, Watch};
use crate::accept::{Client, Conn};
use crate::boundary;
use crate::core::Core;
use crate::metrics::Metric;
use crate::serve::serve;

/// Content that a client may send on one stream before it is read.
const STREAM_WINDOW: u32 = 64 * 1024;
/// The same for all streams of a connection.
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// Content of one stream that waits for its turn to be sent.
const SEND_BUFFER: usize = 64 * 1024;
/// Least bound on streams that were reset before their task began.
const MIN_RESETS: u32 = 20;
/// How long a connection that was told to go may take to do so once nothing is left to do.
const FAREWELL: Duration = Duration::from_secs(2);

/// Serves one connection, of which `conn.input` was read already, to its end.
pub async fn run(core: &'static Core, mut conn: Conn) {
    let Client::Socket(stream) = &conn.client else {
        return;
    };
    let stream = stream.clone();
    stream.disarm();
    let generation = conn.generation.clone();
    let limits = generation.limits();
    let watch = Watch::new(Bounds {
        resets: limits.http2.max_resets,
        control: limits.http2.max_control_frames,
    });
    let begun = !conn.input.is_empty();
    let wire = Wire::new(stream.clone(), std::mem::take(&mut conn.input), Some(watch));
    core.metrics().count(Metric::Http2Connections);
    // Declared after the stream, so dropped before it.
    let slot = Slot::new(stream.raw_fd());
    arm(&slot, limits.header_timeout);
    // Boxed, so that it takes no room once it is done.
    let mut handshake = Box::pin(builder(limits).handshake::<Io, Chunk>(Io(wire.clone())));
    let shaken = slot
        .until(poll_fn(|cx| {
            let result = handshake.as_mut().poll(cx);
            wire.kick(cx);
            result
        }))
        .await;
    drop(handshake);
    let h2 = match shaken {
        Some(Ok(h2)) => h2,
        failed => {
            let failed = failed.map(|result| result.err().is_some_and(|e| e.is_io()));
            let metric = unopened(failed, begun || wire.heard_ms() > 0);
            return metric
                .into_iter()
                .for_each(|metric| core.metrics().count(metric));
        }
    };
    let mut session = Session {
        core,
        h2,
        wire,
        slot,
        tasks: Rc::default(),
        parent: conn,
        leaving: false,
    };
    session.serve().await;
}

/// What a connection counts as on which no preface came. `failed` is `None` where its time was over, and
/// else whether it is the connection that failed; `begun` says that something came. Browsers open
/// connections ahead that they never use: one that was silent to its end counts as nothing.
fn unopened(failed: Option<bool>, begun: bool) -> Option<Metric> {
    match failed {
        // Other bytes than a preface's.
        Some(false) => Some(Metric::RefusedMalformed),
        Some(true) => begun.then_some(Metric::ClientAborted),
        None => begun.then_some(Metric::RefusedTimeout),
    }
}

fn builder(limits: &Limits) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(limits.http2.max_streams)
        .max_header_list_size(limits.header_bytes.try_into().unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER)
        // Our own bound comes first, so that it is the one that is counted.
        .max_pending_accept_reset_streams(limits.http2.max_resets.max(MIN_RESETS) as usize)
        .enable_connect_protocol();
    builder
}

fn arm(slot: &Slot, after: Duration) {
    if after.is_zero() {
        slot.disarm();
    } else {
        slot.arm(after, Expire::Wake);
    }
}

/// The streams of a connection that have a task.
#[derive(Debug, Default)]
struct Tasks {
    live: Cell<u32>,
    waker: RefCell<Option<Waker>>,
}

/// One stream's place among them.
struct Place(Rc<Tasks>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.live.set(self.0.live.get().saturating_sub(1));
        if self.0.live.get() == 0
            && let Some(waker) = self.0.waker.take()
        {
            waker.wake();
        }
    }
}

struct Session {
    core: &'static Core,
    h2: Connection<Io, Chunk>,
    tasks: Rc<Tasks>,
    /// What every stream has of its connection.
    parent: Conn,
    leaving: bool,
    slot: Slot,
    wire: Rc<Wire>,
}

/// What a connection does next.
enum Event {
    Stream(Box<(Request<RecvStream>, SendResponse<Chunk>)>),
    /// The last stream has ended.
    Idle,
    /// The core drains.
    Drain,
    Flood(Flood),
    End(Option<h2::Error>),
}

impl Session {
    async fn serve(&mut self) {
        let mut idle = true;
        self.rest();
        loop {
            let core = self.core;
            let leaving = self.leaving;
            let mut drain = pin!(core.until(|core| core.draining.get()));
            let event = {
                let Self {
                    h2,
                    wire,
                    tasks,
                    slot,
                    ..
                } = self;
                let next = poll_fn(|cx| {
                    next(h2, wire, tasks, idle, cx, |cx| {
                        !leaving && drain.as_mut().poll(cx).is_ready()
                    })
                });
                slot.until(next).await
            };
            match event {
                Some(Event::Stream(stream)) => {
                    idle = false;
                    self.slot.disarm();
                    if !self.begin(*stream) {
                        return self.calm(Metric::Http2Resets).await;
                    }
                }
                Some(Event::Idle) => {
                    idle = true;
                    self.rest();
                }
                Some(Event::Drain) => self.leave(),
                // The idle timeout, or the end of the farewell.
                None if self.leaving => return,
                None => self.leave(),
                Some(Event::Flood(flood)) => return self.calm(metric(flood)).await,
                Some(Event::End(error)) => {
                    self.judge(error);
                    return self.farewell().await;
                }
            }
        }
    }

    /// Nothing is under way: the idle timeout runs, or that of the farewell.
    fn rest(&self) {
        let after = if self.leaving {
            FAREWELL
        } else {
            self.parent.generation.limits().idle_timeout
        };
        arm(&self.slot, after);
    }

    fn leave(&mut self) {
        self.leaving = true;
        self.h2.graceful_shutdown();
        if self.tasks.live.get() == 0 {
            self.rest();
        } else {
            self.slot.disarm();
        }
    }

    /// Begins a stream; false where the client has more under way than it may.
    fn begin(
        &mut self,
        (request, mut respond): (Request<RecvStream>, SendResponse<Chunk>),
    ) -> bool {
        let core = self.core;
        let mut nobody = Context::from_waker(Waker::noop());
        if respond.poll_reset(&mut nobody).is_ready() {
            // Its reset came with it: no upstream is asked for what nobody waits for.
            core.metrics().count(Metric::Http2Streams);
            return true;
        }
        self.parent.renew(core);
        if !self.leaving && (!self.parent.is_trusted() || self.wire.stream().is_worn()) {
            // The client needs another connection. Who is not trusted is refused as any request would be.
            self.leave();
        }
        let max = self.parent.generation.limits().http2.max_streams;
        // Streams that were reset count until their task has noticed.
        if self.tasks.live.get() >= max.saturating_mul(2) {
            return false;
        }
        core.metrics().count(Metric::Http2Streams);
        let (parts, body) = request.into_parts();
        let request = Request::from_parts(parts, ());
        let protocol = request.extensions().get::<h2::ext::Protocol>();
        let mut input = Buffer::take();
        let text = head::request_text(
            &request,
            protocol.map(h2::ext::Protocol::as_str),
            body.is_end_stream(),
            || base64::engine::general_purpose::STANDARD.encode(core.random::<16>()),
            &mut input,
        );
        // A stream may wait for long, and needs its head's bytes alone.
        let input = Buffer::copy_of(input.as_slice());
        let tunnel = protocol.is_some();
        let wire = self.wire.stream().clone();
        let exchange = Exchange::new(wire, body, respond, text.err(), tunnel);
        self.parent.requests = self.parent.requests.saturating_add(1);
        let conn = self.parent.stream(Client::H2(Rc::new(exchange)), input);
        self.tasks.live.set(self.tasks.live.get() + 1);
        let place = Place(self.tasks.clone());
        monoio::spawn(stream(core, conn, place));
        true
    }

    /// Counts why the connection ended, where that was its client's doing.
    fn judge(&self, error: Option<h2::Error>) {
        let ours = error.filter(|e| e.is_go_away() && !e.is_remote());
        let other = ours.and_then(|e| e.reason()).map(|reason| match reason {
            Reason::ENHANCE_YOUR_CALM => Metric::Http2Calm,
            _ => Metric::Http2Protocol,
        });
        if let Some(metric) = other {
            self.core.metrics().count(metric);
        }
    }

    /// Ends a connection whose client does too much.
    async fn calm(&mut self, metric: Metric) {
        self.core.metrics().count(metric);
        self.h2.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        self.farewell().await;
    }

    /// Lets go out what was written last, for a bounded time.
    async fn farewell(&mut self) {
        let Self { h2, wire, slot, .. } = self;
        slot.arm(FAREWELL, Expire::Wake);
        let mut closed = false;
        let end = poll_fn(|cx| {
            closed = closed || h2.poll_closed(cx).is_ready();
            if closed {
                wire.poll_written(cx).map(drop)
            } else {
                wire.kick(cx);
                Poll::Pending
            }
        });
        slot.until(end).await;
    }
}

fn metric(flood: Flood) -> Metric {
    match flood {
        Flood::Resets => Metric::Http2Resets,
        Flood::Continuations => Metric::Http2Continuations,
        Flood::Settings => Metric::Http2Settings,
        Flood::Pings => Metric::Http2Pings,
        Flood::Empty => Metric::Http2Empty,
        Flood::Windows => Metric::Http2Windows,
        Flood::Unknown => Metric::Http2Unknown,
    }
}

fn next(
    h2: &mut Connection<Io, Chunk>,
    wire: &Wire,
    tasks: &Tasks,
    idle: bool,
    cx: &mut Context<'_>,
    mut drain: impl FnMut(&mut Context<'_>) -> bool,
) -> Poll<Event> {
    match h2.poll_accept(cx) {
        Poll::Ready(Some(Ok(stream))) => return Poll::Ready(Event::Stream(Box::new(stream))),
        Poll::Ready(Some(Err(error))) => return Poll::Ready(Event::End(Some(error))),
        Poll::Ready(None) => return Poll::Ready(Event::End(None)),
        Poll::Pending => wire.kick(cx),
    }
    if let Some(flood) = wire.flood() {
        return Poll::Ready(Event::Flood(flood));
    }
    if drain(cx) {
        return Poll::Ready(Event::Drain);
    }
    if tasks.live.get() == 0 {
        if !idle {
            return Poll::Ready(Event::Idle);
        }
    } else {
        tasks.waker.replace(Some(cx.waker().clone()));
    }
    Poll::Pending
}

/// One request's path. Boxed, as an HTTP/1.1 request's is.
async fn stream(core: &'static Core, mut conn: Conn, place: Place) {
    let path: Pin<Box<dyn Future<Output = crate::serve::Next>>> = Box::pin(serve(core, &mut conn));
    boundary::within(core, path).await;
    if let Client::H2(exchange) = &conn.client {
        exchange.close();
    }
    drop(conn);
    drop(place);
}
