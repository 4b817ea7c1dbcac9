//! Deadlines of a core's sockets: a coarse sweep instead of a timer an operation.
//!
//! Owns one table a thread, an entry for each [`Slot`]; arming is a store. Used by tasks of one
//! monoio core; [`run_sweep`] must be spawned once on each. Every 100 ms it looks at all entries.
//!
//! When a deadline passes, the slot is marked expired and, by [`Expire`], its socket is shut down:
//! a pending receive completes with 0 bytes, a pending send with an error, and nothing needs to be
//! cancelled. Or the task that waits in [`Slot::until`] is woken.
//!
//! Invariants: a deadline never fires early, and at most 200 ms late on a core that turns; time in
//! which the core did not turn (a stall, a suspended machine) does not count. **A slot must be dropped
//! before its descriptor is closed**, or a later socket of the same number could be shut down:
//! [`crate::stream::Stream`] holds its own slot and drops it first, so prefer `Stream::arm`.
//!
//! It deliberately has no fine timers (monoio's own are there for those few) and no callbacks.
//! Tested below: firing, disarming, re-arming, reuse of entries, and sockets under both drivers.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::os::fd::RawFd;
use std::pin::pin;
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::{cancel, clock, stall};

/// Time between two sweeps.
pub const TICK: Duration = Duration::from_millis(TICK_MS);
const TICK_MS: u64 = 100;
const DISARMED: u32 = 0;

/// What happens to the socket when its deadline passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expire {
    /// `shutdown(SHUT_RD)`: a pending receive completes with 0 bytes; sending still works.
    Read,
    /// `shutdown(SHUT_RDWR)`: a pending receive completes with 0 bytes, sends fail.
    Both,
    /// The socket is left alone; [`Slot::until`] returns.
    Wake,
    /// As `Both`, but only if the peer is slow: see [`Slot::arm_slow`].
    Slow,
    /// A pending operation completes with `ECANCELED`, and nothing is lost. Only where
    /// [`crate::cancel::available`] says so, else nothing happens. Said again each tick until the slot is
    /// disarmed or dropped: an operation may be between two tries just then, or not with the kernel yet.
    Cancel,
}

struct Entry {
    deadline: u32,
    /// See [`Slot::interrupt_after`].
    interrupt: u32,
    fd: RawFd,
    expire: Expire,
    expired: bool,
    waker: Option<Waker>,
    pace: Pace,
}

/// How a peer takes what is sent to it, where that is judged.
#[derive(Clone, Copy, Default)]
struct Pace {
    /// Bytes that it must have taken in each window.
    least: u64,
    /// Ticks of a window.
    window: u32,
    /// What it had taken when the window began; `None` before the first.
    taken: Option<u64>,
}

impl Pace {
    /// At the end of a window: whether the peer was fast enough to be given another one.
    fn holds(&mut self, taken: Option<u64>) -> bool {
        // A socket that does not say (it is not TCP, or gone) counts as one on which nothing moves.
        let taken = taken.unwrap_or(0);
        let enough = self
            .taken
            .is_none_or(|before| taken.saturating_sub(before) >= self.least);
        self.taken = Some(taken);
        enough
    }
}

/// Bytes that the other side of a TCP connection has acknowledged.
fn acknowledged(fd: RawFd) -> Option<u64> {
    // SAFETY: all zeros are a value of this plain struct.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the pointer and length are those of `info`.
    let got = unsafe {
        libc::getsockopt(
            fd,
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    };
    let known = std::mem::offset_of!(libc::tcp_info, tcpi_bytes_acked) + size_of::<u64>();
    (got == 0 && len as usize >= known).then_some(info.tcpi_bytes_acked)
}

/// Makes the close of a socket a reset: what its peer does not read is thrown away with it.
fn reset_on_close(fd: RawFd) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: the pointer and length are those of `linger`.
    unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        )
    };
}

#[derive(Default)]
struct Table {
    entries: RefCell<Vec<Entry>>,
    free: RefCell<Vec<u32>>,
    now: Cell<u32>,
}

thread_local! {
    static TABLE: Table = Table { now: Cell::new(1), ..Table::default() };
}

/// One socket's deadline. Drop it before the descriptor is closed.
#[derive(Debug)]
pub struct Slot {
    index: u32,
    /// The table is this thread's.
    local: PhantomData<*const ()>,
}

impl Slot {
    /// A disarmed slot for the socket `fd`, which must stay open as long as the slot lives.
    pub fn new(fd: RawFd) -> Self {
        TABLE.with(|table| {
            let entry = Entry {
                deadline: DISARMED,
                interrupt: DISARMED,
                fd,
                expire: Expire::Both,
                expired: false,
                waker: None,
                pace: Pace::default(),
            };
            let mut entries = table.entries.borrow_mut();
            let index = match table.free.borrow_mut().pop() {
                Some(index) => {
                    entries[index as usize] = entry;
                    index
                }
                None => {
                    entries.push(entry);
                    (entries.len() - 1) as u32
                }
            };
            Self {
                index,
                local: PhantomData,
            }
        })
    }

    #[inline]
    fn entry<R>(&self, f: impl FnOnce(&mut Entry, u32) -> R) -> R {
        TABLE.with(|table| {
            f(
                &mut table.entries.borrow_mut()[self.index as usize],
                table.now.get(),
            )
        })
    }

    /// Sets the deadline to `after` from now (rounded up to a tick) and forgets that it expired.
    #[inline]
    pub fn arm(&self, after: Duration, expire: Expire) {
        let ticks = ticks(after);
        self.entry(|entry, now| {
            // One more, for the part of the present tick that is already over.
            entry.deadline = now.saturating_add(ticks).saturating_add(1);
            entry.expire = expire;
            entry.expired = false;
        });
    }

    /// Sets a deadline for a write that waits for its peer: from the end of a first window on, the peer
    /// must acknowledge at least `least` bytes in each further one, or the socket is shut down, and its
    /// close made a reset, since what the kernel still holds for that peer would outlive it. How much of
    /// a write has gone is no measure: the kernel takes megabytes at once, and says nothing for long.
    /// Costs no system call before the first window has passed. A unix socket has the two windows.
    #[inline]
    pub fn arm_slow(&self, window: Duration, least: u64) {
        let ticks = ticks(window);
        self.entry(|entry, now| {
            entry.deadline = now.saturating_add(ticks).saturating_add(1);
            entry.expire = Expire::Slow;
            entry.expired = false;
            entry.pace = Pace {
                least,
                window: ticks,
                taken: None,
            };
        });
    }

    /// Beside the deadline: makes what is pending after this time complete with `ECANCELED`, in the way of
    /// [`Expire::Cancel`], until [`Slot::interrupt_never`].
    #[inline]
    pub fn interrupt_after(&self, after: Duration) {
        let ticks = ticks(after);
        self.entry(|entry, now| {
            entry.interrupt = now.saturating_add(ticks).saturating_add(1);
        });
    }

    /// Ends [`Slot::interrupt_after`].
    #[inline]
    pub fn interrupt_never(&self) {
        self.entry(|entry, _| entry.interrupt = DISARMED);
    }

    /// Takes the deadline away. Whether it has expired before stays to be seen.
    #[inline]
    pub fn disarm(&self) {
        self.entry(|entry, _| entry.deadline = DISARMED);
    }

    /// Whether the deadline that was armed last has passed.
    #[inline]
    pub fn expired(&self) -> bool {
        self.entry(|entry, _| entry.expired)
    }

    /// Waits for `future`, but not past a deadline that was armed with [`Expire::Wake`]: then `None`,
    /// and `future` is dropped. So it must be one that loses nothing when dropped (`readable`).
    pub async fn until<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        let outcome = poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            self.entry(|entry, _| {
                if entry.expired {
                    return Poll::Ready(None);
                }
                match &mut entry.waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    none => *none = Some(cx.waker().clone()),
                }
                Poll::Pending
            })
        })
        .await;
        let waker = self.entry(|entry, _| entry.waker.take());
        drop(waker);
        outcome
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let _ = TABLE.try_with(|table| {
            let waker = {
                let mut entries = table.entries.borrow_mut();
                let entry = &mut entries[self.index as usize];
                entry.deadline = DISARMED;
                entry.interrupt = DISARMED;
                entry.fd = -1;
                entry.waker.take()
            };
            table.free.borrow_mut().push(self.index);
            drop(waker);
        });
    }
}

/// A time in ticks, rounded up.
#[inline]
fn ticks(time: Duration) -> u32 {
    time.as_millis()
        .div_ceil(u128::from(TICK_MS))
        .min(u128::from(u32::MAX / 2)) as u32
}

/// Slots that live on this thread.
pub fn live() -> usize {
    TABLE.with(|table| table.entries.borrow().len() - table.free.borrow().len())
}

/// Marks what has passed and shuts the sockets down; the wakers are for the caller, who holds no
/// borrow of the table. Returns how many passed.
fn sweep(ticks: u32, woken: &mut Vec<Waker>) -> usize {
    TABLE.with(|table| {
        let now = table.now.get().saturating_add(ticks);
        table.now.set(now);
        let mut passed = 0;
        for entry in table.entries.borrow_mut().iter_mut() {
            if entry.interrupt != DISARMED && entry.interrupt <= now {
                entry.interrupt = now.saturating_add(1);
                cancel::pending(entry.fd);
            }
            if entry.deadline == DISARMED || entry.deadline > now {
                continue;
            }
            if entry.expire == Expire::Slow {
                if entry.pace.holds(acknowledged(entry.fd)) {
                    entry.deadline = now.saturating_add(entry.pace.window);
                    continue;
                }
                reset_on_close(entry.fd);
            }
            entry.deadline = DISARMED;
            entry.expired = true;
            passed += 1;
            let how = match entry.expire {
                Expire::Read => libc::SHUT_RD,
                Expire::Both | Expire::Slow => libc::SHUT_RDWR,
                Expire::Wake => {
                    woken.extend(entry.waker.take());
                    continue;
                }
                Expire::Cancel => {
                    entry.deadline = now.saturating_add(1);
                    cancel::pending(entry.fd);
                    continue;
                }
            };
            // SAFETY: no memory is involved. The descriptor is open by the slot's contract; a wrong
            // one would give an error.
            unsafe { libc::shutdown(entry.fd, how) };
        }
        passed
    })
}

/// Sweeps this core's table every [`TICK`], for ever, and beats the core's heart (`stall`). To be
/// spawned once a core, on a runtime with timers.
pub async fn run_sweep() {
    let mut last = clock::monotonic_ms();
    let mut woken = Vec::new();
    loop {
        monoio::time::sleep(TICK).await;
        stall::beat();
        let elapsed = clock::monotonic_ms().saturating_sub(last) / TICK_MS;
        last += elapsed * TICK_MS;
        // After a stall, what came meanwhile was not yet read: no one is blamed for that time.
        sweep(elapsed.min(2) as u32, &mut woken);
        woken.drain(..).for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    fn sweep_once() -> usize {
        sweep(1, &mut Vec::new())
    }

    #[test]
    fn fires_not_early_and_once() {
        let (mut a, _b) = UnixStream::pair().unwrap();
        let slot = Slot::new(a.as_raw_fd());
        slot.arm(Duration::from_millis(250), Expire::Read);
        // 250 ms are three ticks, and one for the tick that has begun.
        assert_eq!((0..3).map(|_| sweep_once()).sum::<usize>(), 0);
        assert!(!slot.expired());
        assert_eq!(sweep_once(), 1);
        assert!(slot.expired());
        assert_eq!(sweep_once(), 0);
        assert_eq!(a.read(&mut [0; 1]).unwrap(), 0, "the socket was shut down");
        slot.arm(Duration::from_secs(1), Expire::Read);
        assert!(!slot.expired(), "armed anew");
    }

    #[test]
    fn a_disarmed_or_dropped_slot_never_fires() {
        let (a, b) = UnixStream::pair().unwrap();
        let slot = Slot::new(a.as_raw_fd());
        slot.arm(Duration::ZERO, Expire::Both);
        slot.disarm();
        let dropped = Slot::new(b.as_raw_fd());
        dropped.arm(Duration::ZERO, Expire::Both);
        drop(dropped);
        assert_eq!((0..5).map(|_| sweep_once()).sum::<usize>(), 0);
        assert_eq!(live(), 1);
        let reused = Slot::new(b.as_raw_fd());
        assert_eq!(reused.index, 1, "the entry is used again");
        assert!(!reused.expired());
        use std::io::Write;
        assert_eq!((&a).write(b"x").unwrap(), 1);
    }

    #[test]
    fn a_peer_that_takes_too_little_is_ended_and_one_that_takes_enough_is_not() {
        use std::io::Write;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut socket, _) = listener.accept().unwrap();
        let slot = Slot::new(socket.as_raw_fd());
        let acked = |socket: &std::net::TcpStream| acknowledged(socket.as_raw_fd()).unwrap();
        let mut take = |socket: &mut std::net::TcpStream, n: usize| {
            let (before, began) = (acked(socket), std::time::Instant::now());
            socket.write_all(&vec![0; n]).unwrap();
            peer.read_exact(&mut vec![0; n]).unwrap();
            while acked(socket) < before + n as u64 {
                assert!(
                    began.elapsed() < Duration::from_secs(10),
                    "no acknowledgement"
                );
                std::thread::yield_now();
            }
        };
        slot.arm_slow(2 * TICK, 1000);
        let window = || (0..2).map(|_| sweep_once()).sum::<usize>();
        assert_eq!(window() + sweep_once(), 0, "the first is not judged");
        for _ in 0..3 {
            take(&mut socket, 1000);
            assert_eq!(window(), 0);
        }
        take(&mut socket, 999);
        assert_eq!(window(), 1);
        assert!(slot.expired());
        assert!(socket.write(b"x").is_err());
    }

    #[test]
    fn a_cancel_is_said_until_it_is_taken_back() {
        let (a, _b) = UnixStream::pair().unwrap();
        let slot = Slot::new(a.as_raw_fd());
        slot.arm(Duration::ZERO, Expire::Cancel);
        // The operation may begin just after the first.
        assert_eq!((0..4).map(|_| sweep_once()).sum::<usize>(), 4);
        assert!(slot.expired());
        slot.disarm();
        assert_eq!(sweep_once(), 0);
    }

    #[test]
    fn a_far_deadline_does_not_wrap() {
        let (a, _b) = UnixStream::pair().unwrap();
        let slot = Slot::new(a.as_raw_fd());
        slot.arm(Duration::MAX, Expire::Both);
        assert_eq!((0..100).map(|_| sweep_once()).sum::<usize>(), 0);
    }
}
