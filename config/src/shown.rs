//! The configuration as it was written, as JSON without secrets.
//!
//! Pure, over the merged tree and the key table. Invariants: what the table calls a secret is masked, and
//! so is a name and password within a URL; a value that holds a variable is shown as it was written, with
//! the variable's name and not its content; so is whatever the table does not know. Tested below.

use serde_json::{Map, Value as Json};

use crate::document::{Node, Value};
use crate::keys::{Table, Type};
use crate::values::to_json;

/// What a masked value shows as.
const MASK: &str = "***";

/// The tree as JSON.
pub(crate) fn shown(root: &Node, table: &Table) -> Json {
    walk(root, table, "")
}

fn walk(node: &Node, table: &Table, pattern: &str) -> Json {
    let key = table.get(pattern);
    let secret = key.is_some_and(|key| matches!(key.ty, Type::Secret | Type::Secrets));
    if secret {
        return Json::from(MASK);
    }
    match &node.value {
        Value::Map(entries) => {
            // A lone block stands for a list of one.
            let many = key.is_some_and(|key| matches!(key.ty, Type::OneOrMany | Type::List));
            let of = if many { "[]" } else { "" };
            let below = |key: &str| match pattern {
                "" => key.to_owned(),
                _ => format!("{pattern}{of}.{key}"),
            };
            let members = entries.iter().map(|entry| {
                let value = walk(&entry.node, table, &below(&entry.key));
                (entry.key.clone(), value)
            });
            Json::Object(members.collect::<Map<_, _>>())
        }
        Value::List(items) => {
            let pattern = format!("{pattern}[]");
            Json::Array(items.iter().map(|i| walk(i, table, &pattern)).collect())
        }
        Value::Scalar(scalar) => match &scalar.template {
            Some(template) => Json::from(template.as_str()),
            None => match to_json(node) {
                Json::String(text) => Json::from(without_login(&text)),
                other => other,
            },
        },
    }
}

/// A URL without the name and password in it.
fn without_login(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://{MASK}@{host}{path}"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Report;

    #[test]
    fn secrets_and_variables_are_not_shown() {
        let text = "gateway:\n  admin: { address: \"127.0.0.1:1\", token: abc-secret }\n  node: \"${N}-x\"\n  \
                    session:\n    security: { encryption: { id: { secret: [s1-secret, s2-secret] } } }\n    \
                    events: { handlers: { webhook: { url: \"https://u:p-secret@h/x@y\", secret: w-secret } } }\n    \
                    options: { rolling: true, timeout: 30 }\n";
        let mut report = Report::default();
        let mut root = crate::document::parse(0, text, &mut report).expect("YAML");
        let env = |_: &str| Some("content-secret".to_owned());
        crate::env::expand(&mut root, "", &env, &mut report);
        let json = shown(&root, crate::keys::table());
        assert!(!json.to_string().contains("-secret"), "{json}");
        let gateway = &json["gateway"];
        assert_eq!(gateway["admin"]["token"], MASK);
        assert_eq!(gateway["node"], "${N}-x");
        let session = &gateway["session"];
        assert_eq!(session["security"]["encryption"]["id"]["secret"], MASK);
        assert_eq!(
            session["events"]["handlers"]["webhook"]["url"],
            "https://***@h/x@y"
        );
        assert_eq!(session["options"]["rolling"], true);
        assert_eq!(session["options"]["timeout"], 30);
        assert_eq!(gateway["admin"]["address"], "127.0.0.1:1");
    }
}
