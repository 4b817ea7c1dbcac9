//! Identity, time, creation, data and attributes of sessions.

use std::time::Duration;

use super::{Facts, replication, security, storage};
use crate::document::Value;
use crate::plan::*;
use crate::report::Report;
use crate::values;
use crate::view::View;

/// Name of the session cookie where none is written.
pub(super) const COOKIE_NAME: &str = "gateway-session";
/// Lifetime where no strategy says another.
const DEFAULT_TTL: Duration = Duration::from_secs(24 * 3600);
/// Longest `touchInterval: auto`.
const MAX_TOUCH: Duration = Duration::from_secs(60);

pub(super) fn session(gateway: &View<'_>, facts: &Facts, report: &mut Report) -> Session {
    let view = gateway.at("session");
    let times = times(&view, report);
    let sources = sources(&view, times.ttl, facts, report);
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
        computed: pairs(&view.at("attributes.computed"), "attribute", "expression"),
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

fn sources(view: &View<'_>, ttl: Duration, facts: &Facts, report: &mut Report) -> Vec<Source> {
    let identifier = view.at("identifier");
    let list = identifier.at("sources");
    if !list.written() {
        return vec![source(view, &identifier, ttl, facts, report)];
    }
    for single in [
        "type",
        "name",
        "domain",
        "path",
        "sameSite",
        "maxAge",
        "partitioned",
        "generateIfMissing",
    ] {
        let single = identifier.at(single);
        if single.written() {
            single.error(
                report,
                "is written beside `sources`; expected one source or a list, not both",
            );
        }
    }
    let items = list.items();
    if list.node().is_some() && items.is_empty() {
        list.error(report, "at least one source is needed");
    }
    let mut sources: Vec<(i64, Source)> = Vec::new();
    let mut seen: Vec<(i64, bool)> = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let priority = item.at("priority");
        let written = priority.node().is_some();
        let number = if written {
            priority.int()
        } else {
            i64::try_from(i + 1).unwrap_or(i64::MAX)
        };
        if written && seen.contains(&(number, true)) {
            priority.error(
                report,
                format!("another source has the priority {number} already"),
            );
        }
        seen.push((number, written));
        if item.at("type").node().is_none() {
            continue;
        }
        let source = source(view, item, ttl, facts, report);
        if sources.iter().any(|(_, s)| same_source(s, &source)) {
            item.error(report, "another source has the same type and name already");
        }
        sources.push((number, source));
    }
    sources.sort_by_key(|s| s.0);
    sources.into_iter().map(|s| s.1).collect()
}

fn same_source(a: &Source, b: &Source) -> bool {
    match (a, b) {
        (Source::Cookie(a), Source::Cookie(b)) => a.name == b.name,
        (Source::Header { name: a, .. }, Source::Header { name: b, .. }) => {
            a.eq_ignore_ascii_case(b)
        }
        (Source::Query { name: a }, Source::Query { name: b }) => a == b,
        _ => false,
    }
}

fn source(
    view: &View<'_>,
    item: &View<'_>,
    ttl: Duration,
    facts: &Facts,
    report: &mut Report,
) -> Source {
    let kind = item.at("type").text().unwrap_or_default();
    for key in ["domain", "path", "sameSite", "maxAge", "partitioned"] {
        if kind != "cookie" && item.at(key).written() {
            item.at(key).error(
                report,
                format!("belongs to a source of type cookie, found in one of type {kind}"),
            );
        }
    }
    let generate = item.at("generateIfMissing");
    if kind != "header" && generate.written() {
        generate.error(
            report,
            format!("belongs to a source of type header, found in one of type {kind}"),
        );
    }
    let name = item.at("name");
    let named = |default: &str| name.text().unwrap_or_else(|| default.into());
    match kind.as_str() {
        "header" => {
            let text = named("X-Session-ID");
            if !values::is_token_text(&text) {
                name.error(
                    report,
                    format!(
                        "expected a header name such as X-Session-ID, found {}",
                        name.shown()
                    ),
                );
            }
            Source::Header {
                name: text,
                generate_if_missing: generate.bool(),
            }
        }
        "query" => {
            let text = named("sid");
            if !values::is_parameter(&text) {
                name.error(report, format!("expected a parameter name of letters, digits, `.`, `_`, `~` and `-`, found {}", name.shown()));
            }
            Source::Query { name: text }
        }
        _ => Source::Cookie(cookie(view, item, named(COOKIE_NAME), ttl, facts, report)),
    }
}

fn cookie(
    view: &View<'_>,
    item: &View<'_>,
    name: String,
    ttl: Duration,
    facts: &Facts,
    report: &mut Report,
) -> SessionCookie {
    let max_age = item
        .at("maxAge")
        .duration_if_written()
        .filter(|d| !d.is_zero());
    let cookie = SessionCookie {
        name,
        domain: item.at("domain").text().map(|d| d.to_ascii_lowercase()),
        path: item.at("path").text().unwrap_or_default(),
        same_site: same_site(&item.at("sameSite")),
        max_age: max_age.map(|d| d.as_secs()),
        secure: view.at("options.secure").bool(),
        http_only: view.at("options.httpOnly").bool(),
        partitioned: item.at("partitioned").bool(),
    };
    if !values::is_token_text(&cookie.name) {
        item.at("name").error(
            report,
            format!(
                "expected a cookie name without spaces or separators, found {}",
                item.at("name").shown()
            ),
        );
    }
    if cookie.same_site == SameSite::None && !cookie.secure {
        item.at("sameSite").error(
            report,
            "none needs `options.secure: true`: browsers refuse such a cookie otherwise",
        );
    }
    if cookie.partitioned && !cookie.secure {
        item.at("partitioned").error(
            report,
            "needs `options.secure: true`: browsers refuse such a cookie otherwise",
        );
    }
    cookie_name(
        &item.at("name"),
        &cookie.name,
        cookie.secure,
        &cookie.path,
        cookie.domain.as_deref(),
        "options.secure",
        report,
    );
    if item.at("domain").written() {
        item.at("domain").warn(
            report,
            "sends the session cookie to every host below the domain",
        );
    }
    if max_age.is_some_and(|d| !ttl.is_zero() && d > ttl) {
        item.at("maxAge").warn(
            report,
            format!(
                "is longer than a session lives ({})",
                crate::units::show_duration(ttl)
            ),
        );
    }
    if cookie.secure && !facts.tls && !facts.trusted_proxies && !facts.loopback {
        let at = if view.at("options.secure").written() {
            view.at("options.secure")
        } else {
            item.clone()
        };
        at.warn(report, "secure cookies, but no listener has `tls` or `trustedProxies`: over plain HTTP no session is kept, except on loopback");
    }
    cookie
}

pub(super) fn same_site(view: &View<'_>) -> SameSite {
    match view.text().as_deref() {
        Some("strict") => SameSite::Strict,
        Some("none") => SameSite::None,
        _ => SameSite::Lax,
    }
}

/// The rules of the `__Host-` and `__Secure-` name prefixes (RFC 6265bis, section 4.1.3), without regard to case.
pub(super) fn cookie_name(
    at: &View<'_>,
    name: &str,
    secure: bool,
    path: &str,
    domain: Option<&str>,
    secure_key: &str,
    report: &mut Report,
) {
    let lower = name.to_ascii_lowercase();
    let host = lower.starts_with("__host-");
    if (host || lower.starts_with("__secure-")) && !secure {
        let prefix = if host { "__Host-" } else { "__Secure-" };
        at.error(
            report,
            format!("a cookie named {prefix} needs `{secure_key}: true`"),
        );
    }
    if host && domain.is_some() {
        at.error(report, "a cookie named __Host- must not have a `domain`");
    }
    if host && path != "/" {
        at.error(report, "a cookie named __Host- needs the path /");
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
    if words.is_empty() {
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
    pairs(&list, "claim", "attribute")
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
