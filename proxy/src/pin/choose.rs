//! Which upstream a client without a pin gets.
//!
//! [`Choice`] is a rule's `algorithm`, else its service's `loadBalancing`: immutable, shared by all cores.
//! [`Rotation`] is what changes from choice to choice: one a core and service. Loads come from outside, over
//! all cores.
//!
//! Invariants: never an upstream that is not `ready`, has no weight or was tried; a backup only while no
//! primary may be chosen; an upstream that is full only while all are (the request then queues there), save
//! by hash, where the key's upstream counts more than the wait. Nothing here allocates.

use holdfast_config::plan::{Algorithm, Balancing, Service};
use smallvec::SmallVec;

use super::ring::{Member, Rendezvous, Ring};
use super::state::{UpstreamState, Usable};

/// Points a unit of weight where `loadBalancing: consistent-hash` names none.
pub const DEFAULT_REPLICAS: u32 = 150;

/// One upstream, as it stands at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its state.
    pub state: UpstreamState,
    /// Its share of new clients.
    pub weight: u32,
    /// Used only while no other is usable.
    pub backup: bool,
    /// It has as many connections as `connections.max` allows.
    pub full: bool,
    /// Exchanges in flight, over all cores.
    pub active: u32,
}

/// The upstreams that this request has tried and must not be given again.
#[derive(Debug, Clone, Default)]
pub struct Tried(SmallVec<[u32; 8]>);

impl Tried {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Marks one.
    pub fn add(&mut self, upstream: usize) {
        if !self.contains(upstream) {
            self.0.push(u32::try_from(upstream).unwrap_or(u32::MAX));
        }
    }

    /// Forgets one: it may be tried again.
    pub fn remove(&mut self, upstream: usize) {
        self.0.retain(|tried| *tried as usize != upstream);
    }

    /// Is it marked?
    pub fn contains(&self, upstream: usize) -> bool {
        self.0.iter().any(|tried| *tried as usize == upstream)
    }

    /// How many are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// How a rule chooses. Immutable; made anew when the service's upstreams or their weights change.
#[derive(Debug, Clone)]
pub enum Choice {
    /// In turn, by weight.
    RoundRobin,
    /// The one with the fewest exchanges in flight for its weight.
    LeastConnections,
    /// The less loaded of two drawn by weight.
    RandomTwo,
    /// A ring, by the key of the request.
    ConsistentHash {
        /// The places.
        ring: Ring,
        /// An upstream over this multiple of its share of the load is passed over.
        bounded: Option<f64>,
    },
    /// Rendezvous by address.
    IpHash {
        /// By the client's address, else by the peer's.
        by_client: bool,
        /// The scores.
        rendezvous: Rendezvous,
    },
    /// Rendezvous by the value of a header.
    HeaderHash {
        /// Its name, lower case.
        header: String,
        /// The scores.
        rendezvous: Rendezvous,
    },
}

impl Choice {
    /// The algorithm of a rule's affinity, else the service's `loadBalancing`.
    pub fn new(algorithm: Option<&Algorithm>, service: &Service) -> Self {
        let ring = |replicas| {
            let members: Vec<_> = service
                .upstreams
                .iter()
                .map(|u| Member {
                    id: &u.id,
                    weight: u.weight,
                })
                .collect();
            Ring::new(&members, replicas)
        };
        let rendezvous = || Rendezvous::new(service.upstreams.iter().map(|u| u.id.as_str()));
        match (algorithm, service.balancing) {
            (
                Some(Algorithm::ConsistentHash {
                    replicas,
                    bounded_load,
                }),
                _,
            ) => Self::ConsistentHash {
                ring: ring(*replicas),
                bounded: *bounded_load,
            },
            (
                Some(Algorithm::IpHash {
                    use_x_forwarded_for,
                }),
                _,
            ) => Self::IpHash {
                by_client: *use_x_forwarded_for,
                rendezvous: rendezvous(),
            },
            (Some(Algorithm::HeaderHash { header }), _) => Self::HeaderHash {
                header: header.clone(),
                rendezvous: rendezvous(),
            },
            (None, Balancing::RoundRobin) => Self::RoundRobin,
            (None, Balancing::LeastConnections) => Self::LeastConnections,
            (None, Balancing::RandomTwo) => Self::RandomTwo,
            (None, Balancing::ConsistentHash) => Self::ConsistentHash {
                ring: ring(DEFAULT_REPLICAS),
                bounded: None,
            },
        }
    }

    /// Whether it wants a key.
    pub fn hashes(&self) -> bool {
        matches!(
            self,
            Self::ConsistentHash { .. } | Self::IpHash { .. } | Self::HeaderHash { .. }
        )
    }

    /// Chooses for a client without a pin; `None` where no upstream may be given.
    ///
    /// `key`: the hashed key where [`Self::hashes`]; without one (a header that did not come) it goes in
    /// turn. `random`: fresh random bits.
    pub fn choose(
        &self,
        rotation: &mut Rotation,
        candidates: &[Candidate],
        tried: &Tried,
        key: Option<u64>,
        random: u64,
    ) -> Option<usize> {
        let pool = Pool::of(candidates, tried)?;
        match (self, key) {
            (Self::RoundRobin, _) => rotation.turn(candidates.len(), |at| pool.roomy_weight(at)),
            (Self::LeastConnections, _) => pool.least_connections(rotation),
            (Self::RandomTwo, _) => pool.random_two(random),
            (Self::ConsistentHash { ring, bounded }, Some(key)) => {
                pool.on_ring(ring, *bounded, key)
            }
            (Self::IpHash { rendezvous, .. } | Self::HeaderHash { rendezvous, .. }, Some(key)) => {
                rendezvous.find(key, |at| pool.weight(at))
            }
            (_, None) => rotation.turn(candidates.len(), |at| pool.roomy_weight(at)),
        }
    }
}

/// The candidates that may be chosen, all primaries or all backups.
struct Pool<'a> {
    candidates: &'a [Candidate],
    tried: &'a Tried,
    backups: bool,
    /// Some member has room, so that full ones are passed over.
    room: bool,
}

impl<'a> Pool<'a> {
    fn of(candidates: &'a [Candidate], tried: &'a Tried) -> Option<Self> {
        let (mut primary, mut backup) = (None, None);
        for (at, candidate) in candidates.iter().enumerate() {
            if candidate.state.usable() != Usable::New
                || candidate.weight == 0
                || tried.contains(at)
            {
                continue;
            }
            let room = if candidate.backup {
                &mut backup
            } else {
                &mut primary
            };
            *room = Some(room.unwrap_or(false) || !candidate.full);
        }
        let (backups, room) = match (primary, backup) {
            (Some(room), _) => (false, room),
            (None, Some(room)) => (true, room),
            (None, None) => return None,
        };
        Some(Self {
            candidates,
            tried,
            backups,
            room,
        })
    }

    fn member(&self, at: usize) -> Option<&'a Candidate> {
        self.candidates.get(at).filter(|candidate| {
            candidate.state.usable() == Usable::New
                && candidate.backup == self.backups
                && !self.tried.contains(at)
        })
    }

    /// The weight of a member; zero for all others.
    fn weight(&self, at: usize) -> u32 {
        self.member(at).map_or(0, |candidate| candidate.weight)
    }

    /// The same, and zero for full ones while some have room.
    fn roomy_weight(&self, at: usize) -> u32 {
        self.member(at)
            .filter(|candidate| !(self.room && candidate.full))
            .map_or(0, |c| c.weight)
    }

    fn active(&self, at: usize) -> u64 {
        self.candidates
            .get(at)
            .map_or(0, |candidate| u64::from(candidate.active))
    }

    fn least_connections(&self, rotation: &mut Rotation) -> Option<usize> {
        let mut least: Option<(u64, u64)> = None;
        for (at, candidate) in self.candidates.iter().enumerate() {
            let (active, weight) = (
                u64::from(candidate.active),
                u64::from(self.roomy_weight(at)),
            );
            if weight > 0 && least.is_none_or(|(low, of)| active * of < low * weight) {
                least = Some((active, weight));
            }
        }
        let (low, of) = least?;
        // Those that are equally light take turns.
        rotation.turn(self.candidates.len(), |at| {
            let weight = self.roomy_weight(at);
            if weight > 0 && self.active(at) * of == low * u64::from(weight) {
                weight
            } else {
                0
            }
        })
    }

    fn random_two(&self, random: u64) -> Option<usize> {
        let first = self.draw(random >> 32, None)?;
        match self.draw(random & 0xFFFF_FFFF, Some(first)) {
            Some(second) if self.load(second, first) < self.load(first, second) => Some(second),
            _ => Some(first),
        }
    }

    /// The load of `a`, made comparable with that of `b` by both weights.
    fn load(&self, a: usize, b: usize) -> u64 {
        self.active(a) * u64::from(self.roomy_weight(b))
    }

    /// Draws by weight, with 32 random bits.
    fn draw(&self, random: u64, without: Option<usize>) -> Option<usize> {
        let weight = |at| {
            if Some(at) == without {
                0
            } else {
                u64::from(self.roomy_weight(at))
            }
        };
        let total: u64 = (0..self.candidates.len()).map(weight).sum();
        let mut left = u64::try_from((u128::from(random) * u128::from(total)) >> 32).ok()?;
        (0..self.candidates.len()).find(|at| {
            let weight = weight(*at);
            let here = left < weight;
            left = left.saturating_sub(weight);
            here
        })
    }

    /// The key's upstream, or with a bound the next one under `bound` times its share of the load, this
    /// request counted.
    fn on_ring(&self, ring: &Ring, bound: Option<f64>, key: u64) -> Option<usize> {
        if let Some(bound) = bound {
            let members = (0..self.candidates.len()).map(|at| (at, u64::from(self.weight(at))));
            let (load, weights) = members
                .filter(|(_, weight)| *weight > 0)
                .fold((1, 0), |(load, weights), (at, weight)| {
                    (load + self.active(at), weights + weight)
                });
            #[allow(clippy::cast_precision_loss, reason = "loads are far below 2^53")]
            let unit = bound.max(1.0) * load as f64 / weights as f64;
            #[allow(clippy::cast_precision_loss, reason = "loads are far below 2^53")]
            let under = |at| {
                let weight = self.weight(at);
                weight > 0 && (self.active(at) as f64) < (unit * f64::from(weight)).ceil()
            };
            if let Some(found) = ring.find(key, under) {
                return Some(found);
            }
        }
        ring.find(key, |at| self.weight(at) > 0)
    }
}

/// Smooth weighted round robin: each turn everyone gains its weight, and the richest is chosen and pays for
/// all. One a core and service.
#[derive(Debug, Clone)]
pub struct Rotation {
    credit: Vec<i64>,
    /// Turns to skip before the first, so that cores do not all begin with the same upstream.
    skip: u32,
}

impl Rotation {
    /// For `upstreams` upstreams, on data core `core`.
    pub fn new(upstreams: usize, core: usize) -> Self {
        Self {
            credit: vec![0; upstreams],
            skip: u32::try_from(core % 256).unwrap_or(0),
        }
    }

    /// The next of those with a weight.
    fn turn(&mut self, upstreams: usize, weight: impl Fn(usize) -> u32) -> Option<usize> {
        if self.credit.len() != upstreams {
            self.credit.resize(upstreams, 0);
        }
        for _ in 0..std::mem::take(&mut self.skip) {
            self.once(&weight);
        }
        self.once(&weight)
    }

    fn once(&mut self, weight: impl Fn(usize) -> u32) -> Option<usize> {
        let (mut total, mut best) = (0, None);
        for (at, credit) in self.credit.iter_mut().enumerate() {
            let weight = i64::from(weight(at));
            if weight == 0 {
                continue;
            }
            *credit += weight;
            total += weight;
            if best.is_none_or(|(high, _)| *credit > high) {
                best = Some((*credit, at));
            }
        }
        let (_, at) = best?;
        if let Some(credit) = self.credit.get_mut(at) {
            *credit -= total;
        }
        Some(at)
    }
}

#[cfg(test)]
#[path = "choose_tests.rs"]
pub(super) mod tests;
