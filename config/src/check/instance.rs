//! Listeners, admin, cores, limits, tokens of others, log and shutdown.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::document::{Node, Value};
use crate::plan::*;
use crate::report::Report;
use crate::values;
use crate::view::View;

/// Tokens shorter than this can be guessed.
const SHORT_SECRET: usize = 16;
/// Longest time that a core may spin.
const MAX_BUSY_POLL: Duration = Duration::from_secs(1);

pub(super) fn listeners(gateway: &View<'_>, report: &mut Report) -> Vec<Listener> {
    let view = gateway.at("listeners");
    if !view.written() {
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080));
        return vec![Listener {
            address,
            tls: Vec::new(),
            tls_options: TlsOptions::default(),
            proxy_protocol: false,
            trusted_proxies: Vec::new(),
            raw_paths: false,
        }];
    }
    let mut list: Vec<Listener> = Vec::new();
    for item in view.items() {
        let Some(address) = item.at("address").parsed(values::socket) else {
            continue;
        };
        if address.port() != 0 && list.iter().any(|l| l.address == address) {
            item.at("address")
                .error(report, "another listener has the same address");
        }
        list.push(Listener {
            address,
            tls: item.at("tls").items().iter().map(certificate).collect(),
            tls_options: tls_options(&item, report),
            proxy_protocol: item.at("proxyProtocol").bool(),
            trusted_proxies: trusted_proxies(&item, report),
            raw_paths: item.at("pathPolicy").text().as_deref() == Some("raw"),
        });
    }
    if view.empty_list() {
        view.error(report, "at least one listener is needed");
    }
    list
}

fn certificate(item: &View<'_>) -> Certificate {
    let path = |name: &str| PathBuf::from(item.at(name).text().unwrap_or_default());
    Certificate {
        certificate: path("certificate"),
        key: path("key"),
        ocsp: item.at("ocsp").text().map(PathBuf::from),
    }
}

fn tls_options(item: &View<'_>, report: &mut Report) -> TlsOptions {
    let items = item.at("tls").items();
    if item.at("tls").empty_list() {
        item.at("tls")
            .error(report, "at least one certificate is needed");
    }
    let Some(first) = items.first() else {
        return TlsOptions::default();
    };
    for other in items.iter().skip(1) {
        for name in ["minVersion", "clientCa", "clientAuth", "hsts"] {
            if other.at(name).written() {
                other.at(name).error(
                    report,
                    "holds for the whole listener: expected in the first item of the list",
                );
            }
        }
    }
    if first.at("clientAuth").written() && !first.at("clientCa").written() {
        first.at("clientAuth").error(report, "needs `clientCa`");
    }
    TlsOptions {
        only_13: first.at("minVersion").text().as_deref() == Some("1.3"),
        client_ca: first.at("clientCa").text().map(PathBuf::from),
        client_optional: first.at("clientAuth").text().as_deref() == Some("optional"),
        hsts: first.at("hsts").duration_if_written(),
    }
}

fn trusted_proxies(item: &View<'_>, report: &mut Report) -> Vec<Cidr> {
    let view = item.at("trustedProxies");
    let mut blocks = Vec::new();
    for text in view.texts() {
        let Some(block) = values::cidr(&text) else {
            continue;
        };
        let ip = text
            .split('/')
            .next()
            .and_then(|ip| ip.parse::<IpAddr>().ok());
        if block.prefix == 0 {
            view.warn(
                report,
                "a block of prefix 0 believes everyone's X-Forwarded-For",
            );
        } else if ip.is_some_and(|ip| ip.to_canonical() != block.network) {
            view.warn(
                report,
                format!(
                    "the block has bits set beyond its prefix; {}/{} is used",
                    block.network, block.prefix
                ),
            );
        }
        blocks.push(block);
    }
    blocks
}

pub(super) fn admin(
    gateway: &View<'_>,
    listeners: &[Listener],
    report: &mut Report,
) -> Option<Admin> {
    let view = gateway.at("admin");
    if view.written() && !view.on() {
        return None;
    }
    let address = view.at("address").parsed(values::socket)?;
    let token = view.at("token").secret();
    if !address.ip().is_loopback() && token.is_none() && !view.at("token").written() {
        view.at("address")
            .error(report, "`token` is required unless the address is loopback");
    }
    if token.as_ref().is_some_and(|t| t.0.len() < SHORT_SECRET) {
        view.at("token").warn(
            report,
            format!("a token of fewer than {SHORT_SECRET} characters can be guessed"),
        );
    }
    if address.port() != 0 && listeners.iter().any(|l| l.address == address) {
        view.at("address")
            .error(report, "a listener has the same address");
    }
    Some(Admin { address, token })
}

pub(super) fn runtime(gateway: &View<'_>, report: &mut Report) -> Runtime {
    let view = gateway.at("runtime");
    let default = Ring {
        entries: view.at("ring.entries").int(),
        entries_explicit: false,
        coop_taskrun: None,
        single_issuer: None,
        defer_taskrun: None,
        sqpoll: None,
    };
    let ring = ring(&view.at("ring"), &default, report);
    let busy_poll = busy_poll(&view.at("busyPoll"), Duration::ZERO, report);
    let replication = view.at("replicationCore");
    Runtime {
        cores: cores(&view.at("cores"), &ring, busy_poll, report),
        replication_cpu: replication
            .node()
            .and_then(Node::scalar)
            .and_then(values::cpu),
        ring,
        steer_by_cpu: view.at("steering").text().as_deref() == Some("cpu"),
        busy_poll,
        max_connections: view.at("maxConnections").int(),
        migrate_connections: view.at("migrateConnections").bool(),
    }
}

fn busy_poll(view: &View<'_>, base: Duration, report: &mut Report) -> Duration {
    let d = view.duration_if_written().unwrap_or(base);
    if d > MAX_BUSY_POLL {
        view.error(
            report,
            format!("expected at most 1s, found {}", view.shown()),
        );
    }
    d
}

fn ring(view: &View<'_>, base: &Ring, report: &mut Report) -> Ring {
    let flag = |name: &str, base: Option<bool>| view.at(name).bool_if_written().or(base);
    let entries = view.at("entries");
    let written = entries.node().is_some();
    let ring = Ring {
        entries: if written { entries.int() } else { base.entries },
        entries_explicit: written || base.entries_explicit,
        coop_taskrun: flag("coopTaskrun", base.coop_taskrun),
        single_issuer: flag("singleIssuer", base.single_issuer),
        defer_taskrun: flag("deferTaskrun", base.defer_taskrun),
        sqpoll: flag("sqpoll", base.sqpoll),
    };
    if view.written() {
        if ring.defer_taskrun == Some(true) && ring.single_issuer == Some(false) {
            view.error(report, "deferTaskrun needs singleIssuer");
        }
        for (name, set) in [
            ("coopTaskrun", ring.coop_taskrun),
            ("deferTaskrun", ring.defer_taskrun),
        ] {
            if ring.sqpoll == Some(true) && set == Some(true) {
                view.error(report, format!("sqpoll and {name} exclude each other"));
            }
        }
    }
    ring
}

fn cores(view: &View<'_>, ring_base: &Ring, busy_base: Duration, report: &mut Report) -> Cores {
    let spec = |cpu| CoreSpec {
        cpu,
        ring: ring_base.clone(),
        busy_poll: busy_base,
    };
    let list = match view.node().map(|n| &n.value) {
        Some(Value::List(_)) => {
            let mut list = Vec::new();
            for item in view.items() {
                if let Some(cpu) = item.plain_cpu() {
                    list.push(spec(cpu));
                } else {
                    // One without a good `cpu` was refused; CPU 0 in its place would clash with a real one.
                    let Some(cpu) = item.at("cpu").plain_cpu() else {
                        continue;
                    };
                    list.push(CoreSpec {
                        cpu,
                        ring: ring(&item.at("ring"), ring_base, report),
                        busy_poll: busy_poll(&item.at("busyPoll"), busy_base, report),
                    });
                }
            }
            list
        }
        Some(Value::Scalar(s)) if s.text == "auto" => return Cores::Auto,
        Some(Value::Scalar(s)) => match s.integer().and_then(|n| usize::try_from(n).ok()) {
            Some(n) => return Cores::Count(n),
            None => values::cpu_list(&s.text)
                .unwrap_or_default()
                .into_iter()
                .map(spec)
                .collect(),
        },
        _ => return Cores::Auto,
    };
    for (i, core) in list.iter().enumerate() {
        if list.iter().take(i).any(|c| c.cpu == core.cpu) {
            view.error(report, format!("CPU {} stands in the list twice", core.cpu));
        }
    }
    Cores::List(list)
}

pub(super) fn limits(gateway: &View<'_>, report: &mut Report) -> Limits {
    let view = gateway.at("limits");
    let limits = Limits {
        header_bytes: view.at("headerBytes").usize(),
        headers: view.at("headers").int(),
        uri_bytes: view.at("uriBytes").usize(),
        body_bytes: view.at("bodyBytes").size(),
        header_timeout: view.at("headerTimeout").duration(),
        idle_timeout: view.at("idleTimeout").duration(),
        response_timeout: view.at("responseTimeout").duration(),
        tunnel_timeout: view.at("tunnelTimeout").duration(),
        body_timeout: view.at("bodyTimeout").duration(),
        min_body_rate: view.at("minBodyRate").size(),
        http2: Http2Limits {
            max_streams: view.at("http2.maxStreams").int(),
            max_resets: view.at("http2.maxResets").int(),
            max_control_frames: view.at("http2.maxControlFrames").int(),
        },
    };
    if limits.uri_bytes > limits.header_bytes && view.at("uriBytes").written() {
        view.at("uriBytes").error(
            report,
            "a request target is part of the head: expected at most headerBytes",
        );
    }
    limits
}

pub(super) fn jwt(gateway: &View<'_>, report: &mut Report) -> Option<Jwt> {
    let view = gateway.at("auth.jwt");
    if !view.written() {
        return None;
    }
    let file = view.at("jwksFile");
    let url = view.at("jwksUrl");
    let algorithms = view.at("algorithms").texts();
    let secret = view.at("secret");
    if view.at("algorithms").empty_list() {
        view.at("algorithms")
            .error(report, "at least one algorithm is needed");
    }
    if file.written() && url.written() {
        url.error(
            report,
            "is written beside jwksFile; expected one of the two",
        );
    }
    let shared = algorithms.iter().find(|a| a.starts_with("HS"));
    let public = algorithms.iter().find(|a| !a.starts_with("HS"));
    if let Some(name) = shared.filter(|_| !secret.written()) {
        view.at("algorithms")
            .error(report, format!("{name} needs `secret`"));
    }
    if let Some(name) = public.filter(|_| !file.written() && !url.written()) {
        view.at("algorithms")
            .error(report, format!("{name} needs `jwksFile` or `jwksUrl`"));
    }
    if shared.is_none() && secret.written() {
        secret.warn(
            report,
            "is not used: no algorithm of HS256, HS384 and HS512 is accepted",
        );
    }
    if public.is_none() && (file.written() || url.written()) {
        view.warn(
            report,
            "the public keys are not used: no algorithm that needs them is accepted",
        );
    }
    Some(Jwt {
        header: view.at("header").text().unwrap_or_default(),
        algorithms,
        jwks_file: file.text().map(PathBuf::from),
        jwks_url: url.text(),
        secret: secret.secret(),
        issuer: view.at("issuer").text(),
        audience: view.at("audience").text(),
        leeway: view.at("leeway").duration(),
        required: view.at("required").bool(),
    })
}

pub(super) fn access_log(gateway: &View<'_>) -> Option<AccessLog> {
    let view = gateway.at("accessLog");
    if !view.on() {
        return None;
    }
    let format = match view.at("format").text() {
        Some(text) if text != LOG_FORMAT_JSON => LogFormat::Template(text),
        _ => LogFormat::Json,
    };
    Some(AccessLog {
        path: view.at("path").text().unwrap_or_default(),
        format,
    })
}

pub(super) fn shutdown(gateway: &View<'_>) -> Shutdown {
    let view = gateway.at("shutdown");
    Shutdown {
        delay: view.at("delay").duration(),
        timeout: view.at("timeout").duration(),
    }
}
