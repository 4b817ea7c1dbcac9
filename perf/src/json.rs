//! A small JSON writer: enough for reports, so that the tools need no serialiser.
//!
//! Owns the text being built; any thread. Numbers that JSON lacks (NaN, infinity) become `null`.
//! Reads nothing. Tested here.

use std::fmt::Write;

/// An object under construction.
#[derive(Debug, Default)]
pub struct Object {
    text: String,
}

impl Object {
    /// An empty object.
    pub fn new() -> Self {
        Self::default()
    }

    fn key(&mut self, key: &str) {
        if !self.text.is_empty() {
            self.text.push(',');
        }
        push_text(&mut self.text, key);
        self.text.push(':');
    }

    /// Adds a string.
    pub fn text(&mut self, key: &str, value: &str) -> &mut Self {
        self.key(key);
        push_text(&mut self.text, value);
        self
    }

    /// Adds a whole number.
    pub fn integer(&mut self, key: &str, value: u64) -> &mut Self {
        self.raw(key, &value.to_string())
    }

    /// Adds a number, to four decimals.
    pub fn number(&mut self, key: &str, value: f64) -> &mut Self {
        if value.is_finite() {
            self.raw(key, &format!("{value:.4}"))
        } else {
            self.raw(key, "null")
        }
    }

    /// Adds an object.
    pub fn object(&mut self, key: &str, value: &Object) -> &mut Self {
        let text = value.finish();
        self.raw(key, &text)
    }

    fn raw(&mut self, key: &str, value: &str) -> &mut Self {
        self.key(key);
        self.text.push_str(value);
        self
    }

    /// The text.
    pub fn finish(&self) -> String {
        format!("{{{}}}", self.text)
    }
}

fn push_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if u32::from(c) < 0x20 => {
                // Writing to a String can't fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::Object;

    #[test]
    fn nests_and_escapes() {
        let mut inner = Object::new();
        inner.number("p99", 1.5).number("none", f64::NAN);
        let mut all = Object::new();
        all.text("na\"me", "a\\b\n")
            .integer("n", 7)
            .object("in", &inner);
        assert_eq!(
            all.finish(),
            r#"{"na\"me":"a\\b\u000a","n":7,"in":{"p99":1.5000,"none":null}}"#
        );
        assert_eq!(Object::new().finish(), "{}");
    }
}
