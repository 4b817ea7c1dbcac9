//! What a reload changes: which of it needs a restart instead, and in what words the rest is told.
//!
//! Owns nothing; pure, for any thread. Invariants: no text holds a value of the configuration but names of
//! services, upstreams and listeners, so it may be logged; what can't be changed in a running process is
//! refused as a whole, and all of it is named at once. Tested below.

use std::collections::BTreeSet;

use holdfast_config::plan::{Plan, Session};

/// What `new` changes that this process can't: one line each, for the operator.
pub fn needs_restart(old: &Plan, new: &Plan) -> Vec<String> {
    let mut errors = Vec::new();
    let mut refuse = |changed: bool, key: &str| {
        if changed {
            errors.push(format!(
                "gateway.{key}: a change of it takes effect only with a restart"
            ));
        }
    };
    let (was, is) = (&old.runtime, &new.runtime);
    refuse(old.node != new.node, "node");
    refuse(was.cores != is.cores, "runtime.cores");
    refuse(
        was.replication_cpu != is.replication_cpu,
        "runtime.replicationCore",
    );
    refuse(was.ring != is.ring, "runtime.ring");
    refuse(was.steer_by_cpu != is.steer_by_cpu, "runtime.steering");
    refuse(was.busy_poll != is.busy_poll, "runtime.busyPoll");
    let address = |plan: &Plan| plan.admin.as_ref().map(|admin| admin.address);
    refuse(
        address(old).is_some() != address(new).is_some(),
        "admin.enabled",
    );
    if let (Some(was), Some(is)) = (address(old), address(new)) {
        refuse(was != is, "admin.address");
    }
    if let (Some(was), Some(is)) = (&old.session, &new.session) {
        refuse(was.storage.kind != is.storage.kind, "session.storage");
        refuse(
            was.storage.snapshot != is.storage.snapshot,
            "session.storage.memory.snapshot",
        );
        refuse(was.replication != is.replication, "session.replication");
    }
    errors
}

/// What `new` changes, in a few words each; empty if nothing.
pub fn told(old: &Plan, new: &Plan) -> Vec<String> {
    let mut words = Vec::new();
    listeners(old, new, &mut words);
    services(old, new, &mut words);
    let mut note = |changed: bool, what: &str| {
        if changed {
            words.push(what.to_owned());
        }
    };
    note(old.rules != new.rules, "rules");
    note(old.limits != new.limits, "limits");
    note(
        old.runtime.max_connections != new.runtime.max_connections
            || old.runtime.migrate_connections != new.runtime.migrate_connections,
        "runtime",
    );
    note(session(old) != session(new), "session");
    note(old.websocket != new.websocket, "websocket");
    note(old.jwt != new.jwt, "auth");
    note(old.access_log != new.access_log, "access log");
    note(old.shutdown != new.shutdown, "shutdown");
    note(old.admin != new.admin, "admin token");
    words
}

fn session(plan: &Plan) -> (Option<&Session>, bool) {
    (plan.session.as_ref(), plan.metrics_endpoint)
}

fn listeners(old: &Plan, new: &Plan, words: &mut Vec<String>) {
    let addresses = |plan: &Plan| -> BTreeSet<String> {
        let of = |l: &holdfast_config::plan::Listener| l.address.to_string();
        plan.listeners.iter().map(of).collect()
    };
    let (was, is) = (addresses(old), addresses(new));
    let before = words.len();
    words.extend(is.difference(&was).map(|a| format!("listener +{a}")));
    words.extend(was.difference(&is).map(|a| format!("listener -{a}")));
    if before == words.len() && old.listeners != new.listeners {
        words.push("listeners".to_owned());
    }
}

fn services(old: &Plan, new: &Plan, words: &mut Vec<String>) {
    for service in &new.services {
        let Some(was) = old.services.iter().find(|s| s.name == service.name) else {
            words.push(format!("service +{}", service.name));
            continue;
        };
        if was == service {
            continue;
        }
        let mut text = format!("service {}", service.name);
        for upstream in &service.upstreams {
            match was.upstreams.iter().find(|u| u.id == upstream.id) {
                None => text.push_str(&format!(" +{}", upstream.id)),
                Some(was) if was != upstream => text.push_str(&format!(" ~{}", upstream.id)),
                Some(_) => {}
            }
        }
        for upstream in &was.upstreams {
            if !service.upstreams.iter().any(|u| u.id == upstream.id) {
                text.push_str(&format!(" -{}", upstream.id));
            }
        }
        words.push(text);
    }
    for service in &old.services {
        if !new.services.iter().any(|s| s.name == service.name) {
            words.push(format!("service -{}", service.name));
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_config::{Mode, Source, load};

    use super::*;

    fn plan(text: &str) -> Plan {
        let services = if text.contains("services:") {
            ""
        } else {
            "  services: [{ name: app, upstreams: [{ id: a, address: \"127.0.0.1:1\" }] }]\n"
        };
        let source = Source {
            name: "test".into(),
            text: format!("gateway:\n  node: n\n{services}{text}"),
        };
        let outcome = load(&[source], &|_| None, Mode::Run);
        outcome
            .plan
            .unwrap_or_else(|| panic!("{:?}", outcome.errors))
    }

    #[test]
    fn what_needs_a_restart_is_named_all_at_once() {
        let base = plan("");
        assert_eq!(needs_restart(&base, &base), Vec::<String>::new());
        for (text, keys) in [
            ("  runtime: { cores: 2 }\n", vec!["runtime.cores"]),
            (
                "  runtime: { ring: { entries: 256 } }\n",
                vec!["runtime.ring"],
            ),
            ("  runtime: { busyPoll: 1ms }\n", vec!["runtime.busyPoll"]),
            ("  runtime: { steering: cpu }\n", vec!["runtime.steering"]),
            (
                "  runtime: { replicationCore: 0 }\n",
                vec!["runtime.replicationCore"],
            ),
            (
                "  admin: { address: \"127.0.0.1:1\" }\n",
                vec!["admin.address"],
            ),
            ("  admin: { enabled: false }\n", vec!["admin.enabled"]),
            (
                "  runtime: { cores: 2, busyPoll: 1ms }\n  admin: { address: \"127.0.0.1:1\" }\n",
                vec!["runtime.cores", "runtime.busyPoll", "admin.address"],
            ),
            // These it can.
            ("  runtime: { maxConnections: 7 }\n", vec![]),
            ("  admin: { token: abcdefghijklmnopqrstuvwxyz }\n", vec![]),
            (
                "  listeners: [{ address: \"127.0.0.1:7\", proxyProtocol: true }]\n",
                vec![],
            ),
            ("  session: { options: { timeout: 1m } }\n", vec![]),
            ("  limits: { headers: 7 }\n", vec![]),
        ] {
            let expected: Vec<String> = keys
                .iter()
                .map(|key| {
                    format!("gateway.{key}: a change of it takes effect only with a restart")
                })
                .collect();
            assert_eq!(needs_restart(&base, &plan(text)), expected, "{text}");
        }
        let renamed = Plan {
            node: "other".into(),
            ..plan("")
        };
        assert_eq!(needs_restart(&base, &renamed).len(), 1);
    }

    #[test]
    fn what_changed_is_told_in_words() {
        let base = plan(
            "  listeners: [{ address: \"127.0.0.1:1\" }]
  services:
    - { name: app, upstreams: [{ id: a, address: \"127.0.0.1:1\" }, { id: b, address: \"127.0.0.1:2\" }] }
    - { name: old, upstreams: [{ id: a, address: \"127.0.0.1:1\" }] }
  router: { rules: [{ path: /, serviceName: app }, { path: /old, serviceName: old }] }
",
        );
        assert_eq!(told(&base, &base), Vec::<String>::new());
        let new = plan(
            "  listeners: [{ address: \"127.0.0.1:2\" }]
  services:
    - { name: new, upstreams: [{ id: a, address: \"127.0.0.1:1\" }] }
    - { name: app, upstreams: [{ id: a, address: \"127.0.0.1:9\" }, { id: c, address: \"127.0.0.1:2\" }] }
  router: { rules: [{ path: /, serviceName: app }, { path: /new, serviceName: new }] }
  limits: { headers: 7 }
  session: { data: { fields: [secretField] } }
  admin: { token: abcdefghijklmnopqrstuvwxyz }
  accessLog: { path: stdout }
  shutdown: { delay: 1s }
",
        );
        let words = told(&base, &new);
        let expected = [
            "listener +127.0.0.1:2",
            "listener -127.0.0.1:1",
            "service +new",
            "service app ~a +c -b",
            "service -old",
            "rules",
            "limits",
            "session",
            "access log",
            "shutdown",
            "admin token",
        ];
        assert_eq!(words, expected);
        let trusting = Plan {
            listeners: vec![holdfast_config::plan::Listener {
                raw_paths: true,
                ..base.listeners[0].clone()
            }],
            ..base.clone()
        };
        assert_eq!(told(&base, &trusting), ["listeners"]);
    }
}
