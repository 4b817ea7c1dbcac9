//! Whether a value is what its key wants, and what is said when it is not.
//!
//! Owns: one parser for each form of text in the configuration, the judgement [`accept`], and [`shown`],
//! the only way in which a value gets into an error text. Pure.
//!
//! Invariant: [`shown`] never shows what came out of the environment, and nothing at all of a secret.
//!
//! Tested by the table of wrong configurations in `tests/wrong.rs`, and here for addresses.

mod forms;

use std::net::IpAddr;
use std::time::Duration;

pub(crate) use forms::{Unavailable, cidr, cpu_list, host_port, on_unavailable, socket, upstream};
use forms::{is_host, is_identifier, is_rule_path, is_token, is_url};

use serde_json::{Map, Value as Json};

use crate::document::{Node, Scalar, Value};
use crate::keys::{Form, Type, nearest};
use crate::plan::{LOG_FIELDS, LOG_FORMAT_JSON};
use crate::units;

/// Longest text of one value.
const MAX_TEXT: usize = 4096;
/// Longest piece of a value in an error text, in characters.
const MAX_SHOWN: usize = 60;
/// Most cores.
pub(crate) const MAX_CORES: usize = 1024;

/// Why a value is not accepted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// What was expected.
    pub wanted: String,
    /// What the writer may have meant.
    pub meant: Option<String>,
}

fn wanted<T>(text: impl Into<String>) -> Result<T, Problem> {
    Err(Problem {
        wanted: text.into(),
        meant: None,
    })
}

/// A value for an error text, from what was written: `"soon"`, `a list`.
pub(crate) fn shown(node: &Node) -> String {
    match &node.value {
        Value::Scalar(s) if s.is_null() => "nothing".into(),
        Value::Scalar(s) => quoted(s),
        _ => node.kind().into(),
    }
}

fn quoted(s: &Scalar) -> String {
    let text = s.template.as_deref().unwrap_or(&s.text);
    // A URL may hold a password, wherever it was put by mistake.
    if text.contains('@') {
        return "***".into();
    }
    let mut short: String = text.chars().take(MAX_SHOWN).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    if s.plain && s.template.is_none() && (s.boolean().is_some() || s.float().is_some()) {
        return short;
    }
    let what = format!("{short:?}");
    if s.template.is_some() {
        format!("what {what} stands for")
    } else {
        what
    }
}

/// A default of the key table as the node that it would be.
pub(crate) fn default_node(text: &str) -> Node {
    let mut report = crate::report::Report::default();
    let root = crate::document::parse(0, &format!("x: {text}"), &mut report);
    root.and_then(|r| r.get("x").cloned())
        .unwrap_or_else(|| Node::empty(0))
}

/// Does `node` have the form that `ty` wants? Blocks and lists of blocks are looked at only from outside.
pub(crate) fn accept(ty: Type, node: &Node) -> Result<(), Problem> {
    let scalar = node.scalar().filter(|s| !s.is_null());
    let is_map = matches!(node.value, Value::Map(_));
    let is_list = matches!(node.value, Value::List(_));
    let ok = |good: bool, text: &str| if good { Ok(()) } else { wanted(text) };
    match ty {
        Type::Map => ok(is_map, "a block of keys ({} for one with defaults)"),
        Type::Free => ok(is_map, "a block of names and values"),
        Type::List => ok(is_list, "a list of blocks"),
        Type::OneOrMany => ok(is_map || is_list, "a block of keys or a list of them"),
        Type::Bool => ok(scalar.and_then(Scalar::boolean).is_some(), "true or false"),
        Type::BoolOrAuto => ok(
            scalar.is_some_and(|s| s.text == "auto" || s.boolean().is_some()),
            "auto, true or false",
        ),
        Type::BoolOrMap => ok(
            is_map || scalar.and_then(Scalar::boolean).is_some(),
            "true, false or a block of keys",
        ),
        Type::Int(min, max) => ok(
            scalar
                .and_then(Scalar::integer)
                .is_some_and(|n| (min..=max).contains(&n)),
            &format!("a whole number from {min} to {max}"),
        ),
        Type::PowerOfTwo(min, max) => {
            let good = |n: i64| (min..=max).contains(&n) && n.count_ones() == 1;
            ok(
                scalar.and_then(Scalar::integer).is_some_and(good),
                &format!("a power of two from {min} to {max}"),
            )
        }
        Type::ZeroOrFloat(min) => {
            let good = |n: f64| n == 0.0 || (min..=1000.0).contains(&n);
            ok(
                scalar.and_then(Scalar::float).is_some_and(good),
                &format!("0, or a number from {min} to 1000"),
            )
        }
        Type::Text(form) => text_of(form, node),
        Type::Texts(_) | Type::Enums(_) => ok(is_list, "a list"),
        Type::Secret => ok(secret(scalar).is_some(), "text that is not empty"),
        Type::Secrets => {
            let list = match &node.value {
                Value::List(items) => {
                    !items.is_empty() && items.iter().all(|n| secret(n.scalar()).is_some())
                }
                _ => secret(scalar).is_some(),
            };
            ok(list, "text that is not empty, or a list of such")
        }
        Type::Enum(words) => word(words, scalar),
        Type::Duration => ok(
            duration(scalar).is_some(),
            "a duration such as 30s, 5m or 1h30m",
        ),
        Type::DurationOrAuto => ok(
            scalar.is_some_and(|s| s.text == "auto") || duration(scalar).is_some(),
            "auto, or a duration such as 30s, 5m or 1h30m",
        ),
        Type::Size(min, max) => {
            let good = size(scalar).is_some_and(|n| (min..=max).contains(&n));
            ok(
                good,
                &format!(
                    "a size from {} to {}, such as 8KB or 64MB",
                    units::show_size(min),
                    units::show_size(max)
                ),
            )
        }
        Type::Rate => ok(
            scalar.and_then(|s| units::rate(&s.text)).is_some(),
            "a rate such as 100/s or 20/m, or 0",
        ),
        Type::Cores => cores(node, scalar),
        Type::CpuOrAuto => ok(
            scalar.is_some_and(|s| s.text == "auto" || cpu(s).is_some()),
            "auto, or the number of a CPU",
        ),
        Type::Factor => ok(
            scalar.is_some_and(|s| {
                s.text == "all" || s.integer().is_some_and(|n| (2..=7).contains(&n))
            }),
            "all, or a number from 2 to 7",
        ),
        Type::OnUnavailable => {
            let good = is_map
                || scalar.is_some_and(|s| s.text == "rebind" || on_unavailable(&s.text).is_some());
            ok(good, "rebind, { hold: 10s } or { reject: 503 }")
        }
    }
}

/// The items of a list of texts or words, each judged.
pub(crate) fn accept_item(ty: Type, node: &Node) -> Result<(), Problem> {
    match ty {
        Type::Texts(form) => text_of(form, node),
        Type::Enums(words) => word(words, node.scalar().filter(|s| !s.is_null())),
        _ => Ok(()),
    }
}

fn word(words: &[&'static str], scalar: Option<&Scalar>) -> Result<(), Problem> {
    match scalar {
        Some(s) if words.contains(&s.text.as_str()) => Ok(()),
        // What the environment held is not echoed, not even by its nearest word.
        Some(s) if s.template.is_none() => Err(Problem {
            wanted: or(words),
            meant: nearest(&s.text, words.iter().copied())
                .map(str::to_owned)
                .filter(|_| words.len() > 1),
        }),
        _ => wanted(or(words)),
    }
}

/// `a, b or c`.
pub(crate) fn or(words: &[&str]) -> String {
    match words {
        [] => "nothing".into(),
        [one] => (*one).into(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

fn secret(scalar: Option<&Scalar>) -> Option<&str> {
    scalar
        .map(|s| s.text.as_str())
        .filter(|t| !t.is_empty() && t.len() <= MAX_TEXT)
}

/// The duration of a scalar, if it is one.
pub(crate) fn duration(scalar: Option<&Scalar>) -> Option<Duration> {
    scalar.and_then(|s| units::duration(&s.text))
}

/// The size of a scalar, if it is one.
pub(crate) fn size(scalar: Option<&Scalar>) -> Option<u64> {
    scalar.and_then(|s| units::size(&s.text))
}

/// The CPU of a scalar, if it is one.
pub(crate) fn cpu(scalar: &Scalar) -> Option<usize> {
    scalar
        .integer()
        .and_then(|n| usize::try_from(n).ok())
        .filter(|n| *n <= 4095)
}

fn cores(node: &Node, scalar: Option<&Scalar>) -> Result<(), Problem> {
    let good = match &node.value {
        Value::List(items) => !items.is_empty() && items.len() <= MAX_CORES,
        _ => scalar.is_some_and(|s| {
            s.text == "auto"
                || s.integer()
                    .is_some_and(|n| (1..=MAX_CORES as i64).contains(&n))
                || (s.integer().is_none() && cpu_list(&s.text).is_some())
        }),
    };
    if good {
        Ok(())
    } else {
        wanted(
            "auto, a count from 1 to 1024, a CPU list such as \"0-3,8\", or a list of blocks with `cpu`",
        )
    }
}

/// Text for a text key: quoted, filled in, or a plain number (kept as written); never a bare boolean.
pub(crate) fn text(node: &Node) -> Option<&str> {
    let s = node.scalar()?;
    let is_text = !s.is_null() && (!s.plain || s.expanded() || s.boolean().is_none());
    is_text.then_some(s.text.as_str())
}

fn text_of(form: Form, node: &Node) -> Result<(), Problem> {
    let expected = expected(form);
    let Some(text) = text(node) else {
        return wanted(expected);
    };
    if text.is_empty() || text.len() > MAX_TEXT || text.chars().any(char::is_control) {
        return wanted(expected);
    }
    let good = match form {
        Form::Any => true,
        Form::Name => {
            text.len() <= 128
                && text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        }
        Form::Socket => socket(text).is_some(),
        Form::HostPort => host_port(text).is_some(),
        Form::Upstream => upstream(text).is_some(),
        Form::Cidr => cidr(text).is_some(),
        Form::Header | Form::Method | Form::Cookie => {
            text.len() <= 256 && text.bytes().all(is_token)
        }
        Form::HeaderPrefix => {
            text.len() <= 64 && text.len() > 1 && text.ends_with('-') && text.bytes().all(is_token)
        }
        Form::Domain => is_host(text.strip_prefix('.').unwrap_or(text)),
        Form::Path => {
            text.starts_with('/')
                && text
                    .bytes()
                    .all(|b| (0x21..0x7f).contains(&b) && b != b';' && b != b'#')
        }
        Form::RulePath => is_rule_path(text),
        Form::Host => {
            is_host(text.strip_prefix("*.").unwrap_or(text)) || text.parse::<IpAddr>().is_ok()
        }
        Form::Parameter => text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-~".contains(&b)),
        Form::Url => is_url(text),
        Form::Origin => is_url(text) && text.matches('/').count() == 2,
        Form::LogFormat => return log_format(text),
        Form::Table => {
            text.len() <= 127 && text.split('.').count() <= 2 && text.split('.').all(is_identifier)
        }
    };
    if good { Ok(()) } else { wanted(expected) }
}

fn expected(form: Form) -> &'static str {
    match form {
        Form::Any => "text that is not empty",
        Form::Name => "a name of letters, digits, `.`, `_` and `-`",
        Form::Socket => "an address and port such as 0.0.0.0:8080 or [::1]:8080",
        Form::HostPort => "a host and port such as gw-1.example.com:7946",
        Form::Upstream => "a host and port such as 127.0.0.1:9001, or unix:/run/app.sock",
        Form::Cidr => "an address block such as 10.0.0.0/8 or fd00::/8",
        Form::Header => "a header name such as X-User-ID",
        Form::HeaderPrefix => "a header prefix that ends in `-`, such as X-Session-",
        Form::Cookie => "a cookie name without spaces or separators",
        Form::Domain => "a domain such as .example.com",
        Form::Path => "a path such as /app",
        Form::RulePath => "a path such as /chat or /chat/*",
        Form::Host => "a host such as shop.example.com or *.example.com, without a port",
        Form::Method => "an HTTP method such as GET",
        Form::Parameter => "a parameter name of letters, digits, `.`, `_`, `~` and `-`",
        Form::Url => "a URL such as https://example.com/x",
        Form::Origin => "an origin such as https://app.example.com, without a path",
        Form::LogFormat => "json, or text with places such as {status}",
        Form::Table => "a table name such as gateway_sessions or schema.sessions",
    }
}

/// Is `text` an HTTP token?
pub(crate) fn is_token_text(text: &str) -> bool {
    text_of(Form::Header, &default_text(text)).is_ok()
}

/// Is `text` the name of a query parameter?
pub(crate) fn is_parameter(text: &str) -> bool {
    text_of(Form::Parameter, &default_text(text)).is_ok()
}

fn default_text(text: &str) -> Node {
    let mut node = Node::empty(0);
    node.value = Value::Scalar(Scalar {
        text: text.to_owned(),
        plain: false,
        template: None,
    });
    node
}

fn log_format(text: &str) -> Result<(), Problem> {
    let names = || LOG_FIELDS.iter().map(|f| f.0);
    if text == LOG_FORMAT_JSON {
        return Ok(());
    }
    let mut rest = text;
    let mut places = 0;
    while let Some((_, after)) = rest.split_once('{') {
        let Some((name, tail)) = after.split_once('}') else {
            return wanted("every { of the template to be closed");
        };
        if !names().any(|n| n == name) {
            let all: Vec<&str> = names().collect();
            return Err(Problem {
                wanted: format!("places of {}", or(&all)),
                meant: nearest(name, names()).map(|n| format!("{{{n}}}")),
            });
        }
        places += 1;
        rest = tail;
    }
    if places == 0 {
        wanted(expected(Form::LogFormat))
    } else {
        Ok(())
    }
}

/// A free value as JSON. Depth was bounded by the reader.
pub(crate) fn to_json(node: &Node) -> Json {
    match &node.value {
        Value::List(items) => Json::Array(items.iter().map(to_json).collect()),
        Value::Map(entries) => Json::Object(
            entries
                .iter()
                .map(|e| (e.key.clone(), to_json(&e.node)))
                .collect::<Map<_, _>>(),
        ),
        Value::Scalar(s) => scalar_json(s),
    }
}

fn scalar_json(s: &Scalar) -> Json {
    if !s.plain {
        return Json::String(s.text.clone());
    }
    if s.is_null() {
        return Json::Null;
    }
    if let Some(b) = s.boolean() {
        return Json::Bool(b);
    }
    if let Some(n) = s.integer() {
        return n.into();
    }
    s.float()
        .and_then(serde_json::Number::from_f64)
        .map_or_else(|| Json::String(s.text.clone()), Json::Number)
}
