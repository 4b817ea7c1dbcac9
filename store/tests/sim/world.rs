//! The world of one seed: shards, the tokens that clients hold, and what is done with them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use holdfast_store::event::{Event, EventKind};
use holdfast_store::fields::{Fields, Name};
use holdfast_store::id::{Digest, NodeTag, Sid};
use holdfast_store::record::Record;
use holdfast_store::rotation::RotationKeys;
use holdfast_store::session::{
    Applied, Apply, Commands, Dead, Destroy, Eviction, Fresh, Policy, Reason, Refused, Target,
};
use holdfast_store::shard::{Attached, Home, LocalTotals, Shard};
use holdfast_store::time::Quarter;
use holdfast_store::token::{Kind, Presented, Signature};

use crate::Random;
use crate::model::{self, Known, Model};

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const START: u64 = 1_764_000_000_000;

pub(crate) struct World {
    random: Random,
    now: u64,
    shards: Vec<Shard>,
    totals: LocalTotals,
    model: Model,
    /// Every token ever given to a client.
    tokens: Vec<Fresh>,
    /// Records seen earlier, with what they were.
    snapshots: Vec<(Record, bool)>,
    /// No long pauses: sessions are evicted rather than expire.
    calm: bool,
}

fn policy(random: &mut Random) -> Policy {
    let defaults = vec![(Name::new("since"), "\"${timestamp}\"".to_owned())];
    Policy {
        timeout: random.pick(&[5 * SECOND, MINUTE, 30 * MINUTE]),
        rolling: !random.once_in(3),
        ttl: random.pick(&[0, 10 * MINUTE, 24 * 60 * MINUTE]),
        inactive: random.pick(&[0, 0, 20 * SECOND]),
        max_sessions: random.pick(&[3, 12, 40]),
        max_bytes: u64::MAX,
        eviction: random.pick(&[Eviction::Lru, Eviction::Lfu, Eviction::Ttl]),
        confirm: random.once_in(2),
        signed: random.once_in(2),
        max_size: 120,
        rotate_interval: random.pick(&[0, 20 * SECOND]),
        rotate_grace: random.pick(&[0, 5 * SECOND]),
        rotation: RotationKeys::new([&b"key of the simulator"[..]]),
        defaults: if random.once_in(2) {
            defaults
        } else {
            Vec::new()
        },
        seeds: [random.word(), random.word(), random.word(), random.word()],
        ..Policy::default()
    }
}

pub(crate) fn presented(token: &Fresh) -> Presented {
    let kind = Kind::CookieOrHeader;
    Presented {
        sid: token.sid,
        digest: token.secret.digest(),
        kind,
        through: kind,
        unconfirmed: token.unconfirmed,
        issued: token.issued,
        tag: token.tag,
        signature: Signature::Verified,
    }
}

fn shown(json: &[u8]) -> BTreeMap<String, String> {
    if json.is_empty() {
        return BTreeMap::new();
    }
    let fields = Fields::parse(json).unwrap();
    let text = |b: &[u8]| String::from_utf8(b.to_vec()).unwrap();
    fields
        .iter()
        .map(|f| (text(f.name.as_bytes()), text(f.value.as_deref().unwrap())))
        .collect()
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let policy = policy(&mut random);
        let calm = random.once_in(2);
        let count = random.below(3) as usize + 1;
        let (shared, totals) = (Arc::new(policy.clone()), LocalTotals::default());
        let make = |shard| {
            let home = Home {
                shard,
                shards: count,
            };
            Shard::new(
                shared.clone(),
                home,
                NodeTag::new(7),
                Box::new(totals.clone()),
            )
        };
        Self {
            shards: (0..count).map(make).collect(),
            model: Model::new(policy, count),
            now: START,
            totals,
            random,
            tokens: Vec::new(),
            snapshots: Vec::new(),
            calm,
        }
    }

    pub(crate) fn step(&mut self) {
        match self.random.below(100) {
            0..20 => self.advance(),
            20..32 => self.create(),
            32..62 => self.attach(),
            62..86 => self.apply(),
            86..90 => self.destroy(),
            90..94 => self.sweep(),
            94..97 => self.snapshot(),
            _ => self.merge(),
        }
    }

    fn advance(&mut self) {
        let most = match self.random.below(20) {
            0..4 if self.calm => SECOND / 4,
            0 => 12 * 60 * MINUTE,
            1..4 => 10 * MINUTE,
            4..10 => SECOND / 4,
            _ => 4 * SECOND,
        };
        self.now += self.random.below(most);
    }

    fn create(&mut self) {
        let shard = self.random.below(self.shards.len() as u64) as usize;
        let created = self.shards[shard]
            .create(self.now, &mut self.random)
            .unwrap();
        assert_eq!(self.model.shard(&created.token.sid), shard, "born at home");
        assert_eq!(created.slot.is_none(), self.model.policy.confirm);
        self.tokens.push(created.token);
        if created.slot.is_some() {
            self.admit(created.token.sid, false);
        }
        self.follow(shard, Some(created.token.sid), &[]);
    }

    /// Tells the model of a session that a shard has just made.
    fn admit(&mut self, sid: Sid, presented: bool) {
        let view = self.view(&sid).expect("a new session is there");
        assert!(
            !self.model.destroyed.contains_key(&sid),
            "destroyed, and back"
        );
        self.model.admit(view.record, presented, self.now);
    }

    fn view(&self, sid: &Sid) -> Option<holdfast_store::session::View> {
        self.shards[self.model.shard(sid)].get(sid, self.now)
    }

    /// Judges what a shard says has ended. `except` is spared by eviction, `destroyed` are expected.
    fn follow(&mut self, shard: usize, except: Option<Sid>, destroyed: &[Sid]) {
        let mut events = Vec::new();
        self.shards[shard].drain_events(&mut events);
        let mut expected: HashSet<Sid> = destroyed.iter().copied().collect();
        for Event { kind, sid, .. } in events {
            let sid = sid.unwrap();
            match kind {
                EventKind::SessionExpired => {
                    let session = self.model.present.get(&sid).expect("expired once");
                    assert!(self.model.expires(session) <= self.now, "expired early");
                    self.model.present.remove(&sid);
                }
                EventKind::SessionEvicted => {
                    let count = self.model.present.len() as u64;
                    assert!(
                        count > self.model.policy.max_sessions,
                        "evicted without need"
                    );
                    self.model.check_victim(shard, except, &sid);
                    self.model.present.remove(&sid);
                }
                EventKind::SessionDestroyed => {
                    assert!(expected.remove(&sid), "destroyed without being asked");
                    let session = self.model.present.remove(&sid).expect("destroyed once");
                    let until = self.tombstone_end(session.record.created);
                    self.model.destroyed.insert(sid, until);
                }
                _ => {}
            }
        }
        assert!(expected.is_empty(), "not destroyed: {expected:?}");
    }

    fn tombstone_end(&self, created: u64) -> u64 {
        let policy = &self.model.policy;
        let created = created + holdfast_store::time::EPOCH_MS;
        let mut end = self.now + policy.tombstone_ttl;
        if policy.ttl > 0 {
            end = end.min(created + policy.ttl);
        }
        if !policy.rolling {
            end = end.min(created + policy.timeout);
        }
        end
    }

    fn some_token(&mut self) -> Option<Fresh> {
        // Mostly of late.
        let len = self.tokens.len() as u64;
        let back = if self.random.once_in(4) {
            len
        } else {
            len.min(30)
        };
        (len > 0).then(|| self.tokens[(len - 1 - self.random.below(back)) as usize])
    }

    fn attach(&mut self) {
        let Some(token) = self.some_token() else {
            return;
        };
        let mut asked = presented(&token);
        match self.random.below(20) {
            0 => asked.digest = Digest([3; 16]),
            1 => asked.through = Kind::Query,
            2 => asked.signature = Signature::Absent,
            3 if !self.model.policy.signed => asked.signature = Signature::Unread,
            _ => {}
        }
        let expected = self.judge(&asked);
        let shard = self.model.shard(&asked.sid);
        let attached = self.shards[shard].attach(&asked, self.now);
        match attached {
            Attached::Valid(valid) => {
                assert_eq!(expected, Ok(valid.confirmed), "served");
                self.served(shard, valid);
            }
            Attached::Dead(dead) => assert_eq!(expected, Err(Ok(dead))),
            Attached::Refused(refused) => assert_eq!(expected, Err(Err(refused))),
            Attached::Rejected(check) => panic!("nothing is checked: {check:?}"),
        }
        self.follow(shard, Some(asked.sid), &[]);
    }

    fn served(&mut self, shard: usize, valid: holdfast_store::shard::Valid) {
        if valid.confirmed {
            self.admit(valid.sid, true);
        } else {
            assert_eq!(self.model.present[&valid.sid].conflict, valid.conflict);
            let record = self.view(&valid.sid).expect("it was served").record;
            self.model.exchanged(&valid, record, self.now);
            self.model.touch(&valid.sid, self.now);
        }
        let mut json = Vec::new();
        self.shards[shard].write_json(valid.slot, self.now, &mut json);
        let session = &self.model.present[&valid.sid];
        assert_eq!(shown(&json), session.data);
        assert_eq!(
            (valid.version, valid.authenticated),
            (session.version, Model::authenticated(session))
        );
    }

    /// `Ok(confirmed)` where the token must be served.
    fn judge(&self, asked: &Presented) -> Result<bool, Result<Dead, Refused>> {
        let policy = &self.model.policy;
        if asked.through != asked.kind {
            return Err(Err(Refused::WrongKind));
        }
        if let Some(session) = self.model.present.get(&asked.sid) {
            if self.model.expires(session) <= self.now {
                return Err(Ok(Dead::Expired));
            }
            match self.model.know(session, &asked.digest, self.now) {
                Known::Retired => return Err(Err(Refused::Retired)),
                Known::Never => return Err(Err(Refused::UnknownSecret)),
                Known::Current | Known::Pending | Known::Grace => {}
            }
            if asked.signature == Signature::Absent && policy.signed && session.record.signed {
                return Err(Ok(Dead::Forged));
            }
            return Ok(false);
        }
        if self.shards[self.model.shard(&asked.sid)].is_tombstoned(&asked.sid) {
            return Err(Ok(Dead::Destroyed));
        }
        if !asked.unconfirmed {
            let over = policy.ttl > 0 && u64::from(asked.issued) * 1000 + policy.ttl <= self.now;
            return Err(Ok(if over { Dead::Expired } else { Dead::Unknown }));
        }
        if asked.signature != Signature::Verified {
            return Err(Ok(Dead::Forged));
        }
        let over = self.model.storeless_end(asked.issued) <= self.now;
        if over {
            Err(Ok(Dead::Expired))
        } else {
            Ok(true)
        }
    }

    fn commands(&mut self) -> Commands {
        let mut commands = Commands::default();
        let user = self.random.below(4);
        match self.random.below(16) {
            0 => commands.create = true,
            1 => commands.rotate = true,
            7 => commands.retire = true,
            2..5 => {
                commands.authenticate =
                    Fields::parse(format!("{{\"userId\":\"u{user}\"}}").as_bytes()).ok()
            }
            5 => commands.timeout = Some(self.random.pick(&[0, 2 * SECOND, MINUTE])),
            6 => {
                commands.destroy =
                    Some(
                        self.random
                            .pick(&[Destroy::This, Destroy::Others, Destroy::All]),
                    )
            }
            _ => {
                let name = self.random.pick(&["a", "b", "c", "userId", "version"]);
                let value = match self.random.below(5) {
                    0 => "null".to_owned(),
                    1 => format!("\"{}\"", "x".repeat(self.random.below(120) as usize)),
                    _ => format!("\"u{user}\""),
                };
                commands.set = Fields::parse(format!("{{\"{name}\":{value}}}").as_bytes()).ok();
                commands.if_version = self.random.once_in(4).then(|| self.random.below(6));
            }
        }
        commands
    }

    fn apply(&mut self) {
        let Some(token) = self.some_token() else {
            return;
        };
        let target = if self.random.once_in(30) {
            Target::None
        } else {
            token.target()
        };
        let commands = self.commands();
        let shard = match target {
            Target::None => self.random.below(self.shards.len() as u64) as usize,
            _ => self.model.shard(&token.sid),
        };
        // What may end, as the model sees it before.
        let live = target != Target::None && self.model.is_live(&token.sid, self.now);
        let subject = self
            .model
            .present
            .get(&token.sid)
            .and_then(|s| s.data.get("userId").cloned());
        let apply = Apply {
            target,
            commands,
            traits: None,
        };
        let gone = target != Target::None
            && self.model.destroyed.contains_key(&token.sid)
            && self.shards[shard].is_tombstoned(&token.sid);
        let done = self.shards[shard].apply(&apply, self.now, &mut self.random);
        if gone {
            assert!(
                done.gone && done.token.is_none(),
                "answered for what was destroyed: {done:?}"
            );
        }
        let destroyed =
            self.expected_ends(&apply.commands, &token.sid, live, subject.as_deref(), shard);
        assert_eq!(done.destroyed as usize, destroyed.len());
        self.learn(&apply, &token, live, &done);
        self.follow(shard, done.session, &destroyed);
        self.elsewhere(&done, shard);
    }

    fn expected_ends(
        &self,
        commands: &Commands,
        sid: &Sid,
        live: bool,
        subject: Option<&str>,
        shard: usize,
    ) -> Vec<Sid> {
        let Some(destroy) = commands.destroy.filter(|_| live) else {
            return Vec::new();
        };
        let mut ends: Vec<Sid> = match (destroy, subject) {
            (Destroy::This, _) | (_, None) => Vec::new(),
            (_, Some(subject)) => self.model.with_subject(subject),
        };
        ends.retain(|s| {
            s != sid && self.model.shard(s) == shard && self.model.is_live(s, self.now)
        });
        if destroy != Destroy::Others {
            ends.push(*sid);
        }
        ends
    }

    /// Carries over to the other shards what a response began, as the caller of a shard must.
    fn elsewhere(&mut self, done: &Applied, origin: usize) {
        let Some(elsewhere) = &done.elsewhere else {
            return;
        };
        let subject = String::from_utf8(elsewhere.subject.to_vec()).unwrap();
        for shard in (0..self.shards.len()).filter(|s| *s != origin) {
            let mut ends = self.model.with_subject(&subject);
            ends.retain(|s| self.model.shard(s) == shard && self.model.is_live(s, self.now));
            let except = elsewhere.except.as_ref();
            let turn = self.shards[shard].destroy_subject(
                subject.as_bytes(),
                except,
                Reason::Subject,
                self.now,
            );
            assert_eq!((turn.count as usize, turn.more), (ends.len(), false));
            self.follow(shard, None, &ends);
        }
    }

    /// Compares what a response did with what it should have done, and takes it into the model.
    fn learn(&mut self, apply: &Apply, token: &Fresh, live: bool, done: &Applied) {
        if let Some(fresh) = done.token {
            self.tokens.push(fresh);
        }
        let Some(sid) = done.session else { return };
        if done.created {
            self.admit(sid, false);
            self.model.change(&sid, None, |session| {
                session.conflict = done.conflict;
                session.asked = apply.commands.rotate;
            });
            let session = &self.model.present[&sid];
            assert_eq!(
                Model::authenticated(session),
                apply.commands.authenticate.is_some()
            );
            return;
        }
        if !live || sid != token.sid {
            assert!(
                !self.model.present.contains_key(&sid),
                "storeless, or nothing done"
            );
            return;
        }
        let session = &self.model.present[&sid];
        let digest = token.secret.digest();
        let stale = session.record.secrets[0].digest != digest;
        let passed = stale && !self.model.was_exchanged(session, &digest);
        let offer = !stale && self.model.offers(session, apply.commands.rotate, self.now);
        let view = self.view(&sid);
        self.expect_data(apply, done, &sid, passed);
        let commands = &apply.commands;
        if commands.authenticate.is_some() {
            assert_eq!(done.token.is_some(), !passed && !done.too_large);
            assert_eq!(done.lost, passed);
        } else if commands.retire {
            assert_eq!(done.token.is_some(), !stale);
            assert_eq!(done.lost, stale);
        } else {
            assert_eq!(done.token.is_some(), offer, "an offer");
            assert_eq!(done.lost, commands.rotate && stale);
        }
        if commands.rotate && !stale {
            self.model
                .change(&sid, None, |session| session.asked = true);
        }
        // A timeout may have ended it at once: then there is nothing more to learn but the timeout.
        let Some(view) = view else {
            let ms = apply.commands.timeout.expect("nothing else ends a session");
            let stamp = holdfast_store::hlc::Stamp {
                clock: u64::MAX,
                tag: 0,
            };
            self.model.change(&sid, None, |s| {
                s.record.idle = Some(holdfast_store::record::Idle { stamp, ms })
            });
            return;
        };
        let made = commands.authenticate.is_some() || commands.retire;
        self.model.change(&sid, None, |session| {
            session.asked &= session.record.secrets[0].digest == view.record.secrets[0].digest;
            session.record = view.record;
        });
        let session = &self.model.present[&sid];
        assert_eq!(
            (view.version, shown(&view.data)),
            (session.version, session.data.clone())
        );
        if let Some(fresh) = done.token.filter(|_| made) {
            assert_eq!(session.record.secrets[0].digest, fresh.secret.digest());
        }
    }

    /// The data after `set` and `authenticate`.
    fn expect_data(&mut self, apply: &Apply, done: &Applied, sid: &Sid, passed: bool) {
        let commands = &apply.commands;
        let Some(session) = self.model.present.get_mut(sid) else {
            return;
        };
        let fields = commands.set.as_ref().or(commands.authenticate.as_ref());
        let Some(field) = fields.and_then(|f| f.iter().next()) else {
            return;
        };
        let name = String::from_utf8(field.name.as_bytes().to_vec()).unwrap();
        let value = field
            .value
            .as_ref()
            .map(|v| String::from_utf8(v.to_vec()).unwrap());
        if commands.authenticate.is_some() && passed && session.data.get(&name) != value.as_ref() {
            return;
        }
        if commands.set.is_some() && commands.if_version.is_some_and(|v| v != session.version) {
            assert!(done.conflict);
            session.conflict = true;
            return;
        }
        if name == "version" {
            assert_eq!(done.dropped, 1, "built in");
            return;
        }
        let mut data = session.data.clone();
        match value {
            Some(value) => data.insert(name, value),
            None => data.remove(&name),
        };
        let size: usize = data
            .iter()
            .map(|(n, v)| n.len() + v.len() + 4)
            .sum::<usize>()
            + 1;
        assert_eq!(done.too_large, size > 120 && !data.is_empty());
        if !done.too_large {
            session.data = data;
            session.version += 1;
        }
    }

    fn destroy(&mut self) {
        let Some(token) = self.some_token() else {
            return;
        };
        let (sid, shard) = (token.sid, self.model.shard(&token.sid));
        let live = self.model.is_live(&sid, self.now);
        let expected: &[Sid] = if live { &[sid] } else { &[] };
        if self.random.once_in(3) {
            let until = self.now + 24 * 60 * MINUTE;
            let dead = Record {
                destroyed: Some(until),
                ..Record::change(sid, 0, NodeTag::new(1))
            };
            // A destroy from elsewhere names no expiry: it ends what is there.
            let there: Vec<Sid> = self
                .model
                .present
                .keys()
                .filter(|s| **s == sid)
                .copied()
                .collect();
            let effect = self.shards[shard].merge(&dead, self.now);
            assert_eq!(effect.destroyed, !there.is_empty());
            self.follow(shard, None, &there);
            self.model.destroyed.insert(sid, until);
            return;
        }
        assert_eq!(
            self.shards[shard].destroy(&sid, Reason::Admin, self.now),
            live
        );
        self.follow(shard, None, expected);
    }

    fn sweep(&mut self) {
        let shard = self.random.below(self.shards.len() as u64) as usize;
        let batch = self.random.below(9) as usize + 1;
        let report = self.shards[shard].sweep(self.now, batch);
        assert!(report.examined <= batch && report.expired <= report.examined);
        self.follow(shard, None, &[]);
    }

    fn snapshot(&mut self) {
        let Some(token) = self.some_token() else {
            return;
        };
        if let Some(view) = self.view(&token.sid) {
            self.snapshots.push((view.record, true));
        }
    }

    /// A record of earlier comes back, as from a peer.
    fn merge(&mut self) {
        if self.snapshots.is_empty() {
            return;
        }
        let mut record = self.snapshots[self.random.below(self.snapshots.len() as u64) as usize]
            .0
            .clone();
        if self.random.once_in(2) {
            // It has been used there meanwhile.
            let ago = self.random.below(4 * SECOND);
            record.last_access = record.last_access.max(Quarter::of(self.now - ago));
        }
        let (sid, shard) = (record.sid, self.model.shard(&record.sid));
        let remembered = self.shards[shard].is_tombstoned(&sid);
        let was_present = self.model.present.contains_key(&sid);
        // Past its tombstone a record of something destroyed has no way to come back: nobody holds it.
        if self.model.destroyed.contains_key(&sid) && !remembered {
            return;
        }
        let effect = self.shards[shard].merge(&record, self.now);
        if remembered {
            assert!(
                !effect.created && !effect.changed,
                "merged over a tombstone"
            );
        } else if was_present {
            assert!(!effect.created);
            let mut joined = self.model.present[&sid].record.clone();
            joined.join(&record);
            self.model
                .change(&sid, None, |s| s.record.last_access = joined.last_access);
            // What has expired is not shown, and is what the join says.
            let record = self.view(&sid).map_or(joined, |view| view.record);
            self.rejoin(&sid, record);
        } else if effect.created {
            let requests: u32 = record.counters.iter().map(|c| c.requests).sum();
            self.admit(sid, requests > 1);
        } else {
            // It had expired: in and out again.
            let mut events = Vec::new();
            self.shards[shard].drain_events(&mut events);
            assert!(
                events
                    .iter()
                    .any(|e| e.kind == EventKind::SessionExpired && e.sid == Some(sid))
            );
        }
        self.follow(shard, Some(sid), &[]);
    }

    fn rejoin(&mut self, sid: &Sid, record: Record) {
        self.model.change(sid, None, |session| {
            session.data = model::visible(&record);
            session.version = record.version();
            session.asked &= session.record.secrets[0].digest == record.secrets[0].digest;
            session.requests = record.counters.iter().map(|c| u64::from(c.requests)).sum();
            session.record = record;
        });
    }

    /// The oracle.
    pub(crate) fn check(&mut self, all: bool) {
        let mut held = 0;
        for shard in &self.shards {
            let c = shard.counts();
            assert_eq!(
                c.created + c.received - c.destroyed - c.expired - c.evicted,
                shard.len() as u64
            );
            assert_eq!(c.searches_cut, 0, "few enough to look at all");
            held += shard.len();
        }
        assert_eq!(held, self.model.present.len());
        assert_eq!(self.totals.get().0, held as u64);
        assert!(held as u64 <= self.model.policy.max_sessions + self.shards.len() as u64);
        if all {
            self.check_sessions();
        }
    }

    fn check_sessions(&mut self) {
        for (sid, session) in &self.model.present {
            let expires = self.model.expires(session);
            let view = self.view(sid);
            assert_eq!(
                view.is_some(),
                expires > self.now,
                "served exactly while alive"
            );
            let Some(view) = view else { continue };
            assert_eq!(view.expires.unwrap_or(u64::MAX), expires);
            assert_eq!(shown(&view.data), session.data);
            assert_eq!(
                (view.version, view.requests),
                (session.version, session.requests)
            );
            assert_eq!(view.record.last_access, session.record.last_access);
        }
        for (sid, until) in &self.model.destroyed {
            assert!(self.view(sid).is_none(), "destroyed, and back");
            let shard = &self.shards[self.model.shard(sid)];
            assert!(
                *until <= self.now || shard.is_tombstoned(sid),
                "forgotten too early"
            );
        }
        for user in 0..4 {
            let subject = format!("\"u{user}\"");
            let mut found: Vec<Sid> = Vec::new();
            for shard in &self.shards {
                found.extend(shard.find_by(&Name::new("userId"), subject.as_bytes()));
            }
            found.sort();
            assert_eq!(found, self.model.with_subject(&subject));
        }
    }
}
