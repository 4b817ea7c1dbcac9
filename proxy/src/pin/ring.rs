//! Two consistent hashes over upstream ids: a ring and rendezvous.
//!
//! With either, adding an upstream takes only the keys that become its own, and losing one moves only its
//! keys. The *ring* is what `consistent-hash` asks for: `replicas` points a unit of weight, a binary search
//! whatever the number of upstreams, and a natural "next one" for bounded load. `ip-hash` and `header-hash`
//! use *rendezvous* (highest random weight): they have no `replicas` to set, and rendezvous shares keys
//! exactly by weight without any points, at the price of one hash for each upstream, which is paid only when
//! a client is chosen for.
//!
//! Immutable, shared by all cores, the same in every process: places depend on ids and weights alone.

use super::hash::{hash64, mix};

/// Points of one ring in all; more are scaled down, equally for all.
pub const MAX_POINTS: u64 = 1 << 20;

/// What a ring or rendezvous knows of an upstream.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its share; zero has no place.
    pub weight: u32,
}

/// A consistent-hash ring.
#[derive(Debug, Clone)]
pub struct Ring {
    /// Sorted places, and whose each is.
    places: Box<[u64]>,
    owners: Box<[u32]>,
    replicas: u32,
}

impl Ring {
    /// `replicas` points (at least one) for each unit of weight. Members by position.
    pub fn new(members: &[Member<'_>], replicas: u32) -> Self {
        let weights: u64 = members.iter().map(|member| u64::from(member.weight)).sum();
        let bound = MAX_POINTS.checked_div(weights).unwrap_or(MAX_POINTS).max(1);
        let replicas = u64::from(replicas.max(1)).min(bound);
        let mut points = Vec::new();
        for (at, member) in (0u32..).zip(members) {
            // The id's hash as a second sorting key: equal places fall the same way in every process.
            let id = hash64(member.id.as_bytes(), 0);
            let count = (u64::from(member.weight) * replicas).min(MAX_POINTS);
            points.extend((0..count).map(|n| (hash64(member.id.as_bytes(), n + 1), id, at)));
        }
        points.sort_unstable();
        Self {
            places: points.iter().map(|point| point.0).collect(),
            owners: points.iter().map(|point| point.2).collect(),
            replicas: u32::try_from(replicas).unwrap_or(u32::MAX),
        }
    }

    /// Points a unit of weight, as built: fewer than asked for where [`MAX_POINTS`] was in the way.
    pub fn replicas(&self) -> u32 {
        self.replicas
    }

    /// The first upstream at or after the key's place that `accepts`.
    ///
    /// The caller makes sure that `accepts` is true for someone, or pays for a walk over all points.
    pub fn find(&self, key: u64, mut accepts: impl FnMut(usize) -> bool) -> Option<usize> {
        let start = self.places.partition_point(|place| *place < key);
        let (before, after) = self.owners.split_at_checked(start)?;
        let mut refused = None;
        for owner in after.iter().chain(before) {
            if refused == Some(*owner) {
                continue;
            }
            if accepts(*owner as usize) {
                return Some(*owner as usize);
            }
            refused = Some(*owner);
        }
        None
    }
}

/// Rendezvous hashing, weighted.
#[derive(Debug, Clone)]
pub struct Rendezvous {
    /// Hashes of ids by position.
    ids: Box<[u64]>,
}

impl Rendezvous {
    /// Upstreams by position.
    pub fn new<'a>(ids: impl Iterator<Item = &'a str>) -> Self {
        Self {
            ids: ids.map(|id| hash64(id.as_bytes(), 0)).collect(),
        }
    }

    /// The upstream with the highest score for this key among those to which `weight` gives more than zero.
    pub fn find(&self, key: u64, mut weight: impl FnMut(usize) -> u32) -> Option<usize> {
        let mut best: Option<Drawn> = None;
        for (at, id) in self.ids.iter().enumerate() {
            let drawn = Drawn {
                hash: mix(*id, key),
                weight: weight(at),
                id: *id,
                at,
            };
            if drawn.weight > 0 && best.as_ref().is_none_or(|best| drawn.beats(best)) {
                best = Some(drawn);
            }
        }
        best.map(|best| best.at)
    }
}

/// An upstream's lot for one key.
struct Drawn {
    hash: u64,
    weight: u32,
    id: u64,
    at: usize,
}

impl Drawn {
    /// Equal lots (in theory) fall by id, not by position.
    fn beats(&self, other: &Self) -> bool {
        if self.weight == other.weight {
            // The score grows with the hash: no need for logarithms.
            return (self.hash, self.id) > (other.hash, other.id);
        }
        let (score, other_score) = (
            score(self.hash, self.weight),
            score(other.hash, other.weight),
        );
        score > other_score || (score == other_score && self.id > other.id)
    }
}

/// `weight / -ln(u)` with u uniform in (0, 1): the largest of such scores is each one's with a chance
/// proportional to its weight.
fn score(hash: u64, weight: u32) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "53 bits fit")]
    let uniform = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    f64::from(weight) / -uniform.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members<'a>(ids: &'a [String], weights: &[u32]) -> Vec<Member<'a>> {
        ids.iter()
            .zip(weights)
            .map(|(id, weight)| Member {
                id,
                weight: *weight,
            })
            .collect()
    }

    fn ids(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("u{n}")).collect()
    }

    fn key(n: u64) -> u64 {
        hash64(&n.to_be_bytes(), 0)
    }

    const KEYS: u64 = 20_000;

    type Finder = Box<dyn Fn(u64, &dyn Fn(usize) -> bool) -> usize>;

    /// Both hashes behind one face: who gets `key` when only `usable` may.
    fn finders(ids: &[String], weights: &[u32]) -> Vec<Finder> {
        let ring = Ring::new(&members(ids, weights), 150);
        let rendezvous = Rendezvous::new(ids.iter().map(String::as_str));
        let weights = weights.to_vec();
        vec![
            Box::new(move |key, usable| ring.find(key, usable).unwrap()),
            Box::new(move |key, usable| {
                rendezvous
                    .find(key, |at| if usable(at) { weights[at] } else { 0 })
                    .unwrap()
            }),
        ]
    }

    #[test]
    fn only_the_keys_of_the_lost_one_move() {
        for find in finders(&ids(5), &[1; 5]) {
            for k in (0..KEYS).map(key) {
                let before = find(k, &|_| true);
                let after = find(k, &|at| at != 2);
                assert!(before == 2 || before == after);
                assert_ne!(after, 2);
            }
        }
    }

    #[test]
    fn a_new_one_takes_only_what_becomes_its_own_and_about_its_share() {
        for (small, large) in finders(&ids(5), &[1; 5])
            .iter()
            .zip(finders(&ids(6), &[1; 6]))
        {
            let mut moved = 0;
            for k in (0..KEYS).map(key) {
                let (before, after) = (small(k, &|_| true), large(k, &|_| true));
                assert!(after == before || after == 5);
                moved += u64::from(after != before);
            }
            assert!(
                (KEYS / 9..KEYS / 4).contains(&moved),
                "a sixth of {KEYS}, not {moved}"
            );
        }
    }

    #[test]
    fn shares_follow_weights() {
        for find in finders(&ids(3), &[1, 2, 5]) {
            let mut counts = [0u64; 3];
            (0..KEYS).for_each(|n| counts[find(key(n), &|_| true)] += 1);
            for (count, weight) in counts.iter().zip([1, 2, 5]) {
                let fair = KEYS * weight / 8;
                assert!((fair * 3 / 4..fair * 5 / 4).contains(count), "{counts:?}");
            }
        }
    }

    #[test]
    fn places_do_not_depend_on_positions() {
        let (there, back) = (ids(4), ids(4).into_iter().rev().collect::<Vec<_>>());
        for (a, b) in finders(&there, &[1, 2, 3, 4])
            .iter()
            .zip(finders(&back, &[4, 3, 2, 1]))
        {
            for k in (0..KEYS).map(key) {
                assert_eq!(there[a(k, &|_| true)], back[b(k, &|_| true)]);
            }
        }
    }

    #[test]
    fn places_are_the_same_in_every_version() {
        let find = finders(&ids(5), &[1; 5]);
        let seen: Vec<Vec<usize>> = find
            .iter()
            .map(|find| (0..12).map(|n| find(key(n), &|_| true)).collect())
            .collect();
        assert_eq!(
            seen, GOLDEN,
            "instances of two versions behind one address must agree"
        );
    }

    const GOLDEN: [[usize; 12]; 2] = [
        [2, 4, 4, 3, 0, 1, 0, 3, 0, 1, 1, 0],
        [4, 4, 0, 1, 2, 4, 0, 0, 4, 0, 1, 4],
    ];

    #[test]
    fn bounds() {
        assert_eq!(Ring::new(&[], 150).find(1, |_| true), None);
        let zero = [Member { id: "a", weight: 0 }];
        assert_eq!(
            Ring::new(&zero, 150).find(1, |_| true),
            None,
            "weight 0 has no place"
        );
        assert_eq!(Rendezvous::new(["a"].into_iter()).find(1, |_| 0), None);
        let heavy = [
            Member {
                id: "a",
                weight: 1_000_000,
            },
            Member { id: "b", weight: 1 },
        ];
        let ring = Ring::new(&heavy, 150);
        assert_eq!(ring.replicas(), 1);
        assert!(ring.places.len() as u64 <= MAX_POINTS);
        assert_eq!(
            ring.find(u64::MAX, |at| at == 1),
            Some(1),
            "the walk goes round"
        );
        assert_eq!(ring.find(7, |_| false), None);
        let huge = [
            Member {
                id: "a",
                weight: u32::MAX,
            },
            Member {
                id: "b",
                weight: u32::MAX,
            },
        ];
        assert!(Ring::new(&huge, 1).places.len() as u64 <= 2 * MAX_POINTS);
    }
}
