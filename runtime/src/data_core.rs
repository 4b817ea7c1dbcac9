//! A data core: one thread, pinned to a CPU, with one monoio runtime on it.
//!
//! Owns the thread and its driver: io_uring with the flags that the probe found, or epoll (monoio's
//! legacy driver). [`spawn`] may be called from any thread; the future that it is given is made and
//! runs on the new one.
//!
//! Invariants: the ring is built on the thread that uses it (SINGLE_ISSUER); the sweep of deadlines
//! runs on every core from its start; a panic ends the core and is told by [`Handle::join`], never
//! swallowed. What is still suspended when the core's future returns is not dropped but leaked: the
//! kernel may yet write to its buffers.
//!
//! It deliberately does not decide what to run, and does not restart a core. Tested by
//! `tests/cores.rs`.

use std::cell::Cell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;

use monoio::time::TimeDriver;
use monoio::{IoUringDriver, LegacyDriver, Runtime, RuntimeBuilder};

use crate::error::Error;
use crate::probe::Ring;
use crate::stall::Heart;
use crate::{cancel, clock, deadline, mesh, yielder};

/// What moves a core's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Driver {
    /// io_uring, so set up.
    Ring(Ring),
    /// epoll: where io_uring is not to be had.
    Legacy,
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ring(ring) => ring.fmt(f),
            Self::Legacy => f.write_str("epoll"),
        }
    }
}

/// What a core is to be.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Name of the thread; the kernel shows 15 bytes of it.
    pub name: String,
    /// CPU to be pinned to, if any.
    pub cpu: Option<usize>,
    /// Its driver.
    pub driver: Driver,
    /// How long the core looks for completions before it sleeps; zero: not at all.
    pub busy_poll: Duration,
}

/// What a core got.
#[derive(Debug, Clone)]
pub struct Got {
    /// Its driver: a ring may have become smaller than it was specified, or epoll.
    pub driver: Driver,
    /// The CPU that it is pinned to.
    pub cpu: Option<usize>,
    /// What is not as it was specified, in words.
    pub warnings: Vec<String>,
}

/// A running core.
#[derive(Debug)]
pub struct Handle {
    name: String,
    got: Got,
    heart: Heart,
    thread: thread::JoinHandle<Result<(), Error>>,
}

impl Handle {
    /// Its thread's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it got.
    pub fn got(&self) -> &Got {
        &self.got
    }

    /// Beats every 100 ms while the core turns.
    pub fn heart(&self) -> &Heart {
        &self.heart
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

pub(crate) fn panicked(name: &str, panic: &(dyn std::any::Any + Send)) -> Error {
    let message = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "(no text)".to_owned());
    Error::Panicked {
        name: name.to_owned(),
        message,
    }
}

/// Pins the calling thread; whether it worked.
pub(crate) fn pin_to(cpu: usize) -> bool {
    core_affinity::set_for_current(core_affinity::CoreId { id: cpu })
}

enum AnyRuntime {
    Ring(Runtime<TimeDriver<IoUringDriver>>),
    Legacy(Runtime<TimeDriver<LegacyDriver>>),
}

fn build_ring(ring: &Ring) -> io::Result<AnyRuntime> {
    let runtime = RuntimeBuilder::<IoUringDriver>::new()
        .uring_builder(ring.builder())
        .with_entries(ring.entries)
        .enable_timer()
        .build()?;
    Ok(AnyRuntime::Ring(runtime))
}

fn build_legacy() -> io::Result<AnyRuntime> {
    Ok(AnyRuntime::Legacy(
        RuntimeBuilder::<LegacyDriver>::new()
            .enable_timer()
            .build()?,
    ))
}

/// Tries a ring, smaller ones, and epoll at last.
fn build(driver: &Driver, warnings: &mut Vec<String>) -> io::Result<(AnyRuntime, Driver)> {
    let Driver::Ring(wanted) = driver else {
        return Ok((build_legacy()?, Driver::Legacy));
    };
    let mut ring = wanted.clone();
    loop {
        // Memory of rings that were freed (by the probe) is given back late.
        let mut result = build_ring(&ring);
        for _ in 0..10 {
            match &result {
                Err(e) if e.raw_os_error() == Some(libc::ENOMEM) => {
                    thread::sleep(Duration::from_millis(10));
                    result = build_ring(&ring);
                }
                _ => break,
            }
        }
        match result {
            Ok(runtime) => {
                if ring != *wanted {
                    warnings.push(format!(
                        "no room for a ring of {} entries, took {}",
                        wanted.entries, ring.entries
                    ));
                }
                return Ok((runtime, Driver::Ring(ring)));
            }
            Err(e) => match ring.smaller() {
                Some(smaller) => ring = smaller,
                None => {
                    warnings.push(format!("io_uring failed ({e}), took epoll"));
                    return Ok((build_legacy()?, Driver::Legacy));
                }
            },
        }
    }
}

/// Starts a core that runs the future which `make` gives, until it returns. Comes back when the
/// core's driver stands.
///
/// # Errors
/// The thread, or no driver at all, can't be had.
pub fn spawn<Make, Fut>(spec: Spec, make: Make) -> Result<Handle, Error>
where
    Make: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let name = spec.name.clone();
    let heart = Heart::default();
    let (tell, told) = mpsc::sync_channel(1);
    let thread = thread::Builder::new()
        .name(name.clone())
        .spawn({
            let heart = heart.clone();
            move || {
                heart.install();
                run(spec, make, &tell)
            }
        })
        .map_err(|source| Error::Thread {
            name: name.clone(),
            source,
        })?;
    match told.recv() {
        Ok(Ok(got)) => Ok(Handle {
            name,
            got,
            heart,
            thread,
        }),
        Ok(Err(source)) => Err(Error::Driver { name, source }),
        Err(_) => Err(match thread.join() {
            Ok(Err(error)) => error,
            _ => Error::Panicked {
                name,
                message: "before its driver stood".to_owned(),
            },
        }),
    }
}

fn run<Make, Fut>(
    spec: Spec,
    make: Make,
    tell: &mpsc::SyncSender<io::Result<Got>>,
) -> Result<(), Error>
where
    Make: FnOnce() -> Fut,
    Fut: Future<Output = ()> + 'static,
{
    let mut warnings = Vec::new();
    let cpu = spec.cpu.filter(|&cpu| pin_to(cpu));
    if let (Some(wanted), None) = (spec.cpu, cpu) {
        warnings.push(format!(
            "could not pin to CPU {wanted}: is it in the affinity mask?"
        ));
    }
    let rings = cancel::rings();
    let mut runtime = match build(&spec.driver, &mut warnings) {
        Ok((runtime, driver)) => {
            if driver != Driver::Legacy {
                cancel::find(&rings);
            }
            let _ = tell.send(Ok(Got {
                driver,
                cpu,
                warnings,
            }));
            runtime
        }
        Err(e) => {
            let _ = tell.send(Err(e));
            return Ok(());
        }
    };
    let busy_poll = spec.busy_poll;
    let main = async move {
        monoio::spawn(deadline::run_sweep());
        if !busy_poll.is_zero() {
            monoio::spawn(spin(busy_poll));
        }
        make().await;
        mesh::end();
        yielder::end();
    };
    let result = catch_unwind(AssertUnwindSafe(|| match &mut runtime {
        AnyRuntime::Ring(runtime) => runtime.block_on(main),
        AnyRuntime::Legacy(runtime) => runtime.block_on(main),
    }));
    match result {
        Ok(()) => Ok(()),
        Err(panic) => {
            // Tasks may be in any state: touch nothing of them again.
            std::mem::forget(runtime);
            Err(panicked(&spec.name, &*panic))
        }
    }
}

struct Activity {
    count: Cell<u32>,
    idle: Cell<bool>,
    spinner: Cell<Option<Waker>>,
}

thread_local! {
    static ACTIVITY: Activity = const {
        Activity { count: Cell::new(0), idle: Cell::new(false), spinner: Cell::new(None) }
    };
}

/// Tells the spinner that an operation completed.
#[inline]
pub(crate) fn activity() {
    ACTIVITY.with(|activity| {
        activity.count.set(activity.count.get().wrapping_add(1));
        if activity.idle.get() {
            activity.idle.set(false);
            if let Some(waker) = activity.spinner.take() {
                waker.wake();
            }
        }
    });
}

/// Keeps the core from sleeping while an operation completed less than `window` ago.
async fn spin(window: Duration) {
    let window = window.as_nanos() as u64;
    let count = || ACTIVITY.with(|activity| activity.count.get());
    loop {
        let before = count();
        poll_fn(|cx| {
            if count() != before {
                return Poll::Ready(());
            }
            ACTIVITY.with(|activity| {
                activity.spinner.set(Some(cx.waker().clone()));
                activity.idle.set(true);
            });
            Poll::Pending
        })
        .await;
        let (mut seen, mut last) = (count(), clock::monotonic_ns());
        loop {
            yielder::turn().await;
            let now = clock::monotonic_ns();
            if count() != seen {
                (seen, last) = (count(), now);
            } else if now - last > window {
                break;
            }
        }
    }
}
