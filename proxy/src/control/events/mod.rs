//! Events on their way out: the ring of the last ones, journals, streams, the webhook.
//!
//! Owns all of these. The control loop fills the [`Hub`] from the cores' batches and its own; admin
//! handlers ask for a [`Subscription`] or a journal through the desk.
//!
//! Invariants: nothing here waits: a stream whose reader is slow is ended, the webhook's queue drops when
//! it is full, both counted. `session.events.emit` selects what goes to streams and the webhook;
//! journals, which are for looking into one session, have all. Order of arrival is kept everywhere.
//!
//! Tested below, and end to end.

pub mod journal;
pub mod told;
pub mod webhook;

use std::collections::VecDeque;
use std::sync::Arc;

use holdfast_store::id::Sid;
use tokio::sync::{Notify, mpsc};

use self::journal::Journals;
use self::told::Told;
use crate::event::{Event, NAMES};
use crate::setup::Setup;

/// Events kept for streams that come back.
pub const KEPT: usize = 4096;
/// Events that may wait for the reader of a stream.
pub const WAITING: usize = 1024;
/// Streams at a time.
pub const STREAMS: usize = 32;

/// A stream of events, from its beginning.
pub struct Subscription {
    /// Those of before, after the one that was named.
    pub backlog: Vec<Arc<Told>>,
    /// The one that was named is known no more: some may be missing.
    pub gap: bool,
    /// Those from now on. It ends when the reader is too slow.
    pub live: mpsc::Receiver<Arc<Told>>,
}

struct Stream {
    live: mpsc::Sender<Arc<Told>>,
    /// Ends the connection, which may hang in a write.
    end: Arc<Notify>,
}

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events taken, by kind.
    pub taken: [u64; NAMES.len()],
    /// Events that pushed an older one out of the journals.
    pub journal_displaced: u64,
    /// Events in journals.
    pub journal_kept: u64,
    /// Streams open.
    pub streams: u64,
    /// Streams ended because their reader was slow.
    pub slow: u64,
}

/// See the module.
pub struct Hub {
    emitted: [bool; NAMES.len()],
    ring: VecDeque<Arc<Told>>,
    journals: Journals,
    streams: Vec<Stream>,
    webhook: webhook::Queue,
    taken: [u64; NAMES.len()],
    slow: u64,
}

impl Hub {
    /// For a configuration, with the webhook's queue.
    pub fn new(setup: &Setup, webhook: webhook::Queue) -> Self {
        let mut hub = Self {
            emitted: [true; NAMES.len()],
            ring: VecDeque::new(),
            journals: Journals::default(),
            streams: Vec::new(),
            webhook,
            taken: [0; NAMES.len()],
            slow: 0,
        };
        hub.reload(setup);
        hub
    }

    /// Takes up a configuration.
    pub fn reload(&mut self, setup: &Setup) {
        let events = setup.plan.session.as_ref().map(|session| &session.events);
        let emit = events.and_then(|events| events.emit.as_deref());
        for (emitted, (_, name)) in self.emitted.iter_mut().zip(NAMES) {
            *emitted = emit.is_none_or(|names| names.iter().any(|n| n == name));
        }
        self.webhook.reload(setup);
    }

    /// Takes events, in order.
    pub fn extend(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            let kind = event.kind as usize;
            let told = Arc::new(Told::new(event));
            if let Some(taken) = self.taken.get_mut(kind) {
                *taken += 1;
            }
            self.journals.take(&told);
            if !self.emitted.get(kind).is_some_and(|emitted| *emitted) {
                continue;
            }
            if self.ring.len() == KEPT {
                self.ring.pop_front();
            }
            self.ring.push_back(Arc::clone(&told));
            self.stream(&told);
            self.webhook.push(told);
        }
    }

    fn stream(&mut self, told: &Arc<Told>) {
        let slow = &mut self.slow;
        self.streams.retain(|stream| {
            use mpsc::error::TrySendError;
            match stream.live.try_send(Arc::clone(told)) {
                Ok(()) => true,
                Err(TrySendError::Closed(_)) => false,
                Err(TrySendError::Full(_)) => {
                    *slow += 1;
                    stream.end.notify_one();
                    false
                }
            }
        });
    }

    /// A new stream, from after the event `last` on, or from now on. `end` is told when its reader is too
    /// slow. `None`: there are too many.
    pub fn subscribe(&mut self, last: Option<&str>, end: Arc<Notify>) -> Option<Subscription> {
        self.streams.retain(|stream| !stream.live.is_closed());
        if self.streams.len() >= STREAMS {
            return None;
        }
        let known = last.map(|last| self.ring.iter().rposition(|told| told.is(last)));
        let (from, gap) = match known {
            None => (self.ring.len(), false),
            Some(Some(at)) => (at + 1, false),
            Some(None) => (0, true),
        };
        let (sender, live) = mpsc::channel(WAITING);
        self.streams.push(Stream { live: sender, end });
        Some(Subscription {
            backlog: self.ring.range(from..).map(Arc::clone).collect(),
            gap,
            live,
        })
    }

    /// The journal of a session, oldest first.
    pub fn journal(&self, sid: &Sid) -> Vec<Arc<Told>> {
        self.journals.of(sid)
    }

    /// What was counted.
    pub fn counts(&self) -> Counts {
        let open = |stream: &&Stream| !stream.live.is_closed();
        Counts {
            taken: self.taken,
            journal_displaced: self.journals.displaced(),
            journal_kept: self.journals.kept() as u64,
            streams: self.streams.iter().filter(open).count() as u64,
            slow: self.slow,
        }
    }

    /// No more events come: the webhook's task ends once its queue is empty.
    pub fn close(&mut self) {
        self.webhook.close();
    }
}

#[cfg(test)]
mod tests;
