//! Fields on their way in: a JSON object from an upstream or the API, made ready to be stored.
//!
//! Owns the parsing of `X-Session-Set` and its kin. Plain values, usable anywhere. Invariants: a
//! [`Name`] is the inside of a JSON string and a value is JSON text; both are minified, printable
//! ASCII, so that output is concatenation and always fits a header. Numbers keep their text: nothing is
//! rounded. Deliberately absent: which names may be stored (the shard's) and sizes (the caller's
//! headers and `data.maxSize`). Tested here.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::Error;

/// A field's name: JSON string text without its quotes, escaped to ASCII.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(pub(crate) Box<[u8]>);

impl Name {
    /// From plain text.
    pub fn new(text: &str) -> Self {
        let mut out = Vec::with_capacity(text.len());
        escape(text, &mut out);
        Self(out.into())
    }

    /// The escaped text, without quotes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// One field to be written: `None` removes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Which.
    pub name: Name,
    /// Minified ASCII JSON, or nothing for null.
    pub value: Option<Box<[u8]>>,
}

/// Fields of one write, each name once, in the order of their names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fields(pub(crate) Vec<Field>);

impl Fields {
    /// Reads a JSON object. Of a name given twice the last counts.
    ///
    /// # Errors
    /// [`Error::FieldsMalformed`] where `json` is no JSON object.
    pub fn parse(json: &[u8]) -> Result<Self, Error> {
        let map: BTreeMap<String, &RawValue> =
            serde_json::from_slice(json).map_err(|_| Error::FieldsMalformed)?;
        let mut fields: Vec<Field> = map
            .into_iter()
            .map(|(name, value)| Field {
                name: Name::new(&name),
                value: (value.get() != "null").then(|| minify(value.get()).into()),
            })
            .collect();
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self(fields))
    }

    /// One field with JSON text as its value, of which the caller is sure (it is minified here).
    pub fn one(name: &str, json: &str) -> Self {
        let value = (json != "null").then(|| minify(json).into());
        Self(vec![Field {
            name: Name::new(name),
            value,
        }])
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Field> {
        self.0.iter()
    }

    /// The field of this name.
    pub fn get(&self, name: &[u8]) -> Option<&Field> {
        let at = self
            .0
            .binary_search_by(|f| f.name.as_bytes().cmp(name))
            .ok()?;
        self.0.get(at)
    }
}

/// `text` as a JSON string, quotes included: what a field that holds it looks like.
pub fn json_string(text: &str) -> Vec<u8> {
    let mut out = vec![b'"'];
    escape(text, &mut out);
    out.push(b'"');
    out
}

fn escape(text: &str, out: &mut Vec<u8>) {
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend([b'\\', c as u8]),
            ' '..='~' => out.push(c as u8),
            _ => escape_char(c, out),
        }
    }
}

fn escape_char(c: char, out: &mut Vec<u8>) {
    let mut units = [0; 2];
    for unit in c.encode_utf16(&mut units) {
        out.extend(b"\\u");
        for shift in [12, 8, 4, 0] {
            out.push(b"0123456789abcdef"[usize::from(*unit >> shift & 15)]);
        }
    }
}

/// Valid JSON without white space outside strings and without anything but printable ASCII.
fn minify(json: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len());
    let (mut in_string, mut escaped) = (false, false);
    for c in json.chars() {
        if !in_string && matches!(c, ' ' | '\t' | '\n' | '\r') {
            continue;
        }
        if matches!(c, ' '..='~') {
            out.push(c as u8);
        } else {
            escape_char(c, &mut out);
        }
        match (in_string, escaped, c) {
            (true, true, _) => escaped = false,
            (true, false, '\\') => escaped = true,
            (_, false, '"') => in_string = !in_string,
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(json: &str) -> Vec<(String, Option<String>)> {
        let text = |b: &[u8]| String::from_utf8(b.to_vec()).unwrap();
        Fields::parse(json.as_bytes())
            .unwrap()
            .iter()
            .map(|f| (text(f.name.as_bytes()), f.value.as_deref().map(text)))
            .collect()
    }

    fn pair(name: &str, value: Option<&str>) -> (String, Option<String>) {
        (name.into(), value.map(Into::into))
    }

    #[test]
    fn minified_escaped_and_exact() {
        assert_eq!(
            shown("{ \"b\" : [ 1 , \"x \\\" y\" ] , \"a\": null, \"ü\": \"é\u{7f}😀\" }"),
            [
                pair("\\u00fc", Some("\"\\u00e9\\u007f\\ud83d\\ude00\"")),
                pair("a", None),
                pair("b", Some("[1,\"x \\\" y\"]")),
            ]
        );
        assert_eq!(
            shown(r#"{"n":1234567890123456789012345.50,"n2":1e400}"#),
            [
                pair("n", Some("1234567890123456789012345.50")),
                pair("n2", Some("1e400"))
            ]
        );
        assert_eq!(shown(r#"{"a":1,"a":2}"#), [pair("a", Some("2"))]);
        assert_eq!(shown("{}"), []);
    }

    #[test]
    fn malformed() {
        for bad in [
            "",
            "[]",
            "1",
            "{",
            "{\"a\":}",
            "{\"a\":1}x",
            "{a:1}",
            "{\"a\":1,}",
            "null",
        ] {
            assert_eq!(
                Fields::parse(bad.as_bytes()),
                Err(Error::FieldsMalformed),
                "{bad}"
            );
        }
        assert_eq!(
            Fields::parse(b"{\"a\":\"\xff\"}"),
            Err(Error::FieldsMalformed)
        );
    }

    proptest! {
        #[test]
        fn output_reads_back_as_the_same_json(name in ".{0,12}", text in ".{0,40}") {
            let json = serde_json::json!({ name.clone(): [text, { "k": null }] }).to_string();
            let fields = Fields::parse(json.as_bytes()).unwrap();
            let field = fields.iter().next().unwrap();
            let mut out = b"{\"".to_vec();
            out.extend(field.name.as_bytes());
            out.extend(b"\":");
            out.extend(field.value.as_deref().unwrap());
            out.push(b'}');
            prop_assert!(out.iter().all(|b| (0x20..0x7f).contains(b)));
            let back: serde_json::Value = serde_json::from_slice(&out).unwrap();
            prop_assert_eq!(back, serde_json::from_str::<serde_json::Value>(&json).unwrap());
        }

        #[test]
        fn never_panics(json in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = Fields::parse(&json);
        }
    }
}
