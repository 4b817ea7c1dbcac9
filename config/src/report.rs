//! Errors and warnings: where they are and what they say.
//!
//! Owns: [`Diagnostic`], [`Pos`] and the collection of both. Used by every part of this crate.
//! Invariant: a text never holds a secret; whoever makes one shows values only through
//! `values::shown`.

use std::fmt;

/// Shorter values of variables are words and numbers, which texts hold of themselves.
const MIN_HIDDEN: usize = 8;

/// Most errors, and most warnings, that are kept.
const MAX_FINDINGS: usize = 1000;

/// A place in one of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pos {
    /// Index into the sources given to [`crate::load`].
    pub file: usize,
    /// Line from 1.
    pub line: usize,
    /// Column from 1, in characters.
    pub column: usize,
}

/// One error or warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Name of the file, as given.
    pub file: String,
    /// Line from 1.
    pub line: usize,
    /// Column from 1.
    pub column: usize,
    /// Key path such as `gateway.services[0].name`; empty where the text is no YAML.
    pub path: String,
    /// What is wrong and what was expected.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// Everything found so far.
#[derive(Debug, Default)]
pub struct Report {
    errors: Vec<(Pos, String, String)>,
    warnings: Vec<(Pos, String, String)>,
    hidden: Vec<String>,
}

impl Report {
    /// Keeps what a variable held out of every text. Texts show values as they were written, before the
    /// environment, so this is the second line of defence, for a check that quotes a part of one.
    pub fn hide(&mut self, value: &str) {
        if value.len() >= MIN_HIDDEN && !self.hidden.iter().any(|h| h == value) {
            self.hidden.push(value.to_owned());
        }
    }

    /// Notes an error.
    pub fn error(&mut self, at: Pos, path: &str, message: impl Into<String>) {
        push(&mut self.errors, at, path, message.into());
    }

    /// Notes a warning.
    pub fn warn(&mut self, at: Pos, path: &str, message: impl Into<String>) {
        push(&mut self.warnings, at, path, message.into());
    }

    /// Has an error been noted for exactly this node?
    pub fn has_error(&self, at: Pos, path: &str) -> bool {
        self.errors.iter().any(|e| e.0 == at && e.1 == path)
    }

    /// Has an error been noted?
    pub fn failed(&self) -> bool {
        !self.errors.is_empty()
    }

    /// All errors and all warnings, in the order of the files.
    pub fn finish(self, names: &[&str]) -> (Vec<Diagnostic>, Vec<Diagnostic>) {
        (
            sorted(self.errors, names, &self.hidden),
            sorted(self.warnings, names, &self.hidden),
        )
    }
}

/// Notes each finding once. One past the bound says that more are not shown.
fn push(list: &mut Vec<(Pos, String, String)>, at: Pos, path: &str, message: String) {
    let item = (at, path.to_owned(), message);
    if list.len() == MAX_FINDINGS {
        list.push((
            at,
            String::new(),
            format!("more than {MAX_FINDINGS}; the rest is not shown"),
        ));
    } else if list.len() < MAX_FINDINGS && !list.contains(&item) {
        list.push(item);
    }
}

fn sorted(
    mut list: Vec<(Pos, String, String)>,
    names: &[&str],
    hidden: &[String],
) -> Vec<Diagnostic> {
    list.sort_by_key(|item| item.0);
    let name = |file: usize| {
        names
            .get(file)
            .copied()
            .unwrap_or("configuration")
            .to_owned()
    };
    let masked = |message: String| {
        hidden
            .iter()
            .fold(message, |m, secret| m.replace(secret.as_str(), "***"))
    };
    list.into_iter()
        .map(|(at, path, message)| Diagnostic {
            file: name(at.file),
            line: at.line,
            column: at.column,
            path,
            message: masked(message),
        })
        .collect()
}
