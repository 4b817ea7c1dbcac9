//! Carrying out what a response asks for.
//!
//! Part of [`Shard`]. Order within one response: destroy, create, set, authenticate, timeout, rotate,
//! destroy the others. Commands that are empty only ask whether a new secret is to be offered. So "destroy and create" ends one session and begins another, and "authenticate
//! and destroy others" means the others of the new subject.

use super::Shard;
use super::life::End;
use super::slab::flag;
use super::write::TooLarge;
use crate::Entropy;
use crate::event::EventKind;
use crate::fields::Fields;
use crate::hlc::Stamp;
use crate::id::Secret;
use crate::record::blob::FieldRef;
use crate::record::{FieldKind, Idle, SecretEntry};
use crate::session::{Applied, Apply, Commands, Destroy, Elsewhere, Reason, Target};
use crate::time::{self, Quarter};
use crate::token::Presented;

/// The session that commands work on.
#[derive(Debug, Clone, Copy)]
struct Work {
    slot: u32,
    /// The request's secret is no longer the current one.
    stale: bool,
    /// And what took its place was no mere offer: its holder may have changed.
    passed: bool,
    /// Made by these commands: its secret is new.
    new: bool,
}

impl Shard {
    /// Carries out the commands of a response. A response to a session that was destroyed meanwhile
    /// changes nothing.
    pub fn apply(&mut self, apply: &Apply, now: u64, entropy: &mut impl Entropy) -> Applied {
        let commands = &apply.commands;
        let mut done = Applied::default();
        let Ok(work) = self.find_target(&apply.target, commands, &mut done, now) else {
            return done;
        };
        let work = self.destroy_this(work, commands, &mut done, now);
        let Some(work) = self.create_if_asked(work, commands, &mut done, now, entropy) else {
            return done;
        };
        let before = self.bounded_subject(work.slot).filter(|_| !work.new);
        if let Some(traits) = apply.traits.filter(|_| done.created) {
            self.keep_look(work.slot, &traits);
        }
        if let Some(set) = &commands.set {
            self.set(work, set, commands.if_version, &mut done, now);
        }
        if let Some(fields) = &commands.authenticate {
            self.authenticate(work, fields, &mut done, now, entropy);
        }
        if let Some(ms) = commands.timeout {
            let stamp = self.stamp(now);
            self.join_idle(work.slot, Idle { stamp, ms }, now);
        }
        self.exchange(work, &apply.target, commands, &mut done, now, entropy);
        if commands.destroy == Some(Destroy::Others) {
            self.destroy_others(work.slot, &mut done, now);
        }
        let after = self.bounded_subject(work.slot);
        done.gained = after.filter(|subject| before.as_ref() != Some(subject));
        done.session = Some(self.store.at(work.slot).sid);
        done.version = self.store.version(work.slot);
        self.evict(work.slot, now);
        done
    }

    /// JSON of a session's subject, where its sessions are bounded.
    fn bounded_subject(&self, slot: u32) -> Option<Box<[u8]>> {
        if self.policy.per_subject == 0 || self.store.live(slot).is_none() {
            return None;
        }
        self.store.value(slot, self.policy.subject()).map(Box::from)
    }

    /// `Err` where there is nothing more to do.
    fn find_target(
        &mut self,
        target: &Target,
        commands: &Commands,
        done: &mut Applied,
        now: u64,
    ) -> Result<Option<Work>, ()> {
        let (sid, digest) = match target {
            Target::None => return Ok(None),
            Target::Session { sid, digest } => (sid, *digest),
            Target::Storeless(token) => (&token.sid, Some(token.digest)),
        };
        if let Some(slot) = self.find(sid) {
            if self.expires(slot) > now {
                let stale = digest.is_some_and(|d| d != self.store.at(slot).digest);
                let passed = stale && digest.is_none_or(|d| !self.was_offered_away(slot, &d));
                return Ok(Some(Work {
                    slot,
                    stale,
                    passed,
                    new: false,
                }));
            }
            self.bury(slot, End::Expired, now);
        }
        if self.tombstones.contains(sid) {
            done.gone = true;
            return Err(());
        }
        if let Target::Storeless(token) = target {
            let until = self.storeless_end(u64::from(token.issued) * 1000);
            if matches!(commands.destroy, Some(Destroy::This | Destroy::All)) {
                self.tombstones.insert(sid, until);
                done.expire = true;
                return Ok(None);
            }
            if until > now {
                return self.find_storeless(token, commands, done, now);
            }
        }
        // Expired or evicted while the request was under way. Only an explicit act begins anew.
        if commands.create || commands.authenticate.is_some() {
            return Ok(None);
        }
        done.gone = true;
        Err(())
    }

    fn find_storeless(
        &mut self,
        token: &Presented,
        commands: &Commands,
        done: &mut Applied,
        now: u64,
    ) -> Result<Option<Work>, ()> {
        done.session = Some(token.sid);
        if !self.needs_record(commands) {
            return Err(());
        }
        let slot = self.confirm(token, 0, now);
        (done.created, done.full) = (slot.is_some(), slot.is_none());
        let slot = slot.ok_or(())?;
        Ok(Some(Work {
            slot,
            stale: false,
            passed: false,
            new: false,
        }))
    }

    /// Whether commands make the record of a storeless session.
    fn needs_record(&self, commands: &Commands) -> bool {
        let writes = commands
            .set
            .as_ref()
            .is_some_and(|set| set.iter().any(|f| self.policy.allows(&f.name)));
        let secret = commands.rotate || commands.retire || commands.authenticate.is_some();
        writes || secret || commands.timeout.is_some()
    }

    fn destroy_this(
        &mut self,
        work: Option<Work>,
        commands: &Commands,
        done: &mut Applied,
        now: u64,
    ) -> Option<Work> {
        let Some(destroy @ (Destroy::This | Destroy::All)) = commands.destroy else {
            return work;
        };
        done.expire = true;
        let work = work?;
        let subject = self
            .store
            .value(work.slot, self.policy.subject())
            .map(Box::from);
        self.bury(work.slot, End::Destroyed(Reason::Upstream), now);
        done.destroyed += 1;
        if let (Destroy::All, Some(subject)) = (destroy, subject) {
            let turn = self.destroy_subject(&subject, None, Reason::Subject, now);
            done.destroyed += turn.count;
            done.elsewhere = Some(Elsewhere {
                subject,
                except: None,
                here: turn.more,
            });
        }
        None
    }

    fn destroy_others(&mut self, slot: u32, done: &mut Applied, now: u64) {
        let sid = self.store.at(slot).sid;
        let Some(subject) = self
            .store
            .value(slot, self.policy.subject())
            .map(Box::<[u8]>::from)
        else {
            return;
        };
        let turn = self.destroy_subject(&subject, Some(&sid), Reason::Subject, now);
        done.destroyed += turn.count;
        done.elsewhere = Some(Elsewhere {
            subject,
            except: Some(sid),
            here: turn.more,
        });
    }

    fn create_if_asked(
        &mut self,
        work: Option<Work>,
        commands: &Commands,
        done: &mut Applied,
        now: u64,
        entropy: &mut impl Entropy,
    ) -> Option<Work> {
        if work.is_some() || !(commands.create || commands.authenticate.is_some()) {
            return work;
        }
        if self.policy.confirm && !self.needs_record(commands) {
            let created = self.create(now, entropy)?;
            done.session = Some(created.token.sid);
            done.token = Some(created.token);
            done.expire = false;
            return None;
        }
        let authenticated = if commands.authenticate.is_some() {
            flag::AUTHENTICATED
        } else {
            0
        };
        let Some((token, slot)) = self.create_stored(now, authenticated, entropy) else {
            done.full = true;
            return None;
        };
        (done.token, done.created, done.expire) = (Some(token), true, false);
        Some(Work {
            slot,
            stale: false,
            passed: false,
            new: true,
        })
    }

    fn set(
        &mut self,
        work: Work,
        fields: &Fields,
        if_version: Option<u64>,
        done: &mut Applied,
        now: u64,
    ) {
        let version = self.store.version(work.slot);
        if if_version.is_some_and(|wanted| wanted != version) {
            self.store.at_mut(work.slot).set(flag::CONFLICT, true);
            done.conflict = true;
            return;
        }
        if self.write(work.slot, fields, None, done, now).is_err() {
            done.too_large = true;
        }
    }

    /// Writes those of `fields` that may be written; `exempt` may always.
    fn write(
        &mut self,
        slot: u32,
        fields: &Fields,
        exempt: Option<&[u8]>,
        done: &mut Applied,
        now: u64,
    ) -> Result<(), TooLarge> {
        let stamp: Stamp = self.stamp(now);
        let allowed = |f: &&crate::fields::Field| {
            self.policy.allows(&f.name) || exempt == Some(f.name.as_bytes())
        };
        let refs: smallvec::SmallVec<[FieldRef<'_>; 8]> = fields
            .iter()
            .filter(allowed)
            .map(|f| FieldRef {
                name: f.name.as_bytes(),
                kind: FieldKind::Data,
                stamp,
                value: f.value.as_deref(),
                expires: 0,
            })
            .collect();
        done.dropped += (fields.0.len() - refs.len()) as u32;
        if self.join_fields(slot, &refs, self.policy.max_size)? {
            let entry = self.store.at_mut(slot);
            entry.changes = entry.changes.saturating_add(1);
            self.store.aside_mut(slot).changed_at = time::short_seconds(now);
        }
        Ok(())
    }

    fn authenticate(
        &mut self,
        work: Work,
        fields: &Fields,
        done: &mut Applied,
        now: u64,
        entropy: &mut impl Entropy,
    ) {
        let subject: Box<[u8]> = self.policy.subject().into();
        if work.passed {
            // Another authentication or rotation was faster. Its client holds the secret; if it is not
            // of the same subject, what this one says must not reach that client's session.
            done.lost = true;
            let ours = fields.get(&subject).and_then(|f| f.value.as_deref());
            if ours.is_none() || self.store.value(work.slot, &subject) != ours {
                return;
            }
        }
        if self
            .write(work.slot, fields, Some(&subject), done, now)
            .is_err()
        {
            done.too_large = true;
            if work.new {
                // Born for this authentication, which failed: it must not stand as authenticated.
                self.bury(work.slot, End::Destroyed(Reason::Upstream), now);
                (done.token, done.created) = (None, false);
            }
            return;
        }
        if !work.passed && !work.new {
            self.rotate(work.slot, true, done, now, entropy);
        }
        self.tell(
            EventKind::SessionAuthenticated,
            work.slot,
            now,
            "",
            self.hlc_ordinal(),
        );
    }

    /// What becomes of the secret where nobody has authenticated.
    fn exchange(
        &mut self,
        work: Work,
        target: &Target,
        commands: &Commands,
        done: &mut Applied,
        now: u64,
        entropy: &mut impl Entropy,
    ) {
        if commands.authenticate.is_some() || work.new {
            return;
        }
        if work.stale {
            done.lost = commands.rotate || commands.retire;
            return;
        }
        if commands.retire {
            return self.rotate(work.slot, false, done, now, entropy);
        }
        if commands.rotate {
            self.store.at_mut(work.slot).set(flag::OFFER, true);
        }
        if let Some(digest) = target.digest() {
            done.token = self.offer(work.slot, &digest, now);
        }
    }

    /// Makes a new secret current and retires the old one at once.
    pub(super) fn rotate(
        &mut self,
        slot: u32,
        authenticate: bool,
        done: &mut Applied,
        now: u64,
        entropy: &mut impl Entropy,
    ) {
        let sid = self.store.at(slot).sid;
        let Some(current) = self.secrets(slot).first().copied() else {
            return;
        };
        let secret = Secret::random(entropy);
        let (epoch, generation) = if authenticate {
            (current.epoch.saturating_add(1), 0)
        } else {
            // Not the next generation: so the old secret has no grace.
            (current.epoch, current.generation.saturating_add(2))
        };
        let subject = self
            .store
            .value(slot, self.policy.subject())
            .map_or(0, subject_digest);
        let entry = SecretEntry {
            epoch,
            generation,
            clock: self.stamp(now).clock,
            digest: secret.digest(),
            authenticated: authenticate || current.authenticated,
            subject: if authenticate {
                subject
            } else {
                current.subject
            },
            first_use: Quarter::of(now),
        };
        self.join_secrets(slot, &[entry], now);
        self.store.aside_mut(slot).changed_at = time::short_seconds(now);
        let signed = self.policy.signed;
        self.store.at_mut(slot).set(flag::SIGNED, signed);
        done.token = Some(self.fresh_for(sid, secret, false, now));
        self.counts.rotated += 1;
        self.tell(
            EventKind::SessionRotated,
            slot,
            now,
            if authenticate {
                "authentication"
            } else {
                "cleaned"
            },
            self.hlc_ordinal(),
        );
    }

    /// Tells apart events of one session: the clock of its last change.
    fn hlc_ordinal(&self) -> u64 {
        self.hlc.last()
    }
}

/// Eight bytes that stand for a subject.
fn subject_digest(json: &[u8]) -> u64 {
    use sha2::Digest as _;
    sha2::Sha256::digest(json)
        .first_chunk()
        .map_or(0, |b| u64::from_le_bytes(*b))
}
