//! Where a request comes from and its answer goes: a socket of its own, or one stream of an HTTP/2
//! connection.
//!
//! Owns nothing but the choice between the two, in one place for each operation. Used by the tasks of
//! one data core. Invariants: those of [`Stream`] and of [`Exchange`]. It deliberately has no
//! operation that only one of the two could carry out; who needs the socket itself (to splice, to
//! park) asks for [`Client::socket`]. What waits for a stream is boxed: the path's state is that of a
//! socket.

use std::io;
use std::net::Shutdown;
use std::rc::Rc;
use std::time::Duration;

use holdfast_runtime::buffers::Buffer;
use holdfast_runtime::deadline::{Expire, Slot};
use holdfast_runtime::stream::Stream;
use http::HeaderMap;

use crate::h2::Exchange;
use crate::h2::flow::Pace;

/// Over how long it is judged how fast a client reads.
const READ_WINDOW: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug, Clone)]
pub enum Client {
    /// HTTP/1: the connection is this request's alone.
    Socket(Rc<Stream>),
    /// One stream of an HTTP/2 connection.
    H2(Rc<Exchange>),
}

impl Client {
    /// The socket of an HTTP/1 connection.
    #[inline]
    pub fn socket(&self) -> Option<&Rc<Stream>> {
        match self {
            Self::Socket(stream) => Some(stream),
            Self::H2(_) => None,
        }
    }

    /// The socket of the connection, whatever is spoken: to ask for addresses, and to wait on before
    /// anything is spoken.
    #[inline]
    pub fn wire(&self) -> &Rc<Stream> {
        match self {
            Self::Socket(stream) => stream,
            Self::H2(exchange) => exchange.wire(),
        }
    }

    /// The stream of an HTTP/2 connection.
    #[inline]
    pub fn h2(&self) -> Option<&Rc<Exchange>> {
        match self {
            Self::Socket(_) => None,
            Self::H2(exchange) => Some(exchange),
        }
    }

    /// A deadline of its own, for one who reads beside a writer. Drop it before this.
    pub fn new_slot(&self) -> Slot {
        match self {
            Self::Socket(stream) => Slot::new(stream.raw_fd()),
            Self::H2(exchange) => exchange.new_slot(),
        }
    }

    /// Sets the deadline of a [`Client::read`] with this slot: it then fails.
    #[inline]
    pub fn arm_read(&self, slot: &Slot, after: Duration) {
        let expire = match self {
            Self::Socket(_) => Expire::Read,
            Self::H2(_) => Expire::Wake,
        };
        slot.arm(after, expire);
    }

    /// Sets the deadline of a [`Client::write`]: it then fails.
    #[inline]
    pub fn arm(&self, after: Duration) {
        match self {
            Self::Socket(stream) => stream.arm(after, Expire::Both),
            Self::H2(exchange) => exchange.arm(after),
        }
    }

    /// Sets the deadline of a [`Client::write`] of an answer's body: it fails where the client takes less
    /// than `rate` bytes a second; with a rate of 0, where it takes nothing for `stall` (of a stream: not
    /// all that is written).
    #[inline]
    pub fn arm_slow(&self, rate: u64, stall: Duration) {
        match self {
            Self::Socket(stream) if rate > 0 => {
                stream.arm_slow(READ_WINDOW, rate * READ_WINDOW.as_secs());
            }
            Self::Socket(stream) => stream.arm_slow(stall / 2, 1),
            Self::H2(exchange) if rate > 0 => exchange.arm_pace(Pace {
                window: READ_WINDOW,
                least: usize::try_from(rate * READ_WINDOW.as_secs()).unwrap_or(usize::MAX - 1),
            }),
            Self::H2(exchange) => exchange.arm(stall),
        }
    }

    /// Takes that deadline away.
    #[inline]
    pub fn disarm(&self) {
        match self {
            Self::Socket(stream) => stream.disarm(),
            Self::H2(exchange) => exchange.disarm(),
        }
    }

    /// Reads once into the buffer's spare tail; `Ok(0)` is the end, or for a socket a deadline.
    ///
    /// # Errors
    /// The peer is gone, or a stream's deadline has passed.
    #[inline]
    pub async fn read(&self, slot: &Slot, input: Buffer) -> (io::Result<usize>, Buffer) {
        match self {
            Self::Socket(stream) => {
                let input = if input.capacity() == 0 {
                    Buffer::take()
                } else {
                    input
                };
                stream.read(input).await
            }
            Self::H2(exchange) => Box::pin(exchange.read(slot, input)).await,
        }
    }

    /// Writes all of it; the buffer comes back empty. `end` says that the answer ends with it.
    ///
    /// # Errors
    /// The peer is gone, or the deadline has passed.
    #[inline]
    pub async fn write(&self, out: Buffer, end: bool) -> (io::Result<()>, Buffer) {
        match self {
            Self::Socket(stream) => stream.write_all(out).await,
            Self::H2(exchange) => (Box::pin(exchange.write(out, end)).await, Buffer::empty()),
        }
    }

    /// Whether a stream's request has ended.
    pub fn at_end(&self) -> bool {
        self.h2().is_some_and(|exchange| exchange.at_end())
    }

    /// The trailers of a stream's request; those of HTTP/1 come with its chunks.
    pub async fn trailers(&self, slot: &Slot) -> Option<HeaderMap> {
        match self {
            Self::Socket(_) => None,
            Self::H2(exchange) => exchange.trailers(slot).await,
        }
    }

    /// Ends one direction, or both, before its time.
    pub fn shutdown(&self, how: Shutdown) {
        match self {
            Self::Socket(stream) => {
                stream.shutdown(how).ok();
            }
            Self::H2(exchange) => exchange.reset(::h2::Reason::CANCEL),
        }
    }
}
