//! What a request itself says about its session: attributes, and whom a verified token names.
//!
//! Part of [`Shard`]. Owns the rules of a changing subject: the first token of a subject is an
//! authentication and replaces the secret at once; later ones of that subject are not; one of another
//! subject touches nothing. A secret retired by such an authentication is good for the policy's
//! `rotate_grace` to requests that carry a token of the same subject: an application's first parallel calls.
//!
//! Invariants: an attribute is written only if that changes something, so that a request which repeats
//! what is known costs no version; an authentication whose attributes do not fit does not happen.
//! Deliberately absent: headers and tokens, which the caller has read and verified.
//! Tested in `tests/attributes.rs`.

use super::life::{Created, End};
use super::slab::flag;
use super::write::TooLarge;
use super::{Attached, Shard, SlotRef, Valid};
use crate::Entropy;
use crate::event::EventKind;
use crate::fields::Name;
use crate::record::FieldKind;
use crate::record::blob::FieldRef;
use crate::session::{Applied, BuiltIn, Fresh, Reason};
use crate::time;
use crate::token::Presented;
use crate::traits::Traits;

/// One attribute that a request gives its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// Which.
    pub name: Name,
    /// Minified ASCII JSON; nothing removes it.
    pub value: Option<Box<[u8]>>,
    /// The Unix second from which it is withheld from readers; 0 is never.
    pub expires: u32,
    /// The first value binds: a session that has one keeps it.
    pub once: bool,
}

/// All that a request says about its session.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// In the order of their names, each once.
    pub fields: Vec<Attribute>,
    /// JSON of the subject that a verified token names.
    pub subject: Option<Box<[u8]>>,
}

impl Attributes {
    /// Puts fields into their order; of a name given twice the last stays.
    pub fn new(mut fields: Vec<Attribute>, subject: Option<Box<[u8]>>) -> Self {
        fields.reverse();
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        fields.dedup_by(|a, b| a.name == b.name);
        Self { fields, subject }
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.subject.is_none()
    }
}

/// What became of a request's attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bound {
    /// The request authenticated its session: the new secret, for the client.
    pub token: Option<Fresh>,
    /// The session has a subject now that it had not before.
    pub gained: bool,
    /// The session is another subject's: nothing was done, and the request must not have it.
    pub other: bool,
    /// They do not fit into the session: nothing was written.
    pub too_large: bool,
}

/// Whose a session is, to a request with a token.
enum Whose {
    Nobodys,
    Ours,
    Anothers,
}

impl Shard {
    /// [`Shard::attach`] of a request that says something about its session.
    pub fn attach_with(
        &mut self,
        token: &Presented,
        attributes: &Attributes,
        traits: &[Traits],
        now: u64,
        entropy: &mut impl Entropy,
    ) -> (Attached, Bound) {
        let mut bound = Bound::default();
        let attached = match self.vouched(token, attributes, now) {
            // What its response asks for is judged as that of a secret which is current no more.
            Some(slot) => self.checked(slot, traits, now, |shard| {
                shard.touch_former(slot, token, now)
            }),
            None => self.attach_as(token, traits, now),
        };
        let Attached::Valid(mut valid) = attached else {
            return (attached, bound);
        };
        self.bind(&mut valid, attributes, &mut bound, now, entropy);
        (Attached::Valid(valid), bound)
    }

    fn bind(
        &mut self,
        valid: &mut Valid,
        attributes: &Attributes,
        bound: &mut Bound,
        now: u64,
        entropy: &mut impl Entropy,
    ) {
        let slot = valid.slot.slot;
        let whose = attributes.subject.as_deref().map(|s| self.whose(slot, s));
        // A retired secret that is only observed authenticates nobody.
        let current = self.store.at(slot).digest == valid.digest;
        let passed = !current && !self.was_offered_away(slot, &valid.digest);
        let stolen = passed && matches!(whose, Some(Whose::Nobodys));
        if stolen || matches!(whose, Some(Whose::Anothers)) {
            bound.other = true;
            return;
        }
        if self.write_attributes(slot, attributes, now).is_err() {
            bound.too_large = true;
            return;
        }
        if matches!(whose, Some(Whose::Nobodys)) {
            let mut done = Applied::default();
            self.rotate(slot, true, &mut done, now, entropy);
            bound.token = done.token;
            bound.gained = true;
            valid.digest = self.store.at(slot).digest;
            valid.offer = false;
            let ordinal = self.hlc.last();
            self.tell(EventKind::SessionAuthenticated, slot, now, "token", ordinal);
        }
        let entry = self.store.at(slot);
        valid.revision = entry.revision;
        valid.authenticated = entry.has(flag::AUTHENTICATED);
        valid.version = self.store.version(slot);
        self.evict(slot, now);
    }

    fn whose(&self, slot: u32, subject: &[u8]) -> Whose {
        let authenticated = self.store.at(slot).has(flag::AUTHENTICATED);
        match self.store.value(slot, self.policy.subject()) {
            Some(known) if authenticated && known == subject => Whose::Ours,
            Some(_) if authenticated => Whose::Anothers,
            _ => Whose::Nobodys,
        }
    }

    /// The session of a secret that an authentication retired a moment ago, where the request carries a
    /// token of the session's subject.
    fn vouched(&self, token: &Presented, attributes: &Attributes, now: u64) -> Option<u32> {
        let subject = attributes.subject.as_deref()?;
        let slot = self.find(&token.sid)?;
        let entry = self.store.at(slot);
        if entry.digest == token.digest
            || token.kind != token.through
            || self.expires(slot) <= now
            || !matches!(self.whose(slot, subject), Whose::Ours)
        {
            return None;
        }
        let secrets = &self.store.extra(slot)?.secrets;
        let retired = secrets.iter().find(|s| s.digest == token.digest)?;
        let login = secrets
            .iter()
            .find(|s| s.authenticated && s.generation == 0 && s.epoch == retired.epoch + 1)?;
        let until = login
            .first_use
            .end()
            .saturating_add(self.policy.rotate_grace);
        (until > now).then_some(slot)
    }

    /// Creates a session for a request that says something about it. With a subject it is stored, and
    /// authenticated from its birth; without one it is as [`Shard::create`] makes it, and a storeless one
    /// shows the attributes by [`crate::session::Policy::write_first`].
    pub fn create_with(
        &mut self,
        attributes: &Attributes,
        now: u64,
        entropy: &mut impl Entropy,
    ) -> (Option<Created>, Bound) {
        let mut bound = Bound::default();
        if attributes.subject.is_none() {
            let created = self.create(now, entropy);
            if let Some(SlotRef { slot, .. }) = created.and_then(|c| c.slot) {
                bound.too_large = self.write_attributes(slot, attributes, now).is_err();
            }
            return (created, bound);
        }
        let Some((token, slot)) = self.create_stored(now, flag::AUTHENTICATED, entropy) else {
            return (None, bound);
        };
        if self.write_attributes(slot, attributes, now).is_err() {
            // Born for this authentication, which failed: it must not stand as authenticated.
            self.bury(slot, End::Destroyed(Reason::Upstream), now);
            bound.too_large = true;
            return (None, bound);
        }
        let ordinal = self.hlc.last();
        self.tell(EventKind::SessionAuthenticated, slot, now, "token", ordinal);
        bound.gained = true;
        self.evict(slot, now);
        let slot = Some(self.slot_ref(slot));
        (Some(Created { token, slot }), bound)
    }

    /// Writes what is new of `attributes`; `data.fields` does not bind them, `data.maxSize` does. The
    /// version grows where readers see a difference: not by an expiry that only moves on.
    fn write_attributes(
        &mut self,
        slot: u32,
        attributes: &Attributes,
        now: u64,
    ) -> Result<(), TooLarge> {
        let seconds = time::unix_seconds(now);
        let mut seen = false;
        let mut new: smallvec::SmallVec<[(&Attribute, u32); 8]> = smallvec::SmallVec::new();
        let blob = self.store.blob(self.store.at(slot));
        for wanted in &attributes.fields {
            let known = blob
                .fields()
                .find(|f| f.kind == FieldKind::Attribute && f.name == wanted.name.as_bytes());
            let value = known.and_then(|k| k.value);
            let expires = match known {
                // Two tokens that say the same take turns: the longer one holds.
                Some(k) if k.expires != 0 && wanted.expires != 0 => k.expires.max(wanted.expires),
                _ => wanted.expires,
            };
            match (value, wanted.value.as_deref()) {
                (None, None) => continue,
                (Some(_), _) if wanted.once => continue,
                (Some(old), Some(same)) if old == same => {
                    if known.is_some_and(|k| k.expires == expires) {
                        continue;
                    }
                    seen |= known.is_some_and(|k| k.is_withheld(seconds));
                    new.push((wanted, expires));
                }
                _ => {
                    seen = true;
                    new.push((wanted, wanted.expires));
                }
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        let stamp = self.stamp(now);
        let refs: smallvec::SmallVec<[FieldRef<'_>; 8]> = new
            .iter()
            .map(|(attribute, expires)| FieldRef {
                name: attribute.name.as_bytes(),
                kind: FieldKind::Attribute,
                stamp,
                value: attribute.value.as_deref(),
                expires: *expires,
            })
            .collect();
        if self.join_fields(slot, &refs, self.policy.max_size)? && seen {
            let entry = self.store.at_mut(slot);
            entry.changes = entry.changes.saturating_add(1);
            self.store.aside_mut(slot).changed_at = time::short_seconds(now);
        }
        Ok(())
    }

    /// What is built in of a session.
    pub fn built_in(&self, at: SlotRef) -> Option<BuiltIn> {
        let entry = self.resolve(at)?;
        Some(BuiltIn {
            created: entry.created_unix(),
            last_access: entry.last_access.start(),
            requests: self.store.requests(at.slot),
            authenticated: entry.has(flag::AUTHENTICATED),
            version: self.store.version(at.slot),
        })
    }
}
