//! The parking lot: idle connections without a task and without a buffer.
//!
//! Owns one epoll descriptor a core and a table of sockets: a parked one costs its table entry. One
//! core makes it and uses it, on its thread; any task parks, one task waits in [`Lot::next`].
//!
//! Invariants: a parked socket comes out exactly once, by bytes, by the other side's end, by its idle
//! time, or by [`Lot::drain`]; nothing is read from it. Idle times are never short, and late by about
//! 200 ms (with 100,000 parked by up to a second: looking at all is not done more often). Memory of the table is given back when the lot is empty.
//!
//! It deliberately does not know what the sockets are for: `T` is whatever their owner needs to go
//! on. Tested by `tests/parking.rs` with thousands of sockets, on both drivers.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use crate::clock;
use crate::deadline::{Expire, Slot};
use crate::fd::PollFd;

/// Events that one epoll_wait takes at most.
const BATCH: usize = 64;
/// Unit of idle times, in milliseconds.
const UNIT_MS: u64 = 100;
/// Places that may be looked at in a unit of time: more make the looks rarer.
const LOOKS: usize = 16 * 1024;
const NEVER: u32 = u32::MAX;

/// Why a socket comes out of the lot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// There is something to read.
    Readable,
    /// The other side closed or reset it, with nothing left to read.
    Closed,
    /// Its idle time passed.
    Expired,
}

/// A socket that comes out of the lot.
#[derive(Debug)]
pub struct Parked<T> {
    /// The socket, as it was parked.
    pub fd: OwnedFd,
    /// What was parked with it.
    pub data: T,
    /// Why it comes out.
    pub why: Why,
}

struct Place<T> {
    /// In units since the lot was made.
    deadline: u32,
    car: Option<(OwnedFd, T)>,
}

struct Table<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
    /// No place has an earlier deadline.
    earliest: u32,
    out: VecDeque<Parked<T>>,
}

/// One core's idle connections.
pub struct Lot<T> {
    table: RefCell<Table<T>>,
    /// Wakes the waiter when the earliest idle time passes. Its own: it belongs to no socket.
    alarm: Slot,
    epoll: PollFd,
    began_ms: u64,
}

impl<T> Lot<T> {
    /// An empty lot. On a monoio core.
    ///
    /// # Errors
    /// No descriptor to be had.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers are involved.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call gave us this descriptor, nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            table: RefCell::new(Table {
                places: Vec::new(),
                free: Vec::new(),
                earliest: NEVER,
                out: VecDeque::new(),
            }),
            alarm: Slot::new(-1),
            epoll: PollFd::new(fd)?,
            began_ms: clock::monotonic_ms(),
        })
    }

    fn now(&self) -> u32 {
        (clock::coarse_ms().saturating_sub(self.began_ms) / UNIT_MS).min(u64::from(NEVER - 1))
            as u32
    }

    /// Sockets in the lot, those included that are on their way out.
    pub fn len(&self) -> usize {
        let table = self.table.borrow();
        table.places.len() - table.free.len() + table.out.len()
    }

    /// Whether the lot is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Parks a connected socket for at most `idle` (`Duration::MAX`: for ever). If there are bytes to
    /// read already it comes out at once.
    ///
    /// # Errors
    /// The kernel refuses to watch it; socket and data come back.
    pub fn park(
        &self,
        fd: OwnedFd,
        data: T,
        idle: Duration,
    ) -> Result<(), (io::Error, OwnedFd, T)> {
        let units = idle.as_millis().div_ceil(u128::from(UNIT_MS)) + 1;
        let deadline = (u128::from(self.now()) + units).min(u128::from(NEVER)) as u32;
        let mut table = self.table.borrow_mut();
        let index = table
            .free
            .last()
            .copied()
            .unwrap_or(table.places.len() as u32);
        let events = (libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLONESHOT) as u32;
        if let Err(e) = self.control(libc::EPOLL_CTL_ADD, fd.as_raw_fd(), events, index) {
            return Err((e, fd, data));
        }
        let place = Place {
            deadline,
            car: Some((fd, data)),
        };
        if table.free.pop().is_some() {
            table.places[index as usize] = place;
        } else {
            table.places.push(place);
        }
        if deadline < table.earliest {
            table.earliest = deadline;
            drop(table);
            self.set_alarm(0);
        }
        Ok(())
    }

    fn control(&self, operation: i32, fd: RawFd, events: u32, index: u32) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events,
            u64: u64::from(index),
        };
        // SAFETY: `event` is valid for the call.
        match unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, fd, &mut event) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Arms the alarm for the earliest idle time, but for no earlier than `least` units from now.
    fn set_alarm(&self, least: u32) {
        match self.table.borrow().earliest {
            // Armed, not disarmed: one that has passed would be seen to have passed again and again.
            NEVER => self.alarm.arm(Duration::MAX, Expire::Wake),
            earliest => {
                let units = earliest.saturating_sub(self.now()).max(least);
                let after = Duration::from_millis(u64::from(units) * UNIT_MS);
                self.alarm.arm(after, Expire::Wake);
            }
        }
    }

    /// Takes one out of its place, and out of the kernel's sight.
    fn unpark(&self, table: &mut Table<T>, index: u32) -> Option<(OwnedFd, T)> {
        let car = table.places.get_mut(index as usize)?.car.take()?;
        table.free.push(index);
        // It can only fail for one that is not watched: then there is nothing to do.
        let _ = self.control(libc::EPOLL_CTL_DEL, car.0.as_raw_fd(), 0, index);
        if table.places.len() == table.free.len() {
            table.places = Vec::new();
            table.free = Vec::new();
            table.earliest = NEVER;
        }
        Some(car)
    }

    /// Moves what has events out; at most [`BATCH`].
    fn collect_events(&self) -> io::Result<()> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; BATCH];
        // SAFETY: `events` has room for BATCH events.
        let count = unsafe {
            libc::epoll_wait(self.epoll.as_raw_fd(), events.as_mut_ptr(), BATCH as i32, 0)
        };
        if count < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted {
                Ok(())
            } else {
                Err(error)
            };
        }
        let mut table = self.table.borrow_mut();
        for event in events.iter().take(count as usize) {
            let (flags, index) = (event.events, event.u64 as u32);
            let Some((fd, data)) = self.unpark(&mut table, index) else {
                continue;
            };
            const ENDS: u32 = (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) as u32;
            let closed = flags & ENDS != 0 && !has_bytes(fd.as_raw_fd());
            table.out.push_back(Parked {
                fd,
                data,
                why: if closed { Why::Closed } else { Why::Readable },
            });
        }
        Ok(())
    }

    /// Moves out whose idle time has passed.
    fn collect_expired(&self) {
        let now = self.now();
        let mut table = self.table.borrow_mut();
        if now < table.earliest {
            return;
        }
        let mut earliest = NEVER;
        for index in 0..table.places.len() as u32 {
            // The table may have been given back within the loop.
            let Some(place) = table.places.get(index as usize) else {
                break;
            };
            if place.car.is_none() {
                continue;
            }
            if place.deadline > now {
                earliest = earliest.min(place.deadline);
                continue;
            }
            if let Some((fd, data)) = self.unpark(&mut table, index) {
                table.out.push_back(Parked {
                    fd,
                    data,
                    why: Why::Expired,
                });
            }
        }
        table.earliest = earliest;
    }

    /// The next socket that comes out. For one task. May be dropped at any time.
    ///
    /// # Errors
    /// The driver's or epoll's own: the lot is of no more use, but for [`Lot::drain`].
    pub async fn next(&self) -> io::Result<Parked<T>> {
        loop {
            if let Some(parked) = self.table.borrow_mut().out.pop_front() {
                return Ok(parked);
            }
            match self.alarm.until(self.epoll.readable()).await {
                Some(ready) => {
                    ready?;
                    self.collect_events()?;
                }
                None => {
                    self.collect_expired();
                    let places = self.table.borrow().places.len();
                    self.set_alarm((places / LOOKS) as u32);
                }
            }
        }
    }

    /// Everything in the lot, at once: for shutdown, or to move it elsewhere.
    pub fn drain(&self) -> Vec<Parked<T>> {
        let mut table = self.table.borrow_mut();
        let mut all: Vec<Parked<T>> = table.out.drain(..).collect();
        for index in 0..table.places.len() as u32 {
            if let Some((fd, data)) = self.unpark(&mut table, index) {
                all.push(Parked {
                    fd,
                    data,
                    why: Why::Readable,
                });
            }
        }
        all
    }
}

impl<T> std::fmt::Debug for Lot<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lot").field("len", &self.len()).finish()
    }
}

/// Whether a socket has bytes to read.
fn has_bytes(fd: RawFd) -> bool {
    let mut byte = 0u8;
    // SAFETY: `byte` is one writable byte.
    unsafe {
        libc::recv(
            fd,
            (&raw mut byte).cast(),
            1,
            libc::MSG_PEEK | libc::MSG_DONTWAIT,
        ) > 0
    }
}
