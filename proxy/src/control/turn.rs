//! The control loop: takes what comes in, one thing after another, and does what follows from it.
//!
//! Owns all state of the control thread. Runs on it, as the main future of its runtime; checks,
//! look-ups and the admin endpoint are tasks beside it and reach it through bounded channels.
//!
//! Invariants: every turn drains a batch of messages, then waits for one more thing, so neither a busy
//! core nor a busy admin client starves the other. What follows from all input ([`Loop::settle`]) is
//! done in every turn, in one place.
//!
//! Deliberately no I/O here but messages. Tested with the rest of `control`.

mod take_up;

use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use holdfast_runtime::mesh::{Calls, Local};
use holdfast_store::shard::{Answer, Ask};
use tokio::sync::watch::Sender as Published;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use super::desk::{Command, Desk};
use super::events::Hub;
use super::health::{self, Board, Report};
use super::keys;
use super::log::{LogCounters, LogWriter, Opened};
use super::reload::{Prepared, Reloader};
use super::resolve::{self, NameId, Names};
use super::shutdown::{Ending, Exit, Input, Output, Phase};
use super::signals::{Caught, Signals};
use super::status::{ControlCounts, Status};
use super::watch::{self, Change, Watch};
use super::{Options, notify};
use crate::event::{Event, EventKind, UpstreamName};
use crate::log as say;
use crate::message::Message;
use crate::metrics::Metric;
use crate::pin::state::UpstreamState;
use crate::setup::{Setup, UpstreamId};
use crate::shared::Shared;

/// Questions to shards that may be open at a time.
const CALLS: usize = 1024;

/// Checks and look-ups that may wait for the loop; their tasks wait beyond it.
const REPORTS: usize = 256;

/// How long messages to the cores may take at the end.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Where the wish to end, and other signals, come from.
pub(super) struct Sources {
    /// Of the process.
    pub(super) signals: Signals,
    /// Wishes of [`Stopper`](super::Stopper); `true`: hasty.
    pub(super) stops: mpsc::Receiver<bool>,
}

/// What wakes the loop, besides messages and time.
enum Woken {
    Mesh,
    Signal(Caught),
    Stop(bool),
    Command(Command),
    Report(Report),
    Name(NameId, resolve::Answer),
    Prepared(Result<Prepared, Vec<String>>),
    Keys(keys::Found),
    LogBuffer(usize, Vec<u8>),
    Tick,
    Deadline,
}

/// The control loop's state; its thread alone touches it.
pub(super) struct Loop {
    shared: Arc<Shared>,
    /// The configuration that holds, and who wants to know of it.
    setups: Published<Arc<Setup>>,
    setup: Arc<Setup>,
    options: Options,
    pub(super) local: Local<Message>,
    calls: Calls<Answer>,
    desk: Desk,
    board: Board,
    reports: mpsc::Receiver<Report>,
    names: Names,
    answer: mpsc::Sender<(NameId, resolve::Answer)>,
    answers: mpsc::Receiver<(NameId, resolve::Answer)>,
    /// Keys of tokens, as they are found; a wish for newer ones.
    keys: mpsc::Receiver<keys::Found>,
    keys_wanted: Arc<Notify>,
    /// The first answer of where they are fetched from is still out.
    keys_missing: bool,
    reloader: Reloader,
    prepared: mpsc::Sender<Result<Prepared, Vec<String>>>,
    preparations: mpsc::Receiver<Result<Prepared, Vec<String>>>,
    pub(super) log: Option<LogWriter>,
    /// Where it goes once all cores have taken up the configuration that says so.
    next_log: Option<Opened>,
    log_counters: Arc<LogCounters>,
    ending: Ending,
    watch: Watch,
    pub(super) hub: Hub,
    announced: bool,
    /// Requests explained: each core in turn is asked.
    explained: usize,
}

impl Loop {
    /// Before its first turn: look-ups of names have been started.
    pub(super) fn new(
        shared: Arc<Shared>,
        setups: Published<Arc<Setup>>,
        options: Options,
        local: Local<Message>,
        desk: Desk,
        log: Option<LogWriter>,
        hub: Hub,
    ) -> Self {
        let (report, reports) = mpsc::channel(REPORTS);
        let (answer, answers) = mpsc::channel(REPORTS);
        let (prepared, preparations) = mpsc::channel(1);
        let reloader = Reloader::new(options.files.clone());
        let (found, keys) = mpsc::channel(1);
        let keys_wanted = Arc::new(Notify::new());
        tokio::spawn(keys::follow(
            setups.subscribe(),
            Arc::clone(&keys_wanted),
            found,
        ));
        let setup = Arc::clone(&setups.borrow());
        let mut names = Names::default();
        names.reload(&setup, &answer);
        let shutdown = &setup.plan.shutdown;
        Self {
            keys_missing: matches!(keys::Source::of(&setup), Some(keys::Source::Url(_))),
            board: Board::new(&setup, report),
            ending: Ending::new(shared.cores, shutdown.delay, shutdown.timeout),
            watch: Watch::new(shared.cores),
            log_counters: log.as_ref().map(LogWriter::counters).unwrap_or_default(),
            calls: Calls::new(),
            hub,
            announced: false,
            explained: 0,
            shared,
            setups,
            setup,
            options,
            local,
            desk,
            reports,
            names,
            answer,
            answers,
            keys,
            keys_wanted,
            reloader,
            prepared,
            preparations,
            log,
            next_log: None,
        }
    }

    /// Turns until the process is to end. The cores have then been sent `End`.
    pub(super) async fn turn_until_the_end(
        &mut self,
        mut commands: mpsc::Receiver<Command>,
        mut sources: Sources,
    ) -> Exit {
        let mut tick = tokio::time::interval(watch::TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let busy = self.drain();
            if let Some(exit) = self.settle() {
                return exit;
            }
            let woken = self
                .next(busy, &mut commands, &mut sources, &mut tick)
                .await;
            self.take(woken);
        }
    }

    /// Waits for the next thing. `busy`: more messages may have come, so everything else gets one look.
    async fn next(
        &mut self,
        busy: bool,
        commands: &mut mpsc::Receiver<Command>,
        sources: &mut Sources,
        tick: &mut tokio::time::Interval,
    ) -> Woken {
        let deadline = [self.ending.poll_timeout(), self.board.poll_timeout()]
            .into_iter()
            .flatten()
            .min();
        // Rounded up to the timer's grain, so that the deadline has passed when it fires.
        let deadline =
            deadline.map(|at| tokio::time::Instant::from_std(at + Duration::from_millis(1)));
        let log = &mut self.log;
        let spent = std::future::poll_fn(|cx| match log {
            Some(log) => log.poll_spent(cx),
            None => std::task::Poll::Pending,
        });
        tokio::select! {
            biased;
            caught = std::future::poll_fn(|cx| sources.signals.poll_next(cx)) => Woken::Signal(caught),
            Some(hasty) = sources.stops.recv() => Woken::Stop(hasty),
            _ = tick.tick() => Woken::Tick,
            () = tokio::time::sleep_until(deadline.unwrap_or_else(tokio::time::Instant::now)), if deadline.is_some()
                => Woken::Deadline,
            Some(report) = self.reports.recv() => Woken::Report(report),
            Some((id, answer)) = self.answers.recv() => Woken::Name(id, answer),
            Some(prepared) = self.preparations.recv() => Woken::Prepared(prepared),
            Some(found) = self.keys.recv() => Woken::Keys(found),
            (core, buffer) = spent => Woken::LogBuffer(core, buffer),
            Some(command) = commands.recv() => Woken::Command(command),
            () = tokio::task::yield_now(), if busy => Woken::Mesh,
            () = self.local.ready(), if !busy => Woken::Mesh,
        }
    }

    fn take(&mut self, woken: Woken) {
        match woken {
            Woken::Mesh | Woken::Deadline => {}
            Woken::Signal(caught) => self.signal(caught),
            Woken::Stop(hasty) => self.stop(hasty),
            Woken::Command(command) => self.command(command),
            Woken::Report(report) => self.board.report(report),
            Woken::Name(id, answer) => self.name(id, answer),
            Woken::Prepared(prepared) => self.prepared(prepared),
            Woken::Keys(found) => self.keys_found(found),
            Woken::LogBuffer(core, buffer) => self.local.send(core, Message::LogBuffer(buffer)),
            Woken::Tick => self.tick(),
        }
    }

    /// Takes a batch of messages; whether there were any.
    fn drain(&mut self) -> bool {
        let local = self.local.clone();
        local.drain(&mut |from, message| self.message(from, message)) > 0
    }

    fn message(&mut self, from: usize, message: Message) {
        match message {
            Message::Answer { call, answer } => {
                // Nobody waits any more: the handler's time was over.
                let _ = self.calls.complete(call, answer);
            }
            Message::Outcome { upstream, ok } => self.board.outcome(upstream, ok),
            Message::Log(bytes) => match &mut self.log {
                Some(log) => log.write(from, bytes),
                None => self.local.send(from, Message::LogBuffer(emptied(bytes))),
            },
            Message::Events(events) => self.hub.extend(events),
            Message::KeysWanted => self.keys_wanted.notify_one(),
            Message::Ready => {
                self.watch.ready(from);
            }
            Message::Reloaded { number } => {
                if self.reloader.taken(from, number) {
                    self.switch_log();
                }
            }
            Message::Drained => {
                self.watch.drained(from);
                self.ending
                    .handle_input(Input::Drained { core: from }, Instant::now());
            }
            // Not for the control thread: the sender is at fault, and goes on.
            Message::Ask { .. }
            | Message::State { .. }
            | Message::Addresses { .. }
            | Message::LogBuffer(_)
            | Message::Reload { .. }
            | Message::Connection(_)
            | Message::Ends(_)
            | Message::Explain(_)
            | Message::Keys(_)
            | Message::Drain
            | Message::End => {
                static ASTRAY: say::Once = say::Once::new();
                ASTRAY.warn(|| {
                    format!("party {from} sent the control thread a message that is not for it")
                });
            }
        }
    }

    /// Does what follows from all that was taken in. `Some`: the process is to end.
    fn settle(&mut self) -> Option<Exit> {
        if self.reloader.again() {
            self.reload(None);
        }
        let (local, hub, setup) = (&self.local, &mut self.hub, &self.setup);
        let cores = self.shared.cores;
        self.board.turn(|changed| {
            let health::Changed {
                upstream,
                admin,
                health,
                event,
            } = changed;
            for core in 0..cores {
                local.send(
                    core,
                    Message::State {
                        upstream,
                        admin,
                        health,
                    },
                );
            }
            hub.extend(event.map(|state| state_changed(setup, upstream, state)));
        });
        if !self.announced && self.watch.all_ready() && self.names.settled() && !self.keys_missing {
            self.announced = true;
            // The line that scripts wait for.
            say::info("ready");
            notify::notify("READY=1");
        }
        if self
            .ending
            .poll_timeout()
            .is_some_and(|at| at <= Instant::now())
        {
            self.ending.handle_input(Input::Timeout, Instant::now());
        }
        while let Some(output) = self.ending.poll_output() {
            match output {
                Output::FailReadiness => {
                    self.shared.unready.store(true, SeqCst);
                    notify::notify("STOPPING=1");
                }
                Output::Drain => self.all_cores(|| Message::Drain),
                Output::End(exit) => {
                    self.all_cores(|| Message::End);
                    return Some(exit);
                }
            }
        }
        None
    }

    /// Lets `End` get through to cores whose ring was full, and takes the last lines of the log.
    pub(super) async fn last_words(&mut self) {
        let until = Instant::now() + LAST_WORDS;
        while (self.drain() || self.local.stats().spilled > 0) && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.hub.close();
    }

    fn all_cores(&self, message: impl Fn() -> Message) {
        for core in 0..self.shared.cores {
            self.local.send(core, message());
        }
    }

    fn signal(&mut self, caught: Caught) {
        match caught {
            Caught::Terminate => self.stop(false),
            Caught::Interrupt => self.stop(true),
            Caught::ReopenLog => match &mut self.log {
                Some(log) => log.reopen(),
                None => say::info("SIGUSR1: there is no access log to reopen"),
            },
            // A terminal that was closed: nobody is left to reload for.
            Caught::Reload if self.options.at_terminal && !io::stdin().is_terminal() => {
                self.stop(true)
            }
            Caught::Reload => self.reload(None),
            Caught::Upgrade => {
                say::warn("SIGUSR2: handing over to a new binary is not built yet; nothing changes")
            }
        }
    }

    /// Begins the end, or ends at once where it has begun.
    fn stop(&mut self, hasty: bool) {
        let before = self.ending.phase();
        self.ending
            .handle_input(Input::Stop { hasty }, Instant::now());
        let shutdown = &self.setup.plan.shutdown;
        match (before, hasty) {
            (Phase::Serving, true) => say::info("draining; once more to end at once"),
            (Phase::Serving, false) => say::info(format!(
                "shutting down: not ready from now on, draining in {:?} for at most {:?}; \
                 a second signal ends at once",
                shutdown.delay, shutdown.timeout
            )),
            _ => say::warn("ending at once, as asked"),
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Status(reply) => {
                // Whoever asked may be gone.
                let _ = reply.send(self.status());
            }
            Command::SetState {
                upstream,
                state,
                reply,
            } => {
                self.board.set(upstream, state);
                if let Some(known) = self.board.one(upstream) {
                    let _ = reply.send(known);
                }
            }
            Command::Reload(reply) => self.reload(Some(reply)),
            Command::Edit { edit, reply } => self.edit(&edit, reply),
            Command::Ask { core, ask, reply } => self.ask(core, ask, reply),
            Command::Explain(question) => {
                let core = self.explained % self.shared.cores.max(1);
                self.explained = self.explained.wrapping_add(1);
                self.local.send(core, Message::Explain(question));
            }
            Command::Subscribe { last, end, reply } => {
                if let Some(subscription) = self.hub.subscribe(last.as_deref(), end) {
                    let _ = reply.send(subscription);
                }
            }
            Command::Journal { sid, reply } => {
                let _ = reply.send(self.hub.journal(&sid));
            }
        }
    }

    /// Passes keys on to the cores; of those of a source that holds no more nothing is taken.
    fn keys_found(&mut self, found: keys::Found) {
        if keys::Source::of(&self.setup).as_ref() != Some(&found.source) {
            return;
        }
        self.keys_missing = false;
        match found.keys {
            Ok(keys) => self.all_cores(|| Message::Keys(Arc::clone(&keys))),
            Err(error) => say::warn(format!("{error}; the keys that there are stay")),
        }
    }

    /// Sends a question; a task of its own waits for the answer, for as long as somebody wants it.
    fn ask(&mut self, core: usize, ask: Ask, mut reply: oneshot::Sender<Answer>) {
        if self.calls.open_calls() >= CALLS || core >= self.shared.cores {
            return;
        }
        let (call, pending) = self.calls.open();
        self.local.send(core, Message::Ask { call, ask });
        tokio::task::spawn_local(async move {
            let answer = tokio::select! {
                answer = pending => Some(answer),
                () = reply.closed() => None,
            };
            if let Some(answer) = answer {
                let _ = reply.send(answer);
            }
        });
    }

    fn name(&mut self, id: NameId, answer: resolve::Answer) {
        let Some((upstreams, addresses)) = self.names.answered(id, answer) else {
            return;
        };
        for &upstream in upstreams {
            self.board.moved(upstream, Arc::clone(&addresses));
            for core in 0..self.shared.cores {
                self.local.send(core, addresses_of(upstream, &addresses));
            }
        }
    }

    fn tick(&mut self) {
        if let Some(late) = self.reloader.late(Instant::now()) {
            for core in late {
                say::warn(format!(
                    "core {core} has not taken the new configuration up yet"
                ));
            }
            self.switch_log();
        }
        let live = self.shared.sessions.load(Relaxed) as u64;
        self.shared.holders.age(live);
        let metrics = &self.shared.metrics;
        let turns = |core: usize| metrics.get(core).map_or(0, |core| core.get(Metric::Turns));
        self.watch.tick(turns, |core, change| match change {
            Change::Stalled => say::error(format!("data core {core} stands still")),
            Change::Recovered => say::warn(format!("data core {core} turns again")),
        });
        // A core that stands still takes the process to its watchdog's end.
        if self.watch.all_turn() {
            notify::beat();
        }
    }

    fn status(&self) -> Status {
        let counts = &self.desk.counts;
        Status {
            phase: self.ending.phase(),
            cores: self.watch.status(),
            // Names that a reload brings are no reason to send clients elsewhere.
            resolving: !self.announced && !self.names.settled(),
            reloads: self.reloader.counts(),
            setup: Arc::clone(&self.setup),
            upstreams: self.board.status(),
            counts: ControlCounts {
                log_lines_dropped: self.log_counters.dropped.load(Relaxed),
                log_errors: self.log_counters.errors.load(Relaxed),
                events: self.hub.counts(),
                resolver_errors: self.names.errors(),
                ask_timeouts: counts.late.load(Relaxed),
                asks_refused: counts.busy.load(Relaxed),
                mesh_spills: self.local.stats().spills,
                admin_refused: counts.refused.load(Relaxed),
            },
        }
    }
}

/// The event of an upstream's new state. It belongs to no session.
fn state_changed(setup: &Setup, upstream: UpstreamId, state: UpstreamState) -> Event {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let mut all = setup.all_endpoints();
    let named = all.find(|(_, _, endpoint)| endpoint.id == upstream);
    let name = named.and_then(|(s, u, _)| {
        let service = setup.plan.services.get(s)?;
        Some(Box::new(UpstreamName {
            service: service.name.as_str().into(),
            id: service.upstreams.get(u)?.id.as_str().into(),
        }))
    });
    Event {
        kind: EventKind::UpstreamStateChanged,
        at: now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX)),
        sid: None,
        reason: state.name(),
        subject: None,
        upstream: name,
        ordinal: u64::from(upstream.0),
    }
}

fn addresses_of(upstream: UpstreamId, addresses: &Arc<[SocketAddr]>) -> Message {
    Message::Addresses {
        upstream,
        addresses: Arc::clone(addresses),
    }
}

fn emptied(mut buffer: Vec<u8>) -> Vec<u8> {
    buffer.clear();
    buffer
}
