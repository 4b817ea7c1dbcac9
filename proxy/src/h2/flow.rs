//! The two halves of a stream's content, with flow control: what comes in and what goes out.
//!
//! Owns the receiving and the sending half of one stream. Used by that stream's task alone, on its
//! data core; the connection's task moves the frames.
//!
//! Invariants: no borrow of a `RefCell` lives across an await; the peer gets window back for what was
//! read only when more is asked for, which is after what was read went on, so a slow reader behind us
//! slows the peer; at most one buffer is handed over beyond what the peer's window takes; whoever
//! waits does so within the deadline of the slot that it hands in. It deliberately knows no message.
//! Tested end to end.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use holdfast_runtime::buffers::Buffer;
use holdfast_runtime::deadline::{Expire, Slot};
use http::HeaderMap;

use crate::text::Sink;

/// A pooled buffer as the content of a DATA frame: it goes back to its pool when it was sent.
#[derive(Debug, Default)]
pub struct Chunk(Buffer);

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.0.len()
    }

    fn chunk(&self) -> &[u8] {
        self.0.as_slice()
    }

    fn advance(&mut self, n: usize) {
        self.0.consume(n);
    }
}

/// Content that comes in.
#[derive(Debug)]
pub struct Inflow(RefCell<In>);

#[derive(Debug)]
struct In {
    body: RecvStream,
    left: Bytes,
    /// Read and not given back to the peer's window.
    held: usize,
    /// All content was read; trailers may be left.
    ended: bool,
}

impl Inflow {
    /// Over the receiving half of a stream.
    pub fn new(body: RecvStream) -> Self {
        Self(RefCell::new(In {
            body,
            left: Bytes::new(),
            held: 0,
            ended: false,
        }))
    }

    /// Whether all content was read, or the peer has said that there is none, nor trailers.
    pub fn is_end(&self) -> bool {
        let inner = self.0.borrow();
        inner.ended || (inner.left.is_empty() && inner.body.is_end_stream())
    }

    /// Reads once; `Ok(0)` is the end.
    ///
    /// # Errors
    /// `TimedOut` where the slot's deadline passed; else the stream was reset, or its connection is
    /// gone.
    pub async fn read(&self, slot: &Slot, mut input: Buffer) -> (io::Result<usize>, Buffer) {
        // No buffer is held while the peer is silent.
        if input.is_empty() {
            input = Buffer::empty();
        }
        let got = slot.until(poll_fn(|cx| self.0.borrow_mut().poll(cx))).await;
        let result = match got {
            None => Err(io::ErrorKind::TimedOut.into()),
            Some(Err(e)) => Err(gone(e)),
            Some(Ok(())) => {
                let mut inner = self.0.borrow_mut();
                if input.capacity() == 0 {
                    input = Buffer::take();
                } else if input.spare_len() == 0 {
                    input.reserve(8 * 1024);
                }
                let n = inner.left.len().min(input.spare_len());
                input.put(&inner.left[..n]);
                inner.left.advance(n);
                inner.held += n;
                Ok(n)
            }
        };
        (result, input)
    }

    /// The trailers, after the end. Those that never came are none.
    pub async fn trailers(&self, slot: &Slot) -> Option<HeaderMap> {
        let got = slot
            .until(poll_fn(|cx| self.0.borrow_mut().body.poll_trailers(cx)))
            .await;
        got?.ok()?
    }
}

impl In {
    /// Ready when there is something in `left`, or nothing more comes.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        if self.held > 0 {
            // An error says that the stream has ended: so will the next line.
            let _ = self.body.flow_control().release_capacity(self.held);
            self.held = 0;
        }
        while self.left.is_empty() {
            match ready!(self.body.poll_data(cx)) {
                Some(data) => self.left = data?,
                None => {
                    self.ended = true;
                    break;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// How fast a peer must give window: so many bytes within each such time.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The time.
    pub window: Duration,
    /// The bytes.
    pub least: usize,
}

/// Content that goes out.
#[derive(Debug)]
pub struct Outflow(RefCell<SendStream<Chunk>>);

impl Outflow {
    /// Over the sending half of a stream.
    pub fn new(stream: SendStream<Chunk>) -> Self {
        Self(RefCell::new(stream))
    }

    /// Sends all of `out`, as the peer's windows take it; `end` says that nothing follows. A `pace` sets
    /// the slot's deadline.
    ///
    /// # Errors
    /// `TimedOut` where the slot's deadline passed; else the stream was reset, or its connection is
    /// gone.
    pub async fn write(
        &self,
        slot: &Slot,
        pace: Option<Pace>,
        mut out: Buffer,
        end: bool,
    ) -> io::Result<()> {
        let mut taken = usize::MAX;
        while !out.is_empty() {
            if let Some(pace) = pace
                && taken >= pace.least
            {
                slot.arm(pace.window, Expire::Wake);
                taken = 0;
            }
            self.0.borrow_mut().reserve_capacity(out.len());
            let room = slot
                .until(poll_fn(|cx| self.poll_room(cx)))
                .await
                .ok_or(io::ErrorKind::TimedOut)?
                .map_err(gone)?;
            if room >= out.len() {
                return self.0.borrow_mut().send_data(Chunk(out), end).map_err(gone);
            }
            let mut part = Buffer::with_capacity(room);
            part.put(out.as_slice().get(..room).unwrap_or_default());
            taken = taken.saturating_add(room);
            out.consume(room);
            let sent = self.0.borrow_mut().send_data(Chunk(part), false);
            sent.map_err(gone)?;
        }
        if end { self.end(None) } else { Ok(()) }
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<Result<usize, h2::Error>> {
        let mut stream = self.0.borrow_mut();
        loop {
            let room = stream.capacity();
            if room > 0 {
                return Poll::Ready(Ok(room));
            }
            match ready!(stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(e)) => return Poll::Ready(Err(e)),
                None => return Poll::Ready(Err(Reason::CANCEL.into())),
            }
        }
    }

    /// Says that nothing more comes, but for these trailers.
    ///
    /// # Errors
    /// The stream was reset, or its connection is gone.
    pub fn end(&self, trailers: Option<HeaderMap>) -> io::Result<()> {
        let mut stream = self.0.borrow_mut();
        match trailers {
            Some(trailers) => stream.send_trailers(trailers),
            None => stream.send_data(Chunk::default(), true),
        }
        .map_err(gone)
    }

    /// Ends the stream before its end.
    pub fn reset(&self, reason: Reason) {
        self.0.borrow_mut().send_reset(reason);
    }

    /// Ready when the peer has reset the stream, or its connection is gone.
    pub fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.borrow_mut().poll_reset(cx).map(drop)
    }
}

fn gone(error: h2::Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}
