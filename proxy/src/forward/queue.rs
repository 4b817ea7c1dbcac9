//! Waiting for a place under `connections.max`.
//!
//! Owns nothing but a bound on how many wait on a core. A place that another core gives back is
//! noticed by looking again, so the wait polls: it is off the fast path by definition.

use std::time::Duration;

use crate::core::Core;
use crate::forward::pool::Active;
use crate::generation::Generation;
use crate::message::UpstreamRef;
use crate::metrics::Metric;

/// How often a waiter looks again.
const LOOK: Duration = Duration::from_millis(2);
/// Waiters a core; one more is refused at once.
const MAX_WAITERS: usize = 10_000;

/// Takes a place at `at`, waiting at most `queueTimeout` for one.
pub async fn place(core: &Core, generation: &Generation, at: UpstreamRef) -> Option<Active> {
    if let Some(active) = Active::take(generation, at) {
        return Some(active);
    }
    let limit = generation.service(at).queue_timeout;
    let waiting = core.queued.get();
    if limit.is_zero() || waiting >= MAX_WAITERS {
        core.metrics().count(Metric::QueueTimeouts);
        return None;
    }
    core.metrics().count(Metric::QueueWaits);
    core.queued.set(waiting + 1);
    let until = core.now_ms() + limit.as_millis() as u64;
    let taken = loop {
        monoio::time::sleep(LOOK).await;
        if let Some(active) = Active::take(generation, at) {
            break Some(active);
        }
        if core.now_ms() >= until {
            core.metrics().count(Metric::QueueTimeouts);
            break None;
        }
    };
    core.queued.set(core.queued.get() - 1);
    taken
}
