//! Attributes from request headers (`session.attributes.fromHeaders`).
//!
//! Pure but for counters; runs on a data core.
//!
//! Invariants: a rule without `trust: any` reads headers of connections from `trustedProxies` alone; a
//! header that occurs with two different values, that is no text, or that is empty, is as good as none. A
//! header that is missing removes nothing: the attribute stays as it was.

use holdfast_config::plan;
use holdfast_store::fields::{Name, json_string};
use holdfast_store::shard::Attribute;

use crate::accept::Conn;
use crate::core::Core;
use crate::identify::Request;
use crate::metrics::Metric;

/// One rule, ready for use.
#[derive(Debug)]
pub struct HeaderRule {
    /// Name of the header in lower case.
    header: Vec<u8>,
    attribute: Name,
    any: bool,
    once: bool,
}

impl HeaderRule {
    /// All of a configuration.
    pub fn all(session: &plan::Session) -> Box<[Self]> {
        let rule = |(header, attribute, any): &(String, String, bool)| Self {
            header: header.clone().into_bytes(),
            attribute: Name::new(attribute),
            any: *any,
            once: is_once(&session.security, attribute),
        };
        session.from_headers.iter().map(rule).collect()
    }
}

/// Whether the first value of an attribute binds: the tenant's, where sessions are held to it. What a
/// request of another tenant gets is the validation's to say.
pub fn is_once(security: &plan::Security, attribute: &str) -> bool {
    security.check_tenant && security.tenant_attribute == attribute
}

/// Appends the attributes that the headers of a request give.
pub fn read(
    core: &Core,
    conn: &Conn,
    request: &Request,
    rules: &[HeaderRule],
    fields: &mut Vec<Attribute>,
) {
    let buf = conn.input.as_slice();
    for rule in rules.iter().filter(|r| r.any || request.trusted_peer) {
        let lines = conn.head.lines.iter().filter(|l| l.is(buf, &rule.header));
        match value(lines.map(|l| l.value(buf))) {
            Value::None => {}
            Value::Unusable => core.metrics().count(Metric::AttributeHeaders),
            Value::Text(text) => fields.push(Attribute {
                name: rule.attribute.clone(),
                value: Some(json_string(text).into()),
                expires: 0,
                once: rule.once,
            }),
        }
    }
}

/// What the lines of one header say.
#[derive(Debug, PartialEq, Eq)]
enum Value<'a> {
    None,
    Text(&'a str),
    /// Two different values, or one that is no text.
    Unusable,
}

fn value<'a>(mut lines: impl Iterator<Item = &'a [u8]>) -> Value<'a> {
    let Some(first) = lines.next() else {
        return Value::None;
    };
    if lines.any(|other| other != first) {
        return Value::Unusable;
    }
    match std::str::from_utf8(first) {
        Ok("") => Value::None,
        Ok(text) => Value::Text(text),
        Err(_) => Value::Unusable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_says_two_things_says_nothing() {
        let of = |lines: &[&'static [u8]]| value(lines.iter().copied());
        assert_eq!(of(&[]), Value::None);
        assert_eq!(of(&[b""]), Value::None);
        assert_eq!(of(&[b"a"]), Value::Text("a"));
        assert_eq!(of(&[b"a", b"a"]), Value::Text("a"));
        assert_eq!(of(&[b"a", b"b"]), Value::Unusable);
        assert_eq!(of(&[b"", b"b"]), Value::Unusable);
        assert_eq!(of(&[b"\xff"]), Value::Unusable);
    }
}
