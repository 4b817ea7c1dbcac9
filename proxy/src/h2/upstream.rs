//! HTTP/2 connections to upstreams, and one exchange over such a connection.
//!
//! Owns the connections of one upstream on this core ([`Links`]): many exchanges share one, and
//! another is opened when the upstream's bound on streams is reached. Runs on its data core.
//!
//! Invariants: requests begin over a connection that has neither ended nor said GOAWAY; a connection
//! is opened by one request at a time (of each client, where connections name theirs), and those that wait
//! for it share its failure; one that was silent
//! while a request over it ran out of time takes no more; one that nobody
//! uses for `connections.idleTimeout` is closed; an exchange that is dropped resets its stream. It
//! deliberately takes no pushed streams and opens no WebSockets. Tested end to end.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream};
use holdfast_runtime::buffers::Buffer;
use holdfast_runtime::deadline::{Expire, Slot};
use http::{HeaderMap, Response};

use super::flow::{Chunk, Inflow, Outflow};
use super::head;
use super::io::{Io, Wire};
use crate::core::Core;
use crate::forward::pool::{self, ConnectError};
use crate::forward::proxied::Client;
use crate::generation::Generation;
use crate::message::UpstreamRef;
use crate::metrics::Metric;

/// Content that an upstream may send on one stream before it is read.
const STREAM_WINDOW: u32 = 64 * 1024;
/// The same for all streams of a connection.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Content of one stream that waits for its turn to be sent.
const SEND_BUFFER: usize = 64 * 1024;

/// One connection.
pub struct Link {
    requests: RefCell<SendRequest<Chunk>>,
    live: Cell<usize>,
    /// It ended, or said GOAWAY.
    closed: Cell<bool>,
    idle_since_ms: Cell<u64>,
    /// Whom its PROXY header names; it serves no other client.
    client: Option<SocketAddr>,
    wire: Rc<Wire>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("stream", self.wire.stream())
            .field("live", &self.live)
            .finish_non_exhaustive()
    }
}

impl Link {
    /// After an exchange that began at `since_ms` had no answer in time: a connection over which nothing
    /// at all came meanwhile may lead nowhere, and takes no more.
    fn judge(&self, since_ms: u64) {
        if self.wire.heard_ms() <= since_ms {
            self.closed.set(true);
        }
    }

    /// Whether one more request may begin over it.
    fn takes(&self, client: Option<SocketAddr>) -> bool {
        if self.closed.get() || self.client != client {
            return false;
        }
        let mut requests = self.requests.borrow_mut();
        // Without a request that waits for its turn this says at once whether the connection stands.
        let stands = requests.poll_ready(&mut Context::from_waker(Waker::noop()));
        if !matches!(stands, Poll::Ready(Ok(()))) {
            self.closed.set(true);
            return false;
        }
        self.live.get() < requests.current_max_send_streams()
    }
}

/// The connections of one upstream on this core.
#[derive(Debug, Default)]
pub struct Links {
    links: RefCell<Vec<Rc<Link>>>,
    /// Attempts to open one: one at a time for each client that is to be named.
    opening: RefCell<Vec<Rc<Attempt>>>,
}

/// A connection that is being opened, and who waits for it.
#[derive(Debug)]
struct Attempt {
    client: Option<SocketAddr>,
    over: Cell<bool>,
    failed: Cell<Option<ConnectError>>,
    waiting: RefCell<Vec<Waker>>,
}

impl Links {
    fn pick(&self, client: Option<SocketAddr>) -> Option<Rc<Link>> {
        let mut links = self.links.borrow_mut();
        links.retain(|link| !link.closed.get());
        links.iter().find(|link| link.takes(client)).cloned()
    }

    fn attempt(&self, client: Option<SocketAddr>) -> Option<Rc<Attempt>> {
        let opening = self.opening.borrow();
        opening.iter().find(|a| a.client == client).cloned()
    }

    /// Adds one; where too many serve nobody, the oldest of those goes.
    fn keep(&self, link: Rc<Link>, most_idle: usize) {
        let mut links = self.links.borrow_mut();
        links.push(link);
        let idle = |link: &Rc<Link>| link.live.get() == 0;
        if links.iter().filter(|link| idle(link)).count() > most_idle.max(1)
            && let Some(oldest) = links.iter().position(idle)
        {
            links.remove(oldest);
        }
    }

    /// Closes what has idled too long. Called about once a second.
    pub fn sweep(&self, now_ms: u64, limit_ms: u64) {
        self.links.borrow_mut().retain(|link| {
            let idled = now_ms.saturating_sub(link.idle_since_ms.get());
            !link.closed.get() && (link.live.get() > 0 || limit_ms == 0 || idled < limit_ms)
        });
    }

    /// How many serve nobody now.
    pub fn idle(&self) -> usize {
        let links = self.links.borrow();
        links.iter().filter(|link| link.live.get() == 0).count()
    }

    /// Closes all; what is under way goes on.
    pub fn clear(&self) {
        self.links.borrow_mut().clear();
    }
}

/// The right to open a connection; others that could use it wait meanwhile.
struct Opening<'a>(&'a Links, Rc<Attempt>);

impl<'a> Opening<'a> {
    fn new(links: &'a Links, client: Option<SocketAddr>) -> Self {
        let attempt = Rc::new(Attempt {
            client,
            over: Cell::new(false),
            failed: Cell::new(None),
            waiting: RefCell::default(),
        });
        links.opening.borrow_mut().push(attempt.clone());
        Self(links, attempt)
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        let Self(links, attempt) = self;
        attempt.over.set(true);
        links
            .opening
            .borrow_mut()
            .retain(|a| !Rc::ptr_eq(a, attempt));
        attempt.waiting.take().into_iter().for_each(Waker::wake);
    }
}

/// Finds a connection with room for one more request, or opens one. Says whether it was there before.
///
/// # Errors
/// None was there, and none could be opened.
pub async fn checkout(
    core: &'static Core,
    generation: &Generation,
    at: UpstreamRef,
    client: Option<Client<'_>>,
) -> Result<(Rc<Call>, bool), ConnectError> {
    let upstream = generation.upstream(at);
    let links = &upstream.pool.links;
    let named = client.map(|client| client.address);
    loop {
        if let Some(link) = links.pick(named) {
            core.metrics().count(Metric::UpstreamReused);
            return Ok((Rc::new(Call::new(core, link)), true));
        }
        let Some(attempt) = links.attempt(named) else {
            break;
        };
        poll_fn(|cx| {
            if attempt.over.get() {
                return Poll::Ready(());
            }
            attempt.waiting.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await;
        if let Some(error) = attempt.failed.get() {
            return Err(error);
        }
    }
    let opening = Opening::new(links, named);
    let opened = open(core, generation, at, client).await;
    match opened {
        Ok(link) => {
            if !upstream.retired.get() && !core.draining.get() {
                let most = generation.service(at).connections.max_idle_per_core;
                links.keep(link.clone(), most);
            }
            drop(opening);
            Ok((Rc::new(Call::new(core, link)), false))
        }
        Err(error) => {
            opening.1.failed.set(Some(error));
            Err(error)
        }
    }
}

async fn open(
    core: &'static Core,
    generation: &Generation,
    at: UpstreamRef,
    client: Option<Client<'_>>,
) -> Result<Rc<Link>, ConnectError> {
    let named = client.map(|client| client.address);
    let stream = Rc::new(pool::connect(core, generation, at, client).await?);
    let wire = Wire::new(stream, Buffer::empty(), None);
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(
            generation
                .response_limits
                .header_bytes
                .try_into()
                .unwrap_or(u32::MAX),
        )
        .max_send_buffer_size(SEND_BUFFER)
        .enable_push(false);
    // Only writes, into the wire's buffer: it does not wait.
    let (requests, connection) = builder
        .handshake::<Io, Chunk>(Io(wire.clone()))
        .await
        .map_err(|_| ConnectError::Failed)?;
    let link = Rc::new(Link {
        requests: RefCell::new(requests),
        live: Cell::new(0),
        closed: Cell::new(false),
        idle_since_ms: Cell::new(core.now_ms()),
        client: named,
        wire: wire.clone(),
    });
    monoio::spawn(drive(connection, wire, Rc::downgrade(&link)));
    Ok(link)
}

/// Moves a connection's frames until it ends: by its upstream, or because nobody holds it any more.
async fn drive(connection: Connection<Io, Chunk>, wire: Rc<Wire>, link: Weak<Link>) {
    let mut connection = pin!(connection);
    poll_fn(|cx| {
        let end = connection.as_mut().poll(cx);
        wire.kick(cx);
        end.map(drop)
    })
    .await;
    if let Some(link) = link.upgrade() {
        link.closed.set(true);
    }
    // What was written last, within the time that any write has.
    poll_fn(|cx| wire.poll_written(cx).map(drop)).await;
}

/// How an exchange failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The upstream has not processed the request (RFC 9113, 8.7).
    Unprocessed,
    /// It broke off.
    Gone,
    /// It is not HTTP/2, or the request can't be said in it.
    Malformed(&'static str),
}

/// One exchange: what stands where HTTP/1.1 has a socket.
pub struct Call {
    core: &'static Core,
    /// Of what is read.
    slot: Slot,
    /// Of what is written.
    out_slot: Slot,
    response: RefCell<Option<ResponseFuture>>,
    inflow: OnceCell<Inflow>,
    outflow: OnceCell<Outflow>,
    fault: Cell<Option<Fault>>,
    begun_ms: u64,
    link: Rc<Link>,
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call")
            .field("link", &self.link)
            .finish_non_exhaustive()
    }
}

impl Call {
    fn new(core: &'static Core, link: Rc<Link>) -> Self {
        link.live.set(link.live.get() + 1);
        Self {
            core,
            slot: Slot::new(link.wire.stream().raw_fd()),
            out_slot: Slot::new(link.wire.stream().raw_fd()),
            response: RefCell::default(),
            inflow: OnceCell::new(),
            outflow: OnceCell::new(),
            fault: Cell::new(None),
            begun_ms: core.now_ms(),
            link,
        }
    }

    /// What went wrong, once something has.
    pub fn fault(&self) -> Option<Fault> {
        self.fault.get()
    }

    /// Sets the deadline of reads and writes: they then fail.
    pub fn arm(&self, after: Duration) {
        self.slot.arm(after, Expire::Wake);
        self.out_slot.arm(after, Expire::Wake);
    }

    /// Takes it away.
    pub fn disarm(&self) {
        self.slot.disarm();
        self.out_slot.disarm();
    }

    /// Whether the deadline has passed.
    pub fn expired(&self) -> bool {
        self.slot.expired() || self.out_slot.expired()
    }

    /// Begins a request with this head; `end` says that no content follows.
    ///
    /// # Errors
    /// See [`Call::fault`].
    pub fn begin(&self, text: &[u8], end: bool) -> io::Result<()> {
        let scheme = match self.link.wire.stream().is_plain() {
            true => "http",
            false => "https",
        };
        let Some(request) = head::request(Bytes::copy_from_slice(text), scheme) else {
            let why = Fault::Malformed("the request can't be said in HTTP/2");
            self.fault.set(Some(why));
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let begun = self
            .link
            .requests
            .borrow()
            .clone()
            .send_request(request, end);
        let (response, stream) = begun.map_err(|e| {
            // Nothing was sent.
            self.fault.set(Some(Fault::Unprocessed));
            io::Error::other(e)
        })?;
        self.response.replace(Some(response));
        // A call begins once.
        let _ = self.outflow.set(Outflow::new(stream));
        Ok(())
    }

    /// Sends content; `end` says that nothing follows.
    ///
    /// # Errors
    /// See [`Outflow::write`].
    pub async fn write(&self, out: Buffer, end: bool) -> io::Result<()> {
        let outflow = self.outflow.get().ok_or(io::ErrorKind::NotConnected)?;
        outflow.write(&self.out_slot, None, out, end).await
    }

    /// Says that nothing more comes, but for these trailers.
    ///
    /// # Errors
    /// The stream is gone.
    pub fn end(&self, trailers: Option<HeaderMap>) -> io::Result<()> {
        let outflow = self.outflow.get().ok_or(io::ErrorKind::NotConnected)?;
        outflow.end(trailers)
    }

    /// Reads once: heads as text, then content. `Ok(0)` is the end.
    ///
    /// # Errors
    /// See [`Call::fault`]; the deadline has passed.
    pub async fn read(&self, mut input: Buffer) -> (io::Result<usize>, Buffer) {
        if let Some(inflow) = self.inflow.get() {
            let (read, input) = inflow.read(&self.slot, input).await;
            return (read, input);
        }
        let came = self.slot.until(poll_fn(|cx| self.poll_head(cx))).await;
        let result = match came {
            None => {
                self.link.judge(self.begun_ms);
                Err(io::ErrorKind::TimedOut.into())
            }
            Some(Err(e)) => {
                self.fault.set(Some(fault(&e)));
                Err(io::Error::new(io::ErrorKind::ConnectionReset, e))
            }
            Some(Ok(response)) => {
                let before = input.len();
                let (parts, body) = response.into_parts();
                head::response_text(&Response::from_parts(parts, ()), &mut input);
                if let Some(body) = body {
                    let _ = self.inflow.set(Inflow::new(body));
                }
                Ok(input.len() - before)
            }
        };
        (result, input)
    }

    /// The next head: with content behind it, if it is the last.
    fn poll_head(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<Option<RecvStream>>, h2::Error>> {
        let mut response = self.response.borrow_mut();
        let Some(response) = response.as_mut() else {
            return Poll::Ready(Err(Reason::CANCEL.into()));
        };
        if let Poll::Ready(Some(interim)) = response.poll_informational(cx) {
            return Poll::Ready(interim.map(|head| head.map(|()| None)));
        }
        Pin::new(response)
            .poll(cx)
            .map_ok(|response| response.map(Some))
    }

    /// Whether nothing more comes.
    pub fn at_end(&self) -> bool {
        self.inflow.get().is_some_and(Inflow::is_end)
    }

    /// The trailers, after the end.
    pub async fn trailers(&self) -> Option<HeaderMap> {
        self.inflow.get()?.trailers(&self.slot).await
    }

    /// Gives the exchange up.
    pub fn cancel(&self) {
        if let Some(outflow) = self.outflow.get() {
            outflow.reset(Reason::CANCEL);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.link.live.set(self.link.live.get().saturating_sub(1));
        self.link.idle_since_ms.set(self.core.now_ms());
    }
}

fn fault(error: &h2::Error) -> Fault {
    let reason = error.reason();
    let said = error.is_remote();
    match reason {
        Some(Reason::REFUSED_STREAM) if said && error.is_reset() => Fault::Unprocessed,
        // Streams beyond the last that GOAWAY names; the others go on.
        Some(Reason::NO_ERROR) if said && error.is_go_away() => Fault::Unprocessed,
        Some(_) if !said && error.is_go_away() => Fault::Malformed("the upstream broke HTTP/2"),
        Some(_) if !said && error.is_reset() => {
            Fault::Malformed("the upstream's answer is malformed")
        }
        _ => Fault::Gone,
    }
}
