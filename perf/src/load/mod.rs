//! The load generator.
//!
//! **Owns** the phases of a run (warm-up, window, end) and its threads; each thread owns its
//! connections, its part of the virtual clients and its counts. The main thread only
//! sleeps, reads counters and samples the watched processes at both ends of the window, so that
//! CPU and requests are counted over the same time.
//!
//! **Invariants:** threads share a phase and one counter each, nothing else. In constant-rate mode
//! latency runs from the due time ([`crate::pace`]), and requests still unanswered at the end are
//! recorded with the time they have waited so far. With `--requests N` exactly N are sent.
//!
//! **Does not:** time requests out one by one (a timer around each read would cost what is to be
//! measured): a request older than `--timeout` at the end counts as an error, and a run in which
//! nothing moves for that long ends.
//!
//! **Tested** in its parts and by `tests/smoke.rs` against the static upstream.

mod options;
mod report;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU64,
    Ordering::{Relaxed, Release},
};
use std::time::{Duration, Instant};

use crate::args::Args;
use crate::watch::{Cpu, Group, Memory};

pub use options::{HELP, Mode, Options, Window};
pub use report::Totals;

/// Warm-up: requests are sent and not recorded.
const WARM: u8 = 0;
/// The window: requests are recorded.
const MEASURE: u8 = 1;
/// The end: no request is started.
const STOP: u8 = 2;

/// What the threads of a run share.
#[derive(Debug)]
pub(crate) struct Control {
    phase: AtomicU8,
    /// Answers so far, a counter a thread.
    answered: Vec<AtomicU64>,
    /// Threads that have nothing more to do.
    finished: AtomicU64,
    /// The run was ended because nothing was answered any more.
    stuck: AtomicBool,
    /// When the schedule of a constant rate begins.
    start: Instant,
}

impl Control {
    fn answered(&self) -> u64 {
        self.answered.iter().map(|c| c.load(Relaxed)).sum()
    }
}

/// The counters and processes at one end of the window.
struct Sample {
    at: Instant,
    answered: u64,
    cpu: Vec<Cpu>,
}

impl Sample {
    fn take(control: &Control, groups: &[Group]) -> Result<Self, String> {
        Ok(Self {
            at: Instant::now(),
            answered: control.answered(),
            cpu: groups
                .iter()
                .map(|g| g.cpu().map_err(|e| format!("--watch {}: {e}", g.name)))
                .collect::<Result<_, _>>()?,
        })
    }
}

/// The subcommand.
///
/// # Errors
/// On wrong usage, when a watched process is gone, or when nothing at all was answered.
pub fn main(args: Args) -> Result<(), String> {
    let options = Options::parse(args)?;
    let json = options.json;
    let totals = run(options)?;
    if json {
        println!("{}", totals.json().finish());
    } else {
        print!("{}", totals.text());
    }
    if totals.window_requests == 0 {
        return Err("no request was answered".into());
    }
    Ok(())
}

/// Runs the load and returns what was seen.
///
/// # Errors
/// When a thread can't be started, a file not be read or written, or a watched process is gone.
pub fn run(options: Options) -> Result<Totals, String> {
    let options = Arc::new(options);
    let jars = options.jars()?;
    let control = Arc::new(Control {
        phase: AtomicU8::new(if options.warm_requests == 0 && options.warm.is_zero() {
            MEASURE
        } else {
            WARM
        }),
        answered: (0..options.threads).map(|_| AtomicU64::new(0)).collect(),
        finished: AtomicU64::new(0),
        stuck: AtomicBool::new(false),
        start: Instant::now() + Duration::from_millis(20),
    });
    let before: Vec<Memory> = memory(&options.watch)?;
    let mut threads = Vec::new();
    for (index, jar) in jars.into_iter().enumerate() {
        let (options, control) = (Arc::clone(&options), Arc::clone(&control));
        threads.push(
            std::thread::Builder::new()
                .name(format!("load {index}"))
                .spawn(move || worker::run(index, &options, jar, &control))
                .map_err(|e| e.to_string())?,
        );
    }
    let phases = phases(&options, &control);
    let stuck = matches!(phases, Ok((_, _, true)));
    control.stuck.store(stuck, Relaxed);
    control.phase.store(STOP, Release);
    let (first, last, _) = phases?;
    let mut totals = Totals::new();
    let mut lines = Vec::new();
    for thread in threads {
        let (part, jar) = thread.join().map_err(|_| "a load thread panicked")??;
        totals.add(part);
        if options.jar_out.is_some() {
            lines.extend(jar.lines().map(<[u8]>::to_vec));
        }
    }
    if let Some(path) = &options.jar_out {
        let mut text = lines.join(&b'\n');
        text.push(b'\n');
        std::fs::write(path, text).map_err(|e| format!("{path}: {e}"))?;
    }
    totals.window = last.at - first.at;
    totals.window_requests = last.answered - first.answered;
    totals.stuck |= stuck;
    let after = memory(&options.watch)?;
    for (i, group) in options.watch.iter().enumerate() {
        let at = |s: &Sample| s.cpu.get(i).copied().unwrap_or_default();
        totals.watched.push(report::Watched {
            name: group.name.clone(),
            cpu: at(&last).since(&at(&first)),
            before: before.get(i).copied().unwrap_or_default(),
            after: after.get(i).copied().unwrap_or_default(),
        });
    }
    Ok(totals)
}

fn memory(groups: &[Group]) -> Result<Vec<Memory>, String> {
    groups
        .iter()
        .map(|g| g.memory().map_err(|e| format!("--watch {}: {e}", g.name)))
        .collect()
}

/// Waits for each phase to be over; the samples at both ends of the window, and whether the run
/// was ended because nothing moved.
fn phases(options: &Options, control: &Control) -> Result<(Sample, Sample, bool), String> {
    let mut watch = Progress::new(options.timeout);
    let begun = Instant::now();
    while begun.elapsed() < options.warm || control.answered() < options.warm_requests {
        if watch.stuck(control) {
            let now = Sample::take(control, &options.watch)?;
            let same = Sample::take(control, &options.watch)?;
            return Ok((now, same, true));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let first = Sample::take(control, &options.watch)?;
    control.phase.store(MEASURE, Relaxed);
    let mut stuck = false;
    loop {
        let over = match options.window {
            Window::Duration(time) => first.at.elapsed() >= time,
            Window::Requests(_) => control.finished.load(Relaxed) == options.threads as u64,
        };
        stuck = stuck || watch.stuck(control);
        if over || stuck {
            break;
        }
        let left = match options.window {
            Window::Duration(time) => time.saturating_sub(first.at.elapsed()),
            Window::Requests(_) => Duration::from_millis(1),
        };
        std::thread::sleep(left.min(Duration::from_millis(20)));
    }
    let last = Sample::take(control, &options.watch)?;
    Ok((first, last, stuck))
}

/// Notices that nothing is answered any more.
struct Progress {
    timeout: Duration,
    answered: u64,
    since: Instant,
}

impl Progress {
    fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            answered: 0,
            since: Instant::now(),
        }
    }

    fn stuck(&mut self, control: &Control) -> bool {
        let answered = control.answered();
        if answered != self.answered {
            self.answered = answered;
            self.since = Instant::now();
        }
        self.since.elapsed() > self.timeout
    }
}
