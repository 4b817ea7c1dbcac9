//! Notices a core whose loop does not turn.
//!
//! Owns one counter a core. The core's sweep beats it every 100 ms ([`crate::deadline::run_sweep`]);
//! another thread, the control thread, holds the [`Watch`] and looks at all from time to time.
//! Invariant: a heart is beaten by one thread only, so a beat is a load and a store. It deliberately
//! stops nothing and kills nothing: it tells. Tested below.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A core's own counter. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Heart(Arc<Count>);

#[derive(Debug, Default)]
#[repr(align(128))]
struct Count(AtomicU64);

thread_local! {
    static HEART: RefCell<Option<Heart>> = const { RefCell::new(None) };
}

impl Heart {
    /// Makes this the heart of the calling thread.
    pub fn install(&self) {
        HEART.with(|slot| *slot.borrow_mut() = Some(self.clone()));
    }

    /// Beats so far.
    pub fn beats(&self) -> u64 {
        self.0.0.load(Relaxed)
    }
}

/// Beats the heart of the calling thread, if it has one.
pub fn beat() {
    HEART.with(|slot| {
        if let Some(heart) = &*slot.borrow() {
            heart
                .0
                .0
                .store(heart.0.0.load(Relaxed).wrapping_add(1), Relaxed);
        }
    });
}

/// Looks at hearts and remembers when each was last seen to beat.
#[derive(Debug)]
pub struct Watch {
    threshold_ms: u64,
    seen: Vec<(Heart, u64, u64)>,
}

impl Watch {
    /// A watch over `hearts`, by core, that tells of those still for `threshold` or longer. Choose at
    /// least half a second: hearts beat every 100 ms.
    pub fn new(hearts: Vec<Heart>, threshold: Duration, now_ms: u64) -> Self {
        let seen = hearts
            .into_iter()
            .map(|heart| (heart.clone(), heart.beats(), now_ms))
            .collect();
        Self {
            threshold_ms: threshold.as_millis() as u64,
            seen,
        }
    }

    /// Calls `stalled` with each core that is still, and for how long it has been.
    pub fn look(&mut self, now_ms: u64, mut stalled: impl FnMut(usize, Duration)) {
        for (core, (heart, beats, since)) in self.seen.iter_mut().enumerate() {
            let now_beats = heart.beats();
            if now_beats != *beats {
                (*beats, *since) = (now_beats, now_ms);
            } else if now_ms.saturating_sub(*since) >= self.threshold_ms {
                stalled(core, Duration::from_millis(now_ms - *since));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_of_the_one_that_is_still() {
        let hearts = vec![Heart::default(), Heart::default()];
        let mut watch = Watch::new(hearts.clone(), Duration::from_secs(1), 0);
        let stalled = |watch: &mut Watch, now| {
            let mut found = Vec::new();
            watch.look(now, |core, still| found.push((core, still.as_millis())));
            found
        };
        assert_eq!(stalled(&mut watch, 999), []);
        let mine = hearts[1].clone();
        std::thread::spawn(move || {
            mine.install();
            beat();
        })
        .join()
        .unwrap();
        assert_eq!(stalled(&mut watch, 1_000), [(0, 1_000)]);
        assert_eq!(stalled(&mut watch, 1_999), [(0, 1_999)]);
        assert_eq!(stalled(&mut watch, 2_000), [(0, 2_000), (1, 1_000)]);
        beat();
        assert_eq!(hearts[0].beats(), 0, "a thread without a heart beats none");
    }
}
