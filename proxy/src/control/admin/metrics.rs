//! `/metrics`: all that is counted, summed over the cores.
//!
//! Owns nothing; reads the cores' relaxed atomics, the control thread's status and `/proc`. Called by
//! the control thread, once a scrape.
//!
//! Invariants: names come from [`crate::metrics::TABLE`] and from this file alone; labels are rule
//! ids, service names, upstream ids and fixed words. `session.metrics.collect` selects among the
//! [`SESSION_METRICS`] and touches no other.
//!
//! Sums are taken while the cores count on: a scrape is no snapshot, but a histogram agrees with
//! itself, because its count is the sum of the buckets read.
//!
//! Tested below: the body is read back by a strict parser.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use holdfast_config::plan;

use super::exposition::{Exposition, Type};
use crate::control::events::{self, webhook};
use crate::control::process::ProcessFigures;
use crate::control::status::Status;
use crate::event::NAMES;
use crate::metrics::{
    Kind, LATENCY_BOUNDS_US, Metric, PinOutcome, RouteMetrics, TABLE, UpstreamMetrics,
};
use crate::pin::state::UpstreamState;
use crate::setup::Setup;
use crate::shared::Shared;

/// The metrics of a session policy, as `collect` names them.
pub const SESSION_METRICS: [&str; 7] = [
    "active_sessions",
    "session_creates",
    "session_destroys",
    "session_hits",
    "session_misses",
    "affinity_hits",
    "affinity_misses",
];

const STATES: [UpstreamState; 4] = [
    UpstreamState::Ready,
    UpstreamState::Drain,
    UpstreamState::Down,
    UpstreamState::Maint,
];

/// Is `/metrics` served?
pub fn enabled(plan: &plan::Plan) -> bool {
    plan.metrics_endpoint
}

/// The body of `/metrics`.
pub fn body(
    shared: &Shared,
    status: &Status,
    webhook: &webhook::Counts,
    process: &ProcessFigures,
) -> String {
    let plan = &status.setup.plan;
    let collect = plan
        .session
        .as_ref()
        .and_then(|session| session.metrics.collect.as_deref());
    let wanted = |name: &str| {
        let plain = name.strip_suffix("_total").unwrap_or(name);
        !SESSION_METRICS.contains(&plain)
            || collect.is_none_or(|names| names.iter().any(|n| n == plain))
    };
    let mut out = Exposition::new();
    table(&mut out, shared, status, wanted);
    routes(&mut out, &status.setup, wanted);
    upstreams(&mut out, status);
    control(&mut out, shared, status);
    events(&mut out, &status.counts.events, webhook);
    process_figures(&mut out, process);
    out.finish()
}

/// The series of [`TABLE`], those of a name together.
fn table(out: &mut Exposition, shared: &Shared, status: &Status, wanted: impl Fn(&str) -> bool) {
    for definition in TABLE {
        if !wanted(definition.name) {
            continue;
        }
        if !definition.help.is_empty() {
            let kind = match definition.kind {
                Kind::Counter => Type::Counter,
                Kind::Gauge => Type::Gauge,
            };
            out.family(
                &format!("gateway_{}", definition.name),
                kind,
                definition.help,
            );
        }
        if definition.metric == Metric::Turns {
            // Which core stands still is what this is for.
            for (core, metrics) in shared.metrics.iter().enumerate() {
                out.sample(&[("core", &core.to_string())], metrics.get(Metric::Turns));
            }
            continue;
        }
        let sum = shared.metrics.iter().fold(0u64, |sum, core| {
            sum.wrapping_add(core.get(definition.metric))
        });
        // The cores write these gauges once a second; the counts over all cores are exact.
        let live = match definition.metric {
            Metric::SessionsActive => Some(shared.sessions.load(Relaxed) as u64),
            Metric::ConnectionsOpen => Some(shared.connections.load(Relaxed) as u64),
            _ => None,
        };
        if let Some(live) = live {
            out.written(definition.labels, live);
            continue;
        }
        let ours = match definition.metric {
            Metric::LogLinesDropped => status.counts.log_lines_dropped,
            Metric::MeshSpills => status.counts.mesh_spills,
            _ => 0,
        };
        out.written(definition.labels, sum.wrapping_add(ours));
    }
}

/// A counter of one label value, summed over the cores.
fn sum<'a>(counters: impl Iterator<Item = &'a AtomicU64>) -> u64 {
    counters.fold(0, |sum, counter| sum.wrapping_add(counter.load(Relaxed)))
}

fn routes(out: &mut Exposition, setup: &Setup, wanted: impl Fn(&str) -> bool) {
    let plan = &setup.plan;
    let each = |at: usize| {
        setup
            .routes
            .get(at)
            .into_iter()
            .flat_map(|cores| cores.iter())
    };
    let rules = || {
        plan.rules
            .iter()
            .enumerate()
            .map(|(at, rule)| (at, rule.id.as_str()))
    };

    out.family(
        "gateway_requests_total",
        Type::Counter,
        "Responses sent to clients, by route and class of status.",
    );
    for (at, route) in rules() {
        for (class, code) in ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().enumerate() {
            let count = sum(each(at).filter_map(|r: &RouteMetrics| r.classes.get(class)));
            out.sample(&[("route", route), ("code", code)], count);
        }
    }

    out.family(
        "gateway_request_duration_seconds",
        Type::Histogram,
        "Time from a request's head to the last byte of its response.",
    );
    let bounds = LATENCY_BOUNDS_US.map(|us| us as f64 / 1e6);
    for (at, route) in rules() {
        let counts: Vec<u64> = (0..=LATENCY_BOUNDS_US.len())
            .map(|b| sum(each(at).filter_map(|r| r.latency.get(b))))
            .collect();
        let total = sum(each(at).map(|r| &r.latency_sum_us)) as f64 / 1e6;
        out.histogram(&[("route", route)], &bounds, &counts, total);
    }

    let pins = |at, outcome: usize| sum(each(at).filter_map(|r| r.pins.get(outcome)));
    if wanted("affinity_hits_total") {
        out.family(
            "gateway_affinity_hits_total",
            Type::Counter,
            "Requests that went where their pin said.",
        );
        for (at, route) in rules() {
            out.sample(&[("route", route)], pins(at, PinOutcome::Hit as usize));
        }
    }
    if wanted("affinity_misses_total") {
        out.family(
            "gateway_affinity_misses_total",
            Type::Counter,
            "Requests whose pin was presented and not used, by reason.",
        );
        for (at, route) in rules() {
            for (outcome, reason) in PinOutcome::NAMES
                .into_iter()
                .enumerate()
                .skip(PinOutcome::Hit as usize + 1)
            {
                out.sample(&[("route", route), ("reason", reason)], pins(at, outcome));
            }
        }
    }
    out.family(
        "gateway_affinity_first_total",
        Type::Counter,
        "Requests for which an upstream was chosen and pinned.",
    );
    for (at, route) in rules() {
        out.sample(&[("route", route)], pins(at, PinOutcome::First as usize));
    }
}

/// One upstream, with everything that its series need.
struct Row<'a> {
    labels: [(&'a str, &'a str); 2],
    service: usize,
    upstream: usize,
}

fn upstreams(out: &mut Exposition, status: &Status) {
    let setup = &status.setup;
    let rows: Vec<Row<'_>> = setup
        .plan
        .services
        .iter()
        .enumerate()
        .flat_map(|(s, service)| {
            service
                .upstreams
                .iter()
                .enumerate()
                .map(move |(u, upstream)| Row {
                    labels: [("service", &service.name), ("upstream", &upstream.id)],
                    service: s,
                    upstream: u,
                })
        })
        .collect();
    let known = |row: &Row<'_>| {
        status
            .upstreams
            .get(row.service)
            .and_then(|service| service.get(row.upstream))
    };

    let endpoint = |row: &Row<'_>| setup.endpoints.get(row.service)?.get(row.upstream);
    out.family(
        "gateway_upstream_state",
        Type::Gauge,
        "1 for the state that an upstream is in, 0 for the others.",
    );
    for row in &rows {
        for state in STATES {
            let [service, upstream] = row.labels;
            let holds = known(row).is_some_and(|known| known.state == state);
            out.sample(
                &[service, upstream, ("state", state.name())],
                u8::from(holds),
            );
        }
    }
    out.family(
        "gateway_upstream_active",
        Type::Gauge,
        "Exchanges and tunnels in flight with an upstream.",
    );
    for row in &rows {
        let active = endpoint(row).map_or(0, |endpoint| endpoint.active.load(Relaxed));
        out.sample(&row.labels, active);
    }
    let count = |row: &Row<'_>, which: fn(&UpstreamMetrics) -> &AtomicU64| {
        let cores = endpoint(row).into_iter().flat_map(|e| &e.cores);
        sum(cores.map(which))
    };
    out.family(
        "gateway_upstream_requests_total",
        Type::Counter,
        "Exchanges begun with an upstream.",
    );
    for row in &rows {
        out.sample(&row.labels, count(row, |m| &m.requests));
    }
    out.family(
        "gateway_upstream_failures_total",
        Type::Counter,
        "Exchanges with an upstream that failed.",
    );
    for row in &rows {
        out.sample(&row.labels, count(row, |m| &m.failures));
    }
    out.family(
        "gateway_upstream_state_changes_total",
        Type::Counter,
        "Changes of an upstream's state.",
    );
    for row in &rows {
        out.sample(&row.labels, known(row).map_or(0, |known| known.changes));
    }
    out.family(
        "gateway_health_checks_total",
        Type::Counter,
        "Active health checks, by result.",
    );
    for row in &rows {
        let [service, upstream] = row.labels;
        let (passed, failed) =
            known(row).map_or((0, 0), |known| (known.checks_passed, known.checks_failed));
        out.sample(&[service, upstream, ("result", "passed")], passed);
        out.sample(&[service, upstream, ("result", "failed")], failed);
    }
}

/// What the control thread itself knows and counts.
fn control(out: &mut Exposition, shared: &Shared, status: &Status) {
    let counts = &status.counts;
    let mut single = |name: &str, kind, help: &str, value: u64| {
        out.family(name, kind, help);
        out.sample(&[], value);
    };
    use Type::{Counter, Gauge};
    single("gateway_cores", Gauge, "Data cores.", shared.cores as u64);
    single(
        "gateway_cores_ready",
        Gauge,
        "Data cores that listen.",
        count_of(status, |core| core.ready),
    );
    single(
        "gateway_cores_stalled",
        Gauge,
        "Data cores that stand still.",
        count_of(status, |core| core.stalled.is_some()),
    );
    single(
        "gateway_session_bytes",
        Gauge,
        "Bytes of session data held.",
        shared.session_bytes.load(Relaxed),
    );
    single(
        "gateway_access_log_errors_total",
        Counter,
        "Writes and reopenings of the access log that failed.",
        counts.log_errors,
    );
    single(
        "gateway_resolver_errors_total",
        Counter,
        "Look-ups of upstream names that failed.",
        counts.resolver_errors,
    );
    single(
        "gateway_admin_ask_timeouts_total",
        Counter,
        "Questions of the admin endpoint that a core did not answer in time.",
        counts.ask_timeouts,
    );
    single(
        "gateway_admin_asks_refused_total",
        Counter,
        "Questions of the admin endpoint for which there was no room.",
        counts.asks_refused,
    );
    single(
        "gateway_admin_connections_refused_total",
        Counter,
        "Connections to the admin endpoint closed at once because there were too many.",
        counts.admin_refused,
    );
    let reloads = &status.reloads;
    single(
        "gateway_configuration_number",
        Gauge,
        "Configurations that the process has gone by, the first included.",
        status.setup.number,
    );
    single(
        "gateway_reload_last_success_timestamp_seconds",
        Gauge,
        "When the configuration that holds was taken, in seconds since 1970.",
        reloads.at,
    );
    out.family(
        "gateway_reloads_total",
        Counter,
        "Reloads of the configuration, by result.",
    );
    out.sample(&[("result", "ok")], reloads.done);
    out.sample(&[("result", "failed")], reloads.failed);
    out.family(
        "gateway_build_info",
        Gauge,
        "1, with the version as a label.",
    );
    out.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1u8);
}

fn events(out: &mut Exposition, counts: &events::Counts, webhook: &webhook::Counts) {
    use Type::{Counter, Gauge};
    out.family(
        "gateway_events_total",
        Counter,
        "Events of sessions, pins and upstreams, by type.",
    );
    for ((_, name), taken) in NAMES.iter().zip(counts.taken) {
        out.sample(&[("type", name)], taken);
    }
    out.family(
        "gateway_webhook_events_total",
        Counter,
        "Events for the webhook, by what became of them.",
    );
    for (result, count) in [
        ("delivered", &webhook.delivered),
        ("dropped_full", &webhook.full),
        ("dropped_refused", &webhook.refused),
        ("dropped_given_up", &webhook.given_up),
        ("dropped_removed", &webhook.removed),
    ] {
        out.sample(&[("result", result)], count.load(Relaxed));
    }
    let mut single = |name: &str, kind, help: &str, value: u64| {
        out.family(name, kind, help);
        out.sample(&[], value);
    };
    single(
        "gateway_webhook_failures_total",
        Counter,
        "Tries to deliver a batch of events that failed.",
        webhook.failures.load(Relaxed),
    );
    single(
        "gateway_webhook_waiting",
        Gauge,
        "Events that wait for the webhook's receiver.",
        webhook.waiting.load(Relaxed) as u64,
    );
    single(
        "gateway_event_streams",
        Gauge,
        "Streams of events open at the admin endpoint.",
        counts.streams,
    );
    single(
        "gateway_event_streams_ended_total",
        Counter,
        "Streams of events ended because their reader was slow.",
        counts.slow,
    );
    single(
        "gateway_journal_events",
        Gauge,
        "Events kept in the journals of sessions.",
        counts.journal_kept,
    );
    single(
        "gateway_journal_displaced_total",
        Counter,
        "Events that left the journals because of the bound over all sessions.",
        counts.journal_displaced,
    );
}

fn count_of(status: &Status, of: impl Fn(&crate::control::status::CoreStatus) -> bool) -> u64 {
    status.cores.iter().filter(|core| of(core)).count() as u64
}

fn process_figures(out: &mut Exposition, process: &ProcessFigures) {
    let mut one = |name: &str, kind, help: &str, value: Option<String>| {
        if let Some(value) = value {
            out.family(name, kind, help);
            out.sample(&[], value);
        }
    };
    let whole = |value: Option<u64>| value.map(|v| v.to_string());
    let seconds = |value: Option<f64>| value.map(|v| v.to_string());
    use Type::{Counter, Gauge};
    one(
        "process_cpu_seconds_total",
        Counter,
        "User and system time of the process in seconds.",
        seconds(process.cpu_seconds),
    );
    one(
        "process_resident_memory_bytes",
        Gauge,
        "Resident memory in bytes.",
        whole(process.resident_bytes),
    );
    one(
        "process_virtual_memory_bytes",
        Gauge,
        "Address space in bytes.",
        whole(process.virtual_bytes),
    );
    one(
        "process_open_fds",
        Gauge,
        "Open file descriptors.",
        whole(process.open_fds),
    );
    one(
        "process_max_fds",
        Gauge,
        "Limit of open file descriptors.",
        whole(process.max_fds),
    );
    one(
        "process_threads",
        Gauge,
        "Threads of the process.",
        whole(process.threads),
    );
    one(
        "process_start_time_seconds",
        Gauge,
        "Start of the process in seconds since 1970.",
        seconds(process.start_seconds),
    );
}
