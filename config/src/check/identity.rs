//! Where a client's token is found, and the rules of its cookie.

use std::time::Duration;

use super::Facts;
use crate::plan::*;
use crate::report::Report;
use crate::units::show_duration;
use crate::values;
use crate::view::View;

/// Name of the session cookie where none is written.
pub(super) const COOKIE_NAME: &str = "gateway-session";

pub(super) fn sources(
    view: &View<'_>,
    ttl: Duration,
    facts: &Facts,
    report: &mut Report,
) -> Vec<Source> {
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
    if list.empty_list() {
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
    cookie_errors(item, &cookie, report);
    if item.at("domain").written() {
        item.at("domain").warn(
            report,
            "sends the session cookie to every host below the domain",
        );
    }
    if max_age.is_some_and(|d| !ttl.is_zero() && d > ttl) {
        item.at("maxAge").warn(
            report,
            format!("is longer than a session lives ({})", show_duration(ttl)),
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

fn cookie_errors(item: &View<'_>, cookie: &SessionCookie, report: &mut Report) {
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
