//! Services and their upstreams.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::Around;
use crate::document::Value;
use crate::plan::*;
use crate::report::Report;
use crate::values;
use crate::view::View;

pub(super) fn services(
    gateway: &View<'_>,
    around: &Around<'_>,
    report: &mut Report,
) -> Vec<Service> {
    let view = gateway.at("services");
    let mut list: Vec<Service> = Vec::new();
    let items = view.items();
    if items.is_empty()
        && view
            .node()
            .is_none_or(|n| matches!(&n.value, Value::List(l) if l.is_empty()))
    {
        if around.run && !(view.written() && view.node().is_none()) {
            view.error(
                report,
                "services is required: at least one with its upstreams",
            );
        }
        return list;
    }
    for (i, item) in items.iter().enumerate() {
        let service = service(item, i, report);
        if list.iter().any(|s| s.name == service.name) {
            item.at("name").error(
                report,
                if item.at("name").written() {
                    format!(
                        "another service is named {} already",
                        item.at("name").shown()
                    )
                } else {
                    "needs a `name`: another service has the one that is its own by position".into()
                },
            );
        }
        list.push(service);
    }
    list
}

fn service(item: &View<'_>, index: usize, report: &mut Report) -> Service {
    let connections = item.at("connections");
    let retry = item.at("retry");
    let control = item.at("control").texts();
    let has = |word: &str| control.iter().any(|c| c == word);
    Service {
        name: item
            .at("name")
            .text()
            .unwrap_or_else(|| format!("service-{}", index + 1)),
        balancing: match item.at("loadBalancing").text().as_deref() {
            Some("least-connections") => Balancing::LeastConnections,
            Some("random-two") => Balancing::RandomTwo,
            Some("consistent-hash") => Balancing::ConsistentHash,
            _ => Balancing::RoundRobin,
        },
        upstreams: upstreams(item, report),
        health: health(&item.at("healthCheck"), report),
        passive: passive(&item.at("passiveHealth"), report),
        connections: Connections {
            connect_timeout: above_zero(&connections.at("connectTimeout"), report),
            idle_timeout: connections.at("idleTimeout").duration(),
            max_idle_per_core: connections.at("maxIdlePerCore").int(),
            max: connections.at("max").int(),
        },
        retry: Retry {
            attempts: retry.at("attempts").int(),
            body_bytes: retry.at("bodyBytes").usize(),
        },
        control: Control {
            create: has("create"),
            set: has("set"),
            authenticate: has("authenticate"),
            rotate: has("rotate"),
            destroy: has("destroy"),
        },
        tls: tls(&item.at("tls"), report),
        drain_timeout: item.at("drainTimeout").duration(),
        drain_rate: item.at("drainRate").int(),
        queue_timeout: item.at("queueTimeout").duration(),
        protocol: if item.at("protocol").text().as_deref() == Some("h2") {
            Protocol::H2
        } else {
            Protocol::Http1
        },
        proxy_protocol: item.at("proxyProtocol").bool(),
    }
}

/// A duration that must not be zero.
fn above_zero(view: &View<'_>, report: &mut Report) -> std::time::Duration {
    let d = view.duration();
    if d.is_zero() {
        view.error(
            report,
            format!("expected more than 0, found {}", view.shown()),
        );
    }
    d
}

fn upstreams(item: &View<'_>, report: &mut Report) -> Vec<Upstream> {
    let view = item.at("upstreams");
    let mut list: Vec<Upstream> = Vec::new();
    for up in view.items() {
        let Some(address) = up.at("address").parsed(values::upstream) else {
            continue;
        };
        let written = up.at("id").node().is_some();
        let id = if written {
            up.at("id").text().unwrap_or_default()
        } else {
            derived_id(&address)
        };
        if list.iter().any(|u| u.id == id) {
            if written {
                up.at("id").error(
                    report,
                    format!(
                        "another upstream of the service has the id {} already",
                        up.at("id").shown()
                    ),
                );
            } else {
                up.at("address").error(
                    report,
                    "another upstream of the service has the same address; give each an `id`",
                );
            }
        } else if list.iter().any(|u| u.address == address) {
            up.at("address").warn(
                report,
                "another upstream of the service has the same address",
            );
        }
        list.push(Upstream {
            id,
            address,
            weight: up.at("weight").int(),
            backup: up.at("backup").bool(),
        });
    }
    if view.empty_list() {
        view.error(report, "at least one upstream is needed");
    } else if !list.is_empty() && list.iter().all(|u| u.weight == 0) {
        view.warn(report, "every weight is 0: no new client is served");
    } else if !list.is_empty() && list.iter().all(|u| u.backup) {
        view.warn(report, "every upstream is a backup");
    }
    list
}

/// An upstream from an address as the file writes it, with `id` or the one that follows from the address.
/// `None` where either is none.
pub fn upstream(id: Option<&str>, address: &str, weight: u32, backup: bool) -> Option<Upstream> {
    let address = values::upstream(address)?;
    let id = id.map_or_else(|| derived_id(&address), str::to_owned);
    let letters = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let is_name = !id.is_empty() && id.len() <= 128 && id.bytes().all(letters);
    is_name.then_some(Upstream {
        id,
        address,
        weight,
        backup,
    })
}

/// A name from the address alone: a pin must find its upstream after others came and went.
fn derived_id(address: &UpstreamAddress) -> String {
    let text = match address {
        // All eight groups: with `::` two addresses could get one name.
        UpstreamAddress::Ip(SocketAddr::V6(a)) => {
            let groups: Vec<String> = a.ip().segments().iter().map(|g| format!("{g:x}")).collect();
            format!("{}:{}", groups.join(":"), a.port())
        }
        UpstreamAddress::Ip(a) => a.to_string(),
        UpstreamAddress::Name(host, port) => format!("{host}:{port}"),
        UpstreamAddress::Unix(path) => format!("unix{}", path.display()),
    };
    let plain: String = text
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "._-".contains(c) {
                c
            } else {
                '-'
            }
        })
        .collect();
    plain.trim_matches('-').to_owned()
}

fn health(view: &View<'_>, report: &mut Report) -> Option<HealthCheck> {
    if !view.written() {
        return None;
    }
    let interval = above_zero(&view.at("interval"), report);
    let timeout = above_zero(&view.at("timeout"), report);
    if timeout > interval {
        let at = if view.at("timeout").written() {
            view.at("timeout")
        } else {
            view.at("interval")
        };
        at.warn(
            report,
            "the timeout is longer than the interval: a slow upstream is asked less often",
        );
    }
    Some(HealthCheck {
        path: view.at("path").text().unwrap_or_default(),
        interval,
        timeout,
        healthy: view.at("healthy").int(),
        unhealthy: view.at("unhealthy").int(),
    })
}

fn tls(view: &View<'_>, report: &mut Report) -> Option<UpstreamTls> {
    if !view.written() {
        return None;
    }
    let path = |name: &str| view.at(name).text().map(PathBuf::from);
    let tls = UpstreamTls {
        server_name: view.at("serverName").text(),
        ca: path("ca"),
        certificate: path("certificate"),
        key: path("key"),
    };
    for (name, other) in [("certificate", "key"), ("key", "certificate")] {
        if view.at(name).written() && !view.at(other).written() {
            view.at(name).error(report, format!("needs `{other}`"));
        }
    }
    Some(tls)
}

fn passive(view: &View<'_>, report: &mut Report) -> Option<PassiveHealth> {
    view.written().then(|| PassiveHealth {
        failures: view.at("failures").int(),
        window: above_zero(&view.at("window"), report),
        eject: above_zero(&view.at("eject"), report),
    })
}
