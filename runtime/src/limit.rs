//! One atomic for what is bounded over all cores: connections of the instance, exchanges of an upstream.
//!
//! Owns a count and its bound. Any thread may ask. Invariant: never more permits live than the bound
//! allowed when they were taken, and every permit is given back exactly once, by its drop. It
//! deliberately has no queue: who is refused decides what to do. Tested below, with threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// A bound that all cores share. Clones share the count.
#[derive(Debug, Clone)]
pub struct Limit(Arc<Inner>);

#[derive(Debug)]
#[repr(align(128))]
struct Inner {
    used: AtomicUsize,
    max: AtomicUsize,
    refused: AtomicUsize,
}

impl Limit {
    /// At most `max` permits at once; 0 is no bound.
    pub fn new(max: usize) -> Self {
        Self(Arc::new(Inner {
            used: AtomicUsize::new(0),
            max: AtomicUsize::new(max),
            refused: AtomicUsize::new(0),
        }))
    }

    /// A permit, or `None` (counted) when all are taken.
    pub fn try_acquire(&self) -> Option<Permit> {
        let inner = &*self.0;
        let max = match inner.max.load(Relaxed) {
            0 => usize::MAX,
            max => max,
        };
        // Add first, look afterwards: one locked instruction on the common way.
        if inner.used.fetch_add(1, Relaxed) >= max {
            inner.used.fetch_sub(1, Relaxed);
            inner.refused.fetch_add(1, Relaxed);
            return None;
        }
        Some(Permit(self.clone()))
    }

    /// Permits that are out now. May be seen too high for an instant while others are refused.
    pub fn used(&self) -> usize {
        self.0.used.load(Relaxed)
    }

    /// Times that [`Limit::try_acquire`] refused.
    pub fn refused(&self) -> usize {
        self.0.refused.load(Relaxed)
    }

    /// Changes the bound; permits above a lowered one live on.
    pub fn set_max(&self, max: usize) {
        self.0.max.store(max, Relaxed);
    }
}

/// One place under a [`Limit`]; given back when dropped, on any thread.
#[derive(Debug)]
pub struct Permit(Limit);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.0.used.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_more_than_the_bound() {
        let limit = Limit::new(3);
        let peak = Arc::new(AtomicUsize::new(0));
        let live = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (limit, peak, live) = (limit.clone(), peak.clone(), live.clone());
                std::thread::spawn(move || {
                    for _ in 0..20_000 {
                        if let Some(permit) = limit.try_acquire() {
                            peak.fetch_max(live.fetch_add(1, Relaxed) + 1, Relaxed);
                            live.fetch_sub(1, Relaxed);
                            drop(permit);
                        }
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(peak.load(Relaxed) <= 3);
        assert_eq!(limit.used(), 0);
        let held: Vec<_> = (0..3).map(|_| limit.try_acquire().unwrap()).collect();
        let refused = limit.refused();
        assert!(limit.try_acquire().is_none());
        assert_eq!(limit.refused(), refused + 1);
        drop(held);
        assert!(limit.try_acquire().is_some());
        assert!(
            (0..100)
                .map(|_| Limit::new(0).try_acquire())
                .all(|p| p.is_some())
        );
    }
}
