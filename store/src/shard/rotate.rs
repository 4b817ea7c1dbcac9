//! Exchanging a session's secret in two phases: the offer and its first use.
//!
//! Part of [`Shard`]. What a secret is follows from the session's set of secrets and the time, and is
//! derived when it is read: the highest is *current*; the one that its holder exchanged for it (the next
//! generation of the same authentication) is in *grace* until some time after that first use; all others
//! are *retired*. The secret offered for the current one is kept nowhere ([`crate::rotation`]).
//!
//! Invariants: a secret is offered only to who presents the current one, and not while another is in
//! grace, so that offers that overtake each other on their way leave the client with one that is good. An
//! authentication, or an exchange that asks for it, leaves no grace. Tested in `tests/rotation.rs` and by
//! the simulator of browsers and thieves.

use super::Shard;
use super::slab::flag;
use crate::event::EventKind;
use crate::id::{Digest, Sid};
use crate::record::SecretEntry;
use crate::session::Fresh;
use crate::time::{self, Quarter};
use crate::token::{Presented, Signature};

/// What a secret is that is not the current one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// Offered for the current one.
    Pending,
    /// The one before, still good.
    Grace,
    /// Good no more.
    Retired,
    /// Offered for one that is good no more, and never used.
    Passed,
    /// Nothing that the session ever had.
    Never,
}

/// Whether `newer` took the place of `older` by the use of an offer.
fn exchanged(newer: &SecretEntry, older: &SecretEntry) -> bool {
    newer.epoch == older.epoch && newer.generation == older.generation.saturating_add(1)
}

impl Shard {
    fn is_grace(&self, newer: &SecretEntry, older: &SecretEntry, now: u64) -> bool {
        let grace = self.policy.rotate_grace;
        grace > 0 && exchanged(newer, older) && now < newer.first_use.end().saturating_add(grace)
    }

    /// What a secret of this digest, which is not the current one, is to the session.
    pub(super) fn know(&self, slot: u32, digest: &Digest, now: u64) -> Known {
        let secrets = self.secrets(slot);
        let pairs = secrets.iter().zip(secrets.iter().skip(1));
        // Nothing has grace behind an exchange that leaves none.
        let mut chain = true;
        for (newer, older) in pairs {
            chain &= exchanged(newer, older);
            if older.digest == *digest {
                return if chain && self.is_grace(newer, older, now) {
                    Known::Grace
                } else {
                    Known::Retired
                };
            }
        }
        let (sid, keys) = (self.store.at(slot).sid, &self.policy.rotation);
        let of = |s: &SecretEntry| keys.offers(&sid, &s.digest, digest);
        match secrets.iter().position(of) {
            Some(0) => Known::Pending,
            Some(_) => Known::Passed,
            None => Known::Never,
        }
    }

    /// Whether a request with this secret would be served, as far as the secret decides. Touches nothing.
    pub fn is_good(&self, sid: &Sid, digest: &Digest, now: u64) -> bool {
        self.find(sid).is_some_and(|slot| {
            let good = |known| matches!(known, Known::Pending | Known::Grace);
            self.expires(slot) > now
                && (self.store.at(slot).digest == *digest || good(self.know(slot, digest, now)))
        })
    }

    /// Whether the secret was exchanged for the current one by uses of offers alone, however long ago:
    /// whoever held it holds the current one.
    pub(super) fn was_offered_away(&self, slot: u32, digest: &Digest) -> bool {
        let secrets = self.secrets(slot);
        let pairs = secrets.iter().zip(secrets.iter().skip(1));
        pairs
            .take_while(|(newer, older)| exchanged(newer, older))
            .any(|(_, older)| older.digest == *digest)
    }

    /// Makes the pending secret, which was just presented, the current one.
    pub(super) fn adopt(&mut self, slot: u32, token: &Presented, now: u64) {
        let Some(current) = self.secrets(slot).first().copied() else {
            return;
        };
        let generation = current.generation.saturating_add(1);
        let entry = SecretEntry {
            generation,
            clock: self.stamp(now).clock,
            digest: token.digest,
            first_use: Quarter::of(now),
            ..current
        };
        self.join_secrets(slot, &[entry], now);
        self.store.aside_mut(slot).changed_at = time::short_seconds(now);
        if token.signature == Signature::Verified {
            self.store.at_mut(slot).set(flag::SIGNED, true);
        }
        let ordinal = (u64::from(current.epoch) << 32) | u64::from(generation);
        self.counts.rotated += 1;
        self.tell(EventKind::SessionRotated, slot, now, "used", ordinal);
    }

    /// Whether a new secret is to be offered: asked for, or the current one is old.
    #[inline]
    pub(super) fn is_due(&self, slot: u32, now: u64) -> bool {
        let interval = self.policy.rotate_interval;
        let entry = self.store.at(slot);
        if entry.has(flag::OFFER) {
            return true;
        }
        // No secret is older than its session: most sessions end before they have one to exchange.
        interval != 0
            && entry.created_unix().saturating_add(interval) <= now
            && self.is_old(slot, interval, now)
    }

    fn is_old(&self, slot: u32, interval: u64, now: u64) -> bool {
        let current = self.store.extra(slot).and_then(|x| x.secrets.first());
        let inline = || Quarter::of(self.store.at(slot).created_unix());
        let since = current.map_or_else(inline, |s| s.first_use);
        since.end().saturating_add(interval) <= now
    }

    /// The secret to be offered to who presented `digest`: `None` where that is not current, no
    /// exchange is due, or the last is so recent that the secret before it is still good.
    pub(super) fn offer(&self, slot: u32, digest: &Digest, now: u64) -> Option<Fresh> {
        let entry = self.store.at(slot);
        if entry.digest != *digest || !self.is_due(slot, now) {
            return None;
        }
        let secrets = self.secrets(slot);
        if let [current, before, ..] = secrets.as_slice()
            && self.is_grace(current, before, now)
        {
            return None;
        }
        let secret = self.policy.rotation.pending(&entry.sid, &entry.digest)?;
        Some(self.fresh_for(entry.sid, secret, false, now))
    }

    /// Whether the token under this secret may be sent to the client again: the session is here, the
    /// secret is current, and no other is offered or about to be, which the repeated one could overtake
    /// on its way.
    pub fn may_repeat(&self, sid: &Sid, digest: &Digest, now: u64) -> bool {
        let soon = now.saturating_add(self.policy.rotate_grace);
        self.find(sid).is_some_and(|slot| {
            self.store.at(slot).digest == *digest
                && self.expires(slot) > now
                && !self.is_due(slot, soon)
        })
    }
}
