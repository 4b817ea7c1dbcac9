//! What a pin costs: nanoseconds for each piece of the decision, best of several rounds on one thread.
//!
//! `cargo run --release -p holdfast --example pin_bench`

use std::hint::black_box;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use holdfast::pin::choose::{Candidate, Choice, Rotation, Tried};
use holdfast::pin::cookie::Codec;
use holdfast::pin::policy::{CookiePin, CoreState, Decider, Facts, RulePolicy, Step, View};
use holdfast::pin::rules::Router;
use holdfast::pin::state::UpstreamState;
use holdfast_config::plan::{
    Affinity, AffinityMethod, Algorithm, Balancing, Connections, Control, OnUnavailable, PinCookie,
    PinEncoding, Protocol, Retry, Rule, SameSite, Service, Upstream, UpstreamAddress,
};

const NOW: u32 = 29_000_000;
const HOUR: Duration = Duration::from_secs(3600);

struct Client;

impl Facts for Client {
    fn client(&self) -> IpAddr {
        [192, 0, 2, 1].into()
    }
    fn peer(&self) -> IpAddr {
        [192, 0, 2, 1].into()
    }
    fn sid(&self) -> Option<[u8; 16]> {
        Some([1; 16])
    }
    fn header(&self, name: &str) -> Option<&[u8]> {
        (name == "x-user").then_some(b"user-12345")
    }
}

fn service(upstreams: usize, balancing: Balancing) -> Service {
    let upstream = |n| Upstream {
        id: format!("chat-{n}"),
        address: UpstreamAddress::Ip(([127, 0, 0, 1], 9000).into()),
        weight: 1,
        backup: false,
    };
    Service {
        name: "chat-service".into(),
        balancing,
        upstreams: (0..upstreams).map(upstream).collect(),
        health: None,
        passive: None,
        connections: Connections {
            connect_timeout: HOUR,
            idle_timeout: HOUR,
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
        queue_timeout: Duration::ZERO,
        protocol: Protocol::Http1,
        proxy_protocol: false,
    }
}

fn rule(path: &str, prefix: bool, encoding: PinEncoding) -> Rule {
    Rule {
        id: path.into(),
        path: path.into(),
        prefix,
        host: None,
        methods: vec![],
        service: 0,
        affinity: Some(Affinity {
            methods: vec![AffinityMethod::Cookie, AffinityMethod::SourceIp],
            cookie: PinCookie {
                name: "gateway-backend".into(),
                path: "/".into(),
                domain: None,
                max_age: 3600,
                secure: true,
                same_site: SameSite::Lax,
                key: None,
            },
            encoding,
            duration: HOUR,
            max_life: Duration::ZERO,
            algorithm: None,
            on_unavailable: OnUnavailable::Rebind,
        }),
    }
}

/// Nanoseconds a call, best of 15 rounds.
fn measure(name: &str, mut call: impl FnMut()) {
    const CALLS: u32 = 20_000;
    let best = (0..15)
        .map(|_| {
            let begin = Instant::now();
            (0..CALLS).for_each(|_| call());
            begin.elapsed()
        })
        .min()
        .unwrap_or_default();
    println!(
        "{name:<46} {:>8.1} ns",
        best.as_secs_f64() * 1e9 / f64::from(CALLS)
    );
}

fn candidates(upstreams: usize) -> Vec<Candidate> {
    let ready = Candidate {
        state: UpstreamState::Ready,
        weight: 1,
        backup: false,
        full: false,
        active: 3,
    };
    vec![ready; upstreams]
}

fn main() {
    let tried = Tried::new();
    for encoding in [PinEncoding::Plain, PinEncoding::Hash, PinEncoding::Secure] {
        let ids: Vec<String> = (0..10).map(|n| format!("chat-{n}")).collect();
        let codec = Codec::new("chat-service", &ids, encoding, &[7; 32]);
        let mut value = Vec::new();
        codec.seal(3, NOW - 9, NOW - 1, [1; 12], &mut value);
        measure(&format!("{encoding:?}: open"), || {
            assert!(black_box(codec.open(black_box(&value), NOW, HOUR, HOUR)).is_ok());
        });
        let mut out = Vec::new();
        measure(&format!("{encoding:?}: seal"), || {
            out.clear();
            codec.seal(black_box(3), NOW - 9, NOW, [1; 12], &mut out);
        });
        let service = service(10, Balancing::RoundRobin);
        let policy = RulePolicy::new(&rule("/", true, encoding), &service, 1, &[7; 32]);
        let core = CoreState::new(&service, 0, 1);
        let candidates = candidates(10);
        let view = View {
            candidates: &candidates,
            tried: &tried,
            now_ms: 0,
            now_minute: NOW,
            random: 0,
        };
        measure(&format!("{encoding:?}: read cookie, open, decide"), || {
            let Some(cookie) = policy.cookie() else {
                return;
            };
            let pin = cookie.read(
                b"gateway-backend",
                black_box(&value),
                NOW,
                CookiePin::Absent,
            );
            assert!(black_box(policy.by_cookie(&pin, &view, &core)).is_some());
        });
        measure(&format!("{encoding:?}: write Set-Cookie"), || {
            let Some(cookie) = policy.cookie() else {
                return;
            };
            out.clear();
            cookie.write_pin(black_box(3), NOW - 9, NOW, [1; 12], true, &mut out);
        });
    }
    first_request(&tried);
    choices(&tried);
    let paths = (0..30).map(|n| rule(&format!("/service-{n}/api"), true, PinEncoding::Plain));
    let rules: Vec<_> = paths.chain([rule("/", true, PinEncoding::Plain)]).collect();
    let router = Router::of(&rules);
    measure("route: last of 31 rules", || {
        assert_eq!(
            black_box(router.route(
                b"www.example.com:80",
                black_box(b"/some/longer/path/x"),
                b"GET"
            )),
            Some(30)
        );
    });
}

fn first_request(tried: &Tried) {
    let service = service(10, Balancing::RoundRobin);
    let policy = RulePolicy::new(&rule("/", true, PinEncoding::Secure), &service, 1, &[7; 32]);
    let mut core = CoreState::new(&service, 0, 1);
    let candidates = candidates(10);
    let view = View {
        candidates: &candidates,
        tried,
        now_ms: 0,
        now_minute: NOW,
        random: 0,
    };
    measure("keys of a request (source address)", || {
        black_box(policy.keys(black_box(&Client)));
    });
    measure("first request: keys, look, choose, claim", || {
        let mut decider = Decider::new(&policy, CookiePin::Absent, policy.keys(&Client));
        loop {
            match decider.step(&view, &mut core) {
                Step::Look { .. } => decider.answer(None),
                Step::Claim { tag, .. } => decider.answer(Some(tag)),
                Step::Hold { .. } => unreachable!("all are ready"),
                Step::Decided(verdict) => {
                    black_box(verdict);
                    break;
                }
            }
        }
    });
}

fn choices(tried: &Tried) {
    let ring = |bounded_load| {
        Some(Algorithm::ConsistentHash {
            replicas: 150,
            bounded_load,
        })
    };
    let cases = [
        ("round-robin", Balancing::RoundRobin, None),
        ("least-connections", Balancing::LeastConnections, None),
        ("random-two", Balancing::RandomTwo, None),
        ("consistent-hash", Balancing::RoundRobin, ring(None)),
        (
            "consistent-hash, bounded",
            Balancing::RoundRobin,
            ring(Some(1.25)),
        ),
        (
            "ip-hash",
            Balancing::RoundRobin,
            Some(Algorithm::IpHash {
                use_x_forwarded_for: true,
            }),
        ),
    ];
    for upstreams in [3, 10, 100] {
        let candidates = candidates(upstreams);
        for (name, balancing, algorithm) in &cases {
            let service = service(upstreams, *balancing);
            let choice = Choice::new(algorithm.as_ref(), &service);
            let mut rotation = Rotation::new(upstreams, 0);
            let mut key = 1u64;
            measure(&format!("{name}, {upstreams} upstreams"), || {
                key = key.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
                black_box(choice.choose(&mut rotation, &candidates, tried, Some(key), key));
            });
        }
    }
}
