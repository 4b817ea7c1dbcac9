//! Client connections of a data core: taking them, waiting on them, parking them, ending them.
//!
//! Owns the accept loops, [`Conn`] (a connection as plain data: socket, unread bytes, addresses,
//! deadline) and the parking lot's loop. Runs on its data core's thread alone.
//!
//! Invariants: a connection is in one place at a time: a task of its own while a request may be
//! under way, an entry of the lot while it idles; bytes read and not used are carried in
//! [`Conn::input`] and looked at before anything is read; a connection is counted in
//! `Shared::connections` from accept to close, parked or not. It deliberately knows nothing of HTTP
//! but the time a head may take. Tested end to end, and the lot in the runtime crate. Where the
//! listener ends TLS, [`tls`] comes between accept and the first request.

pub mod tls;

mod client;
pub mod moving;
pub mod proxied;

use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use holdfast_runtime::buffers::Buffer;
use holdfast_runtime::cancel;
use holdfast_runtime::deadline::Expire;
use holdfast_runtime::parking::{self, Why};
use holdfast_runtime::socket::{Accepted, Listener, is_exhausted};
use holdfast_runtime::stream::{Frozen, Stream};
use holdfast_runtime::tls::Channel;

pub use client::Client;

use crate::boundary;
use crate::core::Core;
use crate::generation::Generation;
use crate::h2;
use crate::metrics::Metric;
use crate::parse::{HeadScan, RequestHead, ResponseHead};
use crate::serve::{Next, serve};
pub use tls::Secured;

/// How long a connection waits with a task of its own before it is parked.
const PARK_AFTER: Duration = Duration::from_secs(1);
/// What no limit amounts to.
const FOR_EVER: Duration = Duration::from_secs(86_400);
/// Connections of a core that wait with a read under way, and so with a buffer.
const MAX_READING: usize = 256;
/// How long, and how much, an ended connection is read so that a last answer is not lost to a reset.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 256 * 1024;

/// A client connection.
#[derive(Debug)]
pub struct Conn {
    /// Its socket, or its stream of an HTTP/2 connection. Shared only with the pump of a request's
    /// body, and never past the exchange.
    pub client: Client,
    /// Who is at the other end, by the PROXY header where there was one (IPv4-mapped addresses as IPv4).
    pub peer: SocketAddr,
    /// Index into `Setup::listeners`.
    pub listener: u16,
    /// What the request under way goes by.
    pub generation: Rc<Generation>,
    /// Both ends are on this machine.
    pub loopback: bool,
    /// Requests begun.
    pub requests: u32,
    /// Where it speaks TLS.
    pub secured: Option<Arc<Secured>>,
    /// Until when its next request must have begun, by the core's steady clock; 0 while none is waited for.
    until_ms: u64,
    /// Bytes read and not yet used.
    pub input: Buffer,
    /// The head of the request under way; offsets are into `input`.
    pub head: RequestHead,
    /// How far `input` was looked at.
    pub scan: HeadScan,
    /// The head of the response under way; offsets are into the exchange's input.
    pub response: ResponseHead,
    /// How far that input was looked at.
    pub response_scan: HeadScan,
}

/// A connection in the parking lot.
#[derive(Debug)]
pub struct Parked {
    peer: SocketAddr,
    listener: u16,
    loopback: bool,
    requests: u32,
    secured: Option<Arc<Secured>>,
    until_ms: u64,
    /// The state of its TLS, while it has no stream.
    channel: Option<Box<Channel>>,
    unix: bool,
}

impl Conn {
    fn new(core: &Core, stream: Stream, parked: Parked) -> Self {
        Self {
            generation: core.generation(),
            client: Client::Socket(Rc::new(stream)),
            peer: parked.peer,
            listener: parked.listener,
            loopback: parked.loopback,
            requests: parked.requests,
            secured: parked.secured,
            until_ms: parked.until_ms,
            input: Buffer::empty(),
            head: RequestHead::default(),
            scan: HeadScan::default(),
            response: ResponseHead::default(),
            response_scan: HeadScan::default(),
        }
    }

    /// One stream of this HTTP/2 connection, whose request's head stands in `input` as text.
    pub fn stream(&self, client: Client, input: Buffer) -> Self {
        Self {
            client,
            peer: self.peer,
            listener: self.listener,
            generation: self.generation.clone(),
            loopback: self.loopback,
            requests: self.requests,
            secured: self.secured.clone(),
            until_ms: 0,
            input,
            head: RequestHead::default(),
            scan: HeadScan::default(),
            response: ResponseHead::default(),
            response_scan: HeadScan::default(),
        }
    }

    /// Takes up the newest generation, before a request begins.
    #[inline]
    pub fn renew(&mut self, core: &Core) {
        if self.generation.number != core.number() {
            self.generation = core.generation();
        }
    }

    /// Whether what its client proved is what is asked of clients now. Rules on certificates that a
    /// reload changes hold for connections that there are.
    #[inline]
    pub fn is_trusted(&self) -> bool {
        let asked = self.generation.tls(self.listener).and_then(|s| s.trust);
        asked == self.secured.as_ref().and_then(|s| s.trust)
    }

    fn park(self) -> Option<(OwnedFd, Parked)> {
        let Self {
            client,
            peer,
            listener,
            loopback,
            requests,
            secured,
            until_ms,
            ..
        } = self;
        let Client::Socket(stream) = client else {
            return None;
        };
        let Frozen { fd, tls, unix } = Rc::into_inner(stream)?.freeze().ok()?;
        Some((
            fd,
            Parked {
                peer,
                listener,
                loopback,
                requests,
                secured,
                until_ms,
                channel: tls,
                unix,
            },
        ))
    }
}

/// Takes connections of one listener until the core drains, or a reload takes the listener away.
pub async fn listen(core: &'static Core, listener: Listener, index: u16) {
    loop {
        let accepted = {
            let mut drain = pin!(core.until(|core| core.draining.get() || !core.serves(index)));
            let mut accept = pin!(listener.accept());
            poll_fn(|cx| match accept.as_mut().poll(cx) {
                Poll::Ready(accepted) => Poll::Ready(Some(accepted)),
                Poll::Pending => drain.as_mut().poll(cx).map(|()| None),
            })
            .await
        };
        match accepted {
            Some(Ok(Accepted { stream, peer })) => admit(core, stream, peer, index),
            Some(Err(error)) => {
                core.metrics().count(Metric::AcceptErrors);
                if !is_exhausted(&error) {
                    crate::log::error(format!("core {}: a listener failed: {error}", core.index));
                    break;
                }
            }
            None => break,
        }
    }
    if !core.serves(index) {
        // Those that wait in its queue were accepted by the kernel: they are served yet.
        while let Ok(Accepted { stream, peer }) = listener.accept_now() {
            admit(core, stream, peer, index);
        }
        listener.close();
    }
}

fn admit(core: &'static Core, stream: Stream, peer: Option<SocketAddr>, listener: u16) {
    // A unix peer is on this machine.
    let peer = peer.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
    let open = core.shared.connections.fetch_add(1, Relaxed);
    let generation = core.generation();
    if open >= generation.plan.runtime.max_connections {
        core.shared.connections.fetch_sub(1, Relaxed);
        core.metrics().count(Metric::ConnectionsRefused);
        return;
    }
    core.metrics().count(Metric::ConnectionsAccepted);
    core.opened(1);
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let loopback = core.listener_loopback(listener, &stream) && is_loopback(peer.ip());
    let conn = Conn::new(
        core,
        stream,
        Parked {
            peer,
            listener,
            loopback,
            requests: 0,
            secured: None,
            until_ms: 0,
            channel: None,
            unix: false,
        },
    );
    if generation.listener(listener).proxy_protocol {
        monoio::spawn(run_proxied(core, conn));
    } else if generation.tls(listener).is_some() {
        monoio::spawn(tls::secure(core, conn));
    } else {
        monoio::spawn(run(core, conn));
    }
}

/// Is this an address of this machine alone?
pub fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// Brings parked connections back when something happens on them.
pub async fn watch_lot(core: &'static Core) {
    loop {
        let parked = match core.lot.next().await {
            Ok(parked) => parked,
            Err(error) => {
                crate::log::error(format!(
                    "core {}: the parking lot failed: {error}",
                    core.index
                ));
                return;
            }
        };
        let (fd, mut data) = (parked.fd, parked.data);
        let frozen = Frozen {
            fd,
            tls: data.channel.take(),
            unix: data.unix,
        };
        match parked.why {
            Why::Readable => match Stream::thaw(frozen) {
                Ok(stream) => {
                    monoio::spawn(run(core, Conn::new(core, stream, data)));
                }
                Err(_) => closed(core),
            },
            Why::Closed | Why::Expired => {
                frozen.close();
                closed(core);
            }
        }
    }
}

/// Ends a connection that came out of the lot.
pub fn dismiss(core: &Core, parked: parking::Parked<Parked>) {
    let (tls, unix) = (parked.data.channel, parked.data.unix);
    Frozen {
        fd: parked.fd,
        tls,
        unix,
    }
    .close();
    closed(core);
}

/// Counts a connection that is gone.
pub fn closed(core: &Core) {
    core.shared.connections.fetch_sub(1, Relaxed);
    core.opened(-1);
    core.left.set(core.left.get().saturating_add(1));
    core.check_drained();
}

/// Serves a connection that must say first whom it speaks for.
async fn run_proxied(core: &'static Core, mut conn: Conn) {
    // Boxed, so that it takes no room once it is done.
    let header = Box::pin(proxied::header(core, &mut conn));
    if boundary::within(core, header).await == Some(true) {
        return match conn.generation.tls(conn.listener).is_some() {
            true => tls::secure(core, conn).await,
            false => run(core, conn).await,
        };
    }
    drop(conn);
    closed(core);
}

/// Serves one connection until it ends or is parked.
async fn run(core: &'static Core, mut conn: Conn) {
    loop {
        let mut next = wait(core, &mut conn).await;
        if next == Wait::Request {
            // Boxed, so that a connection that waits holds no room for a request's work.
            let work = Box::pin(burst(core, &mut conn));
            next = boundary::within(core, work).await.unwrap_or(Wait::Gone);
        }
        match next {
            Wait::Request => {}
            Wait::Park => {
                let idle = left(core, &conn);
                let parked = conn
                    .park()
                    .and_then(|(fd, data)| core.lot.park(fd, data, idle).ok());
                match parked {
                    Some(()) => core.left.set(core.left.get().saturating_add(1)),
                    None => closed(core),
                }
                return;
            }
            Wait::Http2 => {
                boundary::within(core, Box::pin(h2::run(core, conn))).await;
                return closed(core);
            }
            Wait::Move(owner) => return moving::send(core, conn, owner),
            Wait::End => {
                farewell(&conn);
                break;
            }
            Wait::Gone => break,
        }
    }
    drop(conn);
    closed(core);
}

/// Serves the request that has come, and those behind it while this connection may wait for them with
/// a read under way. Says what the connection is to wait for then.
async fn burst(core: &'static Core, conn: &mut Conn) -> Wait {
    loop {
        conn.requests = conn.requests.saturating_add(1);
        conn.until_ms = 0;
        conn.renew(core);
        match serve(core, conn).await {
            Next::Keep if core.draining.get() && conn.input.is_empty() => return Wait::End,
            Next::Keep => {}
            Next::Close => return Wait::Gone,
            Next::Move(owner) => return Wait::Move(owner),
            Next::Linger => {
                linger(conn).await;
                return Wait::Gone;
            }
            Next::Http2 => return Wait::Http2,
        }
        if conn.input.is_empty() {
            if !may_read_ahead(core) {
                return Wait::Request;
            }
            match read_ahead(core, conn).await {
                Wait::Request => {}
                other => return other,
            }
        }
    }
}

/// Tells a client that speaks TLS that it has got all; a plain one learns that by the close.
pub fn farewell(conn: &Conn) {
    if let Client::Socket(stream) = &conn.client
        && !stream.is_plain()
    {
        stream.shutdown(std::net::Shutdown::Write).ok();
    }
}

/// How long a connection may wait for its next request.
fn idle_limit(conn: &Conn) -> Duration {
    let limits = conn.generation.limits();
    if conn.requests == 0 {
        limits.header_timeout
    } else {
        limits.idle_timeout
    }
}

/// The wait for the next request begins, or goes on: whoever sends a TLS record bit by bit, and so wakes us
/// without saying anything, gets no more time by that.
fn begin_waiting(core: &Core, conn: &mut Conn) {
    if conn.until_ms == 0 {
        let limit = match idle_limit(conn) {
            Duration::ZERO => FOR_EVER,
            limit => limit,
        };
        conn.until_ms = core.now_ms().saturating_add(limit.as_millis() as u64);
    }
}

/// Nothing has come for a while.
fn silent(core: &Core, conn: &Conn) -> Wait {
    if core.draining.get() {
        return Wait::End;
    }
    if core.now_ms() < conn.until_ms {
        return Wait::Park;
    }
    if conn.client.socket().is_some_and(|s| s.has_part()) {
        core.metrics().count(Metric::RefusedTimeout);
    }
    Wait::End
}

/// How much of that time is left.
fn left(core: &Core, conn: &Conn) -> Duration {
    let left = conn.until_ms.saturating_sub(core.now_ms());
    Duration::from_millis(left).max(Duration::from_millis(100))
}

/// What a connection is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// Serve a request, or wait for one.
    Request,
    /// Wait in the lot.
    Park,
    /// Go on as HTTP/2.
    Http2,
    /// Go on at another core.
    Move(usize),
    /// End, with all said.
    End,
    /// End without a word more: it has been said, or must look as broken off as it is.
    Gone,
}

async fn wait(core: &'static Core, conn: &mut Conn) -> Wait {
    if !conn.input.is_empty() {
        return Wait::Request;
    }
    // No buffer is held while a connection waits, but by the few that are likely to be used at once.
    conn.input = Buffer::empty();
    if core.draining.get() && conn.requests > 0 {
        return Wait::End;
    }
    begin_waiting(core, conn);
    if may_read_ahead(core) {
        return read_ahead(core, conn).await;
    }
    let Client::Socket(stream) = &conn.client else {
        return Wait::End;
    };
    stream.arm(PARK_AFTER.min(left(core, conn)), Expire::Wake);
    match stream.slot().until(stream.readable()).await {
        Some(Ok(())) => Wait::Request,
        Some(Err(_)) => Wait::End,
        None => silent(core, conn),
    }
}

fn may_read_ahead(core: &Core) -> bool {
    cancel::available() && core.reading.get() < MAX_READING
}

/// Waits with a read under way, which saves an operation of the ring a request.
async fn read_ahead(core: &'static Core, conn: &mut Conn) -> Wait {
    begin_waiting(core, conn);
    let Client::Socket(stream) = &conn.client else {
        return Wait::End;
    };
    core.reading.set(core.reading.get() + 1);
    conn.input = Buffer::empty();
    stream.arm(PARK_AFTER.min(left(core, conn)), Expire::Cancel);
    let (read, input) = stream.read(Buffer::take()).await;
    core.reading.set(core.reading.get() - 1);
    match read {
        Ok(0) => Wait::End,
        Ok(n) => {
            stream.disarm();
            core.metrics().add(Metric::BytesFromClients, n as u64);
            conn.input = input;
            Wait::Request
        }
        Err(_) if stream.expired() => silent(core, conn),
        Err(_) => Wait::End,
    }
}

/// Reads and throws away what a client still sends after its last answer, for a bounded time: closing
/// a socket with unread bytes resets it, and a reset can destroy the answer on its way (RFC 9112, 9.6).
async fn linger(conn: &mut Conn) {
    let Client::Socket(stream) = &conn.client else {
        return;
    };
    stream.shutdown(std::net::Shutdown::Write).ok();
    stream.arm(LINGER, Expire::Read);
    let mut buffer = std::mem::take(&mut conn.input);
    if buffer.capacity() == 0 {
        buffer = Buffer::take();
    }
    drain_input(stream, buffer).await;
}

/// Reads and throws away what comes, up to a bound.
async fn drain_input(stream: &Stream, mut buffer: Buffer) {
    let mut seen = 0;
    while seen < LINGER_BYTES {
        buffer.clear();
        let (read, back) = stream.read(buffer).await;
        buffer = back;
        match read {
            Ok(n) if n > 0 => seen += n,
            _ => break,
        }
    }
}
