//! `Set-Cookie` lines, and a jar that keeps what a browser would.

use std::collections::BTreeMap;

/// One `Set-Cookie` line, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetCookie {
    pub name: String,
    pub value: String,
    /// Attributes by lower-case name.
    pub attributes: BTreeMap<String, String>,
}

impl SetCookie {
    pub fn parse(line: &str) -> Self {
        let mut parts = line.split(';').map(str::trim);
        let (name, value) = parts
            .next()
            .unwrap_or_default()
            .split_once('=')
            .unwrap_or_default();
        let attributes = parts
            .map(|part| {
                let (name, value) = part.split_once('=').unwrap_or((part, ""));
                (name.to_ascii_lowercase(), value.to_owned())
            })
            .collect();
        Self {
            name: name.to_owned(),
            value: value.to_owned(),
            attributes,
        }
    }

    /// Whether the attribute is there.
    pub fn has(&self, attribute: &str) -> bool {
        self.attributes.contains_key(attribute)
    }

    /// The value of an attribute.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(String::as_str)
    }

    /// Whether it takes the cookie away.
    pub fn expires(&self) -> bool {
        let past = self
            .attribute("expires")
            .is_some_and(|v| v.contains(" 1970 ") || v.contains("-1970 "));
        self.attribute("max-age")
            .is_some_and(|v| v.starts_with('-') || v == "0")
            || past
    }
}

/// Cookies by name, for one host.
#[derive(Clone, Debug, Default)]
pub struct Jar(BTreeMap<String, String>);

impl Jar {
    /// Takes in what a response sets.
    pub fn take(&mut self, set: &SetCookie) {
        if set.expires() {
            self.0.remove(&set.name);
        } else {
            self.0.insert(set.name.clone(), set.value.clone());
        }
    }

    /// A cookie's value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Puts a cookie in by hand.
    pub fn set(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), value.to_owned());
    }

    /// Throws one away.
    pub fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// The `Cookie` header, if there is anything to send.
    pub fn header(&self) -> Option<String> {
        let pairs: Vec<String> = self.0.iter().map(|(n, v)| format!("{n}={v}")).collect();
        (!pairs.is_empty()).then(|| pairs.join("; "))
    }
}
