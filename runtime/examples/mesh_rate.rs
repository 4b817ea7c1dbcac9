//! Measures the mesh between two data cores: messages a second, and a question's round trip.
//!
//! `mesh_rate [MESSAGES]`. Two threads pinned to CPUs 0 and 1.

use std::cell::Cell;
use std::time::{Duration, Instant};

use holdfast_runtime::data_core::{self, Spec};
use holdfast_runtime::mesh::{self, Local};
use holdfast_runtime::probe;

fn spec(cpu: usize) -> Spec {
    Spec {
        name: format!("core-{cpu}"),
        cpu: Some(cpu),
        driver: probe::run(&probe::Wanted::default()).driver(),
        busy_poll: Duration::ZERO,
    }
}

async fn receive(local: Local<u64>, count: u64) {
    let got = Cell::new(0);
    while got.get() < count {
        let drained = local.drain(&mut |_, _| got.set(got.get() + 1));
        if drained == 0 {
            local.ready().await;
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count = std::env::args()
        .nth(1)
        .map_or(Ok(5_000_000), |n| n.parse::<u64>())?;
    let mut ports = mesh::build::<u64>(2, 4096).into_iter();
    let (Some(first), Some(second)) = (ports.next(), ports.next()) else {
        unreachable!()
    };
    let began = Instant::now();
    let sender = data_core::spawn(spec(0), move || async move {
        let local = first.local();
        for n in 0..count {
            local.send(1, n);
            if n % 256 == 0 {
                while local.stats().spilled > 4096 {
                    local.drain(&mut |_, _| {});
                    holdfast_runtime::yielder::turn().await;
                }
            }
        }
        while local.stats().spilled > 0 {
            local.drain(&mut |_, _| {});
            holdfast_runtime::yielder::turn().await;
        }
        println!("{:?}", local.stats());
    })?;
    let receiver = data_core::spawn(spec(1), move || receive(second.local(), count))?;
    sender.join()?;
    receiver.join()?;
    let took = began.elapsed();
    println!(
        "{count} messages in {took:?}: {:.1} ns each",
        took.as_nanos() as f64 / count as f64
    );

    let rounds = 100_000u64;
    let mut ports = mesh::build::<u64>(2, 64).into_iter();
    let (Some(first), Some(second)) = (ports.next(), ports.next()) else {
        unreachable!()
    };
    let echo = data_core::spawn(spec(1), move || async move {
        let local = second.local();
        let left = Cell::new(rounds);
        while left.get() > 0 {
            let count = local.drain(&mut |from, n| {
                left.set(left.get() - 1);
                local.send(from, n);
            });
            if count == 0 {
                local.ready().await;
            }
        }
    })?;
    let began = Instant::now();
    let asker = data_core::spawn(spec(0), move || async move {
        let local = first.local();
        for n in 0..rounds {
            local.send(1, n);
            while local.drain(&mut |_, got| assert_eq!(got, n)) == 0 {
                local.ready().await;
            }
        }
    })?;
    asker.join()?;
    echo.join()?;
    println!(
        "round trip between sleeping cores: {:?}",
        began.elapsed() / rounds as u32
    );
    Ok(())
}
