//! The seeded simulator of shards: random acts on a virtual clock, judged by a shadow model.
//!
//! Each seed chooses a policy and a number of shards, then acts: creates, presents tokens (current,
//! retired, forged), answers late, logs in, destroys, sweeps, moves records about. After every step the
//! oracle holds: created + received − destroyed − expired − evicted = live; what was destroyed never
//! returns; every victim is the one that the policy names; what has expired is never served; every
//! answer and every session is what the model says.
//!
//! Replay one seed with `HOLDFAST_SIM_SEED=n`; run more with `HOLDFAST_SIM_SEEDS=n`. `theft` is the world of
//! a browser and a thief.

mod model;
mod theft;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use holdfast_store::Entropy;

/// Steps of one seed.
const STEPS: u64 = 2000;

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// 64 random bits.
    pub(crate) fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`, which is not 0.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.word() % n
    }

    /// True once in `n`.
    pub(crate) fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of `from`, which is not empty.
    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

impl Entropy for Random {
    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            let bytes = self.word().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}

/// Runs one seed: `act` does one step and judges it.
fn run<W>(
    variable: &str,
    seed: u64,
    steps: u64,
    mut world: W,
    mut act: impl FnMut(&mut W, u64),
) -> W {
    let mut step = 0;
    let result = catch_unwind(AssertUnwindSafe(|| {
        while step < steps {
            act(&mut world, step);
            step += 1;
        }
    }));
    if let Err(cause) = result {
        let text = cause.downcast_ref::<String>().map(String::as_str);
        let text = text
            .or(cause.downcast_ref::<&str>().copied())
            .unwrap_or("panic");
        panic!("seed {seed}, step {step}: {text}\nreplay with {variable}={seed}");
    }
    world
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Runs the seed that `variable` names, else so many as the variable with an S names.
fn seeds(variable: &str, usual: u64, run: impl Fn(u64) + Sync) {
    if let Some(seed) = number(variable) {
        return run(seed);
    }
    let seeds = number(&format!("{variable}S")).unwrap_or(usual);
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= seeds {
                            return;
                        }
                        run(seed);
                    }
                })
            })
            .collect();
        for worker in workers {
            if let Err(cause) = worker.join() {
                std::panic::resume_unwind(cause);
            }
        }
    });
}

#[test]
fn shards_agree_with_the_model() {
    let variable = "HOLDFAST_SIM_SEED";
    seeds(variable, 256, |seed| {
        run(
            variable,
            seed,
            STEPS,
            world::World::new(seed),
            |world, step| {
                world.step();
                world.check(step % 16 == 0 || step + 1 == STEPS);
            },
        );
    });
}

#[test]
fn owners_stay_and_thieves_do_not() {
    let variable = "HOLDFAST_THEFT_SEED";
    let tally: [AtomicU64; theft::Tally::ALL] = Default::default();
    seeds(variable, 4096, |seed| {
        let world = theft::World::new(seed);
        let world = run(variable, seed, theft::STEPS, world, |world, step| {
            world.step();
            if step + 1 == theft::STEPS {
                world.settle();
            }
        });
        for (sum, one) in tally.iter().zip(world.tally) {
            sum.fetch_add(one, Ordering::Relaxed);
        }
    });
    if number(variable).is_none() {
        for (what, count) in tally.iter().enumerate() {
            assert!(
                count.load(Ordering::Relaxed) > 0,
                "{what} never happened: {tally:?}"
            );
        }
    }
}
