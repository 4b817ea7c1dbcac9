//! How a draining upstream gives its pinned clients up: by `drainTimeout`, and by `drainRate` before that.
//!
//! One [`Drains`] a core and service; only its core calls it. A client is moved when his next request is
//! decided, never within one: nothing in flight is cut, and a client who sends nothing is not counted.
//! With neither bound set, a draining upstream keeps its clients until their pins end.

use std::time::Duration;

/// The drains of one service, as one core sees them.
#[derive(Debug, Clone)]
pub struct Drains {
    timeout_ms: Option<u64>,
    /// Credit a millisecond, and the price of one pin in the same unit: `drainRate` pins a second, split
    /// evenly over the cores.
    rate: u64,
    price: u64,
    upstreams: Vec<Option<Drain>>,
}

#[derive(Debug, Clone, Copy)]
struct Drain {
    since_ms: u64,
    credit: u64,
    filled_ms: u64,
}

impl Drains {
    /// `timeout` zero: never; `rate` pins a second over all `cores`, zero: none.
    pub fn new(upstreams: usize, timeout: Duration, rate: u32, cores: usize) -> Self {
        Self {
            timeout_ms: (!timeout.is_zero())
                .then(|| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
            rate: u64::from(rate),
            price: 1000 * (cores.max(1) as u64),
            upstreams: vec![None; upstreams],
        }
    }

    /// An upstream began (`Some(when)`) or ended (`None`) to drain. Milliseconds of any steady clock. A drain
    /// that began already keeps its beginning.
    pub fn set(&mut self, upstream: usize, draining_since_ms: Option<u64>) {
        if let Some(slot) = self.upstreams.get_mut(upstream) {
            *slot = draining_since_ms.map(|since_ms| {
                slot.unwrap_or(Drain {
                    since_ms,
                    credit: 0,
                    filled_ms: since_ms,
                })
            });
        }
    }

    /// Since when an upstream drains, if it does.
    pub fn since(&self, upstream: usize) -> Option<u64> {
        self.upstreams
            .get(upstream)?
            .as_ref()
            .map(|drain| drain.since_ms)
    }

    /// Whether a drain ever gives clients up.
    pub fn ends(&self) -> bool {
        self.timeout_ms.is_some() || self.rate > 0
    }

    /// Must this pinned client of a draining upstream go now? Asked once a request; a yes is spent.
    ///
    /// An upstream that nobody told of drains from now on.
    pub fn gives_up(&mut self, upstream: usize, now_ms: u64) -> bool {
        let Some(slot) = self.upstreams.get_mut(upstream) else {
            return false;
        };
        let drain = slot.get_or_insert(Drain {
            since_ms: now_ms,
            credit: 0,
            filled_ms: now_ms,
        });
        if self
            .timeout_ms
            .is_some_and(|timeout| now_ms.saturating_sub(drain.since_ms) >= timeout)
        {
            return true;
        }
        if self.rate == 0 {
            return false;
        }
        let passed = now_ms.saturating_sub(drain.filled_ms);
        drain.filled_ms = drain.filled_ms.max(now_ms);
        // At most a second's worth, and always room for one pin.
        let most = self.rate.saturating_mul(1000).max(self.price);
        drain.credit = drain
            .credit
            .saturating_add(passed.saturating_mul(self.rate))
            .min(most);
        let enough = drain.credit >= self.price;
        if enough {
            drain.credit -= self.price;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_bounds_clients_stay() {
        let mut drains = Drains::new(1, Duration::ZERO, 0, 1);
        drains.set(0, Some(0));
        assert!((0..100_000).step_by(100).all(|ms| !drains.gives_up(0, ms)));
    }

    #[test]
    fn the_timeout_counts_from_the_beginning() {
        let mut drains = Drains::new(2, Duration::from_secs(5), 0, 1);
        drains.set(0, Some(1_000));
        drains.set(0, Some(4_000));
        assert!(!drains.gives_up(0, 5_999));
        assert!(drains.gives_up(0, 6_000));
        drains.set(0, None);
        drains.set(0, Some(7_000));
        assert!(!drains.gives_up(0, 7_001), "a new drain");
        assert!(!drains.gives_up(1, 9_000), "nobody told");
        assert!(drains.gives_up(1, 14_000), "it began when first asked");
        assert!(!drains.gives_up(2, 99_000), "no such upstream");
    }

    #[test]
    fn the_rate_is_held_over_all_cores() {
        for (rate, cores) in [(1, 1), (10, 1), (10, 2), (3, 8)] {
            let mut drains: Vec<_> = (0..cores)
                .map(|_| Drains::new(1, Duration::ZERO, rate, cores))
                .collect();
            drains.iter_mut().for_each(|core| core.set(0, Some(0)));
            let mut given = 0u32;
            for ms in 0..60_000 {
                given += drains
                    .iter_mut()
                    .map(|core| u32::from(core.gives_up(0, ms)))
                    .sum::<u32>();
            }
            assert!(
                (rate * 58..=rate * 60).contains(&given),
                "{given} of {rate}/s in a minute, {cores} cores"
            );
        }
    }

    #[test]
    fn what_is_not_asked_for_does_not_pile_up() {
        let mut drains = Drains::new(1, Duration::ZERO, 5, 1);
        drains.set(0, Some(0));
        let given = (0..100).filter(|_| drains.gives_up(0, 3_600_000)).count();
        assert_eq!(given, 5, "a second's worth");
    }
}
