//! What attaching a request to its session costs, by the number of sessions: presents tokens in random
//! order on a clock that moves as under 50,000 requests a second, with and without writing the JSON.
//!
//! Time on the processor, not of the wall; of some rounds the fastest. Rounds of all sizes alternate,
//! so that what disturbs the machine disturbs all: compare the numbers of one run with each other.
//!
//! `cargo run --release -p holdfast-store --example attach_bench [rounds]`

use std::sync::Arc;

use holdfast_store::Entropy;
use holdfast_store::fields::Fields;
use holdfast_store::id::NodeTag;
use holdfast_store::session::{Apply, Commands, Policy};
use holdfast_store::shard::{Attached, Home, LocalTotals, Shard};
use holdfast_store::token::{Kind, Presented, Signature};

/// Sessions of one shard.
const SIZES: [usize; 3] = [1_000, 100_000, 1_000_000];
/// Attaches of a round.
const ATTACHES: usize = 1_000_000;
/// Requests a millisecond.
const RATE: usize = 50;

/// SplitMix64.
struct Seeded(u64);

impl Seeded {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

impl Entropy for Seeded {
    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            let bytes = self.word().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}

/// Nanoseconds that this thread has been on a processor.
fn on_processor() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = text.split_whitespace().next();
    first.and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// A shard, the tokens of all its sessions in random order, and its clock.
struct Bench {
    shard: Shard,
    tokens: Vec<Presented>,
    now: u64,
}

impl Bench {
    fn new(sessions: usize, entropy: &mut Seeded) -> Self {
        let policy = Policy {
            max_sessions: u64::MAX,
            max_bytes: u64::MAX,
            max_events: 0,
            seeds: [1, 2, 3, 4],
            ..Policy::default()
        };
        let home = Home {
            shard: 0,
            shards: 1,
        };
        let totals = Box::new(LocalTotals::default());
        let mut bench = Self {
            shard: Shard::new(Arc::new(policy), home, NodeTag::new(1), totals),
            tokens: Vec::with_capacity(sessions),
            now: 1_764_000_000_000,
        };
        for n in 0..sessions {
            bench.now += u64::from(n % 4 == 0);
            bench.create(n, entropy);
        }
        // All have come back once: what is measured is not a first return.
        bench.round(sessions, None);
        bench.shuffle(entropy);
        bench
    }

    fn create(&mut self, n: usize, entropy: &mut Seeded) {
        let Some(created) = self.shard.create(self.now, entropy) else {
            panic!("full at {n}")
        };
        let json = format!(
            r#"{{"userId":"u-{:07}","cartId":"c-{n:07}","visits":{}}}"#,
            1_234_567 + n,
            n % 100_000
        );
        let commands = Commands {
            set: Fields::parse(json.as_bytes()).ok(),
            ..Commands::default()
        };
        let target = created.token.target();
        self.shard.apply(
            &Apply {
                target,
                commands,
                traits: None,
            },
            self.now,
            entropy,
        );
        let kind = Kind::CookieOrHeader;
        self.tokens.push(Presented {
            sid: created.token.sid,
            digest: created.token.secret.digest(),
            kind,
            through: kind,
            unconfirmed: false,
            issued: 0,
            tag: NodeTag::new(1),
            signature: Signature::Absent,
        });
    }

    /// A new order for every round: else a session's neighbours in the order of use would be those
    /// that come before and after it in every round, and be found in the processor's cache.
    fn shuffle(&mut self, entropy: &mut Seeded) {
        for i in (1..self.tokens.len()).rev() {
            let other = (entropy.word() % (i as u64 + 1)) as usize;
            self.tokens.swap(i, other);
        }
    }

    /// Attaches `count` times; nanoseconds each.
    fn round(&mut self, count: usize, mut json: Option<&mut Vec<u8>>) -> f64 {
        let start = on_processor();
        for (n, token) in self.tokens.iter().cycle().take(count).enumerate() {
            self.now += u64::from(n.is_multiple_of(RATE));
            let Attached::Valid(valid) = self.shard.attach(token, self.now) else {
                panic!("not attached")
            };
            if let Some(out) = &mut json {
                out.clear();
                self.shard.write_json(valid.slot, self.now, out);
                std::hint::black_box(&out);
            }
        }
        (on_processor() - start) as f64 / count as f64
    }
}

fn main() {
    let rounds = std::env::args().nth(1).and_then(|a| a.parse().ok());
    let mut entropy = Seeded(7);
    let mut benches: Vec<Bench> = SIZES.iter().map(|n| Bench::new(*n, &mut entropy)).collect();
    let mut best = [[f64::MAX; 2]; SIZES.len()];
    let mut out = Vec::new();
    for _ in 0..rounds.unwrap_or(5) {
        for (bench, best) in benches.iter_mut().zip(&mut best) {
            bench.shuffle(&mut entropy);
            best[0] = best[0].min(bench.round(ATTACHES, None));
            bench.shuffle(&mut entropy);
            best[1] = best[1].min(bench.round(ATTACHES, Some(&mut out)));
        }
    }
    println!("sessions   attach         with JSON");
    for (size, [bare, json]) in SIZES.iter().zip(best) {
        let [base, base_json] = best[0];
        let (a, b) = (bare / base, json / base_json);
        println!("{size:>8}   {bare:>4.0} ns ×{a:<5.2} {json:>4.0} ns ×{b:<5.2}");
    }
}
