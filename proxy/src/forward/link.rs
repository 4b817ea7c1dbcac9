//! Where a request goes and its answer comes from: a socket of its own, or one stream of an HTTP/2
//! connection. The mirror of [`accept::Client`](crate::accept::Client).
//!
//! Owns nothing but the choice between the two. Used by the tasks of one data core. Invariants: those
//! of [`Stream`] and of [`Call`].

use std::io;
use std::net::Shutdown;
use std::rc::Rc;
use std::time::Duration;

use holdfast_runtime::buffers::Buffer;
use holdfast_runtime::cancel::{self, CANCELED};
use holdfast_runtime::deadline::Expire;
use holdfast_runtime::stream::Stream;
use http::HeaderMap;

use crate::h2::Call;
use crate::text::Sink;

/// How long a stream of HTTP/2 that waits for its upstream may keep a buffer.
const SOON: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug, Clone)]
pub enum Link {
    /// HTTP/1.1: the connection is this exchange's alone.
    Socket(Rc<Stream>),
    /// One stream of an HTTP/2 connection.
    H2(Rc<Call>),
}

impl Link {
    /// The stream of an HTTP/2 connection.
    #[inline]
    pub fn h2(&self) -> Option<&Rc<Call>> {
        match self {
            Self::Socket(_) => None,
            Self::H2(call) => Some(call),
        }
    }

    /// Sets the deadline of reads and writes: they then fail.
    #[inline]
    pub fn arm(&self, after: Duration) {
        match self {
            Self::Socket(stream) => stream.arm(after, Expire::Both),
            Self::H2(call) => call.arm(after),
        }
    }

    /// Takes it away.
    #[inline]
    pub fn disarm(&self) {
        match self {
            Self::Socket(stream) => stream.disarm(),
            Self::H2(call) => call.disarm(),
        }
    }

    /// Whether it has passed.
    #[inline]
    pub fn expired(&self) -> bool {
        match self {
            Self::Socket(stream) => stream.expired(),
            Self::H2(call) => call.expired(),
        }
    }

    /// Sends a request's head, `out`, and the content that is at hand; `end` says that this is all.
    /// The buffer comes back empty.
    ///
    /// # Errors
    /// The upstream is gone. An HTTP/2 one may have answered all the same.
    #[inline]
    pub async fn begin(
        &self,
        mut out: Buffer,
        content: &[u8],
        end: bool,
    ) -> (io::Result<()>, Buffer) {
        match self {
            Self::Socket(stream) => {
                out.put(content);
                stream.write_all(out).await
            }
            Self::H2(call) => {
                let begun = call.begin(out.as_slice(), end && content.is_empty());
                out.clear();
                if begun.is_err() || content.is_empty() {
                    return (begun, out);
                }
                out.put(content);
                // An upstream may answer without reading, and say so by a reset.
                let _ = Box::pin(call.write(out, end)).await;
                (Ok(()), Buffer::empty())
            }
        }
    }

    /// Writes all of it; the buffer comes back empty. `end` says that the request ends with it.
    ///
    /// # Errors
    /// The upstream is gone, or the deadline has passed.
    #[inline]
    pub async fn write(&self, out: Buffer, end: bool) -> (io::Result<()>, Buffer) {
        match self {
            Self::Socket(stream) => stream.write_all(out).await,
            Self::H2(call) => (Box::pin(call.write(out, end)).await, Buffer::empty()),
        }
    }

    /// Reads once into the buffer's spare tail; `Ok(0)` is the end.
    ///
    /// # Errors
    /// The upstream is gone, or the deadline has passed.
    #[inline]
    pub async fn read(&self, mut input: Buffer) -> (io::Result<usize>, Buffer) {
        if input.spare_len() == 0 {
            input.reserve(8 * 1024);
        }
        match self {
            Self::Socket(stream) => stream.read(input).await,
            Self::H2(call) => Box::pin(call.read(input)).await,
        }
    }

    /// [`Self::read`] that holds no buffer while the upstream is silent, for one operation of the ring
    /// more: where many wait at once, as the streams of HTTP/2 do.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn read_late(&self, mut input: Buffer) -> (io::Result<usize>, Buffer) {
        if let Self::Socket(stream) = self
            && input.is_empty()
        {
            drop(input);
            if let Err(e) = stream.readable().await {
                return (Err(e), Buffer::empty());
            }
            input = Buffer::take();
        }
        self.read(input).await
    }

    /// [`Self::read`] that gives its buffer back when the upstream is silent for longer than `SOON`:
    /// what answers at once costs no operation more. Nothing may be written to it meanwhile.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn read_soon(&self, input: Buffer) -> (io::Result<usize>, Buffer) {
        let Self::Socket(stream) = self else {
            return self.read(input).await;
        };
        if !input.is_empty() || !cancel::available() {
            return self.read_late(input).await;
        }
        stream.slot().interrupt_after(SOON);
        let (read, input) = self.read(input).await;
        stream.slot().interrupt_never();
        match read {
            Err(e) if e.raw_os_error() == Some(CANCELED) => self.read_late(input).await,
            read => (read, input),
        }
    }

    /// The trailers of a stream; those of HTTP/1.1 come with its chunks.
    pub async fn trailers(&self) -> Option<HeaderMap> {
        match self {
            Self::Socket(_) => None,
            Self::H2(call) => call.trailers().await,
        }
    }

    /// Ends both directions.
    pub fn cut(&self) {
        match self {
            Self::Socket(stream) => {
                stream.shutdown(Shutdown::Both).ok();
            }
            Self::H2(call) => call.cancel(),
        }
    }
}
