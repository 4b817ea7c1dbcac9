//! Wrong and doubtful configurations, and the exact text of each error and warning.
//!
//! `wrong.txt` and `doubtful.txt` hold blocks of the form
//!
//! ```text
//! ### title
//! the file, below `gateway:` unless it begins with `!`
//! >>>
//! one expected text a line
//! ```
//!
//! Each file is loaded as `bad.yaml` over `base.yaml`, which has one service. With `HOLDFAST_BLESS=1` in
//! the environment the expected texts are written anew: read the difference before you commit it.

use std::fmt::Write as _;
use std::path::Path;

use holdfast_config::{Mode, Outcome, Source, load_on};

const BASE: &str =
    "gateway:\n  services: [{ name: app, upstreams: [{ address: '127.0.0.1:9001' }] }]\n";
/// What every secret of the cases holds.
const MARK: &str = "hush";

struct Case {
    title: String,
    text: String,
    expected: Vec<String>,
}

fn read(path: &Path) -> Vec<Case> {
    let all = std::fs::read_to_string(path).expect("the table");
    all.split("### ")
        .skip(1)
        .map(|block| {
            let (title, rest) = block.split_once('\n').expect("a title");
            let (text, expected) = rest
                .split_once(">>>\n")
                .unwrap_or_else(|| panic!("{title}: no >>>"));
            let expected = expected
                .lines()
                .map(str::to_owned)
                .filter(|l| !l.is_empty())
                .collect();
            Case {
                title: title.to_owned(),
                text: text.to_owned(),
                expected,
            }
        })
        .collect()
}

fn load(case: &Case, mode: Mode) -> Outcome {
    let text = match case.text.strip_prefix("!\n") {
        Some(raw) => raw.to_owned(),
        None => format!("gateway:\n{}", case.text),
    };
    let source = |name: &str, text: &str| Source {
        name: name.into(),
        text: text.into(),
    };
    let env = |name: &str| name.starts_with("SET").then(|| format!("{MARK}-{name}"));
    load_on(
        "host-1",
        &[source("base.yaml", BASE), source("bad.yaml", &text)],
        &env,
        mode,
    )
}

/// Compares every case, or writes what came out.
fn table(file: &str, found: impl Fn(&Case) -> Vec<String>) -> usize {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(file);
    let cases = read(&path);
    let mut blessed = String::new();
    let mut different = Vec::new();
    for case in &cases {
        let found = found(case);
        assert!(!found.is_empty(), "{}: nothing was found", case.title);
        assert!(
            !found.join("\n").contains(MARK),
            "{}: a secret is shown: {found:#?}",
            case.title
        );
        let _ = writeln!(
            blessed,
            "### {}\n{}>>>\n{}\n",
            case.title,
            case.text,
            found.join("\n")
        );
        if found != case.expected {
            different.push(format!(
                "{}\nexpected {:#?}\nfound {found:#?}",
                case.title, case.expected
            ));
        }
    }
    if std::env::var_os("HOLDFAST_BLESS").is_some() {
        std::fs::write(&path, blessed).expect("the table is written");
    } else {
        assert!(different.is_empty(), "{}", different.join("\n\n"));
    }
    cases.len()
}

fn texts(list: &[holdfast_config::Diagnostic]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

#[test]
fn every_error_has_its_text() {
    let cases = table("wrong.txt", |case| {
        let out = load(case, Mode::Run);
        assert!(out.plan.is_none(), "{}: there is a plan", case.title);
        texts(&out.errors)
    });
    assert!(cases >= 60, "only {cases} cases");
}

#[test]
fn every_warning_has_its_text() {
    let cases = table("doubtful.txt", |case| {
        let out = load(case, Mode::Check);
        assert!(
            out.errors.is_empty(),
            "{}: {:#?}",
            case.title,
            texts(&out.errors)
        );
        texts(&out.warnings)
    });
    assert!(cases >= 30, "only {cases} cases");
}
