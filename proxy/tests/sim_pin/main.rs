//! A seeded simulator of affinity: clients with every kind of pin, over upstreams that come, drain, fail,
//! return and go, on several cores with one table, against a shadow model.
//!
//! The model knows where each client belongs. The oracles:
//! - a client moves only when he is told to: his upstream is `down`, `maint` or gone, could not be reached,
//!   has given him up, ended his pin, or his pin has run out;
//! - nobody is ever sent to an upstream that is `down`, `maint`, or was tried, and no new client to one that
//!   drains;
//! - adding an upstream moves nobody;
//! - parallel first requests of one client end at one upstream;
//! - a signed pin with any changed byte is a miss, and its client is served nevertheless.
//!
//! Seeds: 256 by default. `HOLDFAST_SIM_SEED` replays one, `HOLDFAST_SIM_SEEDS` sets how many.

mod plan;

use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use UpstreamState::{Down, Drain, Maint, Ready};
use holdfast::pin::choose::{Candidate, Tried};
use holdfast::pin::ids::UpstreamTag;
use holdfast::pin::policy::{
    Action, CookieAction, CookiePin, CoreState, Decider, Keys, Outcome, RulePolicy, Step, Verdict,
    View,
};
use holdfast::pin::state::{UpstreamState, Usable};
use holdfast::pin::table::TableKey;
use holdfast_config::plan::{Affinity, Balancing, PinEncoding};
use plan::{Client, Kind, Rng, Server, affinity, policy, service};

const STEPS: u32 = 1500;
const CLIENTS: usize = 40;
const KEY: [u8; 32] = [3; 32];
const DURATION_MIN: u32 = 60;

struct World {
    rng: Rng,
    kind: Kind,
    affinity: Affinity,
    balancing: Balancing,
    services: usize,
    drain: (Duration, u32),
    servers: Vec<Server>,
    born: u32,
    policy: Rc<RulePolicy>,
    cores: Vec<CoreState>,
    table: HashMap<TableKey, (UpstreamTag, u32)>,
    clients: Vec<Client>,
    now_ms: u64,
    minute: u32,
    /// Upstreams end no pins meanwhile.
    calm: bool,
    /// Requests that followed a pin; requests in all.
    hits: u32,
    requests: u32,
}

/// One request on its way.
struct Flight<'p> {
    client: usize,
    core: usize,
    decider: Decider<&'p RulePolicy>,
    tried: Tried,
    held: bool,
    done: Option<Verdict>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let kind = rng.pick(&[
            Kind::Cookie,
            Kind::Source,
            Kind::Header,
            Kind::Session,
            Kind::Both,
        ]);
        let balancing = rng.pick(&[
            Balancing::RoundRobin,
            Balancing::LeastConnections,
            Balancing::RandomTwo,
            Balancing::ConsistentHash,
        ]);
        let affinity = affinity(kind, &mut rng);
        let drain = (
            Duration::from_secs(rng.pick(&[0, 0, 30])),
            rng.pick(&[0, 0, 2]),
        );
        let mut world = Self {
            kind,
            balancing,
            services: 1 + rng.below(2),
            drain,
            servers: Vec::new(),
            born: 0,
            policy: Rc::new(policy(&affinity, &service(balancing, &[], drain), 1)),
            affinity,
            cores: Vec::new(),
            table: HashMap::new(),
            clients: Vec::new(),
            now_ms: 0,
            minute: 29_000_000,
            calm: false,
            hits: 0,
            requests: 0,
            rng,
        };
        for number in 0..CLIENTS {
            let number = u8::try_from(number).unwrap();
            world.clients.push(Client {
                number,
                cart: b'0' + number,
                kind,
                cookie: None,
                cookie_used: 0,
                belongs: None,
                last_use: 0,
            });
        }
        let cores = 1 + world.rng.below(4);
        let empty = service(balancing, &[], drain);
        world.cores = (0..cores)
            .map(|core| CoreState::new(&empty, core, cores))
            .collect();
        (0..3).for_each(|_| world.add());
        world
    }

    fn add(&mut self) {
        let server = Server {
            id: format!("u{}", self.born),
            weight: self.rng.pick(&[1, 1, 2, 5]),
            backup: self.rng.one_in(6),
            state: Ready,
            unreachable: false,
            draining_since: None,
        };
        self.born += 1;
        // Anywhere: positions must mean nothing.
        let at = self.rng.below(self.servers.len() + 1);
        self.servers.insert(at, server);
        self.reload();
    }

    /// The upstreams changed: all that is made from them is made anew.
    fn reload(&mut self) {
        let service = service(self.balancing, &self.servers, self.drain);
        self.policy = Rc::new(policy(&self.affinity, &service, self.services));
        let cores = self.cores.len();
        for (number, core) in self.cores.iter_mut().enumerate() {
            *core = CoreState::new(&service, number, cores);
            for (at, server) in self.servers.iter().enumerate() {
                core.drains.set(at, server.draining_since);
            }
        }
    }

    fn change(&mut self) {
        if self.servers.len() < 2 || self.rng.one_in(4) && self.servers.len() < 9 {
            let before: Vec<_> = self
                .clients
                .iter()
                .map(|client| client.belongs.clone())
                .collect();
            self.add();
            self.calm = true;
            self.nobody_moves(&before, "an upstream was added");
            self.calm = false;
            return;
        }
        let at = self.rng.below(self.servers.len());
        match self.rng.below(8) {
            0 => {
                self.servers.remove(at);
                self.reload();
            }
            1 => self.servers[at].unreachable ^= true,
            2 => self.services = 3 - self.services,
            choice => {
                let state = [Ready, Ready, Drain, Down, Maint][choice - 3];
                self.servers[at].state = state;
                self.servers[at].draining_since = (state == Drain).then_some(self.now_ms);
                for core in &mut self.cores {
                    core.drains.set(at, self.servers[at].draining_since);
                }
            }
        }
        self.reload_policy_for_names();
    }

    fn reload_policy_for_names(&mut self) {
        let service = service(self.balancing, &self.servers, self.drain);
        self.policy = Rc::new(policy(&self.affinity, &service, self.services));
    }

    /// Every client whose upstream may serve him goes there still.
    fn nobody_moves(&mut self, belongs: &[Option<String>], why: &str) {
        for (client, belongs) in belongs.iter().enumerate() {
            let Some(server) = belongs.as_ref().and_then(|id| self.server(id)) else {
                continue;
            };
            if server.state == Ready && !server.unreachable && self.pin_alive(client) {
                self.request(client);
                assert_eq!(
                    self.clients[client].belongs, *belongs,
                    "client {client} moved because {why}"
                );
            }
        }
    }

    fn server(&self, id: &str) -> Option<&Server> {
        self.servers.iter().find(|server| server.id == id)
    }

    /// Does anything still hold this client's pin?
    fn pin_alive(&self, client: usize) -> bool {
        let client = &self.clients[client];
        let cookie = client.cookie.is_some() && self.minute - client.cookie_used <= DURATION_MIN;
        // Behind a cookie the table may have grown old, or hold what could not be reached.
        let table = self.kind != Kind::Cookie
            && client.cookie.is_none()
            && self.minute - client.last_use < DURATION_MIN;
        client.belongs.is_some() && (cookie || table)
    }

    fn candidates(&mut self) -> Vec<Candidate> {
        let candidate = |server: &Server| Candidate {
            state: server.state,
            weight: server.weight,
            backup: server.backup,
            full: false,
            active: 0,
        };
        let mut candidates: Vec<_> = self.servers.iter().map(candidate).collect();
        for candidate in &mut candidates {
            candidate.active = u32::try_from(self.rng.below(9)).unwrap();
            candidate.full = self.rng.one_in(9);
        }
        candidates
    }

    fn cookie_pin(&self, client: usize) -> CookiePin {
        match (self.policy.cookie(), &self.clients[client].cookie) {
            (Some(policy), Some((name, value))) => {
                policy.read(name.as_bytes(), value, self.minute, CookiePin::Absent)
            }
            _ => CookiePin::Absent,
        }
    }

    fn start<'p>(
        &mut self,
        policy: &'p RulePolicy,
        client: usize,
        cookie: CookiePin,
    ) -> Flight<'p> {
        self.requests += 1;
        let keys: Keys = policy.keys(&self.clients[client]);
        Flight {
            client,
            core: self.rng.below(self.cores.len()),
            decider: Decider::new(policy, cookie, keys),
            tried: Tried::new(),
            held: false,
            done: None,
        }
    }

    /// One step of one request: a question to the table, or its end.
    fn fly(&mut self, flight: &mut Flight<'_>) {
        let candidates = self.candidates();
        let (now_ms, now_minute, random) = (self.now_ms, self.minute, self.rng.next());
        let view = View {
            candidates: &candidates,
            tried: &flight.tried,
            now_ms,
            now_minute,
            random,
        };
        match flight.decider.step(&view, &mut self.cores[flight.core]) {
            Step::Look { key, .. } => {
                let held = self
                    .table
                    .get_mut(&key)
                    .filter(|held| self.minute - held.1 < DURATION_MIN);
                flight.decider.answer(held.map(|held| {
                    held.1 = self.minute;
                    held.0
                }));
            }
            Step::Claim {
                key, tag, replaces, ..
            } => {
                let held = self
                    .table
                    .get(&key)
                    .filter(|held| self.minute - held.1 < DURATION_MIN);
                let made = held.is_none_or(|held| Some(held.0) == replaces);
                let tag = if made {
                    tag
                } else {
                    held.map_or(tag, |held| held.0)
                };
                self.table.insert(key, (tag, self.minute));
                flight.decider.answer_claim(Some(tag), made);
            }
            Step::Hold { upstream, .. } => {
                flight.held = true;
                if flight.tried.contains(upstream) && self.rng.one_in(2) {
                    flight.tried.remove(upstream);
                } else {
                    flight.decider.waited();
                }
            }
            Step::Decided(verdict) => self.decided(flight, verdict, &candidates),
        }
    }

    fn decided(&mut self, flight: &mut Flight<'_>, verdict: Verdict, candidates: &[Candidate]) {
        if let Action::Use(at) = verdict.action {
            let state = candidates[at].state;
            assert_ne!(
                state.usable(),
                Usable::No,
                "sent to an upstream that is {state:?}"
            );
            assert!(!flight.tried.contains(at), "sent to one that was tried");
            // An older pin of his in the table counts too.
            let id = &self.servers[at].id;
            let tag = UpstreamTag::of(id);
            let held = |key| self.table.get(&key).is_some_and(|held| held.0 == tag);
            let known = self.clients[flight.client].belongs.as_ref() == Some(id)
                || flight.decider.keys().tables().any(|(_, key)| held(key));
            assert!(state == Ready || known, "a new client for one that drains");
            if self.servers[at].unreachable && flight.tried.len() < 4 {
                flight.tried.add(at);
                flight.decider.retry();
                return;
            }
        }
        flight.done = Some(verdict);
    }

    fn request(&mut self, client: usize) {
        let policy = Rc::clone(&self.policy);
        let cookie = self.cookie_pin(client);
        let mut flight = self.start(&policy, client, cookie);
        while flight.done.is_none() {
            self.fly(&mut flight);
        }
        self.land(flight, cookie);
    }

    /// The response: the model judges, the client keeps his cookie.
    fn land(&mut self, flight: Flight<'_>, cookie: CookiePin) {
        let (client, Some(mut verdict)) = (flight.client, flight.done) else {
            panic!("not decided")
        };
        let keys = flight.decider.keys();
        let Action::Use(at) = verdict.action else {
            assert!(verdict.cookie == CookieAction::Keep && !verdict.established);
            // He was given to upstreams that could not be reached, and the last one keeps him.
            let held = keys
                .tables()
                .find_map(|(_, key)| self.table.get(&key).copied());
            if let (None, Some((tag, used))) = (&self.clients[client].cookie, held) {
                let known = self
                    .servers
                    .iter()
                    .find(|server| UpstreamTag::of(&server.id) == tag);
                let belongs = known.map(|server| server.id.clone());
                let moved = self.clients[client].belongs.is_some() && self.pin_alive(client);
                assert!(
                    !moved
                        || belongs == self.clients[client].belongs
                        || verdict.broken.is_some()
                        || matches!(verdict.outcome, Outcome::Miss(_)),
                    "moved without an event: {verdict:?}"
                );
                (self.clients[client].belongs, self.clients[client].last_use) = (belongs, used);
            }
            return;
        };
        let server = self.servers[at].clone();
        self.hits += u32::from(matches!(verdict.outcome, Outcome::Hit(_)));
        let alive = self.pin_alive(client);
        if let (Some(belongs), true) = (&self.clients[client].belongs, alive)
            && *belongs != server.id
        {
            let told = self.server(belongs).is_none_or(|old| {
                matches!(old.state, Down | Maint)
                    || flight.held
                    || old.unreachable
                    || old.state == Drain && self.drain != (Duration::ZERO, 0)
            });
            assert!(
                told,
                "client {client} moved from {belongs} to {} untold: {verdict:?}",
                server.id
            );
            assert!(
                !matches!(verdict.outcome, Outcome::Hit(_)) || self.server(belongs).is_none(),
                "a move is no hit: {verdict:?}"
            );
        }
        let cleared = !self.calm && self.rng.one_in(50);
        if cleared {
            verdict.clear(&cookie);
            for (_, key) in keys.tables() {
                self.table.remove(&key);
            }
        }
        self.keep(client, &verdict, at);
        let (minute, client) = (self.minute, &mut self.clients[client]);
        client.belongs = (!cleared).then_some(server.id);
        if !matches!(
            verdict.outcome,
            Outcome::Hit(holdfast::pin::policy::By::Cookie)
        ) {
            client.last_use = minute;
        }
    }

    /// The browser's part.
    fn keep(&mut self, client: usize, verdict: &Verdict, at: usize) {
        let Some(policy) = self.policy.cookie() else {
            return;
        };
        let kept = &mut self.clients[client].cookie;
        if verdict.retire_other
            && kept
                .as_ref()
                .is_some_and(|kept| kept.0 == policy.names().other)
        {
            *kept = None;
        }
        match verdict.cookie {
            CookieAction::Keep => {}
            CookieAction::Expire => *kept = None,
            CookieAction::Set { issued } => {
                let nonce = std::array::from_fn(|_| self.rng.next().to_le_bytes()[0]);
                let mut line = Vec::new();
                policy.write_pin(at, issued, self.minute, nonce, true, &mut line);
                let line = String::from_utf8(line).expect("ASCII");
                let (name, value) = line
                    .split(';')
                    .next()
                    .and_then(|pair| pair.split_once('='))
                    .expect("a pair");
                *kept = Some((name.to_owned(), value.as_bytes().to_vec()));
                self.clients[client].cookie_used = self.minute;
            }
        }
    }

    /// A client's first requests, several at once on several cores, interleaved.
    fn parallel(&mut self, client: usize) {
        let keys = self.policy.keys(&self.clients[client]);
        let fresh = self.clients[client].cookie.is_none()
            && keys.tables().all(|(_, key)| !self.table.contains_key(&key));
        if !fresh
            || self.kind == Kind::Cookie
            || self.servers.iter().any(|server| server.unreachable)
        {
            return;
        }
        let policy = Rc::clone(&self.policy);
        let mut flights: Vec<_> = (0..3)
            .map(|_| self.start(&policy, client, CookiePin::Absent))
            .collect();
        while flights.iter().any(|flight| flight.done.is_none()) {
            let which = self.rng.below(flights.len());
            if flights[which].done.is_none() {
                self.fly(&mut flights[which]);
            }
        }
        let actions: Vec<_> = flights
            .iter()
            .filter_map(|f| f.done.map(|verdict| verdict.action))
            .collect();
        assert!(
            actions.iter().all(|action| *action == actions[0]),
            "parallel first requests: {actions:?}"
        );
        if actions[0] == Action::Unavailable {
            return;
        }
        let events = flights
            .iter()
            .filter(|f| f.done.is_some_and(|verdict| verdict.established))
            .count();
        let pins = flights
            .iter()
            .filter(|f| f.done.is_some_and(|v| v.outcome != Outcome::Off))
            .count();
        assert_eq!((events, pins), (1, 3), "one pin, one event");
        self.calm = true;
        for flight in flights {
            self.land(flight, CookiePin::Absent);
        }
        self.calm = false;
    }

    /// A signed cookie with one changed byte.
    fn forge(&mut self, client: usize) {
        let Some((name, value)) = self.clients[client].cookie.clone() else {
            return;
        };
        if self.affinity.encoding == PinEncoding::Plain {
            return;
        }
        let mut forged = value.clone();
        let at = self.rng.below(forged.len());
        forged[at] ^= u8::try_from(1 + self.rng.below(255)).unwrap();
        let policy = Rc::clone(&self.policy);
        let cookies = policy.cookie().expect("he has a cookie");
        let pin = cookies.read(name.as_bytes(), &forged, self.minute, CookiePin::Absent);
        assert!(
            !matches!(pin, CookiePin::Found { .. }),
            "a changed byte was let in: {at}"
        );
    }

    fn step(&mut self) {
        match self.rng.below(20) {
            0 => self.change(),
            1 => {
                self.now_ms += 1000 * self.rng.below(90) as u64;
                self.minute += u32::try_from(self.rng.below(9)).unwrap();
            }
            2 => {
                let client = self.rng.below(CLIENTS);
                self.parallel(client);
            }
            3 => {
                let client = self.rng.below(CLIENTS);
                self.forge(client);
            }
            4 if self.rng.one_in(20) => self.minute += DURATION_MIN + 1,
            _ => {
                let client = self.rng.below(CLIENTS);
                self.request(client);
            }
        }
    }
}

/// What a panic said.
fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("")
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn pinned_clients_stay_where_they_belong() {
    let (first, count) = match number("HOLDFAST_SIM_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("HOLDFAST_SIM_SEEDS").unwrap_or(256)),
    };
    let (mut hits, mut requests) = (0, 0);
    for seed in first..first + count {
        let mut world = World::new(seed);
        for step in 0..STEPS {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| world.step())) {
                let (kind, why) = (world.kind, words(panic.as_ref()));
                panic!("HOLDFAST_SIM_SEED={seed}, step {step}, pins by {kind:?}: {why}");
            }
        }
        hits += world.hits;
        requests += world.requests;
    }
    // That the oracles looked at something: most requests follow a pin.
    assert!(hits * 2 > requests, "{hits} hits of {requests} requests");
}
