//! The clock of changes: a hybrid of physical time and a counter, and the stamps it gives.
//!
//! Owns the last clock value that a shard gave out or saw. Its shard's thread only. Invariants: a
//! clock given out is greater than all given out or observed before; stamps are totally ordered by
//! clock, then tag. Deliberately absent: a clock (time is an argument) and the bound on drift (the
//! replication's). Tested here.

use crate::time;

/// Bits of the counter below the milliseconds.
const COUNTER_BITS: u32 = 18;

/// When and where a value was written: 46 bits of milliseconds since 2020 ‖ 18 bits of counter, and a
/// tag (bit 15: written in the primary region; 15 bits of node).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Stamp {
    /// Milliseconds ‖ counter.
    pub clock: u64,
    /// Region bit ‖ node.
    pub tag: u16,
}

impl Stamp {
    /// The stamp of a session's creation: that of its defaults, the same on every node that makes them.
    pub fn creation(created: u64, birth: u16) -> Self {
        Self {
            clock: created << COUNTER_BITS,
            tag: birth,
        }
    }

    /// Its physical part as Unix milliseconds.
    pub fn unix_ms(self) -> u64 {
        time::EPOCH_MS + (self.clock >> COUNTER_BITS)
    }
}

/// A hybrid logical clock.
#[derive(Debug, Clone, Default)]
pub struct Hlc {
    last: u64,
}

impl Hlc {
    /// A clock value for a change made at `now` (Unix ms), greater than all before.
    pub fn tick(&mut self, now: u64) -> u64 {
        let physical = time::short_ms(now) << COUNTER_BITS;
        self.last = physical.max(self.last.saturating_add(1));
        self.last
    }

    /// The last value given out or observed.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Takes note of a clock value from elsewhere.
    pub fn observe(&mut self, clock: u64) {
        self.last = self.last.max(clock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_while_time_stands_or_goes_back() {
        let mut hlc = Hlc::default();
        let mut last = 0;
        for now in [
            time::EPOCH_MS + 10,
            time::EPOCH_MS + 10,
            time::EPOCH_MS + 5,
            0,
            time::EPOCH_MS + 11,
        ] {
            let clock = hlc.tick(now);
            assert!(clock > last);
            last = clock;
        }
        assert_eq!(
            last,
            11 << COUNTER_BITS,
            "physical time leads again once it is ahead"
        );
        hlc.observe(50 << COUNTER_BITS);
        assert_eq!(hlc.tick(time::EPOCH_MS + 12), (50 << COUNTER_BITS) + 1);
    }

    #[test]
    fn ordered_by_clock_then_tag() {
        let stamp = |clock, tag| Stamp { clock, tag };
        assert!(stamp(1, 9) < stamp(2, 0));
        assert!(
            stamp(2, 0x7fff) < stamp(2, 0x8000),
            "the primary region wins a tie"
        );
        assert_eq!(Stamp::creation(5, 3).unix_ms(), time::EPOCH_MS + 5);
    }
}
