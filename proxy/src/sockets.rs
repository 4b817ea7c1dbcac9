//! Sockets that belong to sessions, on one core: who is told when a session ends.
//!
//! Owns the table from sessions to the tunnels of this core, whose sessions may live on any core. A tunnel
//! is registered ([`Sockets::open`]) from its 101 to its end, and asks its session's owner whether the
//! session goes on: once at the beginning, since it may have ended while the upstream answered, and then
//! now and then. Whoever ends a session tells all cores that have sockets.
//!
//! Invariants: a socket is in the table exactly while its [`Socket`] lives; the gauge is raised before the
//! first question is sent, so that an end after the answer is told here. Deliberately absent: what a
//! socket does when it is told, which is the tunnel's. Tested end to end.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};

use holdfast_store::id::Sid;
use holdfast_store::shard::{Answer, Ask};

use crate::core::Core;
use crate::metrics::Metric;

/// See the module.
#[derive(Debug, Default)]
pub struct Sockets {
    by_sid: RefCell<HashMap<Sid, Vec<Weak<Socket>>>>,
}

/// One socket of a session.
#[derive(Debug)]
pub struct Socket {
    core: &'static Core,
    sid: Sid,
    /// The session may have no record yet.
    storeless: bool,
    ended: Cell<bool>,
    /// The owner is to be asked.
    ask: Cell<bool>,
    /// The client has said something since it was asked.
    used: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Sockets {
    /// Registers a socket of a session.
    pub fn open(core: &'static Core, sid: Sid, storeless: bool) -> Rc<Socket> {
        let socket = Rc::new(Socket {
            core,
            sid,
            storeless,
            ended: Cell::new(false),
            ask: Cell::new(true),
            used: Cell::new(false),
            waker: RefCell::default(),
        });
        let mut table = core.sockets.by_sid.borrow_mut();
        table.entry(sid).or_default().push(Rc::downgrade(&socket));
        drop(table);
        core.metrics().add(Metric::SocketsOpen, 1);
        socket
    }

    /// Tells the sockets of sessions that have ended.
    pub fn end(&self, sids: &[Sid]) {
        let table = self.by_sid.borrow();
        if table.is_empty() {
            return;
        }
        let ended = sids.iter().filter_map(|sid| table.get(sid)).flatten();
        let ended: Vec<_> = ended.filter_map(Weak::upgrade).collect();
        drop(table);
        ended.iter().for_each(|socket| socket.end());
    }

    /// Has all ask whether their sessions go on.
    pub fn ask_all(&self) {
        let table = self.by_sid.borrow();
        let all: Vec<_> = table.values().flatten().filter_map(Weak::upgrade).collect();
        drop(table);
        all.iter().for_each(|socket| socket.look());
    }
}

impl Socket {
    fn end(&self) {
        if !self.ended.replace(true) {
            self.core.metrics().count(Metric::SocketsEnded);
            self.wake();
        }
    }

    fn look(&self) {
        self.ask.set(true);
        self.wake();
    }

    fn wake(&self) {
        let waker = self.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether its session has ended.
    pub fn is_over(&self) -> bool {
        self.ended.get()
    }

    /// The client has said something. `soon`: the owner is to be told now.
    pub fn used(&self, soon: bool) {
        self.used.set(true);
        if soon {
            self.look();
        }
    }

    /// Waits until the session has ended, or the owner is to be asked. For the tunnel's one task: of
    /// several waits the last one is woken, which is enough, since they are polled together.
    pub async fn told(&self) {
        poll_fn(|cx| {
            if self.ended.get() || self.ask.get() {
                return Poll::Ready(());
            }
            self.keep(cx.waker());
            Poll::Pending
        })
        .await;
    }

    /// Waits until the session has ended.
    pub async fn over(&self) {
        poll_fn(|cx| {
            if self.ended.get() {
                return Poll::Ready(());
            }
            self.keep(cx.waker());
            Poll::Pending
        })
        .await;
    }

    fn keep(&self, waker: &Waker) {
        let mut kept = self.waker.borrow_mut();
        if !kept.as_ref().is_some_and(|kept| kept.will_wake(waker)) {
            *kept = Some(waker.clone());
        }
    }

    /// Asks the owner whether the session goes on, and tells it whether the client has used it.
    pub async fn ask(&self) {
        self.ask.set(false);
        let core = self.core;
        let ask = Ask::Lives {
            sid: self.sid,
            used: self.used.replace(false),
            storeless: self.storeless,
        };
        let owner = core.sessions.owner(&self.sid);
        let lives = core.sessions.ask(core, owner, ask).await;
        if matches!(lives, Some(Answer::Lives(false))) {
            self.end();
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.core.metrics().lower(Metric::SocketsOpen);
        let mut table = self.core.sockets.by_sid.borrow_mut();
        if let Some(sockets) = table.get_mut(&self.sid) {
            sockets.retain(|socket| socket.strong_count() > 0);
            if sockets.is_empty() {
                table.remove(&self.sid);
            }
        }
    }
}
