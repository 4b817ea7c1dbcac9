//! The plan in words, for people who check a configuration.
//!
//! Pure. Shows no secret: a [`Secret`](crate::plan::Secret) is only ever counted. Machine facts (which
//! CPUs there are, what the kernel allows) are added by who knows them; [`describe_ring`] is for that.

use std::fmt::Write as _;
use std::time::Duration;

use crate::plan::*;
use crate::units::{show_duration, show_rate, show_size};

/// Listeners, cores, services, rules, session policy and memory bounds, in lines.
pub fn describe(plan: &Plan) -> String {
    let mut out = String::new();
    listeners(plan, &mut out);
    cores(&plan.runtime, &mut out);
    services(plan, &mut out);
    match &plan.session {
        Some(session) => sessions(session, &mut out),
        None => out.push_str("sessions\n  off\n"),
    }
    memory(plan, &mut out);
    out
}

/// A line, indented. Writing to a string cannot fail.
macro_rules! line {
    ($out:expr, $($text:tt)*) => {{
        let _ = writeln!($out, $($text)*);
    }};
}

fn off_or(d: Duration) -> String {
    if d.is_zero() {
        "off".into()
    } else {
        show_duration(d)
    }
}

fn listeners(plan: &Plan, out: &mut String) {
    line!(out, "node {}", plan.node);
    line!(out, "listeners");
    for l in &plan.listeners {
        let mut notes = Vec::new();
        if !l.tls.is_empty() {
            notes.push(tls(l));
        }
        if l.proxy_protocol {
            notes.push("PROXY protocol".into());
        }
        if !l.trusted_proxies.is_empty() {
            let blocks: Vec<String> = l
                .trusted_proxies
                .iter()
                .map(|c| format!("{}/{}", c.network, c.prefix))
                .collect();
            notes.push(format!("trusts {}", blocks.join(" ")));
        }
        if l.raw_paths {
            notes.push("raw paths".into());
        }
        line!(
            out,
            "  {}{}{}",
            l.address,
            if notes.is_empty() { "" } else { "  " },
            notes.join(", ")
        );
    }
    match &plan.admin {
        Some(a) => line!(
            out,
            "  {}  admin, {}",
            a.address,
            if a.token.is_some() {
                "with token"
            } else {
                "without token"
            }
        ),
        None => line!(out, "  no admin"),
    }
}

/// `TLS 1.2 and 1.3 with 2 certificates, asks clients for one`.
fn tls(l: &Listener) -> String {
    let options = &l.tls_options;
    let mut text = format!(
        "TLS {} with {} certificate(s)",
        if options.only_13 {
            "1.3"
        } else {
            "1.2 and 1.3"
        },
        l.tls.len()
    );
    if options.client_ca.is_some() {
        text.push_str(if options.client_optional {
            ", clients may present one"
        } else {
            ", clients must present one"
        });
    }
    if let Some(age) = options.hsts {
        let _ = write!(text, ", HSTS for {}", show_duration(age));
    }
    text
}

/// A core's ring and spin time in words: `ring 4096, coopTaskrun on (must hold), …`.
pub fn describe_ring(ring: &Ring, busy_poll: Duration) -> String {
    let flag = |name: &str, set: Option<bool>, default: bool| match set {
        Some(true) => format!("{name} on (must hold)"),
        Some(false) => format!("{name} off"),
        None => format!(
            "{name} {}",
            if default {
                "on where the kernel can"
            } else {
                "off"
            }
        ),
    };
    [
        format!(
            "ring {}{}",
            ring.entries,
            if ring.entries_explicit {
                ""
            } else {
                " or fewer"
            }
        ),
        flag("coopTaskrun", ring.coop_taskrun, true),
        flag("singleIssuer", ring.single_issuer, true),
        flag("deferTaskrun", ring.defer_taskrun, true),
        flag("sqpoll", ring.sqpoll, false),
        format!("busyPoll {}", off_or(busy_poll)),
    ]
    .join(", ")
}

fn cores(runtime: &Runtime, out: &mut String) {
    line!(out, "cores");
    let all = || describe_ring(&runtime.ring, runtime.busy_poll);
    match &runtime.cores {
        Cores::Auto => line!(out, "  one a CPU that this process may use: {}", all()),
        Cores::Count(n) => line!(out, "  {n}: {}", all()),
        Cores::List(list) => {
            for core in list {
                line!(
                    out,
                    "  CPU {}: {}",
                    core.cpu,
                    describe_ring(&core.ring, core.busy_poll)
                );
            }
        }
    }
    if runtime.steer_by_cpu {
        line!(
            out,
            "  new connections go to the core of the CPU that they come by"
        );
    }
    line!(out, "  connections at most {}", runtime.max_connections);
}

fn services(plan: &Plan, out: &mut String) {
    line!(out, "services");
    if plan.services.is_empty() {
        line!(out, "  none (`run` needs at least one)");
    }
    for s in &plan.services {
        let proxied = if s.proxy_protocol {
            ", PROXY protocol"
        } else {
            ""
        };
        line!(out, "  {}  {}{proxied}", s.name, balancing(s.balancing));
        for u in &s.upstreams {
            let address = match &u.address {
                UpstreamAddress::Ip(a) => a.to_string(),
                UpstreamAddress::Name(host, port) => format!("{host}:{port}"),
                UpstreamAddress::Unix(path) => format!("unix:{}", path.display()),
            };
            let backup = if u.backup { ", backup" } else { "" };
            line!(out, "    {}  {address}, weight {}{backup}", u.id, u.weight);
        }
        if let Some(h) = &s.health {
            line!(
                out,
                "    checked at {} every {}",
                h.path,
                show_duration(h.interval)
            );
        }
        if let Some(p) = &s.passive {
            line!(
                out,
                "    out for {} after {} failures in {}",
                show_duration(p.eject),
                p.failures,
                show_duration(p.window)
            );
        }
    }
    line!(out, "rules");
    for r in &plan.rules {
        let path = match (r.prefix, r.path.as_str()) {
            (true, "/") => "/*".into(),
            (true, path) => format!("{path}/*"),
            (false, path) => path.to_owned(),
        };
        let host = r
            .host
            .as_deref()
            .map(|h| format!(" at {h}"))
            .unwrap_or_default();
        let methods = if r.methods.is_empty() {
            String::new()
        } else {
            format!(" {}", r.methods.join(","))
        };
        let service = plan
            .services
            .get(r.service)
            .map_or("?", |s| s.name.as_str());
        line!(
            out,
            "  {}  {path}{host}{methods} -> {service}, {}",
            r.id,
            affinity(r.affinity.as_ref())
        );
    }
}

fn balancing(b: Balancing) -> &'static str {
    match b {
        Balancing::RoundRobin => "round-robin",
        Balancing::LeastConnections => "least-connections",
        Balancing::RandomTwo => "random-two",
        Balancing::ConsistentHash => "consistent-hash",
    }
}

fn affinity(affinity: Option<&Affinity>) -> String {
    let Some(a) = affinity else {
        return "no affinity".into();
    };
    let methods: Vec<String> = a
        .methods
        .iter()
        .map(|m| match m {
            AffinityMethod::Cookie => format!("cookie {}", a.cookie.name),
            AffinityMethod::SourceIp => "sourceIP".into(),
            AffinityMethod::Header(name) => format!("header {name}"),
            AffinityMethod::Session => "session".into(),
        })
        .collect();
    let life = if a.duration.is_zero() {
        "for ever".into()
    } else {
        format!("for {}", show_duration(a.duration))
    };
    format!("pinned by {} {life}", methods.join(", "))
}

fn sessions(s: &Session, out: &mut String) {
    line!(out, "sessions");
    for source in &s.sources {
        match source {
            Source::Cookie(c) => {
                let mut notes = vec![format!("path {}", c.path)];
                notes.extend(c.domain.as_ref().map(|d| format!("domain {d}")));
                notes.extend(c.secure.then(|| "secure".into()));
                notes.extend(c.http_only.then(|| "httpOnly".into()));
                line!(out, "  cookie {} ({})", c.name, notes.join(", "));
            }
            Source::Header {
                name,
                generate_if_missing,
            } => {
                line!(
                    out,
                    "  header {name}{}",
                    if *generate_if_missing {
                        " (made if missing)"
                    } else {
                        ""
                    }
                );
            }
            Source::Query { name } => line!(out, "  query {name}"),
        }
    }
    let kind = if s.rolling { "idle" } else { "from creation" };
    line!(
        out,
        "  timeout {} ({kind}), ttl {}, inactive {}",
        off_or(s.timeout),
        off_or(s.ttl),
        off_or(s.cleanup.inactive)
    );
    let c = &s.creation;
    let triggers: Vec<&str> = [
        (c.first_request, "firstRequest"),
        (c.authentication, "authentication"),
        (c.explicit_create, "explicitCreate"),
    ]
    .iter()
    .filter(|t| t.0)
    .map(|t| t.1)
    .collect();
    let confirm = if c.confirm {
        ", confirmed at their return"
    } else {
        ""
    };
    line!(
        out,
        "  created at {}{confirm}, at most {} a client prefix",
        triggers.join(", "),
        show_rate(c.limit)
    );
    let signed = if s.security.token_keys.is_empty() {
        "not signed".into()
    } else {
        format!("signed ({} key(s))", s.security.token_keys.len())
    };
    line!(out, "  tokens {signed}");
    sealing(&s.security, out);
    let place = match &s.storage.kind {
        StorageKind::Memory => "memory".into(),
        StorageKind::Redis(r) => format!("redis at {} address(es)", r.addresses.len()),
        StorageKind::Postgres(p) => format!("postgres table {}", p.table),
    };
    line!(out, "  storage {place}");
    events(&s.events, out);
}

/// What is sealed: nothing that stays in the process.
fn sealing(security: &Security, out: &mut String) {
    if security.data_keys.is_empty() {
        return;
    }
    let rotation = match security.key_rotation {
        d if d.is_zero() => "never".into(),
        d => format!("every {}", show_duration(d)),
    };
    line!(
        out,
        "  sealing aes-256-gcm by {} master key(s), another key {rotation}: nothing is sealed, as no record leaves this process; data in memory is not",
        security.data_keys.len()
    );
}

/// Of the URL the host alone: the rest may hold a secret.
fn events(events: &Events, out: &mut String) {
    let which = events.emit.as_ref().map(|names| names.join(", "));
    let which = which.unwrap_or_else(|| "all".into());
    let Some(url) = &events.webhook else {
        if events.emit.is_some() {
            line!(out, "  events {which}");
        }
        return;
    };
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = host.rsplit('@').next().unwrap_or_default();
    let signed = if events.webhook_secret.is_some() {
        "signed"
    } else {
        "not signed"
    };
    line!(out, "  events {which}, webhook to {host} ({signed})");
}

fn memory(plan: &Plan, out: &mut String) {
    line!(out, "memory bounds");
    if let Some(s) = &plan.session {
        let eviction = match s.storage.eviction {
            Eviction::Lru => "lru",
            Eviction::Lfu => "lfu",
            Eviction::Ttl => "ttl",
        };
        line!(
            out,
            "  sessions {} and {} of data, evicted by {eviction}",
            s.storage.max_sessions,
            show_size(s.storage.max_bytes)
        );
        line!(
            out,
            "  data of one session {}",
            show_size(u64::try_from(s.data.max_size).unwrap_or(u64::MAX))
        );
        if !matches!(s.storage.kind, StorageKind::Memory) {
            line!(
                out,
                "  writes waiting for the store {}",
                show_size(s.storage.queue_bytes)
            );
        }
    }
    let head = u64::try_from(plan.limits.header_bytes).unwrap_or(u64::MAX);
    line!(out, "  head of one message {}", show_size(head));
    if let Some(r) = &plan.websocket.recovery {
        line!(
            out,
            "  messages kept for lost sockets {}",
            show_size(r.max_total_bytes)
        );
    }
}
