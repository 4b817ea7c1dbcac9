//! The last events of sessions and pins.
//!
//! Owns a ring of [`KEPT`] events, oldest out first, and two counters. Filled by the control loop from
//! the cores' batches. Webhooks, the stream of events and a session's own journal are to build on it;
//! today it keeps and counts.
//! Tested below.

use std::collections::VecDeque;

/// Events kept.
pub const KEPT: usize = 1024;

/// The ring. See the module.
#[derive(Debug)]
pub struct Journal<E> {
    ring: VecDeque<E>,
    taken: u64,
    displaced: u64,
}

impl<E> Default for Journal<E> {
    fn default() -> Self {
        Self {
            ring: VecDeque::new(),
            taken: 0,
            displaced: 0,
        }
    }
}

impl<E> Journal<E> {
    /// Takes a batch.
    pub fn extend(&mut self, events: impl IntoIterator<Item = E>) {
        for event in events {
            if self.ring.len() == KEPT {
                self.ring.pop_front();
                self.displaced += 1;
            }
            self.ring.push_back(event);
            self.taken += 1;
        }
    }

    /// The events kept, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &E> {
        self.ring.iter()
    }

    /// Events taken since the start.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Events that left the ring because newer ones came.
    pub fn displaced(&self) -> u64 {
        self.displaced
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_leave_and_are_counted() {
        let mut journal = Journal::default();
        journal.extend(0..KEPT + 10);
        assert_eq!(
            (journal.taken(), journal.displaced()),
            (KEPT as u64 + 10, 10)
        );
        assert_eq!(
            journal.iter().copied().collect::<Vec<_>>(),
            (10..KEPT + 10).collect::<Vec<_>>()
        );
    }
}
