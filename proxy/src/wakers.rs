//! Tasks of one core that wait for something that a message may change.
//!
//! Owns a place for each that waits. Used on one data core's thread.
//!
//! Invariants: a place is given back when its wait ends, however it ends, so that what has come and
//! gone leaves nothing behind; to wait and to look again cost the same however many wait. It
//! deliberately does not know what anybody waits for. Tested below.

use std::cell::RefCell;
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// See the module.
#[derive(Debug, Default)]
pub struct Wakers {
    places: RefCell<Vec<Option<Waker>>>,
    free: RefCell<Vec<usize>>,
}

/// One wait's place.
struct Place<'a> {
    wakers: &'a Wakers,
    index: Option<usize>,
}

impl Place<'_> {
    fn keep(&mut self, waker: &Waker) {
        let mut places = self.wakers.places.borrow_mut();
        let index = *self.index.get_or_insert_with(|| {
            self.wakers.free.borrow_mut().pop().unwrap_or_else(|| {
                places.push(None);
                places.len() - 1
            })
        });
        match places.get_mut(index) {
            Some(Some(kept)) => kept.clone_from(waker),
            Some(empty) => *empty = Some(waker.clone()),
            None => {}
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Some(index) = self.index else { return };
        let mut places = self.wakers.places.borrow_mut();
        let waker = places.get_mut(index).and_then(Option::take);
        drop(places);
        self.wakers.free.borrow_mut().push(index);
        // The last of a task's wakers may take the task along.
        drop(waker);
    }
}

impl Wakers {
    /// Waits until `holds`; it is asked at once, and after each [`Wakers::wake`].
    pub async fn until(&self, holds: impl Fn() -> bool) {
        let mut place = Place {
            wakers: self,
            index: None,
        };
        poll_fn(|cx| {
            if holds() {
                return Poll::Ready(());
            }
            place.keep(cx.waker());
            Poll::Pending
        })
        .await;
    }

    /// Has everybody look again.
    pub fn wake(&self) {
        let woken: Vec<Waker> = self.places.borrow().iter().flatten().cloned().collect();
        woken.into_iter().for_each(Waker::wake);
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.places.borrow().iter().flatten().count()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::Future;
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::task::{Context, Wake};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn waits_that_were_given_up_leave_nothing_behind() {
        let wakers = Wakers::default();
        for _ in 0..1000 {
            let count = Arc::new(Count::default());
            let waker = Waker::from(count.clone());
            let mut wait = Box::pin(wakers.until(|| false));
            for _ in 0..3 {
                assert!(
                    wait.as_mut()
                        .poll(&mut Context::from_waker(&waker))
                        .is_pending()
                );
            }
            assert_eq!(wakers.len(), 1);
            drop(wait);
            drop(waker);
            assert_eq!(Arc::strong_count(&count), 1, "its task is let go");
        }
        assert!(wakers.is_empty());
        assert_eq!(wakers.places.borrow().len(), 1, "places are used again");
    }

    #[test]
    fn all_that_wait_look_again() {
        let (wakers, held) = (Wakers::default(), Cell::new(false));
        let (first, second) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let (one, two) = (Waker::from(first.clone()), Waker::from(second.clone()));
        let mut a = pin!(wakers.until(|| held.get()));
        let mut b = pin!(wakers.until(|| held.get()));
        assert!(a.as_mut().poll(&mut Context::from_waker(&one)).is_pending());
        assert!(b.as_mut().poll(&mut Context::from_waker(&two)).is_pending());
        wakers.wake();
        assert_eq!((first.0.load(Relaxed), second.0.load(Relaxed)), (1, 1));
        assert!(a.as_mut().poll(&mut Context::from_waker(&one)).is_pending());
        held.set(true);
        wakers.wake();
        assert_eq!((first.0.load(Relaxed), second.0.load(Relaxed)), (2, 2));
        assert!(a.as_mut().poll(&mut Context::from_waker(&one)).is_ready());
        assert!(b.as_mut().poll(&mut Context::from_waker(&two)).is_ready());
    }
}
