//! THE key table: every key of the configuration, once.
//!
//! Owns: path pattern, type, default, one line of documentation and whether the feature behind a key is
//! built, for every key. Unknown-key errors, suggestions, type errors, defaults, the not-built warnings
//! and the JSON Schema all come from it. Read-only after the first use, from any thread.
//!
//! Invariants: patterns are unique, parents stand in the table too, and every default parses as its type
//! (all three tested here).
//!
//! To say that a feature is built, change `No("…")` to `Yes` in its row in `keys/gateway.rs` or
//! `keys/session.rs`.

mod gateway;
mod session;

use std::collections::HashMap;
use std::sync::OnceLock;

pub use Built::{No, Yes};

/// Whether the feature behind a key is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Built {
    /// It does what its documentation says.
    Yes,
    /// It is read and checked, and then has no effect; the text names what is missing. Holds for every key
    /// below it too.
    No(&'static str),
}

/// What a key's value must be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Type {
    /// A block of the keys below it.
    Map,
    /// A block, or a list of such blocks.
    OneOrMany,
    /// A list of blocks.
    List,
    /// A block of any names, with values of any JSON type.
    Free,
    /// `true` or `false`.
    Bool,
    /// `auto`, `true` or `false`.
    BoolOrAuto,
    /// `true`, `false`, or a block.
    BoolOrMap,
    /// A whole number within bounds, both included.
    Int(i64, i64),
    /// A power of two within bounds.
    PowerOfTwo(i64, i64),
    /// 0 (off), or a decimal number from the bound on.
    ZeroOrFloat(f64),
    /// Text of a form.
    Text(Form),
    /// A list of texts of a form.
    Texts(Form),
    /// Text that is never shown.
    Secret,
    /// Such text, or a list of them: the first makes, all are accepted.
    Secrets,
    /// One of these words.
    Enum(&'static [&'static str]),
    /// A list of these words.
    Enums(&'static [&'static str]),
    /// `30s`, `1h30m`, or a whole number of seconds.
    Duration,
    /// `auto` or a duration.
    DurationOrAuto,
    /// `8KB`, or a whole number of bytes, from the first to the second bound.
    Size(u64, u64),
    /// `100/s`, or 0 for none.
    Rate,
    /// `auto`, a count, a CPU list, or a list of blocks.
    Cores,
    /// `auto` or a CPU number.
    CpuOrAuto,
    /// `all` or a number of owners from 2 to 7.
    Factor,
    /// `rebind`, `hold: 10s` or `reject: 503`.
    OnUnavailable,
}

/// What a text must look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Not empty, without control characters.
    Any,
    /// Letters, digits, `.`, `_` and `-`.
    Name,
    /// `127.0.0.1:8080`.
    Socket,
    /// `host:port` by name or address.
    HostPort,
    /// `host:port` or `unix:/path`.
    Upstream,
    /// `10.0.0.0/8`.
    Cidr,
    /// An HTTP header name.
    Header,
    /// A header prefix that ends in `-`.
    HeaderPrefix,
    /// A cookie name.
    Cookie,
    /// A cookie's `Domain`.
    Domain,
    /// A cookie's `Path`, or a URL path to ask for.
    Path,
    /// `/chat/*` or `/chat`.
    RulePath,
    /// `shop.example.com` or `*.example.com`.
    Host,
    /// An HTTP method.
    Method,
    /// A query parameter's name.
    Parameter,
    /// `https://…` or `http://…`.
    Url,
    /// `https://host` or `https://host:port`.
    Origin,
    /// `json`, or text with `{field}` places.
    LogFormat,
    /// An SQL table name.
    Table,
}

/// One key.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// Where it stands, with `[]` for "each item": `gateway.services[].name`.
    pub pattern: String,
    /// What its value must be.
    pub ty: Type,
    /// What holds where it is not written.
    pub default: Default,
    /// One line for people.
    pub doc: &'static str,
    /// Whether it does anything yet.
    pub built: Built,
}

/// What holds where a key is not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Default {
    /// Must be written wherever the block around it is.
    Required,
    /// This, as it would be written.
    Is(&'static str),
    /// No single value; the text says what happens.
    Else(&'static str),
}

/// The default of a block or list: nothing.
const ABSENT: Default = Default::Else("absent");

fn key(
    pattern: impl Into<String>,
    ty: Type,
    default: Default,
    doc: &'static str,
    built: Built,
) -> Key {
    Key {
        pattern: pattern.into(),
        ty,
        default,
        doc,
        built,
    }
}

/// The table with its index.
pub struct Table {
    rows: Vec<Key>,
    index: HashMap<String, usize>,
    children: HashMap<String, Vec<usize>>,
}

/// The table.
pub fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut rows = gateway::rows();
        rows.extend(session::rows());
        Table::new(rows)
    })
}

impl Table {
    fn new(rows: Vec<Key>) -> Self {
        let mut index = HashMap::new();
        let mut children: HashMap<String, Vec<usize>> = HashMap::new();
        for (i, row) in rows.iter().enumerate() {
            index.insert(row.pattern.clone(), i);
            let (parent, _) = split(&row.pattern);
            children.entry(parent.to_owned()).or_default().push(i);
        }
        Self {
            rows,
            index,
            children,
        }
    }

    /// Every key, parents before children.
    pub fn rows(&self) -> &[Key] {
        &self.rows
    }

    /// The key at `pattern`.
    pub fn get(&self, pattern: &str) -> Option<&Key> {
        self.rows.get(*self.index.get(pattern)?)
    }

    /// The keys of the block at `pattern` (that of a list's items ends in `[]`; the root's is empty).
    pub fn children(&self, pattern: &str) -> impl Iterator<Item = &Key> {
        self.children
            .get(pattern)
            .into_iter()
            .flatten()
            .filter_map(|i| self.rows.get(*i))
    }

    /// A key's own flag, else that of the nearest block around it that is not built.
    pub fn built(&self, pattern: &str) -> Built {
        let mut at = pattern;
        loop {
            if let Some(Key {
                built: No(what), ..
            }) = self.get(at)
            {
                return No(what);
            }
            if at.is_empty() {
                return Yes;
            }
            at = split(at).0.trim_end_matches("[]");
        }
    }

    /// Where else in the table a key of this name stands, nearest to `pattern` first.
    pub fn elsewhere(&self, name: &str, pattern: &str) -> Option<&str> {
        let shared = |p: &str| {
            p.split('.')
                .zip(pattern.split('.'))
                .take_while(|(a, b)| a == b)
                .count()
        };
        self.rows
            .iter()
            .filter(|r| split(&r.pattern).1 == name)
            .max_by_key(|r| (shared(&r.pattern), std::cmp::Reverse(r.pattern.len())))
            .map(|r| r.pattern.as_str())
    }
}

/// A pattern's block and last name.
pub(crate) fn split(pattern: &str) -> (&str, &str) {
    pattern.rsplit_once('.').unwrap_or(("", pattern))
}

/// The candidate that `written` most likely means: by edit distance without regard to case, `_` and `-`.
pub(crate) fn nearest<'a>(
    written: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    // Longer names than any of ours need no search (and would make it slow).
    if written.len() > 64 {
        return None;
    }
    let plain = |s: &str| {
        s.chars()
            .filter(|c| !matches!(c, '_' | '-'))
            .flat_map(char::to_lowercase)
            .collect::<Vec<_>>()
    };
    let from = plain(written);
    candidates
        .map(|c| {
            let to = plain(c);
            (distance(&from, &to), to.len(), c)
        })
        .filter(|(d, len, _)| *d <= (*len.max(&from.len())).div_ceil(3).min(3) && *d < *len)
        .min_by_key(|(d, _, _)| *d)
        .map(|(_, _, c)| c)
}

/// Edits (insert, delete, replace, swap of neighbours) from `a` to `b`.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut d = (last[j + 1] + 1)
                .min(row[j] + 1)
                .min(last[j] + usize::from(x != y));
            if i > 0 && j > 0 && x == &b[j - 1] && &a[i - 1] == y {
                d = d.min(before[j - 1] + 1);
            }
            row.push(d);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn patterns_are_unique_and_have_parents() {
        let table = table();
        let mut seen = HashSet::new();
        for row in table.rows() {
            assert!(seen.insert(&row.pattern), "{} twice", row.pattern);
            let (parent, name) = split(&row.pattern);
            assert!(!name.is_empty() && !name.ends_with("[]"), "{}", row.pattern);
            let parent_key = table.get(parent.trim_end_matches("[]"));
            match parent_key.map(|k| k.ty) {
                None => assert_eq!(row.pattern, "gateway"),
                Some(Type::Map | Type::BoolOrMap | Type::OnUnavailable) => {
                    assert!(!parent.ends_with("[]"), "{}", row.pattern)
                }
                Some(Type::List | Type::OneOrMany | Type::Cores) => {
                    assert!(parent.ends_with("[]"), "{}", row.pattern)
                }
                Some(other) => panic!("{} stands below a {other:?}", row.pattern),
            }
        }
    }

    #[test]
    fn defaults_parse_as_their_type() {
        for row in table().rows() {
            assert!(
                row.doc.ends_with('.') && row.doc.len() > 8,
                "{} needs a line of documentation",
                row.pattern
            );
            if let Default::Is(text) = row.default {
                let node = crate::values::default_node(text);
                if let Err(expected) = crate::values::accept(row.ty, &node) {
                    panic!(
                        "{}: default {text}: expected {}",
                        row.pattern, expected.wanted
                    );
                }
            }
        }
    }

    #[test]
    fn the_nearest_name() {
        let names = ["timeout", "rolling", "sameSite", "sourceIP"];
        let find = |s| nearest(s, names.iter().copied());
        assert_eq!(find("timout"), Some("timeout"));
        assert_eq!(find("tiemout"), Some("timeout"));
        assert_eq!(find("same_site"), Some("sameSite"));
        assert_eq!(find("sourceip"), Some("sourceIP"));
        assert_eq!(find("zzz"), None);
        assert_eq!(find(&"x".repeat(100_000)), None);
    }
}
