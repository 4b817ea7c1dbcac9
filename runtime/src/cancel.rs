//! Ending a pending operation of a socket from outside, on the ring that it waits on.
//!
//! Owns the number of this thread's ring. `find` is called once on a data core, when its ring has
//! been built; `pending` by the deadline sweep of the same core.
//!
//! monoio can cancel only what was begun as cancelable, which costs every operation; the kernel can
//! cancel by descriptor at no cost before (IORING_REGISTER_SYNC_CANCEL with IORING_ASYNC_CANCEL_FD,
//! Linux 6.0; io_uring_register(2)). For that the ring's own descriptor is needed, which monoio does
//! not show: it is the one that appeared in `/proc/self/fd` while the ring was built and that takes a
//! registration from this thread. Where it can't be told, there is no cancelling here, and callers
//! wait for readiness instead ([`crate::stream::Stream::readable`]).
//!
//! Invariants: the operation still completes, with `ECANCELED` or with what it had got by then, so
//! neither its buffer nor a byte is lost. Tested by `tests/streams.rs`.

use std::cell::Cell;
use std::collections::HashSet;
use std::os::fd::RawFd;

/// `IORING_REGISTER_SYNC_CANCEL`.
const SYNC_CANCEL: libc::c_uint = 24;
/// `IORING_ASYNC_CANCEL_ALL | IORING_ASYNC_CANCEL_FD`.
const ALL_OF_FD: u32 = 1 | 1 << 1;
const NONE: RawFd = -1;
/// How an operation ends that was cancelled: the error's number.
pub const CANCELED: i32 = libc::ECANCELED;

/// `struct io_uring_sync_cancel_reg`.
#[repr(C)]
struct Request {
    user_data: u64,
    fd: i32,
    flags: u32,
    timeout_s: i64,
    timeout_ns: i64,
    opcode: u8,
    pad: [u8; 7],
    pad2: [u64; 3],
}

thread_local! {
    static RING: Cell<RawFd> = const { Cell::new(NONE) };
}

/// The rings of this process, by descriptor.
pub(crate) fn rings() -> HashSet<RawFd> {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        return HashSet::new();
    };
    entries
        .filter_map(Result::ok)
        .filter(|e| {
            std::fs::read_link(e.path()).is_ok_and(|to| to.as_os_str() == "anon_inode:[io_uring]")
        })
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .collect()
}

/// Remembers the ring of this thread: the one that is not among `before`.
pub(crate) fn find(before: &HashSet<RawFd>) {
    let mut new = rings().into_iter().filter(|fd| !before.contains(fd));
    let ring = match (new.next(), new.next()) {
        // A try: nothing can be pending on the ring itself.
        (Some(fd), None) if matches!(cancel(fd, fd), Ok(()) | Err(libc::ENOENT)) => fd,
        _ => NONE,
    };
    RING.set(ring);
}

/// Whether an operation can be cancelled so on this thread.
#[inline]
pub fn available() -> bool {
    RING.get() != NONE
}

/// Cancels what waits on the ring for `fd`.
pub(crate) fn pending(fd: RawFd) {
    let ring = RING.get();
    if ring != NONE {
        // Nothing pending is no error.
        let _ = cancel(ring, fd);
    }
}

fn cancel(ring: RawFd, fd: RawFd) -> Result<(), i32> {
    let request = Request {
        user_data: 0,
        fd,
        flags: ALL_OF_FD,
        timeout_s: -1,
        timeout_ns: -1,
        opcode: 0,
        pad: [0; 7],
        pad2: [0; 3],
    };
    // SAFETY: `request` is a whole `io_uring_sync_cancel_reg`, read during the call only.
    let result = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            ring,
            SYNC_CANCEL,
            &raw const request,
            1,
        )
    };
    if result >= 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
    }
}
