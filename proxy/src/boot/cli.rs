//! The command line: `run`, `check`, `demo`, `schema`.
//!
//! Owns the words and exit codes: 0 done, 1 failed at run time, 2 wrong words or wrong configuration.
//! Runs on the main thread before any other is made.

use std::io::Write;

use holdfast_config::{Mode, Source};

use super::demo;
use crate::control::Options;

const USAGE: &str = "\
holdfast: a gateway that owns the client's session

usage:
  holdfast run   -c FILE [-c FILE ...]   run the gateway
  holdfast check -c FILE [-c FILE ...]   validate, and print what would run
  holdfast demo                          run with two built-in upstreams on 127.0.0.1:8080
  holdfast schema                        print the JSON Schema of the configuration
  holdfast --version | --help

Several files are merged in order: maps merge, scalars and lists replace.
Exit codes: 0 done, 1 failed while running, 2 wrong words or a wrong configuration.
";

/// Runs the command; returns the exit code.
pub fn main(arguments: impl Iterator<Item = String>) -> u8 {
    let arguments: Vec<String> = arguments.collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["--help" | "-h" | "help"] => print(USAGE),
        ["--version" | "-V" | "version"] => {
            print(&format!("holdfast {}\n", env!("CARGO_PKG_VERSION")))
        }
        ["schema"] => match serde_json::to_string_pretty(&holdfast_config::schema()) {
            Ok(text) => print(&format!("{text}\n")),
            Err(error) => wrong(&error.to_string()),
        },
        ["demo"] => demo::run(),
        ["run", rest @ ..] => files(rest).map_or_else(|e| wrong(&e), |f| run(&f)),
        ["check", rest @ ..] => files(rest).map_or_else(|e| wrong(&e), |f| check(&f)),
        [] => wrong("a command is missing"),
        [word, ..] => wrong(&format!("unknown command or words after it: {word}")),
    }
}

fn print(text: &str) -> u8 {
    // A reader that closes early (a pager) is no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
    0
}

fn wrong(text: &str) -> u8 {
    eprintln!("holdfast: {text}\n\n{USAGE}");
    2
}

fn files(words: &[&str]) -> Result<Vec<Source>, String> {
    let mut names = Vec::new();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match word
            .strip_prefix("-c")
            .or_else(|| word.strip_prefix("--config"))
        {
            Some("") => names.push((*rest.next().ok_or("-c needs a file")?).to_owned()),
            Some(name) => names.push(name.trim_start_matches('=').to_owned()),
            None => return Err(format!("unexpected word: {word}")),
        }
    }
    if names.is_empty() {
        return Err("a configuration is missing: -c FILE".to_owned());
    }
    let read = |name: String| match std::fs::read_to_string(&name) {
        Ok(text) => Ok(Source { name, text }),
        Err(error) => Err(format!("{name}: {error}")),
    };
    names.into_iter().map(read).collect()
}

fn load(sources: &[Source], mode: Mode) -> Result<holdfast_config::plan::Plan, u8> {
    let outcome = holdfast_config::load(sources, &|name| std::env::var(name).ok(), mode);
    for warning in &outcome.warnings {
        eprintln!("warning: {warning}");
    }
    for error in &outcome.errors {
        eprintln!("error: {error}");
    }
    outcome.plan.ok_or(2)
}

fn run(sources: &[Source]) -> u8 {
    match load(sources, Mode::Run) {
        Ok(plan) => {
            let options = Options {
                files: sources.iter().map(|s| s.name.clone()).collect(),
                at_terminal: false,
            };
            super::run(plan, options, |_| ())
        }
        Err(code) => code,
    }
}

fn check(sources: &[Source]) -> u8 {
    let plan = match load(sources, Mode::Check) {
        Ok(plan) => plan,
        Err(code) => return code,
    };
    let machine = super::machine(&plan);
    for warning in &machine.warnings {
        eprintln!("warning: {warning}");
    }
    let mut errors = machine.errors.clone();
    errors.extend(crate::tls::build_all(&plan).err().unwrap_or_default());
    for error in &errors {
        eprintln!("error: {error}");
    }
    print(&format!(
        "{}cores on this machine:\n{}",
        holdfast_config::describe(&plan),
        machine.describe()
    ));
    if errors.is_empty() { 0 } else { 2 }
}
