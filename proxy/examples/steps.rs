//! The steps of the request path that are pure, one by name, as often as asked.
//!
//! `steps NAME COUNT` runs one step COUNT times after the same set-up, for `perf/instructions`, which
//! counts instructions of two runs and takes the difference. `steps time` prints nanoseconds of each,
//! best of several rounds, over 100,000 sessions. `steps list` prints the names.
//!
//! The configuration is that of `perf/compare`: signed tokens, hash-encoded pin cookies.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use holdfast::parse::{HeadLimits, HeadScan, Method, Progress, RequestHead, ResponseHead, cookies};
use holdfast::parse::{request, response};
use holdfast::pin::choose::{Candidate, Tried};
use holdfast::pin::key;
use holdfast::pin::policy::{CookiePin, CoreState, RulePolicy, View};
use holdfast::pin::state::UpstreamState;
use holdfast_config::plan::{Plan, Rule};
use holdfast_config::{Mode, Source, load_on};
use holdfast_store::Entropy;
use holdfast_store::fields::Fields;
use holdfast_store::id::NodeTag;
use holdfast_store::session::{Apply, Commands, Policy};
use holdfast_store::shard::{Attached, Home, LocalTotals, Shard, SlotRef};
use holdfast_store::token::{Keys, Kind, Presented, Token};

const CONFIGURATION: &str = include_str!("../../perf/rivals/holdfast.yaml");
const NOW: u64 = 1_800_000_000_000;
const NOW_MINUTE: u32 = (NOW / 60_000) as u32;

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
Content-Type: text/plain\r\n\
X-Upstream: a\r\n\
Content-Length: 600\r\n\r\n";

/// The names, in the order of the path.
const STEPS: &[&str] = &[
    "parse-request",
    "parse-browser-request",
    "find-cookies",
    "token",
    "attach",
    "session-json",
    "pin",
    "parse-response",
];

/// splitmix64: the same in every run.
struct Seeded(u64);

impl Seeded {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

impl Entropy for Seeded {
    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            let bytes = self.next().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}

/// All that the steps need.
struct World {
    plan: Plan,
    keys: Keys,
    shard: Shard,
    /// By session: its Cookie value.
    cookies: Vec<Vec<u8>>,
    /// By session: the request of the load generator.
    requests: Vec<Vec<u8>>,
    presented: Vec<Presented>,
    slots: Vec<SlotRef>,
    rule: RulePolicy,
    core: CoreState,
    candidates: Vec<Candidate>,
}

fn plan() -> Plan {
    let text = CONFIGURATION
        .replace("@LISTEN@", "8080")
        .replace("@ADMIN@", "9901")
        .replace("@A@", "9001")
        .replace("@B@", "9002")
        .replace("@CORES@", "1");
    let source = Source {
        name: "holdfast.yaml".into(),
        text,
    };
    let outcome = load_on("bench", &[source], &|_| None, Mode::Run);
    outcome
        .plan
        .unwrap_or_else(|| panic!("{:?}", outcome.errors))
}

impl World {
    fn new(sessions: usize) -> Self {
        let plan = plan();
        let mut random = Seeded(7);
        let session = plan.session.as_ref().expect("sessions are on");
        let keys = Keys::new(session.security.token_keys.iter().map(|k| k.0.as_slice()));
        let mut policy = Policy::from_plan(session, 1, [1, 2, 3, 4], &[5; 32]);
        policy.confirm = false;
        let home = Home {
            shard: 0,
            shards: 1,
        };
        let totals = Box::new(LocalTotals::default());
        let shard = Shard::new(Arc::new(policy), home, NodeTag::new(1), totals);
        let service = plan.services.first().expect("a service");
        let affinity = plan.rules.iter().find_map(|r| r.affinity.clone());
        let rule = Rule {
            id: "all".into(),
            path: "/".into(),
            prefix: true,
            host: None,
            methods: Vec::new(),
            service: 0,
            affinity: Some(affinity.expect("affinity is on")),
        };
        let key = key::derive(Some(b"a key of sixteen bytes or more"), None, &[0; 32]).key;
        let rule = RulePolicy::new(&rule, service, 1, &key);
        let core = CoreState::new(service, 0, 1);
        let upstreams = service.upstreams.len();
        let candidate = Candidate {
            state: UpstreamState::Ready,
            weight: 1,
            backup: false,
            full: false,
            active: 0,
        };
        let mut world = Self {
            keys,
            cookies: Vec::new(),
            requests: Vec::new(),
            presented: Vec::new(),
            slots: Vec::new(),
            rule,
            core,
            candidates: vec![candidate; upstreams],
            plan,
            shard,
        };
        for number in 0..sessions {
            world.add(number, &mut random);
        }
        world
    }

    fn add(&mut self, number: usize, random: &mut Seeded) {
        let made = self.shard.create(NOW, random).expect("room for a session");
        let fields = format!(r#"{{"userId":"u-{number}","cartId":"c-{number}","n":{number}}}"#);
        let commands = Commands {
            set: Some(Fields::parse(fields.as_bytes()).expect("fields")),
            ..Commands::default()
        };
        let target = made.token.target();
        self.shard.apply(
            &Apply {
                target,
                commands,
                traits: None,
            },
            NOW,
            random,
        );
        let kind = Kind::CookieOrHeader;
        let text = made.token.encode(kind, &self.keys);
        let mut pin = Vec::new();
        let policy = self.rule.cookie().expect("the cookie method");
        policy.write_pin(number % 2, NOW_MINUTE, NOW_MINUTE, [0; 12], false, &mut pin);
        let end = pin.iter().position(|b| *b == b';').unwrap_or(pin.len());
        let cookie = [b"sid=", text.as_bytes(), b"; ", &pin[..end]].concat();
        let head = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nCookie: ";
        self.requests
            .push([&head[..], &cookie, b"\r\n\r\n"].concat());
        let (token, signature) = Token::decode(text.as_bytes(), &self.keys).expect("our token");
        self.presented.push(token.presented(signature, kind));
        self.slots.extend(made.slot);
        self.cookies.push(cookie);
    }

    /// Runs a step `count` times.
    fn run(&mut self, step: &str, count: usize) {
        let many = self.requests.len();
        let limits = HeadLimits::default();
        let mut scan = HeadScan::new();
        match step {
            "parse-request" => {
                let mut head = RequestHead::default();
                for i in 0..count {
                    let read = request(
                        black_box(&self.requests[i % many]),
                        &limits,
                        &mut scan,
                        &mut head,
                    );
                    assert_eq!(black_box(read), Ok(Progress::Complete));
                }
            }
            "parse-browser-request" => {
                let browser = browser_request(&self.cookies[0]);
                let mut head = RequestHead::default();
                for _ in 0..count {
                    let read = request(black_box(&browser), &limits, &mut scan, &mut head);
                    assert_eq!(black_box(read), Ok(Progress::Complete));
                }
            }
            "find-cookies" => {
                for i in 0..count {
                    for pair in cookies::pairs(black_box(&self.cookies[i % many])) {
                        black_box(pair);
                    }
                }
            }
            "token" => {
                for i in 0..count {
                    let text = &self.cookies[i % many][4..4 + 74];
                    let (token, signature) =
                        Token::decode(black_box(text), &self.keys).expect("our token");
                    black_box(token.presented(signature, Kind::CookieOrHeader));
                }
            }
            "attach" => {
                for i in 0..count {
                    let attached = self.shard.attach(black_box(&self.presented[i % many]), NOW);
                    assert!(matches!(black_box(attached), Attached::Valid(_)));
                }
            }
            "session-json" => {
                let mut out = Vec::with_capacity(256);
                for i in 0..count {
                    out.clear();
                    assert!(
                        self.shard
                            .write_json(black_box(self.slots[i % many]), NOW, &mut out)
                    );
                    black_box(&out);
                }
            }
            "pin" => self.pin(count),
            "parse-response" => {
                let mut head = ResponseHead::default();
                for _ in 0..count {
                    let read = response(
                        black_box(RESPONSE),
                        &limits,
                        &mut scan,
                        Method::Get,
                        &mut head,
                    );
                    assert_eq!(black_box(read), Ok(Progress::Complete));
                }
            }
            other => panic!("no step {other}"),
        }
    }

    /// Opens the pin cookie and decides by it.
    fn pin(&mut self, count: usize) {
        let many = self.cookies.len();
        let policy = self.rule.cookie().expect("the cookie method");
        let tried = Tried::new();
        for i in 0..count {
            let cookie = &self.cookies[i % many][4 + 74 + 2..];
            let equals = cookie.iter().position(|b| *b == b'=').unwrap_or(0);
            let (name, value) = (&cookie[..equals], &cookie[equals + 1..]);
            let pin = policy.read(black_box(name), value, NOW_MINUTE, CookiePin::Absent);
            let view = View {
                candidates: &self.candidates,
                tried: &tried,
                now_ms: NOW,
                now_minute: NOW_MINUTE,
                random: i as u64,
            };
            let verdict = self.rule.by_cookie(&pin, &view, &self.core);
            assert!(black_box(verdict).is_some());
        }
    }
}

fn browser_request(cookie: &[u8]) -> Vec<u8> {
    let head: &[u8] = b"GET /shop/cart/items?page=2&sort=price HTTP/1.1\r\n\
Host: shop.example.com\r\n\
Connection: keep-alive\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML) Chrome/126.0.0.0\r\n\
Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n\
Sec-Fetch-Site: same-origin\r\n\
Sec-Fetch-Mode: navigate\r\n\
Sec-Fetch-Dest: document\r\n\
Referer: https://shop.example.com/shop\r\n\
Accept-Encoding: gzip, deflate, br\r\n\
Accept-Language: en-GB,en;q=0.9\r\n\
Cookie: ";
    [head, cookie, b"\r\n\r\n"].concat()
}

/// Best nanoseconds of one run of each step.
fn time() {
    const RUNS: usize = 200_000;
    let mut world = World::new(100_000);
    println!(
        "{} services, 100,000 sessions, best of 15 rounds",
        world.plan.services.len()
    );
    for step in STEPS {
        let mut best = f64::MAX;
        for _ in 0..15 {
            let start = Instant::now();
            world.run(step, RUNS);
            best = best.min(start.elapsed().as_nanos() as f64 / RUNS as f64);
        }
        println!("{step:<24} {best:8.1} ns");
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["list"] => STEPS.iter().for_each(|step| println!("{step}")),
        ["time"] => time(),
        [step, count] if STEPS.contains(step) => {
            let count = count.parse().expect("COUNT is a number");
            let mut world = World::new(200);
            // The counter of machine instructions begins here, and ends with the process.
            println!("begin");
            world.run(step, count);
            std::process::exit(0);
        }
        _ => {
            eprintln!("steps list | steps time | steps NAME COUNT");
            std::process::exit(2);
        }
    }
}
