//! The PROXY header that opens each connection to an upstream of a service with `proxyProtocol`.
//!
//! Owns nothing; runs on a data core. Such a connection speaks for one client, so it is kept for that
//! client alone ([`super::pool`]). The header names the client's address as the gateway sees it (behind
//! trusted proxies the one that they forward, whose port is not known: 0) and the address that its
//! connection came to. It goes out before anything else, TLS included.

use std::io;
use std::net::SocketAddr;

use holdfast_runtime::buffers::Buffer;
use holdfast_runtime::stream::Stream;

use crate::accept::Conn;
use crate::parse::proxy;
use crate::pin::stage::Pinned;

/// Whom a connection to an upstream must name.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// The client.
    pub address: SocketAddr,
    /// The connection that it came by.
    stream: &'a Stream,
}

impl<'a> Client<'a> {
    /// For a request; `None` where connections name nobody.
    pub fn of(conn: &'a Conn, pinned: &Pinned) -> Option<Self> {
        if !conn.generation.service(pinned.at).proxy_protocol {
            return None;
        }
        let client = pinned.attached.request.client;
        let address = if client == conn.peer.ip() {
            conn.peer
        } else {
            SocketAddr::new(client, 0)
        };
        Some(Self {
            address,
            stream: conn.client.wire(),
        })
    }

    /// Opens a new connection with the header.
    ///
    /// # Errors
    /// Those of the write.
    pub async fn introduce(&self, upstream: &Stream) -> io::Result<()> {
        let unknown = SocketAddr::new([0, 0, 0, 0].into(), 0);
        let destination = self.stream.local_addr().unwrap_or(unknown);
        let mut out = Buffer::with_capacity(proxy::WRITTEN);
        proxy::write_v2(self.address, destination, |header| {
            out.extend_from_slice(header)
        });
        // So few bytes have room in the socket of a new connection: this does not wait.
        upstream.write_all(out).await.0
    }
}
