//! What a run is made of: its random numbers, its kinds of client, its configuration.

use std::net::IpAddr;
use std::time::Duration;

use holdfast::pin::policy::{Facts, RulePolicy};
use holdfast::pin::state::UpstreamState;
use holdfast_config::plan::{
    Affinity, AffinityMethod, Algorithm, Balancing, Connections, Control, OnUnavailable, PinCookie,
    PinEncoding, Protocol, Retry, Rule, SameSite, Service, Upstream, UpstreamAddress,
};

use super::{DURATION_MIN, KEY};

/// SplitMix64.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n.max(1) as u64).unwrap()
    }
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// How clients are told apart in this run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Cookie,
    Source,
    Header,
    Session,
    /// Cookie, then source address.
    Both,
}

pub struct Client {
    pub number: u8,
    /// His header's value: one visible character.
    pub cart: u8,
    pub kind: Kind,
    pub cookie: Option<(String, Vec<u8>)>,
    pub cookie_used: u32,
    /// The shadow model: the upstream's id, and when its table pin was last used.
    pub belongs: Option<String>,
    pub last_use: u32,
}

impl Facts for Client {
    fn client(&self) -> IpAddr {
        match self.kind {
            Kind::Source | Kind::Both => [10, 1, 0, self.number].into(),
            // All others are behind one address.
            _ => [192, 0, 2, 1].into(),
        }
    }
    fn peer(&self) -> IpAddr {
        self.client()
    }
    fn sid(&self) -> Option<[u8; 16]> {
        (self.kind == Kind::Session).then_some([self.number; 16])
    }
    fn header(&self, name: &str) -> Option<&[u8]> {
        (self.kind == Kind::Header && name == "x-cart").then_some(std::slice::from_ref(&self.cart))
    }
}

#[derive(Clone)]
pub struct Server {
    pub id: String,
    pub weight: u32,
    pub backup: bool,
    pub state: UpstreamState,
    /// Refuses connections although nobody has noticed.
    pub unreachable: bool,
    pub draining_since: Option<u64>,
}

pub fn affinity(kind: Kind, rng: &mut Rng) -> Affinity {
    use AffinityMethod::{Cookie, Header, Session, SourceIp};
    let algorithm = match rng.below(4) {
        0 => Some(Algorithm::ConsistentHash {
            replicas: 20,
            bounded_load: rng.one_in(2).then_some(1.25),
        }),
        1 => Some(Algorithm::IpHash {
            use_x_forwarded_for: true,
        }),
        2 => Some(Algorithm::HeaderHash {
            header: "x-cart".into(),
        }),
        _ => None,
    };
    Affinity {
        methods: match kind {
            Kind::Cookie => vec![Cookie],
            Kind::Source => vec![SourceIp],
            Kind::Header => vec![Header("x-cart".into())],
            Kind::Session => vec![Session],
            Kind::Both => vec![Cookie, SourceIp],
        },
        cookie: PinCookie {
            name: "pin".into(),
            path: "/".into(),
            domain: None,
            max_age: 0,
            secure: true,
            same_site: SameSite::Lax,
            key: None,
        },
        encoding: rng.pick(&[PinEncoding::Plain, PinEncoding::Hash, PinEncoding::Secure]),
        duration: Duration::from_secs(u64::from(DURATION_MIN) * 60),
        max_life: Duration::ZERO,
        algorithm,
        on_unavailable: rng.pick(&[
            OnUnavailable::Rebind,
            OnUnavailable::Hold(Duration::from_secs(10)),
            OnUnavailable::Reject(503),
        ]),
    }
}

pub fn policy(affinity: &Affinity, service: &Service, services: usize) -> RulePolicy {
    let rule = Rule {
        id: "all".into(),
        path: "/".into(),
        prefix: true,
        host: None,
        methods: vec![],
        service: 0,
        affinity: Some(affinity.clone()),
    };
    RulePolicy::new(&rule, service, services, &KEY)
}

pub fn service(balancing: Balancing, servers: &[Server], drain: (Duration, u32)) -> Service {
    let upstream = |server: &Server| Upstream {
        id: server.id.clone(),
        address: UpstreamAddress::Ip(([127, 0, 0, 1], 9000).into()),
        weight: server.weight,
        backup: server.backup,
    };
    let second = Duration::from_secs(1);
    Service {
        name: "chat".into(),
        balancing,
        upstreams: servers.iter().map(upstream).collect(),
        health: None,
        passive: None,
        connections: Connections {
            connect_timeout: second,
            idle_timeout: second,
            max_idle_per_core: 64,
            max: 0,
        },
        retry: Retry {
            attempts: 5,
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
        drain_timeout: drain.0,
        drain_rate: drain.1,
        queue_timeout: second,
        protocol: Protocol::Http1,
        proxy_protocol: false,
    }
}
