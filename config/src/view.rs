//! Typed reading of the checked tree: the written value, else the key table's default.
//!
//! Owns: [`View`], a place in the configuration that may or may not have been written. Used by
//! [`crate::check`] alone.
//!
//! Invariants: a value that [`crate::shape`] refused reads as its default, so no reader fails; names given
//! to [`View::at`] are in the key table (asserted in debug builds).

use std::time::Duration;

use crate::document::{Node, Scalar, Value};
use crate::keys::{Default, Key, Type, table};
use crate::plan::{Rate, Secret};
use crate::report::{Pos, Report};
use crate::units;
use crate::values;

/// A place in the configuration.
#[derive(Clone)]
pub(crate) struct View<'n> {
    node: Option<&'n Node>,
    /// Path with indices, for people.
    path: String,
    /// Path with `[]`, for the table.
    pattern: String,
    /// Where the nearest written node around it is.
    around: Pos,
}

impl<'n> View<'n> {
    /// The whole configuration.
    pub fn root(node: &'n Node) -> Self {
        Self {
            node: Some(node),
            path: String::new(),
            pattern: String::new(),
            around: node.at,
        }
    }

    /// The same place with another node, such as a rule's affinity over the router's.
    pub fn with_node<'m>(&self, node: &'m Node) -> View<'m> {
        View {
            node: Some(node),
            path: self.path.clone(),
            pattern: self.pattern.clone(),
            around: self.around,
        }
    }

    /// The place `name`, dotted, below this one.
    pub fn at(&self, name: &str) -> Self {
        let mut here = self.clone();
        for part in name.split('.') {
            for (text, dot) in [(&mut here.path, "."), (&mut here.pattern, ".")] {
                if !text.is_empty() {
                    text.push_str(dot);
                }
                text.push_str(part);
            }
            here.node = here.node.and_then(|n| n.get(part));
            here.around = here.node.map_or(here.around, |n| n.at);
        }
        debug_assert!(
            here.key().is_some(),
            "{} is not in the key table",
            here.pattern
        );
        here
    }

    /// The items of a list of blocks; a lone block counts as one.
    pub fn items(&self) -> Vec<Self> {
        let item = |node: &'n Node, path: String| Self {
            node: Some(node),
            path,
            pattern: format!("{}[]", self.pattern),
            around: node.at,
        };
        match self.node {
            Some(Node {
                value: Value::List(items),
                ..
            }) => items
                .iter()
                .enumerate()
                .map(|(i, node)| item(node, format!("{}[{i}]", self.path)))
                .collect(),
            Some(
                node @ Node {
                    value: Value::Map(_),
                    ..
                },
            ) => vec![item(node, self.path.clone())],
            _ => Vec::new(),
        }
    }

    fn key(&self) -> Option<&'static Key> {
        table().get(self.pattern.trim_end_matches("[]"))
    }

    fn ty(&self) -> Type {
        self.key().map_or(Type::Map, |k| k.ty)
    }

    /// What was written and accepted.
    pub fn node(&self) -> Option<&'n Node> {
        // An item of a list of blocks has no row of its own.
        self.node
            .filter(|n| self.pattern.ends_with("[]") || values::accept(self.ty(), n).is_ok())
    }

    /// The CPU, where an item of `runtime.cores` is a bare number.
    pub fn plain_cpu(&self) -> Option<usize> {
        self.node.and_then(Node::scalar).and_then(values::cpu)
    }

    /// Was it written (rightly or not)?
    pub fn written(&self) -> bool {
        self.node.is_some()
    }

    /// Was a list written with nothing in it?
    pub fn empty_list(&self) -> bool {
        matches!(self.node, Some(Node { value: Value::List(items), .. }) if items.is_empty())
    }

    /// Was a block written that does not say `enabled: false`?
    pub fn on(&self) -> bool {
        self.written() && self.at("enabled").bool()
    }

    /// Path for people.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Where it is, else where the nearest block around it is.
    pub fn pos(&self) -> Pos {
        self.around
    }

    /// Notes an error here.
    pub fn error(&self, report: &mut Report, message: impl Into<String>) {
        report.error(self.pos(), &self.path, message);
    }

    /// Notes a warning here.
    pub fn warn(&self, report: &mut Report, message: impl Into<String>) {
        report.warn(self.pos(), &self.path, message);
    }

    /// Notes a problem that stops `run` and is a warning in `check`.
    pub fn error_in_run(&self, run: bool, report: &mut Report, message: impl Into<String>) {
        if run {
            self.error(report, message);
        } else {
            report.warn(
                self.pos(),
                &self.path,
                format!("{} (an error in `run`)", message.into()),
            );
        }
    }

    /// `f` of the written scalar, else of the default.
    fn read<T>(&self, f: impl Fn(&Scalar) -> Option<T>) -> Option<T> {
        if let Some(value) = self.node().and_then(Node::scalar).and_then(&f) {
            return Some(value);
        }
        match self.key()?.default {
            Default::Is(text) => values::default_node(text).scalar().and_then(f),
            _ => None,
        }
    }

    pub fn bool(&self) -> bool {
        self.read(Scalar::boolean).unwrap_or(false)
    }

    /// `None` where it says `auto`.
    pub fn bool_or_auto(&self) -> Option<bool> {
        self.read(|s| Some(s.boolean())).flatten()
    }

    /// `None` where it was not written.
    pub fn bool_if_written(&self) -> Option<bool> {
        self.node().and_then(Node::scalar).and_then(Scalar::boolean)
    }

    pub fn int<T: TryFrom<i64> + std::default::Default>(&self) -> T {
        self.read(Scalar::integer)
            .and_then(|n| T::try_from(n).ok())
            .unwrap_or_default()
    }

    pub fn float(&self) -> f64 {
        self.read(Scalar::float).unwrap_or(0.0)
    }

    pub fn size(&self) -> u64 {
        self.read(|s| units::size(&s.text)).unwrap_or(0)
    }

    pub fn usize(&self) -> usize {
        usize::try_from(self.size()).unwrap_or(usize::MAX)
    }

    pub fn duration(&self) -> Duration {
        self.read(|s| units::duration(&s.text))
            .unwrap_or(Duration::ZERO)
    }

    /// `None` where it was not written or says `auto`.
    pub fn duration_if_written(&self) -> Option<Duration> {
        self.node()
            .and_then(Node::scalar)
            .and_then(|s| units::duration(&s.text))
    }

    pub fn rate(&self) -> Option<Rate> {
        self.read(|s| units::rate(&s.text)).flatten()
    }

    /// Text, word or number as text; `None` where there is no default.
    pub fn text(&self) -> Option<String> {
        self.read(|s| Some(s.text.clone()))
    }

    /// `f` of the text, else of the default's.
    pub fn parsed<T>(&self, f: impl Fn(&str) -> Option<T>) -> Option<T> {
        self.read(|s| f(&s.text))
    }

    /// The text for an error text.
    pub fn shown(&self) -> String {
        self.node.map_or_else(|| "nothing".into(), values::shown)
    }

    /// The accepted items of a list of texts, each with its own view; the default's where not written.
    pub fn texts(&self) -> Vec<String> {
        let list = |node: &Node| match &node.value {
            Value::List(items) => Some(
                items
                    .iter()
                    .filter(|n| values::accept_item(self.ty(), n).is_ok())
                    .filter_map(|n| n.scalar())
                    .map(|s| s.text.clone())
                    .collect(),
            ),
            _ => None,
        };
        if let Some(found) = self.node().and_then(list) {
            return found;
        }
        match self.key().map(|k| k.default) {
            Some(Default::Is(text)) => list(&values::default_node(text)).unwrap_or_default(),
            _ => Vec::new(),
        }
    }

    pub fn secret(&self) -> Option<Secret> {
        self.node()
            .and_then(Node::scalar)
            .map(|s| Secret(s.text.clone().into_bytes()))
    }

    pub fn secrets(&self) -> Vec<Secret> {
        let secret = |n: &Node| n.scalar().map(|s| Secret(s.text.clone().into_bytes()));
        match self.node() {
            Some(Node {
                value: Value::List(items),
                ..
            }) => items.iter().filter_map(secret).collect(),
            Some(node) => secret(node).into_iter().collect(),
            None => Vec::new(),
        }
    }
}
