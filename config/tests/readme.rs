//! The README's list of what is not built yet is the key table's, and its configuration loads.
//!
//! `HOLDFAST_BLESS=1 cargo test -p holdfast-config --test readme lists` writes the list anew.

use std::fmt::Write as _;
use std::path::Path;

use holdfast_config::keys::{Built, table};
use holdfast_config::{Mode, Source, load};

const BEGIN: &str = "<!-- not built: made by config/tests/readme.rs -->\n";
const END: &str = "<!-- end -->";
const EXAMPLE: &str = "<!-- example: checked by config/tests/readme.rs -->\n```yaml\n";

/// A line for each missing feature, with its keys, in the order of the table.
fn list() -> String {
    let mut features: Vec<(&str, Vec<&str>)> = Vec::new();
    for key in table().rows() {
        let Built::No(what) = key.built else { continue };
        let pattern = key.pattern.trim_start_matches("gateway.");
        match features.iter_mut().find(|(known, _)| *known == what) {
            Some((_, keys)) => keys.push(pattern),
            None => features.push((what, vec![pattern])),
        }
    }
    let mut out = String::from("| keys below `gateway` | what is missing |\n| --- | --- |\n");
    for (what, keys) in features {
        let _ = writeln!(out, "| `{}` | {what} |", keys.join("`, `"));
    }
    out
}

#[test]
fn the_readme_lists_what_is_not_built() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = std::fs::read_to_string(&path).expect("README.md");
    let (before, rest) = readme.split_once(BEGIN).expect("the list's begin");
    let (found, after) = rest.split_once(END).expect("the list's end");
    let expected = list();
    if std::env::var_os("HOLDFAST_BLESS").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{expected}{END}{after}")).expect("writing");
        return;
    }
    assert_eq!(found, expected, "HOLDFAST_BLESS=1 writes the list anew");
}

#[test]
fn the_readme_s_configuration_loads_without_a_warning() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = std::fs::read_to_string(readme).expect("README.md");
    let (_, rest) = readme.split_once(EXAMPLE).expect("the example's begin");
    let (text, _) = rest.split_once("```\n").expect("the example's end");
    let source = Source {
        name: "gateway.yaml".to_owned(),
        text: text.to_owned(),
    };
    let secrets = |name: &str| {
        ["SESSION_SECRET", "PIN_KEY"]
            .contains(&name)
            .then(|| "0123456789abcdef0123456789abcdef".to_owned())
    };
    let outcome = load(&[source], &secrets, Mode::Run);
    let said: Vec<String> = outcome
        .errors
        .iter()
        .chain(&outcome.warnings)
        .map(ToString::to_string)
        .collect();
    assert_eq!(said, Vec::<String>::new());
    assert!(outcome.plan.is_some_and(|plan| plan.services.len() == 1));
}
