//! A [`Stream`] as the h2 crate wants one: polled, and copied from and to.
//!
//! Owns one connection's reads and writes. Used on its data core, by the connection's task.
//!
//! Invariants: a buffer is held only while there are bytes in it: a connection that waits for its
//! peer holds none. What is written during one turn of the connection's task goes out with one
//! operation ([`Wire::kick`], called when the turn ends), and what is written while that is under way
//! is gathered for the next: so at most two buffers are in use. A peer that takes nothing for
//! [`CLIENT_STALL`] is ended. Every byte read is shown to a [`Watch`] first, and one that is a flood is
//! never handed on. Operations are awaited by two futures that live as long as the connection, so
//! that none is made anew for a read or a write. Tested end to end.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use holdfast_runtime::buffers::Buffer;
use holdfast_runtime::clock;
use holdfast_runtime::deadline::Expire;
use holdfast_runtime::stream::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::watch::{Flood, Watch};
use crate::deliver::body::CLIENT_STALL;
use crate::text::Sink;

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// What the futures of a connection and its task share.
#[derive(Debug, Default)]
struct Shared {
    /// Read and not taken.
    read: RefCell<Buffer>,
    /// The reader has ended, in this way.
    read_end: Cell<Option<Result<(), io::ErrorKind>>>,
    /// To be written by the writer.
    out: RefCell<Buffer>,
    writing: Cell<bool>,
    /// When something came last, by the coarse steady clock.
    heard_ms: Cell<u64>,
    write_error: Cell<Option<io::ErrorKind>>,
}

/// One connection's socket.
pub struct Wire {
    shared: Rc<Shared>,
    reader: RefCell<Task>,
    writer: RefCell<Task>,
    filling: RefCell<Buffer>,
    watch: Option<RefCell<Watch>>,
    flood: Cell<Option<Flood>>,
    stream: Rc<Stream>,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire")
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}

impl Wire {
    /// Over `stream`, of which `first` was read already. `watch` judges what comes.
    pub fn new(stream: Rc<Stream>, first: Buffer, watch: Option<Watch>) -> Rc<Self> {
        let shared = Rc::new(Shared {
            read: RefCell::new(first),
            ..Shared::default()
        });
        Rc::new(Self {
            reader: RefCell::new(Box::pin(read_loop(stream.clone(), shared.clone()))),
            writer: RefCell::new(Box::pin(write_loop(stream.clone(), shared.clone()))),
            shared,
            filling: RefCell::default(),
            watch: watch.map(RefCell::new),
            flood: Cell::new(None),
            stream,
        })
    }

    /// The socket.
    pub fn stream(&self) -> &Rc<Stream> {
        &self.stream
    }

    /// When bytes came last, in milliseconds of the coarse steady clock; 0 if none did.
    pub fn heard_ms(&self) -> u64 {
        self.shared.heard_ms.get()
    }

    /// What the peer does too much of, once it does.
    pub fn flood(&self) -> Option<Flood> {
        self.flood.get()
    }

    /// Begins to write what was gathered. To be called when a turn of the connection's task ends.
    pub fn kick(&self, cx: &mut Context<'_>) {
        self.drive(cx);
        if !self.shared.writing.get() && !self.filling.borrow().is_empty() {
            self.shared.out.replace(self.filling.take());
            self.shared.writing.set(true);
            self.drive(cx);
        }
    }

    fn drive(&self, cx: &mut Context<'_>) {
        if self.shared.writing.get() && self.shared.write_error.get().is_none() {
            let _ = self.writer.borrow_mut().as_mut().poll(cx);
        }
    }

    fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.flood.get().is_some() {
            return Poll::Pending;
        }
        loop {
            let mut read = self.shared.read.borrow_mut();
            if !read.is_empty() {
                let n = read.len().min(buf.remaining());
                let bytes = read.as_slice().get(..n).unwrap_or_default();
                if let Some(watch) = &self.watch
                    && let Some(flood) = watch.borrow_mut().feed(bytes, clock::coarse_ms())
                {
                    // Nothing more is taken: whose turn it is sees the verdict and ends it.
                    self.flood.set(Some(flood));
                    return Poll::Pending;
                }
                buf.put_slice(bytes);
                read.consume(n);
                if read.is_empty() {
                    *read = Buffer::empty();
                }
                return Poll::Ready(Ok(()));
            }
            drop(read);
            if let Some(end) = self.shared.read_end.get() {
                return Poll::Ready(end.map_err(Into::into));
            }
            // It never ends: it says so in `read_end`.
            let _ = self.reader.borrow_mut().as_mut().poll(cx);
            if self.shared.read.borrow().is_empty() && self.shared.read_end.get().is_none() {
                return Poll::Pending;
            }
        }
    }

    fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(error) = self.shared.write_error.get() {
            return Poll::Ready(Err(error.into()));
        }
        let full = {
            let filling = self.filling.borrow();
            filling.capacity() > 0 && filling.spare_len() == 0
        };
        if full {
            self.kick(cx);
            if !self.filling.borrow().is_empty() {
                return match self.shared.write_error.get() {
                    Some(error) => Poll::Ready(Err(error.into())),
                    None => Poll::Pending,
                };
            }
        }
        let mut filling = self.filling.borrow_mut();
        if filling.capacity() == 0 {
            *filling = Buffer::take();
        }
        let n = bytes.len().min(filling.spare_len());
        filling.put(bytes.get(..n).unwrap_or_default());
        if let Some(watch) = &self.watch {
            watch.borrow_mut().sent(n);
        }
        Poll::Ready(Ok(n))
    }

    /// Ready when all is written.
    pub fn poll_written(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            self.kick(cx);
            if let Some(error) = self.shared.write_error.get() {
                return Poll::Ready(Err(error.into()));
            }
            if self.shared.writing.get() {
                return Poll::Pending;
            }
            if self.filling.borrow().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

async fn read_loop(stream: Rc<Stream>, shared: Rc<Shared>) {
    let end = loop {
        poll_fn(|_| {
            if shared.read.borrow().is_empty() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        // No buffer is held while the peer is silent.
        if let Err(e) = stream.readable().await {
            break Err(e.kind());
        }
        let (read, buffer) = stream.read(Buffer::take()).await;
        match read {
            Ok(0) => break Ok(()),
            Ok(_) => {
                shared.heard_ms.set(clock::coarse_ms());
                drop(shared.read.replace(buffer));
            }
            Err(e) => break Err(e.kind()),
        }
    };
    shared.read_end.set(Some(end));
    std::future::pending::<()>().await;
}

async fn write_loop(stream: Rc<Stream>, shared: Rc<Shared>) {
    loop {
        poll_fn(|_| {
            if shared.writing.get() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        let out = shared.out.take();
        stream.arm(CLIENT_STALL, Expire::Both);
        let (written, _) = stream.write_all(out).await;
        stream.disarm();
        if let Err(e) = written {
            shared.write_error.set(Some(e.kind()));
        }
        shared.writing.set(false);
    }
}

/// What the h2 crate is given.
#[derive(Debug)]
pub struct Io(pub Rc<Wire>);

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.poll_read(cx, buf)
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, bytes)
    }

    /// Nothing: what was written goes out when the turn ends.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match self.0.shared.write_error.get() {
            Some(error) => Err(error.into()),
            None => Ok(()),
        })
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = std::task::ready!(self.0.poll_written(cx));
        self.0.stream.shutdown(Shutdown::Write).ok();
        Poll::Ready(written)
    }
}
