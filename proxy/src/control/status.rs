//! What the control thread knows, as a value: for the admin endpoint.
//!
//! Made by the control loop on demand, read by the handlers of `admin`. Owns no live state and no
//! secret. Tested where it is made and where it is shown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::reload::Counts;
use super::shutdown::Phase;
use crate::pin::state::UpstreamState;
use crate::setup::Setup;

/// The whole picture at one moment.
#[derive(Debug, Clone)]
pub struct Status {
    /// Serving, or on the way out.
    pub phase: Phase,
    /// By data core.
    pub cores: Vec<CoreStatus>,
    /// The first look at DNS names isn't over yet.
    pub resolving: bool,
    /// Reloads so far.
    pub reloads: Counts,
    /// The configuration that holds.
    pub setup: Arc<Setup>,
    /// By service, then upstream, of that configuration.
    pub upstreams: Vec<Vec<UpstreamStatus>>,
    /// What the control thread itself counts.
    pub counts: ControlCounts,
}

/// One data core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoreStatus {
    /// It listens.
    pub ready: bool,
    /// It has nothing left to do.
    pub drained: bool,
    /// It has not turned for so long, over the bound.
    pub stalled: Option<Duration>,
}

/// One upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamStatus {
    /// What holds.
    pub state: UpstreamState,
    /// What an operator set.
    pub admin: UpstreamState,
    /// What checks and failures say.
    pub health: UpstreamState,
    /// Where it is, as far as known; empty for a unix socket.
    pub addresses: Vec<SocketAddr>,
    /// What the last check said, if there are checks and one was made.
    pub last_check: Option<String>,
    /// Active checks that passed.
    pub checks_passed: u64,
    /// Active checks that failed.
    pub checks_failed: u64,
    /// Changes of `state`.
    pub changes: u64,
}

/// The control thread's own counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ControlCounts {
    /// Lines of the access log that the writer gave up.
    pub log_lines_dropped: u64,
    /// Failed writes and reopenings of the access log.
    pub log_errors: u64,
    /// Events.
    pub events: super::events::Counts,
    /// Failed look-ups of upstream names.
    pub resolver_errors: u64,
    /// Questions to shards that weren't answered in time.
    pub ask_timeouts: u64,
    /// Questions to shards for which there was no room.
    pub asks_refused: u64,
    /// Messages to the cores that found their ring full and waited.
    pub mesh_spills: u64,
    /// Admin connections closed at once because there were too many.
    pub admin_refused: u64,
}
