//! One load thread: its ring, its connections, its virtual clients, its counts.
//!
//! Owns all of that; nothing is shared but [`Control`]. A connection is a task that takes a
//! permission (from the budget of requests, and from the schedule where there is a rate), the next
//! client, sends, reads the answer to its end and stores what it learnt. Invariants: a connection
//! has one request in flight; bytes after an answer are an error; a connection with an error is
//! closed. No timer a request (see the parent module). Tested by the smoke test.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use monoio::buf::IoBufMut;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::TcpStream;

use super::options::{Mode, Options, Window, share};
use super::report::{self, Totals};
use super::{Control, MEASURE, STOP};
use crate::http::{self, Body};
use crate::jar::{ClientId, Jar};
use crate::pace::{self, Schedule};
use crate::ring;

/// How often the end of the run is looked for.
const TURN: Duration = Duration::from_millis(5);

/// Requests that have become due and were not taken yet, and the connections that wait for one.
struct Slots {
    schedule: Schedule,
    told: Cell<u64>,
    next: Cell<u64>,
    waiting: RefCell<VecDeque<Waker>>,
}

impl Slots {
    fn take(&self) -> Option<u64> {
        let next = self.next.get();
        (next < self.told.get()).then(|| {
            self.next.set(next + 1);
            self.schedule.due(next)
        })
    }

    fn wake(&self, count: usize) {
        let mut waiting = self.waiting.borrow_mut();
        let count = count.min(waiting.len());
        waiting.drain(..count).for_each(Waker::wake);
    }
}

struct Counts {
    latency: Histogram<u64>,
    statuses: Vec<u64>,
    errors: BTreeMap<String, u64>,
    upstreams: Vec<(Box<[u8]>, u64)>,
    body_bytes: u64,
    connects: u64,
}

struct Worker {
    index: usize,
    options: Arc<Options>,
    control: Arc<Control>,
    jar: RefCell<Jar>,
    counts: RefCell<Counts>,
    slots: Option<Slots>,
    /// Requests that may still be started.
    budget: Cell<u64>,
    /// When each connection's request began, in nanoseconds; `u64::MAX` for none.
    begun: Vec<Cell<u64>>,
    /// Connection tasks that have not ended.
    live: Cell<usize>,
}

/// Why a request failed; the text is its kind in the report.
struct Failed(String);

impl From<http::Invalid> for Failed {
    fn from(invalid: http::Invalid) -> Self {
        Self(format!("answer: {}", invalid.0))
    }
}

fn failed(doing: &str, error: &io::Error) -> Failed {
    Failed(format!("{doing}: {:?}", error.kind()))
}

/// Runs thread `index` to the end of the run; its counts and its jar.
pub(super) fn run(
    index: usize,
    options: &Arc<Options>,
    jar: Jar,
    control: &Arc<Control>,
) -> Result<(Totals, Jar), String> {
    let (from, to) = share(options.connections, options.threads, index);
    let rate = match options.mode {
        Mode::Closed => None,
        Mode::Rate(rate) => Some(Schedule::new(rate / options.threads as f64)),
    };
    let budget = match options.window {
        Window::Duration(_) => u64::MAX,
        Window::Requests(n) => {
            let (from, to) = share(n as usize, options.threads, index);
            (to - from) as u64
        }
    };
    let worker = Rc::new(Worker {
        index,
        options: Arc::clone(options),
        control: Arc::clone(control),
        jar: RefCell::new(jar),
        counts: RefCell::new(Counts {
            latency: report::histogram(),
            statuses: vec![0; 600],
            errors: BTreeMap::new(),
            upstreams: Vec::new(),
            body_bytes: 0,
            connects: 0,
        }),
        slots: rate.map(|schedule| Slots {
            schedule,
            told: Cell::new(0),
            next: Cell::new(0),
            waiting: RefCell::default(),
        }),
        budget: Cell::new(budget),
        begun: vec![Cell::new(u64::MAX); to - from],
        live: Cell::new(to - from),
    });
    ring::run(drive(Rc::clone(&worker)))?;
    control.finished.fetch_add(1, Relaxed);
    // Where requests are counted the watcher takes its sample after all threads have finished.
    let jar = worker.jar.replace(Jar::empty(1));
    Ok((worker.totals(&jar), jar))
}

/// Starts the connections and waits for the end.
async fn drive(worker: Rc<Worker>) -> Result<(), String> {
    if let Some(slots) = &worker.slots {
        let pacer = pace::start(slots.schedule, worker.control.start).map_err(|e| e.to_string())?;
        let pacer = monoio::net::UnixStream::from_std(pacer).map_err(|e| e.to_string())?;
        monoio::spawn(dispatch(Rc::clone(&worker), pacer));
    }
    for connection in 0..worker.begun.len() {
        monoio::spawn(serve(Rc::clone(&worker), connection));
    }
    while worker.live.get() > 0 && !worker.stopped() {
        monoio::time::sleep(TURN).await;
    }
    Ok(())
}

/// Takes the pacer's bytes: one request due for each.
async fn dispatch(worker: Rc<Worker>, mut pacer: monoio::net::UnixStream) {
    let Some(slots) = &worker.slots else { return };
    let mut buffer = Vec::with_capacity(4096);
    loop {
        let (read, back) = pacer.read(buffer).await;
        buffer = back;
        match read {
            Ok(count) if count > 0 => {
                slots.told.set(slots.told.get() + count as u64);
                slots.wake(count);
            }
            _ => return,
        }
    }
}

/// One connection, request after request.
async fn serve(worker: Rc<Worker>, connection: usize) {
    let mut link = Link {
        stream: None,
        out: Vec::with_capacity(1024 + worker.options.body),
        input: Vec::with_capacity(worker.options.read_buffer),
    };
    let begun_at = &worker.begun[connection];
    while let Some(begun) = worker.permission().await {
        begun_at.set(begun);
        let client = worker
            .options
            .has_clients()
            .then(|| worker.jar.borrow_mut().take());
        match link.exchange(&worker, client).await {
            Ok(()) => worker.answered(begun),
            Err(Failed(kind)) => {
                link.stream = None;
                let refused = kind.starts_with("connect");
                worker.error(kind);
                if refused {
                    monoio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
        if let Some(client) = client {
            worker.jar.borrow_mut().give_back(client);
        }
        begun_at.set(u64::MAX);
    }
    worker.live.set(worker.live.get().saturating_sub(1));
}

impl Worker {
    fn stopped(&self) -> bool {
        self.control.phase.load(Acquire) == STOP
    }

    /// Nanoseconds since the start of the schedule.
    fn now(&self) -> u64 {
        let since = Instant::now().saturating_duration_since(self.control.start);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    /// When the next request begins for the purpose of its latency; `None` at the end of the run.
    async fn permission(&self) -> Option<u64> {
        let left = self.budget.get();
        if left == 0 || self.stopped() {
            return None;
        }
        self.budget.set(left - 1);
        let Some(slots) = &self.slots else {
            return Some(self.now());
        };
        let due = poll_fn(|context| match slots.take() {
            Some(due) => Poll::Ready(due),
            None => {
                slots
                    .waiting
                    .borrow_mut()
                    .push_back(context.waker().clone());
                Poll::Pending
            }
        });
        Some(due.await)
    }

    fn answered(&self, begun: u64) {
        if self.control.phase.load(Relaxed) == MEASURE {
            let latency = self.now().saturating_sub(begun);
            self.counts.borrow_mut().latency.saturating_record(latency);
        }
        if let Some(counter) = self.control.answered.get(self.index) {
            // The only writer is this thread.
            counter.store(counter.load(Relaxed) + 1, Relaxed);
        }
    }

    fn error(&self, kind: String) {
        *self.counts.borrow_mut().errors.entry(kind).or_default() += 1;
    }

    /// Writes the request into `out`.
    fn request(&self, out: &mut Vec<u8>, client: Option<ClientId>) {
        out.clear();
        out.extend_from_slice(&self.options.head);
        if let Some(client) = client {
            let jar = self.jar.borrow();
            let cookies = jar.cookies(client);
            if !cookies.is_empty() {
                out.extend_from_slice(b"Cookie: ");
                out.extend_from_slice(cookies);
                out.extend_from_slice(b"\r\n");
            }
        }
        out.extend_from_slice(b"\r\n");
        out.resize(out.len() + self.options.body, b'x');
    }

    /// Takes a header of an answer in.
    fn header(&self, client: Option<ClientId>, name: &[u8], value: &[u8]) {
        if name.len() != 10 {
            return;
        }
        if name.eq_ignore_ascii_case(b"set-cookie") {
            if let Some(client) = client.filter(|_| !self.options.fixed_jar) {
                self.jar.borrow_mut().store(client, value);
            }
        } else if name.eq_ignore_ascii_case(b"x-upstream") {
            let mut counts = self.counts.borrow_mut();
            let known = counts.upstreams.iter().position(|(id, _)| **id == *value);
            let index = known.unwrap_or_else(|| {
                counts.upstreams.push((value.into(), 0));
                counts.upstreams.len() - 1
            });
            if let Some((_, count)) = counts.upstreams.get_mut(index) {
                *count += 1;
            }
            drop(counts);
            if let Some(client) = client.filter(|_| self.options.affinity) {
                let index = u16::try_from(index).unwrap_or(u16::MAX - 1);
                if !self.jar.borrow_mut().check_upstream(client, index) {
                    self.error("wrong upstream".into());
                }
            }
        }
    }

    /// The sums at the end; requests that were never answered are counted with what they waited.
    fn totals(&self, jar: &Jar) -> Totals {
        let counts = &mut *self.counts.borrow_mut();
        let now = self.now();
        let mut totals = Totals::new();
        let timeout = self.options.timeout.as_nanos() as u64;
        let mut unanswered: Vec<u64> = self.begun.iter().map(Cell::get).collect();
        unanswered.retain(|begun| *begun != u64::MAX);
        let stuck = self.control.stuck.load(Relaxed);
        let old = |begun: &&u64| stuck || now.saturating_sub(**begun) > timeout;
        let timeouts = unanswered.iter().filter(old).count() as u64;
        if timeouts > 0 {
            *counts.errors.entry("timeout".into()).or_default() += timeouts;
        }
        if let Some(slots) = &self.slots {
            while let Some(due) = slots.take() {
                unanswered.push(due);
            }
            for begun in &unanswered {
                counts.latency.saturating_record(now.saturating_sub(*begun));
            }
            totals.backlog = unanswered.len() as u64;
        }
        // Both have the same bounds.
        let _ = totals.latency.add(&counts.latency);
        for (status, count) in (0u16..).zip(&counts.statuses) {
            if *count > 0 {
                totals.statuses.insert(status, *count);
            }
        }
        totals.errors = std::mem::take(&mut counts.errors);
        for (id, count) in &counts.upstreams {
            totals
                .upstreams
                .insert(String::from_utf8_lossy(id).into_owned(), *count);
        }
        totals.body_bytes = counts.body_bytes;
        totals.connects = counts.connects;
        totals.cookies_stored = jar.stored;
        totals.cookies_expired = jar.expired;
        totals.clients_with_cookies = jar.with_cookies() as u64;
        totals
    }
}

/// A connection's socket and buffers, kept from request to request.
struct Link {
    stream: Option<TcpStream>,
    out: Vec<u8>,
    input: Vec<u8>,
}

impl Link {
    /// One request and its answer.
    async fn exchange(&mut self, worker: &Worker, client: Option<ClientId>) -> Result<(), Failed> {
        worker.request(&mut self.out, client);
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                worker.counts.borrow_mut().connects += 1;
                let stream = TcpStream::connect_addr(worker.options.to)
                    .await
                    .map_err(|e| failed("connect", &e))?;
                let _ = stream.set_nodelay(true);
                stream
            }
        };
        let (written, out) = stream.write_all(std::mem::take(&mut self.out)).await;
        self.out = out;
        written.map_err(|e| failed("write", &e))?;
        let close = self.answer(&mut stream, worker, client).await?;
        if !close {
            self.stream = Some(stream);
        } else if worker.options.new_connections {
            // The server closes first, so that no port of ours is left in TIME_WAIT.
            if self.read(&mut stream).await? > 0 {
                return Err(Failed("bytes after the answer".into()));
            }
        }
        if worker.options.new_connections {
            self.stream = None;
        }
        Ok(())
    }

    /// Reads one answer; whether the connection ends with it.
    async fn answer(
        &mut self,
        stream: &mut TcpStream,
        worker: &Worker,
        client: Option<ClientId>,
    ) -> Result<bool, Failed> {
        self.input.clear();
        let head = loop {
            let head = http::response_head(&self.input, worker.options.to_head, |name, value| {
                worker.header(client, name, value);
            })?;
            match head {
                Some(head) if head.status < 200 => {
                    self.input.drain(..head.len);
                }
                Some(head) => break head,
                None => {
                    if self.read(stream).await? == 0 {
                        return Err(Failed("closed before the answer".into()));
                    }
                }
            }
        };
        let mut body = Body::new(head.framing);
        let mut used = head.len;
        loop {
            used += body.feed(self.input.get(used..).unwrap_or_default())?;
            if body.done() {
                break;
            }
            if used == self.input.len() {
                self.input.clear();
            } else {
                self.input.drain(..used);
            }
            used = 0;
            if self.read(stream).await? == 0 {
                if body.ends_with_connection() {
                    break;
                }
                return Err(Failed("closed within the answer".into()));
            }
        }
        if used < self.input.len() {
            return Err(Failed("bytes after the answer".into()));
        }
        let mut counts = worker.counts.borrow_mut();
        counts.body_bytes += body.payload;
        if let Some(count) = counts.statuses.get_mut(usize::from(head.status)) {
            *count += 1;
        }
        Ok(head.close)
    }

    /// Reads behind what is in the buffer; 0 at the end of the connection.
    async fn read(&mut self, stream: &mut TcpStream) -> Result<usize, Failed> {
        let mut input = std::mem::take(&mut self.input);
        let filled = input.len();
        if filled == input.capacity() {
            input.reserve(filled.max(1024));
        }
        let (read, slice) = stream.read(input.slice_mut(filled..)).await;
        self.input = slice.into_inner();
        read.map_err(|e| failed("read", &e))
    }
}
