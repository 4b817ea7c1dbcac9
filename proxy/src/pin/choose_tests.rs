//! Tests of the algorithms: shares, ties, backups, full and tried ones, bounds.

use std::time::Duration;

use holdfast_config::plan::{
    Connections, Control, Protocol, Retry, Service, Upstream, UpstreamAddress,
};
use proptest::prelude::*;

use super::*;
use UpstreamState::{Down, Drain, Maint, Ready};

/// A service of upstreams `u0`… with these weights; the sign tells a backup.
pub(crate) fn service(balancing: Balancing, weights: &[i64]) -> Service {
    let upstream = |(n, weight): (usize, &i64)| Upstream {
        id: format!("u{n}"),
        address: UpstreamAddress::Ip(([127, 0, 0, 1], 9000).into()),
        weight: u32::try_from(weight.unsigned_abs()).unwrap(),
        backup: *weight < 0,
    };
    Service {
        name: "chat".into(),
        balancing,
        upstreams: weights.iter().enumerate().map(upstream).collect(),
        health: None,
        passive: None,
        connections: Connections {
            connect_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(30),
            max_idle_per_core: 64,
            max: 0,
        },
        retry: Retry {
            attempts: 2,
            body_bytes: 65536,
        },
        control: Control {
            create: true,
            set: true,
            authenticate: true,
            rotate: true,
            destroy: true,
        },
        tls: None,
        drain_timeout: Duration::ZERO,
        drain_rate: 0,
        queue_timeout: Duration::from_secs(1),
        protocol: Protocol::Http1,
        proxy_protocol: false,
    }
}

pub(crate) fn candidates(service: &Service) -> Vec<Candidate> {
    let candidate = |u: &Upstream| Candidate {
        state: Ready,
        weight: u.weight,
        backup: u.backup,
        full: false,
        active: 0,
    };
    service.upstreams.iter().map(candidate).collect()
}

const ALGORITHMS: usize = 7;

fn choice(number: usize, weights: &[i64]) -> Choice {
    let ring = |bounded_load| Algorithm::ConsistentHash {
        replicas: 50,
        bounded_load,
    };
    let (balancing, algorithm) = match number {
        0 => (Balancing::RoundRobin, None),
        1 => (Balancing::LeastConnections, None),
        2 => (Balancing::RandomTwo, None),
        3 => (Balancing::ConsistentHash, None),
        4 => (Balancing::RoundRobin, Some(ring(Some(1.25)))),
        5 => (
            Balancing::RoundRobin,
            Some(Algorithm::IpHash {
                use_x_forwarded_for: true,
            }),
        ),
        _ => (
            Balancing::RoundRobin,
            Some(Algorithm::HeaderHash {
                header: "x-user".into(),
            }),
        ),
    };
    Choice::new(algorithm.as_ref(), &service(balancing, weights))
}

/// Random bits for draw `n`.
fn bits(n: u64) -> u64 {
    super::super::hash::hash64(&n.to_be_bytes(), 1)
}

/// How often each is chosen in `times` choices by `number`.
fn counts(
    number: usize,
    weights: &[i64],
    change: impl Fn(&mut [Candidate]),
    times: u64,
) -> Vec<u64> {
    let mut all = candidates(&service(Balancing::RoundRobin, weights));
    change(&mut all);
    let (choice, mut rotation) = (choice(number, weights), Rotation::new(weights.len(), 0));
    let mut counts = vec![0; weights.len()];
    for n in 0..times {
        let key = choice.hashes().then(|| bits(n ^ 0xABCD));
        if let Some(at) = choice.choose(&mut rotation, &all, &Tried::new(), key, bits(n)) {
            counts[at] += 1;
        }
    }
    counts
}

#[test]
fn round_robin_is_smooth_and_exact() {
    let order = |core, weights: &[i64], times| -> Vec<usize> {
        let all = candidates(&service(Balancing::RoundRobin, weights));
        let mut rotation = Rotation::new(weights.len(), core);
        let choice = Choice::RoundRobin;
        (0..times)
            .map(|_| {
                choice
                    .choose(&mut rotation, &all, &Tried::new(), None, 0)
                    .unwrap()
            })
            .collect()
    };
    assert_eq!(order(0, &[1, 1, 1], 6), [0, 1, 2, 0, 1, 2]);
    assert_eq!(
        order(1, &[1, 1, 1], 4),
        [1, 2, 0, 1],
        "another core begins elsewhere"
    );
    assert_eq!(
        order(0, &[5, 1, 1], 7),
        [0, 0, 1, 0, 2, 0, 0],
        "never two of the light ones in a row"
    );
    assert_eq!(counts(0, &[5, 3, 2], |_| {}, 1000), [500, 300, 200]);
}

#[test]
fn shares_follow_weights() {
    for number in 0..ALGORITHMS {
        let counts = counts(number, &[1, 3, 4], |_| {}, 8000);
        // Random-two leans towards the lighter loaded; here loads are equal, so it draws by weight.
        for (count, weight) in counts.iter().zip([1, 3, 4]) {
            let fair = 1000 * weight;
            assert!(
                (fair * 7 / 10..fair * 13 / 10).contains(count),
                "{number}: {counts:?}"
            );
        }
    }
}

#[test]
fn only_ready_ones_with_a_weight() {
    for number in 0..ALGORITHMS {
        let change = |all: &mut [Candidate]| {
            for (candidate, state) in all.iter_mut().zip([Ready, Drain, Down, Maint, Ready]) {
                candidate.state = state;
            }
        };
        let counts = counts(number, &[1, 1, 1, 1, 0], change, 50);
        assert_eq!(counts, [50, 0, 0, 0, 0], "{number}");
    }
}

#[test]
fn backups_only_while_no_primary_may_be_chosen() {
    for number in 0..ALGORITHMS {
        let weights = [1, -1, -1];
        assert_eq!(counts(number, &weights, |_| {}, 50), [50, 0, 0], "{number}");
        assert_eq!(
            counts(number, &weights, |all| all[0].full = true, 50),
            [50, 0, 0],
            "{number}"
        );
        let without = counts(number, &weights, |all| all[0].state = Down, 50);
        assert_eq!((without[0], without[1] + without[2]), (0, 50), "{number}");
        let none = counts(
            number,
            &weights,
            |all| all.iter_mut().for_each(|c| c.state = Drain),
            50,
        );
        assert_eq!(none, [0, 0, 0], "{number}");
    }
}

#[test]
fn full_ones_are_passed_over_where_the_key_does_not_decide() {
    for number in 0..3 {
        let one = counts(number, &[1, 1], |all| all[0].full = true, 50);
        assert_eq!(one, [0, 50], "{number}");
        let both = counts(
            number,
            &[1, 1],
            |all| all.iter_mut().for_each(|c| c.full = true),
            50,
        );
        assert_eq!(both.iter().sum::<u64>(), 50, "{number}: they queue");
    }
    for number in 3..ALGORITHMS {
        let same = counts(number, &[1, 1], |all| all[0].full = true, 50);
        assert_eq!(same, counts(number, &[1, 1], |_| {}, 50), "{number}");
    }
}

#[test]
fn tried_ones_are_not_given_again() {
    let weights = [1, 1, 1];
    for number in 0..ALGORITHMS {
        let (choice, mut rotation) = (choice(number, &weights), Rotation::new(3, 0));
        let all = candidates(&service(Balancing::RoundRobin, &weights));
        let mut tried = Tried::new();
        let key = choice.hashes().then_some(77);
        for _ in 0..3 {
            let at = choice
                .choose(&mut rotation, &all, &tried, key, bits(1))
                .unwrap();
            assert!(!tried.contains(at), "{number}");
            tried.add(at);
            tried.add(at);
        }
        assert_eq!(
            choice.choose(&mut rotation, &all, &tried, key, bits(2)),
            None,
            "{number}"
        );
        tried.remove(1);
        assert_eq!(
            choice.choose(&mut rotation, &all, &tried, key, bits(3)),
            Some(1),
            "{number}"
        );
        assert_eq!((tried.len(), tried.is_empty()), (2, false));
    }
}

#[test]
fn least_connections_by_weight_and_ties_in_turn() {
    let loads = |loads: [u32; 3], weights: [i64; 3]| {
        counts(
            1,
            &weights,
            |all| all.iter_mut().zip(loads).for_each(|(c, n)| c.active = n),
            12,
        )
    };
    assert_eq!(loads([5, 2, 9], [1, 1, 1]), [0, 12, 0]);
    assert_eq!(loads([5, 2, 2], [1, 1, 1]), [0, 6, 6]);
    assert_eq!(loads([3, 6, 9], [1, 3, 1]), [0, 12, 0], "6 of 3 is 2");
    assert_eq!(loads([2, 6, 9], [1, 3, 1]), [3, 9, 0], "ties by weight");
    assert_eq!(loads([u32::MAX, u32::MAX, 0], [1, 1, 1]), [0, 0, 12]);
}

#[test]
fn random_two_avoids_the_loaded_one() {
    let counts = counts(2, &[1, 1, 1], |all| all[1].active = 100, 3000);
    assert_eq!(counts[1], 0, "of any two, the other one is lighter");
    assert!(counts[0] > 1200 && counts[2] > 1200, "{counts:?}");
}

#[test]
fn without_a_key_hashes_go_in_turn() {
    for number in 3..ALGORITHMS {
        let all = candidates(&service(Balancing::RoundRobin, &[1, 1]));
        let (choice, mut rotation) = (choice(number, &[1, 1]), Rotation::new(2, 0));
        let turns: Vec<_> = (0..4)
            .map(|_| {
                choice
                    .choose(&mut rotation, &all, &Tried::new(), None, 0)
                    .unwrap()
            })
            .collect();
        assert_eq!(turns, [0, 1, 0, 1], "{number}");
    }
}

#[test]
fn a_bounded_load_is_kept_whatever_the_keys() {
    // All requests have one key and none ends: without the bound one upstream would get them all.
    let weights = [1, 2, 1];
    let (bounded, unbounded) = (choice(4, &weights), choice(3, &weights));
    let mut all = candidates(&service(Balancing::RoundRobin, &weights));
    let mut rotation = Rotation::new(3, 0);
    for n in 1..=4000u32 {
        let at = bounded
            .choose(&mut rotation, &all, &Tried::new(), Some(7), 0)
            .unwrap();
        all[at].active += 1;
        for candidate in &all {
            let share = 1.25 * f64::from(n) * f64::from(candidate.weight) / 4.0;
            assert!(f64::from(candidate.active) <= share.ceil(), "{n}: {all:?}");
        }
    }
    let first = unbounded.choose(&mut rotation, &all, &Tried::new(), Some(7), 0);
    assert!(
        (0..50).all(|_| unbounded.choose(&mut rotation, &all, &Tried::new(), Some(7), 0) == first)
    );
}

#[test]
fn an_algorithm_goes_before_load_balancing() {
    let service = service(Balancing::LeastConnections, &[1]);
    assert!(matches!(
        Choice::new(None, &service),
        Choice::LeastConnections
    ));
    let header = Algorithm::HeaderHash {
        header: "x-a".into(),
    };
    assert!(matches!(
        Choice::new(Some(&header), &service),
        Choice::HeaderHash { .. }
    ));
}

fn any_candidate() -> impl Strategy<Value = Candidate> {
    let state = prop_oneof![Just(Ready), Just(Drain), Just(Down), Just(Maint)];
    (state, 0u32..5, any::<bool>(), any::<bool>(), 0u32..9).prop_map(
        |(state, weight, backup, full, active)| Candidate {
            state,
            weight,
            backup,
            full,
            active,
        },
    )
}

proptest! {
    /// Someone is chosen exactly if someone may be, and only who may be.
    #[test]
    fn sound_and_complete(
        all in proptest::collection::vec(any_candidate(), 0..9),
        tried in proptest::collection::vec(0usize..9, 0..4),
        key: Option<u64>,
        randoms in proptest::collection::vec(any::<u64>(), 1..20),
    ) {
        let mut set = Tried::new();
        tried.iter().for_each(|at| set.add(*at));
        let weights: Vec<i64> =
            all.iter().map(|c| i64::from(c.weight) * if c.backup { -1 } else { 1 }).collect();
        let may = |at: usize, backup| {
            all[at].state == Ready && all[at].weight > 0 && all[at].backup == backup && !tried.contains(&at)
        };
        let primary = (0..all.len()).any(|at| may(at, false));
        let anyone = primary || (0..all.len()).any(|at| may(at, true));
        for number in 0..ALGORITHMS {
            let (choice, mut rotation) = (choice(number, &weights), Rotation::new(all.len(), 3));
            for random in &randoms {
                match choice.choose(&mut rotation, &all, &set, key, *random) {
                    Some(at) => prop_assert!(may(at, !primary), "{number} chose {at}"),
                    None => prop_assert!(!anyone, "{number} chose nobody"),
                }
            }
        }
    }
}
