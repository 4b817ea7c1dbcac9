//! The last events of each session.
//!
//! Owns, for each session of which something was told, its last [`EACH`] events, at most [`ALL`] over
//! all sessions; beyond that those told longest ago leave, counted. What a session's own bound pushes out
//! is not: a journal is its last events by definition. The control loop's.
//!
//! Invariants: `order` holds each kept event once, in the order of arrival, and at most as many that are
//! no longer kept. A session without events has no entry. Tested below, with a model.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use holdfast_store::id::Sid;

use super::told::Told;

/// Events of one session.
pub const EACH: usize = 64;
/// Events of all sessions.
pub const ALL: usize = 16_384;

/// See the module.
#[derive(Debug)]
pub struct Journals {
    all: usize,
    of: HashMap<Sid, VecDeque<(u64, Arc<Told>)>>,
    order: VecDeque<(Sid, u64)>,
    next: u64,
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
            all,
            of: HashMap::default(),
            order: VecDeque::new(),
            next: 0,
            kept: 0,
            displaced: 0,
        }
    }

    /// Takes an event, if it is of a session.
    pub fn take(&mut self, told: &Arc<Told>) {
        let Some(sid) = told.event.sid else { return };
        let number = self.next;
        self.next += 1;
        let events = self.of.entry(sid).or_default();
        if events.len() == EACH {
            events.pop_front();
            self.kept -= 1;
        }
        events.push_back((number, Arc::clone(told)));
        self.kept += 1;
        self.order.push_back((sid, number));
        while self.kept > self.all {
            self.displace();
        }
        if self.order.len() > 2 * self.kept.max(EACH) {
            let of = &self.of;
            self.order.retain(|(sid, number)| first(of, sid) <= *number);
        }
    }

    /// Lets the oldest event of all go.
    fn displace(&mut self) {
        let Some((sid, number)) = self.order.pop_front() else {
            return;
        };
        let Some(events) = self.of.get_mut(&sid) else {
            return;
        };
        if events.front().is_some_and(|(first, _)| *first == number) {
            events.pop_front();
            self.kept -= 1;
            self.displaced += 1;
            if events.is_empty() {
                self.of.remove(&sid);
            }
        }
    }

    /// A session's events, oldest first.
    pub fn of(&self, sid: &Sid) -> Vec<Arc<Told>> {
        let events = self.of.get(sid);
        let events = events.into_iter().flatten();
        events.map(|(_, told)| Arc::clone(told)).collect()
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

/// The number of the oldest event kept of a session; past all where there is none.
fn first(of: &HashMap<Sid, VecDeque<(u64, Arc<Told>)>>, sid: &Sid) -> u64 {
    let events = of.get(sid).and_then(VecDeque::front);
    events.map_or(u64::MAX, |(number, _)| *number)
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
