//! Attaching a request to its session: the hot path.
//!
//! Part of [`Shard`].

use super::life::End;
use super::rotate::Known;
use super::slab::flag;
use super::{Shard, SlotRef};
use crate::event::EventKind;
use crate::id::{Digest, Sid};
use crate::session::{Dead, OnMismatch, Reason, Refused};
use crate::time::Quarter;
use crate::token::{Presented, Signature};
use crate::traits::{Check, Traits};

/// What a presented token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attached {
    /// Good.
    Valid(Valid),
    /// As if there were none: it may be replaced, and else is expired at the client.
    Dead(Dead),
    /// Goes on without a session; nothing is set or expired at the client.
    Refused(Refused),
    /// Is to be answered by an error: its client looks like another.
    Rejected(Check),
}

/// A session that a request is attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Valid {
    /// Its place, for [`Shard::write_json`].
    pub slot: SlotRef,
    /// The session.
    pub sid: Sid,
    /// The presented secret's digest: what commands of this request name.
    pub digest: Digest,
    /// Version of data and attributes.
    pub version: u64,
    /// Differs after every change of what readers see, in this shard: a key for cached JSON.
    pub revision: u32,
    /// A conditional write of an earlier response was not done. Told once.
    pub conflict: bool,
    /// Its secret is an authenticated one.
    pub authenticated: bool,
    /// This request made the record of a storeless session.
    pub confirmed: bool,
    /// The presented secret is current and a new one is to be offered with the response: ask
    /// [`Shard::apply`].
    pub offer: bool,
}

impl Shard {
    /// Judges a token whose session this shard would own, and touches the session.
    pub fn attach(&mut self, token: &Presented, now: u64) -> Attached {
        self.attach_as(token, &[], now)
    }

    /// The same for a client that looks like `traits`, under each key that they may be kept under, the
    /// one for new ones first. Empty where nothing is checked.
    pub fn attach_as(&mut self, token: &Presented, traits: &[Traits], now: u64) -> Attached {
        if token.kind != token.through {
            return Attached::Refused(Refused::WrongKind);
        }
        let Some(slot) = self.find(&token.sid) else {
            return self.attach_unknown(token, traits, now);
        };
        if self.expires(slot) <= now {
            self.bury(slot, End::Expired, now);
            return Attached::Dead(Dead::Expired);
        }
        let entry = self.store.at(slot);
        if entry.digest != token.digest {
            return self.attach_other(slot, token, traits, now);
        }
        if self.is_forged(slot, token) {
            return Attached::Dead(Dead::Forged);
        }
        if traits.is_empty() {
            return Attached::Valid(self.touch(slot, now));
        }
        self.checked(slot, traits, now, |shard| shard.touch(slot, now))
    }

    /// Whether a token without a signature came for a session whose token was issued with one.
    #[inline]
    fn is_forged(&self, slot: u32, token: &Presented) -> bool {
        token.signature == Signature::Absent
            && self.policy.signed
            && self.store.at(slot).has(flag::SIGNED)
    }

    /// What an attach of `sid` reads first, for a prefetch: it is named and not read. A caller that knows
    /// the sid, and has other work before it attaches, hides two misses of the processor's cache by a
    /// prefetch of this and, some 100 ns later, of [`Self::second_read`].
    #[inline]
    pub fn first_read(&self, sid: &Sid) -> Option<&u32> {
        self.sids.first_cell(sid.index_bits())
    }

    /// What an attach of `sid` reads next, most likely the session's entry, for a prefetch: it is named
    /// and not read.
    #[inline]
    pub fn second_read(&self, sid: &Sid) -> Option<&Sid> {
        let slot = self.sids.find(sid.index_bits(), |_| true)?;
        Some(&self.store.at(slot).sid)
    }

    /// What [`Self::write_json`] reads, for a prefetch: it is named and not read.
    #[inline]
    pub fn json_read(&self, at: SlotRef) -> &[u8] {
        self.resolve(at)
            .map_or(&[], |entry| self.store.arena.get(entry.handle()))
    }

    /// Notes a use that is no request.
    pub(super) fn accessed(&mut self, slot: u32, now: u64) {
        let flags = self.store.at(slot).flags;
        self.used(slot, now, flags);
    }

    /// A use at `now`, from which on the entry has these flags.
    #[inline]
    fn used(&mut self, slot: u32, now: u64, flags: u8) {
        let quarter = Quarter::of(now);
        if let Some(recency) = self.order.recency() {
            recency.used(&mut self.store, slot, quarter, flags);
        } else {
            self.store.at_mut(slot).accessed(quarter);
            let expires = self.expires(slot);
            self.order
                .moved(&mut self.store, slot, now, expires, true, flags);
        }
    }

    #[inline]
    pub(super) fn touch(&mut self, slot: u32, now: u64) -> Valid {
        let signed = self.policy.signed;
        let entry = self.store.at_mut(slot);
        entry.requests = entry.requests.saturating_add(1);
        let conflict = entry.has(flag::CONFLICT);
        let mut flags = (entry.flags | flag::PRESENTED) & !flag::CONFLICT;
        if !signed {
            // While tokens are not signed, this one may come back unsigned when they are again.
            flags &= !flag::SIGNED;
        }
        self.used(slot, now, flags);
        Valid {
            conflict,
            offer: self.is_due(slot, now),
            ..self.valid(slot)
        }
    }

    fn valid(&self, slot: u32) -> Valid {
        let entry = self.store.at(slot);
        Valid {
            slot: SlotRef {
                slot,
                check: entry.sid.check(),
            },
            sid: entry.sid,
            digest: entry.digest,
            version: self.store.version(slot),
            revision: entry.revision,
            conflict: false,
            authenticated: entry.has(flag::AUTHENTICATED),
            confirmed: false,
            offer: false,
        }
    }

    /// A secret that is not the current one.
    #[cold]
    fn attach_other(
        &mut self,
        slot: u32,
        token: &Presented,
        traits: &[Traits],
        now: u64,
    ) -> Attached {
        let known = self.know(slot, &token.digest, now);
        if matches!(known, Known::Pending | Known::Grace) && self.is_forged(slot, token) {
            return Attached::Dead(Dead::Forged);
        }
        match known {
            Known::Pending => self.checked(slot, traits, now, |shard| {
                shard.adopt(slot, token, now);
                shard.touch(slot, now)
            }),
            Known::Grace => self.checked(slot, traits, now, |shard| {
                shard.touch_former(slot, token, now)
            }),
            Known::Retired => self.reused(slot, token, traits, now),
            Known::Passed => Attached::Refused(Refused::Retired),
            Known::Never => Attached::Refused(Refused::UnknownSecret),
        }
    }

    /// Serves a request by a secret that was current.
    pub(super) fn touch_former(&mut self, slot: u32, token: &Presented, now: u64) -> Valid {
        Valid {
            digest: token.digest,
            offer: false,
            ..self.touch(slot, now)
        }
    }

    /// Serves a request by `touch` unless its client looks like another.
    pub(super) fn checked(
        &mut self,
        slot: u32,
        traits: &[Traits],
        now: u64,
        touch: impl FnOnce(&mut Self) -> Valid,
    ) -> Attached {
        if let Some(check) = self.compare(slot, traits) {
            let count = self.counts.mismatches.get_mut(check as usize);
            count.into_iter().for_each(|count| *count += 1);
            let word = check.word();
            self.tell(EventKind::SessionValidationFailed, slot, now, word, 0);
            match self.policy.on_mismatch {
                OnMismatch::Refuse => return Attached::Refused(Refused::Mismatch(check)),
                OnMismatch::Reject => return Attached::Rejected(check),
                OnMismatch::Destroy => {
                    self.bury(slot, End::Destroyed(Reason::Validation), now);
                    return Attached::Dead(Dead::Destroyed);
                }
                OnMismatch::Observe => {}
            }
        } else if let Some(seen) = traits.first() {
            self.keep_look(slot, seen);
        }
        Attached::Valid(touch(self))
    }

    /// A retired secret: somebody copied it, or a client slept through a grace.
    fn reused(&mut self, slot: u32, token: &Presented, traits: &[Traits], now: u64) -> Attached {
        self.counts.reuses += 1;
        self.tell(EventKind::SessionHijackSuspected, slot, now, "retired", 0);
        match self.policy.on_reuse {
            OnMismatch::Destroy => {
                self.bury(slot, End::Destroyed(Reason::Reuse), now);
                Attached::Dead(Dead::Destroyed)
            }
            OnMismatch::Observe if !self.is_forged(slot, token) => {
                self.checked(slot, traits, now, |shard| {
                    shard.touch_former(slot, token, now)
                })
            }
            _ => Attached::Refused(Refused::Retired),
        }
    }

    #[cold]
    fn attach_unknown(&mut self, token: &Presented, traits: &[Traits], now: u64) -> Attached {
        if self.tombstones.contains(&token.sid) {
            return Attached::Dead(Dead::Destroyed);
        }
        let issued = u64::from(token.issued) * 1000;
        if !token.unconfirmed {
            let over = self.policy.ttl > 0 && issued.saturating_add(self.policy.ttl) <= now;
            return Attached::Dead(if over { Dead::Expired } else { Dead::Unknown });
        }
        // Its first byte makes a record, so it must be ours beyond doubt.
        if token.signature != Signature::Verified {
            return Attached::Dead(Dead::Forged);
        }
        if self.storeless_end(issued) <= now {
            return Attached::Dead(Dead::Expired);
        }
        match self.confirm(token, flag::PRESENTED, now) {
            Some(slot) => {
                if let Some(seen) = traits.first() {
                    self.keep_look(slot, seen);
                }
                Attached::Valid(Valid {
                    confirmed: true,
                    ..self.valid(slot)
                })
            }
            None => Attached::Dead(Dead::Unknown),
        }
    }
}
