//! Every written node against the key table: unknown keys, wrong values, missing keys, features not built.
//!
//! Owns nothing; a pure walk. After it, an error at a node means that [`crate::view::View`] uses the
//! default in its place, so later checks still find what else is wrong.

use crate::document::{Entry, Node, Value};
use crate::keys::{Default, Key, No, Table, Type, nearest, split};
use crate::report::Report;
use crate::units;
use crate::values::{Problem, accept, accept_item, or, shown};

/// Most known keys that an error text lists.
const MAX_LISTED: usize = 16;

/// Judges the whole tree.
pub(crate) fn check(root: &Node, table: &Table, report: &mut Report) {
    Walk { table, report }.block(root, "", "", false);
}

struct Walk<'t, 'r> {
    table: &'t Table,
    report: &'r mut Report,
}

impl Walk<'_, '_> {
    /// `told`: a warning about a feature that is not built has been given for a block around this one.
    fn block(&mut self, node: &Node, path: &str, pattern: &str, told: bool) {
        let Value::Map(entries) = &node.value else {
            return;
        };
        for e in entries {
            let here = join(pattern, &e.key);
            let path = join(path, &e.key);
            match self.table.get(&here) {
                Some(key) => self.value(e, key, &path, told),
                None => self.unknown(e, pattern, &path),
            }
        }
        for key in self.table.children(pattern) {
            let name = split(&key.pattern).1;
            if key.default == Default::Required && node.get(name).is_none() {
                self.report.error(
                    node.at,
                    path,
                    format!("`{name}` is required: {}", key.doc.trim_end_matches('.')),
                );
            }
        }
    }

    fn value(&mut self, entry: &Entry, key: &Key, path: &str, told: bool) {
        let node = &entry.node;
        if self.report.has_error(node.at, path) {
            return;
        }
        if let Err(problem) = accept(key.ty, node) {
            return self.wrong(node, key.ty, path, &problem);
        }
        let told = told | self.not_built(entry, key, path, told);
        match (&node.value, key.ty) {
            (Value::Map(_), Type::Free) => {}
            (Value::Map(_), Type::OneOrMany) => {
                self.block(node, path, &format!("{}[]", key.pattern), told)
            }
            (Value::Map(_), _) => self.block(node, path, &key.pattern, told),
            (Value::List(items), ty) => self.items(items, ty, key, path, told),
            _ => {}
        }
    }

    fn items(&mut self, items: &[Node], ty: Type, key: &Key, path: &str, told: bool) {
        for (i, item) in items.iter().enumerate() {
            let path = format!("{path}[{i}]");
            if self.report.has_error(item.at, &path) {
                continue;
            }
            match ty {
                Type::List | Type::OneOrMany => match accept(Type::Map, item) {
                    Ok(()) => self.block(item, &path, &format!("{}[]", key.pattern), told),
                    Err(problem) => self.wrong(item, Type::Map, &path, &problem),
                },
                Type::Cores => match (&item.value, accept(Type::Int(0, 4095), item)) {
                    (Value::Map(_), _) => {
                        self.block(item, &path, &format!("{}[]", key.pattern), told)
                    }
                    (_, Ok(())) => {}
                    (_, Err(_)) => {
                        let problem = Problem {
                            wanted: "the number of a CPU, or a block with `cpu`".into(),
                            meant: None,
                        };
                        self.wrong(item, ty, &path, &problem);
                    }
                },
                _ => {
                    if let Err(problem) = accept_item(ty, item) {
                        self.wrong(item, ty, &path, &problem);
                        continue;
                    }
                    let before = items.get(..i).unwrap_or(&[]);
                    let first = before.iter().position(|n| same(n, item));
                    if let Some(first) = first.filter(|_| ty != Type::Secrets) {
                        let what =
                            format!("{} stands in the list already, at [{first}]", shown(item));
                        self.report.error(item.at, &path, what);
                    }
                }
            }
        }
    }

    fn wrong(&mut self, node: &Node, ty: Type, path: &str, problem: &Problem) {
        let found = match ty {
            Type::Secret | Type::Secrets
                if !node
                    .scalar()
                    .is_none_or(|s| s.text.is_empty() || s.is_null()) =>
            {
                "***".into()
            }
            // What a block would have held may be secret.
            Type::Map | Type::List | Type::OneOrMany | Type::Free => match node.scalar() {
                Some(s) if s.boolean().is_some() => shown(node),
                _ => node.kind().into(),
            },
            _ => shown(node),
        };
        let meant = problem
            .meant
            .as_ref()
            .map(|m| format!("; did you mean {m}?"))
            .unwrap_or_default();
        self.report.error(
            node.at,
            path,
            format!("expected {}, found {found}{meant}", problem.wanted),
        );
    }

    fn unknown(&mut self, entry: &Entry, pattern: &str, path: &str) {
        let names: Vec<&str> = self
            .table
            .children(pattern)
            .map(|k| split(&k.pattern).1)
            .collect();
        let hint = if let Some(name) = nearest(&entry.key, names.iter().copied()) {
            format!("did you mean {name}?")
        } else if let Some(other) = self.table.elsewhere(&entry.key, pattern) {
            format!("there is {other}")
        } else if names.is_empty() {
            "it has no keys of its own".into()
        } else if names.len() <= MAX_LISTED {
            format!("expected {}", or(&names))
        } else {
            "see `holdfast schema` for all keys".into()
        };
        self.report
            .error(entry.key_at, path, format!("unknown key; {hint}"));
    }

    /// Warns where a key asks for a feature that is not built; true if it did.
    fn not_built(&mut self, entry: &Entry, key: &Key, path: &str, told: bool) -> bool {
        let No(what) = key.built else { return false };
        if told || !asks(&entry.node, key) {
            return false;
        }
        self.report
            .warn(entry.key_at, path, format!("not built yet: {what}"));
        true
    }
}

/// Does the value ask for anything? `false`, 0, an empty list, a block with `enabled: false` and the
/// default word of a choice do not.
fn asks(node: &Node, key: &Key) -> bool {
    match &node.value {
        Value::Map(_) => {
            node.get("enabled")
                .and_then(Node::scalar)
                .and_then(|s| s.boolean())
                != Some(false)
        }
        Value::List(items) => !items.is_empty(),
        Value::Scalar(s) => match key.ty {
            Type::Enum(_) => !matches!(key.default, Default::Is(word) if word == s.text),
            Type::Bool => s.boolean() == Some(true),
            Type::Duration => units::duration(&s.text).is_some_and(|d| !d.is_zero()),
            Type::Rate => units::rate(&s.text).flatten().is_some(),
            _ => s.integer() != Some(0),
        },
    }
}

fn same(a: &Node, b: &Node) -> bool {
    matches!((a.scalar(), b.scalar()), (Some(x), Some(y)) if x.text == y.text)
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}
