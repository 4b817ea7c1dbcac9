//! Messages between the threads of the process: data cores (monoio), control (tokio), replication
//! (glommio).
//!
//! Owns a bounded single-producer ring for each ordered pair of parties and one bell a party.
//! [`build`] makes all [`Port`]s; each is sent to its thread and becomes a [`Local`] there, which any
//! task of the thread may clone and send with. One task of each thread, the pump, drains.
//!
//! Invariants: nothing is dropped, and messages of one pair arrive in order. A bell is rung only when
//! its party has said that it sleeps, so an awake reader costs its senders no syscall. No wake-up is
//! lost: the reader arms, fences and looks again; the sender pushes, fences and looks whether it is
//! armed. A full ring sends what follows to a spill queue of the sender, counted. A sender that goes
//! to sleep on one arms, says that it starves, fences and looks again; the reader makes room, fences
//! and looks whether it starves: so a spill can't get stuck while both pump.
//!
//! Every party must pump for as long as others send to it. When a party's thread ends, its waker is
//! taken back there: another thread must never be the one that drops the last reference to a task.
//! (What others send to it afterwards stays in the rings.) The mesh deliberately has no broadcast and
//! no priorities, and waits for no one. Tested by `tests/mesh.rs` with millions of
//! messages between threads of all three runtimes.

mod calls;

pub use calls::{CallId, Calls, Pending};

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::task::Poll;

use atomic_waker::AtomicWaker;
use rtrb::{Consumer, Producer, PushError, RingBuffer};

/// Messages that one [`Local::drain`] takes at most from each peer.
pub const BATCH: usize = 128;

/// Messages in one spill queue from which on it is congested ([`Local::is_congested`]).
pub const CONGESTED: usize = 64 * 1024;

/// How a party is woken. Rung from any thread, armed by its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Bell {
    asleep: AtomicBool,
    waker: AtomicWaker,
}

impl Bell {
    /// Wakes the party if it sleeps; whether it did. What it shall find must be stored before.
    #[inline]
    fn ring(&self) -> bool {
        fence(Ordering::SeqCst);
        if !self.asleep.load(Ordering::Relaxed) || !self.asleep.swap(false, Ordering::AcqRel) {
            return false;
        }
        self.waker.wake();
        true
    }
}

/// The bells of the parties of this thread.
struct Bells(RefCell<Vec<Arc<Bell>>>);

impl Bells {
    /// Takes all wakers back.
    fn silence(&self) {
        for bell in self.0.take() {
            drop(Awake(&bell));
        }
    }
}

impl Drop for Bells {
    fn drop(&mut self) {
        self.silence();
    }
}

thread_local! {
    static BELLS: Bells = const { Bells(RefCell::new(Vec::new())) };
}

/// Takes the wakers of this thread's parties back. For the end of its runtime, while that still stands.
pub(crate) fn end() {
    BELLS.with(Bells::silence);
}

/// Set by a sender that sleeps on messages in its spill queue; cleared by the reader who rings for room.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Starved(AtomicBool);

struct Outbox<M> {
    ring: Producer<M>,
    spill: VecDeque<M>,
    starved: Arc<Starved>,
    bell: Arc<Bell>,
}

impl<M> Outbox<M> {
    /// Pushes, or spills; whether it spilled.
    fn send(&mut self, message: M) -> bool {
        if self.spill.is_empty() {
            match self.ring.push(message) {
                Ok(()) => return false,
                Err(PushError::Full(message)) => self.spill.push_back(message),
            }
        } else {
            self.spill.push_back(message);
        }
        true
    }

    /// Moves what has room from the spill queue to the ring; whether anything moved.
    fn flush(&mut self) -> bool {
        let mut moved = false;
        while let Some(message) = self.spill.pop_front() {
            match self.ring.push(message) {
                Ok(()) => moved = true,
                Err(PushError::Full(message)) => {
                    self.spill.push_front(message);
                    break;
                }
            }
        }
        moved
    }

    /// Says, if something spilled, that the sender sleeps until there is room. To be said after the
    /// sender's bell was armed and before it looks at the ring for the last time: the reader takes the
    /// word back when it rings, so it must be given anew before every sleep.
    fn starve(&self) {
        if !self.spill.is_empty() {
            self.starved.0.store(true, Ordering::SeqCst);
        }
    }
}

struct Inbox<M> {
    ring: Consumer<M>,
    starved: Arc<Starved>,
    bell: Arc<Bell>,
}

impl<M> Inbox<M> {
    /// Takes at most [`BATCH`] messages.
    fn drain(&mut self, from: usize, each: &mut impl FnMut(usize, M)) -> usize {
        let count = self.ring.slots().min(BATCH);
        if count == 0 {
            return 0;
        }
        if let Ok(chunk) = self.ring.read_chunk(count) {
            chunk.into_iter().for_each(|message| each(from, message));
        }
        fence(Ordering::SeqCst);
        if self.starved.0.load(Ordering::Relaxed) && self.starved.0.swap(false, Ordering::AcqRel) {
            self.bell.ring();
        }
        count
    }
}

/// A party's end of the mesh, on its way to its thread.
pub struct Port<M> {
    id: usize,
    bell: Arc<Bell>,
    /// By party; none towards itself.
    outboxes: Vec<Option<Outbox<M>>>,
    inboxes: Vec<Option<Inbox<M>>>,
}

/// A mesh of `parties`, with rings of `capacity` messages for each ordered pair. The ports by party.
pub fn build<M: Send>(parties: usize, capacity: usize) -> Vec<Port<M>> {
    let bells: Vec<Arc<Bell>> = (0..parties).map(|_| Arc::default()).collect();
    let mut ports: Vec<Port<M>> = (0..parties)
        .map(|id| Port {
            id,
            bell: bells[id].clone(),
            outboxes: (0..parties).map(|_| None).collect(),
            inboxes: (0..parties).map(|_| None).collect(),
        })
        .collect();
    for from in 0..parties {
        for to in (0..parties).filter(|&to| to != from) {
            let (producer, consumer) = RingBuffer::new(capacity.max(1));
            let starved = Arc::<Starved>::default();
            ports[from].outboxes[to] = Some(Outbox {
                ring: producer,
                spill: VecDeque::new(),
                starved: starved.clone(),
                bell: bells[to].clone(),
            });
            ports[to].inboxes[from] = Some(Inbox {
                ring: consumer,
                starved,
                bell: bells[from].clone(),
            });
        }
    }
    ports
}

impl<M> Port<M> {
    /// Which party it is.
    pub fn id(&self) -> usize {
        self.id
    }

    /// The handle for all tasks of the calling thread.
    pub fn local(self) -> Local<M> {
        BELLS.with(|bells| bells.0.borrow_mut().push(self.bell.clone()));
        Local(Rc::new(Shared {
            id: self.id,
            bell: self.bell,
            outboxes: RefCell::new(self.outboxes),
            spilled: Cell::new(0),
            spills: Cell::new(0),
            sent: Cell::new(0),
            rung: Cell::new(0),
            to_self: RefCell::new(VecDeque::new()),
            inboxes: RefCell::new(Inboxes {
                by_party: self.inboxes,
                first: 0,
            }),
        }))
    }
}

impl<M> std::fmt::Debug for Port<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Port")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

struct Inboxes<M> {
    by_party: Vec<Option<Inbox<M>>>,
    /// Who is drained first next time.
    first: usize,
}

struct Shared<M> {
    id: usize,
    bell: Arc<Bell>,
    outboxes: RefCell<Vec<Option<Outbox<M>>>>,
    spilled: Cell<usize>,
    spills: Cell<u64>,
    sent: Cell<u64>,
    rung: Cell<u64>,
    to_self: RefCell<VecDeque<M>>,
    inboxes: RefCell<Inboxes<M>>,
}

/// What a party did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Messages sent.
    pub sent: u64,
    /// Sleeping peers rung for a message.
    pub rung: u64,
    /// Messages that found their ring full.
    pub spills: u64,
    /// Messages in spill queues now.
    pub spilled: usize,
}

/// A party's end of the mesh on its thread. Clones are the same party.
pub struct Local<M>(Rc<Shared<M>>);

impl<M> Clone for Local<M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<M> std::fmt::Debug for Local<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Local")
            .field("id", &self.0.id)
            .field("stats", &self.stats())
            .finish()
    }
}

impl<M> Local<M> {
    /// Which party it is.
    pub fn id(&self) -> usize {
        self.0.id
    }

    /// How many parties there are.
    pub fn parties(&self) -> usize {
        self.0.outboxes.borrow().len()
    }

    /// What it did.
    pub fn stats(&self) -> Stats {
        let shared = &*self.0;
        Stats {
            sent: shared.sent.get(),
            rung: shared.rung.get(),
            spills: shared.spills.get(),
            spilled: shared.spilled.get(),
        }
    }

    /// Sends. Never blocks and never drops: what finds the ring full waits in the spill queue.
    ///
    /// # Panics
    /// There is no party `to`.
    pub fn send(&self, to: usize, message: M) {
        let shared = &*self.0;
        shared.sent.set(shared.sent.get() + 1);
        if to == shared.id {
            shared.to_self.borrow_mut().push_back(message);
            if shared.bell.ring() {
                shared.rung.set(shared.rung.get() + 1);
            }
            return;
        }
        let mut outboxes = shared.outboxes.borrow_mut();
        let Some(outbox) = outboxes.get_mut(to).and_then(Option::as_mut) else {
            panic!("party {} sends to {to}, which does not exist", shared.id);
        };
        if outbox.send(message) {
            shared.spills.set(shared.spills.get() + 1);
            let before = outbox.spill.len() - 1;
            // The pump may be asleep already: it is rung for room like one that goes to sleep now.
            outbox.starve();
            fence(Ordering::SeqCst);
            outbox.flush();
            shared
                .spilled
                .set(shared.spilled.get() - before + outbox.spill.len());
        }
        if outbox.bell.ring() {
            shared.rung.set(shared.rung.get() + 1);
        }
    }

    /// Whether [`CONGESTED`] messages to `to` wait for room. The mesh itself bounds nothing, since an answer
    /// or an end must never be dropped: who begins something new asks this first, and does not begin.
    #[inline]
    pub fn is_congested(&self, to: usize) -> bool {
        let shared = &*self.0;
        if shared.spilled.get() < CONGESTED {
            return false;
        }
        let outboxes = shared.outboxes.borrow();
        let outbox = outboxes.get(to).and_then(Option::as_ref);
        outbox.is_some_and(|outbox| outbox.spill.len() >= CONGESTED)
    }

    /// Messages to `to` that it has not taken yet.
    pub fn waiting(&self, to: usize) -> usize {
        let outboxes = self.0.outboxes.borrow();
        let outbox = outboxes.get(to).and_then(Option::as_ref);
        outbox.map_or(0, |outbox| {
            let ring = &outbox.ring;
            ring.buffer().capacity() - ring.slots() + outbox.spill.len()
        })
    }

    /// Moves spilled messages into rings that have room; whether any moved.
    fn flush(&self) -> bool {
        let shared = &*self.0;
        if shared.spilled.get() == 0 {
            return false;
        }
        let (mut left, mut any) = (0, false);
        for outbox in shared.outboxes.borrow_mut().iter_mut().flatten() {
            if outbox.flush() {
                any = true;
                outbox.bell.ring();
            }
            left += outbox.spill.len();
        }
        shared.spilled.set(left);
        any
    }

    /// Hands what has come to `each`, with its sender: at most [`BATCH`] from each peer, so that the
    /// caller gets its turn. Returns how many there were. `each` may send. Also moves on what spilled.
    pub fn drain(&self, each: &mut impl FnMut(usize, M)) -> usize {
        self.flush();
        let shared = &*self.0;
        // A handler that drains again finds nothing: its caller is at it.
        let Ok(mut inboxes) = shared.inboxes.try_borrow_mut() else {
            return 0;
        };
        let mut count = 0;
        for _ in 0..BATCH {
            let Some(message) = shared.to_self.borrow_mut().pop_front() else {
                break;
            };
            each(shared.id, message);
            count += 1;
        }
        let Inboxes { by_party, first } = &mut *inboxes;
        let parties = by_party.len();
        *first = (*first + 1) % parties.max(1);
        for from in (0..parties).map(|i| (*first + i) % parties) {
            if let Some(inbox) = &mut by_party[from] {
                count += inbox.drain(from, each);
            }
        }
        count
    }

    /// Whether something has come, or a spilled message could move.
    fn has_work(&self) -> bool {
        let shared = &*self.0;
        !shared.to_self.borrow().is_empty()
            || shared
                .inboxes
                .borrow()
                .by_party
                .iter()
                .flatten()
                .any(|inbox| !inbox.ring.is_empty())
            || (shared.spilled.get() > 0
                && shared
                    .outboxes
                    .borrow()
                    .iter()
                    .flatten()
                    .any(|o| !o.spill.is_empty() && !o.ring.is_full()))
    }

    /// Waits until there is something to drain. For one task of the thread only: the pump. May be
    /// dropped.
    pub async fn ready(&self) {
        let _awake = Awake(&self.0.bell);
        poll_fn(|cx| {
            if self.has_work() {
                return Poll::Ready(());
            }
            let bell = &*self.0.bell;
            bell.waker.register(cx.waker());
            bell.asleep.store(true, Ordering::SeqCst);
            if self.0.spilled.get() > 0 {
                self.0
                    .outboxes
                    .borrow()
                    .iter()
                    .flatten()
                    .for_each(Outbox::starve);
            }
            fence(Ordering::SeqCst);
            if self.has_work() {
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
    }

    /// Drains for ever, one batch a turn of the core: for a monoio thread. After each batch every
    /// other task and completion gets its turn.
    pub async fn pump(&self, mut each: impl FnMut(usize, M)) {
        loop {
            if self.drain(&mut each) == 0 {
                self.ready().await;
            } else {
                crate::yielder::turn().await;
            }
        }
    }

    /// Takes its waker back, on its own thread, when its pump has ended. Done by itself at the thread's
    /// end; a runtime that ends earlier than its thread says it.
    pub fn close(&self) {
        drop(Awake(&self.0.bell));
    }
}

/// Says that the party is awake and takes its waker back, on its own thread.
struct Awake<'a>(&'a Bell);

impl Drop for Awake<'_> {
    fn drop(&mut self) {
        self.0.asleep.store(false, Ordering::Relaxed);
        drop(self.0.waker.take());
    }
}
