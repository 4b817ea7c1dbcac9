//! Where sessions are kept.

use std::path::PathBuf;

use super::Facts;
use crate::plan::*;
use crate::report::Report;
use crate::view::View;

pub(super) fn storage(session: &View<'_>, facts: &Facts, report: &mut Report) -> Storage {
    let view = session.at("storage");
    let kind = view.at("type").text().unwrap_or_default();
    for (block, of) in [("redis", "redis"), ("database", "database")] {
        // Replication by Redis reads the block too.
        let used =
            block == "redis" && session.at("replication.method").text().as_deref() == Some("redis");
        if view.at(block).written() && kind != of && !used {
            view.at(block)
                .warn(report, format!("has no effect: storage.type is {kind}"));
        }
    }
    let (max_sessions, eviction) = bound(session);
    let snapshot = view.at("memory.snapshot");
    if snapshot.written() && kind != "memory" {
        snapshot.warn(report, format!("has no effect: storage.type is {kind}"));
    }
    Storage {
        kind: match kind.as_str() {
            "redis" => StorageKind::Redis(redis(&view.at("redis"), report)),
            "database" => StorageKind::Postgres(postgres(&view.at("database"), facts, report)),
            _ => StorageKind::Memory,
        },
        max_sessions,
        max_bytes: view.at("memory.maxBytes").size(),
        eviction,
        snapshot: snapshot
            .at("path")
            .text()
            .map(|path| (PathBuf::from(path), snapshot.at("interval").duration())),
        reject_on_failure: view.at("onFailure").text().as_deref() == Some("reject"),
        fence: view.at("fence").duration(),
        lookup_timeout: view.at("lookupTimeout").duration(),
        replay_window: view.at("replayWindow").duration(),
        gone_after: view.at("goneAfter").duration(),
        queue_bytes: view.at("queueBytes").size(),
    }
}

/// Of several `maxSessions` the smallest wins, and its policy with it.
fn bound(session: &View<'_>) -> (usize, Eviction) {
    let memory = session.at("storage.memory");
    let policy = |v: &View<'_>| match v.text().as_deref() {
        Some("lfu") => Eviction::Lfu,
        Some("ttl") => Eviction::Ttl,
        _ => Eviction::Lru,
    };
    let own = policy(&memory.at("evictionPolicy"));
    let mut best = (memory.at("maxSessions").int(), own);
    let mut written = memory.at("maxSessions").written();
    for strategy in session.at("lifecycle.cleanup.strategies").items() {
        if strategy.at("type").text().as_deref() != Some("maxSessions") {
            continue;
        }
        let evict = strategy.at("evictPolicy");
        let max = strategy.at("maxSessions").int();
        // A default is no wish: what was written wins over it, also where it is larger.
        if max < best.0 || !written {
            best = (
                max,
                if evict.node().is_some() {
                    policy(&evict)
                } else {
                    own
                },
            );
            written = true;
        }
    }
    best
}

pub(super) fn redis(view: &View<'_>, report: &mut Report) -> Redis {
    let cluster = view.at("cluster").bool();
    let sentinel = view.at("sentinel.master").text();
    let db: u32 = view.at("db").int();
    let replication = view.at("replication").on();
    if cluster && db != 0 {
        view.at("db")
            .error(report, format!("a cluster has only database 0, found {db}"));
    }
    if cluster && sentinel.is_some() {
        view.at("sentinel").error(
            report,
            "is written beside `cluster: true`; expected one of the two",
        );
    }
    if (cluster || sentinel.is_some()) && !replication {
        let name = if cluster { "cluster" } else { "sentinel" };
        view.at(name).warn(
            report,
            "without `replication.enabled` a failover may lose what was just written, a logout too",
        );
    }
    let addresses = view.at("addresses").texts();
    if view.at("addresses").empty_list() {
        view.at("addresses")
            .error(report, "at least one address is needed");
    }
    let tls = view.at("tls");
    Redis {
        addresses,
        cluster,
        sentinel,
        username: view.at("username").text(),
        password: view.at("password").secret(),
        db,
        key_prefix: view.at("keyPrefix").text().unwrap_or_default(),
        tls: tls.bool_if_written().unwrap_or(tls.written()),
        tls_server_name: tls.at("serverName").text(),
        tls_ca: tls.at("ca").text().map(PathBuf::from),
        replication,
        replicas: view.at("replication.replicas").int(),
        replication_async: view.at("replication.async").bool(),
    }
}

fn postgres(view: &View<'_>, facts: &Facts, report: &mut Report) -> Postgres {
    let dsn = view.at("dsn");
    if !dsn.written() {
        dsn.error_in_run(facts.run, report, "a database needs its connection string");
    }
    Postgres {
        dsn: dsn.secret().unwrap_or(Secret(Vec::new())),
        table: view.at("table").text().unwrap_or_default(),
        cleanup_interval: view.at("cleanupInterval").duration(),
        cleanup_batch_size: view.at("cleanupBatchSize").int(),
        partition_key: view.at("partitionKey").text(),
    }
}
