//! Any descriptor that can be polled, awaited on a monoio core.
//!
//! Owns the descriptor. Used by this crate alone (eventfd, epoll, listeners), on the thread that made
//! it. Invariant: only readiness is asked through it, so that dropping a wait loses nothing.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use monoio::net::TcpStream;

/// A descriptor and its place in this thread's driver.
#[derive(Debug)]
pub(crate) struct PollFd(TcpStream);

impl PollFd {
    /// Takes over `fd`. On the legacy driver it must be pollable by epoll and not yet registered.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: ownership of a valid descriptor is handed on. That it need not be a TCP socket is
        // fine: monoio uses the type only as the owner of a descriptor for polls and close.
        let carrier = unsafe { std::net::TcpStream::from_raw_fd(fd.into_raw_fd()) };
        TcpStream::from_std(carrier).map(Self)
    }

    /// Waits until a read would not block. May be dropped at any time.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.0.readable(false).await
    }
}

impl AsRawFd for PollFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
