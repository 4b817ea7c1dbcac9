//! The replication core: one thread with a glommio executor on it.
//!
//! Owns the thread. [`spawn`] may be called from any thread, but only after a probe that found io_uring
//! to work ([`crate::probe::Report::glommio`]): glommio panics where it is denied, and stays broken for
//! the life of the process. The future that it is given is made and runs on the new thread.
//!
//! Invariants: an idle executor sleeps in the kernel (it never spins before it parks); a panic ends
//! the thread and is told by [`Handle::join`]. It deliberately does not decide what to run. Tested by
//! `tests/cores.rs`, where an idle one's CPU time is looked at.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;

use glommio::{LocalExecutor, LocalExecutorBuilder, Placement};

use crate::data_core::panicked;
use crate::error::Error;
use crate::mesh;

/// Memory that the executor registers for I/O, in bytes: enough for buffers of files, and within a
/// RLIMIT_MEMLOCK of 8 MiB.
const IO_MEMORY: usize = 1 << 20;
/// Entries of each of its rings.
const RING_DEPTH: usize = 128;

/// What the replication core is to be.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Name of the thread; the kernel shows 15 bytes of it.
    pub name: String,
    /// CPU to be pinned to, if any.
    pub cpu: Option<usize>,
}

/// The running replication core.
#[derive(Debug)]
pub struct Handle {
    name: String,
    thread: thread::JoinHandle<Result<(), Error>>,
}

impl Handle {
    /// Whether it has ended, well or by a panic.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It panicked.
    pub fn join(self) -> Result<(), Error> {
        match self.thread.join() {
            Ok(result) => result,
            Err(panic) => Err(panicked(&self.name, &*panic)),
        }
    }
}

fn build(spec: &Spec) -> Result<LocalExecutor, Error> {
    let placement = spec.cpu.map_or(Placement::Unbound, Placement::Fixed);
    let builder = LocalExecutorBuilder::new(placement)
        .name(&spec.name)
        .io_memory(IO_MEMORY)
        .ring_depth(RING_DEPTH);
    match catch_unwind(AssertUnwindSafe(|| builder.make())) {
        Ok(Ok(executor)) => Ok(executor),
        Ok(Err(e)) => {
            let source = std::io::Error::other(e.to_string());
            Err(Error::Driver {
                name: spec.name.clone(),
                source,
            })
        }
        Err(panic) => Err(panicked(&spec.name, &*panic)),
    }
}

/// Starts the replication core, which runs the future that `make` gives until it returns. Comes back
/// when the executor stands.
///
/// # Errors
/// The thread or the executor can't be had.
pub fn spawn<Make, Fut>(spec: Spec, make: Make) -> Result<Handle, Error>
where
    Make: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let name = spec.name.clone();
    let (tell, told) = mpsc::sync_channel(1);
    let thread = thread::Builder::new()
        .name(name.clone())
        .spawn(move || {
            let executor = match build(&spec) {
                Ok(executor) => {
                    let _ = tell.send(Ok(()));
                    executor
                }
                Err(e) => {
                    let _ = tell.send(Err(e));
                    return Ok(());
                }
            };
            catch_unwind(AssertUnwindSafe(|| {
                executor.run(async move {
                    make().await;
                    mesh::end();
                })
            }))
            .map_err(|panic| panicked(&spec.name, &*panic))
        })
        .map_err(|source| Error::Thread {
            name: name.clone(),
            source,
        })?;
    match told.recv() {
        Ok(Ok(())) => Ok(Handle { name, thread }),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(Error::Panicked {
            name,
            message: "before its executor stood".to_owned(),
        }),
    }
}
