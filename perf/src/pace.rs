//! When requests are due at a constant rate.
//!
//! Owns the arithmetic ([`Schedule`]) and the thread that tells a load thread how many requests
//! have become due ([`start`]), by one byte each through a socket pair: monoio's timer counts in
//! milliseconds, which would send requests in bursts and flatter a server that batches.
//!
//! Invariant: request `i` is due at `start + i / rate`, whatever happened to those before it. A
//! latency is measured from there (no coordinated omission): a server that stalls for a second
//! shows that second in every request it delayed, not in one. Never slows down when the receiver
//! is late: the socket pair fills, the sums stay right. Tested here with a virtual clock.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Due times in nanoseconds after the start.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    interval: f64,
}

impl Schedule {
    /// `rate` requests a second, more than 0.
    pub fn new(rate: f64) -> Self {
        Self {
            interval: 1e9 / rate,
        }
    }

    /// When request `index` is due.
    pub fn due(&self, index: u64) -> u64 {
        (index as f64 * self.interval) as u64
    }

    /// How many requests are due at `elapsed` or before.
    pub fn due_by(&self, elapsed: u64) -> u64 {
        (elapsed as f64 / self.interval) as u64 + 1
    }
}

/// Sleeps end late by some 50 to 100 µs; the rest is spun.
const SPIN: Duration = Duration::from_micros(80);

/// Starts the pacer: a byte into the returned socket for every request due, from `start` until the
/// socket is closed.
///
/// # Errors
/// When the socket pair or the thread can't be made.
pub fn start(schedule: Schedule, start: Instant) -> std::io::Result<UnixStream> {
    let (mut sender, receiver) = UnixStream::pair()?;
    std::thread::Builder::new()
        .name("pacer".into())
        .spawn(move || {
            let bytes = [1u8; 4096];
            let mut told = 0u64;
            loop {
                let wait = Duration::from_nanos(schedule.due(told));
                let left = wait.saturating_sub(start.elapsed());
                if left > SPIN {
                    std::thread::sleep(left - SPIN);
                }
                while start.elapsed() < wait {
                    std::hint::spin_loop();
                }
                let elapsed = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
                let due = schedule.due_by(elapsed).saturating_sub(told).max(1);
                let now = bytes.get(..due.min(4096) as usize).unwrap_or(&bytes);
                if sender.write_all(now).is_err() {
                    return;
                }
                told += now.len() as u64;
            }
        })?;
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use super::Schedule;
    use hdrhistogram::Histogram;

    #[test]
    fn due_times_and_counts_agree() {
        for rate in [0.5, 3.0, 4000.0, 33_333.0] {
            let s = Schedule::new(rate);
            assert_eq!(s.due(0), 0);
            assert_eq!(s.due_by(0), 1);
            for i in [1u64, 7, 1000, 123_456] {
                let n = s.due_by(s.due(i) + 1);
                assert!(n == i + 1, "rate {rate}, request {i}: {n}");
            }
        }
        assert_eq!(Schedule::new(4000.0).due(4000), 1_000_000_000);
    }

    /// One connection at 1,000 requests a second; the server takes 100 µs, but stalls for a second
    /// once. Measured from the send time one request of 10,000 is slow; measured from the due time
    /// some 1,100 are, and a tenth of all is over the percentile that a user would see.
    #[test]
    fn a_stall_is_seen_by_every_request_it_delays() {
        let schedule = Schedule::new(1000.0);
        let mut corrected = Histogram::<u64>::new(3).unwrap();
        let mut naive = Histogram::<u64>::new(3).unwrap();
        let mut now = 0u64;
        for i in 0..10_000u64 {
            let due = schedule.due(i);
            let sent = now.max(due);
            let service = if i == 5000 { 1_000_000_000 } else { 100_000 };
            now = sent + service;
            naive.record(now - sent).unwrap();
            corrected.record(now - due).unwrap();
        }
        assert!(naive.value_at_quantile(0.99) < 110_000);
        let p99 = corrected.value_at_quantile(0.99);
        assert!((850_000_000..1_000_000_000).contains(&p99), "{p99}");
        let delayed = corrected.count_between(1_000_000, u64::MAX);
        assert!((1050..1150).contains(&delayed), "{delayed}");
    }
}
