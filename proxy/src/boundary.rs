//! The bound of a panic: a fault in the work of one connection ends that connection, not its core.
//!
//! Owns no state. Runs on a data core, around what a connection's task does with a request, a handshake or
//! an HTTP/2 connection. A panic is counted, told in the log, and the work is dropped: its sockets close, its
//! places are given back, and borrows of `RefCell`s end, as at any unwinding.
//!
//! Invariants: what one connection owns is dropped whole and never looked at again; a panic amid a change of
//! the shard goes on ([`crate::session::Sessions::is_sound`]): a shard half changed serves nobody, and its
//! core ends, as it does where a panic comes from the core's own tasks (the mesh, the turns, the parking
//! lot). Deliberately absent: any repair. Tested below.

use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::task::Poll;

use crate::core::Core;
use crate::metrics::Metric;

/// What a panic says.
type Said = Box<dyn Any + Send>;

/// Does a connection's work; `None` where it panicked.
pub async fn within<F: Future + ?Sized>(core: &Core, work: Pin<Box<F>>) -> Option<F::Output> {
    match caught(work).await {
        Ok(output) => Some(output),
        Err(said) if !core.sessions.is_sound() => resume_unwind(said),
        Err(said) => {
            core.metrics().count(Metric::Panics);
            crate::log::error(format!(
                "core {}: a connection was closed for a fault of ours: {}",
                core.index,
                text(&*said)
            ));
            None
        }
    }
}

/// Does work to its end, or to its panic: then it is dropped at once.
async fn caught<F: Future + ?Sized>(work: Pin<Box<F>>) -> Result<F::Output, Said> {
    let mut work = Some(work);
    poll_fn(|cx| {
        let Some(running) = &mut work else {
            return Poll::Pending;
        };
        match catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Err(said) => {
                // Its own parts went as it unwound; here goes the room that it took.
                work = None;
                Poll::Ready(Err(said))
            }
        }
    })
    .await
}

fn text(said: &(dyn Any + Send)) -> &str {
    let text = said.downcast_ref::<&str>().copied();
    text.or_else(|| said.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no text)")
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;
    use std::task::{Context, Waker};

    use super::*;

    /// Waits once.
    async fn turn() {
        let mut first = true;
        poll_fn(|_| match std::mem::take(&mut first) {
            true => Poll::Pending,
            false => Poll::Ready(()),
        })
        .await;
    }

    fn polled<T>(work: impl Future<Output = T>) -> (usize, Result<T, String>) {
        let mut work = Box::pin(caught(Box::pin(work)));
        let mut context = Context::from_waker(Waker::noop());
        for n in 1..10 {
            if let Poll::Ready(done) = work.as_mut().poll(&mut context) {
                return (n, done.map_err(|said| text(&*said).to_owned()));
            }
        }
        panic!("it does not end");
    }

    struct Dropped(Rc<Cell<bool>>);

    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }

    #[test]
    fn work_that_ends_well_gives_what_it_gives() {
        let work = async {
            turn().await;
            7
        };
        assert_eq!(polled(work), (2, Ok(7)));
    }

    #[test]
    fn a_panic_ends_the_work_and_what_it_held() {
        let gone = Rc::new(Cell::new(false));
        let held = Dropped(Rc::clone(&gone));
        let cell = RefCell::new(0);
        let work = async {
            let _held = held;
            turn().await;
            let _borrowed = cell.borrow_mut();
            let number = cell.try_borrow().is_ok();
            assert!(number, "borrowed twice");
        };
        assert_eq!(polled(work), (2, Err("borrowed twice".to_owned())));
        assert!(gone.get());
        assert!(cell.try_borrow_mut().is_ok(), "borrows end with the work");
    }
}
