//! A browser with several tabs, and a thief: who is served, and who is given a cookie.
//!
//! Each seed is one owner with one jar of cookies, whose requests run in parallel, come late, and lose
//! their responses, and one thief, who copies a cookie now and then, guesses, and plants a cookie of his
//! own before the owner has one. Judged after each act:
//!
//! - the owner's request is served if it took less than the grace to come, no login overtook it, and the
//!   thief was not the first to use what was offered to both;
//! - a copied secret is refused once the owner has used a newer one and the grace is over;
//! - nothing that was given out before a login is good after it, planted cookies included;
//! - a cookie is set only where none came, or a dead one, by a login, or as the offer to who presents the
//!   current secret: never for a refused request.
//!
//! What the world assumes: a response that takes longer than the grace to arrive is lost; the response to
//! a login arrives after those that were sent before it; whoever loses it logs in again.
//!
//! Replay one seed with `HOLDFAST_THEFT_SEED=n`; run more with `HOLDFAST_THEFT_SEEDS=n`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use holdfast_store::fields::Fields;
use holdfast_store::id::{Digest, NodeTag, Secret, Sid};
use holdfast_store::rotation::RotationKeys;
use holdfast_store::session::{Apply, Commands, Dead, Fresh, Policy, Refused, Target};
use holdfast_store::shard::{Attached, Home, LocalTotals, Shard};

use crate::Random;
use crate::world::presented;

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const START: u64 = 1_764_000_000_000;
const GRACE: u64 = 30 * SECOND;
/// A quarter of a second is what a time of first use is kept in.
const SLACK: u64 = 250;
/// Acts of one seed.
pub(crate) const STEPS: u64 = 60;

/// What the application answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Page {
    Plain,
    Writes,
    Rotates,
    Login,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Owner,
    Thief,
}

/// A request on its way.
struct Request {
    arrives: u64,
    sent: u64,
    /// The login whose response had arrived last when it was sent.
    login: u64,
    token: Option<Fresh>,
    page: Page,
}

/// A request at the application.
struct Waiting {
    done: u64,
    who: Who,
    token: Option<Fresh>,
    judged: Attached,
    created: Option<Fresh>,
    page: Page,
}

/// A response on its way to the owner.
struct Response {
    arrives: u64,
    token: Option<Fresh>,
    /// The number of the login that it answers.
    login: Option<u64>,
}

/// What is known of a token that was given out.
struct Given {
    sid: Sid,
    /// When, in the order of all that was given out.
    at: u64,
    /// First served to the owner; ms.
    owner_used: Option<u64>,
}

pub(crate) struct World {
    random: Random,
    now: u64,
    shard: Shard,
    jar: Option<Fresh>,
    requests: Vec<Request>,
    waiting: Vec<Waiting>,
    responses: Vec<Response>,
    loot: Vec<Fresh>,
    given: HashMap<[u8; 16], Given>,
    order: u64,
    last_login: HashMap<Sid, u64>,
    logins: u64,
    /// The newest login whose response the owner has.
    seen: u64,
    /// The thief was the first to use a secret of these sessions: what the owner holds may be retired.
    taken: HashSet<Sid>,
    pub(crate) tally: [u64; Tally::ALL],
}

/// What happened, so that nobody takes an idle world for a good one.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Tally {
    Offers,
    Used,
    Former,
    Retired,
    Logins,
    Planted,
    Stolen,
    Taken,
}

impl Tally {
    pub(crate) const ALL: usize = 8;
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random(seed ^ 0x7468_6965_6600);
        let policy = Policy {
            confirm: random.once_in(2),
            signed: true,
            rotate_interval: random.pick(&[0, MINUTE, 15 * MINUTE]),
            rotate_grace: GRACE,
            rotation: RotationKeys::new([&b"key of the simulator"[..]]),
            timeout: 0,
            ttl: 0,
            ..Policy::default()
        };
        let home = Home {
            shard: 0,
            shards: 1,
        };
        let totals = Box::new(LocalTotals::default());
        let shard = Shard::new(Arc::new(policy), home, NodeTag::new(3), totals);
        let mut world = Self {
            random,
            now: START,
            shard,
            jar: None,
            requests: Vec::new(),
            waiting: Vec::new(),
            responses: Vec::new(),
            loot: Vec::new(),
            given: HashMap::new(),
            order: 0,
            last_login: HashMap::new(),
            logins: 0,
            seen: 0,
            taken: HashSet::new(),
            tally: [0; Tally::ALL],
        };
        if world.random.once_in(3) {
            world.plant();
        } else {
            world.open();
        }
        world
    }

    /// The owner's first page, which arrives before he does anything else.
    fn open(&mut self) {
        let waiting = self.receive(Who::Owner, None, Page::Plain);
        self.jar = self.release(&waiting);
        assert!(self.jar.is_some(), "a first request gets a cookie");
    }

    /// The thief asks for a session of his own, uses it, and sees that the owner's browser has it.
    fn plant(&mut self) {
        let first = self.receive(Who::Thief, None, Page::Plain);
        let token = self.release(&first).expect("a cookie");
        self.thief(token, Page::Plain);
        self.loot.push(token);
        self.jar = Some(token);
        self.count(Tally::Planted);
    }

    pub(crate) fn step(&mut self) {
        self.now += match self.random.below(12) {
            0 => 20 * MINUTE,
            1..3 => self.random.below(2 * MINUTE),
            3..6 => self.random.below(5 * SECOND),
            _ => self.random.below(200),
        };
        self.deliver();
        match self.random.below(20) {
            0..13 => self.send(),
            13 => self.loot.extend(self.jar),
            14 => self.guess(),
            _ => self.steal(),
        }
    }

    /// A tab asks for something: seldom much later than it was sent, from a tab that slept.
    fn send(&mut self) {
        let page = match self.random.below(16) {
            0 => Page::Login,
            1 => Page::Rotates,
            2 => Page::Writes,
            _ => Page::Plain,
        };
        for _ in 0..=self.random.below(4) {
            let travel = match self.random.below(30) {
                0 => self.random.below(10 * MINUTE),
                1..4 => self.random.below(8 * SECOND),
                _ => self.random.below(150),
            };
            let page = if self.random.once_in(3) {
                Page::Plain
            } else {
                page
            };
            self.requests.push(Request {
                arrives: self.now + travel,
                sent: self.now,
                login: self.seen,
                token: self.jar,
                page,
            });
        }
    }

    /// Lets happen what is due by now, in the order of time.
    fn deliver(&mut self) {
        let until = self.now;
        loop {
            let next =
                |times: &mut dyn Iterator<Item = u64>| times.enumerate().map(|(i, t)| (t, i)).min();
            let request = next(&mut self.requests.iter().map(|r| r.arrives));
            let waiting = next(&mut self.waiting.iter().map(|w| w.done));
            let response = next(&mut self.responses.iter().map(|r| r.arrives));
            let kinds = [request, waiting, response];
            let first = kinds
                .iter()
                .enumerate()
                .filter_map(|(k, n)| n.map(|(t, i)| (t, k, i)));
            let Some((time, kind, index)) = first.min().filter(|(t, ..)| *t <= until) else {
                break;
            };
            self.now = time;
            match kind {
                0 => self.arrive(index),
                1 => self.answer(index),
                _ => {
                    let response = self.responses.remove(index);
                    self.jar = response.token.or(self.jar);
                    self.seen = response.login.unwrap_or(self.seen);
                }
            }
        }
        self.now = until;
    }

    fn arrive(&mut self, index: usize) {
        let Request {
            sent,
            login,
            token,
            page,
            ..
        } = self.requests.remove(index);
        let mut waiting = self.receive(Who::Owner, token, page);
        let late = self.now - sent >= GRACE || login != self.logins;
        let taken = token.is_some_and(|t| self.taken.contains(&t.sid));
        assert!(
            matches!(waiting.judged, Attached::Valid(_)) || late || taken,
            "the owner is logged out: {:?}",
            waiting.judged
        );
        waiting.done += match page {
            Page::Login => self.random.below(2 * SECOND),
            _ => self.random.below(300),
        };
        self.waiting.push(waiting);
    }

    fn answer(&mut self, index: usize) {
        let waiting = self.waiting.remove(index);
        let logins = self.logins;
        let token = self.release(&waiting);
        // Aborted, or the connection went: the response never arrives.
        if self.random.once_in(6) {
            return;
        }
        let travel = if self.random.once_in(8) {
            self.random.below(GRACE - SLACK)
        } else {
            self.random.below(200)
        };
        let mut arrives = self.now + travel;
        let login = (self.logins != logins).then_some(self.logins);
        if login.is_some() {
            let before = self.responses.iter().map(|r| r.arrives).max();
            arrives = arrives.max(before.unwrap_or(0) + 1);
        }
        self.responses.push(Response {
            arrives,
            token,
            login,
        });
    }

    /// The gateway judges a request, as its path does.
    fn receive(&mut self, who: Who, token: Option<Fresh>, page: Page) -> Waiting {
        let before = token.and_then(|t| self.current(&t.sid));
        let judged = match &token {
            Some(token) => self.shard.attach(&presented(token), self.now),
            None => Attached::Dead(Dead::Unknown),
        };
        if let (Attached::Valid(valid), Some(token)) = (&judged, &token) {
            assert_eq!(valid.digest, token.secret.digest());
            self.served(who, token);
            self.exchanged(who, token, before);
        }
        if matches!(judged, Attached::Refused(Refused::Retired)) {
            self.count(Tally::Retired);
        }
        let created = matches!(judged, Attached::Dead(_)).then(|| {
            let created = self.shard.create(self.now, &mut self.random);
            created.expect("room").token
        });
        Waiting {
            done: self.now,
            who,
            token,
            judged,
            created,
            page,
        }
    }

    fn served(&mut self, who: Who, token: &Fresh) {
        let (now, sid) = (self.now, token.sid);
        let given = self.given.get(&token.secret.0).expect("of ours");
        let at = given.at;
        let login = self.last_login.get(&sid).copied().unwrap_or(0);
        assert!(at >= login, "good after a login, though given before it");
        let newer = self.given_after(sid, at);
        if let Some(used) = newer {
            assert!(
                now < used + GRACE + SLACK,
                "good after the grace, though the owner has used a newer one"
            );
        }
        if who == Who::Owner
            && let Some(given) = self.given.get_mut(&token.secret.0)
        {
            given.owner_used.get_or_insert(now);
        }
        if who == Who::Thief {
            self.count(Tally::Stolen);
        }
    }

    /// What the use of a token did to the session's secret, which was `before`.
    fn exchanged(&mut self, who: Who, token: &Fresh, before: Option<Digest>) {
        let (current, used) = (self.current(&token.sid), token.secret.digest());
        if current != Some(used) {
            assert_eq!(current, before, "a former secret changes nothing");
            self.count(Tally::Former);
        } else if before.is_some_and(|before| before != used) {
            self.count(Tally::Used);
            if who == Who::Thief {
                self.taken.insert(token.sid);
                self.count(Tally::Taken);
            }
        }
    }

    fn count(&mut self, what: Tally) {
        self.tally[what as usize] += 1;
    }

    /// When the owner first used a secret of this session that was given out later than this one.
    fn given_after(&self, sid: Sid, at: u64) -> Option<u64> {
        let later = self.given.values().filter(|g| g.sid == sid && g.at > at);
        later.filter_map(|g| g.owner_used).min()
    }

    /// The response goes out: what it sets at the client.
    fn release(&mut self, waiting: &Waiting) -> Option<Fresh> {
        let mut commands = Commands::default();
        match waiting.page {
            Page::Plain => {}
            Page::Writes => commands.set = Fields::parse(b"{\"a\":1}").ok(),
            Page::Rotates => commands.rotate = true,
            Page::Login => commands.authenticate = Fields::parse(b"{\"userId\":\"u\"}").ok(),
        }
        let login = waiting.page == Page::Login;
        let target = match (&waiting.judged, &waiting.created) {
            (Attached::Valid(valid), _) => Target::Session {
                sid: valid.sid,
                digest: Some(valid.digest),
            },
            (_, Some(created)) => created.target(),
            _ => Target::None,
        };
        let before = waiting.token.map(|t| self.current(&t.sid));
        let apply = Apply {
            target,
            commands,
            traits: None,
        };
        let done = self.shard.apply(&apply, self.now, &mut self.random);
        let token = done.token.or(waiting.created.filter(|_| !done.gone));
        let fresh = token?;
        if matches!(waiting.judged, Attached::Refused(_)) {
            assert!(login, "a cookie for a refused request");
            assert_ne!(Some(fresh.sid), waiting.token.map(|t| t.sid));
        }
        if matches!(waiting.judged, Attached::Valid(_)) && !login {
            let digest = waiting.token.map(|t| t.secret.digest());
            assert_eq!(before.flatten(), digest, "an offer for a former secret");
            assert_eq!(self.current(&fresh.sid), digest, "an offer changes nothing");
            self.count(Tally::Offers);
        }
        let known = self.given.contains_key(&fresh.secret.0);
        if !known {
            self.order += 1;
            let given = Given {
                sid: fresh.sid,
                at: self.order,
                owner_used: None,
            };
            self.given.insert(fresh.secret.0, given);
        }
        if login && done.token.is_some() {
            self.last_login.insert(fresh.sid, self.order);
            match waiting.who {
                Who::Owner => self.logins += 1,
                Who::Thief => unreachable!("he does not log in"),
            }
            self.count(Tally::Logins);
            self.taken.remove(&fresh.sid);
        }
        Some(fresh)
    }

    fn current(&self, sid: &Sid) -> Option<Digest> {
        let view = self.shard.get(sid, self.now)?;
        view.record.secrets.first().map(|s| s.digest)
    }

    /// The thief asks, and keeps what he is given.
    fn thief(&mut self, token: Fresh, page: Page) {
        let waiting = self.receive(Who::Thief, Some(token), page);
        let set = self.release(&waiting);
        self.loot.extend(set);
    }

    fn steal(&mut self) {
        if self.loot.is_empty() {
            return;
        }
        let token = self.random.pick(&self.loot);
        self.thief(token, Page::Plain);
    }

    fn guess(&mut self) {
        let Some(jar) = self.jar else { return };
        let secret = Secret::random(&mut self.random);
        let guessed = Fresh { secret, ..jar };
        if jar.unconfirmed && self.shard.get(&jar.sid, self.now).is_none() {
            // Its record does not exist: only its signature speaks for it, which nobody can guess.
            return;
        }
        let judged = self.shard.attach(&presented(&guessed), self.now);
        assert_eq!(judged, Attached::Refused(Refused::UnknownSecret));
    }

    /// The oracle that holds when all has arrived: the owner can go on.
    pub(crate) fn settle(&mut self) {
        self.now += 30 * MINUTE;
        self.deliver();
        let Some(jar) = self.jar else { return };
        if self.taken.contains(&jar.sid) || self.seen != self.logins {
            return;
        }
        let judged = self.shard.attach(&presented(&jar), self.now);
        assert!(
            matches!(judged, Attached::Valid(_)),
            "logged out: {judged:?}"
        );
    }
}
