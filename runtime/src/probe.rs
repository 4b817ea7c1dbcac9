//! What this kernel and these limits allow.
//!
//! Owns no state. To be run once, at boot, before any core is started: [`run`] raises this process's
//! limits (memory locked, open files) where it may, builds as many bare rings as there are to be
//! cores on a scratch thread, and reports what works, what does not, and what an operator has to
//! change. Nothing of it is needed afterwards.
//!
//! Invariants: what the report offers has been seen to work at that moment, with all rings alive at
//! once; a flag that the configuration demands is never dropped silently but told as an error.
//! It deliberately starts neither monoio nor glommio (which panics, and poisons itself, where
//! io_uring is denied). Tested by `tests/probe.rs`, under lowered limits and another user too.

use std::fmt;
use std::fs;
use std::io;
use std::thread;
use std::time::Duration;

/// Sizes that are tried in turn when a ring doesn't fit in the memory that may be locked.
const STEPS: [u32; 3] = [4096, 1024, 256];
/// What glommio asks RLIMIT_MEMLOCK for before it starts.
const GLOMMIO_MEMLOCK: u64 = 512 * 1024;
/// Open files below which a gateway is not of much use.
const FEW_FILES: u64 = 65_536;

/// How a ring is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ring {
    /// Places of the submission queue.
    pub entries: u32,
    /// IORING_SETUP_COOP_TASKRUN.
    pub coop_taskrun: bool,
    /// IORING_SETUP_SINGLE_ISSUER.
    pub single_issuer: bool,
    /// IORING_SETUP_DEFER_TASKRUN.
    pub defer_taskrun: bool,
    /// IORING_SETUP_SQPOLL.
    pub sqpoll: bool,
}

impl Ring {
    /// The builder that sets it up so.
    pub fn builder(&self) -> io_uring::Builder {
        let mut builder = io_uring::IoUring::builder();
        if self.coop_taskrun {
            builder.setup_coop_taskrun();
        }
        if self.single_issuer {
            builder.setup_single_issuer();
        }
        if self.defer_taskrun {
            builder.setup_defer_taskrun();
        }
        if self.sqpoll {
            builder.setup_sqpoll(100);
        }
        builder
    }

    /// The next smaller one, if there is any.
    pub fn smaller(&self) -> Option<Self> {
        let entries = STEPS.into_iter().find(|&step| step < self.entries)?;
        Some(Self {
            entries,
            ..self.clone()
        })
    }
}

impl fmt::Display for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "io_uring, {} entries", self.entries)?;
        for (name, on) in [
            ("coop_taskrun", self.coop_taskrun),
            ("single_issuer", self.single_issuer),
            ("defer_taskrun", self.defer_taskrun),
            ("sqpoll", self.sqpoll),
        ] {
            if on {
                write!(f, ", {name}")?;
            }
        }
        Ok(())
    }
}

/// What the configuration wants. `Some` was demanded and must hold; `None` is the default, which is
/// on for all flags but `sqpoll` and may fall away.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Places of the submission queue.
    pub entries: u32,
    /// Whether `entries` was demanded.
    pub entries_explicit: bool,
    /// IORING_SETUP_COOP_TASKRUN.
    pub coop_taskrun: Option<bool>,
    /// IORING_SETUP_SINGLE_ISSUER.
    pub single_issuer: Option<bool>,
    /// IORING_SETUP_DEFER_TASKRUN.
    pub defer_taskrun: Option<bool>,
    /// IORING_SETUP_SQPOLL.
    pub sqpoll: Option<bool>,
    /// How many such rings must live at once: one a core.
    pub rings: usize,
    /// Don't try io_uring at all: epoll is wanted.
    pub legacy: bool,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            entries: STEPS[0],
            entries_explicit: false,
            coop_taskrun: None,
            single_issuer: None,
            defer_taskrun: None,
            sqpoll: None,
            rings: 1,
            legacy: false,
        }
    }
}

/// A resource limit as it was found and as it is now, in bytes or files. `u64::MAX` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Soft limit at the start.
    pub found: u64,
    /// Soft limit now.
    pub soft: u64,
    /// Hard limit now.
    pub hard: u64,
}

/// Version of the running kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kernel(pub u32, pub u32);

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// What the probe found.
#[derive(Debug, Clone)]
pub struct Report {
    /// The running kernel.
    pub kernel: Kernel,
    /// The ring that each core can have; `None`: epoll.
    pub ring: Option<Ring>,
    /// Whether glommio can be started, else why not and what to change.
    pub glommio: Result<(), String>,
    /// RLIMIT_MEMLOCK.
    pub memlock: Limit,
    /// RLIMIT_NOFILE.
    pub nofile: Limit,
    /// What is worse than it was wanted by default, and what to change.
    pub warnings: Vec<String>,
    /// What was demanded and can't be had.
    pub errors: Vec<String>,
}

impl Report {
    /// The driver for a core of this report.
    pub fn driver(&self) -> crate::data_core::Driver {
        match &self.ring {
            Some(ring) => crate::data_core::Driver::Ring(ring.clone()),
            None => crate::data_core::Driver::Legacy,
        }
    }
}

fn getrlimit(resource: libc::__rlimit_resource_t) -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a valid rlimit to write to.
    match unsafe { libc::getrlimit(resource, &mut limit) } {
        0 => Ok(limit),
        _ => Err(io::Error::last_os_error()),
    }
}

fn setrlimit(resource: libc::__rlimit_resource_t, soft: u64, hard: u64) -> bool {
    let limit = libc::rlimit {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: `limit` is a valid rlimit to read from.
    unsafe { libc::setrlimit(resource, &limit) == 0 }
}

/// Raises a limit to `enough`, the hard limit too where that is allowed; else as far as it goes.
fn raise(resource: libc::__rlimit_resource_t, enough: u64) -> Limit {
    let Ok(found) = getrlimit(resource) else {
        return Limit {
            found: 0,
            soft: 0,
            hard: 0,
        };
    };
    let raised = found.rlim_max < enough && setrlimit(resource, enough, enough);
    if !raised && found.rlim_cur < enough {
        setrlimit(resource, found.rlim_max.min(enough), found.rlim_max);
    }
    let now = getrlimit(resource).unwrap_or(found);
    Limit {
        found: found.rlim_cur,
        soft: now.rlim_cur,
        hard: now.rlim_max,
    }
}

fn kernel() -> Kernel {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = text
        .split(|c: char| !c.is_ascii_digit())
        .map(|n| n.parse().unwrap_or(0));
    Kernel(numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Builds `count` such rings at once and uses each.
fn try_rings(ring: &Ring, count: usize) -> io::Result<()> {
    let mut rings = Vec::with_capacity(count);
    for _ in 0..count.max(1) {
        let mut built = ring.builder().build(ring.entries)?;
        // SAFETY: a no-operation refers to no memory.
        let pushed = unsafe {
            built
                .submission()
                .push(&io_uring::opcode::Nop::new().build())
        };
        pushed.map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        built.submit_and_wait(1)?;
        let completed = built
            .completion()
            .next()
            .is_some_and(|completion| completion.result() >= 0);
        if !completed {
            return Err(io::ErrorKind::Unsupported.into());
        }
        rings.push(built);
    }
    Ok(())
}

/// The memory of freed rings is given back late: a refusal for lack of it is asked again.
fn try_rings_patiently(ring: &Ring, count: usize) -> io::Result<()> {
    let mut result = try_rings(ring, count);
    for _ in 0..5 {
        match &result {
            Err(e) if e.raw_os_error() == Some(libc::ENOMEM) => {
                thread::sleep(Duration::from_millis(20));
                result = try_rings(ring, count);
            }
            _ => break,
        }
    }
    result
}

/// Why io_uring is denied altogether, and what to change.
fn denied(error: &io::Error) -> String {
    let sysctl = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    match (error.raw_os_error(), sysctl.trim()) {
        (_, "2") => {
            "io_uring is turned off: set the sysctl kernel.io_uring_disabled to 0".to_owned()
        }
        (Some(libc::EPERM), "1") => {
            "io_uring is for privileged users only: set the sysctl kernel.io_uring_disabled \
             to 0, or put this user into the group of kernel.io_uring_group"
                .to_owned()
        }
        (Some(libc::EPERM | libc::EACCES), _) => {
            "io_uring is denied, most likely by the seccomp profile of the \
             container: allow io_uring_setup, io_uring_enter and io_uring_register in it"
                .to_owned()
        }
        (Some(libc::ENOSYS), _) => {
            "io_uring is not there: the kernel was built without it, or the seccomp profile \
             of the container hides it (allow io_uring_setup, io_uring_enter and io_uring_register)"
                .to_owned()
        }
        (Some(libc::ENOMEM), _) => {
            "no memory may be locked for even the smallest ring: raise LimitMEMLOCK \
             (ulimit -l) to 8M or more"
                .to_owned()
        }
        _ => format!("io_uring does not work here ({error})"),
    }
}

struct Search<'a> {
    wanted: &'a Wanted,
    kernel: Kernel,
    warnings: Vec<String>,
    errors: Vec<String>,
}

impl Search<'_> {
    /// The best ring that works.
    fn ring(&mut self) -> Option<Ring> {
        let wanted = self.wanted;
        let plain = Ring {
            entries: STEPS[2],
            coop_taskrun: false,
            single_issuer: false,
            defer_taskrun: false,
            sqpoll: false,
        };
        if let Err(e) = try_rings_patiently(&plain, 1) {
            self.warnings.push(format!(
                "{}; running on epoll instead, which costs about a fifth more CPU",
                denied(&e)
            ));
            return None;
        }
        let sqpoll = wanted.sqpoll.unwrap_or(false);
        let mut ring = Ring { sqpoll, ..plain };
        if sqpoll && try_rings_patiently(&ring, 1).is_err() {
            self.errors
                .push("runtime.ring.sqpoll: this kernel does not allow it".to_owned());
            ring.sqpoll = false;
        }
        self.flags(&mut ring);
        self.entries(ring)
    }

    /// Adds the flags that work, each on top of the last.
    fn flags(&mut self, ring: &mut Ring) {
        let wanted = self.wanted;
        type Flag = (&'static str, Option<bool>, fn(&mut Ring));
        let flags: [Flag; 3] = [
            ("coopTaskrun", wanted.coop_taskrun, |ring| {
                ring.coop_taskrun = true
            }),
            ("singleIssuer", wanted.single_issuer, |ring| {
                ring.single_issuer = true
            }),
            ("deferTaskrun", wanted.defer_taskrun, |ring| {
                ring.defer_taskrun = true
            }),
        ];
        for (name, want, set) in flags {
            if want == Some(false) {
                continue;
            }
            let mut with = ring.clone();
            set(&mut with);
            if try_rings_patiently(&with, 1).is_ok() {
                *ring = with;
                continue;
            }
            let why = match name {
                "deferTaskrun" if !ring.single_issuer => "it needs singleIssuer".to_owned(),
                "deferTaskrun" | "coopTaskrun" if ring.sqpoll => {
                    "it does not go with sqpoll".to_owned()
                }
                _ => format!("kernel {} does not have it (6.1 does)", self.kernel),
            };
            if want.is_some() {
                self.errors.push(format!("runtime.ring.{name}: {why}"));
            } else if !ring.sqpoll && wanted.single_issuer != Some(false) {
                self.warnings
                    .push(format!("runtime.ring.{name} is off: {why}"));
            }
        }
    }

    /// Takes the largest size of which there is room for all rings.
    fn entries(&mut self, flags: Ring) -> Option<Ring> {
        let wanted = self.wanted;
        let mut ring = Ring {
            entries: wanted.entries.max(STEPS[2]),
            ..flags
        };
        let advice = "raise LimitMEMLOCK (ulimit -l) to 8M and about 512K more a core";
        loop {
            match try_rings_patiently(&ring, wanted.rings) {
                Ok(()) => break,
                Err(e) => match ring.smaller() {
                    Some(smaller) => ring = smaller,
                    None => {
                        let why = format!("no room for {} rings ({e}): {advice}", wanted.rings);
                        self.warnings
                            .push(format!("{why}; running on epoll instead"));
                        return None;
                    }
                },
            }
        }
        if ring.entries < wanted.entries {
            let text = format!(
                "no room for {} rings of {} entries: {advice}",
                wanted.rings, wanted.entries
            );
            if wanted.entries_explicit {
                self.errors.push(format!("runtime.ring.entries: {text}"));
            } else {
                self.warnings.push(format!("{text}; took {}", ring.entries));
            }
        }
        Some(ring)
    }
}

/// Whether glommio can be started. It looks at the limit alone, whoever the user is.
fn glommio(ring: bool, memlock: Limit) -> Result<(), String> {
    if !ring {
        return Err("replication needs io_uring, which does not work here".to_owned());
    }
    if memlock.soft < GLOMMIO_MEMLOCK {
        return Err(format!(
            "replication needs 512 KiB of locked memory, the limit is {}: raise LimitMEMLOCK (ulimit -l)",
            memlock.soft
        ));
    }
    Ok(())
}

/// Raises the limits of this process and finds out what works. To be called once, before any core starts.
pub fn run(wanted: &Wanted) -> Report {
    let memlock = raise(libc::RLIMIT_MEMLOCK, u64::MAX);
    let nofile = raise(libc::RLIMIT_NOFILE, 1 << 20);
    let kernel = kernel();
    let mut search = Search {
        wanted,
        kernel,
        warnings: Vec::new(),
        errors: Vec::new(),
    };
    // A scratch thread, so that rings of a single issuer never belong to the caller's.
    let ring = if wanted.legacy {
        search
            .warnings
            .push("io_uring is not used, as asked for".to_owned());
        None
    } else {
        thread::scope(|scope| scope.spawn(|| search.ring()).join().unwrap_or(None))
    };
    let Search {
        mut warnings,
        errors,
        ..
    } = search;
    if nofile.soft < FEW_FILES {
        warnings.push(format!(
            "only {} files may be open, which bounds connections to about half of that: raise LimitNOFILE (ulimit -n)",
            nofile.soft
        ));
    }
    if kernel < Kernel(6, 1) {
        warnings.push(format!(
            "kernel {kernel} is older than 6.1, the oldest that is looked after"
        ));
    }
    Report {
        glommio: glommio(ring.is_some(), memlock),
        kernel,
        ring,
        memlock,
        nofile,
        warnings,
        errors,
    }
}
