//! The plan of sessions: identity, time, data, storage, security, replication.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::Secret;

/// `gateway.session`.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    /// Sources by ascending priority; never empty.
    pub sources: Vec<Source>,
    /// The attribute that names the subject.
    pub subject: String,
    /// Idle timeout (rolling) or lifetime (not); zero: none.
    pub timeout: Duration,
    /// Whether `timeout` restarts at every request.
    pub rolling: bool,
    /// Absolute lifetime from creation; zero: none.
    pub ttl: Duration,
    /// How often a touch leaves the process.
    pub touch_interval: Duration,
    /// `lifecycle.creation`.
    pub creation: Creation,
    /// `lifecycle.cleanup`.
    pub cleanup: Cleanup,
    /// `data`.
    pub data: Data,
    /// `attributes.fromAuth`, as (claim, attribute).
    pub from_auth: Vec<(String, String)>,
    /// `attributes.fromHeaders`, as (header in lower case, attribute, trust any).
    pub from_headers: Vec<(String, String, bool)>,
    /// `attributes.computed`, as (attribute, expression).
    pub computed: Vec<(String, String)>,
    /// `forward`; `None` where off.
    pub forward: Option<Forward>,
    /// `storage`.
    pub storage: Storage,
    /// `security`.
    pub security: Security,
    /// `limits.sessionsPerSubject.max`; 0 is off.
    pub sessions_per_subject: u32,
    /// `limits.sessionsPerSubject.on` is `reject`.
    pub sessions_per_subject_reject: bool,
    /// `metrics`: names of `collect`, `None` for all; the endpoint is left out when `Some(empty)`.
    pub metrics: Metrics,
    /// `events`.
    pub events: Events,
    /// Replication between instances is on.
    pub replication: Option<Replication>,
}

/// One place where a token arrives.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "a handful in the whole process")]
pub enum Source {
    /// A cookie.
    Cookie(SessionCookie),
    /// A request header (name as written; compare without case).
    Header {
        /// Header name.
        name: String,
        /// A new token goes back in the response header of the same name.
        generate_if_missing: bool,
    },
    /// A query parameter.
    Query {
        /// Parameter name.
        name: String,
    },
}

/// `SameSite`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the value of the same name")]
pub enum SameSite {
    Strict,
    Lax,
    None,
}

/// A cookie source.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "each is the key of the same name")]
pub struct SessionCookie {
    pub name: String,
    pub domain: Option<String>,
    pub path: String,
    pub same_site: SameSite,
    /// Seconds; `None`: a cookie of the browser session.
    pub max_age: Option<u64>,
    pub secure: bool,
    pub http_only: bool,
    pub partitioned: bool,
}

/// `lifecycle.creation`.
#[derive(Debug, Clone, PartialEq)]
pub struct Creation {
    /// Trigger `firstRequest`.
    pub first_request: bool,
    /// Trigger `authentication`.
    pub authentication: bool,
    /// Trigger `explicitCreate`.
    pub explicit_create: bool,
    /// A first token is storeless until it returns (resolved from `auto`).
    pub confirm: bool,
    /// Sessions a client prefix may create, (count, per); `None` is no bound.
    pub limit: Option<Rate>,
    /// First data: (name, JSON text), where `${timestamp}` is still to be filled.
    pub defaults: Vec<(String, String)>,
}

/// So many in a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: u32,
    /// In what time.
    pub per: Duration,
}

/// Which session is evicted first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the value of the same name")]
pub enum Eviction {
    Lru,
    Lfu,
    Ttl,
}

/// `lifecycle.cleanup`, resolved: its timeouts are already in [`Session::timeout`] and [`Session::ttl`]
/// where they are the earliest.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "each is the key of the same name")]
pub struct Cleanup {
    /// Idle bound beside `timeout` (strategy `inactive`, always rolling); zero: none.
    pub inactive: Duration,
    pub interval: Duration,
    pub batch_size: usize,
}

/// `data`.
#[derive(Debug, Clone, PartialEq)]
pub struct Data {
    /// Names that may be stored; `None` is any.
    pub fields: Option<Vec<String>>,
    /// Bytes of the serialized data.
    pub max_size: usize,
    /// Fields that sessions are found by (the subject is always among them).
    pub index: Vec<String>,
}

/// `forward`.
#[derive(Debug, Clone, PartialEq)]
pub struct Forward {
    /// Header prefix, as written, ending in `-`.
    pub prefix: String,
    /// Longest `X-Session-Data` value, in bytes.
    pub max_header: usize,
}

/// `storage`.
#[derive(Debug, Clone, PartialEq)]
pub struct Storage {
    /// Where the truth is.
    pub kind: StorageKind,
    /// Sessions of the instance (smallest of all `maxSessions`).
    pub max_sessions: usize,
    /// Bytes of session data of the instance.
    pub max_bytes: u64,
    /// Which go first.
    pub eviction: Eviction,
    /// `memory.snapshot`, if any: file and interval.
    pub snapshot: Option<(PathBuf, Duration)>,
    /// `onFailure` is `reject`.
    pub reject_on_failure: bool,
    /// `fence`.
    pub fence: Duration,
    /// `lookupTimeout`.
    pub lookup_timeout: Duration,
    /// `replayWindow`.
    pub replay_window: Duration,
    /// `goneAfter`.
    pub gone_after: Duration,
    /// `queueBytes`.
    pub queue_bytes: u64,
}

/// `storage.type`.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "one in the whole process")]
pub enum StorageKind {
    /// This process.
    Memory,
    /// Redis (carried for later; see the README).
    Redis(Redis),
    /// Postgres (carried for later; see the README).
    Postgres(Postgres),
}

/// `storage.redis`.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "each is the key of the same name")]
pub struct Redis {
    pub addresses: Vec<String>,
    pub cluster: bool,
    pub sentinel: Option<String>,
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub db: u32,
    pub key_prefix: String,
    pub tls: bool,
    pub tls_server_name: Option<String>,
    pub tls_ca: Option<PathBuf>,
    pub replication: bool,
    pub replicas: u32,
    pub replication_async: bool,
}

/// `storage.database`.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "each is the key of the same name")]
pub struct Postgres {
    pub dsn: Secret,
    pub table: String,
    pub cleanup_interval: Duration,
    pub cleanup_batch_size: u32,
    pub partition_key: Option<String>,
}

/// `security`.
#[derive(Debug, Clone, PartialEq)]
pub struct Security {
    /// HMAC secrets of tokens; empty where `encryption.id` is off. The first signs, all verify.
    pub token_keys: Vec<Secret>,
    /// Master keys of sealing, 32 bytes each, also where a passphrase is written; empty where off. The first
    /// seals, all open.
    pub data_keys: Vec<Secret>,
    /// `data.encryption.keyRotation`; zero is off.
    pub key_rotation: Duration,
    /// `guessLimit`; `None` is off.
    pub guess_limit: Option<Rate>,
    /// `validation.checkIP`.
    pub check_ip: bool,
    /// `validation.checkUserAgent`.
    pub check_user_agent: bool,
    /// `validation.checkFingerprint`.
    pub check_fingerprint: bool,
    /// `validation.checkTenant`.
    pub check_tenant: bool,
    /// `validation.onMismatch`: refuse, reject, destroy or observe.
    pub on_mismatch: OnMismatch,
    /// `validation.ipPrefix`, (v4, v6) in bits. Also what a client prefix is.
    pub ip_prefix: (u8, u8),
    /// `validation.exact`.
    pub exact: bool,
    /// `validation.tenantAttribute`, resolved.
    pub tenant_attribute: String,
    /// `antiHijacking.rotateId` (and `enabled`): the interval; `None` is off.
    pub rotate_interval: Option<Duration>,
    /// `antiHijacking.rotateGrace`.
    pub rotate_grace: Duration,
    /// `antiHijacking.onReuse`; only refuse, destroy or observe.
    pub on_reuse: OnMismatch,
}

/// What a failed check does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the value of the same name")]
pub enum OnMismatch {
    Refuse,
    Reject,
    Destroy,
    Observe,
}

/// `metrics`.
#[derive(Debug, Clone, PartialEq)]
pub struct Metrics {
    /// `/metrics` is served.
    pub enabled: bool,
    /// Of the seven session metrics, those collected; `None` is all.
    pub collect: Option<Vec<String>>,
}

/// `events`.
#[derive(Debug, Clone, PartialEq)]
pub struct Events {
    /// Names emitted; `None` is all.
    pub emit: Option<Vec<String>>,
    /// `handlers.webhook.url`.
    pub webhook: Option<String>,
    /// `handlers.webhook.secret`.
    pub webhook_secret: Option<Secret>,
}

/// `replication` (carried for later; see the README).
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "each is the key of the same name")]
pub struct Replication {
    pub method: ReplicationMethod,
    pub bind: SocketAddr,
    pub peers: Vec<String>,
    /// `secret`: the first seals, all open.
    pub secrets: Vec<Secret>,
    /// Which of `regions` is ours, if it could be told.
    pub region: Option<String>,
    pub is_async: bool,
    pub gossip_interval: Duration,
    pub gossip_fanout: u32,
    /// Owners of a session; 0 is `all`.
    pub factor: u32,
    pub session_data: bool,
    pub affinity_mappings: bool,
    pub active_connections: bool,
    pub max_drift: Duration,
    pub tombstone_ttl: Duration,
    /// `replication.redis`, else `storage.redis`; `None` unless `method` is `redis`.
    pub redis: Option<Redis>,
    /// Regions in the order of the file; empty where `crossRegion` is off.
    pub regions: Vec<Region>,
}

/// `replication.method`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the value of the same name")]
pub enum ReplicationMethod {
    Gossip,
    Broadcast,
    Redis,
}

/// One of `crossRegion.regions`.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "each is the key of the same name")]
pub struct Region {
    pub name: String,
    pub primary: bool,
    pub endpoints: Vec<String>,
}
