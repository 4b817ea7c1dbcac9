//! Attaching a request to its session: the hot path.
//!
//! Part of [`Shard`].

use super::life::End;
use super::slab::flag;
use super::{Shard, SlotRef};
use crate::event::EventKind;
use crate::id::{Digest, Sid};
use crate::session::{Dead, Refused};
use crate::time::Quarter;
use crate::token::{Presented, Signature};

/// What a presented token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attached {
    /// Good.
    Valid(Valid),
    /// As if there were none: it may be replaced, and else is expired at the client.
    Dead(Dead),
    /// Goes on without a session; nothing is set or expired at the client.
    Refused(Refused),
}

/// A session that a request is attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Valid {
    /// Its place, for [`Shard::write_json`].
    pub slot: SlotRef,
    /// The session.
    pub sid: Sid,
    /// Its current secret's digest: what commands of this request name.
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
}

impl Shard {
    /// Judges a token whose session this shard would own, and touches the session.
    pub fn attach(&mut self, token: &Presented, now: u64) -> Attached {
        if token.kind != token.through {
            return Attached::Refused(Refused::WrongKind);
        }
        let Some(slot) = self.find(&token.sid) else {
            return self.attach_unknown(token, now);
        };
        if self.expires(slot) <= now {
            self.bury(slot, End::Expired, now);
            return Attached::Dead(Dead::Expired);
        }
        let entry = self.store.at(slot);
        if entry.digest != token.digest {
            return Attached::Refused(self.refuse(slot, &token.digest, now));
        }
        if token.signature == Signature::Absent && self.policy.signed && entry.has(flag::SIGNED) {
            return Attached::Dead(Dead::Forged);
        }
        Attached::Valid(self.touch(slot, now))
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

    /// Whether the session is here, under this secret as its current one where one is named. Touches
    /// nothing.
    pub fn holds(&self, sid: &Sid, digest: Option<&Digest>) -> bool {
        let Some(slot) = self.find(sid) else {
            return false;
        };
        digest.is_none_or(|digest| self.store.at(slot).digest == *digest)
    }

    #[inline]
    pub(super) fn touch(&mut self, slot: u32, now: u64) -> Valid {
        let (quarter, signed) = (Quarter::of(now), self.policy.signed);
        let entry = self.store.at_mut(slot);
        entry.requests = entry.requests.saturating_add(1);
        let conflict = entry.has(flag::CONFLICT);
        let mut flags = (entry.flags | flag::PRESENTED) & !flag::CONFLICT;
        if !signed {
            // While tokens are not signed, this one may come back unsigned when they are again.
            flags &= !flag::SIGNED;
        }
        if let Some(recency) = self.order.recency() {
            recency.used(&mut self.store, slot, quarter, flags);
        } else {
            entry.accessed(quarter);
            let expires = self.expires(slot);
            self.order
                .moved(&mut self.store, slot, now, expires, true, flags);
        }
        Valid {
            conflict,
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
        }
    }

    #[cold]
    fn refuse(&mut self, slot: u32, digest: &Digest, now: u64) -> Refused {
        let extra = self.store.extra(slot);
        if extra.is_some_and(|x| x.secrets.iter().any(|s| s.digest == *digest)) {
            self.tell(EventKind::SessionHijackSuspected, slot, now, "retired", 0);
            Refused::Retired
        } else {
            Refused::UnknownSecret
        }
    }

    #[cold]
    fn attach_unknown(&mut self, token: &Presented, now: u64) -> Attached {
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
            Some(slot) => Attached::Valid(Valid {
                confirmed: true,
                ..self.valid(slot)
            }),
            None => Attached::Dead(Dead::Unknown),
        }
    }
}
