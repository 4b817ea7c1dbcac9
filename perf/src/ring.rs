//! The monoio ring that every tool here runs on, with the flags that the gateway uses.
//!
//! Owns nothing; called once on each thread. `single_issuer` and `defer_taskrun` (Linux 6.1) are
//! worth about a microsecond a request, so that a relay without them would be no floor. On a
//! kernel that refuses them the plain ring is taken, and it is said on stderr. Tested by the smoke
//! test.

use std::future::Future;
use std::io;
use std::net::SocketAddr;

/// Ring entries; one in flight a connection and direction is the most these tools need at once,
/// the rest waits in the submission queue.
pub const ENTRIES: u32 = 4096;

/// Runs `future` to its end on a ring of this thread.
///
/// # Panics
/// When no ring can be built at all: without one there is nothing to measure.
pub fn run<F: Future>(future: F) -> F::Output {
    let mut flags = io_uring::IoUring::builder();
    flags.setup_single_issuer().setup_defer_taskrun();
    let fast = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
        .with_entries(ENTRIES)
        .uring_builder(flags)
        .enable_timer()
        .build();
    match fast {
        Ok(mut runtime) => runtime.block_on(future),
        Err(error) => {
            eprintln!("ring without single_issuer and defer_taskrun: {error}");
            monoio::RuntimeBuilder::<monoio::FusionDriver>::new()
                .enable_timer()
                .build()
                .expect("an io_uring or epoll runtime")
                .block_on(future)
        }
    }
}

/// A listener with a deep backlog; `share` sets SO_REUSEPORT (never else: a forgotten process on
/// the same port would take half of the connections unseen).
///
/// # Errors
/// When the address can't be bound.
pub fn listen(at: SocketAddr, share: bool) -> io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(at),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if share {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&at.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// Takes a listener up on this thread's ring.
///
/// # Errors
/// When its mode can't be changed.
pub fn adopt(listener: std::net::TcpListener) -> io::Result<monoio::net::TcpListener> {
    // A ring's accept on a non-blocking socket would fail at once; epoll's needs it.
    listener.set_nonblocking(monoio::utils::is_legacy())?;
    monoio::net::TcpListener::from_std(listener)
}
