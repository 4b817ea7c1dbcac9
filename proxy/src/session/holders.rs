//! Whether one address holds most of the sessions, as a proxy does that is not in `trustedProxies`.
//!
//! Owns a table of cells, one a process, shared by all cores: what each address has made lately. A core
//! adds to it when a session is made, and asks then; the control thread ages it, once a second.
//!
//! Invariants: O(1) where a session is made, nothing for any other request; ageing looks at a fixed number
//! of cells, and only where far more was made than there is. Two addresses may share a cell, and are then
//! taken for one; the hash is keyed, so nobody can choose to.
//!
//! Deliberately no address is kept, and a session does not know who made it: who made over half of as many
//! as there are is taken for who holds them. Tested below and end to end.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::core::Core;
use crate::metrics::Metric;

/// Sessions from which on it matters whose they are.
const LEAST: u64 = 1000;
const CELLS: usize = 4096;
/// What one session counts for, so that halving loses nothing soon.
const UNIT: u64 = 1 << 16;

/// See the module.
#[derive(Debug)]
pub struct Holders {
    hasher: ahash::RandomState,
    cells: Box<[AtomicU64]>,
    total: AtomicU64,
}

impl Default for Holders {
    fn default() -> Self {
        Self {
            hasher: ahash::RandomState::new(),
            cells: (0..CELLS).map(|_| AtomicU64::new(0)).collect(),
            total: AtomicU64::new(0),
        }
    }
}

impl Holders {
    /// A client has made a session, of which there are `live` now. Whether its address (of IPv6, its /64)
    /// holds over half of them, and they are 1,000 or more. Any data core.
    pub fn add(&self, client: IpAddr, live: u64) -> bool {
        let key = match client.to_canonical() {
            IpAddr::V4(v4) => (false, u64::from(u32::from(v4))),
            IpAddr::V6(v6) => (true, (u128::from(v6) >> 64) as u64),
        };
        let at = self.hasher.hash_one(key) as usize % CELLS;
        let total = self.total.fetch_add(UNIT, Relaxed).saturating_add(UNIT);
        let made = self
            .cells
            .get(at)
            .map_or(0, |cell| cell.fetch_add(UNIT, Relaxed).saturating_add(UNIT));
        let half = total.max(live.saturating_mul(UNIT)) / 2;
        live >= LEAST && made > half
    }

    /// Forgets half of what was made where that is over twice what there is. The control thread.
    pub fn age(&self, live: u64) {
        let most = live.max(LEAST).saturating_mul(2 * UNIT);
        if self.total.load(Relaxed) <= most {
            return;
        }
        let mut gone = 0;
        for cell in &self.cells {
            // What is added meanwhile stays.
            let half = cell.load(Relaxed) / 2;
            cell.fetch_sub(half, Relaxed);
            gone += half;
        }
        self.total.fetch_sub(gone, Relaxed);
    }
}

/// A client has made a session: told and counted where its address holds most of them.
pub(super) fn made(core: &Core, client: IpAddr) {
    let live = core.shared.sessions.load(Relaxed) as u64;
    if !core.shared.holders.add(client, live) {
        return;
    }
    core.metrics().count(Metric::CreatesByMost);
    static SAID: crate::log::Limited =
        crate::log::Limited::new(std::time::Duration::from_secs(600));
    SAID.warn(|| {
        format!(
            "the address {client} holds over half of {live} sessions: if it is a proxy, name it in \
             trustedProxies and let it send X-Forwarded-For; if it is one client, it returns no token"
        )
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    #[test]
    fn over_half_of_a_thousand_is_told() {
        let holders = Holders::default();
        for live in 1..LEAST {
            assert!(!holders.add(v4(1), live), "{live} are too few");
        }
        assert!(holders.add(v4(1), LEAST));
        // Each makes one; some few share the cell of the first.
        let others = (1..=LEAST).filter(|n| holders.add(v4(1000 + *n as u32), LEAST + n));
        assert!(others.count() < 8);
        assert!(!holders.add(v4(1), 2 * LEAST + 50), "half is not over half");
    }

    #[test]
    fn a_64_of_ipv6_is_one_address() {
        let holders = Holders::default();
        let told = (0..LEAST).map(|n| {
            let ip = std::net::Ipv6Addr::from((0x2001_0db8 << 96) | u128::from(n));
            holders.add(IpAddr::V6(ip), n + 1)
        });
        assert!(told.last().expect("one"));
    }

    #[test]
    fn what_is_long_gone_weighs_no_more() {
        let holders = Holders::default();
        for live in 0..100 * LEAST {
            holders.add(v4(1), live);
        }
        // They have ended, and others come.
        for round in 0..16 {
            holders.age(LEAST);
            for n in 0..LEAST {
                holders.add(v4(1000 + (round * LEAST + n) as u32), LEAST);
            }
        }
        assert!(!holders.add(v4(1), LEAST));
    }

    #[test]
    fn ageing_keeps_the_shares_of_those_who_made_one() {
        let holders = Holders::default();
        for n in 0..20 * LEAST {
            holders.add(v4(1000 + n as u32), LEAST);
        }
        for _ in 0..9 * LEAST {
            holders.add(v4(1), LEAST);
        }
        for _ in 0..4 {
            holders.age(LEAST);
        }
        // A third of what was made.
        let made = holders.total.load(Relaxed) / UNIT;
        assert!((LEAST..=2 * LEAST).contains(&made), "{made}");
        assert!(!holders.add(v4(1), LEAST));
    }
}
