//! Pending answers of one thread: who waits for which.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Names a pending answer. It travels with the question and comes back with the answer; one that is
/// no longer awaited is recognised by its generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CallId {
    index: u32,
    generation: u32,
}

enum State<A> {
    Free,
    Open(Option<Waker>),
    Done(A),
}

struct Place<A> {
    generation: u32,
    state: State<A>,
}

struct Table<A> {
    places: Vec<Place<A>>,
    free: Vec<u32>,
    late: u64,
}

/// The pending answers of one thread. Clones share them.
pub struct Calls<A>(Rc<RefCell<Table<A>>>);

impl<A> Clone for Calls<A> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<A> Default for Calls<A> {
    fn default() -> Self {
        Self(Rc::new(RefCell::new(Table {
            places: Vec::new(),
            free: Vec::new(),
            late: 0,
        })))
    }
}

impl<A> fmt::Debug for Calls<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calls")
            .field("open", &self.open_calls())
            .finish()
    }
}

impl<A> Calls<A> {
    /// None pending.
    pub fn new() -> Self {
        Self::default()
    }

    /// A place for an answer, and the future of it. Dropping the future frees the place.
    pub fn open(&self) -> (CallId, Pending<A>) {
        let mut table = self.0.borrow_mut();
        let index = match table.free.pop() {
            Some(index) => index,
            None => {
                table.places.push(Place {
                    generation: 0,
                    state: State::Free,
                });
                (table.places.len() - 1) as u32
            }
        };
        let place = &mut table.places[index as usize];
        place.state = State::Open(None);
        let id = CallId {
            index,
            generation: place.generation,
        };
        (
            id,
            Pending {
                calls: self.clone(),
                id,
            },
        )
    }

    /// Gives the answer to whoever waits for it; `false` (counted) if nobody does any more.
    pub fn complete(&self, id: CallId, answer: A) -> bool {
        let waker = {
            let mut table = self.0.borrow_mut();
            match table.places.get_mut(id.index as usize) {
                Some(place)
                    if place.generation == id.generation
                        && matches!(place.state, State::Open(_)) =>
                {
                    match std::mem::replace(&mut place.state, State::Done(answer)) {
                        State::Open(waker) => waker,
                        _ => None,
                    }
                }
                _ => {
                    table.late += 1;
                    return false;
                }
            }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// How many answers are awaited, or have come and are not yet taken.
    pub fn open_calls(&self) -> usize {
        let table = self.0.borrow();
        table.places.len() - table.free.len()
    }

    /// Answers that came when nobody waited any more.
    pub fn late(&self) -> u64 {
        self.0.borrow().late
    }
}

/// The future of an answer.
pub struct Pending<A> {
    calls: Calls<A>,
    id: CallId,
}

impl<A> fmt::Debug for Pending<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pending").field(&self.id).finish()
    }
}

impl<A> Future for Pending<A> {
    type Output = A;

    /// # Panics
    /// If it is polled again after it gave the answer.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<A> {
        let mut table = self.calls.0.borrow_mut();
        let state = &mut table.places[self.id.index as usize].state;
        match state {
            State::Open(waker) => {
                match waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    none => *none = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
            // The place stays ours until the drop.
            State::Done(_) | State::Free => match std::mem::replace(state, State::Free) {
                State::Done(answer) => Poll::Ready(answer),
                _ => panic!("an answer was asked for twice"),
            },
        }
    }
}

impl<A> Drop for Pending<A> {
    fn drop(&mut self) {
        let state = {
            let mut table = self.calls.0.borrow_mut();
            let place = &mut table.places[self.id.index as usize];
            place.generation = place.generation.wrapping_add(1);
            let state = std::mem::replace(&mut place.state, State::Free);
            table.free.push(self.id.index);
            state
        };
        // Outside of the borrow: what it holds may have a drop of its own.
        drop(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
        Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn an_answer_finds_its_caller() {
        let calls = Calls::new();
        let (a, mut first) = calls.open();
        let (b, mut second) = calls.open();
        assert!(poll(&mut first).is_pending());
        assert!(calls.complete(b, "b"));
        assert!(calls.complete(a, "a"));
        assert_eq!(poll(&mut first), Poll::Ready("a"));
        assert_eq!(poll(&mut second), Poll::Ready("b"));
        assert_eq!(calls.open_calls(), 2);
        drop((first, second));
        assert_eq!(calls.open_calls(), 0);
    }

    #[test]
    fn a_late_answer_never_reaches_the_next_caller() {
        let calls = Calls::new();
        let (old, dropped) = calls.open();
        drop(dropped);
        let (new, mut pending) = calls.open();
        assert_eq!(old.index, new.index, "the place is used again");
        assert!(!calls.complete(old, "late"));
        assert!(poll(&mut pending).is_pending());
        assert!(calls.complete(new, "right"));
        assert!(!calls.complete(new, "twice"));
        assert_eq!(poll(&mut pending), Poll::Ready("right"));
        assert_eq!(calls.late(), 2);
    }
}
