//! Identity, time, creation, data and attributes of sessions.

use std::time::Duration;

use super::{Facts, identity, replication, security, storage};
use crate::document::Value;
use crate::expression;
use crate::plan::*;
use crate::report::Report;
use crate::values;
use crate::view::View;

/// Lifetime where no strategy says another.
const DEFAULT_TTL: Duration = Duration::from_secs(24 * 3600);
/// Longest `touchInterval: auto`.
const MAX_TOUCH: Duration = Duration::from_secs(60);

pub(super) fn session(gateway: &View<'_>, facts: &Facts, report: &mut Report) -> Session {
    let view = gateway.at("session");
    let times = times(&view, report);
    let sources = identity::sources(&view, times.ttl, facts, report);
    let subject = subject(&view);
    let data = data(&view, &subject, report);
    let security = security::security(&view, facts, report);
    let creation = creation(&view, &data, &security, report);
    let storage = storage::storage(&view, facts, report);
    let per_subject = view.at("limits.sessionsPerSubject");
    let collect = view.at("metrics.collect");
    let emit = view.at("events.emit");
    Session {
        sources,
        timeout: times.timeout,
        rolling: times.rolling,
        ttl: times.ttl,
        touch_interval: times.touch,
        creation,
        cleanup: Cleanup {
            inactive: times.inactive,
            interval: view.at("lifecycle.cleanup.interval").duration(),
            batch_size: view.at("lifecycle.cleanup.batchSize").int(),
        },
        data,
        from_auth: from_auth(gateway, &view, report),
        from_headers: from_headers(&view, facts, report),
        computed: computed(&view, report),
        forward: forward(&view),
        security,
        sessions_per_subject: per_subject.at("max").int(),
        sessions_per_subject_reject: per_subject.at("on").text().as_deref() == Some("reject"),
        metrics: Metrics {
            enabled: view.at("metrics.enabled").bool(),
            collect: collect.node().map(|_| collect.texts()),
        },
        events: Events {
            emit: emit.node().map(|_| emit.texts()),
            webhook: view.at("events.handlers.webhook.url").text(),
            webhook_secret: view.at("events.handlers.webhook.secret").secret(),
        },
        replication: replication::replication(&view, facts, &storage, report),
        storage,
        subject,
    }
}

struct Times {
    timeout: Duration,
    rolling: bool,
    ttl: Duration,
    inactive: Duration,
    touch: Duration,
}

/// The earliest of `options.timeout`, `inactive` and `ttl` wins; zero is none.
fn times(view: &View<'_>, report: &mut Report) -> Times {
    let options = view.at("options");
    let rolling = options.at("rolling").bool();
    let mut timeout = options.at("timeout").duration();
    let mut ttl = None;
    let mut inactive = Duration::ZERO;
    for strategy in view.at("lifecycle.cleanup.strategies").items() {
        let kind = strategy.at("type").text().unwrap_or_default();
        for (key, of) in [
            ("ttl", "ttl"),
            ("inactiveTime", "inactive"),
            ("maxSessions", "maxSessions"),
            ("evictPolicy", "maxSessions"),
        ] {
            if strategy.at(key).written() && kind != of && strategy.at("type").node().is_some() {
                strategy.at(key).error(
                    report,
                    format!("belongs to a strategy of type {of}, found in one of type {kind}"),
                );
            }
        }
        match kind.as_str() {
            "ttl" => {
                ttl = Some(earliest(
                    ttl.unwrap_or(Duration::ZERO),
                    strategy.at("ttl").duration(),
                ))
            }
            "inactive" => inactive = earliest(inactive, strategy.at("inactiveTime").duration()),
            _ => {}
        }
    }
    let ttl = ttl.unwrap_or(DEFAULT_TTL);
    if rolling {
        timeout = earliest(timeout, inactive);
        inactive = Duration::ZERO;
    }
    timeout = earliest(timeout, ttl);
    if timeout.is_zero() && inactive.is_zero() {
        options.at("timeout").warn(
            report,
            "no timeout and no ttl: sessions end only when they are destroyed or evicted",
        );
    }
    let touch = options.at("touchInterval");
    let automatic = if timeout.is_zero() {
        MAX_TOUCH
    } else {
        (timeout / 10).min(MAX_TOUCH)
    };
    if let Some(d) = touch.duration_if_written()
        && !timeout.is_zero()
        && d > timeout
    {
        touch.warn(
            report,
            "is longer than the timeout: other instances keep idle sessions for that much longer",
        );
    }
    Times {
        timeout,
        rolling,
        ttl,
        inactive,
        touch: touch.duration_if_written().unwrap_or(automatic),
    }
}

/// The smaller of two, where zero is none.
fn earliest(a: Duration, b: Duration) -> Duration {
    match (a.is_zero(), b.is_zero()) {
        (true, _) => b,
        (_, true) => a,
        _ => a.min(b),
    }
}

/// `subject`, else the attribute that the claim `sub` goes to, else `userId`.
fn subject(view: &View<'_>) -> String {
    let of_sub = || {
        let mapped = view.at("attributes.fromAuth").items();
        mapped
            .iter()
            .find(|m| m.at("claim").text().as_deref() == Some("sub"))
            .and_then(|m| m.at("attribute").text())
    };
    view.at("subject")
        .text()
        .or_else(of_sub)
        .unwrap_or_else(|| "userId".into())
}

fn creation(view: &View<'_>, data: &Data, security: &Security, report: &mut Report) -> Creation {
    let creation = view.at("lifecycle.creation");
    let triggers = creation.at("triggers");
    let words = triggers.texts();
    if triggers.empty_list() {
        triggers.warn(report, "no trigger: only the API creates sessions");
    }
    let confirm = creation.at("confirm");
    let signed = !security.token_keys.is_empty();
    if confirm.bool_or_auto() == Some(true) && !signed {
        confirm.error(
            report,
            "needs `security.encryption.id`: a token that is kept nowhere must be signed",
        );
    }
    let defaults = defaults(&creation.at("defaults"));
    let length: usize = defaults
        .iter()
        .map(|(name, json)| name.len() + json.len() + 4)
        .sum();
    if length > data.max_size {
        creation
            .at("defaults")
            .error(report, format!("is {length} bytes, more than data.maxSize"));
    }
    let has = |word: &str| words.iter().any(|w| w == word);
    Creation {
        first_request: has("firstRequest"),
        authentication: has("authentication"),
        explicit_create: has("explicitCreate"),
        confirm: confirm.bool_or_auto().unwrap_or(signed),
        limit: creation.at("limit").rate(),
        defaults,
    }
}

fn defaults(view: &View<'_>) -> Vec<(String, String)> {
    match view.node().map(|n| &n.value) {
        Some(Value::Map(entries)) => entries
            .iter()
            .map(|e| (e.key.clone(), values::to_json(&e.node).to_string()))
            .collect(),
        _ => Vec::new(),
    }
}

fn data(view: &View<'_>, subject: &str, report: &mut Report) -> Data {
    let data = view.at("data");
    let fields = data.at("fields").node().map(|_| data.at("fields").texts());
    let mut index = data.at("index").texts();
    let attributes: Vec<String> = ["attributes.fromAuth", "attributes.fromHeaders"]
        .iter()
        .flat_map(|list| view.at(list).items())
        .filter_map(|item| item.at("attribute").text())
        .collect();
    for name in &index {
        if fields.as_ref().is_some_and(|f| !f.contains(name)) && !attributes.contains(name) {
            data.at("index").warn(
                report,
                format!("{name:?} is neither in `fields` nor an attribute, so no session has it"),
            );
        }
    }
    if !index.iter().any(|name| name == subject) {
        index.push(subject.to_owned());
    }
    Data {
        fields,
        max_size: data.at("maxSize").usize(),
        index,
    }
}

fn pairs(view: &View<'_>, first: &str, second: &str) -> Vec<(String, String)> {
    view.items()
        .iter()
        .filter_map(|item| Some((item.at(first).text()?, item.at(second).text()?)))
        .collect()
}

fn from_auth(gateway: &View<'_>, view: &View<'_>, report: &mut Report) -> Vec<(String, String)> {
    let list = view.at("attributes.fromAuth");
    if !list.items().is_empty() && !gateway.at("auth.jwt").written() {
        list.warn(report, "has no effect without `gateway.auth.jwt`");
    }
    twice(&list, report);
    let subject = subject(view);
    let found = pairs(&list, "claim", "attribute");
    if !found.is_empty() && !found.iter().any(|(_, attribute)| *attribute == subject) {
        let message =
            format!("no claim sets the subject {subject:?}: a token authenticates nobody");
        list.warn(report, message);
    }
    found
}

fn computed(view: &View<'_>, report: &mut Report) -> Vec<(String, String)> {
    let list = view.at("attributes.computed");
    twice(&list, report);
    let stored: Vec<String> = ["attributes.fromAuth", "attributes.fromHeaders"]
        .iter()
        .flat_map(|list| view.at(list).items())
        .filter_map(|item| item.at("attribute").text())
        .collect();
    for item in list.items() {
        let attribute = item.at("attribute");
        if attribute.text().is_some_and(|name| stored.contains(&name)) {
            let shown = attribute.shown();
            let message = format!("{shown} comes from a token or a header already");
            attribute.error(report, message);
        }
        let expression = item.at("expression");
        if let Some(Err(error)) = expression.text().map(|text| expression::compile(&text)) {
            expression.error(report, error.to_string());
        }
    }
    pairs(&list, "attribute", "expression")
}

fn from_headers(
    view: &View<'_>,
    facts: &Facts,
    report: &mut Report,
) -> Vec<(String, String, bool)> {
    let list = view.at("attributes.fromHeaders");
    twice(&list, report);
    let mut found = Vec::new();
    for item in list.items() {
        let any = item.at("trust").text().as_deref() == Some("any");
        if any {
            item.at("trust")
                .warn(report, "any lets every client choose the attribute");
        } else if !facts.trusted_proxies {
            item.at("header").warn(
                report,
                "has no effect: no listener has `trustedProxies`, and `trust: any` is not written",
            );
        }
        if let (Some(header), Some(attribute)) =
            (item.at("header").text(), item.at("attribute").text())
        {
            found.push((header.to_ascii_lowercase(), attribute, any));
        }
    }
    found
}

/// Two sources of one attribute in a list would overwrite each other.
fn twice(list: &View<'_>, report: &mut Report) {
    let mut seen: Vec<String> = Vec::new();
    for item in list.items() {
        let Some(name) = item.at("attribute").text() else {
            continue;
        };
        if seen.contains(&name) {
            item.at("attribute").error(
                report,
                format!(
                    "{} is set by another item of the list already",
                    item.at("attribute").shown()
                ),
            );
        }
        seen.push(name);
    }
}

fn forward(view: &View<'_>) -> Option<Forward> {
    let forward = view.at("forward");
    forward.at("enabled").bool().then(|| Forward {
        prefix: forward.at("prefix").text().unwrap_or_default(),
        max_header: forward.at("maxHeader").usize(),
    })
}
