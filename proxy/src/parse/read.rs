//! Reading a request's head from its connection, and the facts that follow from it.
//!
//! Runs on a data core: the shell around the pure reader of [`crate::parse`].

use std::net::IpAddr;

use holdfast_runtime::buffers::Buffer;
use holdfast_runtime::clock;
use holdfast_runtime::deadline::Expire;

use crate::accept::{Client, Conn, is_loopback};
use crate::accesslog::Record;
use crate::core::Core;
use crate::deliver::page::Refusal;
use crate::identify::Request;
use crate::metrics::Metric;
use crate::parse::{self, Name, Progress, forwarded};

/// A request whose head was read whole and understood in one way.
#[derive(Debug)]
pub struct Parsed {
    /// What follows from it.
    pub request: Request,
}

/// Reads the head of the next request into [`Conn::head`].
pub async fn read(core: &Core, conn: &mut Conn, record: &mut Record) -> Result<Parsed, Refusal> {
    conn.scan = Default::default();
    if let Client::H2(exchange) = &conn.client
        && let Some(fault) = exchange.fault
    {
        return Err(Refusal::malformed(fault));
    }
    let timeout = conn.generation.limits().header_timeout;
    // What came may be a part of a TLS record: then the head's time runs before its first byte.
    let mut armed = false;
    if let Client::Socket(stream) = &conn.client
        && !stream.is_plain()
        && !timeout.is_zero()
    {
        stream.arm(timeout, Expire::Read);
        armed = true;
    }
    loop {
        if conn.input.is_empty() {
            fill(core, conn).await?;
        }
        let progress = parse::request(
            conn.input.as_slice(),
            &conn.generation.listeners[conn.listener as usize].head_limits,
            &mut conn.scan,
            &mut conn.head,
        )
        .map_err(Refusal::parse)?;
        if progress == Progress::Complete {
            break;
        }
        // A head that comes whole, as nearly all do, needs no deadline.
        if !armed && !timeout.is_zero() {
            if let Client::Socket(stream) = &conn.client {
                stream.arm(timeout, Expire::Read);
            }
            armed = true;
        }
        fill(core, conn).await?;
    }
    if armed {
        conn.client.disarm();
    }
    if conn.client.socket().is_some_and(|stream| stream.is_worn()) {
        conn.head.keep_alive = false;
    }
    record.parsed = true;
    record.started_ns = clock::monotonic_ns();
    facts(core, conn, record).map(|request| Parsed { request })
}

async fn fill(core: &Core, conn: &mut Conn) -> Result<(), Refusal> {
    let Client::Socket(stream) = &conn.client else {
        // A stream's head is there, whole, before its task begins.
        return Err(Refusal::malformed("malformed head"));
    };
    let mut input = std::mem::take(&mut conn.input);
    if input.capacity() == 0 {
        input = Buffer::take();
    }
    if input.spare_len() == 0 {
        input.reserve(4096);
    }
    let (read, input) = stream.read(input).await;
    conn.input = input;
    match read {
        Ok(n) if n > 0 => {
            core.metrics().add(Metric::BytesFromClients, n as u64);
            Ok(())
        }
        _ if conn.input.is_empty() => {
            if !stream.is_plain() {
                // Between requests: nothing is missing.
                stream.shutdown(std::net::Shutdown::Write).ok();
            }
            Err(Refusal::ended())
        }
        _ if stream.expired() => Err(Refusal::timeout("the request's head did not come in time")),
        _ => Err(Refusal::gone()),
    }
}

fn facts(core: &Core, conn: &Conn, record: &mut Record) -> Result<Request, Refusal> {
    if !conn.is_trusted() {
        return Err(Refusal::misdirected());
    }
    let buf = conn.input.as_slice();
    let head = &conn.head;
    let listener = conn.generation.listener(conn.listener);
    let peer = conn.peer.ip();
    let trusted = |ip: IpAddr| listener.trusted_proxies.iter().any(|c| c.contains(ip));
    let trusted_peer = !listener.trusted_proxies.is_empty() && trusted(peer);
    let forwarding = [
        Name::XForwardedFor,
        Name::XForwardedProto,
        Name::XForwardedHost,
        Name::XForwarded,
        Name::Forwarded,
        Name::Via,
    ]
    .into_iter()
    .any(|name| head.has(name));
    let client = if trusted_peer {
        forwarded::client_address(peer, head.values(buf, Name::XForwardedFor), trusted)
    } else {
        peer
    };
    if forwarding && !trusted_peer && head.has(Name::XForwardedFor) {
        core.metrics().count(Metric::UntrustedForwarded);
        static SAID: crate::log::Once = crate::log::Once::new();
        SAID.warn(|| {
            "a peer that is not in trustedProxies sent X-Forwarded-For: it is not believed".into()
        });
    }
    let vouched = trusted_peer
        && forwarded::scheme(
            head.values(buf, Name::XForwardedProto),
            head.values(buf, Name::Forwarded),
        ) == Some(forwarded::Scheme::Https);
    let authority = head.authority_bytes(buf);
    let tls = conn.secured.is_some();
    let laptop = !tls && conn.loopback && !forwarding && is_loopback_host(authority);
    let rule = conn
        .generation
        .router
        .route(authority, head.path(buf), head.method_bytes(buf))
        .ok_or_else(Refusal::unrouted)?;
    let kept = head
        .value(buf, Name::XRequestId)
        .is_some_and(|v| !v.is_empty());
    let made_request_id = (!kept).then(|| core.next_request_id());
    record.request_id = made_request_id;
    Ok(Request {
        rule,
        client,
        trusted_peer,
        secure: tls || vouched,
        laptop,
        our_cookies: false,
        rewrite_host: head.host_differs(buf),
        expect_continue: head.expect_continue,
        query: None,
        made_request_id,
    })
}

/// Is this Host a name of this machine alone: `localhost`, 127.0.0.0/8, `[::1]`?
fn is_loopback_host(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else {
        return false;
    };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(is_loopback)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_hosts_are_those_of_this_machine() {
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1",
            "127.9.9.9:80",
            "[::1]:8080",
            "[::1]",
        ] {
            assert!(is_loopback_host(host.as_bytes()), "{host}");
        }
        for host in [
            "example.com",
            "localhost.example.com",
            "10.0.0.1",
            "[::2]",
            "",
            "127.0.0.1.example.com",
        ] {
            assert!(!is_loopback_host(host.as_bytes()), "{host}");
        }
    }
}
