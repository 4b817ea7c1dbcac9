//! The replication core: one thread with a glommio executor on it.
//!
//! Owns the thread, and a second one that watches it. [`spawn`] may be called from any thread, but only after a probe that found io_uring
//! to work ([`crate::probe::Report::glommio`]): glommio panics where it is denied, and stays broken for
//! the life of the process. The future that it is given is made and runs on the new thread.
//!
//! Invariants: an idle executor sleeps in the kernel (it never spins before it parks); a panic ends
//! the thread and is told by [`Handle::join`]; an executor that fell asleep on work is woken.
//!
//! That last one is glommio 0.9's fault: when the timer that shall interrupt its tasks (100 ms) fires
//! before the first of them was run, as on a machine that is short of CPU time, the loop takes the
//! queue for empty and sleeps on what is in it; whoever woke those tasks will not do so again. So a
//! heart beats in the executor every 100 ms, and where it stands still the watcher wakes a task of its
//! own, from outside, which makes the loop look at its queue again.
//!
//! It deliberately does not decide what to run. Tested by `tests/cores.rs`, where an idle one's CPU
//! time is looked at, and by `tests/mesh.rs` on a machine under load.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use atomic_waker::AtomicWaker;
use glommio::{LocalExecutor, LocalExecutorBuilder, Placement};

use crate::data_core::panicked;
use crate::error::Error;
use crate::mesh;
use crate::stall::Heart;

/// Memory that the executor registers for I/O, in bytes: enough for buffers of files, and within a
/// RLIMIT_MEMLOCK of 8 MiB.
const IO_MEMORY: usize = 1 << 20;
/// Entries of each of its rings.
const RING_DEPTH: usize = 128;

/// How often the executor's heart beats.
const BEAT: Duration = Duration::from_millis(100);
/// How long it may stand still before the executor is nudged.
const STILL: Duration = Duration::from_millis(400);

/// What the executor and its watcher share.
#[derive(Debug, Default)]
struct Pulse {
    heart: Heart,
    /// Of the task that exists to be woken.
    nudged: AtomicWaker,
    nudges: AtomicU64,
    ended: AtomicBool,
}

impl Pulse {
    /// Runs `main` with a beating heart.
    async fn during(self: &Arc<Self>, main: impl Future<Output = ()>) {
        self.heart.install();
        let this = self.clone();
        glommio::spawn_local(async {
            loop {
                glommio::timer::sleep(BEAT).await;
                crate::stall::beat();
            }
        })
        .detach();
        glommio::spawn_local(poll_fn(move |cx| {
            this.nudged.register(cx.waker());
            Poll::<()>::Pending
        }))
        .detach();
        main.await;
        drop(self.nudged.take());
    }

    /// The watcher's loop, until the executor has ended.
    fn watch(&self) {
        let mut seen = self.heart.beats();
        while !self.ended.load(Ordering::Acquire) {
            thread::park_timeout(STILL);
            let beats = self.heart.beats();
            if beats == seen {
                self.nudges.fetch_add(1, Ordering::Relaxed);
                self.nudged.wake();
            }
            seen = beats;
        }
    }
}

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
    pulse: Arc<Pulse>,
    thread: thread::JoinHandle<Result<(), Error>>,
}

impl Handle {
    /// Beats every 100 ms while the executor turns.
    pub fn heart(&self) -> &Heart {
        &self.pulse.heart
    }

    /// Times that the executor stood still and was woken from outside. It stands still too while a
    /// task of it does not give way.
    pub fn nudges(&self) -> u64 {
        self.pulse.nudges.load(Ordering::Relaxed)
    }

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
    let fail = |source| Error::Thread {
        name: spec.name.clone(),
        source,
    };
    let pulse = Arc::<Pulse>::default();
    let watcher = thread::Builder::new()
        .name(format!("{name}-watch"))
        .spawn({
            let pulse = pulse.clone();
            move || pulse.watch()
        })
        .map_err(fail)?;
    let (tell, told) = mpsc::sync_channel(1);
    let thread = thread::Builder::new().name(name.clone()).spawn({
        let (spec, pulse) = (spec.clone(), pulse.clone());
        let watcher = watcher.thread().clone();
        move || {
            let result = run(&spec, make, &pulse, &tell);
            pulse.ended.store(true, Ordering::Release);
            watcher.unpark();
            result
        }
    });
    let thread = thread.map_err(|source| {
        pulse.ended.store(true, Ordering::Release);
        fail(source)
    })?;
    match told.recv() {
        Ok(Ok(())) => Ok(Handle {
            name,
            pulse,
            thread,
        }),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(Error::Panicked {
            name,
            message: "before its executor stood".to_owned(),
        }),
    }
}

fn run<Make, Fut>(
    spec: &Spec,
    make: Make,
    pulse: &Arc<Pulse>,
    tell: &mpsc::SyncSender<Result<(), Error>>,
) -> Result<(), Error>
where
    Make: FnOnce() -> Fut,
    Fut: Future<Output = ()> + 'static,
{
    let executor = match build(spec) {
        Ok(executor) => {
            let _ = tell.send(Ok(()));
            executor
        }
        Err(e) => {
            let _ = tell.send(Err(e));
            return Ok(());
        }
    };
    let main = async {
        let main = async {
            make().await;
            mesh::end();
        };
        pulse.during(main).await;
    };
    catch_unwind(AssertUnwindSafe(|| executor.run(main)))
        .map_err(|panic| panicked(&spec.name, &*panic))
}
