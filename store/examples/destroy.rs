//! Time to end all sessions of one user, found by an indexed field: of a million sessions in one shard, ten
//! a user.
//!
//! `cargo run --release -p holdfast-store --example destroy [sessions] [a user]`
//!
//! Prints the median, the 99th percentile and the largest of a thousand, in microseconds. A gateway does this
//! once for each core.

use std::sync::Arc;
use std::time::Instant;

use holdfast_store::Entropy;
use holdfast_store::fields::{Fields, Name, json_string};
use holdfast_store::id::NodeTag;
use holdfast_store::session::{Apply, Commands, Policy, Reason};
use holdfast_store::shard::{Answer, Ask, Filter, Home, LocalTotals, Shard};

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

fn main() {
    let mut args = std::env::args()
        .skip(1)
        .filter_map(|a| a.parse::<usize>().ok());
    let sessions = args.next().unwrap_or(1_000_000);
    let each = args.next().unwrap_or(10).max(1);
    let users = (sessions / each).max(1);
    let policy = Policy {
        max_sessions: u64::MAX,
        max_bytes: u64::MAX,
        seeds: [1, 2, 3, 4],
        ..Policy::default()
    };
    let home = Home {
        shard: 0,
        shards: 1,
    };
    let totals = Box::new(LocalTotals::default());
    let mut shard = Shard::new(Arc::new(policy), home, NodeTag::new(1), totals);
    let (mut entropy, now) = (Seeded(7), 1_764_000_000_000u64);
    let mut events = Vec::new();
    for n in 0..users * each {
        let Some(created) = shard.create(now, &mut entropy) else {
            panic!("full at {n}")
        };
        // A user's sessions lie far from each other.
        let json = format!(r#"{{"userId":"u-{}","cartId":"c-{n}"}}"#, n % users);
        let apply = Apply {
            target: created.token.target(),
            commands: Commands {
                set: Fields::parse(json.as_bytes()).ok(),
                ..Commands::default()
            },
            traits: None,
        };
        shard.apply(&apply, now, &mut entropy);
        if n % 1000 == 0 {
            shard.drain_events(&mut events);
            events.clear();
        }
    }
    let held = shard.len();
    let mut took = Vec::new();
    for round in 0..users.min(1000) {
        let user = round * (users / users.min(1000));
        let filter = Filter {
            name: Name::new("userId"),
            value: json_string(&format!("u-{user}")).into(),
        };
        let begun = Instant::now();
        let mut destroyed = 0;
        loop {
            let ask = Ask::FindAndDestroy {
                filter: Box::new(filter.clone()),
                reason: Reason::Admin,
            };
            let Answer::Destroyed(turn) = shard.handle(ask, now + 1000, &mut entropy) else {
                panic!("another answer")
            };
            destroyed += turn.count as usize;
            if !turn.more {
                break;
            }
        }
        let ends = shard.take_ends();
        took.push(begun.elapsed().as_nanos() as f64 / 1000.0);
        assert_eq!((destroyed, ends.sids.len()), (each, each));
        shard.drain_events(&mut events);
        events.clear();
    }
    took.sort_by(f64::total_cmp);
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
    println!(
        "{each} sessions of a user among {held}: {:.1} µs, p99 {:.1}, largest {:.1}, of {}",
        at(0.5),
        at(0.99),
        at(1.0),
        took.len()
    );
}
