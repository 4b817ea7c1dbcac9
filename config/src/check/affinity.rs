//! Session affinity, the router's and a rule's over it.

use std::time::Duration;

use super::Facts;
use super::identity::{COOKIE_NAME, cookie_name, same_site};
use crate::document::{Node, Value};
use crate::merge::merge;
use crate::plan::*;
use crate::report::Report;
use crate::values::{self, Unavailable};
use crate::view::View;

/// The rule's block over the router's, key by key. A rule's block without `enabled` is on.
pub(super) fn of_rule(
    gateway: &View<'_>,
    base: &View<'_>,
    own: &View<'_>,
    facts: &Facts,
    report: &mut Report,
) -> Option<Affinity> {
    let Some(over) = own.node() else {
        // Errors of the router's block were noted once already; equal ones are noted once.
        return affinity(gateway, base, facts, report);
    };
    let mut under = base.node().cloned().unwrap_or_else(|| Node {
        value: Value::Map(Vec::new()),
        at: over.at,
    });
    if let Value::Map(entries) = &mut under.value {
        // These are one choice each: a part of the router's beside the rule's would mean neither.
        let chooses = |name: &str| over.get(name).is_some();
        let method = chooses("method") || chooses("methods");
        let is_header = |n: &Node| n.scalar().is_some_and(|s| s.text == "header");
        let by_header = over.get("method").is_some_and(is_header)
            || matches!(over.get("methods"), Some(Node { value: Value::List(l), .. }) if l.iter().any(is_header));
        entries.retain(|e| match e.key.as_str() {
            "enabled" => false,
            "method" | "methods" => !method,
            "headerName" => !method || by_header,
            "onUnavailable" => !chooses("onUnavailable"),
            _ => true,
        });
    }
    let merged = merge(under, over.clone());
    affinity(gateway, &own.with_node(&merged), facts, report)
}

pub(super) fn affinity(
    gateway: &View<'_>,
    view: &View<'_>,
    facts: &Facts,
    report: &mut Report,
) -> Option<Affinity> {
    if !view.on() {
        return None;
    }
    let methods = methods(view, facts, report);
    let encoding = match view.at("encoding").text().as_deref() {
        Some("plain") => PinEncoding::Plain,
        Some("hash") => PinEncoding::Hash,
        _ => PinEncoding::Secure,
    };
    let uses_cookie = methods.contains(&AffinityMethod::Cookie);
    let cookie = pin_cookie(gateway, view, report);
    if uses_cookie && encoding == PinEncoding::Plain {
        view.at("encoding")
            .warn(report, "plain lets a client choose its upstream");
    }
    if uses_cookie && encoding != PinEncoding::Plain && cookie.key.is_none() {
        view.at("cookie").warn(report, "no `key` and no session encryption key: pins get a random key, so they end with the process");
    }
    let duration = view
        .at("duration")
        .duration_if_written()
        .unwrap_or(Duration::from_secs(cookie.max_age));
    Some(Affinity {
        duration,
        max_life: view.at("maxLife").duration(),
        algorithm: algorithm(view, facts, report),
        on_unavailable: on_unavailable(&view.at("onUnavailable"), report),
        methods,
        cookie,
        encoding,
    })
}

fn methods(view: &View<'_>, facts: &Facts, report: &mut Report) -> Vec<AffinityMethod> {
    let one = view.at("method");
    let many = view.at("methods");
    if one.written() && many.written() {
        one.error(
            report,
            "is written beside `methods`; expected one of the two",
        );
    }
    let words = match one.text() {
        Some(word) => vec![word],
        None => many.texts(),
    };
    let at = if one.written() { &one } else { &many };
    if many.empty_list() {
        at.error(
            report,
            "at least one method is needed; `enabled: false` turns affinity off",
        );
    }
    let header = view.at("headerName");
    let mut methods = Vec::new();
    for word in &words {
        methods.push(match word.as_str() {
            "sourceIP" => AffinityMethod::SourceIp,
            "session" => AffinityMethod::Session,
            "header" => {
                AffinityMethod::Header(header.text().unwrap_or_default().to_ascii_lowercase())
            }
            _ => AffinityMethod::Cookie,
        });
    }
    if words.iter().any(|w| w == "header") {
        if !header.written() {
            at.error(report, "the method header needs `headerName`");
        }
    } else if header.written() {
        header.warn(report, "is not used: no method is `header`");
    }
    if words.iter().any(|w| w == "session") && !facts.session_on {
        at.error(report, "the method session needs `gateway.session`");
    }
    methods
}

fn pin_cookie(gateway: &View<'_>, view: &View<'_>, report: &mut Report) -> PinCookie {
    let cookie = view.at("cookie");
    let data_key = gateway
        .at("session.security.encryption.data.key")
        .secrets()
        .into_iter()
        .next();
    let pin = PinCookie {
        name: cookie.at("name").text().unwrap_or_default(),
        path: cookie.at("path").text().unwrap_or_default(),
        domain: cookie.at("domain").text().map(|d| d.to_ascii_lowercase()),
        max_age: cookie.at("maxAge").duration().as_secs(),
        secure: cookie.at("secure").bool(),
        same_site: same_site(&cookie.at("sameSite")),
        key: cookie.at("key").secret().or(data_key),
    };
    if pin.same_site == SameSite::None && !pin.secure {
        cookie.at("sameSite").error(
            report,
            "none needs `secure: true`: browsers refuse such a cookie otherwise",
        );
    }
    cookie_name(
        &cookie.at("name"),
        &pin.name,
        pin.secure,
        &pin.path,
        pin.domain.as_deref(),
        "cookie.secure",
        report,
    );
    let identifier = gateway.at("session.identifier");
    let session_cookie = |v: &View<'_>, kind: &View<'_>| {
        kind.text().as_deref() == Some("cookie")
            && v.at("name").text().unwrap_or_else(|| COOKIE_NAME.into()) == pin.name
    };
    let clash = identifier
        .at("sources")
        .items()
        .iter()
        .any(|s| session_cookie(s, &s.at("type")))
        || (!identifier.at("sources").written()
            && session_cookie(&identifier, &identifier.at("type")));
    if clash && gateway.at("session").on() {
        cookie
            .at("name")
            .error(report, "the session cookie has the same name");
    }
    pin
}

fn algorithm(view: &View<'_>, facts: &Facts, report: &mut Report) -> Option<Algorithm> {
    let block = view.at("algorithm");
    if !block.written() {
        return None;
    }
    Some(match block.at("type").text().as_deref() {
        Some("ip-hash") => {
            let forwarded = block.at("ipHash.useXForwardedFor");
            if forwarded.bool() && !facts.trusted_proxies {
                forwarded.warn(report, "no listener has `trustedProxies`: X-Forwarded-For is not believed, and the peer's address is used");
            }
            Algorithm::IpHash {
                use_x_forwarded_for: forwarded.bool(),
            }
        }
        Some("header-hash") => {
            let header = block.at("headerHash.header");
            if !header.written() {
                block
                    .at("type")
                    .error(report, "header-hash needs `headerHash.header`");
            }
            Algorithm::HeaderHash {
                header: header.text().unwrap_or_default().to_ascii_lowercase(),
            }
        }
        _ => {
            let bound = block.at("consistentHash.boundedLoad").float();
            Algorithm::ConsistentHash {
                replicas: block.at("consistentHash.replicas").int(),
                bounded_load: (bound > 0.0).then_some(bound),
            }
        }
    })
}

fn on_unavailable(view: &View<'_>, report: &mut Report) -> OnUnavailable {
    if let Some(node) = view.node()
        && let Value::Map(entries) = &node.value
    {
        if entries.len() != 1 {
            view.error(report, "expected one of `hold` and `reject`");
        }
        let hold = view.at("hold");
        if let Some(d) = hold.duration_if_written() {
            if d.is_zero() {
                hold.error(
                    report,
                    format!("expected more than 0, found {}", hold.shown()),
                );
            }
            return OnUnavailable::Hold(d);
        }
        return match view.at("reject").int::<u16>() {
            0 => OnUnavailable::Rebind,
            status => OnUnavailable::Reject(status),
        };
    }
    match view.parsed(values::on_unavailable) {
        Some(Unavailable::Hold(d)) => OnUnavailable::Hold(d),
        Some(Unavailable::Reject(status)) => OnUnavailable::Reject(status),
        None => OnUnavailable::Rebind,
    }
}
