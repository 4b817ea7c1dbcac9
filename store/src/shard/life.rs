//! Birth and death of sessions: create, confirm, expire, evict, destroy, sweep.
//!
//! Part of [`Shard`]. Invariant: every session goes in by `admit` and out by `bury`, which keep all
//! indexes, counts and totals together.

use super::Shard;
use super::slab::{Entry, flag};
use crate::Entropy;
use crate::event::EventKind;
use crate::fields::Name;
use crate::hlc::Stamp;
use crate::id::{Secret, Sid};
use crate::record::FieldKind;
use crate::record::blob::FieldRef;
use crate::session::{Fresh, Reason};
use crate::time::{self, Quarter};
use crate::token::Presented;

/// A session that has just been made, with or without a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Created {
    /// For the client. [`Fresh::target`] is the target of this request's commands.
    pub token: Fresh,
    /// Its place, unless it is storeless. A storeless session has the defaults as its data
    /// ([`crate::session::Policy::write_first`]) and version 0.
    pub slot: Option<super::SlotRef>,
}

/// What a turn of [`Shard::sweep`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SweepReport {
    /// Places looked at.
    pub examined: usize,
    /// Sessions removed.
    pub expired: usize,
    /// The turn reached the end: the next begins at the start.
    pub wrapped: bool,
}

/// What one turn of a destroy of many did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Destroyed {
    /// Sessions destroyed.
    pub count: u32,
    /// There are more: another turn is needed.
    pub more: bool,
}

/// Names of sessions that have ended, for who holds something of theirs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ends {
    /// Which.
    pub sids: Vec<Sid>,
    /// There were more than are named: who holds something asks [`Shard::lives`].
    pub missed: bool,
}

/// Why a session leaves.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    Expired,
    Evicted,
    Destroyed(Reason),
}

/// Draws of a sid before the shard gives up on finding one of its own: with 1,024 shards this fails
/// once in 10^13.
const DRAWS: usize = 30 * 1024;
/// Sessions that one turn of a destroy by field ends at most: less than a millisecond of work.
pub const DESTROY_BATCH: usize = 256;
/// Sessions that have ended, named at most until somebody takes the list.
const MAX_ENDS: usize = 64 * 1024;
/// Life of a storeless session where no timeout is configured.
const DAY_MS: u64 = 24 * 3_600_000;

impl Shard {
    /// Creates a session at home, storeless where the policy confirms first tokens. `None` if the shard
    /// can name no more sessions.
    pub fn create(&mut self, now: u64, entropy: &mut impl Entropy) -> Option<Created> {
        if self.policy.confirm {
            return Some(Created {
                token: self.fresh(true, now, entropy),
                slot: None,
            });
        }
        let (token, slot) = self.create_stored(now, 0, entropy)?;
        Some(Created {
            token,
            slot: Some(self.slot_ref(slot)),
        })
    }

    /// Creates a session with a record. `flags` are those beside [`flag::LIVE`].
    pub(super) fn create_stored(
        &mut self,
        now: u64,
        flags: u8,
        entropy: &mut impl Entropy,
    ) -> Option<(Fresh, u32)> {
        let token = self.fresh(false, now, entropy);
        let mut entry = Entry::new(
            token.sid,
            token.secret.digest(),
            time::short_ms(now),
            self.tag,
        );
        entry.flags |= flags;
        let slot = self.admit_new(entry, now)?;
        Some((token, slot))
    }

    /// A new identity of this shard.
    fn fresh(&self, unconfirmed: bool, now: u64, entropy: &mut impl Entropy) -> Fresh {
        let mut sid = Sid::random(entropy);
        for _ in 0..DRAWS {
            if self.home.owns(&sid) && self.find(&sid).is_none() {
                break;
            }
            sid = Sid::random(entropy);
        }
        self.fresh_for(sid, Secret::random(entropy), unconfirmed, now)
    }

    pub(super) fn fresh_for(&self, sid: Sid, secret: Secret, unconfirmed: bool, now: u64) -> Fresh {
        let issued = u32::try_from(now / 1000).unwrap_or(u32::MAX);
        Fresh {
            sid,
            secret,
            issued,
            tag: self.tag,
            unconfirmed,
        }
    }

    /// Until when a storeless token issued at `issued` (Unix ms) is honoured.
    pub(super) fn storeless_end(&self, issued: u64) -> u64 {
        let lives = [self.policy.timeout, self.policy.ttl];
        issued.saturating_add(lives.into_iter().filter(|l| *l > 0).min().unwrap_or(DAY_MS))
    }

    /// Makes the record of a storeless session, which has none and no tombstone. The same on every
    /// instance that does it: created when its token was issued, where that was.
    pub(super) fn confirm(&mut self, token: &Presented, flags: u8, now: u64) -> Option<u32> {
        let created = time::short_ms(u64::from(token.issued) * 1000);
        let mut entry = Entry::new(token.sid, token.digest, created, token.tag);
        entry.flags |= flags;
        self.admit_new(entry, now)
    }

    fn admit_new(&mut self, mut entry: Entry, now: u64) -> Option<u32> {
        entry.last_access = Quarter::of(now);
        entry.requests = 1;
        entry.set(flag::SIGNED, self.policy.signed);
        let created = entry.created_unix();
        let slot = self.admit(entry, now)?;
        self.counts.created += 1;
        if !self.policy.defaults.is_empty() {
            self.write_creation_defaults(slot, created);
        }
        self.tell(EventKind::SessionCreated, slot, now, "", 0);
        self.evict(slot, now);
        Some(slot)
    }

    fn write_creation_defaults(&mut self, slot: u32, created: u64) {
        let defaults = self.policy.defaults_at(created);
        let entry = self.store.at(slot);
        let stamp = Stamp::creation(entry.created(), entry.birth().get());
        let fields: Vec<_> = defaults
            .iter()
            .map(|f| FieldRef {
                name: f.name.as_bytes(),
                kind: FieldKind::Default,
                stamp,
                value: f.value.as_deref(),
                expires: 0,
            })
            .collect();
        // Without a limit: defaults are the operator's own.
        self.join_fields(slot, &fields, usize::MAX).ok();
    }

    /// Takes an entry into all indexes. The caller counts it, and evicts.
    pub(super) fn admit(&mut self, entry: Entry, now: u64) -> Option<u32> {
        let hash = entry.sid.index_bits();
        let slot = self.store.insert(entry)?;
        let revision = self.next_revision();
        self.store.at_mut(slot).revision = revision;
        self.store.aside_mut(slot).changed_at = time::short_seconds(now);
        let expires = self.expires(slot);
        let Self { sids, store, .. } = self;
        sids.insert(hash, slot, |s| store.at(s).sid.index_bits());
        self.order.insert(&mut self.store, slot, now, expires);
        let cost = self.store.cost(slot);
        self.totals.add_sessions(1);
        self.totals.add_bytes(cost as i64);
        Some(slot)
    }

    /// Evicts sessions of this shard, but not `except`, while the instance holds too many.
    pub(super) fn evict(&mut self, except: u32, now: u64) {
        while self.totals.add_sessions(0) > self.policy.max_sessions
            || self.totals.add_bytes(0) > self.policy.max_bytes
        {
            let Some(victim) = self.order.victim(&mut self.store, except) else {
                return;
            };
            // One that has expired goes as what it is.
            let expired = self.expires(victim) <= now;
            self.bury(
                victim,
                if expired { End::Expired } else { End::Evicted },
                now,
            );
        }
    }

    /// Ends a session: out of all indexes, counted, told, and remembered where it must be.
    pub(super) fn bury(&mut self, slot: u32, end: End, now: u64) {
        let entry = self.store.at(slot);
        let (sid, hash, created) = (entry.sid, entry.sid.index_bits(), entry.created_unix());
        let cost = self.store.cost(slot);
        match end {
            End::Expired => {
                self.counts.expired += 1;
                // Its first token may be good for longer than the session was.
                let until = self.storeless_end(created);
                if self.policy.confirm && until > now {
                    self.tombstones.insert(&sid, until);
                }
                let ttl = self.policy.ttl;
                // What came first, however late it is noticed.
                let whole = ttl > 0 && created.saturating_add(ttl) == self.expires(slot);
                let reason = if whole { "ttl" } else { "timeout" };
                self.tell(EventKind::SessionExpired, slot, now, reason, 0);
            }
            End::Evicted => {
                self.counts.evicted += 1;
                self.tell(EventKind::SessionEvicted, slot, now, "full", 0);
            }
            End::Destroyed(reason) => {
                self.counts.destroyed += 1;
                self.counts.subject_limited += u64::from(reason == Reason::SubjectLimit);
                let until = self.tombstone_end(created, now);
                self.tombstones.insert(&sid, until);
                self.tell(EventKind::SessionDestroyed, slot, now, reason.word(), 0);
            }
        }
        for index in &mut self.indexes {
            index.remove(&self.store, slot);
        }
        self.order.remove(&mut self.store, slot);
        if self.ends.sids.len() < MAX_ENDS {
            self.ends.sids.push(sid);
        } else {
            self.ends.missed = true;
        }
        let Self { sids, store, .. } = self;
        sids.remove(hash, slot, |s| store.at(s).sid.index_bits());
        self.store.remove(slot);
        self.totals.add_sessions(-1);
        self.totals.add_bytes(-(cost as i64));
    }

    /// Until when a session created at `created` could be valid somewhere, Unix ms.
    pub(super) fn tombstone_end(&self, created: u64, now: u64) -> u64 {
        let policy = &*self.policy;
        let mut end = now.saturating_add(policy.tombstone_ttl);
        if policy.ttl > 0 {
            end = end.min(created.saturating_add(policy.ttl));
        }
        if !policy.rolling && policy.timeout > 0 {
            end = end.min(created.saturating_add(policy.timeout));
        }
        if policy.confirm {
            end.max(self.storeless_end(created))
        } else {
            end
        }
    }

    /// Destroys a session; whether it was there.
    pub fn destroy(&mut self, sid: &Sid, reason: Reason, now: u64) -> bool {
        match self.find(sid) {
            Some(slot) if self.expires(slot) <= now => {
                self.bury(slot, End::Expired, now);
                false
            }
            Some(slot) => {
                self.bury(slot, End::Destroyed(reason), now);
                true
            }
            None => false,
        }
    }

    /// Destroys sessions of this shard whose subject is `subject` (JSON), but not `except`; at most
    /// [`DESTROY_BATCH`].
    pub fn destroy_subject(
        &mut self,
        subject: &[u8],
        except: Option<&Sid>,
        reason: Reason,
        now: u64,
    ) -> Destroyed {
        self.destroy_all(0, subject, except, reason, now)
    }

    /// Destroys sessions of this shard whose indexed field `name` has `value` (JSON), at most
    /// [`DESTROY_BATCH`]; none where `name` is not indexed.
    pub fn destroy_by(&mut self, name: &Name, value: &[u8], reason: Reason, now: u64) -> Destroyed {
        let index = self
            .indexes
            .iter()
            .position(|index| index.name() == name.as_bytes());
        index.map_or_else(Destroyed::default, |index| {
            self.destroy_all(index, value, None, reason, now)
        })
    }

    fn destroy_all(
        &mut self,
        index: usize,
        value: &[u8],
        except: Option<&Sid>,
        reason: Reason,
        now: u64,
    ) -> Destroyed {
        let Some(index) = self.indexes.get(index) else {
            return Destroyed::default();
        };
        let mut sids = index
            .all(&self.store, value)
            .map(|slot| self.store.at(slot).sid)
            .filter(|sid| Some(sid) != except);
        let batch: Vec<Sid> = sids.by_ref().take(DESTROY_BATCH).collect();
        let more = sids.next().is_some();
        drop(sids);
        let mut count = 0;
        for sid in &batch {
            count += u32::from(self.destroy(sid, reason, now));
        }
        Destroyed { count, more }
    }

    /// Whether sessions have ended since [`Self::take_ends`].
    #[inline]
    pub fn has_ends(&self) -> bool {
        !self.ends.sids.is_empty()
    }

    /// The sessions that have ended since the last call, however they did.
    pub fn take_ends(&mut self) -> Ends {
        std::mem::take(&mut self.ends)
    }

    /// Whether a session goes on. `used`: its client gave a sign of life other than a request, which moves
    /// the idle time on. `storeless`: it may have no record yet.
    pub fn lives(&mut self, sid: &Sid, used: bool, storeless: bool, now: u64) -> bool {
        let Some(slot) = self.find(sid) else {
            return storeless && !self.tombstones.contains(sid);
        };
        if self.expires(slot) <= now {
            self.bury(slot, End::Expired, now);
            return false;
        }
        if used {
            self.accessed(slot, now);
        }
        true
    }

    /// Whether evictions are near: seven eighths of a bound.
    fn is_nearly_full(&self) -> bool {
        let near = |held: u64, most: u64| held >= most - most / 8;
        near(self.totals.add_sessions(0), self.policy.max_sessions)
            || near(self.totals.add_bytes(0), self.policy.max_bytes)
    }

    /// Looks at the next `batch` places and removes sessions that have expired. When evictions are near
    /// it also puts the others where they belong in the order, so that no search is long. Fair: the cursor goes
    /// round over places that never move.
    pub fn sweep(&mut self, now: u64, batch: usize) -> SweepReport {
        self.tombstones.expire(now);
        let mut report = SweepReport::default();
        let nearly_full = self.is_nearly_full();
        while report.examined < batch {
            if self.cursor >= self.store.high() {
                self.cursor = 0;
                report.wrapped = true;
                break;
            }
            let slot = self.cursor;
            self.cursor += 1;
            report.examined += 1;
            if self.store.live(slot).is_none() {
                continue;
            }
            if self.expires(slot) <= now {
                self.bury(slot, End::Expired, now);
                report.expired += 1;
            } else if let Some(recency) = self.order.recency().filter(|_| nearly_full) {
                recency.settle(&mut self.store, slot);
            }
        }
        report
    }

    /// Whether a session of this sid has ended here in a way that must be remembered.
    pub fn is_tombstoned(&self, sid: &Sid) -> bool {
        self.tombstones.contains(sid)
    }
}
