//! The TLS handshake of a client connection, before its first request.
//!
//! Runs on a data core, one task a connection, within `headerTimeout`. Everything that can go wrong is
//! counted by its reason; nothing of it is logged a connection, since strangers cause it.

use std::net::Shutdown;
use std::rc::Rc;
use std::sync::Arc;

use holdfast_runtime::buffers::Buffer;
use holdfast_runtime::deadline::Expire;
use holdfast_runtime::stream::Stream;
use holdfast_runtime::tls::handshake::{self, Agreed, Facts, Failure};

use super::{Client, Conn, LINGER, closed, drain_input, run};
use crate::boundary;
use crate::core::Core;
use crate::h2;
use crate::metrics::Metric;
use crate::tls;

/// What is known of a connection's TLS.
#[derive(Debug)]
pub struct Secured {
    /// What the handshake agreed on.
    pub facts: Facts,
    /// Subject of the client's certificate, which was verified.
    pub subject: Option<Box<str>>,
    /// The rules that it was verified by.
    pub trust: Option<tls::Trust>,
}

impl Secured {
    /// Whether the client chose HTTP/2.
    pub fn is_http2(&self) -> bool {
        self.facts.protocol.as_deref() == Some(tls::H2)
    }
}

/// What a client reads that speaks plain HTTP to us.
const PLAIN_PAGE: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    Content-Type: text/plain; charset=utf-8\r\n\
    Cache-Control: no-store\r\n\
    Content-Length: 66\r\n\
    Connection: close\r\n\r\n\
    400 Bad Request: this port speaks TLS; the address is https://...\n";

/// Makes the handshake, and serves the connection.
pub async fn secure(core: &'static Core, mut conn: Conn) {
    // Boxed, so that its room is given back before the first request.
    let shaking = Box::pin(handshake(core, &mut conn));
    if boundary::within(core, shaking).await == Some(true) {
        // THE place where the protocol that TLS agreed on decides who serves the connection.
        if !conn.secured.as_ref().is_some_and(|s| s.is_http2()) {
            return run(core, conn).await;
        }
        conn.requests = 1;
        let wire = conn.client.wire().clone();
        boundary::within(core, Box::pin(h2::run(core, conn))).await;
        wire.shutdown(Shutdown::Write).ok();
    } else {
        drop(conn);
    }
    closed(core);
}

/// False: the connection is to be closed.
async fn handshake(core: &'static Core, conn: &mut Conn) -> bool {
    // Nobody else has the stream before the first request.
    let server = conn.generation.tls(conn.listener).cloned();
    let (Some(server), Client::Socket(stream)) = (server, &mut conn.client) else {
        return false;
    };
    let Some(stream) = Rc::get_mut(stream) else {
        return false;
    };
    let limit = conn.generation.limits().header_timeout;
    if !limit.is_zero() {
        stream.arm(limit, Expire::Both);
    }
    let first = std::mem::take(&mut conn.input);
    match handshake::accept(stream, server.config.clone(), first).await {
        Ok(agreed) => {
            stream.disarm();
            core.metrics().count(if agreed.facts.resumed {
                Metric::TlsResumed
            } else {
                Metric::TlsHandshakes
            });
            conn.secured = Some(Arc::new(secured(agreed, server.trust)));
            true
        }
        Err(failure) => {
            core.metrics().count(reason(&failure, stream.expired()));
            if let Failure::Http(_) = failure {
                refuse_plain(stream).await;
            }
            false
        }
    }
}

fn secured(agreed: Agreed, trust: Option<tls::Trust>) -> Secured {
    let certificates = agreed.certificates.unwrap_or_default();
    let subject = certificates.first().and_then(tls::subject);
    Secured {
        facts: agreed.facts,
        subject: subject.map(String::into_boxed_str),
        trust,
    }
}

fn reason(failure: &Failure, expired: bool) -> Metric {
    match failure {
        _ if expired => Metric::TlsTimeouts,
        Failure::Http(_) => Metric::TlsPlainHttp,
        Failure::NotTls => Metric::TlsGarbage,
        Failure::Closed => Metric::TlsClosed,
        Failure::Alert(_) => Metric::TlsAlerts,
        Failure::Certificate(_) => Metric::TlsCertificates,
        Failure::Protocol(_) => Metric::TlsProtocol,
        Failure::Io(_) => Metric::TlsIo,
    }
}

async fn refuse_plain(stream: &Stream) {
    let mut out = Buffer::take();
    out.extend_from_slice(PLAIN_PAGE);
    stream.arm(LINGER, Expire::Both);
    if stream.write_all(out).await.0.is_ok() {
        drain_input(stream, Buffer::take()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::PLAIN_PAGE;

    #[test]
    fn the_page_is_as_long_as_it_says() {
        let text = std::str::from_utf8(PLAIN_PAGE).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let length = format!("Content-Length: {}", body.len());
        assert!(head.contains(&length), "{length} in {head}");
    }
}
