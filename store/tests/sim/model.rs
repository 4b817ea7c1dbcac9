//! The shadow model: what the shards must hold, kept in the simplest way.

use std::collections::{BTreeMap, HashMap};

use holdfast_store::id::{Digest, Sid, shard_of};
use holdfast_store::record::{FieldKind, Record, SECRETS};
use holdfast_store::session::{Eviction, Policy};
use holdfast_store::shard::{Frequency, Valid};
use holdfast_store::time::{EPOCH_MS, Quarter};

/// One session that a shard holds.
#[derive(Clone)]
pub(crate) struct Session {
    /// As the shard last showed it, with touches since.
    pub(crate) record: Record,
    pub(crate) presented: bool,
    /// Grows whenever the session is used or goes to the end of another list.
    pub(crate) order: u64,
    /// Its last access when it came into its rank.
    pub(crate) placed: Quarter,
    pub(crate) frequency: Frequency,
    /// What readers see.
    pub(crate) data: BTreeMap<String, String>,
    pub(crate) version: u64,
    pub(crate) requests: u64,
    pub(crate) conflict: bool,
    /// A new secret was asked for, and none used since.
    pub(crate) asked: bool,
}

/// What a secret is to its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    Current,
    Pending,
    Grace,
    Retired,
    Never,
}

pub(crate) struct Model {
    pub(crate) policy: Policy,
    pub(crate) shards: usize,
    pub(crate) present: HashMap<Sid, Session>,
    /// Destroyed: until when that must be remembered.
    pub(crate) destroyed: HashMap<Sid, u64>,
    orders: u64,
}

/// Milliseconds after `start`, where 0 is never.
fn after(start: u64, life: u64) -> u64 {
    if life == 0 {
        u64::MAX
    } else {
        start.saturating_add(life)
    }
}

/// The fields that readers see.
pub(crate) fn visible(record: &Record) -> BTreeMap<String, String> {
    let text = |b: &[u8]| String::from_utf8(b.to_vec()).unwrap();
    let mut data = BTreeMap::new();
    for attributes in [false, true] {
        for field in record
            .fields
            .iter()
            .filter(|f| (f.kind == FieldKind::Attribute) == attributes)
        {
            if let Some(value) = &field.value {
                data.insert(text(field.name.as_bytes()), text(value));
            }
        }
    }
    data
}

impl Model {
    pub(crate) fn new(policy: Policy, shards: usize) -> Self {
        Self {
            policy,
            shards,
            present: HashMap::new(),
            destroyed: HashMap::new(),
            orders: 0,
        }
    }

    /// Takes in a session as a shard shows it.
    pub(crate) fn admit(&mut self, record: Record, presented: bool, now: u64) {
        self.orders += 1;
        let session = Session {
            data: visible(&record),
            version: record.version(),
            requests: record.counters.iter().map(|c| u64::from(c.requests)).sum(),
            presented,
            order: self.orders,
            placed: record.last_access,
            frequency: Frequency::once(now),
            conflict: false,
            asked: false,
            record,
        };
        assert!(self.present.insert(session.record.sid, session).is_none());
    }

    pub(crate) fn expires(&self, session: &Session) -> u64 {
        let (policy, record) = (&self.policy, &session.record);
        let created = EPOCH_MS + record.created;
        let last = record.last_access.end();
        let idle = match (record.idle, policy.rolling) {
            (Some(own), _) => after(last, own.ms),
            (None, true) => after(last, policy.timeout),
            (None, false) => u64::MAX,
        };
        let fixed = if policy.rolling {
            u64::MAX
        } else {
            after(created, policy.timeout)
        };
        [
            idle,
            fixed,
            after(last, policy.inactive),
            after(created, policy.ttl),
        ]
        .into_iter()
        .min()
        .unwrap()
    }

    pub(crate) fn is_live(&self, sid: &Sid, now: u64) -> bool {
        self.present.get(sid).is_some_and(|s| self.expires(s) > now)
    }

    pub(crate) fn storeless_end(&self, issued: u32) -> u64 {
        let lives = [self.policy.timeout, self.policy.ttl];
        u64::from(issued) * 1000 + lives.into_iter().filter(|l| *l > 0).min().unwrap()
    }

    pub(crate) fn authenticated(session: &Session) -> bool {
        session.record.secrets[0].authenticated
    }

    fn rank(session: &Session) -> u8 {
        if Self::authenticated(session) {
            2
        } else {
            u8::from(session.presented)
        }
    }

    /// The list that a session is in: rank, then key.
    fn list(&self, session: &Session) -> (u8, u64) {
        let key = match self.policy.eviction {
            Eviction::Lru => 0,
            Eviction::Lfu => u64::from(session.frequency.list()),
            Eviction::Ttl => self.expires(session).saturating_sub(EPOCH_MS) / 1000,
        };
        (Self::rank(session), key)
    }

    /// Changes a session; it goes to the end of its list where it was used or its list is another.
    pub(crate) fn change(
        &mut self,
        sid: &Sid,
        used: Option<u64>,
        change: impl FnOnce(&mut Session),
    ) {
        let mut session = self.present.remove(sid).unwrap();
        let before = self.list(&session);
        change(&mut session);
        if let Some(now) = used {
            session.frequency = session.frequency.used(now);
        }
        if Self::rank(&session) != before.0 {
            session.placed = session.record.last_access;
        }
        if used.is_some() || self.list(&session) != before {
            self.orders += 1;
            session.order = self.orders;
        }
        self.present.insert(*sid, session);
    }

    pub(crate) fn touch(&mut self, sid: &Sid, now: u64) {
        let signed = self.policy.signed;
        self.change(sid, Some(now), |session| {
            session.presented = true;
            session.conflict = false;
            session.requests += 1;
            session.record.signed &= signed;
            session.record.last_access = session.record.last_access.max(Quarter::of(now));
        });
    }

    /// The time until which a secret that was current is good, by its place in the set; nothing where it
    /// was not exchanged for the next.
    fn grace_end(&self, session: &Session, at: usize) -> Option<u64> {
        let newer = session.record.secrets.get(at.checked_sub(1)?)?;
        let older = session.record.secrets.get(at)?;
        let chain = self.was_exchanged(session, &older.digest);
        chain
            .then(|| newer.first_use.end() + self.policy.rotate_grace)
            .filter(|_| self.policy.rotate_grace > 0)
    }

    pub(crate) fn know(&self, session: &Session, digest: &Digest, now: u64) -> Known {
        let secrets = &session.record.secrets;
        match secrets.iter().position(|s| s.digest == *digest) {
            Some(0) => return Known::Current,
            Some(at) if self.grace_end(session, at).is_some_and(|end| now < end) => {
                return Known::Grace;
            }
            Some(_) => return Known::Retired,
            None => {}
        }
        let offered = |current: &Digest| {
            let secret = self.policy.rotation.pending(&session.record.sid, current);
            secret.map(|s| s.digest()) == Some(*digest)
        };
        match secrets.iter().position(|s| offered(&s.digest)) {
            Some(0) => Known::Pending,
            Some(_) => Known::Retired,
            None => Known::Never,
        }
    }

    /// Whether a secret became the current one by exchanges alone.
    pub(crate) fn was_exchanged(&self, session: &Session, digest: &Digest) -> bool {
        let secrets = &session.record.secrets;
        let Some(at) = secrets.iter().position(|s| s.digest == *digest) else {
            return false;
        };
        secrets[..=at]
            .windows(2)
            .all(|w| (w[0].epoch, w[0].generation) == (w[1].epoch, w[1].generation + 1))
    }

    /// Whether a response to the current secret offers another.
    pub(crate) fn offers(&self, session: &Session, asked: bool, now: u64) -> bool {
        let interval = self.policy.rotate_interval;
        let current = &session.record.secrets[0];
        // No secret is older than its session.
        let begun = current
            .first_use
            .end()
            .max(EPOCH_MS + session.record.created);
        let old = interval > 0 && begun + interval <= now;
        let graced = self.grace_end(session, 1).is_some_and(|end| now < end);
        (asked || session.asked || old) && !graced
    }

    /// A request was served; its secret may have been the pending one.
    pub(crate) fn exchanged(&mut self, valid: &Valid, record: Record, now: u64) {
        let session = &self.present[&valid.sid];
        let (before, secrets) = (&session.record.secrets, record.secrets);
        if secrets != *before {
            assert_eq!(self.know(session, &valid.digest, now), Known::Pending);
            let (new, old) = (&secrets[0], &before[0]);
            assert_eq!(new.digest, valid.digest);
            assert_eq!(
                (new.epoch, new.generation, new.authenticated),
                (old.epoch, old.generation + 1, old.authenticated)
            );
            assert_eq!(secrets[1..], before[..before.len().min(SECRETS - 1)]);
            self.change(&valid.sid, None, |session| {
                session.asked = false;
                session.record.signed = record.signed;
                session.record.secrets = secrets;
            });
        }
        let session = &self.present[&valid.sid];
        if valid.digest == session.record.secrets[0].digest {
            let asks = self.offers(session, false, now);
            assert!(valid.offer || !asks, "an offer is due");
        } else {
            assert!(!valid.offer, "nothing for a former secret");
        }
    }

    pub(crate) fn shard(&self, sid: &Sid) -> usize {
        shard_of(sid, self.shards)
    }

    /// Panics unless `victim` is who goes next in `shard`, where `except` is spared.
    ///
    /// Under `lfu` and `ttl` that is one session. Under `lru`: one of the lowest rank, of those one of
    /// the oldest quarter of last access; and of two that came into their rank in that quarter, the one
    /// not used for longer.
    pub(crate) fn check_victim(&self, shard: usize, except: Option<Sid>, victim: &Sid) {
        let here = || {
            let here = move |s: &&Session| self.shard(&s.record.sid) == shard;
            self.present
                .values()
                .filter(here)
                .filter(move |s| Some(s.record.sid) != except)
        };
        if self.policy.eviction != Eviction::Lru {
            let next = here().min_by_key(|s| (self.list(s), s.order));
            let next = next.map(|s| s.record.sid);
            assert_eq!(next, Some(*victim), "the wrong victim");
            return;
        }
        let key = |s: &Session| (Self::rank(s), s.record.last_access);
        let still = |s: &Session| s.placed == s.record.last_access;
        let victim = here().find(|s| s.record.sid == *victim);
        let victim = victim.expect("a victim of this shard, not spared");
        for other in here() {
            assert!(key(victim) <= key(other), "another is older");
            if key(victim) == key(other) && still(victim) && still(other) {
                assert!(victim.order <= other.order, "another was used before it");
            }
        }
    }

    /// Live and unswept sessions with a subject, in order.
    pub(crate) fn with_subject(&self, subject: &str) -> Vec<Sid> {
        let mut sids: Vec<Sid> = self
            .present
            .values()
            .filter(|s| s.data.get("userId").is_some_and(|v| v == subject))
            .map(|s| s.record.sid)
            .collect();
        sids.sort();
        sids
    }
}
