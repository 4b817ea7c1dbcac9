//! Instances and regions that share sessions.

use std::net::SocketAddr;

use super::{Facts, storage};
use crate::plan::*;
use crate::report::Report;
use crate::values;
use crate::view::View;

/// Is replication on? `crossRegion` alone implies it.
pub(super) fn on(view: &View<'_>) -> bool {
    view.on()
}

pub(super) fn replication(
    session: &View<'_>,
    facts: &Facts,
    storage: &Storage,
    report: &mut Report,
) -> Option<Replication> {
    let view = session.at("replication");
    let cross = view.at("crossRegion");
    if cross.on() && view.at("enabled").bool_if_written() == Some(false) {
        view.at("enabled").error(
            report,
            "is false, but crossRegion is on and needs replication",
        );
    }
    if !on(&view) {
        return None;
    }
    let method = match view.at("method").text().as_deref() {
        Some("broadcast") => ReplicationMethod::Broadcast,
        Some("redis") => ReplicationMethod::Redis,
        _ => ReplicationMethod::Gossip,
    };
    let bind = view
        .at("bind")
        .parsed(values::socket)
        .unwrap_or(SocketAddr::from(([0, 0, 0, 0], 7946)));
    let peers = view.at("peers").texts();
    let secrets = view.at("secret").secrets();
    if method != ReplicationMethod::Redis {
        if !bind.ip().is_loopback() && secrets.is_empty() && !view.at("secret").written() {
            view.error_in_run(
                facts.run,
                report,
                "`secret` is required unless `bind` is loopback",
            );
        }
        if peers.is_empty() && !cross.on() {
            view.warn(
                report,
                "no `peers`: this instance waits to be found by others",
            );
        }
    }
    let regions = regions(&cross, report);
    let region = region(&view, &cross, &regions, bind, facts, report);
    let redis = (method == ReplicationMethod::Redis)
        .then(|| redis(&view, storage, report))
        .flatten();
    let replicate = view.at("replicate").texts();
    let has = |word: &str| replicate.iter().any(|r| r == word);
    Some(Replication {
        method,
        bind,
        peers,
        secrets,
        region,
        is_async: view.at("async").bool(),
        gossip_interval: view.at("gossip.interval").duration(),
        gossip_fanout: view.at("gossip.fanout").int(),
        factor: view.at("factor").int(),
        session_data: has("sessionData"),
        affinity_mappings: has("affinityMappings"),
        active_connections: has("activeConnections"),
        max_drift: view.at("maxDrift").duration(),
        tombstone_ttl: view.at("tombstoneTtl").duration(),
        redis,
        regions,
    })
}

fn redis(view: &View<'_>, storage: &Storage, report: &mut Report) -> Option<Redis> {
    if view.at("redis").written() {
        return Some(storage::redis(&view.at("redis"), report));
    }
    if let StorageKind::Redis(redis) = &storage.kind {
        return Some(redis.clone());
    }
    view.at("method")
        .error(report, "redis needs `replication.redis` or `storage.redis`");
    None
}

fn regions(cross: &View<'_>, report: &mut Report) -> Vec<Region> {
    if !cross.on() {
        return Vec::new();
    }
    let list = cross.at("regions");
    let mut regions: Vec<Region> = Vec::new();
    for item in list.items() {
        let region = Region {
            name: item.at("name").text().unwrap_or_default(),
            primary: item.at("primary").bool(),
            endpoints: item.at("endpoints").texts(),
        };
        if regions.iter().any(|r| r.name == region.name) {
            item.at("name").error(
                report,
                format!(
                    "another region is named {} already",
                    item.at("name").shown()
                ),
            );
        }
        if region.primary && regions.iter().any(|r| r.primary) {
            item.at("primary")
                .error(report, "another region is primary already");
        }
        if item.at("endpoints").empty_list() {
            item.at("endpoints")
                .error(report, "at least one endpoint is needed");
        }
        if let Some(e) = region
            .endpoints
            .iter()
            .find(|e| regions.iter().any(|r| r.endpoints.contains(e)))
        {
            item.at("endpoints").error(
                report,
                format!("another region has the endpoint {e:?} already"),
            );
        }
        regions.push(region);
    }
    if regions.is_empty() {
        cross.error(report, "at least one of `regions` is needed");
    } else if !regions.iter().any(|r| r.primary) {
        list.warn(
            report,
            "no region is primary: ties between regions go by node",
        );
    }
    regions
}

/// Our region: the one named, else the one whose endpoints hold our bind address or host name.
fn region(
    view: &View<'_>,
    cross: &View<'_>,
    regions: &[Region],
    bind: SocketAddr,
    facts: &Facts,
    report: &mut Report,
) -> Option<String> {
    let named = view.at("region");
    if !cross.on() {
        return named.text();
    }
    if let Some(name) = named.text() {
        if !regions.iter().any(|r| r.name == name) {
            named.error(report, format!("no region is named {}", named.shown()));
        }
        return Some(name);
    }
    let ours = |endpoint: &String| match values::host_port(endpoint) {
        Some((host, port)) => {
            let short = host.split('.').next().unwrap_or("");
            let by_host = !facts.host.is_empty()
                && (facts.host.eq_ignore_ascii_case(&host)
                    || facts.host.eq_ignore_ascii_case(short));
            by_host
                || host
                    .parse()
                    .is_ok_and(|ip| SocketAddr::new(ip, port) == bind)
        }
        None => false,
    };
    let found = regions
        .iter()
        .find(|r| r.endpoints.iter().any(ours))
        .map(|r| r.name.clone());
    if found.is_none() && !regions.is_empty() {
        cross.error_in_run(facts.run, report, "no region's endpoints hold this host's name or bind address; name ours in `replication.region`");
    }
    found
}
