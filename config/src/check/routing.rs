//! Rules: which request goes where.

use super::{Facts, affinity};
use crate::plan::*;
use crate::report::Report;
use crate::view::View;

pub(super) fn rules(
    gateway: &View<'_>,
    services: &[Service],
    facts: &Facts,
    report: &mut Report,
) -> Vec<Rule> {
    let router = gateway.at("router");
    let base = router.at("sessionAffinity");
    let several = services.len() > 1;
    // The router's own block is judged once here, also where every rule overrides it.
    let of_router = affinity::affinity(gateway, &base, facts, report);
    let view = router.at("rules");
    let items = view.items();
    if items.is_empty() {
        if several {
            let at = if view.written() {
                view
            } else {
                gateway.at("services")
            };
            at.error(
                report,
                "several services need `gateway.router.rules` to choose between them",
            );
        }
        return match services.len() {
            1 => vec![Rule {
                id: "default".into(),
                path: "/".into(),
                prefix: true,
                host: None,
                methods: Vec::new(),
                service: 0,
                affinity: of_router,
            }],
            _ => Vec::new(),
        };
    }
    let mut rules: Vec<Rule> = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let service = service(item, services, facts, report);
        let affinity =
            affinity::of_rule(gateway, &base, &item.at("sessionAffinity"), facts, report);
        let mut rule = rule(item, i, service.unwrap_or(0), report);
        rule.affinity = affinity;
        if rules.iter().any(|r| r.id == rule.id) {
            let id = item.at("id");
            id.error(
                report,
                if id.written() {
                    format!("another rule has the id {} already", id.shown())
                } else {
                    format!(
                        "needs an `id`: another rule has {:?}, which is its own by position",
                        rule.id
                    )
                },
            );
        }
        if rules.iter().any(|r| {
            (&r.path, r.prefix, &r.host, &r.methods)
                == (&rule.path, rule.prefix, &rule.host, &rule.methods)
        }) {
            item.warn(
                report,
                "an earlier rule has the same path, host and methods: this one never matches",
            );
        }
        // In `check` a rule may name a service that another file defines.
        if service.is_some() {
            rules.push(rule);
        }
    }
    // Stable, so that equals stay in the order of the file.
    rules.sort_by_key(|r| {
        std::cmp::Reverse((
            r.path.trim_end_matches('/').len(),
            !r.prefix,
            host_rank(r),
            !r.methods.is_empty(),
        ))
    });
    rules
}

/// Exact hosts before longer wildcards before shorter ones before none.
fn host_rank(rule: &Rule) -> usize {
    match rule.host.as_deref() {
        None => 0,
        Some(h) if h.starts_with("*.") => h.len(),
        Some(_) => usize::MAX,
    }
}

fn service(
    item: &View<'_>,
    services: &[Service],
    facts: &Facts,
    report: &mut Report,
) -> Option<usize> {
    let view = item.at("serviceName");
    let Some(name) = view.text() else {
        if services.len() > 1 && !view.written() {
            item.error(
                report,
                "`serviceName` is required where there are several services",
            );
        }
        return (!services.is_empty()).then_some(0);
    };
    let found = services.iter().position(|s| s.name == name);
    if found.is_none() && view.node().is_some() {
        let names = services.iter().map(|s| s.name.as_str());
        let hint = crate::keys::nearest(&name, names)
            .map(|n| format!("; did you mean {n}?"))
            .unwrap_or_default();
        view.error_in_run(
            facts.run,
            report,
            format!("no service is named {}{hint}", view.shown()),
        );
    }
    found
}

fn rule(item: &View<'_>, index: usize, service: usize, report: &mut Report) -> Rule {
    let path_view = item.at("path");
    let text = path_view.text().unwrap_or_else(|| "/*".into());
    let (path, prefix) = match text.strip_suffix("/*") {
        Some(path) => (path, true),
        None => (text.as_str(), false),
    };
    if path
        .split('/')
        .any(|segment| segment == "." || segment == "..")
    {
        path_view.error(
            report,
            "dot segments are resolved before rules are matched: this one never matches",
        );
    }
    Rule {
        id: item
            .at("id")
            .text()
            .unwrap_or_else(|| format!("rule-{}", index + 1)),
        path: if path.is_empty() {
            "/".into()
        } else {
            path.to_owned()
        },
        prefix,
        host: item.at("host").text().map(|h| h.to_ascii_lowercase()),
        methods: item
            .at("methods")
            .texts()
            .iter()
            .map(|m| m.to_ascii_uppercase())
            .collect(),
        service,
        affinity: None,
    }
}
