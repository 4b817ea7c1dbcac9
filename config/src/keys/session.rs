//! Rows of `gateway.session`.

use super::Default::{Else, Is, Required};
use super::Type::*;
use super::{ABSENT, Form, Key, No, Yes, key};

const CLEANUP: &[&str] = &["ttl", "inactive", "maxSessions"];
const EVICTION: &[&str] = &["lru", "lfu", "ttl"];
const SOURCES: &[&str] = &["cookie", "header", "query"];

/// Session metrics that `collect` selects from.
pub const METRICS: &[&str] = &[
    "active_sessions",
    "session_creates",
    "session_destroys",
    "session_hits",
    "session_misses",
    "affinity_hits",
    "affinity_misses",
];

/// Events that `emit` selects from.
pub const EVENTS: &[&str] = &[
    "sessionCreated",
    "sessionDestroyed",
    "sessionExpired",
    "affinityEstablished",
    "affinityBroken",
    "sessionAuthenticated",
    "sessionRotated",
    "sessionEvicted",
    "sessionValidationFailed",
    "sessionHijackSuspected",
    "socketParked",
    "socketResumed",
    "socketLost",
    "upstreamStateChanged",
];

pub(super) fn rows() -> Vec<Key> {
    let mut rows = vec![
        key(
            "gateway.session",
            Map,
            ABSENT,
            "Sessions; on where this block is written and does not say otherwise.",
            Yes,
        ),
        key(
            "gateway.session.enabled",
            Bool,
            Is("true"),
            "false: no identity and no store; pins by cookie and address still work.",
            Yes,
        ),
        key(
            "gateway.session.subject",
            Text(Form::Any),
            Else("the attribute of the claim sub, else userId"),
            "Attribute that names who a session belongs to.",
            Yes,
        ),
    ];
    rows.extend(identifier());
    rows.extend(lifecycle());
    rows.extend(data());
    rows.extend(storage());
    rows.extend(security());
    rows.extend(replication());
    rows.extend(watching());
    rows
}

#[rustfmt::skip]
fn identifier() -> Vec<Key> {
    let p = |name: &str| format!("gateway.session.{name}");
    let mut rows = vec![
        key(p("identifier"), Map, ABSENT, "Where a client's token is found: one source, or several by priority.", Yes),
        key(p("identifier.type"), Enum(SOURCES), Is("cookie"), "Kind of the only source.", Yes),
    ];
    rows.extend(source("gateway.session.identifier"));
    rows.extend([
        key(p("identifier.sources"), List, ABSENT, "Several sources; not beside the keys of a single one.", Yes),
        key(p("identifier.sources[].type"), Enum(SOURCES), Required, "Kind of this source.", Yes),
        key(p("identifier.sources[].priority"), Int(0, 1_000_000), Else("its place in the list"), "Lower numbers are tried first.", Yes),
    ]);
    rows.extend(source("gateway.session.identifier.sources[]"));
    rows.extend([
        key(p("options"), Map, ABSENT, "Time and cookie attributes.", Yes),
        key(p("options.timeout"), Duration, Is("30m"), "Idle timeout, or with `rolling: false` the lifetime; 0 is none.", Yes),
        key(p("options.rolling"), Bool, Is("true"), "Every request restarts the timeout.", Yes),
        key(p("options.secure"), Bool, Is("true"), "Tokens in cookies travel over HTTPS alone.", Yes),
        key(p("options.httpOnly"), Bool, Is("true"), "Scripts cannot read the cookie.", Yes),
        key(p("options.touchInterval"), DurationOrAuto, Is("auto"), "How often a use leaves the process; auto is a tenth of the timeout, at most 60s.", Yes),
    ]);
    rows
}

#[rustfmt::skip]
fn source(prefix: &str) -> Vec<Key> {
    let p = |name: &str| format!("{prefix}.{name}");
    vec![
        key(p("name"), Text(Form::Any), Else("gateway-session, X-Session-ID or sid"), "Name of the cookie, header or query parameter.", Yes),
        key(p("domain"), Text(Form::Domain), Else("none"), "The cookie's Domain: sends it to all hosts below.", Yes),
        key(p("path"), Text(Form::Path), Is("/"), "The cookie's Path.", Yes),
        key(p("sameSite"), Enum(&["strict", "lax", "none"]), Is("lax"), "The cookie's SameSite.", Yes),
        key(p("maxAge"), Duration, Else("as long as the browser"), "The cookie's Max-Age; 0 lasts as long as the browser.", Yes),
        key(p("partitioned"), Bool, Is("false"), "The cookie's Partitioned attribute.", Yes),
        key(p("generateIfMissing"), Bool, Is("false"), "A client that sent no header gets a new token in the response header.", Yes),
    ]
}

#[rustfmt::skip]
fn lifecycle() -> Vec<Key> {
    let p = |name: &str| format!("gateway.session.lifecycle.{name}");
    vec![
        key("gateway.session.lifecycle", Map, ABSENT, "How sessions begin and end.", Yes),
        key(p("creation"), Map, ABSENT, "How sessions begin.", Yes),
        key(p("creation.triggers"), Enums(&["authentication", "firstRequest", "explicitCreate"]), Is("[firstRequest]"), "What creates a session.", Yes),
        key(p("creation.defaults"), Free, ABSENT, "First data; ${timestamp} is the time of creation.", Yes),
        key(p("creation.confirm"), BoolOrAuto, Is("auto"), "A first token is kept nowhere until it returns; auto: on with encryption.id.", Yes),
        key(p("creation.limit"), Rate, Is("100/s"), "Sessions that one client prefix may create; 0 is no bound.", Yes),
        key(p("cleanup"), Map, ABSENT, "How sessions end.", Yes),
        key(p("cleanup.strategies"), List, ABSENT, "Bounds on age, idleness and number; the earliest and smallest win.", Yes),
        key(p("cleanup.strategies[].type"), Enum(CLEANUP), Required, "Which bound.", Yes),
        key(p("cleanup.strategies[].ttl"), Duration, Is("24h"), "Of ttl: lifetime from creation; 0 is none.", Yes),
        key(p("cleanup.strategies[].inactiveTime"), Duration, Is("30m"), "Of inactive: time since the last request; 0 is none.", Yes),
        key(p("cleanup.strategies[].maxSessions"), Int(1, 1_000_000_000), Is("1000000"), "Of maxSessions: sessions of the instance.", Yes),
        key(p("cleanup.strategies[].evictPolicy"), Enum(EVICTION), Else("memory.evictionPolicy"), "Of maxSessions: which go first.", Yes),
        key(p("cleanup.interval"), Duration, Is("5m"), "Time between two sweeps of a shard.", Yes),
        key(p("cleanup.batchSize"), Int(1, 1_000_000), Is("1000"), "Sessions looked at in one turn of a sweep.", Yes),
    ]
}

#[rustfmt::skip]
fn data() -> Vec<Key> {
    let p = |name: &str| format!("gateway.session.{name}");
    vec![
        key(p("data"), Map, ABSENT, "What sessions hold.", Yes),
        key(p("data.fields"), Texts(Form::Any), Else("any name"), "Names that upstreams and the API may store.", Yes),
        key(p("data.maxSize"), Size(1, 16 << 20), Is("8KB"), "Longest serialized data of a session.", Yes),
        key(p("data.index"), Texts(Form::Any), Else("the subject"), "Fields that sessions can be found by; the subject is always one.", Yes),
        key(p("data.encryption"), Map, ABSENT, "Sealing of records that leave the process.", No("sealing of records that leave the process: none does yet, and session data lies unsealed in memory")),
        key(p("data.encryption.enabled"), Bool, Is("true"), "Whether records are sealed.", Yes),
        key(p("data.encryption.algorithm"), Enum(&["aes-256-gcm"]), Is("aes-256-gcm"), "The cipher.", Yes),
        key(p("data.encryption.keyRotation"), Duration, Is("0"), "How often the sealing key changes; 0 is never.", Yes),
        key(p("attributes"), Map, ABSENT, "Values that the gateway adds to sessions.", Yes),
        key(p("attributes.fromAuth"), List, ABSENT, "From claims of a verified JSON Web Token; dots lead into objects.", Yes),
        key(p("attributes.fromAuth[].claim"), Text(Form::Any), Required, "Claim of the token.", Yes),
        key(p("attributes.fromAuth[].attribute"), Text(Form::Any), Required, "Attribute of the session.", Yes),
        key(p("attributes.fromHeaders"), List, ABSENT, "From request headers of trusted proxies.", Yes),
        key(p("attributes.fromHeaders[].header"), Text(Form::Header), Required, "Request header.", Yes),
        key(p("attributes.fromHeaders[].attribute"), Text(Form::Any), Required, "Attribute of the session.", Yes),
        key(p("attributes.fromHeaders[].trust"), Enum(&["trustedProxies", "any"]), Is("trustedProxies"), "Whose header is believed.", Yes),
        key(p("attributes.computed"), List, ABSENT, "Evaluated each time the session is forwarded.", Yes),
        key(p("attributes.computed[].attribute"), Text(Form::Any), Required, "Name of the value.", Yes),
        key(p("attributes.computed[].expression"), Text(Form::Any), Required, "CEL expression over session, request and now().", Yes),
        key(p("limits"), Map, ABSENT, "Bounds on sessions.", Yes),
        key(p("limits.sessionsPerSubject"), Map, ABSENT, "Sessions of one subject.", Yes),
        key(p("limits.sessionsPerSubject.max"), Int(0, 1_000_000), Is("0"), "How many; 0 is no bound.", Yes),
        key(p("limits.sessionsPerSubject.on"), Enum(&["evictOldest", "reject"]), Is("evictOldest"), "What happens past the bound.", Yes),
        key(p("forward"), Map, ABSENT, "Session headers between gateway and upstreams.", Yes),
        key(p("forward.enabled"), Bool, Is("true"), "Whether upstreams see and may use them.", Yes),
        key(p("forward.prefix"), Text(Form::HeaderPrefix), Is("X-Session-"), "What their names begin with.", Yes),
        key(p("forward.maxHeader"), Size(64, 1 << 20), Is("4KB"), "Longest value of the data header; longer data is left out.", Yes),
    ]
}

#[rustfmt::skip]
fn storage() -> Vec<Key> {
    let p = |name: &str| format!("gateway.session.storage.{name}");
    let mut rows = vec![
        key("gateway.session.storage", Map, ABSENT, "Where sessions are kept.", Yes),
        key(p("type"), Enum(&["memory", "redis", "database"]), Is("memory"), "Where the truth is.", No("storage outside the process; SESSIONS ARE KEPT IN MEMORY ALONE, lost at a restart and not shared")),
        key(p("onFailure"), Enum(&["degrade", "reject"]), Is("degrade"), "While the store is away: serve from memory, or answer 503.", No("storage outside the process")),
        key(p("fence"), Duration, Is("50ms"), "Longest that a response waits for a fenced change to be acknowledged.", No("storage outside the process")),
        key(p("lookupTimeout"), Duration, Is("250ms"), "Longest wait for a place that could know a token.", No("storage outside the process")),
        key(p("goneAfter"), Duration, Is("1h"), "A silent node's tokens are dead after this.", No("storage outside the process")),
        key(p("replayWindow"), Duration, Is("60s"), "Fenced changes that are written again after a failover.", No("storage outside the process")),
        key(p("queueBytes"), Size(1 << 20, 1 << 40), Is("64MB"), "Most bytes of writes that wait for the store.", No("storage outside the process")),
        key(p("memory"), Map, ABSENT, "Of the session map of this process.", Yes),
        key(p("memory.maxSessions"), Int(1, 1_000_000_000), Is("1000000"), "Sessions of the instance.", Yes),
        key(p("memory.maxBytes"), Size(1 << 20, 1 << 44), Is("1GB"), "Bytes of session data of the instance.", Yes),
        key(p("memory.evictionPolicy"), Enum(&["lru", "lfu", "ttl"]), Is("lru"), "Which go first: least recently used, least often used, nearest to their end.", Yes),
        key(p("memory.snapshot"), Map, ABSENT, "A file that sessions survive a restart in.", No("the snapshot; sessions do not survive a restart")),
        key(p("memory.snapshot.path"), Text(Form::Any), Required, "The file.", Yes),
        key(p("memory.snapshot.interval"), Duration, Is("1m"), "Time between two snapshots.", Yes),
    ];
    rows.extend(redis("gateway.session.storage.redis"));
    rows.extend([
        key(p("database"), Map, ABSENT, "A PostgreSQL database.", Yes),
        key(p("database.driver"), Enum(&["postgres"]), Is("postgres"), "The only driver.", Yes),
        key(p("database.dsn"), Secret, Else("none; needed by `run`"), "Connection string, with the password.", Yes),
        key(p("database.table"), Text(Form::Table), Is("gateway_sessions"), "Table; created when missing.", Yes),
        key(p("database.cleanupInterval"), Duration, Is("5m"), "Time between two deletions of expired rows.", Yes),
        key(p("database.cleanupBatchSize"), Int(1, 1_000_000), Is("1000"), "Rows of one deletion.", Yes),
        key(p("database.partitionKey"), Text(Form::Any), Else("not partitioned"), "Attribute that the table is partitioned by.", Yes),
    ]);
    rows
}

#[rustfmt::skip]
fn redis(prefix: &str) -> Vec<Key> {
    let p = |name: &str| format!("{prefix}.{name}");
    vec![
        key(prefix, Map, ABSENT, "A Redis server or cluster.", Yes),
        key(p("addresses"), Texts(Form::HostPort), Is("[\"127.0.0.1:6379\"]"), "Servers, sentinels, or some nodes of the cluster.", Yes),
        key(p("cluster"), Bool, Is("false"), "The addresses are nodes of a cluster.", Yes),
        key(p("sentinel"), Map, ABSENT, "The addresses are sentinels.", Yes),
        key(p("sentinel.master"), Text(Form::Name), Required, "Name of the primary that they watch.", Yes),
        key(p("username"), Text(Form::Any), Else("none"), "ACL user.", Yes),
        key(p("password"), Secret, Else("none"), "Password.", Yes),
        key(p("db"), Int(0, 1_000_000), Is("0"), "Database number; 0 with a cluster.", Yes),
        key(p("keyPrefix"), Text(Form::Any), Is("\"gateway:session:\""), "What every key begins with.", Yes),
        key(p("tls"), BoolOrMap, Is("false"), "TLS towards Redis.", Yes),
        key(p("tls.serverName"), Text(Form::Host), Else("the host of the address"), "Name that the certificate must carry.", Yes),
        key(p("tls.ca"), Text(Form::Any), Else("the system's"), "PEM file of accepted authorities.", Yes),
        key(p("replication"), Map, ABSENT, "Writes wait for replicas of the server.", Yes),
        key(p("replication.enabled"), Bool, Is("true"), "Whether they wait.", Yes),
        key(p("replication.replicas"), Int(1, 100), Is("1"), "For how many.", Yes),
        key(p("replication.async"), Bool, Is("false"), "The response is not held meanwhile.", Yes),
    ]
}

#[rustfmt::skip]
fn security() -> Vec<Key> {
    let p = |name: &str| format!("gateway.session.security.{name}");
    vec![
        key("gateway.session.security", Map, ABSENT, "Protection of sessions.", Yes),
        key(p("guessLimit"), Rate, Is("0"), "Forged tokens that one client prefix may present; 0 is no bound.", Yes),
        key(p("validation"), Map, ABSENT, "Whether a session is used by whom it was made for.", Yes),
        key(p("validation.checkIP"), Bool, Is("false"), "The client's network must stay the same.", Yes),
        key(p("validation.checkUserAgent"), Bool, Is("false"), "The browser must stay the same.", Yes),
        key(p("validation.checkFingerprint"), Bool, Is("false"), "Browser, platform, language and TLS hello must stay the same.", Yes),
        key(p("validation.checkTenant"), Bool, Is("false"), "The tenant must stay the same.", Yes),
        key(p("validation.onMismatch"), Enum(&["refuse", "reject", "destroy", "observe"]), Is("refuse"), "What a failed check does.", Yes),
        key(p("validation.ipPrefix"), Map, ABSENT, "Bits of an address that name a client; also for creation.limit.", Yes),
        key(p("validation.ipPrefix.v4"), Int(1, 32), Is("24"), "Bits of an IPv4 address.", Yes),
        key(p("validation.ipPrefix.v6"), Int(1, 128), Is("56"), "Bits of an IPv6 address.", Yes),
        key(p("validation.exact"), Bool, Is("false"), "User agents are compared literally.", Yes),
        key(p("validation.tenantAttribute"), Text(Form::Any), Else("database.partitionKey, else tenantId"), "Attribute that holds the tenant.", Yes),
        key(p("antiHijacking"), Map, ABSENT, "Rotation of secrets.", Yes),
        key(p("antiHijacking.enabled"), Bool, Is("true"), "Whether the keys beside it hold.", Yes),
        key(p("antiHijacking.rotateId"), Bool, Is("false"), "Rotates the secret periodically, at authentication and on demand.", Yes),
        key(p("antiHijacking.rotateInterval"), Duration, Is("15m"), "Time between two rotations; 0 is never.", Yes),
        key(p("antiHijacking.rotateGrace"), Duration, Is("30s"), "How long the old secret stays good once the new one was used.", Yes),
        key(p("antiHijacking.onReuse"), Enum(&["refuse", "destroy", "observe"]), Is("refuse"), "What a retired secret does.", Yes),
        key(p("encryption"), Map, ABSENT, "Keys that tokens and records are protected with.", Yes),
        key(p("encryption.enabled"), Bool, Is("true"), "Whether the keys beside it hold; true also seals session data.", Yes),
        key(p("encryption.data"), Map, ABSENT, "Sealing of records that leave the process.", No("sealing of records that leave the process: none does yet, and session data lies unsealed in memory")),
        key(p("encryption.data.algorithm"), Enum(&["aes-256-gcm"]), Is("aes-256-gcm"), "The cipher.", Yes),
        key(p("encryption.data.key"), Secrets, Else("random, with memory storage"), "Master key: 32 bytes in base64 or hex, or a passphrase of 20 characters; of a list the first seals, all open.", Yes),
        key(p("encryption.id"), Map, ABSENT, "Signed tokens: a forged one is refused before any lookup.", Yes),
        key(p("encryption.id.enabled"), Bool, Is("true"), "Whether tokens are signed.", Yes),
        key(p("encryption.id.algorithm"), Enum(&["hmac-sha256"]), Is("hmac-sha256"), "The signature.", Yes),
        key(p("encryption.id.secret"), Secrets, Else("random, with memory storage"), "What signs; of a list the first signs, all verify.", Yes),
    ]
}

#[rustfmt::skip]
fn replication() -> Vec<Key> {
    let p = |name: &str| format!("gateway.session.replication.{name}");
    let mut rows = vec![
        key("gateway.session.replication", Map, ABSENT, "Instances that share sessions.", No("replication; this instance knows only its own sessions")),
        key(p("enabled"), Bool, Is("true"), "Whether they are shared.", Yes),
        key(p("method"), Enum(&["gossip", "broadcast", "redis"]), Is("gossip"), "How changes travel.", Yes),
        key(p("gossip"), Map, ABSENT, "Of gossip.", Yes),
        key(p("gossip.interval"), Duration, Is("1s"), "Time between two offers.", Yes),
        key(p("gossip.fanout"), Int(1, 100), Is("3"), "Members that each offer goes to.", Yes),
        key(p("factor"), Factor, Is("all"), "Owners of a session: all, or 2 to 7.", Yes),
        key(p("replicate"), Enums(&["sessionData", "affinityMappings", "activeConnections"]), Is("[sessionData, affinityMappings]"), "What is shared.", Yes),
        key(p("async"), Bool, Is("true"), "false: every write of data holds its response until acknowledged.", Yes),
        key(p("bind"), Text(Form::Socket), Is("0.0.0.0:7946"), "Where peers are listened to, UDP and TCP.", Yes),
        key(p("peers"), Texts(Form::HostPort), Is("[]"), "Some instances to begin with.", Yes),
        key(p("secret"), Secrets, Else("none"), "Seals what peers say; required unless bound to loopback; a list rotates.", Yes),
        key(p("region"), Text(Form::Name), Else("the one that holds our address"), "Which of the regions is ours.", Yes),
        key(p("maxDrift"), Duration, Is("5s"), "A change stamped further ahead is held back.", Yes),
        key(p("tombstoneTtl"), Duration, Is("24h"), "Longest that a destroyed session is remembered.", Yes),
    ];
    rows.extend(redis("gateway.session.replication.redis"));
    rows.extend([
        key(p("crossRegion"), Map, ABSENT, "Regions that share sessions.", Yes),
        key(p("crossRegion.enabled"), Bool, Is("true"), "Whether they are shared; implies replication.", Yes),
        key(p("crossRegion.regions"), List, ABSENT, "All regions, ours among them.", Yes),
        key(p("crossRegion.regions[].name"), Text(Form::Name), Required, "Name of the region.", Yes),
        key(p("crossRegion.regions[].primary"), Bool, Is("false"), "Wins ties and drives repair; one region at most.", Yes),
        key(p("crossRegion.regions[].endpoints"), Texts(Form::HostPort), Required, "Instances of the region.", Yes),
        key(p("crossRegion.conflictResolution"), Enum(&["last-write-wins"]), Is("last-write-wins"), "The only resolution.", Yes),
    ]);
    rows
}

#[rustfmt::skip]
fn watching() -> Vec<Key> {
    let p = |name: &str| format!("gateway.session.{name}");
    vec![
        key(p("metrics"), Map, ABSENT, "Prometheus metrics at /metrics.", Yes),
        key(p("metrics.enabled"), Bool, Is("true"), "false leaves the endpoint out.", Yes),
        key(p("metrics.collect"), Enums(METRICS), Else("all"), "Which session metrics are shown.", Yes),
        key(p("events"), Map, ABSENT, "What happens to sessions, as CloudEvents.", Yes),
        key(p("events.emit"), Enums(EVENTS), Else("all"), "Which events.", Yes),
        key(p("events.handlers"), Map, ABSENT, "Where they go.", Yes),
        key(p("events.handlers.webhook"), Map, ABSENT, "A batched POST.", Yes),
        key(p("events.handlers.webhook.url"), Text(Form::Url), Required, "Where to.", Yes),
        key(p("events.handlers.webhook.secret"), Secret, Else("unsigned"), "Key of the HMAC signature header.", Yes),
    ]
}
