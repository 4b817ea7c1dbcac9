//! From the checked tree to the [`Plan`]: every rule that looks at more than one value.
//!
//! Owns: the cross-checks, and the making of every part of the plan, a file for each part of the
//! configuration. Called by [`crate::load`]; pure but for random keys where none is given.
//!
//! Invariants: all errors are found in one go, so a builder that meets a wrong value notes it and goes on
//! with the default; a plan leaves [`crate::load`] only if nothing was noted.
//!
//! Deliberately absent: whatever depends on the machine (CPUs, kernel, whether a file exists or an address
//! can be bound). That is judged at boot.
//!
//! Tested by `tests/wrong.rs` (texts), `tests/files.rs` (plans).

mod affinity;
mod identity;
mod instance;
mod replication;
mod routing;
mod security;
mod services;
mod session;
mod storage;
mod websocket;

use crate::document::Node;
use crate::plan::Plan;
use crate::report::Report;
use crate::view::View;

/// What the checks know beside the configuration.
pub(crate) struct Around<'a> {
    /// `run` needs what `check` lets pass.
    pub run: bool,
    /// Host name, if known.
    pub host: &'a str,
}

/// Builds the plan and notes every error on the way.
pub(crate) fn plan(root: &Node, around: &Around<'_>, report: &mut Report) -> Plan {
    let gateway = View::root(root).at("gateway");
    let listeners = instance::listeners(&gateway, report);
    let services = services::services(&gateway, around, report);
    let facts = Facts::new(&gateway, around, &listeners);
    let session = facts
        .session_on
        .then(|| session::session(&gateway, &facts, report));
    let rules = routing::rules(&gateway, &services, &facts, report);
    Plan {
        node: gateway
            .at("node")
            .text()
            .unwrap_or_else(|| facts.host.clone()),
        admin: instance::admin(&gateway, &listeners, report),
        runtime: instance::runtime(&gateway, report),
        limits: instance::limits(&gateway, report),
        jwt: instance::jwt(&gateway, report),
        access_log: instance::access_log(&gateway),
        shutdown: instance::shutdown(&gateway),
        websocket: websocket::websocket(&gateway, report),
        written: serde_json::Value::Null,
        metrics_endpoint: gateway.at("session.metrics.enabled").bool(),
        listeners,
        services,
        rules,
        session,
    }
}

pub use services::upstream;

/// What several checks ask for.
pub(crate) struct Facts {
    pub run: bool,
    pub host: String,
    /// Is `gateway.session` on?
    pub session_on: bool,
    /// Does any listener believe proxies?
    pub trusted_proxies: bool,
    /// Do sessions leave the process to where others read them?
    pub shared: bool,
    /// Are all listeners bound to loopback?
    pub loopback: bool,
    /// Does any listener end TLS?
    pub tls: bool,
}

impl Facts {
    fn new(gateway: &View<'_>, around: &Around<'_>, listeners: &[crate::plan::Listener]) -> Self {
        let session = gateway.at("session");
        let replication = session.at("replication");
        Self {
            run: around.run,
            host: around.host.to_owned(),
            session_on: session.on(),
            trusted_proxies: listeners.iter().any(|l| !l.trusted_proxies.is_empty()),
            shared: session
                .at("storage.type")
                .text()
                .is_some_and(|t| t != "memory")
                || replication::on(&replication),
            loopback: listeners.iter().all(|l| l.address.ip().is_loopback()),
            tls: listeners.iter().any(|l| !l.tls.is_empty()),
        }
    }
}
