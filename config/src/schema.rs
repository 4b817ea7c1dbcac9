//! The JSON Schema (2020-12) of the configuration, for editors.
//!
//! Made from the key table alone, so it can't differ from what is accepted. A value that is not text may
//! also come out of the environment, hence the alternative `variable` everywhere. Rules over several
//! values are not in it. Tested in `tests/files.rs`.

use serde_json::{Map, Value as Json, json};

use crate::keys::{Default, Form, Key, No, Table, Type, split, table};
use crate::values::{default_node, to_json};

/// Digits and units, largest first, each at most once.
const DURATION: &str =
    r"^([0-9]+|(?=.)([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?([0-9]+us)?)$";
const SIZE: &str = r"^[0-9]+ *(B|KB|MB|GB|KiB|MiB|GiB)?$";
const RATE: &str = r"^([0-9]+ */ *[smh]|0)$";

/// The schema.
pub fn schema() -> Json {
    let table = table();
    let mut root = block(table, "");
    if let Json::Object(map) = &mut root {
        map.insert(
            "$schema".into(),
            "https://json-schema.org/draft/2020-12/schema".into(),
        );
        map.insert("title".into(), "Holdfast configuration".into());
        map.insert("$defs".into(), definitions());
    }
    root
}

fn definitions() -> Json {
    json!({
        "variable": { "type": "string", "pattern": r"\$\{", "description": "Filled in from the environment." },
        "boolean": { "anyOf": [{ "type": "boolean" }, reference("variable")] },
        "duration": {
            "description": "Such as 500ms, 30s, 1h30m or 7d; a whole number is seconds.",
            "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "string", "pattern": DURATION }, reference("variable")],
        },
        "size": {
            "description": "Such as 8KB or 64MB, all binary; a whole number is bytes.",
            "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "string", "pattern": SIZE }, reference("variable")],
        },
        "rate": {
            "description": "Such as 100/s or 20/m; 0 is none.",
            "anyOf": [{ "const": 0 }, { "type": "string", "pattern": RATE }, reference("variable")],
        },
        "text": { "type": ["string", "number"] },
        "secret": { "type": ["string", "number"], "minLength": 1, "description": "Better kept in a variable than in the file." },
    })
}

fn reference(name: &str) -> Json {
    json!({ "$ref": format!("#/$defs/{name}") })
}

/// The object whose keys stand below `pattern`.
fn block(table: &Table, pattern: &str) -> Json {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for key in table.children(pattern) {
        let name = split(&key.pattern).1;
        properties.insert(name.into(), property(table, key));
        if key.default == Default::Required {
            required.push(Json::from(name));
        }
    }
    let mut object = Map::new();
    object.insert("type".into(), "object".into());
    object.insert("additionalProperties".into(), false.into());
    object.insert("properties".into(), Json::Object(properties));
    if !required.is_empty() {
        object.insert("required".into(), Json::Array(required));
    }
    Json::Object(object)
}

fn property(table: &Table, key: &Key) -> Json {
    let mut schema = value(table, key);
    if let Json::Object(map) = &mut schema {
        let mut doc = key.doc.to_owned();
        if let Default::Else(text) = key.default
            && text != "absent"
        {
            doc.push_str(&format!(" Default: {text}."));
        }
        if let No(what) = key.built {
            doc.push_str(&format!(" Not built yet: {what}."));
        }
        map.insert("description".into(), doc.into());
        if let Default::Is(text) = key.default {
            map.insert("default".into(), to_json(&default_node(text)));
        }
    }
    schema
}

fn any(options: Vec<Json>) -> Json {
    json!({ "anyOf": options })
}

fn words(list: &[&str]) -> Json {
    any(vec![json!({ "enum": list }), reference("variable")])
}

fn array(items: Json) -> Json {
    json!({ "type": "array", "items": items })
}

fn value(table: &Table, key: &Key) -> Json {
    let here = || block(table, &key.pattern);
    let items = || block(table, &format!("{}[]", key.pattern));
    let int = |min: i64, max: i64| json!({ "type": "integer", "minimum": min, "maximum": max });
    match key.ty {
        Type::Map => here(),
        Type::List => array(items()),
        Type::OneOrMany => any(vec![items(), array(items())]),
        Type::Free => json!({ "type": "object" }),
        Type::Bool => reference("boolean"),
        Type::BoolOrAuto => any(vec![json!({ "const": "auto" }), reference("boolean")]),
        Type::BoolOrMap => any(vec![reference("boolean"), here()]),
        Type::Int(min, max) => any(vec![int(min, max), reference("variable")]),
        Type::PowerOfTwo(min, max) => {
            let powers: Vec<i64> = (0..62)
                .map(|b| 1i64 << b)
                .filter(|n| (min..=max).contains(n))
                .collect();
            any(vec![json!({ "enum": powers }), reference("variable")])
        }
        Type::ZeroOrFloat(min) => any(vec![
            json!({ "const": 0 }),
            json!({ "type": "number", "minimum": min }),
            reference("variable"),
        ]),
        Type::Text(form) => text(form),
        Type::Texts(form) => array(text(form)),
        Type::Secret => reference("secret"),
        Type::Secrets => any(vec![reference("secret"), array(reference("secret"))]),
        Type::Enum(list) => words(list),
        Type::Enums(list) => json!({ "type": "array", "items": words(list), "uniqueItems": true }),
        Type::Duration => reference("duration"),
        Type::DurationOrAuto => any(vec![json!({ "const": "auto" }), reference("duration")]),
        Type::Size(..) => reference("size"),
        Type::Rate => reference("rate"),
        Type::Cores => any(vec![
            json!({ "type": "integer", "minimum": 1, "maximum": crate::values::MAX_CORES }),
            json!({ "type": "string" }),
            array(any(vec![int(0, 4095), items()])),
        ]),
        Type::CpuOrAuto => any(vec![
            json!({ "const": "auto" }),
            int(0, 4095),
            reference("variable"),
        ]),
        Type::Factor => any(vec![
            json!({ "const": "all" }),
            int(2, 7),
            reference("variable"),
        ]),
        Type::OnUnavailable => {
            let short = r"^(rebind|hold: *[0-9a-z]+|reject: *[45][0-9][0-9])$";
            any(vec![
                json!({ "type": "string", "pattern": short }),
                reference("variable"),
                here(),
            ])
        }
    }
}

/// Forms whose check is short as a pattern have one; the others are judged by `holdfast check`.
fn text(form: Form) -> Json {
    let pattern = match form {
        Form::Name => r"^[A-Za-z0-9._-]+$",
        Form::Header | Form::Cookie | Form::Method => r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$",
        Form::HeaderPrefix => r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+-$",
        Form::Path => r"^/[!-~]*$",
        Form::RulePath => r"^/[!-~]*$",
        Form::Url | Form::Origin => r"^https?://",
        Form::Socket | Form::HostPort => r":[0-9]{1,5}$",
        Form::Upstream => r"(^unix:/|:[0-9]{1,5}$)",
        _ => return reference("text"),
    };
    any(vec![
        json!({ "type": ["string", "number"], "pattern": pattern }),
        reference("variable"),
    ])
}
