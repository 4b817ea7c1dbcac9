//! One type for client and upstream sockets on a monoio core.
//!
//! Owns a connected stream socket and its [`Slot`] of the deadline sweep. Used on the thread that made
//! it; [`Stream::into_fd`] and [`Stream::from_fd`] carry it to another.
//!
//! Invariants: the slot goes before the descriptor does; all operations take `&self`, one reader and
//! one writer may be at work at once (from two tasks or two futures of one task); two readers, or two
//! writers, would each get parts of the bytes. `readable` and `writable` may be dropped at any time.
//! Dropping a `read` loses its buffer and perhaps bytes, dropping a `write_all` leaves unknown how
//! much was sent: wait for them, and let a deadline end them. A dropped stream is closed when the core
//! next turns, not at once.
//!
//! A stream that speaks TLS ([`crate::tls`]) has the same methods: they read and write data, `readable`
//! knows what was read and not opened, `shutdown` says close_notify, and an end without close_notify is
//! an error.
//!
//! It deliberately has no buffering (but for parts of TLS records) and no timers of its own. Tested by
//! `tests/streams.rs` on both drivers, and with TLS end to end.

use std::cell::{Cell, OnceCell, UnsafeCell};
use std::fmt;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::Duration;

use monoio::io::{AsyncReadRent, AsyncWriteRent};
use monoio::net::{TcpStream, UnixStream};
use monoio::utils::is_legacy;

use crate::buffers::Buffer;
use crate::data_core::activity;
use crate::deadline::{Expire, Slot};
use crate::tls::{Channel, Fault, Took};

/// Where to connect to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// An IP address and port.
    Tcp(SocketAddr),
    /// A unix socket in the file system.
    Unix(PathBuf),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

enum Io {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connected socket.
pub struct Stream {
    // Declared first, so dropped first: before the descriptor is closed.
    slot: OnceCell<Slot>,
    io: UnsafeCell<Io>,
    /// Operations begun and not seen to end. One that was dropped half-way counts for ever.
    pending: Cell<u32>,
    /// Splices at work, which need the socket not to block.
    splices: Cell<u16>,
    nonblocking: Cell<bool>,
    /// Where it speaks TLS.
    tls: Option<Box<Channel>>,
}

/// A stream taken apart: plain data that may go to another thread, or wait without a task. Dropping it
/// closes the connection without a word.
#[derive(Debug)]
pub struct Frozen {
    /// The socket.
    pub fd: OwnedFd,
    /// Its state of TLS, bytes that were read and not used included.
    pub tls: Option<Box<Channel>>,
    /// It is a unix socket.
    pub unix: bool,
}

impl Frozen {
    /// Closes it, with close_notify where it speaks TLS.
    pub fn close(self) {
        if let Some(last) = self.tls.as_ref().and_then(|tls| tls.farewell(None)) {
            send_now(self.fd.as_raw_fd(), last.as_slice());
        }
    }
}

/// Sends what the socket takes at once. For the last words of a connection: nobody waits for them.
fn send_now(fd: RawFd, bytes: &[u8]) {
    // SAFETY: the pointer and length are those of `bytes`.
    unsafe {
        libc::send(
            fd,
            bytes.as_ptr().cast(),
            bytes.len(),
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
}

/// Calls `$method` of whatever kind the stream is.
macro_rules! on_io {
    ($self:ident, $io:ident => $call:expr) => {
        match $self.io() {
            Io::Tcp($io) => $call,
            Io::Unix($io) => $call,
        }
    };
}

impl Stream {
    fn new(io: Io) -> Self {
        Self {
            slot: OnceCell::new(),
            io: UnsafeCell::new(io),
            pending: Cell::new(0),
            splices: Cell::new(0),
            nonblocking: Cell::new(is_legacy()),
            tls: None,
        }
    }

    /// From now on it speaks TLS, after a handshake over it.
    pub(crate) fn secure(&mut self, channel: Channel) {
        self.tls = Some(Box::new(channel));
    }

    /// Whether bytes go through as they are. Only such a stream may be spliced.
    #[inline]
    pub fn is_plain(&self) -> bool {
        self.tls.is_none()
    }

    /// Whether a part of a TLS record was read.
    pub fn has_part(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.has_part())
    }

    /// Whether it should serve no more requests: its TLS keys have done much, and can't be changed.
    #[inline]
    pub fn is_worn(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_worn())
    }

    /// Gives back what memory it holds and does not need while it idles. [`Stream::readable`] does too.
    pub fn release(&self) {
        if let Some(tls) = &self.tls {
            tls.release();
        }
    }

    /// Takes it apart. No read or write may be in flight, as for [`Stream::into_fd`].
    ///
    /// # Errors
    /// Those of [`Stream::into_fd`].
    pub fn freeze(mut self) -> io::Result<Frozen> {
        let tls = self.tls.take();
        if let Some(tls) = &tls {
            tls.shrink();
        }
        // As the driver wants it, for who puts it together again.
        self.settle();
        let unix = self.is_unix();
        Ok(Frozen {
            fd: self.into_fd()?,
            tls,
            unix,
        })
    }

    /// Puts it together again, on this thread, which must have the same kind of driver.
    ///
    /// # Errors
    /// The driver has no place for it.
    pub fn thaw(frozen: Frozen) -> io::Result<Self> {
        let mut stream = Self::adopt(frozen.fd, frozen.unix)?;
        stream.tls = frozen.tls;
        Ok(stream)
    }

    /// Connects, within `timeout` (of monoio's timer; `Duration::MAX` for none). A TCP socket gets
    /// TCP_NODELAY. Dropping the future gives the attempt up.
    ///
    /// # Errors
    /// The kernel's, or `TimedOut`.
    pub async fn connect(target: &Target, timeout: Duration) -> io::Result<Self> {
        // A timer wheel has an end: years are as good as for ever.
        let timeout = timeout.min(Duration::from_secs(365 * 24 * 3600));
        let attempt = async {
            match target {
                Target::Tcp(address) => {
                    let stream = TcpStream::connect_addr(*address).await?;
                    stream.set_nodelay(true)?;
                    Ok(Self::new(Io::Tcp(stream)))
                }
                Target::Unix(path) => Ok(Self::new(Io::Unix(UnixStream::connect(path).await?))),
            }
        };
        match monoio::time::timeout(timeout, attempt).await {
            Ok(result) => result,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Takes over a connected stream socket, TCP or unix.
    ///
    /// # Errors
    /// The descriptor is no socket, or the driver has no place for it.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let socket = socket2::SockRef::from(&fd);
        socket.set_nonblocking(is_legacy())?;
        let unix = socket.domain()? == socket2::Domain::UNIX;
        Self::adopt(fd, unix)
    }

    /// [`Stream::from_fd`] for a descriptor that is known to be in the driver's blocking mode.
    pub(crate) fn adopt(fd: OwnedFd, unix: bool) -> io::Result<Self> {
        Ok(Self::new(if unix {
            Io::Unix(UnixStream::from_std(std::os::unix::net::UnixStream::from(
                fd,
            ))?)
        } else {
            Io::Tcp(TcpStream::from_std(std::net::TcpStream::from(fd))?)
        }))
    }

    /// A connected pair of unix sockets.
    ///
    /// # Errors
    /// No descriptor to be had.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = std::os::unix::net::UnixStream::pair()?;
        Ok((Self::from_fd(a.into())?, Self::from_fd(b.into())?))
    }

    /// Gives the descriptor away, which ends a TLS connection: see [`Stream::freeze`]. No read or write may be in flight: its bytes would be lost. A
    /// `readable` that was dropped may still be on its way out of the ring; then the descriptor is
    /// duplicated (0.4 µs), which is what can fail.
    ///
    /// # Errors
    /// No descriptor to be had for the duplicate; the connection is closed then.
    pub fn into_fd(self) -> io::Result<OwnedFd> {
        let Self {
            slot, io, pending, ..
        } = self;
        // Before the descriptor goes.
        drop(slot);
        let io = io.into_inner();
        if pending.get() > 0 {
            let raw = match &io {
                Io::Tcp(stream) => stream.as_raw_fd(),
                Io::Unix(stream) => stream.as_raw_fd(),
            };
            // SAFETY: `io` keeps the descriptor open until the end of this block.
            return unsafe { BorrowedFd::borrow_raw(raw) }.try_clone_to_owned();
        }
        let raw = match io {
            Io::Tcp(stream) => stream.into_raw_fd(),
            Io::Unix(stream) => stream.into_raw_fd(),
        };
        // SAFETY: the stream gave its descriptor away, it is ours alone.
        Ok(unsafe { OwnedFd::from_raw_fd(raw) })
    }

    /// The descriptor's number, for as long as the stream lives.
    #[inline]
    pub fn raw_fd(&self) -> RawFd {
        on_io!(self, io => io.as_raw_fd())
    }

    fn io(&self) -> &Io {
        // SAFETY: the exclusive references that `read` and `write` make live only while monoio builds
        // an operation, in which nothing else of this thread runs; the type is not Sync.
        unsafe { &*self.io.get() }
    }

    /// # Safety
    /// The reference must only be used to build an operation, not across a point of waiting.
    #[allow(clippy::mut_from_ref, reason = "see Safety")]
    unsafe fn io_mut(&self) -> &mut Io {
        // SAFETY: by the contract above no two are in use at once. monoio takes `&mut` to forbid two
        // readers, but its operations hold a counted descriptor and never the stream itself.
        unsafe { &mut *self.io.get() }
    }

    /// Counts an operation that begins; the caller says `end` when it has completed.
    #[inline]
    fn begin(&self) {
        self.pending.set(self.pending.get() + 1);
    }

    #[inline]
    fn end(&self) {
        self.pending.set(self.pending.get() - 1);
        activity();
    }

    /// Waits until there is something to read: bytes, the end, or an error. May be dropped. Of TLS it may
    /// be a part of a record, or one that holds no data: then a read still waits.
    ///
    /// # Errors
    /// The driver's own; the socket's error is left for the read.
    pub async fn readable(&self) -> io::Result<()> {
        if let Some(tls) = &self.tls {
            if tls.is_ready() {
                return Ok(());
            }
            tls.release();
        }
        self.raw_readable().await
    }

    async fn raw_readable(&self) -> io::Result<()> {
        self.begin();
        let result = on_io!(self, io => io.readable(false).await);
        self.end();
        result
    }

    /// Waits until something can be written. May be dropped.
    ///
    /// # Errors
    /// The driver's own; the socket's error is left for the write.
    pub async fn writable(&self) -> io::Result<()> {
        self.begin();
        let result = on_io!(self, io => io.writable(false).await);
        self.end();
        result
    }

    /// Reads once, into the buffer's spare tail: `Ok(0)` is the end of the stream.
    ///
    /// # Errors
    /// The kernel's; `InvalidInput` for a buffer without spare room, which could not be told from the end.
    /// Of TLS also `UnexpectedEof` for an end without close_notify, `InvalidData` for a peer that breaks
    /// the rules (it was sent the alert), and `ConnectionAborted` for an alert of its own.
    pub async fn read(&self, buffer: Buffer) -> (io::Result<usize>, Buffer) {
        if buffer.spare_len() == 0 {
            return (Err(io::ErrorKind::InvalidInput.into()), buffer);
        }
        match &self.tls {
            None => self.raw_read(buffer).await,
            Some(tls) => self.tls_read(tls, buffer).await,
        }
    }

    async fn tls_read(&self, tls: &Channel, mut buffer: Buffer) -> (io::Result<usize>, Buffer) {
        loop {
            match tls.take(&mut buffer) {
                Ok(Took::Bytes(n)) => return (Ok(n), buffer),
                Ok(Took::End) => return (Ok(0), buffer),
                Ok(Took::More) => {}
                Err(error) => {
                    if error.kind() == io::ErrorKind::InvalidData {
                        self.last_words(tls, tls.fault());
                    }
                    return (Err(error), buffer);
                }
            }
            let carry = match tls.begin_read(buffer.spare_len()) {
                Ok(carry) => carry,
                Err(error) => return (Err(error), buffer),
            };
            let (read, carry) = self.raw_read(carry).await;
            tls.end_read(carry);
            match read {
                Ok(0) => return (Err(io::ErrorKind::UnexpectedEof.into()), buffer),
                Ok(_) => {}
                Err(error) => return (Err(error), buffer),
            }
        }
    }

    /// Says what TLS says last, if it can be said at once.
    fn last_words(&self, tls: &Channel, fault: Option<Fault>) {
        if let Some(last) = tls.farewell(fault) {
            send_now(self.raw_fd(), last.as_slice());
        }
    }

    async fn raw_read(&self, mut buffer: Buffer) -> (io::Result<usize>, Buffer) {
        loop {
            self.settle();
            self.begin();
            // SAFETY: used to build the operation only.
            let (result, back) = match unsafe { self.io_mut() } {
                Io::Tcp(io) => io.read(buffer).await,
                Io::Unix(io) => io.read(buffer).await,
            };
            self.end();
            buffer = back;
            match result {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if let Err(e) = self.raw_readable().await {
                        return (Err(e), buffer);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                result => return (result, buffer),
            }
        }
    }

    /// Writes all of the filled part. The buffer comes back empty, or after an error with what was
    /// not sent.
    ///
    /// # Errors
    /// The kernel's. Of TLS also `BrokenPipe` after [`Stream::shutdown`], or after a write that was dropped.
    pub async fn write_all(&self, buffer: Buffer) -> (io::Result<()>, Buffer) {
        match &self.tls {
            None => self.raw_write_all(buffer).await,
            Some(tls) => self.tls_write_all(tls, buffer).await,
        }
    }

    async fn tls_write_all(&self, tls: &Channel, mut buffer: Buffer) -> (io::Result<()>, Buffer) {
        if buffer.is_empty() {
            return (Ok(()), buffer);
        }
        if !tls.begin_write() {
            return (Err(io::ErrorKind::BrokenPipe.into()), buffer);
        }
        while !buffer.is_empty() {
            let sealed = match tls.seal(&mut buffer) {
                Ok(sealed) => sealed,
                Err(error) => return (Err(error), buffer),
            };
            // After a failure the records' order is lost: no `end_write`, so that nothing follows.
            if let (Err(error), _) = self.raw_write_all(sealed).await {
                return (Err(error), buffer);
            }
        }
        tls.end_write();
        buffer.clear();
        (Ok(()), buffer)
    }

    async fn raw_write_all(&self, mut buffer: Buffer) -> (io::Result<()>, Buffer) {
        while !buffer.is_empty() {
            self.settle();
            self.begin();
            // SAFETY: used to build the operation only.
            let (result, back) = match unsafe { self.io_mut() } {
                Io::Tcp(io) => io.write(buffer).await,
                Io::Unix(io) => io.write(buffer).await,
            };
            self.end();
            buffer = back;
            match result {
                Ok(0) => return (Err(io::ErrorKind::WriteZero.into()), buffer),
                Ok(n) => buffer.consume(n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if let Err(e) = self.writable().await {
                        return (Err(e), buffer);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return (Err(e), buffer),
            }
        }
        buffer.clear();
        (Ok(()), buffer)
    }

    /// Puts the socket back into blocking mode after splices, which the ring's operations want (a
    /// non-blocking socket makes them fail instead of wait). Does nothing on the legacy driver.
    #[inline]
    fn settle(&self) {
        if self.nonblocking.get() && self.splices.get() == 0 && !is_legacy() {
            self.set_nonblocking(false);
        }
    }

    fn set_nonblocking(&self, on: bool) {
        if socket2::SockRef::from(self).set_nonblocking(on).is_ok() {
            self.nonblocking.set(on);
        }
    }

    /// Makes the socket non-blocking for as long as the guard lives (and until the next operation).
    pub(crate) fn hold_nonblocking(&self) -> NonBlocking<'_> {
        if !self.nonblocking.get() {
            self.set_nonblocking(true);
        }
        self.splices.set(self.splices.get() + 1);
        NonBlocking(self)
    }

    /// Turns Nagle's delay off or on. Does nothing on a unix socket.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        match self.io() {
            Io::Tcp(io) => io.set_nodelay(nodelay),
            Io::Unix(_) => Ok(()),
        }
    }

    /// The other side's address; `None` for a unix socket, and for one that is no longer connected.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        match self.io() {
            Io::Tcp(io) => io.peer_addr().ok(),
            Io::Unix(_) => None,
        }
    }

    /// Our address; `None` for a unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self.io() {
            Io::Tcp(io) => io.local_addr().ok(),
            Io::Unix(_) => None,
        }
    }

    /// Whether it is a unix socket.
    pub fn is_unix(&self) -> bool {
        matches!(self.io(), Io::Unix(_))
    }

    /// Ends one direction or both. Of TLS, `Write` says close_notify before, which tells the other side
    /// that it has all; `Both` does not: it breaks off.
    ///
    /// # Errors
    /// The kernel's: mostly `NotConnected`.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if let (Some(tls), Shutdown::Write) = (&self.tls, how) {
            self.last_words(tls, None);
        }
        socket2::SockRef::from(self).shutdown(how)
    }

    /// Makes the close a reset, so that the other side can't take what it got for the whole.
    ///
    /// # Errors
    /// The kernel's.
    pub fn reset_on_close(&self) -> io::Result<()> {
        socket2::SockRef::from(self).set_linger(Some(Duration::ZERO))
    }

    /// Whether an idle connection is of no more use: closed by the other side, in error, or with
    /// bytes that nobody asked for. Doesn't wait and takes nothing, but messages of TLS itself.
    pub fn peek_stale(&self) -> bool {
        let Some(tls) = &self.tls else {
            return self.raw_peek_stale();
        };
        if tls.is_ready() {
            return true;
        }
        while self.raw_peek_stale() {
            let Ok(mut carry) = tls.begin_read(0) else {
                return true;
            };
            let spare = carry.spare();
            // SAFETY: the pointer and length are those of the spare part.
            let got = unsafe {
                libc::recv(
                    self.raw_fd(),
                    spare.as_mut_ptr().cast(),
                    spare.len(),
                    libc::MSG_DONTWAIT,
                )
            };
            let n = usize::try_from(got).unwrap_or(0);
            carry.advance(n);
            if !tls.take_idle(carry) || n == 0 {
                return true;
            }
        }
        false
    }

    fn raw_peek_stale(&self) -> bool {
        let mut byte = 0u8;
        // SAFETY: `byte` is one writable byte.
        let got = unsafe {
            libc::recv(
                self.raw_fd(),
                (&raw mut byte).cast(),
                1,
                libc::MSG_PEEK | libc::MSG_DONTWAIT,
            )
        };
        got >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::WouldBlock
    }

    /// This stream's place in the deadline sweep, made when first asked for.
    #[inline]
    pub fn slot(&self) -> &Slot {
        self.slot.get_or_init(|| Slot::new(self.raw_fd()))
    }

    /// Sets its deadline: see [`Slot::arm`].
    #[inline]
    pub fn arm(&self, after: Duration, expire: Expire) {
        self.slot().arm(after, expire);
    }

    /// Sets a deadline for a write: see [`Slot::arm_slow`].
    #[inline]
    pub fn arm_slow(&self, window: Duration, least: u64) {
        self.slot().arm_slow(window, least);
    }

    /// Takes its deadline away.
    #[inline]
    pub fn disarm(&self) {
        if let Some(slot) = self.slot.get() {
            slot.disarm();
        }
    }

    /// Whether its last deadline has passed.
    #[inline]
    pub fn expired(&self) -> bool {
        self.slot.get().is_some_and(Slot::expired)
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the stream lives.
        unsafe { BorrowedFd::borrow_raw(self.raw_fd()) }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("fd", &self.raw_fd())
            .field("unix", &self.is_unix())
            .field("tls", &self.tls.is_some())
            .finish()
    }
}

/// See [`Stream::hold_nonblocking`].
pub(crate) struct NonBlocking<'a>(&'a Stream);

impl Drop for NonBlocking<'_> {
    fn drop(&mut self) {
        self.0.splices.set(self.0.splices.get() - 1);
    }
}
