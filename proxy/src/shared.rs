//! What all threads of the process see: the plan, and one atomic each for what is bounded over all cores.
//!
//! Made at boot and never changed but for the atomics. No lock, and no state that decides anything
//! but a count: states of upstreams travel as messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};

use holdfast_config::plan::Plan;

use crate::metrics::CoreMetrics;

/// One a process, behind an `Arc`.
#[derive(Debug)]
pub struct Shared {
    /// The configuration.
    pub plan: Arc<Plan>,
    /// Number of data cores: parties `0..cores` of the mesh.
    pub cores: usize,
    /// By data core.
    pub metrics: Box<[CoreMetrics]>,
    /// By service, then upstream: exchanges and tunnels in flight over all cores.
    pub active: Box<[Box<[AtomicU32]>]>,
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
    /// For a plan on `cores` data cores.
    pub fn new(plan: Arc<Plan>, cores: usize) -> Self {
        let sizes: Vec<usize> = plan.services.iter().map(|s| s.upstreams.len()).collect();
        Self {
            metrics: (0..cores)
                .map(|_| CoreMetrics::new(plan.rules.len(), &sizes))
                .collect(),
            active: sizes
                .iter()
                .map(|&n| (0..n).map(|_| AtomicU32::new(0)).collect())
                .collect(),
            connections: AtomicUsize::new(0),
            sessions: AtomicUsize::new(0),
            session_bytes: AtomicU64::new(0),
            unready: AtomicBool::new(false),
            plan,
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
