//! The judge of one service's upstreams: what checks, failures and the administrator add up to.
//!
//! **Owns** when to probe, how many answers in a row change an opinion, how many failures in a window eject,
//! and until when. The control thread has one [`Judge`] for each service, once an instance, and carries out
//! what it says: no core decides by itself that an upstream is down.
//!
//! **Rules.** An upstream begins `Up`. `unhealthy` failed checks in a row: `Down`; then `healthy` good ones:
//! `Up`. A check that answers 404 is a good one that asks for a drain, at once. `failures` failed exchanges
//! within `window`: `Down` for `eject`; after that it is on probation, where one failure ejects it again and
//! one success ends it. A probe without an answer fails at its deadline, and a late answer counts no more.
//!
//! **Invariants.** Outputs are levels, not a queue: at most one change and one probe an upstream wait, so
//! nothing grows. Time only ever comes from the caller: milliseconds of a steady clock.
//!
//! **Not here**: sockets, HTTP, clocks. **Tested** by tables and by a property beside this file.

use std::collections::VecDeque;
use std::time::Duration;

use holdfast_config::plan::{HealthCheck, PassiveHealth};

use super::hash::hash64;
use super::state::{AdminState, HealthState, UpstreamState};

/// The most failures that are remembered for an upstream.
const MAX_FAILURES: u32 = 1024;

/// Names one probe, so that a late answer is not taken for that of the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeId(u64);

/// How a probe ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probed {
    /// It serves.
    Good,
    /// It serves and wants no new clients.
    Drain,
    /// It does not serve.
    Bad,
}

impl Probed {
    /// By the status of the answer: 2xx and 3xx are good, 404 asks for a drain.
    pub fn from_status(status: u16) -> Self {
        match status {
            200..=399 => Self::Good,
            404 => Self::Drain,
            _ => Self::Bad,
        }
    }
}

/// What the judge is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Time has passed (see [`Judge::poll_timeout`]).
    Tick,
    /// A probe ended.
    Probed {
        /// Position.
        upstream: usize,
        /// Of [`Output::Probe`].
        probe: ProbeId,
        /// How.
        outcome: Probed,
    },
    /// An exchange with the upstream ended.
    Outcome {
        /// Position.
        upstream: usize,
        /// Whether the upstream served.
        ok: bool,
    },
    /// The administrator set a state.
    Admin {
        /// Position.
        upstream: usize,
        /// Which.
        state: AdminState,
    },
}

/// Why a state changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The administrator.
    Admin,
    /// Active checks.
    Check,
    /// Failed exchanges, or the end of their ejection.
    Passive,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Send a check now; its answer must come by `timeout`, else it counts as bad.
    Probe {
        /// Position.
        upstream: usize,
        /// To be given back with the answer.
        probe: ProbeId,
    },
    /// Tell all cores.
    Changed {
        /// Position.
        upstream: usize,
        /// What the administrator set.
        admin: AdminState,
        /// What health says.
        health: HealthState,
        /// The state before.
        from: UpstreamState,
        /// The state now; equals `from` where only the graver opinion's shadow changed.
        to: UpstreamState,
        /// Why.
        reason: Reason,
    },
}

/// The judge of one service.
#[derive(Debug, Clone)]
pub struct Judge {
    check: Option<HealthCheck>,
    passive: Option<PassiveHealth>,
    upstreams: Vec<Watched>,
    probes: u64,
}

#[derive(Debug, Clone)]
struct Watched {
    admin: AdminState,
    /// What the cores were last told.
    told: (AdminState, HealthState),
    reason: Reason,
    // Active.
    checked: HealthState,
    good: u32,
    bad: u32,
    next_probe: u64,
    due: bool,
    flight: Option<(ProbeId, u64)>,
    // Passive.
    failures: VecDeque<u64>,
    ejected_until: Option<u64>,
    probation: bool,
}

impl Watched {
    fn health(&self) -> HealthState {
        if self.ejected_until.is_some() {
            HealthState::Down
        } else {
            self.checked
        }
    }

    fn now_held(&self) -> (AdminState, HealthState) {
        (self.admin, self.health())
    }
}

impl Judge {
    /// For the upstreams `ids` (by position), all of them up. First checks are spread over a quarter of the
    /// interval.
    pub fn new<'a>(
        ids: impl Iterator<Item = &'a str>,
        check: Option<HealthCheck>,
        passive: Option<PassiveHealth>,
        now: u64,
    ) -> Self {
        let spread = check.as_ref().map_or(0, |check| millis(check.interval) / 4);
        let watch = |id: &str| Watched {
            admin: AdminState::Ready,
            told: (AdminState::Ready, HealthState::Up),
            reason: Reason::Check,
            checked: HealthState::Up,
            good: 0,
            bad: 0,
            next_probe: now + hash64(id.as_bytes(), 0).checked_rem(spread).unwrap_or(0),
            due: false,
            flight: None,
            failures: VecDeque::new(),
            ejected_until: None,
            probation: false,
        };
        Self {
            check,
            passive,
            upstreams: ids.map(watch).collect(),
            probes: 0,
        }
    }

    /// Takes over, at a reload, what `old` knew of its upstream at `known` for the one at `upstream`: state,
    /// checks and failures, and what the cores were told. A probe in flight is forgotten. Where the checks or the
    /// passive health that held it down are gone, it is up, and that is told as a change.
    pub fn resume(&mut self, upstream: usize, old: &Judge, known: usize) {
        // A late answer to a probe of the old judge is none to a probe of this one.
        self.probes = self.probes.max(old.probes);
        let (Some(new), Some(known)) = (self.upstreams.get_mut(upstream), old.upstreams.get(known))
        else {
            return;
        };
        (new.admin, new.told, new.reason) = (known.admin, known.told, known.reason);
        if let (Some(_), Some(before)) = (&self.check, &old.check) {
            (new.checked, new.good, new.bad) = (known.checked, known.good, known.bad);
            if self.check.as_ref() == Some(before) {
                new.next_probe = known.next_probe;
            }
        }
        if self.passive.is_some() {
            new.failures.clone_from(&known.failures);
            (new.ejected_until, new.probation) = (known.ejected_until, known.probation);
        }
    }

    /// What holds for an upstream now.
    pub fn state(&self, upstream: usize) -> Option<(AdminState, HealthState, UpstreamState)> {
        let (admin, health) = self.upstreams.get(upstream)?.now_held();
        Some((admin, health, UpstreamState::combine(admin, health)))
    }

    /// Takes news in. Positions and probes that do not exist are ignored.
    pub fn handle_input(&mut self, input: Input, now: u64) {
        // What ended before the news came has ended: an ejection, the wait for a probe.
        self.pass_time(now);
        match input {
            Input::Tick => {}
            Input::Admin { upstream, state } => {
                if let Some(watched) = self
                    .upstreams
                    .get_mut(upstream)
                    .filter(|w| w.admin != state)
                {
                    watched.admin = state;
                    watched.reason = Reason::Admin;
                }
            }
            Input::Probed {
                upstream,
                probe,
                outcome,
            } => {
                if let (Some(watched), Some(check)) =
                    (self.upstreams.get_mut(upstream), &self.check)
                    && watched
                        .flight
                        .is_some_and(|(flying, deadline)| flying == probe && now < deadline)
                {
                    watched.flight = None;
                    watched.checked_as(outcome, check);
                }
            }
            Input::Outcome { upstream, ok } => {
                if let (Some(watched), Some(passive)) =
                    (self.upstreams.get_mut(upstream), &self.passive)
                {
                    watched.ended(ok, passive, now);
                }
            }
        }
        self.pass_time(now);
    }

    /// What is to be done next; `None` until news come.
    pub fn poll_output(&mut self) -> Option<Output> {
        for (upstream, watched) in self.upstreams.iter_mut().enumerate() {
            let held = watched.now_held();
            if held != watched.told {
                let from = UpstreamState::combine(watched.told.0, watched.told.1);
                watched.told = held;
                let (admin, health) = held;
                let to = UpstreamState::combine(admin, health);
                return Some(Output::Changed {
                    upstream,
                    admin,
                    health,
                    from,
                    to,
                    reason: watched.reason,
                });
            }
            if let (true, Some((probe, _))) = (std::mem::take(&mut watched.due), watched.flight) {
                return Some(Output::Probe { upstream, probe });
            }
        }
        None
    }

    /// When [`Input::Tick`] is wanted at the latest; `None`: only after other news.
    pub fn poll_timeout(&self) -> Option<u64> {
        self.upstreams
            .iter()
            .flat_map(|watched| {
                let probe = self.check.as_ref().map(|_| match watched.flight {
                    Some((_, deadline)) => deadline,
                    None => watched.next_probe,
                });
                [probe, watched.ejected_until]
            })
            .flatten()
            .min()
    }

    fn pass_time(&mut self, now: u64) {
        for watched in &mut self.upstreams {
            if watched.ejected_until.is_some_and(|until| until <= now) {
                watched.ejected_until = None;
                watched.probation = true;
                watched.reason = Reason::Passive;
            }
            let Some(check) = &self.check else {
                continue;
            };
            if watched.flight.is_some_and(|(_, deadline)| deadline <= now) {
                watched.flight = None;
                watched.due = false;
                watched.checked_as(Probed::Bad, check);
            }
            if watched.flight.is_none() && watched.next_probe <= now {
                self.probes += 1;
                watched.flight = Some((ProbeId(self.probes), now + millis(check.timeout)));
                watched.due = true;
                watched.next_probe = now + millis(check.interval);
            }
        }
    }
}

impl Watched {
    fn checked_as(&mut self, outcome: Probed, check: &HealthCheck) {
        let before = self.checked;
        if outcome == Probed::Bad {
            (self.good, self.bad) = (0, self.bad.saturating_add(1));
            if self.bad >= check.unhealthy.max(1) {
                self.checked = HealthState::Down;
            }
        } else {
            (self.good, self.bad) = (self.good.saturating_add(1), 0);
            if self.checked != HealthState::Down || self.good >= check.healthy.max(1) {
                self.checked = if outcome == Probed::Drain {
                    HealthState::Drain
                } else {
                    HealthState::Up
                };
            }
        }
        if self.checked != before {
            self.reason = Reason::Check;
        }
    }

    fn ended(&mut self, ok: bool, passive: &PassiveHealth, now: u64) {
        if ok {
            if std::mem::take(&mut self.probation) {
                self.failures.clear();
            }
            return;
        }
        // What still fails after an ejection was on its way before it.
        if self.ejected_until.is_some() {
            return;
        }
        let most = passive.failures.clamp(1, MAX_FAILURES) as usize;
        let since = now.saturating_sub(millis(passive.window));
        while self.failures.front().is_some_and(|at| *at < since) || self.failures.len() >= most {
            self.failures.pop_front();
        }
        self.failures.push_back(now);
        if self.failures.len() >= most || self.probation {
            self.failures.clear();
            self.probation = false;
            self.ejected_until = Some(now + millis(passive.eject).max(1));
            self.reason = Reason::Passive;
        }
    }
}

/// At least one: an interval of nothing would never let go.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis())
        .unwrap_or(u64::MAX / 4)
        .clamp(1, u64::MAX / 4)
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
