//! A connection that became something else (101): bytes go both ways until both ends are through.
//!
//! Owns both sockets from the 101 on. Runs on a data core. A half that ends is closed towards the
//! other; the tunnel ends when both are, or when nothing moved either way for `tunnelTimeout`.
//! It holds no buffer while nothing moves.
//!
//! A tunnel that belongs to a session ends with it, unless `websocket.onSessionEnd` is `keep`: a
//! WebSocket by a Close frame (1008) to both ends, between two frames of theirs; anything else, or one
//! whose frame does not end in time, by the end of its connections, within a short grace.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::net::Shutdown;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use holdfast_runtime::buffers::Buffer;
use holdfast_runtime::deadline::{Expire, Slot};
use holdfast_runtime::stream::Stream;

use crate::accept::{Client, Conn};
use crate::accesslog::Record;
use crate::core::Core;
use crate::deliver::frames::{self, Frames};
use crate::forward::Answered;
use crate::forward::link::Link;
use crate::metrics::Metric;
use crate::parse::Name;
use crate::serve::Next;
use crate::sockets::{Socket, Sockets};
use crate::text::Sink;

/// From the end of a session to that of its tunnels, at most.
const GRACE: Duration = Duration::from_millis(500);
/// How often the owner of a session hears that its socket's client is there, at most.
const TELL: Duration = Duration::from_secs(1);
/// The status and the reason with which WebSockets of a session that has ended are closed.
const POLICY: (u16, &str) = (1008, "session ended");

/// Relays until the end.
pub async fn run(
    core: &'static Core,
    conn: &mut Conn,
    mut answered: Answered,
    out: Buffer,
    record: &mut Record,
) -> Next {
    core.metrics().count(Metric::Tunnels);
    let websocket = is_websocket(conn);
    let (written, mut out) = conn.client.write(out, false).await;
    if written.is_err() {
        core.log(conn, record);
        return Next::Close;
    }
    conn.input.consume(answered.exchange.consumed);
    out.put(answered.exchange.input.as_slice());
    let carried = std::mem::take(&mut conn.input);
    answered.exchange.input = Buffer::empty();
    let Link::Socket(upstream) = &answered.exchange.up.link else {
        core.log(conn, record);
        return Next::Close;
    };
    let plan = &conn.generation.plan;
    let live = answered.pinned.attached.live.as_ref();
    let bound = live.filter(|_| !plan.websocket.keep_on_session_end);
    let relay = Relay {
        limit: conn.generation.limits().tunnel_timeout,
        client: &conn.client,
        from_client: conn.client.new_slot(),
        upstream,
        session: bound.map(|live| Bound {
            socket: Sockets::open(core, live.sid, live.is_storeless()),
            frames: websocket.then(Default::default),
            told_ms: Cell::new(core.now_ms()),
            interval: plan.session.as_ref().map_or(TELL, |s| s.touch_interval),
            mask: core.random(),
            core,
        }),
    };
    relay.touch();
    let (sent_up, sent_down) = (Cell::new(0), Cell::new(0));
    let both = both(relay.up(carried, &sent_up), relay.down(out, &sent_down));
    match &relay.session {
        None => both.await,
        Some(_) => beside(both, relay.keep()).await,
    }
    core.metrics().add(Metric::BytesFromClients, sent_up.get());
    core.metrics().add(Metric::BytesToClients, sent_down.get());
    record.bytes_in += sent_up.get();
    record.bytes_out += sent_down.get();
    core.log(conn, record);
    Next::Close
}

/// Whether what was switched to is the WebSocket protocol.
fn is_websocket(conn: &Conn) -> bool {
    let asked = conn.head.value(conn.input.as_slice(), Name::Upgrade);
    asked.is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"websocket"))
}

struct Relay<'a> {
    limit: Duration,
    client: &'a Client,
    /// The deadline of what is read from the client, where that is a stream.
    from_client: Slot,
    upstream: &'a Stream,
    session: Option<Bound>,
}

/// What a tunnel has of its session.
struct Bound {
    core: &'static Core,
    socket: Rc<Socket>,
    /// Of a WebSocket: where each direction is in its frames, up and down.
    frames: Option<[RefCell<Frames>; 2]>,
    /// When the owner was told last that the client is there.
    told_ms: Cell<u64>,
    /// How often it is asked whether the session goes on.
    interval: Duration,
    /// Masks the Close frame to the upstream.
    mask: [u8; 4],
}

/// Places in [`Bound::frames`].
const UP: usize = 0;
const DOWN: usize = 1;

impl Bound {
    /// Takes what goes one way.
    fn pass(&self, way: usize, bytes: &[u8]) {
        if let Some(frames) = &self.frames {
            frames[way].borrow_mut().pass(bytes);
        }
        if way == UP {
            let now = self.core.now_ms();
            let soon = now.saturating_sub(self.told_ms.get()) >= TELL.as_millis() as u64;
            if soon {
                self.told_ms.set(now);
            }
            self.socket.used(soon);
        }
    }

    /// The Close frame, where one may be sent one way.
    fn close(&self, way: usize) -> Option<Buffer> {
        let frames = self.frames.as_ref()?[way].borrow();
        let mask = (way == UP).then_some(self.mask);
        (frames.is_between() && !frames.is_closed())
            .then(|| Buffer::copy_of(&frames::close(POLICY.0, POLICY.1, mask)))
    }
}

impl Relay<'_> {
    fn is_over(&self) -> bool {
        self.session.as_ref().is_some_and(|s| s.socket.is_over())
    }

    fn touch(&self) {
        if self.limit.is_zero() || self.is_over() {
            return;
        }
        self.arm(self.limit);
    }

    fn arm(&self, limit: Duration) {
        self.client.arm(limit);
        self.upstream.arm(limit, Expire::Both);
        if self.client.h2().is_some() {
            self.client.arm_read(&self.from_client, limit);
        }
    }

    fn pass(&self, way: usize, bytes: &[u8]) {
        if let Some(session) = &self.session {
            session.pass(way, bytes);
        }
    }

    /// Waits for `work`, but not past the end of the session: then `None`, and `work` is dropped.
    async fn unless_over<F: Future>(&self, work: F) -> Option<F::Output> {
        let Some(session) = &self.session else {
            return Some(work.await);
        };
        let (mut work, mut over) = (pin!(work), pin!(session.socket.over()));
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => over.as_mut().poll(cx).map(|()| None),
        })
        .await
    }

    /// Asks now and then whether the session goes on. Once it does not, what is left has [`GRACE`].
    async fn keep(&self) {
        let Some(session) = &self.session else { return };
        loop {
            session.socket.ask().await;
            if self.is_over() {
                break;
            }
            let mut told = pin!(session.socket.told());
            let mut wait = pin!(monoio::time::sleep(session.interval.max(TELL)));
            poll_fn(|cx| match told.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(()),
                Poll::Pending => wait.as_mut().poll(cx),
            })
            .await;
        }
        self.arm(GRACE);
    }

    /// From the client to the upstream.
    async fn up(&self, mut carried: Buffer, sent: &Cell<u64>) {
        loop {
            if !carried.is_empty() {
                let n = carried.len() as u64;
                let out = std::mem::take(&mut carried);
                self.pass(UP, out.as_slice());
                if self.upstream.write_all(out).await.0.is_err() {
                    // Nobody reads what comes further: let the sender know.
                    self.client.shutdown(Shutdown::Both);
                    return;
                }
                sent.set(sent.get() + n);
                self.touch();
            }
            let read = match self.client {
                Client::Socket(client) => match self.unless_over(client.readable()).await {
                    Some(Ok(())) => Some(client.read(Buffer::take()).await),
                    Some(Err(_)) => break,
                    None => None,
                },
                Client::H2(_) => {
                    let read = self.client.read(&self.from_client, Buffer::empty());
                    self.unless_over(read).await
                }
            };
            match read {
                Some((Ok(n), buffer)) if n > 0 => carried = buffer,
                Some((Ok(_), _)) => break,
                Some((Err(_), _)) => {
                    self.upstream.shutdown(Shutdown::Both).ok();
                    return;
                }
                None => return self.dismiss_upstream().await,
            }
        }
        self.upstream.shutdown(Shutdown::Write).ok();
    }

    /// The session has ended: tells the upstream, and reads what the client still sends, so that what it
    /// is told is not lost to a reset.
    async fn dismiss_upstream(&self) {
        let close = self.session.as_ref().and_then(|session| session.close(UP));
        if let Some(close) = close {
            // Its connection ends in any case.
            let _ = self.upstream.write_all(close).await;
        }
        self.upstream.shutdown(Shutdown::Write).ok();
        let mut buffer = Buffer::empty();
        loop {
            if let Client::Socket(client) = self.client
                && client.readable().await.is_err()
            {
                return;
            }
            let (read, mut rest) = self.client.read(&self.from_client, buffer).await;
            if !read.is_ok_and(|n| n > 0) {
                return;
            }
            rest.clear();
            buffer = rest;
        }
    }

    /// From the upstream to the client.
    async fn down(&self, mut carried: Buffer, sent: &Cell<u64>) {
        loop {
            if !carried.is_empty() {
                let n = carried.len() as u64;
                let out = std::mem::take(&mut carried);
                self.pass(DOWN, out.as_slice());
                if self.client.write(out, false).await.0.is_err() {
                    self.upstream.shutdown(Shutdown::Both).ok();
                    return;
                }
                sent.set(sent.get() + n);
                self.touch();
            }
            match self.unless_over(self.upstream.readable()).await {
                Some(Ok(())) => {}
                Some(Err(_)) => break,
                None => {
                    self.dismiss_client().await;
                    break;
                }
            }
            let (read, buffer) = self.upstream.read(Buffer::take()).await;
            match read {
                Ok(n) if n > 0 => carried = buffer,
                Ok(_) => break,
                Err(_) => {
                    self.client.shutdown(Shutdown::Both);
                    return;
                }
            }
        }
        match self.client {
            Client::Socket(client) => {
                client.shutdown(Shutdown::Write).ok();
            }
            Client::H2(client) => {
                client.end(None).ok();
            }
        }
    }

    /// The session has ended: lets the frame that is under way end, and tells the client.
    async fn dismiss_client(&self) {
        let Some(session) = &self.session else { return };
        let Some(frames) = session.frames.as_ref().map(|frames| &frames[DOWN]) else {
            return;
        };
        while !frames.borrow().is_between() {
            if self.upstream.readable().await.is_err() {
                return;
            }
            let (read, mut buffer) = self.upstream.read(Buffer::take()).await;
            if !read.is_ok_and(|n| n > 0) {
                return;
            }
            let end = frames.borrow_mut().pass_frame(buffer.as_slice());
            buffer.truncate(end.unwrap_or(buffer.len()));
            if self.client.write(buffer, false).await.0.is_err() {
                return;
            }
        }
        if let Some(close) = session.close(DOWN) {
            // Its connection ends in any case.
            let _ = self.client.write(close, false).await;
        }
    }
}

async fn both(a: impl Future<Output = ()>, b: impl Future<Output = ()>) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    let (mut a_done, mut b_done) = (false, false);
    poll_fn(|cx| {
        a_done = a_done || a.as_mut().poll(cx).is_ready();
        b_done = b_done || b.as_mut().poll(cx).is_ready();
        if a_done && b_done {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

/// Waits for `work`, with `other` beside it for as long.
async fn beside(work: impl Future<Output = ()>, other: impl Future<Output = ()>) {
    let (mut work, mut other) = (pin!(work), pin!(other));
    let mut other_done = false;
    poll_fn(|cx| {
        other_done = other_done || other.as_mut().poll(cx).is_ready();
        work.as_mut().poll(cx)
    })
    .await;
}
