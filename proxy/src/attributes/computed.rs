//! Computed attributes (`session.attributes.computed`): evaluated when a session is read for forwarding,
//! never stored.
//!
//! Owns [`Computed`], the expressions of a configuration with what they are evaluated in; one in each
//! generation of a core, used on its thread alone.
//!
//! Invariants: the cost of an evaluation is bounded by [`holdfast_config::expression`] and by the size of what
//! goes in, which is the session's JSON (at most `MAX_INPUT`) and the head of the request; only what the
//! expressions read is made ready; one that fails is counted, left out, and harms no other; a computed
//! attribute hides data of its name. Cookies and session headers of the client are not shown to expressions,
//! since what they give goes upstream. Errors are told without values. Tested below and end to end.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cel::Context;
use cel::objects::{Key, Map, Value};
use chrono::{DateTime, FixedOffset, SecondsFormat};
use holdfast_config::expression::{self, Expression};
use holdfast_config::plan;
use holdfast_store::fields::{Name, json_string};
use holdfast_store::session::{BUILT_IN, BuiltIn};

use crate::accept::Conn;
use crate::core::Core;
use crate::identify::Request;
use crate::metrics::Metric;
use crate::parse;

/// Longest JSON of a session that expressions are given, in bytes.
const MAX_INPUT: usize = 64 * 1024;
/// Deepest value that an expression may give.
const MAX_DEPTH: usize = 16;

struct Entry {
    name: Name,
    expression: Expression,
}

/// See the module.
pub struct Computed {
    entries: Vec<Entry>,
    context: Context<'static, 'static>,
    /// What `now()` gives; Unix ms.
    now: Arc<AtomicU64>,
    /// Fields of the session, and of the request, that any of them reads; `None` for all.
    session: Option<BTreeSet<String>>,
    request: Option<BTreeSet<String>>,
}

impl std::fmt::Debug for Computed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Computed({} expressions)", self.entries.len())
    }
}

impl Computed {
    /// From the plan, whose expressions were checked; nothing where it has none.
    pub fn new(session: &plan::Session) -> Option<Self> {
        let entries: Vec<Entry> = session
            .computed
            .iter()
            .filter_map(|(name, text)| {
                let expression = expression::compile(text).ok()?;
                Some(Entry {
                    name: Name::new(name),
                    expression,
                })
            })
            .collect();
        if entries.is_empty() {
            return None;
        }
        let now = Arc::new(AtomicU64::new(0));
        let told = Arc::clone(&now);
        let mut context = Context::default();
        context
            .add_function("now", move || time(told.load(Relaxed)))
            .ok()?;
        let all = |of: fn(&Expression) -> &Option<BTreeSet<String>>| {
            let sets = entries.iter().map(|e| of(&e.expression).clone());
            sets.reduce(|a, b| Some(&a? | &b?)).flatten()
        };
        Some(Self {
            session: all(|e| &e.session),
            request: all(|e| &e.request),
            entries,
            context,
            now,
        })
    }

    /// Puts the computed attributes into a session's JSON object (empty where there is none).
    pub fn add(
        &self,
        core: &Core,
        conn: &Conn,
        request: &Request,
        built_in: BuiltIn,
        json: &mut Vec<u8>,
    ) {
        let of_request = self.request(conn, request);
        let failed = self.evaluate(core.wall_ms(), built_in, of_request, json);
        if failed > 0 {
            core.metrics().add(Metric::ComputedFailed, failed);
        }
    }

    /// Does it; returns how many failed.
    fn evaluate(&self, now: u64, built_in: BuiltIn, request: Value, json: &mut Vec<u8>) -> u64 {
        self.now.store(now, Relaxed);
        let mut context = self.context.new_inner_scope();
        context.add_variable_from_value("session", self.session(built_in, json));
        context.add_variable_from_value("request", request);
        let mut failed = 0;
        let mut members = Vec::new();
        for Entry { name, expression } in &self.entries {
            let mut value = Vec::new();
            let given = expression.program.execute(&context).ok();
            match given.map(|given| write(&given, 0, &mut value)) {
                Some(Some(true)) => {
                    members.extend_from_slice(b",\"");
                    members.extend_from_slice(name.as_bytes());
                    members.extend_from_slice(b"\":");
                    members.extend_from_slice(&value);
                }
                // Null: there is no such attribute now.
                Some(Some(false)) => {}
                Some(None) | None => failed += 1,
            }
        }
        self.join(&members, json);
        failed
    }

    /// Takes members of a computed name out of an object, and puts `members` behind it, each with a comma
    /// before it.
    fn join(&self, members: &[u8], json: &mut Vec<u8>) {
        let hidden = |name: &[u8]| self.entries.iter().any(|e| e.name.as_bytes() == name);
        if object(json).any(|(name, _)| hidden(name)) {
            let mut rest = vec![b'{'];
            for (_, member) in object(json).filter(|(name, _)| !hidden(name)) {
                if rest.len() > 1 {
                    rest.push(b',');
                }
                rest.extend_from_slice(member);
            }
            *json = rest;
        } else if json.pop().is_none() {
            json.push(b'{');
        }
        let members = match json.as_slice() {
            [b'{'] => members.get(1..).unwrap_or_default(),
            _ => members,
        };
        json.extend_from_slice(members);
        if json.as_slice() == b"{" {
            json.clear();
        } else {
            json.push(b'}');
        }
    }

    /// `session`: data and attributes, and what is built in, which no data hides.
    fn session(&self, built_in: BuiltIn, json: &[u8]) -> Value {
        let mut fields: HashMap<Key, Value> = HashMap::new();
        let wanted = self.session.as_ref();
        let stored = wanted.is_none_or(|set| set.iter().any(|f| !BUILT_IN.contains(&f.as_str())));
        if stored && json.len() <= MAX_INPUT {
            let parsed: HashMap<String, serde_json::Value> =
                serde_json::from_slice(json).unwrap_or_default();
            for (name, value) in parsed {
                if wanted.is_none_or(|set| set.contains(&name)) {
                    fields.insert(name.into(), from_json(value));
                }
            }
        }
        let BuiltIn {
            created,
            last_access,
            requests,
            authenticated,
            version,
        } = built_in;
        for (name, value) in [
            ("created", Value::Timestamp(time(created))),
            ("lastAccess", Value::Timestamp(time(last_access))),
            ("requestCount", int(requests)),
            ("authenticated", Value::Bool(authenticated)),
            ("version", int(version)),
        ] {
            fields.insert(name.into(), value);
        }
        map(fields)
    }

    /// `request`, as it goes upstream.
    fn request(&self, conn: &Conn, request: &Request) -> Value {
        let wants = |name: &str| self.request.as_ref().is_none_or(|set| set.contains(name));
        let buf = conn.input.as_slice();
        let mut fields: HashMap<Key, Value> = HashMap::new();
        let mut put = |name: &str, value: &dyn Fn() -> Value| {
            if wants(name) {
                fields.insert(name.into(), value());
            }
        };
        put("method", &|| text(conn.head.method_bytes(buf)));
        put("path", &|| text(request.path(conn)));
        put("query", &|| text(request.query(conn).unwrap_or_default()));
        put("host", &|| text(conn.head.authority_bytes(buf)));
        put("scheme", &|| {
            text(if request.secure { b"https" } else { b"http" })
        });
        put("client", &|| text(request.client.to_string().as_bytes()));
        put("headers", &|| headers(conn));
        map(fields)
    }
}

/// Headers by their names in lower case; lines of one name are joined (RFC 9110, 5.3).
fn headers(conn: &Conn) -> Value {
    let buf = conn.input.as_slice();
    let identity = &conn.generation.identity;
    let mut all: HashMap<String, String> = HashMap::new();
    for line in &conn.head.lines {
        let ours = matches!(
            line.name,
            parse::Name::Cookie | parse::Name::Session | parse::Name::Shadow
        );
        if ours || identity.is_identifier_header(line.name(buf)) {
            continue;
        }
        let name = String::from_utf8_lossy(line.name(buf)).to_ascii_lowercase();
        let value = String::from_utf8_lossy(line.value(buf));
        let known = all.entry(name).or_default();
        if !known.is_empty() {
            known.push_str(", ");
        }
        known.push_str(&value);
    }
    map(all
        .into_iter()
        .map(|(k, v)| (k.into(), Value::String(Arc::new(v))))
        .collect())
}

fn map(fields: HashMap<Key, Value>) -> Value {
    Value::Map(Map {
        map: Arc::new(fields),
    })
}

fn text(bytes: &[u8]) -> Value {
    Value::String(Arc::new(String::from_utf8_lossy(bytes).into_owned()))
}

fn int(n: u64) -> Value {
    Value::Int(i64::try_from(n).unwrap_or(i64::MAX))
}

fn time(ms: u64) -> DateTime<FixedOffset> {
    let ms = i64::try_from(ms).unwrap_or(0);
    DateTime::from_timestamp_millis(ms)
        .unwrap_or_default()
        .fixed_offset()
}

fn from_json(value: serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(b) => Value::Bool(b),
        serde_json::Value::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(n), _) => Value::Int(n),
            (None, Some(n)) => Value::UInt(n),
            (None, None) => n.as_f64().map_or(Value::Null, Value::Float),
        },
        serde_json::Value::String(s) => Value::String(Arc::new(s)),
        serde_json::Value::Array(list) => {
            Value::List(Arc::new(list.into_iter().map(from_json).collect()))
        }
        serde_json::Value::Object(fields) => map(fields
            .into_iter()
            .map(|(k, v)| (k.into(), from_json(v)))
            .collect()),
    }
}

/// Appends a value as minified ASCII JSON; false for null, nothing for what has no JSON.
fn write(value: &Value, depth: usize, out: &mut Vec<u8>) -> Option<bool> {
    if depth > MAX_DEPTH {
        return None;
    }
    let inner = |value: &Value, out: &mut Vec<u8>| match write(value, depth + 1, out) {
        Some(false) => {
            out.extend_from_slice(b"null");
            Some(())
        }
        other => other.map(|_| ()),
    };
    match value {
        Value::Null => return Some(false),
        Value::Bool(b) => out.extend_from_slice(if *b { b"true" } else { b"false" }),
        Value::Int(n) => out.extend_from_slice(n.to_string().as_bytes()),
        Value::UInt(n) => out.extend_from_slice(n.to_string().as_bytes()),
        Value::Float(n) => {
            // Infinity and NaN have no JSON.
            let number = serde_json::Number::from_f64(*n)?;
            out.extend_from_slice(number.to_string().as_bytes());
        }
        Value::String(s) => out.extend_from_slice(&json_string(s)),
        Value::Bytes(b) => out.extend_from_slice(&json_string(&STANDARD.encode(b.as_slice()))),
        // Whole seconds, so that it is an integer to every reader.
        Value::Duration(d) => out.extend_from_slice(d.num_seconds().to_string().as_bytes()),
        Value::Timestamp(t) => {
            let text = t.to_rfc3339_opts(SecondsFormat::AutoSi, true);
            out.extend_from_slice(&json_string(&text));
        }
        Value::List(list) => {
            out.push(b'[');
            for (i, value) in list.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                inner(value, out)?;
            }
            out.push(b']');
        }
        Value::Map(fields) => {
            let mut sorted: Vec<(String, &Value)> = Vec::with_capacity(fields.map.len());
            for (key, value) in fields.map.iter() {
                sorted.push((key.to_string(), value));
            }
            sorted.sort_by(|a, b| a.0.cmp(&b.0));
            out.push(b'{');
            for (i, (key, value)) in sorted.into_iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                out.extend_from_slice(&json_string(&key));
                out.push(b':');
                inner(value, out)?;
            }
            out.push(b'}');
        }
        _ => return None,
    }
    Some(true)
}

/// The members of a minified JSON object: name without quotes, and the whole member. Ends at the first
/// byte that makes no sense.
fn object(json: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = json.get(1..).unwrap_or_default();
    std::iter::from_fn(move || {
        let name_end = string(rest)?;
        let name = rest.get(1..name_end - 1)?;
        let (mut at, mut depth) = (name_end, 0usize);
        loop {
            match rest.get(at)? {
                b'"' => {
                    at += string(rest.get(at..)?)?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b',' if depth == 0 => break,
                b'}' | b']' if depth == 0 => break,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            at += 1;
        }
        let member = rest.get(..at)?;
        rest = rest.get(at + 1..).unwrap_or_default();
        Some((name, member))
    })
}

/// Length of the JSON string that begins here, quotes included.
fn string(json: &[u8]) -> Option<usize> {
    if json.first() != Some(&b'"') {
        return None;
    }
    let mut at = 1;
    loop {
        match json.get(at)? {
            b'\\' => at += 2,
            b'"' => return Some(at + 1),
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_config::{Mode, Source, load};
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_800_000_000_500;

    fn computed(list: &[(&str, &str)]) -> Computed {
        let items: Vec<String> = list
            .iter()
            .map(|(name, text)| {
                let text = serde_json::Value::from(*text);
                format!("{{ attribute: \"{name}\", expression: {text} }}")
            })
            .collect();
        let source = Source {
            name: "test".into(),
            text: format!(
                "gateway:
  services: [{{ upstreams: [{{ address: \"127.0.0.1:1\" }}] }}]
  session: {{ options: {{ secure: false }}, attributes: {{ computed: [{}] }} }}
",
                items.join(", ")
            ),
        };
        let outcome = load(&[source], &|_| None, Mode::Run);
        let plan = outcome
            .plan
            .unwrap_or_else(|| panic!("{:?}", outcome.errors));
        Computed::new(plan.session.as_ref().expect("sessions")).expect("expressions")
    }

    fn request() -> Value {
        let headers = map(HashMap::from([("x-a".into(), text(b"1"))]));
        map(HashMap::from([
            ("method".into(), text(b"GET")),
            ("headers".into(), headers),
        ]))
    }

    const BUILT: BuiltIn = BuiltIn {
        created: NOW - 90_400,
        last_access: NOW,
        requests: 7,
        authenticated: true,
        version: 3,
    };

    fn shown(list: &[(&str, &str)], json: &str) -> (String, u64) {
        let mut out = json.as_bytes().to_vec();
        let failed = computed(list).evaluate(NOW, BUILT, request(), &mut out);
        (String::from_utf8(out).expect("ASCII"), failed)
    }

    #[test]
    fn values_and_what_they_become() {
        let data = r#"{"cart":[{"n":2},{"n":3}],"roles":["a","admin"],"big":18446744073709551615,"f":0.5}"#;
        for (text, expected) in [
            ("now() - session.created", "90"),
            ("session.created - now()", "-90"),
            ("duration('1500ms')", "1"),
            ("now()", "\"2027-01-15T08:00:00.500Z\""),
            ("session.requestCount + session.version", "10"),
            ("session.authenticated", "true"),
            ("session.created < session.lastAccess", "true"),
            ("'admin' in session.roles", "true"),
            ("has(session.none)", "false"),
            (
                "has(session.none) ? session.none : 'd\u{fc}'",
                "\"d\\u00fc\"",
            ),
            ("session.cart[1].n * 2", "6"),
            ("size(session.cart)", "2"),
            ("session.big", "18446744073709551615"),
            ("session.f + 1.0", "1.5"),
            (
                "request.method == 'GET' && request.headers['x-a'] == '1'",
                "true",
            ),
            ("{'b': [1, null], 'a': true}", "{\"a\":true,\"b\":[1,null]}"),
            ("bytes('ab')", "\"YWI=\""),
        ] {
            let (json, failed) = shown(&[("x", text)], data);
            assert_eq!(failed, 0, "{text}: {json}");
            let tail = json.strip_prefix(&data[..data.len() - 1]);
            let tail = tail.unwrap_or_else(|| panic!("{text}: {json}"));
            assert_eq!(tail, format!(",\"x\":{expected}}}"), "{text}");
        }
    }

    #[test]
    fn one_that_fails_is_left_out_and_harms_no_other() {
        let list = [
            ("a", "session.none"),
            ("b", "1 / 0"),
            ("c", "'x' + 1"),
            ("d", "1.0 / 0.0"),
            ("f", "null"),
            ("g", "1 + 1"),
        ];
        let (json, failed) = shown(&list, "");
        assert_eq!(json, r#"{"g":2}"#);
        assert_eq!(failed, 4);
        assert_eq!(shown(&[("a", "null")], "").0, "");
        assert_eq!(shown(&[("a", "null")], r#"{"b":1}"#).0, r#"{"b":1}"#);
    }

    #[test]
    fn a_computed_attribute_hides_data_of_its_name_and_data_hides_no_built_in() {
        let data = r#"{"a":{"x":"}\",\\"},"x":"forged","z":[1,2]}"#;
        assert_eq!(
            shown(&[("x", "1")], data).0,
            r#"{"a":{"x":"}\",\\"},"z":[1,2],"x":1}"#
        );
        assert_eq!(shown(&[("x", "null")], r#"{"x":1}"#).0, "");
        let (json, _) = shown(&[("n", "session.requestCount")], r#"{"requestCount":0}"#);
        assert_eq!(json, r#"{"requestCount":0,"n":7}"#);
    }

    proptest! {
        #[test]
        fn members_are_those_of_the_object(fields in proptest::collection::btree_map("[a-z\"\\\\é]{1,4}", ".{0,8}", 0..5)) {
            let mut json = Vec::new();
            for (name, value) in &fields {
                json.push(if json.is_empty() { b'{' } else { b',' });
                json.extend(json_string(name));
                json.push(b':');
                json.extend(json_string(value));
            }
            if !json.is_empty() { json.push(b'}'); }
            let names: Vec<_> = object(&json).map(|(name, _)| name.to_vec()).collect();
            let expected: Vec<_> = fields.keys().map(|k| Name::new(k).as_bytes().to_vec()).collect();
            prop_assert_eq!(names, expected);
        }

        #[test]
        fn no_bytes_panic(json in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = object(&json).count();
        }
    }
}
