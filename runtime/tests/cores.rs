//! Data cores and the replication core: drivers, panics, busy polling, idleness.

mod common;

use std::fs;
use std::net::TcpListener;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::*;
use holdfast_runtime::buffers::Buffer;
use holdfast_runtime::data_core::{self, Driver};
use holdfast_runtime::probe::{self, Ring};
use holdfast_runtime::shutdown::{self, Phase};
use holdfast_runtime::stream::{Stream, Target};
use holdfast_runtime::{Error, replication_core};

/// CPU time of this process's thread of that name, in ticks of 10 ms.
fn cpu_ticks(name: &str) -> u64 {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("stat")).ok())
        .filter(|stat| stat.contains(&format!("({name})")))
        .map(|stat| {
            let fields: Vec<&str> = stat[stat.rfind(')').unwrap()..].split(' ').collect();
            fields[12].parse::<u64>().unwrap() + fields[13].parse::<u64>().unwrap()
        })
        .sum()
}

#[test]
fn a_core_tells_what_it_got_and_ends() {
    for driver in drivers() {
        let mut wanted = spec("core-0", driver.clone());
        wanted.cpu = Some(0);
        let (send, receive) = mpsc::channel();
        let handle = data_core::spawn(wanted, move || async move {
            send.send((
                std::thread::current().name().map(str::to_owned),
                std::thread::available_parallelism().unwrap().get(),
                monoio::utils::is_legacy(),
            ))
            .unwrap();
        })
        .unwrap();
        assert_eq!((&handle.got().driver, handle.got().cpu), (&driver, Some(0)));
        let (name, cpus, legacy) = receive.recv_timeout(LONG).unwrap();
        assert_eq!(
            (name.as_deref(), cpus, legacy),
            (Some("core-0"), 1, driver == Driver::Legacy)
        );
        handle.join().unwrap();
    }
}

#[test]
fn a_panic_of_any_task_is_told() {
    for driver in drivers() {
        let handle = data_core::spawn(spec("faulty", driver), || async {
            monoio::spawn(async { panic!("number {}", 7) });
            std::future::pending::<()>().await;
        })
        .unwrap();
        wait_until("the core ended", || handle.is_finished());
        match handle.join() {
            Err(Error::Panicked { name, message }) => {
                assert_eq!((&*name, &*message), ("faulty", "number 7"))
            }
            other => panic!("{other:?}"),
        }
    }
    let spec = replication_core::Spec {
        name: "faulty".to_owned(),
        cpu: None,
    };
    let handle = replication_core::spawn(spec, || async { panic!("number {}", 8) }).unwrap();
    wait_until("the core ended", || handle.is_finished());
    assert!(matches!(handle.join(), Err(Error::Panicked { message, .. }) if message == "number 8"));
}

#[test]
fn a_cpu_that_is_not_there_is_a_warning() {
    let mut wanted = spec("core", ring());
    wanted.cpu = Some(1000);
    let handle = data_core::spawn(wanted, || async {}).unwrap();
    assert_eq!((handle.got().cpu, handle.got().warnings.len()), (None, 1));
    handle.join().unwrap();
}

#[test]
fn a_ring_that_can_not_be_becomes_epoll() {
    // DEFER_TASKRUN needs SINGLE_ISSUER: the kernel refuses this one at any size.
    let wrong = Driver::Ring(Ring {
        entries: 1024,
        coop_taskrun: false,
        single_issuer: false,
        defer_taskrun: true,
        sqpoll: false,
    });
    let handle = data_core::spawn(spec("core", wrong), || async {
        assert!(monoio::utils::is_legacy());
    })
    .unwrap();
    assert_eq!(
        (&handle.got().driver, handle.got().warnings.len()),
        (&Driver::Legacy, 1)
    );
    handle.join().unwrap();
}

#[test]
fn idle_threads_sleep() {
    let _alone = alone();
    let mut ends = Vec::new();
    let mut handles = Vec::new();
    for (i, driver) in drivers().into_iter().enumerate() {
        let (switch, watch) = shutdown::switch();
        let mut wanted = spec(&format!("idle-{i}"), driver);
        // Busy polling too ends when nothing happens.
        wanted.busy_poll = Duration::from_micros(200);
        handles.push(
            data_core::spawn(wanted, move || async move {
                watch.reached(Phase::Draining).await
            })
            .unwrap(),
        );
        ends.push(switch);
    }
    let (switch, watch) = shutdown::switch();
    let spec = replication_core::Spec {
        name: "idle-2".to_owned(),
        cpu: None,
    };
    let replication =
        replication_core::spawn(
            spec,
            move || async move { watch.reached(Phase::Ending).await },
        )
        .unwrap();
    ends.push(switch);
    let began = Instant::now();
    let before: Vec<u64> = (0..3).map(|i| cpu_ticks(&format!("idle-{i}"))).collect();
    let (_never, silence) = mpsc::channel::<()>();
    assert!(silence.recv_timeout(Duration::from_secs(2)).is_err());
    for (i, before) in before.iter().enumerate() {
        let used = cpu_ticks(&format!("idle-{i}")) - before;
        assert!(
            used <= 10,
            "idle-{i} used {used} ticks in {:?}",
            began.elapsed()
        );
    }
    // They beat meanwhile, and end when told.
    assert!(handles.iter().all(|handle| handle.heart().beats() >= 10));
    ends.iter().for_each(|switch| switch.turn(Phase::Ending));
    handles
        .into_iter()
        .for_each(|handle| handle.join().unwrap());
    replication.join().unwrap();
}

#[test]
fn busy_polling_keeps_a_busy_core_awake_and_serves() {
    for driver in drivers() {
        let mut wanted = spec("busy", driver);
        wanted.busy_poll = Duration::from_millis(1);
        let handle = data_core::spawn(wanted, || async {
            let listener = TcpListener::bind(any_port()).unwrap();
            let target = Target::Tcp(listener.local_addr().unwrap());
            let a = Stream::connect(&target, LONG).await.unwrap();
            let b = Stream::from_fd(listener.accept().unwrap().0.into()).unwrap();
            for _ in 0..1000 {
                let mut out = Buffer::take();
                out.extend_from_slice(b"ping");
                a.write_all(out).await.0.unwrap();
                let (read, back) = b.read(Buffer::take()).await;
                assert_eq!(read.unwrap(), 4);
                b.write_all(back).await.0.unwrap();
                assert_eq!(a.read(Buffer::take()).await.0.unwrap(), 4);
            }
        })
        .unwrap();
        handle.join().unwrap();
    }
}

#[test]
fn eight_cores_on_whatever_there_is() {
    let report = probe::run(&probe::Wanted {
        rings: 8,
        ..probe::Wanted::default()
    });
    let handles: Vec<_> = (0..8)
        .map(|i| {
            let mut wanted = spec(&format!("core-{i}"), report.driver());
            wanted.cpu = Some(i % std::thread::available_parallelism().unwrap().get());
            data_core::spawn(wanted, || async {
                monoio::time::sleep(Duration::from_millis(50)).await
            })
            .unwrap()
        })
        .collect();
    for handle in handles {
        assert_eq!(handle.got().driver, report.driver());
        handle.join().unwrap();
    }
}
