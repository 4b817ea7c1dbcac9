//! The plan: what a valid configuration means, typed, with every default filled in.
//!
//! Only [`crate::load`] makes a [`Plan`], and only from a configuration without errors: who holds
//! one needs to check nothing again. A plan is immutable and is shared by all threads behind an
//! `Arc`. It holds no positions and no text of the file.

mod session;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use session::*;

/// A value that must never be printed: its `Debug` shows only that it is there.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Everything that `run` needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// This instance's name; the host name by default.
    pub node: String,
    /// Where clients are served.
    pub listeners: Vec<Listener>,
    /// The administration endpoint; `None` turns it off.
    pub admin: Option<Admin>,
    /// Threads and rings.
    pub runtime: Runtime,
    /// Bounds on requests and connections.
    pub limits: Limits,
    /// Services by position: [`Rule::service`] indexes here.
    pub services: Vec<Service>,
    /// Rules, longest path first (ties: more specific `host`/`methods` first, then file order).
    /// Never empty when `services` is not: without rules in the file, one rule sends all to the only service.
    pub rules: Vec<Rule>,
    /// The JSON Web Token source of `session.attributes.fromAuth`.
    pub jwt: Option<Jwt>,
    /// The access log, if any.
    pub access_log: Option<AccessLog>,
    /// How the process ends.
    pub shutdown: Shutdown,
    /// Sessions; `None` where `session` is absent or `enabled: false`.
    pub session: Option<Session>,
    /// WebSocket policy.
    pub websocket: WebSocket,
    /// `/metrics` is served: `session.metrics.enabled`, also where sessions are off.
    pub metrics_endpoint: bool,
    /// What was written, as JSON: secrets masked, variables by their names.
    pub written: serde_json::Value,
}

/// One listening address.
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// Address and port; port 0 lets the kernel choose.
    pub address: SocketAddr,
    /// Certificates, if TLS ends here; the first is for names that none has.
    pub tls: Vec<Certificate>,
    /// The rest of `tls`.
    pub tls_options: TlsOptions,
    /// PROXY protocol required on every connection.
    pub proxy_protocol: bool,
    /// Peers whose forwarding headers are believed.
    pub trusted_proxies: Vec<Cidr>,
    /// `/..%2F..` and the like forwarded as they are (`pathPolicy: raw`).
    pub raw_paths: bool,
}

/// Certificate and key files of one listener.
#[derive(Debug, Clone, PartialEq)]
pub struct Certificate {
    /// PEM chain.
    pub certificate: PathBuf,
    /// PEM key.
    pub key: PathBuf,
    /// DER of an OCSP response that goes along.
    pub ocsp: Option<PathBuf>,
}

/// What holds for all certificates of a listener.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// `minVersion` is 1.3.
    pub only_13: bool,
    /// `clientCa`: PEM of the authorities that sign clients' certificates.
    pub client_ca: Option<PathBuf>,
    /// `clientAuth: optional`: a client may come without a certificate.
    pub client_optional: bool,
    /// `hsts`: `max-age` of Strict-Transport-Security.
    pub hsts: Option<Duration>,
}

/// An address block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    /// Network address, host bits zero. IPv4-mapped IPv6 is stored as IPv4.
    pub network: IpAddr,
    /// Prefix length in bits.
    pub prefix: u8,
}

impl Cidr {
    /// Is `ip` inside? An IPv4-mapped IPv6 address counts as IPv4.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.network, ip.to_canonical()) {
            (IpAddr::V4(n), IpAddr::V4(a)) => {
                let shift = 32 - u32::from(self.prefix.min(32));
                shift == 32 || (u32::from(n) >> shift) == (u32::from(a) >> shift)
            }
            (IpAddr::V6(n), IpAddr::V6(a)) => {
                let shift = 128 - u32::from(self.prefix.min(128));
                shift == 128 || (u128::from(n) >> shift) == (u128::from(a) >> shift)
            }
            _ => false,
        }
    }
}

/// `gateway.admin`.
#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    /// Where it listens.
    pub address: SocketAddr,
    /// Bearer token; required unless the address is loopback.
    pub token: Option<Secret>,
}

/// `gateway.runtime`.
#[derive(Debug, Clone, PartialEq)]
pub struct Runtime {
    /// `auto`, a count, or a list.
    pub cores: Cores,
    /// CPU of the replication core; `None` is `auto`.
    pub replication_cpu: Option<usize>,
    /// Default ring of every core.
    pub ring: Ring,
    /// A new connection goes to the core that is pinned to the CPU which it came by, instead of one by a
    /// hash of its addresses.
    pub steer_by_cpu: bool,
    /// How long a core spins for completions before it sleeps; zero is off.
    pub busy_poll: Duration,
    /// Client connections of the instance.
    pub max_connections: usize,
    /// Connections go home to the owner of their session (spec 9).
    pub migrate_connections: bool,
}

/// `runtime.cores`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cores {
    /// The CPUs of the affinity mask and cgroup quota.
    Auto,
    /// So many, on the CPUs of the mask in turn.
    Count(usize),
    /// These, in this order.
    List(Vec<CoreSpec>),
}

/// One core of a list, with what it overrides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoreSpec {
    /// CPU number.
    pub cpu: usize,
    /// Its ring (the defaults with its overrides).
    pub ring: Ring,
    /// Its spin time.
    pub busy_poll: Duration,
}

/// `runtime.ring`. `Option` flags: `Some` was written by the user and must hold or be an error; `None` is
/// the default (on for all but `sqpoll`), which may fall away on an old kernel with a warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ring {
    /// Submission queue entries; a power of two.
    pub entries: u32,
    /// Whether `entries` was written by the user.
    pub entries_explicit: bool,
    /// IORING_SETUP_COOP_TASKRUN.
    pub coop_taskrun: Option<bool>,
    /// IORING_SETUP_SINGLE_ISSUER.
    pub single_issuer: Option<bool>,
    /// IORING_SETUP_DEFER_TASKRUN.
    pub defer_taskrun: Option<bool>,
    /// IORING_SETUP_SQPOLL.
    pub sqpoll: Option<bool>,
}

/// `gateway.limits`. Zero is "no bound" for `body_bytes`, `min_body_rate` and the durations.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "each is the key of the same name")]
pub struct Limits {
    pub header_bytes: usize,
    pub headers: usize,
    pub uri_bytes: usize,
    pub body_bytes: u64,
    pub header_timeout: Duration,
    pub idle_timeout: Duration,
    pub response_timeout: Duration,
    pub tunnel_timeout: Duration,
    pub body_timeout: Duration,
    /// Bytes a second over any 10 s.
    pub min_body_rate: u64,
    /// `http2`.
    pub http2: Http2Limits,
}

/// `limits.http2`: bounds on a client's HTTP/2 connection.
#[derive(Debug, Clone, PartialEq)]
pub struct Http2Limits {
    /// `maxStreams`: at once.
    pub max_streams: u32,
    /// `maxResets`: streams that the client resets, in any 10 s; zero: no bound.
    pub max_resets: u32,
    /// `maxControlFrames`: of each kind of frame without content, in any 10 s; zero: no bound.
    pub max_control_frames: u32,
}

/// One of `gateway.services`.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// `name`.
    pub name: String,
    /// `loadBalancing`.
    pub balancing: Balancing,
    /// Never empty.
    pub upstreams: Vec<Upstream>,
    /// `healthCheck`, if any.
    pub health: Option<HealthCheck>,
    /// `passiveHealth`, if any.
    pub passive: Option<PassiveHealth>,
    /// `connections`.
    pub connections: Connections,
    /// `retry`.
    pub retry: Retry,
    /// `control`.
    pub control: Control,
    /// `tls` towards the upstream, if any.
    pub tls: Option<UpstreamTls>,
    /// `drainTimeout`: pinned clients of a draining upstream are moved after this; zero: never.
    pub drain_timeout: Duration,
    /// `drainRate`: pins a second that a draining upstream gives up; zero: none.
    pub drain_rate: u32,
    /// `queueTimeout`: how long a request waits for a place under `connections.max`.
    pub queue_timeout: Duration,
    /// `protocol`.
    pub protocol: Protocol,
    /// PROXY v2 header sent to upstreams.
    pub proxy_protocol: bool,
}

/// `services[].protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge (or ALPN).
    H2,
}

/// `loadBalancing`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the value of the same name")]
pub enum Balancing {
    RoundRobin,
    LeastConnections,
    RandomTwo,
    ConsistentHash,
}

/// One backend server.
#[derive(Debug, Clone, PartialEq)]
pub struct Upstream {
    /// Configured, or derived from the address. Unique within its service.
    pub id: String,
    /// Where it is.
    pub address: UpstreamAddress,
    /// Share of new clients; 0 gets none (but keeps pins).
    pub weight: u32,
    /// Used only while no other is usable.
    pub backup: bool,
}

/// Where an upstream is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamAddress {
    /// A literal address.
    Ip(SocketAddr),
    /// A DNS name and port, resolved by the control thread and again every 10 s (or its TTL).
    Name(String, u16),
    /// A unix stream socket.
    Unix(PathBuf),
}

/// `healthCheck`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the key of the same name")]
pub struct HealthCheck {
    pub path: String,
    pub interval: Duration,
    pub timeout: Duration,
    pub healthy: u32,
    pub unhealthy: u32,
}

/// `passiveHealth`.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "each is the key of the same name")]
pub struct PassiveHealth {
    pub failures: u32,
    pub window: Duration,
    pub eject: Duration,
}

/// `connections`.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "each is the key of the same name")]
pub struct Connections {
    pub connect_timeout: Duration,
    pub idle_timeout: Duration,
    pub max_idle_per_core: usize,
    /// Connections an upstream over all cores; 0 is no bound.
    pub max: u32,
}

/// `retry`.
#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// Tries in all, the first included; 1 is no retry.
    pub attempts: u32,
    /// A request with a longer body is not tried again.
    pub body_bytes: usize,
}

/// What a service's responses may do to sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the value of the same name")]
pub struct Control {
    pub create: bool,
    pub set: bool,
    pub authenticate: bool,
    pub rotate: bool,
    pub destroy: bool,
}

/// `services[].tls`.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "each is the key of the same name")]
pub struct UpstreamTls {
    pub server_name: Option<String>,
    pub ca: Option<PathBuf>,
    /// A certificate of ours; with `key`, or neither.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// One routing rule, with the affinity that holds for it (the router's, overridden key by key).
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// `id`, else `rule-N` by position in the file.
    pub id: String,
    /// The path without its `/*`: `/chat` for `/chat/*`. `/` for a rule that matches all.
    pub path: String,
    /// `/chat/*` (and everything below) against exactly `/chat`.
    pub prefix: bool,
    /// `host`, lower case, without port; `*.example.com` is kept with its star.
    pub host: Option<String>,
    /// Upper-case methods; empty is all.
    pub methods: Vec<String>,
    /// Index into [`Plan::services`].
    pub service: usize,
    /// `None` where affinity is off.
    pub affinity: Option<Affinity>,
}

/// `sessionAffinity`.
#[derive(Debug, Clone, PartialEq)]
pub struct Affinity {
    /// Tried in order.
    pub methods: Vec<AffinityMethod>,
    /// The pin cookie.
    pub cookie: PinCookie,
    /// How a cookie names its upstream.
    pub encoding: PinEncoding,
    /// Idle life of a pin; zero is for ever (a table pin then lives 24 h).
    pub duration: Duration,
    /// Absolute life of a cookie pin; zero is for ever.
    pub max_life: Duration,
    /// What chooses where no pin does; `None`: the service's `loadBalancing`.
    pub algorithm: Option<Algorithm>,
    /// What a pin to a `down` or `maint` upstream does.
    pub on_unavailable: OnUnavailable,
}

/// A place where a pin is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AffinityMethod {
    /// At the client.
    Cookie,
    /// In the table, by client address (IPv6 by /64).
    SourceIp,
    /// In the table, by this request header (lower case).
    Header(String),
    /// In the table, by sid.
    Session,
}

/// `sessionAffinity.cookie`.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "each is the key of the same name")]
pub struct PinCookie {
    pub name: String,
    pub path: String,
    pub domain: Option<String>,
    /// Seconds of Max-Age; 0: a cookie of the browser session.
    pub max_age: u64,
    pub secure: bool,
    pub same_site: SameSite,
    /// `cookie.key`, else the session encryption key, to be used only as input of a key derivation;
    /// `None`: random a process.
    pub key: Option<Secret>,
}

/// `encoding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the value of the same name")]
pub enum PinEncoding {
    Secure,
    Hash,
    Plain,
}

/// `algorithm`.
#[derive(Debug, Clone, PartialEq)]
pub enum Algorithm {
    /// A ring of `replicas` points a unit of weight.
    ConsistentHash {
        /// Points a unit of weight.
        replicas: u32,
        /// An upstream over this multiple of the mean load is passed over; `None` is off.
        bounded_load: Option<f64>,
    },
    /// By client address, or by the peer's.
    IpHash {
        /// Use the client address of section 1.
        use_x_forwarded_for: bool,
    },
    /// By this request header (lower case).
    HeaderHash {
        /// Header name, lower case.
        header: String,
    },
}

/// `onUnavailable`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnUnavailable {
    /// Choose anew.
    Rebind,
    /// Wait so long for it to come back, then choose anew.
    Hold(Duration),
    /// Answer with this status.
    Reject(u16),
}

/// `auth.jwt`.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "each is the key of the same name")]
pub struct Jwt {
    pub header: String,
    pub algorithms: Vec<String>,
    pub jwks_file: Option<PathBuf>,
    pub jwks_url: Option<String>,
    pub secret: Option<Secret>,
    pub issuer: Option<String>,
    pub audience: Option<String>,
    /// How far the clocks of issuer and gateway may differ, for `exp` and `nbf`.
    pub leeway: Duration,
    pub required: bool,
}

/// `accessLog`.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessLog {
    /// `stdout`, `stderr` or a file.
    pub path: String,
    /// JSON lines or a template.
    pub format: LogFormat,
}

/// The word of `accessLog.format` that means JSON lines.
pub const LOG_FORMAT_JSON: &str = "json";

/// Every field of an access log line, as it is named in a template and in JSON, with what it holds.
pub const LOG_FIELDS: &[(&str, &str)] = &[
    (
        "time",
        "when the request's head was complete, RFC 3339 with milliseconds, UTC",
    ),
    ("requestId", "X-Request-ID, kept or made"),
    ("traceparent", "as received"),
    ("client", "client address behind trusted proxies"),
    (
        "peer",
        "address of the connection's other end; with proxyProtocol the one that it speaks for",
    ),
    ("listener", "address that the connection came to"),
    ("method", "request method"),
    ("host", "Host of the request"),
    ("path", "path and query, with a query token masked"),
    ("protocol", "such as HTTP/1.1"),
    ("status", "status of the response"),
    ("bytesIn", "bytes of the request's body"),
    ("bytesOut", "bytes of the response's body"),
    ("route", "id of the rule"),
    ("service", "name of the service"),
    ("upstream", "id of the upstream"),
    ("attempts", "tries, the first included"),
    ("sid", "public name of the session"),
    ("session", "what the presented token was, or new"),
    (
        "pin",
        "what became of the pin: hit, made, or why it was not used",
    ),
    (
        "durationUs",
        "microseconds from the request's head to the response's end",
    ),
    ("upstreamUs", "microseconds until the response's head came"),
    ("userAgent", "User-Agent of the request"),
    ("referer", "Referer of the request"),
    ("tlsVersion", "such as TLSv1.3, where TLS ends here"),
    ("tlsCipher", "cipher suite"),
    (
        "tlsName",
        "host name that the client asked for in its TLS hello",
    ),
    ("error", "why the gateway itself answered"),
];

/// `accessLog.format`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// Text with `{field}` places; the fields are those of the JSON form. Names were checked.
    Template(String),
}

/// `shutdown`.
#[derive(Debug, Clone, PartialEq)]
pub struct Shutdown {
    /// Readiness fails this long before the drain begins.
    pub delay: Duration,
    /// The drain's bound.
    pub timeout: Duration,
}

/// `websocket`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WebSocket {
    /// `sessions` is on.
    pub enabled: bool,
    /// `allowedOrigins`, lower case.
    pub allowed_origins: Vec<String>,
    /// `onSessionEnd` is `keep`.
    pub keep_on_session_end: bool,
    /// `sessions.persistence`: how long a lost client's upstream connection is kept; `None` where off.
    pub persistence: Option<Duration>,
    /// `sessions.recovery`; `None` where off.
    pub recovery: Option<Recovery>,
    /// `sessionAffinity.stickyReconnect` is `false`: a new socket chooses anew.
    pub fresh_on_reconnect: bool,
    /// `sessionAffinity.failover`: `Some(transferSession)`; `None` where off.
    pub failover: Option<bool>,
}

/// `websocket.sessions.recovery`.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "each is the key of the same name")]
pub struct Recovery {
    pub message_buffer: usize,
    pub max_bytes: u64,
    pub max_total_bytes: u64,
    /// `mode` is `negotiated`.
    pub negotiated: bool,
}
