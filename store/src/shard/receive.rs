//! Records in and out: merging what others know, and saying what we know.
//!
//! Part of [`Shard`]. Invariant: merging into a shard and reading the record back is the same as
//! [`Record::join`].

use super::Shard;
use super::life::End;
use super::slab::{Entry, flag};
use super::write::inline_secret;
use crate::merge::Effect;
use crate::record::{Counter, Record, RecordField, blob};
use crate::session::Reason;
use crate::time;

impl Shard {
    /// The whole record of a session.
    pub(super) fn record(&self, slot: u32) -> Record {
        let entry = self.store.at(slot);
        let mut record = Record::change(entry.sid, entry.created(), entry.birth());
        record.last_access = entry.last_access;
        record.signed = entry.has(flag::SIGNED);
        record.secrets = self.secrets(slot);
        if let Some(extra) = self.store.extra(slot) {
            record.idle = extra.idle;
            record.traits = extra.traits.as_deref().copied();
            record.counters = extra.counters.clone();
        }
        let own = Counter {
            tag: self.tag,
            changes: entry.changes,
            requests: entry.requests,
        };
        if own.changes != 0 || own.requests != 0 {
            let at = record.counters.partition_point(|c| c.tag < self.tag);
            record.counters.insert(at, own);
        }
        record.fields = self
            .store
            .blob(entry)
            .fields()
            .map(|f| f.to_owned())
            .collect();
        record
    }

    /// Takes in what `delta`, a change or a whole record, knows: the one way in for stores, peers and
    /// snapshots. A change of a session that is not here is ignored; a whole record makes it.
    pub fn merge(&mut self, delta: &Record, now: u64) -> Effect {
        let mut effect = Effect::default();
        let events = self.events.len();
        if let Some(until) = delta.destroyed {
            effect.destroyed = match self.find(&delta.sid) {
                Some(slot) => {
                    self.bury(slot, End::Destroyed(Reason::Peer), now);
                    true
                }
                None => false,
            };
            self.tombstones.insert(&delta.sid, until);
        } else if !self.tombstones.contains(&delta.sid) {
            self.observe(delta);
            match self.find(&delta.sid) {
                Some(slot) => effect.changed = self.merge_into(slot, delta, now),
                None => effect.created = self.receive(delta, now),
            }
            effect.changed |= effect.created;
        }
        effect.events = (self.events.len() - events) as u32;
        effect
    }

    fn observe(&mut self, delta: &Record) {
        for field in &delta.fields {
            self.hlc.observe(field.stamp.clock);
        }
        for secret in &delta.secrets {
            self.hlc.observe(secret.clock);
        }
        if let Some(idle) = delta.idle {
            self.hlc.observe(idle.stamp.clock);
        }
    }

    /// Makes the session of a whole record.
    fn receive(&mut self, record: &Record, now: u64) -> bool {
        let Some(current) = record.current() else {
            return false;
        };
        let mut entry = Entry::new(record.sid, current.digest, record.created, record.birth);
        entry.last_access = record.last_access;
        entry.set(flag::AUTHENTICATED, current.authenticated);
        // Whoever has been used since creation has come back.
        let requests: u64 = record.counters.iter().map(|c| u64::from(c.requests)).sum();
        entry.set(flag::PRESENTED, requests > 1);
        let Some(slot) = self.admit(entry, now) else {
            return false;
        };
        self.counts.received += 1;
        if record.secrets != [inline_secret(self.store.at(slot))] {
            self.edit_extra(slot, |extra| extra.secrets.clone_from(&record.secrets));
        }
        self.merge_into(slot, record, now);
        if self.expires(slot) <= now {
            self.bury(slot, End::Expired, now);
            return false;
        }
        self.evict(slot, now);
        true
    }

    fn merge_into(&mut self, slot: u32, delta: &Record, now: u64) -> bool {
        // Before the rank may change: a session goes into its new one where its last access puts it.
        self.store.at_mut(slot).accessed(delta.last_access);
        let mut changed = self.merge_creation(slot, delta);
        changed |= self.join_secrets(slot, &delta.secrets, now);
        changed |= delta
            .idle
            .is_some_and(|idle| self.join_idle(slot, idle, now));
        changed |= self.merge_counters(slot, &delta.counters);
        changed |= delta
            .traits
            .is_some_and(|traits| self.edit_traits(slot, |ours| ours.join(&traits)));
        let fields: Vec<_> = delta.fields.iter().map(RecordField::as_ref).collect();
        // Others have judged the size when it was written.
        changed |= self.join_fields(slot, &fields, usize::MAX).unwrap_or(false);
        let entry = self.store.at(slot);
        let flags = if delta.signed {
            entry.flags | flag::SIGNED
        } else {
            entry.flags
        };
        changed |= flags != entry.flags;
        if changed {
            self.store.aside_mut(slot).changed_at = time::short_seconds(now);
        }
        self.reorder(slot, now, flags);
        changed
    }

    /// The smaller creation wins. Packed fields refer to it, so they are packed again.
    fn merge_creation(&mut self, slot: u32, delta: &Record) -> bool {
        let entry = self.store.at(slot);
        if (delta.created, delta.birth) >= (entry.created(), entry.birth()) {
            return false;
        }
        // A secret that was only inline takes its clock and first use from the creation: keep them.
        let secrets = self.secrets(slot);
        let fields: Vec<RecordField> = self
            .store
            .blob(entry)
            .fields()
            .map(|f| f.to_owned())
            .collect();
        let entry = self.store.at_mut(slot);
        entry.set_created(delta.created, delta.birth);
        let mut packed = Vec::new();
        blob::pack(
            fields.iter().map(RecordField::as_ref),
            entry.creation(),
            &mut packed,
        );
        self.replace_blob(slot, &packed);
        self.edit_extra(slot, |extra| extra.secrets = secrets);
        true
    }

    fn merge_counters(&mut self, slot: u32, counters: &[Counter]) -> bool {
        let mut changed = false;
        for counter in counters {
            if counter.tag == self.tag {
                let entry = self.store.at_mut(slot);
                let before = (entry.changes, entry.requests);
                entry.changes = entry.changes.max(counter.changes);
                entry.requests = entry.requests.max(counter.requests);
                changed |= before != (entry.changes, entry.requests);
                continue;
            }
            let known = self
                .store
                .extra(slot)
                .and_then(|x| x.counters.iter().find(|c| c.tag == counter.tag));
            if known.is_some_and(|k| k.changes >= counter.changes && k.requests >= counter.requests)
            {
                continue;
            }
            changed = true;
            self.edit_extra(slot, |extra| {
                crate::merge::join_counters(&mut extra.counters, &[*counter])
            });
        }
        changed
    }
}
