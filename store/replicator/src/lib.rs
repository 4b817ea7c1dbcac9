//! The replication core's shell: one pinned glommio thread with its place in the mesh.
//!
//! Owns the thread. Started once, at boot. It has no work yet: stores, peers and snapshots come to
//! live here; until then it answers nobody and sleeps.
//!
//! Invariants: it never spins; it decides nothing itself. It deliberately knows no message's meaning.

use holdfast_runtime::mesh::Port;
use holdfast_runtime::replication_core::{self, Spec};

/// Starts the thread on `cpu`, or unpinned.
///
/// # Errors
/// glommio could not be started: the text says what to change.
pub fn start<M: Send + 'static>(cpu: Option<usize>, port: Port<M>) -> Result<(), String> {
    replication_core::spawn(
        Spec {
            name: "replication".into(),
            cpu,
        },
        move || async move {
            let port = port.local();
            // Nobody writes to it yet; what came would have no meaning.
            port.pump(|_, _| ()).await;
        },
    )
    .map(drop)
    .map_err(|error| error.to_string())
}
