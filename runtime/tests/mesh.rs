//! The mesh between threads of all three runtimes: nothing lost, nothing out of order, nobody left
//! asleep.

mod common;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use common::*;
use holdfast_runtime::data_core::{self, Driver};
use holdfast_runtime::mesh::{self, CallId, Calls, Local, Port};
use holdfast_runtime::{replication_core, yielder};

/// Which runtime a party is on.
#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Monoio(Driver),
    Tokio,
    Glommio,
}

impl Kind {
    /// Gives way to the party's other tasks.
    async fn turn(&self) {
        match self {
            Self::Monoio(_) => yielder::turn().await,
            Self::Tokio => tokio::task::yield_now().await,
            Self::Glommio => glommio::executor().yield_task_queue_now().await,
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        match self {
            Self::Monoio(_) => {
                monoio::spawn(task);
            }
            Self::Tokio => {
                tokio::task::spawn_local(task);
            }
            Self::Glommio => {
                glommio::spawn_local(task).detach();
            }
        }
    }
}

type Joiner = Box<dyn FnOnce()>;

/// A thread of that kind that runs what `make` gives.
fn start<Make, Fut>(kind: &Kind, make: Make) -> Joiner
where
    Make: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    match kind {
        Kind::Monoio(driver) => {
            let handle = data_core::spawn(spec("monoio", driver.clone()), make).unwrap();
            Box::new(move || handle.join().unwrap())
        }
        Kind::Glommio => {
            let spec = replication_core::Spec {
                name: "glommio".to_owned(),
                cpu: None,
            };
            let handle = replication_core::spawn(spec, make).unwrap();
            Box::new(move || handle.join().unwrap())
        }
        Kind::Tokio => {
            let handle = thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                tokio::task::LocalSet::new().block_on(&runtime, async { make().await });
            });
            Box::new(move || handle.join().unwrap())
        }
    }
}

fn kinds() -> Vec<Kind> {
    vec![
        Kind::Monoio(ring()),
        Kind::Monoio(Driver::Legacy),
        Kind::Tokio,
        Kind::Glommio,
    ]
}

/// Runs one party: sends `count` numbers to each other one, in bursts, and checks what it gets.
async fn party(
    kind: Kind,
    port: Port<u64>,
    parties: usize,
    count: u64,
    finished: Arc<AtomicUsize>,
) {
    let local = port.local();
    let me = local.id();
    kind.spawn({
        let (local, kind) = (local.clone(), kind.clone());
        async move {
            let mut burst = 1;
            for number in 0..count {
                for to in (0..parties).filter(|&to| to != me) {
                    local.send(to, number);
                }
                if number % burst == 0 {
                    burst = burst * 7 % 97;
                    kind.turn().await;
                }
            }
        }
    });
    let expected = Rc::new(RefCell::new(vec![0u64; parties]));
    let got = Rc::new(Cell::new(0u64));
    let total = count * (parties as u64 - 1);
    let mut receive = |from: usize, number: u64| {
        let next = &mut expected.borrow_mut()[from];
        assert_eq!(number, *next, "from {from} to {me}");
        *next += 1;
        got.set(got.get() + 1);
    };
    let mut counted = false;
    // Pumps on until all have all: what they still wait for may be in our spill.
    while finished.load(Ordering::SeqCst) < parties {
        if local.drain(&mut receive) == 0 && !counted {
            local.ready().await;
        } else {
            kind.turn().await;
        }
        if got.get() == total && !counted {
            counted = true;
            finished.fetch_add(1, Ordering::SeqCst);
        }
    }
    assert_eq!(got.get(), total);
    assert_eq!(local.stats().spilled, 0);
    assert_eq!(local.stats().sent, total);
}

#[test]
fn millions_of_messages_between_all_runtimes() {
    let _alone = alone();
    for capacity in [1024, 2] {
        let kinds = kinds();
        let count = if capacity == 2 { 20_000 } else { 200_000 };
        let finished = Arc::new(AtomicUsize::new(0));
        let joiners: Vec<Joiner> = mesh::build(kinds.len(), capacity)
            .into_iter()
            .zip(&kinds)
            .map(|(port, kind)| {
                let (kind, finished, parties) = (kind.clone(), finished.clone(), kinds.len());
                start(&kind.clone(), move || {
                    party(kind, port, parties, count, finished)
                })
            })
            .collect();
        joiners.into_iter().for_each(|join| join());
    }
}

/// A question or an answer.
#[derive(Debug)]
enum Say {
    Ask(CallId, u64),
    Answer(CallId, u64),
    End,
}

async fn answer(local: Local<Say>, asker: usize) {
    let ended = Cell::new(false);
    while !ended.get() {
        let replies = local.clone();
        let count = local.drain(&mut |_, say| match say {
            Say::Ask(call, n) => replies.send(asker, Say::Answer(call, n + 1)),
            _ => ended.set(true),
        });
        if count == 0 {
            local.ready().await;
        }
    }
}

async fn ask(kind: Kind, local: Local<Say>, answerer: usize, rounds: u64) {
    let calls = Calls::new();
    let done = Rc::new(Cell::new(false));
    kind.spawn({
        let (local, calls, done) = (local.clone(), calls.clone(), done.clone());
        async move {
            while !done.get() {
                let count = local.drain(&mut |_, say| {
                    if let Say::Answer(call, n) = say {
                        assert!(calls.complete(call, n));
                    }
                });
                if count == 0 {
                    local.ready().await;
                }
            }
        }
    });
    for n in 0..rounds {
        let (call, answer) = calls.open();
        local.send(answerer, Say::Ask(call, n));
        assert_eq!(answer.await, n + 1);
    }
    assert_eq!((calls.open_calls(), calls.late()), (0, 0));
    done.set(true);
    local.send(answerer, Say::End);
    // To itself: wakes its own pump, so that it sees that it is done.
    local.send(local.id(), Say::End);
    while local.drain(&mut |_, _| {}) > 0 {
        kind.turn().await;
    }
}

#[test]
fn one_question_at_a_time_wakes_every_sleeper() {
    let _alone = alone();
    for asker in kinds() {
        for answerer in kinds() {
            let mut ports = mesh::build::<Say>(2, 4).into_iter();
            let (first, second) = (ports.next().unwrap(), ports.next().unwrap());
            let asks = start(&asker, {
                let kind = asker.clone();
                move || async move { ask(kind, first.local(), 1, 5_000).await }
            });
            let answers = start(
                &answerer,
                move || async move { answer(second.local(), 0).await },
            );
            asks();
            answers();
        }
    }
}

#[test]
fn a_full_ring_spills_in_order_and_a_sleeping_sender_is_rung_for_room() {
    let _alone = alone();
    let mut ports = mesh::build::<u64>(2, 2).into_iter();
    let (first, second) = (ports.next().unwrap(), ports.next().unwrap());
    let sender = start(&Kind::Monoio(ring()), move || async move {
        let local = first.local();
        (0..1000).for_each(|n| local.send(1, n));
        assert!(local.stats().spilled > 900);
        let ended = Cell::new(false);
        // It only sleeps and moves on what spilled, until the other has had enough.
        while !ended.get() {
            if local.drain(&mut |_, _| ended.set(true)) == 0 {
                local.ready().await;
            }
        }
        assert_eq!(local.stats().spilled, 0);
    });
    let receiver = start(&Kind::Monoio(Driver::Legacy), move || async move {
        // Lets the sender fall asleep with a full ring.
        monoio::time::sleep(Duration::from_millis(100)).await;
        let local = second.local();
        let mut next = 0;
        while next < 1000 {
            let count = local.drain(&mut |from, n| {
                assert_eq!((from, n), (0, next));
                next += 1;
            });
            if count == 0 {
                local.ready().await;
            }
        }
        local.send(0, 0);
    });
    sender();
    receiver();
}

#[test]
fn a_spill_behind_a_sleeping_pump_moves_on() {
    let _alone = alone();
    const COUNT: u64 = 2_000;
    for driver in drivers() {
        let mut ports = mesh::build::<u64>(2, 2).into_iter();
        let (first, second) = (ports.next().unwrap(), ports.next().unwrap());
        let sender = start(&Kind::Monoio(driver.clone()), move || async move {
            let local = first.local();
            let ended = Rc::new(Cell::new(false));
            // The pump sleeps while another task of the thread sends more than there is room for.
            monoio::spawn({
                let (local, ended) = (local.clone(), ended.clone());
                async move { local.pump(move |_, _| ended.set(true)).await }
            });
            for n in 0..COUNT {
                local.send(1, n);
                if n % 5 == 0 {
                    yielder::turn().await;
                }
            }
            while !ended.get() {
                monoio::time::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(local.stats().spilled, 0);
        });
        let receiver = start(&Kind::Monoio(driver), move || async move {
            let local = second.local();
            let next = Cell::new(0);
            while next.get() < COUNT {
                let count = local.drain(&mut |_, n| {
                    assert_eq!(n, next.get());
                    next.set(n + 1);
                });
                if count == 0 {
                    local.ready().await;
                } else if next.get().is_multiple_of(7) {
                    monoio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            local.send(0, 0);
        });
        sender();
        receiver();
    }
}

#[test]
fn an_awake_reader_is_never_rung() {
    let mut ports = mesh::build::<u64>(2, 1024).into_iter();
    let (first, second) = (ports.next().unwrap().local(), ports.next().unwrap().local());
    (0..100).for_each(|n| first.send(1, n));
    assert_eq!(first.stats().rung, 0);
    let mut got = 0;
    assert_eq!(second.drain(&mut |_, _| got += 1), 100);
    assert_eq!(got, 100);
    assert_eq!((first.id(), first.parties()), (0, 2));
}

#[test]
fn a_spill_queue_says_when_it_is_congested_and_loses_nothing() {
    let mut ports = mesh::build::<usize>(3, 4);
    let reader = ports.remove(1).local();
    let sender = ports.remove(0).local();
    let all = 4 + mesh::CONGESTED;
    for n in 0..all - 1 {
        sender.send(1, n);
    }
    assert!(!sender.is_congested(1));
    sender.send(1, all - 1);
    assert!(sender.is_congested(1) && !sender.is_congested(2) && !sender.is_congested(0));
    assert!(!sender.is_congested(7), "nobody");
    assert_eq!((sender.waiting(1), sender.waiting(2)), (all, 0));
    let mut next = 0;
    while next < all {
        reader.drain(&mut |_, n| {
            assert_eq!(n, next, "in order");
            next += 1;
        });
        sender.drain(&mut |_, _| ());
    }
    assert!(!sender.is_congested(1));
}
