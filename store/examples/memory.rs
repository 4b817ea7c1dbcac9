//! Memory of a million sessions: creates exactly that many, each with a user id, a cart id and a
//! number, never rotated, found by user id, and prints the growth of the process's resident memory.
//!
//! `cargo run --release -p holdfast-store --example memory [sessions] [shards]`

use std::sync::Arc;
use std::time::Instant;

use holdfast_store::Entropy;
use holdfast_store::fields::{Fields, Name, json_string};
use holdfast_store::id::{NodeTag, Sid};
use holdfast_store::session::{Apply, Commands, Policy};
use holdfast_store::shard::{Attached, Home, LocalTotals, Shard};
use holdfast_store::token::{Keys, Kind, Presented, Signature, Token};

/// SplitMix64.
struct Seeded(u64);

impl Entropy for Seeded {
    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(z ^ z >> 31).to_le_bytes()[..chunk.len()]);
        }
    }
}

/// Resident bytes of this process.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmRSS:"));
    let kib: u64 = line
        .and_then(|l| l.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or(0);
    kib * 1024
}

fn main() {
    let mut args = std::env::args()
        .skip(1)
        .filter_map(|a| a.parse::<usize>().ok());
    let (sessions, shards) = (args.next().unwrap_or(1_000_000), args.next().unwrap_or(1));
    let policy = Policy {
        max_sessions: u64::MAX,
        max_bytes: u64::MAX,
        max_events: 0,
        seeds: [1, 2, 3, 4],
        ..Policy::default()
    };
    let (policy, totals) = (Arc::new(policy), LocalTotals::default());
    let make = |shard| {
        Shard::new(
            policy.clone(),
            Home { shard, shards },
            NodeTag::new(1),
            Box::new(totals.clone()),
        )
    };
    let mut all: Vec<Shard> = (0..shards).map(make).collect();
    let (mut entropy, mut now) = (Seeded(7), 1_764_000_000_000u64);
    let before = resident();
    let start = Instant::now();
    for n in 0..sessions {
        now += u64::from(n % 4 == 0);
        let shard = &mut all[n % shards];
        let Some(created) = shard.create(now, &mut entropy) else {
            panic!("full at {n}")
        };
        let json = format!(
            r#"{{"userId":"u-{:07}","cartId":"c-{n:07}","visits":{}}}"#,
            1_234_567 + n,
            n % 100_000
        );
        let set = Fields::parse(json.as_bytes()).ok();
        let apply = Apply {
            target: created.token.target(),
            commands: Commands {
                set,
                ..Commands::default()
            },
            traits: None,
        };
        // The response comes a little later than the request.
        shard.apply(&apply, now + 3, &mut entropy);
    }
    let grown = resident() - before;
    let held: usize = all.iter().map(Shard::len).sum();
    println!(
        "{held} sessions in {shards} shards: {:.1} bytes each ({:.1} by our own count), made in {:.2} s",
        grown as f64 / sessions as f64,
        totals.get().1 as f64 / sessions as f64,
        start.elapsed().as_secs_f64()
    );
    assert_eq!(held, sessions);
    if let Some(created) = all[0].create(now, &mut entropy) {
        read_tokens(&created.token);
    }
    attach_all(&mut all, now, &mut entropy);
    let name = Name::new("userId");
    let found = all
        .iter()
        .flat_map(|s| {
            s.find_by(
                &name,
                &json_string(&format!("u-{}", 1_234_567 + sessions / 2)),
            )
        })
        .count();
    println!("found by userId: {found}");
}

/// Reads a signed token: base64url, HMAC, digest of the secret.
fn read_tokens(created: &holdfast_store::session::Fresh) {
    let keys = Keys::new([&b"0123456789abcdef0123456789abcdef"[..]]);
    let text = created.encode(Kind::CookieOrHeader, &keys);
    let start = Instant::now();
    for _ in 0..1_000_000 {
        let decoded = Token::decode(std::hint::black_box(text.as_bytes()), &keys);
        let Ok((token, signature)) = decoded else {
            panic!("our own token")
        };
        std::hint::black_box(token.presented(signature, Kind::CookieOrHeader));
    }
    println!(
        "token, signed: {:.0} ns",
        start.elapsed().as_nanos() as f64 / 1e6
    );
}

/// Attaches sessions in random order, and writes their JSON.
fn attach_all(all: &mut [Shard], now: u64, entropy: &mut Seeded) {
    let mut tokens: Vec<(usize, Presented)> = Vec::new();
    for (n, shard) in all.iter().enumerate() {
        let mut cursor = Some(0);
        while let Some(at) = cursor.filter(|_| tokens.len() < 1_000_000) {
            let page = shard.list(at, 16_384, None, now);
            cursor = page.next;
            tokens.extend(page.sessions.iter().filter_map(|view| {
                let current = view.record.current()?;
                Some((n, presented(view.record.sid, current.digest)))
            }));
        }
    }
    for i in (1..tokens.len()).rev() {
        let mut bytes = [0; 8];
        entropy.fill(&mut bytes);
        tokens.swap(i, (u64::from_le_bytes(bytes) % (i as u64 + 1)) as usize);
    }
    for (label, tokens) in [
        ("random order", &tokens[..]),
        ("one thousand, warm", &tokens[..1000.min(tokens.len())]),
    ] {
        let rounds = (1_000_000 / tokens.len().max(1)).max(1);
        let start = Instant::now();
        for _ in 0..rounds {
            for (shard, token) in tokens {
                assert!(matches!(all[*shard].attach(token, now), Attached::Valid(_)));
            }
        }
        let each = start.elapsed().as_nanos() as f64 / (rounds * tokens.len()) as f64;
        let mut out = Vec::new();
        let start = Instant::now();
        for _ in 0..rounds {
            for (shard, token) in tokens {
                if let Attached::Valid(valid) = all[*shard].attach(token, now) {
                    out.clear();
                    all[*shard].write_json(valid.slot, now, &mut out);
                }
            }
        }
        let with = start.elapsed().as_nanos() as f64 / (rounds * tokens.len()) as f64;
        println!("attach, {label}: {each:.0} ns; with JSON {with:.0} ns");
    }
}

fn presented(sid: Sid, digest: holdfast_store::id::Digest) -> Presented {
    let kind = Kind::CookieOrHeader;
    let signature = Signature::Absent;
    Presented {
        sid,
        digest,
        kind,
        through: kind,
        unconfirmed: false,
        issued: 0,
        tag: NodeTag::new(1),
        signature,
    }
}
