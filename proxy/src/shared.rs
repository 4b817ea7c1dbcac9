//! What all threads of the process see for as long as it lives: counters, and one atomic each for what is
//! bounded over all cores.
//!
//! Made at boot and never changed but for the atomics. No lock, and no state that decides anything
//! but a count: states of upstreams travel as messages. What comes from the configuration, and changes
//! with it, is [`crate::setup::Setup`].

use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};

use crate::metrics::CoreMetrics;
use crate::session::holders::Holders;

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
    /// Who has made them.
    pub holders: Holders,
    /// Set when readiness must fail (before a drain).
    pub unready: AtomicBool,
    /// Connections on their way from one core to another.
    pub moves: Moves,
}

/// Connections between two cores: while there is one, no core may take itself for drained.
#[derive(Debug, Default)]
pub struct Moves(AtomicUsize);

impl Moves {
    /// One is to move; false, and it stays, once `unready` is set. Of a core that sets out after that and one
    /// that asks [`Moves::none`] after that, either the first sees the flag or the second sees the move.
    pub fn begin(&self, unready: &AtomicBool) -> bool {
        self.0.fetch_add(1, SeqCst);
        let begun = !unready.load(SeqCst);
        if !begun {
            self.end();
        }
        begun
    }

    /// One has arrived, and is counted where it is.
    pub fn end(&self) {
        self.0.fetch_sub(1, SeqCst);
    }

    /// Whether none is on its way.
    pub fn none(&self) -> bool {
        self.0.load(SeqCst) == 0
    }
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
            holders: Holders::default(),
            unready: AtomicBool::new(false),
            moves: Moves::default(),
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn nothing_moves_once_nothing_was_seen_to_move() {
        for _ in 0..2_000 {
            let state = Arc::new((Moves::default(), AtomicBool::new(false)));
            let mover = Arc::clone(&state);
            let moves = std::thread::spawn(move || {
                let (moves, unready) = &*mover;
                (0..50).take_while(|_| moves.begin(unready)).count()
            });
            let (moving, unready) = &*state;
            unready.store(true, SeqCst);
            let none = moving.none();
            let begun = moves.join().expect("no panic");
            assert!(!none || begun == 0, "{begun} set out behind our back");
            // All that began are still on their way.
            assert_eq!(moving.none(), begun == 0);
        }
    }
}
