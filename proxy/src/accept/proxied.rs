//! The PROXY header that a listener with `proxyProtocol` demands of every connection, before all else.
//!
//! Owns nothing; runs on the connection's data core, once, before TLS and before any request. A header
//! gives the connection its peer, for everything that follows. Without a good one, within
//! `limits.headerTimeout`, the connection is closed without a word: who speaks another protocol could
//! not read one, and its sender is a proxy that is set up wrongly. It deliberately takes no connection
//! without a header: else any client could name itself.
//! Tested end to end, and the reader in [`crate::parse::proxy`].

use std::time::{Duration, Instant};

use holdfast_runtime::buffers::Buffer;
use holdfast_runtime::deadline::Expire;

use super::{Conn, is_loopback};
use crate::core::Core;
use crate::metrics::Metric;
use crate::parse::proxy;

/// How often a wait looks whether the core drains.
const LOOK: Duration = Duration::from_secs(1);

/// Reads the header. False: the connection is to be closed.
pub async fn header(core: &'static Core, conn: &mut Conn) -> bool {
    let limit = conn.generation.limits().header_timeout;
    let until = (!limit.is_zero()).then(|| Instant::now() + limit);
    loop {
        match proxy::read(conn.input.as_slice()) {
            Ok(Some(header)) => {
                conn.client.wire().disarm();
                conn.input.consume(header.len);
                match header.source {
                    Some(source) => {
                        conn.peer = source;
                        conn.loopback &= is_loopback(source.ip());
                    }
                    // Somebody stands between, even if it is this machine.
                    None => conn.loopback = false,
                }
                core.metrics().count(Metric::ProxyHeaders);
                return true;
            }
            Ok(None) => {}
            Err(proxy::Malformed(reason)) => {
                core.metrics().count(Metric::ProxyHeadersMalformed);
                warn(conn, reason);
                return false;
            }
        }
        if !more(core, conn, until).await {
            return false;
        }
    }
}

/// Reads once. False: nothing more comes in time.
async fn more(core: &Core, conn: &mut Conn, until: Option<Instant>) -> bool {
    loop {
        let left = until.map_or(LOOK, |until| {
            until.saturating_duration_since(Instant::now()).min(LOOK)
        });
        conn.client.wire().arm(left, Expire::Wake);
        match conn
            .client
            .wire()
            .slot()
            .until(conn.client.wire().readable())
            .await
        {
            Some(Ok(())) => break,
            Some(Err(_)) => return false,
            None if core.draining.get() => return false,
            None if until.is_some_and(|until| until <= Instant::now()) => {
                core.metrics().count(Metric::ProxyHeadersLate);
                warn(conn, "it did not come within limits.headerTimeout");
                return false;
            }
            None => {}
        }
    }
    let mut input = std::mem::take(&mut conn.input);
    if input.capacity() == 0 {
        input = Buffer::take();
    }
    if input.spare_len() == 0 {
        input.reserve(1024);
    }
    let (read, input) = conn.client.wire().read(input).await;
    conn.input = input;
    match read {
        Ok(n) if n > 0 => true,
        // Opened and closed: a check of the port, which is nobody's fault.
        _ if conn.input.is_empty() => false,
        _ => {
            core.metrics().count(Metric::ProxyHeadersMalformed);
            warn(conn, "the connection ended within it");
            false
        }
    }
}

fn warn(conn: &Conn, reason: &str) {
    static SAID: crate::log::Once = crate::log::Once::new();
    SAID.warn(|| {
        format!(
            "a connection from {} was closed for want of a good PROXY header ({reason}): the listener has \
             proxyProtocol: true; said once",
            conn.peer.ip()
        )
    });
}
