//! What the client of a session looks like: comparing and binding.
//!
//! Part of [`Shard`]. Invariant: nothing is kept out of line for a session unless something is checked.

use super::{Shard, SlotRef};
use crate::traits::{Check, Traits};

impl Shard {
    /// The first check that a client fails which looks like `traits`.
    pub(super) fn compare(&self, slot: u32, traits: &[Traits]) -> Option<Check> {
        let kept = self.store.extra(slot)?.traits.as_deref()?;
        let policy = &self.policy;
        kept.mismatch(traits, policy.check_user_agent, policy.check_tenant)
    }

    /// Keeps what is new of a client's look.
    pub(super) fn keep_look(&mut self, slot: u32, seen: &Traits) {
        let kept = self.store.extra(slot).and_then(|x| x.traits.as_deref());
        let mut wanted = kept.copied().unwrap_or_default();
        if wanted.bind(seen) {
            self.edit_traits(slot, |ours| *ours = wanted);
        }
    }

    /// Keeps what the client of a session looks like that has just been made.
    pub fn bind_created(&mut self, at: SlotRef, seen: &Traits) {
        if self.resolve(at).is_some() {
            self.keep_look(at.slot, seen);
        }
    }

    /// Edits what is kept; whether that changed anything.
    pub(super) fn edit_traits(&mut self, slot: u32, edit: impl FnOnce(&mut Traits)) -> bool {
        let kept = self.store.extra(slot).and_then(|x| x.traits.as_deref());
        let before = kept.copied();
        let mut after = before.unwrap_or_default();
        edit(&mut after);
        // A record may say that nothing is known; a session then keeps nothing.
        let after = Some(after).filter(|t| !t.is_empty());
        if before == after {
            return false;
        }
        self.edit_extra(slot, |extra| extra.traits = after.map(Box::new));
        true
    }
}
