//! Changing a session: fields, secrets, timeout.
//!
//! Part of [`Shard`]. Invariant: whatever alters an entry's cost, rank, expiry or indexed values goes
//! through here, so that totals, order and indexes follow.

use smallvec::SmallVec;

use super::Shard;
use super::slab::{Entry, Extra, flag};
use crate::record::blob::{self, Blob, FieldRef};
use crate::record::{Idle, SecretEntry};
use crate::time::Quarter;

/// A write would make a session's data larger than it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLarge;

/// Packed bytes that a session may take beside its JSON: names of removed fields, stamps.
fn packed_limit(max_size: usize) -> usize {
    max_size.saturating_mul(2).saturating_add(1024)
}

impl Shard {
    /// Merges `new`, which is in order, into a session's fields. Returns whether anything changed; on
    /// error nothing has.
    pub(super) fn join_fields(
        &mut self,
        slot: u32,
        new: &[FieldRef<'_>],
        max_size: usize,
    ) -> Result<bool, TooLarge> {
        let mut packed = std::mem::take(&mut self.scratch);
        packed.clear();
        let entry = self.store.at(slot);
        let creation = entry.creation();
        let mut merged: SmallVec<[FieldRef<'_>; 16]> = SmallVec::new();
        let changed = blob::join(
            self.store.blob(entry).fields(),
            new.iter().copied(),
            &mut merged,
        );
        if changed {
            blob::pack(merged.iter().copied(), creation, &mut packed);
        }
        drop(merged);
        let fits = Blob::new(&packed, creation).json_len() <= max_size
            && packed.len() <= packed_limit(max_size);
        if changed && fits {
            self.replace_blob(slot, &packed);
        }
        self.scratch = packed;
        if changed && !fits {
            Err(TooLarge)
        } else {
            Ok(changed)
        }
    }

    /// Puts packed fields in the place of a session's fields.
    pub(super) fn replace_blob(&mut self, slot: u32, packed: &[u8]) {
        let revision = self.next_revision();
        let entry = self.store.at(slot);
        let new = Blob::new(packed, entry.creation());
        let mut moved: SmallVec<[usize; 4]> = SmallVec::new();
        for (i, index) in self.indexes.iter_mut().enumerate() {
            if self.store.blob(entry).get(index.name()) != new.get(index.name()) {
                index.remove(&self.store, slot);
                moved.push(i);
            }
        }
        let old = entry.handle();
        let before = self.store.arena.cost(old);
        self.store.arena.free(old);
        let handle = self.store.arena.put(packed);
        let after = self.store.arena.cost(handle);
        let entry = self.store.at_mut(slot);
        entry.set_handle(handle);
        entry.revision = revision;
        self.totals.add_bytes(after as i64 - before as i64);
        for i in moved {
            if let Some(index) = self.indexes.get_mut(i) {
                index.insert(&self.store, slot);
            }
        }
    }

    /// Edits the rare part of a session.
    pub(super) fn edit_extra(&mut self, slot: u32, edit: impl FnOnce(&mut Extra)) {
        let mut extra = self.store.take_extra(slot);
        let before = if extra.is_empty() { 0 } else { extra.cost() };
        edit(&mut extra);
        let after = if extra.is_empty() { 0 } else { extra.cost() };
        self.store.set_extra(slot, extra);
        self.totals.add_bytes(after as i64 - before as i64);
    }

    /// All secrets of a session, the current one first.
    pub(super) fn secrets(&self, slot: u32) -> Vec<SecretEntry> {
        match self.store.extra(slot) {
            Some(extra) if !extra.secrets.is_empty() => extra.secrets.clone(),
            _ => vec![inline_secret(self.store.at(slot))],
        }
    }

    /// Merges secrets into a session's; the highest becomes current. Returns whether anything changed.
    pub(super) fn join_secrets(&mut self, slot: u32, new: &[SecretEntry], now: u64) -> bool {
        let old = self.secrets(slot);
        let mut secrets = old.clone();
        crate::merge::join_secrets(&mut secrets, new);
        if secrets == old {
            return false;
        }
        let Some(current) = secrets.first().copied() else {
            return false;
        };
        // One entry that the entry itself says needs no place of its own.
        let inline =
            secrets.len() == 1 && secrets.first() == Some(&inline_secret(self.store.at(slot)));
        self.edit_extra(slot, |extra| {
            extra.secrets = if inline { Vec::new() } else { secrets }
        });
        let entry = self.store.at_mut(slot);
        if entry.digest != current.digest {
            entry.digest = current.digest;
            entry.set(flag::OFFER, false);
        }
        let mut flags = entry.flags & !flag::AUTHENTICATED;
        if current.authenticated {
            flags |= flag::AUTHENTICATED;
        }
        self.reorder(slot, now, flags);
        true
    }

    /// Sets a session's own idle timeout if it is newer than the one that it has.
    pub(super) fn join_idle(&mut self, slot: u32, idle: Idle, now: u64) -> bool {
        let old = self.store.idle(slot);
        if old >= Some(idle) {
            return false;
        }
        self.edit_extra(slot, |extra| extra.idle = Some(idle));
        let flags = self.store.at(slot).flags;
        self.reorder(slot, now, flags);
        true
    }

    /// Moves a session to where it belongs after its flags or expiry have changed, without a use.
    pub(super) fn reorder(&mut self, slot: u32, now: u64, flags: u8) {
        let expires = self.expires(slot);
        self.order
            .moved(&mut self.store, slot, now, expires, false, flags);
    }
}

/// The secret of a session that has never rotated: all of it follows from its entry.
pub(super) fn inline_secret(entry: &Entry) -> SecretEntry {
    let authenticated = entry.has(flag::AUTHENTICATED);
    SecretEntry {
        epoch: u32::from(authenticated),
        generation: 0,
        clock: entry.creation().clock,
        digest: entry.digest,
        authenticated,
        subject: 0,
        first_use: Quarter::of(entry.created_unix()),
    }
}
