//! Watches the data cores: which listen, which have drained, which stand still.
//!
//! Owns what was last seen of each core. Driven by the control loop, once a second.
//!
//! Invariants: a core stands still when its counter of turns ([`Metric::Turns`](crate::metrics::Metric))
//! has not moved for [`STALL`] ticks in a row. Ticks, not time, are counted: after a suspended machine
//! wakes up, everybody gets the same chance to turn. A core that never listened and one that has
//! drained are not stalled. Deliberately nothing is killed: this is for probes and operators.
//! Tested below.

use std::time::Duration;

use super::status::CoreStatus;

/// How often [`Watch::tick`] is to be called.
pub const TICK: Duration = Duration::from_secs(1);

/// Ticks without a turn after which a core stands still.
pub const STALL: u32 = 5;

#[derive(Debug, Clone, Default)]
struct Core {
    ready: bool,
    drained: bool,
    turns: u64,
    still: u32,
}

/// What became of a core at a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It has begun to stand still.
    Stalled,
    /// It turns again.
    Recovered,
}

/// All data cores. See the module.
#[derive(Debug)]
pub struct Watch(Vec<Core>);

impl Watch {
    /// So many cores, none of which listens yet.
    pub fn new(cores: usize) -> Self {
        Self(vec![Core::default(); cores])
    }

    /// A core listens.
    pub fn ready(&mut self, core: usize) {
        if let Some(core) = self.0.get_mut(core) {
            core.ready = true;
            core.still = 0;
        }
    }

    /// A core has nothing left to do.
    pub fn drained(&mut self, core: usize) {
        if let Some(core) = self.0.get_mut(core) {
            core.drained = true;
        }
    }

    /// Does every core listen?
    pub fn all_ready(&self) -> bool {
        self.0.iter().all(|core| core.ready)
    }

    /// A tick: `turns` says how often a core has turned; `changed` is told of changes.
    pub fn tick(&mut self, turns: impl Fn(usize) -> u64, mut changed: impl FnMut(usize, Change)) {
        for (id, core) in self.0.iter_mut().enumerate() {
            let now = turns(id);
            let stalled = core.still >= STALL;
            if now != core.turns || !core.ready || core.drained {
                core.turns = now;
                core.still = 0;
                if stalled {
                    changed(id, Change::Recovered);
                }
            } else {
                core.still = core.still.saturating_add(1);
                if core.still == STALL {
                    changed(id, Change::Stalled);
                }
            }
        }
    }

    /// Does every core that should turn do so?
    pub fn all_turn(&self) -> bool {
        self.0.iter().all(|core| core.still < STALL)
    }

    /// What is known of each core.
    pub fn status(&self) -> Vec<CoreStatus> {
        let stalled = |core: &Core| (core.still >= STALL).then(|| TICK * core.still);
        self.0
            .iter()
            .map(|c| CoreStatus {
                ready: c.ready,
                drained: c.drained,
                stalled: stalled(c),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tick(watch: &mut Watch, turns: [u64; 2]) -> Vec<(usize, Change)> {
        let mut changes = Vec::new();
        watch.tick(
            |core| turns[core],
            |core, change| changes.push((core, change)),
        );
        changes
    }

    #[test]
    fn a_core_that_does_not_turn_is_stalled() {
        let mut watch = Watch::new(2);
        for _ in 0..10 {
            assert_eq!(tick(&mut watch, [0, 0]), [], "not ready is not stalled");
        }
        watch.ready(0);
        assert!(!watch.all_ready());
        watch.ready(1);
        assert!(watch.all_ready());
        for n in 1..u64::from(STALL) {
            assert_eq!(tick(&mut watch, [7 + n, 0]), [], "{n}");
        }
        assert_eq!(tick(&mut watch, [99, 0]), [(1, Change::Stalled)]);
        assert_eq!(tick(&mut watch, [100, 0]), [], "told once");
        assert_eq!(watch.status()[1].stalled, Some(Duration::from_secs(6)));
        assert_eq!(watch.status()[0].stalled, None);
        assert_eq!(tick(&mut watch, [101, 1]), [(1, Change::Recovered)]);
        assert_eq!(watch.status()[1].stalled, None);
    }

    #[test]
    fn a_drained_core_may_rest() {
        let mut watch = Watch::new(2);
        watch.ready(0);
        watch.ready(1);
        watch.drained(0);
        watch.drained(7);
        for n in 0..10 {
            assert_eq!(tick(&mut watch, [5, n]), []);
        }
    }
}
