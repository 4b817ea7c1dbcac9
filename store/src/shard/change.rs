//! Another policy for a shard that already holds sessions.
//!
//! Invariants: no session is lost by it but by its rules (a shorter life, a lower bound); what is derived
//! from the policy, the indexes and the order of eviction, is made anew only where it changed, in one go
//! over all sessions. The keys of the hashes never change. Tested in `tests/life.rs`.

use std::sync::Arc;

use super::subjects::FieldIndex;
use super::{Order, Shard};
use crate::session::Policy;

impl Shard {
    /// Takes up `policy`, for the sessions that there are as well: their times are judged by it at their
    /// next use. Its seeds are ignored: they are for the life of the shard. Where another order of
    /// eviction begins, how often a session was used before is not known to `lfu`.
    pub fn set_policy(&mut self, mut policy: Policy, now: u64) {
        policy.seeds = self.policy.seeds;
        let old = std::mem::replace(&mut self.policy, Arc::new(policy));
        let policy = Arc::clone(&self.policy);
        self.pins.set_bound(policy.max_pins);
        self.tombstones.set_bound(policy.max_tombstones);
        if policy.eviction != old.eviction {
            self.order = Order::new(policy.eviction);
            for slot in 0..self.store.high() {
                if self.store.live(slot).is_some() {
                    let expires = self.expires(slot);
                    self.order.insert(&mut self.store, slot, now, expires);
                }
            }
        }
        if policy.index != old.index {
            let [a, b, c, d] = policy.seeds;
            let hasher = || ahash::RandomState::with_seeds(a, b, c, d);
            let known = std::mem::take(&mut self.indexes);
            let mut known: Vec<_> = known.into_iter().map(Some).collect();
            self.indexes = policy
                .index
                .iter()
                .map(|name| {
                    let same = |i: &&mut Option<FieldIndex>| {
                        i.as_ref().is_some_and(|i| i.name() == name.as_bytes())
                    };
                    known
                        .iter_mut()
                        .find(same)
                        .and_then(Option::take)
                        .unwrap_or_else(|| {
                            let mut index = FieldIndex::new(name.as_bytes().into(), hasher());
                            for slot in 0..self.store.high() {
                                if self.store.live(slot).is_some() {
                                    index.insert(&self.store, slot);
                                }
                            }
                            index
                        })
                })
                .collect();
        }
    }
}
