//! What a shard does, by behaviour. Scale and interleaving are the simulator's.

mod attributes;
mod commands;
mod life;
mod records;
mod rotation;

use std::sync::Arc;

use super::*;
use crate::Entropy;
use crate::event::EventKind;
use crate::fields::{Fields, Name, json_string};
use crate::id::{Digest, Secret, Sid};
use crate::record::{Counter, Record, wire};
use crate::session::{Applied, Apply, Commands, Dead, Destroy, Fresh, Reason, Refused, Target};
use crate::token::{Kind, Presented, Signature};

const NOW: u64 = 1_764_000_000_000;
const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;

struct Counting(u64);

impl Entropy for Counting {
    fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            *byte = (self.0 >> 56) as u8;
        }
    }
}

struct Bench {
    shard: Shard,
    entropy: Counting,
    totals: LocalTotals,
    now: u64,
}

fn bench(change: impl FnOnce(&mut Policy)) -> Bench {
    let mut policy = Policy {
        seeds: [1, 2, 3, 4],
        ..Policy::default()
    };
    change(&mut policy);
    let totals = LocalTotals::default();
    let home = Home {
        shard: 0,
        shards: 1,
    };
    let shard = Shard::new(
        Arc::new(policy),
        home,
        NodeTag::new(5),
        Box::new(totals.clone()),
    );
    Bench {
        shard,
        entropy: Counting(1),
        totals,
        now: NOW,
    }
}

fn fields(json: &str) -> Option<Fields> {
    Some(Fields::parse(json.as_bytes()).unwrap())
}

fn presented(token: &Fresh, signature: Signature) -> Presented {
    let kind = Kind::CookieOrHeader;
    Presented {
        sid: token.sid,
        digest: token.secret.digest(),
        kind,
        through: kind,
        unconfirmed: token.unconfirmed,
        issued: token.issued,
        tag: token.tag,
        signature,
    }
}

impl Bench {
    fn create(&mut self) -> Fresh {
        self.shard
            .create(self.now, &mut self.entropy)
            .unwrap()
            .token
    }

    fn attach(&mut self, token: &Fresh) -> Attached {
        self.shard
            .attach(&presented(token, Signature::Verified), self.now)
    }

    fn valid(&mut self, token: &Fresh) -> Valid {
        match self.attach(token) {
            Attached::Valid(valid) => valid,
            other => panic!("{other:?}"),
        }
    }

    fn apply(&mut self, target: Target, commands: Commands) -> Applied {
        self.shard.apply(
            &Apply {
                target,
                commands,
                traits: None,
            },
            self.now,
            &mut self.entropy,
        )
    }

    fn set(&mut self, token: &Fresh, json: &str) -> Applied {
        self.apply(
            token.target(),
            Commands {
                set: fields(json),
                ..Commands::default()
            },
        )
    }

    fn login(&mut self, token: &Fresh, json: &str) -> Applied {
        self.apply(
            token.target(),
            Commands {
                authenticate: fields(json),
                ..Commands::default()
            },
        )
    }

    fn json(&mut self, token: &Fresh) -> String {
        let valid = self.valid(token);
        let mut out = Vec::new();
        self.shard.write_json(valid.slot, self.now, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn events(&mut self) -> Vec<EventKind> {
        let mut out = Vec::new();
        self.shard.drain_events(&mut out);
        out.iter().map(|e| e.kind).collect()
    }

    fn view(&self, token: &Fresh) -> crate::session::View {
        self.shard.get(&token.sid, self.now).unwrap()
    }
}
