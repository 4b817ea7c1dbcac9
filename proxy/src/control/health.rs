//! The board of upstreams: carries out what the judges of [`crate::pin::health`] say.
//!
//! Owns one judge a service, the place of every upstream, and what the last checks found. Driven by
//! the control loop; checks run as tasks of its runtime and report back through a channel.
//!
//! Invariants: at most one check an upstream is in flight (the judge sees to it); every change of a
//! state is told to `tell` exactly once and leaves a line. A check that failed for a reason of ours
//! confirms what was, so that running out of descriptors takes no upstream down.
//!
//! Deliberately no decision here: thresholds, windows and ejections are the judge's.
//! Tested below with real sockets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_config::plan::{Protocol, Service, UpstreamAddress};
use tokio::sync::mpsc;

use super::probe::{self, Found, Place, Probe};
use super::status::UpstreamStatus;
use crate::log;
use crate::pin::health::{Input, Judge, Output, ProbeId, Probed, Reason};
use crate::pin::state::{AdminState, HealthState, UpstreamState};
use crate::setup::{Endpoint, Setup, UpstreamId};

/// A finished check.
#[derive(Debug)]
pub struct Report {
    upstream: UpstreamId,
    probe: ProbeId,
    found: Found,
}

/// What the cores must know, and whether it is an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed {
    /// Which.
    pub upstream: UpstreamId,
    /// What an operator set.
    pub admin: AdminState,
    /// What checks and failures say.
    pub health: HealthState,
    /// The state that holds now, where it is another than before.
    pub event: Option<UpstreamState>,
}

struct Entry {
    id: UpstreamId,
    name: String,
    place: Place,
    probe: Option<Probe>,
    last_check: Option<String>,
    passed: u64,
    failed: u64,
    changes: u64,
}

/// All upstreams of a plan. See the module.
pub struct Board {
    judges: Vec<Judge>,
    entries: Vec<Vec<Entry>>,
    zero: Instant,
    reports: mpsc::Sender<Report>,
}

static UNKNOWN: log::Limited = log::Limited::new(Duration::from_secs(60));

impl Board {
    /// Everything up, and no check made yet. Reports of checks go to `reports`.
    pub fn new(setup: &Setup, reports: mpsc::Sender<Report>) -> Self {
        Self::since(Instant::now(), setup, reports)
    }

    fn since(zero: Instant, setup: &Setup, reports: mpsc::Sender<Report>) -> Self {
        let now = since(zero);
        let plan = &setup.plan;
        let judge = |service: &Service| {
            let ids = service
                .upstreams
                .iter()
                .map(|upstream| upstream.id.as_str());
            Judge::new(ids, service.health.clone(), service.passive.clone(), now)
        };
        Self {
            judges: plan.services.iter().map(judge).collect(),
            entries: plan
                .services
                .iter()
                .zip(&setup.endpoints)
                .enumerate()
                .map(|(i, (service, endpoints))| entries(service, endpoints, setup.client(i)))
                .collect(),
            zero,
            reports,
        }
    }

    fn now(&self) -> u64 {
        since(self.zero)
    }

    /// When [`turn`](Self::turn) is wanted at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let at = self.judges.iter().filter_map(Judge::poll_timeout).min()?;
        self.zero.checked_add(Duration::from_millis(at))
    }

    /// An upstream with a name is now at these addresses.
    pub fn moved(&mut self, upstream: UpstreamId, addresses: Arc<[std::net::SocketAddr]>) {
        if let Some(entry) = self.entry(upstream) {
            entry.place = Place::Addresses(addresses);
        }
    }

    /// The outcome of an exchange, from a core.
    pub fn outcome(&mut self, upstream: UpstreamId, ok: bool) {
        let Some((service, upstream)) = self.find(upstream) else {
            return;
        };
        self.input(service, Input::Outcome { upstream, ok });
    }

    /// An operator sets a state.
    pub fn set(&mut self, upstream: UpstreamId, state: AdminState) {
        let Some((service, upstream)) = self.find(upstream) else {
            return;
        };
        self.input(service, Input::Admin { upstream, state });
    }

    /// A check has ended.
    pub fn report(&mut self, report: Report) {
        let Report {
            upstream,
            probe,
            found,
        } = report;
        // It was asked under a configuration that had it.
        let Some((service, position)) = self.find(upstream) else {
            return;
        };
        let before = self
            .judges
            .get(service)
            .and_then(|judge| judge.state(position))
            .map(|(_, health, _)| health);
        let Some(entry) = self.entry(upstream) else {
            return;
        };
        let (outcome, text) = match found {
            Found::Healthy(text) => (Probed::Good, text),
            Found::Drain => (Probed::Drain, "status 404".to_owned()),
            Found::Unhealthy(text) => (Probed::Bad, text),
            Found::Unknown(text) => {
                UNKNOWN.warn(|| format!("health checks can't be made: {text}"));
                let same = match before {
                    Some(HealthState::Drain) => Probed::Drain,
                    Some(HealthState::Down) => Probed::Bad,
                    Some(HealthState::Up) | None => Probed::Good,
                };
                (same, format!("not checked: {text}"))
            }
        };
        match outcome {
            Probed::Bad => entry.failed += 1,
            Probed::Good | Probed::Drain => entry.passed += 1,
        }
        entry.last_check = Some(text);
        self.input(
            service,
            Input::Probed {
                upstream: position,
                probe,
                outcome,
            },
        );
    }

    fn input(&mut self, service: usize, input: Input) {
        let now = self.now();
        if let Some(judge) = self.judges.get_mut(service) {
            judge.handle_input(input, now);
        }
    }

    /// Where an upstream stands: service and position.
    fn find(&self, id: UpstreamId) -> Option<(usize, usize)> {
        self.entries
            .iter()
            .enumerate()
            .find_map(|(service, entries)| {
                let at = entries.iter().position(|entry| entry.id == id)?;
                Some((service, at))
            })
    }

    fn entry(&mut self, id: UpstreamId) -> Option<&mut Entry> {
        let (service, at) = self.find(id)?;
        self.entries.get_mut(service)?.get_mut(at)
    }

    /// What is known of one.
    pub fn one(&self, id: UpstreamId) -> Option<UpstreamStatus> {
        let (service, at) = self.find(id)?;
        let (judge, entry) = (
            self.judges.get(service)?,
            self.entries.get(service)?.get(at)?,
        );
        Some(status(judge, at, entry))
    }

    /// Takes up a new configuration. What was known of the upstreams that it shares with the old one
    /// goes on: states, counts of checks, places. Their checks in flight are given up.
    pub fn reload(&mut self, setup: &Setup) {
        let new = Self::since(self.zero, setup, self.reports.clone());
        let old = std::mem::replace(self, new);
        for (service, judge) in self.judges.iter_mut().enumerate() {
            let Some(entries) = self.entries.get_mut(service) else {
                continue;
            };
            for (at, entry) in entries.iter_mut().enumerate() {
                let Some((s, u)) = old.find(entry.id) else {
                    continue;
                };
                if let Some(known) = old.judges.get(s) {
                    judge.resume(at, known, u);
                }
                if let Some(known) = old.entries.get(s).and_then(|s| s.get(u)) {
                    entry.place = known.place.clone();
                    entry.last_check.clone_from(&known.last_check);
                    (entry.passed, entry.failed) = (known.passed, known.failed);
                    entry.changes = known.changes;
                }
            }
        }
    }

    /// Lets time pass, starts the checks that are due, and tells every change. Within the control
    /// thread's runtime.
    pub fn turn(&mut self, mut tell: impl FnMut(Changed)) {
        let now = self.now();
        for (judge, entries) in self.judges.iter_mut().zip(&mut self.entries) {
            if judge.poll_timeout().is_some_and(|at| at <= now) {
                judge.handle_input(Input::Tick, now);
            }
            while let Some(output) = judge.poll_output() {
                match output {
                    Output::Probe { upstream, probe } => {
                        if let Some(entry) = entries.get(upstream) {
                            start(entry, probe, &self.reports);
                        }
                    }
                    Output::Changed {
                        upstream,
                        admin,
                        health,
                        from,
                        to,
                        reason,
                    } => {
                        let Some(entry) = entries.get_mut(upstream) else {
                            continue;
                        };
                        if from != to {
                            entry.changes += 1;
                            say(entry, from, to, reason);
                        }
                        tell(Changed {
                            upstream: entry.id,
                            admin,
                            health,
                            event: (from != to).then_some(to),
                        });
                    }
                }
            }
        }
    }

    /// What is known of each, by service, then upstream.
    pub fn status(&self) -> Vec<Vec<UpstreamStatus>> {
        let of_service = |(judge, entries): (&Judge, &Vec<Entry>)| {
            let of_one = |(at, entry): (usize, &Entry)| status(judge, at, entry);
            entries.iter().enumerate().map(of_one).collect()
        };
        self.judges
            .iter()
            .zip(&self.entries)
            .map(of_service)
            .collect()
    }
}

/// Milliseconds since `zero`.
fn since(zero: Instant) -> u64 {
    u64::try_from(zero.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn status(judge: &Judge, at: usize, entry: &Entry) -> UpstreamStatus {
    let (admin, health, state) = judge.state(at).unwrap_or_default();
    UpstreamStatus {
        state,
        admin: admin.into(),
        health: health.into(),
        addresses: match &entry.place {
            Place::Addresses(addresses) => addresses.to_vec(),
            Place::Unix(_) => Vec::new(),
        },
        last_check: entry.last_check.clone(),
        checks_passed: entry.passed,
        checks_failed: entry.failed,
        changes: entry.changes,
    }
}

fn entries(
    service: &Service,
    endpoints: &[Arc<Endpoint>],
    tls: Option<&crate::tls::Client>,
) -> Vec<Entry> {
    let entry = |(position, (upstream, endpoint)): (
        usize,
        (&holdfast_config::plan::Upstream, &Arc<Endpoint>),
    )| {
        let (place, host) = match &upstream.address {
            UpstreamAddress::Ip(address) => {
                (Place::Addresses(Arc::from([*address])), address.to_string())
            }
            UpstreamAddress::Name(name, port) => {
                let known = endpoint.addresses.clone();
                let known = known.unwrap_or_else(|| Arc::from([]));
                (Place::Addresses(known), format!("{name}:{port}"))
            }
            UpstreamAddress::Unix(path) => (Place::Unix(path.clone()), "localhost".to_owned()),
        };
        let probe = service.health.as_ref().map(|check| Probe {
            path: check.path.clone(),
            host,
            timeout: check.timeout,
            connect_only: service.protocol == Protocol::H2,
            tls: tls.and_then(|tls| {
                Some(probe::Tls {
                    config: tls.config(),
                    name: tls.names.get(position)?.clone(),
                })
            }),
            proxy_protocol: service.proxy_protocol,
        });
        let name = format!("{}/{}", service.name, upstream.id);
        Entry {
            id: endpoint.id,
            name,
            place,
            probe,
            last_check: None,
            passed: 0,
            failed: 0,
            changes: 0,
        }
    };
    let both = service.upstreams.iter().zip(endpoints);
    both.enumerate().map(entry).collect()
}

/// Starts a check as a task. Its report waits where the control loop is behind.
fn start(entry: &Entry, id: ProbeId, reports: &mpsc::Sender<Report>) {
    let Some(probe) = entry.probe.clone() else {
        return;
    };
    let (upstream, place) = (entry.id, entry.place.clone());
    let reports = reports.clone();
    tokio::spawn(async move {
        let found = probe::check(&probe, &place).await;
        // The loop has ended: nobody wants to know any more.
        let _ = reports
            .send(Report {
                upstream,
                probe: id,
                found,
            })
            .await;
    });
}

fn say(entry: &Entry, from: UpstreamState, to: UpstreamState, reason: Reason) {
    let why = match reason {
        Reason::Admin => "set by an operator".to_owned(),
        Reason::Check => format!(
            "health check: {}",
            entry.last_check.as_deref().unwrap_or("no answer in time")
        ),
        Reason::Passive if to == UpstreamState::Down => "too many exchanges failed".to_owned(),
        Reason::Passive => "on probation after failures".to_owned(),
    };
    let text = format!(
        "upstream {} is now {} (was {}): {why}",
        entry.name,
        to.name(),
        from.name()
    );
    if to == UpstreamState::Down {
        log::warn(text)
    } else {
        log::info(text)
    }
}
