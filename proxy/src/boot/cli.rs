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
  holdfast COMMAND --help                what a command does
  holdfast --version | --help

Several files are merged in order: maps merge, scalars and lists replace.
Exit codes: 0 done, 1 failed while running, 2 wrong words or a wrong configuration.
";

const FILES: &str = "
  -c FILE, --config FILE    a configuration file, YAML; several are merged in order: maps merge, scalars
                            and lists replace
  -h, --help                this text
";

/// A command: its word, what its help begins with, and whether it takes files.
struct Command {
    word: &'static str,
    help: &'static str,
    files: bool,
}

const COMMANDS: &[Command] = &[
    Command {
        word: "run",
        help: "\
usage: holdfast run -c FILE [-c FILE ...]

Runs the gateway until a signal ends it: SIGTERM drains, SIGINT ends soon, SIGHUP takes the files again,
SIGUSR1 opens the access log anew.
Exit codes: 0 ended as asked, 1 failed while running, 2 wrong words or a wrong configuration, 70 a fault.
",
        files: true,
    },
    Command {
        word: "check",
        help: "\
usage: holdfast check -c FILE [-c FILE ...]

Validates without starting anything, and prints what would run on this machine; every warning and error on
stderr, with file, line, column and key.
Exit codes: 0 good, 2 wrong words or a wrong configuration.
",
        files: true,
    },
    Command {
        word: "demo",
        help: "\
usage: holdfast demo

Runs a gateway on 127.0.0.1:8080 with two built-in upstreams, and its admin on 127.0.0.1:9901; says what to
try. Needs no file. Ctrl-C ends it.
",
        files: false,
    },
    Command {
        word: "schema",
        help: "\
usage: holdfast schema

Prints the JSON Schema of the configuration, for editors.
",
        files: false,
    },
];

/// Runs the command; returns the exit code.
pub fn main(arguments: impl Iterator<Item = String>) -> u8 {
    let arguments: Vec<String> = arguments.collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["--help" | "-h" | "help"] => print(USAGE),
        ["--version" | "-V" | "version"] => {
            print(&format!("holdfast {}\n", env!("CARGO_PKG_VERSION")))
        }
        ["help", word] => match command(word) {
            Some(command) => print(&command.text()),
            None => wrong(&format!("unknown command: {word}"), USAGE),
        },
        [] => wrong("a command is missing", USAGE),
        [word, rest @ ..] => match command(word) {
            Some(command) => command.main(rest),
            None => wrong(&format!("unknown command: {word}"), USAGE),
        },
    }
}

fn command(word: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.word == word)
}

impl Command {
    fn text(&self) -> String {
        let files = if self.files { FILES } else { "" };
        format!("{}{files}", self.help)
    }

    fn main(&self, rest: &[&str]) -> u8 {
        if rest.iter().any(|word| matches!(*word, "--help" | "-h")) {
            return print(&self.text());
        }
        if !self.files {
            return match rest.first() {
                Some(word) => self.wrong(&format!("{} takes no words: {word}", self.word)),
                None if self.word == "demo" => demo::run(),
                None => schema(),
            };
        }
        match files(rest) {
            Err(Wrong::Words(text)) => self.wrong(&text),
            Err(Wrong::File(text)) => {
                eprintln!("holdfast: {text}");
                2
            }
            Ok(files) if self.word == "run" => run(&files),
            Ok(files) => check(&files),
        }
    }

    fn wrong(&self, text: &str) -> u8 {
        wrong(text, &self.text())
    }
}

fn schema() -> u8 {
    match serde_json::to_string_pretty(&holdfast_config::schema()) {
        Ok(text) => print(&format!("{text}\n")),
        Err(error) => {
            eprintln!("holdfast: {error}");
            1
        }
    }
}

fn print(text: &str) -> u8 {
    // A reader that closes early (a pager) is no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
    0
}

fn wrong(text: &str, usage: &str) -> u8 {
    eprintln!("holdfast: {text}\n\n{usage}");
    2
}

/// What is wrong with the words after a command.
enum Wrong {
    Words(String),
    /// A file that can't be read.
    File(String),
}

fn files(words: &[&str]) -> Result<Vec<Source>, Wrong> {
    let mut names = Vec::new();
    let mut rest = words.iter();
    let missing = |word| Wrong::Words(format!("{word} needs a file"));
    while let Some(&word) = rest.next() {
        let name = match word {
            "-c" | "--config" => rest.next().copied().ok_or_else(|| missing(word))?,
            _ => word
                .strip_prefix("--config=")
                .or_else(|| word.strip_prefix("-c="))
                .or_else(|| word.strip_prefix("-c"))
                .ok_or_else(|| match word.starts_with('-') {
                    true => Wrong::Words(format!("unknown option: {word}")),
                    false => Wrong::Words(format!("unexpected word: {word} (files come after -c)")),
                })?,
        };
        if name.is_empty() {
            return Err(missing(word));
        }
        names.push(name.to_owned());
    }
    if names.is_empty() {
        return Err(Wrong::Words(
            "a configuration is missing: -c FILE".to_owned(),
        ));
    }
    let read = |name: String| match std::fs::read_to_string(&name) {
        Ok(text) => Ok(Source { name, text }),
        Err(error) => Err(Wrong::File(format!("{name}: {error}"))),
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
