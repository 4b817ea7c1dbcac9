//! Holdfast's threads, rings, sockets and buffers.
//!
//! What every core stands on, and the workspace's only crate with `unsafe`. It knows no HTTP and no
//! sessions. Each module says what it owns, on which thread it may be used, and what it must never do.
//!
//! At boot: [`probe`] finds out what the kernel allows, [`topology`] which CPUs there are, [`socket`]
//! binds the listeners, [`mesh`] makes the ways between threads, [`data_core`] and
//! [`replication_core`] start the threads. In traffic: [`stream`], [`buffers`], [`deadline`],
//! [`parking`], [`splice`], [`tls`].

pub mod buffers;
pub mod bytes;
pub mod cancel;
pub mod clock;
pub mod counters;
pub mod data_core;
pub mod deadline;
pub mod error;
mod fd;
pub mod limit;
pub mod memory;
pub mod mesh;
pub mod parking;
pub mod probe;
pub mod replication_core;
pub mod shutdown;
pub mod socket;
pub mod splice;
pub mod stall;
pub mod stream;
#[cfg(test)]
mod test_util;
pub mod tls;
pub mod topology;
pub mod yielder;

pub use error::Error;
