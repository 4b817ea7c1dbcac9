//! What the tests share: cores on either driver, and waiting with a deadline.
#![allow(dead_code, reason = "each test file uses a part")]

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use holdfast_runtime::data_core::{self, Driver, Spec};
use holdfast_runtime::probe::Ring;

/// Longer than any test may take on a loaded machine.
pub const LONG: Duration = Duration::from_secs(60);

/// The ring of the defaults, small.
pub fn ring() -> Driver {
    Driver::Ring(Ring {
        entries: 256,
        coop_taskrun: true,
        single_issuer: true,
        defer_taskrun: true,
        sqpoll: false,
    })
}

/// Both drivers.
pub fn drivers() -> [Driver; 2] {
    [ring(), Driver::Legacy]
}

/// A core's specification.
pub fn spec(name: &str, driver: Driver) -> Spec {
    Spec {
        name: name.to_owned(),
        cpu: None,
        driver,
        busy_poll: Duration::ZERO,
    }
}

/// Runs a future on a core of its own, to its end.
pub fn on_core<Make, Fut>(driver: Driver, make: Make)
where
    Make: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let handle = data_core::spawn(spec("test", driver), make).expect("a core");
    assert_eq!(handle.got().warnings, Vec::<String>::new());
    handle.join().expect("no panic");
}

/// Runs the test on both drivers.
pub fn on_both<Make, Fut>(make: Make)
where
    Make: Fn() -> Fut + Send + Clone + 'static,
    Fut: Future<Output = ()> + 'static,
{
    for driver in drivers() {
        on_core(driver, make.clone());
    }
}

/// Waits until something is so.
pub fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !so() {
        assert!(Instant::now() < end, "never so: {what}");
        std::thread::yield_now();
    }
}

/// The loopback address with a port that the kernel chooses.
pub fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// Bytes that look random, the same for the same seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed | 1;
    (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 24) as u8
        })
        .collect()
}

/// FNV-1a.
pub fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| {
        (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3)
    })
}

static ALONE: Mutex<()> = Mutex::new(());

/// Keeps tests that look at what the whole process uses from running beside each other.
pub fn alone() -> MutexGuard<'static, ()> {
    ALONE
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}
