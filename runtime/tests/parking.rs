//! The parking lot with thousands of sockets, on both drivers.

mod common;

use std::collections::HashSet;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::*;
use holdfast_runtime::parking::{Lot, Why};
use holdfast_runtime::probe;

#[test]
fn thousands_come_out_each_once_and_for_the_right_reason() {
    let files = probe::run(&probe::Wanted::default()).nofile.soft;
    let count = (files.saturating_sub(200) / 2).min(6_000) as usize;
    on_both(move || async move {
        let lot = Rc::new(Lot::new().unwrap());
        let mut others = Vec::new();
        for i in 0..count {
            let (mine, other) = UnixStream::pair().unwrap();
            lot.park(
                mine.into(),
                i,
                if i % 3 == 0 {
                    Duration::from_millis(500)
                } else {
                    Duration::MAX
                },
            )
            .unwrap();
            others.push(Some(other));
        }
        assert_eq!(lot.len(), count);
        // Every third speaks, every third closes, every third waits.
        for i in (1..count).step_by(3) {
            others[i].as_mut().unwrap().write_all(b"x").unwrap();
        }
        for i in (2..count).step_by(3) {
            others[i] = None;
        }
        let began = Instant::now();
        let mut seen = HashSet::new();
        for _ in 0..count {
            let parked = monoio::time::timeout(LONG, lot.next())
                .await
                .expect("all come out")
                .unwrap();
            assert!(seen.insert(parked.data), "{} twice", parked.data);
            let expected = [Why::Expired, Why::Readable, Why::Closed][parked.data % 3];
            assert_eq!(parked.why, expected, "{}", parked.data);
            if expected == Why::Expired {
                // Parked before `began`; the clock of idle times is coarse.
                assert!(began.elapsed() >= Duration::from_millis(100));
            }
        }
        assert!(lot.is_empty());
    });
}

#[test]
fn an_idle_time_is_not_short_and_not_long() {
    on_both(|| async {
        let lot = Lot::new().unwrap();
        let (a, _keep_a) = UnixStream::pair().unwrap();
        let (b, _keep_b) = UnixStream::pair().unwrap();
        let began = Instant::now();
        lot.park(a.into(), "long", Duration::from_millis(900))
            .unwrap();
        // Parked later, due earlier.
        lot.park(b.into(), "short", Duration::from_millis(300))
            .unwrap();
        let mut ended = Vec::new();
        for _ in 0..2 {
            let parked = lot.next().await.unwrap();
            assert_eq!(parked.why, Why::Expired);
            ended.push((parked.data, began.elapsed().as_millis()));
        }
        // After a pause of the machine both may be due at once, in any order.
        ended.sort_by_key(|(what, _)| *what != "short");
        for ((what, took), (expected, least)) in
            ended.into_iter().zip([("short", 300), ("long", 900)])
        {
            assert_eq!(what, expected);
            assert!(took >= least && took < least + 5_000, "{what}: {took} ms");
        }
    });
}

#[test]
fn after_the_last_idle_time_the_waiter_sleeps_until_another_is_parked() {
    on_both(|| async {
        let lot = Rc::new(Lot::new().unwrap());
        for _ in 0..2 {
            let (mine, _other) = UnixStream::pair().unwrap();
            lot.park(mine.into(), (), Duration::from_millis(200))
                .unwrap();
            assert_eq!(lot.next().await.unwrap().why, Why::Expired);
            // A waiter that never waits would keep this timer from its turn.
            let nothing = monoio::time::timeout(Duration::from_millis(300), lot.next()).await;
            assert!(nothing.is_err() && lot.is_empty());
        }
    });
}

#[test]
fn one_that_is_parked_while_the_waiter_sleeps_wakes_it() {
    on_both(|| async {
        let lot = Rc::new(Lot::new().unwrap());
        for round in 0..50 {
            let (mine, mut other) = UnixStream::pair().unwrap();
            let parker = lot.clone();
            monoio::spawn(async move {
                monoio::time::sleep(Duration::from_millis(2)).await;
                parker.park(mine.into(), round, Duration::MAX).unwrap();
                monoio::time::sleep(Duration::from_millis(2)).await;
                other.write_all(b"x").unwrap();
                // The other side's end, behind its bytes, does not hide them.
            });
            let parked = monoio::time::timeout(LONG, lot.next())
                .await
                .expect("woken")
                .unwrap();
            assert_eq!((parked.data, parked.why), (round, Why::Readable));
            // The same socket may be parked again; its bytes bring it out at once.
            lot.park(parked.fd, parked.data, Duration::MAX).unwrap();
            assert_eq!(lot.next().await.unwrap().why, Why::Readable);
        }
    });
}

#[test]
fn a_drain_takes_all() {
    on_both(|| async {
        let lot = Lot::new().unwrap();
        let mut keep = Vec::new();
        for i in 0..100 {
            let (mine, other) = UnixStream::pair().unwrap();
            lot.park(mine.into(), i, Duration::from_secs(1)).unwrap();
            keep.push(other);
        }
        let all: HashSet<i32> = lot.drain().into_iter().map(|parked| parked.data).collect();
        assert_eq!((all.len(), lot.len()), (100, 0));
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let (error, _, data) = lot.park(file.into(), 7, Duration::MAX).unwrap_err();
        assert_eq!(
            (error.raw_os_error(), data, lot.len()),
            (Some(libc::EPERM), 7, 0),
            "a file can't be watched"
        );
    });
}
