//! What all threads of the process see for as long as it lives: counters, and one atomic each for what is
//! bounded over all cores.
//!
//! Made at boot and never changed but for the atomics. No lock, and no state that decides anything
//! but a count: states of upstreams travel as messages. What comes from the configuration, and changes
//! with it, is [`crate::setup::Setup`].

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};

use crate::metrics::CoreMetrics;

/// One a process, behind an `Arc`.
#[derive(Debug)]
pub struct Shared {
    /// Number of data cores: parties `0..cores` of the mesh.
    pub cores: usize,
    /// The CPU that each is pinned to.
    pub cpus: Box<[Option<usize>]>,
    /// By data core.
    pub metrics: Box<[CoreMetrics]>,
    /// Client connections over all cores.
    pub connections: AtomicUsize,
    /// Sessions over all cores.
    pub sessions: AtomicUsize,
    /// Bytes of session data over all cores.
    pub session_bytes: AtomicU64,
    /// Set when readiness must fail (before a drain).
    pub unready: AtomicBool,
}

impl Shared {
    /// For data cores that are pinned to these CPUs (`None`: to none).
    pub fn new(cpus: Box<[Option<usize>]>) -> Self {
        let cores = cpus.len();
        Self {
            cpus,
            metrics: (0..cores).map(|_| CoreMetrics::default()).collect(),
            connections: AtomicUsize::new(0),
            sessions: AtomicUsize::new(0),
            session_bytes: AtomicU64::new(0),
            unready: AtomicBool::new(false),
            cores,
        }
    }

    /// The control thread's place in the mesh.
    pub fn control(&self) -> usize {
        self.cores
    }

    /// The replication core's place in the mesh.
    pub fn replication(&self) -> usize {
        self.cores + 1
    }
}
