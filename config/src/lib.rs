//! Holdfast's configuration: what was written, what it means, and every error at once.
//!
//! Owns: the way from YAML text to a [`plan::Plan`], the key table ([`keys`]) and the JSON Schema. Nothing
//! else in Holdfast reads configuration text. May be called on any thread; nothing is kept between calls
//! but the table.
//!
//! The way: [`document`] (text to tree, with positions) → [`merge`] (several files as one) → [`mod@env`]
//! (variables) → `shape` (every node against the key table) → `check` (rules over several values, and the
//! plan).
//!
//! Invariants: a [`plan::Plan`] exists only without errors; every error names file, line, column and key
//! path; no error text holds a secret or the content of a variable; whatever is read and has no effect is
//! named in a warning.
//!
//! Deliberately absent: the machine. Whether a file exists, an address can be bound or a CPU is there is
//! judged at boot.
//!
//! Tested by `tests/wrong.rs` (the text of each error), `tests/files.rs` (every key in a file that loads),
//! `tests/random.rs` (no text makes it panic).

mod check;
mod describe;
pub mod document;
pub mod env;
pub mod expression;
pub mod keys;
mod master;
pub mod merge;
pub mod plan;
pub mod report;
mod schema;
mod shape;
mod shown;
pub mod units;
mod values;
mod view;

pub use check::upstream;
pub use describe::{describe, describe_ring};
pub use report::Diagnostic;
pub use schema::schema;

use document::Node;
use plan::Plan;
use report::Report;

/// One file of the configuration.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its name, for error texts.
    pub name: String,
    /// Its content.
    pub text: String,
}

/// What the configuration is loaded for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// To serve: services, and all that rules refer to, must be there.
    Run,
    /// To validate: a file may be a part of a whole.
    Check,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// There exactly if `errors` is empty.
    pub plan: Option<Plan>,
    /// All errors, by file and line.
    pub errors: Vec<Diagnostic>,
    /// All warnings, by file and line.
    pub warnings: Vec<Diagnostic>,
}

/// Loads several files as one, later ones over earlier ones. `env` looks an environment variable up.
///
/// The node's name defaults to the host name of the kernel.
pub fn load(sources: &[Source], env: &dyn Fn(&str) -> Option<String>, mode: Mode) -> Outcome {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    load_on(
        if host.is_empty() { "localhost" } else { host },
        sources,
        env,
        mode,
    )
}

/// [`load`] on a host of the given name.
pub fn load_on(
    host: &str,
    sources: &[Source],
    env: &dyn Fn(&str) -> Option<String>,
    mode: Mode,
) -> Outcome {
    let mut report = Report::default();
    let mut root: Option<Node> = None;
    let mut readable = true;
    for (file, source) in sources.iter().enumerate() {
        match document::parse(file, &source.text, &mut report) {
            Some(node) => {
                root = Some(match root.take() {
                    Some(base) => merge::merge(base, node),
                    None => node,
                });
            }
            None => readable = false,
        }
    }
    let mut root = root.unwrap_or_else(|| Node::empty(0));
    let mut plan = None;
    // What a broken file would have said is unknown, so judging the rest would only mislead.
    if readable {
        env::expand(&mut root, "", env, &mut report);
        shape::check(&root, keys::table(), &mut report);
        let around = check::Around {
            run: mode == Mode::Run,
            host,
        };
        let mut made = check::plan(&root, &around, &mut report);
        made.written = shown::shown(&root, keys::table());
        if !report.failed() {
            master::resolve(&root, &mut made, &mut report);
        }
        plan = (!report.failed()).then_some(made);
    }
    let names: Vec<&str> = sources.iter().map(|s| s.name.as_str()).collect();
    let (errors, warnings) = report.finish(&names);
    Outcome {
        plan,
        errors,
        warnings,
    }
}
