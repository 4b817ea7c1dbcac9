//! HTTP/2: connections of clients, and connections to upstreams (RFC 9113).
//!
//! Owns frames and streams; what a request means is decided on the same path as for HTTP/1.1. A
//! client's stream becomes a [`Conn`] of its own: its head is written as text and read by the strict
//! parser, its content is read and written through `Client`. Runs on data
//! cores.
//!
//! Invariants: nothing of the path is written twice; all frames are the h2 crate's business, all bytes
//! go through [`io::Wire`], pooled; every bound that a client can hit has a counter. It deliberately
//! lacks priorities (they are read and ignored, RFC 9113, 5.3.2), server push, and the upgrade from
//! HTTP/1.1 (`h2c`), which RFC 9113 has given up.

pub mod exchange;
pub mod flow;
pub mod head;
pub mod io;
pub mod server;
pub mod upstream;
pub mod watch;

pub use exchange::Exchange;
pub use server::run;
pub use upstream::{Call, Fault, Links};

use crate::accept::{Client, Conn};

/// What a client says first who knows that we speak HTTP/2 (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of its first line.
const LINE: usize = 16;

/// Whether a connection, whose first request was refused, begins as an HTTP/2 connection does.
#[cold]
pub fn begins(conn: &Conn) -> bool {
    let here = conn.input.as_slice();
    let (here, preface) = (&here[..here.len().min(PREFACE.len())], PREFACE);
    // The line that was refused is its first; of the rest what has come.
    conn.requests == 1
        && matches!(conn.client, Client::Socket(_))
        && here.len() >= LINE
        && preface.starts_with(here)
}
