//! How far a core's end has come: running, draining, ending.
//!
//! Owns a flag and the wakers of those who wait for it, for one core. [`Switch`] turns it, from any
//! thread; [`Watch`] is for the tasks of the core: asking is one relaxed load. Invariants: a phase
//! never goes back; who waits for a phase that has come is woken, however the two meet; a waker of a
//! task is dropped on its own thread or used up. It deliberately does not count what is still in
//! flight. Tested below, with threads.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// How far the end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// All is well.
    Running,
    /// Nothing new is taken; what is in flight is finished.
    Draining,
    /// What is in flight is cut.
    Ending,
}

impl Phase {
    fn of(value: u8) -> Self {
        match value {
            0 => Self::Running,
            1 => Self::Draining,
            _ => Self::Ending,
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    phase: AtomicU8,
    /// By ticket. Touched when a task begins or ends to wait, and when a phase comes.
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The side that turns it.
#[derive(Debug, Clone)]
pub struct Switch(Arc<Shared>);

/// The side that looks.
#[derive(Debug, Clone)]
pub struct Watch(Arc<Shared>);

/// Both sides, for one core.
pub fn switch() -> (Switch, Watch) {
    let shared = Arc::<Shared>::default();
    (Switch(shared.clone()), Watch(shared))
}

impl Switch {
    /// Goes on to `phase`; does nothing if it is already there or further.
    pub fn turn(&self, phase: Phase) {
        self.0.phase.fetch_max(phase as u8, Ordering::SeqCst);
        let wakers: Vec<Waker> = self
            .0
            .waiting()
            .wakers
            .iter_mut()
            .filter_map(Option::take)
            .collect();
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Watch {
    /// The present phase.
    #[inline]
    pub fn phase(&self) -> Phase {
        Phase::of(self.0.phase.load(Ordering::Relaxed))
    }

    /// Whether it is not running any more.
    #[inline]
    pub fn is_draining(&self) -> bool {
        self.phase() >= Phase::Draining
    }

    /// Waits until `phase` or a later one has come. May be dropped.
    pub async fn reached(&self, phase: Phase) {
        let mut ticket = Ticket {
            shared: &self.0,
            number: None,
        };
        poll_fn(|cx| {
            if self.phase() >= phase {
                return Poll::Ready(());
            }
            let mut waiting = self.0.waiting();
            let number = match ticket.number {
                Some(number) => number,
                None => waiting.free.pop().unwrap_or(waiting.wakers.len()),
            };
            ticket.number = Some(number);
            if number == waiting.wakers.len() {
                waiting.wakers.push(None);
            }
            let old = waiting.wakers[number].replace(cx.waker().clone());
            drop(waiting);
            drop(old);
            // It may have come before the waker stood there.
            if Phase::of(self.0.phase.load(Ordering::SeqCst)) >= phase {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await
    }
}

/// A place among those who wait; given back when the wait ends or is dropped.
struct Ticket<'a> {
    shared: &'a Shared,
    number: Option<usize>,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        let waker = {
            let mut waiting = self.shared.waiting();
            waiting.free.push(number);
            waiting.wakers.get_mut(number).and_then(Option::take)
        };
        drop(waker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::Context;

    #[test]
    fn a_phase_never_goes_back() {
        let (switch, watch) = switch();
        assert_eq!(watch.phase(), Phase::Running);
        switch.turn(Phase::Ending);
        switch.turn(Phase::Draining);
        assert_eq!(watch.phase(), Phase::Ending);
        assert!(watch.is_draining());
    }

    #[test]
    fn those_who_wait_are_woken_and_leave_nothing() {
        let (switch, watch) = switch();
        let mut cx = Context::from_waker(Waker::noop());
        {
            let mut dropped = pin!(watch.reached(Phase::Draining));
            assert!(dropped.as_mut().poll(&mut cx).is_pending());
        }
        let mut drain = pin!(watch.reached(Phase::Draining));
        let mut end = pin!(watch.reached(Phase::Ending));
        assert!(drain.as_mut().poll(&mut cx).is_pending());
        assert!(end.as_mut().poll(&mut cx).is_pending());
        assert_eq!(
            watch.0.waiting().wakers.len(),
            2,
            "the dropped one's place is used again"
        );
        switch.turn(Phase::Draining);
        assert!(drain.as_mut().poll(&mut cx).is_ready());
        assert!(end.as_mut().poll(&mut cx).is_pending());
        switch.turn(Phase::Ending);
        assert!(end.as_mut().poll(&mut cx).is_ready());
    }

    #[test]
    fn no_wake_up_is_lost_between_threads() {
        for _ in 0..500 {
            let (switch, watch) = switch();
            let other = std::thread::spawn(move || switch.turn(Phase::Draining));
            crate::test_util::block_on(watch.reached(Phase::Draining));
            other.join().unwrap();
        }
    }
}
