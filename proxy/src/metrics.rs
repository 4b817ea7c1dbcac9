//! Counters: THE table of metric names, and the blocks that hold their values.
//!
//! Owns one [`CoreMetrics`] a data core, and the shape of those of routes and upstreams. Its core alone writes it, with a relaxed load and store
//! (no locked instruction); the control thread reads all of them and sums.
//!
//! Invariants: a counter never goes down; a gauge is written whole by its core; labels are bounded by
//! the configuration (routes, services, upstreams) and by the fixed reasons of the table, never by
//! what a client sends. It deliberately knows no text format: that is `control`'s.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counter or gauge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; its name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// One time series of a core that has no labels from the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Definition {
    /// Which.
    pub metric: Metric,
    /// Name without the `gateway_` prefix.
    pub name: &'static str,
    /// Fixed labels, such as `reason="expired"`; empty for none.
    pub labels: &'static str,
    /// What it counts.
    pub help: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
}

/// Index of a series in a [`CoreMetrics`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
#[allow(missing_docs, reason = "TABLE says what each is")]
pub enum Metric {
    ConnectionsAccepted,
    ConnectionsRefused,
    ConnectionsOpen,
    ConnectionsParked,
    AcceptErrors,
    Http2Connections,
    Http2Streams,
    Http2Resets,
    Http2Continuations,
    Http2Settings,
    Http2Pings,
    Http2Empty,
    Http2Windows,
    Http2Unknown,
    Http2Calm,
    Http2Protocol,
    Http2Stalls,
    ProxyHeaders,
    ProxyHeadersMalformed,
    ProxyHeadersLate,
    TlsHandshakes,
    TlsResumed,
    TlsPlainHttp,
    TlsGarbage,
    TlsTimeouts,
    TlsClosed,
    TlsAlerts,
    TlsCertificates,
    TlsProtocol,
    TlsIo,
    RefusedMalformed,
    RefusedTooLarge,
    RefusedTimeout,
    RefusedUnrouted,
    RefusedMethod,
    RefusedToken,
    RefusedGuessing,
    RefusedMismatch,
    RefusedTrust,
    RefusedOverload,
    RefusedSubject,
    RefusedOrigin,
    RefusedWebsocket,
    ClientAborted,
    SlowReaders,
    UpstreamConnectErrors,
    UpstreamTlsErrors,
    UpstreamExhausted,
    UpstreamTimeouts,
    UpstreamResets,
    UpstreamMalformed,
    UpstreamTruncated,
    UpstreamUnavailable,
    UpstreamConnects,
    UpstreamTlsResumed,
    UpstreamReused,
    UpstreamStale,
    UpstreamIdle,
    Retries,
    QueueWaits,
    QueueTimeouts,
    Tunnels,
    SocketsOpen,
    SocketsEnded,
    BytesFromClients,
    BytesToClients,
    SessionsActive,
    SessionCreates,
    SessionDestroys,
    SessionExpirations,
    SessionEvictions,
    SessionHits,
    MissMalformed,
    MissForged,
    MissUnknown,
    MissExpired,
    MissDestroyed,
    MissRetired,
    MissSecret,
    MissKind,
    MissSubject,
    MissDoubled,
    MissInsecure,
    MissMismatch,
    MismatchIp,
    MismatchUserAgent,
    MismatchFingerprint,
    MismatchTenant,
    SubjectLimited,
    SecretReuses,
    SecretsRotated,
    CreatesLimited,
    CreatesUndeliverable,
    CreatesRejected,
    SetsDropped,
    SetsTooLarge,
    SetsConflict,
    SetsMalformed,
    ControlDenied,
    DataOmitted,
    JwtVerified,
    JwtRemembered,
    JwtMalformed,
    JwtAlgorithm,
    JwtKey,
    JwtSignature,
    JwtExpired,
    JwtEarly,
    JwtIssuer,
    JwtAudience,
    AttributeHeaders,
    AttributesTooLarge,
    ComputedFailed,
    ForeignSetCookie,
    ForeignTokens,
    CreatesByMost,
    InsecureRequests,
    UntrustedForwarded,
    TombstonesDropped,
    PinsTable,
    PinsEvicted,
    ConnectionsMoved,
    ConnectionsStayed,
    CrossedCores,
    MeshSpills,
    MeshRefused,
    Panics,
    LogLines,
    LogLinesDropped,
    EventsDropped,
    GenerationsOld,
    Turns,
}

const fn counter(
    metric: Metric,
    name: &'static str,
    labels: &'static str,
    help: &'static str,
) -> Definition {
    Definition {
        metric,
        name,
        labels,
        help,
        kind: Kind::Counter,
    }
}

const fn gauge(
    metric: Metric,
    name: &'static str,
    labels: &'static str,
    help: &'static str,
) -> Definition {
    Definition {
        metric,
        name,
        labels,
        help,
        kind: Kind::Gauge,
    }
}

/// Every series, in the order of [`Metric`]. Series of one name stand together.
#[rustfmt::skip]
pub const TABLE: &[Definition] = &[
    counter(Metric::ConnectionsAccepted, "connections_accepted_total", "", "Client connections accepted."),
    counter(Metric::ConnectionsRefused, "connections_refused_total", "", "Client connections closed at once because runtime.maxConnections was reached."),
    gauge(Metric::ConnectionsOpen, "connections_open", "", "Client connections open now, parked ones included."),
    gauge(Metric::ConnectionsParked, "connections_parked", "", "Client connections that wait, idle, in the parking lot."),
    counter(Metric::AcceptErrors, "accept_errors_total", "", "Failures of accept, such as too many open files."),
    counter(Metric::Http2Connections, "http2_connections_total", "", "Client connections that spoke HTTP/2."),
    counter(Metric::Http2Streams, "http2_streams_total", "", "Streams that clients opened."),
    counter(Metric::Http2Resets, "http2_connections_ended_total", "reason=\"resets\"", "HTTP/2 connections that the gateway ended for what their client did, by reason."),
    counter(Metric::Http2Continuations, "http2_connections_ended_total", "reason=\"continuations\"", ""),
    counter(Metric::Http2Settings, "http2_connections_ended_total", "reason=\"settings\"", ""),
    counter(Metric::Http2Pings, "http2_connections_ended_total", "reason=\"pings\"", ""),
    counter(Metric::Http2Empty, "http2_connections_ended_total", "reason=\"empty\"", ""),
    counter(Metric::Http2Windows, "http2_connections_ended_total", "reason=\"windows\"", ""),
    counter(Metric::Http2Unknown, "http2_connections_ended_total", "reason=\"unknown\"", ""),
    counter(Metric::Http2Calm, "http2_connections_ended_total", "reason=\"calm\"", ""),
    counter(Metric::Http2Protocol, "http2_connections_ended_total", "reason=\"protocol\"", ""),
    counter(Metric::Http2Stalls, "http2_stalls_total", "", "Streams reset because their client gave no window in time."),
    counter(Metric::ProxyHeaders, "proxy_headers_total", "", "PROXY headers taken."),
    counter(Metric::ProxyHeadersMalformed, "proxy_headers_refused_total", "reason=\"malformed\"", "Connections closed because no good PROXY header came first, by reason."),
    counter(Metric::ProxyHeadersLate, "proxy_headers_refused_total", "reason=\"timeout\"", ""),
    counter(Metric::TlsHandshakes, "tls_handshakes_total", "kind=\"full\"", "TLS handshakes of clients that went well."),
    counter(Metric::TlsResumed, "tls_handshakes_total", "kind=\"resumed\"", ""),
    counter(Metric::TlsPlainHttp, "tls_handshake_failures_total", "reason=\"plain_http\"", "TLS handshakes of clients that failed, by reason."),
    counter(Metric::TlsGarbage, "tls_handshake_failures_total", "reason=\"not_tls\"", ""),
    counter(Metric::TlsTimeouts, "tls_handshake_failures_total", "reason=\"timeout\"", ""),
    counter(Metric::TlsClosed, "tls_handshake_failures_total", "reason=\"closed\"", ""),
    counter(Metric::TlsAlerts, "tls_handshake_failures_total", "reason=\"alert\"", ""),
    counter(Metric::TlsCertificates, "tls_handshake_failures_total", "reason=\"certificate\"", ""),
    counter(Metric::TlsProtocol, "tls_handshake_failures_total", "reason=\"protocol\"", ""),
    counter(Metric::TlsIo, "tls_handshake_failures_total", "reason=\"io\"", ""),
    counter(Metric::RefusedMalformed, "requests_refused_total", "reason=\"malformed\"", "Requests answered by the gateway itself with an error, by reason."),
    counter(Metric::RefusedTooLarge, "requests_refused_total", "reason=\"too_large\"", ""),
    counter(Metric::RefusedTimeout, "requests_refused_total", "reason=\"timeout\"", ""),
    counter(Metric::RefusedUnrouted, "requests_refused_total", "reason=\"unrouted\"", ""),
    counter(Metric::RefusedMethod, "requests_refused_total", "reason=\"method\"", ""),
    counter(Metric::RefusedToken, "requests_refused_total", "reason=\"token\"", ""),
    counter(Metric::RefusedGuessing, "requests_refused_total", "reason=\"guess_limit\"", ""),
    counter(Metric::RefusedMismatch, "requests_refused_total", "reason=\"validation\"", ""),
    counter(Metric::RefusedTrust, "requests_refused_total", "reason=\"client_certificate\"", ""),
    counter(Metric::RefusedOverload, "requests_refused_total", "reason=\"overload\"", ""),
    counter(Metric::RefusedSubject, "requests_refused_total", "reason=\"sessions_per_subject\"", ""),
    counter(Metric::RefusedOrigin, "requests_refused_total", "reason=\"origin\"", ""),
    counter(Metric::RefusedWebsocket, "requests_refused_total", "reason=\"websocket\"", ""),
    counter(Metric::ClientAborted, "client_aborts_total", "", "Exchanges that ended because the client went away."),
    counter(Metric::SlowReaders, "slow_readers_total", "", "Clients ended because they took an answer more slowly than limits.minBodyRate, or not at all."),
    counter(Metric::UpstreamConnectErrors, "upstream_errors_total", "reason=\"connect\"", "Failed exchanges with upstreams, by reason."),
    counter(Metric::UpstreamTlsErrors, "upstream_errors_total", "reason=\"tls\"", ""),
    counter(Metric::UpstreamExhausted, "upstream_errors_total", "reason=\"exhausted\"", ""),
    counter(Metric::UpstreamTimeouts, "upstream_errors_total", "reason=\"timeout\"", ""),
    counter(Metric::UpstreamResets, "upstream_errors_total", "reason=\"reset\"", ""),
    counter(Metric::UpstreamMalformed, "upstream_errors_total", "reason=\"malformed\"", ""),
    counter(Metric::UpstreamTruncated, "upstream_errors_total", "reason=\"truncated\"", ""),
    counter(Metric::UpstreamUnavailable, "upstream_errors_total", "reason=\"unavailable\"", ""),
    counter(Metric::UpstreamConnects, "upstream_connects_total", "", "New connections to upstreams."),
    counter(Metric::UpstreamTlsResumed, "upstream_tls_resumed_total", "", "New connections to upstreams that resumed an earlier TLS session."),
    counter(Metric::UpstreamReused, "upstream_reuses_total", "", "Exchanges over a kept upstream connection."),
    counter(Metric::UpstreamStale, "upstream_stale_total", "", "Kept upstream connections found closed when they were to be used."),
    gauge(Metric::UpstreamIdle, "upstream_idle_connections", "", "Idle upstream connections kept."),
    counter(Metric::Retries, "upstream_retries_total", "", "Requests tried again."),
    counter(Metric::QueueWaits, "queue_waits_total", "", "Requests that waited for a place under connections.max."),
    counter(Metric::QueueTimeouts, "queue_timeouts_total", "", "Requests whose wait ended without a place."),
    counter(Metric::Tunnels, "tunnels_total", "", "Connections upgraded to a tunnel."),
    gauge(Metric::SocketsOpen, "session_sockets", "", "Tunnels, WebSockets above all, that belong to sessions."),
    counter(Metric::SocketsEnded, "session_sockets_ended_total", "", "Such tunnels closed because their session ended."),
    counter(Metric::BytesFromClients, "client_bytes_total", "direction=\"in\"", "Bytes read from and written to clients."),
    counter(Metric::BytesToClients, "client_bytes_total", "direction=\"out\"", ""),
    gauge(Metric::SessionsActive, "active_sessions", "role=\"owned\"", "Sessions held."),
    counter(Metric::SessionCreates, "session_creates_total", "", "Sessions created."),
    counter(Metric::SessionDestroys, "session_destroys_total", "", "Sessions destroyed on demand."),
    counter(Metric::SessionExpirations, "session_expirations_total", "", "Sessions that expired."),
    counter(Metric::SessionEvictions, "session_evictions_total", "", "Sessions evicted to stay within a bound."),
    counter(Metric::SessionHits, "session_hits_total", "", "Requests with a valid token."),
    counter(Metric::MissMalformed, "session_misses_total", "reason=\"malformed\"", "Requests with a token that was not valid, by reason."),
    counter(Metric::MissForged, "session_misses_total", "reason=\"signature\"", ""),
    counter(Metric::MissUnknown, "session_misses_total", "reason=\"unknown\"", ""),
    counter(Metric::MissExpired, "session_misses_total", "reason=\"expired\"", ""),
    counter(Metric::MissDestroyed, "session_misses_total", "reason=\"destroyed\"", ""),
    counter(Metric::MissRetired, "session_misses_total", "reason=\"retired\"", ""),
    counter(Metric::MissSecret, "session_misses_total", "reason=\"secret\"", ""),
    counter(Metric::MissKind, "session_misses_total", "reason=\"kind\"", ""),
    counter(Metric::MissSubject, "session_misses_total", "reason=\"subject\"", ""),
    counter(Metric::MissDoubled, "session_misses_total", "reason=\"doubled\"", ""),
    counter(Metric::MissInsecure, "session_misses_total", "reason=\"insecure\"", ""),
    counter(Metric::MissMismatch, "session_misses_total", "reason=\"validation\"", ""),
    counter(Metric::MismatchIp, "session_validation_failures_total", "check=\"ip\"", "Requests whose client looked like another than their session's, by check."),
    counter(Metric::MismatchUserAgent, "session_validation_failures_total", "check=\"userAgent\"", ""),
    counter(Metric::MismatchFingerprint, "session_validation_failures_total", "check=\"fingerprint\"", ""),
    counter(Metric::MismatchTenant, "session_validation_failures_total", "check=\"tenant\"", ""),
    counter(Metric::SubjectLimited, "session_subject_limit_total", "", "Sessions destroyed because their subject had more than limits.sessionsPerSubject.max."),
    counter(Metric::SecretReuses, "session_reuses_total", "", "Requests with a secret that was retired."),
    counter(Metric::SecretsRotated, "session_rotations_total", "", "Secrets of sessions exchanged for new ones."),
    counter(Metric::CreatesLimited, "session_creates_refused_total", "reason=\"limit\"", "Sessions not created, by reason."),
    counter(Metric::CreatesUndeliverable, "session_creates_refused_total", "reason=\"undeliverable\"", ""),
    counter(Metric::CreatesRejected, "session_creates_refused_total", "reason=\"full\"", ""),
    counter(Metric::SetsDropped, "session_writes_refused_total", "reason=\"field\"", "Writes of session data that were not carried out, by reason."),
    counter(Metric::SetsTooLarge, "session_writes_refused_total", "reason=\"size\"", ""),
    counter(Metric::SetsConflict, "session_writes_refused_total", "reason=\"version\"", ""),
    counter(Metric::SetsMalformed, "session_writes_refused_total", "reason=\"malformed\"", ""),
    counter(Metric::ControlDenied, "session_writes_refused_total", "reason=\"control\"", ""),
    counter(Metric::DataOmitted, "session_data_omitted_total", "", "Requests whose X-Session-Data was left out for its size."),
    counter(Metric::JwtVerified, "jwt_verified_total", "by=\"signature\"", "Good JSON Web Tokens: by a signature verified now, or one that this core remembers."),
    counter(Metric::JwtRemembered, "jwt_verified_total", "by=\"memory\"", ""),
    counter(Metric::JwtMalformed, "jwt_refused_total", "reason=\"malformed\"", "JSON Web Tokens that were not good, by reason."),
    counter(Metric::JwtAlgorithm, "jwt_refused_total", "reason=\"algorithm\"", ""),
    counter(Metric::JwtKey, "jwt_refused_total", "reason=\"key\"", ""),
    counter(Metric::JwtSignature, "jwt_refused_total", "reason=\"signature\"", ""),
    counter(Metric::JwtExpired, "jwt_refused_total", "reason=\"expired\"", ""),
    counter(Metric::JwtEarly, "jwt_refused_total", "reason=\"early\"", ""),
    counter(Metric::JwtIssuer, "jwt_refused_total", "reason=\"issuer\"", ""),
    counter(Metric::JwtAudience, "jwt_refused_total", "reason=\"audience\"", ""),
    counter(Metric::AttributeHeaders, "session_attributes_refused_total", "reason=\"header\"", "Attributes that a request would have given its session and did not, by reason."),
    counter(Metric::AttributesTooLarge, "session_attributes_refused_total", "reason=\"size\"", ""),
    counter(Metric::ComputedFailed, "session_computed_failed_total", "", "Computed attributes left out because their expression failed."),
    counter(Metric::ForeignSetCookie, "upstream_set_cookies_dropped_total", "", "Set-Cookie lines of upstreams that used a name of the gateway's own cookies."),
    counter(Metric::ForeignTokens, "session_foreign_tokens_total", "", "Tokens of another instance that is not known here, though sessions are shared with none."),
    counter(Metric::CreatesByMost, "session_creates_by_one_address_total", "", "Sessions made by an address that then held over half of 1,000 or more."),
    counter(Metric::InsecureRequests, "insecure_requests_total", "", "Requests over plain HTTP where the session cookie is secure."),
    counter(Metric::UntrustedForwarded, "untrusted_forwarded_total", "", "Requests with X-Forwarded-For from a peer that is not in trustedProxies."),
    counter(Metric::TombstonesDropped, "tombstones_dropped_total", "", "Tombstones given up early because their table was full."),
    gauge(Metric::PinsTable, "pins", "", "Pins held in the table."),
    counter(Metric::PinsEvicted, "pins_evicted_total", "", "Pins given up because the table was full."),
    counter(Metric::ConnectionsMoved, "connections_moved_total", "", "Client connections that moved to the core that owns their session."),
    counter(Metric::ConnectionsStayed, "connections_not_moved_total", "", "Client connections that did not move because the owner of their session had over 1.5 times its share."),
    counter(Metric::CrossedCores, "requests_crossed_cores_total", "", "Requests that asked another core's shard."),
    counter(Metric::MeshSpills, "mesh_spills_total", "", "Messages that found their ring full and waited."),
    counter(Metric::MeshRefused, "mesh_refused_total", "", "What was not done because messages to another thread had piled up: requests answered with 503, connections that did not move, outcomes of exchanges that were not told."),
    counter(Metric::Panics, "panics_total", "", "Connections, or streams of HTTP/2, closed for a fault of the gateway's own."),
    counter(Metric::LogLines, "access_log_lines_total", "", "Lines of the access log."),
    counter(Metric::LogLinesDropped, "access_log_lines_dropped_total", "", "Lines of the access log given up because the writer was behind."),
    counter(Metric::EventsDropped, "events_dropped_total", "", "Events given up because their queue was full."),
    gauge(Metric::GenerationsOld, "configurations_old", "", "Former configurations that requests or tunnels still go by, summed over the cores."),
    counter(Metric::Turns, "core_seconds_total", "", "Sweeps of the core, one a second: a core that does not count is stalled."),
];

/// How a pin went; the label of a route's affinity counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
#[allow(missing_docs, reason = "NAMES says what each is")]
pub enum PinOutcome {
    /// No affinity, or a first choice: neither hit nor miss.
    None,
    First,
    Hit,
    Undecodable,
    Forged,
    Expired,
    NoSuchUpstream,
    Future,
    Unavailable,
}

impl PinOutcome {
    /// How many there are.
    pub const COUNT: usize = 9;
    /// What each is called in labels and in the access log.
    pub const NAMES: [&'static str; Self::COUNT] = [
        "none",
        "first",
        "hit",
        "undecodable",
        "forged",
        "expired",
        "no_such_upstream",
        "future",
        "unavailable",
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// Bucket bounds of the latency histogram, in microseconds; one more bucket holds the rest.
pub const LATENCY_BOUNDS_US: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000,
];

/// Counters of one route on one core. Aligned as [`CoreMetrics`] is.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct RouteMetrics {
    /// Responses by class: 1xx (101 only) to 5xx.
    pub classes: [AtomicU64; 5],
    /// Pins by outcome.
    pub pins: [AtomicU64; PinOutcome::COUNT],
    /// Time from the request's head to the response's last byte, cumulative by [`LATENCY_BOUNDS_US`] only when read.
    pub latency: [AtomicU64; LATENCY_BOUNDS_US.len() + 1],
    /// Sum of those times, in microseconds.
    pub latency_sum_us: AtomicU64,
}

/// Counters of one upstream on one core. Aligned as [`CoreMetrics`] is.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct UpstreamMetrics {
    /// Exchanges begun.
    pub requests: AtomicU64,
    /// Exchanges that failed.
    pub failures: AtomicU64,
}

const SERIES: usize = Metric::Turns as usize + 1;

/// One core's block. Aligned so that two cores never share a cache line.
#[derive(Debug)]
#[repr(align(128))]
pub struct CoreMetrics {
    series: [AtomicU64; SERIES],
}

/// Adds to a counter that only this thread writes.
#[inline]
pub fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(by), Relaxed);
}

impl Default for CoreMetrics {
    /// Zeros.
    fn default() -> Self {
        Self {
            series: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

impl CoreMetrics {
    /// Counts one.
    #[inline]
    pub fn count(&self, metric: Metric) {
        bump(&self.series[metric as usize], 1);
    }

    /// Counts several.
    #[inline]
    pub fn add(&self, metric: Metric, by: u64) {
        bump(&self.series[metric as usize], by);
    }

    /// Sets a gauge, or a counter kept elsewhere.
    #[inline]
    pub fn set(&self, metric: Metric, value: u64) {
        self.series[metric as usize].store(value, Relaxed);
    }

    /// Lowers a gauge by one.
    #[inline]
    pub fn lower(&self, metric: Metric) {
        bump(&self.series[metric as usize], u64::MAX);
    }

    /// Its value now.
    pub fn get(&self, metric: Metric) -> u64 {
        self.series[metric as usize].load(Relaxed)
    }
}

impl RouteMetrics {
    /// Counts a finished exchange.
    #[inline]
    pub fn finished(&self, status: u16, took_us: u64) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        bump(&self.classes[class], 1);
        let bucket = LATENCY_BOUNDS_US.partition_point(|&bound| bound < took_us);
        bump(&self.latency[bucket], 1);
        bump(&self.latency_sum_us, took_us);
    }

    /// Counts how the pin went.
    #[inline]
    pub fn pinned(&self, outcome: PinOutcome) {
        bump(&self.pins[outcome as usize], 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_enum() {
        for (i, definition) in TABLE.iter().enumerate() {
            assert_eq!(definition.metric as usize, i, "{}", definition.name);
        }
        assert_eq!(Metric::Turns as usize + 1, TABLE.len());
    }

    #[test]
    fn counters_end_in_total_and_first_series_have_help() {
        let mut last = "";
        for d in TABLE {
            assert_eq!(
                d.name.ends_with("_total"),
                d.kind == Kind::Counter,
                "{}",
                d.name
            );
            assert_eq!(
                d.help.is_empty(),
                d.name == last,
                "{}: help stands with the first series of a name",
                d.name
            );
            last = d.name;
        }
    }

    #[test]
    fn a_finished_exchange_lands_in_its_bucket() {
        let route = RouteMetrics::default();
        route.finished(204, 100);
        route.finished(503, 101);
        route.finished(999, 99_000_000);
        assert_eq!(route.latency[0].load(Relaxed), 1);
        assert_eq!(route.latency[1].load(Relaxed), 1);
        assert_eq!(route.latency[LATENCY_BOUNDS_US.len()].load(Relaxed), 1);
        assert_eq!(route.classes[1].load(Relaxed), 1);
        assert_eq!(route.classes[4].load(Relaxed), 2);
    }
}
