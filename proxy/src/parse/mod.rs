//! Reading HTTP/1.1: heads, chunked bodies, cookies, paths, queries and forwarding headers.
//!
//! Owns no connection and no state but what its callers keep and hand in again: a [`HeadScan`] and
//! a head for each side of a connection, a [`chunked::Decoder`] for each chunked body. Everything is
//! a plain function of bytes; any thread may call it, the data cores do.
//!
//! Invariants:
//! - **One reading.** What RFC 9112 lets two recipients read in two ways is refused, never repaired:
//!   bare CR or LF, folded lines, white space around names, anything but one clean framing. A client
//!   gets the status of the [`Refusal`] and its connection is closed; an upstream's is a 502.
//! - Framing is *said anew*: `Content-Length` and `Transfer-Encoding` lines are never copied, the
//!   number or `chunked` of [`Framing`] is written instead, and chunked bodies are decoded and
//!   encoded again. So the peer behind us reads what we read.
//! - No input panics, and no work is more than linear in the input (times a constant bound).
//! - Nothing is allocated for a head once its vectors have grown to the size that clients use.
//! - A head holds offsets into the caller's buffer, never copies; the one exception is a path that
//!   normalising changed.
//!
//! It deliberately does no I/O, keeps no clock, builds no heads, and decides no policy: which lines
//! go on to an upstream is `forward`'s business, with [`Line::hop_by_hop`] and [`Name`] to go by. It
//! does not use `httparse`: that reader takes bare LF, empty-valued framing lines and white space
//! that we must refuse, so the line structure had to be found by a scan of our own anyway, and with
//! that scan done, splitting a line at its first colon is all that is left.
//!
//! Tested by tables of hostile requests and responses, by property tests (any split of the input
//! reads like the whole; what is read, written and read again is the same), by corpora of others
//! where they are at hand, and by the fuzz targets of `proxy/fuzz`.

pub mod chunked;
pub mod cookies;
mod field;
pub mod forwarded;
mod host;
mod method;
mod name;
pub mod path;
pub mod proxy;
pub mod query;
pub mod read;
mod request;
mod response;
mod scan;

#[cfg(test)]
mod tests;

use std::fmt;

pub use field::Line;
pub use host::valid_host;
pub use method::Method;
pub use name::{Name, NameRules};
pub use request::{Form, RequestHead, request};
pub use response::{Asked, MAX_INTERIM, ResponseHead, response};
pub use scan::HeadScan;

/// Why input was not accepted. The connection that it came from cannot be used further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The status to answer with: 4xx or 501 for what a client sent, 502 for what an upstream sent.
    pub status: u16,
    /// One line for the error page and the log. It never quotes input.
    pub reason: &'static str,
}

impl Refusal {
    /// 400 with `reason`.
    pub(crate) const fn bad(reason: &'static str) -> Refusal {
        Refusal {
            status: 400,
            reason,
        }
    }

    pub(crate) const fn with(status: u16, reason: &'static str) -> Refusal {
        Refusal { status, reason }
    }

    /// The same fault seen at an upstream.
    pub(crate) const fn upstream(self) -> Refusal {
        Refusal {
            status: 502,
            reason: self.reason,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.reason)
    }
}

impl std::error::Error for Refusal {}

/// Whether a head is all there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Read more, then call again with the same scan, head and buffer start.
    Partial,
    /// The head is complete: its `len` says how many bytes of the buffer it took.
    Complete,
}

/// A version of HTTP/1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    #[default]
    Http11,
}

/// How the body that follows a head ends (RFC 9112, section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Framing {
    /// There is no body: a request without framing lines; a response to HEAD, a 1xx, 204 or 304.
    #[default]
    None,
    /// This many bytes.
    Length(u64),
    /// Chunked; see [`chunked`].
    Chunked,
    /// Until the connection closes; responses only.
    UntilClose,
}

/// Bounds on a head, and what the configuration calls its headers.
#[derive(Debug, Clone)]
pub struct HeadLimits {
    /// `limits.headerBytes`: the whole head, start line and last empty line included. 431 past it.
    pub header_bytes: usize,
    /// `limits.headers`: number of lines. 431 past it.
    pub headers: usize,
    /// `limits.uriBytes`: the request target. 414 past it.
    pub uri_bytes: usize,
    /// `pathPolicy: raw`: see [`path::normalise`].
    pub raw_paths: bool,
    /// What counts as [`Name::Session`].
    pub names: NameRules,
}

impl Default for HeadLimits {
    fn default() -> HeadLimits {
        HeadLimits {
            header_bytes: 16 * 1024,
            headers: 100,
            uri_bytes: 8 * 1024,
            raw_paths: false,
            names: NameRules::default(),
        }
    }
}

/// A stretch of the caller's buffer, in bytes from the buffer's first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// After the last byte.
    pub end: u32,
}

impl Span {
    pub(crate) const fn new(start: usize, end: usize) -> Span {
        Span {
            start: start as u32,
            end: end as u32,
        }
    }

    /// The bytes; empty if `buf` is shorter than the one that was read.
    pub fn of<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        buf.get(self.start as usize..self.end as usize)
            .unwrap_or(&[])
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.end.saturating_sub(self.start) as usize
    }

    /// No bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// As a range of indexes.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// A byte that may stand in a token (RFC 9110, section 5.6.2).
pub(crate) const fn is_token_byte(b: u8) -> bool {
    matches!(b, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'!' | b'#' | b'$' | b'%' | b'&' | b'\''
        | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
}

/// For each byte: may it stand in a token?
pub(crate) static TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut b = 0;
    while b < 256 {
        table[b] = is_token_byte(b as u8);
        b += 1;
    }
    table
};

/// A token: not empty, and token bytes alone.
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&b| TOKEN[b as usize])
}

/// `bytes` without spaces and tabs at both ends (OWS).
pub(crate) fn trim(bytes: &[u8]) -> &[u8] {
    let mut bytes = bytes;
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}
