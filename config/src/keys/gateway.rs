//! Rows around the session: listeners, cores, limits, services, routing, WebSocket.

use super::Default::{Else, Is, Required};
use super::Type::*;
use super::{ABSENT, Form, Key, No, Yes, key};
use crate::plan::LOG_FORMAT_JSON;

/// Most bytes that a bounded buffer may be set to.
const GB: u64 = 1 << 30;

pub(super) fn rows() -> Vec<Key> {
    let mut rows = vec![
        key(
            "gateway",
            Map,
            ABSENT,
            "Everything that Holdfast is told.",
            Yes,
        ),
        key(
            "gateway.node",
            Text(Form::Name),
            Else("the host name"),
            "Name of this instance.",
            Yes,
        ),
    ];
    rows.extend(listeners());
    rows.extend(runtime());
    rows.extend(limits());
    rows.extend(services());
    rows.extend(around());
    rows.push(key(
        "gateway.router",
        Map,
        ABSENT,
        "Which request goes to which service, and how clients stay with an upstream.",
        Yes,
    ));
    rows.extend(affinity("gateway.router.sessionAffinity"));
    rows.extend(rules());
    rows.extend(affinity("gateway.router.rules[].sessionAffinity"));
    rows.extend(websocket());
    rows
}

#[rustfmt::skip]
fn listeners() -> Vec<Key> {
    let p = |name: &str| format!("gateway.listeners[].{name}");
    vec![
        key("gateway.listeners", List, Else("one on 0.0.0.0:8080"), "Where clients are served.", Yes),
        key(p("address"), Text(Form::Socket), Is("0.0.0.0:8080"), "Address and port; port 0 lets the kernel choose.", Yes),
        key(p("tls"), OneOrMany, ABSENT, "Ends TLS here; a list gives several certificates, chosen by the name that the client asks for and by what it can verify.", Yes),
        key(p("tls[].certificate"), Text(Form::Any), Required, "PEM file of the certificate chain.", Yes),
        key(p("tls[].key"), Text(Form::Any), Required, "PEM file of the private key.", Yes),
        key(p("tls[].ocsp"), Text(Form::Any), ABSENT, "File of an OCSP response (DER) for the certificate, sent to clients that ask for it.", Yes),
        key(p("tls[].minVersion"), Enum(&["1.2", "1.3"]), Is("1.2"), "Oldest TLS version that is spoken. In a list this and the keys below stand in the first item and hold for all.", Yes),
        key(p("tls[].clientCa"), Text(Form::Any), ABSENT, "PEM file of the authorities that sign certificates of clients; with it clients are asked for one.", Yes),
        key(p("tls[].clientAuth"), Enum(&["required", "optional"]), Is("required"), "Whether a client without a certificate is refused; needs clientCa.", Yes),
        key(p("tls[].hsts"), Duration, ABSENT, "Adds Strict-Transport-Security with this max-age to responses that have none.", Yes),
        key(p("proxyProtocol"), Bool, Is("false"), "Requires a PROXY protocol header (v1 or v2) on every connection.", Yes),
        key(p("trustedProxies"), Texts(Form::Cidr), Is("[]"), "Peers whose X-Forwarded-For, -Proto and Forwarded are believed.", Yes),
        key(p("pathPolicy"), Enum(&["strict", "raw"]), Is("strict"), "strict answers 400 to %2F, %5C, %00 and \\ in a path; raw forwards them as they are.", Yes),
        key("gateway.admin", Map, ABSENT, "The administration endpoint; on unless `enabled: false`.", Yes),
        key("gateway.admin.enabled", Bool, Is("true"), "Whether it is served at all.", Yes),
        key("gateway.admin.address", Text(Form::Socket), Is("127.0.0.1:9901"), "Where it listens.", Yes),
        key("gateway.admin.token", Secret, Else("none"), "Bearer token; required unless the address is loopback.", Yes),
    ]
}

#[rustfmt::skip]
fn runtime() -> Vec<Key> {
    let p = |name: &str| format!("gateway.runtime.{name}");
    let mut rows = vec![
        key("gateway.runtime", Map, ABSENT, "Threads, rings and connections.", Yes),
        key(p("cores"), Cores, Is("auto"), "Data cores: auto, a count, a CPU list such as \"0-3,8\", or a list of blocks.", Yes),
        key(p("cores[].cpu"), Int(0, 4095), Required, "CPU that this core is pinned to.", Yes),
        key(p("cores[].busyPoll"), Duration, Else("runtime.busyPoll"), "How long this core spins for completions before it sleeps.", Yes),
    ];
    rows.extend(ring("gateway.runtime.cores[].ring", "This core's ring; what is not written comes from runtime.ring."));
    rows.push(key(p("replicationCore"), CpuOrAuto, Is("auto"), "CPU of the replication core.", Yes));
    rows.extend(ring("gateway.runtime.ring", "The io_uring of every data core."));
    rows.extend([
        key(p("steering"), Enum(&["hash", "cpu"]), Is("hash"), "Which core takes a new connection: by a hash of the addresses, or the core pinned to the CPU that the connection's first packet came by.", Yes),
        key(p("busyPoll"), Duration, Is("0us"), "How long a core spins for completions before it sleeps; at most 1s.", Yes),
        key(p("maxConnections"), Int(1, 100_000_000), Is("100000"), "Client connections of the instance, split over its cores.", Yes),
        key(p("migrateConnections"), Bool, Is("true"), "A connection moves to the core that owns its session.", Yes),
    ]);
    rows
}

#[rustfmt::skip]
fn ring(prefix: &str, doc: &'static str) -> Vec<Key> {
    let p = |name: &str| format!("{prefix}.{name}");
    vec![
        key(prefix, Map, ABSENT, doc, Yes),
        key(p("entries"), PowerOfTwo(64, 32768), Is("4096"), "Submission queue entries.", Yes),
        key(p("coopTaskrun"), Bool, Is("true"), "IORING_SETUP_COOP_TASKRUN; written out, it must hold or the start fails.", Yes),
        key(p("singleIssuer"), Bool, Is("true"), "IORING_SETUP_SINGLE_ISSUER; written out, it must hold or the start fails.", Yes),
        key(p("deferTaskrun"), Bool, Is("true"), "IORING_SETUP_DEFER_TASKRUN; needs singleIssuer.", Yes),
        key(p("sqpoll"), Bool, Is("false"), "IORING_SETUP_SQPOLL: a kernel thread submits.", Yes),
    ]
}

#[rustfmt::skip]
fn limits() -> Vec<Key> {
    let p = |name: &str| format!("gateway.limits.{name}");
    vec![
        key("gateway.limits", Map, ABSENT, "Bounds on requests; 0 is no bound where a row says so.", Yes),
        key(p("headerBytes"), Size(1024, 1 << 20), Is("16KB"), "Longest head of a request or response.", Yes),
        key(p("headers"), Int(1, 1000), Is("100"), "Most headers of a message.", Yes),
        key(p("uriBytes"), Size(64, 1 << 20), Is("8KB"), "Longest request target.", Yes),
        key(p("bodyBytes"), Size(0, 1 << 50), Is("0"), "Longest request body; 0 is no bound.", Yes),
        key(p("headerTimeout"), Duration, Is("10s"), "Longest time for a request head to arrive; 0 is no bound.", Yes),
        key(p("idleTimeout"), Duration, Is("60s"), "How long an idle keep-alive connection stays open; 0 is no bound.", Yes),
        key(p("responseTimeout"), Duration, Is("60s"), "Longest wait for the head of a response; 0 is no bound.", Yes),
        key(p("tunnelTimeout"), Duration, Is("1h"), "How long an upgraded connection may be silent; 0 is no bound.", Yes),
        key(p("bodyTimeout"), Duration, Is("10s"), "Longest gap between two reads of a request body; 0 is no bound.", Yes),
        key(p("minBodyRate"), Size(0, GB), Is("100"), "Bytes a second, over any 10 s, under which a trickling body is ended; 0 is no bound.", Yes),
        key(p("http2"), Map, ABSENT, "Bounds on HTTP/2 connections of clients; one that passes the last two is closed.", Yes),
        key(p("http2.maxStreams"), Int(1, 10_000), Is("128"), "Most streams of a connection at once.", Yes),
        key(p("http2.maxResets"), Int(0, 1_000_000), Is("500"), "Most streams that a client may reset within 10 s; 0 is no bound.", Yes),
        key(p("http2.maxControlFrames"), Int(0, 10_000_000), Is("1000"), "Most SETTINGS, most PING, and most other frames without content within 10 s; 0 is no bound.", Yes),
    ]
}

#[rustfmt::skip]
fn services() -> Vec<Key> {
    let p = |name: &str| format!("gateway.services[].{name}");
    vec![
        key("gateway.services", List, ABSENT, "Groups of upstreams that serve the same thing; needed by `run`.", Yes),
        key(p("name"), Text(Form::Name), Else("service-1, service-2, …"), "Unique name; rules refer to it, and pins depend on it.", Yes),
        key(p("loadBalancing"), Enum(&["round-robin", "least-connections", "random-two", "consistent-hash"]), Is("round-robin"), "What chooses an upstream for a client without a pin.", Yes),
        key(p("upstreams"), List, Required, "The servers.", Yes),
        key(p("upstreams[].id"), Text(Form::Name), Else("derived from the address"), "Stable name, unique within the service; pins hold it.", Yes),
        key(p("upstreams[].address"), Text(Form::Upstream), Required, "host:port by address or DNS name, or unix:/path.", Yes),
        key(p("upstreams[].weight"), Int(0, 1000), Is("1"), "Share of new clients; 0 gets none and keeps its pins.", Yes),
        key(p("upstreams[].backup"), Bool, Is("false"), "Used only while no other is usable.", Yes),
        key(p("healthCheck"), Map, ABSENT, "Asks every upstream whether it is well.", Yes),
        key(p("healthCheck.path"), Text(Form::Path), Is("/healthz"), "What is asked for; 2xx and 3xx are well, 404 is drain.", Yes),
        key(p("healthCheck.interval"), Duration, Is("2s"), "Time between two checks of an upstream.", Yes),
        key(p("healthCheck.timeout"), Duration, Is("1s"), "Longest time for an answer.", Yes),
        key(p("healthCheck.healthy"), Int(1, 100), Is("2"), "Good answers in a row until it is used again.", Yes),
        key(p("healthCheck.unhealthy"), Int(1, 100), Is("3"), "Bad answers in a row until it is down.", Yes),
        key(p("passiveHealth"), Map, ABSENT, "Takes an upstream out after failed requests.", Yes),
        key(p("passiveHealth.failures"), Int(1, 100_000), Is("5"), "Failures within `window` that take it out.", Yes),
        key(p("passiveHealth.window"), Duration, Is("10s"), "Time in which failures are counted.", Yes),
        key(p("passiveHealth.eject"), Duration, Is("10s"), "How long it stays out.", Yes),
        key(p("connections"), Map, ABSENT, "Connections towards upstreams.", Yes),
        key(p("connections.connectTimeout"), Duration, Is("1s"), "Longest time for a connection to open.", Yes),
        key(p("connections.idleTimeout"), Duration, Is("30s"), "How long an unused connection is kept.", Yes),
        key(p("connections.maxIdlePerCore"), Int(0, 100_000), Is("64"), "Unused connections kept by each core for each upstream.", Yes),
        key(p("connections.max"), Int(0, 10_000_000), Is("0"), "Connections of an upstream over all cores; 0 is no bound.", Yes),
        key(p("retry"), Map, ABSENT, "When a request is tried again.", Yes),
        key(p("retry.attempts"), Int(1, 10), Is("2"), "Tries in all; 1 is no retry.", Yes),
        key(p("retry.bodyBytes"), Size(0, 16 << 20), Is("64KB"), "A request with a longer body is not tried again.", Yes),
        key(p("control"), Enums(&["create", "set", "authenticate", "rotate", "destroy"]), Is("[create, set, authenticate, rotate, destroy]"), "What its responses may do to sessions.", Yes),
        key(p("tls"), Map, ABSENT, "TLS towards the upstreams.", Yes),
        key(p("tls.serverName"), Text(Form::Host), Else("the host of the address"), "Name that the certificate must carry.", Yes),
        key(p("tls.ca"), Text(Form::Any), Else("the system's"), "PEM file of accepted authorities.", Yes),
        key(p("tls.certificate"), Text(Form::Any), ABSENT, "PEM file of a certificate chain that the gateway presents; needs key.", Yes),
        key(p("tls.key"), Text(Form::Any), ABSENT, "PEM file of its private key.", Yes),
        key(p("drainTimeout"), Duration, Is("0"), "Pinned clients of a draining upstream are moved after this; 0: never.", Yes),
        key(p("drainRate"), Int(0, 1_000_000), Is("0"), "Pins a second that a draining upstream gives up; 0: none.", Yes),
        key(p("queueTimeout"), Duration, Is("1s"), "How long a request waits for a place under connections.max.", Yes),
        key(p("protocol"), Enum(&["http1", "h2"]), Is("http1"), "What is spoken to the upstreams.", Yes),
        key(p("proxyProtocol"), Bool, Is("false"), "Sends a PROXY v2 header with the client's address on every connection to the upstreams; each then serves one client.", Yes),
    ]
}

#[rustfmt::skip]
fn around() -> Vec<Key> {
    let p = |name: &str| format!("gateway.auth.jwt.{name}");
    vec![
        key("gateway.auth", Map, ABSENT, "Who a client is.", Yes),
        key("gateway.auth.jwt", Map, ABSENT, "JSON Web Tokens that attributes are taken from.", Yes),
        key(p("header"), Text(Form::Header), Is("Authorization"), "Header that carries the token.", Yes),
        key(p("algorithms"), Enums(&["HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"]), Is("[RS256]"), "Accepted signature algorithms.", Yes),
        key(p("jwksFile"), Text(Form::Any), Else("none"), "JWKS file with the public keys.", Yes),
        key(p("jwksUrl"), Text(Form::Url), Else("none"), "Where the JWKS is fetched from.", Yes),
        key(p("secret"), Secret, Else("none"), "Shared secret of HS256, HS384 and HS512.", Yes),
        key(p("issuer"), Text(Form::Any), Else("any"), "Required `iss`.", Yes),
        key(p("audience"), Text(Form::Any), Else("any"), "Required `aud`.", Yes),
        key(p("leeway"), Duration, Is("0"), "How far the clocks of issuer and gateway may differ, for `exp` and `nbf`.", Yes),
        key(p("required"), Bool, Is("false"), "Whether a request without a verified token is refused.", Yes),
        key("gateway.accessLog", Map, ABSENT, "A line for every request.", Yes),
        key("gateway.accessLog.enabled", Bool, Is("true"), "Whether it is written.", Yes),
        key("gateway.accessLog.path", Text(Form::Any), Is("stdout"), "stdout, stderr or a file; SIGUSR1 opens it anew.", Yes),
        key("gateway.accessLog.format", Text(Form::LogFormat), Is(LOG_FORMAT_JSON), "json, or a line with places such as {status}.", Yes),
        key("gateway.shutdown", Map, ABSENT, "How the process ends.", Yes),
        key("gateway.shutdown.delay", Duration, Is("5s"), "Readiness fails this long before the drain begins.", Yes),
        key("gateway.shutdown.timeout", Duration, Is("30s"), "Longest drain.", Yes),
    ]
}

#[rustfmt::skip]
fn rules() -> Vec<Key> {
    let p = |name: &str| format!("gateway.router.rules[].{name}");
    vec![
        key("gateway.router.rules", List, Else("all to the only service"), "Which path goes to which service; the longest path is matched first.", Yes),
        key(p("id"), Text(Form::Name), Else("rule-1, rule-2, …"), "Unique name, for logs and metrics.", Yes),
        key(p("path"), Text(Form::RulePath), Is("/*"), "/chat/* is /chat and everything below it; /chat is that path alone.", Yes),
        key(p("host"), Text(Form::Host), Else("any"), "Host that the rule is for; *.example.com is any below it.", Yes),
        key(p("methods"), Texts(Form::Method), Is("[]"), "Methods that the rule is for; empty is all.", Yes),
        key(p("serviceName"), Text(Form::Name), Else("the only service"), "Service that serves it; needed where there are several.", Yes),
    ]
}

/// The same keys stand at the router and at a rule, which overrides the router's one by one.
#[rustfmt::skip]
fn affinity(prefix: &str) -> Vec<Key> {
    let p = |name: &str| format!("{prefix}.{name}");
    vec![
        key(prefix, Map, ABSENT, "How a client stays with its upstream; a rule's keys override the router's.", Yes),
        key(p("enabled"), Bool, Is("true"), "Whether clients are pinned.", Yes),
        key(p("methods"), Enums(&["cookie", "sourceIP", "header", "session"]), Is("[cookie]"), "Where pins are kept, tried in order.", Yes),
        key(p("method"), Enum(&["cookie", "sourceIP", "header", "session"]), Else("methods"), "A single method, instead of `methods`.", Yes),
        key(p("headerName"), Text(Form::Header), Else("none"), "Request header of the method `header`.", Yes),
        key(p("duration"), Duration, Else("cookie.maxAge"), "Idle life of a pin; 0 is for ever.", Yes),
        key(p("maxLife"), Duration, Is("0"), "Absolute life of a cookie pin; 0 is for ever.", Yes),
        key(p("cookie"), Map, ABSENT, "The pin cookie.", Yes),
        key(p("cookie.name"), Text(Form::Cookie), Is("gateway-backend"), "Name of the pin cookie; with several services each adds a suffix.", Yes),
        key(p("cookie.path"), Text(Form::Path), Is("/"), "Path of the pin cookie.", Yes),
        key(p("cookie.domain"), Text(Form::Domain), Else("none"), "Domain of the pin cookie.", Yes),
        key(p("cookie.maxAge"), Duration, Is("0"), "Max-Age of the pin cookie; 0 lasts as long as the browser.", Yes),
        key(p("cookie.secure"), Bool, Is("false"), "Secure attribute of the pin cookie.", Yes),
        key(p("cookie.sameSite"), Enum(&["strict", "lax", "none"]), Is("lax"), "SameSite attribute of the pin cookie.", Yes),
        key(p("cookie.key"), Secret, Else("derived from the session encryption key, else random a process"), "What `secure` and `hash` are sealed and signed with.", Yes),
        key(p("encoding"), Enum(&["secure", "hash", "plain"]), Is("secure"), "How the cookie names the upstream: sealed, signed, or readable and unsigned.", Yes),
        key(p("algorithm"), Map, ABSENT, "What chooses where no pin does; else the service's loadBalancing.", Yes),
        key(p("algorithm.type"), Enum(&["consistent-hash", "ip-hash", "header-hash"]), Is("consistent-hash"), "Which algorithm.", Yes),
        key(p("algorithm.consistentHash"), Map, ABSENT, "Of consistent-hash.", Yes),
        key(p("algorithm.consistentHash.replicas"), Int(1, 10_000), Is("150"), "Points on the ring for each unit of weight.", Yes),
        key(p("algorithm.consistentHash.boundedLoad"), ZeroOrFloat(1.0), Is("0"), "An upstream over this multiple of the mean load is passed over; 0 is off.", Yes),
        key(p("algorithm.ipHash"), Map, ABSENT, "Of ip-hash.", Yes),
        key(p("algorithm.ipHash.useXForwardedFor"), Bool, Is("false"), "Hash the client address behind trusted proxies instead of the peer's.", Yes),
        key(p("algorithm.headerHash"), Map, ABSENT, "Of header-hash.", Yes),
        key(p("algorithm.headerHash.header"), Text(Form::Header), Else("none"), "Request header that is hashed.", Yes),
        key(p("onUnavailable"), OnUnavailable, Is("rebind"), "What a pin to a down upstream does: rebind, hold: 10s or reject: 503.", Yes),
        key(p("onUnavailable.hold"), Duration, Else("none"), "Wait so long for the upstream to come back, then choose anew.", Yes),
        key(p("onUnavailable.reject"), Int(400, 599), Else("none"), "Answer with this status.", Yes),
    ]
}

#[rustfmt::skip]
fn websocket() -> Vec<Key> {
    let p = |name: &str| format!("gateway.websocket.{name}");
    vec![
        key("gateway.websocket", Map, ABSENT, "WebSocket policy.", Yes),
        key(p("allowedOrigins"), Texts(Form::Origin), Is("[]"), "Origins besides the Host that may open a socket with a session cookie.", Yes),
        key(p("onSessionEnd"), Enum(&["close", "keep"]), Is("close"), "What happens to the sockets of a session that ends.", Yes),
        key(p("sessions"), Map, ABSENT, "Sockets that outlive a lost connection.", No("WebSocket persistence and recovery; a lost connection ends its socket")),
        key(p("sessions.enabled"), Bool, Is("true"), "Turns persistence and recovery on.", Yes),
        key(p("sessions.persistence"), Map, ABSENT, "Keeps the upstream connection of a lost client.", Yes),
        key(p("sessions.persistence.enabled"), Bool, Is("true"), "Whether it is kept.", Yes),
        key(p("sessions.persistence.timeout"), Duration, Is("5m"), "For how long.", Yes),
        key(p("sessions.recovery"), Map, ABSENT, "Keeps messages for a client that comes back; needs persistence.", Yes),
        key(p("sessions.recovery.enabled"), Bool, Is("true"), "Whether they are kept.", Yes),
        key(p("sessions.recovery.messageBuffer"), Int(1, 1_000_000), Is("1000"), "Most messages of a socket.", Yes),
        key(p("sessions.recovery.maxBytes"), Size(1024, GB), Is("1MB"), "Most bytes of a socket.", Yes),
        key(p("sessions.recovery.maxTotalBytes"), Size(1024, 1 << 40), Is("256MB"), "Most bytes of all sockets.", Yes),
        key(p("sessions.recovery.mode"), Enum(&["transparent", "negotiated"]), Is("transparent"), "transparent needs nothing of the client; negotiated loses and repeats nothing.", Yes),
        key(p("sessionAffinity"), Map, ABSENT, "Where a socket goes when it is opened again.", Yes),
        key(p("sessionAffinity.enabled"), Bool, Is("true"), "Whether sockets use pins.", Yes),
        key(p("sessionAffinity.stickyReconnect"), Bool, Is("true"), "The pin outlives the connection; false chooses anew.", Yes),
        key(p("sessionAffinity.failover"), Map, ABSENT, "What happens when the upstream of a socket dies.", No("WebSocket failover; the socket is closed")),
        key(p("sessionAffinity.failover.enabled"), Bool, Is("true"), "Whether another upstream takes over.", Yes),
        key(p("sessionAffinity.failover.transferSession"), Bool, Is("true"), "The client stays connected; false closes it with 1012.", Yes),
    ]
}
