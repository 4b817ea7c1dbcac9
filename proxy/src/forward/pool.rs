//! Connections to upstreams: a pool a core and upstream.
//!
//! Owns idle connections, newest first, with a bound and an age; nothing is shared between cores.
//! Runs on its data core.
//!
//! Invariants: a connection in the pool has no operation in flight and no unread byte that we asked
//! for; one that is closed or has bytes nobody asked for is never used again. It deliberately waits
//! for nothing but `connect`.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use holdfast_config::plan::{Protocol, UpstreamAddress};
use holdfast_runtime::deadline::Expire;
use holdfast_runtime::socket::is_exhausted;
use holdfast_runtime::stream::{Stream, Target};
use holdfast_runtime::tls::handshake;

use crate::core::Core;
use crate::forward::link::Link;
use crate::forward::proxied::Client;
use crate::generation::{Generation, UpstreamCore};
use crate::h2::{self, Links};
use crate::message::UpstreamRef;
use crate::metrics::Metric;
use crate::tls;

/// A connection to an upstream, with its place in the count of what is in flight.
#[derive(Debug)]
pub struct UpstreamConn {
    /// The socket, or a stream of a shared one. Shared only with the pump of a request's body.
    pub link: Link,
    /// It was in the pool before.
    pub reused: bool,
    /// Whom its PROXY header names; it serves no other client.
    pub client: Option<SocketAddr>,
}

#[derive(Debug)]
struct Idle {
    stream: Rc<Stream>,
    since_ms: u64,
    client: Option<SocketAddr>,
}

/// The idle connections of one upstream on this core.
#[derive(Debug, Default)]
pub struct Pool {
    idle: RefCell<Vec<Idle>>,
    /// Resolved addresses of a name; a literal address and a unix socket need none.
    addresses: RefCell<Option<Arc<[SocketAddr]>>>,
    turn: Cell<usize>,
    /// Connections that exchanges share (HTTP/2).
    pub links: Links,
}

/// Why there is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectError {
    /// Refused, unreachable, no such name or file.
    Failed,
    /// This machine has no descriptor, port or memory for it: not the upstream's fault.
    Exhausted,
    /// Not within `connectTimeout`.
    TimedOut,
    /// The TLS handshake failed: no TLS there, or a certificate that does not verify.
    Tls,
}

impl Pool {
    /// New addresses of its name. Idle connections to other addresses end as they are used up.
    pub fn set_addresses(&self, addresses: Arc<[SocketAddr]>) {
        *self.addresses.borrow_mut() = Some(addresses);
    }

    /// The addresses that another pool of the same upstream has.
    pub fn resume_addresses(&self, other: &Self) {
        self.addresses.replace(other.addresses.borrow().clone());
    }

    fn target(&self, address: &UpstreamAddress) -> Option<Target> {
        match address {
            UpstreamAddress::Ip(ip) => Some(Target::Tcp(*ip)),
            UpstreamAddress::Unix(path) => Some(Target::Unix(path.clone())),
            UpstreamAddress::Name(..) => {
                let addresses = self.addresses.borrow();
                let list = addresses.as_ref()?;
                let turn = self.turn.get();
                self.turn.set(turn.wrapping_add(1));
                list.get(turn.checked_rem(list.len())?)
                    .map(|a| Target::Tcp(*a))
            }
        }
    }

    /// The newest idle connection; where connections name their client, of this client's.
    fn take(&self, client: Option<SocketAddr>) -> Option<Idle> {
        let mut idle = self.idle.borrow_mut();
        if client.is_none() && idle.last().is_some_and(|last| last.client.is_none()) {
            return idle.pop();
        }
        let at = idle.iter().rposition(|one| one.client == client)?;
        Some(idle.remove(at))
    }

    /// Closes what has idled too long or was closed by the upstream. Called about once a second.
    pub fn sweep(&self, now_ms: u64, idle_timeout: Duration) {
        let limit = idle_timeout.as_millis() as u64;
        self.idle.borrow_mut().retain(|idle| {
            (limit == 0 || now_ms.saturating_sub(idle.since_ms) < limit)
                && !idle.stream.peek_stale()
        });
        self.links.sweep(now_ms, limit);
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        self.idle.borrow().len() + self.links.idle()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Closes all, such as on a drain of the process.
    pub fn clear(&self) {
        self.idle.borrow_mut().clear();
        self.links.clear();
    }
}

/// Idle time after which a connection is looked at before it is used, whatever the request. Under load
/// the newest are taken again long before, and a look (one syscall) costs nothing where there is none.
const LOOK_AFTER_MS: u64 = 20;

/// Takes a kept connection, or makes one. `fresh` asks for a new one; `careful` looks whether a kept
/// one was closed, or was sent what nobody asked for, before it is used (one syscall: for requests
/// that could not be tried again). `client` is whom the connection's PROXY header names, where the
/// service has one: only a connection that names the same is used again. One that has idled for `LOOK_AFTER_MS` is looked at anyway: a
/// response that nobody asked for must not become the answer to the next request.
pub async fn checkout(
    core: &'static Core,
    generation: &Generation,
    at: UpstreamRef,
    fresh: bool,
    careful: bool,
    client: Option<Client<'_>>,
) -> Result<UpstreamConn, ConnectError> {
    let pool = &generation.upstream(at).pool;
    let named = client.map(|client| client.address);
    if generation.service(at).protocol == Protocol::H2 {
        let (call, reused) = Box::pin(h2::upstream::checkout(core, generation, at, client)).await?;
        return Ok(UpstreamConn {
            link: Link::H2(call),
            reused,
            client: named,
        });
    }
    let kept = || {
        if fresh { None } else { pool.take(named) }
    };
    while let Some(idle) = kept() {
        let idled = core.now_ms().saturating_sub(idle.since_ms) >= LOOK_AFTER_MS;
        if (careful || idled) && idle.stream.peek_stale() {
            core.metrics().count(Metric::UpstreamStale);
            continue;
        }
        core.metrics().count(Metric::UpstreamReused);
        return Ok(UpstreamConn {
            link: Link::Socket(idle.stream),
            reused: true,
            client: named,
        });
    }
    let stream = Box::pin(connect(core, generation, at, client)).await?;
    Ok(UpstreamConn {
        link: Link::Socket(Rc::new(stream)),
        reused: false,
        client: named,
    })
}

/// Opens a connection, within `connectTimeout`, which names `client` if there is one.
///
/// # Errors
/// The upstream could not be reached in time.
pub async fn connect(
    core: &Core,
    generation: &Generation,
    at: UpstreamRef,
    client: Option<Client<'_>>,
) -> Result<Stream, ConnectError> {
    let pool = &generation.upstream(at).pool;
    let service = generation.service(at);
    let address = &service.upstreams[at.upstream as usize].address;
    let target = pool.target(address).ok_or(ConnectError::Failed)?;
    let limit = match service.connections.connect_timeout {
        Duration::ZERO => Duration::from_secs(3_600),
        limit => limit,
    };
    let connected = Stream::connect(&target, limit).await;
    let mut stream = connected.map_err(|e| {
        if is_exhausted(&e) || e.raw_os_error() == Some(libc::EADDRNOTAVAIL) {
            static SAID: crate::log::Limited = crate::log::Limited::new(Duration::from_secs(10));
            SAID.warn(|| {
                let id = &service.upstreams[at.upstream as usize].id;
                format!(
                    "no connection to upstream {}/{id} for want of a file or port here: {e}",
                    service.name
                )
            });
            ConnectError::Exhausted
        } else if e.kind() == std::io::ErrorKind::TimedOut {
            ConnectError::TimedOut
        } else {
            ConnectError::Failed
        }
    })?;
    core.metrics().count(Metric::UpstreamConnects);
    if let Some(client) = client {
        let introduced = client.introduce(&stream).await;
        introduced.map_err(|_| ConnectError::Failed)?;
    }
    if let Some(tls) = generation.client(at) {
        secure(core, generation, at, &mut stream, tls, limit).await?;
    }
    Ok(stream)
}

/// Makes the TLS handshake with an upstream, within `limit`.
async fn secure(
    core: &Core,
    generation: &Generation,
    at: UpstreamRef,
    stream: &mut Stream,
    tls: &tls::Client,
    limit: Duration,
) -> Result<(), ConnectError> {
    let name = tls.names.get(at.upstream as usize);
    let name = name.ok_or(ConnectError::Failed)?.clone();
    stream.arm(limit, Expire::Both);
    let agreed = handshake::connect(stream, tls.config(), name).await;
    match agreed {
        Ok(agreed) => {
            stream.disarm();
            if agreed.facts.resumed {
                core.metrics().count(Metric::UpstreamTlsResumed);
            }
            Ok(())
        }
        Err(_) if stream.expired() => Err(ConnectError::TimedOut),
        Err(failure) => {
            let service = generation.service(at);
            static SAID: crate::log::Limited = crate::log::Limited::new(Duration::from_secs(10));
            SAID.warn(|| {
                let id = &service.upstreams[at.upstream as usize].id;
                format!("TLS with upstream {}/{id}: {failure}", service.name)
            });
            Err(ConnectError::Tls)
        }
    }
}

/// Keeps a connection whose exchange ended cleanly.
pub fn checkin(core: &Core, generation: &Generation, at: UpstreamRef, conn: UpstreamConn) {
    let UpstreamConn { link, client, .. } = conn;
    let Link::Socket(stream) = link else {
        // Its connection is shared, and kept as such.
        return;
    };
    stream.disarm();
    stream.release();
    let upstream = generation.upstream(at);
    if upstream.retired.get() || is_outdated(core, generation, &stream) {
        return;
    }
    let settings = &generation.service(at).connections;
    let mut idle = upstream.pool.idle.borrow_mut();
    if client.is_some() && !idle.is_empty() && idle.len() >= settings.max_idle_per_core {
        // Of connections that serve one client each, the oldest is the least likely to be used again.
        idle.remove(0);
    }
    if idle.len() < settings.max_idle_per_core && !core.draining.get() {
        idle.push(Idle {
            stream,
            since_ms: core.now_ms(),
            client,
        });
    }
}

/// Whether a connection was made before a reload that may have changed how the upstream is trusted.
fn is_outdated(core: &Core, generation: &Generation, stream: &Stream) -> bool {
    generation.setup.number != core.number()
        && (!stream.is_plain() || core.generation().has_clients())
}

/// One exchange in flight at an upstream, over all cores; given back when dropped.
#[derive(Debug)]
pub struct Active(Rc<UpstreamCore>);

impl Active {
    /// Takes a place, if `connections.max` leaves one.
    pub fn take(generation: &Generation, at: UpstreamRef) -> Option<Self> {
        let max = generation.service(at).connections.max;
        let upstream = generation.upstream(at);
        let count = upstream.active();
        if max == 0 {
            count.fetch_add(1, Relaxed);
        } else {
            count
                .fetch_update(Relaxed, Relaxed, |n| (n < max).then_some(n + 1))
                .ok()?;
        }
        Some(Self(Rc::clone(upstream)))
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active().fetch_sub(1, Relaxed);
    }
}
