//! `${NAME}` and `${NAME:-default}` in strings.
//!
//! Owns nothing; a pure walk over the merged tree, so a value that a later file replaces need not be set.
//! An empty variable takes the default, an unset one without a default is an error that names the key.
//! A default may hold further places. What a variable holds is not looked into again. A lone `$` is
//! itself, and there is no escape: text that must hold `${` comes out of a variable.
//!
//! Invariant: [`Scalar::template`](crate::document::Scalar) keeps the text as written wherever a variable
//! was filled in, and errors show only that.

use crate::document::{Node, Scalar, Value};
use crate::report::{Pos, Report};

/// Below this path `${timestamp}` is filled in when a session is created, not from the environment.
const DEFAULTS: &str = "gateway.session.lifecycle.creation.defaults";
/// Deepest nesting of defaults within defaults.
const MAX_NESTING: usize = 8;

/// Fills in every string of the tree.
pub fn expand(
    node: &mut Node,
    path: &str,
    env: &dyn Fn(&str) -> Option<String>,
    report: &mut Report,
) {
    match &mut node.value {
        Value::Map(entries) => {
            for e in entries {
                let path = if path.is_empty() {
                    e.key.clone()
                } else {
                    format!("{path}.{}", e.key)
                };
                expand(&mut e.node, &path, env, report);
            }
        }
        Value::List(items) => {
            for (i, item) in items.iter_mut().enumerate() {
                expand(item, &format!("{path}[{i}]"), env, report);
            }
        }
        Value::Scalar(scalar) => fill(scalar, node.at, path, env, report),
    }
}

fn fill(
    scalar: &mut Scalar,
    at: Pos,
    path: &str,
    env: &dyn Fn(&str) -> Option<String>,
    report: &mut Report,
) {
    if !scalar.text.contains("${") {
        return;
    }
    let keep_timestamp = path
        .strip_prefix(DEFAULTS)
        .is_some_and(|rest| rest.starts_with('.'));
    let mut used = Vec::new();
    match expanded(
        &scalar.text,
        keep_timestamp,
        &mut |name| {
            let value = env(name);
            used.extend(value.clone());
            value
        },
        0,
    ) {
        Ok(text) => {
            if text != scalar.text {
                for value in &used {
                    report.hide(value);
                }
                scalar.template = Some(std::mem::replace(&mut scalar.text, text));
            }
        }
        Err(what) => {
            report.error(at, path, what);
            // Marked as filled in, so that the text is not judged a second time.
            scalar.template = Some(scalar.text.clone());
        }
    }
}

fn expanded(
    text: &str,
    keep: bool,
    env: &mut dyn FnMut(&str) -> Option<String>,
    depth: usize,
) -> Result<String, String> {
    if depth > MAX_NESTING {
        return Err("defaults of variables are nested too deep".into());
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, after) = rest.split_at(start);
        out.push_str(before);
        let after = after.get(2..).unwrap_or("");
        let Some(end) = closing(after) else {
            return Err(
                "a variable's place is not closed; expected ${NAME} or ${NAME:-default}".into(),
            );
        };
        let (inside, tail) = after.split_at(end);
        rest = tail.get(1..).unwrap_or("");
        if keep && inside == "timestamp" {
            out.push_str("${timestamp}");
            continue;
        }
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        if !is_name(name) {
            return Err("expected a variable's place such as ${NAME} or ${NAME:-default}".into());
        }
        match (env(name), default) {
            (Some(value), None) => out.push_str(&value),
            (Some(value), Some(_)) if !value.is_empty() => out.push_str(&value),
            (_, Some(default)) => out.push_str(&expanded(default, keep, env, depth + 1)?),
            (None, None) => {
                return Err(format!(
                    "the environment variable {name} is not set; set it, or give a default as in ${{{name}:-default}}"
                ));
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// Index of the `}` that closes the place whose inside begins `text`.
fn closing(text: &str) -> Option<usize> {
    let mut open = 0usize;
    let bytes = text.as_bytes();
    for (i, b) in bytes.iter().enumerate() {
        match b {
            b'{' if i > 0 && bytes.get(i - 1) == Some(&b'$') => open += 1,
            b'}' if open == 0 => return Some(i),
            b'}' => open -= 1,
            _ => {}
        }
    }
    None
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> Result<String, String> {
        let env = |n: &str| match n {
            "A" => Some("one".to_owned()),
            "EMPTY" => Some(String::new()),
            "NEST" => Some("${A}".to_owned()),
            _ => None,
        };
        expanded(text, true, &mut { env }, 0)
    }

    #[test]
    fn places_are_filled() {
        assert_eq!(run("${A}-${A}").as_deref(), Ok("one-one"));
        assert_eq!(run("x${B:-two}y").as_deref(), Ok("xtwoy"));
        assert_eq!(run("${EMPTY:-three}${EMPTY}").as_deref(), Ok("three"));
        assert_eq!(run("${B:-${A}!}").as_deref(), Ok("one!"));
        assert_eq!(run("${B:-}").as_deref(), Ok(""));
        assert_eq!(run("$5 and $$ and }").as_deref(), Ok("$5 and $$ and }"));
        assert_eq!(
            run("${NEST}").as_deref(),
            Ok("${A}"),
            "what a variable holds is not filled in again"
        );
        assert_eq!(run("${timestamp}").as_deref(), Ok("${timestamp}"));
    }

    #[test]
    fn wrong_places_are_errors() {
        for text in ["${B}", "${", "${}", "${1A}", "${A B}", "${B:-${C}}", "${A"] {
            assert!(run(text).is_err(), "{text}");
        }
    }
}
