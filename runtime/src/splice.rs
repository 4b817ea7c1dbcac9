//! Bytes from socket to socket through a pipe, never seen by this process.
//!
//! Owns a pool of pipes a thread (1 MiB each where the kernel allows). Used by tasks of a monoio core.
//! splice(2) is called without blocking, after the socket was waited for; both sockets are
//! non-blocking meanwhile.
//!
//! Invariants: a pipe goes back to the pool only when it is empty; one that holds bytes after an error
//! is closed. No pipe is held while nothing is on its way. After 4 MiB without waiting other tasks
//! get their turn. Dropping a transfer half-way loses what is in the pipe: end it by a deadline on
//! either stream.
//!
//! It deliberately looks at no byte and counts no time. Tested by `tests/splices.rs` with random data
//! and checksums, on both drivers.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::pin::pin;
use std::task::Poll;

use crate::stream::Stream;
use crate::yielder;

/// Sizes that are asked for in turn. The last is what a pipe has anyway.
const SIZES: [usize; 4] = [1 << 20, 512 << 10, 256 << 10, 64 << 10];
/// Pipes that a thread keeps: 32 MiB of the kernel's memory at the very most, and only while filled.
const MAX_POOLED: usize = 32;
/// Bytes after which a transfer that never had to wait gives way.
const FAIR: u64 = 4 << 20;

struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    size: usize,
}

thread_local! {
    static POOL: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
    /// Where in `SIZES` the last pipe's size was found.
    static STEP: Cell<usize> = const { Cell::new(0) };
}

impl Pipe {
    fn take() -> io::Result<Self> {
        match POOL.with(|pool| pool.borrow_mut().pop()) {
            Some(pipe) => Ok(pipe),
            None => Self::new(),
        }
    }

    fn new() -> io::Result<Self> {
        let mut fds = [0; 2];
        // SAFETY: `fds` has room for two descriptors.
        if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call gave us both descriptors, nobody else has them.
        let (reader, writer) =
            unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) };
        let mut size = SIZES[SIZES.len() - 1];
        for (step, wanted) in SIZES.iter().enumerate().skip(STEP.get()) {
            // SAFETY: no pointers are involved.
            let got = unsafe {
                libc::fcntl(
                    writer.as_raw_fd(),
                    libc::F_SETPIPE_SZ,
                    *wanted as libc::c_int,
                )
            };
            if got > 0 {
                size = got as usize;
                STEP.set(step);
                break;
            }
        }
        Ok(Self {
            reader,
            writer,
            size,
        })
    }

    /// Back to the pool. It must be empty.
    fn give_back(self) {
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            if pool.len() < MAX_POOLED {
                pool.push(self);
            }
        });
    }
}

/// Which side of a transfer failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The source: its error, or its end before all was there.
    Read,
    /// The destination.
    Write,
    /// Ours: no descriptor for a pipe.
    Pipe,
}

/// What a transfer does, as it tells whoever watches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// So many more bytes have reached the destination.
    Moved(u64),
    /// It waits for the source (`Read`) or for the destination (`Write`): the place to arm the deadline
    /// of that side, and to take the other's away, since nobody is late while the other one is waited for.
    Waits(Side),
}

/// A transfer that failed.
#[derive(Debug)]
pub struct SpliceError {
    /// Which side.
    pub side: Side,
    /// Bytes that had reached the destination before.
    pub moved: u64,
    /// Why; `UnexpectedEof` for an early end.
    pub source: io::Error,
}

impl fmt::Display for SpliceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = match self.side {
            Side::Read => "reading",
            Side::Write => "writing",
            Side::Pipe => "making a pipe",
        };
        write!(
            f,
            "{side} failed after {} bytes: {}",
            self.moved, self.source
        )
    }
}

impl std::error::Error for SpliceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Moves at most `n` bytes without blocking; `None` if nothing can move now.
fn splice(from: RawFd, to: RawFd, n: usize) -> io::Result<Option<usize>> {
    loop {
        // SAFETY: no offsets are passed, so no memory is involved.
        let moved = unsafe {
            libc::splice(
                from,
                std::ptr::null_mut(),
                to,
                std::ptr::null_mut(),
                n,
                libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK,
            )
        };
        if moved >= 0 {
            return Ok(Some(moved as usize));
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::WouldBlock => return Ok(None),
            io::ErrorKind::Interrupted => {}
            _ => return Err(error),
        }
    }
}

struct Transfer<'a> {
    from: &'a Stream,
    to: &'a Stream,
    moved: u64,
    /// Moved since it last waited for something.
    unfair: u64,
}

impl Transfer<'_> {
    fn fail(&self, side: Side) -> impl FnOnce(io::Error) -> SpliceError {
        let moved = self.moved;
        move |source| SpliceError {
            side,
            moved,
            source,
        }
    }

    /// Fills an empty pipe with at most `n` bytes; 0 at the end of the source.
    async fn fill(
        &mut self,
        wait_first: bool,
        n: u64,
        watch: &mut impl FnMut(Step),
    ) -> Result<(Pipe, usize), SpliceError> {
        let mut wait = wait_first;
        loop {
            if wait {
                self.unfair = 0;
                watch(Step::Waits(Side::Read));
                self.from.readable().await.map_err(self.fail(Side::Read))?;
            }
            let pipe = Pipe::take().map_err(self.fail(Side::Pipe))?;
            let want = n.min(pipe.size as u64) as usize;
            match splice(self.from.raw_fd(), pipe.writer.as_raw_fd(), want) {
                Ok(Some(got)) => return Ok((pipe, got)),
                Ok(None) => {
                    pipe.give_back();
                    wait = true;
                }
                Err(e) => {
                    pipe.give_back();
                    return Err(self.fail(Side::Read)(e));
                }
            }
        }
    }

    /// Empties the pipe of `filled` bytes.
    async fn empty(
        &mut self,
        pipe: &Pipe,
        mut filled: usize,
        watch: &mut impl FnMut(Step),
    ) -> Result<(), SpliceError> {
        while filled > 0 {
            match splice(pipe.reader.as_raw_fd(), self.to.raw_fd(), filled) {
                Ok(Some(0)) => return Err(self.fail(Side::Write)(io::ErrorKind::WriteZero.into())),
                Ok(Some(sent)) => {
                    filled -= sent;
                    self.moved += sent as u64;
                    self.unfair += sent as u64;
                    watch(Step::Moved(sent as u64));
                    if filled == 0 {
                        break;
                    }
                }
                Ok(None) => {}
                Err(e) => return Err(self.fail(Side::Write)(e)),
            }
            self.unfair = 0;
            watch(Step::Waits(Side::Write));
            self.to.writable().await.map_err(self.fail(Side::Write))?;
        }
        Ok(())
    }

    async fn run(
        &mut self,
        n: u64,
        exact: bool,
        watch: &mut impl FnMut(Step),
    ) -> Result<(), SpliceError> {
        // What was read before (a head) often came with the first of this: look before waiting.
        let mut wait_first = false;
        while self.moved < n {
            let (pipe, filled) = self.fill(wait_first, n - self.moved, watch).await?;
            if filled == 0 {
                pipe.give_back();
                if exact {
                    return Err(self.fail(Side::Read)(io::ErrorKind::UnexpectedEof.into()));
                }
                return Ok(());
            }
            // Less than there was room for: the source is dry, so that the next look would be in vain.
            wait_first = filled < pipe.size;
            self.empty(&pipe, filled, watch).await?;
            pipe.give_back();
            if self.unfair >= FAIR {
                self.unfair = 0;
                yielder::turn().await;
            }
        }
        Ok(())
    }
}

async fn transfer(
    from: &Stream,
    to: &Stream,
    n: u64,
    exact: bool,
    mut watch: impl FnMut(Step),
) -> Result<u64, SpliceError> {
    let _modes = (from.hold_nonblocking(), to.hold_nonblocking());
    let mut transfer = Transfer {
        from,
        to,
        moved: 0,
        unfair: 0,
    };
    transfer.run(n, exact, &mut watch).await?;
    Ok(transfer.moved)
}

/// Moves exactly `n` bytes. `watch` is told of every part that reached the destination and of every
/// wait, which is the place for deadlines. Returns `n`.
///
/// # Errors
/// Either side's, or the source's early end.
pub async fn splice_exact(
    from: &Stream,
    to: &Stream,
    n: u64,
    watch: impl FnMut(Step),
) -> Result<u64, SpliceError> {
    transfer(from, to, n, true, watch).await
}

/// Moves all until the source's end. Returns how much that was. The destination is left open.
///
/// # Errors
/// Either side's.
pub async fn splice_to_end(
    from: &Stream,
    to: &Stream,
    mut progress: impl FnMut(u64),
) -> Result<u64, SpliceError> {
    let watch = |step| {
        if let Step::Moved(n) = step {
            progress(n);
        }
    };
    transfer(from, to, u64::MAX, false, watch).await
}

/// How a tunnel ended.
#[derive(Debug)]
pub struct Tunnelled {
    /// Bytes from the first stream to the second.
    pub forth: u64,
    /// Bytes from the second stream to the first.
    pub back: u64,
    /// What broke it; `None`: both sides ended their direction.
    pub error: Option<SpliceError>,
}

/// Moves bytes both ways until both directions have ended or one fails. The end of one direction is
/// handed on as such. `progress` is told which way (`true`: forth) and how much.
pub async fn tunnel(a: &Stream, b: &Stream, progress: impl Fn(bool, u64)) -> Tunnelled {
    let (forth, back) = (Cell::new(0), Cell::new(0));
    let error = {
        let one_way = async |from: &Stream, to: &Stream, way: bool, count: &Cell<u64>| {
            splice_to_end(from, to, |n| {
                count.set(count.get() + n);
                progress(way, n);
            })
            .await?;
            // It may be gone already, which the other direction will notice.
            let _ = to.shutdown(Shutdown::Write);
            Ok(())
        };
        let mut first = pin!(one_way(a, b, true, &forth));
        let mut second = pin!(one_way(b, a, false, &back));
        let (mut first_done, mut second_done) = (false, false);
        poll_fn(|cx| {
            if !first_done {
                match first.as_mut().poll(cx) {
                    Poll::Ready(Ok(())) => first_done = true,
                    Poll::Ready(Err(e)) => return Poll::Ready(Some(e)),
                    Poll::Pending => {}
                }
            }
            if !second_done {
                match second.as_mut().poll(cx) {
                    Poll::Ready(Ok(())) => second_done = true,
                    Poll::Ready(Err(e)) => return Poll::Ready(Some(e)),
                    Poll::Pending => {}
                }
            }
            if first_done && second_done {
                Poll::Ready(None)
            } else {
                Poll::Pending
            }
        })
        .await
    };
    Tunnelled {
        forth: forth.get(),
        back: back.get(),
        error,
    }
}
