//! The last events of each session.
//!
//! Owns, for each session of which something was told, its last [`EACH`] events, at most [`ALL`] over
//! all sessions; beyond that those told longest ago leave, counted. What a session's own bound pushes out
//! is not: a journal is its last events by definition. The control loop's.
//!
//! Invariants: `order` holds the kept events in the order of arrival, and at most as many gaps as events
//! (and some); the events of one session are a chain in it, by numbers. A session without events has no
//! chain. It takes about 130 bytes an event beside the event itself. Tested below, with a model.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use holdfast_store::id::Sid;

use super::told::Told;

/// Events of one session.
pub const EACH: usize = 64;
/// Events of all sessions.
pub const ALL: usize = 16_384;

/// The events of one session: the numbers of the first and last.
#[derive(Debug, Clone, Copy)]
struct Chain {
    first: u64,
    last: u64,
    len: u32,
}

/// A place in `order`: an event, or the gap that one left, and the number of its session's next.
#[derive(Debug)]
struct Kept {
    told: Option<Arc<Told>>,
    next: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Journals {
    all: usize,
    of: HashMap<Sid, Chain>,
    order: VecDeque<Kept>,
    /// The number of the first place in `order`.
    base: u64,
    kept: usize,
    displaced: u64,
}

impl Default for Journals {
    fn default() -> Self {
        Self::new(ALL)
    }
}

impl Journals {
    /// Of `all` events at most.
    pub fn new(all: usize) -> Self {
        Self {
            all: all.max(1),
            of: HashMap::default(),
            order: VecDeque::new(),
            base: 0,
            kept: 0,
            displaced: 0,
        }
    }

    /// Takes an event, if it is of a session.
    pub fn take(&mut self, told: &Arc<Told>) {
        let Some(sid) = told.event.sid else { return };
        if self.of.get(&sid).is_some_and(|c| c.len as usize == EACH) {
            self.pop(&sid);
        } else if self.kept == self.all {
            self.displace();
        }
        // Room is made before it is used, so that the ring's memory need not double at the bound.
        if self.order.len() >= 2 * self.kept.max(EACH) {
            self.close_gaps();
        }
        self.push(sid, Arc::clone(told));
    }

    fn push(&mut self, sid: Sid, told: Arc<Told>) {
        let number = self.base + self.order.len() as u64;
        let new = Chain {
            first: number,
            last: number,
            len: 0,
        };
        let chain = self.of.entry(sid).or_insert(new);
        let before = chain.last;
        chain.last = number;
        chain.len += 1;
        if before != number
            && let Some(kept) = self.order.get_mut((before - self.base) as usize)
        {
            kept.next = number;
        }
        self.order.push_back(Kept {
            told: Some(told),
            next: number,
        });
        self.kept += 1;
    }

    /// Lets a session's oldest event go.
    fn pop(&mut self, sid: &Sid) {
        let Some(chain) = self.of.get_mut(sid) else {
            return;
        };
        if let Some(kept) = self.order.get_mut((chain.first - self.base) as usize) {
            kept.told = None;
            chain.first = kept.next;
        }
        chain.len -= 1;
        self.kept -= 1;
        if chain.len == 0 {
            self.of.remove(sid);
        }
    }

    /// Lets the oldest event of all go.
    fn displace(&mut self) {
        while let Some(oldest) = self.order.front() {
            let sid = oldest.told.as_ref().and_then(|told| told.event.sid);
            if let Some(sid) = sid {
                self.pop(&sid);
                self.displaced += 1;
            }
            self.order.pop_front();
            self.base += 1;
            if sid.is_some() {
                return;
            }
        }
    }

    fn close_gaps(&mut self) {
        let order = std::mem::take(&mut self.order);
        self.base += order.len() as u64;
        self.of.clear();
        self.kept = 0;
        for told in order.into_iter().filter_map(|kept| kept.told) {
            if let Some(sid) = told.event.sid {
                self.push(sid, told);
            }
        }
    }

    /// A session's events, oldest first.
    pub fn of(&self, sid: &Sid) -> Vec<Arc<Told>> {
        let Some(chain) = self.of.get(sid) else {
            return Vec::new();
        };
        let mut number = chain.first;
        let mut events = Vec::with_capacity(chain.len as usize);
        for _ in 0..chain.len {
            let Some(kept) = self.order.get((number - self.base) as usize) else {
                break;
            };
            events.extend(kept.told.clone());
            number = kept.next;
        }
        events
    }

    /// Events kept.
    pub fn kept(&self) -> usize {
        self.kept
    }

    /// Events that left because of the bound over all sessions.
    pub fn displaced(&self) -> u64 {
        self.displaced
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, EventKind};

    fn told(sid: u8, ordinal: u64) -> Arc<Told> {
        Arc::new(Told::new(Event {
            kind: EventKind::SessionRotated,
            at: ordinal,
            sid: Some(Sid([sid; 16])),
            reason: "",
            subject: None,
            upstream: None,
            ordinal,
        }))
    }

    fn ordinals(journals: &Journals, sid: u8) -> Vec<u64> {
        let events = journals.of(&Sid([sid; 16]));
        events.iter().map(|told| told.event.ordinal).collect()
    }

    #[test]
    fn a_noisy_session_pushes_only_itself_out() {
        let mut journals = Journals::new(200);
        journals.take(&told(1, 0));
        for i in 0..10_000 {
            journals.take(&told(2, i));
        }
        assert_eq!(ordinals(&journals, 1), [0]);
        assert_eq!(ordinals(&journals, 2), (9_936..10_000).collect::<Vec<_>>());
        assert_eq!((journals.kept(), journals.displaced()), (65, 0));
        assert!(
            journals.order.len() <= 2 * 65 + 1,
            "{}",
            journals.order.len()
        );
    }

    #[test]
    fn agrees_with_a_model() {
        // The model: all events in order, of which the last EACH a session and then the last ALL count.
        let all = 150;
        let mut journals = Journals::new(all);
        let mut model: Vec<(u8, u64)> = Vec::new();
        let mut displaced = 0;
        let mut x = 1u64;
        for i in 0..5_000 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // A few sessions are much noisier than the others.
            let sid = if x >> 63 == 0 { 1 } else { (x >> 40) as u8 };
            journals.take(&told(sid, i));
            let same = model.iter().filter(|(s, _)| *s == sid).count();
            if same == EACH {
                let at = model.iter().position(|(s, _)| *s == sid).unwrap();
                model.remove(at);
            }
            model.push((sid, i));
            if model.len() > all {
                model.remove(0);
                displaced += 1;
            }
            assert_eq!(
                (journals.kept(), journals.displaced()),
                (model.len(), displaced)
            );
            let expected: Vec<u64> = model.iter().filter(|m| m.0 == sid).map(|m| m.1).collect();
            assert_eq!(ordinals(&journals, sid), expected);
        }
        let sessions: std::collections::HashSet<u8> = model.iter().map(|m| m.0).collect();
        assert_eq!(journals.of.len(), sessions.len(), "no entry without events");
    }
}
